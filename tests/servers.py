"""Database servers for the test suites: a PostgreSQL and a MariaDB that belong to the tests alone.

Each is a child process over a new data folder, reached through a socket in that folder. A test that
stops, kills or freezes a server makes one of its own; all others share one per test process.
However the test process ends, its servers end, too, and their folders are removed.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psycopg
import pymysql

#: A server that is not ready, or not gone, by then never will be.
PATIENCE_SECONDS = 60

#: Waits for the end of the test process, in which its standard input closes; then kills whoever
#: works in the folder, also who is frozen, and removes it. A server may be making files meanwhile.
_GUARD = """
cat >/dev/null
while [ -d "$0" ]; do
  for cwd in $(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$0*"); do
    process=${cwd#/proc/}
    kill -9 "${process%/cwd}"
  done
  rm -rf "$0"
done 2>/dev/null
"""


class Server(ABC):
    """A running database server. ``close`` ends it for good; it is a context manager, too.

    With ``tcp`` it listens on a port of 127.0.0.1 and its URLs name that port, not the socket.
    The databases are called by name; an URL names a billing database that ESPF attaches to.
    """

    def __init__(self, *, tcp: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="espf-"))
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, self.folder], stdin=subprocess.PIPE, start_new_session=True
        )
        self.port = _free_port() if tcp else None
        self._kept: set[tuple[str, str]] = set()
        self._process: subprocess.Popen[bytes] | None = None
        # A database server refuses to run as root.
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        try:
            self._install()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @abstractmethod
    def url(self, name: str = "billing") -> str:
        """The URL of a database; there need not be one of this name."""

    @abstractmethod
    def empty(self, name: str = "billing") -> str:
        """Make an empty database in place of one of this name; returns its URL."""

    @abstractmethod
    def keep(self, label: str, name: str = "billing") -> None:
        """Keep what a database holds, triggers and all, under a label. Nobody may be using it."""

    def holds(self, label: str, name: str = "billing") -> bool:
        """Whether the database was kept under this label."""
        return (label, name) in self._kept

    @abstractmethod
    def restore(self, label: str, name: str = "billing") -> str:
        """Make the database again as it was kept, under the same name; returns its URL."""

    @abstractmethod
    def ping(self) -> None:
        """Raise OSError or the driver's OperationalError unless the server takes connections."""

    def start(self) -> None:
        """Start the server over the data that it has; return when it takes connections."""
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder / "data",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._user,  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.ping()
            except (OSError, psycopg.OperationalError, pymysql.OperationalError):
                gone = self._process.poll() is not None
                if gone or time.monotonic() > deadline:
                    last = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the server does not start:\n{last}") from None
                time.sleep(0.01)

    def stop(self) -> None:
        """Shut the server down as an administrator does: sessions are ended, data is written."""
        self._send(self._stop_signal)
        self._gone()

    def kill(self) -> None:
        """End every process of the server at once, as a power cut does."""
        self._send_all(signal.SIGKILL)
        self._gone()

    def pause(self) -> None:
        """Freeze the server: connections stay, and nobody answers."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._send_all(signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Frozen for as long as the block lasts."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        """End the server and remove its folder."""
        self._guard.communicate()
        if self._process is not None:
            self._process.wait()

    @abstractmethod
    def _install(self) -> None:
        """Make the data folder, ``data``."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts the server in the foreground."""

    _stop_signal: signal.Signals

    def _run(self, *command: str, stdin: bytes | None = None) -> bytes:
        """Run a tool of the server as the server's user; returns what it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            check=False,
            **self._user,  # type: ignore[call-overload]
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')}")
        return bytes(done.stdout)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _send_all(self, number: signal.Signals) -> None:
        """The parent first, so that it starts nobody anew."""
        assert self._process is not None
        self._send(number)
        parent = self._process.pid
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _gone(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE_SECONDS)


class PostgreSQL(Server):
    """A PostgreSQL in which everybody may do everything as the user ``espf``."""

    # Ends the sessions, too, instead of waiting for them.
    _stop_signal = signal.SIGINT

    def url(self, name: str = "billing") -> str:
        if self.port is not None:
            return f"postgresql://espf@127.0.0.1:{self.port}/{name}"
        return f"postgresql://espf@/{name}?host={self.folder}"

    def empty(self, name: str = "billing") -> str:
        return self._create(name, "template0")

    def keep(self, label: str, name: str = "billing") -> None:
        self._create(f"{label}.{name}", name)
        self._kept.add((label, name))

    def restore(self, label: str, name: str = "billing") -> str:
        return self._create(name, f"{label}.{name}")

    def ping(self) -> None:
        self._execute("SELECT 1")

    def _create(self, name: str, template: str) -> str:
        self._execute(
            f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)',
            # Copying files is the quickest way where nothing is synchronised.
            f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy',
        )
        return self.url(name)

    def _execute(self, *statements: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=30) as server:
            for statement in statements:
                server.execute(statement)

    def _install(self) -> None:
        options = ("-U", "espf", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self._run(_binary("initdb"), "-D", str(self.folder / "data"), *options)

    def _command(self) -> list[str]:
        settings = {
            "unix_socket_directories": self.folder,
            "listen_addresses": "" if self.port is None else "127.0.0.1",
            "port": self.port or 5432,
            "max_connections": 100,
            "shared_buffers": "32MB",
            "fsync": "off",
            "full_page_writes": "off",
            # Whoever relies on the server's own time zone shall notice.
            "timezone": "Asia/Kolkata",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [_binary("postgres"), "-D", str(self.folder / "data"), *options]


class MariaDB(Server):
    """A MariaDB in which ``root`` may do everything without a password.

    ``empty``, ``keep`` and ``restore`` take the schema of ESPF along with the billing database:
    ``espf`` with ``billing``, ``espf_NAME`` with any other NAME.
    """

    _stop_signal = signal.SIGTERM

    def __init__(self, *, tcp: bool = False) -> None:
        # By label and name: the statements that put the rows back.
        self._rows: dict[tuple[str, str], list[str]] = {}
        # By name: what was restored last, and its files then.
        self._restored: dict[str, tuple[str, list[tuple[str, int, int]]]] = {}
        super().__init__(tcp=tcp)

    def url(self, name: str = "billing") -> str:
        schema = [] if name == "billing" else [f"espf_schema={_espf_schema(name)}"]
        if self.port is not None:
            return "?".join([f"mysql://root@127.0.0.1:{self.port}/{name}", *schema])
        where = f"unix_socket={self._socket}"
        return f"mysql://root@localhost/{name}?{'&'.join([where, *schema])}"

    def empty(self, name: str = "billing") -> str:
        self._restored.pop(name, None)
        with self._connect() as server, server.cursor() as cursor:
            for each in (name, _espf_schema(name)):
                cursor.execute(f"DROP DATABASE IF EXISTS `{each}`")
            cursor.execute(f"CREATE DATABASE `{name}`")
        return self.url(name)

    def keep(self, label: str, name: str = "billing") -> None:
        with self._connect() as server, server.cursor() as cursor:
            cursor.execute("SHOW DATABASES")
            there = {row[0] for row in cursor.fetchall()} & {name, _espf_schema(name)}
        # Whoever hears of changes of the billing's tables comes after them.
        databases = sorted(there, key=lambda each: each != name)
        dump = (_binary("mariadb-dump"), *self._client, "--databases", *databases)
        (self.folder / f"{label}.{name}.sql").write_bytes(self._run(*dump))
        bare = ("--no-create-db", "--no-create-info", "--skip-triggers", "--compact")
        rows = self._run(*dump, *bare).decode().split(";\n")
        self._rows[label, name] = [statement for statement in rows if statement.strip()]
        self._kept.add((label, name))

    def restore(self, label: str, name: str = "billing") -> str:
        # To make tables takes ten times as long as to fill them.
        if self._restored.pop(name, None) == (label, self._files(name)):
            self._put_rows_back(label, name)
        else:
            self.empty(name)
            kept = (self.folder / f"{label}.{name}.sql").read_bytes()
            self._run(_binary("mariadb"), *self._client, stdin=kept)
        self._restored[name] = label, self._files(name)
        return self.url(name)

    def _put_rows_back(self, label: str, name: str) -> None:
        schemas = f"('{name}', '{_espf_schema(name)}')"
        with self._connect() as server, server.cursor() as cursor:
            cursor.execute(f"SELECT id FROM information_schema.PROCESSLIST WHERE db IN {schemas}")
            for (session,) in cursor.fetchall():
                with suppress(pymysql.OperationalError):
                    cursor.execute(f"KILL {session}")
            cursor.execute("SET foreign_key_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
            for table in self._touched(cursor, name):
                cursor.execute(f"TRUNCATE {table}")
            for statement in self._rows[label, name]:
                cursor.execute(statement)
            server.commit()

    @staticmethod
    def _touched(cursor: "pymysql.cursors.Cursor", name: str) -> list[str]:
        """Tables that hold rows, or have given numbers."""
        cursor.execute(
            "SELECT concat('`', replace(NAME, '/', '`.`'), '`'), AUTOINC > 1 "
            "FROM information_schema.INNODB_SYS_TABLESTATS "
            f"WHERE NAME LIKE '{name}/%' OR NAME LIKE '{_espf_schema(name)}/%'"
        )
        tables = dict(cursor.fetchall())
        parts = [f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in tables]
        cursor.execute(" UNION ALL ".join(parts))
        filled = {table for (table,) in cursor.fetchall()}
        return [table for table, counts in tables.items() if counts or table in filled]

    def _files(self, name: str) -> list[tuple[str, int, int]]:
        """What is other when somebody has changed a table or a trigger: each has a file."""
        folders = [self.folder / "data" / each for each in (name, _espf_schema(name))]
        files = [file for folder in folders if folder.exists() for file in folder.iterdir()]
        known = [(file.name, file.stat()) for file in files]
        return sorted((file, stat.st_ino, stat.st_mtime_ns) for file, stat in known)

    def ping(self) -> None:
        self._connect().close()

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    @property
    def _client(self) -> Sequence[str]:
        return ("--no-defaults", "--user=root", f"--socket={self._socket}")

    def _connect(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(
            unix_socket=str(self._socket), user="root", connect_timeout=30, ssl_disabled=True
        )

    def _install(self) -> None:
        self._run(
            _binary("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            # Servers that share a folder for it delete one another's files.
            f"--tmpdir={self.folder}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=32M",
            "--debug-no-sync",
        )

    def _command(self) -> list[str]:
        network = "--skip-networking"
        if self.port is not None:
            network = f"--bind-address=127.0.0.1 --port={self.port}"
        return [
            _binary("mariadbd"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            # Servers that share a folder for it delete one another's files.
            f"--tmpdir={self.folder}",
            f"--socket={self._socket}",
            f"--pid-file={self.folder / 'pid'}",
            *network.split(),
            # As Debian sets it up.
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_general_ci",
            # Whoever relies on the server's own time zone shall notice.
            "--default-time-zone=+05:30",
            "--max-connections=100",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=32M",
            # Nothing has to survive a power cut, and making a table shall be quick.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=0",
            "--innodb-file-per-table=0",
            "--innodb-stats-persistent=0",
            "--sync-frm=0",
            "--debug-no-sync",
        ]


def _espf_schema(name: str) -> str:
    return "espf" if name == "billing" else f"espf_{name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary(name: str) -> str:
    """The path of a server's program, in Debian's places or in the PATH."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name)
    )
    places = [*map(str, versions), os.environ.get("PATH", os.defpath), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise RuntimeError(
            f"There is no {name}. The tests need the Debian packages postgresql, mariadb-server "
            "and sqlite3: run scripts/need-servers"
        )
    return found
