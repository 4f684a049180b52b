"""The ESPF API beyond event/create: statuses and groups, schedules, events, handlers, the rest."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from espf import journal, restarts, schedule, subscriptions
from espf.billing import environments
from espf.billing.tables import accounts, customers, products
from espf.capture import rules, triggers
from espf.catalogue import catalogue
from espf.db import tables
from espf.db.tables import event_notifications, event_queue, scheduled_keys
from espf.janitor import Janitor
from espf.queue import Queue
from espf.sources import Filter
from espf.users import API_SCOPE, HANDLERS_SCOPE, User, Users
from espf.web.app import build_app

ADMIN = User(1, "admin", 3, superuser=True, rights=frozenset())
CLERK = User(2, "clerk", 4, superuser=False, rights=frozenset())
FAR = "2037-03-01 00:00:00"
ACCOUNT = {"i_account": 541, "i_env": 3, "id": "4412345@msisdn/1"}
SENDER = {"EventSender.URL": "http://127.0.0.1:1", "EventSender.AuthMethod": "None"}


class Api:
    """Calls as admin (environment 3, superuser) or clerk (environment 4)."""

    def __init__(self, client, database, sealer):
        self.client = client
        self.database = database
        self.users = Users(database, sealer)
        self.tokens = {
            user.login: self.users.open_session(user).access_token for user in (ADMIN, CLERK)
        }

    def raw(self, method, path, body=None, token=None, **rest):
        if body is not None:
            rest["json"] = body
        headers = {"Authorization": f"Bearer {token or self.tokens['admin']}"}
        return self.client.request(method, f"/espf/v1{path}", headers=headers, **rest)

    def __call__(self, method, path, body=None, login="admin", **rest):
        reply = self.raw(method, path, body, self.tokens[login], **rest)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def fault(self, status, method, path, body=None, login="admin", **rest):
        """What is said of a request that is refused: the field at fault, else the text."""
        reply = self.raw(method, path, body, self.tokens[login], **rest)
        assert reply.status_code == status, reply.text
        said = reply.json()
        assert said.keys() <= {"error", "field"}
        return said.get("field", said["error"])

    def rows(self, table, *columns):
        with self.database.read() as connection:
            chosen = [table.c[name] for name in columns] or [table]
            return [tuple(row) for row in connection.execute(select(*chosen))]

    def event(self, event_type="Account/Blocked", **rest):
        return self("POST", "/event/create", {"event_type": event_type, **rest})["i_event"]


@pytest.fixture
def api(billing_database, sealer):
    database = billing_database
    with database.begin() as connection:
        now = database.now(connection)
        for i_env in (3, 4):
            environments.add(connection, i_env, f"Environment {i_env}")
        for user in (ADMIN, CLERK):
            connection.execute(
                insert(tables.users).values(
                    i_user=user.i_user,
                    login=user.login,
                    password_hash="",
                    i_env=user.i_env,
                    superuser=int(user.superuser),
                )
            )
        connection.execute(
            insert(customers).values(i_customer=1, i_env=3, name="Acme", creation_date=now)
        )
        connection.execute(insert(products).values(i_product=1, i_env=3, name="LTE"))
        connection.execute(
            insert(accounts).values(
                **ACCOUNT, i_customer=1, i_product=1, billing_model=-1, issue_date=now
            )
        )
        subscriptions.create_type(connection, "Custom/NextMonth")
    with TestClient(build_app(database, sealer)) as client:
        yield Api(client, database, sealer)


# Service groups and statuses


def test_the_groups_are_those_of_the_documents_and_custom_ones_from_1001(api):
    documented = ["VoIP", "HSS", "PCRF", "IPTV", "WiMAX", "Netaccess"]
    documented += ["NumberPortability", "LawfulInterception"]
    assert api("GET", "/groups") == {
        "group_list": [
            {"i_group": str(number), "name": name, "is_custom": False}
            for number, name in enumerate(documented, 1)
        ]
    }
    assert api("POST", "/group/create", {"name": "IOT"}) == {"i_group": "1001", "name": "IOT"}
    listed = api("GET", "/groups")["group_list"]
    assert listed[-1] == {"i_group": "1001", "name": "IOT", "is_custom": True}
    assert len(api("GET", "/groups", login="clerk")["group_list"]) == 8


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", "\0"])
def test_a_group_has_a_name_that_can_be_read(api, name):
    assert api.fault(400, "POST", "/group/create", {"name": name}) == "name"


def test_a_group_has_a_name_of_its_own(api):
    api("POST", "/group/create", {"name": "IOT"})
    for name in ("IOT", " IOT ", "HSS"):
        assert "already" in api.fault(409, "POST", "/group/create", {"name": name})
    assert api("POST", "/group/create", {"name": "IOT"}, login="clerk")["name"] == "IOT"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/group/1001", None),
        ("POST", "/group/1001", None),
        ("POST", "/group/delete", {"i_group": 1001}),
    ],
)
def test_a_custom_group_can_be_deleted_and_its_number_is_not_used_again(api, method, path, body):
    api("POST", "/group/create", {"name": "IOT"})
    api("POST", "/account/i/541/status", {"status": "OK", "group": "IOT"})
    assert api(method, path, body) == {"i_group": "1001", "name": "IOT"}
    assert api("GET", "/account/i/541/status")["status_list"] == []
    api.fault(404, method, path, body)
    assert api("POST", "/group/create", {"name": "IOT"})["i_group"] == "1002"


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30])
def test_no_number_is_too_much_for_a_database(api, number):
    for method, path in [
        ("GET", f"/handler/{number}"),
        ("DELETE", f"/group/{number}"),
        ("GET", f"/event/{number}"),
        ("GET", f"/account/i/{number}/status"),
        ("GET", f"/events?i_account={number}&before={number}"),
        ("GET", f"/handlers?i_env={number}"),
    ]:
        assert api.raw(method, path).status_code in {200, 400, 404}, path


@pytest.mark.databases("sqlite")
def test_a_whole_number_may_have_a_point(api):
    api("POST", "/group/create", {"name": "IOT"})
    for wrong in (1001.5, "1001", True, 1e300):
        assert api.fault(400, "POST", "/group/delete", {"i_group": wrong}) == "i_group"
    assert api("POST", "/group/delete", {"i_group": 1001.0})["name"] == "IOT"


def test_a_predefined_group_cannot_be_deleted(api):
    for i_group in range(1, 9):
        assert "predefined" in api.fault(409, "DELETE", f"/group/{i_group}")


def test_a_status_is_reported_as_a_form_and_as_json_by_number_and_by_id(api):
    form = {"status": "RETRY", "group": "HSS", "message": "no answer + 1"}
    said = api("POST", "/account/i/541/status", data=form)
    assert said["reported_at"]
    assert said | {"reported_at": ""} == {
        "i_group": "2",
        "group": "HSS",
        "status": "RETRY",
        "message": "no answer + 1",
        "reported_at": "",
    }
    by_id = "/account/4412345@msisdn/1/status"
    api("POST", by_id, {"status": "OK", "group": "PCRF"})
    api("POST", by_id, {"status": "FAILED", "group": "HSS", "message": "x" * 4000})
    known = api("GET", "/account/i/541/status")
    assert known == api("GET", by_id)
    assert known["i_account"] == 541
    assert [(one["group"], one["status"]) for one in known["status_list"]] == [
        ("HSS", "FAILED"),
        ("PCRF", "OK"),
    ]


@pytest.mark.databases("sqlite")
def test_statuses_are_shown_with_the_account(api):
    def shown():
        headers = {"Authorization": f"Bearer {api.tokens['admin']}"}
        body = {"params": {"i_account": 541}}
        reply = api.client.post("/rest/Account/get_account_info", json=body, headers=headers)
        return reply.json()["account_info"]["provisioning_statuses"]

    assert shown() == []
    reported = api("POST", "/account/i/541/status", {"status": "OK", "group": "HSS"})
    assert shown() == [reported]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "status"),
        ({"status": "OK"}, "group"),
        ({"status": "ok", "group": "HSS"}, "status"),
        ({"status": "DONE", "group": "HSS"}, "status"),
        ({"status": "OK", "group": "hss"}, "group"),
        ({"status": "OK", "group": "Nope"}, "group"),
        ({"status": "OK", "group": "HSS", "message": "x" * 4001}, "message"),
        ({"status": "OK", "group": "HSS", "message": "\0"}, "message"),
        ({"status": "OK", "group": "HSS", "message": 5}, "message"),
        ({"status": "OK", "group": "HSS", "massage": "typo"}, "massage"),
    ],
)
def test_a_status_that_is_wrong_is_told_by_name_and_changes_nothing(api, body, field):
    assert api.fault(400, "POST", "/account/i/541/status", body) == field
    assert api("GET", "/account/i/541/status")["status_list"] == []


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_json_is_taken_whatever_the_client_calls_it(api, kind):
    headers = {"Content-Type": kind, "Authorization": f"Bearer {api.tokens['admin']}"}
    path = "/espf/v1/account/i/541/status"
    reply = api.client.post(path, content=b'{"status":"OK","group":"HSS"}', headers=headers)
    assert (reply.status_code, reply.json().get("status")) == (200, "OK")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("body", [b"status=OK&status=OK&group=HSS", b"status=%ff&group=HSS"])
def test_a_form_that_cannot_be_read_is_told(api, body):
    kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    headers = {**kind, "Authorization": f"Bearer {api.tokens['admin']}"}
    path = "/espf/v1/account/i/541/status"
    reply = api.client.post(path, content=body, headers=headers)
    assert (reply.status_code, reply.json()["field"]) == (400, "body")


@pytest.mark.parametrize("path", ["/account/i/542/status", "/account/4412346/status"])
def test_an_account_that_is_not_there_is_not_found(api, path):
    api.fault(404, "POST", path, {"status": "OK", "group": "HSS"})
    api.fault(404, "GET", path)


@pytest.mark.databases("sqlite")
def test_beside_a_billing_of_another_make_an_account_has_a_number_only(api):
    with api.database.begin() as connection:
        accounts.drop(connection)
    api("POST", "/account/i/999/status", {"status": "OK", "group": "HSS"})
    assert api("GET", "/account/i/999/status")["status_list"][0]["status"] == "OK"
    assert "by i_account" in api.fault(404, "GET", "/account/4412345/status")


# Schedules


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("time", "zone", "meant"),
    [
        ("2037-03-01 00:00:00", "Europe/Prague", "2037-02-28 23:00:00"),
        ("2037-07-01 00:00:00", "America/New_York", "2037-07-01 04:00:00"),
        ("2037-03-01 00:00:00", "UTC", "2037-03-01 00:00:00"),
        # The clocks go forward: 02:30 is left out, 03:30 is meant.
        ("2027-03-28 02:30:00", "Europe/Prague", "2027-03-28 01:30:00"),
        # They go back: 02:30 comes twice, the first is meant.
        ("2027-10-31 02:30:00", "Europe/Prague", "2027-10-31 00:30:00"),
        # By half an hour.
        ("2027-10-03 02:15:00", "Australia/Lord_Howe", "2027-10-02 15:45:00"),
    ],
)
def test_a_start_time_of_a_zone(api, time, zone, meant):
    i_event = api.event("Custom/NextMonth", start_time=time, time_zone=zone)
    assert api("GET", f"/event/{i_event}")["start_time"] == meant


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"start_time": FAR, "time_zone": "Europe/Nowhere"}, "time_zone"),
        ({"start_time": FAR, "time_zone": "../../etc/passwd"}, "time_zone"),
        ({"start_time": FAR, "time_zone": ""}, "time_zone"),
        ({"time_zone": "Europe/Prague"}, "time_zone"),
        ({"start_time": "2037-03-01T00:00:00Z", "time_zone": "Europe/Prague"}, "start_time"),
        ({"start_time": "tomorrow", "time_zone": "Europe/Prague"}, "start_time"),
        ({"start_time": FAR, "key": ""}, "key"),
        ({"start_time": FAR, "key": "x" * 129}, "key"),
        ({"start_time": FAR, "key": "a\nb"}, "key"),
        ({"start_time": FAR, "key": " a"}, "key"),
    ],
)
def test_a_schedule_that_is_wrong_is_told_by_name(api, words, field):
    body = {"event_type": "Custom/NextMonth", **words}
    assert api.fault(400, "POST", "/event/create", body) == field
    assert api("GET", "/events")["event_list"] == []


def test_an_event_under_a_key_takes_the_place_of_the_one_before(api):
    first = api.event("Custom/NextMonth", start_time=FAR, key="a")
    other = api.event("Custom/NextMonth", start_time=FAR, key="b")
    body = {"event_type": "Custom/NextMonth", "start_time": "2037-04-01 00:00:00", "key": "a"}
    second = api("POST", "/event/create", body)
    assert second == {"i_event": other + 1, "replaced": first}
    (part,) = api("GET", f"/event/{first}")["handlers"]
    assert (part["status"], part["reason"]) == ("cancelled", f"replaced by event {other + 1}")
    plan = api("GET", "/events/scheduled")["event_list"]
    assert [(one["i_event"], one["key"]) for one in plan] == [(other, "b"), (other + 1, "a")]


def test_of_several_that_come_under_a_key_at_once_one_stays(api):
    def create(number):
        with api.database.begin() as connection:
            later = datetime(2037, 3, 1, number, tzinfo=UTC)
            words = ("Custom/NextMonth", {}, later, "a")
            return schedule.create(connection, queue, api.database, 3, *words)

    queue = Queue(api.database)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(create, range(8)))
    (left,) = api("GET", "/events/scheduled")["event_list"]
    replaced = {one.replaced for one in made} - {None}
    assert {one.i_event for one in made} - replaced == {left["i_event"]}


def test_what_is_created_under_a_key_after_its_event_has_gone_out_replaces_nothing(api):
    first = api.event("Custom/NextMonth", start_time=FAR, key="a")
    with api.database.begin() as connection:
        now = api.database.now(connection)
        connection.execute(update(event_queue).values(start_time=now - timedelta(seconds=1)))
        assert Queue(api.database).release_scheduled(connection) == 1
    body = {"event_type": "Custom/NextMonth", "start_time": FAR, "key": "a"}
    assert "replaced" not in api("POST", "/event/create", body)
    assert api("GET", f"/event/{first}")["handlers"][0]["status"] == "finished"


def test_a_key_is_known_in_its_environment_alone(api):
    mine = api.event("Custom/NextMonth", start_time=FAR, key="a")
    body = {"event_type": "Custom/NextMonth", "start_time": FAR, "key": "a"}
    theirs = api("POST", "/event/create", body, login="clerk")
    assert theirs.keys() == {"i_event"}
    assert api("POST", "/event/cancel", {"key": "a"}, login="clerk") == theirs
    assert api("POST", "/event/cancel", {"key": "a"}) == {"i_event": mine}


def test_a_scheduled_event_is_called_off_by_its_key_or_its_number(api):
    one = api.event("Custom/NextMonth", start_time=FAR, key="a")
    two = api.event("Custom/NextMonth", start_time=FAR)
    assert api("POST", "/event/cancel", {"key": "a"}) == {"i_event": one}
    api.fault(404, "POST", "/event/cancel", {"key": "a"})
    assert api("POST", f"/event/{two}/cancel") == {"i_event": two}
    assert "not scheduled" in api.fault(409, "POST", f"/event/{two}/cancel")
    assert api("GET", "/events/scheduled") == {"event_list": [], "next": None}


def test_events_are_counted_exported_and_paged_both_ways(api, sender):
    made = [api.event(variables={"i_account": 541}) for _ in range(3)]

    def page(**params):
        found = api("GET", "/events", params={"limit": 1, **params})
        (one,) = found["event_list"]
        return one["i_event"], found

    assert api("GET", "/events/count") == {"count": 3, "more": False}
    assert api("GET", "/events/count", params={"event_type": "Customer/*"})["count"] == 0
    number, first = page(order="oldest")
    assert (number, first["next"]) == (made[0], None)
    number, second = page(after=first["newer"])
    assert (number, second["partial"]) == (made[1], False)
    assert page(before=second["next"])[0] == made[0]
    text = api.raw("GET", "/events.csv?about=4412345@msisdn/1&order=oldest").text
    assert [int(line.split(",")[0]) for line in text.splitlines()[1:]] == made
    assert api.fault(400, "GET", "/events?event_type=*/New") == "event_type"
    assert api.fault(400, "GET", "/events?about=nobody") == "about"
    assert api.fault(400, "GET", "/events?about=account:1&i_account=1") == "about"


def test_somebody_is_held_and_released(api, sender):
    api.event(variables={"i_account": 541})
    lane = {"about": ACCOUNT["id"]}
    held = api("POST", "/lane/hold", {**lane, "reason": "moved by hand"})
    assert held == {"ordering_key": "account:541", "handlers": ["A"]}
    (one,) = api("GET", "/held")["held_list"]
    assert (one["handler"], one["reason"]) == ("A", "admin: moved by hand")
    story = api("GET", "/timeline", params=lane)
    assert [stop["state"] for stop in story["obstacles"]] == ["held"]
    assert [part["status"] for part in story["event_list"]] == ["queued"]
    api.fault(409, "POST", "/lane/hold", {**lane, "reason": "again"})
    api.fault(400, "POST", "/lane/hold", {**lane, "reason": " "})
    assert api("POST", "/lane/release", lane)["handlers"] == ["A"]
    api.fault(409, "POST", "/lane/release", lane)
    assert api("GET", "/held") == {"held_list": []}


def test_the_plan_is_in_the_order_of_time_and_comes_in_pages(api):
    times = ["2037-03-02 00:00:00", FAR, "2037-03-03 00:00:00", FAR, FAR]
    made = [api.event("Custom/NextMonth", start_time=time) for time in times]
    found, after = [], {}
    for _ in range(4):
        page = api("GET", "/events/scheduled", params={"limit": 2, **after})
        assert len(page["event_list"]) <= 2
        found += [one["i_event"] for one in page["event_list"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == [made[1], made[3], made[4], made[0], made[2]]
    assert api.fault(400, "GET", "/events/scheduled?after=x") == "after"


def test_keys_of_events_that_have_gone_out_are_forgotten(api):
    api.event("Custom/NextMonth", start_time=FAR, key="stays")
    api.event("Custom/NextMonth", key="gone")
    Janitor(api.database).sweep()
    assert api.rows(scheduled_keys, "event_key") == [("stays",)]


# Events


@pytest.fixture
def sender(api):
    """The number of a handler that hears everything."""
    made = api("POST", "/handler/create", {"name": "A", "type": "EventSender", "settings": SENDER})
    return made["i_event_handler"]


def fail(api, *i_events, **values):
    with api.database.begin() as connection:
        connection.execute(
            update(event_notifications)
            .where(event_notifications.c.i_event.in_(i_events))
            .values(**{"status": "failed", "attempts": 3, "last_error": "503", **values})
        )


def test_events_are_listed_in_pages_and_each_event_is_whole(api, sender):
    for name in ("B", "C"):
        api("POST", "/handler/create", {"name": name, "type": "EventSender", "settings": SENDER})
    made = [api.event(variables={"i_account": 541}) for _ in range(5)]
    found, before = [], {}
    for _ in range(6):
        page = api("GET", "/events", params={"limit": 2, **before})
        # Two would do, and an event that has begun is there with all of its handlers.
        assert len(page["event_list"]) <= 3
        found += [(one["i_event"], one["handler"]) for one in page["event_list"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert sorted(found) == [(i_event, name) for i_event in made for name in "ABC"]


@pytest.mark.databases("sqlite")
def test_events_are_found_by_what_they_are(api, sender):
    one = api.event(variables={"i_account": 541})
    two = api.event("Account/Unblocked")
    fail(api, two)

    def found(**wanted):
        return [one["i_event"] for one in api("GET", "/events", params=wanted)["event_list"]]

    assert found() == [two, one]
    assert found(i_account=541) == found(event_type="Account/Blocked") == found(status="queued")
    assert found(status="failed") == [two]
    assert found(handler="B") == found(to="2000-01-01 00:00:00") == []
    assert found(**{"from": "2000-01-01 00:00:00", "handler": "A"}) == [two, one]
    assert found(**{"from": FAR}) == []


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("before=x", "before"),
        ("i_account=-1", "i_account"),
        ("from=yesterday", "from"),
        ("from=2037-01-02 00:00:00&to=2037-01-01 00:00:00", "from"),
        ("event_type=%00", "event_type"),
        ("handlr=A", "handlr"),
        ("i_env=99999999999999999999", "i_env"),
    ],
)
def test_a_search_that_is_wrong_is_told_by_name(api, query, field):
    assert api.fault(400, "GET", f"/events?{query}") == field


def test_an_event_is_shown_with_every_attempt(api, sender):
    i_event = api.event(variables={"i_account": 541, "x": [1, {"y": None}]})
    with api.database.begin() as connection:
        journal.record(
            connection,
            [
                journal.Entry(
                    i_event=i_event,
                    i_env=3,
                    event_type="Account/Blocked",
                    ordering_key="account:541",
                    verdict="retry",
                    i_event_handler=sender,
                    handler="A",
                    attempt=1,
                    reason="503",
                    logged_at=api.database.now(connection),
                )
            ],
        )
    story = api("GET", f"/event/{i_event}")
    assert (story["i_event"], story["ordering_key"]) == (i_event, "account:541")
    assert story["variables"]["x"] == [1, {"y": None}]
    assert [one["handler"] for one in story["handlers"]] == ["A"]
    assert [(one["attempt"], one["verdict"], one["reason"]) for one in story["attempts"]] == [
        (1, "retry", "503")
    ]
    api.fault(404, "GET", f"/event/{i_event + 1}")


def test_an_event_is_restarted_for_those_that_failed_or_for_one(api, sender):
    i_event = api.event()
    assert "first attempt" in api.fault(409, "POST", f"/event/{i_event}/restart", {"handler": "A"})
    fail(api, i_event)
    assert api("POST", f"/event/{i_event}/restart") == {"i_event": i_event, "handlers": ["A"]}
    fail(api, i_event)
    api("POST", f"/event/{i_event}/restart", {"handler": "A"})
    api.fault(404, "POST", f"/event/{i_event}/restart", {"handler": "B"})
    api.fault(404, "POST", "/event/99/restart")


def test_events_are_restarted_by_filter_some_at_a_time(api, sender):
    made = [api.event() for _ in range(30)]
    fail(api, *made)
    api.database.dialect.batch = 10
    dry = api("POST", "/events/restart", {"handler": "A", "dry_run": True})
    assert (dry["restarted"], dry["next"]) == (30, None)
    first = api("POST", "/events/restart", {"handler": "A", "limit": 15})
    assert 15 <= first["restarted"] < 30
    assert first["next"] == made[first["restarted"] - 1]
    more = {"handler": "A", "after": first["next"], "to": first["to"]}
    last = api("POST", "/events/restart", more)
    assert (first["restarted"] + last["restarted"], last["next"]) == (30, None)
    with api.database.read() as connection:
        assert restarts.restartable(connection, Filter(status="failed")) == 0


@pytest.mark.databases("sqlite")
def test_only_what_was_chosen_and_has_failed_by_now_is_restarted(api, sender):
    failed, waits, untried = (api.event() for _ in range(3))
    fail(api, failed)
    fail(api, waits, status="queued", next_attempt_at=datetime(2037, 1, 1, tzinfo=UTC))

    def count(**chosen):
        return api("POST", "/events/restart", {"dry_run": True, **chosen})["restarted"]

    assert count(handler="A") == count(status="retrying") == 1
    assert count(handler="B") == count(status="rejected") == 0
    assert count(handler="A", to="2000-01-01 00:00:00") == 0
    assert count(handler="A", after=failed) == 0
    for limit in (0, 10_001):
        assert (
            api.fault(400, "POST", "/events/restart", {"handler": "A", "limit": limit}) == "limit"
        )
    said = api("POST", "/events/restart", {"status": "retrying"})
    assert (said["restarted"], said["next"]) == (1, None)
    events = {i: api("GET", f"/event/{i}")["handlers"][0] for i in (failed, waits, untried)}
    assert {i: one["status"] for i, one in events.items()} == {
        failed: "failed",
        waits: "queued",
        untried: "queued",
    }
    assert events[waits]["attempts"] == 0


@pytest.mark.databases("sqlite")
def test_what_fails_while_others_are_restarted_is_not_restarted(api, sender, monkeypatch):
    first, second = api.event(), api.event()
    fail(api, first)
    restart_next = restarts.restart_next

    def another_fails(connection, database, wanted):
        assert wanted.until is not None
        assert wanted.until <= database.now(connection)
        return restart_next(connection, database, wanted)

    monkeypatch.setattr(restarts, "restart_next", another_fails)
    assert api("POST", "/events/restart", {"handler": "A"})["restarted"] == 1
    assert api("GET", f"/event/{second}")["handlers"][0]["status"] == "queued"


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("body", [{}, {"dry_run": True}, {"limit": 5, "after": 3}])
def test_a_restart_of_nothing_in_particular_is_refused(api, body):
    assert api.fault(400, "POST", "/events/restart", body) == "body"


@pytest.mark.databases("sqlite")
def test_an_event_is_given_up_with_a_reason(api, sender):
    i_event = api.event()
    words = {"handler": "A", "reason": " the account is closed "}
    api.fault(409, "POST", f"/event/{i_event}/skip", words)
    fail(api, i_event)
    assert api.fault(400, "POST", f"/event/{i_event}/skip", {**words, "reason": " "}) == "reason"
    assert api("POST", f"/event/{i_event}/skip", words) == {"i_event": i_event}
    (part,) = api("GET", f"/event/{i_event}")["handlers"]
    assert (part["status"], part["reason"]) == ("skipped", "the account is closed")


# Handlers


@pytest.mark.databases("sqlite")
def test_a_handler_is_tried_out(api, sender, monkeypatch):
    monkeypatch.setattr("espf.trial.REST_SECONDS", 0)
    path = f"/handler/{sender}/test"
    body = {"event_type": "Account/Blocked", "variables": {"i_account": 541}}
    said = api("POST", path, body)
    assert said["reached"] is False
    assert said["found"] == said["sent"]["reason"]
    assert "no connection to http://127.0.0.1:1" in said["found"]
    assert (said["sent"]["event_type"], said["sent"]["verdict"]) == ("Account/Blocked", "retry")
    assert said["sent"]["variables"]["i_account"] == 541
    assert '"i_event":0' in said["sent"]["request"]
    assert api("POST", path)["sent"]["event_type"] == "Custom/Test"
    assert api("POST", path, {"check_only": True})["sent"] is None
    assert api("GET", "/events")["event_list"] == []
    for wrong, field in [
        ({"event_type": "Account/Nope"}, "event_type"),
        ({"variables": {"i_account": 9999}}, "variables.i_account"),
        ({"variables": []}, "variables"),
        ({"type": "Account/Blocked"}, "type"),
    ]:
        assert api.fault(400, "POST", path, wrong) == field
    api.fault(404, "POST", "/handler/99/test", {})
    made = api("POST", "/handler/create", {"name": "B", "type": "EventSender"})
    assert "not configured" in api.fault(409, "POST", f"/handler/{made['i_event_handler']}/test")
    monkeypatch.setattr("espf.trial.REST_SECONDS", 600)
    api("POST", path, {"check_only": True})
    assert "in a moment" in api.fault(429, "POST", path, {"check_only": True})


def test_a_handler_is_made_changed_switched_and_deleted(api):
    new = {"name": "B/2", "type": "EventSender", "settings": {"EventSender.BasicAuth.Key": "k"}}
    made = api("POST", "/handler/create", new)
    path = f"/handler/{made['i_event_handler']}"
    assert (made["name"], made["enabled"], made["state"]) == ("B/2", True, "unattended")
    assert api("GET", "/handlers?name=B/2")["handler_list"] == [made] == [api("GET", path)]
    assert "mandatory" in api("GET", f"{path}/settings")["missing"]
    settings = {**SENDER, "Concurrency": 4, "EventSender.BasicAuth.Key": None}
    changed = api("PUT", f"{path}/settings", {"settings": settings})
    assert changed["missing"] is None
    values = {one["name"]: (one["value"], one["is_set"]) for one in changed["settings"]}
    assert values["Concurrency"] == ("4", True)
    assert values["EventSender.TokenRate"] == ("10", False)
    assert values["EventSender.BasicAuth.Key"] == (None, False)
    for action, member, value in [
        ("pause", "paused", True),
        ("resume", "paused", False),
        ("disable", "enabled", False),
        ("enable", "enabled", True),
    ]:
        other = {"paused": "enabled", "enabled": "paused"}[member]
        before = api("GET", path)
        said = api("POST", f"{path}/{action}")
        assert said[member] is value
        assert said[other] is before[other]
    assert api("DELETE", path) == {"cancelled": 0}
    api.fault(404, "GET", path)


@pytest.mark.databases("sqlite")
def test_a_handler_may_be_made_switched_off(api):
    new = {"name": "B", "type": "EventSender", "enabled": False, "settings": SENDER}
    made = api("POST", "/handler/create", new)
    assert (made["enabled"], made["state"]) == (False, "disabled")
    i_event = api.event()
    assert api("GET", f"/event/{i_event}")["handlers"][0]["handler"] is None


@pytest.mark.databases("sqlite")
def test_a_handler_is_made_with_the_usual_subscriptions_of_its_type(api):
    new = {"name": "HLR", "type": "OsmoHLR", "settings": {"OsmoHLR.Address": "127.0.0.1"}}
    counts = []
    for usual in (True, False):
        made = api("POST", "/handler/create", {**new, "name": f"HLR {usual}", "usual": usual})
        listed = api("GET", f"/handler/{made['i_event_handler']}/subscriptions")
        heard = {one["event_type"] for one in listed["subscription_list"] if one["subscribed"]}
        assert "Account/Blocked" in heard
        counts.append(len(heard))
    assert 0 < counts[0] < counts[1]
    types = {one["type"]: one for one in api("GET", "/handler_types")["handler_type_list"]}
    assert "Account/Status/*" in types["OsmoHLR"]["usual"]
    assert types["EventSender"]["usual"] == []


@pytest.mark.databases("sqlite")
def test_how_a_handler_stands_is_counted(api, sender):
    waiting, again, failed = (api.event() for _ in range(3))
    fail(api, again, status="queued", next_attempt_at=datetime(2037, 1, 1, tzinfo=UTC))
    fail(api, failed)
    with api.database.begin() as connection:
        now = api.database.now(connection)
        long_ago = now - timedelta(hours=1)
        its = event_queue.c.i_event == waiting
        connection.execute(update(event_queue).where(its).values(created_at=long_ago))
        alive = {"worker": "w", "started_at": now, "expires_at": now + timedelta(hours=1)}
        connection.execute(insert(tables.workers).values(alive))
        connection.execute(
            insert(tables.handler_breakers).values(
                i_event_handler=sender, worker="w", state="open", since=now, reason="no answer"
            )
        )
    stands = api("GET", f"/handler/{sender}")
    assert (stands["waiting"], stands["retrying"], stands["failed"]) == (1, 1, 1)
    assert 3600 <= stands["oldest_waiting_seconds"] < 4200
    (breaker,) = stands["breakers"]
    assert (breaker["worker"], breaker["state"], breaker["reason"]) == ("w", "open", "no answer")


@pytest.mark.databases("sqlite")
def test_a_secret_goes_in_and_never_comes_out(api, sender):
    secret = "a secret of the application"
    settings = {"EventSender.AuthMethod": "Basic", "EventSender.BasicAuth.User": "espf"}
    settings["EventSender.BasicAuth.Key"] = secret
    told = api.raw("PUT", f"/handler/{sender}/settings", {"settings": settings}).text
    told += api.raw("GET", f"/handler/{sender}/settings").text
    told += api.raw("GET", f"/handler/{sender}").text + api.raw("GET", "/handlers").text
    assert secret not in told
    shown = {one["name"]: one for one in api("GET", f"/handler/{sender}/settings")["settings"]}
    key = shown["EventSender.BasicAuth.Key"]
    assert (key["secret"], key["is_set"], key["value"]) == (True, True, None)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("status", "body", "field"),
    [
        (400, {"type": "EventSender"}, "name"),
        (400, {"name": "", "type": "EventSender"}, "name"),
        (400, {"name": "A", "type": "EventSender", "settings": {"URL": "x"}}, "URL"),
        (400, {"name": "A", "type": "EventSender", "settings": {"Concurrency": 0}}, "Concurrency"),
        (400, {"name": "A", "type": "EventSender", "settings": []}, "settings"),
        (400, {"name": "A", "type": "EventSender", "enabled": "yes"}, "enabled"),
    ],
)
def test_a_handler_that_is_wrong_is_told_by_name(api, status, body, field):
    assert api.fault(status, "POST", "/handler/create", body) == field
    assert api("GET", "/handlers")["handler_list"] == []


@pytest.mark.databases("sqlite")
def test_a_handler_of_no_known_type_or_of_a_name_that_is_taken(api, sender):
    assert "handler type" in api.fault(
        404, "POST", "/handler/create", {"name": "B", "type": "Nope"}
    )
    again = {"name": "A", "type": "EventSender"}
    assert "already" in api.fault(409, "POST", "/handler/create", again)


@pytest.mark.databases("sqlite")
def test_settings_change_all_or_none(api, sender):
    before = api("GET", f"/handler/{sender}/settings")
    wrong = {"settings": {"Concurrency": 7, "EventSender.TokenRate": "fast"}}
    assert api.fault(400, "PUT", f"/handler/{sender}/settings", wrong) == "EventSender.TokenRate"
    assert api("GET", f"/handler/{sender}/settings") == before


def test_a_handler_with_work_is_deleted_only_by_force(api, sender):
    made = [api.event() for _ in range(12)]
    api.database.dialect.batch = 5
    assert "12 notifications" in api.fault(409, "DELETE", f"/handler/{sender}")
    assert api("DELETE", f"/handler/{sender}?force=true") == {"cancelled": 12}
    assert api("GET", f"/event/{made[0]}")["handlers"][0]["status"] == "cancelled"


@pytest.mark.databases("sqlite")
def test_what_is_deleted_by_force_hears_of_nothing_while_it_is_being_deleted(
    api, sender, monkeypatch
):
    api.event()
    cancel_next = restarts.cancel_next

    def switched_off(connection, database, handler):
        assert not subscriptions.find_handler(connection, 3, sender).enabled
        return cancel_next(connection, database, handler)

    monkeypatch.setattr(restarts, "cancel_next", switched_off)
    assert api("DELETE", f"/handler/{sender}?force=true") == {"cancelled": 1}


@pytest.mark.databases("sqlite")
def test_a_subscription_keeps_the_name_that_was_used(api, sender):
    path = f"/handler/{sender}/subscriptions"
    assert api("PUT", path, {"event_type": "Account/Id/Changed"})["event_type"]
    listed = {one["event_type"] for one in api("GET", path)["subscription_list"]}
    assert "Account/Id/Changed" in listed
    assert "Account/ID/Changed" not in listed


@pytest.mark.databases("sqlite")
def test_a_handler_that_is_not_configured_yet_can_be_subscribed(api):
    made = api("POST", "/handler/create", {"name": "B", "type": "EventSender"})
    path = f"/handler/{made['i_event_handler']}/subscriptions"
    said = api("PUT", path, {"event_type": "Custom/NextMonth"})
    assert (said["subscribed"], said["remark"]) == (True, None)


@pytest.mark.databases("sqlite")
def test_subscriptions_are_listed_and_changed(api, sender):
    path = f"/handler/{sender}/subscriptions"

    def subscribed(name):
        listed = api("GET", path)["subscription_list"]
        return {one["event_type"]: one["subscribed"] for one in listed}[name]

    assert not subscribed("Custom/NextMonth")
    said = api("PUT", path, {"event_type": "Custom/NextMonth"})
    assert said == {"event_type": "Custom/NextMonth", "subscribed": True, "remark": None}
    assert subscribed("Custom/NextMonth")
    assert "already" in api.fault(409, "PUT", path, {"event_type": "Custom/NextMonth"})
    api.fault(404, "PUT", path, {"event_type": "Custom/Nope"})
    said = api("DELETE", f"{path}?event_type=Custom/NextMonth")
    assert said == {"event_type": "Custom/NextMonth", "subscribed": False}
    api.fault(409, "DELETE", f"{path}?event_type=Custom/NextMonth")
    api("DELETE", f"{path}?event_type=Connection/New")
    assert "version" in api("PUT", path, {"event_type": "Connection/New"})["remark"]


@pytest.mark.databases("sqlite")
def test_handler_types_are_described_with_their_options(api):
    (sender,) = [
        one
        for one in api("GET", "/handler_types")["handler_type_list"]
        if one["type"] == "EventSender"
    ]
    options = {one["name"]: one for one in sender["options"]}
    assert options["EventSender.URL"]["default"] is None
    assert options["EventSender.BasicAuth.Key"]["secret"]
    assert sender["supports"]


# What is about the whole installation


@pytest.mark.databases("sqlite")
def test_the_event_types_of_the_api_are_those_of_the_catalogue(api):
    shown = {row["event_type"]: row for row in api("GET", "/event_types")["event_type_list"]}
    assert shown.keys() >= catalogue().keys()
    for name, entry in catalogue().items():
        told = {
            "event_type" if key == "name" else key: value for key, value in entry.facts().items()
        }
        assert shown[name] == {**shown[name], **told}


@pytest.mark.databases("sqlite")
def test_a_type_is_switched_by_any_of_its_names(api):
    alias = {"event_type": "Account/Status/Suspend"}
    switched = api("POST", "/event_type/disable", alias)
    assert (switched["event_type"], switched["enabled"]) == ("Account/Status/Suspended", False)


@pytest.mark.databases("sqlite")
def test_event_types_are_listed_added_and_switched_with_their_triggers(api):
    with api.database.begin() as connection:
        wanted = triggers.compile_rules(rules.shipped_rules())
        triggers.apply(connection, api.database.dialect, wanted)
    made = api("POST", "/event_type/create", {"event_type": "Custom/Other"})
    assert (made["i_event_type"], made["enabled"]) == (10002, True)
    assert made in api("GET", "/event_types")["event_type_list"]
    assert "already" in api.fault(409, "POST", "/event_type/create", {"event_type": "Custom/Other"})
    assert api.fault(400, "POST", "/event_type/create", {"event_type": "Other"}) == "event_type"
    blocked = {"event_type": "Account/Blocked"}
    assert not api("POST", "/event_type/disable", blocked)["enabled"]
    assert api("GET", "/capture")["drifts"] == []
    assert api("POST", "/event_type/enable", blocked)["enabled"]
    api.fault(404, "POST", "/event_type/enable", {"event_type": "Account/Nope"})
    with api.database.begin() as connection:
        triggers.remove(connection, api.database.dialect)
    state = api("GET", "/capture")
    assert len(state["drifts"]) == state["triggers"] > 0
    assert {one["kind"] for one in state["drifts"]} == {"missing"}


@pytest.mark.databases("sqlite")
def test_maintenance_is_switched_and_workers_are_listed(api, sender):
    assert api("GET", "/workers") == {"worker_list": []}
    with api.database.begin() as connection:
        now = api.database.now(connection)
        alive = {"started_at": now, "expires_at": now + timedelta(hours=1)}
        connection.execute(insert(tables.workers).values(worker="host/1/x", **alive))
        mine = tables.handler_leases.c.i_event_handler == sender
        connection.execute(update(tables.handler_leases).where(mine).values(worker="host/1/x"))
        gone = {"started_at": now, "expires_at": now - timedelta(minutes=1)}
        connection.execute(insert(tables.workers).values(worker="host/2/y", **gone))
    worker, dead = api("GET", "/workers")["worker_list"]
    assert (worker["alive"], dead["alive"], dead["shards"]) == (True, False, [])
    assert worker["instance"] is None
    assert worker["shards"] == [{"i_env": 3, "handler": "A", "shards": 16}]
    assert api("GET", f"/handler/{sender}")["workers"] == {"host/1/x": 16}
    assert api("PUT", "/maintenance", {"maintenance": True}) == {"maintenance": True}
    assert api("GET", "/maintenance", login="clerk") == {"maintenance": True}
    assert api("PUT", "/maintenance", {"maintenance": False}) == {"maintenance": False}


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/event_type/create", {"event_type": "Custom/Other"}),
        ("POST", "/event_type/enable", {"event_type": "Account/Blocked"}),
        ("POST", "/event_type/disable", {"event_type": "Account/Blocked"}),
        ("PUT", "/maintenance", {"maintenance": True}),
        ("GET", "/capture", None),
        ("GET", "/workers", None),
        ("GET", "/configurations", None),
        ("GET", "/configuration/active", None),
        ("POST", "/configuration/clone", {}),
    ],
)
def test_only_a_superuser_does_what_concerns_everybody(api, method, path, body):
    assert "only a superuser" in api.fault(403, method, path, body, login="clerk")


# The configuration


@pytest.mark.databases("sqlite")
def test_a_configuration_from_its_draft_to_the_way_back(api):
    schema = api("GET", "/configuration/schema")
    assert schema["Provisioning"]["properties"]["AlertRecipient"]["title"]
    draft = api("POST", "/configuration/clone", {"comment": "alerts"})
    path = f"/configuration/{draft['i_configuration']}"
    assert (draft["status"], draft["created_by"], draft["comment"]) == ("draft", "admin", "alerts")
    assert draft["settings"].keys() == {
        f"Provisioning.{name}" for name in schema["Provisioning"]["properties"]
    }
    values = {"AlertURL": "https://x.example", "AlertToken": "tops3cret", "MaxAttempts": 3}
    settings = {f"Provisioning.{name}": value for name, value in values.items()}
    changed = api("PUT", f"{path}/settings", {"settings": settings})["settings"]
    assert changed["Provisioning.MaxAttempts"] == 3
    assert changed["Provisioning.AlertToken"] == "••••••••"
    assert api("PUT", f"{path}/settings", {"settings": changed})["settings"] == changed
    instance = {"name": "hss", "settings": {"port": 8081, "handlers": ["A@3"]}}
    assert api("POST", f"{path}/instance/create", instance)["settings"]["ESPF.hss.port"] == 8081
    verdict = api("POST", f"{path}/verify")
    assert [(one["severity"], one["field"]) for one in verdict["findings"]] == [
        ("error", "ESPF.hss.handlers")
    ]
    assert api.fault(400, "POST", f"{path}/apply", {}) == "ESPF.hss.handlers"
    assert "ESPF.hss.port" not in api("DELETE", f"{path}/instance/hss")["settings"]
    differences = api("GET", f"{path}/differences")["difference_list"]
    assert differences == api("POST", f"{path}/verify")["differences"]
    assert {one["field"] for one in differences} == settings.keys()
    assert api("POST", f"{path}/apply", {"over": 1})["status"] == "active"
    assert api("GET", "/configuration/active")["applied_by"] == "admin"
    back = api("POST", "/configuration/1/rollback")
    assert (back["status"], back["cloned_from"]) == ("active", 1)
    listed = api("GET", "/configurations")["configuration_list"]
    assert [one["status"] for one in listed] == ["active", "archived", "archived"]


@pytest.mark.databases("sqlite")
def test_what_is_wrong_with_a_request_about_a_configuration_is_named(api):
    number = api("POST", "/configuration/clone", {})["i_configuration"]
    path = f"/configuration/{number}"
    wrong = {"settings": {"Provisioning.AlertRecipient": "nobody"}}
    assert api.fault(400, "PUT", f"{path}/settings", wrong) == "Provisioning.AlertRecipient"
    assert api.fault(400, "POST", f"{path}/instance/create", {"name": "a.b"}) == "name"
    assert api.fault(400, "POST", "/configuration/clone", {"comment": "a\nb"}) == "comment"
    assert "no configuration 99" in api.fault(404, "GET", "/configuration/99")
    assert "active" in api.fault(409, "PUT", "/configuration/1/settings", {"settings": {}})
    assert "active" in api.fault(409, "DELETE", "/configuration/1")
    late = api("POST", "/configuration/clone", {})["i_configuration"]
    api("POST", f"{path}/apply", {})
    assert "active now" in api.fault(409, "POST", f"/configuration/{late}/apply", {})
    assert api("DELETE", f"/configuration/{late}") == {"i_configuration": late}


# Tokens that may do less


@pytest.mark.databases("sqlite")
def test_a_token_does_what_its_scopes_say(api, sender):
    def status(scopes, method, path):
        token = api.users.open_session(ADMIN, frozenset(scopes)).access_token
        return api.raw(method, path, token=token).status_code

    for path in ("/groups", "/events", "/events/scheduled", "/account/i/541/status"):
        assert status({API_SCOPE}, "GET", path) == 200
        assert status({HANDLERS_SCOPE}, "GET", path) == 403
    for path in ("/handlers", f"/handler/{sender}", "/event_types", "/maintenance", "/workers"):
        assert status({HANDLERS_SCOPE}, "GET", path) == 200
        assert status({API_SCOPE}, "GET", path) == 403
    assert status(set(), "GET", "/groups") == 403
