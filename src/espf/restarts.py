"""Again and no more: what an administrator may do to events that are there.

With ``espf.queue``, the only Python writer of the live tables; works inside the caller's
transaction. Those who do any of it at the same time take turns.

A restarted notification is due at once, attempts counting anew. The worker takes what is due
beside what is new, at the pace of the handler, and each lane in order. So any number may be
restarted, a batch at a time: nothing has to be spread over time, and what waits again is not found
again.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, literal, select, update

from espf import journal
from espf.db.database import Database
from espf.db.tables import (
    dispatches,
    event_handlers,
    event_notifications,
    event_queue,
    handler_breakers,
    handler_leases,
    provisioning_log,
)
from espf.db.walk import Progress
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.maintenance import hold
from espf.model import DONE, Status, shard_of
from espf.queue import Queue, clean_up
from espf.sources import RETRYING, SCHEDULED, Filter, Source, done, not_done, scheduled
from espf.subscriptions import EventHandler, delete_handler, look_again

#: More than the parts that any event has.
_ALL_PARTS = 10_000

#: What is tried again when nobody says for whom.
_UNDONE = frozenset({Status.FAILED, Status.REJECTED, RETRYING})

_OPEN = (Status.QUEUED, Status.FAILED)


# Restart


def restart(
    connection: Connection, database: Database, i_event: int, handler: EventHandler | None = None
) -> list[str]:
    """Try an event again, attempts starting anew; returns the names of the handlers.

    Without ``handler``: for every handler that failed or rejected it, or waits for a retry.
    An event that has left the live tables comes back under its old number. Raises NotFound
    for an unknown event, Conflict when there is nothing to restart.
    """
    hold(connection, database, __name__)
    parts = _parts(connection, i_event)
    names = _names(connection)
    chosen = [
        part
        for part in parts
        if part.i_event_handler in names
        and (
            part.status in _UNDONE
            if handler is None
            else part.i_event_handler == handler.i_event_handler
        )
    ]
    if not chosen:
        raise Conflict(
            f"event {i_event} has nothing to restart ({_state(connection, parts)}); "
            "name a handler to send it to that one again"
        )
    if any(part.status == Status.QUEUED for part in chosen):
        raise Conflict(f"event {i_event} waits for its first attempt already")
    _requeue(connection, database, chosen)
    return [names[part.i_event_handler] for part in chosen]


def restartable(connection: Connection, wanted: Filter) -> int:
    """How many notifications ``restart_next`` would restart in all."""
    return sum(source.count(connection) for source in _restartable(connection, wanted))


def restart_next(connection: Connection, database: Database, wanted: Filter) -> Progress | None:
    """Restart the first ones that fit, in the order of events; None: none do.

    Go on with ``wanted`` after the last event. Raises InvalidRequest for a status that nothing can
    be restarted from.
    """
    hold(connection, database, __name__)
    above, end = wanted.after or 0, _newest(connection, wanted)
    # Most of what one place has may be there for another place alone: so as not to look through
    # all of that at each step, all places are looked through together, stretch after stretch.
    stretch = database.dialect.batch
    while above < end:
        upto = min(above + stretch, end)
        here = replace(wanted, after=above, before=upto + 1)
        chosen, last = _first(connection, database, _restartable(connection, here), upto)
        if chosen:
            _requeue(connection, database, chosen)
            return Progress(len(chosen), last)
        above, stretch = upto, 2 * stretch
    return None


def _restartable(connection: Connection, wanted: Filter) -> list[Source]:
    if wanted.status == "all" or wanted.statuses & {Status.QUEUED, SCHEDULED}:
        raise InvalidRequest(
            f"status {wanted.status!r}: name what has been tried: failed, rejected, retrying, "
            "finished, successful, skipped, superseded or cancelled",
            "status",
        )
    # The journal remembers handlers that are there no more.
    known = provisioning_log.c.i_event_handler.in_(sorted(_names(connection)))
    past = (replace(one, query=one.query.where(known)) for one in done(connection, wanted))
    return [*not_done(connection, wanted), *past]


def _first(
    connection: Connection, database: Database, sources: Iterable[Source], end: int | None = None
) -> tuple[list[Row[Any]], int]:
    """A batch of the first parts out of all sources, whole events of each.

    And the number up to which there are no more of them: ``end`` when it is all.
    """
    limit = database.dialect.batch
    found: list[Row[Any]] = []
    ends: list[int] = [] if end is None else [end]
    for source in sources:
        rows = source.first(connection, limit, upward=True)
        found += rows
        if len(rows) == limit:
            # Of its last event there may be more.
            ends.append(max(rows[-1].i_event - 1, rows[0].i_event))
    last = min(ends, default=max((row.i_event for row in found), default=0))
    return sorted((row for row in found if row.i_event <= last), key=_number), last


def _newest(connection: Connection, wanted: Filter) -> int:
    """The highest number of an event that can be meant."""
    numbers = (event_queue.c.i_event, provisioning_log.c.i_event)
    there = [connection.execute(select(func.max(number))).scalar_one() or 0 for number in numbers]
    return max(there) if wanted.before is None else min(max(there), wanted.before - 1)


def _requeue(connection: Connection, database: Database, parts: Sequence[Row[Any]]) -> None:
    """Make notifications wait again; those that are gone are made anew from the journal."""
    now = database.now(connection)
    places = _lock(connection, {part.i_event for part in parts})
    again: dict[str, object] = {"status": Status.QUEUED, "attempts": 0, "next_attempt_at": now}
    live, past = _split(parts)
    # One that retries may have been delivered just now.
    _change(connection, live, places, _OPEN, again)
    _make_events(connection, [part for part in past if part.i_event not in places])
    places |= {part.i_event: part.i_event for part in past if part.i_event not in places}
    there = _change(connection, past, places, sorted(DONE), again)
    _make_notifications(
        connection,
        [part for part in past if (part.i_event_handler, places[part.i_event]) not in there],
        places,
        again,
    )
    database.announce(connection)


def _make_events(connection: Connection, parts: Sequence[Row[Any]]) -> None:
    """Bring events back from the journal; they have no notifications yet."""
    rows = {part.i_event: part.i_log for part in parts}
    if rows:
        names = ("i_event", "i_env", "event_type", "ordering_key", "variables")
        times = ("created_at", "start_time")
        copied = select(*(provisioning_log.c[name] for name in (*names, *times)), literal(0)).where(
            # By its event it is known in which part of the journal a row is.
            provisioning_log.c.i_event.in_(rows),
            provisioning_log.c.i_log.in_(rows.values()),
        )
        connection.execute(insert(event_queue).from_select([*names, *times, "notified"], copied))


def _make_notifications(
    connection: Connection,
    parts: Sequence[Row[Any]],
    places: dict[int, int],
    again: dict[str, object],
) -> None:
    if not parts:
        return
    # With these counted, whoever settles another part of the event leaves it in place.
    more: dict[int, list[int]] = defaultdict(list)
    for i_event, count in Counter(part.i_event for part in parts).items():
        more[count].append(i_event)
    for count, i_events in more.items():
        connection.execute(
            update(event_queue)
            .where(event_queue.c.i_event.in_(i_events))
            .values(notified=event_queue.c.notified + count)
        )
    connection.execute(
        insert(event_notifications),
        [
            {
                "i_event_handler": part.i_event_handler,
                "position": places[part.i_event],
                "i_event": part.i_event,
                "shard": shard_of(part.ordering_key),
                "ordering_key": part.ordering_key,
                **again,
            }
            for part in parts
        ],
    )


# No more


def cancel(
    connection: Connection,
    database: Database,
    i_event: int,
    reason: str = "cancelled by an administrator",
) -> None:
    """Call off a scheduled event. Raises NotFound, or Conflict when it is not (any more)."""
    notified = connection.execute(
        select(event_queue.c.notified).where(event_queue.c.i_event == i_event).with_for_update()
    ).scalar_one_or_none()
    if notified is None:
        _parts(connection, i_event)
    if notified != 0:
        raise Conflict(
            f"event {i_event} is not scheduled; only an event whose start_time has not come "
            "can be cancelled"
        )
    Queue(database).end(
        connection,
        i_event,
        Status.CANCELLED,
        reason,
        database.now(connection),
    )


def skip(
    connection: Connection, database: Database, i_event: int, handler: EventHandler, reason: str
) -> None:
    """Give up a notification that failed or is tried again; its lane goes on without it.

    An attempt that is under way at this moment is not called back. Raises NotFound for an unknown
    event, Conflict when this handler has nothing to give up.
    """
    hold(connection, database, __name__)
    parts = _parts(connection, i_event)
    mine = [part for part in parts if part.i_event_handler == handler.i_event_handler]
    tried = [part for part in mine if part.status in {Status.FAILED, RETRYING} or _holds_lane(part)]
    if not tried:
        state = _state(connection, mine or parts)
        raise Conflict(
            f"event {i_event} has nothing to skip for {handler.name} ({state}); "
            "it must have failed, or wait for a retry"
        )
    _end(connection, database, handler, tried, Status.SKIPPED, Status.SKIPPED, reason)


def cancel_next(connection: Connection, database: Database, handler: EventHandler) -> int:
    """Cancel the first of what waits or failed for a handler; returns how many."""
    hold(connection, database, __name__)
    wanted = Filter(handler=handler.name, i_env=handler.i_env)
    parts, _ = _first(connection, database, not_done(connection, wanted))
    reason = "the handler was deleted"
    return _end(connection, database, handler, parts, Status.CANCELLED, Status.CANCELLED, reason)


def retire_next(
    connection: Connection,
    database: Database,
    handler: EventHandler,
    older_than: datetime,
    after: int,
) -> Progress | None:
    """Take failed notifications that nobody has restarted out of the live tables, a batch.

    Those of events that were due before ``older_than`` and have a number above ``after``; they
    stay failed in the journal. None: there are no more.
    """
    hold(connection, database, __name__)
    wanted = Filter(
        handler=handler.name,
        i_env=handler.i_env,
        status=Status.FAILED,
        until=older_than,
        after=after,
    )
    parts, last = _first(connection, database, not_done(connection, wanted))
    if not parts:
        return None
    old = [part for part in parts if (part.start_time or part.created_at) < older_than]
    reason = "nobody restarted it; it is kept in the journal alone"
    count = _end(connection, database, handler, old, Status.CANCELLED, Status.FAILED, reason)
    return Progress(count, last)


def remove_handler(
    connection: Connection, database: Database, handler: EventHandler, *, force: bool = False
) -> int:
    """Delete a handler; returns how many notifications were cancelled with it.

    Raises Conflict when work is waiting and ``force`` is not set.
    """
    hold(connection, database, __name__)
    n = event_notifications.c
    mine = n.i_event_handler == handler.i_event_handler
    waiting = connection.execute(
        select(func.count()).select_from(event_notifications).where(mine, n.status.in_(_OPEN))
    ).scalar_one()
    if waiting and not force:
        raise Conflict(
            f"handler {handler.name} has {waiting} notifications waiting or failed; "
            "delete it by force, and they are recorded as cancelled"
        )
    while cancel_next(connection, database, handler):
        pass
    # What is done waits for other handlers, and goes with them.
    connection.execute(delete(event_notifications).where(mine))
    for table in (handler_leases, handler_breakers, dispatches):
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


def _end(
    connection: Connection,
    database: Database,
    handler: EventHandler,
    parts: Sequence[Row[Any]],
    status: Status,
    verdict: Status,
    reason: str,
) -> int:
    """End open notifications of a handler without another attempt; returns how many."""
    places = _lock(connection, {part.i_event for part in parts})
    there = _change(
        connection,
        parts,
        places,
        _OPEN,
        {"status": status, "next_attempt_at": None, "last_error": reason},
    )
    ended = [part for part in parts if (part.i_event_handler, part.position) in there]
    variables = _variables(connection, {part.i_event for part in ended})
    now = database.now(connection)
    journal.record(
        connection,
        [
            journal.Entry(
                i_event=part.i_event,
                i_env=part.i_env,
                event_type=part.event_type,
                ordering_key=part.ordering_key,
                verdict=verdict,
                variables=variables[part.i_event],
                i_event_handler=part.i_event_handler,
                handler=part.handler,
                attempt=part.attempts,
                reason=reason,
                created_at=part.created_at,
                start_time=part.start_time,
                logged_at=now,
            )
            for part in ended
        ],
    )
    clean_up(connection, database, {part.i_event: part.position for part in ended})
    if any(_holds_lane(part) for part in ended):
        look_again(connection, handler)
    return len(ended)


def _holds_lane(part: Row[Any]) -> bool:
    """Whether those behind a notification wait for it in the database."""
    return part.next_attempt_at is not None


# Parts of events


def _parts(connection: Connection, i_event: int) -> list[Row[Any]]:
    """Where each handler stands with an event. Raises NotFound when nobody knows the event."""
    wanted = Filter(i_event=i_event)
    sources = chain(
        not_done(connection, wanted), scheduled(connection, wanted), done(connection, wanted)
    )
    parts = [row for source in sources for row in source.first(connection, _ALL_PARTS, upward=True)]
    if not parts:
        raise NotFound(f"there is no event {i_event}")
    return parts


def _state(connection: Connection, parts: Iterable[Row[Any]]) -> str:
    names = _names(connection)
    return ", ".join(
        f"{names.get(part.i_event_handler, 'a deleted handler') if part.handler else 'event'}: "
        f"{part.status}"
        for part in parts
    )


def _split(parts: Iterable[Row[Any]]) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """Parts that are open in the live tables, and those out of the journal."""
    live: list[Row[Any]] = []
    past: list[Row[Any]] = []
    for part in parts:
        (past if part.position is None else live).append(part)
    return live, past


def _lock(connection: Connection, i_events: Collection[int]) -> dict[int, int]:
    """Keep events from being cleaned up; returns the position of each that is there."""
    rows = connection.execute(
        select(event_queue.c.i_event, event_queue.c.position)
        .where(event_queue.c.i_event.in_(sorted(i_events)))
        .order_by(event_queue.c.i_event)
        .with_for_update()
    )
    return {row.i_event: row.position or row.i_event for row in rows}


def _change(
    connection: Connection,
    parts: Iterable[Row[Any]],
    places: dict[int, int],
    statuses: Collection[str],
    values: dict[str, object],
) -> set[tuple[int, int]]:
    """Change the notifications among these that have such a status: (handler, position)."""
    n = event_notifications.c
    by_handler: dict[int, list[int]] = defaultdict(list)
    for part in parts:
        if part.i_event in places:
            by_handler[part.i_event_handler].append(places[part.i_event])
    key = (
        select(event_queue.c.ordering_key)
        .where(event_queue.c.i_event == n.i_event)
        .scalar_subquery()
    )
    changed: set[tuple[int, int]] = set()
    for i_event_handler, positions in sorted(by_handler.items()):
        chosen = (
            n.i_event_handler == i_event_handler,
            n.position.in_(sorted(positions)),
            n.status.in_(statuses),
        )
        found = connection.execute(select(n.position).where(*chosen).with_for_update()).scalars()
        changed |= {(i_event_handler, position) for position in found}
        connection.execute(
            update(event_notifications)
            .where(*chosen)
            .values({"last_error": None, **values, "ordering_key": key})
        )
    return changed


def _variables(connection: Connection, i_events: Collection[int]) -> dict[int, str | None]:
    rows = connection.execute(
        select(event_queue.c.i_event, event_queue.c.variables).where(
            event_queue.c.i_event.in_(sorted(i_events))
        )
    )
    return {row.i_event: row.variables for row in rows}


def _names(connection: Connection) -> dict[int, str]:
    rows = connection.execute(select(event_handlers.c.i_event_handler, event_handlers.c.name))
    return {row.i_event_handler: row.name for row in rows}


def _number(part: Row[Any]) -> int:
    return int(part.i_event)
