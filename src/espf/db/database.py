"""The way to the database: transactions for everybody, threads for those who run in a loop.

A transaction is a plain function over a connection. The CLI and the tests call it directly,
the worker and the web application hand it to ``write`` or ``fetch``, which run it in a thread:
so nothing is ever awaited between the beginning and the end of a write transaction, and a
billing application that shares the database is never held up by our event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, literal_column, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from espf.db.dialect import Dialect, Moment
from espf.db.sqlite import SqliteDialect
from espf.errors import SettingsError

P = ParamSpec("P")
T = TypeVar("T")

#: Readers in threads at the same time; writers wait for one another anyway.
READERS = 4

#: The event loop waits no longer for a write transaction to be over.
LONGEST_STANDSTILL_SECONDS = 0.05


class Database:
    """An open database. ``begin`` to write, ``read`` to look, ``write``/``fetch`` from a loop."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._engine = engine
        self.dialect = dialect
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="espf-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="espf-read")
        dialect.tune(engine)

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> "Database":
        """Open the database at a URL such as ``sqlite:///var/espf.db``.

        Raises SettingsError when the URL is not understood, or when there is no database yet and
        none is to be created.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise SettingsError(
                f"ESPF_DATABASE_URL: {url!r} is not a database URL; "
                "an example: sqlite:///var/espf.db"
            ) from None
        if parsed.get_backend_name() != "sqlite":
            raise SettingsError(
                f"ESPF_DATABASE_URL: {parsed.get_backend_name()!r} is not supported yet; "
                "use sqlite:///path/to/file"
            )
        if not parsed.database or parsed.database == ":memory:":
            raise SettingsError(
                "ESPF_DATABASE_URL: the database must be a file, so that the billing, the worker "
                "and the command line can share it: sqlite:///var/espf.db"
            )
        path = Path(parsed.database)
        if not create and not path.exists():
            raise SettingsError(
                f"ESPF_DATABASE_URL: there is no database {path.absolute()}; "
                "run 'evctl init' to make it"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"ESPF_DATABASE_URL: cannot create {path.parent}: {error}"
            ) from None
        # An error message must not show what a statement was given: passwords, for example.
        engine = create_engine(parsed, pool_size=READERS + 2, hide_parameters=True)
        return cls(engine, SqliteDialect(path))

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

        The loop goes on while the transaction waits for its turn to write, and stands still while
        it works: competing for the interpreter would only keep other writers out for longer.
        """
        loop = asyncio.get_running_loop()
        worked = threading.Event()

        def transaction() -> T:
            with self.begin() as connection:
                # A loop that has ended has nothing to stand still.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(worked.wait, LONGEST_STANDSTILL_SECONDS)
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

    def now(self, connection: Connection) -> datetime:
        """The database's clock: the only one that decides when something is due."""
        moment = connection.execute(
            select(literal_column(self.dialect.now, Moment).label("now"))
        ).scalar_one()
        assert moment is not None
        return moment

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Return when somebody else has committed something, or at the time-out."""
        await self.dialect.wait(timeout_seconds)

    def close(self) -> None:
        """Finish what runs in threads and close every connection."""
        self._writer.shutdown()
        self._readers.shutdown()
        self.dialect.close()
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            unavailable = self.dialect.translate(error)
            if unavailable is None:
                raise
            raise unavailable from error
