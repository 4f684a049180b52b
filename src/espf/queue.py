"""The queue: with the triggers, the only writer of Event_Queue and Event_Notifications.

Worker, APIs and command line all come through here; every method works inside the caller's
transaction. What an administrator may do to events that are there is in ``espf.restarts``.

A notification that has never been tried has no ``next_attempt_at``; the worker reads those forward
by position. One that has been tried, or is restarted, has: the worker reads it when it is due, and
until then nothing behind it in its lane is delivered. A failed one that holds its lane keeps the
time of its failure there.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from espf import journal
from espf.catalogue import is_custom
from espf.db.database import Database
from espf.db.dialect import Moment, to_moment
from espf.db.tables import event_notifications, event_queue, event_subscriptions
from espf.errors import InvalidRequest
from espf.leases import Leases
from espf.model import (
    DONE,
    Decision,
    Event,
    Notification,
    Result,
    Settled,
    Status,
    compact,
    format_time,
    ordering_key,
    shard_of,
)
from espf.subscriptions import require_type

#: The largest JSON text of an event's variables.
MAX_VARIABLES = 64 * 1024

NO_SUBSCRIBER = "no subscriber"


@dataclass(frozen=True)
class Wanted:
    """What the worker wants to read for one handler.

    ``shards``: those that it owns, as bits. ``reached``, ``suspects``, ``recent``: see
    ``espf.worker.frontier``; ``start`` says where to begin. ``room`` how many new notifications the
    worker can take; ``due_room`` how many that are due (among them those it has already);
    ``refill`` lanes to go on with, each at these positions.
    """

    i_event_handler: int
    shards: int
    start: "Start"
    room: int
    due_room: int
    refill: Sequence[tuple[str, Sequence[int]]] = ()


@dataclass(frozen=True)
class Start:
    """Where reading new notifications begins: after ``reached``, or after what comes to light.

    ``suspects`` are running transactions; when one has ended, read from its position.
    """

    reached: int
    suspects: Mapping[int, int] = field(default_factory=dict)

    def after(self, running: Collection[int]) -> int:
        """The position, when these transactions are running."""
        freed = (position for number, position in self.suspects.items() if number not in running)
        return min([self.reached, *freed])


@dataclass
class Found:
    """What there was.

    New notifications, each with whether an earlier one of its lane waits; due ones; followers by
    lane, in the same form as new ones; and the seconds until the next one is due. ``running`` are
    the transactions whose events cannot be seen yet.
    """

    new: list[tuple[Notification, bool]] = field(default_factory=list)
    due: list[Notification] = field(default_factory=list)
    refilled: list[tuple[str, Sequence[int], list[tuple[Notification, bool]]]] = field(
        default_factory=list
    )
    next_due_seconds: float | None = None
    running: frozenset[int] = frozenset()


_COLUMNS = (
    "n.position, n.attempts, n.shard, q.notified, n.i_event, q.i_env, q.event_type, q.variables, "
    "q.ordering_key"
)
_FROM = "FROM Event_Notifications n JOIN Event_Queue q ON q.i_event = n.i_event"
_MINE = "n.i_event_handler = {handler} AND ({shards} >> n.shard) & 1 = 1 AND n.status = 'queued'"

# Whether an earlier notification of the lane waits for its time, or holds the lane.
_PARKED = (
    "EXISTS (SELECT 1 FROM Event_Notifications p WHERE p.ordering_key = q.ordering_key "
    # The sum keeps planners from the index by time, which holds all that wait for this handler.
    "AND p.i_event_handler + 0 = n.i_event_handler AND p.position < n.position "
    "AND p.next_attempt_at IS NOT NULL)"
)

_READ_NEW = (
    f"SELECT {_COLUMNS}, {_PARKED} AS parked {_FROM} "
    f"WHERE {_MINE} AND n.position > {{after}} AND n.next_attempt_at IS NULL "
    "ORDER BY n.position LIMIT {room}"
)
_READ_DUE = (
    f"SELECT {_COLUMNS} {_FROM} "
    f"WHERE {_MINE} AND n.next_attempt_at <= {{now}} AND NOT {_PARKED} "
    "ORDER BY n.next_attempt_at LIMIT {room}"
)
_NEXT_DUE = (
    "SELECT n.next_attempt_at FROM Event_Notifications n "
    f"WHERE {_MINE} AND n.next_attempt_at > {{now}} ORDER BY n.next_attempt_at LIMIT 1"
)
_NEW_NAMES = {"handler": "int", "shards": "int", "after": "bigint", "room": "int"}
_DUE_NAMES = {"handler": "int", "shards": "int", "now": "timestamptz", "room": "int"}
_NEXT_NAMES = {"handler": "int", "shards": "int", "now": "timestamptz"}


class Queue:
    """Enqueue, read, settle."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leases = Leases(database)
        self.journal = journal.Journal(database)

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
        result = connection.execute(
            insert(event_queue).values(
                i_env=i_env,
                event_type=event_type,
                ordering_key=ordering_key(variables),
                variables=payload,
                created_at=now,
                start_time=start_time,
            )
        )
        key = result.inserted_primary_key
        assert key is not None
        i_event = int(key[0])
        if start_time is None or start_time <= now:
            self._notify(connection, i_event, None, now)
        return i_event

    def release_scheduled(self, connection: Connection, limit: int = 20) -> int:
        """Hand out scheduled events that are due, a few at a time; returns how many.

        They join their lanes now, behind what waits there, for the handlers subscribed now.
        """
        now = self._database.now(connection)
        due = connection.execute(
            select(event_queue.c.i_event)
            .where(event_queue.c.notified == 0, event_queue.c.start_time <= now)
            .order_by(event_queue.c.start_time, event_queue.c.i_event)
            .limit(limit)
            # Another worker that does the same takes other ones.
            .with_for_update(skip_locked=True)
        ).scalars()
        released = 0
        for i_event in list(due):
            position = self._database.dialect.next_position(connection)
            self._notify(connection, i_event, position, now)
            released += 1
        return released

    def seconds_to_next_scheduled(self, connection: Connection) -> float | None:
        """How long until a scheduled event is due (0 or less: now); None: none is scheduled."""
        first = connection.execute(
            select(func.min(event_queue.c.start_time, type_=Moment)).where(
                event_queue.c.notified == 0, event_queue.c.start_time.is_not(None)
            )
        ).scalar_one()
        if first is None:
            return None
        seconds: float = (first - self._database.now(connection)).total_seconds()
        return seconds

    def _notify(
        self, connection: Connection, i_event: int, position: int | None, now: datetime
    ) -> None:
        """One notification for each subscriber; without any, the event is over at once."""
        event = connection.execute(
            select(event_queue.c.ordering_key, event_subscriptions.c.i_event_handler)
            .outerjoin_from(
                event_queue,
                event_subscriptions,
                (event_subscriptions.c.i_env == event_queue.c.i_env)
                & (event_subscriptions.c.event_type == event_queue.c.event_type)
                & (event_subscriptions.c.active == 1),
            )
            .where(event_queue.c.i_event == i_event)
        ).all()
        handlers = [row.i_event_handler for row in event if row.i_event_handler is not None]
        if not handlers:
            self.end(connection, i_event, Status.FINISHED, NO_SUBSCRIBER, now)
            return
        connection.execute(
            update(event_queue)
            .where(event_queue.c.i_event == i_event)
            .values(notified=len(handlers), position=position)
        )
        connection.execute(
            insert(event_notifications),
            [
                {
                    "i_event_handler": i_event_handler,
                    "position": position or i_event,
                    "i_event": i_event,
                    "shard": shard_of(event[0].ordering_key),
                }
                for i_event_handler in handlers
            ],
        )
        self._database.announce(connection)

    def end(
        self, connection: Connection, i_event: int, status: Status, reason: str, now: datetime
    ) -> None:
        """Journal an event that ends without an attempt, and take it out of the live table."""
        one = event_queue.c.i_event == i_event
        row = connection.execute(select(event_queue).where(one)).one()
        connection.execute(delete(event_queue).where(one))
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

    def read(self, connection: Connection, wanted: Sequence[Wanted]) -> list[Found]:
        """Everything that a worker wants for its handlers, in one picture of the database."""
        dialect = self._database.dialect
        running = dialect.running(connection)
        now = self._database.now(connection)
        found = [Found(running=running) for _ in wanted]
        self._read_due(connection, wanted, found, now)
        self._read_refills(connection, wanted, found)
        asked = [(one, into) for one, into in zip(wanted, found, strict=True) if one.room > 0]
        if asked:
            items = [
                (one.i_event_handler, one.shards, one.start.after(running), one.room)
                for one, _ in asked
            ]
            rows = dialect.for_each(connection, _READ_NEW, _NEW_NAMES, items)
            for (one, into), some in zip(asked, rows, strict=True):
                into.new = _notifications(one.i_event_handler, some)
        return found

    def _read_due(
        self,
        connection: Connection,
        wanted: Sequence[Wanted],
        found: Sequence[Found],
        now: datetime,
    ) -> None:
        dialect = self._database.dialect
        items = [(one.i_event_handler, one.shards, now, one.due_room) for one in wanted]
        due = dialect.for_each(connection, _READ_DUE, _DUE_NAMES, items)
        later = dialect.for_each(
            connection, _NEXT_DUE, _NEXT_NAMES, [(handler, s, t) for handler, s, t, _ in items]
        )
        for one, into, rows, first in zip(wanted, found, due, later, strict=True):
            into.due = [_notification(one.i_event_handler, row) for row in rows]
            if first:
                next_due = to_moment(first[0][0])
                assert next_due is not None
                into.next_due_seconds = (next_due - now).total_seconds()

    def _read_refills(
        self, connection: Connection, wanted: Sequence[Wanted], found: Sequence[Found]
    ) -> None:
        dialect = self._database.dialect
        for one, into in zip(wanted, found, strict=True):
            if not one.refill:
                continue
            among, values = dialect.among([p for _, positions in one.refill for p in positions])
            statement = (
                f"SELECT {_COLUMNS}, {_PARKED} AS parked {_FROM} "
                f"WHERE n.i_event_handler = {one.i_event_handler} AND n.position {among} "
                "AND n.status = 'queued' AND n.next_attempt_at IS NULL ORDER BY n.position"
            )
            rows = connection.exec_driver_sql(statement, values).all()
            by_position = {
                notification.position: (notification, parked)
                for notification, parked in _notifications(one.i_event_handler, rows)
            }
            into.refilled = [
                (key, positions, [by_position[p] for p in positions if p in by_position])
                for key, positions in one.refill
            ]

    def settle(self, connection: Connection, results: Sequence[Result]) -> list[Settled]:
        """Store what became of a batch of attempts, journal them, and clean up finished events.

        Call ``journal.committed`` after the commit.
        """
        now = self._database.now(connection)
        valid = self._leases.valid(connection, {result.claim for result in results})
        settled = [
            Settled(result, result.claim in valid, _next_attempt(result.decision, now))
            for result in results
        ]
        applied = [one for one in settled if one.applied]
        self.journal.record_attempts(connection, applied, now)
        journal.record(connection, [_orphan(one.result, now) for one in settled if not one.applied])
        done = [one.result.notification for one in applied if one.result.decision.status in DONE]
        alone = [notification for notification in done if notification.alone]
        self._remove(connection, alone)
        shared = {n.position for n in done if not n.alone}
        # Others may finish the same events at this moment; whoever is last cleans up.
        self._lock(connection, {n.event.i_event for n in done if not n.alone})
        _store(
            connection,
            [
                one
                for one in applied
                if one.result.decision.status not in DONE
                or one.result.notification.position in shared
            ],
        )
        clean_up(
            connection, self._database, {n.event.i_event: n.position for n in done if not n.alone}
        )
        return settled

    def _remove(self, connection: Connection, notifications: Iterable[Notification]) -> None:
        """Take notifications out with their events, which nobody else was notified of."""
        by_handler: dict[int, list[Notification]] = defaultdict(list)
        for notification in notifications:
            by_handler[notification.i_event_handler].append(notification)
        for i_event_handler, some in sorted(by_handler.items()):
            among, values = self._database.dialect.among([n.position for n in some])
            connection.exec_driver_sql(
                f"DELETE FROM Event_Notifications WHERE i_event_handler = {i_event_handler} "  # noqa: S608
                f"AND position {among}",
                values,
            )
            among, values = self._database.dialect.among([n.event.i_event for n in some])
            # It may have been restarted for another handler in the meantime.
            connection.exec_driver_sql(
                f"DELETE FROM Event_Queue WHERE i_event {among} AND notified = 1",  # noqa: S608
                values,
            )

    def _lock(self, connection: Connection, i_events: Collection[int]) -> None:
        """Lock events, in the order of their numbers, so that nobody waits crosswise."""
        if i_events:
            connection.execute(
                select(event_queue.c.i_event)
                .where(event_queue.c.i_event.in_(sorted(i_events)))
                .order_by(event_queue.c.i_event)
                .with_for_update()
            ).all()


def clean_up(connection: Connection, database: Database, positions: Mapping[int, int]) -> None:
    """Take the events that every handler is done with out of both live tables.

    ``positions``: i_event -> position, of events that may be over.
    """
    if not positions:
        return
    among, values = database.dialect.among(sorted(positions))
    connection.exec_driver_sql(_CLEAN_QUEUE.format(among=among), values)
    among, values = database.dialect.among(sorted(positions.values()))
    connection.exec_driver_sql(_CLEAN_NOTIFICATIONS.format(among=among), values)


_DONE = f"({', '.join(repr(str(status)) for status in sorted(DONE))})"

# Every notification of an event is at the same place in its handler's work; so nothing has to be
# searched for.
_CLEAN_QUEUE = (
    "DELETE FROM Event_Queue WHERE i_event {among} AND NOT EXISTS ("  # noqa: S608  (our own words)
    "SELECT 1 FROM Event_Handlers h JOIN Event_Notifications n "
    "ON n.i_event_handler = h.i_event_handler "
    "AND n.position = coalesce(Event_Queue.position, Event_Queue.i_event) "
    f"WHERE n.status NOT IN {_DONE})"
)
_CLEAN_NOTIFICATIONS = (
    "DELETE FROM Event_Notifications WHERE position {among} AND i_event_handler IN "
    "(SELECT i_event_handler FROM Event_Handlers) AND NOT EXISTS "
    "(SELECT 1 FROM Event_Queue q WHERE q.i_event = Event_Notifications.i_event)"
)


def _store(connection: Connection, settled: Sequence[Settled]) -> None:
    """Note in the live table what became of notifications that stay there for now."""
    for one in settled:
        notification, decision = one.result.notification, one.result.decision
        connection.execute(
            update(event_notifications)
            .where(
                event_notifications.c.i_event_handler == notification.i_event_handler,
                event_notifications.c.position == notification.position,
                event_notifications.c.status == Status.QUEUED,
            )
            .values(
                status=decision.status,
                attempts=notification.attempts + decision.spent,
                next_attempt_at=one.next_attempt_at,
                ordering_key=notification.event.ordering_key,
                last_error=decision.reason,
            )
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


def _notifications(
    i_event_handler: int, rows: Iterable[Sequence[Any]]
) -> list[tuple[Notification, bool]]:
    return [(_notification(i_event_handler, row), bool(row[9])) for row in rows]


def _notification(i_event_handler: int, row: Sequence[Any]) -> Notification:
    """A row of ``_COLUMNS``."""
    position, attempts, shard, notified, i_event, i_env, event_type, variables, key = row[:9]
    event = Event(i_event, i_env, event_type, variables or "{}", key)
    return Notification(i_event_handler, position, attempts, event, notified == 1, shard)


def _orphan(result: Result, now: datetime) -> journal.Entry:
    """The event of a result that came too late may be gone."""
    event = result.notification.event
    return journal.Entry(
        i_event=event.i_event,
        i_env=event.i_env,
        event_type=event.event_type,
        ordering_key=event.ordering_key,
        verdict=journal.ORPHAN,
        variables=event.payload,
        i_event_handler=result.notification.i_event_handler,
        handler=result.handler,
        attempt=result.notification.attempts + 1,
        reason=result.decision.reason,
        logged_at=now,
        duration_ms=result.duration_ms,
    )
