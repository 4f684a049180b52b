"""The billing API over HTTP: envelopes, log-in, environments, faults."""

import base64
import json
from contextlib import closing
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import insert, update
from starlette.applications import Starlette
from starlette.testclient import TestClient

from databases import whatever_the_database
from espf.billing import environments
from espf.billing.tables import accounts, custom_field_values, service_quotas
from espf.billing.tables import sim_cards as card_table
from espf.crypto import hash_password
from espf.db import mariadb as mariadb_dialect
from espf.db import postgresql as postgresql_dialect
from espf.db import sqlite as sqlite_dialect
from espf.db import tables
from espf.db.database import Database
from espf.db.tables import access_tokens
from espf.users import SIM_KEYS, User, Users
from espf.web import rest

PASSWORD = "correct horse"
PASSWORD_HASH = hash_password(PASSWORD)
KI = "00112233445566778899aabbccddeeff"
ADMIN = User(1, "admin", 3, superuser=True, rights=frozenset({SIM_KEYS}))
CLERK = User(2, "clerk", 4, superuser=False, rights=frozenset())

AUTH_FAILED = "Server.Session.check_auth.auth_failed"
BAD_TOKEN = "Client.Session.check_auth.failed_to_process_access_token"


class Api:
    """Posts to the real application as one of two administrators."""

    def __init__(self, client, users, database):
        self.client = client
        self.database = database
        self.tokens = {user.login: users.open_session(user).access_token for user in (ADMIN, CLERK)}

    def post(self, path, **request):
        return self.client.post(f"/rest/{path}", **request)

    def raw(self, path, params=None, login="admin", **headers):
        headers = {"Authorization": f"Bearer {self.tokens[login]}", **headers}
        return self.post(path, json={"params": params or {}}, headers=headers)

    def __call__(self, path, login="admin", **params):
        reply = self.raw(path, params, login)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        return json.loads(reply.text, parse_float=Decimal)

    def fault(self, path, login="admin", **params):
        return fault(self.raw(path, params, login))


def fault(reply):
    """The fault code; every fault has the same shape and nothing more."""
    assert reply.status_code == 500, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body.keys() == {"faultcode", "faultstring"}
    assert "Traceback" not in body["faultstring"]
    return body["faultcode"]


@pytest.fixture
def users(billing_database, sealer):
    with billing_database.begin() as connection:
        for i_env in (3, 4):
            environments.add(connection, i_env, f"Environment {i_env}")
        for user in (ADMIN, CLERK):
            connection.execute(
                insert(tables.users).values(
                    i_user=user.i_user,
                    login=user.login,
                    password_hash=PASSWORD_HASH,
                    i_env=user.i_env,
                    superuser=int(user.superuser),
                    rights=" ".join(user.rights),
                )
            )
    return Users(billing_database, sealer)


@pytest.fixture
def client(billing_database, sealer, users):
    app = Starlette(routes=rest.routes(billing_database, users, sealer))
    with TestClient(app) as client:
        yield client


@pytest.fixture
def api(client, users, billing_database):
    return Api(client, users, billing_database)


@pytest.fixture
def account(api):
    i_customer = api("Customer/add_customer", customer_info={"name": "Acme"})["i_customer"]
    i_product = api("Product/add_product", product_info={"name": "LTE"})["i_product"]
    info = {"id": "111", "i_customer": i_customer, "i_product": i_product, "billing_model": -1}
    return api("Account/add_account", account_info=info)["i_account"]


# --- Logging in ---


def test_a_session_is_opened_used_refreshed_and_closed(api):
    login = {"params": {"login": "clerk", "password": PASSWORD}}
    tokens = api.post("Session/login", json=login).json()
    assert tokens.keys() == {"session_id", "access_token", "refresh_token", "expires_at"}
    ask = {"params": {"access_token": tokens["access_token"]}}
    assert api.post("Session/ping", json=ask).json() == {"user_id": 2}
    by_id = {"params": {"session_id": tokens["session_id"]}}
    assert api.post("Session/ping", json=by_id).json() == {"user_id": 2}

    refresh = {"params": {"refresh_token": tokens["refresh_token"]}}
    fresh = api.post("Session/refresh_access_token", json=refresh).json()
    assert fresh.keys() == {"access_token", "refresh_token", "expires_at"}
    code = fault(api.post("Session/refresh_access_token", json=refresh))
    assert code == "Client.Session.refresh_access_token.failed_to_process_refresh_token"

    out = {"params": {"access_token": fresh["access_token"]}}
    assert api.post("Session/logout", json=out).json() == {"success": 1}
    for token in (tokens["access_token"], fresh["access_token"]):
        ask = {"params": {"access_token": token}}
        assert api.post("Session/ping", json=ask).json() == {"user_id": 0}
        headers = {"Authorization": f"Bearer {token}"}
        assert fault(api.post("Product/get_product_list", json={}, headers=headers)) == BAD_TOKEN


@whatever_the_database
def test_a_session_is_closed_by_its_number_too(api):
    login = {"params": {"login": "clerk", "password": PASSWORD}}
    session = {"session_id": api.post("Session/login", json=login).json()["session_id"]}
    assert api.post("Session/logout", json={"params": session}).json() == {"success": 1}
    assert api.post("Session/ping", json={"params": session}).json() == {"user_id": 0}


def test_an_expired_token_is_refused(api):
    with api.database.begin() as connection:
        past = api.database.now(connection) - timedelta(seconds=1)
        connection.execute(update(access_tokens).values(expires_at=past))
    assert api.fault("Product/get_product_list") == BAD_TOKEN


@whatever_the_database
@pytest.mark.parametrize(
    "params",
    [{"login": "admin", "password": "wrong"}, {"login": "nobody", "password": PASSWORD}],
)
def test_a_wrong_login_or_password_opens_no_session(api, params):
    code = fault(api.post("Session/login", json={"params": params}))
    assert code == "Server.Session.auth_failed"


@whatever_the_database
def test_the_caller_is_named_in_any_of_five_ways(api):
    login = {"params": {"login": "admin", "password": PASSWORD}}
    tokens = api.post("Session/login", json=login).json()
    basic = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    for envelope, headers in (
        ({"auth_info": {"session_id": tokens["session_id"]}}, {}),
        ({"auth_info": {"access_token": tokens["access_token"]}}, {}),
        ({"auth_info": {"login": "admin", "password": PASSWORD}}, {}),
        ({}, {"Authorization": f"Bearer {tokens['access_token']}"}),
        ({}, {"Authorization": f"Basic {basic}"}),
    ):
        reply = api.post("Product/get_product_list", json=envelope, headers=headers)
        assert reply.json() == {"product_list": []}


@whatever_the_database
@pytest.mark.parametrize(
    ("envelope", "headers", "code"),
    [
        ({}, {}, "Client.check_auth.envelope_missed"),
        ({"auth_info": {}}, {}, "Client.check_auth.envelope_missed"),
        ({"auth_info": {"session_id": "x"}}, {}, AUTH_FAILED),
        ({"auth_info": {"login": "admin", "password": "wrong"}}, {}, AUTH_FAILED),
        ({"auth_info": {"access_token": "x"}}, {}, BAD_TOKEN),
        ({"auth_info": {"login": "admin"}}, {}, "Client.check_auth.invalid_auth_info"),
        ({"auth_info": {"token": "x"}}, {}, "Client.check_auth.invalid_auth_info"),
        ({"auth_info": {"session_id": None}}, {}, "Client.check_auth.invalid_auth_info"),
        ({}, {"Authorization": "Bearer x"}, BAD_TOKEN),
        ({}, {"Authorization": "Bearer"}, BAD_TOKEN),
        ({}, {"Authorization": ""}, AUTH_FAILED),
        ({}, {"Authorization": "Digest x"}, AUTH_FAILED),
        ({}, {"Authorization": "Basic !"}, AUTH_FAILED),
        ({}, {"Authorization": "Basic /w=="}, AUTH_FAILED),
        ({}, {"Authorization": "Basic YWRtaW4="}, AUTH_FAILED),
    ],
)
def test_an_unknown_caller_is_refused_and_told_how(api, envelope, headers, code):
    assert fault(api.post("Product/get_product_list", json=envelope, headers=headers)) == code


# --- Envelopes ---


@whatever_the_database
def test_the_three_content_types_carry_the_same_request(api, account):
    auth_info = {"access_token": api.tokens["admin"]}
    params = {"i_account": account}
    as_text = {"auth_info": json.dumps(auth_info), "params": json.dumps(params)}
    replies = [
        api.post("Account/get_account_info", json={"auth_info": auth_info, "params": params}),
        api.post("Account/get_account_info", data=as_text),
        api.post(
            "Account/get_account_info",
            files={name: (None, value.encode()) for name, value in as_text.items()},
        ),
    ]
    assert replies[1].request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert replies[2].request.headers["content-type"].startswith("multipart/form-data")
    for reply in replies:
        assert reply.json()["account_info"]["id"] == "111"


def test_a_form_carries_text_beyond_ascii(api):
    info = {"name": "Žižkov & 中文 = 100 %"}
    reply = api.post(
        "Customer/add_customer",
        data={
            "auth_info": json.dumps({"access_token": api.tokens["admin"]}),
            "params": json.dumps({"customer_info": info}, ensure_ascii=False),
        },
    )
    assert reply.status_code == 200
    assert api("Customer/get_customer_info", **info)["customer_info"]["name"] == info["name"]


@whatever_the_database
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"params": []}', "application/json"),
        (b'{"auth_info": "x", "params": {}}', "application/json"),
        (b'{"parms": {}}', "application/json"),
        (b'{"params": {"x": NaN}}', "application/json"),
        (b'{"params": {"x": -Infinity}}', "application/json"),
        (b"[" * 200_000, "application/json"),
        (b'{"params": {"x": ' + b"9" * 5000 + b"}}", "application/json"),
        (b"{}", "text/plain"),
        (b"params=1", "application/x-www-form-urlencoded"),
        (b"params={", "application/x-www-form-urlencoded"),
        (b"a&" * 20, "application/x-www-form-urlencoded"),
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=y"),
        (
            b'--y\r\nContent-Disposition: form-data; name="a"; filename="p"\r\n\r\n{}\r\n--y--',
            "multipart/form-data; boundary=y",
        ),
    ],
)
def test_a_body_that_cannot_be_read_is_a_fault(api, body, content_type):
    headers = {
        "Content-Type": content_type,
        "Authorization": f"Bearer {api.tokens['admin']}",
    }
    reply = api.post("Product/get_product_list", content=body, headers=headers)
    assert fault(reply) == "Client.malformed_request"


@whatever_the_database
def test_a_body_above_one_megabyte_is_refused(api):
    headers = {"Authorization": f"Bearer {api.tokens['admin']}"}
    body = json.dumps({"params": {"name": "x" * rest.MAX_BODY}})
    reply = api.post("Product/get_product_list", content=body, headers=headers)
    assert fault(reply) == "Client.request_too_large"


@whatever_the_database
def test_an_unknown_service_or_method_is_a_fault(api):
    assert api.fault("Nothing/get_list") == "Client.unknown_service"
    assert api.fault("Account/drop_table") == "Client.unknown_method"
    assert api.fault("Session/steal") == "Client.unknown_method"
    assert api.client.get("/rest/Account/get_account_list").status_code == 405


# --- Parameters ---


@whatever_the_database
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"i_acount": 1}, "i_acount: there is no such parameter"),
        ({}, "exactly one of i_account and id"),
        ({"i_account": 1, "id": "x"}, "exactly one of i_account and id"),
        ({"i_account": "one"}, "i_account"),
        ({"i_account": True}, "i_account"),
        ({"i_account": 1.5}, "i_account"),
        ({"i_account": 10**20}, "i_account"),
        ({"i_account": 0}, "i_account"),
        ({"i_account": [1]}, "i_account"),
        ({"id": 111}, "id"),
        ({"id": "a b"}, "id"),
        ({"id": "\x00"}, "id"),
        ({"i_account": 1, "detailed_info": 2}, "detailed_info"),
        ({"i_account": 1, "i_env": "x"}, "i_env"),
        ({"i_account": 1, "i_env": None}, "i_env"),
    ],
)
def test_a_wrong_parameter_is_named_in_the_fault(api, params, words):
    reply = api.raw("Account/get_account_info", params)
    assert fault(reply) == "Client.Account.get_account_info.invalid_parameter"
    assert words in reply.json()["faultstring"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"params": {"i_account": 1e999999999}}',
        b'{"params": {"i_account": 1E20000000}}',
        b'{"params": {"id": "\\ud800"}}',
        b'{"params": {"\\ud800": 1}}',
    ],
)
def test_numbers_and_texts_that_no_database_holds_are_faults(api, body):
    headers = {
        "Authorization": f"Bearer {api.tokens['admin']}",
        "Content-Type": "application/json",
    }
    reply = api.post("Account/get_account_info", content=body, headers=headers)
    assert fault(reply) == "Client.Account.get_account_info.invalid_parameter"


@whatever_the_database
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocked", "y"),
        ("blocked", None),
        ("billing_model", 3),
        ("billing_model", True),
        ("i_account_balance_control_type", 3),
        ("activation_date", "2026-02-30"),
        ("activation_date", "20260228"),
        ("activation_date", 20260228),
        ("expiration_date", "9999-12-31"),
        ("time_zone_name", "Mars/Olympus"),
        ("time_zone_name", "../../etc/passwd"),
        ("credit_limit", "much"),
        ("credit_limit", 0.000001),
        ("opening_balance", 10**11),
        ("phone1", "a\nb"),
        ("password", "x" * 129),
        ("imsi", "12"),
        ("whatever", 1),
    ],
)
def test_a_wrong_field_of_a_new_account_is_named_and_nothing_is_added(api, account, field, value):
    info = {"id": "222", "i_customer": 1, "i_product": 1, "billing_model": 1, field: value}
    reply = api.raw("Account/add_account", {"account_info": info})
    assert fault(reply) == "Client.Account.add_account.invalid_parameter"
    assert reply.json()["faultstring"].startswith(f"account_info.{field}: ")
    assert len(api("Account/get_account_list")["account_list"]) == 1


@whatever_the_database
def test_a_secret_that_is_wrong_is_not_repeated_in_the_fault(api):
    card = {"imsi": "123456", "iccid": "1" * 18, "ki": KI[:-1]}
    reply = api.raw("SIMCard/add_sim_card", {"card_info": card})
    assert fault(reply) == "Client.SIMCard.add_sim_card.invalid_parameter"
    assert KI[:-1] not in reply.text


@whatever_the_database
def test_numbers_may_come_as_texts(api, account):
    info = api("Account/get_account_info", i_account=str(account))["account_info"]
    assert info["i_account"] == account
    assert api("Account/get_account_list", billing_model="-1")["account_list"]


def test_money_goes_in_and_comes_out_digit_by_digit(api, account):
    headers = {
        "Authorization": f"Bearer {api.tokens['admin']}",
        "Content-Type": "application/json",
    }
    amount = "9007199254.99999"
    for _ in range(2):
        body = f'{{"params":{{"i_account":{account},"action":"Manual payment","amount":{amount}}}}}'
        reply = api.post("Account/make_transaction", content=body, headers=headers)
    assert '"balance":18014398509.99998' in reply.text
    text = api.raw("Account/get_account_info", {"i_account": account}).text
    assert '"balance":18014398509.99998,' in text
    assert '"opening_balance":0.0,' in text


@whatever_the_database
def test_an_amount_finer_than_money_is_refused_and_not_rounded_by_a_float(api, account):
    headers = {
        "Authorization": f"Bearer {api.tokens['admin']}",
        "Content-Type": "application/json",
    }
    body = '{"params":{"i_account":1,"action":"Manual payment","amount":1.00000000000000001}}'
    reply = api.post("Account/make_transaction", content=body, headers=headers)
    assert fault(reply) == "Client.Account.make_transaction.invalid_parameter"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.0"),
        ("-0", "0.0"),
        ("10", "10.0"),
        ("1E+3", "1000.0"),
        ("10.50000", "10.5"),
        ("0.00001", "0.00001"),
        ("-3.25", "-3.25"),
        ("92233720368547.75807", "92233720368547.75807"),
    ],
)
def test_money_is_rendered_exactly_and_always_with_a_point(amount, text):
    assert rest.render({"a": [Decimal(amount)]}) == f'{{"a":[{text}]}}'


# --- Environments and rights ---


def test_a_user_acts_in_its_own_environment_and_sees_no_other(api, account):
    assert api("Account/get_account_list", login="clerk") == {"account_list": []}
    code = api.fault("Account/get_account_info", login="clerk", i_account=account)
    assert code == "Server.Account.not_found"
    assert api("Account/get_account_list", login="clerk", i_env=4) == {"account_list": []}
    code = api.fault("Account/get_account_list", login="clerk", i_env=3)
    assert code == "Client.environment_denied"


@whatever_the_database
def test_a_superuser_may_name_another_environment_that_exists(api):
    api("Customer/add_customer", i_env=4, customer_info={"name": "There"})
    assert api("Customer/get_customer_list")["customer_list"] == []
    (there,) = api("Customer/get_customer_list", login="clerk")["customer_list"]
    assert there["name"] == "There"
    assert api.fault("Customer/get_customer_list", i_env=5) == "Server.Environment.not_found"
    for no_number in (0, 2**31):
        fault = api.fault("Customer/get_customer_list", i_env=no_number)
        assert fault == "Client.Customer.get_customer_list.invalid_parameter"


@whatever_the_database
def test_keys_are_shown_only_with_the_right_to_see_them(api):
    card = {"imsi": "123456", "iccid": "1" * 18, "ki": KI, "opc": KI}
    api("SIMCard/add_sim_card", i_env=4, card_info=card)
    info = api("SIMCard/get_card_info", i_env=4, imsi="123456")["card_info"]
    assert (info["ki"], info["opc"]) == (KI, KI)
    assert KI not in api.raw("SIMCard/get_card_info", {"imsi": "123456"}, login="clerk").text
    assert KI not in api.raw("SIMCard/get_card_list", {"i_env": 4}).text


# --- Faults ---


def test_a_fault_changes_nothing(api, account):
    api("SIMCard/add_sim_card", card_info={"imsi": "123456", "iccid": "1" * 18})
    info = {"id": "111", "i_customer": 1, "i_product": 1, "billing_model": -1, "imsi": "123456"}
    assert api.fault("Account/add_account", account_info=info) == "Server.Account.duplicate_id"
    (card,) = api("SIMCard/get_card_list")["card_list"]
    assert (card["status"], card["i_account"]) == ("available", None)


def test_a_database_that_is_locked_is_a_fault_that_says_so(api, account, store, monkeypatch):
    monkeypatch.setattr(sqlite_dialect, "BUSY_SECONDS", 0)
    monkeypatch.setattr(postgresql_dialect, "LOCK_SECONDS", 1)
    monkeypatch.setattr(mariadb_dialect, "LOCK_SECONDS", 1)
    api.database._engine.dispose()
    update_it = {"account_info": {"i_account": account, "blocked": "Y"}}
    with closing(Database.open(store.url())) as beside, beside.begin() as connection:
        connection.execute(update(accounts).values(i_account_role=2))
        assert api.fault("Account/update_account", **update_it) == "Server.unavailable"
    assert api("Account/update_account", **update_it) == {"i_account": account}


def test_a_damaged_database_is_a_fault_without_a_traceback(api, caplog):
    with api.database.begin() as connection:
        for table in (custom_field_values, service_quotas, card_table):
            table.drop(connection)
    reply = api.raw("SIMCard/get_card_list")
    assert fault(reply) == "Server.internal_error"
    assert "SIM_Cards" not in reply.text
    assert "SIMCard/get_card_list failed" in caplog.text
