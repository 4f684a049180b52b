"""One attempt: an event handed to a handler once, whatever the handler does.

Step 5 of the walk. It is the same for a worker, and for an administrator who tries a handler out.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from espf.errors import CheckLater, HandlerError, TryLater
from espf.handlers.base import Billing, Context, Handler, Outlet
from espf.handlers.http import Http, HttpClient, masked, storable
from espf.journal import LONGEST_REASON
from espf.model import Event
from espf.telemetry import about

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attempt:
    """How an attempt went. ``outcome`` None: the external system has accepted the event.

    ``request`` and ``response`` are what the journal has of them, secrets masked.
    """

    outcome: Exception | None
    duration_ms: int
    request: str | None
    response: str | None


async def run_once(
    handler: Handler,
    event: Event,
    number: int,
    client: HttpClient,
    billing: Billing,
    outlet: Outlet,
    limit_seconds: float,
    under: Callable[[asyncio.Timeout], AbstractContextManager[Any]] = nullcontext,
    traceparent: str | None = None,
) -> Attempt:
    """Run the handler once, within a time limit. Never raises, but when cancelled.

    ``number`` counts the attempts of the event from 1. ``under`` may shorten the limit meanwhile.
    ``traceparent`` is what the external system is told of the trace.
    """
    # The handler may add to them: what it learns of a subscriber.
    secrets = [*handler.secrets()]
    http = Http(client, secrets, traceparent)
    context = Context(
        http, billing, attempt=number, outlet=outlet, secrets=secrets, i_event=event.i_event
    )
    started = time.monotonic()
    outcome: Exception | None = None
    try:
        async with asyncio.timeout(limit_seconds) as clock:
            with under(clock):
                await handler.handle(handler.spelt(event), context)
    except HandlerError as error:
        outcome = error
    except TimeoutError:
        outcome = TryLater(f"no answer within {time.monotonic() - started:.0f} s")
    except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
        trace = "".join(traceback.format_exception(error))
        extra = about(handler.name, event.i_event, number)
        name = type(handler).__name__
        _log.error("a fault in handler type %s\n%s", name, masked(trace, secrets), extra=extra)
        outcome = error
    exchange = http.exchange
    notes = masked("\n".join(context.notes), secrets)
    request = "\n".join(text for text in (notes, exchange and exchange.request) if text)
    return Attempt(
        outcome=None if outcome is None else presentable(outcome, secrets),
        duration_ms=round((time.monotonic() - started) * 1000),
        request=storable(request) or None,
        response=storable(exchange.response) if exchange else None,
    )


def presentable(outcome: Exception, secrets: Collection[str]) -> Exception:
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
