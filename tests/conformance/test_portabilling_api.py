"""The requests and replies of the vendor's API, as far as it is documented in public.

Each test is a documented shape of the transport and the session; the methods with their fields are
in test_portabilling_fields.
"""

import base64
import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from sqlalchemy import update

from databases import whatever_the_database
from espf.billing.tables import accounts
from espf.web.methods import METHODS

LOGIN, PASSWORD = "demo", "exAmple"

DATETIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


# --- Transport ---


def test_the_documented_work_flow_with_forms(http, i_account):
    form = {"params": '{"login":"demo","password":"exAmple"}'}
    session_id = http.post("/rest/Session/login", data=form).json()["session_id"]
    form = {
        "auth_info": json.dumps({"session_id": session_id}),
        "params": json.dumps({"i_account": i_account, "get_included_services": 1}),
    }
    reply = http.post("/rest/Account/get_account_info", data=form)
    assert reply.status_code == 200
    assert reply.json()["account_info"]["i_account"] == i_account


def test_the_three_documented_content_types_say_the_same(http, session):
    envelope = {
        "auth_info": {"session_id": session["session_id"]},
        "params": {"limit": 5, "offset": 0},
    }
    fields = {name: json.dumps(value) for name, value in envelope.items()}
    files = {name: (None, value) for name, value in fields.items()}
    url = "/rest/Customer/get_customer_list"
    replies = [http.post(url, **body) for body in ({"json": envelope}, {"data": fields})]
    replies.append(http.post(url, files=files))
    assert [reply.json() for reply in replies] == [{"customer_list": []}] * 3


def test_only_post_is_answered(http):
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert http.request(method, "/rest/Account/get_account_info").status_code == 405


def test_json_with_auth_info_and_json_with_a_bearer_token(http, session, i_account):
    params = {"i_account": i_account}
    auth_info = {"session_id": session["session_id"]}
    url = "/rest/Account/get_account_info"
    one = http.post(url, json={"auth_info": auth_info, "params": params})
    headers = {"Authorization": f"Bearer {session['access_token']}"}
    two = http.post(url, json={"params": params}, headers=headers)
    assert one.json() == two.json()


@whatever_the_database
@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (
            "Session/login",
            {"params": {"login": LOGIN, "password": "no"}},
            "Server.Session.auth_failed",
        ),
        (
            "Account/get_account_info",
            {"auth_info": {"session_id": "0" * 32}, "params": {"i_account": 1}},
            "Server.Session.check_auth.auth_failed",
        ),
        (
            "Account/get_account_info",
            {"params": {"i_account": 1}},
            "Client.check_auth.envelope_missed",
        ),
        (
            "Account/get_account_info",
            {"auth_info": {"access_token": "old"}, "params": {"i_account": 1}},
            "Client.Session.check_auth.failed_to_process_access_token",
        ),
    ],
)
def test_a_fault_is_http_500_with_code_and_string(http, path, body, code):
    reply = http.post(f"/rest/{path}", json=body)
    assert reply.status_code == 500
    assert reply.json()["faultcode"] == code
    assert isinstance(reply.json()["faultstring"], str)
    assert reply.json().keys() == {"faultcode", "faultstring"}


def test_a_token_that_is_not_ours_is_the_documented_fault(http, session):
    head, body, _ = session["access_token"].split(".")
    other = base64.urlsafe_b64encode(b"x" * 256).rstrip(b"=").decode()
    headers = {"Authorization": f"Bearer {head}.{body}.{other}"}
    reply = http.post("/rest/Account/get_account_list", json={"params": {}}, headers=headers)
    code = "Client.Session.check_auth.failed_to_process_jwt"
    assert (reply.status_code, reply.json()["faultcode"]) == (500, code)


def test_a_second_account_with_an_id_is_the_documented_fault(call, i_account):
    info = {"id": "6808881050@msisdn", "billing_model": 1, "i_customer": 1, "i_product": 1}
    reply = call("Account/add_account", account_info=info)
    assert (reply.status_code, reply.json()["faultcode"]) == (500, "Server.Account.duplicate_id")


#: What no parameter is, or hardly any.
GARBAGE = [
    *(None, True, "", " ", "x", "\0", "ü😀", "9" * 5000, "-1", "1e5", "2026-02-30"),
    *(-1, 0, 1, 2**31, 2**63, 10**400, 1.5, -1e300, [], [[]], {}, {"x": {}}, [1, "2", None]),
]


def is_documented(reply):
    """A result, or a fault of the documented shape that is no defect of ours."""
    assert reply.headers["content-type"] == "application/json"
    assert "Traceback" not in reply.text
    answer = reply.json()
    if reply.status_code == 200:
        return "faultcode" not in answer
    assert reply.status_code == 500
    assert answer.keys() == {"faultcode", "faultstring"}
    assert re.fullmatch(r"(Client|Server)(\.\w+)+", answer["faultcode"])
    return answer["faultcode"] != "Server.internal_error"


def fields_of(model):
    """The parameters of a method, with those of the objects in them."""
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if is_model(one)]
        yield name, [key for one in inner for key in one.model_fields]


def is_model(kind):
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("path", METHODS)
def test_whatever_the_parameters_hold_the_answer_is_documented(call, i_account, path):
    fields = dict(fields_of(METHODS[path].params))
    assert is_documented(call(path))
    assert is_documented(call(path, no_such_parameter=1))
    for value in GARBAGE:
        assert is_documented(call(path, **dict.fromkeys(fields, value))), value
        inside = {name: dict.fromkeys(inner, value) for name, inner in fields.items() if inner}
        assert is_documented(call(path, **inside)), value
    for number, name in enumerate(fields):
        value = GARBAGE[number % len(GARBAGE)]
        assert is_documented(call(path, **{name: value})), (name, value)


@pytest.mark.databases("sqlite")
def test_the_example_of_every_method_is_a_good_request(call, described, i_account):
    for path, operation in described.items():
        if not path.startswith("Session/"):
            content = operation["requestBody"]["content"]["application/json"]
            reply = call(path, **content["schema"]["examples"][0]["params"])
            assert is_documented(reply), path
            assert not reply.json().get("faultcode", "").endswith("invalid_parameter"), path


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("Account/no_such_method", "Client.unknown_method"),
        ("NoService/get_account_info", "Client.unknown_service"),
        ("Session/no_such_method", "Client.unknown_method"),
    ],
)
def test_what_is_no_method_is_a_fault(call, path, code):
    assert call(path).json()["faultcode"] == code


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "Client.malformed_request"),
        (b"[]", "Client.malformed_request"),
        (b'{"params":[]}', "Client.malformed_request"),
        (b'{"params":{}', "Client.malformed_request"),
        (b'{"params":{},"more":1}', "Client.malformed_request"),
        (b"\xff\xfe", "Client.malformed_request"),
        (b"[" * 100_000, "Client.malformed_request"),
        (b'{"params":{"x":NaN}}', "Client.malformed_request"),
        (b" " * 2**20 + b"{}", "Client.request_too_large"),
    ],
)
def test_a_body_that_is_no_request_is_a_fault(http, session, body, code):
    headers = {"Authorization": f"Bearer {session['access_token']}"}
    reply = http.post("/rest/Account/get_account_list", content=body, headers=headers)
    assert is_documented(reply)
    assert reply.json()["faultcode"] == code


# --- Session ---


def test_login_answers_tokens_that_live_about_48_hours(session):
    assert session.keys() == {"session_id", "access_token", "refresh_token", "expires_at"}
    assert DATETIME.fullmatch(session["expires_at"])
    expires_at = datetime.fromisoformat(session["expires_at"]).replace(tzinfo=UTC)
    life = expires_at - datetime.now(UTC)
    assert timedelta(hours=47, minutes=59) < life < timedelta(hours=48, minutes=1)


def test_refresh_answers_new_tokens_and_no_session_id(http, session):
    params = {"refresh_token": session["refresh_token"]}
    fresh = http.post("/rest/Session/refresh_access_token", json={"params": params}).json()
    assert fresh.keys() == {"access_token", "refresh_token", "expires_at"}


def test_ping_answers_a_user_id_above_0_while_the_token_lives(http, session):
    params = {"access_token": session["access_token"]}
    assert http.post("/rest/Session/ping", json={"params": params}).json()["user_id"] > 0
    assert http.post("/rest/Session/logout", json={"params": params}).status_code == 200
    assert http.post("/rest/Session/ping", json={"params": params}).json()["user_id"] == 0


# --- The examples of the page ---

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "rest-api.md"

#: The methods of the page's examples that need no token, in their order.
EXAMPLES = (
    "Account/add_account",
    "Account/update_account",
    "Account/update_service_features",
    "Usage/authorise",
)


def test_the_examples_of_the_page_work(call, billing_database):
    blocks = re.findall(r"^```\n(\{\"params.+?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    requests = [block.split("\n\n") for block in blocks if "password" not in block]
    assert len(requests) == len(EXAMPLES)
    call("Customer/add_customer", customer_info={"name": "Acme", "credit_limit": 100})
    quota = {"service": "netaccess", "monthly_amount": 5 * 10**9}
    call("Product/add_product", product_info={"name": "LTE", "quotas": [quota]})
    call("Product/add_product", product_info={"name": "Extra"})
    for number in range(1, 8):
        call("AccessPolicy/add_access_policy", access_policy_info={"name": f"policy {number}"})
    card = {"imsi": "001010000000001", "iccid": "8900101000000000001"}
    call("SIMCard/add_sim_card", card_info=card)
    for method, (request, reply) in zip(EXAMPLES, requests, strict=True):
        if method == "Usage/authorise":
            # The example is about a month in which the account was there already.
            with billing_database.begin() as connection:
                connection.execute(update(accounts).values(activation_date=date(2026, 1, 1)))
        # The page's account has another number than the first one here.
        params = json.loads(request.replace("541", "1"))["params"]
        answer = call(method, **params)
        assert answer.text == reply.strip().replace("541", "1"), method
