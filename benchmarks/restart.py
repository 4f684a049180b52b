"""A restart of very many failed events: what it takes, what comes of it, who notices.

All have failed for good, as after a long outage: each is in the queue, and has its line in the
journal. A worker is there the whole time, and delivers to another handler as well.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.backlog import insert
from benchmarks.bench import Bench
from benchmarks.drain import disordered
from benchmarks.latency import PER_SECOND, SETTLE_SECONDS
from benchmarks.measure import BenchError, Facts, percentile, table, tell
from benchmarks.side import peak_megabytes, until
from benchmarks.sites import ENV, HANDLERS, SYNC, Installation, Site

#: What has failed is of the second handler; what happens meanwhile is for the first one alone.
_OTHER, _FAILED = HANDLERS
_HAPPENS = "Account/ID/Changed"


@dataclass(frozen=True)
class Restarted:
    """How a restart went."""

    #: Of the command, from its start to its end.
    seconds: float
    #: The most memory that was resident in it.
    megabytes: float
    #: How many events the worker delivered a second, from the first to the last.
    rate: float
    #: Requests beyond one per event, and events after a later one of the same account.
    repeated: int
    disordered: int
    #: Milliseconds from commit to POST for the other handler, before and beside all this.
    alone: list[float]
    beside: list[float]


def measure(bench: Bench, facts: Facts) -> str:
    """The report's section."""
    count, rows = bench.sized(200_000, 2_000), []
    for name, installation in bench.installations.items():
        tell(f"restart of {count:,} failed on {name}")
        found = restart(bench, installation, count, bench.sized(10, 1))
        facts[f"restart {name} memory"] = found.megabytes
        facts[f"restart {name} wrong"] = found.repeated + found.disordered
        late = (
            # A machine so busy that there was none in time has no figure.
            f"{percentile(took, 0.5):.1f} / {percentile(took, 0.99):.1f}" if took else "-"
            for took in (found.alone, found.beside)
        )
        speed = f"{count / found.seconds:,.0f}"
        rows.append([name, speed, f"{found.rate:,.0f}", f"{found.megabytes:.0f}", *late])
    return table(
        [
            "database",
            "restarted/s",
            "delivered/s",
            "command's peak memory MB",
            "other handler before: p50 / p99 ms",
            "beside it",
        ],
        rows,
    )


def restart(bench: Bench, installation: Installation, count: int, seconds: int) -> Restarted:
    """Restart so many, while another handler is watched: so many seconds before, twice as many
    from then on.
    """
    happen = 3 * seconds * PER_SECOND
    with (
        bench.sinks.running(count + happen + 1000) as sink,
        installation.filled(f"failed_{count}", lambda site: _fail(site, count)) as site,
        site.working(),
        ThreadPoolExecutor(1) as billing,
    ):
        time.sleep(SETTLE_SECONDS)
        happening = billing.submit(site.trickle, 3 * seconds, PER_SECOND)
        until(lambda: sink.requests >= seconds * PER_SECOND, "what happens before")
        started = time.monotonic()
        megabytes = _command(site)
        took = time.monotonic() - started
        until(lambda: sink.requests >= count + happen, f"{count:,} restarted", 3600)
        arrivals = sink.arrivals()
        committed = happening.result()
    again = [each for each in arrivals if each.i_event <= count]
    # One after another commits, so the numbers of the events are in the order of the commits.
    others = sorted((each for each in arrivals if each.i_event > count), key=lambda e: e.i_event)
    late = [(at, (there.at - at) * 1000) for there, at in zip(others, committed, strict=True)]
    return Restarted(
        took,
        megabytes,
        count / (again[-1].at - again[0].at),
        len(again) - len({each.i_event for each in again}),
        disordered(again),
        [waited for at, waited in late if at < started],
        [waited for at, waited in late if at >= started],
    )


def _command(site: Site) -> float:
    """Run ``evctl event restart`` to its end; the most memory that was resident, in MB."""
    command = subprocess.Popen(
        [sys.executable, *f"-m espf event restart --handler {_FAILED} --yes".split()],
        env={**os.environ, **site.environment()},
        stdout=subprocess.DEVNULL,
    )
    megabytes = peak_megabytes(command, lambda: None)
    if command.returncode:
        raise BenchError("evctl event restart failed")
    return megabytes


def _fail(site: Site, count: int) -> None:
    """Have so many events failed for the second handler."""
    for handler in HANDLERS:
        site.configure(SYNC, handler)
    site.evctl("handler", "enable", ENV, _FAILED)
    site.evctl("handler", "unsubscribe", ENV, _FAILED, _HAPPENS)
    insert(site, count, 2)
    home = site.home
    site.say(
        f"UPDATE {home}Event_Notifications SET status = 'failed', attempts = 62, "
        "last_error = 'HTTP 503 Service Unavailable', ordering_key = (SELECT q.ordering_key "
        f"FROM {home}Event_Queue q WHERE q.i_event = {home}Event_Notifications.i_event)",
        f"INSERT INTO {home}Provisioning_Log (i_event, i_env, event_type, ordering_key, variables, "
        "i_event_handler, handler, attempt, verdict, reason, created_at, logged_at) "
        "SELECT i_event, i_env, event_type, ordering_key, variables, 2, "
        f"'{_FAILED}', 62, 'failed', 'HTTP 503 Service Unavailable', created_at, created_at "
        f"FROM {home}Event_Queue",
    )
