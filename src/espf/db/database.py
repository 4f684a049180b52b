"""The way to the database: transactions for everybody, threads for those who run in a loop.

A transaction is a plain function over a connection. The CLI and the tests call it directly,
the worker and the web application hand it to ``write`` or ``fetch``, which run it in a thread:
so nothing is ever awaited between the beginning and the end of a write transaction, and a
billing application that shares the database is never held up by our event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from espf.db.dialect import READERS, Dialect, Noticed, ReadOn, to_moment
from espf.db.sqlite import SqliteDialect
from espf.errors import DatabaseUnavailable, SettingsError

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """An open database. ``begin`` to write, ``read`` to look, ``write``/``fetch`` from a loop."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._engine = dialect.engine()
        # How often the database was away: connections that were made before are not used again.
        self._losses = 0
        event.listen(self._engine, "connect", self._made)
        event.listen(self._engine, "checkout", self._wanted)
        self._writer = ThreadPoolExecutor(dialect.writers, thread_name_prefix="espf-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="espf-read")

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> "Database":
        """Open the database at a URL such as ``sqlite:///var/espf.db``.

        Raises SettingsError when the URL is not understood, or when there is no file yet and none
        is to be created.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise SettingsError(
                f"ESPF_DATABASE_URL: {url!r} is not a database URL; "
                "an example: sqlite:///var/espf.db"
            ) from None
        match parsed.get_backend_name():
            case "sqlite":
                return cls(SqliteDialect(parsed, create=create))
            case "postgresql":
                with _driver("postgresql"):
                    from espf.db.postgresql import PostgresqlDialect  # noqa: PLC0415  (an extra)
                return cls(PostgresqlDialect(parsed))
            case "mysql" | "mariadb":
                with _driver("mariadb"):
                    from espf.db.mariadb import MariadbDialect  # noqa: PLC0415  (an extra)
                return cls(MariadbDialect(parsed))
            case other:
                raise SettingsError(
                    f"ESPF_DATABASE_URL: {other!r} is not supported; "
                    "use sqlite:///, postgresql:// or mysql://"
                )

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction: committed at the end, rolled back on an exception."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction: one consistent picture, never in a writer's way."""
        with (
            self._translated(),
            self._engine.connect().execution_options(read_only=True) as connection,
            connection.begin(),
        ):
            yield connection

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``work(connection, ...)`` as one write transaction, in a thread.

        Where the dialect says so, the loop stands still while the transaction works; it goes on
        while the transaction waits for its turn to write.
        """
        loop = asyncio.get_running_loop()
        worked = threading.Event()

        def transaction() -> T:
            with self.begin() as connection:
                # A loop that has ended has nothing to stand still.
                with suppress(RuntimeError):
                    if self.dialect.standstill_seconds:
                        loop.call_soon_threadsafe(worked.wait, self.dialect.standstill_seconds)
                try:
                    return work(connection, *args, **kwargs)
                finally:
                    worked.set()

        return await loop.run_in_executor(self._writer, transaction)

    async def fetch(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``work(connection, ...)`` as one read transaction, in a thread."""

        def transaction() -> T:
            with self.read() as connection:
                return work(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, transaction)

    async def ask_on(self, asked: ReadOn) -> tuple[list[Sequence[Any]], frozenset[int]] | None:
        """See Dialect."""
        with self._translated():
            return await self.dialect.ask_on(asked)

    def now(self, connection: Connection) -> datetime:
        """The database's clock: the only one that decides when something is due."""
        moment = to_moment(connection.exec_driver_sql(f"SELECT {self.dialect.now}").scalar_one())
        assert moment is not None
        return moment

    def announce(self, connection: Connection) -> None:
        """Have ``wait_for_work`` return in every process, when the transaction is committed."""
        self.dialect.announce(connection)

    async def wait_for_work(self, timeout_seconds: float) -> Noticed:
        """Return when somebody else may have committed something, or at the time-out."""
        return await self.dialect.wait(timeout_seconds)

    def close(self) -> None:
        """Finish what runs in threads and close every connection."""
        self._writer.shutdown()
        self._readers.shutdown()
        self.dialect.close()
        self._engine.dispose()

    def _made(self, _raw: object, record: ConnectionPoolEntry) -> None:
        record.info["losses"] = self._losses

    def _wanted(self, _raw: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info["losses"] != self._losses:
            # The pool closes it, and makes another one in its place.
            raise DisconnectionError

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, self.dialect.driver_error) as error:
            translated = self.dialect.translate(error)
            if translated is None:
                raise
            if isinstance(translated, DatabaseUnavailable):
                self._losses += 1
            raise translated from error


@contextmanager
def _driver(extra: str) -> Iterator[None]:
    """Say which package to install when a driver is missing."""
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            f"ESPF_DATABASE_URL: the driver is not installed ({error}); "
            f"run: pip install 'espf[{extra}]'"
        ) from None
