"""What ESPF tells: provisioning.log for operators, and its own diagnostics on standard error."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import WatchedFileHandler
from pathlib import Path

import structlog

from espf.errors import SettingsError

_log = logging.getLogger(__name__)

#: Characters of one value that a line holds.
LONGEST_VALUE = 2000

_render = structlog.processors.LogfmtRenderer()


class ProvisioningLog:
    """The text twin of the journal: a line per failure and per final verdict.

    ``time=… verdict=… i_event=… type=… handler=… attempt=… reason="…" next_try=…``; a value with
    spaces is quoted, a line break or another control character in it is escaped. ``as_json``: each
    line is an object with these members. The file is reopened when logrotate has moved it away.
    Raises SettingsError when it cannot be written.
    """

    def __init__(self, path: Path, *, as_json: bool = False) -> None:
        self.as_json = as_json
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _File(path, encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"ESPF_LOG: {path} cannot be written: {error}") from None
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, lines: Iterable[str]) -> None:
        """Add lines, each with the time before it; many cost little more than one.

        A line is fields, ``name=value``, with values as ``logged`` writes them; or, ``as_json``,
        what ``logged_as_json`` makes of them.
        """
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        begin = f'{{"time": "{time}", ' if self.as_json else f"time={time} "
        text = "\n".join([begin + line for line in lines])
        if text:
            self._handler.handle(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


class _File(WatchedFileHandler):
    """A log whose loss stops nothing: deliveries go on, and the journal has it all."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; opening the moved file anew may fail as well."""
        try:
            super().emit(record)
        except OSError as error:
            _log.error("a line of %s is lost: %s", self.baseFilename, error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  (logging's)
        """Tell of a line that could not be written."""
        _log.error("a line of %s is lost: %s", self.baseFilename, sys.exc_info()[1])


@lru_cache(10_000)
def logged(text: str) -> str:
    """A value on one line, whatever a server may have said; quoted when it holds blanks."""
    if len(text) > LONGEST_VALUE:
        text = text[:LONGEST_VALUE] + "…"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return _render(None, "", {"v": text}).removeprefix("v=")


def logged_as_json(fields: Mapping[str, object]) -> str:
    """Fields as the rest of a JSON object that has begun; texts are cut as by ``logged``."""
    return json.dumps({name: _cut(value) for name, value in fields.items()})[1:]


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return value[:LONGEST_VALUE] + "…"
    return value


def about(handler: str, i_event: int, attempt: int) -> dict[str, object]:
    """What a diagnostic message is about, for ``extra`` of a logging call."""
    return {"handler": handler, "i_event": i_event, "attempt": attempt}


class _JsonFormatter(logging.Formatter):
    """A diagnostic message as one line of JSON, with what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """See Formatter."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        fields: dict[str, object] = {
            "time": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("handler", "i_event", "attempt"):
            if hasattr(record, name):
                fields[name] = getattr(record, name)
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_diagnostics(*, as_json: bool = False) -> None:
    """Send ESPF's own messages, such as a lost database, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    handler.setFormatter(_JsonFormatter() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
