"""How much a handler has before it: what waits, is retried or has failed, and since when.

Step 8 of 8, tell. Only reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    String,
    bindparam,
    case,
    func,
    literal,
    select,
)

from espf.db.dialect import Moment
from espf.db.tables import event_notifications, event_queue
from espf.model import Status
from espf.sources import EVER, MOST_COUNTED, RETRYING, count_rows, retries, ways

#: Rows of one sample, and samples between those at both ends.
SAMPLE = 1000
SAMPLES = 8


def counts(connection: Connection, i_event_handler: int) -> dict[str, int]:
    """What a handler has before it: ``waiting``, ``retrying`` and ``failed``. It looks at all."""
    n = event_notifications.c
    mine = n.i_event_handler == i_event_handler

    def count(*condition: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(event_notifications).where(mine, *condition)
        return int(connection.execute(query).scalar_one())

    retrying, failed = (
        sum(count(*way) for way in ways(frozenset({status})))
        for status in (RETRYING, Status.FAILED)
    )
    waiting = count(n.status == Status.QUEUED) - retrying
    return {"waiting": waiting, "retrying": retrying, "failed": failed}


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


#: What most handlers have before them, most of the time.
NOTHING = Backlog(waiting=0, retrying=0, failed=0, oldest=None, estimated=False)


def backlog(connection: Connection, i_event_handler: int, now: datetime) -> Backlog:
    """The backlog of a handler, at a cost that does not grow with it: exact up to two samples."""
    samples = list(_samples(connection, i_event_handler))
    if not samples:
        return NOTHING
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
    for way in ways(frozenset({status})):
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
    to_come = count_rows(connection, wait.where(n.next_attempt_at > now).limit(MOST_COUNTED))
    due = wait.add_columns(n.last_error).where(n.next_attempt_at > EVER, n.next_attempt_at <= now)
    last = due.order_by(n.next_attempt_at.desc()).limit(MOST_COUNTED - to_come).subquery()
    looked_at, found = connection.execute(
        select(func.count(), func.count(last.c.last_error)).select_from(last)
    ).one()
    return to_come + found, to_come + looked_at < MOST_COUNTED


def _some_failed(connection: Connection, i_event_handler: int, now: datetime) -> tuple[int, bool]:
    """Those that hold their lanes have failed before now: no retry to come stands among them."""
    n = event_notifications.c
    freely, holding = ways(frozenset({Status.FAILED}))
    found = 0
    for way in (freely, [*holding, n.next_attempt_at <= now]):
        some = select(n.position).where(n.i_event_handler == i_event_handler, *way)
        found += count_rows(connection, some.limit(MOST_COUNTED - found))
    return found, found < MOST_COUNTED


@dataclass(frozen=True)
class _Sample:
    """How many wait in a part of what a handler has; ``first``: where the first one is found."""

    waiting: float
    first: int | None


def _sample_of(order: ColumnElement[Any]) -> Select[Any]:
    """Made once: to put it together takes as long as to run it."""
    n = event_notifications.c
    kind = case((retries(), literal(RETRYING, String)), else_=n.status).label("kind")
    rows = (
        select(n.position, kind)
        .where(
            n.i_event_handler == bindparam("handler", type_=Integer),
            n.position > bindparam("after", type_=BigInteger),
            n.position < bindparam("before", type_=BigInteger),
        )
        .order_by(order)
        .limit(bindparam("rows", type_=Integer))
        .subquery()
    )
    untried = rows.c.kind == Status.QUEUED
    queued = rows.c.kind.in_([Status.QUEUED, RETRYING])
    told: list[ColumnElement[Any]] = [
        func.count().label("rows"),
        func.min(rows.c.position).label("low"),
        func.max(rows.c.position).label("high"),
        func.min(case((queued, rows.c.position))).label("first"),
        func.count(case((untried, 1))).label("waiting"),
    ]
    return select(*told)


_FIRST = _sample_of(event_notifications.c.position)
_LAST = _sample_of(event_notifications.c.position.desc())

#: After all positions.
_BEYOND = 2**63 - 1


def _samples(connection: Connection, i_event_handler: int) -> Iterator[_Sample]:
    """The parts, in order: both ends are counted, of the others a sample stands for all.

    None, where there is nothing in any state.
    """

    def sample(query: Select[Any], after: int, before: int = _BEYOND) -> Row[Any]:
        of = {"handler": i_event_handler, "after": after, "before": before, "rows": SAMPLE}
        return connection.execute(query, of).one()

    head = sample(_FIRST, 0)
    if not head.rows:
        return
    yield _Sample(head.waiting, head.first)
    if head.rows < SAMPLE:
        return
    tail = sample(_LAST, head.high)
    if tail.rows == SAMPLE:
        bounds = [
            head.high + (tail.low - 1 - head.high) * part // SAMPLES for part in range(SAMPLES + 1)
        ]
        for after, upto in pairwise(bounds):
            some = sample(_FIRST, after, upto + 1)
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
