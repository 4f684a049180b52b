"""What waits and what was: the events of the live tables and of the journal, listed and counted.

Step 8 of 8, tell. Only reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, select

from espf import journal
from espf.db.tables import event_handlers, event_notifications, event_queue, provisioning_log
from espf.errors import InvalidRequest
from espf.model import Status

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
    """Which events to list. ``status`` is one of the views' names or a single status."""

    i_event: int | None = None
    i_env: int | None = None
    handler: str | None = None
    status: str = "all"
    event_type: str | None = None
    ordering_key: str | None = None

    def __post_init__(self) -> None:
        if self.status != "all" and self.status not in _VIEWS:
            raise InvalidRequest(
                f"status {self.status!r} is not one of all, {', '.join(_VIEWS)}", "status"
            )

    def takes(self, status: str) -> bool:
        """Whether an event of this status belongs to the list."""
        return self.status == "all" or status in _VIEWS[self.status]

    def conditions(self, table: Table, handler: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """The filter in SQL, over a table with the columns of an event."""
        wanted: list[ColumnElement[bool]] = [
            table.c[name] == value
            for name in ("i_event", "i_env", "event_type", "ordering_key")
            if (value := getattr(self, name)) is not None
        ]
        if self.handler is not None:
            wanted.append(handler == self.handler)
        return wanted


def search(connection: Connection, wanted: Filter, limit: int) -> list[Overview]:
    """The newest events that fit, live ones and those in the journal, a line per handler."""
    found = [*islice(_live(connection, wanted), limit)]
    live = {(one.i_event, one.handler) for one in found}
    past = (one for one in _past(connection, wanted) if (one.i_event, one.handler) not in live)
    found.extend(islice(past, limit))
    found.sort(key=lambda one: one.i_event, reverse=True)
    return found[:limit]


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
    mine = event_notifications.c
    rows = connection.execute(
        select(mine.status, mine.next_attempt_at.is_not(None), func.count())
        .where(mine.i_event_handler == i_event_handler)
        .group_by(mine.status, mine.next_attempt_at.is_not(None))
    )
    counts = {"waiting": 0, "retrying": 0, "failed": 0}
    for status, tried, count in rows:
        if status == Status.QUEUED:
            counts["retrying" if tried else "waiting"] += count
        elif status == Status.FAILED:
            counts["failed"] += count
    return counts


def notifications_of(*conditions: ColumnElement[bool]) -> Select[Any]:
    """The notifications of live events: columns of both, and the handler's name.

    Through the handlers, so that every step is a look into one index.
    """
    mine = event_notifications.c
    place = func.coalesce(event_queue.c.position, event_queue.c.i_event)
    return (
        select(
            *(column for column in event_queue.c if column.name != "position"),
            mine.i_event_handler,
            mine.position,
            mine.status,
            mine.attempts,
            mine.next_attempt_at,
            mine.last_error,
            event_handlers.c.name.label("handler"),
        )
        .select_from(event_queue)
        .join(event_handlers, event_handlers.c.i_event_handler > 0)
        .join(
            event_notifications,
            (mine.i_event_handler == event_handlers.c.i_event_handler) & (mine.position == place),
        )
        .where(*conditions)
    )


def _live(connection: Connection, wanted: Filter) -> Iterator[Overview]:
    """What is in the live tables, newest first."""
    notified = (
        _overview(row, _view(row))
        for row in connection.execute(
            notifications_of(*wanted.conditions(event_queue, event_handlers.c.name)).order_by(
                event_queue.c.i_event.desc(), event_handlers.c.i_event_handler
            )
        )
    )
    found = [notified]
    if wanted.handler is None and wanted.takes(SCHEDULED):
        rows = connection.execute(
            select(event_queue)
            .where(
                event_queue.c.notified == 0,
                event_queue.c.start_time.is_not(None),
                *wanted.conditions(event_queue, event_handlers.c.name),
            )
            .order_by(event_queue.c.i_event.desc())
        )
        found.append(_overview(row, SCHEDULED) for row in rows)
    for one in merge(*found, key=lambda one: -one.i_event):
        if wanted.takes(one.status):
            yield one


def _overview(row: Row[Any], status: str) -> Overview:
    tried = status != SCHEDULED
    return Overview(
        i_event=row.i_event,
        i_env=row.i_env,
        event_type=row.event_type,
        ordering_key=row.ordering_key,
        handler=row.handler if tried else None,
        status=status,
        attempts=row.attempts if tried else 0,
        created_at=row.created_at,
        start_time=row.start_time,
        next_attempt_at=row.next_attempt_at if status == RETRYING else None,
        reason=row.last_error if tried else None,
    )


def _past(connection: Connection, wanted: Filter) -> Iterator[Overview]:
    conditions = wanted.conditions(provisioning_log, provisioning_log.c.handler)
    for entry in journal.final(connection, *conditions):
        if wanted.takes(entry.verdict):
            yield Overview(
                i_event=entry.i_event,
                i_env=entry.i_env,
                event_type=entry.event_type,
                ordering_key=entry.ordering_key,
                handler=entry.handler,
                status=entry.verdict,
                attempts=entry.attempt,
                created_at=entry.created_at,
                start_time=entry.start_time,
                next_attempt_at=None,
                reason=entry.reason,
            )


def _view(row: Row[Any]) -> str:
    """The status as people see it: what is queued retries, or waits its turn."""
    if row.status == Status.QUEUED and row.next_attempt_at is not None:
        return RETRYING
    return str(row.status)
