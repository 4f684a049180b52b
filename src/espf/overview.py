"""What waits and what was: the events of the live tables and of the journal, found and counted.

Step 8 of 8, tell. Only reads. What is not done is looked for in the live tables, everything else in
the journal. Whoever asks for a page gets it from the end of an index, however much there is; times
are turned into numbers of events first, since those count up as time passes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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

#: More than the handlers that hear of any event.
_ALL_PARTS = 1000

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


@dataclass(frozen=True)
class Filter:
    """Which events are meant.

    ``status`` is one of the views' names or a single status. The event happened at or after
    ``since`` and before ``until``; its number is above ``after`` and below ``before``.
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

    @property
    def statuses(self) -> frozenset[str]:
        """The statuses that it takes."""
        if self.status == "all":
            return frozenset().union(*_VIEWS.values())
        return _VIEWS[self.status]


@dataclass(frozen=True)
class Source:
    """One place where parts of events are found: ``query`` has what an ``Overview`` needs.

    ``number`` is the event's number, as the index has it that the query goes along. ``leaps`` find
    the same, without a look at what else is on that way, but in no order.
    """

    query: Select[Any]
    number: ColumnElement[int]
    leaps: Sequence[Select[Any]] = ()

    def newest(self, connection: Connection, limit: int) -> list[Row[Any]]:
        """The last ones; it costs the same whatever else there is."""
        number = self.number + 0 if self.leaps else self.number
        queries = (one.order_by(number.desc()).limit(limit) for one in self.leaps or [self.query])
        return [row for query in queries for row in connection.execute(query)]

    def oldest(self, connection: Connection, limit: int) -> Sequence[Row[Any]]:
        """The first ones, in order; asked for one after the other, they cost one walk in all."""
        return connection.execute(self.query.order_by(self.number).limit(limit)).all()

    def count(self, connection: Connection) -> int:
        """How many there are."""
        return sum(
            int(connection.execute(select(func.count()).select_from(one.subquery())).scalar_one())
            for one in self.leaps or [self.query]
        )


def search(connection: Connection, wanted: Filter, limit: int) -> list[Overview]:
    """The newest events that fit, live ones and those in the journal, a line per handler.

    All lines of an event are on one page; when one alone has more than fit, the page is longer.
    """
    places = chain(not_done(connection, wanted), scheduled(connection, wanted))
    rows = [
        row
        for place in chain(places, done(connection, wanted))
        for row in place.newest(connection, limit + 1)
    ]
    rows.sort(key=lambda row: -row.i_event)
    if len(rows) > limit:
        whole = [row for row in rows[:limit] if row.i_event != rows[limit].i_event]
        if not whole:
            return search(connection, replace(wanted, i_event=rows[0].i_event), 10 * limit)
        rows = whole
    return [_overview(row) for row in rows]


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
        walk = mine.where(*limits.of(n.position), _status(statuses))
        leaps = [mine.where(*limits.of(n.position + 0), *way) for way in _ways(statuses)]
        yield Source(walk, n.position, leaps)
    # It is easily found, since its time has come; so nobody shall begin anywhere else.
    found = (q.position == n.position) & (q.i_event + 0 == n.i_event)
    query = (
        _live(event_handlers.c.name, found)
        .join(event_handlers, event_handlers.c.i_event_handler == n.i_event_handler)
        .where(
            n.i_event_handler.in_([handler.i_event_handler for handler in handlers]),
            q.start_time < datetime.now(UTC) + timedelta(days=1),
            *limits.of(q.i_event + 0),
            _status(statuses),
            *fits,
        )
    )
    yield Source(query, q.i_event + 0)


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
    ).where(
        q.notified == 0,
        q.start_time.is_not(None),
        *_fits(event_queue, wanted),
    )
    # Few are scheduled among all that wait, as a rule, and they have an index.
    number = q.i_event + 0
    yield Source(query.where(*_range(connection, event_queue, wanted).of(number)), number)


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
        *_range(connection, provisioning_log, wanted).of(log.i_event),
        ~is_outdated,
        ~is_open,
    )
    for verdicts in _walks(statuses):
        yield Source(query.where(*_among(log.verdict, verdicts)), log.i_event)


def narrowed(connection: Connection, wanted: Filter) -> Filter:
    """The same, with numbers beside its times, for whoever looks again and again."""
    live, past = (_range(connection, table, wanted) for table in (event_queue, provisioning_log))
    above = None if live.above is None or past.above is None else min(live.above, past.above)
    below = None if live.below is None or past.below is None else max(live.below, past.below)
    return replace(wanted, after=above, before=below)


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
    """What a handler has before it: ``waiting``, ``retrying`` and ``failed``."""
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


def oldest(connection: Connection, i_event_handler: int) -> datetime | None:
    """When the first event happened that a handler has before it; None: nothing waits."""
    n, q = event_notifications.c, event_queue.c
    moment: datetime | None = connection.execute(
        select(func.coalesce(q.start_time, q.created_at, type_=Moment))
        .select_from(event_notifications)
        .join(event_queue, q.i_event == n.i_event)
        .where(n.i_event_handler == i_event_handler, n.status == Status.QUEUED)
        .order_by(n.position)
        .limit(1)
    ).scalar_one_or_none()
    return moment


@dataclass(frozen=True)
class Backlog:
    """What a handler has before it; ``oldest`` is when the first event happened that waits."""

    waiting: int
    retrying: int
    failed: int
    oldest: datetime | None


def counted(connection: Connection, i_event_handler: int) -> Backlog:
    """The backlog of a handler; that takes the longer, the more there is."""
    return Backlog(
        **counts(connection, i_event_handler), oldest=oldest(connection, i_event_handler)
    )


#: Rows of one sample, and samples between those at both ends.
SAMPLE = 1000
SAMPLES = 8

#: Of what is retried or has failed, at most so many are counted.
MOST_COUNTED = 10_000


def roughly_counted(connection: Connection, i_event_handler: int) -> Backlog:
    """The backlog of a handler, at a cost that does not grow with it.

    Exact where little waits. Beyond two samples ``waiting`` is an estimate, from samples at both
    ends and in between, and so is ``oldest``, if the first sample shows none that waits; the other
    counts end at ``MOST_COUNTED``.
    """
    samples = list(_samples(connection, i_event_handler))
    first = next((one.first for one in samples if one.first is not None), None)
    n = event_notifications.c
    mine = n.i_event_handler == i_event_handler
    few = {
        status: sum(
            int(connection.execute(select(func.count()).select_from(some.subquery())).scalar_one())
            for way in _ways(frozenset({status}))
            for some in [select(n.position).where(mine, *way).limit(MOST_COUNTED)]
        )
        for status in (RETRYING, Status.FAILED)
    }
    return Backlog(
        waiting=round(sum(one.waiting for one in samples)),
        retrying=min(few[RETRYING], MOST_COUNTED),
        failed=min(few[Status.FAILED], MOST_COUNTED),
        oldest=None if first is None else _happened(connection, i_event_handler, first),
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


@dataclass(frozen=True)
class _Range:
    """Between which numbers to look. Times only narrow it: they are looked at again."""

    exactly: int | None
    above: int | None
    below: int | None

    def of(self, number: ColumnElement[int]) -> list[ColumnElement[bool]]:
        limits: list[ColumnElement[bool]] = []
        if self.exactly is not None:
            limits.append(number == self.exactly)
        if self.above is not None:
            limits.append(number > self.above)
        if self.below is not None:
            limits.append(number < self.below)
        return limits


def _range(connection: Connection, table: Table, wanted: Filter) -> _Range:
    above, below = wanted.after, wanted.before
    number, at = table.c.i_event, table.c.created_at
    # Whoever names a number has come there already, page by page or step by step.
    if wanted.since is not None and above is None:
        above = first_at(connection, number, at, wanted.since - CLOCK_SLACK) - 1
    if wanted.until is not None and below is None:
        below = first_at(connection, number, at, wanted.until + CLOCK_SLACK)
    return _Range(wanted.i_event, above, below)


def _fits(table: Table, wanted: Filter) -> list[ColumnElement[bool]]:
    """What a row that has the columns of an event must be like."""
    conditions: list[ColumnElement[bool]] = [
        table.c[name] == value
        for name in ("i_env", "ordering_key")
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.event_type is not None:
        conditions.append(table.c.event_type.in_(spellings(wanted.event_type)))
    if wanted.since is not None:
        conditions.append(table.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(table.c.created_at < wanted.until)
    return conditions


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
