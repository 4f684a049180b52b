"""What the tests of handlers of real systems share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from espf.crypto import Sealer
from town import Town


@pytest.fixture
def town(tmp_path: Path, key_file: Path) -> Iterator[Town]:
    """A billing with its triggers, on SQLite; nobody lives there yet."""
    made = Town(f"sqlite:///{tmp_path / 'billing.db'}", Sealer.open(key_file))
    yield made
    made.close()
