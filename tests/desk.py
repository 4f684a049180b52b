"""The desk of an administrator, for the test suites: evctl over an installation of its own."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result
from sqlalchemy import Executable, select

from espf.billing.tables import products, sim_cards
from espf.cli import main
from espf.crypto import Sealer
from espf.db.database import Database

COMMANDS = Path(sys.executable).parent

#: What `evctl init` gives to the login admin in the template.
PASSWORD = "correct horse battery"


def members(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command


class Desk:
    """evctl in one folder: in this process, where speed matters, or as a child."""

    def __init__(self, folder: Path, database_url: str | None = None) -> None:
        self.folder = folder
        #: What the database lives in, where it is SQLite.
        self.database_file = folder / "var/espf.db"
        if database_url is not None and database_url.startswith("sqlite:"):
            self.database_file = Path(database_url.removeprefix("sqlite:///"))
        self.key_file = folder / "var/espf.key"
        self.log_file = folder / "var/provisioning.log"
        self.environment = {
            "ESPF_DATABASE_URL": database_url or f"sqlite:///{self.database_file}",
            "ESPF_KEY_FILE": str(self.key_file),
            "ESPF_LOG": str(self.log_file),
            "ESPF_LISTEN": "127.0.0.1:0",
            "ESPF_METRICS_LISTEN": "127.0.0.1:0",
        }

    def install(self, template: Path) -> None:
        """Put a copy of an installation's files here."""
        shutil.copytree(template / "var", self.folder / "var")

    def run(self, *words: object, stdin: str | bytes | None = None, **environment: str) -> Result:
        """Run evctl in this process."""
        return CliRunner().invoke(
            main,
            [str(word) for word in words],
            input=stdin,
            env={**self.environment, **environment},
        )

    def __call__(self, *words: object, **options: Any) -> str:
        """Run evctl in this process; returns what it printed. It must succeed."""
        result = self.run(*words, **options)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: object) -> Any:
        """What a command prints with --json."""
        return json.loads(self(*words, "--json"))

    def fails(self, code: int, *words: object, **options: Any) -> str:
        """Run evctl in this process; it must fail with this code, and say why in one line."""
        result = self.run(*words, **options)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        return one_line(result.stderr)

    def child(
        self, *words: str, name: str = "evctl", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run evctl as a process of its own, to its end."""
        return subprocess.run(
            [COMMANDS / name, *words],
            cwd=self.folder,
            env={**os.environ, **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start evctl as a process of its own; its standard error can be read."""
        return subprocess.Popen(
            [COMMANDS / "evctl", *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """`evctl run` as a child process, stopped gently; gives the address of its APIs."""
        process = self.start("run")
        assert process.stderr is not None
        try:
            line = await asyncio.to_thread(process.stderr.readline)
            found = re.search(r"listening on (http://\S+)", line)
            assert found, line
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            # Others go on answering meanwhile: what is in flight is finished.
            _, rest = await asyncio.to_thread(process.communicate, timeout=90)
        assert process.returncode == 0
        assert "Traceback" not in rest

    def execute(self, statement: Executable) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; returns the rows."""
        with closing(self.database()) as database, database.begin() as connection:
            result = connection.execute(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    def sql(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What any other program may do to a database of SQLite."""
        with closing(sqlite3.connect(self.database_file)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    def database(self) -> Database:
        return Database.open(self.environment["ESPF_DATABASE_URL"])

    def sealer(self) -> Sealer:
        return Sealer.open(self.key_file)


def one_line(errors: str) -> str:
    """The message of a command: one line, after what click says about usage."""
    assert "Traceback" not in errors
    *usage, message = errors.rstrip("\n").split("\n")
    assert not usage or usage[0].startswith("Usage: "), errors
    assert message.startswith(("evctl: ", "Error: ")), errors
    return message


def call(base: str, service_and_method: str, token: str | None = None, **params: Any) -> Any:
    """A request of an application to the billing API."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps({"params": params}).encode()
    request = urllib.request.Request(f"{base}/rest/{service_and_method}", body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def new_account(desk: Desk, base: str) -> int:
    """Create a mobile account with a SIM card, as in the handbook's "Run tests"."""
    database = desk.database()
    with database.read() as connection:
        i_product = connection.execute(select(products.c.i_product)).scalar_one()
        i_sim_card = connection.execute(select(sim_cards.c.i_sim_card).limit(1)).scalar_one()
    database.close()
    token = call(base, "Session/login", login="admin", password=PASSWORD)["access_token"]
    account = {
        "id": "380441234567",
        "i_customer": 1,
        "i_product": i_product,
        "billing_model": 1,
        "i_account_balance_control_type": 2,
        "h323_password": "s3rvice-pass",
    }
    i_account = call(base, "Account/add_account", token, account_info=account)["i_account"]
    call(base, "SIMCard/assign_sim_card", token, i_sim_card=i_sim_card, i_account=i_account)
    return int(i_account)
