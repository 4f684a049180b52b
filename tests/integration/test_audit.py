"""Every change that somebody makes is in the audit log, whichever door it came by."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import click
import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from desk import members
from espf import audit, users
from espf.cli import main
from espf.db.tables import audit_log, event_notifications
from espf.janitor import Janitor
from espf.users import Users
from espf.web.app import build_app

pytestmark = pytest.mark.databases("sqlite")

SECRET = "a secret that nobody may read"
FAILED = {"status": "failed", "attempts": 3, "last_error": "503", "next_attempt_at": None}
LATER = {"start_time": "2037-03-01 00:00:00"}
CUSTOM = {"event_type": "Custom/NextMonth"}
LANE = {"about": "account:541"}
HANDLER = "/handler/{i_event_handler}"
DRAFT = "/configuration/{i_configuration}"

#: Requests that change something, in an order in which each can be made, and their lines.
CHANGES = (
    ("POST /event_type/create", CUSTOM, "type.create"),
    ("POST /event_type/disable", CUSTOM, "type.disable"),
    ("POST /event_type/enable", CUSTOM, "type.enable"),
    ("POST /handler/create", {"name": "HSS", "type": "EventSender"}, "handler.create"),
    (
        f"PUT {HANDLER}/settings",
        {
            "settings": {
                "EventSender.URL": "http://127.0.0.1:1",
                "EventSender.APIVersion": "1",
                "EventSender.BasicAuth.User": "espf",
                "EventSender.BasicAuth.Key": SECRET,
            }
        },
        "handler.set",
    ),
    (f"PUT {HANDLER}/subscriptions", CUSTOM, "handler.subscribe"),
    (f"DELETE {HANDLER}/subscriptions?event_type=Account/Blocked", None, "handler.subscribe"),
    (f"POST {HANDLER}/pause", None, "handler.pause"),
    (f"POST {HANDLER}/resume", None, "handler.resume"),
    (f"POST {HANDLER}/disable", None, "handler.disable"),
    (f"POST {HANDLER}/enable", None, "handler.enable"),
    ("POST /event/{failed}/restart", {}, "event.restart"),
    ("POST /events/restart", {"handler": "HSS", "status": "failed"}, "event.restart"),
    ("POST /event/{failed}/skip", {"handler": "HSS", "reason": "why not"}, "event.skip"),
    ("POST /event/cancel", {"key": "one"}, "event.cancel"),
    ("POST /event/{i_event}/cancel", None, "event.cancel"),
    ("POST /lane/hold", {**LANE, "reason": "why not"}, "lane.hold"),
    ("POST /lane/release", LANE, "lane.release"),
    ("POST /group/create", {"name": "IOT"}, "group.create"),
    ("POST /group/delete", {"i_group": 1001}, "group.delete"),
    ("POST /group/create", {"name": "IOT"}, "group.create"),
    ("POST /group/{i_group}", None, "group.delete"),
    ("POST /group/create", {"name": "IOT"}, "group.create"),
    ("DELETE /group/{i_group}", None, "group.delete"),
    ("PUT /maintenance", {"maintenance": True}, "maintenance"),
    ("POST /configuration/clone", {}, "config.clone"),
    (
        f"PUT {DRAFT}/settings",
        {"settings": {"Provisioning.AlertToken": SECRET, "Provisioning.KeepAuditDays": 7}},
        "config.set",
    ),
    (f"POST {DRAFT}/instance/create", {"name": "hss"}, "config.set"),
    (f"DELETE {DRAFT}/instance/hss", None, "config.set"),
    (f"POST {DRAFT}/apply", {}, "config.apply"),
    ("POST /configuration/1/rollback", None, "config.rollback"),
    ("POST /configuration/clone", {}, "config.clone"),
    (f"DELETE {DRAFT}", None, "config.delete"),
    (f"DELETE {HANDLER}?force=true", None, "handler.delete"),
)

#: Other requests that are not safe, and why they leave no line.
UNAUDITED = {
    "POST /event/create": "what applications put into the queue is in the journal",
    "POST /account/i/{i_account}/status": "what applications report is kept with its time",
    "POST /account/{account_id}/status": "as before",
    f"POST {HANDLER}/test": "it changes nothing; the diagnostics tell of it",
    f"POST {DRAFT}/verify": "it changes nothing",
    **dict.fromkeys(
        (
            f"POST {HANDLER}/reconcile",
            "POST /reconciliation/{i_reconciliation}/cancel",
            "POST /reconciliation/{i_reconciliation}/repair",
        ),
        "the tests of reconciliation see their lines",
    ),
}


@pytest.fixture
def at(desk):
    with closing(desk.database()) as database:
        yield database


def lines(database, after=0):
    """The lines after one of them, in their order."""
    with database.read() as connection:
        found = audit.search(connection, audit.Wanted(), 1000)
    return [one for one in reversed(found) if one.i_audit > after]


def fail(database):
    """As a worker would after the last attempt."""
    with database.begin() as connection:
        connection.execute(update(event_notifications).values(FAILED))


def template(name):
    """A request as the OpenAPI document names it."""
    for word in ("{failed}", "{i_event}"):
        name = name.replace(f"/event/{word}/", "/event/{i_event}/")
    name = name.partition("?")[0].replace("/configuration/1/", "/configuration/{i_configuration}/")
    return name.replace("/instance/hss", "/instance/{name}")


def test_every_change_over_the_api_leaves_a_line_or_is_known_not_to(desk, at):
    app = build_app(at, desk.sealer())
    unsafe = {
        f"{method.upper()} {path.removeprefix('/espf/v1')}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/espf/") and method not in {"get", "head"}
    }
    assert unsafe == {template(name) for name, _, _ in CHANGES} | UNAUDITED.keys()


def test_what_changes_over_the_api_is_in_the_audit_log(desk, at):
    with at.begin() as connection:
        (admin,) = (one for one in users.list_all(connection) if one.login == "admin")
    token = Users(at, desk.sealer()).open_session(admin).access_token
    ids = {"i_group": 1001, "name": "hss"}
    with TestClient(build_app(at, desk.sealer())) as client:

        def call(name, body):
            method, path = name.format(**ids).split()
            headers = {"Authorization": f"Bearer {token}"}
            reply = client.request(method, f"/espf/v1{path}", json=body, headers=headers)
            assert reply.status_code == 200, (name, reply.text)
            if path.endswith(("create", "clone")):
                made = reply.json().items()
                ids.update({key: one for key, one in made if key.startswith("i_")})

        for name, body, action in CHANGES:
            if name == "POST /event/{failed}/restart":
                # Somebody to be told, something that failed, and something for later.
                call("POST /event/create", {**CUSTOM, **LATER, "key": "one"})
                call("POST /event/create", CUSTOM)
                ids["failed"] = ids["i_event"]
                call("POST /event/create", {**CUSTOM, **LATER})
            if "{failed}" in name or name == "POST /events/restart":
                fail(at)
            last = max((one.i_audit for one in lines(at)), default=0)
            call(name, body)
            made = lines(at, last)
            assert action in {one.action for one in made}, name
            assert {(one.actor.login, one.actor.door) for one in made} == {("admin", "api")}
        whole = lines(at)
    assert SECRET not in json.dumps([[dict(one.before), dict(one.after)] for one in whole])
    (changed,) = (one for one in whole if one.action == "handler.set")
    assert changed.i_env == admin.i_env
    assert changed.subject == "handler HSS"
    assert changed.before["EventSender.URL"] == ""
    assert changed.after["EventSender.URL"] == "http://127.0.0.1:1"


def test_what_fails_leaves_no_line(desk, at):
    desk("handler", "create", 3, "HSS", "--type", "EventSender")
    before = lines(at)
    desk.fails(4, "handler", "create", 3, "HSS", "--type", "EventSender")
    desk.fails(2, "handler", "set", 3, "HSS", "Concurrency=0")
    assert lines(at) == before


#: Commands that change something, in an order in which each can be given, and their lines.
COMMANDS = (
    ("type create", ["Custom/NextMonth"], "type.create"),
    ("type disable", ["Custom/NextMonth"], "type.disable"),
    ("type enable", ["Custom/NextMonth"], "type.enable"),
    ("handler create", [3, "HSS", "--type", "EventSender", "--disabled"], "handler.create"),
    ("handler set", [3, "HSS", f"EventSender.BasicAuth.Key={SECRET}"], "handler.set"),
    ("handler subscribe", [3, "HSS", "Custom/NextMonth"], "handler.subscribe"),
    ("handler unsubscribe", [3, "HSS", "Account/Blocked"], "handler.subscribe"),
    ("handler enable", [3, "HSS"], "handler.enable"),
    ("handler pause", [3, "HSS"], "handler.pause"),
    ("handler resume", [3, "HSS"], "handler.resume"),
    ("handler disable", [3, "HSS", "--yes"], "handler.disable"),
    ("event restart", ["{failed}"], "event.restart"),
    ("event restart", ["--handler", "HSS", "--yes"], "event.restart"),
    ("event skip", ["{failed}", "--handler", "HSS", "--reason", "why not"], "event.skip"),
    ("event cancel", ["--env", 3, "--key", "one"], "event.cancel"),
    ("event hold", [3, "account:541", "--reason", "why not"], "lane.hold"),
    ("event release", [3, "account:541"], "lane.release"),
    ("handler delete", [3, "HSS", "--force"], "handler.delete"),
    ("maintenance on", [], "maintenance"),
    ("maintenance off", [], "maintenance"),
    ("config clone", [], "config.clone"),
    ("config set", ["{draft}", f"Provisioning.AlertToken={SECRET}"], "config.set"),
    ("config apply", ["{draft}"], "config.apply"),
    ("config rollback", [1], "config.rollback"),
    ("config clone", [], "config.clone"),
    ("config delete", ["{draft}"], "config.delete"),
    ("capture remove", [], "capture.remove"),
    ("capture apply", [], "capture.apply"),
    ("journal prune", ["--older-than", "30d"], "journal.prune"),
    ("user create", ["jane", "--env", 3], "user.create"),
    ("user set", ["jane", "--role", "operator"], "user.set"),
    ("user password", ["jane"], "user.password"),
    ("user delete", ["jane"], "user.delete"),
    ("key rotate", [], "key.rotate"),
)

#: Other commands, and why they leave no line.
SILENT = {
    **dict.fromkeys(("worker list", "config list", "config show", "config fields"), "it looks"),
    **dict.fromkeys(("config diff", "config verify", "maintenance status", "metrics"), "it looks"),
    **dict.fromkeys(("type list", "handler types", "handler show", "handler list"), "it looks"),
    **dict.fromkeys(("handler subscriptions", "event list", "event show"), "it looks"),
    **dict.fromkeys(("event planned", "capture plan", "capture verify"), "it looks"),
    **dict.fromkeys(("capture sql", "user list", "key list"), "it looks"),
    **dict.fromkeys(("alert list", "event timeline", "event held"), "it looks"),
    "reconcile": "the tests of reconciliation see its lines",
    "alert test": "it changes nothing; whoever is told sees it",
    "handler test": "it changes nothing; the diagnostics tell of it",
    "event create": "what is put into the queue is in the journal",
    "billing tick": "it is the time that makes the change",
    "init": "before it there is no log; what it makes is told where it is done",
    **dict.fromkeys(("run", "web"), "a process: what is done by it has doors of its own"),
}


def commands(group, *before):
    for name, one in members(group):
        if isinstance(one, click.Group):
            yield from commands(one, *before, name)
        else:
            yield " ".join((*before, name))


def test_every_changing_command_leaves_a_line_or_is_known_not_to():
    assert set(commands(main)) == {name for name, _, _ in COMMANDS} | SILENT.keys()


def test_what_a_command_changes_is_in_the_audit_log(desk, at):
    ids = {}
    for name, arguments, action in COMMANDS:
        if action == "event.restart" and not ids:
            desk("handler", "enable", 3, "HSS")
            key = ("--key", "one", "--start-time", LATER["start_time"])
            desk("event", "create", 3, "Custom/NextMonth", *key)
            made = desk("event", "create", 3, "Custom/NextMonth")
            ids["failed"] = made.split()[-1]
        if action.startswith("event."):
            fail(at)
        if name == "config set":
            ids["draft"] = desk.json("config", "list")[0]["i_configuration"]
        if name == "config delete":
            ids["draft"] = desk.json("config", "list")[0]["i_configuration"]
        last = max((one.i_audit for one in lines(at)), default=0)
        words = [str(word).format(**ids) for word in arguments]
        desk(*name.split(), *words, stdin=f"{SECRET}\n" if name.startswith("user") else None)
        made = lines(at, last)
        assert action in {one.action for one in made}, name
        assert {one.actor.door for one in made} == {"evctl"}
        assert all(one.actor.login for one in made)
    whole = json.dumps([[dict(one.before), dict(one.after)] for one in lines(at)])
    assert SECRET not in whole


def test_that_a_secret_is_another_one_is_told_and_no_secret(desk, at):
    for key in ("first key", "second key", "second key"):
        desk("handler", "set", 3, "EventSender", f"EventSender.BasicAuth.Key={key}")
    name = "EventSender.BasicAuth.Key"
    told = [(one.before.get(name), one.after.get(name)) for one in lines(at)]
    told = [pair for pair in told if any(pair)]
    assert len(told) == 2
    assert told[0][1] == told[1][0] != told[1][1]
    assert not any("key" in text for pair in told for text in pair if text)


def test_old_lines_are_removed(at):
    with at.begin() as connection:
        for number in range(7):
            who = audit.Actor("ann", "evctl")
            audit.record(connection, at, who, "x", str(number), i_env=None)
        old = datetime.now(UTC) - timedelta(days=366)
        table = audit_log
        connection.execute(
            update(table).where(table.c.subject.in_(list("01234"))).values(happened_at=old)
        )
    at.dialect.batch = 2
    Janitor(at).sweep()
    assert {one.subject for one in lines(at)} >= {"5", "6"}
    with at.read() as connection:
        left = connection.execute(
            select(func.count()).where(audit_log.c.happened_at <= old)
        ).scalar_one()
    assert left == 0
