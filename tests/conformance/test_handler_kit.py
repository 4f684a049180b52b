"""The conformance kit: EventSender passes it, and handlers that break a promise do not."""

import asyncio
import json
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr

from espf import Handler, HandlerSettings, Misconfigured, Rejected, Skipped, TryLater
from espf.errors import BillingFault
from espf.handlers.connector_sender import ConnectorSender
from espf.handlers.event_sender import EventSender
from espf.testing import FakeBilling, check_handler, run_handler, sample_event
from webhook import Answer, Webhook

URL = {"EventSender.URL": "http://127.0.0.1:1/hook"}
METHODS = [
    {"EventSender.AuthMethod": "None"},
    {"EventSender.BasicAuth.User": "user", "EventSender.BasicAuth.Key": "hush-hush"},
    {
        "EventSender.AuthMethod": "Custom",
        "EventSender.CustomAuth.Type": "Bearer",
        "EventSender.CustomAuth.Credentials": "hush-hush",
    },
    {
        "EventSender.AuthMethod": "Signature",
        "EventSender.SignatureAuth.KeyId": "test",
        "EventSender.SignatureAuth.Key": "hush-hush",
        "EventSender.AllowedTypes": "Account/* Customer/*",
        "RetryDelays": "5s 1hx3",
    },
]


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.parametrize("version", [1, 2])
async def test_event_sender_keeps_the_contract(options, version):
    await check_handler(
        EventSender, {**URL, **options, "EventSender.APIVersion": version}, sample_event()
    )


@pytest.mark.parametrize("data", ["", "account_info, sim_info"])
async def test_connector_sender_keeps_the_contract(data):
    options = {
        "ConnectorSender.URL": "http://127.0.0.1:1",
        "ConnectorSender.Token": "hush-hush",
        "ConnectorSender.Data": data,
    }
    answers = {
        "Account/get_account_info": {"account_info": {"i_account": 541, "blocked": "N"}},
        "SIMCard/get_card_list": {"card_list": []},
    }
    await check_handler(ConnectorSender, options, sample_event(), billing=FakeBilling(answers))


class Sound(Handler):
    """Keeps every promise; the others below each break one."""

    class Settings(HandlerSettings):
        url: str = Field(default="http://127.0.0.1:1", alias="Sound.URL", description="Where.")
        key: SecretStr = Field(default=SecretStr("hush"), alias="Sound.Key", description="Key.")

    async def handle(self, event, context):
        reply = await context.http.post(
            self.settings.url, json.dumps({"i_event": event.i_event}).encode(), {}, 5
        )
        if not reply.ok:
            raise TryLater("no")


class ForgetsTheId(Sound):
    async def handle(self, event, context):
        body = str(event.i_event) if context.attempt == 1 else ""
        await context.http.post(self.settings.url, body.encode(), {}, 5)


class RefusesRepeats(Sound):
    async def handle(self, event, context):
        if context.attempt > 1:
            raise Rejected("it was here before")


class TakesSilenceForSuccess(Sound):
    async def handle(self, event, context):
        try:
            await super().handle(event, context)
        except TryLater:
            return


class Stubborn(Sound):
    async def handle(self, event, context):
        try:
            await super().handle(event, context)
        except asyncio.CancelledError:
            raise Rejected("never") from None


class Immortal(Sound):
    async def handle(self, event, context):
        try:
            await super().handle(event, context)
        except asyncio.CancelledError:
            await asyncio.sleep(4)


class Talkative(Sound):
    class Settings(Sound.Settings):
        def __str__(self):
            return self.key.get_secret_value()


class HidesItsSecrets(Sound):
    def secrets(self):
        return ()


class Changing(Sound):
    class Settings(HandlerSettings):
        share: int = Field(default=1, alias="S.Share", description="Share.")

        def __eq__(self, other):
            return False

        __hash__ = None


class Undescribed(Sound):
    class Settings(HandlerSettings):
        url: str = Field(default="http://127.0.0.1:1", alias="Sound.URL")


class Forgiving(Sound):
    class Settings(Sound.Settings):
        no_such_option: int = Field(default=0, alias="NoSuchOption", description="It exists.")


class Unwilling(Sound):
    async def handle(self, event, context):
        raise Skipped("never")


async def test_a_sound_handler_passes():
    await check_handler(Sound, {}, sample_event())


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (ForgetsTheId, "same unique id"),
        (RefusesRepeats, "comes again is not accepted"),
        (TakesSilenceForSuccess, "no answer is taken for an answer"),
        (Stubborn, "swallows CancelledError"),
        (Immortal, "goes on for more than"),
        (Talkative, "can be read"),
        (HidesItsSecrets, "among the secrets"),
        (Changing, "stored and read again"),
        (Undescribed, "has no description"),
        (Forgiving, "is not refused"),
        (Unwilling, "is not accepted: .*never"),
    ],
)
async def test_a_broken_promise_is_named(broken, promise):
    with pytest.raises(AssertionError, match=promise):
        await check_handler(broken, {}, sample_event())


async def test_run_handler_speaks_real_http_and_shows_the_exchange():
    async with Webhook() as hook:
        hook.then(Answer(503, {"Retry-After": "7"}, "busy"))
        verdict = await run_handler(
            EventSender, {**METHODS[1], "EventSender.URL": hook.url}, sample_event()
        )
    assert verdict.outcome == "try later"
    assert verdict.reason == "HTTP 503 Service Unavailable: busy"
    assert verdict.after is not None
    assert verdict.after.total_seconds() == 7
    assert verdict.exchange is not None
    assert "hush-hush" not in verdict.exchange.request


class Asking(Handler):
    """Asks the billing, opens and closes."""

    steps: ClassVar[list[str]] = []

    async def open(self):
        self.steps.append("open")

    async def close(self):
        self.steps.append("close")

    async def handle(self, event, context):
        account = await context.billing.get_account_info(event.i_account)
        context.note(f"blocked: {account['blocked']}")
        self.steps.append("handle")
        if account["blocked"] == "Y":
            raise Misconfigured("blocked")


async def test_run_handler_gives_the_handler_a_billing_and_its_life_cycle():
    Asking.steps.clear()
    billing = FakeBilling({"Account/get_account_info": {"account_info": {"blocked": "N"}}})
    verdict = await run_handler(Asking, {}, sample_event(i_account=7), billing=billing)
    assert verdict.outcome == "finished"
    assert verdict.notes == ("blocked: N",)
    assert verdict.exchange is None
    assert billing.calls == [("Account/get_account_info", {"i_account": 7})]
    assert Asking.steps == ["open", "handle", "close"]


async def test_a_handler_is_closed_when_it_fails():
    Asking.steps.clear()
    billing = FakeBilling({"Account/get_account_info": {"account_info": {"blocked": "Y"}}})
    verdict = await run_handler(Asking, {}, sample_event(), billing=billing)
    assert verdict.outcome == "misconfigured"
    assert Asking.steps == ["open", "handle", "close"]


async def test_what_the_fake_billing_does_not_know_is_a_fault():
    with pytest.raises(BillingFault, match="no answer to Account/get_account_info"):
        await run_handler(Asking, {}, sample_event())


async def test_a_handler_without_http_is_spared_the_http_checks():
    billing = FakeBilling({"Account/get_account_info": {"account_info": {"blocked": "N"}}})
    await check_handler(Asking, {}, sample_event(), billing=billing)
