"""Every test that asks for a database runs on SQLite, PostgreSQL and MariaDB.

``pytest --databases sqlite`` runs on some of them. A test that is about one database by its nature
says so: ``@pytest.mark.databases("postgresql")``. A test that asks for ``bulk`` as well runs on
PostgreSQL a second time, with triggers for tables that are written in bulk.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import Connection

from servers import MariaDB, PostgreSQL

DATABASES = ("sqlite", "postgresql", "mariadb")

#: For a test of what is decided before a database is asked, or in a worker's memory: one is as good
#: as another.
whatever_the_database = pytest.mark.databases("sqlite")


class Store(Protocol):
    """Where databases come from; a server offers the same."""

    def url(self, name: str = "billing") -> str:
        """The URL of a database; there need not be one of this name."""

    def empty(self, name: str = "billing") -> str:
        """Make an empty database in place of one of this name; returns its URL."""

    def keep(self, label: str, name: str = "billing") -> None:
        """Keep what a database holds, triggers and all, under a label. Nobody may be using it."""

    def holds(self, label: str, name: str = "billing") -> bool:
        """Whether the database was kept under this label."""

    def restore(self, label: str, name: str = "billing") -> str:
        """Make the database again as it was kept, under the same name; returns its URL."""


class SQLite:
    """Databases in the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, name: str = "billing") -> str:
        return f"sqlite:///{self._file(name)}"

    def empty(self, name: str = "billing") -> str:
        for end in ("", "-wal", "-shm"):
            Path(f"{self._file(name)}{end}").unlink(missing_ok=True)
        return self.url(name)

    def keep(self, label: str, name: str = "billing") -> None:
        shutil.copyfile(self._file(name), self._file(f"{label}.{name}"))

    def holds(self, label: str, name: str = "billing") -> bool:
        return self._file(f"{label}.{name}").exists()

    def restore(self, label: str, name: str = "billing") -> str:
        self.empty(name)
        shutil.copyfile(self._file(f"{label}.{name}"), self._file(name))
        return self.url(name)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.db"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--databases",
        type=_chosen,
        default=DATABASES,
        metavar="NAME,...",
        help=f"run the tests on these databases only; default: {','.join(DATABASES)}",
    )


def _chosen(names: str) -> tuple[str, ...]:
    chosen = tuple(names.split(","))
    if unknown := set(chosen) - set(DATABASES):
        raise pytest.UsageError(f"--databases: {', '.join(unknown)}? Known: {', '.join(DATABASES)}")
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "databases(name, ...): the test is about these databases by its nature"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_kind" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("databases")
        suited = marker.args if marker else DATABASES
        chosen = metafunc.config.getoption("--databases")
        kinds = [name for name in suited if name in chosen]
        if "bulk" not in metafunc.fixturenames:
            metafunc.parametrize("database_kind", kinds)
            return
        ways = [pytest.param(name, False, id=name) for name in kinds]
        if "postgresql" in kinds:
            ways.append(pytest.param("postgresql", True, id="postgresql-bulk"))
        metafunc.parametrize(("database_kind", "bulk"), ways)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Store]]:
    """The stores by kind; a server is started when it is needed for the first time."""
    with ExitStack() as opened:
        known: dict[str, Store] = {}

        def store(kind: str) -> Store:
            if kind not in known:
                if kind == "sqlite":
                    known[kind] = SQLite(tmp_path_factory.mktemp("sqlite"))
                else:
                    server = {"postgresql": PostgreSQL, "mariadb": MariaDB}[kind]
                    known[kind] = opened.enter_context(server())
            return known[kind]

        yield store


def rows_read(connection: Connection, work: Callable[[], object]) -> int:
    """How many rows the database looks at; in SQLite, what its machine could do with so many."""
    if connection.dialect.name == "sqlite":
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        raw = connection.connection.driver_connection
        raw.set_progress_handler(tick, 10)
        work()
        raw.set_progress_handler(None, 10)
        return count
    query = {
        "postgresql": "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) "
        "FROM pg_stat_xact_user_tables",
        "mysql": "SELECT sum(VARIABLE_VALUE) FROM information_schema.SESSION_STATUS "
        "WHERE VARIABLE_NAME LIKE 'Handler_read%%'",
    }[connection.dialect.name]
    before = connection.exec_driver_sql(query).scalar_one()
    work()
    return int(connection.exec_driver_sql(query).scalar_one() - before)


@pytest.fixture
def store(database_kind: str, stores: Callable[[str], Store]) -> Store:
    """Where the test's databases come from: `billing` and whatever other name it wants."""
    return stores(database_kind)


@pytest.fixture
def database_url(store: Store) -> str:
    """The URL of an empty database."""
    return store.empty()
