"""The queue: with the triggers, the only writer of Event_Queue and Event_Notifications.

Worker, APIs and command line all come through here; every method works inside the caller's
transaction. What an administrator may do to events that are there is in ``espf.restarts``.

What a notification's ``next_attempt_at`` means is said in ``espf.backlog``, which reads what is
written here.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from espf import journal, statuses
from espf.catalogue import is_custom
from espf.db.database import Database
from espf.db.dialect import Moment
from espf.db.tables import (
    dispatches,
    event_handlers,
    event_notifications,
    event_queue,
    event_subscriptions,
    provisioning_log,
)
from espf.errors import InvalidRequest
from espf.leases import Leases
from espf.model import (
    DONE,
    Decision,
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

_log = logging.getLogger(__name__)

#: The largest JSON text of an event's variables.
MAX_VARIABLES = 64 * 1024

NO_SUBSCRIBER = "no subscriber"

#: What becomes of one that was to be superseded by one that somebody took away meanwhile.
_AFTER_ALL = Decision(
    Status.QUEUED, "the newer one was taken away", delay=timedelta(0), spent=False
)


class Queue:
    """Enqueue and settle."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leases = Leases(database)
        self.journal = journal.Journal(database)
        # Of which has been said that they are not there.
        self._unknown_groups: set[tuple[int, str]] = set()

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
        event_type = require_type(connection, event_type.strip())
        now = self._database.now(connection)
        key, payload = written(i_env, event_type, variables, now)
        self._database.dialect.begin_numbering(connection)
        result = connection.execute(
            insert(event_queue).values(
                i_env=i_env,
                event_type=event_type,
                ordering_key=key,
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

    # Out: what became of what a worker has read

    def settle(
        self, connection: Connection, results: Sequence[Result], texts: journal.Texts
    ) -> list[Settled]:
        """Store what became of a batch of attempts, journal them, and clean up finished events.

        ``texts`` takes what ``journal.committed`` is to be told after the commit.
        """
        self._database.dialect.make_no_events(connection)
        now = self._database.now(connection)
        self._reprieve(connection, [one for one in results if one.decision.by is not None])
        valid = self._leases.valid(connection, {result.claim for result in results})
        settled = [
            Settled(result, result.claim in valid, _next_attempt(result.decision, now), now)
            for result in results
        ]
        applied = [one for one in settled if one.applied]
        self.journal.record_attempts(connection, applied, now, texts)
        journal.record(connection, [_orphan(one.result, now) for one in settled if not one.applied])
        done = [one.result.notification for one in applied if one.result.decision.status in DONE]
        over, shared = _over(done)
        self._remove(connection, over)
        # Others may finish the same events at this moment; whoever is last cleans up.
        if shared:
            events = sorted(shared)
            connection.exec_driver_sql(*self._database.dialect.lock_events(events)).all()
        stays = [
            one
            for one in applied
            if one.result.decision.status not in DONE
            or one.result.notification.event.i_event in shared
        ]
        self._finish(connection, [one.result for one in stays if _is_plain(one.result)])
        _store(connection, [one for one in stays if not _is_plain(one.result)])
        _end_dispatches(connection, [one.result for one in applied if one.result.emits])
        clean_up(connection, self._database, shared)
        self._report([one.result for one in applied if one.result.group], connection, now)
        return settled

    def _report(self, results: Sequence[Result], connection: Connection, now: datetime) -> None:
        """Keep what became of accounts, for the handlers that report it."""
        for i_env, group in statuses.report_results(connection, results, now):
            if (i_env, group) not in self._unknown_groups:
                self._unknown_groups.add((i_env, group))
                _log.error(
                    "environment %s has no service group %r: no status is reported", i_env, group
                )

    def _reprieve(self, connection: Connection, superseded: Sequence[Result]) -> None:
        """Keep those whose newer one does not wait any more; they would be lost with it."""
        dialect = self._database.dialect
        by_handler: dict[int, list[Result]] = defaultdict(list)
        for result in superseded:
            by_handler[result.notification.i_event_handler].append(result)
        for i_event_handler, results in by_handler.items():
            newest = sorted({result.decision.by or 0 for result in results})
            among, values = dialect.among(newest)
            waiting = connection.exec_driver_sql(
                "SELECT position FROM Event_Notifications WHERE status = 'queued' "  # noqa: S608
                f"AND i_event_handler = {i_event_handler} AND position {among} "
                f"{dialect.share_lock}",
                values,
            )
            there = set(waiting.scalars())
            for result in results:
                if result.decision.by not in there:
                    result.decision = replace(_AFTER_ALL, by=result.decision.by)

    def settle_once(
        self,
        connection: Connection,
        results: Sequence[Result],
        texts: journal.Texts,
        tries: list[list[Settled]],
    ) -> list[Settled]:
        """See ``settle``; for whoever tries until it works.

        Where a try was committed and nobody could be told, what it came to is found in ``tries``,
        and nothing is stored again. It takes a batch with its ``texts`` and ``tries``, both empty
        at first.
        """
        for settled in tries:
            if self._is_stored(connection, max(settled, key=lambda one: one.applied)):
                return settled
        settled = self.settle(connection, results, texts)
        tries.append(settled)
        return settled

    def _is_stored(self, connection: Connection, one: Settled) -> bool:
        """Whether the journal has a result; then it has all that were settled together."""
        notification = one.result.notification
        n, log = event_notifications.c, provisioning_log.c
        # That commit may still be under way; so long it keeps this row.
        connection.execute(
            select(n.status)
            .where(
                n.i_event_handler == notification.i_event_handler,
                n.position == notification.position,
            )
            .with_for_update()
        ).all()
        found = connection.execute(
            select(log.i_log).where(
                log.i_event == notification.event.i_event,
                log.i_event_handler == notification.i_event_handler,
                log.attempt == one.result.attempt,
                log.logged_at == one.at,
            )
        )
        return found.first() is not None

    def _finish(self, connection: Connection, results: Iterable[Result]) -> None:
        """Note that handlers are done with events that others were notified of, too."""
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for result in results:
            notification = result.notification
            alike[notification.i_event_handler, notification.attempts + 1].append(
                notification.position
            )
        for (i_event_handler, attempts), positions in sorted(alike.items()):
            values = {
                "status": f"'{Status.FINISHED}'",
                "attempts": str(attempts),
                "next_attempt_at": "NULL",
                "last_error": "NULL",
            }
            mine = f"{{t}}.i_event_handler = {i_event_handler} AND {{t}}.status = 'queued'"
            connection.exec_driver_sql(
                *self._database.dialect.update_at(
                    "Event_Notifications", "position", sorted(positions), values, mine
                )
            )

    def _remove(self, connection: Connection, notifications: Iterable[Notification]) -> None:
        """Take notifications out with their events, of which nobody else was notified."""
        events: dict[int, set[int]] = defaultdict(set)
        positions: dict[int, list[int]] = defaultdict(list)
        for notification in notifications:
            events[notification.notified].add(notification.event.i_event)
            positions[notification.i_event_handler].append(notification.position)
        dialect = self._database.dialect
        # The events first, as whoever restarts one locks it first. It may have been restarted for
        # another handler in the meantime.
        for notified, some in sorted(events.items()):
            as_read = f"{{t}}.notified = {notified}"
            connection.exec_driver_sql(
                *dialect.delete_at("Event_Queue", "i_event", sorted(some), as_read)
            )
        for i_event_handler, places in sorted(positions.items()):
            mine = f"{{t}}.i_event_handler = {i_event_handler}"
            connection.exec_driver_sql(
                *dialect.delete_at("Event_Notifications", "position", sorted(places), mine)
            )


def _over(done: Sequence[Notification]) -> tuple[list[Notification], dict[int, int]]:
    """Notifications of events that all who were notified are done with now; the others' events.

    The others as i_event -> position: these may be over, too.
    """
    met = Counter(n.event.i_event for n in done if n.notified > 1)
    over = [n for n in done if n.notified == 1 or n.notified == met[n.event.i_event]]
    if len(over) == len(done):
        return over, {}
    ends = {n.event.i_event for n in over}
    return over, {n.event.i_event: n.position for n in done if n.event.i_event not in ends}


def clean_up(connection: Connection, database: Database, positions: Mapping[int, int]) -> None:
    """Take the events that every handler is done with out of both live tables.

    ``positions``: i_event -> position, of events that may be over.
    """
    if not positions:
        return
    dialect = database.dialect
    connection.exec_driver_sql(
        *dialect.delete_at("Event_Queue", "i_event", sorted(positions), _NOBODY_WAITS)
    )
    handlers = connection.execute(select(event_handlers.c.i_event_handler)).scalars().all()
    for i_event_handler in handlers:
        over = f"{{t}}.i_event_handler = {i_event_handler} AND {_EVENT_IS_GONE}"
        connection.exec_driver_sql(
            *dialect.delete_at("Event_Notifications", "position", sorted(positions.values()), over)
        )


_DONE = f"({', '.join(repr(str(status)) for status in sorted(DONE))})"

# Every notification of an event is at the same place in its handler's work; so nothing has to be
# searched for. The sum keeps planners from beginning with all that waits.
_NOBODY_WAITS = (
    "NOT EXISTS (SELECT 1 FROM Event_Handlers h JOIN Event_Notifications w "  # noqa: S608
    "ON w.i_event_handler = h.i_event_handler + 0 "
    "AND w.position = coalesce({t}.position, {t}.i_event) "
    f"WHERE w.status NOT IN {_DONE})"
)
_EVENT_IS_GONE = "NOT EXISTS (SELECT 1 FROM Event_Queue q WHERE q.i_event = {t}.i_event)"


def _is_plain(result: Result) -> bool:
    """Whether there is nothing to note but that it has finished, as it is with nearly all."""
    decision = result.decision
    return decision.status is Status.FINISHED and decision.reason is None and decision.spent


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


def _end_dispatches(connection: Connection, results: Iterable[Result]) -> None:
    """Forget how far dispatchers had come with events that they are done with."""
    for result in results:
        if result.decision.status in DONE:
            notification = result.notification
            connection.execute(
                delete(dispatches).where(
                    dispatches.c.i_event_handler == notification.i_event_handler,
                    dispatches.c.position == notification.position,
                )
            )


def written(
    i_env: int, event_type: str, variables: Mapping[str, object], now: datetime
) -> tuple[str | None, str]:
    """The ordering key and the variables of an event that somebody creates, as they are stored.

    Raises InvalidRequest for variables that cannot be sent.
    """
    if variables.get("i_env", i_env) != i_env:
        raise InvalidRequest("variables.i_env: another environment than yours", "variables")
    if "i_event" in variables:
        raise InvalidRequest("variables.i_event: the number is given by the queue", "variables")
    if not is_custom(event_type):
        variables = {"i_env": i_env, "event_time": format_time(now), **variables}
    payload = _payload(variables)
    if len(payload) > MAX_VARIABLES:
        raise InvalidRequest(
            f"variables: {len(payload)} characters, at most {MAX_VARIABLES}", "variables"
        )
    return ordering_key(variables), payload


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
