"""Step 7 of 8, settle: results of all handlers, stored in batches; step 8, tell, comes after.

A result is stored before anything else happens in its lane, and nothing stops it but the end of
the process: what is not stored is delivered again, under the same number.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from espf.db.dialect import Dialect
from espf.journal import ORPHAN, RETRY, Texts
from espf.model import Result, Settled, Status
from espf.queue import Queue
from espf.telemetry import ProvisioningLog, logged, logged_as_json
from espf.worker.meter import BATCH_BOUNDS, STORE_BOUNDS, Distribution
from espf.worker.patience import PatientDatabase

#: A batch is stored when it is full, after this long, or when nothing is under way.
LINGER_SECONDS = 0.005


#: Whom to tell what is stored.
Tell = Callable[[list[Settled]], None]


class Settler:
    """Collects results and stores them; ``under_way`` says how many more are on their way."""

    def __init__(
        self,
        queue: Queue,
        database: PatientDatabase,
        log: ProvisioningLog,
        under_way: Callable[[], int],
        dialect: Dialect,
    ) -> None:
        self._batch = dialect.batch
        self._plenty = dialect.batch // 2
        # One writer is left for signs of life.
        self._at_once = max(1, dialect.writers - 1)
        self._storing = 0
        self._stored = asyncio.Event()
        self._queue = queue
        self._database = database
        self._log = log
        self._line = _json_line if log.as_json else _line
        self._under_way = under_way
        self._waiting: list[tuple[Result, Tell]] = []
        #: How many results were stored at a time, and how long that took.
        self.sizes = Distribution(BATCH_BOUNDS)
        self.seconds = Distribution(STORE_BOUNDS)
        self._arrived = asyncio.Event()

    def put(self, result: Result, tell: Tell) -> None:
        """Take a result; ``tell`` is called when it is stored."""
        self._waiting.append((result, tell))
        self._arrived.set()

    async def run(self) -> None:
        """Store until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                if len(self._waiting) < self._batch and self._under_way():
                    await asyncio.sleep(LINGER_SECONDS)
                # One batch after another, or several at a time when there is much to store.
                while self._storing >= (1 if len(self._waiting) < self._plenty else self._at_once):
                    await self._soon()
                batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
                if not self._waiting:
                    self._arrived.clear()
                self._storing += 1
                group.create_task(self._store(batch))

    async def _soon(self) -> None:
        """Return when a batch has been stored, or more may have come."""
        self._stored.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._stored.wait()

    async def _store(self, batch: list[tuple[Result, Tell]]) -> None:
        texts = Texts()
        results = [result for result, _ in batch]
        tries: list[list[Settled]] = []
        began = time.monotonic()
        settled = await self._database.write(self._queue.settle_once, results, texts, tries)
        self._storing -= 1
        self._stored.set()
        self.sizes.add(len(batch))
        self.seconds.add(time.monotonic() - began)
        self._queue.journal.committed(texts)
        self._log.write(map(self._line, settled))
        told: dict[Tell, list[Settled]] = defaultdict(list)
        for (_, tell), one in zip(batch, settled, strict=True):
            told[tell].append(one)
        for tell, some in told.items():
            tell(some)


def _verdict(one: Settled) -> str:
    status = one.result.decision.status
    return (RETRY if status is Status.QUEUED else str(status)) if one.applied else ORPHAN


def _line(one: Settled) -> str:
    """What provisioning.log says of a result."""
    result, notification = one.result, one.result.notification
    decision, event = result.decision, notification.event
    retries = decision.status is Status.QUEUED
    line = (
        f"verdict={_verdict(one)} i_event={event.i_event} type={logged(event.event_type)}"
        f"{f' key={logged(event.ordering_key)}' if event.ordering_key else ''}"
        f" handler={logged(result.handler)} attempt={result.attempt}"
    )
    if decision.reason:
        line += f" reason={logged(decision.reason)}"
    if retries and one.next_attempt_at:
        line += f" next_try={one.next_attempt_at:%Y-%m-%dT%H:%M:%SZ}"
    return line


def _json_line(one: Settled) -> str:
    """The same, in JSON."""
    result, decision = one.result, one.result.decision
    event = result.notification.event
    fields = {
        "verdict": _verdict(one),
        "i_event": event.i_event,
        "type": event.event_type,
        "key": event.ordering_key,
        "handler": result.handler,
        "attempt": result.attempt,
        "reason": decision.reason,
    }
    if decision.status is Status.QUEUED and one.next_attempt_at:
        fields["next_try"] = f"{one.next_attempt_at:%Y-%m-%dT%H:%M:%SZ}"
    return logged_as_json({name: value for name, value in fields.items() if value})
