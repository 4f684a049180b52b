"""The SQL database of an external system, as its handler uses it: PostgreSQL, MariaDB or SQLite.

Its address is checked as that of any other system, and connected to as it was checked. Drivers
block, so transactions run in threads; whoever is frozen or cut off ends all the same, for a
connection that is waited for too long is shut. Errors become verdicts, and none of them tells a
value: what a database says of data that it refuses may well be somebody's password.
"""

import asyncio
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from pydantic import AfterValidator, SecretStr
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.base import Context

T = TypeVar("T")

#: What a URL may begin with, which driver it is served by, and the port that is usual.
_BACKENDS: Mapping[str, tuple[str, str, int]] = {
    "postgresql": ("PostgreSQL", "postgresql+psycopg", 5432),
    "mysql": ("MariaDB", "mysql+pymysql", 3306),
    "mariadb": ("MariaDB", "mysql+pymysql", 3306),
    "sqlite": ("SQLite", "sqlite", 0),
}

#: What may follow the question mark of a URL. Nothing that leads elsewhere than the host.
_QUERY: Mapping[str, frozenset[str]] = {
    "PostgreSQL": frozenset({"host", "sslmode", "sslrootcert", "sslcert", "sslkey"}),
    "MariaDB": frozenset({"unix_socket", "ssl_ca", "ssl_cert", "ssl_key"}),
    "SQLite": frozenset(),
}

#: A socket or a file is on the machine of the worker: it is reached where this address is.
_HERE = "127.0.0.1"

#: The most connections to one database, whatever the concurrency.
MOST_CONNECTIONS = 16

#: Somebody else has just inserted the same, in PostgreSQL and in MariaDB, which tells the value.
_TAKEN, _TAKEN_TOLD = "23505", "1062"

#: What PostgreSQL's SQLSTATE begins with; all else may be over soon.
_STATES: Mapping[type[HandlerError], tuple[str, ...]] = {
    TryLater: (_TAKEN, "57014"),
    Unreachable: ("08", "57", "58"),
    Rejected: ("22", "23"),
    Misconfigured: ("28", "3D", "3F", "42", "0A"),
}

#: PostgreSQL tells no SQLSTATE of a connection that did not come about.
_NO_ENTRY = re.compile(
    r"FATAL: .*(authentication failed|no pg_hba\.conf entry|does not exist|not permitted to log in"
    r"|permission denied)"
)

#: The same by MariaDB's numbers.
_NUMBERS: Mapping[type[HandlerError], frozenset[int]] = {
    Unreachable: frozenset({1053, 1152, 1927, 2002, 2003, 2005, 2006, 2013, 2055, 4031}),
    Rejected: frozenset({1048, 1264, 1265, 1292, 1364, 1366, 1406, 1451, 1452, 3819, 4025}),
    Misconfigured: frozenset(
        {1044, 1045, 1049, 1054, 1064, 1130, 1142, 1143, 1146, 1227, 1251, 1370, 1524, 1698, 2061}
    ),
}

#: And by SQLite's names; an error without a name of its own is about tables or columns.
_NAMES: Mapping[type[HandlerError], tuple[str, ...]] = {
    TryLater: ("CONSTRAINT_UNIQUE", "CONSTRAINT_PRIMARYKEY"),
    Rejected: ("CONSTRAINT", "MISMATCH", "TOOBIG", "RANGE"),
    Misconfigured: ("CANTOPEN", "NOTADB", "READONLY", "PERM", "AUTH", "ERROR", "CORRUPT"),
}

#: What may be told of data that are refused, for it says the column and no value.
_TOO_LONG = ("22001", "1406")


def _understood(value: SecretStr) -> SecretStr:
    _parsed(value.get_secret_value())
    return value


#: The URL of a database. It is secret, for a password may stand in it.
DatabaseUrl = Annotated[SecretStr, AfterValidator(_understood)]


def _parsed(text: str) -> URL:
    """A URL that leads to one place. Raises ValueError, which does not repeat it."""
    try:
        url = make_url(text)
        known = url.get_backend_name() in _BACKENDS and url.port != 0
    except (ArgumentError, ValueError):
        known = False
    if not known:
        raise ValueError(
            "it is not postgresql://USER:PASSWORD@HOST/DATABASE, mariadb://… or sqlite:///FILE"
        )
    kind, driver, _ = _BACKENDS[url.get_backend_name()]
    _check_query(url, _QUERY[kind])
    if kind == "SQLite" and url.database in {None, "", ":memory:"}:
        raise ValueError("the file is missing, as in sqlite:////var/lib/radius/radius.db")
    if kind != "SQLite" and not (url.host or _socket(url)):
        raise ValueError("the host is missing")
    return url.set(drivername=driver)


def _check_query(url: URL, known: frozenset[str]) -> None:
    for name, content in url.query.items():
        if name not in known:
            raise ValueError(f"{name!r} is not understood after the question mark")
        if not isinstance(content, str):
            raise ValueError(f"{name!r} stands there twice")  # noqa: TRY004  (pydantic's word)
    path = _socket(url)
    if path is not None and not path.startswith("/"):
        raise ValueError("a socket is named by its whole path; a host stands before the slash")


def _socket(url: URL) -> str | None:
    found = url.query.get("host") or url.query.get("unix_socket")
    return None if found is None else str(found)


class SqlDatabase:
    """One database of one handler. Connections are made when they are needed, and kept."""

    def __init__(self, url: DatabaseUrl, timeout_seconds: float, connections: int) -> None:
        self._url = _parsed(url.get_secret_value())
        self.kind, _, port = _BACKENDS[self._url.get_backend_name()]
        host = None if _socket(self._url) else self._url.host
        self._at = (host or _HERE, self._url.port or port)
        self._timeout = timeout_seconds
        self._size = min(connections, MOST_CONNECTIONS)
        self._address = _HERE
        self._engine: Engine | None = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def place(self) -> str:
        """What and where it is, as it may be shown."""
        if self.kind == "SQLite":
            return f"SQLite, {self._url.database}"
        return f"{self.kind} at {_socket(self._url) or '{}:{}'.format(*self._at)}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of the URL must not be told."""
        return (str(self._url.password),) if self._url.password else ()

    async def run(
        self, context: Context, work: Callable[[Connection], T], *, writes: bool = False
    ) -> T:
        """Run ``work`` as one transaction, in a thread; raises a verdict.

        It may be run twice, when the connection turns out to have been broken.
        """
        self._address = await context.http.resolve(*self._at)
        if self._engine is None:
            self._engine = self._made()
        running = _Running()
        try:
            # The database's own time-outs come first.
            async with asyncio.timeout(self._timeout + 1):
                return await asyncio.get_running_loop().run_in_executor(
                    self._executor(), self._transaction, work, writes, running
                )
        except TimeoutError:
            running.cut()
            raise TryLater(f"{self.place}: no answer within {self._timeout:g} s") from None
        except asyncio.CancelledError:
            running.cut()
            raise

    async def close(self) -> None:
        """Hang up."""
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown)
            self._threads = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="espf-sql")
        return self._threads

    def _transaction(self, work: Callable[[Connection], T], writes: bool, running: "_Running") -> T:
        try:
            return self._attempt(work, writes, running)
        except DBAPIError as error:
            if not error.connection_invalidated or running.is_cut:
                raise self._verdict(error) from None
        except PoolTimeoutError:
            raise TryLater(f"{self.place}: every connection is in use") from None
        # A connection that was kept has broken since: once more, on a new one.
        try:
            return self._attempt(work, writes, running)
        except DBAPIError as error:
            raise self._verdict(error) from None

    def _attempt(self, work: Callable[[Connection], T], writes: bool, running: "_Running") -> T:
        assert self._engine is not None
        options = {"writes": writes}
        with self._engine.connect().execution_options(**options) as connection:
            running.begin(connection.connection.dbapi_connection)
            try:
                with connection.begin():
                    return work(connection)
            finally:
                running.end()

    def _made(self) -> Engine:
        try:
            engine = create_engine(
                self._url.set(query={k: v for k, v in self._url.query.items() if k != "host"}),
                pool_size=self._size,
                max_overflow=0,
                pool_timeout=self._timeout,
                pool_use_lifo=True,
                hide_parameters=True,
                **_isolation(self.kind),
            )
        except ImportError as error:
            extra = self.kind.lower()
            raise Misconfigured(
                f"the driver is not installed ({error.name}); run: pip install 'espf[{extra}]'"
            ) from None
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "connect", self._connected)
        if self.kind == "SQLite":
            event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _connect(self, dialect: Any, _record: object, _args: object, how: dict[str, Any]) -> Any:
        """Connect to the address that was checked, for no other name or address that is set."""
        seconds = max(1, int(self._timeout))
        if self.kind == "PostgreSQL":
            path = _socket(self._url)
            how |= {"host": path} if path else {"hostaddr": self._address}
            how |= {"connect_timeout": max(2, seconds), "prepare_threshold": None}
            return None
        if self.kind == "SQLite":
            file = quote(str(self._url.database))
            return sqlite3.connect(
                f"file:{file}?mode=rw",
                uri=True,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
        limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)
        made = dialect.loaded_dbapi.connect(**how, **limits, defer_connect=True)
        if _socket(self._url):
            made.connect()
            return made
        try:
            made.connect(socket.create_connection((self._address, self._at[1]), seconds))
        except OSError as error:
            raise dialect.loaded_dbapi.OperationalError(2003, _os_fault(error)) from None
        return made

    def _connected(self, raw: Any, _record: object) -> None:
        """Have statements and waits for locks end by themselves."""
        milliseconds = int(self._timeout * 1000)
        match self.kind:
            case "PostgreSQL":
                said = (
                    f"SET statement_timeout = {milliseconds}; "
                    f"SET lock_timeout = {milliseconds // 2}; "
                    f"SET idle_in_transaction_session_timeout = {milliseconds * 2}; "
                    "SET application_name = 'espf'"
                )
            case "MariaDB":
                said = f"SET SESSION innodb_lock_wait_timeout = {max(1, milliseconds // 2000)}"
            case _:
                return
        raw.cursor().execute(said)
        raw.commit()

    def _verdict(self, error: DBAPIError) -> HandlerError:
        kind, code, text = self._judged(error)
        if kind is Rejected and code not in _TOO_LONG:
            text = "the data are refused"
        if code == _TAKEN_TOLD:
            text = "somebody else has just inserted the same"
        told = text.strip().split("\n", 1)[0].rpartition(" failed: ")[2]
        return kind(f"{self.place}: {told}" + (f" ({code})" if code else ""))

    def _judged(self, error: DBAPIError) -> tuple[type[HandlerError], str, str]:
        """The verdict, the database's code, and its words."""
        original = error.orig
        if self.kind == "PostgreSQL":
            code, text = getattr(original, "sqlstate", None) or "", str(original)
            if not code and isinstance(error, DataError):
                return Rejected, "", ""  # the driver itself cannot send them
            told = getattr(getattr(original, "diag", None), "message_primary", None)
            return _of_postgresql(code, text), code, told or text
        if self.kind == "MariaDB":
            number, *rest = *(original.args if original is not None else ()), 0
            return _of_mariadb(number), str(number), str(rest[0] if rest else "")
        # The driver gives no name to errors that are its own.
        name = str(getattr(original, "sqlite_errorname", "ERROR")).removeprefix("SQLITE_")
        return _of_sqlite(name), name, str(original)


def next_of(
    selects: Sequence[sa.Select[Any]], after: str | None, limit: int, connection: Connection
) -> list[str]:
    """The next texts that any of these selects of one column finds, each once.

    They come in the database's order, and each select is read no further than needed.
    """
    pages = []
    for select in selects:
        (column,) = select.selected_columns
        page = select.distinct().order_by(column).limit(limit)
        page = page if after is None else page.where(column > after)
        (found,) = page.subquery().c
        pages.append(sa.select(found.label("name")))
    names = connection.scalars(sa.union(*pages).order_by("name").limit(limit))
    return [str(name) for name in names]


class _Running:
    """The connection that a transaction runs on, so that it can be cut from another thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._raw: Any = None
        self.is_cut = False

    def begin(self, raw: Any) -> None:
        with self._lock:
            self._raw = raw
        if self.is_cut:
            self.cut()

    def end(self) -> None:
        with self._lock:
            self._raw = None

    def cut(self) -> None:
        """Have whoever waits for an answer wait no longer. MariaDB's driver does so by itself."""
        with self._lock, suppress(OSError, SQLAlchemyError):
            self.is_cut = True
            if isinstance(self._raw, sqlite3.Connection):
                self._raw.interrupt()
            elif hasattr(self._raw, "fileno"):
                with socket.socket(fileno=os.dup(self._raw.fileno())) as twin:
                    twin.shutdown(socket.SHUT_RDWR)


def _isolation(kind: str) -> dict[str, str]:
    """Of two who change the same rows at the same time, PostgreSQL sends one away then."""
    return {"isolation_level": "REPEATABLE READ"} if kind == "PostgreSQL" else {}


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _of_postgresql(code: str, text: str) -> type[HandlerError]:
    if not code:
        return Misconfigured if _NO_ENTRY.search(text) else Unreachable
    return next((kind for kind, states in _STATES.items() if code.startswith(states)), TryLater)


def _of_mariadb(number: object) -> type[HandlerError]:
    if not isinstance(number, int) or number == 0:
        return Unreachable
    return next((kind for kind, numbers in _NUMBERS.items() if number in numbers), TryLater)


def _of_sqlite(name: str) -> type[HandlerError]:
    kinds = (kind for kind, names in _NAMES.items() if name.startswith(names))
    return next(kinds, TryLater)


def _os_fault(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
