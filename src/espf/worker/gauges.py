"""What a worker tells Prometheus, taken from what it counts and holds when it is asked."""

from collections import defaultdict
from collections.abc import Iterable

from prometheus_client import Metric

from espf.metrics import HANDLER, Family, Histogram
from espf.statistics import BOUNDS, COUNTS, Figures
from espf.worker.meter import (
    BATCH_BOUNDS,
    DURATION_BOUNDS,
    LAG_BOUNDS,
    STORE_BOUNDS,
    Distribution,
)
from espf.worker.runner import Runner
from espf.worker.worker import Worker

RESULTS = Family(
    "espf_results_total",
    "counter",
    "Results that were stored, by verdict: finished, retry, failed, rejected, skipped, superseded, "
    "orphan.",
    (*HANDLER, "verdict"),
)
LATENCY = Family(
    "espf_delivery_latency_seconds",
    "histogram",
    "From the event, or the time that it was scheduled for, to the end of its delivery, when its "
    "result was stored; retries included. What was restarted counts from when it happened.",
    HANDLER,
    BOUNDS,
)
DURATION = Family(
    "espf_attempt_duration_seconds",
    "histogram",
    "How long attempts took, from sending to the end of the reply.",
    HANDLER,
    tuple(bound / 1000 for bound in DURATION_BOUNDS),
)
IN_FLIGHT = Family("espf_in_flight", "gauge", "Attempts that are under way.", HANDLER)
HELD = Family("espf_held_events", "gauge", "Events in the worker's memory.", HANDLER)
LANES = Family(
    "espf_lanes",
    "gauge",
    "Subscribers who have something in the worker's memory, or of whom it knows that something "
    "waits.",
    HANDLER,
)
SHARDS = Family("espf_shards", "gauge", "Shards of the handler that the worker owns.", HANDLER)
BREAKER = Family(
    "espf_breaker_state",
    "gauge",
    "1 for the state of the worker's circuit breaker: closed, open, probing, ramping.",
    (*HANDLER, "state"),
)
LEASE = Family(
    "espf_lease_held", "gauge", "1: the worker's signs of life get through, its shards are sure."
)
LAG = Family(
    "espf_loop_lag_seconds",
    "histogram",
    "How late the event loop comes to what is due; looked at twice a second.",
    (),
    LAG_BOUNDS,
)
BATCHES = Family(
    "espf_settle_batch_size",
    "histogram",
    "Results that were stored in one transaction.",
    (),
    BATCH_BOUNDS,
)
STORING = Family(
    "espf_settle_seconds",
    "histogram",
    "How long it took to store a batch of results, waiting for the database included.",
    (),
    STORE_BOUNDS,
)
FAILURES = Family(
    "espf_database_failures_total",
    "counter",
    "Transactions that found the database away, by what they were to do: read, write. Each is "
    "tried again, on a new connection.",
    ("what",),
)
WORKER = (
    *(RESULTS, LATENCY, DURATION, IN_FLIGHT, HELD, LANES, SHARDS, BREAKER, LEASE, LAG, BATCHES),
    *(STORING, FAILURES),
)

#: What the log and the journal call it.
_VERDICTS = {count: count for count in COUNTS} | {"retried": "retry", "orphaned": "orphan"}


class Gauges:
    """A worker as those see it who watch it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def metrics(self) -> list[Metric]:
        """What it tells Prometheus, as it stands."""
        worker = self._worker
        return [
            *_counted(worker),
            *_standing(worker.runners),
            LEASE.of_one(worker.lease_holds),
            LAG.of_many([((), _histogram(worker.lag))]),
            BATCHES.of_many([((), _histogram(worker.settler.sizes))]),
            STORING.of_many([((), _histogram(worker.settler.seconds))]),
            FAILURES.of(((what,), worker.database.failures[what]) for what in ("read", "write")),
        ]

    def problems(self) -> list[str]:
        """Why it does not deliver."""
        if self._worker.lease_holds:
            return []
        return ["the worker's signs of life do not get through: its leases may be over"]


def _counted(worker: Worker) -> list[Metric]:
    # One that was removed and one that was made anew may have the same name.
    totals: dict[tuple[str, str], Figures] = defaultdict(Figures)
    durations: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(DURATION_BOUNDS))
    for meter in worker.meters:
        name = (str(meter.configured.i_env), meter.configured.name)
        totals[name].add(meter.total)
        durations[name] = [a + b for a, b in zip(durations[name], meter.durations, strict=True)]
    return [
        RESULTS.of(
            ((*name, _VERDICTS[count]), getattr(total, count))
            for name, total in totals.items()
            for count in COUNTS
        ),
        LATENCY.of_many(
            (name, Histogram(total.within, total.finished, total.latency_ms / 1000))
            for name, total in totals.items()
        ),
        DURATION.of_many(
            (name, Histogram(durations[name], total.attempts, total.duration_ms / 1000))
            for name, total in totals.items()
        ),
    ]


def _standing(runners: Iterable[Runner]) -> list[Metric]:
    named = [((str(one.configured.i_env), one.configured.name), one) for one in runners]
    return [
        IN_FLIGHT.of((name, one.under_way) for name, one in named),
        HELD.of((name, one.held) for name, one in named),
        LANES.of((name, one.lanes) for name, one in named),
        SHARDS.of((name, len(one.epochs)) for name, one in named),
        BREAKER.of(((*name, one.breaker.shown().state), 1) for name, one in named),
    ]


def _histogram(one: Distribution) -> Histogram:
    return Histogram(one.within, one.count, one.sum)
