"""The ESPF API and evctl, as the documents show them: each request, reply, word and number."""

import base64

import pytest
from starlette.testclient import TestClient

from databases import whatever_the_database
from desk import PASSWORD
from espf.web.app import build_app

pytestmark = whatever_the_database

GROUPS = [
    *("VoIP", "HSS", "PCRF", "IPTV", "WiMAX", "Netaccess"),
    *("NumberPortability", "LawfulInterception"),
]

STATUSES = ("OK", "IN_PROGRESS", "RETRY", "FAILED")

LONGEST_MESSAGE = 4000
LONGEST_GROUP = 64


@pytest.fixture
def site(desk):
    """An installation with an account 1, and its web application, for somebody to log in."""
    database = desk.database()
    with TestClient(build_app(database, desk.sealer())) as client:
        login = client.post(
            "/rest/Session/login", json={"params": {"login": "admin", "password": PASSWORD}}
        )
        client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        account = {"id": "4412345", "i_customer": 1, "i_product": 1, "billing_model": 1}
        params = {"account_info": account, "i_env": 3}
        added = client.post("/rest/Account/add_account", json={"params": params})
        assert added.json() == {"i_account": 1}
        yield client
    database.close()


def test_the_commands_of_the_scheduling_document_and_what_they_print(desk):
    """Word for word; custom types are numbered from 10001."""
    first = ("type", "create", "Custom/NextMonth")
    assert desk(*first) == "Created event type #10001 Custom/NextMonth\n"
    then = ("handler", "subscribe", "3", "EventSender", "Custom/NextMonth")
    assert desk(*then) == "Handler EventSender is subscribed to Custom/NextMonth\n"


@pytest.mark.parametrize("event_type", ["Custom/NextMonth", "Account/Blocked"])
def test_an_event_is_created_with_a_password_or_a_token(desk, site, event_type):
    """A custom or a standard one, for a time in UTC or for now; the reply is its number."""
    desk("type", "create", "Custom/NextMonth")
    event = {"event_type": event_type, "variables": {"i_account": 1}}
    scheduled = {**event, "start_time": "2037-03-01 00:00:00"}
    basic = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    for body, headers in ((scheduled, {"Authorization": basic}), (event, {})):
        reply = site.post("/espf/v1/event/create", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        assert reply.json().keys() == {"i_event"}
        assert type(reply.json()["i_event"]) is int


@pytest.mark.parametrize("path", ["/espf/v1/account/i/1/status", "/espf/v1/account/4412345/status"])
def test_a_status_is_reported_in_every_documented_word_as_a_form_and_as_json(site, path):
    for group, status in zip(GROUPS, STATUSES * 2, strict=True):
        said = {"status": status, "group": group, "message": "x" * LONGEST_MESSAGE}
        for body in ({"data": said}, {"json": said}, {"json": {"status": status, "group": group}}):
            assert site.post(path, **body).status_code == 200
    known = site.get(path).json()["status_list"]
    assert [one["group"] for one in known] == GROUPS
    assert [one["status"] for one in known] == [*STATUSES * 2]


def test_the_groups_are_listed_made_and_deleted(site):
    def listed():
        return site.get("/espf/v1/groups").json()["group_list"]

    predefined = [
        {"i_group": str(number), "name": name, "is_custom": False}
        for number, name in enumerate(GROUPS, 1)
    ]
    assert listed() == predefined
    for number, name in (("1001", "IOT"), ("1002", "x" * LONGEST_GROUP)):
        made = site.post("/espf/v1/group/create", json={"name": name})
        assert (made.status_code, made.json()) == (200, {"name": name, "i_group": number})
    assert listed()[8] == {"i_group": "1001", "name": "IOT", "is_custom": True}
    for method, number in (("DELETE", 1001), ("POST", 1002)):
        assert site.request(method, f"/espf/v1/group/{number}").status_code == 200
    assert listed() == predefined


def test_what_goes_wrong_is_told_by_the_status_of_the_reply(site):
    """401: nobody; another 4xx: something in the request."""
    status = {"status": "OK", "group": "HSS"}
    path = "/espf/v1/account/i/1/status"
    nobody = {"Authorization": "Basic " + base64.b64encode(b"admin:wrong").decode()}
    assert site.post(path, json=status, headers=nobody).status_code == 401
    assert site.get("/espf/v1/groups", headers=nobody).status_code == 401
    too_long = {**status, "message": "x" * (LONGEST_MESSAGE + 1)}
    for wrong_path, body in (
        (path, {"group": "HSS"}),
        (path, {"status": "OK"}),
        (path, {**status, "status": "DONE"}),
        (path, {**status, "group": "IOT"}),
        (path, too_long),
        ("/espf/v1/account/i/2/status", status),
        ("/espf/v1/group/create", {"name": "x" * (LONGEST_GROUP + 1)}),
        ("/espf/v1/event/create", {"event_type": "Custom/Unknown"}),
        ("/espf/v1/event/create", {"event_type": "Account/Blocked", "start_time": "tomorrow"}),
    ):
        reply = site.post(wrong_path, json=body)
        assert 400 <= reply.status_code < 500, (wrong_path, body)
        assert reply.status_code != 401
