"""Step 5 of 8, deliver: one notification handed to its handler, whatever the handler does."""

import asyncio
import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from espf.errors import CheckLater, HandlerError, TryLater
from espf.handlers.base import Billing, Context, Handler
from espf.handlers.http import Http, HttpClient, masked, storable
from espf.handlers.lean_http import Ticket
from espf.journal import LONGEST_REASON
from espf.model import Notification
from espf.telemetry import about
from espf.worker.outlet import QueueOutlet

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Delivery:
    """How an attempt went. ``outcome`` None: the external system has accepted the event."""

    outcome: Exception | None
    duration_ms: int
    request: str | None
    response: str | None
    emits: bool


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


async def deliver(
    handler: Handler,
    notification: Notification,
    client: HttpClient,
    billing: Billing,
    outlet: QueueOutlet,
    batch: Batch | None = None,
    traceparent: str | None = None,
) -> Delivery:
    """Run the handler once, within its time limit. Never raises, but when cancelled."""
    secrets = handler.secrets()
    http = Http(client, secrets, traceparent)
    context = Context(http, billing, attempt=notification.attempts + 1, outlet=outlet)
    started = time.monotonic()
    outcome: Exception | None = None
    try:
        async with asyncio.timeout(handler.time_limit_seconds()) as clock:
            with batch.member(clock) if batch is not None else nullcontext():
                await handler.handle(handler.spelt(notification.event), context)
    except HandlerError as error:
        outcome = error
    except TimeoutError:
        outcome = TryLater(f"no answer within {time.monotonic() - started:.0f} s")
    except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
        trace = "".join(traceback.format_exception(error))
        extra = about(handler.name, notification.event.i_event, context.attempt)
        name = type(handler).__name__
        _log.error("a fault in handler type %s\n%s", name, masked(trace, secrets), extra=extra)
        outcome = error
    exchange = http.exchange
    notes = masked("\n".join(context.notes), secrets)
    request = "\n".join(text for text in (notes, exchange and exchange.request) if text)
    return Delivery(
        outcome=None if outcome is None else presentable(outcome, secrets),
        duration_ms=round((time.monotonic() - started) * 1000),
        request=storable(request) or None,
        response=storable(exchange.response) if exchange else None,
        emits=outlet.is_used,
    )


def presentable(outcome: Exception, secrets: tuple[str, ...]) -> Exception:
    """The outcome as it may be shown: an external system may well echo what it was sent."""
    text = storable(masked(str(outcome), secrets))
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]}…"
    if text == str(outcome):
        return outcome
    if isinstance(outcome, TryLater):
        return type(outcome)(text, after=outcome.after)
    if isinstance(outcome, CheckLater):
        return CheckLater(text, after=outcome.after)
    if isinstance(outcome, HandlerError):
        return type(outcome)(text)
    return TryLater(f"{type(outcome).__name__}: {text}")
