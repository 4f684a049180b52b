"""ESPF as it is installed: ``evctl init --demo`` with many accounts, on each of the databases.

Everything goes through the command line and through SQL that a billing program could have
written, so that what is measured is what users have.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure import BenchError
from benchmarks.servers import MariaDB, PostgreSQL
from benchmarks.side import Load, Process, Side, Stock, program, until

ENV = 3
ACCOUNTS = 1000
HANDLERS = ("EventSender", "Second")
CONCURRENCY = 50

Options = Mapping[str, object]

#: How the handlers send: waiting for replies, or at a rate that does not slow them down.
SYNC: Options = {"EventSender.AsyncMode": "off", "Concurrency": CONCURRENCY}
ASYNC: Options = {
    "EventSender.AsyncMode": "on",
    "EventSender.TokenRate": 10_000,
    "EventSender.TokenBurstiness": 10_000,
}

_CHANGE_ALL = "UPDATE {accounts} SET blocked = CASE blocked WHEN 'Y' THEN 'N' ELSE 'Y' END"


class Cursor(Protocol):
    """What is common to the three drivers."""

    def execute(self, statement: str, /) -> Any:
        """Run one statement."""

    def fetchone(self) -> Any:
        """The next row, or None."""


class Site(Stock):
    """One installation: a database and its keys."""

    #: What stands before the names of ESPF's own tables.
    home = ""

    def __init__(self, url: str, folder: Path, log: Path) -> None:
        self.url = url
        self.folder = folder
        self.log = log

    @abstractmethod
    def cursor(self) -> AbstractContextManager[Cursor]:
        """A connection as a billing program has it; each statement is a transaction."""

    def table(self, name: str) -> str:
        """A table of the billing, ready for a statement."""
        return name

    def accounts(self) -> str:
        """The billing's table of accounts, ready for a statement."""
        return self.table("Accounts")

    def ask(self, statement: str) -> Any:
        """The first column of the first row."""
        with self.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
        return None if row is None else row[0]

    def say(self, *statements: str) -> None:
        """Run statements."""
        with self.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def init(self, sink_url: str) -> None:
        """Set up: accounts to change, two handlers, the second one off, nothing waiting."""
        self.evctl("init", "--demo")
        none = {"EventSender.AuthMethod": "None", "EventSender.URL": sink_url}
        second = [f"--set={name}={value}" for name, value in none.items()]
        self.configure(none)
        self.evctl(
            "handler", "create", ENV, HANDLERS[1], "--type=EventSender", "--disabled", *second
        )
        values = ", ".join(
            f"({ENV}, 1, 1, 'a{number}', 1, '2026-01-01 00:00:00')" for number in range(ACCOUNTS)
        )
        self.say(
            f"INSERT INTO {self.accounts()} (i_env, i_customer, i_product, id, billing_model, "
            f"issue_date) VALUES {values}",
            f"DELETE FROM {self.home}Event_Notifications",
            f"DELETE FROM {self.home}Event_Queue",
        )

    def configure(self, options: Mapping[str, object], handler: str = HANDLERS[0]) -> None:
        """Change options of a handler."""
        self.evctl("handler", "set", ENV, handler, *(f"{k}={v}" for k, v in options.items()))

    def change_all(self, times: int) -> None:
        """Block and unblock every account in turn; each change of each account is an event."""
        self.say(*[_CHANGE_ALL.format(accounts=self.accounts())] * times)

    def evctl(self, *words: object) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "espf", *map(str, words)],
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"evctl {' '.join(map(str, words))}: {done.stderr[-2000:]}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Where things are."""
        return {
            "ESPF_DATABASE_URL": self.url,
            "ESPF_KEY_FILE": str(self.folder / "espf.key"),
            "ESPF_LOG": str(self.folder / "provisioning.log"),
            "ESPF_ADMIN_PASSWORD": "for-benchmarks-only",
            "ESPF_LISTEN": f"127.0.0.1:{self.port}",
        }

    @cached_property
    def port(self) -> int:
        """Where its APIs listen, when they do."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            return int(free.getsockname()[1])

    @contextmanager
    def serving(self) -> Iterator[Process]:
        """One process that serves the APIs, for handlers that ask the billing."""
        web = [sys.executable, "-m", "espf", "web"]
        with program(web, self.environment(), self.log) as process:
            until(self._answers, f"port {self.port}")
            yield process

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def working(self) -> AbstractContextManager[Process]:
        """One worker process."""
        return program([sys.executable, "-m", "espf", "worker"], self.environment(), self.log)

    def wait_until_done(self) -> float:
        """Ask for events that are not done with."""
        with self.cursor() as cursor:

            def done() -> bool:
                cursor.execute(f"SELECT 1 FROM {self.home}Event_Queue LIMIT 1")
                return cursor.fetchone() is None

            return until(done, f"the queue of {self.url} is not empty")

    def trickle(self, seconds: int, per_second: int) -> list[float]:
        """A billing program of its own process changes one account after another."""
        command = [sys.executable, "-m", "benchmarks.billing", self.url, self.accounts()]
        done = subprocess.run(
            [*command, str(seconds * per_second), str(per_second)],
            capture_output=True,
            text=True,
            check=True,
        )
        return list(json.loads(done.stdout)["at"])


class PostgreSQLSite(Site):
    """ESPF's tables in the schema espf of the billing's database."""

    home = "espf."

    def __init__(self, server: PostgreSQL, database: str, folder: Path) -> None:
        super().__init__(server.url(database), folder, server.folder.parent / "espf.log")
        self.database = database
        self.server = server

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """A connection of psycopg."""
        with self.server.connect(self.database) as connection:
            yield connection.cursor()

    def table(self, name: str) -> str:
        """The name as the database has it: folded or not."""
        found = self.ask(
            "SELECT table_name FROM information_schema.tables "
            f"WHERE lower(table_name) = '{name.lower()}' AND table_schema = 'public'"
        )
        return f'"{found}"'


class MariaDBSite(Site):
    """ESPF's tables in a database beside the billing's."""

    home = "espf."

    def __init__(self, server: MariaDB, folder: Path) -> None:
        super().__init__(server.url("billing"), folder, server.folder.parent / "espf.log")
        self.server = server

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """A connection of PyMySQL."""
        with self.server.connect("billing") as connection, connection.cursor() as cursor:
            yield cursor


class SQLiteSite(Site):
    """Everything in one file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder / 'espf.db'}", folder, folder.parent / "espf.log")
        self.path = folder / "espf.db"

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """A connection of the standard library."""
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection.cursor()


Fill = Callable[[Site], None]


class Installation(ABC):
    """ESPF on one of the databases, as many times as needed."""

    name: str

    def __init__(self, folder: Path, sink_url: str) -> None:
        self.folder = folder
        self.sink_url = sink_url
        self._made: set[str] = set()

    @abstractmethod
    def filled(self, key: str, fill: Fill) -> AbstractContextManager[Site]:
        """A new site, filled; or a copy of one that was filled under this key before."""

    def fresh(self) -> AbstractContextManager[Site]:
        """A new site in which nothing waits."""
        return self.filled("empty", lambda _: None)


class OnPostgreSQL(Installation):
    """Templates are databases, and so are the copies."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, sink_url: str, server: PostgreSQL) -> None:
        super().__init__(folder, sink_url)
        self._server = server

    @contextmanager
    def filled(self, key: str, fill: Fill) -> Iterator[Site]:
        """A copy of a database that was filled once."""
        self._make("espf_base", "template1", lambda site: site.init(self.sink_url))
        template = f"espf_{key}"
        self._make(template, "espf_base", fill)
        self._server.create("espf_run", template)
        try:
            yield self._site("espf_run")
        finally:
            self._server.drop("espf_run")

    def forget(self, key: str) -> None:
        """Give back the space of what was filled."""
        self._server.drop(f"espf_{key}")
        self._made.discard(f"espf_{key}")

    def _make(self, database: str, template: str, fill: Fill) -> None:
        if database not in self._made:
            self._server.drop(database)
            self._server.create(database, template)
            site = self._site(database)
            fill(site)
            site.say("VACUUM ANALYZE")
            self._made.add(database)

    def _site(self, database: str) -> Site:
        return PostgreSQLSite(self._server, database, self.folder)


class OnMariaDB(Installation):
    """It cannot copy a database, so each is made and filled anew."""

    name = "MariaDB"

    def __init__(self, folder: Path, sink_url: str, server: MariaDB) -> None:
        super().__init__(folder, sink_url)
        self._server = server

    @contextmanager
    def filled(self, key: str, fill: Fill) -> Iterator[Site]:  # noqa: ARG002  (nothing is kept)
        """A new one each time."""
        with tempfile.TemporaryDirectory(dir=self.folder) as keys:
            for database in ("espf", "billing"):
                self._server.drop(database)
            self._server.create("billing")
            site = MariaDBSite(self._server, Path(keys))
            site.init(self.sink_url)
            fill(site)
            yield site


class OnSQLite(Installation):
    """Templates are folders, and so are the copies."""

    name = "SQLite"

    @contextmanager
    def filled(self, key: str, fill: Fill) -> Iterator[Site]:
        """A copy of a folder that was filled once."""
        self._make("base", None, lambda site: site.init(self.sink_url))
        self._make(key, "base", fill)
        with tempfile.TemporaryDirectory(dir=self.folder) as copy:
            shutil.copytree(self.folder / key, copy, dirs_exist_ok=True)
            # What was copied is on the disk before anything is measured.
            os.sync()
            yield SQLiteSite(Path(copy))

    def _make(self, key: str, base: str | None, fill: Fill) -> None:
        folder = self.folder / key
        if key not in self._made:
            if base is None:
                folder.mkdir()
            else:
                shutil.copytree(self.folder / base, folder)
            fill(SQLiteSite(folder))
            self._made.add(key)


class Espf(Side):
    """ESPF on one of the databases, with one way of sending."""

    def __init__(self, name: str, installation: Installation, options: Options) -> None:
        self.name = name
        self._installation = installation
        self._options = options

    def stocked(self, load: Load) -> AbstractContextManager[Stock]:
        """An installation in which the load waits, made by the billing through the triggers."""
        if load.events % ACCOUNTS:
            raise BenchError(f"events come by the {ACCOUNTS}")
        way = "async" if self._options is ASYNC else "sync"

        def fill(site: Site) -> None:
            for handler in HANDLERS[: load.handlers]:
                site.configure(self._options, handler)
            if load.handlers == len(HANDLERS):
                site.evctl("handler", "enable", ENV, HANDLERS[1])
            site.change_all(load.events // ACCOUNTS)

        return self._installation.filled(f"{way}_{load.events}_{load.handlers}", fill)
