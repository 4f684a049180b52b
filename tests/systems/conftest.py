"""What the tests of handlers of real systems share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from espf.crypto import Sealer
from town import Town, found


@pytest.fixture(scope="session")
def site_of_a_town(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Path:
    """The file of a database in which a town can be: to make it takes its time, to copy it none."""
    path = tmp_path_factory.mktemp("town") / "billing.db"
    found(f"sqlite:///{path}", Sealer.open(key_file))
    return path


@pytest.fixture
def town(tmp_path: Path, key_file: Path, site_of_a_town: Path) -> Iterator[Town]:
    """A billing with its triggers, on SQLite; nobody lives there yet."""
    path = tmp_path / "billing.db"
    shutil.copyfile(site_of_a_town, path)
    made = Town(f"sqlite:///{path}", Sealer.open(key_file))
    yield made
    made.close()
