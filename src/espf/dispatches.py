"""The events that dispatchers make of an event: many, a step at a time, each exactly once.

With ``espf.queue``, writes the live tables; works inside the caller's transaction. A step stores
events together with how far the dispatcher has come, and only while its worker owns the shard: so
whoever goes on after a crash neither repeats nor leaves out any.

There may be a million of them. A step waits until most of the one before has been worked on by
those who are quickest, so the queue never holds many of them, and what is new is not behind them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from espf.db.database import Database
from espf.db.tables import (
    dispatches,
    event_notifications,
    event_queue,
    event_subscriptions,
)
from espf.errors import LeaseLost
from espf.leases import Leases
from espf.model import PARENT, Notification, Status, format_time
from espf.queue import add_all
from espf.subscriptions import require_type

#: The part of a step that may still wait when the next one is made.
STILL_WAITING = 0.25


@dataclass(frozen=True)
class Step:
    """How far a dispatcher has come with an event; ``reached`` is empty before the first step.

    ``emitted`` counts the events that were made. ``size`` is how many the next step may have;
    ``idle`` is how long ago the last step was, by the database's clock.
    """

    reached: str | None
    emitted: int
    size: int
    idle: timedelta = timedelta(0)


class Dispatches:
    """Steps of dispatchers, stored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leases = Leases(database)

    def at(self, connection: Connection, notification: Notification) -> Step:
        """How far the dispatcher has come with an event."""
        # Many dispatches at a time share what one alone may have waiting.
        others = connection.execute(select(func.count()).select_from(dispatches)).scalar_one()
        size = max(10, self._database.dialect.batch // max(1, int(others)))
        row = self._row(connection, notification)
        if row is None:
            return Step(None, 0, size)
        now = self._database.now(connection)
        return Step(row.reached, int(row.emitted), size, now - row.updated_at)

    def is_worked_on(self, connection: Connection, notification: Notification) -> bool:
        """Whether some subscriber has worked on most of the last step, so that there is room."""
        row = self._row(connection, notification)
        if row is None or row.first_i_event is None:
            return True
        n, q = event_notifications.c, event_queue.c
        between = (n.position >= row.first_i_event, n.position <= row.last_i_event)
        notified = connection.execute(
            select(q.notified, q.i_env, q.event_type)
            .where(q.i_event >= row.first_i_event, q.i_event <= row.last_i_event)
            .limit(1)
        ).first()
        if notified is None:
            return True
        handlers = connection.execute(
            select(event_subscriptions.c.i_event_handler).where(
                event_subscriptions.c.i_env == notified.i_env,
                event_subscriptions.c.event_type == notified.event_type,
                event_subscriptions.c.active == 1,
            )
        ).scalars()
        untried = (n.status == Status.QUEUED, n.next_attempt_at.is_(None))
        waiting = [
            connection.execute(
                select(func.count())
                .select_from(event_notifications)
                .where(n.i_event_handler == i_event_handler, *between, *untried)
            ).scalar_one()
            for i_event_handler in list(handlers)
        ]
        last = row.last_i_event - row.first_i_event + 1
        return bool(min(waiting, default=0) <= STILL_WAITING * last)

    def step(
        self,
        connection: Connection,
        notification: Notification,
        epoch: int,
        event_type: str,
        events: Sequence[Mapping[str, Any]],
        before: str | None,
        reached: str,
    ) -> bool:
        """Store events of one type with how far one has come; False: nobody is subscribed.

        Raises LeaseLost when another worker owns the shard, or another attempt came first.
        """
        claim = (notification.i_event_handler, notification.shard, epoch)
        if claim not in self._leases.valid(connection, {claim}):
            raise LeaseLost("another worker goes on with it")
        row = self._row(connection, notification, lock=True)
        if (None if row is None else row.reached) != before:
            raise LeaseLost("another attempt goes on with it")
        numbers: list[int] = []
        if events:
            require_type(connection, event_type)
            handlers = self._subscribers(connection, notification.event.i_env, event_type)
            if not handlers:
                return False
            numbers = self._insert(connection, notification, event_type, events, handlers)
        self._note(connection, notification, row, reached, numbers)
        return True

    @staticmethod
    def sweep(connection: Connection) -> None:
        """Forget the steps of what was given up in the middle."""
        n = event_notifications.c
        there = exists().where(
            n.i_event_handler == dispatches.c.i_event_handler, n.position == dispatches.c.position
        )
        connection.execute(delete(dispatches).where(~there))

    @staticmethod
    def _row(
        connection: Connection, notification: Notification, *, lock: bool = False
    ) -> Row[Any] | None:
        query = select(dispatches).where(
            dispatches.c.i_event_handler == notification.i_event_handler,
            dispatches.c.position == notification.position,
        )
        return connection.execute(query.with_for_update() if lock else query).first()

    @staticmethod
    def _subscribers(connection: Connection, i_env: int, event_type: str) -> list[int]:
        return list(
            connection.execute(
                select(event_subscriptions.c.i_event_handler).where(
                    event_subscriptions.c.i_env == i_env,
                    event_subscriptions.c.event_type == event_type,
                    event_subscriptions.c.active == 1,
                )
            ).scalars()
        )

    def _insert(
        self,
        connection: Connection,
        notification: Notification,
        event_type: str,
        events: Sequence[Mapping[str, Any]],
        handlers: Sequence[int],
    ) -> list[int]:
        """Make the events, and notify their subscribers; returns the numbers."""
        cause = notification.event
        moment = format_time(self._database.now(connection))
        variables = [
            {"i_env": cause.i_env, **one, PARENT: cause.i_event, "event_time": moment}
            for one in events
        ]
        made = add_all(connection, self._database, cause.i_env, event_type, variables, handlers)
        return [number for _, number in made]

    def _note(
        self,
        connection: Connection,
        notification: Notification,
        row: Row[Any] | None,
        reached: str,
        numbers: Sequence[int],
    ) -> None:
        values: dict[str, Any] = {
            "reached": reached,
            "emitted": (0 if row is None else row.emitted) + len(numbers),
            "updated_at": self._database.now(connection),
        }
        if numbers:
            values |= {"first_i_event": min(numbers), "last_i_event": max(numbers)}
        key = {
            "i_event_handler": notification.i_event_handler,
            "position": notification.position,
        }
        if row is None:
            i_event = notification.event.i_event
            connection.execute(insert(dispatches).values(**key, i_event=i_event, **values))
        else:
            connection.execute(update(dispatches).filter_by(**key).values(**values))
