"""Again and no more: what an administrator may do to events that are there.

With ``espf.queue``, the only Python writer of the live tables; works inside the caller's
transaction.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from espf import journal
from espf.db.database import Database
from espf.db.tables import (
    event_handlers,
    event_notifications,
    event_queue,
    handler_breakers,
    handler_leases,
    provisioning_log,
)
from espf.errors import Conflict, NotFound
from espf.model import DONE, Status, shard_of
from espf.overview import RETRYING, SCHEDULED, notifications_of
from espf.queue import Queue, clean_up
from espf.subscriptions import EventHandler, delete_handler

#: Events that are cleaned up in one statement when a handler is deleted.
BATCH = 500


def restart(
    connection: Connection, database: Database, i_event: int, handler: EventHandler | None = None
) -> list[str]:
    """Try an event again, attempts starting anew; returns the names of the handlers.

    Without ``handler``: for every handler that failed or rejected it, or waits for a retry.
    An event that has left the live tables comes back under its old number. Raises NotFound
    for an unknown event, Conflict when there is nothing to restart.
    """
    names = _names(connection)
    parts = _parts(connection, i_event)
    if not parts:
        raise NotFound(f"there is no event {i_event}")
    chosen = [
        i_event_handler
        for i_event_handler, status in parts.items()
        if i_event_handler is not None
        and i_event_handler in names
        and (
            i_event_handler == handler.i_event_handler
            if handler
            else status in (Status.FAILED, Status.REJECTED, RETRYING)
        )
    ]
    if not chosen:
        state = ", ".join(
            f"{names.get(key, 'a deleted handler') if key else 'event'}: {status}"
            for key, status in parts.items()
        )
        raise Conflict(
            f"event {i_event} has nothing to restart ({state}); "
            "name a handler to send it to that one again"
        )
    now = database.now(connection)
    for i_event_handler in chosen:
        if parts[i_event_handler] == "waiting":
            raise Conflict(f"event {i_event} waits for its first attempt already")
        _requeue(connection, i_event, i_event_handler, now)
    database.announce(connection)
    return [names[i_event_handler] for i_event_handler in chosen]


def cancel(connection: Connection, database: Database, i_event: int) -> None:
    """Call off a scheduled event. Raises NotFound, or Conflict when it is not (any more)."""
    notified = connection.execute(
        select(event_queue.c.notified).where(event_queue.c.i_event == i_event).with_for_update()
    ).scalar_one_or_none()
    if notified is None and not _parts(connection, i_event):
        raise NotFound(f"there is no event {i_event}")
    if notified != 0:
        raise Conflict(
            f"event {i_event} is not scheduled; only an event whose start_time has not come "
            "can be cancelled"
        )
    Queue(database).end(
        connection,
        i_event,
        Status.CANCELLED,
        "cancelled by an administrator",
        database.now(connection),
    )


def remove_handler(
    connection: Connection, database: Database, handler: EventHandler, *, force: bool = False
) -> int:
    """Delete a handler; returns how many notifications were cancelled with it.

    Raises Conflict when work is waiting and ``force`` is not set.
    """
    mine = event_notifications.c.i_event_handler == handler.i_event_handler
    open_ = mine & event_notifications.c.status.not_in(sorted(DONE))
    waiting = connection.execute(
        select(func.count()).select_from(event_notifications).where(open_)
    ).scalar_one()
    if waiting and not force:
        raise Conflict(
            f"handler {handler.name} has {waiting} notifications waiting or failed; "
            "--force deletes it and records them as cancelled"
        )
    now = database.now(connection)
    rows = connection.execute(
        select(event_notifications.c.attempts, event_queue)
        .join_from(
            event_notifications,
            event_queue,
            event_queue.c.i_event == event_notifications.c.i_event,
        )
        .where(open_)
    ).all()
    journal.record(
        connection,
        [
            journal.Entry(
                i_event=row.i_event,
                i_env=row.i_env,
                event_type=row.event_type,
                ordering_key=row.ordering_key,
                verdict=Status.CANCELLED,
                variables=row.variables,
                i_event_handler=handler.i_event_handler,
                handler=handler.name,
                attempt=row.attempts,
                reason="the handler was deleted",
                created_at=row.created_at,
                start_time=row.start_time,
                logged_at=now,
            )
            for row in rows
        ],
    )
    places = sorted(
        (row.i_event, row.position)
        for row in connection.execute(
            select(event_notifications.c.i_event, event_notifications.c.position).where(mine)
        )
    )
    connection.execute(delete(event_notifications).where(mine))
    for start in range(0, len(places), BATCH):
        clean_up(connection, dict(places[start : start + BATCH]))
    for table in (handler_leases, handler_breakers):
        connection.execute(delete(table).where(table.c.i_event_handler == handler.i_event_handler))
    delete_handler(connection, handler)
    return int(waiting)


def let_go(connection: Connection, i_event_handler: int) -> None:
    """Stop failed notifications of a handler from holding their lanes."""
    connection.execute(
        update(event_notifications)
        .where(
            event_notifications.c.i_event_handler == i_event_handler,
            event_notifications.c.status == Status.FAILED,
            event_notifications.c.next_attempt_at.is_not(None),
        )
        .values(next_attempt_at=None)
    )


def _parts(connection: Connection, i_event: int) -> dict[int | None, str]:
    """Where each handler stands with an event: a status, ``retrying`` or ``waiting``."""
    parts: dict[int | None, str] = {
        entry.i_event_handler: entry.verdict
        for entry in journal.final(connection, provisioning_log.c.i_event == i_event)
    }
    live = connection.execute(notifications_of(event_queue.c.i_event == i_event)).all()
    for row in live:
        if row.status != Status.QUEUED:
            parts[row.i_event_handler] = row.status
        else:
            parts[row.i_event_handler] = RETRYING if row.next_attempt_at else "waiting"
    if not live:
        scheduled = connection.execute(
            select(event_queue.c.i_event).where(event_queue.c.i_event == i_event)
        ).one_or_none()
        if scheduled:
            parts[None] = SCHEDULED
    return parts


def _requeue(connection: Connection, i_event: int, i_event_handler: int, now: datetime) -> None:
    live = connection.execute(
        notifications_of(
            event_queue.c.i_event == i_event,
            event_notifications.c.i_event_handler == i_event_handler,
        )
    ).one_or_none()
    values: Mapping[str, object] = {
        "status": Status.QUEUED,
        "attempts": 0,
        "next_attempt_at": now,
    }
    if live is not None:
        changed = connection.execute(
            update(event_notifications)
            .where(
                event_notifications.c.i_event_handler == i_event_handler,
                event_notifications.c.position == live.position,
            )
            .values(ordering_key=live.ordering_key, **values)
        )
        if changed.rowcount:
            return
    _bring_back(connection, i_event, i_event_handler, values)


def _bring_back(
    connection: Connection, i_event: int, i_event_handler: int, values: Mapping[str, object]
) -> None:
    """Make a notification anew from the journal, and its event if it is gone."""
    entry = next(
        journal.final(
            connection,
            provisioning_log.c.i_event == i_event,
            provisioning_log.c.i_event_handler == i_event_handler,
        )
    )
    # With one more, whoever settles another part of the event leaves it in place.
    known = connection.execute(
        update(event_queue)
        .where(event_queue.c.i_event == i_event)
        .values(notified=event_queue.c.notified + 1)
    )
    if not known.rowcount:
        connection.execute(
            insert(event_queue).values(
                i_event=i_event,
                i_env=entry.i_env,
                event_type=entry.event_type,
                ordering_key=entry.ordering_key,
                variables=entry.variables,
                created_at=entry.created_at,
                start_time=entry.start_time,
                notified=1,
            )
        )
    position = connection.execute(
        select(func.coalesce(event_queue.c.position, event_queue.c.i_event)).where(
            event_queue.c.i_event == i_event
        )
    ).scalar_one()
    connection.execute(
        insert(event_notifications).values(
            i_event_handler=i_event_handler,
            position=position,
            i_event=i_event,
            shard=shard_of(entry.ordering_key),
            ordering_key=entry.ordering_key,
            **values,
        )
    )


def _names(connection: Connection) -> dict[int, str]:
    rows = connection.execute(select(event_handlers.c.i_event_handler, event_handlers.c.name))
    return {row.i_event_handler: row.name for row in rows}
