"""What every section measures with: servers, sink, peers, installations; made when first used."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from benchmarks import peers
from benchmarks.servers import MariaDB, PostgreSQL, running_mariadb, running_postgresql
from benchmarks.sink import SinkProgram
from benchmarks.sites import Installation, OnMariaDB, OnPostgreSQL, OnSQLite


class Bench:
    """One run of the benchmarks, in a folder of its own."""

    def __init__(self, folder: Path, installed: Path, stack: ExitStack, *, quick: bool) -> None:
        """``installed`` is where the peers stay between runs; ``stack`` stops what was started."""
        self.folder = folder
        self.quick = quick
        self.rounds = 1 if quick else 3
        self._installed = installed
        self._stack = stack

    def sized(self, full: int, quick: int) -> int:
        """How much to do of something."""
        return quick if self.quick else full

    @cached_property
    def sinks(self) -> SinkProgram:
        """The application at the other end."""
        return SinkProgram(self.folder)

    @cached_property
    def postgresql(self) -> PostgreSQL:
        """The server that ESPF and the peers share."""
        return self._stack.enter_context(running_postgresql(self.folder / "postgresql"))

    @cached_property
    def mariadb(self) -> MariaDB:
        """A server of ESPF's own."""
        return self._stack.enter_context(running_mariadb(self.folder / "mariadb"))

    @cached_property
    def peers(self) -> list[peers.Peer]:
        """Everybody else."""
        return peers.install(self._installed, self.postgresql, self.sinks.url)

    @cached_property
    def installations(self) -> Mapping[str, Installation]:
        """ESPF on each of the databases."""
        made = [
            OnPostgreSQL(self._keys("on-postgresql"), self.sinks.url, self.postgresql),
            OnMariaDB(self._keys("on-mariadb"), self.sinks.url, self.mariadb),
            OnSQLite(self._keys("on-sqlite"), self.sinks.url),
        ]
        return {each.name: each for each in made}

    def _keys(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder
