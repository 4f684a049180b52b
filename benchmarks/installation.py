"""An installation to measure: the database of ``evctl init --demo`` with many accounts."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from espf import subscriptions
from espf.crypto import Sealer
from espf.db.database import Database

ENV = 3
HANDLER = "EventSender"
ACCOUNTS = 1000


class Site:
    """One folder with a database and its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "espf.db"
        self.url = f"sqlite:///{self.path}"

    def init(self) -> None:
        """Set up, with accounts to change, and nothing waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "ESPF_DATABASE_URL": self.url,
            "ESPF_KEY_FILE": str(self.folder / "espf.key"),
            "ESPF_LOG": str(self.folder / "provisioning.log"),
            "ESPF_ADMIN_PASSWORD": "for-benchmarks-only",
        }
        command = [sys.executable, "-m", "espf", "init", "--demo"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        with self.billing() as billing:
            billing.executescript(
                "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                f"WHERE i < {ACCOUNTS}) "
                "INSERT INTO Accounts (i_env, i_customer, i_product, id, billing_model, "
                f"issue_date) SELECT {ENV}, 1, 1, 'a' || i, 1, '2026-01-01 00:00:00.000' FROM n; "
                "DELETE FROM Event_Notifications; DELETE FROM Event_Queue; COMMIT"
            )

    def copy(self, folder: Path) -> "Site":
        """Another one just like it."""
        shutil.copytree(self.folder, folder)
        return Site(folder)

    def billing(self, synchronous: str = "FULL") -> closing[sqlite3.Connection]:
        """A connection as a billing program has it."""
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return closing(connection)

    def change_all(self, times: int) -> None:
        """Block and unblock every account in turn; each change of each account is an event."""
        with self.billing() as billing:
            for _ in range(times):
                billing.execute(
                    "UPDATE Accounts SET blocked = CASE blocked WHEN 'Y' THEN 'N' ELSE 'Y' END"
                )

    def waiting(self) -> bool:
        """Whether anything is left to deliver."""
        with self.billing() as billing:
            return billing.execute("SELECT 1 FROM Event_Queue LIMIT 1").fetchone() is not None

    def database(self) -> Database:
        """ESPF's own way in."""
        return Database.open(self.url)

    def sealer(self) -> Sealer:
        """The keys."""
        return Sealer.open(self.folder / "espf.key")

    def configure(self, options: Mapping[str, object]) -> None:
        """Change options of the handler that the demo makes."""
        database = self.database()
        with database.begin() as connection:
            handler = subscriptions.require_handler(connection, ENV, HANDLER)
            subscriptions.set_options(connection, self.sealer(), handler, options)
        database.close()

    def replace_handler(self, type_name: str) -> None:
        """Give the demo handler's waiting work to one of another type, without options."""
        with self.billing() as billing:
            billing.execute(
                "UPDATE Event_Handlers SET type = ?, settings = ?, version = version + 1",
                (type_name, '{"Concurrency": 50}'),
            )
