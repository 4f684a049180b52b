"""Programs that change the billing database and know nothing of ESPF; as a process, many at a time.

``writers.py URL LOG SEED ACCOUNTS`` changes accounts until SIGTERM, or until it is killed. Each
change counts an account's ``id`` on, as ``ACCOUNT-NUMBER-TOKEN``, and turns ``blocked`` over. Some
transactions are rolled back, some undo a part of theirs, some stay open for long while the others
commit. LOG says before a commit what it holds, and after it that it came through.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    case,
    column,
    create_engine,
    event,
    make_url,
    select,
    table,
    update,
)
from sqlalchemy.exc import DBAPIError

ACCOUNTS = table("Accounts", *map(column, ("i_account", "id", "blocked")))

#: Programs that write as fast as they are let, and such that take their time in a transaction.
QUICK, SLOW = 4, 2

#: How long a slow one stays open. SQLite has one writer: nobody else could commit meanwhile.
OPEN_SECONDS = {"sqlite": (0.01, 0.08)}
_USUALLY_OPEN_SECONDS = (1.0, 3.0)

#: Between two transactions of a quick program, on average; a slow one rests longer.
PAUSE_SECONDS = 0.04

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


def connect(url: str) -> Engine:
    """The billing database, as any program opens it."""
    parsed = make_url(url)
    name = parsed.get_backend_name()
    engine = create_engine(
        parsed.set(drivername=_DRIVERS.get(name, name)),
        pool_pre_ping=True,
        pool_size=QUICK + SLOW,
        # A frozen server answers nobody; a program that were to wait for ever would not end.
        connect_args={"timeout": 30} if name == "sqlite" else {"connect_timeout": 5},
    )
    if name == "sqlite":
        _begin_at_once(engine)
    return engine


def _begin_at_once(engine: Engine) -> None:
    """Have SQLite lock at the beginning of a transaction, as whoever reads first has to."""

    @event.listens_for(engine, "connect")
    def connected(raw: Any, _record: object) -> None:
        raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class Program:
    """One of them, with its own connection and its own luck."""

    def __init__(self, engine: Engine, log: Any, seed: str, number: int, accounts: int) -> None:
        self._engine = engine
        self._log = log
        self._choice = random.Random(f"{seed} {number}")
        self._name = f"{os.getpid()}.{number}"
        self._accounts = accounts
        self._slow = number < SLOW
        self._open = OPEN_SECONDS.get(engine.dialect.name, _USUALLY_OPEN_SECONDS)
        self._transactions = 0

    def run(self, stop: threading.Event) -> None:
        """Change accounts until told to stop; a database that is away is tried again."""
        while not stop.is_set():
            try:
                self._transact()
            except DBAPIError:
                stop.wait(0.2)
            pause = PAUSE_SECONDS * (10 if self._slow else 1)
            stop.wait(self._choice.uniform(0, 2 * pause))

    def _transact(self) -> None:
        self._transactions += 1
        token = f"{self._name}.{self._transactions}"
        # In one order, so that none of them wait for each other crosswise.
        count = self._choice.choice((1, 1, 2, 5))
        chosen = sorted(self._choice.sample(range(1, self._accounts + 1), count))
        with self._engine.connect() as connection, _rolled_back_on_error(connection):
            # Most leave alone what somebody else has locked, or all would soon wait for the slow.
            waits = self._choice.random() < 0.05
            free = [one for one in chosen if self._lock(connection, one, waits=waits)]
            writes = [self._change(connection, i_account, token) for i_account in free]
            if self._slow:
                time.sleep(self._choice.uniform(*self._open))
            if self._choice.random() < 0.15:
                connection.rollback()
                self._log(token=token, writes=writes, fate="undone")
                return
            self._log(token=token, writes=writes)
            connection.commit()
            self._log(token=token, fate="committed")

    @staticmethod
    def _lock(connection: Connection, i_account: int, *, waits: bool) -> bool:
        locked = connection.execute(
            select(ACCOUNTS.c.id)
            .where(ACCOUNTS.c.i_account == i_account)
            .with_for_update(skip_locked=not waits)
        )
        return locked.first() is not None

    def _change(self, connection: Connection, i_account: int, token: str) -> tuple[int, str, str]:
        """Change an account that is locked; now and then only after a change that is undone."""
        if self._choice.random() < 0.1:
            savepoint = connection.begin_nested()
            change(connection, i_account, f"{token}-undone")
            savepoint.rollback()
        return i_account, *change(connection, i_account, token)


def change(connection: Connection, i_account: int, token: str) -> tuple[str, str]:
    """Count an account on, and turn its block over; returns its id before and after."""
    one = ACCOUNTS.c.i_account == i_account
    before = connection.execute(select(ACCOUNTS.c.id).where(one).with_for_update()).scalar_one()
    after = f"{i_account}-{int(before.split('-')[1]) + 1}-{token}"
    blocked = case((ACCOUNTS.c.blocked == "Y", "N"), else_="Y")
    connection.execute(update(ACCOUNTS).where(one).values(id=after, blocked=blocked))
    return before, after


@contextmanager
def _rolled_back_on_error(connection: Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # What cannot be rolled back now is, when the connection ends.
        connection.invalidate()
        raise


def main(url: str, path: str, seed: str, accounts: str) -> None:
    """Write until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine = connect(url)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def log(**fields: object) -> None:
        # One call, so that a kill leaves no half of a line.
        os.write(file, json.dumps(fields).encode() + b"\n")

    programs = [Program(engine, log, seed, n, int(accounts)) for n in range(QUICK + SLOW)]
    threads = [threading.Thread(target=program.run, args=[stop]) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
