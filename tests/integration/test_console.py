"""The console: who comes in, what they may do, and the pages about handlers, types and people."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import update

from console import PASSWORD, PEOPLE, console
from espf import sessions, subscriptions
from espf.db.tables import (
    console_sessions,
    event_handlers,
    event_subscriptions,
    users,
)
from espf.web.pages.session import TRIES

pytestmark = pytest.mark.databases("sqlite")

PAGES = (
    "/env/3/handlers",
    "/env/3/handlers/new",
    "/env/3/handlers/{h}",
    "/env/3/handlers/{h}/configuration",
    "/env/3/handlers/{h}/subscriptions",
    "/env/3/handlers/{h}/test",
    "/env/3/handlers/{h}/delete",
    "/env/3/subscriptions",
    "/env/3/event-types",
    "/env/3/event-types/new",
    "/env/3/event-types/Account/Blocked",
    "/env/3/users",
    "/env/3/users/new",
    "/env/3/users/adam",
    "/env/3/audit",
    "/system/workers",
    "/system/capture",
    "/me",
)


@pytest.fixture
def desk(database, sealer):
    with console(database, sealer) as one:
        yield one


@pytest.fixture
def handler(desk):
    with desk.database.begin() as connection:
        made = subscriptions.create_handler(
            connection,
            desk.sealer,
            3,
            "HSS",
            "EventSender",
            {"EventSender.URL": "http://127.0.0.1"},
        )
    return made.i_event_handler


# Coming in


def test_whoever_is_not_logged_in_is_led_to_the_form_and_back_to_the_page(desk):
    nobody = desk.anybody()
    sent = nobody.get("/env/3/handlers?q=x")
    assert (sent.status, sent.location) == (303, "/login?to=/env/3/handlers%3Fq%3Dx")
    form = nobody.get(sent.location)
    assert 'value="/env/3/handlers?q=x"' in form.html
    words = {"login": "adam", "password": PASSWORD, "to": "/env/3/handlers?q=x"}
    assert nobody.post("/login", words).location == "/env/3/handlers?q=x"
    part = nobody.get("/env/3/handlers", hx_request="true")
    assert (part.status, part.headers["hx-redirect"]) == (401, "/login")


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil", "x"])
def test_nobody_is_led_to_another_site(desk, to):
    words = {"login": "adam", "password": PASSWORD, "to": to}
    assert desk.anybody().post("/login", words).location == "/"


def test_the_cookie_is_for_us_alone_and_the_database_does_not_hold_it(desk):
    reply = desk.anybody().post("/login", {"login": "adam", "password": PASSWORD})
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    word = re.search(r"espf_session=([^;]+)", cookie)[1]
    (digest,) = desk.rows(console_sessions, "digest")
    assert word.encode() not in digest[0]


def test_a_wrong_password_is_refused_and_after_some_nobody_may_try(desk):
    nobody = desk.anybody()
    for _ in range(TRIES):
        wrong = nobody.post("/login", {"login": "adam", "password": "wrong"})
        assert wrong.status == 401
        assert "the login or the password is wrong" in wrong.text
    late = nobody.post("/login", {"login": "adam", "password": PASSWORD})
    assert late.status == 429
    assert "try again in" in late.text


@pytest.mark.parametrize("change", [{"enabled": 0}, {"password_hash": "x"}])
def test_a_disabled_user_has_no_session(desk, change):
    adam = desk.as_("adam")
    assert adam.get("/me").status == 200
    with desk.database.begin() as connection:
        connection.execute(update(users).where(users.c.login == "adam").values(**change))
    assert adam.get("/me").status == (303 if "enabled" in change else 200)


@pytest.mark.parametrize(
    ("column", "age"),
    [("seen_at", sessions.IDLE), ("started_at", sessions.LIFE)],
)
def test_a_session_ends_by_itself(desk, column, age):
    adam = desk.as_("adam")
    with desk.database.begin() as connection:
        past = desk.database.now(connection) - age - timedelta(seconds=1)
        connection.execute(update(console_sessions).values({column: past}))
    assert adam.get("/me").location.startswith("/login")


def test_a_session_that_is_used_lives_on(desk):
    adam = desk.as_("adam")
    with desk.database.begin() as connection:
        past = desk.database.now(connection) - sessions.IDLE + timedelta(minutes=5)
        connection.execute(update(console_sessions).values(seen_at=past))
    assert adam.get("/me").status == 200
    ((seen,),) = desk.rows(console_sessions, "seen_at")
    assert seen > past


def test_one_ends_ones_sessions_and_nobody_elses(desk):
    here, there, other = desk.as_("adam"), desk.as_("adam"), desk.as_("olga")
    number = {user: i for i, user in desk.rows(console_sessions, "i_session", "i_user")}
    olga = number[next(i for i, login in desk.rows(users, "i_user", "login") if login == "olga")]
    assert here.post(f"/me/sessions/{olga}/end").status == 404
    assert "1 other sessions have ended" in here.does("/me/sessions/end").text
    assert there.get("/me").status == 303
    assert other.get("/me").status == 200
    assert here.post("/logout").location == "/login"
    assert here.get("/me").status == 303


def test_a_new_password_ends_the_other_sessions(desk):
    here, there = desk.as_("adam"), desk.as_("adam")
    for form, field, said in (
        ({"old": "wrong", "new": "12345678", "again": "12345678"}, "old", "password is wrong"),
        ({"old": PASSWORD, "new": "12345678", "again": "x"}, "again", "not the same"),
        ({"old": PASSWORD, "new": "short", "again": "short"}, "new", "at least 8"),
    ):
        page = here.post("/me/password", form)
        assert page.status == 422
        assert re.search(rf'id="{field}-error">[^<]*{said}', page.html)
    form = {"old": PASSWORD, "new": "new password", "again": "new password"}
    reply = here.post("/me/password", form)
    assert reply.status == 303
    assert there.get("/me").status == 303
    assert "espf_session=" in reply.headers["set-cookie"]
    again = desk.anybody().post("/login", {"login": "adam", "password": "new password"})
    assert again.location == "/"


# What other sites make a browser send


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_another_site_can_change_nothing(desk, handler, headers):
    adam = desk.as_("adam")
    assert adam.post(f"/env/3/handlers/{handler}/pause", **headers).status == 403
    assert desk.rows(event_handlers, "paused") == [(0,)]
    words = {"login": "adam", "password": PASSWORD}
    assert desk.anybody().post("/login", words, **headers).status == 403


def test_pages_run_no_script_but_ours_and_stand_in_no_frame(desk, handler):
    page = desk.as_("root").get(f"/env/3/handlers/{handler}")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    for path in PAGES:
        html = desk.as_("root").get(path.format(h=handler)).html
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", html), path


def test_what_people_type_is_shown_as_text(desk):
    name = "<b>&amp;'\"</b>"
    adam = desk.as_("adam")
    assert adam.post("/env/3/handlers/new", {"name": name, "type": "EventSender"}).status == 303
    html = adam.get("/env/3/handlers").html
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


# Who may do what


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_its_people_and_nobody_of_another_environment(desk, handler, path):
    path = path.format(h=handler)
    assert desk.as_("root").get(path).status == 200
    if path.startswith("/env"):
        assert desk.as_("carl").get(path).status == 404
    expected = 200
    if path.startswith("/system"):
        expected = 403
    if path == "/env/3/event-types/new":
        expected = 403
    assert desk.as_("adam").get(path).status == expected


@pytest.mark.parametrize("login", ["olga", "rita"])
def test_who_may_only_look_or_operate_is_refused_the_rest(desk, handler, login):
    who = desk.as_(login)
    operates = login == "olga"
    for path, form, status in (
        (f"/env/3/handlers/{handler}/pause", {}, 303 if operates else 403),
        (f"/env/3/handlers/{handler}/disable", {}, 403),
        (f"/env/3/handlers/{handler}/test", {"what": "check"}, 403),
        (f"/env/3/handlers/{handler}/delete", {"name": "HSS"}, 403),
        (f"/env/3/handlers/{handler}/configuration", {"Concurrency": "2"}, 403),
        (f"/env/3/handlers/{handler}/subscriptions", {"shown": "Account/New"}, 403),
        ("/env/3/handlers/new", {"name": "x", "type": "EventSender"}, 403),
        ("/env/3/subscriptions", {"cell": f"{handler} Account/New"}, 403),
        ("/env/3/event-types/new", {"name": "Custom/X"}, 403),
        ("/env/3/users/new", {"login": "x", "password": "12345678"}, 403),
        ("/system/maintenance", {"on": "yes"}, 403),
        ("/system/capture/apply", {}, 403),
    ):
        assert who.post(path, form).status == status, path
    assert desk.rows(event_handlers, "name", "enabled") == [("HSS", 1)]
    page = who.get("/env/3/handlers")
    assert ("Pause" in page.text or "Resume" in page.text) == operates
    assert "Users" not in page.text
    assert who.get("/env/3/users").status == 403


def test_the_menu_leads_only_where_one_may_go(desk, handler):
    for login in PEOPLE:
        if login != "carl":
            page = desk.as_(login).get("/env/3/handlers")
            assert ("/system/workers" in page.links()) == (login == "root")


# Handlers


def test_a_handler_is_made_configured_subscribed_and_deleted(desk):
    adam = desk.as_("adam")
    page = adam.post("/env/3/handlers/new", {"name": " ", "type": "EventSender"})
    assert (page.status, page.error_at("name")) == (
        422,
        "1 to 64 printable characters are expected",
    )
    page = adam.does(
        "/env/3/handlers/new", {"name": "HSS", "type": "EventSender", "enabled": ["off", "on"]}
    )
    assert "The handler HSS is created" in page.text
    ((number, enabled),) = desk.rows(event_handlers, "i_event_handler", "enabled")
    assert enabled == 1
    here = f"/env/3/handlers/{number}"
    assert "Not ready yet" in adam.get(here).text
    form = {
        "EventSender.URL": "http://127.0.0.1:5000",
        "EventSender.AuthMethod": "Basic",
        "EventSender.BasicAuth.User": "u",
        "EventSender.BasicAuth.Key": "very secret",
        "Concurrency": "3",
        "EventSender.AsyncMode": ["off", "on"],
    }
    page = adam.does(f"{here}/configuration", form)
    assert "Saved" in page.text
    assert 'value="http://127.0.0.1:5000"' in page.html
    assert "very secret" not in page.html
    assert "Not ready yet" not in adam.get(here).text
    twin = adam.post("/env/3/handlers/new", {"name": "HSS", "type": "EventSender"})
    assert "already" in twin.error_at("name")

    page = adam.post(f"{here}/configuration", {"Concurrency": "0", "EventSender.URL": "kept"})
    assert page.status == 422
    assert "greater than or equal to 1" in page.error_at("Concurrency")
    assert 'value="kept"' in page.html
    assert 'value="3"' in adam.get(f"{here}/configuration").html

    # A secret that is not typed anew stays.
    adam.does(f"{here}/configuration", {"EventSender.BasicAuth.Key": "", "Concurrency": "4"})
    with desk.database.read() as connection:
        kept = subscriptions.find_handler(connection, 3, number)
    assert kept.shown()["EventSender.BasicAuth.Key"] == "••••••••"
    assert kept.shown()["Concurrency"] == "4"

    shown = ["Account/Blocked", "Account/New", "Account/Unblocked"]
    page = adam.does(f"{here}/subscriptions", {"shown": shown, "on": ["Account/New"]})
    assert "2 subscriptions changed" in page.text
    heard = {name for name, i in desk.rows(event_subscriptions, "event_type", "i_event_handler")}
    assert "Account/New" in heard
    assert not heard & {"Account/Blocked", "Account/Unblocked"}

    assert adam.post(f"{here}/delete", {"name": "hss"}).status == 400
    assert "The handler HSS is deleted" in adam.does(f"{here}/delete", {"name": "HSS"}).text
    assert desk.rows(event_handlers) == []
    actions = [(one.actor.login, one.action) for one in desk.audit()]
    assert actions == [
        ("adam", "handler.delete"),
        ("adam", "handler.subscribe"),
        ("adam", "handler.set"),
        ("adam", "handler.set"),
        ("adam", "handler.create"),
    ]
    assert "very secret" not in str(desk.audit())
    assert desk.audit()[3].after["Concurrency"] == "3"
    assert desk.audit()[3].before["Concurrency"] == "1"


def test_a_handler_is_paused_and_goes_on(desk, handler):
    olga = desk.as_("olga")
    assert "HSS is paused" in olga.does(f"/env/3/handlers/{handler}/pause").text
    assert desk.rows(event_handlers, "paused") == [(1,)]
    assert "HSS is resumed" in olga.does(f"/env/3/handlers/{handler}/resume").text
    assert desk.rows(event_handlers, "paused") == [(0,)]
    adam = desk.as_("adam")
    adam.does(f"/env/3/handlers/{handler}/disable")
    assert desk.rows(event_handlers, "enabled") == [(0,)]
    assert adam.post(f"/env/3/handlers/{handler}/explode").status == 400
    assert adam.post(f"/env/4/handlers/{handler}/pause").status == 404


def test_a_list_is_its_address(desk):
    with desk.database.begin() as connection:
        for name in ("b", "a", "c"):
            subscriptions.create_handler(connection, desk.sealer, 3, name, "EventSender", {})
        subscriptions.create_handler(connection, desk.sealer, 4, "foreign", "EventSender", {})
    adam = desk.as_("adam")

    def names(query):
        page = adam.get(f"/env/3/handlers{query}")
        assert page.status == 200, page.text
        return re.findall(r'<td><a href="/env/3/handlers/\d+">(\w)</a>', page.html)

    assert names("") == ["a", "b", "c"]
    assert names("?sort=-name") == ["c", "b", "a"]
    assert names("?q=B") == ["b"]
    assert names("?size=2") == ["a", "b"]
    assert names("?size=2&page=2") == ["c"]
    assert adam.get("/env/3/handlers?sort=nothing").status == 400
    assert adam.get("/env/3/handlers?page=0").status == 400
    csv = adam.get("/env/3/handlers?format=csv&q=b")
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.html.splitlines() == [
        "name,type,state,waiting,retrying,failed,oldest",
        "b,EventSender,unattended,0,0,0,",
    ]


def test_a_csv_file_holds_no_formula(desk):
    with desk.database.begin() as connection:
        subscriptions.create_handler(connection, desk.sealer, 3, "=1+1", "EventSender", {})
    assert "\n'=1+1," in desk.as_("adam").get("/env/3/handlers?format=csv").html.replace("\r", "")


# Subscriptions and types


def test_a_cell_of_the_matrix_is_a_toggle(desk, handler):
    adam = desk.as_("adam")

    def is_on():
        rows = desk.rows(event_subscriptions, "event_type", "i_event_handler")
        return ("Account/New", handler) in rows

    assert is_on()
    cell = {"cell": f"{handler} Account/New"}
    assert "is not subscribed" in adam.does("/env/3/subscriptions", cell).text
    assert not is_on()
    part = adam.post("/env/3/subscriptions", cell, hx_request="true")
    assert part.status == 200
    assert 'aria-checked="true"' in part.html
    assert "<html" not in part.html
    assert is_on()
    assert adam.post("/env/3/subscriptions", {"cell": "x y"}).status == 400
    assert adam.post("/env/3/subscriptions", {"cell": f"{handler} No/Type"}).status == 404
    csv = adam.get("/env/3/subscriptions?format=csv&q=Account/New").html.splitlines()
    assert csv == ["event_type,HSS", "Account/New,subscribed"]


def test_a_custom_type_is_made_by_a_superuser(desk, handler):
    root = desk.as_("root")
    page = root.post("/env/3/event-types/new", {"name": "Mine"})
    assert page.status == 422
    assert "must start with" in page.error_at("name")
    assert (
        "Custom/NextMonth is created"
        in root.does("/env/3/event-types/new", {"name": "Custom/NextMonth"}).text
    )
    assert "exists already" in root.post(
        "/env/3/event-types/new", {"name": "Custom/NextMonth"}
    ).error_at("name")
    assert root.get("/env/3/event-types/Custom/NextMonth").status == 200
    assert root.get("/env/3/event-types/No/Type").status == 404


def test_a_type_is_left_out_of_the_triggers_and_taken_back(desk):
    root = desk.as_("root")
    root.does("/system/capture/apply")
    assert "installed" in root.get("/system/capture").text
    assert "missing" not in root.get("/system/capture").text
    name = "Account/Blocked"
    assert (
        "no longer captured"
        in root.does("/env/3/event-types/switch", {"name": name, "on": "no"}).text
    )
    listed = root.get("/system/capture?q=Account/Blocked").text
    assert "Account/Blocked" not in listed.split("Event types")[-1]
    assert (
        "captured again" in root.does("/env/3/event-types/switch", {"name": name, "on": "yes"}).text
    )
    assert "With, µs a row" in root.post("/system/capture/measure").text


# The installation, and people


def test_maintenance_lets_all_deliveries_wait(desk):
    root = desk.as_("root")
    assert "All deliveries wait" in root.does("/system/maintenance", {"on": "yes"}).text
    assert "Deliveries go on" in root.does("/system/maintenance", {"on": "no"}).text
    assert [one.action for one in desk.audit()] == ["maintenance", "maintenance"]
    assert [one.i_env for one in desk.audit()] == [None, None]


def test_an_administrator_looks_after_the_users_of_the_environment(desk):
    adam = desk.as_("adam")
    page = adam.post("/env/3/users/new", {"login": "new", "password": "short", "role": "operator"})
    assert "at least 8" in page.error_at("password")
    page = adam.post(
        "/env/3/users/new", {"login": "olga", "password": "12345678", "role": "operator"}
    )
    assert "is taken" in page.error_at("login")
    page = adam.post("/env/3/users/new", {"login": "new", "password": "12345678", "role": "king"})
    assert "is not one of" in page.error_at("role")
    form = {"login": "new", "password": "12345678", "role": "operator", "superuser": "on"}
    adam.does("/env/3/users/new", form)
    known = {row[0]: row[1:] for row in desk.rows(users, "login", "i_env", "superuser", "role")}
    assert known["new"] == (3, 0, "operator")
    assert adam.get("/env/3/users/carl").status == 404
    assert adam.post("/env/3/users/carl", {"role": "readonly"}).status == 404
    assert adam.post("/env/3/users/root", {"role": "readonly"}).status == 409
    assert adam.post("/env/3/users/adam/delete").status == 409

    olga = desk.as_("olga")
    adam.does("/env/3/users/olga", {"role": "readonly", "enabled": "on"})
    assert olga.get("/me").status == 303
    adam.does("/env/3/users/new/password", {"password": "a new one, long"})
    adam.does("/env/3/users/new/delete")
    assert "new" not in {row[0] for row in desk.rows(users, "login")}
    assert [one.action for one in desk.audit()] == [
        "user.delete",
        "user.password",
        "user.set",
        "user.create",
    ]
    assert desk.audit()[2].before == {"role": "operator"}
    assert desk.audit()[2].after == {"role": "readonly"}


def test_there_is_always_a_superuser(desk):
    root = desk.as_("root")
    page = root.post("/env/3/users/root", {"role": "readonly", "superuser": "off", "enabled": "on"})
    assert page.status == 422
    assert "no superuser would be left" in page.text
    assert desk.as_("root").get("/system/workers").status == 200


def test_the_audit_log_is_searched_a_part_at_a_time(desk, handler, monkeypatch):
    monkeypatch.setattr("espf.audit.LOOK", 2)
    adam = desk.as_("adam")
    adam.does(f"/env/3/handlers/{handler}/disable")
    for _ in range(3):
        adam.does(f"/env/3/handlers/{handler}/pause")
    page = adam.get("/env/3/audit?q=disable")
    assert "this page ends early" in page.text
    assert "handler.disable" not in page.text
    page = adam.get(next(link for link in page.links() if "before=" in link))
    assert "handler.disable" in page.text
    assert "handler.disable" in adam.get("/env/3/audit?q=disable&format=csv").html


def test_the_audit_log_is_searched_and_paged(desk, handler):
    adam = desk.as_("adam")
    for _ in range(3):
        adam.does(f"/env/3/handlers/{handler}/pause")
        adam.does(f"/env/3/handlers/{handler}/resume")
    assert adam.get("/env/3/audit").text.count("handler.pause") == 3
    assert adam.get("/env/3/audit?q=resume").text.count("handler.pause") == 0
    assert "No change fits" in adam.get("/env/3/audit?login=olga").text
    first = adam.get("/env/3/audit?size=4")
    older = next(link for link in first.links() if "before=" in link)
    assert adam.get(older).text.count("handler.") == 2
    csv = adam.get("/env/3/audit?format=csv").html.splitlines()
    assert len(csv) == 7
    assert adam.get("/env/3/audit?since=yesterday").status == 400
    assert "No change fits" in desk.as_("carl").get("/env/4/audit").text


def test_a_program_gets_a_credential_of_its_own_that_is_taken_back(desk):
    adam = desk.as_("adam")
    for form, field in (
        ({"name": "", "scopes": "espf.api:write", "days": "9"}, "name"),
        ({"name": "robot", "scopes": "all", "days": "9"}, "scopes"),
        ({"name": "robot", "days": "9"}, "scopes"),
        ({"name": "robot", "scopes": "espf.api:write", "days": "367"}, "days"),
        ({"name": "robot", "scopes": "espf.api:write", "days": "x"}, "days"),
    ):
        page = adam.post("/me/credentials", form)
        assert page.status == 422
        assert f'id="credential-{field}-error"' in page.html
    page = adam.post("/me/credentials", {"name": "robot", "scopes": "espf.api:write", "days": "9"})
    token = re.search(r'<pre id="token">([^<]+)', page.html)[1]
    again = adam.post("/me/credentials", {"name": "robot", "scopes": "espf.api:write", "days": "9"})
    assert "already" in again.text

    def call(path):
        headers = {"Authorization": f"Bearer {token}"}
        return desk.client.get(path, headers=headers).status_code

    assert call("/espf/v1/events") == 200
    assert call("/espf/v1/handlers") == 403
    shown = adam.get("/me")
    assert "robot" in shown.text
    assert token not in shown.html
    assert token not in str(desk.audit())
    take_back = re.search(r'action="(/me/credentials/\w+/revoke)"', shown.html)[1]
    assert desk.as_("olga").post(take_back).status == 404
    assert call("/espf/v1/events") == 200
    assert "opens nothing any more" in adam.does(take_back).text
    assert call("/espf/v1/events") == 401
