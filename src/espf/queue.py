"""The queue: the only Python writer of Event_Queue and Event_Notifications.

Triggers are the other writer. Worker, APIs and command line all come through here. Every method
works inside the caller's transaction.

A notification that has never been tried has no ``next_attempt_at``; the worker reads those forward
by position. One that has been tried, or is restarted, has: the worker reads it when it is due, and
until then nothing behind it in its lane is touched. A failed one that holds its lane keeps the
time of its failure there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from espf import journal
from espf.catalogue import is_custom
from espf.db.bulk import execute_rows
from espf.db.database import Database
from espf.db.dialect import Moment
from espf.db.tables import (
    event_handlers,
    event_notifications,
    event_queue,
    event_subscriptions,
    handler_leases,
    provisioning_log,
)
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.leases import Leases
from espf.model import DONE, Event, Notification, Status, compact, format_time, ordering_key
from espf.overview import RETRYING, SCHEDULED
from espf.subscriptions import EventHandler, delete_handler, require_type

#: The largest JSON text of an event's variables.
MAX_VARIABLES = 64 * 1024

#: How many notifications of one lane are read at a time.
LANE_ROWS = 100

NO_SUBSCRIBER = "no subscriber"

_DONE = tuple(DONE)


@dataclass(frozen=True)
class Decision:
    """What becomes of a notification after an attempt.

    ``status`` QUEUED means another attempt after ``delay``. ``spent`` is False when the attempt
    does not count. ``hold`` keeps the lane of a failed one waiting.
    """

    status: Status
    reason: str | None = None
    delay: timedelta | None = None
    spent: bool = True
    hold: bool = False


@dataclass(frozen=True)
class Result:
    """An attempt that is over: what was tried, under which epoch, what was decided."""

    notification: Notification
    handler: str
    epoch: int
    decision: Decision
    duration_ms: int
    request: str | None = None
    response: str | None = None


@dataclass(frozen=True)
class Settled:
    """What has become true of a result. ``applied`` is False when it came under an old epoch."""

    result: Result
    applied: bool
    next_attempt_at: datetime | None


@dataclass(frozen=True)
class Wanted:
    """What the worker wants to read for one handler.

    ``after`` is the position up to which new notifications have been read; ``room`` how many the
    worker can take; ``due_room`` how many that are due (among them those it has already);
    ``refill`` lanes to go on with, each after a position.
    """

    i_event_handler: int
    after: int
    room: int
    due_room: int
    refill: Sequence[tuple[str, int]] = ()


@dataclass
class Found:
    """What there was.

    New notifications, each with whether an earlier one of its lane waits; due ones; followers by
    lane, with whether there are more; and the seconds until the next one is due.
    """

    new: list[tuple[Notification, bool]] = field(default_factory=list)
    due: list[Notification] = field(default_factory=list)
    refilled: dict[str, tuple[list[Notification], bool]] = field(default_factory=dict)
    next_due_seconds: float | None = None


_COLUMNS = (
    "n.i_event_handler, n.position, n.attempts, n.i_event, n.ordering_key, n.next_attempt_at, "
    "n.status, q.i_env, q.event_type, q.variables, q.created_at, q.start_time"
)
_FROM = "FROM Event_Notifications n JOIN Event_Queue q ON q.i_event = n.i_event"

# Whether an earlier notification of the lane waits for its time, or holds the lane.
_PARKED = (
    "EXISTS (SELECT 1 FROM Event_Notifications p WHERE p.ordering_key = n.ordering_key "
    "AND p.i_event_handler = n.i_event_handler AND p.position < n.position "
    "AND p.next_attempt_at IS NOT NULL)"
)

_READ_NEW = text(
    f"SELECT {_COLUMNS}, {_PARKED} AS parked {_FROM} "
    "WHERE n.i_event_handler = :handler AND n.position > :after AND n.status = 'queued' "
    "AND n.next_attempt_at IS NULL ORDER BY n.position LIMIT :room"
).columns(created_at=Moment, start_time=Moment)
_READ_DUE = (
    text(
        f"SELECT {_COLUMNS} {_FROM} "
        "WHERE n.i_event_handler = :handler AND n.next_attempt_at <= :now "
        f"AND n.status = 'queued' AND NOT {_PARKED} ORDER BY n.next_attempt_at LIMIT :room"
    )
    .bindparams(bindparam("now", type_=Moment))
    .columns(created_at=Moment, start_time=Moment)
)
_READ_LANE = text(
    f"SELECT {_COLUMNS} {_FROM} "
    "WHERE n.i_event_handler = :handler AND n.ordering_key = :key AND n.position > :after "
    "AND (n.status = 'queued' OR n.next_attempt_at IS NOT NULL) "
    "ORDER BY n.position LIMIT :room"
).columns(next_attempt_at=Moment, created_at=Moment, start_time=Moment)
_NEXT_DUE = (
    text(
        "SELECT min(next_attempt_at) AS moment FROM Event_Notifications "
        "WHERE i_event_handler = :handler AND next_attempt_at > :now AND status = 'queued'"
    )
    .bindparams(bindparam("now", type_=Moment))
    .columns(moment=Moment)
)


class Queue:
    """Enqueue, read, settle, restart, cancel."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leases = Leases(database)

    # In: events that no trigger makes

    def create_event(
        self,
        connection: Connection,
        i_env: int,
        event_type: str,
        variables: Mapping[str, object],
        start_time: datetime | None = None,
    ) -> int:
        """Add an event, now or at ``start_time``; returns i_event, also when nobody subscribes.

        Raises NotFound for an unknown type, InvalidRequest for variables that cannot be sent.
        """
        event_type = event_type.strip()
        require_type(connection, event_type)
        if variables.get("i_env", i_env) != i_env:
            raise InvalidRequest("variables.i_env: another environment than yours", "variables")
        if "i_event" in variables:
            raise InvalidRequest("variables.i_event: the number is given by the queue", "variables")
        now = self._database.now(connection)
        if not is_custom(event_type):
            variables = {"i_env": i_env, "event_time": format_time(now), **variables}
        payload = _payload(variables)
        if len(payload) > MAX_VARIABLES:
            raise InvalidRequest(
                f"variables: {len(payload)} characters, at most {MAX_VARIABLES}", "variables"
            )
        scheduled = start_time is not None and start_time > now
        result = connection.execute(
            insert(event_queue).values(
                i_env=i_env,
                event_type=event_type,
                ordering_key=ordering_key(variables),
                variables=payload,
                created_at=now,
                start_time=start_time,
                scheduled=int(scheduled),
            )
        )
        key = result.inserted_primary_key
        assert key is not None
        i_event = int(key[0])
        if not scheduled:
            self._notify(connection, i_event, i_event, now)
        return i_event

    def release_scheduled(self, connection: Connection, limit: int = 20) -> int:
        """Hand out scheduled events that are due, a few at a time; returns how many.

        They join their lanes now, behind what waits there, for the handlers subscribed now.
        """
        now = self._database.now(connection)
        due = connection.execute(
            select(event_queue.c.i_event)
            .where(event_queue.c.scheduled == 1, event_queue.c.start_time <= now)
            .order_by(event_queue.c.start_time, event_queue.c.i_event)
            .limit(limit)
        ).scalars()
        released = 0
        for i_event in list(due):
            connection.execute(
                update(event_queue).where(event_queue.c.i_event == i_event).values(scheduled=0)
            )
            position = self._database.dialect.next_position(connection)
            self._notify(connection, i_event, position, now)
            released += 1
        return released

    def seconds_to_next_scheduled(self, connection: Connection) -> float | None:
        """How long until a scheduled event is due (0 or less: now); None: none is scheduled."""
        first = connection.execute(
            select(func.min(event_queue.c.start_time, type_=Moment)).where(
                event_queue.c.scheduled == 1
            )
        ).scalar_one()
        if first is None:
            return None
        seconds: float = (first - self._database.now(connection)).total_seconds()
        return seconds

    def _notify(self, connection: Connection, i_event: int, position: int, now: datetime) -> None:
        """One notification for each subscriber; without any, the event is over at once."""
        notified = connection.execute(
            insert(event_notifications).from_select(
                ["i_event_handler", "position", "i_event", "ordering_key"],
                select(
                    event_subscriptions.c.i_event_handler,
                    bindparam("position", position),
                    event_queue.c.i_event,
                    event_queue.c.ordering_key,
                )
                .join_from(
                    event_queue,
                    event_subscriptions,
                    (event_subscriptions.c.i_env == event_queue.c.i_env)
                    & (event_subscriptions.c.event_type == event_queue.c.event_type),
                )
                .where(event_queue.c.i_event == i_event, event_subscriptions.c.active == 1),
            )
        )
        if not notified.rowcount:
            self._end(connection, i_event, Status.FINISHED, NO_SUBSCRIBER, now)

    def _end(
        self, connection: Connection, i_event: int, status: Status, reason: str, now: datetime
    ) -> None:
        """Journal an event that ends without an attempt, and take it out of the live table."""
        row = connection.execute(
            delete(event_queue).where(event_queue.c.i_event == i_event).returning(*event_queue.c)
        ).one()
        journal.record(
            connection,
            [
                journal.Entry(
                    i_event=i_event,
                    i_env=row.i_env,
                    event_type=row.event_type,
                    ordering_key=row.ordering_key,
                    verdict=status,
                    variables=row.variables,
                    reason=reason,
                    created_at=row.created_at,
                    start_time=row.start_time,
                    logged_at=now,
                )
            ],
        )

    # Through: what the worker reads and settles

    def read(self, connection: Connection, wanted: Wanted) -> Found:
        """Everything that one handler's worker wants, in one picture of the database."""
        now = self._database.now(connection)
        handler = wanted.i_event_handler
        found = Found()
        if wanted.due_room > 0:
            rows = connection.execute(
                _READ_DUE, {"handler": handler, "now": now, "room": wanted.due_room}
            )
            found.due = [_notification(row) for row in rows]
        for key, after in wanted.refill:
            found.refilled[key] = self._read_lane(connection, handler, key, after, now)
        if wanted.room > 0:
            rows = connection.execute(
                _READ_NEW, {"handler": handler, "after": wanted.after, "room": wanted.room}
            )
            found.new = [(_notification(row), bool(row.parked)) for row in rows]
        next_due = connection.execute(_NEXT_DUE, {"handler": handler, "now": now}).scalar_one()
        if next_due is not None:
            found.next_due_seconds = (next_due - now).total_seconds()
        return found

    def _read_lane(
        self, connection: Connection, handler: int, key: str, after: int, now: datetime
    ) -> tuple[list[Notification], bool]:
        """The next notifications of a lane, up to one that has to wait or holds the lane."""
        rows = connection.execute(
            _READ_LANE, {"handler": handler, "key": key, "after": after, "room": LANE_ROWS}
        ).all()
        notifications: list[Notification] = []
        for row in rows:
            waits = row.next_attempt_at is not None and row.next_attempt_at > now
            if waits or row.status != Status.QUEUED:
                return notifications, False
            notifications.append(_notification(row))
        return notifications, len(rows) == LANE_ROWS

    def settle(self, connection: Connection, results: Sequence[Result]) -> list[Settled]:
        """Store what became of a batch of attempts, journal them, and clean up finished events."""
        now = self._database.now(connection)
        epochs = self._leases.epochs(connection, {r.notification.i_event_handler for r in results})
        settled = [
            Settled(
                result=result,
                applied=epochs.get(result.notification.i_event_handler) == result.epoch,
                next_attempt_at=_next_attempt(result.decision, now),
            )
            for result in results
        ]
        updates = [
            (
                one.result.notification.i_event_handler,
                one.result.notification.position,
                one.result.decision.status,
                one.result.notification.attempts + one.result.decision.spent,
                one.next_attempt_at,
                one.result.decision.reason,
            )
            for one in settled
            if one.applied
        ]
        execute_rows(connection, _SETTLE, _SETTLED_COLUMNS, updates)
        journal.record(connection, [_entry(one, now) for one in settled])
        self._clean_up(
            connection,
            sorted(
                one.result.notification.event.i_event
                for one in settled
                if one.applied and one.result.decision.status in DONE
            ),
        )
        return settled

    def _clean_up(self, connection: Connection, i_events: Sequence[int]) -> None:
        """Take the events that every handler is done with out of both live tables."""
        over = [(i_event,) for i_event in i_events]
        for statement in (_CLEAN_QUEUE, _CLEAN_NOTIFICATIONS):
            execute_rows(connection, statement, [event_queue.c.i_event], over)

    # Again and no more: what an administrator may do

    def restart(
        self, connection: Connection, i_event: int, handler: EventHandler | None = None
    ) -> list[str]:
        """Try an event again, attempts starting anew; returns the names of the handlers.

        Without ``handler``: for every handler that failed or rejected it, or waits for a retry.
        An event that has left the live tables comes back under its old number. Raises NotFound
        for an unknown event, Conflict when there is nothing to restart.
        """
        now = self._database.now(connection)
        names = self._names(connection)
        parts = self._parts(connection, i_event)
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
        for i_event_handler in chosen:
            if parts[i_event_handler] == "waiting":
                raise Conflict(f"event {i_event} waits for its first attempt already")
            self._requeue(connection, i_event, i_event_handler, now)
        return [names[i_event_handler] for i_event_handler in chosen]

    def _parts(self, connection: Connection, i_event: int) -> dict[int | None, str]:
        """Where each handler stands with an event: a status, ``retrying`` or ``waiting``."""
        parts: dict[int | None, str] = {
            entry.i_event_handler: entry.verdict
            for entry in journal.final(connection, provisioning_log.c.i_event == i_event)
        }
        live = connection.execute(
            select(event_notifications).where(event_notifications.c.i_event == i_event)
        ).all()
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

    def _requeue(
        self, connection: Connection, i_event: int, i_event_handler: int, now: datetime
    ) -> None:
        values = {"status": Status.QUEUED, "attempts": 0, "next_attempt_at": now}
        changed = connection.execute(
            update(event_notifications)
            .where(
                event_notifications.c.i_event == i_event,
                event_notifications.c.i_event_handler == i_event_handler,
            )
            .values(**values)
        )
        if changed.rowcount:
            return
        entry = next(
            iter(
                journal.final(
                    connection,
                    provisioning_log.c.i_event == i_event,
                    provisioning_log.c.i_event_handler == i_event_handler,
                )
            )
        )
        known = select(event_queue.c.i_event).where(event_queue.c.i_event == i_event)
        if connection.execute(known).one_or_none() is None:
            connection.execute(
                insert(event_queue).values(
                    i_event=i_event,
                    i_env=entry.i_env,
                    event_type=entry.event_type,
                    ordering_key=entry.ordering_key,
                    variables=entry.variables,
                    created_at=entry.created_at,
                    start_time=entry.start_time,
                )
            )
        connection.execute(
            insert(event_notifications).values(
                i_event_handler=i_event_handler,
                position=i_event,
                i_event=i_event,
                ordering_key=entry.ordering_key,
                **values,
            )
        )

    def cancel(self, connection: Connection, i_event: int) -> None:
        """Call off a scheduled event. Raises NotFound, or Conflict when it is not (any more)."""
        row = connection.execute(
            select(event_queue.c.scheduled).where(event_queue.c.i_event == i_event)
        ).one_or_none()
        if row is None and not self._parts(connection, i_event):
            raise NotFound(f"there is no event {i_event}")
        if row is None or not row.scheduled:
            raise Conflict(
                f"event {i_event} is not scheduled; only an event whose start_time has not come "
                "can be cancelled"
            )
        now = self._database.now(connection)
        self._end(connection, i_event, Status.CANCELLED, "cancelled by an administrator", now)

    def delete_handler(
        self, connection: Connection, handler: EventHandler, *, force: bool = False
    ) -> int:
        """Remove a handler; returns how many notifications were cancelled with it.

        Raises Conflict when work is waiting and ``force`` is not set.
        """
        mine = event_notifications.c.i_event_handler == handler.i_event_handler
        open_ = mine & event_notifications.c.status.not_in(_DONE)
        waiting = connection.execute(
            select(func.count()).select_from(event_notifications).where(open_)
        ).scalar_one()
        if waiting and not force:
            raise Conflict(
                f"handler {handler.name} has {waiting} notifications waiting or failed; "
                "--force deletes it and records them as cancelled"
            )
        now = self._database.now(connection)
        rows = connection.execute(
            select(event_notifications, event_queue)
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
        i_events = sorted(
            connection.execute(
                delete(event_notifications).where(mine).returning(event_notifications.c.i_event)
            ).scalars()
        )
        for start in range(0, len(i_events), 500):
            self._clean_up(connection, i_events[start : start + 500])
        connection.execute(
            delete(handler_leases).where(
                handler_leases.c.i_event_handler == handler.i_event_handler
            )
        )
        delete_handler(connection, handler)
        return int(waiting)

    def let_go(self, connection: Connection, i_event_handler: int) -> None:
        """Stop failed notifications of a handler from holding their lanes."""
        held = connection.execute(
            update(event_notifications)
            .where(
                event_notifications.c.i_event_handler == i_event_handler,
                event_notifications.c.status == Status.FAILED,
                event_notifications.c.next_attempt_at.is_not(None),
            )
            .values(next_attempt_at=None)
            .returning(event_notifications.c.ordering_key)
        ).scalars()
        keys = {key for key in held if key is not None}
        now = self._database.now(connection)
        for key in keys:
            # The first follower has been passed by long ago: being due, it is read again.
            first = (
                select(func.min(event_notifications.c.position))
                .where(
                    event_notifications.c.i_event_handler == i_event_handler,
                    event_notifications.c.ordering_key == key,
                    event_notifications.c.status == Status.QUEUED,
                )
                .scalar_subquery()
            )
            connection.execute(
                update(event_notifications)
                .where(
                    event_notifications.c.i_event_handler == i_event_handler,
                    event_notifications.c.position == first,
                    event_notifications.c.next_attempt_at.is_(None),
                )
                .values(next_attempt_at=now)
            )

    def _names(self, connection: Connection) -> dict[int, str]:
        rows = connection.execute(select(event_handlers.c.i_event_handler, event_handlers.c.name))
        return {row.i_event_handler: row.name for row in rows}


_SETTLED_COLUMNS = [
    event_notifications.c[name]
    for name in (
        "i_event_handler",
        "position",
        "status",
        "attempts",
        "next_attempt_at",
        "last_error",
    )
]
_SETTLE = (
    "WITH s (i_event_handler, position, status, attempts, next_attempt_at, last_error) "
    "AS (VALUES {rows}) UPDATE Event_Notifications SET status = s.status, attempts = s.attempts, "
    "next_attempt_at = s.next_attempt_at, last_error = s.last_error FROM s "
    "WHERE Event_Notifications.i_event_handler = s.i_event_handler "
    "AND Event_Notifications.position = s.position AND Event_Notifications.status = 'queued'"
)

# An event is over when no handler has it undone; its notifications go when it is gone.
_CLEAN_QUEUE = (
    "DELETE FROM Event_Queue WHERE i_event IN (VALUES {rows}) AND NOT EXISTS ("  # noqa: S608
    "SELECT 1 FROM Event_Notifications n WHERE n.i_event = Event_Queue.i_event "
    f"AND n.status NOT IN ({', '.join(repr(str(status)) for status in _DONE)}))"
)
_CLEAN_NOTIFICATIONS = (
    "DELETE FROM Event_Notifications WHERE i_event IN (VALUES {rows}) AND NOT EXISTS ("
    "SELECT 1 FROM Event_Queue q WHERE q.i_event = Event_Notifications.i_event)"
)


def _payload(variables: Mapping[str, object]) -> str:
    """The variables as JSON text. Raises InvalidRequest when they have no such form."""
    try:
        payload = compact(dict(variables))
        # Half a surrogate pair has no form in UTF-8.
        payload.encode()
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "variables: a number that is not finite, a text that is not Unicode, or lists too deep "
            "in one another cannot be sent",
            "variables",
        ) from None
    return payload


def _next_attempt(decision: Decision, now: datetime) -> datetime | None:
    if decision.status is Status.QUEUED:
        assert decision.delay is not None
        return now + decision.delay
    return now if decision.hold else None


def _notification(row: Row[Any]) -> Notification:
    return Notification(
        i_event_handler=row.i_event_handler,
        position=row.position,
        attempts=row.attempts,
        event=Event(
            i_event=row.i_event,
            i_env=row.i_env,
            event_type=row.event_type,
            payload=row.variables or "{}",
            ordering_key=row.ordering_key,
            created_at=row.created_at,
            start_time=row.start_time,
        ),
    )


def _entry(settled: Settled, now: datetime) -> journal.Entry:
    result, event = settled.result, settled.result.notification.event
    verdict: str = result.decision.status
    if not settled.applied:
        verdict = journal.ORPHAN
    elif result.decision.status is Status.QUEUED:
        verdict = journal.RETRY
    return journal.Entry(
        i_event=event.i_event,
        i_env=event.i_env,
        event_type=event.event_type,
        ordering_key=event.ordering_key,
        verdict=verdict,
        variables=event.payload,
        i_event_handler=result.notification.i_event_handler,
        handler=result.handler,
        attempt=result.notification.attempts + 1,
        reason=result.decision.reason,
        created_at=event.created_at,
        start_time=event.start_time,
        logged_at=now,
        duration_ms=result.duration_ms,
        next_attempt_at=settled.next_attempt_at if verdict == journal.RETRY else None,
        request=result.request,
        response=result.response,
    )
