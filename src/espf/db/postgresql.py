"""PostgreSQL, 13 and later: a server, and as many workers on as many machines as wanted.

ESPF's tables live in a schema of their own beside the billing's. Transactions that overlap may
commit out of the order of their numbers; ``read_on`` says what is not to be seen yet. A worker
that finds nothing to do sleeps until it is notified, which a trigger does only while one sleeps:
to notify at every commit would make the billing's commits wait for one another.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from espf.db.dialect import MANY, READERS, Dialect, Noticed, ReadOn
from espf.db.postgresql_triggers import PostgresqlTriggers
from espf.errors import DatabaseUnavailable, EspfError, SettingsError

_log = logging.getLogger(__name__)

DEFAULT_HOME = "espf"

#: How long a connection may take to come about.
CONNECT_SECONDS = 5

#: A transaction of ours that does nothing for so long is ended by the server, so that a worker
#: that was frozen in the middle of one holds up nobody.
IDLE_TRANSACTION_SECONDS = 10

#: How long a statement waits for a lock before it gives up, to be tried again.
LOCK_SECONDS = 10

#: This many notifications within the time mean that looking is cheaper than being called.
FLOOD = 20
FLOOD_SECONDS = 0.1

#: While nobody sleeps: how often to look for work, and how often to see whether so few numbers are
#: given meanwhile that it is better to sleep and be called.
LOOK_SECONDS = 0.004
DOZE_SECONDS = 0.05
CALM = 5

_AWAKE, _ASLEEP = 1, 2

#: What is said with the last call for a while, and by whoever announces; triggers say nothing.
_LOOK, _ANNOUNCED = b"look", b"announced"

#: Transactions that make no events and may still be running.
MOST_EVENTLESS = 100

#: SQLSTATE classes and codes that are about the server, not about the statement.
_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58"})
_UNAVAILABLE = frozenset({"25006", "40001", "40P01", "55P03", "25P03", "25P04"})
_REFUSED = frozenset({"28000", "28P01", "3D000"})
#: The driver tells no code of a connection that did not come about. One that was refused because
#: there are too many, or because the server starts or stops, is to be tried again.
_REFUSAL = re.compile(
    r"FATAL: .*(authentication failed|no pg_hba\.conf entry|does not exist|not permitted to log in"
    r"|permission denied)"
)


#: Spells types.
_TYPES = postgresql.dialect()  # type: ignore[no-untyped-call]

# A snapshot lists who ran below its upper end, which is past the last transaction that has *ended*:
# others may run above it. age() looks at the number that will be given next, and does so after the
# snapshot was taken: whoever ran then, or may have ended since, has a number below that.
_PICTURE = """
WITH picture AS MATERIALIZED (
  SELECT pg_current_snapshot()::text AS snapshot,
    age(pg_snapshot_xmax(pg_current_snapshot())::xid) AS above
)
"""

#: Numbers above the upper end of a snapshot that are named: one transaction may have a million,
#: when it has savepoints.
MOST_ABOVE = 1000


class PostgresqlDialect(Dialect):
    """See Dialect."""

    now = "clock_timestamp()"
    seconds = "date_part('epoch', {})"
    driver_error = psycopg.Error

    def __init__(self, url: URL) -> None:
        query = dict(url.query)
        self.home = str(query.pop("espf_schema", DEFAULT_HOME)).lower()
        self.billing_schema = str(query.pop("billing_schema", "public"))
        if not self.home.isidentifier():
            raise SettingsError(f"ESPF_DATABASE_URL: espf_schema={self.home!r} is not a plain name")
        self.triggers = PostgresqlTriggers(self.home, self.billing_schema)
        self._url = url.set(drivername="postgresql+psycopg", query=query)
        self._listening: psycopg.Connection[Any] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="espf-listen")
        # What has been noticed and not been taken, and whether there is something.
        self._noticed = Noticed.NOTHING
        self._rings = asyncio.Event()
        self._unring: Callable[[], object] | None = None
        self._asleep = False
        self._called: list[float] = []
        # Transactions of ours that make no events, as a set in the order in which they began.
        self._eventless: dict[int, None] = {}
        self._asking: psycopg.AsyncConnection[Any] | None = None
        # While awake: when to see whether to sleep, and the last number then.
        self._doze_at = 0.0
        self._number: int | None = None

    def engine(self) -> Engine:
        """See Dialect."""
        self._engine = engine = create_engine(
            self._url,
            pool_size=READERS + self.writers,
            # The connection that was used last has the statements prepared.
            pool_use_lifo=True,
            hide_parameters=True,
            # BEGIN and COMMIT are ours to say; see below.
            connect_args={"autocommit": True, "connect_timeout": CONNECT_SECONDS},
            execution_options={"schema_translate_map": {"billing": self.billing_schema}},
        )

        @event.listens_for(engine, "connect")
        def connected(raw: Any, _record: object) -> None:
            raw.cursor().execute(self._session())
            self._forget_eventless()

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            read_only = connection.get_execution_options().get("read_only")
            connection.connection.cursor().execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if read_only else "BEGIN"
            )

        return engine

    def _session(self) -> str:
        settings = {
            "search_path": f'{self.home}, "{self.billing_schema}"',
            "timezone": "'UTC'",
            "application_name": "'espf'",
            "idle_in_transaction_session_timeout": f"'{IDLE_TRANSACTION_SECONDS}s'",
            "lock_timeout": f"'{LOCK_SECONDS}s'",
            # The live tables are empty one moment and full the next: what the planner knows of
            # them is never true, and every way to read them has an index.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
            # To plan a read takes longer than the read; whatever the values, the plan is the same.
            "plan_cache_mode": "force_generic_plan",
        }
        return "; ".join(f"SET {name} = {value}" for name, value in settings.items())

    def name_of(self, table: str) -> str:
        """See Dialect."""
        return table.lower()

    def announce(self, connection: Connection) -> None:
        """See Dialect."""
        connection.exec_driver_sql(f"NOTIFY {self.home}, '{_ANNOUNCED.decode()}'")

    def next_position(self, connection: Connection) -> int:
        """See Dialect."""
        self.begin_numbering(connection)
        position = connection.exec_driver_sql("SELECT nextval('event_queue_i_event_seq')")
        return int(position.scalar_one())

    def begin_numbering(self, connection: Connection) -> None:
        """See Dialect: taking a number gives a transaction no number of its own."""
        connection.exec_driver_sql("SELECT pg_current_xact_id()")

    def make_no_events(self, connection: Connection) -> None:
        """See Dialect. Otherwise each batch of results would have new events read twice."""
        number = connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()
        self._eventless[int(number)] = None
        if len(self._eventless) > MOST_EVENTLESS:
            del self._eventless[next(iter(self._eventless))]

    def for_each(
        self,
        connection: Connection,
        select: str,
        names: Mapping[str, str],
        items: Sequence[Sequence[int | str | datetime]],
    ) -> list[Sequence[Any]]:
        """See Dialect: one statement for all."""
        wanted, values = _wanted(names, items)
        select = _of_w(select, names)
        statement = f"SELECT x.*, w.item FROM {wanted} CROSS JOIN LATERAL ({select}) x"  # noqa: S608
        rows = connection.connection.cursor().execute(statement, values).fetchall()
        return _by_item(rows, len(items))

    def read_on(
        self, connection: Connection, asked: ReadOn
    ) -> tuple[list[Sequence[Any]], frozenset[int]]:
        """See Dialect: all in one statement, which has one picture of the database by itself."""
        # Straight from the driver: an event that has just been committed waits for this.
        cursor = connection.connection.cursor()
        cursor.execute(*_read_on(asked))
        return self._found(cursor.fetchall(), len(asked.items))

    async def ask_on(self, asked: ReadOn) -> tuple[list[Sequence[Any]], frozenset[int]] | None:
        """See Dialect: on a connection of its own."""
        try:
            asking = self._asking or await self._call()
            cursor = await asking.execute(*_read_on(asked))
            return self._found(await cursor.fetchall(), len(asked.items))
        except BaseException:
            self._ask_no_more()
            raise

    async def _call(self) -> psycopg.AsyncConnection[Any]:
        """Open the connection that is asked on; of two who do so at once, one keeps it."""
        made = await self._async_connection()
        if self._asking is not None:
            made.pgconn.finish()
            return self._asking
        self._asking = made
        return made

    async def _async_connection(self) -> psycopg.AsyncConnection[Any]:
        _, how = self._engine.dialect.create_connect_args(self._url)
        connection = await psycopg.AsyncConnection.connect(
            autocommit=True, connect_timeout=CONNECT_SECONDS, **how
        )
        try:
            await connection.execute(self._session())
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    def _forget_eventless(self) -> None:
        """A server that was killed gives the numbers of what was open then once more.

        Every connection is a new one after that; so whoever opens or loses one forgets them.
        """
        self._eventless.clear()

    def _ask_no_more(self) -> None:
        self._forget_eventless()
        if self._asking is not None:
            self._asking.pgconn.finish()
            self._asking = None

    def _found(self, rows: Sequence[Any], items: int) -> tuple[list[Sequence[Any]], frozenset[int]]:
        *_, snapshot, above, _ = rows[0]
        found = _by_item([row for row in rows if row[0] is not None], items)
        return found, self._running(snapshot, above)

    def _running(self, snapshot: str, above: int) -> frozenset[int]:
        _, end, listed = snapshot.split(":")
        running = set(map(int, listed.split(","))) if listed else set()
        running.update(range(int(end), int(end) + above) if above <= MOST_ABOVE else [MANY])
        return frozenset(running.difference(self._eventless))

    def rows(
        self, columns: Mapping[str, TypeEngine[Any]], values: Sequence[Sequence[Any]]
    ) -> tuple[str, tuple[Any, ...]]:
        """See Dialect: an array for each column, but for those where all rows have one value."""
        types = _types(tuple(columns.items()))
        first, *_ = columns
        arrays, constants = {}, {}
        for name, column in zip(columns, values, strict=True):
            if name != first and column.count(column[0]) == len(column):
                constants[name] = column[0]
            else:
                arrays[name] = _array(column)
        unnested = ", ".join(f"%s::{types[name]}[]" for name in arrays)
        shared = "".join(f", %s::{types[name]} AS {name}" for name in constants)
        table = f"(SELECT u.*{shared} FROM unnest({unnested}) AS u({', '.join(arrays)})) AS r"  # noqa: S608
        return table, (*constants.values(), *arrays.values())

    def among(self, numbers: Sequence[int]) -> tuple[str, tuple[Any, ...]]:
        """See Dialect: as one value, so that the statement is always the same."""
        return "= ANY(%s::bigint[])", (_array(numbers),)

    def on_conflict(self, key: str, column: str) -> str:
        """See Dialect."""
        return f" ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}"

    def translate(self, error: Exception) -> EspfError | None:
        """See Dialect."""
        original = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(original, psycopg.Error):
            return None
        code = original.sqlstate
        text = str(original).strip()
        if code in _REFUSED or (code is None and _REFUSAL.search(text)):
            return SettingsError(f"ESPF_DATABASE_URL: the server refuses us: {text}")
        if code is None:
            if not isinstance(original, (psycopg.OperationalError, psycopg.InterfaceError)):
                return None
        elif code[:2] not in _UNAVAILABLE_CLASSES and code not in _UNAVAILABLE:
            return None
        return DatabaseUnavailable(f"the PostgreSQL server cannot be used: {text}")

    # Waiting

    async def wait(self, timeout_seconds: float) -> Noticed:
        """Sleep until called; in a flood of calls, have nobody call, and look instead."""
        try:
            if self._listening is None:
                await self._say(self._listen)
            if self._unring is None:
                self._hear()
            if self._asleep:
                return await self._be_called(timeout_seconds)
            await asyncio.sleep(LOOK_SECONDS)
            if time.monotonic() >= self._doze_at:
                await self._say(self._doze)
        except (psycopg.Error, DBAPIError, OSError):
            # The server is away, or not set up. Whoever looks for work will say so.
            self._hang_up()
            await asyncio.sleep(min(timeout_seconds, 1.0))
            return Noticed.ANYTHING
        # In a flood nobody is called for what is new.
        return max(self._taken(), Noticed.EVENTS)

    async def _be_called(self, timeout_seconds: float) -> Noticed:
        timer = asyncio.get_running_loop().call_later(timeout_seconds, self._rings.set)
        try:
            await self._rings.wait()
        finally:
            timer.cancel()
        noticed = self._taken()
        if noticed is Noticed.NOTHING or not self._asleep:
            return noticed
        now = time.monotonic()
        self._called = [at for at in self._called if now - at < FLOOD_SECONDS] + [now]
        if len(self._called) >= FLOOD:
            self._called.clear()
            await self._say(self._wake_up)
        return noticed

    def _taken(self) -> Noticed:
        """What has been noticed since this was asked last."""
        self._rings.clear()
        noticed, self._noticed = self._noticed, Noticed.NOTHING
        return noticed

    def _ring(self) -> None:
        """Take the calls that have come; from the loop, since it never waits."""
        assert self._listening is not None
        connection = self._listening.pgconn
        try:
            connection.consume_input()
        except psycopg.Error:
            self._hang_up()
            self._noticed = Noticed.ANYTHING
        else:
            while (call := connection.notifies()) is not None:
                if call.extra == _LOOK:
                    self._stay_awake()
                kind = Noticed.ANYTHING if call.extra == _ANNOUNCED else Noticed.EVENTS
                self._noticed = max(self._noticed, kind)
        if self._noticed is not Noticed.NOTHING:
            self._rings.set()

    def _listen(self) -> None:
        connection = self._own_connection()
        connection.execute(f"LISTEN {self.home}")
        self._listening = connection
        self._stay_awake()

    def _hear(self) -> None:
        assert self._listening is not None
        loop, number = asyncio.get_running_loop(), self._listening.fileno()
        # Calls that came while nobody heard are lost.
        self._noticed = Noticed.ANYTHING
        self._rings.set()
        loop.add_reader(number, self._ring)
        self._unring = lambda: loop.is_closed() or loop.remove_reader(number)

    async def _say(self, what: Callable[[], None]) -> None:
        """Use the connection on which we are called for something else, in a thread."""
        self._unheard()
        await asyncio.get_running_loop().run_in_executor(self._thread, what)

    def _own_connection(self) -> psycopg.Connection[Any]:
        """A connection beside the pool, set up like those in it."""
        fairy = self._engine.raw_connection()
        fairy.detach()
        connection: Any = fairy.dbapi_connection
        assert isinstance(connection, psycopg.Connection)
        return connection

    def _doze(self) -> None:
        """Ask to be called, when few numbers are given, or when somebody else sleeps already."""
        assert self._listening is not None
        row = self._listening.execute(
            "SELECT s.last_value, n.last_value FROM worker_sleeps s, event_queue_i_event_seq n"
        ).fetchone()
        assert row is not None
        flag, number = row
        calm = self._number is not None and number - self._number <= CALM
        self._doze_at, self._number = time.monotonic() + DOZE_SECONDS, number
        if calm and flag != _ASLEEP:
            self._listening.execute("SELECT setval('worker_sleeps', %s)", [_ASLEEP])
        self._asleep = calm or flag == _ASLEEP

    def _wake_up(self) -> None:
        """Have nobody called for a while; the others who sleep are to know."""
        assert self._listening is not None
        self._listening.execute("SELECT setval('worker_sleeps', %s)", [_AWAKE])
        self._listening.execute(f"NOTIFY {self.home}, '{_LOOK.decode()}'")
        self._stay_awake()

    def _stay_awake(self) -> None:
        self._asleep = False
        self._doze_at, self._number = time.monotonic() + DOZE_SECONDS, None

    def _unheard(self) -> None:
        if self._unring is not None:
            self._unring()
            self._unring = None

    def _hang_up(self) -> None:
        self._asleep = False
        self._unheard()
        if self._listening is not None:
            with suppress(psycopg.Error):
                self._listening.close()
            self._listening = None

    def close(self) -> None:
        """See Dialect."""
        self._thread.shutdown()
        self._hang_up()
        self._ask_no_more()


# The least position of an item's suspects that have ended; MANY are seen as ended at any time.
_ENDED = """(
  SELECT min(s.position)
  FROM unnest(%s::int[], %s::text[], %s::bigint[]) AS s(item, number, position)
  WHERE s.item = w.item AND pg_visible_in_snapshot(s.number::xid8, pg_current_snapshot())
)"""


def _wanted(
    names: Mapping[str, str], items: Sequence[Sequence[int | str | datetime]]
) -> tuple[str, list[Any]]:
    """Items as a table ``w`` of a FROM clause, numbered from 1, and what is to be bound."""
    arrays = ", ".join(f"%s::{sql_type}[]" for sql_type in names.values())
    table = f"unnest({arrays}) WITH ORDINALITY AS w({', '.join(names)}, item)"
    return table, [list(column) for column in zip(*items, strict=True)]


def _of_w(select: str, names: Mapping[str, str]) -> str:
    for name in names:
        select = select.replace(f"{{{name}}}", f"w.{name}")
    return select


def _read_on(asked: ReadOn) -> tuple[str, list[Any]]:
    """A statement that reads on and tells who is running, and what is to be bound."""
    wanted, values = _wanted(asked.names, asked.items)
    select = _of_w(asked.select, asked.names)
    known = [
        (item, number, position)
        for item, some in enumerate(asked.suspects, 1)
        for number, position in some.items()
    ]
    if known:
        select = select.replace("w.after", f"least(w.after, {_ENDED})")
        values += [list(map(str, column)) for column in zip(*known, strict=True)]
    statement = (
        f"{_PICTURE} SELECT x.*, p.snapshot, p.above, w.item FROM picture p "  # noqa: S608
        f"CROSS JOIN {wanted} LEFT JOIN LATERAL ({select}) x ON true"
    )
    return statement, values


def _by_item(rows: list[Any], items: int) -> list[Sequence[Any]]:
    """Rows, each with its item's number at the end, sorted out."""
    if items == 1:
        return [rows]
    found: list[list[Any]] = [[] for _ in range(items)]
    for row in rows:
        found[row[-1] - 1].append(row)
    return list(found)


@lru_cache
def _types(columns: tuple[tuple[str, TypeEngine[Any]], ...]) -> Mapping[str, str]:
    """How the types of columns are spelt."""
    return {name: kind.compile(dialect=_TYPES) for name, kind in columns}


def _array(values: Sequence[Any]) -> str:
    """An array as PostgreSQL writes it: quicker to make than what the driver would."""
    if set(map(type, values)) == {int}:
        return "{" + str(list(values))[1:-1] + "}"
    # Many rows share a value.
    known = {value: _element(value) for value in set(values)}
    return f"{{{','.join([known[value] for value in values])}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
