"""From a change in the billing to a connector, with real processes; and the sample connector."""

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update

import shapes
from desk import PASSWORD
from espf.billing.tables import accounts, products, sim_cards
from webhook import Answer, Webhook

pytestmark = [pytest.mark.e2e, pytest.mark.databases("sqlite")]

CONNECTOR = Path(__file__).resolve().parents[2] / "examples" / "connector" / "connector.py"
TOKEN = "a-token-of-the-connector"


def post(url, body, token=None):
    """POST JSON; gives status and answer."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers), timeout=20
        ) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Billing:
    """The billing API of a running ESPF."""

    def __init__(self, base):
        self.base = base
        who = {"params": {"login": "admin", "password": PASSWORD}}
        self.token = post(f"{base}/rest/Session/login", who)[1]["access_token"]

    def __call__(self, called, **params):
        status, answer = post(f"{self.base}/rest/{called}", {"params": params}, self.token)
        assert status == 200, answer
        return answer


def one(desk, column):
    return desk.execute(select(column).order_by(column).limit(1))[0][0]


async def test_a_change_in_the_billing_reaches_the_connector_with_what_the_billing_knows(desk):
    async with Webhook() as hook:
        hook.always = Answer(202, {}, '{"message":"Event accepted for processing"}')
        busy = {"message": "HSS", "error": "busy", "type": "SERVICE_ERROR"}
        hook.then(Answer(422, {}, json.dumps(busy)))
        (desk.folder / "token").write_text(TOKEN)
        desk(
            *("handler", "create", 3, "HSS", "--type", "ConnectorSender"),
            *("--set", f"ConnectorSender.URL={hook.url}/process-event"),
            *("--set-file", "ConnectorSender.Token=token"),
            *("--set", "RetryDelays=1s", "--set", "RetryJitter=0"),
        )
        desk("handler", "disable", 3, "EventSender")
        i_product, i_sim_card = one(desk, products.c.i_product), one(desk, sim_cards.c.i_sim_card)
        async with desk.running() as base:
            billing = await asyncio.to_thread(Billing, base)
            account = {
                "id": "380441234567",
                "i_customer": 1,
                "i_product": i_product,
                "billing_model": -1,
                "opening_balance": 10,
                "h323_password": "s3rvice-pass",
                "firstname": "Jo",
                "i_sim_card": i_sim_card,
            }
            made = await asyncio.to_thread(billing, "Account/add_account", account_info=account)
            i_account = made["i_account"]
            await come(hook, "Account/SIMCardAssignment")
            await asyncio.to_thread(furnish, billing, i_account)
            await come(hook, "Account/ProductAddon/Inserted")
            await asyncio.to_thread(billing, "SIMCard/delete_sim_card", i_sim_card=i_sim_card + 1)
            await come(hook, "SIM/Deleted")
            blocked = update(accounts).where(accounts.c.i_account == i_account).values(blocked="Y")
            desk.execute(blocked)
            await come(hook, "Account/Blocked")
            await asyncio.to_thread(billing, "Account/terminate_account", i_account=i_account)
            await come(hook, "Account/Status/Closed")
            await come(hook, "Account/SIMCardAssignment", 2)
        text = b"".join(request.body for request in hook.requests).decode()

    for request in hook.requests:
        shapes.check(shapes.ENRICHED, request.json)
        assert request.line == "POST /process-event HTTP/1.1"
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.json["handler_id"] == "HSS"
    refused, again, *_ = hook.requests
    assert refused.json["event_id"] == again.json["event_id"], "an attempt, and the next one"
    assert refused.headers["x-request-id"] != again.headers["x-request-id"]

    pb_data = again.json["pb_data"]
    assert pb_data["account_info"]["id"] == "380441234567"
    assert pb_data["account_info"]["bill_status"] == "open"
    assert pb_data["account_info"]["billing_model"] == "debit_account"
    assert pb_data["account_info"]["status"] == "active"
    assert pb_data["account_info"]["blocked"] is False
    assert pb_data["sim_info"]["i_sim_card"] == i_sim_card
    assert pb_data["sim_info"]["msisdn"] == "380441234567"
    assert pb_data["product_info"]["i_product"] == i_product

    last = {event_type: each.json["pb_data"] for event_type, each in by_type(hook.requests)}
    furnished = last["Account/ProductAddon/Inserted"]
    assert set(furnished) == {
        *("account_info", "sim_info", "access_policy_info", "product_info"),
        "full_vd_counter_info",
    }
    (addon,) = furnished["account_info"]["assigned_addons"]
    assert (addon["name"], addon["addon_priority"]) == ("Roaming", 20)
    assert furnished["account_info"]["service_features"] == [
        {
            "name": "netaccess_policy",
            "effective_flag_value": "Y",
            "attributes": [
                {
                    "name": "access_policy",
                    "effective_value": str(furnished["access_policy_info"]["i_access_policy"]),
                }
            ],
        }
    ]
    assert furnished["access_policy_info"]["attributes"] == [
        {"group_name": "lte", "name": "cs_profile", "value": "cs-gold"}
    ]
    assert furnished["full_vd_counter_info"][0]["service_name"] == "netaccess"
    gone = last["SIM/Deleted"]["sim_info"]
    assert gone["i_sim_card"] == i_sim_card + 1
    assert {"imsi", "iccid"} < gone.keys(), "they cannot be asked for any more"

    assert last["Account/Blocked"]["account_info"]["blocked"] is True
    assert last["Account/Blocked"]["account_info"]["status"] == "blocked"
    assert last["Account/Status/Closed"]["account_info"]["bill_status"] == "terminated"
    assert last["Account/Status/Closed"]["account_info"]["status"] == "closed"
    assert last["Account/SIMCardAssignment"]["prev_sim_info"]["i_sim_card"] == i_sim_card
    assert last["Account/SIMCardAssignment"]["prev_sim_info"]["status"] == "disposed"
    assert "s3rvice-pass" not in text
    assert '"ki"' not in text


def furnish(billing, i_account):
    """Give an account an access policy and an add-on."""
    attributes = [{"group_name": "lte", "name": "cs_profile", "values": ["cs-gold"]}]
    policy = billing(
        "AccessPolicy/add_access_policy",
        access_policy_info={"name": "Gold", "attributes": attributes},
    )
    chosen = {"name": "access_policy", "values": [str(policy["i_access_policy"])]}
    feature = {"name": "netaccess_policy", "flag_value": "Y", "attributes": [chosen]}
    roaming = billing("Product/add_product", product_info={"name": "Roaming", "addon_priority": 20})
    billing(
        "Account/update_account",
        account_info={
            "i_account": i_account,
            "service_features": [feature],
            "assigned_addons": [{"i_product": roaming["i_product"]}],
        },
    )


def types(requests):
    return [request.json["data"]["event_type"] for request in requests]


async def come(hook, event_type, count=1):
    """Wait until so many events of a type have come."""
    async with asyncio.timeout(90):
        while types(hook.requests).count(event_type) < count:
            await asyncio.sleep(0.05)


async def test_over_the_api_a_connector_is_tried_out_with_what_the_billing_knows(desk):
    async with Webhook() as hook:
        (desk.folder / "token").write_text(TOKEN)
        desk(
            *("handler", "create", 3, "HSS", "--type", "ConnectorSender", "--disabled"),
            *("--set", f"ConnectorSender.URL={hook.url}/process-event"),
            *("--set-file", "ConnectorSender.Token=token"),
        )
        desk("handler", "disable", 3, "EventSender")
        async with desk.running() as base:
            billing = await asyncio.to_thread(Billing, base)
            owner = {"i_customer": 1, "i_product": one(desk, products.c.i_product)}
            info = {"id": "380441234567", "billing_model": -1, **owner}
            made = await asyncio.to_thread(billing, "Account/add_account", account_info=info)
            body = {"event_type": "Account/New", "variables": {"i_account": made["i_account"]}}
            url = f"{base}/espf/v1/handler/2/test"
            status, said = await asyncio.to_thread(post, url, body, billing.token)
    assert (status, said["reached"], said["sent"]["verdict"]) == (200, True, "finished"), said
    health, event = hook.requests
    assert health.line == "GET /health HTTP/1.1"
    assert event.json["pb_data"]["account_info"]["id"] == "380441234567"
    shapes.check(shapes.ENRICHED, event.json)
    assert TOKEN not in json.dumps(said)


def by_type(requests):
    return zip(types(requests), requests, strict=True)


# The sample connector


@contextmanager
def connector(*options) -> Iterator[tuple[str, list[str]]]:
    """The sample as a process; gives its address, and at the end the lines that it printed."""
    child = subprocess.Popen(
        [sys.executable, CONNECTOR, "--port", "0", *options],
        env={**os.environ, "CONNECTOR_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    try:
        assert child.stdout is not None
        found = re.search(r"on (http://[^/]+)/process-event", child.stdout.readline())
        assert found
        yield found[1], lines
    finally:
        child.terminate()
        lines += child.communicate(timeout=60)[0].splitlines()


def event(event_type="SIM/Updated", **pb_data):
    return {
        "event_id": "5d0e",
        "data": {"event_type": event_type, "variables": {"i_event": 5}},
        "pb_data": pb_data,
    }


CARD = {"i_sim_card": 7, "i_account": 541, "imsi": "255070000000001"}
ACCOUNT = {"i_account": 541, "id": "380441234567", "bill_status": "open", "blocked": False}


def test_the_sample_connector_keeps_the_hss_as_the_billing_says():
    older = {**CARD, "imsi": "255070000000002"}
    with connector() as (base, lines):
        with urllib.request.urlopen(f"{base}/health", timeout=60) as reply:
            assert reply.status == 200

        def done(body):
            status, said = post(f"{base}/process-event", body, TOKEN)
            assert status == 202
            return said["message"]

        assert done(event(sim_info=CARD, account_info=ACCOUNT)) == "255070000000001 serviceGranted"
        barred = "255070000000001 operatorDeterminedBarring"
        assert done(event(sim_info=CARD, account_info={**ACCOUNT, "blocked": True})) == barred
        closed = {**ACCOUNT, "bill_status": "terminated"}
        assert done(event(sim_info=CARD, account_info=closed)) == barred
        replaced = event("SIM/Replaced", sim_info=CARD, prev_sim_info=older, account_info=ACCOUNT)
        assert done(replaced) == "255070000000002 removed, 255070000000001 serviceGranted"
        assert done(event("SIM/Deleted", sim_info=CARD)) == "255070000000001 removed"
        free = {**CARD, "i_account": None}
        assert done(event(sim_info=free)) == "255070000000001 removed"
        assert done(event("Customer/Blocked")) == "ignored: it names no IMSI"
    assert [json.loads(line)["status"] for line in lines] == [202] * 7
    assert all(json.loads(line)["request_id"] for line in lines)


def test_the_sample_connector_says_what_is_wrong_in_the_published_form():
    with connector("--hss-down") as (base, _):
        url = f"{base}/process-event"
        good = event(sim_info=CARD, account_info=ACCOUNT)
        for body, token, status, kind in [
            (good, "another", 401, "AUTHENTICATION_ERROR"),
            (good, None, 401, "AUTHENTICATION_ERROR"),
            (b"{", TOKEN, 400, "VALIDATION_ERROR"),
            ([], TOKEN, 422, "VALIDATION_ERROR"),
            ({"event_id": "5"}, TOKEN, 422, "VALIDATION_ERROR"),
            (good, TOKEN, 503, "CONNECTION_ERROR"),
        ]:
            answered, said = post(url, body, token)
            assert (answered, said["type"]) == (status, kind)
            assert set(said) == {"message", "error", "type"}
