"""Where parts of events are found: in the live tables what is not done, in the journal the rest.

A ``Source`` is one such place. It is gone through along an index, in the order of the numbers of
events, which count up as time passes: times are turned into numbers first. What becomes of the
parts is for others to say: ``espf.overview`` lists them, ``espf.restarts`` tries them again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    String,
    Table,
    and_,
    case,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
)

from espf import journal
from espf.catalogue import spellings
from espf.db.tables import (
    RARE_VERDICTS,
    event_handlers,
    event_notifications,
    event_queue,
    provisioning_log,
)
from espf.db.walk import first_at
from espf.errors import InvalidRequest
from espf.model import Status, shard_of

#: What people call a queued notification by what it waits for.
SCHEDULED = "scheduled"
RETRYING = "retrying"

#: The names under which events are listed, and the statuses that each one covers.
_VIEWS: Mapping[str, frozenset[str]] = {
    **{status: frozenset({status}) for status in (*Status, SCHEDULED, RETRYING)},
    "queued": frozenset({Status.QUEUED, RETRYING, SCHEDULED}),
    "failed": frozenset({Status.FAILED, Status.REJECTED}),
    "successful": frozenset({Status.FINISHED, Status.SKIPPED}),
}

#: So many rows are looked at for a page, and for a count.
LOOK = 10_000

#: Up to here events are counted, and what of a handler's is retried or has failed.
MOST_COUNTED = 5_000

#: How far the clock of an event and its number may disagree: a number is taken when a statement
#: begins, or when it comes to its row.
CLOCK_SLACK = timedelta(minutes=1)

#: Before any time: a time is there.
EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Filter:
    """Which events are meant.

    ``status`` is one of the views' names or a single status. ``event_type`` is a type, or the
    beginning of types: ``Account/*``. The event happened at or after ``since`` and before
    ``until``; its number is above ``after`` and below ``before``.
    """

    i_event: int | None = None
    i_env: int | None = None
    handler: str | None = None
    status: str = "all"
    event_type: str | None = None
    ordering_key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    before: int | None = None

    def __post_init__(self) -> None:
        if self.status != "all" and self.status not in _VIEWS:
            raise InvalidRequest(
                f"status {self.status!r} is not one of all, {', '.join(_VIEWS)}", "status"
            )
        if "*" in (self.event_type or "")[:-1]:
            raise InvalidRequest(
                f"event_type {self.event_type!r}: * stands for the rest of a name, as in Account/*",
                "event_type",
            )

    @property
    def statuses(self) -> frozenset[str]:
        """The statuses that it takes."""
        if self.status == "all":
            return frozenset().union(*_VIEWS.values())
        return _VIEWS[self.status]


@dataclass(frozen=True)
class Range:
    """Between which numbers to look. Times only narrow it: they are looked at again."""

    exactly: int | None
    above: int | None
    below: int | None

    def upto(self, end: int | None, *, upward: bool) -> "Range":
        """The same from one end as far as a number, in one bound: not every planner joins two."""
        if end is None:
            return self
        if upward:
            below = end + 1 if self.below is None else min(self.below, end + 1)
            return replace(self, below=below)
        return replace(self, above=end - 1 if self.above is None else max(self.above, end - 1))

    def of(self, number: ColumnElement[int]) -> list[ColumnElement[bool]]:
        """The conditions for a number."""
        limits: list[ColumnElement[bool]] = []
        if self.exactly is not None:
            limits.append(number == self.exactly)
        if self.above is not None:
            limits.append(number > self.above)
        if self.below is not None:
            limits.append(number < self.below)
        return limits


@dataclass(frozen=True)
class Source:
    """One place where parts of events are found: ``query`` has what an ``Overview`` needs.

    ``number`` is the event's number, as the index has it that the query goes along, and ``limits``
    are between which. ``way`` are the numbers of all rows on that way, those that do not fit, too;
    None: that need not be known. ``leaps`` find the same, without a look at what else is on that
    way, but in no order. ``few`` are all rows that these look at; where these are many, ``walk``
    finds the same in order.
    """

    query: Select[Any]
    number: ColumnElement[int]
    limits: Range
    way: Select[Any] | None = None
    leaps: Sequence[Select[Any]] = ()
    few: Sequence[Select[Any]] = ()
    walk: "Source | None" = None

    def in_order(self, connection: Connection) -> "Source | None":
        """Itself, or what finds the same in order; None: leaps look at few rows."""
        room = LOOK
        for rows in self.few:
            room -= count_rows(connection, rows.limit(room + 1))
            if room < 0:
                return self.walk or self
        return None if self.few else self

    def reach(self, connection: Connection, look: int, *, upward: bool) -> int | None:
        """The number that one comes to by looking at so many rows; None: there are not so many."""
        if self.way is None or self.limits.exactly is not None:
            return None
        order = self.number if upward else self.number.desc()
        way = self.way.where(*self.limits.of(self.number))
        reached: int | None = connection.execute(
            way.order_by(order).offset(look - 1).limit(1)
        ).scalar_one_or_none()
        return reached

    def within(self, end: int | None, *, upward: bool) -> Select[Any]:
        """The query from one end as far as a number."""
        return self.query.where(*self.limits.upto(end, upward=upward).of(self.number))

    def first(
        self, connection: Connection, limit: int, *, upward: bool, upto: int | None = None
    ) -> Sequence[Row[Any]]:
        """The first ones from one end, in order; one after the other, they cost one walk in all."""
        order = self.number if upward else self.number.desc()
        query = self.within(upto, upward=upward)
        return connection.execute(query.order_by(order).limit(limit)).all()

    def first_of_few(
        self, connection: Connection, limit: int, *, upward: bool
    ) -> Iterator[Row[Any]]:
        """The same, where few rows are looked at: in no order."""
        number = self.number + 0
        order = number if upward else number.desc()
        for one in self.shortest:
            yield from connection.execute(one.order_by(order).limit(limit))

    @property
    def shortest(self) -> Sequence[Select[Any]]:
        """What finds all of them, in no order."""
        number = self.number + 0
        return [leap.where(*self.limits.of(number)) for leap in self.leaps] or [
            self.query.where(*self.limits.of(self.number))
        ]

    def count(self, connection: Connection) -> int:
        """How many there are."""
        return sum(count_rows(connection, one) for one in self.shortest)


def not_done(connection: Connection, wanted: Filter) -> Iterator[Source]:
    """What waits or failed: a part per event and handler, out of the live tables."""
    statuses = wanted.statuses & {Status.QUEUED, Status.FAILED, RETRYING}
    handlers = connection.execute(select(event_handlers).where(*_of_handler(wanted))).all()
    if not statuses or not handlers:
        return
    n, q = event_notifications.c, event_queue.c
    limits = _range(connection, event_queue, wanted)
    fits = _fits(event_queue, wanted)
    if wanted.ordering_key is not None:
        # No index of what waits knows the key. So not every event has to be looked at.
        fits.append(n.shard == shard_of(wanted.ordering_key))
    for handler in handlers:
        mine = _live(literal(handler.name, String), q.i_event == n.i_event).where(
            n.i_event_handler == handler.i_event_handler,
            # What was scheduled stands elsewhere than its number says; see below.
            q.position.is_(None),
            *fits,
        )
        rows = select(n.position).where(n.i_event_handler == handler.i_event_handler)
        rarely = ways(statuses)
        yield Source(
            mine.where(_status(statuses)),
            n.position,
            limits,
            way=rows,
            leaps=[mine.where(*way) for way in rarely],
            few=[rows.where(*way) for way in rarely],
        )
    ours = n.i_event_handler.in_([handler.i_event_handler for handler in handlers])
    yield _by_time(
        lambda event: (
            _live(event_handlers.c.name, (q.position == n.position) & (event == n.i_event))
            .join(event_handlers, event_handlers.c.i_event_handler == n.i_event_handler)
            .where(ours, q.position.is_not(None), _status(statuses), *fits)
        ),
        limits,
        q.start_time < datetime.now(UTC) + timedelta(days=1),
    )


def scheduled(connection: Connection, wanted: Filter) -> Iterator[Source]:
    """Events whose time has not come; they are no handler's yet."""
    if SCHEDULED not in wanted.statuses or wanted.handler is not None:
        return
    q = event_queue.c
    none: ColumnElement[Any] = null()
    query = select(
        *(q[name] for name in _OF_EVENT),
        literal(SCHEDULED, String).label("status"),
        literal(0, Integer).label("attempts"),
        none.label("handler"),
        none.label("i_event_handler"),
        none.label("position"),
        none.label("next_attempt_at"),
        none.label("reason"),
    ).where(q.notified == 0, *_fits(event_queue, wanted))
    limits = _range(connection, event_queue, wanted)
    yield _by_time(lambda _: query, limits, q.start_time.is_not(None))


def _by_time(
    query: Callable[[ColumnElement[int]], Select[Any]], limits: "Range", times: ColumnElement[bool]
) -> Source:
    """Events that have, or had, a time to wait for: few among all that wait, as a rule.

    They have an index by their times, so that nobody is to begin anywhere else.
    """
    q = event_queue.c
    walk = Source(query(q.i_event).where(times), q.i_event, limits, way=select(q.i_event))
    if limits.exactly is not None:
        return walk
    number = q.i_event + 0
    few = [select(q.start_time).where(times)]
    return Source(query(number).where(times), number, limits, few=few, walk=walk)


def done(connection: Connection, wanted: Filter) -> Iterator[Source]:
    """What is over: the last verdict on an event, of each handler, out of the journal."""
    statuses = wanted.statuses & {*Status} - {Status.QUEUED}
    if not statuses:
        return
    log = provisioning_log.c
    later = provisioning_log.alias("later")
    n, q = event_notifications.c, event_queue.c
    is_open = exists().where(
        q.i_event == log.i_event,
        n.i_event_handler == log.i_event_handler,
        n.position == func.coalesce(q.position, q.i_event),
        # Always so; it keeps planners from making a table of all that waits.
        n.position >= log.i_event,
        n.status.in_([Status.QUEUED, Status.FAILED]),
    )
    is_outdated = exists().where(
        later.c.i_event == log.i_event,
        func.coalesce(later.c.i_event_handler, 0) == func.coalesce(log.i_event_handler, 0),
        later.c.i_log > log.i_log,
        later.c.verdict.not_in([journal.RETRY, journal.ORPHAN]),
    )
    query = select(
        *(log[name] for name in _OF_EVENT),
        log.verdict.label("status"),
        log.attempt.label("attempts"),
        log.handler,
        log.i_event_handler,
        null().label("position"),
        null().label("next_attempt_at"),
        log.reason,
        log.i_log,
    ).where(
        *_fits(provisioning_log, wanted),
        *([] if wanted.handler is None else [log.handler == wanted.handler]),
        _not(is_outdated),
        _not(is_open),
    )
    limits = _range(connection, provisioning_log, wanted)
    rows = select(log.i_event)
    if wanted.ordering_key is not None:
        # There is a way for each key, and it is shorter than that of a verdict.
        way = rows.where(log.ordering_key == wanted.ordering_key)
        fits = log.verdict.concat("").in_(statuses)
        yield Source(query.where(fits), log.i_event, limits, way)
        return
    for verdicts in _walks(statuses):
        among = _among(log.verdict, verdicts)
        way = rows.where(*among) if verdicts <= _RARE else rows
        yield Source(query.where(*among), log.i_event, limits, way)


def narrowed(connection: Connection, wanted: Filter) -> Filter:
    """The same, with numbers beside its times, for whoever looks again and again.

    Numbers count up in both places together: so what one tells of a number holds for the other.
    """
    tables = (event_queue, provisioning_log)
    ranges = [_range(connection, table, wanted) for table in tables]
    above = {table: one.above for table, one in zip(tables, ranges, strict=True)}
    below = {table: one.below for table, one in zip(tables, ranges, strict=True)}
    return replace(
        wanted,
        after=max(_shown(connection, above, upward=False), default=None),
        before=min(_shown(connection, below, upward=True), default=None),
    )


def _shown(
    connection: Connection, numbers: Mapping[Table, int | None], *, upward: bool
) -> list[int]:
    """Those of these bounds that a row lies beyond: others are but the end of what is there."""
    return [
        number
        for table, number in numbers.items()
        if number is not None
        and connection.execute(
            select(table.c.i_event)
            .where(table.c.i_event >= number if upward else table.c.i_event <= number)
            .limit(1)
        ).first()
    ]


def of_type(column: Column[Any], event_type: str) -> ColumnElement[bool]:
    """What is a type, by any of its names; or begins as the types that are meant."""
    if not event_type.endswith("*"):
        return column.in_(spellings(event_type))
    # To one database of three LIKE takes capitals for small letters.
    beginning = event_type[:-1]
    return func.substr(column, 1, len(beginning)) == beginning


def ways(statuses: frozenset[str]) -> list[list[ColumnElement[bool]]]:
    """Conditions for a notification to have one of these statuses, in words that an index knows.

    For what is rare, each way by itself; none where that is not rare.
    """
    n = event_notifications.c
    if Status.QUEUED in statuses:
        return []
    if Status.FAILED in statuses:
        failed = n.status == literal_column("'failed'")
        return [[failed, n.next_attempt_at.is_(None)], [failed, n.next_attempt_at > EVER]]
    return [[retries()]]


def retries() -> ColumnElement[bool]:
    """One that is restarted waits like one that was never tried: only its time is set."""
    n = event_notifications.c
    return and_(n.status == Status.QUEUED, n.next_attempt_at > EVER, n.last_error.is_not(None))


def count_rows(connection: Connection, rows: Select[Any]) -> int:
    """How many rows a query finds."""
    return int(connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one())


_RARE = frozenset(RARE_VERDICTS)
_OF_EVENT = ("i_event", "i_env", "event_type", "ordering_key", "created_at", "start_time")


def _live(handler: ColumnElement[Any], found: ColumnElement[bool]) -> Select[Any]:
    """Parts of events out of the live tables; ``found`` leads from one to the other."""
    n, q = event_notifications.c, event_queue.c
    status = case((retries(), literal(RETRYING, String)), else_=n.status)
    return (
        select(
            *(q[name] for name in _OF_EVENT),
            status.label("status"),
            n.attempts,
            handler.label("handler"),
            n.i_event_handler,
            n.position,
            n.next_attempt_at,
            n.last_error.label("reason"),
        )
        .select_from(event_notifications)
        .join(event_queue, found)
    )


def _status(statuses: frozenset[str]) -> ColumnElement[bool]:
    """What it means for a notification that is not done to have one of these statuses.

    What is rare is put in words that no index knows: who goes in order, a little at a time, shall
    not begin with all that there is of it each time.
    """
    n = event_notifications.c
    if Status.QUEUED in statuses:
        return n.status.in_(statuses & {Status.QUEUED, Status.FAILED})
    if Status.FAILED in statuses:
        return n.status.concat("") == Status.FAILED
    tried = (n.next_attempt_at.is_not(None), n.last_error.is_not(None))
    return and_(n.status.concat("") == Status.QUEUED, *tried)


def _walks(statuses: frozenset[str]) -> list[frozenset[str]]:
    """In how many walks to look for verdicts: each rare one has its own way, in order."""
    return [frozenset({status}) for status in statuses] if statuses <= _RARE else [statuses]


def _among(verdict: Column[Any], statuses: frozenset[str]) -> list[ColumnElement[bool]]:
    """In literal words, so that the index of what is rare is found by its condition.

    What is not rare is put in words that no index knows: MariaDB's has all verdicts in it, and
    would be taken for a short way whenever its sample of them is wrong.
    """
    if not statuses <= _RARE:
        return [verdict.concat("").in_(statuses)]
    words: list[ColumnElement[str]] = [literal_column(f"'{status}'") for status in statuses]
    rare: list[ColumnElement[str]] = [literal_column(f"'{status}'") for status in RARE_VERDICTS]
    return [verdict == words[0], verdict.in_(rare)]


def _of_handler(wanted: Filter) -> list[ColumnElement[bool]]:
    h = event_handlers.c
    given = ((h.name, wanted.handler), (h.i_env, wanted.i_env))
    return [column == value for column, value in given if value is not None]


def _range(connection: Connection, table: Table, wanted: Filter) -> Range:
    above, below = wanted.after, wanted.before
    number, at = table.c.i_event, table.c.created_at
    # Whoever names a number has come there already, page by page or step by step.
    if wanted.since is not None and above is None:
        above = first_at(connection, number, at, wanted.since - CLOCK_SLACK) - 1
    if wanted.until is not None and below is None:
        below = first_at(connection, number, at, wanted.until + CLOCK_SLACK)
    return Range(wanted.i_event, above, below)


def _fits(table: Table, wanted: Filter) -> list[ColumnElement[bool]]:
    """What a row that has the columns of an event must be like."""
    conditions: list[ColumnElement[bool]] = [
        table.c[name] == value
        for name in ("i_env", "ordering_key")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.event_type is not None:
        conditions.append(of_type(table.c.event_type, wanted.event_type))
    if wanted.since is not None:
        conditions.append(table.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(table.c.created_at < wanted.until)
    return conditions


def _not(exist: ColumnElement[bool]) -> ColumnElement[bool]:
    """Asked of one row after another; as a join it may be made of all that there are."""
    return case((exist, 1), else_=0) == 0
