"""Step 5 of 8, deliver: attempts that go out together share a last moment for their answers."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from espf.handlers.lean_http import Ticket


class Batch:
    """Attempts that were started together and share a last moment for their answers."""

    def __init__(self) -> None:
        self._clocks: set[asyncio.Timeout] = set()
        self._tickets: list[Ticket] = []
        self._last_answer_at: float | None = None

    def sent(self, max_wait_seconds: float) -> None:
        """The last one went out: whoever has no answer this much later has none."""
        self._last_answer_at = asyncio.get_running_loop().time() + max_wait_seconds
        for clock in self._clocks:
            self._shorten(clock)
        latest = time.monotonic() + max_wait_seconds
        for ticket in self._tickets:
            ticket.deadline = min(ticket.deadline, latest)
        self._tickets.clear()

    def add(self, ticket: Ticket) -> None:
        """A request that was sent in this batch."""
        self._tickets.append(ticket)

    @contextmanager
    def member(self, clock: asyncio.Timeout) -> Iterator[None]:
        """Put the time limit of one attempt under that of the batch."""
        self._clocks.add(clock)
        self._shorten(clock)
        try:
            yield
        finally:
            self._clocks.discard(clock)

    def _shorten(self, clock: asyncio.Timeout) -> None:
        due = clock.when()
        if self._last_answer_at is not None and (due is None or due > self._last_answer_at):
            clock.reschedule(self._last_answer_at)
