"""Step 4 of 8, claim: one loop that reads for all handlers of the worker, in one picture each time.

Claiming writes nothing: a worker owns shards, and what is in them is its own. A handler that has
no room, is paused, or whose breaker is open is not asked for.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from espf.backlog import Backlog
from espf.worker.patience import PatientDatabase
from espf.worker.runner import Runner

if TYPE_CHECKING:
    from espf.worker.tracing import Tracer

#: However quiet it is, look that often.
IDLE_SECONDS = 1.0


class Reader:
    """Reads what the runners want, as soon as they want it."""

    def __init__(
        self,
        backlog: Backlog,
        database: PatientDatabase,
        runners: Callable[[], Collection[Runner]],
        tracer: "Tracer | None" = None,
    ) -> None:
        self._tracer = tracer
        self._backlog = backlog
        self._database = database
        self._runners = runners
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """A runner wants something now."""
        self._woken.set()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            self._woken.clear()
            await self._read()
            idle = min((r.idle_seconds() for r in self._runners()), default=IDLE_SECONDS)
            if idle > 0:
                try:
                    async with asyncio.timeout(idle):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def _read(self) -> None:
        asking = [(runner, wanted) for runner in self._runners() if (wanted := runner.wants())]
        if not asking:
            return
        for runner, wanted in asking:
            runner.read_begins(wanted)
        everything = [wanted for _, wanted in asking]
        # An event that has just been committed waits for this.
        found = await self._database.ask(self._backlog.ask, everything)
        if found is None:
            found = await self._database.fetch(self._backlog.read, everything)
        if self._tracer is not None:
            self._tracer.read(found)
        for (runner, wanted), one in zip(asking, found, strict=True):
            runner.read_ended(wanted, one)
