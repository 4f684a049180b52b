"""A handler is tried out: whether it can reach its external system, and what it says of one event.

Outside of the queue, at once, for an administrator who waits: nothing is stored, nothing is tried
again, and no breaker counts it. That it was done, and by whom, is in the diagnostics.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from espf.attempt import Attempt, presentable, run_once
from espf.billing import references
from espf.catalogue import CUSTOM_PREFIX, catalogue, is_custom, is_well_formed
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import (
    Conflict,
    InvalidRequest,
    Misconfigured,
    SettingsError,
    TooOften,
    TryLater,
)
from espf.handlers import registry
from espf.handlers.base import Billing, Context, Handler
from espf.handlers.http import Http, HttpClient, masked, storable
from espf.model import Event, Status, read_value
from espf.queue import written
from espf.retry import RetryPolicy, decide
from espf.subscriptions import EventHandler, require_type

_log = logging.getLogger(__name__)

#: The type of a trial's event, where nobody names one and the handler takes it.
USUAL_TYPE = f"{CUSTOM_PREFIX}Test"

#: The number of a trial's event: none in the queue has it.
NO_NUMBER = 0

#: How long opening and checking, then the event, and then closing may take.
CHECK_SECONDS = 15.0
EVENT_SECONDS = 30.0
CLOSE_SECONDS = 5.0

#: How long after a trial of a handler the next one may begin.
REST_SECONDS = 1.0

#: The way to the billing API, for the handlers of an environment. Raises SettingsError.
WayToBilling = Callable[[HttpClient], Callable[[int], Billing]]


@dataclass(frozen=True)
class Check:
    """What a handler found of its external system, without an event.

    ``reached`` None: nothing can be told without one.
    """

    reached: bool | None
    found: str | None


@dataclass(frozen=True)
class Sent:
    """What became of the event, as a worker would decide it.

    ``verdict`` is that of provisioning.log: finished, retry, rejected, skipped or failed; with
    ``retry_seconds``, how long a retry would wait, give or take the jitter. ``request`` and
    ``response`` are what the journal would have. ``makes`` counts the events that a dispatcher
    would have made, by type.
    """

    event: Event
    verdict: str
    reason: str | None
    retry_seconds: int | None
    duration_ms: int
    request: str | None
    response: str | None
    makes: Mapping[str, int]


@dataclass(frozen=True)
class Trial:
    """What was found; ``sent`` None: there was to be no event."""

    check: Check
    sent: Sent | None

    @property
    def is_well(self) -> bool:
        """Whether all that was tried went well."""
        if self.sent is None:
            return self.check.reached is not False
        return self.sent.verdict == Status.FINISHED


def event_for(
    connection: Connection,
    database: Database,
    handler: EventHandler,
    event_type: str | None,
    variables: Mapping[str, object],
) -> Event:
    """The event of a trial, as the queue would have it, in the environment of the handler.

    Without a type it is Custom/Test, or the first that the handler supports; a custom one need not
    be known. Raises InvalidRequest that names the field.
    """
    references.check(connection, handler.i_env, variables)
    name = usual_type(handler) if event_type is None else event_type.strip()
    if not (is_custom(name) and is_well_formed(name)):
        name = require_type(connection, name)
    if not registry.supported(handler.type, [name]):
        raise InvalidRequest(f"handlers of type {handler.type} do not support {name}", "event_type")
    key, payload = written(handler.i_env, name, variables, database.now(connection))
    return Event(NO_NUMBER, handler.i_env, name, payload, key)


def usual_type(handler: EventHandler) -> str:
    """The type of a trial's event, where nobody names one."""
    return registry.supported(handler.type, [USUAL_TYPE, *catalogue()])[0]


def read_variables(text: str) -> dict[str, object]:
    """Variables as somebody types them: a JSON object, or lines of NAME=VALUE.

    A line with nothing behind its ``=`` says nothing. Raises InvalidRequest that names the line.
    """
    if text.lstrip().startswith("{"):
        read = read_value(text)
        if not isinstance(read, dict):
            raise InvalidRequest("this is no JSON object", "variables")
        return read
    values: dict[str, object] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if line.strip() and not (name and equals):
            said = f"line {number}: expected NAME=VALUE, e.g. i_account=541"
            raise InvalidRequest(said, "variables")
        if value:
            values[name] = read_value(value)
    return values


class Trials:
    """Trials of handlers in this process: of each one at a time, and not too often."""

    def __init__(self, sealer: Sealer, way: WayToBilling | None) -> None:
        self._sealer = sealer
        self._way = way
        # When the next trial of a handler may begin; while one is under way, never.
        self._next: dict[int, float] = {}

    async def run(self, handler: EventHandler, event: Event | None, by: str) -> Trial:
        """Try a handler out; ``event`` None: only its check. ``by``: who wants to know.

        Raises TooOften, Conflict when its settings are not complete, and what ``build`` raises.
        """
        built = self._built(handler)
        number = handler.i_event_handler
        if time.monotonic() < self._next.get(number, 0.0):
            raise TooOften(f"handler {handler.name} is being tried out; try again in a moment")
        self._next[number] = float("inf")
        try:
            trial = await self._run(built, handler, event)
        finally:
            self._next[number] = time.monotonic() + REST_SECONDS
        what = "a check" if event is None else f"a test event {event.event_type}"
        said = trial.check.found if trial.sent is None else trial.sent.verdict
        who = (by, handler.name, handler.i_env)
        _log.info("%s tried out handler %s of environment %d with %s: %s", *who, what, said)
        return trial

    def _built(self, handler: EventHandler) -> Handler:
        if missing := handler.missing(self._sealer):
            raise Conflict(f"handler {handler.name} is not configured yet: {missing}")
        return handler.build(self._sealer)

    async def _run(self, handler: Handler, configured: EventHandler, event: Event | None) -> Trial:
        async with HttpClient() as common:
            client = common.of_environment(configured.i_env)
            client.confine(configured.networks)
            fault = await _within(CHECK_SECONDS, handler.open())
            if fault is not None:
                return _unopened(handler, event, fault)
            billing = self._billing(common, configured.i_env)
            try:
                check = await _check(handler, client, billing)
                sent = None if event is None else await _send(handler, event, client, billing)
            finally:
                await _within(CLOSE_SECONDS, handler.close())
            return Trial(check, sent)

    def _billing(self, client: HttpClient, i_env: int) -> Billing:
        if self._way is None:
            return _Nowhere("this process does not know where the billing API is")
        try:
            return self._way(client)(i_env)
        except SettingsError as error:
            return _Nowhere(str(error))


def _unopened(handler: Handler, event: Event | None, fault: Exception) -> Trial:
    said = Misconfigured(f"it cannot be opened: {presentable(fault, handler.secrets())}")
    check = Check(reached=False, found=str(said))
    if event is None:
        return Trial(check, None)
    return Trial(check, _judged(handler, event, Attempt(said, 0, None, None), {}))


async def _check(handler: Handler, client: HttpClient, billing: Billing) -> Check:
    found: list[str | None] = []
    secrets = [*handler.secrets()]

    async def check() -> None:
        http = Http(client, secrets)
        context = Context(http, billing, 1, _Counting(), secrets=secrets)
        found.append(await handler.check(context))

    fault = await _within(CHECK_SECONDS, check())
    if fault is not None:
        return Check(reached=False, found=str(presentable(fault, secrets)))
    if found[0] is None:
        return Check(reached=None, found=None)
    return Check(reached=True, found=storable(masked(found[0], secrets)))


async def _send(handler: Handler, event: Event, client: HttpClient, billing: Billing) -> Sent:
    outlet = _Counting()
    limit = min(handler.time_limit_seconds(), EVENT_SECONDS)
    tried = await run_once(handler, event, 1, client, billing, outlet, limit)
    return _judged(handler, event, tried, outlet.made)


def _judged(handler: Handler, event: Event, tried: Attempt, makes: Mapping[str, int]) -> Sent:
    decision = decide(tried.outcome, 1, RetryPolicy.of(handler.settings), 0.0)
    again = decision.status is Status.QUEUED
    return Sent(
        event=event,
        verdict="retry" if again else decision.status,
        reason=decision.reason,
        retry_seconds=None if decision.delay is None else round(decision.delay.total_seconds()),
        duration_ms=tried.duration_ms,
        request=tried.request,
        response=tried.response,
        makes=dict(makes),
    )


async def _within(seconds: float, work: Awaitable[object]) -> Exception | None:
    """Do something that somebody else has written, for so long; what went wrong."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return TryLater(f"no answer within {seconds:g} s")
    except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
        return error
    return None


class _Counting:
    """The way of a trial into the queue: it ends here."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()

    async def reached(self) -> str | None:
        """See Outlet."""
        return None

    async def emit(
        self,
        event_type: str,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        reached: str,  # noqa: ARG002  (nobody goes on with it)
    ) -> None:
        """See Outlet."""
        if events:
            self.made[event_type] += len(events)


@dataclass(frozen=True)
class _Nowhere:
    """The billing API where nobody knows the way to it."""

    reason: str

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """See Billing."""
        raise Misconfigured(self.reason)

    async def get_account_info(self, i_account: int) -> dict[str, Any]:  # noqa: ARG002
        """See Billing."""
        raise Misconfigured(self.reason)
