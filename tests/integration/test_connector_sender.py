"""ConnectorSender against a real server: the enriched event, what is asked for it, the verdicts."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

import shapes
from espf.errors import BillingFault, InvalidRequest, TryLater
from espf.handlers import enrichment
from espf.handlers.base import Context
from espf.handlers.connector_sender import ConnectorSender, event_id
from espf.handlers.registry import read_settings
from espf.model import Event, compact
from espf.retry import RetryPolicy
from espf.testing import FakeBilling, run_handler
from webhook import Answer, Webhook

TOKEN = "t0ken-of-the-connector"
ALL = ConnectorSender.Settings.model_fields["data"].default

CARD = {
    "i_sim_card": 7,
    "i_account": 541,
    "imsi": "255070000000001",
    "iccid": "8938007000000000001",
    "msisdn": "380441234567",
    "status": "used",
}
FEATURES = [
    {
        "name": "netaccess_policy",
        "effective_flag_value": "Y",
        "attributes": [{"name": "access_policy", "effective_values": ["179"]}],
    }
]
ACCOUNT = {
    "i_account": 541,
    "i_customer": 42,
    "i_product": 6,
    "id": "380441234567",
    "bill_status": "O",
    "billing_model": -1,
    "blocked": "N",
    "available_funds": 10.5,
    "password": "self-care secret",
    "h323_password": "service secret",
    "service_features": FEATURES,
}
ANSWERS = {
    "Account/get_account_info": {"account_info": ACCOUNT},
    "Account/get_full_vd_counter_info": {
        "vd_counter_info": [{"service_name": "netaccess", "unit": "byte", "remaining": 5}]
    },
    "SIMCard/get_card_list": {"card_list": [CARD]},
    "SIMCard/get_card_info": {"card_info": {**CARD, "ki": "A" * 32, "opc": "B" * 32}},
    "AccessPolicy/get_access_policy_info": {
        "access_policy_info": {
            "i_access_policy": 179,
            "name": "Gold",
            "attributes": [{"group_name": "lte", "name": "cs_profile", "values": ["cs-1"]}],
        }
    },
    "Product/get_product_info": {
        "product_info": {"i_product": 6, "name": "Mobile", "description": None, "quotas": []}
    },
}


class Billing(FakeBilling):
    """Knows ANSWERS, but for what is taken away; what it is not asked well is a fault."""

    def __init__(self, code="Server.Anything.not_found", without=(), **changed):
        answers = {**ANSWERS, **{name.replace("__", "/"): value for name, value in changed.items()}}
        super().__init__({name: answers[name] for name in answers if name not in without})
        self.code = code

    async def call(self, service, method, params):
        try:
            return await super().call(service, method, params)
        except BillingFault:
            raise BillingFault(self.code, "no") from None

    @property
    def called(self):
        return sorted(called for called, _ in self.calls)


@pytest.fixture
async def hook():
    async with Webhook() as hook:
        yield hook


def options(url="http://127.0.0.1:1", **chosen):
    given = {"URL": url, "Token": TOKEN, **chosen}
    return {f"ConnectorSender.{name}": value for name, value in given.items()}


def an_event(event_type="SIM/Updated", *, i_event=5, **variables):
    given = {"i_env": 3, "event_time": "2026-03-01 12:00:00", **variables}
    return Event(i_event, 3, event_type, compact(given))


async def send(hook, event=None, billing=None, **chosen):
    event = event or an_event(i_account=541)
    return await run_handler(
        ConnectorSender, options(hook.url, **chosen), event, billing=billing or Billing()
    )


async def sent(hook, event=None, billing=None, **chosen):
    """The body that the connector got; it has the published shape."""
    verdict = await send(hook, event, billing, **chosen)
    assert verdict.outcome == "finished", verdict
    shapes.check(shapes.ENRICHED, hook.requests[-1].json)
    return hook.requests[-1].json


# The enriched event


async def test_the_enriched_event(hook):
    before = datetime.now(UTC)
    body = await sent(hook, an_event(i_account=541, curr_status="used", prev_status="reserved"))
    assert UUID(body["event_id"]).version == 5
    assert body["data"] == {
        "event_type": "SIM/Updated",
        "variables": {
            "i_env": 3,
            "event_time": "2026-03-01 12:00:00",
            "i_account": 541,
            "curr_status": "used",
            "prev_status": "reserved",
            "i_event": 5,
        },
    }
    assert body["handler_id"] == "ConnectorSender"
    assert body["status"] == "received"
    assert body["created_at"] == "2026-03-01T12:00:00+00:00"
    assert before <= datetime.fromisoformat(body["updated_at"]) <= datetime.now(UTC)
    assert set(body["pb_data"]) == set(ALL) - {"prev_sim_info"}
    pb_data = body["pb_data"]
    assert pb_data["account_info"]["bill_status"] == "open"
    assert pb_data["account_info"]["status"] == "active"
    assert pb_data["sim_info"] == CARD
    assert pb_data["access_policy_info"]["attributes"][0]["value"] == "cs-1"
    assert pb_data["product_info"] == {"i_product": 6, "name": "Mobile", "addon_priority": 0}
    assert pb_data["full_vd_counter_info"][0]["remaining"] == 5


async def test_the_headers(hook):
    body = await sent(hook)
    (request,) = hook.requests
    assert request.line == "POST / HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert UUID(request.headers["x-request-id"])
    assert request.headers["x-b3-traceid"] == body["event_id"].replace("-", "")


async def test_the_ids_that_stand_in_the_connectors_log_stand_in_the_journal(hook):
    verdict = await send(hook)
    request_id = hook.requests[0].headers["x-request-id"]
    assert f"x-request-id: {request_id}" in verdict.exchange.request
    assert f"x-b3-traceid: {event_id(an_event(i_account=541)).hex}" in verdict.exchange.request
    assert TOKEN not in verdict.exchange.request


async def test_the_variables_go_out_as_the_trigger_wrote_them(hook):
    payload = '{"i_account":541,"balance":12.50000,"big":12345678901234567890}'
    await sent(hook, Event(5, 3, "Account/BalanceChanged", payload))
    assert payload[:-1] + ',"i_event":5}' in hook.requests[0].body.decode()


async def test_an_event_keeps_its_id_over_attempts_and_no_other_has_it(hook):
    first, again = await sent(hook), await sent(hook)
    assert first["event_id"] == again["event_id"]
    ids = [request.headers["x-request-id"] for request in hook.requests]
    assert len(set(ids)) == 2, "each attempt is a request of its own"
    # In another installation the same number is another event.
    others = [an_event(i_account=541, i_event=6), an_event(i_account=542)]
    assert len({event_id(other) for other in [an_event(i_account=541), *others]}) == 3


@pytest.mark.parametrize("moment", [None, "yesterday", 7])
async def test_an_event_that_does_not_say_when_it_happened(hook, moment):
    await send(hook, an_event("Custom/NextMonth", i_account=541, event_time=moment))
    assert "created_at" not in hook.requests[0].json


# What is asked for


async def test_nothing_is_asked_that_was_not_chosen(hook):
    billing = Billing()
    for event in (an_event(i_account=541), an_event("SIM/Created", i_sim_card=7)):
        assert (await sent(hook, event, billing, Data=""))["pb_data"] == {}
    assert billing.calls == []


@pytest.mark.parametrize(
    ("part", "called"),
    [
        ("account_info", ["Account/get_account_info"]),
        ("sim_info", ["SIMCard/get_card_list"]),
        (
            "access_policy_info",
            ["Account/get_account_info", "AccessPolicy/get_access_policy_info"],
        ),
        ("product_info", ["Account/get_account_info", "Product/get_product_info"]),
        ("full_vd_counter_info", ["Account/get_full_vd_counter_info"]),
    ],
)
async def test_a_chosen_part_alone(hook, part, called):
    billing = Billing()
    assert list((await sent(hook, billing=billing, Data=part))["pb_data"]) == [part]
    assert billing.called == sorted(called)


async def test_keys_and_passwords_are_never_sent(hook):
    for event in (an_event("SIM/Created", i_sim_card=7), an_event(i_account=541)):
        await send(hook, event)
        text = hook.requests[-1].body.decode()
        for secret in ("A" * 32, "B" * 32, "secret", "ki", "opc"):
            assert f'"{secret}' not in text


async def test_a_replaced_card_comes_with_the_one_before(hook):
    event = an_event("SIM/Replaced", i_account=541, prev_i_sim_card=6, curr_i_sim_card=7)
    billing = Billing()
    pb_data = (await sent(hook, event, billing, Data="sim_info prev_sim_info"))["pb_data"]
    assert set(pb_data) == {"sim_info", "prev_sim_info"}
    asked = [params for called, params in billing.calls if called == "SIMCard/get_card_info"]
    assert asked == [{"i_sim_card": 7}, {"i_sim_card": 6}]


async def test_a_card_that_was_taken_away_is_only_the_one_before(hook):
    event = an_event("SIM/Replaced", i_account=541, prev_i_sim_card=6, curr_i_sim_card=None)
    pb_data = (await sent(hook, event, Data="sim_info prev_sim_info"))["pb_data"]
    assert set(pb_data) == {"prev_sim_info"}


async def test_an_event_of_a_card_finds_the_account_that_holds_it(hook):
    billing = Billing()
    pb_data = (await sent(hook, an_event("SIM/Created", i_sim_card=7), billing))["pb_data"]
    assert pb_data["sim_info"] == CARD
    assert pb_data["account_info"]["i_account"] == 541
    assert ("Account/get_full_vd_counter_info", {"i_account": 541}) in billing.calls


async def test_of_a_card_that_is_gone_what_the_event_says_is_sent(hook):
    billing = Billing(without=["SIMCard/get_card_info"])
    event = an_event("SIM/Deleted", i_sim_card=7, imsi="255070000000001", ki="A" * 32)
    verdict = await send(hook, event, billing)
    assert hook.requests[0].json["pb_data"] == {
        "sim_info": {"i_sim_card": 7, "imsi": "255070000000001"}
    }
    assert verdict.notes == ("SIMCard/get_card_info: Server.Anything.not_found",)


@pytest.mark.parametrize(
    "code",
    [
        "Server.Account.not_found",
        "Client.unknown_method",
        "Client.unknown_service",
    ],
)
async def test_what_the_billing_does_not_know_is_left_out(hook, code):
    billing = Billing(code, without=ANSWERS)
    verdict = await send(hook, billing=billing)
    assert hook.requests[0].json["pb_data"] == {}
    assert f"Account/get_account_info: {code}" in verdict.notes


async def test_a_terminated_account_is_sent_as_it_is(hook):
    billing = Billing(
        Account__get_account_info={"account_info": {**ACCOUNT, "bill_status": "C"}},
        SIMCard__get_card_list={"card_list": []},
    )
    event = an_event("Account/Status/Closed", i_account=541)
    pb_data = (await sent(hook, event, billing))["pb_data"]
    assert pb_data["account_info"]["bill_status"] == "terminated"
    assert pb_data["account_info"]["status"] == "closed"
    assert "sim_info" not in pb_data


async def test_an_event_about_no_account_has_what_it_names(hook):
    event = an_event("Product/Discount/Changed", i_product=6, i_access_policy=179)
    pb_data = (await sent(hook, event))["pb_data"]
    assert set(pb_data) == {"product_info", "access_policy_info"}
    assert pb_data["product_info"] == {"i_product": 6, "name": "Mobile"}


async def test_a_billing_that_refuses_is_asked_again_later_and_nothing_is_sent(hook):
    billing = Billing("Client.environment_denied", without=["Account/get_account_info"])
    verdict = await send(hook, billing=billing)
    assert verdict.outcome == "try later"
    assert "the billing refuses Account/get_account_info: no" in verdict.reason
    assert "Client.environment_denied" in verdict.reason
    assert hook.requests == []


async def test_a_billing_that_is_away_is_asked_again_later_and_nothing_is_sent(hook):
    class Away(FakeBilling):
        async def call(self, service, method, params):
            raise TryLater("no connection to the billing")

    verdict = await send(hook, billing=Away())
    assert verdict.outcome == "try later"
    assert hook.requests == []


# The memory


def ago(seconds):
    return f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"


async def asked_twice(hook, event_time, cache_ttl=5, event_type="Account/Blocked", **variables):
    """How often the billing is asked for the product by two events of one handler."""
    handler = ConnectorSender(
        read_settings(
            ConnectorSender.Settings, options(hook.url, Data="product_info", CacheTTL=cache_ttl)
        )
    )
    billing = Billing()
    for i_event in (1, 2):
        given = {"i_account": 541, **variables, "event_time": event_time}
        event = an_event(event_type, i_event=i_event, **given)
        await handler._enrichment.of(event, Context(None, billing, attempt=1, outlet=None))
    own = billing.called.count("Account/get_account_info")
    assert own == (0 if variables else 2), "what is the subscriber's own is never remembered"
    return billing.called.count("Product/get_product_info")


async def test_a_backlog_asks_for_a_product_once(hook):
    assert await asked_twice(hook, ago(60)) == 1


async def test_an_event_never_gets_what_was_asked_for_before_it_happened(hook):
    assert await asked_twice(hook, ago(0)) == 2
    assert await asked_twice(hook, ago(-60)) == 2


async def test_without_a_time_nothing_is_taken_from_memory(hook):
    assert await asked_twice(hook, None) == 2


async def test_the_memory_can_be_switched_off(hook):
    assert await asked_twice(hook, ago(60), cache_ttl=0) == 2


async def test_an_event_about_the_product_itself_asks_for_it_anew(hook):
    changed = {"event_type": "Product/Discount/Changed", "i_account": None, "i_product": 6}
    assert await asked_twice(hook, ago(60), **changed) == 2


async def test_the_memory_forgets(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(enrichment.time, "time", lambda: now)
    memory = enrichment._Memory(5)
    memory.keep(("Product", 6), now, {"name": "Mobile"})
    now += 4.9
    assert memory.recall(("Product", 6), 900) == {"name": "Mobile"}
    assert memory.recall(("Product", 7), 900) is None
    now += 0.2
    assert memory.recall(("Product", 6), 900) is None
    for number in range(enrichment.MOST_REMEMBERED + 1):
        memory.keep(("Product", number), now, {})
    assert len(memory._known) == 1


# Verdicts


def error(kind=None, **members):
    return json.dumps({**({"type": kind} if kind else {}), **members})


VERDICTS = [
    (200, "", "finished"),
    (202, '{"message":"Event accepted for processing"}', "finished"),
    (204, "", "finished"),
    (299, "<html>", "finished"),
    (301, "", "try later"),
    (400, "", "rejected"),
    (401, error("AUTHENTICATION_ERROR", message="Invalid token"), "misconfigured"),
    (401, error("SERVICE_ERROR"), "misconfigured"),
    (403, error("authentication_error"), "misconfigured"),
    (403, "", "rejected"),
    # A path that is not the connector's, and a method that it does not take there.
    (404, '{"detail":"Not Found"}', "misconfigured"),
    (405, "", "misconfigured"),
    (404, error("VALIDATION_ERROR", message="no such subscriber"), "rejected"),
    (404, error("SERVICE_ERROR"), "try later"),
    (408, "", "try later"),
    (422, '{"detail":[{"loc":["body"]}]}', "rejected"),
    (422, error("VALIDATION_ERROR"), "rejected"),
    (422, error("validation_error"), "rejected"),
    (422, error("SERVICE_ERROR"), "try later"),
    (422, error("service_error"), "try later"),
    (422, error("CONNECTION_ERROR"), "try later"),
    (422, error("INTERNAL_ERROR"), "try later"),
    (429, "", "try later"),
    (400, error("RATE_LIMIT_ERROR"), "try later"),
    (422, error("SOMETHING_ELSE"), "rejected"),
    (422, '{"type":7}', "rejected"),
    (422, "[]", "rejected"),
    (500, error("VALIDATION_ERROR"), "try later"),
    (500, "", "try later"),
    (503, error("CONNECTION_ERROR"), "try later"),
]


@pytest.mark.parametrize(("status", "body", "outcome"), VERDICTS, ids=str)
async def test_verdicts(hook, status, body, outcome):
    hook.then(Answer(status, {}, body))
    assert (await send(hook, Data="")).outcome == outcome


async def test_the_reason_tells_all_that_the_connector_says_of_an_error(hook):
    said = {
        "message": "WTL service error",
        "error": "no such IMSI\nline 2",
        "type": "SERVICE_ERROR",
    }
    hook.then(Answer(422, {}, json.dumps(said)))
    verdict = await send(hook, Data="")
    # What 422 is called differs between releases of Python.
    assert verdict.reason.startswith("HTTP 422 Unprocessable ")
    assert verdict.reason.endswith(": SERVICE_ERROR: WTL service error: no such IMSI")


async def test_retry_after_puts_the_next_attempt_off(hook):
    hook.then(Answer(429, {"Retry-After": "7"}, error("RATE_LIMIT_ERROR", message="slow down")))
    verdict = await send(hook, Data="")
    assert verdict.after == timedelta(seconds=7)
    assert "slow down" in verdict.reason


@pytest.mark.parametrize("fault", ["close", "reset", "half", "garbage"])
async def test_no_answer_is_tried_later(hook, fault):
    hook.then(Answer(200, {}, "long enough to break off", fault=fault))
    assert (await send(hook, Data="")).outcome == "try later"


async def test_silence_is_tried_later(hook):
    hook.then(Answer(fault="hang"))
    verdict = await send(hook, Data="", RequestTimeout=1)
    assert (verdict.outcome, verdict.reason) == ("try later", "no answer within 1 s")


# Options


def problem(given):
    with pytest.raises(InvalidRequest) as caught:
        read_settings(ConnectorSender.Settings, given)
    return caught.value


@pytest.mark.parametrize("name", ["URL", "Token"])
def test_url_and_token_are_mandatory(name):
    given = options()
    del given[f"ConnectorSender.{name}"]
    assert str(problem(given)) == f"ConnectorSender.{name}: is mandatory"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Token", ""),
        ("Token", "two words"),
        ("Data", "account_info, everything"),
        ("CacheTTL", -1),
        ("CacheTTL", 301),
        ("RequestTimeout", 0),
        ("URL", "ftp://host"),
        ("URL", "http://user:pw@host/"),
    ],
)
def test_wrong_options_are_refused(name, value):
    error = problem(options(**{name: value}))
    assert error.field == f"ConnectorSender.{name}"
    assert "two words" not in str(error), "a secret is never repeated"


def test_parts_are_separated_by_commas_or_blanks():
    settings = read_settings(ConnectorSender.Settings, options(Data="sim_info,\n account_info"))
    assert settings.data == ("sim_info", "account_info")


def test_it_tries_for_a_day_every_few_minutes_and_for_a_month_more_and_more_rarely():
    policy = RetryPolicy.of(read_settings(ConnectorSender.Settings, options()))
    hour = timedelta(hours=1)
    waits = [policy.delay(attempt, 0) for attempt in range(1, policy.max_attempts)]
    main, tail = waits[:99], waits[99:]
    assert all(timedelta(minutes=1) <= wait <= timedelta(minutes=10) for wait in main)
    # With a connector that never answers, each attempt takes RequestTimeout.
    assert 23 * hour < sum(main, 100 * timedelta(seconds=300)) < 25 * hour
    assert tail[:6] == [1 * hour, 2 * hour, 4 * hour, 8 * hour, 16 * hour, 24 * hour]
    assert set(tail[5:]) == {24 * hour}
    assert timedelta(days=28) < sum(tail, timedelta(0)) < timedelta(days=31)
