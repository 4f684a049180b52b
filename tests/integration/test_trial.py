"""A handler is tried out: one event, outside of the queue, and what a worker would decide."""

import asyncio
import logging

import pytest

from espf import Handler, subscriptions
from espf.db.tables import metadata
from espf.errors import Conflict, InvalidRequest, NotFound, SettingsError, TooOften
from espf.subscriptions import EventHandler
from espf.testing import FakeBilling
from espf.trial import Trials, event_for
from house import House
from webhook import Answer, Webhook

whatever_the_database = pytest.mark.databases("sqlite")

SECRET = "a-secret-of-the-application"
WITH_SECRET = {
    "EventSender__AuthMethod": "Basic",
    "EventSender__BasicAuth__User": "espf",
    "EventSender__BasicAuth__Key": SECRET,
}


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


@pytest.fixture
async def hook():
    async with Webhook() as hook:
        yield hook


def made(house, handler, event_type=None, **variables):
    with house.database.read() as connection:
        return event_for(connection, house.database, handler, event_type, variables)


async def tried(house, handler, event_type=None, way=None, **variables):
    event = made(house, handler, event_type, **variables)
    return await Trials(house.sealer, way).run(handler, event, "ada")


def another(house, kind, **options):
    settings = {key.replace("__", "."): value for key, value in options.items()}
    with house.database.begin() as connection:
        return subscriptions.create_handler(connection, house.sealer, 1, kind, kind, settings)


def everything(house):
    return {name: house.rows(name) for name in metadata.tables}


async def test_an_event_goes_out_at_once_and_no_table_knows_of_it(house, hook, caplog):
    caplog.set_level(logging.INFO)
    handler = house.handler(hook.url, **WITH_SECRET)
    with house.database.begin() as connection:
        # Nobody would get it by way of the queue.
        subscriptions.set_handler_enabled(connection, handler, enabled=False)
    before = everything(house)
    hook.then(Answer(200, {}, f"hello {SECRET}"))
    trial = await tried(house, handler, "Account/Blocked", i_account=541, i_customer=42)
    (request,) = hook.requests
    assert request.json["event_type"] == "Account/Blocked"
    sent = request.json["variables"]
    assert list(sent) == ["i_env", "event_time", "i_account", "i_customer", "i_event"]
    assert (sent["i_env"], sent["i_account"], sent["i_event"]) == (1, 541, 0)
    assert everything(house) == before
    assert trial.is_well
    assert trial.check.reached is True
    assert hook.url in trial.check.found
    assert (trial.sent.verdict, trial.sent.reason) == ("finished", None)
    assert trial.sent.request.startswith(f"POST {hook.url}")
    assert "HTTP 200 OK" in trial.sent.response
    assert "hello ***" in trial.sent.response
    assert SECRET not in str(trial)
    said = (
        "ada tried out handler Sender of environment 1 with a test event Account/Blocked: finished"
    )
    assert said in caplog.text


@whatever_the_database
@pytest.mark.parametrize(
    ("answer", "verdict", "reason", "retry_seconds"),
    [
        (Answer(204), "finished", None, None),
        (Answer(400, {}, f"no {SECRET}"), "rejected", "HTTP 400 Bad Request: no ***", None),
        (Answer(401), "retry", "HTTP 401 Unauthorized", 30),
        (Answer(503), "retry", "HTTP 503 Service Unavailable", 7),
        (Answer(503, {"Retry-After": "60"}), "retry", "HTTP 503 Service Unavailable", 60),
    ],
)
async def test_the_verdict_is_the_workers(house, hook, answer, verdict, reason, retry_seconds):
    hook.always = answer
    handler = house.handler(hook.url, RetryDelays="7s", **WITH_SECRET)
    trial = await tried(house, handler)
    sent = trial.sent
    assert (sent.verdict, sent.reason, sent.retry_seconds) == (verdict, reason, retry_seconds)
    assert trial.is_well == (verdict == "finished")


@whatever_the_database
async def test_only_one_attempt_counts_as_the_worker_counts(house, hook):
    hook.always = Answer(503)
    trial = await tried(house, house.handler(hook.url, MaxAttempts=1))
    assert trial.sent.verdict == "failed"
    assert "gave up after 1 attempts" in trial.sent.reason
    assert len(hook.requests) == 1


@whatever_the_database
async def test_a_system_that_is_down_is_told_by_the_check_and_by_the_verdict(house):
    trial = await tried(house, house.handler("http://127.0.0.1:1"))
    assert trial.check.reached is False
    assert "no connection to http://127.0.0.1:1" in trial.check.found
    assert trial.sent.verdict == "retry"
    assert "no connection to http://127.0.0.1:1" in trial.sent.response


@whatever_the_database
async def test_a_check_sends_nothing(house, hook):
    handler = house.handler(hook.url)
    trial = await Trials(house.sealer, None).run(handler, None, "ada")
    assert (trial.check.reached, trial.sent, trial.is_well) == (True, None, True)
    assert hook.connections == 1
    assert hook.requests == []


@whatever_the_database
@pytest.mark.parametrize(
    ("status", "reached", "found"),
    [
        (200, True, "is well"),
        (404, True, "has no /health"),
        (401, False, "HTTP 401 Unauthorized"),
        (503, False, "HTTP 503 Service Unavailable"),
    ],
)
async def test_a_connector_is_asked_for_its_health(house, hook, status, reached, found):
    hook.always = Answer(status)
    url = f"{hook.url}/process-event?x=1"
    handler = another(
        house, "ConnectorSender", ConnectorSender__URL=url, ConnectorSender__Token=SECRET
    )
    trial = await Trials(house.sealer, None).run(handler, None, "ada")
    assert trial.check.reached is reached
    assert found in trial.check.found
    (request,) = hook.requests
    assert request.line == "GET /health HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {SECRET}"


@whatever_the_database
async def test_what_the_billing_knows_is_asked_for_as_a_worker_asks(house, hook):
    handler = another(
        house,
        "ConnectorSender",
        ConnectorSender__URL=hook.url,
        ConnectorSender__Token=SECRET,
        ConnectorSender__Data="account_info",
    )
    billing = FakeBilling({"Account/get_account_info": {"account_info": {"i_account": 541}}})
    way = {"way": lambda _client: {1: billing}.__getitem__}
    trial = await tried(house, handler, "Account/Blocked", **way, i_account=541)
    assert trial.sent.verdict == "finished"
    event = next(one for one in hook.requests if one.method == "POST")
    assert event.json["pb_data"]["account_info"]["i_account"] == 541


@whatever_the_database
@pytest.mark.parametrize("known", [None, "ESPF_BILLING_URL: it is not set"])
async def test_where_the_billing_is_not_known_that_is_what_is_said(house, known):
    def way(_client):
        raise SettingsError(known)

    handler = another(house, "CustomerToAccountsDispatcher")
    trial = await tried(
        house, handler, "Customer/Status/Suspended", way if known else None, i_customer=42
    )
    reason = known or "this process does not know where the billing API is"
    assert (trial.check.reached, trial.check.found) == (False, reason)
    assert (trial.sent.verdict, trial.sent.reason) == ("retry", reason)


async def test_a_dispatcher_says_what_it_would_make_and_makes_nothing(house):
    class Billing(FakeBilling):
        async def call(self, service, method, params):
            after = params.get("after_i_account", 0)
            found = [{"i_account": n, "i_customer": 42} for n in range(after + 1, 701)]
            return {"account_list": found[: params["limit"]]}

    handler = another(house, "CustomerToAccountsDispatcher")
    house.handler("http://127.0.0.1:1")
    before = everything(house)
    way = {"way": lambda _client: lambda _i_env: Billing()}
    trial = await tried(house, handler, "Customer/Status/Suspended", **way, i_customer=42)
    assert trial.check.reached is True
    assert (trial.sent.verdict, trial.sent.makes) == ("finished", {"Account/Status/Suspended": 700})
    assert everything(house) == before


@whatever_the_database
async def test_of_a_handler_one_trial_at_a_time_and_not_too_often(house, hook, monkeypatch):
    monkeypatch.setattr("espf.trial.REST_SECONDS", 600)
    go_on = asyncio.Event()
    hook.always = Answer(after=go_on)
    handler, other = house.handler(hook.url), house.handler(hook.url, "Other")
    trials = Trials(house.sealer, None)
    first = asyncio.create_task(trials.run(handler, made(house, handler), "ada"))
    await hook.wait_for(1)
    with pytest.raises(TooOften):
        await trials.run(handler, None, "ben")
    second = asyncio.create_task(trials.run(other, made(house, other), "ben"))
    await hook.wait_for(2)
    go_on.set()
    assert [(await one).sent.verdict for one in (first, second)] == ["finished"] * 2
    with pytest.raises(TooOften):
        await trials.run(handler, None, "ben")
    assert len(hook.requests) == 2
    monkeypatch.setattr("espf.trial.REST_SECONDS", 0)
    trials = Trials(house.sealer, None)
    for _ in range(2):
        assert (await trials.run(handler, None, "ada")).is_well


class Foreign(Handler):
    """Somebody else's: what it does is said by its class attributes."""

    opening = checking = handling = closing = None

    async def open(self):
        await self._do(self.opening)

    async def close(self):
        await self._do(self.closing)

    async def check(self, context):
        return await self._do(self.checking)

    async def handle(self, event, context):
        context.note("a note")
        await self._do(self.handling)

    async def _do(self, what):
        if what == "hang":
            await asyncio.Event().wait()
        if isinstance(what, Exception):
            raise what
        return what


@pytest.fixture
def foreign(house, monkeypatch):
    """Try a Foreign that does these things."""
    for limit in ("CHECK_SECONDS", "EVENT_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(f"espf.trial.{limit}", 0.2)
    configured = house.handler("http://127.0.0.1:1")

    async def run(**does):
        kind = type("Foreign", (Foreign,), does)
        monkeypatch.setattr(EventHandler, "build", lambda *_: kind(kind.Settings()))
        return await Trials(house.sealer, None).run(configured, made(house, configured), "ada")

    return run


@whatever_the_database
async def test_a_handler_that_says_nothing_of_its_way_is_not_said_to_be_well_or_ill(foreign):
    trial = await foreign()
    assert (trial.check.reached, trial.check.found) == (None, None)
    assert (trial.sent.verdict, trial.sent.request) == ("finished", "a note")


@whatever_the_database
@pytest.mark.parametrize("step", ["opening", "checking", "handling", "closing"])
@pytest.mark.parametrize("fault", ["hang", ValueError("a fault of its own"), OSError("no file")])
async def test_whatever_a_handler_does_a_trial_ends_and_says_so(foreign, step, fault):
    trial = await foreign(**{step: fault})
    said = "no answer within 0" if fault == "hang" else str(fault)
    told = {
        "opening": trial.sent.reason,
        "checking": trial.check.found,
        "handling": trial.sent.reason,
        "closing": said,
    }[step]
    assert said in told
    assert trial.sent.verdict == ("retry" if step in {"opening", "handling"} else "finished")
    assert trial.check.reached is (False if step in {"opening", "checking"} else None)


@whatever_the_database
async def test_a_handler_that_is_not_configured_yet_is_not_tried(house):
    handler = another(house, "EventSender")
    with pytest.raises(Conflict, match=r"EventSender\.URL"):
        await tried(house, handler)


@whatever_the_database
def test_the_event_of_a_trial_is_one_that_the_queue_would_take(house):
    handler = house.handler("http://127.0.0.1:1")
    assert made(house, handler).event_type == "Custom/Test"
    assert made(house, handler, " Custom/Any ").payload == "{}"
    assert made(house, handler, "Account/Status/Suspend").event_type == "Account/Status/Suspended"
    event = made(house, handler, "Account/Blocked", i_account=541)
    assert (event.i_env, event.ordering_key) == (1, "account:541")
    for wrong in ({"i_event": 5}, {"i_env": 2}, {"i_account": "x"}, {"x": float("nan")}):
        with pytest.raises(InvalidRequest):
            made(house, handler, "Account/Blocked", **wrong)
    for unknown in ("Account/Nope", "Custom/", "Custom/a b"):
        with pytest.raises(NotFound):
            made(house, handler, unknown)
    dispatcher = another(house, "ServiceAttributeDispatcher")
    assert made(house, dispatcher).event_type == "ServiceAttribute/Changed"
    with pytest.raises(InvalidRequest, match="do not support Account/Blocked"):
        made(house, dispatcher, "Account/Blocked")
