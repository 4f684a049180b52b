"""What waits and what was: the events of the live tables and of the journal, found and counted.

Step 8 of 8, tell. Only reads. What is not done is looked for in the live tables, everything else in
the journal. Whoever asks for a page gets it along an index, in the order of the numbers of events,
which count up as time passes: times are turned into numbers first. Where what is wanted is rare on
that way, a page ends after so many rows that were looked at, and says where to go on: so it costs
the same however much there is.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
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
from espf.db.database import Database
from espf.db.dialect import Moment, to_moment
from espf.db.tables import (
    RARE_VERDICTS,
    event_handlers,
    event_notifications,
    event_queue,
    provisioning_log,
)
from espf.db.walk import first_at
from espf.errors import InvalidRequest, NotFound
from espf.model import Status, format_time, shard_of

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

#: More than the handlers that hear of any event.
_ALL_PARTS = 1000

#: So many rows are looked at for a page, and for a count; a few first, which nearly always do.
LOOK = 10_000
FIRST_LOOK = 1000

#: Lines that are in memory at a time where all are wanted.
LINES = 1000

#: Up to here events are counted, and what of a handler's is retried or has failed.
MOST_COUNTED = 5_000

#: How far the clock of an event and its number may disagree: a number is taken when a statement
#: begins, or when it comes to its row.
CLOCK_SLACK = timedelta(minutes=1)


@dataclass(frozen=True)
class Overview:
    """One line of a list of events: an event and one handler's part in it."""

    i_event: int
    i_env: int | None
    event_type: str | None
    ordering_key: str | None
    handler: str | None
    status: str
    attempts: int
    created_at: datetime | None
    start_time: datetime | None
    next_attempt_at: datetime | None
    reason: str | None


#: The columns of a list as CSV.
CSV_COLUMNS = tuple(each.name for each in fields(Overview))


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
            room -= _count(connection, rows.limit(room + 1))
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
        return sum(_count(connection, one) for one in self.shortest)


@dataclass(frozen=True)
class Page:
    """Some lines of a list of events.

    ``newer`` is what to give as ``after`` for the page of newer events, ``older`` as ``before`` for
    the older ones; None: there are none. ``is_short``: so much had to be looked at that the page
    ended before it was full; there may be more on the next one.
    """

    lines: Sequence[Overview]
    newer: int | None
    older: int | None
    is_short: bool


def page(
    connection: Connection,
    wanted: Filter,
    limit: int,
    *,
    oldest_first: bool = False,
    patient: bool = False,
) -> Page:
    """A page of events that fit, live ones and those in the journal, a line per handler.

    The one that follows ``wanted.after`` or comes before ``wanted.before``, else the first in the
    order asked for. All lines of an event are on one page; when one alone has more than fit, the
    page is longer. ``patient``: it is full if there are as many, whatever has to be looked at.
    """
    after, before = wanted.after, wanted.before
    upward = oldest_first if (after is None) == (before is None) else after is not None
    found, end, is_short = _walk(connection, wanted, limit, upward=upward, patient=patient)
    newer, older = (end, None) if upward else (None, end)
    # Beyond where the page began; it began at an end if nobody said where.
    if after is not None and before is None:
        older = after + 1
    if before is not None and after is None:
        newer = before - 1
    return Page(found if upward == oldest_first else found[::-1], newer, older, is_short)


def search(connection: Connection, wanted: Filter, limit: int) -> list[Overview]:
    """The newest events that fit, however far they are from one another; see ``page``."""
    found, _, _ = _walk(connection, wanted, limit, upward=False, patient=True)
    return found


def _walk(
    connection: Connection, wanted: Filter, limit: int, *, upward: bool, patient: bool
) -> tuple[list[Overview], int | None, bool]:
    """See ``_next``."""
    wanted = narrowed(connection, wanted)
    found, end, is_short = _next(connection, wanted, limit, upward=upward)
    while patient and is_short and len(found) < limit:
        wanted = _beyond(wanted, end, upward=upward)
        some, end, is_short = _next(connection, wanted, limit - len(found), upward=upward)
        found += some
    return found, end, is_short


def _beyond(wanted: Filter, end: int | None, *, upward: bool) -> Filter:
    return replace(wanted, after=end) if upward else replace(wanted, before=end)


def lines(
    database: Database, wanted: Filter, *, oldest_first: bool = False
) -> Iterator[list[Overview]]:
    """All events that fit, some at a time, in transactions of their own."""
    with database.read() as connection:
        wanted = narrowed(connection, wanted)
    while True:
        with database.read() as connection:
            some, end, _ = _next(connection, wanted, LINES, upward=oldest_first)
        yield some
        if end is None:
            return
        wanted = _beyond(wanted, end, upward=oldest_first)


@dataclass(frozen=True)
class Count:
    """How many there are; ``is_all`` is False where there are, or may be, more."""

    number: int
    is_all: bool


def count(connection: Connection, wanted: Filter) -> Count:
    """How many lines fit, up to ``MOST_COUNTED``, among as many as a page looks at."""
    few, walks = _places(connection, narrowed(connection, wanted))
    ends, end = _reach(connection, walks, LOOK, upward=False)
    if ends > 1:
        _, end = _reach(connection, walks, max(FIRST_LOOK, LOOK // ends), upward=False)
    queries = [one for source in few for one in source.shortest]
    number = 0
    for query in chain(queries, (walk.within(end, upward=False) for walk in walks)):
        number += _count(connection, query.limit(MOST_COUNTED + 1 - number))
        if number > MOST_COUNTED:
            return Count(MOST_COUNTED, is_all=False)
    return Count(number, is_all=end is None)


@dataclass(frozen=True)
class Story:
    """All that is known of an event.

    ``parts`` is where each handler stands with it, ``attempts`` all that was tried, ``variables``
    JSON text.
    """

    parts: Sequence[Overview]
    attempts: Sequence[journal.Entry]
    variables: str | None


def require(connection: Connection, i_event: int, i_env: int) -> None:
    """Raise NotFound when there is no such event in the environment."""
    if not search(connection, Filter(i_event=i_event, i_env=i_env), 1):
        raise NotFound(f"there is no event {i_event}")


def story(connection: Connection, i_event: int, i_env: int | None = None) -> Story:
    """What became of one event. Raises NotFound when it is not there, or not in ``i_env``."""
    parts = search(connection, Filter(i_event=i_event, i_env=i_env), _ALL_PARTS)
    if not parts:
        raise NotFound(f"there is no event {i_event}")
    return Story(parts, journal.of_event(connection, i_event), variables(connection, i_event))


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
        ways = _ways(statuses)
        yield Source(
            mine.where(_status(statuses)),
            n.position,
            limits,
            way=rows,
            leaps=[mine.where(*way) for way in ways],
            few=[rows.where(*way) for way in ways],
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
        yield Source(query.where(log.verdict.in_(sorted(statuses))), log.i_event, limits, way)
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


def to_csv(found: Iterable[Overview], *, head: bool = False) -> str:
    """Lines as CSV, as RFC 4180 has it; ``head``: with the names of the columns before them."""
    text = io.StringIO()
    writer = csv.writer(text)
    if head:
        writer.writerow(CSV_COLUMNS)
    writer.writerows([_cell(getattr(one, name)) for name in CSV_COLUMNS] for one in found)
    return text.getvalue()


def variables(connection: Connection, i_event: int) -> str | None:
    """The variables of an event as JSON text, wherever it is now; None: no such event."""
    payload: str | None = connection.execute(
        select(event_queue.c.variables).where(event_queue.c.i_event == i_event)
    ).scalar_one_or_none()
    if payload is not None:
        return payload
    entries = journal.of_event(connection, i_event)
    return entries[-1].variables if entries else None


def counts(connection: Connection, i_event_handler: int) -> dict[str, int]:
    """What a handler has before it: ``waiting``, ``retrying`` and ``failed``. It looks at all."""
    n = event_notifications.c
    mine = n.i_event_handler == i_event_handler

    def count(*condition: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(event_notifications).where(mine, *condition)
        return int(connection.execute(query).scalar_one())

    retrying, failed = (
        sum(count(*way) for way in _ways(frozenset({status})))
        for status in (RETRYING, Status.FAILED)
    )
    waiting = count(n.status == Status.QUEUED) - retrying
    return {"waiting": waiting, "retrying": retrying, "failed": failed}


#: Rows of one sample, and samples between those at both ends.
SAMPLE = 1000
SAMPLES = 8


@dataclass(frozen=True)
class Backlog:
    """What a handler has before it; ``oldest`` is when the first event happened that waits.

    ``estimated``: it is so much that not all was looked at. Then ``waiting`` is an estimate, from
    samples at both ends and in between, and so is ``oldest``, if the first sample shows none that
    waits; the other counts end at ``MOST_COUNTED``, of retries that are due among as many as are
    due again.
    """

    waiting: int
    retrying: int
    failed: int
    oldest: datetime | None
    estimated: bool


def backlog(connection: Connection, i_event_handler: int, now: datetime) -> Backlog:
    """The backlog of a handler, at a cost that does not grow with it: exact up to two samples."""
    samples = list(_samples(connection, i_event_handler))
    first = next((one.first for one in samples if one.first is not None), None)
    retrying, all_retrying = _some_retried(connection, i_event_handler, now)
    failed, all_failed = _some_failed(connection, i_event_handler, now)
    return Backlog(
        waiting=round(sum(one.waiting for one in samples)),
        retrying=retrying,
        failed=failed,
        oldest=None if first is None else _happened(connection, i_event_handler, first),
        estimated=len(samples) > 2 or not (all_retrying and all_failed),
    )


def example(
    connection: Connection, i_event_handler: int, status: str
) -> tuple[int, str | None] | None:
    """One of a handler's events with its error: of those that failed, or wait for a retry.

    ``status`` is failed or ``RETRYING``. None: there is no such event.
    """
    n = event_notifications.c
    for way in _ways(frozenset({status})):
        query = select(n.i_event, n.last_error).where(n.i_event_handler == i_event_handler, *way)
        if (row := connection.execute(query.limit(1)).one_or_none()) is not None:
            return row.i_event, row.last_error
    return None


def _some_retried(connection: Connection, i_event_handler: int, now: datetime) -> tuple[int, bool]:
    """What is to come are retries, as an index tells; of what is due the last ones are looked at.

    For what was restarted stands among them, with a time of its own. Also says whether that is all.
    """
    n = event_notifications.c
    wait = select(n.position).where(n.i_event_handler == i_event_handler, n.status == Status.QUEUED)
    to_come = _count(connection, wait.where(n.next_attempt_at > now).limit(MOST_COUNTED))
    due = wait.add_columns(n.last_error).where(n.next_attempt_at > _EVER, n.next_attempt_at <= now)
    last = due.order_by(n.next_attempt_at.desc()).limit(MOST_COUNTED - to_come).subquery()
    looked_at, found = connection.execute(
        select(func.count(), func.count(last.c.last_error)).select_from(last)
    ).one()
    return to_come + found, to_come + looked_at < MOST_COUNTED


def _some_failed(connection: Connection, i_event_handler: int, now: datetime) -> tuple[int, bool]:
    """Those that hold their lanes have failed before now: no retry to come stands among them."""
    n = event_notifications.c
    freely, holding = _ways(frozenset({Status.FAILED}))
    found = 0
    for way in (freely, [*holding, n.next_attempt_at <= now]):
        some = select(n.position).where(n.i_event_handler == i_event_handler, *way)
        found += _count(connection, some.limit(MOST_COUNTED - found))
    return found, found < MOST_COUNTED


@dataclass(frozen=True)
class _Sample:
    """How many wait in a part of what a handler has; ``first``: where the first one is found."""

    waiting: float
    first: int | None


def _samples(connection: Connection, i_event_handler: int) -> Iterator[_Sample]:
    """The parts, in order: both ends are counted, of the others a sample stands for all."""
    n = event_notifications.c
    kind = case((_retries(), literal(RETRYING, String)), else_=n.status).label("kind")
    query = select(n.position, kind).where(n.i_event_handler == i_event_handler)

    def sample(order: ColumnElement[Any], after: int, before: int | None) -> Row[Any]:
        upto = [] if before is None else [n.position < before]
        rows = query.where(n.position > after, *upto).order_by(order).limit(SAMPLE).subquery()
        untried = rows.c.kind == Status.QUEUED
        queued = rows.c.kind.in_([Status.QUEUED, RETRYING])
        return connection.execute(
            select(
                func.count().label("rows"),
                func.min(rows.c.position).label("low"),
                func.max(rows.c.position).label("high"),
                func.min(case((queued, rows.c.position))).label("first"),
                func.count(case((untried, 1))).label("waiting"),
            )
        ).one()

    head = sample(n.position, 0, None)
    yield _Sample(head.waiting, head.first)
    if head.rows < SAMPLE:
        return
    tail = sample(n.position.desc(), head.high, None)
    if tail.rows == SAMPLE:
        bounds = [
            head.high + (tail.low - 1 - head.high) * part // SAMPLES for part in range(SAMPLES + 1)
        ]
        for after, upto in pairwise(bounds):
            some = sample(n.position, after, upto + 1)
            # As many for each number as there are in the sample.
            share = (upto - after) / (some.high - after) if some.rows == SAMPLE else 1.0
            yield _Sample(some.waiting * share, some.first)
    yield _Sample(tail.waiting, tail.first)


def _happened(connection: Connection, i_event_handler: int, position: int) -> datetime | None:
    n, q = event_notifications.c, event_queue.c
    moment: datetime | None = connection.execute(
        select(func.coalesce(q.start_time, q.created_at, type_=Moment))
        .select_from(event_notifications)
        .join(event_queue, q.i_event == n.i_event)
        .where(n.i_event_handler == i_event_handler, n.position == position)
    ).scalar_one_or_none()
    return moment


_RARE = frozenset(RARE_VERDICTS)

#: Before any time: a time is there.
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

# What makes a spreadsheet take a text for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_OF_EVENT = ("i_event", "i_env", "event_type", "ordering_key", "created_at", "start_time")


def _live(handler: ColumnElement[Any], found: ColumnElement[bool]) -> Select[Any]:
    """Parts of events out of the live tables; ``found`` leads from one to the other."""
    n, q = event_notifications.c, event_queue.c
    status = case((_retries(), literal(RETRYING, String)), else_=n.status)
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


def _retries() -> ColumnElement[bool]:
    """One that is restarted waits like one that was never tried: only its time is set."""
    n = event_notifications.c
    return and_(n.status == Status.QUEUED, n.next_attempt_at > _EVER, n.last_error.is_not(None))


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


def _ways(statuses: frozenset[str]) -> list[list[ColumnElement[bool]]]:
    """The same for what is rare, in the words by which an index is found: each way by itself."""
    n = event_notifications.c
    if Status.QUEUED in statuses:
        return []
    if Status.FAILED in statuses:
        failed = n.status == literal_column("'failed'")
        return [[failed, n.next_attempt_at.is_(None)], [failed, n.next_attempt_at > _EVER]]
    return [[_retries()]]


def _walks(statuses: frozenset[str]) -> list[frozenset[str]]:
    """In how many walks to look for verdicts: each rare one has its own way, in order."""
    return [frozenset({status}) for status in statuses] if statuses <= _RARE else [statuses]


def _among(verdict: Column[Any], statuses: frozenset[str]) -> list[ColumnElement[bool]]:
    """In literal words, so that the index of what is rare is found by its condition."""
    words: list[ColumnElement[str]] = [literal_column(f"'{status}'") for status in statuses]
    if not statuses <= _RARE:
        return [verdict.in_(words)]
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


def of_type(column: Column[Any], event_type: str) -> ColumnElement[bool]:
    """What is a type, by any of its names; or begins as the types that are meant."""
    if not event_type.endswith("*"):
        return column.in_(spellings(event_type))
    # To one database of three LIKE takes capitals for small letters.
    beginning = event_type[:-1]
    return func.substr(column, 1, len(beginning)) == beginning


def _places(connection: Connection, wanted: Filter) -> tuple[list[Source], list[Source]]:
    """Where to look: sources of few rows, and others that are gone through in order."""
    few: list[Source] = []
    walks: list[Source] = []
    for source in chain(
        not_done(connection, wanted), scheduled(connection, wanted), done(connection, wanted)
    ):
        walk = source.in_order(connection)
        if walk is None:
            few.append(source)
        else:
            walks.append(walk)
    return few, walks


def _next(
    connection: Connection, wanted: Filter, limit: int, *, upward: bool
) -> tuple[list[Overview], int | None, bool]:
    """The next ones on the way, where to go on, and whether there was too much to look at."""
    rows, end = _look_through(connection, wanted, limit, upward=upward)
    is_short = end is not None and len(rows) <= limit
    if len(rows) > limit:
        # Of the last event there may be more than was read.
        last = rows[limit].i_event
        whole = [row for row in rows[:limit] if row.i_event != last]
        if not whole:
            one = replace(wanted, i_event=last)
            whole, _ = _look_through(connection, one, limit + _ALL_PARTS, upward=upward)
        rows, end = whole, whole[-1].i_event
    return [_overview(row) for row in rows], end, is_short


def _look_through(
    connection: Connection, wanted: Filter, limit: int, *, upward: bool
) -> tuple[list[Row[Any]], int | None]:
    """One more than so many rows, in order, if there are; up to which number all was looked at."""
    few, walks = _places(connection, wanted)
    beside = [row for one in few for row in one.first_of_few(connection, limit + 1, upward=upward)]

    def look(rows: int) -> tuple[list[Row[Any]], int, int | None]:
        ends, end = _reach(connection, walks, rows, upward=upward)
        found = [
            row
            for row in beside
            if end is None or row.i_event == end or (row.i_event < end) == upward
        ]
        for walk in walks:
            found += walk.first(connection, limit + 1, upward=upward, upto=end)
        return found, ends, end

    found, ends, end = look(FIRST_LOOK)
    if end is not None and len(found) <= limit:
        found, _, end = look(max(2 * FIRST_LOOK, LOOK // ends))
    found.sort(key=lambda row: row.i_event, reverse=not upward)
    return found, end


def _reach(
    connection: Connection, walks: Sequence[Source], look: int, *, upward: bool
) -> tuple[int, int | None]:
    """How many ways go on after so many rows, and how far all was looked at; None: to the end."""
    reached = (walk.reach(connection, look, upward=upward) for walk in walks)
    ends = [end for end in reached if end is not None]
    if not ends:
        return 0, None
    return len(ends), min(ends) if upward else max(ends)


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _count(connection: Connection, rows: Select[Any]) -> int:
    return int(connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one())


def _overview(row: Row[Any]) -> Overview:
    return Overview(
        i_event=row.i_event,
        i_env=row.i_env,
        event_type=row.event_type,
        ordering_key=row.ordering_key,
        handler=row.handler,
        status=row.status,
        attempts=row.attempts,
        created_at=row.created_at,
        start_time=row.start_time,
        next_attempt_at=to_moment(row.next_attempt_at) if row.status == RETRYING else None,
        reason=row.reason,
    )
