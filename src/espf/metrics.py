"""What is told to Prometheus: families of metrics, and what the database knows for them.

A family is described once; documents, dashboards and alert rules are held against that. Nothing is
counted for Prometheus alone: the figures are taken from what is there anyway when they are asked
for. What a worker knows by itself is in ``espf.worker.gauges``.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from espf import maintenance, reconciliation, standing
from espf.capture import rules, triggers
from espf.db.database import Database
from espf.errors import DatabaseUnavailable, EspfError
from espf.sources import MOST_COUNTED
from espf.subscriptions import list_handlers

#: However often it is asked, the database is asked no more often than that.
READ_SECONDS = 5.0

#: Likewise for the triggers, each of which has to be compared with its rules.
DRIFT_SECONDS = 60.0

Labels = tuple[str, ...]

#: The labels of what is about one event handler.
HANDLER = ("i_env", "handler")


@dataclass(frozen=True)
class Histogram:
    """How often a value was at most each of the family's bounds; in all; and their sum."""

    within: Sequence[int]
    count: int
    sum: float


@dataclass(frozen=True)
class Family:
    """A metric by its name, with what it says about each combination of its labels.

    ``bounds`` are those of a histogram, in the unit of the name.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()

    def of(self, values: Iterable[tuple[Labels, float]]) -> Metric:
        """The metric with these values, each with its labels; not for a histogram."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.help, labels=self.labels)
        for labels, value in values:
            metric.add_metric(labels, value)
        return metric

    def of_one(self, value: float) -> Metric:
        """The metric with its only value."""
        return self.of([((), value)])

    def of_many(self, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
        """The histogram with these values, each with its labels."""
        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, one in values:
            pairs = zip(map(str, map(float, self.bounds)), map(float, one.within), strict=True)
            metric.add_metric(labels, [*pairs, ("+Inf", float(one.count))], one.sum)
        return metric


UP = Family("espf_database_up", "gauge", "1: the database answers; 0: it is away.")
READING = Family(
    "espf_database_read_seconds", "gauge", "How long it took to ask the database for all this."
)
MAINTENANCE = Family("espf_maintenance", "gauge", "1: maintenance mode is on, nothing goes out.")
WORKERS = Family(
    "espf_workers",
    "gauge",
    "Workers by state. alive: gives signs of life; lost: gave none for more than its time, within "
    "the last hour.",
    ("state",),
)
STATE = Family(
    "espf_handler_state",
    "gauge",
    "1 for the state of each event handler: working, disabled, maintenance, paused, unattended (no "
    "worker has it), or what a circuit breaker does.",
    (*HANDLER, "state"),
)
WAITING = Family(
    "espf_waiting_events",
    "gauge",
    "Events that wait for their first attempt. Exact up to 2000, an estimate from samples beyond "
    "that.",
    HANDLER,
)
OLDEST = Family(
    "espf_oldest_waiting_seconds",
    "gauge",
    "How long ago the first event happened that waits, retries included; 0: none waits. Where very "
    "many wait, as far as samples show it.",
    HANDLER,
)
RETRYING = Family(
    "espf_retrying_events",
    "gauge",
    f"Events that wait for a retry; counted up to {MOST_COUNTED}.",
    HANDLER,
)
FAILED = Family(
    "espf_failed_events",
    "gauge",
    f"Events given up, that somebody may restart; counted up to {MOST_COUNTED}.",
    HANDLER,
)
RESTING = Family(
    "espf_resting_workers",
    "gauge",
    "Workers whose circuit breaker for the handler is not closed, by its state.",
    (*HANDLER, "state"),
)
DRIFT = Family(
    "espf_capture_drifts",
    "gauge",
    "Triggers on billing tables that are not installed as the rules compile; looked at once a "
    "minute.",
)
DIFFERENCES = Family(
    "espf_audit_differences",
    "gauge",
    "Entries of the handler's system that the last audit of all found otherwise than the billing "
    "wants them: different, missing, extra; failed: they could not be compared.",
    (*HANDLER, "kind"),
)
AUDITED = Family(
    "espf_audit_ended_timestamp_seconds",
    "gauge",
    "When the last audit of all ended, in seconds since 1970.",
    HANDLER,
)
DATABASE = (
    *(UP, READING, MAINTENANCE, WORKERS, STATE, WAITING, OLDEST, RETRYING, FAILED, RESTING),
    *(DIFFERENCES, AUDITED),
    DRIFT,
)

_BREAKER_STATES = ("open", "probing", "ramping")


class DatabaseMetrics:
    """What the database knows; it costs the same whatever waits there.

    ``chosen`` is the setting that names the capture rules.
    """

    def __init__(self, database: Database, chosen: Path | None) -> None:
        self._database = database
        self._chosen = chosen
        self._known: tuple[float, list[Metric]] = (-READ_SECONDS, [])
        self._drift: tuple[float, list[Metric]] = (-DRIFT_SECONDS, [])
        self._reading = asyncio.Lock()

    async def collect(self) -> list[Metric]:
        """The metrics, as they were at most ``READ_SECONDS`` ago."""
        async with self._reading:
            now = time.monotonic()
            if self._known[0] + READ_SECONDS <= now:
                try:
                    metrics = await self._database.fetch(self._read)
                except DatabaseUnavailable:
                    return [UP.of_one(0)]
                taken = READING.of_one(time.monotonic() - now)
                self._known = (now, [UP.of_one(1), taken, *metrics])
            return self._known[1]

    def _read(self, connection: Connection) -> list[Metric]:
        workers = standing.list_workers(connection, self._database)
        alive = sum(worker.alive for worker in workers)
        found = standing.handlers(connection, self._database, *list_handlers(connection))
        return [
            MAINTENANCE.of_one(maintenance.in_maintenance(connection)),
            WORKERS.of([(("alive",), alive), (("lost",), len(workers) - alive)]),
            *_of_handlers(found, self._database.now(connection)),
            *_of_audits(connection, found),
            *self._drifts(connection),
        ]

    def _drifts(self, connection: Connection) -> list[Metric]:
        now = time.monotonic()
        if self._drift[0] + DRIFT_SECONDS <= now:
            try:
                wanted = triggers.compile_rules(
                    rules.chosen_rules(self._chosen), triggers.disabled_types(connection)
                )
                found = triggers.verify(connection, self._database.dialect, wanted)
                self._drift = (now, [DRIFT.of_one(len(found))])
            except DatabaseUnavailable:
                raise
            except EspfError:
                # Rules that are wrong are told of by whoever applies them.
                self._drift = (now, [])
        return self._drift[1]


def _of_handlers(found: Iterable[standing.Standing], now: datetime) -> list[Metric]:
    named = [((str(one.handler.i_env), one.handler.name), one) for one in found]
    resting = [
        ((*name, state), sum(breaker.state == state for breaker in one.breakers.values()))
        for name, one in named
        for state in _BREAKER_STATES
    ]
    return [
        STATE.of(((*name, one.state), 1) for name, one in named),
        WAITING.of((name, one.waiting) for name, one in named),
        OLDEST.of((name, _age(one.oldest, now)) for name, one in named),
        RETRYING.of((name, one.retrying) for name, one in named),
        FAILED.of((name, one.failed) for name, one in named),
        RESTING.of(resting),
    ]


def _of_audits(connection: Connection, found: Iterable[standing.Standing]) -> list[Metric]:
    names = {
        one.handler.i_event_handler: (str(one.handler.i_env), one.handler.name)
        for one in found
        if one.handler.brings_state
    }
    ended = reconciliation.latest(connection, names, failed=False)
    audits = [(names[number], audit) for number, audit in ended.items()]
    return [
        DIFFERENCES.of(
            ((*name, kind), getattr(audit, kind))
            for name, audit in audits
            for kind in reconciliation.KINDS
        ),
        AUDITED.of((name, audit.ended_at.timestamp()) for name, audit in audits if audit.ended_at),
    ]


def _age(oldest: datetime | None, now: datetime) -> float:
    return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())


class _Collected(Collector):
    """Metrics that are collected already, with what the process takes of the machine."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        yield from self._metrics
        yield from _process.collect()


_process = ProcessCollector(registry=None)


def exposition(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """Metrics as text, in the form that the scraper accepts, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(_Collected(metrics)), content_type


def page(parts: Iterable[tuple[str, str, Sequence[Family]]]) -> str:
    """The page of the documents about all metrics; each part with a heading and an introduction."""
    lines = [_INTRODUCTION]
    for heading, introduction, families in parts:
        lines += [f"## {heading}", "", introduction, "", "| Metric | Type | Labels | |"]
        lines += ["|---|---|---|---|", *map(_row, families), ""]
    return "\n".join(lines)


_INTRODUCTION = """# Metrics

What `/metrics` serves to Prometheus. [Monitor ESPF](../how-to/monitor.md) says where, and who may see it; [examples/monitoring](../../examples/monitoring) has alert rules and a dashboard. With each process come the usual `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and so on.
"""  # noqa: E501  (a line of the page)


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
    bounds = f" Bounds: {', '.join(f'{bound:g}' for bound in family.bounds)}." * bool(family.bounds)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help}{bounds} |"
