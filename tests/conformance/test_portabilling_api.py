"""The requests and replies of the vendor's API, as far as it is documented in public.

Each test is a documented shape: the transport, the session, and the fields with their types.
"""

import base64
import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from sqlalchemy import insert, update
from starlette.applications import Starlette
from starlette.testclient import TestClient

from databases import whatever_the_database
from espf.billing import environments
from espf.billing.tables import accounts
from espf.billing.tables import metadata as billing_tables
from espf.crypto import hash_password
from espf.db import tables
from espf.users import Users
from espf.web import rest

LOGIN, PASSWORD = "demo", "exAmple"
PASSWORD_HASH = hash_password(PASSWORD)

DATE = re.compile(r"\d{4}-\d\d-\d\d")
DATETIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

#: Documented fields of account_info that the reference billing holds, with their types.
ACCOUNT_FIELDS = {
    "i_account": int,
    "i_customer": int,
    "i_product": int,
    "i_account_role": int,
    "i_account_balance_control_type": int,
    "billing_model": int,
    "is_active": int,
    "customer_bill_suspended": int,
    "balance": float,
    "opening_balance": float,
    "credit_limit": float,
    "id": str,
    "bill_status": str,
    "blocked": str,
    "customer_bill_status": str,
    "customer_blocked": str,
    "customer_name": str,
    "product_name": str,
    "iso_4217": str,
    "time_zone_name": str,
    "activation_date": DATE,
    "issue_date": DATE,
    "expiration_date": DATE,
    "h323_password": str,
    "phone1": str,
    "companyname": str,
    "firstname": str,
    "lastname": str,
    "email": str,
}

CUSTOMER_FIELDS = {
    "i_customer": int,
    "name": str,
    "bill_status": str,
    "blocked": str,
    "balance": float,
    "credit_limit": float,
    "credit_exceed": int,
    "iso_4217": str,
    "creation_date": DATETIME,
}

CARD_FIELDS = {
    "i_sim_card": int,
    "i_account": int,
    "imsi": str,
    "iccid": str,
    "msisdn": str,
    "status": str,
}


def check(record, fields):
    for name, kind in fields.items():
        value = record[name]
        if isinstance(kind, re.Pattern):
            assert kind.fullmatch(value), (name, value)
        else:
            assert type(value) is kind, (name, value)


@pytest.fixture
def http(database, sealer):
    with database.begin() as connection:
        billing_tables.create_all(connection)
        environments.add(connection, 1, "Default")
        connection.execute(
            insert(tables.users).values(login=LOGIN, password_hash=PASSWORD_HASH, i_env=1)
        )
    app = Starlette(routes=rest.routes(database, Users(database, sealer), sealer))
    with TestClient(app) as client:
        yield client


@pytest.fixture
def session(http):
    form = {"params": json.dumps({"login": LOGIN, "password": PASSWORD})}
    return http.post("/rest/Session/login", data=form).json()


@pytest.fixture
def call(http, session):
    def call(path, **params):
        headers = {"Authorization": f"Bearer {session['access_token']}"}
        return http.post(f"/rest/{path}", json={"params": params}, headers=headers)

    return call


@pytest.fixture
def i_account(call):
    """An account with every field filled in, and a SIM card."""
    customer = {"name": "Acme", "iso_4217": "EUR", "credit_limit": 100}
    i_customer = call("Customer/add_customer", customer_info=customer).json()["i_customer"]
    i_product = call("Product/add_product", product_info={"name": "LTE"}).json()["i_product"]
    card = {"imsi": "001010000000001", "iccid": "8900101000000000001"}
    i_sim_card = call("SIMCard/add_sim_card", card_info=card).json()["i_sim_card"]
    info = {
        "billing_model": 1,
        "h323_password": "secret",
        "i_customer": i_customer,
        "i_product": i_product,
        "id": "6808881050@msisdn",
        "firstname": "Ada",
        "lastname": "Smith",
        "companyname": "Acme",
        "email": "ada@example.net",
        "phone1": "6808881050",
        "i_account_role": 3,
        "credit_limit": 50,
        "activation_date": "2026-01-01",
        "expiration_date": "2090-01-01",
    }
    reply = call("Account/add_account", account_info=info)
    assert reply.json().keys() == {"i_account"}
    i_account = reply.json()["i_account"]
    call("SIMCard/assign_sim_card", i_sim_card=i_sim_card, i_account=i_account)
    return i_account


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
@pytest.mark.parametrize("path", rest.METHODS)
def test_whatever_the_parameters_hold_the_answer_is_documented(call, i_account, path):
    fields = dict(fields_of(rest.METHODS[path].params))
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


# --- Accounts ---


def test_account_info_has_the_documented_fields_and_types(call, i_account):
    reply = call("Account/get_account_info", i_account=i_account).json()
    assert reply.keys() == {"account_info"}
    check(reply["account_info"], ACCOUNT_FIELDS)
    by_id = call("Account/get_account_info", id="6808881050@msisdn").json()
    assert by_id == reply


def test_account_fields_without_a_value_are_null(call, i_account):
    info = {"id": "bare", "billing_model": -1, "i_customer": 1, "i_product": 1}
    bare = call("Account/add_account", account_info=info).json()["i_account"]
    shown = call("Account/get_account_info", i_account=bare).json()["account_info"]
    for name in ("expiration_date", "credit_limit", "firstname", "email", "h323_password"):
        assert shown[name] is None


@whatever_the_database
@pytest.mark.parametrize(
    "params",
    [
        {"detailed_info": 1, "expand_alias": 1},
        {"get_included_services": 1, "get_service_features": ["netaccess_policy"]},
        {"aux_field_names": ["email"], "limit_alias_did_number_list": 100},
        {"without_service_features": 1, "with_reseller_info": 1, "with_call_processing_mode": 1},
    ],
)
def test_documented_switches_of_get_account_info_are_taken(call, i_account, params):
    assert call("Account/get_account_info", i_account=i_account, **params).status_code == 200


def test_customer_info_comes_with_the_account_when_asked_for(call, i_account):
    reply = call("Account/get_account_info", i_account=i_account, with_customer_info=1).json()
    assert reply.keys() == {"account_info", "customer_info"}
    check(reply["customer_info"], CUSTOMER_FIELDS)


def test_account_list_has_the_same_fields_without_passwords(call, i_account):
    params = {
        "i_customer": 1,
        "id": "680888%",
        "bill_status": "O",
        "billing_model": 1,
        "limit": 10,
        "offset": 0,
        "companyname": "Acme",
        "get_not_closed_accounts": 1,
        "get_only_real_accounts": 1,
    }
    reply = call("Account/get_account_list", **params).json()
    assert reply.keys() == {"account_list"}
    (shown,) = reply["account_list"]
    fields = {name: kind for name, kind in ACCOUNT_FIELDS.items() if name != "h323_password"}
    check(shown, fields)


def test_update_answers_the_account_and_blocks_it(call, i_account):
    change = {"i_account": i_account, "blocked": "Y"}
    assert call("Account/update_account", account_info=change).json() == {"i_account": i_account}
    info = call("Account/get_account_info", i_account=i_account).json()["account_info"]
    assert info["blocked"] == "Y"


def test_terminate_answers_success_and_closes_the_account(call, i_account):
    params = {"i_account": i_account, "force": 1, "release_assigned_did": 1}
    assert call("Account/terminate_account", **params).json() == {"success": 1}
    info = call("Account/get_account_info", i_account=i_account).json()["account_info"]
    assert info["bill_status"] == "C"


# --- Customers, products, SIM cards ---


def test_customer_methods_have_the_documented_shapes(call, i_account):
    reply = call("Customer/get_customer_info", i_customer=1).json()
    assert reply.keys() == {"customer_info"}
    check(reply["customer_info"], CUSTOMER_FIELDS)
    assert call("Customer/get_customer_info", name="Acme").json() == reply
    listed = call("Customer/get_customer_list", limit=5, offset=0, bill_status="O", name="Acme")
    assert listed.json() == {"customer_list": [reply["customer_info"]]}
    change = {"i_customer": 1, "blocked": "Y"}
    assert call("Customer/update_customer", customer_info=change).json() == {"i_customer": 1}
    assert call("Customer/terminate_customer", i_customer=1).json() == {"success": 1}


def test_product_methods_have_the_documented_shapes(call, i_account):
    reply = call("Product/get_product_info", i_product=1).json()
    assert reply.keys() == {"product_info"}
    assert reply["product_info"]["i_product"] == 1
    assert reply["product_info"]["name"] == "LTE"
    assert call("Product/get_product_list").json() == {"product_list": [reply["product_info"]]}


def test_card_methods_have_the_documented_fields(call, i_account):
    reply = call("SIMCard/get_card_info", i_sim_card=1).json()
    assert reply.keys() == {"card_info"}
    check(reply["card_info"], CARD_FIELDS)
    assert reply["card_info"]["msisdn"] == "6808881050@msisdn", "the id of the linked account"
    assert reply["card_info"]["status"] == "used"
    assert call("SIMCard/get_card_list").json() == {"card_list": [reply["card_info"]]}
    assert call("SIMCard/release_sim_card", i_sim_card=1).json() == {"i_sim_card": 1}
    released = call("SIMCard/get_card_info", imsi="001010000000001").json()["card_info"]
    assert released["status"] == "available"


# --- Service features, custom fields, add-ons ---


def test_a_service_feature_has_the_documented_members(call, i_account):
    wanted = {
        "name": "netaccess_static_ip",
        "flag_value": "Y",
        "attributes": [{"name": "address", "values": ["10.0.0.1"]}],
    }
    reply = call("Account/update_service_features", i_account=i_account, service_features=[wanted])
    assert reply.json() == {"i_account": i_account}
    (feature,) = call("Account/get_service_features", i_account=i_account).json()[
        "service_features"
    ]
    assert feature == {
        "name": "netaccess_static_ip",
        "flag_value": "Y",
        "effective_flag_value": "Y",
        "locked": 0,
        "attributes": [
            {"name": "address", "values": ["10.0.0.1"], "effective_values": ["10.0.0.1"]}
        ],
    }
    info = call("Account/get_account_info", i_account=i_account).json()["account_info"]
    assert info["service_features"] == [feature]


def test_an_add_on_has_the_documented_members(call, i_account):
    added = {"name": "Extra", "description": "More", "addon_priority": 10}
    i_product = call("Product/add_product", product_info=added).json()["i_product"]
    addon = {"i_product": i_product, "addon_effective_to": "2090-01-01 00:00:00"}
    change = {"i_account": i_account, "assigned_addons": [addon]}
    assert call("Account/update_account", account_info=change).json() == {"i_account": i_account}
    info = call("Account/get_account_info", i_account=i_account).json()["account_info"]
    (shown,) = info["assigned_addons"]
    assert DATETIME.fullmatch(shown.pop("addon_effective_from"))
    assert shown == {**added, **addon, "i_vd_plan": None}


def test_custom_fields_have_the_documented_members(call, i_account):
    field = call("Account/add_custom_field", name="Colour").json()
    values = [{"name": "Colour", "db_value": "blue", "text_value": "Blue"}]
    reply = call(
        "Account/update_custom_fields_values", i_account=i_account, custom_fields_values=values
    )
    assert reply.status_code == 200
    shown = call("Account/get_custom_fields_values", i_account=i_account).json()
    assert shown == {
        "custom_fields_values": [{**field, "name": "Colour", "db_value": "blue"}],
    }


# --- The examples of the page ---

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "rest-api.md"

#: The methods of the page's examples that need no token, in their order.
EXAMPLES = (
    "Account/add_account",
    "Account/update_account",
    "Account/update_service_features",
    "Usage/authorise",
)


def test_the_examples_of_the_page_work(call, database):
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
            with database.begin() as connection:
                connection.execute(update(accounts).values(activation_date=date(2026, 1, 1)))
        # The page's account has another number than the first one here.
        params = json.loads(request.replace("541", "1"))["params"]
        answer = call(method, **params)
        assert answer.text == reply.strip().replace("541", "1"), method
