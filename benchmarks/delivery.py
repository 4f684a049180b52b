"""How fast what waits is delivered, how soon what is committed arrives, and who waits for whom."""

import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

from benchmarks.billing import commit
from benchmarks.installation import ACCOUNTS, Site
from benchmarks.measure import Rounds, percentile, ratio, shown, table, tell
from benchmarks.sink import running_sink
from espf.handlers.base import Context, Handler
from espf.handlers.billing_client import BillingClient
from espf.handlers.http import HttpClient
from espf.model import Event
from espf.telemetry import ProvisioningLog
from espf.worker.worker import Worker

CONCURRENCY = 50
_BODY = b'{"event_type":"Account/Blocked","variables":{"i_env":3,"i_account":541,"i_event":1}}'

#: How the handler sends: waiting for replies, or at a rate that does not slow it down.
SYNC = {"EventSender.AsyncMode": "off", "Concurrency": CONCURRENCY}
ASYNC = {"EventSender.TokenRate": 10_000, "EventSender.TokenBurstiness": 10_000}


class Nothing(Handler):
    """The in-process sink: a handler type that has delivered before it begins."""

    async def handle(self, event: Event, context: Context) -> None:
        """Accept the event."""


@asynccontextmanager
async def _working(site: Site) -> AsyncIterator[None]:
    """The product's worker over a site, for as long as the block lasts."""
    stop = asyncio.Event()
    database = site.database()
    log = ProvisioningLog(site.folder / "provisioning.log")
    async with HttpClient() as client:
        # Nobody listens there: these handlers do not ask the billing.
        billing = BillingClient(client, "http://127.0.0.1:1", "nobody", "nothing")
        worker = Worker(database, site.sealer(), log, client, billing.for_environment, 5.0)
        running = asyncio.create_task(worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            await running
    log.close()
    database.close()


async def drain(template: Site, folder: Path, rounds: int, times: int) -> str:
    """Events per second of a backlog, beside what the client and the database can do at most."""
    events = times * ACCOUNTS
    full = template.copy(folder / "full")
    full.change_all(times)
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        tell(f"drain of {events:,} events: round {number + 1} of {rounds}")
        rates["posts"].append(await _raw_posts(events))
        rates["rows"].append(_raw_rows(folder / f"raw-{number}.db", events))
        for name, options in (("sync", SYNC), ("async", ASYNC), ("nothing", None)):
            site = full.copy(folder / f"{name}-{number}")
            rate, cpu = await _drained(site, events, options)
            rates[name].append(rate)
            rates[f"{name} cpu"].append(cpu)
    return _drain_section(rates, events)


async def _drained(
    site: Site, events: int, options: Mapping[str, object] | None
) -> tuple[float, float]:
    """Events per second, and microseconds of processor time per event."""
    async with running_sink() as sink:
        if options is None:
            site.replace_handler("Nothing")
        else:
            none = {"EventSender.AuthMethod": "None", "EventSender.URL": sink.url}
            site.configure({**none, **options})
        started, used = time.perf_counter(), time.process_time()
        async with _working(site):
            while site.waiting():
                await asyncio.sleep(0.02)
            elapsed = time.perf_counter() - started
            used = time.process_time() - used
    return events / elapsed, used / events * 1e6


async def _raw_posts(count: int) -> float:
    """POSTs per second of the product's client alone, as many at a time as the handler sends."""
    left = iter(range(count))
    headers = {"Content-Type": "application/json", "Date": "Thu, 12 Apr 2018 15:24:00 GMT"}
    async with running_sink() as sink, HttpClient() as client:

        async def post() -> None:
            for _ in left:
                await client.post(sink.url, _BODY, headers, 30.0)

        started = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(CONCURRENCY)))
        return count / (time.perf_counter() - started)


def _raw_rows(path: Path, count: int) -> float:
    """Rows per second that SQLite can take in and out again, 500 in a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE Queue (i_event INTEGER PRIMARY KEY, variables TEXT)")
        started = time.perf_counter()
        for start in range(0, count, 500):
            rows = [(number, _BODY.decode()) for number in range(start, start + 500)]
            for statement, values in (
                ("INSERT INTO Queue VALUES (?, ?)", rows),
                ("DELETE FROM Queue WHERE i_event = ?", [(number,) for number, _ in rows]),
            ):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statement, values)
                connection.execute("COMMIT")
        return count / (time.perf_counter() - started)


def _drain_section(rates: Rounds, events: int) -> str:
    posts = rates["posts"]
    rows = [
        ["the HTTP client alone, to the same application", shown(posts), "1", "-"],
        ["SQLite alone: a row in, a row out", shown(rates["rows"]), "-", "-"],
    ]
    for name, meaning in (
        ("sync", f"EventSender, sync mode, Concurrency {CONCURRENCY}"),
        ("async", "EventSender, async mode, rate not limiting"),
        ("nothing", "in-process sink: a handler that does nothing"),
    ):
        cpu = shown(rates[f"{name} cpu"])
        rows.append([meaning, shown(rates[name]), ratio(rates[name], posts), cpu])
    head = ["what", "per second", "of the client alone", "processor time per event, us"]
    return f"{events:,} events of {ACCOUNTS:,} accounts.\n\n{table(head, rows)}"


async def latency(template: Site, folder: Path, seconds: int, per_second: int = 50) -> str:
    """From the return of the commit to the arrival of the POST, when there is little to do."""
    tell(f"latency: {seconds} s at {per_second} a second")
    site = template.copy(folder / "latency")
    async with running_sink(record=True) as sink:
        options = {"EventSender.AuthMethod": "None", "EventSender.URL": sink.url, **ASYNC}
        site.configure(options)
        async with _working(site):
            await asyncio.sleep(1.0)
            commits = await commit(site, seconds * per_second, per_second)
            while site.waiting():
                await asyncio.sleep(0.02)
        arrived = {
            event["variables"]["curr_id"]: at
            for at, event in await sink.end()
            if "curr_id" in event["variables"]
        }
    waits = [(arrived[f"change-{n}"] - at) * 1000 for n, at in enumerate(commits.at)]
    figures = [f"{percentile(waits, share):.1f}" for share in (0.5, 0.99)] + [f"{max(waits):.1f}"]
    return table(["commits/s", "p50 ms", "p99 ms", "max ms"], [[str(per_second), *figures]])


async def writers(template: Site, folder: Path, times: int, changes: int) -> str:
    """How long a billing program waits for its commit beside a worker that is busy."""
    rows = []
    for name in ("idle", "busy"):
        tell(f"billing beside a worker that is {name}")
        site = template.copy(folder / f"billing-{name}")
        if name == "busy":
            site.change_all(times)
        async with running_sink() as sink:
            options = {"EventSender.AuthMethod": "None", "EventSender.URL": sink.url, **SYNC}
            site.configure(options)
            if name == "idle":
                commits = await commit(site, changes, 200)
            else:
                async with _working(site):
                    await asyncio.sleep(0.5)
                    commits = await commit(site, changes, 200)
                    if not site.waiting():
                        tell("the worker was done before the billing program was")
        took = [seconds * 1000 for seconds in commits.took]
        figures = [f"{percentile(took, share):.1f}" for share in (0.5, 0.99, 0.999)]
        meaning = "nobody else" if name == "idle" else "a worker that drains a backlog"
        rows.append([meaning, *figures, f"{max(took):.1f}"])
    head = ["beside", "p50 ms", "p99 ms", "p99.9 ms", "max ms"]
    return table(head, rows)
