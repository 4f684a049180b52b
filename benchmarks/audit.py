"""An audit of very many accounts: what it takes, and whether the last cost more than the first.

The handler is FreeRADIUS, whose tables are quick to ask: here in a file, made by the schema that
Debian ships. The billing does nothing but answer, over HTTP as always; ESPF's own reference billing
would take most of the time.
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.biller import PASSWORD
from benchmarks.measure import BenchError, Facts, table, tell
from benchmarks.side import peak_megabytes
from benchmarks.sites import ENV, Installation, Site

_SCHEMA = Path("/etc/freeradius/3.0/mods-config/sql/main/sqlite/schema.sql")
_HANDLER = "Radius"

#: So many are missing in the tables, and so many that are there are nobody's.
_ODD = 100

#: What ``evctl reconcile`` ends with when something differs.
_DIFFERENCES = 7


@dataclass(frozen=True)
class _Audited:
    """How an audit went; rates are entries a second, of the first and the last tenth."""

    seconds: float
    megabytes: float
    accounts: tuple[float, float]
    held: tuple[float, float]


def measure(bench: Bench, facts: Facts) -> str:
    """The report's section."""
    rows = []
    for name, installation in bench.installations.items():
        count = bench.sized(1_000_000 if name == "PostgreSQL" else 100_000, 2000)
        tell(f"audit of {count:,} accounts on {name}")
        found = _run(bench, installation, count)
        facts[f"audit {name} memory"] = found.megabytes
        rates = [f"{one:,.0f} / {other:,.0f}" for one, other in (found.accounts, found.held)]
        took = f"{found.seconds / 60:.1f}"
        rows.append([name, f"{count:,}", took, *rates, f"{found.megabytes:.0f}"])
    return table(
        [
            "database",
            "accounts",
            "minutes",
            "accounts/s, first / last tenth",
            "entries that are held/s, the same",
            "peak memory MB",
        ],
        rows,
    )


def _run(bench: Bench, installation: Installation, count: int) -> _Audited:
    """Audit all accounts by the command line, to the end."""
    tables = bench.folder / f"radius-{installation.name}.db"
    _make_tables(tables, count)
    with installation.fresh() as site, _billing(count) as billing:
        _add_handler(site, tables)
        command = [sys.executable, "-m", "espf", "reconcile", str(ENV), _HANDLER, "--all"]
        began = time.monotonic()
        audit = subprocess.Popen(
            [*command, "--rate=10000"],
            env={**os.environ, **site.environment(), **billing},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        steps, megabytes = _watched(site, audit)
        took = time.monotonic() - began
        _require_right(site, count)
    tables.unlink()
    accounts, held = (_tenths([(at, done[each]) for at, done in steps]) for each in (0, 1))
    return _Audited(took, megabytes, accounts, held)


def _make_tables(path: Path, count: int) -> None:
    """What FreeRADIUS should hold, but for a few."""
    if not _SCHEMA.exists():
        raise BenchError(f"{_SCHEMA} is not there; install the package freeradius")
    with closing(sqlite3.connect(path)) as connection:
        # Of sessions the audit asks nothing.
        for statement in _SCHEMA.read_text().split(";"):
            if "radacct" not in statement:
                connection.execute(statement)
        has_password = f"VALUES ('Cleartext-Password', ':=', '{PASSWORD}', ?)"
        for row in (
            f"radcheck (attribute, op, value, username) {has_password}",
            "radusergroup (groupname, priority, username) VALUES ('inet', 1, ?)",
        ):
            names = (f"u{n}" if n % (count // _ODD) else f"x{n}" for n in range(1, count + 1))
            connection.executemany(f"INSERT INTO {row}", ((name,) for name in names))
        connection.commit()


def _add_handler(site: Site, tables: Path) -> None:
    options = {
        "FreeRADIUS.DatabaseURL": f"sqlite:///{tables}",
        "FreeRADIUS.Groups": "*=inet",
        "FreeRADIUS.LiveSessions": "leave",
        "Concurrency": 16,
    }
    chosen = [f"--set={name}={value}" for name, value in options.items()]
    site.evctl("handler", "create", ENV, _HANDLER, "--type=FreeRADIUS", *chosen)


@contextmanager
def _billing(count: int) -> Iterator[Mapping[str, str]]:
    """A billing that only answers; what the settings are by which handlers find it."""
    command = [sys.executable, "-m", "benchmarks.biller", str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield {
            "ESPF_BILLING_URL": f"http://127.0.0.1:{port}",
            "ESPF_BILLING_LOGIN": "handlers",
            "ESPF_BILLING_PASSWORD": PASSWORD,
        }
        process.stdin.close()


_Step = tuple[float, tuple[int, int]]


def _watched(site: Site, audit: "subprocess.Popen[bytes]") -> tuple[list[_Step], float]:
    """How far it was when, and the most memory that was resident, in MB."""
    steps: list[_Step] = []
    with site.cursor() as cursor:

        def look() -> None:
            cursor.execute(f"SELECT accounts, held_keys FROM {site.home}Reconciliations")
            if (row := cursor.fetchone()) is not None:
                steps.append((time.monotonic(), (row[0], row[1])))

        megabytes = peak_megabytes(audit, look)
    if audit.returncode != _DIFFERENCES:
        raise BenchError(f"evctl reconcile ended with {audit.returncode}")
    return steps, megabytes


def _require_right(site: Site, count: int) -> None:
    """Raise BenchError unless each was compared once, and those found that are odd."""
    with site.cursor() as cursor:
        cursor.execute(
            "SELECT accounts, held_keys, same, missing, extra, failed "
            f"FROM {site.home}Reconciliations"
        )
        found = tuple(cursor.fetchone())
    if found != (count, count, count - _ODD, _ODD, _ODD, 0):
        raise BenchError(f"the audit of {count:,} accounts came to {found}")


def _tenths(steps: list[tuple[float, int]]) -> tuple[float, float]:
    """The rates of the first and of the last tenth; 0 where it was too quick to see."""
    most = steps[-1][1]

    def between(low: float, high: float) -> float:
        some = [(at, done) for at, done in steps if low * most < done < high * most]
        if not some or some[-1][1] == some[0][1]:
            return 0.0
        (began, first), (ended, last) = some[0], some[-1]
        return (last - first) / (ended - began)

    return between(0.0, 0.1), between(0.9, 1.0)
