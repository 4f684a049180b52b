"""SQLite: the embedded default.

WAL, so that readers and the one writer do not wait for each other; ``BEGIN IMMEDIATE`` to write,
so that a transaction never fails half-way for the lock; triggers in plain SQL, so that any
program that writes the file, the ``sqlite3`` shell included, is captured.
"""

import asyncio
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from espf.db.dialect import Dialect
from espf.db.sqlite_triggers import NOW, SqliteTriggers
from espf.db.tables import metadata
from espf.errors import DatabaseUnavailable

#: How long a writer waits for another one before it gives up.
BUSY_SECONDS = 10

#: The longest and the shortest pause between two looks for a commit.
IDLE_POLL_SECONDS = 0.02
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

    def __init__(self, path: Path) -> None:
        self._path = path
        self.triggers = SqliteTriggers(own_tables=tuple(metadata.tables))
        self._watch: sqlite3.Connection | None = None
        self._seen = -1
        self._quiet_since = 0.0

    def tune(self, engine: Engine) -> None:
        """See Dialect."""

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

    async def wait(self, timeout_seconds: float) -> None:
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
                return
            if seen != self._seen:
                self._seen = seen
                self._quiet_since = now
                return
            if now >= deadline:
                return
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
