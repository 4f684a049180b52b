"""A storm over one installation: several workers, many writers, rough receivers, and blows to all.

The blows come by a schedule that is made from a seed, so that a storm can be had again. When it is
over, what is left of it is a ``checker.Record``.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from checker import Fault, Reception, Record, Write
from receivers import REQUEST_TIMEOUT_SECONDS
from sqlalchemy import Connection, Select, func, insert, select

from databases import SQLite
from desk import Desk
from espf import subscriptions
from espf.billing.tables import accounts
from espf.db.tables import (
    event_handlers,
    event_notifications,
    event_queue,
    handler_leases,
    provisioning_log,
)
from servers import MariaDB, PostgreSQL, Server

ENV = 3
ACCOUNTS = 200
WORKERS = 3
ISSUED = datetime(2026, 1, 1, tzinfo=UTC)
HERE = Path(__file__).parent

#: A heartbeat is missing for this long before another worker takes over.
LEASE_SECONDS = 12.0

#: So long a process may take to begin, on a busy machine.
YOUNG_SECONDS = 15.0

#: By then everything is delivered, or never will be.
QUIET_SECONDS = 180.0

#: How roughly the receiver of each handler answers, and what the handler is set to.
HANDLERS: dict[str, tuple[float, dict[str, str]]] = {
    "plain": (0.0, {}),
    "rough": (0.3, {}),
    "slow": (0.15, {"EventSender.AsyncMode": "off", "Concurrency": "24"}),
}
_SETTINGS = {
    "EventSender.APIVersion": "1",
    "EventSender.AuthMethod": "None",
    "EventSender.RequestTimeout": str(REQUEST_TIMEOUT_SECONDS),
    "EventSender.TokenRate": "10000",
    "EventSender.TokenBurstiness": "1000",
    "RetryDelays": "1s",
    "MaxAttempts": "100000",
}


@dataclass(frozen=True)
class Blow:
    """What happens to whom, how many seconds after the beginning, and for how many seconds."""

    at: float
    target: str
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.target}: {self.kind}, {self.seconds:.1f} s"


def schedule(seed: str, seconds: float, database_kind: str) -> list[Blow]:
    """The blows of a storm, in order of time; each kind comes as often as the others."""
    choice = random.Random(seed)
    database = ["lock"] if database_kind == "sqlite" else ["stop", "kill", "freeze"]
    blows: list[Blow] = []
    for worker in range(WORKERS):
        # One of them begins with a sleep in which its leases run out.
        first = [("freeze", LEASE_SECONDS + 1.5)] if worker == 0 else []
        deck = _deck(choice, ["kill", "kill", "stop", "freeze"], first)
        blows += _blows(choice, f"worker {worker}", deck, seconds, (1.0, 4.0))
    blows += _blows(choice, "writers", _deck(choice, ["kill"]), seconds, (4.0, 8.0))
    blows += _blows(choice, "database", _deck(choice, database), seconds, (2.0, 4.0))
    return sorted(blows, key=lambda blow: blow.at)


def _deck(
    choice: random.Random, kinds: list[str], first: list[tuple[str, float]] | None = None
) -> Iterator[tuple[str, float]]:
    """Blows without an end, each kind once before any comes again."""
    while True:
        yield from first or ()
        # Seldom again: the leases of a worker are not all that is to be shaken.
        for _ in range(10):
            for kind in choice.sample(kinds, len(kinds)):
                yield kind, choice.uniform(0.2, 3.0 if kind in {"freeze", "lock"} else 1.0)


def _blows(
    choice: random.Random,
    target: str,
    deck: Iterator[tuple[str, float]],
    end: float,
    gap: tuple[float, float],
) -> Iterator[Blow]:
    at = choice.uniform(*gap) / 2
    while at < end:
        kind, seconds = next(deck)
        yield Blow(at, target, kind, seconds)
        at += seconds + choice.uniform(*gap)


class Storm:
    """One storm: ``async with Storm(...) as storm: record = await storm.rage(seconds)``."""

    def __init__(self, folder: Path, database_kind: str, seed: str) -> None:
        self._folder = folder
        self._seed = seed
        self._kind = database_kind
        self._server: Server | None = None
        self._desk = Desk(folder)
        self._faults: list[Fault] = []
        self._writer_starts = 0
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        # When each began, or went on after a freeze.
        self._begun: dict[str, float] = {}
        #: What workers said on their standard error.
        self.messages = folder / "messages.txt"
        #: What else went wrong: processes that ended by themselves, or did not end when told to.
        self.complaints: list[str] = []

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._set_up)
        except BaseException:
            self._clear_away()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._clear_away()

    def _clear_away(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        if self._server is not None:
            self._server.close()

    async def rage(self, seconds: float) -> Record:
        """Let it rage for so long, then let everything come to rest; returns what is known."""
        blows = schedule(self._seed, seconds, self._kind)
        self._start_writers()
        for worker in range(WORKERS):
            self._start_worker(f"worker {worker}")
        await self._all_at_work()
        began = time.monotonic()
        by_target: dict[str, list[Blow]] = defaultdict(list)
        for blow in blows:
            by_target[blow.target].append(blow)
        async with asyncio.TaskGroup() as group:
            for some in by_target.values():
                group.create_task(self._strike(some, began))
            await asyncio.sleep(seconds)
        await self._end("writers")
        self._processes["receivers"].send_signal(signal.SIGUSR1)
        await self._come_to_rest()
        # The last one that was started has to know how to end in peace.
        await self._all_at_work()
        await asyncio.gather(*(self._end(f"worker {worker}") for worker in range(WORKERS)))
        return await asyncio.to_thread(self._record)

    # Blows

    async def _strike(self, blows: list[Blow], began: float) -> None:
        for blow in blows:
            await asyncio.sleep(max(0.0, began + blow.at - time.monotonic()))
            start = time.monotonic()
            if blow.target == "database":
                await asyncio.to_thread(self._strike_database, blow)
            else:
                await self._strike_process(blow)
            kind = "database" if blow.target == "database" else blow.kind
            if blow.target != "writers" and kind != "stop":
                self._faults.append(Fault(kind, start, time.monotonic()))  # type: ignore[arg-type]

    async def _strike_process(self, blow: Blow) -> None:
        process = self._processes[blow.target]
        if process.poll() is not None:
            self.complaints.append(f"{blow.target} ended by itself with {process.returncode}")
        match blow.kind:
            case "kill":
                process.kill()
                await asyncio.to_thread(process.wait)
            case "stop":
                await self._end(blow.target)
            case "freeze":
                process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(blow.seconds)
        if blow.kind == "freeze":
            process.send_signal(signal.SIGCONT)
            self._begun[blow.target] = time.monotonic()
        elif blow.target == "writers":
            self._start_writers()
        else:
            self._start_worker(blow.target)

    def _strike_database(self, blow: Blow) -> None:
        if self._server is None:
            with self._locked():
                time.sleep(blow.seconds)
            return
        if blow.kind == "freeze":
            with self._server.paused():
                time.sleep(blow.seconds)
            return
        (self._server.kill if blow.kind == "kill" else self._server.stop)()
        time.sleep(blow.seconds)
        self._server.start()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with closing(sqlite3.connect(self._desk.database_file, timeout=30)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    # Processes

    def _start_worker(self, name: str) -> None:
        self._start(name, "-m", "espf", "worker", ESPF_STOP_GRACE="5", ESPF_LISTEN="127.0.0.1:1")

    def _start_writers(self) -> None:
        self._writer_starts += 1
        self._start(
            "writers",
            str(HERE / "writers.py"),
            self._desk.environment["ESPF_DATABASE_URL"],
            str(self._folder / "writes.jsonl"),
            f"{self._seed} {self._writer_starts}",
            str(ACCOUNTS),
        )

    def _start(self, name: str, *words: str, **environment: str) -> None:
        self._begun[name] = time.monotonic()
        # What a billing program says about a database that is away is not ours to judge.
        said = self._folder / "writers.txt" if name == "writers" else self.messages
        with said.open("ab") as messages:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *words],
                cwd=self._folder,
                env={**os.environ, **self._desk.environment, **environment},
                stdin=subprocess.DEVNULL,
                stderr=messages,
            )

    async def _end(self, name: str) -> None:
        """Tell a process to stop; it has to, in good time and in peace."""
        process = self._processes[name]
        process.terminate()
        try:
            code = await asyncio.to_thread(process.wait, 40)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        # One that has only just begun may not yet know how to end in peace, and has done nothing.
        young = time.monotonic() - self._begun[name] < YOUNG_SECONDS
        if code and not (young and code == -signal.SIGTERM):
            self.complaints.append(f"{name} was told to stop, and ended with {code}")

    # Before and after

    def _set_up(self) -> None:
        """An installation, accounts whose making is nobody's news, and handlers with receivers."""
        if self._kind == "sqlite":
            self._desk = Desk(self._folder, SQLite(self._folder).empty())
        else:
            # Of its own, since it is going to suffer.
            self._server = {"postgresql": PostgreSQL, "mariadb": MariaDB}[self._kind]()
            self._desk = Desk(self._folder, self._server.empty())
        self._desk("init", "--demo", ESPF_ADMIN_PASSWORD="a password for tests")
        urls = self._start_receivers()
        with closing(self._desk.database()) as database, database.begin() as connection:
            subscriptions.delete_handler(
                connection, subscriptions.require_handler(connection, ENV, "EventSender")
            )
            add_accounts(connection, ACCOUNTS)
            sealer = self._desk.sealer()
            for name, (_, special) in HANDLERS.items():
                options = {**_SETTINGS, **special, "EventSender.URL": urls[name]}
                subscriptions.create_handler(connection, sealer, ENV, name, "EventSender", options)

    def _start_receivers(self) -> dict[str, str]:
        named = [f"{name}:{roughness}" for name, (roughness, _) in HANDLERS.items()]
        log = self._folder / "heard.jsonl"
        process = subprocess.Popen(
            [sys.executable, str(HERE / "receivers.py"), str(log), self._seed, *named],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        self._processes["receivers"] = process
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        process.stdout.close()
        return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}

    async def _all_at_work(self) -> None:
        """Wait until every worker has its share: then there is something to take from it."""
        owners = select(handler_leases.c.worker).where(handler_leases.c.worker != "").distinct()
        async with asyncio.timeout(YOUNG_SECONDS * 6):
            while len(await asyncio.to_thread(look, self._desk, owners)) < WORKERS:
                await asyncio.sleep(0.1)

    async def _come_to_rest(self) -> None:
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline and any(
            (await asyncio.to_thread(left, self._desk)).values()
        ):
            await asyncio.sleep(0.25)

    def _record(self) -> Record:
        return record(self._desk, self._writes(), self._heard(), self._faults)

    def _writes(self) -> Iterator[Write]:
        fates: dict[str, str] = {}
        transactions: dict[str, list[tuple[int, str, str]]] = {}
        for line in (self._folder / "writes.jsonl").read_text().splitlines():
            said = json.loads(line)
            transactions.setdefault(said["token"], said.get("writes"))
            fates[said["token"]] = said.get("fate", "unknown")
        for token, writes in transactions.items():
            for i_account, before, after in writes:
                yield Write(i_account, before, after, fates[token])  # type: ignore[arg-type]

    def _heard(self) -> dict[str, list[Reception]]:
        heard: dict[str, list[Reception]] = {name: [] for name in HANDLERS}
        for line in (self._folder / "heard.jsonl").read_text().splitlines():
            heard[(said := json.loads(line)).pop("handler")].append(reception(**said))
        return heard


def add_accounts(connection: Connection, count: int) -> None:
    """Accounts to be changed, and nobody's news of them."""
    subscribed = select(event_handlers.c.i_event_handler)
    assert connection.execute(subscribed).first() is None, "who is subscribed would hear of them"
    one = {"i_env": ENV, "i_customer": 1, "i_product": 1, "billing_model": 1}
    connection.execute(
        insert(accounts),
        [
            {**one, "i_account": n, "id": f"{n}-0", "issue_date": ISSUED}
            for n in range(1, count + 1)
        ],
    )


def reception(
    *, at: float, until: float, body: str, accepted: bool, late: bool = False
) -> Reception:
    """What was heard, with what its body says."""
    event = json.loads(body)
    variables = event["variables"]
    return Reception(
        at=at,
        until=until,
        i_account=variables["i_account"],
        i_event=variables["i_event"],
        says=(event["event_type"], variables.get("curr_id")),
        body=hashlib.sha256(body.encode()).hexdigest(),
        accepted=accepted,
        late=late,
    )


def look(desk: Desk, statement: Select[Any]) -> list[Any]:
    """The rows of a query, for which nobody has to wait."""
    with closing(desk.database()) as database, database.read() as connection:
        return [tuple(row) for row in connection.execute(statement)]


def left(desk: Desk) -> dict[str, int]:
    """How many rows each live table holds."""
    return {
        table.name: look(desk, select(func.count()).select_from(table))[0][0]
        for table in (event_queue, event_notifications)
    }


def record(
    desk: Desk,
    writes: Iterable[Write],
    heard: Mapping[str, Sequence[Reception]],
    faults: Sequence[Fault],
) -> Record:
    """All of it, with what the database says now."""
    final = dict(look(desk, select(accounts.c.i_account, accounts.c.id)))
    log = provisioning_log.c
    verdicts = look(desk, select(log.i_event, log.handler, log.verdict))
    return Record(
        first={n: f"{n}-0" for n in final},
        final=final,
        writes=list(writes),
        heard=heard,
        faults=faults,
        verdicts=[(row[0], row[1], row[2]) for row in verdicts],
        left=left(desk),
    )
