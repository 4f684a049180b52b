"""How soon an event arrives, and how long the billing waits beside a worker that is busy."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext

from benchmarks import backlog
from benchmarks.bench import Bench
from benchmarks.measure import Facts, percentile, table, tell
from benchmarks.side import Load, Side, Stock, until
from benchmarks.sink import Sink
from benchmarks.sites import ASYNC, SYNC, Espf, Site

PER_SECOND = 50
#: Nothing says when a worker is ready; all of them are after this.
SETTLE_SECONDS = 2.0
_SHARES = (0.5, 0.99)


def measure(bench: Bench, facts: Facts) -> str:
    """From the return of the commit to the arrival of the POST, when there is little to do."""
    seconds = bench.sized(20, 2)
    ours = [Espf(f"ESPF, {name}", on, ASYNC) for name, on in bench.installations.items()]
    rows = []
    for side in (*ours, *bench.peers):
        tell(f"latency, {seconds} s at {PER_SECOND} a second: {side.name}")
        took = _waits(bench, side, seconds)
        p50, p99 = (percentile(took, share) for share in _SHARES)
        facts[f"latency {side.name} p50"], facts[f"latency {side.name} p99"] = p50, p99
        rows.append([side.name, f"{p50:.2f}", f"{p99:.2f}", f"{max(took):.1f}"])
    return table(["side", "p50 ms", "p99 ms", "max ms"], rows)


def _waits(bench: Bench, side: Side, seconds: int) -> list[float]:
    room = seconds * PER_SECOND + 10
    with bench.sinks.running(room) as sink, side.stocked(Load(0)) as stock, stock.working():
        time.sleep(SETTLE_SECONDS)
        return waits(sink, stock, seconds)


def waits(sink: Sink, stock: Stock, seconds: int) -> list[float]:
    """For each event, the milliseconds between the commit's return and the request."""
    count = seconds * PER_SECOND
    committed = stock.trickle(seconds, PER_SECOND)
    until(lambda: sink.requests >= count, f"{count} requests")
    # One after another commits, so the numbers of the events are in the order of the commits.
    arrived = sorted(sink.arrivals(), key=lambda each: each.i_event)
    return [(there.at - at) * 1000 for there, at in zip(arrived, committed, strict=True)]


def billing(bench: Bench, facts: Facts) -> str:  # noqa: ARG001  (every section has this shape)
    """How long a billing program waits for its commits."""
    changes, per_second = bench.sized(1500, 100), 200
    rows = []
    for name, installation in bench.installations.items():
        for busy in (False, True):
            tell(f"billing on {name} beside {'a busy worker' if busy else 'nobody'}")
            waiting = bench.sized(1_000_000, 20_000)
            with (
                bench.sinks.running(0),
                installation.filled(*backlog.waiting(waiting, SYNC)) as site,
                site.working() if busy else nullcontext(),
            ):
                time.sleep(SETTLE_SECONDS)
                took = _took(site, changes, per_second)
                drained = busy and site.ask(f"SELECT 1 FROM {site.home}Event_Queue LIMIT 1") is None
            figures = [f"{percentile(took, share):.2f}" for share in (*_SHARES, 0.999)]
            beside = "a worker that drains" if busy else "nobody"
            beside += " (done before the billing was)" if drained else ""
            rows.append([name, beside, *figures, f"{max(took):.1f}"])
    return table(["database", "beside", "p50 ms", "p99 ms", "p99.9 ms", "max ms"], rows)


def _took(site: Site, changes: int, per_second: int) -> list[float]:
    """The milliseconds of each commit."""
    command = [sys.executable, "-m", "benchmarks.billing", site.url, site.accounts()]
    done = subprocess.run(
        [*command, str(changes), str(per_second)], capture_output=True, check=True
    )
    return [seconds * 1000 for seconds in json.loads(done.stdout)["took"]]
