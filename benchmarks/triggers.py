"""What capture costs the billing: one UPDATE per commit, with the shipped triggers and without."""

import os
import re
import sqlite3
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

from benchmarks.bench import Bench
from benchmarks.measure import BenchError, Facts, median_ratio, ratio, shown, table, tell
from benchmarks.sites import ACCOUNTS, MariaDBSite, PostgreSQLSite, Site, SQLiteSite

#: One rule's event, made of the changed row alone.
_WATCHED = "password = CASE password WHEN 'a' THEN 'b' ELSE 'a' END"
#: One event as well; another rule looks for the account's SIM card, which it does not have.
_LOOKED_UP = "blocked = CASE blocked WHEN 'Y' THEN 'N' ELSE 'Y' END"
_UNWATCHED = "time_zone_name = CASE time_zone_name WHEN 'UTC' THEN 'Africa/Cairo' ELSE 'UTC' END"
_SEEN, _UNSEEN = "with a look-up", "column that no rule watches"


@dataclass(frozen=True)
class _Way:
    """One way to ask: how durable, how many clients, which column."""

    database: str
    title: str
    #: What is set.
    change: str
    #: Commits per second of a site.
    rate: Callable[[Site, str], float]
    #: Whether it is asked with the triggers of a table that is written in bulk, too.
    bulk: bool = False


def measure(bench: Bench, facts: Facts) -> str:
    """The report's section."""
    rows = []
    for name, installation in bench.installations.items():
        ways = [way for way in _ways(bench) if way.database == name]
        rates: dict[tuple[str, str], list[float]] = defaultdict(list)
        with bench.sinks.running(0), installation.fresh() as site:
            for number in range(bench.rounds):
                tell(f"triggers on {name}: round {number + 1} of {bench.rounds}")
                for what in ("with", "bulk", "without"):
                    chosen = [way for way in ways if way.bulk or what != "bulk"]
                    with _triggers(site, what) if chosen else nullcontext():
                        for way in chosen:
                            rates[way.title, what].append(_rate(site, way))
        for way in ways:
            for what, title in (("with", way.title), ("bulk", f"{way.title}, bulk trigger")):
                if with_ := rates[way.title, what]:
                    without = rates[way.title, "without"]
                    facts[f"trigger {name} {title}"] = median_ratio(without, with_)
                    rows.append([name, title, shown(without), shown(with_), ratio(without, with_)])
    head = ["database", "UPDATE", "commits/s without", "commits/s with", "times slower"]
    return table(head, rows)


def _ways(bench: Bench) -> list[_Way]:
    seconds, updates = bench.sized(3, 1), bench.sized(20_000, 1000)
    ways = []
    for sync in ("on", "off"):
        for clients in (1, 4):
            title = f"synchronous_commit={sync}, {clients} client{'s' * (clients > 1)}"
            rate = partial(_pgbench, sync=sync, clients=clients, seconds=seconds)
            bulk = (sync, clients) == ("on", 1)
            ways.append(_Way("PostgreSQL", title, _WATCHED, rate, bulk=bulk))
    every = partial(_pgbench, sync="on", clients=1, seconds=seconds, which="i_account > 0")
    ways.append(_Way("PostgreSQL", f"{ACCOUNTS} rows per UPDATE", _WATCHED, every, bulk=True))
    single = partial(_pgbench, sync="on", clients=1, seconds=seconds)
    several = partial(_pgbench, sync="off", clients=4, seconds=seconds)
    slap = partial(_slap, updates=updates)
    ways += [
        _Way("PostgreSQL", f"synchronous_commit=on, 1 client, {_SEEN}", _LOOKED_UP, single),
        _Way("PostgreSQL", f"synchronous_commit=off, 4 clients, {_SEEN}", _LOOKED_UP, several),
        _Way("PostgreSQL", _UNSEEN, _UNWATCHED, single),
        _Way("MariaDB", "1 client", _WATCHED, slap),
        _Way("MariaDB", f"1 client, {_SEEN}", _LOOKED_UP, slap),
        _Way("MariaDB", _UNSEEN, _UNWATCHED, slap),
    ]
    for sync in ("FULL", "NORMAL"):
        rate = partial(_sqlite, synchronous=sync, updates=updates)
        ways.append(_Way("SQLite", f"synchronous={sync}", _WATCHED, rate))
    ways += [
        _Way("SQLite", f"synchronous=NORMAL, {_SEEN}", _LOOKED_UP, rate),
        _Way("SQLite", f"synchronous=NORMAL, {_UNSEEN}", _UNWATCHED, rate),
    ]
    return ways


@contextmanager
def _triggers(site: Site, what: str) -> Iterator[None]:
    """The site with the shipped triggers, with those for bulk, or without any."""
    if what == "without":
        site.evctl("capture", "remove")
    elif what == "bulk":
        rules = site.folder / "bulk.toml"
        shipped = (files("espf.capture") / "billing.toml").read_text(encoding="utf-8")
        rules.write_text(f'{shipped}\n[[table]]\nname = "Accounts"\nbulk = true\n')
        site.evctl("capture", "apply", f"--rules={rules}")
    try:
        yield
    finally:
        if what != "with":
            site.evctl("capture", "apply")


def _rate(site: Site, way: _Way) -> float:
    rate = way.rate(site, way.change)
    # What was captured is not delivered here, and the next run begins like this one.
    verb = "TRUNCATE TABLE" if not isinstance(site, SQLiteSite) else "DELETE FROM"
    site.say(f"{verb} {site.home}Event_Notifications", f"{verb} {site.home}Event_Queue")
    return rate


def _pgbench(
    site: Site,
    change: str,
    *,
    sync: str,
    clients: int,
    seconds: int,
    which: str = "i_account = :account",
) -> float:
    assert isinstance(site, PostgreSQLSite)
    site.say(f"VACUUM {site.accounts()}", "CHECKPOINT")
    script = site.folder / "update.sql"
    script.write_text(
        f"\\set account random(1, {ACCOUNTS})\n"
        f"UPDATE {site.accounts()} SET {change} WHERE {which};\n"
    )
    said = _run(
        [
            *(str(site.server.programs / "pgbench"), "-n", "-M", "prepared", "-T", str(seconds)),
            *("-c", str(clients), "-j", str(min(clients, 2)), "-f", str(script), site.url),
        ],
        {"PGOPTIONS": f"-c synchronous_commit={sync}"},
    )
    return _number(r"tps = ([\d.]+)", said)


def _slap(site: Site, change: str, *, updates: int) -> float:
    assert isinstance(site, MariaDBSite)
    script = site.folder / "update.sql"
    script.write_text(
        ";".join(
            f"UPDATE {site.accounts()} SET {change} WHERE i_account = {account}"
            for account in range(1, ACCOUNTS + 1)
        )
    )
    said = _run(
        [
            *("mariadb-slap", "--no-defaults", "-u", "root", f"--socket={site.server.socket}"),
            *("--create-schema=billing", "--no-drop", "--delimiter=;", "--concurrency=1"),
            *("--iterations=1", f"--query={script}", f"--number-of-queries={updates}"),
        ],
        {},
    )
    return updates / _number(r"Average number of seconds to run all queries: ([\d.]+)", said)


def _sqlite(site: Site, change: str, *, synchronous: str, updates: int) -> float:
    assert isinstance(site, SQLiteSite)
    with closing(sqlite3.connect(site.path, timeout=30, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        accounts = [(number % ACCOUNTS + 1,) for number in range(updates)]
        started = time.perf_counter()
        # Without a transaction around it, each is its own.
        connection.executemany(f"UPDATE Accounts SET {change} WHERE i_account = ?", accounts)
        return updates / (time.perf_counter() - started)


def _run(command: list[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr[-2000:]}")
    return done.stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise BenchError(f"no figure in {text!r}")
    return float(found[1])
