"""SQLite: the embedded default.

WAL, so that readers and the one writer do not wait for each other; ``BEGIN IMMEDIATE`` to write,
so that a transaction never fails half-way for the lock; triggers in plain SQL, so that any
program that writes the file, the ``sqlite3`` shell included, is captured.
"""

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from espf.db.dialect import READERS, Dialect, Noticed
from espf.db.sqlite_triggers import NOW, SqliteTriggers
from espf.db.tables import metadata
from espf.errors import DatabaseUnavailable, SettingsError

#: How long a writer waits for another one before it gives up.
BUSY_SECONDS = 10

#: The longest and the shortest pause between two looks for a commit.
IDLE_POLL_SECONDS = 0.05
BUSY_POLL_SECONDS = 0.002

#: What SQLite says when a database cannot be used, as opposed to a statement that is wrong.
_UNUSABLE = (
    "locked",
    "busy",
    "disk",
    "full",
    "unable to open",
    "readonly",
    "not a database",
    "malformed database",
)


class SqliteDialect(Dialect):
    """See Dialect."""

    now = NOW
    seconds = "(julianday({}) - 2440587.5) * 86400"
    driver_error = sqlite3.Error
    # There is one writer at a time anyway.
    share_lock = ""
    writers = 1
    # Five times as many would save little, and keep the billing's writers waiting five times as
    # long.
    batch = 100
    # Competing for the interpreter would only keep other writers out for longer.
    standstill_seconds = 0.05

    def __init__(self, url: URL, *, create: bool) -> None:
        if not url.database or url.database == ":memory:":
            raise SettingsError(
                "ESPF_DATABASE_URL: the database must be a file, so that the billing, the worker "
                "and the command line can share it: sqlite:///var/espf.db"
            )
        self._url = url
        self._path = Path(url.database)
        self.triggers = SqliteTriggers(own_tables=tuple(metadata.tables))
        if not create and not self._path.exists():
            raise SettingsError(
                f"ESPF_DATABASE_URL: there is no database {self._path.absolute()}; "
                "run 'evctl init' to make it"
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"ESPF_DATABASE_URL: cannot create {self._path.parent}: {error}"
            ) from None
        self._watch: sqlite3.Connection | None = None
        self._seen = -1
        self._quiet_since = 0.0

    def engine(self) -> Engine:
        """See Dialect."""
        # An error message must not show what a statement was given: passwords, for example.
        engine = create_engine(
            self._url,
            pool_size=READERS + 2,
            hide_parameters=True,
            execution_options={"schema_translate_map": {"billing": None}},
        )

        @event.listens_for(engine, "connect")
        def connected(raw: Any, _record: object) -> None:
            # The transaction is ours to begin: the driver would begin it too late.
            raw.isolation_level = None
            raw.text_factory = partial(str, encoding="utf-8", errors="replace")
            for pragma in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"busy_timeout = {BUSY_SECONDS * 1000}",
                "cache_size = -65536",
            ):
                raw.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            read_only = connection.get_execution_options().get("read_only")
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

        return engine

    async def wait(self, timeout_seconds: float) -> Noticed:
        """Look at the counter of commits: often while there is traffic, rarely when it is quiet."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            now = time.monotonic()
            try:
                seen = self._commits()
            except sqlite3.Error:
                # The file cannot be read now. Whoever looks for work will say so.
                self.close()
                await asyncio.sleep(timeout_seconds)
                return Noticed.ANYTHING
            if seen != self._seen:
                self._seen = seen
                self._quiet_since = now
                return Noticed.ANYTHING
            if now >= deadline:
                return Noticed.NOTHING
            busy = now - self._quiet_since < 0.1
            await asyncio.sleep(
                min(BUSY_POLL_SECONDS if busy else IDLE_POLL_SECONDS, deadline - now)
            )

    def _commits(self) -> int:
        """A number that changes with every commit of another connection; costs microseconds."""
        if self._watch is None:
            # It waits for nobody: it is used in the event loop itself.
            self._watch = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        (count,) = self._watch.execute("PRAGMA data_version").fetchone()
        return int(count)

    def next_position(self, connection: Connection) -> int:
        """See Dialect."""
        position = connection.exec_driver_sql(
            "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'Event_Queue' RETURNING seq"
        ).scalar_one()
        return int(position)

    def lock_events(self, numbers: Sequence[int]) -> tuple[str, tuple[Any, ...]]:  # noqa: ARG002
        """With one writer, all is locked."""
        return "SELECT 1", ()

    def using(self, index: str) -> str:
        """See Dialect: it knows nothing of how much there is, and takes the primary key."""
        return "" if index == "PRIMARY" else f" INDEXED BY {index}"

    def rows(
        self, columns: Mapping[str, TypeEngine[Any]], values: Sequence[Sequence[Any]]
    ) -> tuple[str, tuple[Any, ...]]:
        """See Dialect."""
        marks = f"({', '.join('?' * len(columns))})"
        names = ", ".join(f"column{n} AS {name}" for n, name in enumerate(columns, 1))
        table = f"(SELECT {names} FROM (VALUES {', '.join([marks] * len(values[0]))})) AS r"  # noqa: S608  (our own names)
        return table, tuple(chain.from_iterable(zip(*values, strict=True)))

    def on_conflict(self, key: str, column: str) -> str:
        """See Dialect."""
        return f" ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}"

    def translate(self, error: Exception) -> DatabaseUnavailable | None:
        """Locked, busy, full and unreadable are about the database; the rest is about the SQL."""
        original = error.orig if isinstance(error, DBAPIError) else error
        # A broken rule of the data is of a class of its own; the plain ones are about the file.
        if type(original) in {sqlite3.OperationalError, sqlite3.DatabaseError} and any(
            word in str(original) for word in _UNUSABLE
        ):
            return DatabaseUnavailable(f"the database {self._path} cannot be used: {original}")
        return None

    def close(self) -> None:
        """See Dialect."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
