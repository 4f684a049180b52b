"""Whether it matters how much waits, and whether an old snapshot of somebody else's does.

The backlogs are written straight into ESPF's tables, in the form in which the triggers write.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

from benchmarks.bench import Bench
from benchmarks.measure import Facts, shown, table, tell
from benchmarks.side import until
from benchmarks.sites import (
    ACCOUNTS,
    ENV,
    SYNC,
    Fill,
    Installation,
    MariaDBSite,
    Options,
    PostgreSQLSite,
    Site,
)

WARM_UP, WINDOW = 5_000, 20_000
_WINDOWS = 6

_NUMBERS = {
    "PostgreSQL": "(SELECT generate_series(1, {count}) AS n) AS numbers",
    "MariaDB": "(SELECT seq AS n FROM seq_1_to_{count}) AS numbers",
    "SQLite": (
        "(WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers "
        "WHERE n < {count}) SELECT n FROM numbers)"
    ),
}
_TEXT = {"PostgreSQL": "CAST({0} AS text)", "MariaDB": "CAST({0} AS char)", "SQLite": "{0}"}
_JOIN = {"PostgreSQL": "{0} || {1}", "MariaDB": "concat({0}, {1})", "SQLite": "{0} || {1}"}
_ACCOUNT = f"(n % {ACCOUNTS} + 1)"
_CODE = {"PostgreSQL": "ascii({0})", "MariaDB": "ascii({0})", "SQLite": "unicode({0})"}


def waiting(count: int, options: Options) -> tuple[str, Fill]:
    """The key and the recipe of a site in which so many events wait for one handler."""

    def fill(site: Site) -> None:
        site.configure(options)
        insert(site, count)

    return f"waiting_{count}", fill


def numbers(site: Site, count: int) -> tuple[str, str]:
    """What stands in a FROM clause for the numbers from 1 on, and one of them as text."""
    kind = _kind(site)
    return _NUMBERS[kind].format(count=count), _TEXT[kind].format("n")


def key(site: Site) -> str:
    """The ordering key of the event of a number: there are a thousand accounts."""
    kind = _kind(site)
    return _JOIN[kind].format("'account:'", _TEXT[kind].format(_ACCOUNT))


def joined(site: Site, one: str, other: str) -> str:
    """Two texts in one."""
    return _JOIN[_kind(site)].format(one, other)


def second(site: Site) -> str:
    """So many seconds after the beginning of 2026."""
    return {
        "PostgreSQL": "timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second'",
        "MariaDB": "timestamp '2026-01-01 00:00:00' + INTERVAL n SECOND",
        "SQLite": "strftime('%Y-%m-%d %H:%M:%f', 1767225600 + n, 'unixepoch')",
    }[_kind(site)]


def insert(site: Site, count: int, i_event_handler: int = 1, after: int = 0) -> None:
    """Have so many events wait for a handler, with the numbers after one."""
    kind = _kind(site)
    many, _ = numbers(site, count)
    text, join, code = _TEXT[kind].format, _JOIN[kind].format, _CODE[kind].format
    whose = key(site)
    variables = join(
        join(f'\'{{"i_env":{ENV},"i_account":\'', text(_ACCOUNT)), "',\"i_customer\":1}'"
    )
    shard = f"(7 * {code(f'substr({whose}, -2, 1)')} + {code(f'substr({whose}, -1)')}) % 16"
    site.say(
        f"INSERT INTO {site.home}Event_Queue "
        "(i_event, i_env, event_type, ordering_key, variables, created_at, notified) "
        f"SELECT n + {after}, {ENV}, 'Account/Blocked', {whose}, {variables}, {_now(kind)}, 1 "
        f"FROM {many}",
        f"INSERT INTO {site.home}Event_Notifications "
        "(i_event_handler, position, i_event, shard) "
        f"SELECT {i_event_handler}, n + {after}, n + {after}, {shard} FROM {many}",
    )
    if kind == "PostgreSQL":
        site.say(
            f"SELECT setval(pg_get_serial_sequence('{site.home}event_queue', 'i_event'), "
            f"{count + after})"
        )


def _kind(site: Site) -> str:
    if isinstance(site, PostgreSQLSite):
        return "PostgreSQL"
    return "MariaDB" if isinstance(site, MariaDBSite) else "SQLite"


def _now(kind: str) -> str:
    return {
        "PostgreSQL": "now()",
        "MariaDB": "utc_timestamp(3)",
        "SQLite": "strftime('%Y-%m-%d %H:%M:%f')",
    }[kind]


def measure(bench: Bench, facts: Facts) -> str:
    """The rate of a window of fixed size behind which so much waits."""
    postgresql = bench.installations["PostgreSQL"]
    most = {name: bench.sized(1_000_000, 20_000) for name in bench.installations}
    most["PostgreSQL"] = bench.sized(5_000_000, 50_000)
    sizes = (10_000, bench.sized(1_000_000, 20_000), bench.sized(5_000_000, 50_000))
    rows = []
    for name, installation in bench.installations.items():
        rates: dict[int, list[float]] = defaultdict(list)
        memory: dict[int, float] = {}
        # Where a full database is copied in no time, the sizes take turns.
        rounds = bench.rounds if installation is postgresql else 1
        wanted = [size for size in sizes if size <= most[name]]
        for number in range(rounds):
            for size in wanted:
                tell(f"{size:,} waiting on {name}, round {number + 1} of {rounds}")
                found, memory[size] = _rates(bench, installation, size, bench.sized(3, 1), None)
                rates[size] += found
        flat = statistics.median(rates[wanted[-1]]) / statistics.median(rates[wanted[0]])
        facts[f"flat {name}"], facts[f"memory {name}"] = flat, memory[wanted[-1]]
        for size in wanted:
            against = statistics.median(rates[size]) / statistics.median(rates[wanted[0]])
            rows.append(
                [name, f"{size:,}", shown(rates[size]), f"{against:.2f}", f"{memory[size]:.0f}"]
            )
    head = ["database", "waiting behind", "done/s", "of the first", "worker's peak memory MB"]
    return table(head, rows)


def snapshot(bench: Bench, facts: Facts) -> str:
    """Windows of a drain while somebody else holds a snapshot that is older than all of it."""
    begin = {
        "PostgreSQL": ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"),
        "MariaDB": ("START TRANSACTION WITH CONSISTENT SNAPSHOT",),
    }
    rows = []
    for name, statements in begin.items():
        rounds = []
        for number in range(bench.rounds if name == "PostgreSQL" else 1):
            tell(f"old snapshot on {name}: round {number + 1}")
            windows = bench.sized(_WINDOWS, 2)
            found, _ = _rates(bench, bench.installations[name], 0, windows, statements)
            rounds.append(found)
        ratios = [each[-1] / each[0] for each in rounds]
        facts[f"snapshot {name}"] = statistics.median(ratios)
        medians = [statistics.median(window) for window in zip(*rounds, strict=True)]
        rows.append([name, " ".join(f"{rate:,.0f}" for rate in medians), shown(ratios, 2)])
    return table(["database", f"done/s in windows of {WINDOW:,}", "last / first"], rows)


def _rates(
    bench: Bench,
    installation: Installation,
    behind: int,
    windows: int,
    snapshot_statements: Sequence[str] | None,
) -> tuple[list[float], float]:
    """Rates of windows behind which at least so much waits; the worker's peak memory in MB."""
    window = bench.sized(WINDOW, 2000)
    posts = WARM_UP + windows * window
    with (
        bench.sinks.running(posts) as sink,
        installation.filled(*waiting(behind + posts, SYNC)) as site,
        site.cursor() if snapshot_statements else nullcontext() as holder,
    ):
        for statement in snapshot_statements or ():
            assert holder is not None
            holder.execute(statement)
        with site.working() as worker:
            what = f"{posts:,} of {behind + posts:,} on {installation.name}"
            until(lambda: sink.requests >= posts, what, 300)
            memory = worker.peak_megabytes()
        at = [arrival.at for arrival in sink.arrivals()]
    edges = [at[WARM_UP - 1 + number * window] for number in range(windows + 1)]
    return [window / (end - start) for start, end in pairwise(edges)], memory
