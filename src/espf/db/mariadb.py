"""MariaDB 10.6 and later, and MySQL 8 by the same code.

ESPF's tables live in a database of their own on the billing's server. Nobody can be notified
here, so the worker looks for new events, often while there is traffic. Transactions that overlap
may commit out of the order of their numbers; ``unseen`` says what is not to be seen yet.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import pymysql
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from espf.db.dialect import READERS, Dialect, Noticed, to_text
from espf.db.mariadb_triggers import MariadbTriggers
from espf.errors import DatabaseUnavailable, EspfError, SettingsError

DEFAULT_HOME = "espf"

#: How long a connection may take to come about.
CONNECT_SECONDS = 5

#: A transaction of ours that does nothing for so long is ended by the server.
IDLE_TRANSACTION_SECONDS = 10

#: How long a statement waits for a lock before it gives up, to be tried again.
LOCK_SECONDS = 10

#: How often to look for new events: while there is traffic, and when there was none for a while.
BUSY_LOOK_SECONDS = 0.005
IDLE_LOOK_SECONDS = 0.05

#: From so many on, SELECTs that are alike are one statement: rows cost more in it, and each
#: statement costs a round trip.
TOGETHER = 4

#: Numbers of errors that are about the server, not about the statement: connections, shutdown,
#: locks, deadlocks, full disks, a server that is read-only since a failover.
_UNAVAILABLE = frozenset(
    {
        *(1020, 1021, 1040, 1053, 1114, 1129, 1152, 1158, 1159, 1160, 1161, 1180, 1181, 1203),
        *(1205, 1206, 1213, 1226, 1290, 1317, 1792, 1836, 1927, 1969, 2002, 2003, 2006, 2013, 2014),
        *(2055, 3024, 4031),
    }
)
_REFUSED = frozenset({1044, 1045, 1049, 1227, 1698})

# A list of numbers as a table.
_NUMBERS = "JSON_TABLE(%s, '$[*]' COLUMNS (number BIGINT PATH '$')) AS r"


class MariadbDialect(Dialect):
    """See Dialect."""

    now = "UTC_TIMESTAMP(3)"
    # As a float: the driver would make a number of decimal places of it.
    seconds = "UNIX_TIMESTAMP({}) + 0e0"
    driver_error = pymysql.err.MySQLError
    named_value = r"%(\1)s"
    share_lock = "LOCK IN SHARE MODE"
    # Between taking a number and writing the row under it a server thread may be held up.
    running_lag_seconds = 0.3

    def __init__(self, url: URL) -> None:
        query = dict(url.query)
        self.home = str(query.pop("espf_schema", DEFAULT_HOME))
        if not re.fullmatch(r"\w+", self.home, re.ASCII):
            raise SettingsError(f"ESPF_DATABASE_URL: espf_schema={self.home!r} is not a plain name")
        if not url.database:
            raise SettingsError(
                "ESPF_DATABASE_URL: the name of the billing database is missing: "
                "mysql://user:password@host/billing"
            )
        self.billing_schema = url.database
        self.triggers = MariadbTriggers(self.home, self.billing_schema)
        if "unix_socket" in query and not any(name.startswith("ssl") for name in query):
            # What stays on the machine needs no certificates, and reading all that the system knows
            # takes longer than everything else about a connection.
            query["ssl_disabled"] = "true"
        self._url = url.set(drivername="mysql+pymysql", query=query)
        self._watch: Any = None
        self._dirty: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="espf-look")
        self._newest: int | None = None
        self._quiet_since = 0.0

    def engine(self) -> Engine:
        """See Dialect."""
        self._engine = engine = create_engine(
            self._url,
            pool_size=READERS + self.writers,
            hide_parameters=True,
            # START TRANSACTION is ours to say; see below.
            connect_args={
                "autocommit": True,
                "connect_timeout": CONNECT_SECONDS,
                "charset": "utf8mb4",
            },
            execution_options={"schema_translate_map": {"billing": self.billing_schema}},
        )

        @event.listens_for(engine, "connect")
        def connected(raw: Any, _record: object) -> None:
            self._set_up(raw)

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            read_only = connection.get_execution_options().get("read_only")
            if read_only:
                connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                connection.exec_driver_sql("START TRANSACTION")

        return engine

    def _set_up(self, raw: Any) -> None:
        with raw.cursor() as cursor:
            cursor.execute(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,"
                "ERROR_FOR_DIVISION_BY_ZERO', time_zone = '+00:00', "
                f"innodb_lock_wait_timeout = {LOCK_SECONDS}"
            )
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            # MySQL has no such setting.
            with suppress(pymysql.err.MySQLError):
                cursor.execute(f"SET SESSION idle_transaction_timeout = {IDLE_TRANSACTION_SECONDS}")
            # Before 'evctl init' there is none.
            with suppress(pymysql.err.MySQLError):
                cursor.execute(f"USE `{self.home}`")

    def next_position(self, connection: Connection) -> int:
        """See Dialect. There are no sequences: an event is made for its number alone."""
        cursor = connection.connection.cursor()
        cursor.execute("INSERT INTO Event_Queue () VALUES ()")
        position = int(cursor.lastrowid or 0)
        cursor.execute(f"DELETE FROM Event_Queue WHERE i_event = {position}")  # noqa: S608  (a number)
        return position

    def unseen(
        self,
        connection: Connection,
        i_event_handler: int,
        after: int,
        upto: int,
        expected: Sequence[int],
    ) -> frozenset[int]:
        """See Dialect: what is written now, whoever has not committed it, less what can be seen.

        The server's own list of transactions may be old by any amount of time.
        """
        among = f" OR position IN ({', '.join(map(str, expected))})" if expected else ""
        statement = (
            "SELECT position FROM Event_Notifications FORCE INDEX (PRIMARY) "  # noqa: S608  (numbers)
            f"WHERE i_event_handler = {i_event_handler} "
            f"AND (position > {after} AND position <= {upto}{among})"
        )
        # In this order: what was not committed when the picture was taken is written by now.
        written = self._positions(self._unsettled_view(), statement)
        return frozenset(written - self._positions(connection.connection, statement))

    @staticmethod
    def _positions(connection: Any, statement: str) -> set[int]:
        cursor = connection.cursor()
        cursor.execute(statement)
        return {position for (position,) in cursor.fetchall()}

    def _unsettled_view(self) -> Any:
        """A connection that sees what is written before it is committed."""
        if self._dirty is None or not self._dirty.open:
            fairy = self._engine.raw_connection()
            fairy.detach()
            self._dirty = fairy.dbapi_connection
            with self._dirty.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        return self._dirty

    def delete_at(
        self, table: str, column: str, numbers: Sequence[int], condition: str
    ) -> tuple[str, tuple[Any, ...]]:
        """See Dialect: a list of numbers may be read as a range, and wait for rows in between."""
        statement = (
            f"DELETE n FROM {_NUMBERS} STRAIGHT_JOIN {table} n FORCE INDEX (PRIMARY) "
            f"ON n.{column} = r.number WHERE {condition.replace('{t}', 'n')}"
        )
        return statement, (json.dumps(list(numbers)),)

    def update_at(
        self,
        table: str,
        column: str,
        numbers: Sequence[int],
        values: Mapping[str, str],
        condition: str,
    ) -> tuple[str, tuple[Any, ...]]:
        """See Dialect."""
        changes = ", ".join(f"n.{name} = {value}" for name, value in values.items())
        statement = (
            f"UPDATE {_NUMBERS} STRAIGHT_JOIN {table} n FORCE INDEX (PRIMARY) "  # noqa: S608
            f"ON n.{column} = r.number SET {changes} WHERE {condition.replace('{t}', 'n')}"
        )
        return statement, (json.dumps(list(numbers)),)

    def lock_events(self, numbers: Sequence[int]) -> tuple[str, tuple[Any, ...]]:
        """See Dialect."""
        statement = (
            f"SELECT 1 FROM {_NUMBERS} STRAIGHT_JOIN Event_Queue q "  # noqa: S608
            "FORCE INDEX (PRIMARY) ON q.i_event = r.number FOR UPDATE"
        )
        return statement, (json.dumps(list(numbers)),)

    def using(self, index: str) -> str:
        """See Dialect: it takes empty keys for equal, and then an index of them for useless."""
        return f" FORCE INDEX ({index})"

    def rows(
        self, columns: Mapping[str, TypeEngine[Any]], values: Sequence[Sequence[Any]]
    ) -> tuple[str, tuple[Any, ...]]:
        """See Dialect: as one document, so that there is one value to escape."""
        dialect = mysql.dialect()
        paths = ", ".join(
            f"{name} {kind.compile(dialect=dialect)} PATH '$[{n}]'"
            for n, (name, kind) in enumerate(columns.items())
        )
        document = json.dumps(list(zip(*values, strict=True)), ensure_ascii=False, default=_as_text)
        return f"JSON_TABLE(%s, '$[*]' COLUMNS ({paths})) AS r", (document,)

    def on_conflict(self, key: str, column: str) -> str:  # noqa: ARG002  (any key that is there)
        """See Dialect."""
        return f" ON DUPLICATE KEY UPDATE {column} = VALUES({column})"

    def on_conflict_add(
        self,
        table: str,
        key: str,  # noqa: ARG002  (any key that is there)
        sums: Sequence[str],
        most: Sequence[str],
    ) -> str:
        """See Dialect."""
        changes = [f"{name} = {table}.{name} + VALUES({name})" for name in sums]
        changes += [f"{name} = GREATEST({table}.{name}, VALUES({name}))" for name in most]
        return f" ON DUPLICATE KEY UPDATE {', '.join(changes)}"

    def translate(self, error: Exception) -> EspfError | None:
        """See Dialect."""
        original = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(original, pymysql.err.MySQLError):
            return None
        number = original.args[0] if original.args else 0
        if number in _REFUSED:
            return SettingsError(f"ESPF_DATABASE_URL: the server refuses us: {original}")
        # The driver says 0 when it finds that the connection is gone.
        if number in _UNAVAILABLE or (
            number == 0 and isinstance(original, pymysql.err.InterfaceError)
        ):
            return DatabaseUnavailable(f"the MariaDB server cannot be used: {original}")
        return None

    # Waiting

    def for_each(
        self,
        connection: Connection,
        select: str,
        names: Mapping[str, str],
        items: Sequence[Sequence[int | str | datetime]],
    ) -> list[Sequence[Any]]:
        """See Dialect: of many items, in one statement."""
        if len(items) < TOGETHER:
            return super().for_each(connection, select, names, items)
        if " LIMIT " not in select:
            # Without one, a part of a UNION may forget its order.
            select += f" LIMIT {2**63}"
        name = re.compile(rf"\{{({'|'.join(names)})\}}")
        rest = name.sub(r"%(\1_{number})s", select.removeprefix("SELECT "))
        parts: list[str] = []
        values: dict[str, int | str] = {}
        for number, item in enumerate(items):
            parts.append(f"(SELECT {number}, {rest.replace('{number}', str(number))})")
            for each, value in zip(names, item, strict=True):
                text = to_text(value) if isinstance(value, datetime) else value
                values[f"{each}_{number}"] = text
        cursor = connection.connection.cursor()
        cursor.execute(" UNION ALL ".join(parts), values)
        found: list[list[Any]] = [[] for _ in items]
        for number, *row in cursor.fetchall():
            found[number].append(row)
        return list(found)

    async def wait(self, timeout_seconds: float) -> Noticed:
        """Look for new events, often while there is traffic, until there are or time is up."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                newest = await loop.run_in_executor(self._thread, self._look)
            except (pymysql.err.MySQLError, DBAPIError, OSError):
                # The server is away, or not set up. Whoever looks for work will say so.
                self._hang_up()
                await asyncio.sleep(min(timeout_seconds, 1.0))
                return Noticed.ANYTHING
            now = time.monotonic()
            if newest != self._newest:
                self._newest, self._quiet_since = newest, now
                # What else was committed with them cannot be told.
                return Noticed.ANYTHING
            if now >= deadline:
                return Noticed.NOTHING
            busy = now - self._quiet_since < 0.2
            pause = BUSY_LOOK_SECONDS if busy else IDLE_LOOK_SECONDS
            await asyncio.sleep(min(pause, deadline - now))

    def _look(self) -> int | None:
        if self._watch is None:
            fairy = self._engine.raw_connection()
            fairy.detach()
            self._watch = fairy.dbapi_connection
        with self._watch.cursor() as cursor:
            cursor.execute("SELECT i_event FROM Event_Queue ORDER BY i_event DESC LIMIT 1")
            row = cursor.fetchone()
        return row[0] if row else None

    def _hang_up(self) -> None:
        if self._watch is not None:
            with suppress(pymysql.err.MySQLError, OSError):
                self._watch.close()
            self._watch = None

    def close(self) -> None:
        """See Dialect."""
        self._thread.shutdown()
        self._hang_up()
        if self._dirty is not None:
            with suppress(pymysql.err.MySQLError, OSError):
                self._dirty.close()


def _as_text(value: object) -> str:
    assert isinstance(value, datetime)
    return to_text(value)
