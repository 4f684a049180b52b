"""What the suites share: a database with ESPF's tables, and a house that delivers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from desk import PASSWORD, Desk
from espf import subscriptions
from espf.crypto import Sealer
from espf.db import tables
from espf.db.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An open database with ESPF's tables and the catalogue, nothing else."""
    opened = Database.open(f"sqlite:///{tmp_path / 'espf.db'}")
    with opened.begin() as connection:
        tables.metadata.create_all(connection)
        subscriptions.add_catalogue(connection)
    yield opened
    # A read that nobody waits for any more may still be running in its thread.
    opened._readers.shutdown()
    opened._writer.shutdown()
    checked_out = opened._engine.pool.checkedout()
    opened.close()
    assert checked_out == 0, "a connection was not given back"


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what `evctl init --demo` makes. Copy it: hashing passwords takes its time."""
    folder = tmp_path_factory.mktemp("installation")
    Desk(folder)("init", "--demo", ESPF_ADMIN_PASSWORD=PASSWORD)
    return folder


@pytest.fixture
def desk(tmp_path: Path, installation: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """evctl over a fresh installation with demo data."""
    monkeypatch.chdir(tmp_path)
    desk = Desk(tmp_path)
    desk.install(installation)
    return desk


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    """Fresh keys."""
    return Sealer.create(tmp_path / "espf.key")
