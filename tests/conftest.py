"""What the suites share: databases with ESPF's tables, installations, and keys."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings
from sqlalchemy import MetaData

from databases import (
    Store,
    database_url,
    pytest_addoption,
    pytest_configure,
    pytest_generate_tests,
    store,
    stores,
)
from desk import PASSWORD, Desk
from espf import crypto, subscriptions, tokens
from espf.billing.tables import metadata as billing_tables
from espf.crypto import Sealer
from espf.db import schema
from espf.db.database import Database

__all__ = (
    "database_url",
    "pytest_addoption",
    "pytest_configure",
    "pytest_generate_tests",
    "store",
    "stores",
)


# A slow machine is no fault of the code; and where a build is decided, each run tries the same.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin what is long at once: nobody shall wait for it alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


# Checking a password is to take its time; here only child processes do it so.
crypto._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def database(store: Store, key_file: Path) -> Iterator[Database]:
    """An open database with ESPF's tables, the catalogue, and what signs tokens; nothing else."""
    if not store.holds("espf"):
        _set_up(store.empty(), Sealer.open(key_file))
        store.keep("espf")
    yield from _opened(store.restore("espf"))


@pytest.fixture
def billing_database(store: Store, key_file: Path) -> Iterator[Database]:
    """The same with the tables of the reference billing, which are empty."""
    if not store.holds("billing"):
        _set_up(store.empty(), Sealer.open(key_file), billing_tables)
        store.keep("billing")
    yield from _opened(store.restore("billing"))


def _opened(url: str) -> Iterator[Database]:
    opened = Database.open(url)
    yield opened
    # A read that nobody waits for any more may still be running in its thread.
    opened._readers.shutdown()
    opened._writer.shutdown()
    checked_out = opened._engine.pool.checkedout()
    opened.close()
    assert checked_out == 0, "a connection was not given back"


def _set_up(url: str, sealer: Sealer, more: MetaData | None = None) -> None:
    opened = Database.open(url)
    with opened.begin() as connection:
        schema.set_up(connection, opened.dialect)
        subscriptions.add_catalogue(connection)
        tokens.add_key(connection, sealer, opened.now(connection))
        if more is not None:
            more.create_all(connection)
    opened.close()


@pytest.fixture(scope="session")
def installations(
    tmp_path_factory: pytest.TempPathFactory, stores: Callable[[str], Store]
) -> Callable[[str], Path]:
    """The folder of what `evctl init --demo` makes, by database, which the store keeps.

    Copy it: hashing passwords takes its time.
    """

    @cache
    def installation(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("installation")
        desk = Desk(folder, stores(kind).empty())
        desk("init", "--demo", ESPF_ADMIN_PASSWORD=PASSWORD)
        stores(kind).keep("installation")
        return folder

    return installation


@pytest.fixture
def desk(
    tmp_path: Path,
    installations: Callable[[str], Path],
    database_kind: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    """evctl over a fresh installation with demo data."""
    monkeypatch.chdir(tmp_path)
    template = installations(database_kind)
    desk = Desk(tmp_path, store.restore("installation"))
    desk.install(template)
    return desk


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys for the databases of all tests: a key that signs takes its time to make."""
    path = tmp_path_factory.mktemp("keys") / "espf.key"
    Sealer.create(path)
    return path


@pytest.fixture
def sealer(tmp_path: Path, key_file: Path) -> Sealer:
    """The keys that open what is sealed in ``database``."""
    shutil.copyfile(key_file, tmp_path / "espf.key")
    return Sealer.open(tmp_path / "espf.key")
