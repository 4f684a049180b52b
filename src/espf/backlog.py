"""The backlog: what a worker reads of the live tables. It writes nothing.

All that a worker wants for its handlers is read in one picture of the database, and what a read
costs does not grow with what waits.

A notification that has never been tried has no ``next_attempt_at``; those are read forward by
position. One that has been tried, or is restarted, has: it is read when it is due, and until then
nothing behind it in its lane is delivered. A failed one that holds its lane keeps the time of its
failure there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, takewhile
from typing import Any

from sqlalchemy import Connection, or_, select

from espf.catalogue import LatestOnly
from espf.db.database import Database
from espf.db.dialect import Dialect, ReadOn, to_moment
from espf.db.tables import event_notifications, event_queue
from espf.model import Event, Notification, Status

#: So much of what was passed is gone over again in one read.
AGAIN = 500

#: So many positions are looked at in one read ahead.
AHEAD = 20_000

#: About so many that are due are looked at in one read, in the order of their times; and so many
#: of those whose time has come last.
DUE_AT_ONCE = 1000
DUE_LAST = 300


@dataclass(frozen=True)
class Wanted:
    """What the worker wants to read for one handler.

    ``shards``: those that it owns, as bits. ``start`` says where to begin. ``room`` how many new
    notifications the worker can take; ``due_room`` how many that are due (among them those it has
    already), None: nobody asks for these now; ``due_after``: where the last look for these came to,
    None: begin anew. ``refill`` are lanes to go on with, each at these positions; ``follow`` lanes
    to go on with what has been tried and is due, ``follow_room`` of each.

    ``latest_only`` are the types of which only the newest counts; ``tried`` are lanes of which to
    read all that waits for a retry; ``ahead`` is the position after which to look for the newest,
    None: nobody asks.
    """

    i_event_handler: int
    shards: int
    start: "Start"
    room: int
    due_room: int | None
    refill: Sequence[tuple[str, Sequence[int]]] = ()
    latest_only: LatestOnly = field(default_factory=LatestOnly)
    tried: Sequence[str] = ()
    ahead: int | None = None
    due_after: datetime | None = None
    follow: Sequence[str] = ()
    follow_room: int = 0

    @property
    def only_new(self) -> bool:
        """Whether one statement reads it."""
        start = self.start
        further = self.refill or self.follow or start.expected or start.again is not None
        newest = self.tried or self.ahead is not None
        return self.due_room is None and not further and not newest


@dataclass(frozen=True)
class Ahead:
    """What waits further on of which only the newest counts: lane, type and position of each.

    ``upto`` is how far that goes; ``is_all``: there was nothing after it.
    """

    kinds: Sequence[tuple[str, str, int]]
    upto: int
    is_all: bool


@dataclass(frozen=True)
class Start:
    """Where reading new notifications begins: after ``reached``, or after what comes to light.

    ``suspects`` are running transactions; when one has ended, read from its position.
    ``expected`` are positions that are there and could not be seen before. ``again``: go over what
    waits after this position and before the beginning, too, a part of it; None: not now.
    """

    reached: int
    suspects: Mapping[int, int] = field(default_factory=dict)
    expected: Sequence[int] = ()
    again: int | None = None


@dataclass
class Found:
    """What there was.

    New notifications, each with whether an earlier one of its lane waits; due ones, the first of
    their lanes, and in ``followed`` the lanes where others come after these that have been tried;
    ``due_upto``: up to which time these were looked for, None: to the end. Followers by lane, in
    the same form as new ones; those that are due, by lane, each with whether there may be more; and
    the seconds until the next one is due. With what is new:
    ``running`` are the transactions whose events cannot be seen yet, ``unseen`` positions that
    cannot; ``late`` are those that were expected, ``again`` those before the beginning, up to the
    position ``swept``; 0: all of them.
    """

    new: list[tuple[Notification, bool]] = field(default_factory=list)
    due: list[Notification] = field(default_factory=list)
    followed: set[str] = field(default_factory=set)
    due_upto: datetime | None = None
    followers: list[tuple[str, list[Notification], bool]] = field(default_factory=list)
    refilled: list[tuple[str, Sequence[int], list[tuple[Notification, bool]]]] = field(
        default_factory=list
    )
    next_due_seconds: float | None = None
    running: frozenset[int] = frozenset()
    unseen: frozenset[int] = frozenset()
    late: list[tuple[Notification, bool]] = field(default_factory=list)
    #: In the same form as new ones.
    tried: list[tuple[Notification, bool]] = field(default_factory=list)
    ahead: Ahead | None = None
    again: list[tuple[Notification, bool]] = field(default_factory=list)
    swept: int = 0


_COLUMNS = (
    "n.position, n.attempts, n.shard, q.notified, n.i_event, q.i_env, q.event_type, q.variables, "
    "q.ordering_key, {since} AS since"
)
_MINE = "n.i_event_handler = {handler} AND ({shards} >> n.shard) & 1 = 1 AND n.status = 'queued'"


class _Statements:
    """What the worker reads with; ``{names}`` in them are filled in for each handler."""

    def __init__(self, dialect: Dialect) -> None:
        since = dialect.seconds.format("coalesce(q.start_time, q.created_at)")
        columns = _COLUMNS.format(since=since)
        new = f"Event_Notifications n{dialect.using('PRIMARY')}"
        due = f"Event_Notifications n{dialect.using('Event_Notifications_due')}"
        event = "JOIN Event_Queue q ON q.i_event = n.i_event"
        # Whether an earlier notification of the lane waits for its time, or holds the lane.
        beside = (
            f"EXISTS (SELECT 1 FROM Event_Notifications p"  # noqa: S608  (our own names)
            f"{dialect.using('Event_Notifications_parked')} "
            "WHERE p.ordering_key = q.ordering_key AND p.i_event_handler = n.i_event_handler "
            "AND p.position {} n.position AND p.next_attempt_at IS NOT NULL)"
        )
        parked, followed = beside.format("<"), beside.format(">")
        untried = f"SELECT {columns}, {parked} AS parked FROM {new} {event} WHERE {_MINE}"  # noqa: S608
        self.new = (
            f"{untried} AND n.position > {{after}} AND n.next_attempt_at IS NULL "
            "ORDER BY n.position LIMIT {room}"
        )
        self.again = (
            f"{untried} AND n.position > {{after}} AND n.position <= {{upto}} "
            "AND n.next_attempt_at IS NULL ORDER BY n.position LIMIT {room}"
        )
        self.at = f"{untried} AND n.position {{among}} AND n.next_attempt_at IS NULL"
        # The condition is asked of one after another; as a join it may be made of all that wait.
        self.due = (
            f"SELECT {columns}, n.next_attempt_at, {followed} FROM {due} {event} "  # noqa: S608
            f"WHERE {_MINE} AND n.next_attempt_at > {{after}} AND n.next_attempt_at <= {{upto}} "
            f"AND CASE WHEN {parked} THEN 1 ELSE 0 END = 0 "
            "ORDER BY n.next_attempt_at LIMIT {room}"
        )
        times = (
            f"SELECT n.next_attempt_at FROM {due} WHERE n.i_event_handler = {{handler}} "  # noqa: S608
            "AND n.next_attempt_at > {after} AND n.next_attempt_at <= {upto} "
            "ORDER BY n.next_attempt_at"
        )
        self.due_first = f"{times} LIMIT 1 OFFSET {DUE_AT_ONCE - 1}"
        self.due_last = f"{times} DESC LIMIT 1 OFFSET {DUE_LAST - 1}"
        tried = f"Event_Notifications n{dialect.using('Event_Notifications_parked')}"
        self.followers = (
            f"SELECT {columns}, n.status = 'queued' AND n.next_attempt_at <= {{now}} "  # noqa: S608
            f"FROM {tried} {event} "
            "WHERE n.ordering_key = {key} AND n.i_event_handler = {handler} "
            "AND n.next_attempt_at IS NOT NULL ORDER BY n.position LIMIT {room}"
        )
        self.tried = (
            f"SELECT {columns}, {parked} AS parked FROM {tried} {event} "  # noqa: S608
            "WHERE n.ordering_key = {key} AND n.i_event_handler = {handler} "
            "AND n.status = 'queued' AND n.next_attempt_at IS NOT NULL ORDER BY n.position"
        )
        self.next_due = (
            f"SELECT n.next_attempt_at FROM {due} "  # noqa: S608
            f"WHERE {_MINE} AND n.next_attempt_at > {{now}} ORDER BY n.next_attempt_at LIMIT 1"
        )


_NEW_NAMES = {"handler": "int", "shards": "int", "after": "bigint", "room": "int"}
_AGAIN_NAMES = {**_NEW_NAMES, "upto": "bigint"}
_TIMES_NAMES = {"handler": "int", "after": "timestamptz", "upto": "timestamptz"}
_DUE_NAMES = {**_TIMES_NAMES, "shards": "int", "room": "int"}
_TRIED_NAMES = {"handler": "int", "key": "text"}
_FOLLOWERS_NAMES = {**_TRIED_NAMES, "now": "timestamptz", "room": "int"}
_NEXT_NAMES = {"handler": "int", "shards": "int", "now": "timestamptz"}

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = timedelta(milliseconds=1)


class Backlog:
    """What waits in a database, for its workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read = _Statements(database.dialect)

    def read(self, connection: Connection, wanted: Sequence[Wanted]) -> list[Found]:
        """Everything that a worker wants for its handlers, in one picture of the database."""
        found = [Found() for _ in wanted]
        pairs = list(zip(wanted, found, strict=True))
        self._read_due(connection, [pair for pair in pairs if pair[0].due_room is not None])
        self._read_refills(connection, wanted, found)
        self._read_followers(connection, [pair for pair in pairs if pair[0].follow])
        self._read_newest(connection, pairs)
        asked = [pair for pair in pairs if pair[0].room > 0]
        if asked:
            self._read_new(connection, asked)
        self._read_again(connection, [pair for pair in asked if pair[0].start.again is not None])
        return found

    async def ask(self, wanted: Sequence[Wanted]) -> list[Found] | None:
        """What ``read`` gives, without a thread; None: it cannot be had in this way."""
        if not all(one.only_new for one in wanted):
            return None
        found = [Found() for _ in wanted]
        asked = [pair for pair in zip(wanted, found, strict=True) if pair[0].room > 0]
        if asked:
            read = await self._database.ask_on(self._reading_on(asked))
            if read is None:
                return None
            _read_on(asked, *read)
        return found

    def _read_new(self, connection: Connection, asked: Sequence[tuple[Wanted, Found]]) -> None:
        dialect = self._database.dialect
        _read_on(asked, *dialect.read_on(connection, self._reading_on(asked)))
        for one, into in asked:
            after, expected = one.start.reached, one.start.expected
            if expected:
                into.late = self._read_at(connection, one, expected)
            if into.new or expected:
                upto = into.new[-1][0].position if into.new else after
                into.unseen = dialect.unseen(connection, one.i_event_handler, after, upto, expected)

    def _reading_on(self, asked: Sequence[tuple[Wanted, Found]]) -> ReadOn:
        items = [(one.i_event_handler, one.shards, one.start.reached, one.room) for one, _ in asked]
        suspects = [one.start.suspects for one, _ in asked]
        return ReadOn(self._read.new, _NEW_NAMES, items, suspects)

    def _read_again(self, connection: Connection, asked: Sequence[tuple[Wanted, Found]]) -> None:
        if not asked:
            return
        items = [
            (one.i_event_handler, one.shards, one.start.again or 0, AGAIN, one.start.reached)
            for one, _ in asked
        ]
        dialect = self._database.dialect
        found = dialect.for_each(connection, self._read.again, _AGAIN_NAMES, items)
        for (one, into), rows in zip(asked, found, strict=True):
            into.again = _notifications(one.i_event_handler, rows)
            into.swept = into.again[-1][0].position if len(rows) == AGAIN else 0

    def _read_due(self, connection: Connection, asked: Sequence[tuple[Wanted, Found]]) -> None:
        if not asked:
            return
        now = self._database.now(connection)
        # Nearly always there is nothing, or its time has not come.
        due = []
        for pair, moment in zip(asked, self._next_due(connection, asked, _LONG_AGO), strict=True):
            if moment is not None and moment <= now:
                due.append(pair)
            elif moment is not None:
                pair[1].next_due_seconds = (moment - now).total_seconds()
        if not due:
            return
        self._look_at_due(connection, due, now)
        later = self._next_due(connection, due, now)
        for (_, into), moment in zip(due, later, strict=True):
            if moment is not None:
                into.next_due_seconds = (moment - now).total_seconds()

    def _look_at_due(
        self, connection: Connection, asked: Sequence[tuple[Wanted, Found]], now: datetime
    ) -> None:
        """Go on looking at what is due; beyond that, at what has become due last.

        There may be a million, and few of them the first of their lanes.
        """
        begins = [one.due_after or _LONG_AGO for one, _ in asked]
        ends = self._times(connection, self._read.due_first, asked, begins, now)
        parts = [(pair, end) for pair, end in zip(asked, ends, strict=True) if end is not None]
        if parts:
            # A retry has not to wait until all that came before it is gone over.
            rest, middles = [pair for pair, _ in parts], [end for _, end in parts]
            lasts = self._times(connection, self._read.due_last, rest, middles, now)
            starts = [last or middle for last, middle in zip(lasts, middles, strict=True)]
            rooms = [(one.due_room or 0) // 4 for one, _ in rest]
            self._add_due(connection, rest, starts, [now] * len(rest), rooms)
        rooms = [(one.due_room or 0) - len(into.due) for one, into in asked]
        upto = self._add_due(connection, asked, begins, [end or now for end in ends], rooms)
        for (_, into), full, end in zip(asked, upto, ends, strict=True):
            into.due_upto = full or end

    def _times(
        self,
        connection: Connection,
        statement: str,
        asked: Sequence[tuple[Wanted, Found]],
        after: Sequence[datetime],
        now: datetime,
    ) -> list[datetime | None]:
        items = [(one.i_event_handler, at, now) for (one, _), at in zip(asked, after, strict=True)]
        rows = self._database.dialect.for_each(connection, statement, _TIMES_NAMES, items)
        return [to_moment(some[0][0]) if some else None for some in rows]

    def _add_due(
        self,
        connection: Connection,
        asked: Sequence[tuple[Wanted, Found]],
        after: Sequence[datetime],
        upto: Sequence[datetime],
        rooms: Sequence[int],
    ) -> list[datetime | None]:
        """Find the first of their lanes that are due at these times.

        Returns for each where to go on when there was no room for all; None: there was.
        """
        items = [
            (one.i_event_handler, start, end, one.shards, room)
            for (one, _), start, end, room in zip(asked, after, upto, rooms, strict=True)
        ]
        found = self._database.dialect.for_each(connection, self._read.due, _DUE_NAMES, items)
        full: list[datetime | None] = []
        for (one, into), rows, start, room in zip(asked, found, after, rooms, strict=True):
            into.due += [_notification(one.i_event_handler, row) for row in rows]
            into.followed.update(row[8] for row in rows if row[11])
            # Others may have become due at the same moment as the last one that fits.
            last = to_moment(rows[-1][10]) if rows else None
            here = start if last is None else last - _MOMENT
            full.append(here if len(rows) >= room else None)
        return full

    def _next_due(
        self, connection: Connection, asked: Sequence[tuple[Wanted, Found]], after: datetime
    ) -> list[datetime | None]:
        items = [(one.i_event_handler, one.shards, after) for one, _ in asked]
        rows = self._database.dialect.for_each(connection, self._read.next_due, _NEXT_NAMES, items)
        return [to_moment(some[0][0]) if some else None for some in rows]

    def _read_refills(
        self, connection: Connection, wanted: Sequence[Wanted], found: Sequence[Found]
    ) -> None:
        for one, into in zip(wanted, found, strict=True):
            if not one.refill:
                continue
            asked = [position for _, positions in one.refill for position in positions]
            by_position = {each[0].position: each for each in self._read_at(connection, one, asked)}
            into.refilled = [
                (key, positions, [by_position[p] for p in positions if p in by_position])
                for key, positions in one.refill
            ]

    def _read_followers(
        self, connection: Connection, asked: Sequence[tuple[Wanted, Found]]
    ) -> None:
        """What has been tried in some lanes, up to the first whose time has not come."""
        if not asked:
            return
        now = self._database.now(connection)
        places = [(one, into, key) for one, into in asked for key in one.follow]
        items = [(one.i_event_handler, key, now, one.follow_room) for one, _, key in places]
        read = self._database.dialect.for_each(
            connection, self._read.followers, _FOLLOWERS_NAMES, items
        )
        for (one, into, key), rows in zip(places, read, strict=True):
            due = [
                _notification(one.i_event_handler, row) for row in takewhile(lambda r: r[10], rows)
            ]
            into.followers.append((key, due, len(due) == one.follow_room))

    def _read_newest(self, connection: Connection, pairs: Sequence[tuple[Wanted, Found]]) -> None:
        """Where only the newest counts, what has to be known to tell which one that is."""
        for one, into in pairs:
            keys = set(one.tried)
            followers = chain.from_iterable(due for _, due, _ in into.followers)
            for event in (notification.event for notification in chain(into.due, followers)):
                if one.latest_only[event.event_type] and event.ordering_key is not None:
                    keys.add(event.ordering_key)
            if keys:
                items = [(one.i_event_handler, key) for key in sorted(keys)]
                read = self._database.dialect.for_each(
                    connection, self._read.tried, _TRIED_NAMES, items
                )
                rows = chain.from_iterable(read)
                into.tried = _notifications(one.i_event_handler, rows)
            if one.ahead is not None:
                into.ahead = self._read_ahead(connection, one, one.ahead)

    @staticmethod
    def _read_ahead(connection: Connection, one: Wanted, after: int) -> Ahead:
        n, q = event_notifications.c, event_queue.c
        mine = n.i_event_handler == one.i_event_handler
        last = connection.execute(
            select(n.position).where(mine).order_by(n.position.desc()).limit(1)
        ).scalar_one_or_none()
        upto = min(after + AHEAD, last or 0)
        patterns = (pattern.replace("*", "%") for pattern in one.latest_only.patterns)
        rows = connection.execute(
            select(n.shard, q.ordering_key, q.event_type, n.position)
            .join(event_queue, q.i_event == n.i_event)
            .where(
                mine,
                n.position > after,
                n.position <= upto,
                n.status == Status.QUEUED,
                n.next_attempt_at.is_(None),
                q.ordering_key.is_not(None),
                or_(*(q.event_type.like(pattern) for pattern in patterns)),
            )
        )
        kinds = [(key, name, at) for shard, key, name, at in rows if (one.shards >> shard) & 1]
        return Ahead(kinds, max(after, upto), upto == (last or 0) or after >= (last or 0))

    def _read_at(
        self, connection: Connection, one: Wanted, positions: Sequence[int]
    ) -> list[tuple[Notification, bool]]:
        """What waits untried at these positions."""
        among, values = self._database.dialect.among(positions)
        statement = self._read.at.format(
            handler=one.i_event_handler, shards=one.shards, among=among
        )
        rows = connection.exec_driver_sql(statement, values).all()
        return _notifications(one.i_event_handler, rows)


def _read_on(
    asked: Sequence[tuple[Wanted, Found]], rows: Sequence[Sequence[Any]], running: frozenset[int]
) -> None:
    for (one, into), some in zip(asked, rows, strict=True):
        into.running = running
        into.new = _notifications(one.i_event_handler, some)


def _notifications(
    i_event_handler: int, rows: Iterable[Sequence[Any]]
) -> list[tuple[Notification, bool]]:
    return [(_notification(i_event_handler, row), bool(row[10])) for row in rows]


def _notification(i_event_handler: int, row: Sequence[Any]) -> Notification:
    """A row of ``_COLUMNS``."""
    position, attempts, shard, notified, i_event, i_env, kind, variables, key, since = row[:10]
    event = Event(i_event, i_env, kind, variables or "{}", key)
    return Notification(i_event_handler, position, attempts, event, notified, shard, since)
