"""The nouns: event, notification, status. No I/O, no dependencies but the standard library."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones


def read_value(text: str) -> object:
    """A value that somebody typed: what reads as JSON is taken as such, all else is a text."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


class Status(StrEnum):
    """What is stored of a notification. Everything else that pages show is derived from it."""

    QUEUED = "queued"
    FINISHED = "finished"
    FAILED = "failed"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


#: Statuses after which a handler is done with an event, so that it may leave the live tables.
#: A failed notification is not done: it stays until it is restarted.
DONE = frozenset(
    {
        Status.FINISHED,
        Status.REJECTED,
        Status.SKIPPED,
        Status.SUPERSEDED,
        Status.CANCELLED,
    }
)


#: What a lane is marked with that an administrator holds: the status of a notification of no event,
#: whose position is below 0 and so before everything in its lane.
HELD = "held"

#: The largest number of an environment: the columns have 32 bits.
MAX_ENV = 2**31 - 1

#: The variable that names the event of which a dispatcher has made this one.
PARENT = "i_parent_event"

#: What went over the wire one way, as text for people: head and body, because heads repeat.
Said = tuple[str, str]


@dataclass(slots=True)
class Event:
    """One row of Event_Queue, as a handler sees it; not to be changed.

    ``payload`` is the JSON object of the variables, exactly as the trigger wrote it: compact,
    without ``i_event``.
    """

    i_event: int
    i_env: int
    event_type: str
    payload: str
    ordering_key: str | None = None
    _variables: dict[str, Any] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def variables(self) -> Mapping[str, Any]:
        """The variables, parsed on first use."""
        if self._variables is None:
            self._variables = json.loads(self.payload)
        return self._variables or {}

    @property
    def i_account(self) -> int | None:
        """The account that the event is about, if it is about one."""
        return self.variables.get("i_account")

    @property
    def is_dispatched(self) -> bool:
        """Whether a dispatcher has made it, as one of many."""
        return f'"{PARENT}":' in self.payload

    @property
    def i_customer(self) -> int | None:
        """The customer that the event is about, if it is about one."""
        return self.variables.get("i_customer")


@dataclass(slots=True)
class Notification:
    """One row of Event_Notifications: one event for one handler.

    ``position`` orders the notifications of a lane; it equals ``i_event``, but for a scheduled
    event, which takes its place when it becomes due. ``attempts`` counts the tries made so far.
    ``notified``: how many notifications of the event were made. ``shard``: see ``shard_of``.
    ``since``: when the event happened, or was due, in seconds since 1970 by the database's clock.
    ``read_at``: when it was read, in nanoseconds since 1970, where traces are made.
    """

    i_event_handler: int
    position: int
    attempts: int
    event: Event
    notified: int = 1
    shard: int = 0
    since: float | None = None
    read_at: int | None = None


@dataclass(frozen=True)
class Decision:
    """What becomes of a notification after an attempt.

    ``status`` QUEUED means another attempt after ``delay``. ``spent`` is False when the attempt
    does not count. ``begun`` says that the external system is at it, and is looked after later.
    ``hold`` keeps the lane of a failed one waiting. ``by`` is the position of the newer one that
    supersedes it; if that does not wait any more, it is tried again after all.
    """

    status: Status
    reason: str | None = None
    delay: timedelta | None = None
    spent: bool = True
    hold: bool = False
    by: int | None = None
    begun: bool = False


@dataclass(slots=True)
class Result:
    """An attempt that is over: what was tried, under which epoch, what was decided.

    ``emits``: it has, or may have, made events. ``group`` is the service group under which the
    account's status is reported; empty: it is not.
    """

    notification: Notification
    handler: str
    epoch: int
    decision: Decision
    duration_ms: int
    request: Said | str | None = None
    response: Said | str | None = None
    emits: bool = False
    group: str = ""

    @property
    def claim(self) -> tuple[int, int, int]:
        """What had to be owned: handler, shard, epoch."""
        notification = self.notification
        return (notification.i_event_handler, notification.shard, self.epoch)

    @property
    def attempt(self) -> int:
        """Which attempt it was; of what was superseded, how many there have been."""
        return self.notification.attempts + (self.decision.by is None)


@dataclass(slots=True)
class Settled:
    """What has become true of a result. ``applied`` is False when it came under an old epoch.

    ``at`` is the moment that the journal has.
    """

    result: Result
    applied: bool
    next_attempt_at: datetime | None
    at: datetime


#: Names of the variables that say whom an event is about, in the order of preference, with the
#: prefix of the ordering key that they make.
KEY_VARIABLES = (
    ("i_account", "account"),
    ("i_customer", "customer"),
    ("i_sim_card", "sim"),
    ("number", "did"),
    ("i_product", "product"),
)

#: Characters of an id that an ordering key holds.
LONGEST_KEY = 200

#: The work of a handler has so many parts, which may go to as many workers.
SHARDS = 16

_PRINTABLE_ASCII = re.compile(r"[ -~]*")

_SPAN = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)?", re.ASCII)


def ordering_key(variables: Mapping[str, Any]) -> str | None:
    """The key of the lane that an event with these variables belongs to.

    None means a lane of its own: the event waits for nobody. Triggers make the same keys.
    """
    for name, prefix in KEY_VARIABLES:
        value = variables.get(name)
        if value is not None and not isinstance(value, (bool, dict, list)):
            text = str(value)
            return f"{prefix}:{text[:LONGEST_KEY]}" if _PRINTABLE_ASCII.fullmatch(text) else None
    return None


def shard_of(key: str | None) -> int:
    """The part of a handler's work that a lane belongs to. Triggers compute the same.

    Its last two characters are what all databases can compute with, and spread evenly.
    """
    return 0 if key is None or len(key) < 2 else (7 * ord(key[-2]) + ord(key[-1])) % SHARDS


def compact(value: object) -> str:
    """Render a value as JSON without white space: the form that goes over the wire.

    Raises ValueError for a number that JSON has no form for: infinities and NaN.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def parse_time(text: str, *, field: str = "start_time", zone: tzinfo = UTC) -> datetime:
    """Read ``YYYY-MM-DD HH:MM:SS`` (in ``zone``) or ISO 8601 with an offset; the result is in UTC.

    A time that the clocks of the zone leave out is moved forward by what they leave out; of one
    that they show twice, the first is meant. Raises ValueError with a message that says what was
    expected, also for a time before 1970.
    """
    moment = _moment(text.strip(), zone)
    if moment is None or moment.year < 1970:
        expected = "in UTC or ISO 8601 with an offset" if zone is UTC else f"in {zone}"
        raise ValueError(f"{field}: expected 'YYYY-MM-DD HH:MM:SS' {expected}, not {text[:50]!r}")
    return moment


def parse_local_time(text: str, time_zone: str) -> datetime:
    """Read a ``start_time`` as a clock in a named zone shows it; the result is in UTC.

    Raises ValueError for an unknown zone, or when the text has an offset of its own.
    """
    if time_zone not in _time_zones():
        raise ValueError(
            f"time_zone: there is no zone {time_zone[:50]!r}; expected a name such as Europe/Prague"
        )
    found = _TIME.fullmatch(text.strip())
    if found and found[2]:
        raise ValueError("start_time: it has an offset, and time_zone says another")
    return parse_time(text, zone=ZoneInfo(time_zone))


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def parse_span(text: str) -> timedelta | None:
    """Read a span of time: 45s, 30m, 2h, 90d, 4w; None: it is something else."""
    found = _SPAN.fullmatch(text.strip())
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None


def _moment(text: str, zone: tzinfo) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        # Without a fold: before a change of the clocks, which is what the rule above comes to.
        return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def format_time(moment: datetime) -> str:
    """Write a moment the way the APIs do: ``YYYY-MM-DD HH:MM:SS``, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
