"""EventSender against a real server: wire format, verdicts, and what each option does.

What AsyncMode, TokenRate, TokenBurstiness, MaxWaitTime and Concurrency do is the worker's to
keep; here it is what they ask of it (``pacing``), in tests/unit/test_handlers_event_sender.py.
"""

import asyncio
import hashlib
import hmac
import json
import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from espf.handlers.event_sender import EventSender
from espf.model import Event
from espf.testing import run_handler, sample_event
from webhook import Answer, Webhook


@pytest.fixture
async def hook():
    async with Webhook() as hook:
        yield hook


def options(hook, **chosen):
    """Version 1 and no authentication, but for what is given without its prefix."""
    given = {"URL": hook.url, "AuthMethod": "None", "APIVersion": 1, **chosen}
    return {f"EventSender.{name.replace('__', '.')}": value for name, value in given.items()}


async def send(hook, event=None, **chosen):
    return await run_handler(EventSender, options(hook, **chosen), event or sample_event())


def event(event_type, payload, i_event=5):
    return Event(i_event=i_event, i_env=3, event_type=event_type, payload=payload)


# Wire format


async def test_version_1_sends_the_variables_as_the_trigger_wrote_them(hook):
    payload = (
        '{"i_account":541,"balance":12.50000,"name":"Grüß \\u0041 {}","big":12345678901234567890}'
    )
    await send(hook, event("Account/Blocked", payload, 623623))
    assert hook.requests[0].body.decode() == (
        '{"event_type":"Account/Blocked","variables":' + payload[:-1] + ',"i_event":623623}}'
    )
    assert isinstance(hook.requests[0].i_event, int)


@pytest.mark.parametrize("payload", ["{}", "{ }", " {}\n"])
async def test_an_event_without_variables(hook, payload):
    await send(hook, event("Custom/Tick", payload))
    assert hook.requests[0].json == {"event_type": "Custom/Tick", "variables": {"i_event": 5}}


async def test_version_2_sends_the_documented_sample(hook):
    await send(
        hook,
        event("Account/New", '{"i_account":1000889,"i_customer":42,"i_env":3,"id":"123"}'),
        APIVersion=2,
    )
    body = hook.requests[0].body
    assert (
        body == b'{"event_type":"Subscriber/Created","variables":{"i_account":1000889,"i_event":5}}'
    )
    # The documented sample is 83 bytes: there i_event is a string, "5".
    assert len(body) == 83 - len('""')
    assert hook.requests[0].headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("event_type", "payload", "name", "variables"),
    [
        ("Customer/Blocked", '{"i_customer":42,"i_env":3}', "Customer/Updated", {"i_customer": 42}),
        ("Account/Status/Closed", '{"i_account":7,"x":1}', "Subscriber/Deleted", {"i_account": 7}),
        ("DID/New", '{"number":"4930123","i_env":3}', "DID/Created", {"number": "4930123"}),
        (
            "Invoice/New",
            '{"i_env":3,"i_invoice":9,"i_customer":42}',
            "Invoice/Created",
            {"i_customer": 42, "i_invoice": 9},
        ),
        (
            "SIM/Updated",
            '{"i_env":3,"curr_status":"used"}',
            None,
            {"i_env": 3, "curr_status": "used"},
        ),
        ("Custom/NextMonth", '{"a":[1,{"b":null}]}', None, {"a": [1, {"b": None}]}),
    ],
)
async def test_version_2_simplifies(hook, event_type, payload, name, variables):
    await send(hook, event(event_type, payload), APIVersion=2)
    got = hook.requests[0].json
    assert got == {"event_type": name or event_type, "variables": {**variables, "i_event": 5}}
    assert list(got["variables"]) == [*variables, "i_event"]


async def test_a_custom_event_is_the_same_in_both_versions(hook):
    for version in (1, 2):
        await send(hook, event("Custom/NextMonth", '{"i_account":541}'), APIVersion=version)
    assert hook.requests[0].body == hook.requests[1].body


async def test_what_has_no_version_2_form_is_skipped(hook):
    verdict = await send(hook, event("Product/Changed", '{"i_product":1}'), APIVersion=2)
    assert verdict.outcome == "skipped"
    assert verdict.reason.startswith("Product/Changed has no version 2 form")
    assert hook.requests == []


@pytest.mark.parametrize("payload", ['{"i_customer":42}', '{"i_customer":42,"i_invoice":null}'])
async def test_an_event_without_a_mandatory_variable_is_rejected(hook, payload):
    verdict = await send(hook, event("Invoice/New", payload), APIVersion=2)
    assert verdict.outcome == "rejected"
    assert verdict.reason == "the event has no i_invoice, which Invoice/Created needs"
    assert hook.requests == []


async def test_the_headers(hook):
    await send(hook)
    request = hook.requests[0]
    assert request.line == "POST / HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert [name for name, _ in request.head].count("Date") == 1
    sent_at = parsedate_to_datetime(request.headers["date"])
    assert request.headers["date"].endswith(" GMT")
    assert abs(datetime.now(UTC) - sent_at) < timedelta(minutes=1)


async def test_the_date_and_the_signature_are_fresh_with_each_attempt(hook):
    chosen = {"AuthMethod": "Signature", "SignatureAuth__KeyId": "k", "SignatureAuth__Key": "s"}
    await send(hook, **chosen)
    await asyncio.sleep(1.1)
    await send(hook, **chosen)
    first, second = (request.headers for request in hook.requests)
    assert first["date"] != second["date"]
    assert first["authorization"] != second["authorization"]


# Verdicts


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_done(hook, status):
    hook.then(Answer(status))
    assert (await send(hook)).outcome == "finished"


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 410, 413, 418, 422, 451, 499])
async def test_4xx_is_rejected(hook, status):
    hook.then(Answer(status, {"Retry-After": "5"}))
    assert (await send(hook)).outcome == "rejected"


@pytest.mark.parametrize("status", [401, 407])
async def test_an_unknown_sender_is_a_fault_of_the_settings(hook, status):
    hook.then(Answer(status))
    assert (await send(hook)).outcome == "misconfigured"


@pytest.mark.parametrize(
    "status", [300, 301, 302, 303, 304, 307, 308, 408, 425, 429, 500, 501, 502, 503, 504, 599, 600]
)
async def test_everything_else_is_tried_later(hook, status):
    hook.then(Answer(status, {"Location": f"{hook.url}/elsewhere"}))
    verdict = await send(hook)
    assert (verdict.outcome, verdict.after) == ("try later", None)
    assert len(hook.requests) == 1


@pytest.mark.parametrize("fault", ["close", "reset", "half", "garbage"])
async def test_a_broken_answer_is_tried_later(hook, fault):
    hook.then(Answer(200, body="taken", fault=fault))
    assert (await send(hook)).outcome == "try later"


async def test_retry_after_is_honoured(hook):
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    hook.then(
        Answer(429, {"Retry-After": "7"}),
        Answer(503, {"Retry-After": in_an_hour.strftime("%a, %d %b %Y %H:%M:%S GMT")}),
        Answer(503, {"Retry-After": "999999999"}),
        Answer(503, {"Retry-After": "later"}),
    )
    delays = [(await send(hook)).after for _ in range(4)]
    assert delays[0] == timedelta(seconds=7)
    assert timedelta(minutes=59) < delays[1] <= timedelta(hours=1)
    assert delays[2:] == [timedelta(hours=24), None]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "HTTP 400 Bad Request"),
        ("unknown account\nat line 3", "HTTP 400 Bad Request: unknown account"),
        ("\r\n  bad \x1b[31m\t x", "HTTP 400 Bad Request: bad \ufffd[31m\ufffd x"),
        ("x" * 500, "HTTP 400 Bad Request: " + "x" * 200),
    ],
)
async def test_a_reason_is_one_short_line(hook, body, reason):
    hook.then(Answer(400, body=body))
    assert (await send(hook)).reason == reason


# Options


async def test_allowed_types(hook):
    chosen = {"AllowedTypes": "Customer/*, Account/Blocked\nCustom/*"}
    verdict = await send(hook, sample_event("Account/New"), **chosen)
    assert verdict.outcome == "skipped"
    assert verdict.reason == "EventSender.AllowedTypes does not name Account/New"
    for name in ("Account/Blocked", "Customer/Status/Closed", "Custom/NextMonth"):
        assert (await send(hook, sample_event(name), **chosen)).outcome == "finished"
    assert [r.json["event_type"] for r in hook.requests] == [
        "Account/Blocked",
        "Customer/Status/Closed",
        "Custom/NextMonth",
    ]


async def test_allowed_types_are_matched_against_the_version_1_name(hook):
    allowed = await send(hook, APIVersion=2, AllowedTypes="Account/*")
    skipped = await send(hook, APIVersion=2, AllowedTypes="Subscriber/*")
    assert (allowed.outcome, skipped.outcome) == ("finished", "skipped")


async def test_api_version(hook):
    await send(hook, APIVersion=1)
    await send(hook, APIVersion=2)
    assert [r.json["event_type"] for r in hook.requests] == ["Account/New", "Subscriber/Created"]


async def test_version_2_is_the_default(hook):
    await run_handler(
        EventSender,
        {"EventSender.URL": hook.url, "EventSender.AuthMethod": "None"},
        sample_event(),
    )
    assert hook.requests[0].json["event_type"] == "Subscriber/Created"


async def test_basic_is_the_default_method(hook):
    await run_handler(
        EventSender,
        {
            "EventSender.URL": hook.url,
            "EventSender.BasicAuth.User": "username",
            "EventSender.BasicAuth.Key": "secret",
        },
        sample_event(),
    )
    assert hook.requests[0].headers["authorization"] == "Basic dXNlcm5hbWU6c2VjcmV0"


async def test_custom(hook):
    await send(
        hook,
        AuthMethod="Custom",
        CustomAuth__Type="Plain",
        CustomAuth__Credentials="passexample",
    )
    assert hook.requests[0].headers["authorization"] == "Plain passexample"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
async def test_a_receiver_can_check_the_signature(hook, algorithm):
    chosen = {} if algorithm == "sha1" else {"SignatureAuth__Algorithm": f"hmac-{algorithm}"}
    await send(
        hook,
        AuthMethod="Signature",
        SignatureAuth__KeyId="test",
        SignatureAuth__Key="key",
        **chosen,
    )
    headers = hook.requests[0].headers
    scheme, parameters = headers["authorization"].split(" ")
    assert scheme == "Signature"
    got = dict(re.findall(r'(\w+)="([^"]*)"', parameters))
    signed = hmac.new(b"key", f"date: {headers['date']}".encode(), getattr(hashlib, algorithm))
    assert got == {
        "keyId": "test",
        "algorithm": f"hmac-{algorithm}",
        "signature": b64encode(signed.digest()).decode(),
    }


async def test_none_sends_no_header(hook):
    await send(hook, AuthMethod="None", AuthHeader="X-Auth")
    assert not {"authorization", "x-auth"} & set(hook.requests[0].headers)


@pytest.mark.parametrize(
    "chosen",
    [
        {"AuthMethod": "Basic", "BasicAuth__User": "u", "BasicAuth__Key": "k"},
        {"AuthMethod": "Custom", "CustomAuth__Type": "T", "CustomAuth__Credentials": "c"},
        {"AuthMethod": "Signature", "SignatureAuth__KeyId": "i", "SignatureAuth__Key": "k"},
    ],
)
async def test_auth_header(hook, chosen):
    verdict = await send(hook, AuthHeader="X-Provisioning", **chosen)
    headers = hook.requests[0].headers
    assert "authorization" not in headers
    value = headers["x-provisioning"]
    assert len(value.split(" ")) == 2
    # Whatever its name, the journal does not tell it.
    assert value not in verdict.exchange.request
    assert "X-Provisioning: ***" in verdict.exchange.request


async def test_request_timeout(hook):
    hook.always = Answer(delay=1.5)
    assert (await send(hook, RequestTimeout=10)).outcome == "finished"
    verdict = await send(hook, RequestTimeout=1)
    assert (verdict.outcome, verdict.reason) == ("try later", "no answer within 1 s")


async def test_url(hook):
    await send(hook, URL=f"127.0.0.1:{hook.port}/events?from=espf")
    assert hook.requests[0].path == "/events?from=espf"


async def test_with_unique_id(hook):
    for version in (1, 2):
        await send(hook, APIVersion=version, WithUniqueID="on")
        await send(hook, APIVersion=version, WithUniqueID="off")
    has = ["i_event" in request.json["variables"] for request in hook.requests]
    assert has == [True, False, True, False]
    assert hook.requests[1].body.decode().endswith('"i_env":3}}')
    assert json.loads(hook.requests[3].body)["variables"] == {"i_account": 541}


async def test_an_empty_event_without_unique_id(hook):
    await send(hook, event("Custom/Tick", "{}"), WithUniqueID="off")
    assert hook.requests[0].body == b'{"event_type":"Custom/Tick","variables":{}}'


async def test_a_repeat_is_the_same_body(hook):
    for attempt in (1, 2):
        await run_handler(EventSender, options(hook), sample_event(), attempt=attempt)
    assert hook.requests[0].body == hook.requests[1].body


async def test_an_echoed_password_stays_out_of_the_exchange(hook):
    hook.always = lambda request: Answer(500, body=f"you sent {request.headers['authorization']}")
    verdict = await send(
        hook, AuthMethod="Basic", BasicAuth__User="username", BasicAuth__Key="secret"
    )
    assert "dXNlcm5hbWU6c2VjcmV0" not in verdict.exchange.response
