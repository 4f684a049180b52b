"""The ESPF API over the real application: what goes in, what is refused, and how it says so."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from databases import whatever_the_database
from desk import PASSWORD
from espf import crypto, journal, overview, subscriptions, users
from espf.billing import environments
from espf.db import sqlite as sqlite_dialect
from espf.db.tables import event_queue
from espf.model import format_time
from espf.sources import Filter
from espf.users import Users
from espf.web.app import build_app
from espf.web.contract import MAX_BODY

PATH = "/espf/v1/event/create"
NEXT_MONTH = {"event_type": "Custom/NextMonth"}
CLERK_PASSWORD = "a clerk's password"
CLERK_HASH = crypto.hash_password(CLERK_PASSWORD)


def basic(login, password):
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


CREDENTIALS = basic("admin", PASSWORD)


class Api:
    """Posts to the application as admin (environment 3, superuser) or as somebody else.

    With a token, where credentials are not the point: checking a password takes its time.
    """

    def __init__(self, client, database, sealer):
        self.client = client
        self.database = database
        self.sealer = sealer
        with database.read() as connection:
            admin = next(user for user in users.list_all(connection) if user.login == "admin")
        self.token = f"Bearer {Users(database, sealer).open_session(admin).access_token}"

    def post(self, body, authorization=None):
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"Authorization": authorization or self.token}
        return self.client.post(PATH, content=content, headers=headers)

    def create(self, event_type="Custom/NextMonth", authorization=None, **rest):
        reply = self.post({"event_type": event_type, **rest}, authorization)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        assert list(reply.json()) == ["i_event"]
        return reply.json()["i_event"]

    def fault(self, status, body, authorization=None):
        """The field at fault; nothing has been stored."""
        before = self.everything()
        reply = self.post(body, authorization)
        said = error(reply, status)
        assert self.everything() == before
        return said.get("field")

    def everything(self):
        with self.database.read() as connection:
            return overview.search(connection, Filter(), 1000)

    def stored(self, i_event):
        with self.database.read() as connection:
            return connection.execute(
                select(event_queue).where(event_queue.c.i_event == i_event)
            ).one_or_none()

    def variables(self, i_event):
        with self.database.read() as connection:
            text = overview.variables(connection, i_event)
        return json.loads(text, parse_constant=pytest.fail)


def error(reply, status):
    """The body of an error: always of the same shape, never a traceback."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body.keys() <= {"error", "field"}
    assert body["error"]
    assert "Traceback" not in reply.text
    return body


@pytest.fixture
def api(desk):
    database = desk.database()
    with database.begin() as connection:
        subscriptions.create_type(connection, "Custom/NextMonth")
        sender = subscriptions.require_handler(connection, 3, "EventSender")
        subscriptions.subscribe(connection, sender, "Custom/NextMonth")
        environments.add(connection, 4, "Other")
        connection.execute(
            users.users.insert().values(
                login="clerk", password_hash=CLERK_HASH, i_env=4, superuser=0
            )
        )
    with TestClient(build_app(database, desk.sealer()), raise_server_exceptions=True) as client:
        yield Api(client, database, desk.sealer())
    database.close()


# The scenario of the documents


def test_the_request_of_the_scheduling_document(api):
    """The sample of the document: blanks around the type, UTC start time, Basic credentials."""
    request = {
        "event_type": " Custom/NextMonth ",
        "variables": {"i_customer": 1},
        "start_time": "2037-03-01 00:00:00",
    }
    reply = api.post(request, CREDENTIALS)
    assert reply.text == '{"i_event":1}'
    event = api.stored(1)
    assert event.event_type == "Custom/NextMonth"
    assert format_time(event.start_time) == "2037-03-01 00:00:00"
    assert (event.i_env, event.ordering_key) == (3, "customer:1")
    assert event.variables == '{"i_customer":1}'


def test_an_event_is_numbered_after_the_one_before(api):
    assert [api.create(), api.create()] == [1, 2]


@whatever_the_database
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2037-03-01 00:00:00", "2037-03-01 00:00:00"),
        ("2037-03-01T00:00:00", "2037-03-01 00:00:00"),
        ("2037-03-01T00:00:00Z", "2037-03-01 00:00:00"),
        ("2037-03-01T02:30:00+02:30", "2037-03-01 00:00:00"),
        ("2037-02-28 19:00:00-0500", "2037-03-01 00:00:00"),
        (" 2037-03-01 00:00:00.25 ", "2037-03-01 00:00:00"),
    ],
)
def test_a_start_time_is_utc_or_has_an_offset(api, text, meant):
    event = api.stored(api.create(start_time=text))
    assert event.notified == 0, "it waits for its time"
    assert format_time(event.start_time) == meant


def test_a_start_time_that_is_past_is_now(api):
    past = format_time(datetime.now(UTC) - timedelta(days=400))
    i_event = api.create(start_time=past)
    assert api.stored(i_event).notified == 1, "it is not waiting"
    (one,) = api.everything()
    assert (one.handler, one.status) == ("EventSender", "queued")


def test_an_event_without_variables_waits_for_nobody(api):
    assert api.stored(api.create()).ordering_key is None
    assert api.stored(api.create(variables={})).variables == "{}"


def test_a_standard_event_gets_what_a_trigger_would_add(api):
    variables = api.variables(api.create("Account/Blocked", variables={"i_customer": 1}))
    assert list(variables) == ["i_env", "event_time", "i_customer"]
    assert variables["i_env"] == 3


def test_an_event_without_subscriber_is_journalled_all_the_same(api):
    i_event = api.create("Customer/BalanceChanged", variables={"i_customer": 1})
    with api.database.read() as connection:
        (entry,) = journal.of_event(connection, i_event)
    assert (entry.verdict, entry.reason, entry.attempt) == ("finished", "no subscriber", 0)
    assert json.loads(entry.variables)["i_customer"] == 1
    assert api.stored(i_event) is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "ü 😀", 'quote " backslash \\ newline \n', "\x00", "\u2028"),
        *(2**60, -1, 1.5, True, None, [1, [2, {"a": []}]], {"b": {"": 0}}),
    ],
)
def test_variables_arrive_as_they_were(api, value):
    variables = api.variables(api.create(variables={"x": value, "number": "380441234567"}))
    assert variables == {"x": value, "number": "380441234567"}


# Who may


def test_a_token_is_as_good_as_a_password(api):
    sessions = Users(api.database, api.sealer)
    tokens = sessions.open_session(sessions.by_password("admin", PASSWORD))
    assert api.create(authorization=f"Bearer {tokens.access_token}") == 1
    assert api.create(authorization=f"bearer  {tokens.access_token} ") == 2
    reply = api.post(NEXT_MONTH, f"Bearer {tokens.refresh_token}")
    error(reply, 401)


@whatever_the_database
@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ?",
        "Basic YQ==",
        "Basic /////w==",
        "Basic 4pyT",
        "Bearer",
        "Bearer nothing",
        "Digest x",
        basic("admin", "wrong password"),
        basic("nobody", PASSWORD),
        basic("admin", PASSWORD + "\0"),
        basic("", ""),
    ],
)
def test_nobody_gets_in_without_credentials(api, header):
    reply = api.client.post(PATH, json=NEXT_MONTH, headers={"Authorization": header})
    assert error(reply, 401).keys() == {"error"}
    assert reply.headers["www-authenticate"].startswith("Basic realm=")
    assert api.everything() == []


@whatever_the_database
def test_who_may_not_come_in_does_not_hear_what_is_wrong_with_the_body(api):
    assert "event_type" not in error(api.post({}, basic("admin", "wrong password")), 401)["error"]


@pytest.fixture
def verifications(monkeypatch):
    """How often argon2 was asked."""
    hasher, asked = crypto._hasher, []

    class Counting:
        def verify(self, password_hash, password):
            asked.append(password)
            return hasher.verify(password_hash, password)

        def hash(self, password):
            return hasher.hash(password)

    monkeypatch.setattr(crypto, "_hasher", Counting())
    return asked


@whatever_the_database
def test_a_good_password_is_checked_once(api, verifications):
    for _ in range(3):
        api.create(authorization=CREDENTIALS)
    assert len(verifications) == 1


@whatever_the_database
def test_a_wrong_password_is_checked_every_time(api, verifications):
    for _ in range(2):
        error(api.post(NEXT_MONTH, basic("admin", "wrong password")), 401)
    assert len(verifications) == 2


@whatever_the_database
def test_a_password_that_is_remembered_is_checked_again_some_day(api, verifications, monkeypatch):
    monkeypatch.setattr(crypto.PasswordCheck, "REMEMBER_SECONDS", 0.0)
    for _ in range(2):
        api.create(authorization=CREDENTIALS)
    assert len(verifications) == 2


@whatever_the_database
def test_a_changed_password_takes_effect_at_once(api):
    api.create(authorization=basic("clerk", CLERK_PASSWORD))
    with api.database.begin() as connection:
        users.set_password(connection, "clerk", "another password")
    error(api.post(NEXT_MONTH, basic("clerk", CLERK_PASSWORD)), 401)
    api.create(authorization=basic("clerk", "another password"))


def test_a_user_that_is_switched_off_is_out_at_once(api):
    api.create(authorization=basic("clerk", CLERK_PASSWORD))
    with api.database.begin() as connection:
        connection.execute(users.users.update().values(enabled=0))
    error(api.post(NEXT_MONTH, basic("clerk", CLERK_PASSWORD)), 401)


# Environments


@whatever_the_database
def test_an_administrator_acts_in_its_own_environment(api):
    clerk = basic("clerk", CLERK_PASSWORD)
    api.create("Account/New", clerk)
    assert api.variables(1)["i_env"] == 4
    api.create(authorization=clerk, i_env=4)
    assert api.fault(400, {**NEXT_MONTH, "i_env": 3}, clerk) == "i_env"
    # A customer of another environment is not there, just like one that nobody has.
    for i_customer in (1, 999):
        wrong = {**NEXT_MONTH, "variables": {"i_customer": i_customer}}
        assert api.fault(400, wrong, clerk) == "variables.i_customer"


@whatever_the_database
def test_a_superuser_may_act_elsewhere(api):
    api.create("Account/New", i_env=4)
    assert api.variables(1)["i_env"] == 4
    assert api.fault(400, {**NEXT_MONTH, "i_env": 99}) == "i_env"
    assert api.fault(400, {**NEXT_MONTH, "i_env": 2**31}) == "i_env"
    wrong = {**NEXT_MONTH, "i_env": 4, "variables": {"i_customer": 1}}
    assert api.fault(400, wrong) == "variables.i_customer"


# What is refused


@whatever_the_database
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "event_type"),
        ({"event_type": None}, "event_type"),
        ({"event_type": 5}, "event_type"),
        ({"event_type": ""}, "event_type"),
        ({"event_type": "Custom/Nope"}, "event_type"),
        ({"event_type": "custom/nextmonth"}, "event_type"),
        ({"event_type": "Custom/NextMonth\0"}, "event_type"),
        ({"event_type": "x" * 100_000}, "event_type"),
        ({**NEXT_MONTH, "start_time": "tomorrow"}, "start_time"),
        ({**NEXT_MONTH, "start_time": ""}, "start_time"),
        ({**NEXT_MONTH, "start_time": 1804550400}, "start_time"),
        ({**NEXT_MONTH, "start_time": "2037-02-30 00:00:00"}, "start_time"),
        ({**NEXT_MONTH, "start_time": "2037-03-01"}, "start_time"),
        ({**NEXT_MONTH, "start_time": "2037-W09-7"}, "start_time"),
        ({**NEXT_MONTH, "start_time": "01.03.2037 00:00"}, "start_time"),
        ({**NEXT_MONTH, "start_time": "0001-01-01T00:00:00+14:00"}, "start_time"),
        ({**NEXT_MONTH, "start_time": "9999-12-31T23:59:59-14:00"}, "start_time"),
        ({**NEXT_MONTH, "start_time": "2037-03-01 00:00:00 Europe/Kyiv"}, "start_time"),
        ({**NEXT_MONTH, "variables": []}, "variables"),
        ({**NEXT_MONTH, "variables": None}, "variables"),
        ({**NEXT_MONTH, "variables": "i_account=541"}, "variables"),
        ({**NEXT_MONTH, "variables": {"i_event": 5}}, "variables"),
        ({**NEXT_MONTH, "variables": {"i_env": 4}}, "variables"),
        ({**NEXT_MONTH, "variables": {"x": "x" * 70_000}}, "variables"),
        ({**NEXT_MONTH, "variables": {"i_account": 541}}, "variables.i_account"),
        ({**NEXT_MONTH, "variables": {"i_account": "abc"}}, "variables.i_account"),
        ({**NEXT_MONTH, "variables": {"i_account": None}}, "variables.i_account"),
        ({**NEXT_MONTH, "variables": {"i_account": True}}, "variables.i_account"),
        ({**NEXT_MONTH, "variables": {"i_account": 1.0}}, "variables.i_account"),
        ({**NEXT_MONTH, "variables": {"i_account": 10**40}}, "variables.i_account"),
        ({**NEXT_MONTH, "variables": {"i_customer": "01"}}, "variables.i_customer"),
        ({**NEXT_MONTH, "variables": {"i_customer": "\u0661"}}, "variables.i_customer"),
        ({**NEXT_MONTH, "variables": {"i_sim_card": 10**6}}, "variables.i_sim_card"),
        ({**NEXT_MONTH, "i_env": "3"}, "i_env"),
        ({**NEXT_MONTH, "i_env": 0}, "i_env"),
        ({**NEXT_MONTH, "i_env": True}, "i_env"),
        ({**NEXT_MONTH, "i_env": 10**30}, "i_env"),
        ({**NEXT_MONTH, "starttime": "2037-03-01 00:00:00"}, "starttime"),
        ({**NEXT_MONTH, "x" * 5000: 1}, "x" * 100),
        ([NEXT_MONTH], "body"),
        ("Custom/NextMonth", "body"),
    ],
)
def test_what_is_wrong_is_told_by_name(api, body, field):
    assert api.fault(400, json.dumps(body)) == field


START = b'{"event_type":"Custom/NextMonth","variables":{"x":'


@whatever_the_database
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"\xff\xfe",
        b'{"event_type":"Custom/NextMonth"',
        b'{"event_type":"Custom/NextMonth"} {}',
        b'{"event_type":"\xff"}',
        b'{"event_type":"Custom/NextMonth","variables":{"x":"\\ud800"}}',
        b'{"event_type":"Custom/NextMonth","variables":{"\\udc00":1}}',
        b'{"event_type":"Custom/NextMonth","variables":{"x":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
        b'{"event_type":"Custom/NextMonth","variables":{"x":' + b"9" * 5000 + b"}}",
        b"[" * 200_000,
        "{'event_type': 'Custom/NextMonth'}".encode("utf-16"),
        b"event_type=Custom/NextMonth",
    ],
)
def test_what_is_no_json_is_told(api, body):
    assert api.fault(400, body) == "body"


@whatever_the_database
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_json_has_no_form_for_is_refused(api, number):
    body = f'{{"event_type":"Custom/NextMonth","variables":{{"x":[{number}]}}}}'
    assert api.fault(400, body) == "variables"


@whatever_the_database
def test_a_body_that_is_too_long_is_refused(api):
    assert api.fault(400, b" " * MAX_BODY + b"{}") == "body"
    assert api.fault(400, {**NEXT_MONTH, "variables": {"x": "x" * MAX_BODY}}) == "body"


def test_an_id_that_is_no_plain_text_makes_no_lane(api):
    for number, key in (("38044", "did:38044"), ("\0\n", None), ("x" * 60_000, f"did:{'x' * 200}")):
        assert api.stored(api.create(variables={"number": number})).ordering_key == key


# Errors of every kind have one shape


@whatever_the_database
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("DELETE", PATH, 405),
        ("POST", "/health", 405),
        ("POST", f"{PATH}/", 404),
        ("POST", "/espf/v1/event/destroy", 404),
        ("POST", "/espf/v2/event/create", 404),
        ("GET", "/nothing", 404),
        ("GET", "/%00/../../etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_told_as_json(api, method, path, status):
    reply = api.client.request(method, path, follow_redirects=False)
    error(reply, status)
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.databases("sqlite")
def test_a_database_that_is_locked_is_503(api, monkeypatch):
    api.create()
    monkeypatch.setattr(sqlite_dialect, "BUSY_SECONDS", 0)
    api.database._engine.dispose()
    with api.database.begin():
        assert "locked" in error(api.post(NEXT_MONTH), 503)["error"]
    assert api.create() == 2


@pytest.mark.databases("postgresql", "mariadb")
def test_a_server_that_is_away_is_503_until_it_is_back(api, store):
    api.create()
    store.stop()
    try:
        assert "cannot be used" in error(api.post(NEXT_MONTH), 503)["error"]
        error(api.client.get("/health"), 503)
    finally:
        store.start()
    assert api.create() == 2


@whatever_the_database
def test_a_fault_of_our_own_is_told_without_its_inside(api):
    def broken(_connection):
        raise RuntimeError("the inside")

    quiet = TestClient(api.client.app, raise_server_exceptions=False)
    api.database.fetch = broken
    assert "the inside" not in error(quiet.get("/health"), 500)["error"]


@pytest.mark.databases("sqlite")
def test_health_asks_the_database(api, desk):
    assert api.client.get("/health").json() == {"status": "ok"}
    api.database._engine.dispose()
    desk.database_file.write_bytes(b"This is a letter to somebody. " * 100)
    error(api.client.get("/health"), 503)


# The description


@whatever_the_database
def test_the_description_is_true(api):
    document = api.client.get("/doc/api/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    operation = document["paths"][PATH]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"].keys() == {
        *("event_type", "variables", "start_time", "time_zone", "key", "i_env"),
    }
    assert (body["required"], body["additionalProperties"]) == (["event_type"], False)
    fault = document["components"]["schemas"]["Fault"]
    assert (fault["required"], fault["properties"].keys()) == (["error"], {"error", "field"})
    assert operation["security"] == [{"basic": []}, {"bearer": []}]
    schemes = document["components"]["securitySchemes"]
    assert [schemes[name]["scheme"] for name in ("basic", "bearer")] == ["basic", "bearer"]
    assert api.post(body["examples"][0]).json()["field"] == "variables.i_account"


@whatever_the_database
def test_every_route_is_described_with_an_example_and_its_errors(api):
    paths = api.client.get("/doc/api").json()["paths"]
    operations = [one for path in paths.values() for one in path.values()]
    assert len(operations) > 40
    for operation in operations:
        assert operation["description"]
        assert "422" not in operation["responses"]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["schema"]["examples"]


@whatever_the_database
def test_a_browser_gets_a_page_with_every_route(api):
    reply = api.client.get("/doc/api", headers={"Accept": "text/html,*/*"})
    assert reply.headers["content-type"].startswith("text/html")
    assert "`" not in reply.text
    assert "Answers <code>success</code>, <code>activated</code>." in reply.text
    assert "Takes <code>i_account</code>, <code>immediately_in_advance</code>," in reply.text
    for path in api.client.get("/doc/api").json()["paths"]:
        assert path in reply.text


@whatever_the_database
def test_every_reference_in_the_description_leads_somewhere(api):
    text = api.client.get("/doc/api/openapi.json").text
    document = json.loads(text)

    def references(part):
        if isinstance(part, dict):
            yield from [part["$ref"]] if "$ref" in part else []
            part = list(part.values())
        if isinstance(part, list):
            for one in part:
                yield from references(one)

    found = list(references(document))
    assert found
    for reference in found:
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
