"""How much was delivered, and how fast: figures by handler and minute, for people.

Each worker counts in memory and adds what it has to the rows of all, every few seconds. A figure is
in the row of its minute, of its ten minutes and of its hour at once, so that nothing has to be
gathered up later; only old rows are removed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, select

from espf.db.bulk import execute_rows
from espf.db.database import Database
from espf.db.tables import event_handlers, handler_statistics
from espf.db.walk import Progress

#: The times, in seconds, by which figures tell quick deliveries from slow ones; with the columns.
WITHIN: Mapping[str, float] = {
    "within_5ms": 0.005,
    "within_10ms": 0.01,
    "within_25ms": 0.025,
    "within_50ms": 0.05,
    "within_100ms": 0.1,
    "within_250ms": 0.25,
    "within_1s": 1.0,
    "within_5s": 5.0,
    "within_30s": 30.0,
    "within_5m": 300.0,
    "within_1h": 3600.0,
}
BOUNDS = tuple(WITHIN.values())

#: What is counted, in the order of the columns.
COUNTS = ("finished", "retried", "failed", "rejected", "skipped", "superseded", "orphaned")
_SUMS = (*COUNTS, "duration_ms", "latency_ms", *WITHIN)
_MOST = ("longest_ms", "slowest_ms")


class Step(IntEnum):
    """The spans of time of which figures are kept, in seconds."""

    MINUTE = 60
    TEN_MINUTES = 600
    HOUR = 3600

    def start(self, moment: datetime) -> datetime:
        """When the span began that a moment is in."""
        return datetime.fromtimestamp(moment.timestamp() // self * self, UTC)


#: How long figures are kept.
KEPT: Mapping[Step, timedelta] = {
    Step.MINUTE: timedelta(days=2),
    Step.TEN_MINUTES: timedelta(weeks=2),
    Step.HOUR: timedelta(days=400),
}


@dataclass(slots=True)
class Figures:
    """What became of events of a handler, and how long it took.

    Events that ended as ``finished``, ``failed``, ``rejected``, ``skipped`` or ``superseded``;
    attempts that were ``retried``; results that were ``orphaned``, since another worker had taken
    over. ``duration_ms`` is the time of all attempts together, ``longest_ms`` the longest one's.
    ``latency_ms``, ``slowest_ms`` and ``within`` are about what is finished: the time from the
    event to the end of its delivery, and how many took no longer than each of ``BOUNDS``.
    """

    finished: int = 0
    retried: int = 0
    failed: int = 0
    rejected: int = 0
    skipped: int = 0
    superseded: int = 0
    orphaned: int = 0
    duration_ms: int = 0
    longest_ms: int = 0
    latency_ms: int = 0
    slowest_ms: int = 0
    within: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))

    @property
    def attempts(self) -> int:
        """How often the handler was called."""
        of_events = self.finished + self.retried + self.failed + self.rejected + self.skipped
        return of_events + self.orphaned

    def add(self, more: "Figures") -> None:
        """Count these, too."""
        self.finished += more.finished
        self.retried += more.retried
        self.failed += more.failed
        self.rejected += more.rejected
        self.skipped += more.skipped
        self.superseded += more.superseded
        self.orphaned += more.orphaned
        self.duration_ms += more.duration_ms
        self.longest_ms = max(self.longest_ms, more.longest_ms)
        self.latency_ms += more.latency_ms
        self.slowest_ms = max(self.slowest_ms, more.slowest_ms)
        self.within = [a + b for a, b in zip(self.within, more.within, strict=True)]

    def mean_duration_ms(self) -> float | None:
        """How long an attempt took; None: there was none."""
        return self.duration_ms / self.attempts if self.attempts else None

    def mean_latency_ms(self) -> float | None:
        """How long after its event a delivery was over; None: there was none."""
        return self.latency_ms / self.finished if self.finished else None

    def latency_within_ms(self, share: float) -> float | None:
        """The time within which this share of the deliveries was over, as far as can be told.

        It lies between two of ``BOUNDS``, and is taken as if deliveries were spread evenly there.
        None: there were no deliveries.
        """
        wanted = share * self.finished
        if not self.finished:
            return None
        most = float(self.slowest_ms)
        fewer, low = 0, 0.0
        for count, bound in zip(self.within, BOUNDS, strict=True):
            high = min(bound * 1000, most)
            if count >= wanted and count > fewer:
                return low + (high - low) * (wanted - fewer) / (count - fewer)
            fewer, low = count, high
        return most


def summed(some: Iterable[Figures]) -> Figures:
    """All of these together."""
    total = Figures()
    for one in some:
        total.add(one)
    return total


@dataclass(frozen=True)
class Series:
    """Figures over time: the spans in order, and of each handler as many figures.

    The last span is the one that has begun and is not over.
    """

    step: Step
    began_at: Sequence[datetime]
    handlers: Mapping[int, Sequence[Figures]]

    def total(self) -> list[Figures]:
        """The figures of all handlers together, for each span."""
        sums = [Figures() for _ in self.began_at]
        for figures in self.handlers.values():
            for into, one in zip(sums, figures, strict=True):
                into.add(one)
        return sums


def store(
    connection: Connection,
    database: Database,
    counted: Mapping[tuple[int, datetime], Figures],
) -> None:
    """Add figures to those that are there: (i_event_handler, a moment of the minute) -> figures."""
    sums: dict[tuple[int, datetime, int], Figures] = defaultdict(Figures)
    for (i_event_handler, moment), figures in counted.items():
        for step in Step:
            sums[int(step), step.start(moment), i_event_handler].add(figures)
    # In one order, so that two workers do not wait for each other crosswise.
    rows = [(*key, *_values(figures)) for key, figures in sorted(sums.items())]
    if rows:
        statement = _ADD + database.dialect.on_conflict_add(
            "Handler_Statistics", "step, began_at, i_event_handler", _SUMS, _MOST
        )
        columns = list(zip(*rows, strict=True))
        execute_rows(connection, database.dialect, statement, _STORED, columns)


def series(
    connection: Connection,
    database: Database,
    step: Step,
    count: int,
    i_env: int | None = None,
    i_event_handler: int | None = None,
    *,
    counts_only: bool = False,
) -> Series:
    """The figures of the last ``count`` spans, the one that has begun among them.

    Of every handler that is there: all, those of an environment, or a single one. The last hour is
    ``series(…, Step.MINUTE, 60)``, the last day ``series(…, Step.TEN_MINUTES, 144)``.
    ``counts_only``: how many, not how long they took; that is read three times as fast.
    """
    spans = _spans(connection, database, step, count)
    places = {moment: place for place, moment in enumerate(spans)}
    numbers = _handlers(connection, i_env, i_event_handler)
    handlers = {number: [Figures() for _ in spans] for number in numbers}
    s = handler_statistics.c
    names = COUNTS if counts_only else _FIGURES
    figures = [s[name] for name in names]
    rows = connection.execute(
        select(s.i_event_handler, s.began_at, *figures).where(*_within(step, spans, numbers))
    )
    for number, moment, *values in rows:
        if moment in places:
            handlers[number][places[moment]] = _figures(names, values)
    return Series(step, spans, handlers)


def sums(
    connection: Connection, database: Database, step: Step, count: int, i_env: int | None = None
) -> Mapping[int, Figures]:
    """The figures of the last ``count`` spans together, by handler; see ``series``."""
    spans = _spans(connection, database, step, count)
    numbers = _handlers(connection, i_env)
    s = handler_statistics.c
    figures = [(func.max if name in _MOST else func.sum)(s[name]) for name in _FIGURES]
    rows = connection.execute(
        select(s.i_event_handler, *figures)
        .where(*_within(step, spans, numbers))
        .group_by(s.i_event_handler)
    )
    found = {number: _figures(_FIGURES, values) for number, *values in rows}
    return {number: found.get(number, Figures()) for number in numbers}


def course(
    connection: Connection, database: Database, step: Step, count: int, i_env: int | None = None
) -> Mapping[datetime, Figures]:
    """How many there were in each of the last ``count`` spans, of all handlers together.

    By the time at which each span began, in order. How long they took is not told.
    """
    spans = _spans(connection, database, step, count)
    s = handler_statistics.c
    rows = connection.execute(
        select(s.began_at, *(func.sum(s[name]) for name in COUNTS))
        .where(*_within(step, spans, _handlers(connection, i_env)))
        .group_by(s.began_at)
    )
    found = {moment: _figures(COUNTS, values) for moment, *values in rows}
    return {moment: found.get(moment, Figures()) for moment in spans}


def rates(
    connection: Connection, database: Database, i_env: int | None = None
) -> Mapping[int, float]:
    """How many events a second each handler delivers now: in this minute and the one before."""
    recent = series(connection, database, Step.MINUTE, 2, i_env, counts_only=True)
    seconds = (database.now(connection) - recent.began_at[0]).total_seconds()
    return {
        number: sum(one.finished for one in figures) / seconds
        for number, figures in recent.handlers.items()
    }


def prune(connection: Connection, now: datetime, limit: int) -> Progress | None:
    """Remove old rows, about ``limit`` at most; None: there are none."""
    s = handler_statistics.c
    for step, kept in KEPT.items():
        old = (s.step == int(step)) & (s.began_at < now - kept)
        # All of one moment go together: there is one for each handler.
        moments = connection.execute(
            select(s.began_at).where(old).order_by(s.began_at).limit(limit)
        ).scalars()
        if last := max(moments, default=None):
            gone = connection.execute(
                delete(handler_statistics).where(s.step == int(step), s.began_at <= last)
            )
            return Progress(gone.rowcount, 0)
    return None


_STORED = {name: handler_statistics.c[name].type for name in handler_statistics.c.keys()}  # noqa: SIM118
_ADD = (
    f"INSERT INTO Handler_Statistics ({', '.join(_STORED)}) "  # noqa: S608  (our own names)
    f"SELECT {', '.join(f'r.{name}' for name in _STORED)} FROM {{rows}} WHERE 1 = 1"
)
_PLAIN = tuple(name for name in _STORED if name in Figures.__slots__)
_FIGURES = (*_PLAIN, *WITHIN)


def _values(figures: Figures) -> list[int]:
    return [*(getattr(figures, name) for name in _PLAIN), *figures.within]


def _figures(names: Sequence[str], values: Sequence[Any]) -> Figures:
    """Figures out of columns; sums may come as decimal numbers."""
    known = {name: int(value) for name, value in zip(names, values, strict=True)}
    within = [known.pop(name, 0) for name in WITHIN]
    return Figures(**known, within=within)


def _spans(connection: Connection, database: Database, step: Step, count: int) -> list[datetime]:
    """When the last spans began, in order."""
    last = step.start(database.now(connection))
    return [last - timedelta(seconds=step * back) for back in reversed(range(count))]


def _handlers(
    connection: Connection, i_env: int | None, i_event_handler: int | None = None
) -> Sequence[int]:
    h = event_handlers.c
    asked = [
        column == value
        for column, value in ((h.i_env, i_env), (h.i_event_handler, i_event_handler))
        if value is not None
    ]
    return connection.execute(select(h.i_event_handler).where(*asked)).scalars().all()


def _within(
    step: Step, spans: Sequence[datetime], handlers: Sequence[int]
) -> list[ColumnElement[bool]]:
    s = handler_statistics.c
    return [s.step == int(step), s.began_at >= spans[0], s.i_event_handler.in_(handlers)]
