"""What ESPF tells: provisioning.log for operators, and its own diagnostics on standard error."""

import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import structlog

_render = structlog.processors.LogfmtRenderer(key_order=["time", "verdict"])


class ProvisioningLog:
    """The text twin of the journal: a line per failure and per final verdict.

    ``time=… verdict=… i_event=… type=… handler=… attempt=… reason="…" next_try=…``; a value with
    spaces is quoted, a line break in it is escaped. The file is reopened when logrotate has moved
    it away.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = WatchedFileHandler(path, encoding="utf-8", delay=True)
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, verdict: str, **fields: object) -> None:
        """Add a line; fields that are None are left out."""
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        known = {name: value for name, value in fields.items() if value is not None}
        line = _render(None, "", {"time": time, "verdict": verdict, **known})
        self._handler.handle(logging.makeLogRecord({"msg": line, "levelno": logging.INFO}))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


def configure_diagnostics() -> None:
    """Send ESPF's own messages, such as a lost database, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
