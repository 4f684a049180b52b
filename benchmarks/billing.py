"""A billing program in a process of its own: one account after another, a commit each.

Tells, as JSON, for each change the moment at which it was committed and the seconds that the
transaction took. ``python -m benchmarks.billing URL TABLE CHANGES PER_SECOND``.
"""

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pymysql
from sqlalchemy.engine import make_url

from benchmarks.sites import ACCOUNTS


@dataclass(frozen=True)
class Commits:
    """What a run of the billing program came to, change by change."""

    at: list[float]
    took: list[float]


def work(run: Callable[[str], object], table: str, changes: int, per_second: float) -> Commits:
    """Give one account after another a new id: one statement, one transaction, one event."""
    commits = Commits([], [])
    begun = time.monotonic()
    for number in range(changes):
        time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        started = time.monotonic()
        # A number below 1000 is another account's each time.
        account = number % ACCOUNTS + 1
        run(f"UPDATE {table} SET id = 'change-{number}' WHERE i_account = {account}")
        now = time.monotonic()
        commits.at.append(now)
        commits.took.append(now - started)
    return commits


def connect(url: str) -> Callable[[str], object]:
    """What runs a statement as a transaction of its own in the database at a URL."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(parsed.database), timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection.execute
    if parsed.get_backend_name() == "postgresql":
        server = psycopg.connect(url, autocommit=True)
        return lambda statement: server.execute(statement.encode())
    socket = str(parsed.query["unix_socket"])
    cursor = pymysql.connect(
        user=parsed.username, unix_socket=socket, database=parsed.database, autocommit=True
    ).cursor()
    return cursor.execute


if __name__ == "__main__":
    address, table, changes, per_second = sys.argv[1:]
    done = work(connect(address), table, int(changes), float(per_second))
    print(json.dumps(vars(done)))
