"""A PostgreSQL and a MariaDB of the benchmarks' own: durable, on a socket, gone at the end.

As they come, but for what the size of the machine asks of anybody: 512 MB of buffers, and a log
that is long enough for no checkpoint to fall into one side's turn and not into another's.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pymysql

from benchmarks.measure import BenchError

_POSTGRESQL = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "100",
}
_MARIADB = {
    "skip-networking": "1",
    "innodb-flush-log-at-trx-commit": "1",
    "innodb-buffer-pool-size": "512M",
    "innodb-log-file-size": "2G",
    "performance-schema": "0",
    "skip-log-bin": "1",
}


class PostgreSQL:
    """A running server. Its superuser is called espf."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, pid: int, programs: Path) -> None:
        self.folder = folder
        self.pid = pid
        #: Where its tools are.
        self.programs = programs

    def url(self, database: str) -> str:
        """The address of a database, as ESPF and libpq have it."""
        return f"postgresql://espf@/{database}?host={self.folder}"

    def connect(self, database: str) -> psycopg.Connection:
        """A connection that commits each statement."""
        return psycopg.connect(self.url(database), autocommit=True)

    def create(self, database: str, template: str = "template1") -> None:
        """Make a database that is a copy of another one, and let the next run begin calmly."""
        with self.connect("postgres") as connection:
            # Statistics of the copy are the template's; a checkpoint makes the log start anew.
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}".encode())
            connection.execute("CHECKPOINT")

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected to it."""
        with self.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())

    def version(self) -> str:
        """What it calls itself, such as ``PostgreSQL 15.18``."""
        with self.connect("postgres") as connection:
            row = connection.execute("SHOW server_version").fetchone()
            assert row is not None
            return f"PostgreSQL {row[0].split()[0]}"


class MariaDB:
    """A running server. Its administrator is called root."""

    name = "MariaDB"

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        self.socket = folder / "mariadb.sock"

    def url(self, database: str) -> str:
        """The address of a database, as ESPF has it."""
        return f"mysql://root@localhost/{database}?unix_socket={self.socket}"

    def connect(self, database: str | None = None) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        """A connection that commits each statement."""
        return pymysql.connect(
            user="root", unix_socket=str(self.socket), database=database, autocommit=True
        )

    def create(self, database: str) -> None:
        """Make an empty database."""
        self._say(f"CREATE DATABASE {database}")

    def drop(self, database: str) -> None:
        """Remove a database."""
        self._say(f"DROP DATABASE IF EXISTS {database}")

    def version(self) -> str:
        """What it calls itself, such as ``MariaDB 10.11.14``."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version()")
            row = cursor.fetchone()
            assert row is not None
            return f"MariaDB {str(row[0]).split('-')[0]}"

    def _say(self, statement: str) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)


@contextmanager
def running_postgresql(folder: Path) -> Iterator[PostgreSQL]:
    """A PostgreSQL, for as long as the block lasts."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    newest = programs[-1].parent if programs else _installed("postgres", "postgresql").parent
    _prepare(folder, "postgres")
    data = folder / "data"
    _run("postgres", newest / "initdb", "-D", data, "-U", "espf", "-A", "trust", "-E", "UTF8")
    settings = [f"--{name}={value}" for name, value in _POSTGRESQL.items()]
    command: list[str | Path] = [newest / "postgres", "-D", data, "-k", folder, *settings]
    # SIGINT: it drops its clients and stops at once.
    with _running(command, "postgres", folder, signal.SIGINT) as process:
        server = PostgreSQL(folder, process.pid, newest)
        _wait_until_up(process, lambda: server.connect("postgres").close(), psycopg.Error)
        yield server


@contextmanager
def running_mariadb(folder: Path) -> Iterator[MariaDB]:
    """A MariaDB, for as long as the block lasts."""
    program = _installed("mariadbd", "mariadb-server")
    _prepare(folder, "mysql")
    data = folder / "data"
    _run(
        *("mysql", _installed("mariadb-install-db", "mariadb-server"), "--no-defaults"),
        *(
            f"--datadir={data}",
            f"--tmpdir={folder}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ),
    )
    settings = [f"--{name}={value}" for name, value in _MARIADB.items()]
    where = [f"--datadir={data}", f"--tmpdir={folder}", f"--socket={folder / 'mariadb.sock'}"]
    command: list[str | Path] = [program, "--no-defaults", *where, *settings]
    with _running(command, "mysql", folder, signal.SIGTERM) as process:
        server = MariaDB(folder, process.pid)
        _wait_until_up(process, lambda: server.connect().close(), pymysql.Error)
        yield server


def _installed(program: str, package: str) -> Path:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchError(f"{program} is not there; install the package {package}")
    return Path(found)


def _owner(user: str) -> str | None:
    """Neither server wants to be root; whoever else we are, we can run it as ourselves."""
    return user if os.geteuid() == 0 else None


def _prepare(folder: Path, user: str) -> None:
    folder.mkdir(parents=True)
    if _owner(user):
        shutil.chown(folder, user, user)


def _run(user: str, *command: str | Path) -> None:
    owner = _owner(user)
    done = subprocess.run(
        command, user=owner, group=owner, cwd="/", capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{command[0]} failed: {done.stderr or done.stdout}")


@contextmanager
def _running(
    command: list[str | Path], user: str, folder: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    owner = _owner(user)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            user=owner,
            group=owner,
            extra_groups=[] if owner else None,
            cwd="/",
            stdout=log,
            stderr=log,
            # Ctrl-C is for us: we stop it in our own time.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(
    process: subprocess.Popen[bytes], attempt: Callable[[], None], error: type[Exception]
) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            attempt()
        except error as trouble:
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"the server does not start: {trouble}") from trouble
            time.sleep(0.05)
        else:
            return


def process_tree(pid: int) -> list[int]:
    """A server's process and its children at this moment."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
