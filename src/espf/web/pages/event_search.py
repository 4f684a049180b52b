"""The panel "Search provisioning event": what was typed there, and which events that means."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from espf import subscriptions, timeline
from espf.catalogue import catalogue
from espf.db.database import Database
from espf.errors import InvalidRequest
from espf.model import parse_span, parse_time
from espf.sources import Filter
from espf.web.contract import blaming

#: Longer than anything that can be found.
LONGEST = 255

#: Statuses with their titles: first the views of the documents, then one by one.
VIEWS = (
    ("all", "All"),
    ("failed", "Failed"),
    ("queued", "Queued"),
    ("successful", "Successful"),
)
STATUSES = (
    ("scheduled", "Scheduled"),
    ("retrying", "Retrying"),
    ("finished", "Finished"),
    ("rejected", "Rejected"),
    ("superseded", "Superseded"),
    ("skipped", "Skipped"),
    ("cancelled", "Cancelled"),
)


@dataclass(frozen=True)
class Typed:
    """What stands in the fields of the panel, and in the address; empty: no matter."""

    handler: str = ""
    status: str = "all"
    type: str = ""
    about: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, words: Mapping[str, str]) -> "Typed":
        """What an address or a form says; ``from`` and ``to`` are its names for the times."""
        return cls(
            handler=words.get("handler", "").strip(),
            status=words.get("status", "").strip() or "all",
            type=words.get("type", "").strip(),
            about=words.get("about", "").strip(),
            since=words.get("from", "").strip(),
            until=words.get("to", "").strip(),
        )

    @property
    def words(self) -> Mapping[str, str]:
        """The same for an address or a form, without what says nothing."""
        known = asdict(self)
        known["from"], known["to"] = known.pop("since"), known.pop("until")
        return {name: text for name, text in known.items() if text and text != "all"}

    def filter(self, connection: Connection, database: Database, i_env: int) -> Filter:
        """Which events are meant. Raises InvalidRequest that names the field."""
        for name, text in self.words.items():
            if len(text) > LONGEST or not text.isprintable():
                raise InvalidRequest(f"at most {LONGEST} printable characters", name)
        now = database.now(connection)
        since = _moment(self.since, "from", now)
        until = _moment(self.until, "to", now)
        if since and until and since >= until:
            raise InvalidRequest("this must be later than From", "to")
        return Filter(
            i_env=i_env,
            handler=self.handler or None,
            status=self.status,
            event_type=_type(self.type),
            ordering_key=self._key(connection, i_env),
            since=since,
            until=until,
        )

    def _key(self, connection: Connection, i_env: int) -> str | None:
        if not self.about:
            return None
        with blaming("about"):
            return timeline.key_of(connection, self.about, i_env)


@dataclass(frozen=True)
class Panel:
    """The panel as a template draws it, with what can be chosen, and what is wrong."""

    typed: Typed
    handlers: Sequence[str]
    types: Sequence[str]
    error: InvalidRequest | None = None

    @classmethod
    def of(cls, connection: Connection, i_env: int, typed: Typed) -> "Panel":
        """The panel of an environment."""
        names = {handler.name for handler in subscriptions.list_handlers(connection, i_env)}
        # The journal remembers handlers that are there no more.
        names |= {typed.handler} - {""}
        return cls(typed, sorted(names, key=str.casefold), _types(connection))

    def faulty(self, error: InvalidRequest) -> "Panel":
        """The same with an error."""
        return replace(self, error=error)

    def error_of(self, field: str) -> str | None:
        """What is wrong in a field."""
        if self.error is None or self.error.field not in {field, _FIELDS.get(field)}:
            return None
        return str(self.error).removeprefix(f"{field}: ")

    @property
    def general_error(self) -> str | None:
        """What is wrong, where no field is to blame for it."""
        fields = {"handler", "status", "type", "about", "from", "to"}
        if self.error is None or any(self.error_of(field) for field in fields):
            return None
        return str(self.error)


#: What the rooms below call a field.
_FIELDS = {"type": "event_type"}


def _types(connection: Connection) -> list[str]:
    """The names to choose from: beginnings of types, then all types."""
    custom = {row.name for row in subscriptions.list_types(connection)}
    names = sorted(custom | set(catalogue()))
    return [f"{word}/*" for word in sorted({name.partition("/")[0] for name in names})] + names


def _type(text: str) -> str | None:
    return text if text not in {"", "*"} else None


def _moment(text: str, field: str, now: datetime) -> datetime | None:
    if not text:
        return None
    span = parse_span(text)
    if span is not None:
        try:
            return now - span
        except OverflowError:
            raise InvalidRequest("that is too long ago", field) from None
    try:
        # Whoever leaves out the seconds, or the time of the day, means none.
        missing = {10: " 00:00:00", 16: ":00"}.get(len(text), "")
        return parse_time(text + missing, field=field)
    except ValueError:
        raise InvalidRequest(
            "a time in UTC is expected, '2027-03-01 00:00:00', or how long ago: 30m, 2h, 7d", field
        ) from None
