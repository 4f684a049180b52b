"""What a worker has done, counted in memory: from its start on, and since it was stored last.

Counting is done once for each batch of results that is stored, and costs an event next to nothing.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from espf.model import Result, Settled, Status
from espf.retry import FINISHED
from espf.statistics import BOUNDS, Figures
from espf.subscriptions import EventHandler

#: Sizes of batches, seconds that it took to store one, and that the loop was late.
BATCH_BOUNDS = (1, 2, 5, 10, 25, 50, 100, 250, 500)
STORE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
LAG_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

#: How often the loop is looked at.
LAG_SECONDS = 0.5

#: The times, in milliseconds, by which attempts are told apart.
DURATION_BOUNDS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 300_000)


class Distribution:
    """How often a value was at most each of some bounds; how often in all, and the sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.within = [0] * len(bounds)
        self.count = 0
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one more."""
        self.count += 1
        self.sum += value
        for place in range(bisect_left(self._bounds, value), len(self.within)):
            self.within[place] += 1


class Meter:
    """Counts for one handler. ``total`` and ``durations`` count up from the start of the worker.

    ``durations``: how many attempts took no longer than each of ``DURATION_BOUNDS``.
    """

    def __init__(self, configured: EventHandler) -> None:
        self.configured = configured
        self.total = Figures()
        self.durations = [0] * len(DURATION_BOUNDS)
        #: By the beginning of the minute: what was not stored yet.
        self.fresh: dict[datetime, Figures] = {}

    def add(self, batch: Sequence[Settled]) -> None:
        """Count what was stored together."""
        at = batch[0].at
        delivered = [one.result for one in batch if one.applied and one.result.decision is FINISHED]
        figures = Figures(finished=len(delivered))
        tried = delivered
        if len(delivered) < len(batch):
            tried = delivered + _others(batch, figures)
        self._time_attempts(tried, figures)
        _time_deliveries(delivered, at.timestamp(), figures)
        self.total.add(figures)
        minute = at.replace(second=0, microsecond=0)
        if minute in self.fresh:
            self.fresh[minute].add(figures)
        else:
            self.fresh[minute] = figures

    def _time_attempts(self, tried: Sequence[Result], figures: Figures) -> None:
        took = sorted([result.duration_ms for result in tried])
        if took:
            figures.duration_ms, figures.longest_ms = sum(took), took[-1]
            self.durations = [
                count + bisect_right(took, bound)
                for count, bound in zip(self.durations, DURATION_BOUNDS, strict=True)
            ]


class Meters:
    """The meters of a worker, by handler; they stay when the worker gives a handler up."""

    def __init__(self) -> None:
        self._meters: dict[int, Meter] = {}

    def __iter__(self) -> Iterator[Meter]:
        return iter(list(self._meters.values()))

    def of(self, configured: EventHandler) -> Meter:
        """The meter of a handler, which may have another name than before."""
        meter = self._meters.setdefault(configured.i_event_handler, Meter(configured))
        meter.configured = configured
        return meter

    def take(self) -> dict[tuple[int, datetime], Figures]:
        """What was not stored yet, for ``espf.statistics.store``; it counts as stored now."""
        taken = {
            (number, minute): figures
            for number, meter in self._meters.items()
            for minute, figures in meter.fresh.items()
        }
        for meter in self._meters.values():
            meter.fresh = {}
        return taken

    def put_back(self, taken: Mapping[tuple[int, datetime], Figures]) -> None:
        """What was taken could not be stored."""
        for (number, minute), figures in taken.items():
            self._meters[number].fresh.setdefault(minute, Figures()).add(figures)


_COUNTED_AS = {status: str(status) for status in Status} | {Status.QUEUED: "retried"}


async def watch_loop(lag: Distribution) -> None:
    """Count how late the loop comes to what is due, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        lag.add(max(0.0, loop.time() - due))


def _others(batch: Sequence[Settled], figures: Figures) -> list[Result]:
    """Count what was not simply delivered; returns those of which an attempt was made."""
    tried = []
    for one in batch:
        result, decision = one.result, one.result.decision
        if one.applied and decision is FINISHED:
            continue
        if one.applied and decision.by is None:
            name = _COUNTED_AS[decision.status]
            setattr(figures, name, getattr(figures, name) + 1)
            tried.append(result)
        elif decision.by is None:
            figures.orphaned += 1
            tried.append(result)
        elif one.applied and decision.status is Status.SUPERSEDED:
            figures.superseded += 1
    return tried


def _time_deliveries(delivered: Sequence[Result], at: float, figures: Figures) -> None:
    """``at``: the moment at which they were stored, as the events' own moments are given."""
    since = sorted([s for r in delivered if (s := r.notification.since) is not None])
    if since:
        # A clock that was set back makes no negative times.
        figures.latency_ms = max(0, round((at * len(since) - sum(since)) * 1000))
        figures.slowest_ms = max(0, round((at - since[0]) * 1000))
        count = len(since)
        figures.within = [count - bisect_left(since, at - bound) for bound in BOUNDS]
