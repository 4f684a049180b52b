"""How fast a backlog is delivered: by the peers, by ESPF, and by ESPF's client alone."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.measure import Facts, median_ratio, ratio, shown, table, tell
from benchmarks.side import Load, Side, until
from benchmarks.sink import Arrival, SinkProgram
from benchmarks.sites import ASYNC, SYNC, Espf

SMALL, LARGE = 20_000, 100_000

#: Too slow to be waited for with the large load.
_SLOW = ("procrastinate",)


@dataclass(frozen=True)
class Drained:
    """What one run came to."""

    #: From the first request to the last, as the sink saw it.
    posts_per_second: float
    #: From the first request until the side's own tables say that all is done.
    done_per_second: float
    #: Processor time of the worker per request from the first one on, in microseconds.
    cpu_us: float
    #: Requests beyond one per event and handler.
    repeated: int
    #: Events that came after a later one of the same account.
    disordered: int


def drain(side: Side, load: Load, sinks: SinkProgram) -> Drained:
    """Let a side deliver a load."""
    with sinks.running(load.posts + 1000) as sink, side.stocked(load) as stock:
        with stock.working() as worker:
            until(lambda: sink.requests > 0, f"{side.name}: the first request")
            cpu = worker.cpu_seconds()
            posted = f"{side.name}: {load} as requests"
            until(lambda: sink.requests >= load.posts, posted, 300)
            done = stock.wait_until_done()
            cpu = worker.cpu_seconds() - cpu
        arrivals = sink.arrivals()
        return Drained(
            load.posts / (sink.last - sink.first),
            load.posts / (done - sink.first),
            cpu / load.posts * 1e6,
            len(arrivals) - load.handlers * len({each.i_event for each in arrivals}),
            disordered(arrivals) if load.handlers == 1 else 0,
        )


def disordered(arrivals: Sequence[Arrival]) -> int:
    """How many events came after a later one of the same account."""
    latest: dict[int, int] = {}
    wrong = 0
    for each in arrivals:
        wrong += each.i_event < latest.get(each.i_account, 0)
        latest[each.i_account] = max(each.i_event, latest.get(each.i_account, 0))
    return wrong


def measure(bench: Bench, facts: Facts) -> str:
    """The report's section."""
    postgresql = bench.installations["PostgreSQL"]
    sync = Espf("ESPF, sync", postgresql, SYNC)
    paced = Espf("ESPF, async", postgresql, ASYNC)
    peers = list(bench.peers)
    fast = [peer for peer in peers if peer.name not in _SLOW]
    small = Load(bench.sized(SMALL, 2000))
    twice = Load(small.events, 2)
    parts = [_compare(bench, small, [sync, paced], peers, facts, "small")]
    parts.append(_compare(bench, twice, [sync, paced], fast, facts, "twice"))
    if not bench.quick:
        parts.append(_compare(bench, Load(LARGE), [sync, paced], fast, facts, "large"))
    others = [
        Espf(f"ESPF, {way}, {name}", installation, options)
        for name, installation in bench.installations.items()
        if installation is not postgresql
        for way, options in (("sync", SYNC), ("async", ASYNC))
    ]
    load = Load(LARGE) if not bench.quick else small
    parts.append(_compare(bench, load, [sync, *others], [], facts, "databases"))
    return "\n\n".join(parts)


def _compare(
    bench: Bench, load: Load, ours: Sequence[Side], peers: Sequence[Side], facts: Facts, key: str
) -> str:
    runs: dict[str, list[Drained]] = defaultdict(list)
    alone: list[float] = []
    for number in range(bench.rounds):
        for side in (*ours, *peers):
            tell(f"drain, {load}, round {number + 1} of {bench.rounds}: {side.name}")
            runs[side.name].append(drain(side, load, bench.sinks))
        alone.append(_client_alone(bench, load.posts))
    rates = {name: [run.done_per_second for run in each] for name, each in runs.items()}
    first = rates[ours[0].name]
    facts[f"drain {key} repeated"] = sum(run.repeated for s in ours for run in runs[s.name])
    facts[f"drain {key} disordered"] = sum(run.disordered for s in ours for run in runs[s.name])
    if peers:
        best = [max(each) for each in zip(*(rates[peer.name] for peer in peers), strict=True)]
        facts[f"drain {key} / best peer"] = median_ratio(first, best)
    facts[f"drain {key} / client"] = median_ratio(first, alone)
    rows = [
        _row(name, runs[name], rates[name], first, alone)
        for name in (side.name for side in (*ours, *peers))
    ]
    rows.append(["ESPF's HTTP client alone", shown(alone), "-", ratio(first, alone), "1", "-"])
    head = ["side", "posts/s", "done/s", f"{ours[0].name} / this", "of the client", "CPU us/post"]
    return f"**{load}**\n\n{table(head, rows)}"


def _row(
    name: str,
    runs: Sequence[Drained],
    rates: Sequence[float],
    first: Sequence[float],
    alone: Sequence[float],
) -> list[str]:
    posts = [run.posts_per_second for run in runs]
    cpu = shown([run.cpu_us for run in runs])
    return [name, shown(posts), shown(rates), ratio(first, rates), ratio(rates, alone), cpu]


def _client_alone(bench: Bench, posts: int) -> float:
    with bench.sinks.running(0) as sink:
        command = [sys.executable, "-m", "benchmarks.posts", sink.url, str(posts)]
        return float(subprocess.run(command, check=True, capture_output=True).stdout)
