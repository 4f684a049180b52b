"""Step 7 of 8, settle: results of all handlers, stored in batches; step 8, tell, comes after.

A result is stored before anything else happens in its lane, and nothing stops it but the end of
the process: what is not stored is delivered again, under the same number.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from espf.model import Status
from espf.queue import Queue, Result, Settled
from espf.telemetry import ProvisioningLog
from espf.worker.patience import PatientDatabase

#: A batch is stored when it is full, after this long, or when nothing is under way.
LINGER_SECONDS = 0.005


@dataclass(frozen=True)
class Outcome:
    """A result, and whom to tell that it is stored."""

    result: Result
    tell: Callable[[Settled], None]


class Settler:
    """Collects results and stores them; ``under_way`` says how many more are on their way."""

    def __init__(
        self,
        queue: Queue,
        database: PatientDatabase,
        log: ProvisioningLog,
        under_way: Callable[[], int],
        batch: int,
    ) -> None:
        self._batch = batch
        self._queue = queue
        self._database = database
        self._log = log
        self._under_way = under_way
        self._waiting: list[Outcome] = []
        self._arrived = asyncio.Event()

    def put(self, outcome: Outcome) -> None:
        """Take a result; its ``tell`` is called when it is stored."""
        self._waiting.append(outcome)
        self._arrived.set()

    async def run(self) -> None:
        """Store until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._batch and self._under_way():
                await asyncio.sleep(LINGER_SECONDS)
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            if not self._waiting:
                self._arrived.clear()
            settled = await self._database.write(self._settle, [one.result for one in batch])
            self._queue.journal.committed()
            for outcome, one in zip(batch, settled, strict=True):
                self._write_line(one)
                outcome.tell(one)

    def _settle(self, connection: Connection, results: Sequence[Result]) -> list[Settled]:
        return self._queue.settle(connection, results)

    def _write_line(self, one: Settled) -> None:
        result, event = one.result, one.result.notification.event
        retries = result.decision.status is Status.QUEUED
        verdict = "retry" if retries else str(result.decision.status)
        self._log.write(
            verdict if one.applied else "orphan",
            i_event=event.i_event,
            type=event.event_type,
            key=event.ordering_key,
            handler=result.handler,
            attempt=result.notification.attempts + 1,
            reason=result.decision.reason,
            next_try=one.next_attempt_at.strftime("%Y-%m-%dT%H:%M:%SZ")
            if retries and one.next_attempt_at
            else None,
        )
