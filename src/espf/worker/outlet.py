"""The way of a handler back into the queue: in steps, at the pace of those who take the events."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from espf.dispatches import Dispatches, Step
from espf.errors import CheckLater, LeaseLost, Skipped, TryLater
from espf.model import Notification
from espf.worker.patience import PatientDatabase

#: After so long it is the turn of others who wait for the same handler.
SLICE_SECONDS = 1.0

#: How often to look whether a step has been worked on, at first and at the longest.
LOOK_SECONDS = 0.02
LONGEST_LOOK_SECONDS = 0.2

#: When the subscribers are slow: how long to leave them alone, in parts of the time that they have
#: taken already; and within which limits.
PATIENCE = 0.5
SHORTEST_REST = timedelta(seconds=0.5)
LONGEST_REST = timedelta(seconds=30)

Item = tuple[str, Mapping[str, Any]]


class QueueOutlet:
    """See ``espf.handlers.base.Outlet``; one for each attempt, under the epoch of its claim."""

    def __init__(
        self,
        dispatches: Dispatches,
        database: PatientDatabase,
        notification: Notification,
        epoch: int,
    ) -> None:
        #: Whether anything was asked of it.
        self.is_used = False
        self._dispatches = dispatches
        self._database = database
        self._notification = notification
        self._epoch = epoch
        self._step: Step | None = None
        self._until = 0.0

    async def reached(self) -> str | None:
        """See Outlet."""
        return (await self._at()).reached

    async def emit(self, event_type: str, events: Sequence[Item], reached: str) -> None:
        """See Outlet."""
        step = await self._at()
        while events:
            some, events = events[: step.size], events[step.size :]
            await self._room()
            at = some[-1][0] if events else reached
            step = await self._take(event_type, [variables for _, variables in some], at)
        if step.reached != reached:
            step = await self._take(event_type, [], reached)

    async def _at(self) -> Step:
        if self._step is None:
            self.is_used = True
            self._until = asyncio.get_running_loop().time() + SLICE_SECONDS
            self._step = await self._database.fetch(self._dispatches.at, self._notification)
        return self._step

    async def _room(self) -> None:
        """Return when most of the last step has been worked on; or let others have their turn."""
        step = await self._at()
        loop = asyncio.get_running_loop()
        pause = LOOK_SECONDS
        while not await self._database.fetch(self._dispatches.is_worked_on, self._notification):
            if loop.time() >= self._until:
                idle = (await self._database.fetch(self._dispatches.at, self._notification)).idle
                rest = min(max(PATIENCE * idle, SHORTEST_REST), LONGEST_REST)
                raise CheckLater(
                    f"{_so_far(step)}; the subscribers have enough for now", after=rest
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK_SECONDS)

    async def _take(
        self, event_type: str, events: Sequence[Mapping[str, Any]], reached: str
    ) -> Step:
        step = await self._at()
        try:
            heard = await self._database.write(
                self._dispatches.step,
                self._notification,
                self._epoch,
                event_type,
                events,
                step.reached,
                reached,
            )
        except LeaseLost as lost:
            raise TryLater(str(lost)) from None
        if not heard:
            raise Skipped(f"{_so_far(step)}; nobody is subscribed to {event_type}")
        self._step = step = Step(reached, step.emitted + len(events), step.size)
        # However slow the billing is, each attempt comes so far.
        if asyncio.get_running_loop().time() >= self._until:
            raise CheckLater(f"{_so_far(step)}; it goes on", after=timedelta(0))
        return step


def _so_far(step: Step) -> str:
    return f"{step.emitted} events so far"
