"""What one handler loses when the target of another one hangs, with a great backlog behind it."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.backlog import insert
from benchmarks.bench import Bench
from benchmarks.latency import PER_SECOND, SETTLE_SECONDS, waits
from benchmarks.measure import Facts, median_ratio, percentile, shown, table, tell
from benchmarks.side import until
from benchmarks.sites import ACCOUNTS, ENV, HANDLERS, SYNC, Fill, Installation, Site

#: Some seconds of work.
_LOAD = 60_000


@contextmanager
def _black_hole() -> Iterator[str]:
    """The URL of a server that takes connections and requests, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def measure(bench: Bench, facts: Facts) -> str:
    """The rate and the latency of a handler, alone and beside one whose target hangs."""
    rows = []
    waiting = bench.sized(1_000_000, 20_000)
    with _black_hole() as hole:
        for name, installation in bench.installations.items():
            ways = {"nobody": 0, f"a target that hangs, {waiting:,} waiting": waiting}
            rates: dict[str, list[float]] = {way: [] for way in ways}
            took: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(bench.rounds if name == "PostgreSQL" else 1):
                for way, count in ways.items():
                    tell(f"isolation on {name}, round {number + 1}: beside {way}")
                    key, fill = _beside(hole, count, bench.sized(_LOAD, 2000))
                    with installation.filled(key, fill) as site:
                        rates[way].append(_rate(bench, site, bench.sized(_LOAD, 2000)))
                    took[way] += _latency(bench, installation, hole, count)
            alone, beside = ways
            facts[f"isolation {name} rate"] = median_ratio(rates[beside], rates[alone])
            p50 = {way: percentile(took[way], 0.5) for way in ways}
            facts[f"isolation {name} latency"] = p50[beside] / p50[alone]
            for way in ways:
                p99 = percentile(took[way], 0.99)
                rows.append([name, way, shown(rates[way]), f"{p50[way]:.2f}", f"{p99:.2f}"])
    return table(["database", "beside", "posts/s", "p50 ms", "p99 ms"], rows)


def _beside(hole: str, waiting: int, load: int) -> tuple[str, Fill]:
    """A load for the first handler, and so many events that wait for the second one."""

    def fill(site: Site) -> None:
        site.configure(SYNC)
        if waiting:
            insert(site, waiting, 2)
        site.change_all(load // ACCOUNTS)
        if waiting:
            site.configure({"EventSender.URL": hole, **SYNC}, HANDLERS[1])
            site.evctl("handler", "enable", ENV, HANDLERS[1])

    return f"beside_{waiting}_{load}", fill


def _rate(bench: Bench, site: Site, load: int) -> float:
    with bench.sinks.running(load) as sink, site.working():
        until(lambda: sink.requests >= load, f"{load} requests", 300)
        return load / (sink.last - sink.first)


def _latency(bench: Bench, installation: Installation, hole: str, waiting: int) -> list[float]:
    seconds = bench.sized(10, 2)
    with (
        bench.sinks.running(seconds * PER_SECOND + 10) as sink,
        installation.filled(*_beside(hole, waiting, 0)) as site,
        site.working(),
    ):
        time.sleep(SETTLE_SECONDS)
        return waits(sink, site, seconds)
