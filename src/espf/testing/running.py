"""Run a handler on one event as the worker does, and check the promises of any handler."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from pydantic import SecretStr

from espf.errors import (
    BillingFault,
    CheckLater,
    HandlerError,
    InvalidRequest,
    Misconfigured,
    Rejected,
    Skipped,
    TryLater,
)
from espf.handlers.base import (
    STRAIGHT,
    Billing,
    Context,
    Handler,
    HandlerSettings,
    Outlet,
    Reply,
    Route,
)
from espf.handlers.base import Http as HttpProtocol
from espf.handlers.http import Exchange, Http, HttpClient, masked
from espf.handlers.registry import read_settings
from espf.model import Event, compact, ordering_key

Outcome = Literal["finished", "try later", "check later", "misconfigured", "rejected", "skipped"]

_OUTCOMES: Mapping[type[HandlerError], Outcome] = {
    TryLater: "try later",
    CheckLater: "check later",
    Misconfigured: "misconfigured",
    Rejected: "rejected",
    Skipped: "skipped",
}

#: How long a handler may take to stop when it is told to.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Verdict:
    """What a handler said about an event, and the last HTTP exchange as the journal has it."""

    outcome: Outcome
    reason: str = ""
    after: timedelta | None = None
    exchange: Exchange | None = None
    notes: tuple[str, ...] = ()


@dataclass
class FakeBilling:
    """A billing that knows some answers, by ``Service/method``, and remembers what was asked.

    What it does not know is a BillingFault, as it is in the billing itself.
    """

    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer what was prepared."""
        called = f"{service}/{method}"
        self.calls.append((called, dict(params)))
        if called not in self.answers:
            raise BillingFault("Server.Test.no_answer", f"no answer to {called} was prepared")
        return dict(self.answers[called])

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        """The prepared ``account_info``."""
        answer = await self.call("Account", "get_account_info", {"i_account": i_account})
        return dict(answer["account_info"])


@dataclass
class FakeOutlet:
    """Remembers the events that a handler makes, and how far it has come."""

    emitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    at: str | None = None

    async def reached(self) -> str | None:
        """As far as the last ``emit`` came."""
        return self.at

    async def emit(
        self, event_type: str, events: Sequence[tuple[str, Mapping[str, Any]]], reached: str
    ) -> None:
        """Take all of them."""
        self.emitted += [(event_type, dict(variables)) for _, variables in events]
        self.at = reached


def sample_event(
    event_type: str = "Account/New", *, i_event: int = 623623, i_env: int = 3, **variables: object
) -> Event:
    """An event; without variables, one about account 541 of customer 42."""
    chosen = variables or {"i_account": 541, "i_customer": 42, "i_env": i_env}
    return Event(
        i_event=i_event,
        i_env=i_env,
        event_type=event_type,
        payload=compact(chosen),
        ordering_key=ordering_key(chosen),
    )


async def run_handler(
    handler_class: type[Handler],
    settings: Mapping[str, object],
    event: Event,
    *,
    http: HttpProtocol | None = None,
    billing: Billing | None = None,
    outlet: Outlet | None = None,
    attempt: int = 1,
) -> Verdict:
    """Open a handler, let it handle one event as the worker would, close it.

    ``settings`` are options by alias. Exceptions that are no verdict come through. Without
    ``http`` the handler has the real client, and the verdict the exchange.
    """
    handler = handler_class(read_settings(handler_class.Settings, settings))
    async with HttpClient() as client:
        secrets = [*handler.secrets()]
        recorder = Http(client, secrets)
        context = Context(
            http or recorder,
            billing or FakeBilling(),
            attempt,
            outlet or FakeOutlet(),
            secrets=secrets,
        )
        await handler.open()
        try:
            verdict = await _verdict(handler, event, context)
        finally:
            await handler.close()
        return Verdict(
            verdict.outcome,
            verdict.reason,
            verdict.after,
            exchange=recorder.exchange,
            notes=tuple(masked(note, secrets) for note in context.notes),
        )


async def check_handler(
    handler_class: type[Handler],
    settings: Mapping[str, object],
    event: Event,
    *,
    billing: Billing | None = None,
    reply: Reply | None = None,
) -> None:
    """Check the promises that ESPF relies on. Raises AssertionError that names a broken one.

    ``event`` must be one that the handler accepts with these settings when the external system
    answers ``reply`` (200 and an empty body, unless given). A handler that does not speak HTTP
    through its context is spared what cannot be seen of it.
    """
    billing = billing or FakeBilling()
    check_settings(handler_class, settings)

    async def answered() -> Reply:
        return reply or Reply(200, {}, "")

    def attempt(number: int, http: _StandIn) -> Coroutine[Any, Any, Verdict]:
        return run_handler(
            handler_class, settings, event, http=http, billing=billing, attempt=number
        )

    first, second = _StandIn(answered), _StandIn(answered)
    verdict = await attempt(1, first)
    assert verdict.outcome == "finished", f"the event is not accepted: {verdict}"
    verdict = await attempt(2, second)
    assert verdict.outcome == "finished", f"an event that comes again is not accepted: {verdict}"
    assert _names(event, first) == _names(event, second), (
        "an event that comes again does not carry the same unique id"
    )
    await _check_check(handler_class(read_settings(handler_class.Settings, settings)), billing)
    if first.sent:
        verdict = await attempt(1, _StandIn(_no_answer))
        assert verdict.outcome == "try later", f"no answer is taken for an answer: {verdict}"
        endless = _StandIn(_endless)
        await _check_cancellation(attempt(1, endless), endless)


async def _verdict(handler: Handler, event: Event, context: Context) -> Verdict:
    try:
        await handler.handle(event, context)
    except HandlerError as error:
        outcome = next(name for kind, name in _OUTCOMES.items() if isinstance(error, kind))
        return Verdict(
            outcome, str(error), error.after if isinstance(error, TryLater | CheckLater) else None
        )
    return Verdict("finished")


async def _check_check(handler: Handler, billing: Billing) -> None:
    """A check may say whatever it finds, but must not do what an event does."""

    async def answered() -> Reply:
        return Reply(200, {}, "")

    stand_in = _StandIn(answered)
    await handler.open()
    try:
        await handler.check(Context(stand_in, billing, 1, FakeOutlet()))
    except (HandlerError, BillingFault):
        pass
    finally:
        await handler.close()
    assert not stand_in.sent, "check() has posted something"


def check_settings(handler_class: type[Handler], options: Mapping[str, object]) -> None:
    """Check what is promised of a handler type's options. Raises AssertionError."""
    settings_class = handler_class.Settings
    settings = read_settings(settings_class, options)
    stored = json.loads(json.dumps(_revealed(settings)))
    assert read_settings(settings_class, stored) == settings, (
        f"the options change when they are stored and read again: {stored}"
    )
    try:
        read_settings(settings_class, {**options, "NoSuchOption": 1})
    except InvalidRequest:
        pass
    else:
        raise AssertionError("an option that does not exist is not refused")
    for name, option in settings_class.model_fields.items():
        assert option.description, f"the option {option.alias or name} has no description"
    known = handler_class(settings).secrets()
    for secret in _secrets(settings):
        assert secret in known, "a SecretStr option is not among the secrets() of the handler"
        for text in (repr(settings), str(settings), settings.model_dump_json()):
            assert secret not in text, "a secret can be read in the settings' text form"


async def _check_cancellation(attempt: Coroutine[Any, Any, Verdict], waiting: "_StandIn") -> None:
    task = asyncio.create_task(attempt)
    await asyncio.wait_for(waiting.reached.wait(), _PATIENCE_SECONDS)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=_PATIENCE_SECONDS)
    assert done, f"a cancelled handler goes on for more than {_PATIENCE_SECONDS:g} s"
    assert task.cancelled(), "a cancelled handler does not stop: it swallows CancelledError"


def _secrets(settings: HandlerSettings) -> list[str]:
    values = (getattr(settings, name) for name in type(settings).model_fields)
    return [
        value.get_secret_value()
        for value in values
        if isinstance(value, SecretStr) and value.get_secret_value()
    ]


def _revealed(settings: HandlerSettings) -> dict[str, Any]:
    return {
        alias: value.get_secret_value() if isinstance(value, SecretStr) else value
        for alias, value in settings.model_dump(by_alias=True).items()
    }


def _names(event: Event, http: "_StandIn") -> bool:
    """Whether anything that was sent holds the unique id."""
    return any(str(event.i_event) in text for text in http.sent)


class _StandIn:
    """Stands in for the external system, and remembers what was sent to it."""

    def __init__(self, answer: Callable[[], Awaitable[Reply]]) -> None:
        self._answer = answer
        self.sent: list[str] = []
        self.reached = asyncio.Event()

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,  # noqa: ARG002  (all ways lead here)
    ) -> Reply:
        assert timeout_seconds > 0, "a request needs a time-out"
        self.sent.append("\n".join([url, *headers.values(), body.decode("utf-8", "replace")]))
        self.reached.set()
        return await self._answer()

    async def get(
        self,
        url: str,  # noqa: ARG002
        headers: Mapping[str, str],  # noqa: ARG002
        timeout_seconds: float,
        route: Route = STRAIGHT,  # noqa: ARG002
    ) -> Reply:
        assert timeout_seconds > 0, "a request needs a time-out"
        return await self._answer()

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
    ) -> Reply:
        if method == "GET":
            return await self.get(url, headers, timeout_seconds, route)
        return await self.post(url, body or b"", headers, timeout_seconds, route)

    async def resolve(self, host: str, port: int) -> str:  # noqa: ARG002
        return host

    async def connect(self, url: str, timeout_seconds: float, route: Route = STRAIGHT) -> str:  # noqa: ARG002
        assert timeout_seconds > 0, "a connection needs a time-out"
        return url


async def _no_answer() -> Reply:
    raise TryLater("no answer in time")


async def _endless() -> Reply:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")
