"""The console: events found, restarted, skipped, called off; timelines of subscribers."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from sqlalchemy import delete, insert, select, update

from console import console
from databases import whatever_the_database
from espf import (
    journal,
    mass_restarts,
    overview,
    schedule,
    sources,
    subscriptions,
    timeline,
)
from espf.billing.tables import accounts, customers, products
from espf.db.tables import event_notifications, event_queue, provisioning_log
from espf.db.tables import mass_restarts as restart_rows
from espf.errors import NotFound
from espf.janitor import Janitor
from espf.sources import Filter
from espf.web.pages import restarting
from house import House
from webhook import Answer, Webhook

pytestmark = whatever_the_database

NOBODY = "http://127.0.0.1:1"
EVENTS = "/env/3/events"
FAILED = {"status": "failed", "attempts": 3, "last_error": "HTTP 503 <busy>"}
FAR = datetime(2037, 3, 1, tzinfo=UTC)


@pytest.fixture
def desk(database, sealer):
    with console(database, sealer) as one:
        yield one


@pytest.fixture
def house(desk, tmp_path) -> House:
    return House(desk.database, desk.sealer, tmp_path)


@pytest.fixture
def hss(house):
    return house.handler(NOBODY, "HSS", 3)


@pytest.fixture
def olga(desk):
    return desk.as_("olga")


def change(house, *i_events, **values):
    """What a worker would have done to notifications."""
    with house.database.begin() as connection:
        connection.execute(
            update(event_notifications)
            .where(event_notifications.c.i_event.in_(i_events))
            .values(values)
        )


def event(house, event_type="Account/Blocked", **variables):
    return house.event(event_type, 3, **variables)


def statuses(house, **wanted):
    return {(one.i_event, one.handler): one.status for one in house.events(i_env=3, **wanted)}


def shown(page):
    """The numbers of the events in a list, in its order."""
    return [int(number) for number in re.findall(r'<(?:tbody|tr) id="event-(\d+)"', page.html)]


def link(page, title):
    """Where a link leads to whose words begin so."""
    found = re.findall(r'<a [^>]*?href="([^"]*)"[^>]*>(.*?)</a>', page.html, re.DOTALL)
    return next(
        unescape(href)
        for href, words in found
        if re.sub(r"<[^>]+>", "", words).strip().startswith(title)
    )


# The search


def test_events_are_found_by_what_the_panel_says(olga, house, hss):
    with house.database.begin() as connection:
        now = house.database.now(connection)
        connection.execute(
            insert(customers).values(i_customer=1, i_env=3, name="Acme", creation_date=now)
        )
        connection.execute(insert(products).values(i_product=1, i_env=3, name="LTE"))
        connection.execute(
            insert(accounts).values(
                i_account=541,
                i_env=3,
                id="4412345@msisdn",
                i_customer=1,
                i_product=1,
                billing_model=-1,
                issue_date=now,
            )
        )
    crm = house.handler(NOBODY, "CRM", 3)
    mine = event(house, "Account/New", i_account=541)
    other = event(house, i_account=7)
    foreign = house.event("Account/New", 4, i_account=541)
    change(house, other, **FAILED)
    for query, found in {
        "": [other, mine],
        "?handler=HSS": [other, mine],
        "?status=failed": [other],
        "?status=queued": [mine],
        "?type=Account/*": [other, mine],
        "?type=Account/New": [mine],
        "?about=4412345@msisdn": [mine],
        "?about=account:7": [other],
        "?from=1h": [other, mine],
        "?to=1h": [],
        "?from=2037-03-01+00:00": [],
        "?to=2037-03-01": [other, mine],
        "?order=oldest": [mine, other],
    }.items():
        page = olga.get(EVENTS + query)
        assert (page.status, shown(page)) == (200, found), query
    assert foreign not in shown(olga.get(EVENTS))
    page = olga.get(f"{EVENTS}?handler=Gone")
    assert "<option selected>Gone</option>" in page.html
    assert crm.name in page.text


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("status=x", "status", "not one of all"),
        ("type=A*b", "type", "the rest of a name"),
        ("about=nobody", "about", "nobody is known as"),
        ("from=yesterday", "from", "how long ago"),
        ("to=999999w", "to", "too long ago"),
        ("from=1h&to=2h", "to", "later than From"),
        ("handler=a%00b", "handler", "printable"),
        ("about=" + "x" * 300, "about", "at most 255"),
    ],
)
def test_what_is_wrong_in_the_panel_stands_beside_its_field(olga, hss, query, field, said):
    page = olga.get(f"{EVENTS}?{query}")
    assert page.status == 422
    assert said in page.error_at(field)
    assert olga.get(f"{EVENTS}?format=csv&{query}").status == 422


@pytest.mark.parametrize("query", ["size=0", "after=x", "before=-1", "open=x", "chosen=x"])
def test_an_address_that_nobody_has_made_is_refused(olga, hss, query):
    assert olga.get(f"{EVENTS}?{query}").status == 422
    assert olga.get(f"{EVENTS}?status=scheduled&after=x").status == 422


def test_pages_lead_to_one_another_in_both_directions_and_stay_what_they_are(olga, house, hss):
    made = [event(house, i_account=n) for n in range(7)]
    first = olga.get(f"{EVENTS}?size=3&type=Account/*")
    second = olga.get(link(first, "Next"))
    third = olga.get(link(second, "Next"))
    assert [shown(page) for page in (first, second, third)] == [
        made[:3:-1],
        made[3:0:-1],
        made[:1],
    ]
    assert 'rel="next"' not in third.html
    assert shown(olga.get(link(third, "Previous"))) == made[3:0:-1]
    event(house, i_account=9)
    assert shown(olga.get(link(first, "Next"))) == made[3:0:-1]
    oldest = olga.get(f"{EVENTS}?size=3&order=oldest")
    assert shown(oldest) == made[:3]
    assert shown(olga.get(link(oldest, "Next"))) == made[3:6]


@pytest.mark.parametrize(("order", "way"), [("newest", "before"), ("oldest", "after")])
def test_what_is_rare_is_looked_for_page_by_page_until_it_is_found(
    olga, house, hss, monkeypatch, order, way
):
    monkeypatch.setattr(overview, "FIRST_LOOK", 5)
    monkeypatch.setattr(overview, "LOOK", 10)
    monkeypatch.setattr(sources, "LOOK", 10)
    for n in range(41):
        event(house, "Account/New" if n == 20 else "Account/Blocked", i_account=n)
    deliver(house)
    page = olga.get(f"{EVENTS}?type=Account/New&order={order}")
    pages = 0
    while found := re.search(r'role="status" hx-get="([^"]*)"', page.html):
        assert shown(page) == []
        assert f"{way}=" in found[1]
        page = olga.get(unescape(found[1]))
        pages += 1
    assert shown(page) == [21]
    assert pages > 1


def test_the_count_is_asked_for_by_itself(olga, house, hss):
    change(house, event(house, i_account=1), **FAILED)
    event(house, i_account=2)
    assert f'hx-get="{EVENTS}/count?status=failed"' in olga.get(f"{EVENTS}?status=failed").html
    assert olga.get(f"{EVENTS}/count?status=failed").text == "1 in all"
    assert olga.get(f"{EVENTS}/count").text == "2 in all"


def test_all_that_fits_comes_as_csv(olga, house, hss):
    made = [event(house, i_account=n) for n in range(60)]
    change(house, *made[:2], **{**FAILED, "last_error": "=cmd|' /C calc'!A0"})
    reply = olga.get(f"{EVENTS}?size=25&format=csv")
    rows = list(csv.DictReader(io.StringIO(reply.html)))
    assert reply.headers["content-type"].startswith("text/csv")
    assert [int(row["i_event"]) for row in rows] == made[::-1]
    reply = olga.get(f"{EVENTS}?status=failed&format=csv")
    reasons = [row["reason"] for row in csv.DictReader(io.StringIO(reply.html))]
    assert reasons == ["'=cmd|' /C calc'!A0"] * 2


def test_a_live_list_renews_itself_and_keeps_what_is_open_or_selected(olga, house, hss):
    made = [event(house, i_account=n) for n in range(5)]
    change(house, *made, **FAILED)
    still = olga.get(f"{EVENTS}?size=2")
    assert "every 3s" not in still.html
    live = olga.get(link(still, "Live"))
    assert 'hx-trigger="every 3s"' in live.html
    # What a browser sends along: the boxes that are ticked.
    moved = olga.get(
        f"{EVENTS}?size=2&live=1&open={made[0]}&chosen={made[1]}/HSS&chosen={made[4]}/HSS"
    )
    assert shown(moved) == [made[1], made[0], made[4], made[3]]
    assert moved.html.count("story-row") == 1
    assert len(re.findall(r'name="chosen"[^>]* checked', moved.html)) == 2
    assert f'hx-get="{EVENTS}?size=2&amp;live=1&amp;open={made[0]}"' in moved.html
    assert link(moved, "Stop live") == f"{EVENTS}?size=2&open={made[0]}"


# One event


async def test_an_event_tells_all_that_was_tried(desk, house):
    async with Webhook() as hook:
        hook.then(Answer(500, body="<b>busy</b>"))
        hss = house.handler(hook.url, "HSS", 3, MaxAttempts=2, RetryDelays="1s")
        crm = house.handler(hook.url, "CRM", 3)
        i_event = event(house, "Account/New", i_account=541, id="44 & 1")
        async with house.working():
            await house.until("finished")
    olga = desk.as_("olga")
    whole = olga.get(f"{EVENTS}/{i_event}")
    row = olga.get(f"{EVENTS}?open={i_event}")
    for page in (whole, row):
        assert "An account was created" in page.text
        assert 'id "44 & 1"' in page.text
        assert "POST http://127.0.0.1" in page.text
        assert "HTTP 500" in page.text
        assert "&lt;b&gt;busy" in page.html
        assert "attempt 2" in page.text
        for handler in (hss, crm):
            assert handler.name in page.text
        assert len(re.findall(r'id="attempt-', page.html)) == 3
    # It is over: there is nothing to wait for.
    assert "hx-trigger" not in whole.html
    assert "Send again" in whole.text


def test_an_event_of_somebody_else_is_not_there(desk, house, hss):
    foreign = house.event("Account/New", 4, i_account=1)
    mine = event(house, i_account=1)
    change(house, mine, **FAILED)
    olga, carl = desk.as_("olga"), desk.as_("carl")
    assert olga.get(f"{EVENTS}/{foreign}").status == 404
    assert olga.get(f"{EVENTS}/4711").status == 404
    assert olga.post(f"{EVENTS}/{foreign}/restart").status == 404
    assert olga.post(f"{EVENTS}/chosen/restart", {"chosen": f"{foreign}/HSS"}).status == 409
    assert carl.get(f"{EVENTS}/{mine}").status == 404
    assert carl.post(f"{EVENTS}/{mine}/restart").status == 404
    assert statuses(house) == {(mine, "HSS"): "failed"}
    assert desk.audit() == []


def test_whoever_only_reads_sees_no_buttons_and_changes_nothing(desk, house, hss):
    failed, due = event(house, i_account=1), house.event("Account/New", 3, FAR, i_account=2)
    change(house, failed, **FAILED)
    rita = desk.as_("rita")
    for path in (
        *(EVENTS, f"{EVENTS}?open={failed}", f"{EVENTS}?status=scheduled", f"{EVENTS}/{failed}"),
        *("/env/3/timeline", "/env/3/timeline/account:1"),
    ):
        page = rita.get(path)
        assert page.status == 200
        content = page.html.partition("<main")[2]
        buttons = re.findall(r"<button[^>]*>(.*?)</button>", content, re.DOTALL)
        assert all("Apply" in words or "Find" in words for words in buttons), path
        assert "checkbox" not in content
    form = {"handler": "HSS", "reason": "x", "chosen": f"{failed}/HSS"}
    for path in (
        *(f"{EVENTS}/{failed}/restart", f"{EVENTS}/{failed}/skip", f"{EVENTS}/{due}/cancel"),
        *(f"{EVENTS}/chosen/restart", f"{EVENTS}/chosen/cancel", f"{EVENTS}/restart"),
        *("/env/3/timeline/account:1/hold", "/env/3/timeline/account:1/release"),
    ):
        assert rita.post(path, form).status == 403, path
    assert rita.get(f"{EVENTS}/restart").status == 403
    assert statuses(house) == {(failed, "HSS"): "failed", (due, None): "scheduled"}
    assert desk.audit() == []


# Restart, skip, cancel


def test_one_click_restarts_and_leads_back_to_the_list(desk, olga, house, hss):
    house.handler(NOBODY, "CRM", 3)
    i_event = event(house, i_account=1)
    change(house, i_event, **FAILED)
    back = f"{EVENTS}?status=failed&open={i_event}"
    reply = olga.post(f"{EVENTS}/{i_event}/restart", {"handler": "HSS", "back": back})
    assert (reply.status, reply.location) == (303, back)
    assert statuses(house) == {(i_event, "HSS"): "queued", (i_event, "CRM"): "failed"}
    (entry,) = desk.audit()
    assert (entry.actor.login, entry.actor.door) == ("olga", "console")
    assert (entry.action, entry.subject) == ("event.restart", f"event {i_event}")
    assert entry.after == {"handlers": ["HSS"]}
    page = olga.does(f"{EVENTS}/{i_event}/restart")
    assert f"Event {i_event} is restarted for CRM" in page.text
    again = olga.post(f"{EVENTS}/{i_event}/restart")
    assert again.status == 409
    assert "nothing to restart" in again.text


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example/env/3/", "/env/4/events", "/env/3/\\x"]
)
def test_nobody_is_led_elsewhere(olga, house, hss, back):
    i_event = event(house, i_account=1)
    change(house, i_event, **FAILED)
    reply = olga.post(f"{EVENTS}/{i_event}/restart", {"back": back})
    assert reply.location == f"{EVENTS}/{i_event}"


def test_what_is_selected_is_restarted_and_what_cannot_be_is_told(desk, olga, house, hss):
    first, second, waits = (event(house, i_account=n) for n in range(3))
    change(house, first, second, **FAILED)
    chosen = [f"{one}/HSS" for one in (first, waits, second)]
    page = olga.does(f"{EVENTS}/chosen/restart", {"chosen": chosen})
    assert "2 restarted; not all:" in page.text
    assert f"event {waits} waits for its first attempt" in page.text
    assert set(statuses(house).values()) == {"queued"}
    assert len(desk.audit()) == 2
    assert olga.post(f"{EVENTS}/chosen/restart").status == 400
    assert olga.post(f"{EVENTS}/chosen/restart", {"chosen": "x/HSS"}).status == 400


def test_a_handler_gives_up_an_event_for_a_reason(desk, olga, house, hss):
    i_event = event(house, i_account=1)
    change(house, i_event, **FAILED)
    page = olga.get(link(olga.get(f"{EVENTS}/{i_event}"), "Skip …"))
    assert "HTTP 503 <busy>" in page.text
    empty = olga.post(f"{EVENTS}/{i_event}/skip", {"handler": "HSS", "reason": "  "})
    assert (empty.status, empty.error_at("reason")) == (422, "say why")
    long = olga.post(f"{EVENTS}/{i_event}/skip", {"handler": "HSS", "reason": "x" * 70_000})
    assert (long.status, long.error_at("reason")) == (422, "at most 2,000 characters")
    assert statuses(house) == {(i_event, "HSS"): "failed"}
    words = {"handler": "HSS", "reason": "the account is closed"}
    page = olga.does(f"{EVENTS}/{i_event}/skip", words)
    assert f"Event {i_event} is skipped for HSS" in page.text
    assert statuses(house) == {(i_event, "HSS"): "skipped"}
    assert desk.rows(provisioning_log, "reason") == [("the account is closed",)]
    assert desk.audit()[0].after == words
    assert olga.post(f"{EVENTS}/{i_event}/skip", words).status == 409
    assert olga.get(f"{EVENTS}/{i_event}/skip?handler=CRM").status == 404


def plan(house, connection, n):
    """An event under a key, n days before another."""
    who = {"i_account": n}
    return schedule.create(
        *(connection, house.queue, house.database, 3, "Custom/NextMonth", who),
        *(FAR - timedelta(days=n), f"next-month-{n}"),
    ).i_event


def test_scheduled_events_are_listed_by_their_times_and_called_off(desk, olga, house, hss):
    with house.database.begin() as connection:
        subscriptions.create_type(connection, "Custom/NextMonth")
        made = [plan(house, connection, n) for n in range(5)]
    first = olga.get(f"{EVENTS}?status=scheduled&size=2")
    assert shown(first) == [made[4], made[3]]
    assert "next-month-4" in first.text
    second = olga.get(link(first, "Next"))
    third = olga.get(link(second, "Next"))
    assert [shown(page) for page in (second, third)] == [[made[2], made[1]], [made[0]]]
    assert shown(olga.get(link(third, "Previous"))) == [made[2], made[1]]
    assert shown(olga.get(link(second, "Previous"))) == [made[4], made[3]]
    assert shown(olga.get(f"{EVENTS}?status=scheduled&about=account:2")) == [made[2]]
    assert shown(olga.get(f"{EVENTS}?status=scheduled&from=2037-02-27+00:00:00")) == made[2::-1]
    assert shown(olga.get(f"{EVENTS}?status=scheduled&type=Account/*")) == []
    assert "choose all handlers" in olga.get(f"{EVENTS}?status=scheduled&handler=HSS").text
    reply = olga.get(f"{EVENTS}?status=scheduled&format=csv")
    keys = [row["key"] for row in csv.DictReader(io.StringIO(reply.html))]
    assert keys == [f"next-month-{n}" for n in (4, 3, 2, 1, 0)]
    page = olga.does(f"{EVENTS}/{made[4]}/cancel", {"back": f"{EVENTS}?status=scheduled"})
    assert shown(page) == made[3::-1]
    chosen = {"chosen": [f"{made[3]}/", f"{made[2]}/"], "back": f"{EVENTS}?status=scheduled"}
    assert shown(olga.does(f"{EVENTS}/chosen/cancel", chosen)) == [made[1], made[0]]
    assert [entry.action for entry in desk.audit()] == ["event.cancel"] * 3
    assert olga.post(f"{EVENTS}/{made[4]}/cancel").status == 409


# Many


@pytest.fixture
def slow(monkeypatch):
    """A step at a time."""
    monkeypatch.setattr(restarting, "STEPS_SECONDS", 0.0)


def test_many_are_counted_first_and_restarted_step_by_step(desk, olga, house, hss, slow):
    made = [event(house, i_account=n) for n in range(25)]
    change(house, *made[:22], **FAILED)
    house.database.dialect.batch = 10
    asked = olga.get(f"{EVENTS}/restart?handler=HSS")
    assert "Counting" in asked.text
    counted = olga.get(f"{EVENTS}/restart?handler=HSS&count=1")
    assert "22 notifications" in counted.text
    assert statuses(house, status="failed")
    run = olga.post(f"{EVENTS}/restart", {"handler": "HSS", "status": "failed"}).location
    # What happens from now on is not meant.
    later = event(house, i_account=99)
    change(house, later, **FAILED)
    assert "olga restarts 22 notifications" in olga.get(EVENTS).text
    assert f'hx-post="{run}/step"' in olga.get(run).html
    rita = desk.as_("rita")
    assert "hx-post" not in rita.get(run).html
    assert {rita.post(f"{run}/{act}").status for act in ("step", "cancel")} == {403}
    seen = []
    while "hx-post" in (page := olga.post(f"{run}/step", hx_request="true")).html:
        seen.append(int(re.search(r"(\d+) of 22", page.text)[1]))
    assert 0 < seen[0] < seen[1] < seen[-1] == 22
    assert "done" in page.text
    assert set(statuses(house, status="failed")) == {(later, "HSS")}
    # Loaded anew, it is as it was; another step changes nothing.
    assert "done" in olga.get(run).text
    assert "done" in olga.does(f"{run}/step").text
    assert set(statuses(house, status="failed")) == {(later, "HSS")}
    assert "restarts 22" not in olga.get(EVENTS).text
    assert [entry.action for entry in desk.audit()] == ["events.restart.done", "events.restart"]
    assert desk.audit()[1].after["notifications"] == 22


def test_a_restart_of_many_is_stopped_where_it_is(desk, olga, house, hss, slow):
    made = [event(house, i_account=n) for n in range(25)]
    change(house, *made, **FAILED)
    house.database.dialect.batch = 10
    run = olga.post(f"{EVENTS}/restart", {"status": "failed"}).location
    olga.post(f"{run}/step")
    assert "cancelled" in olga.does(f"{run}/cancel").text
    olga.post(f"{run}/step")
    olga.post(f"{run}/cancel")
    stopped = int(re.search(r"(\d+) of 25", olga.get(run).text)[1])
    assert 0 < stopped < 25
    assert len(statuses(house, status="failed")) == 25 - stopped
    assert desk.audit()[0].action == "events.restart.cancelled"
    assert len(desk.audit()) == 2
    carl = desk.as_("carl")
    foreign = run.replace("/env/3/", "/env/4/")
    assert carl.get(foreign).status == 404
    assert carl.post(f"{foreign}/step").status == 404


@pytest.mark.parametrize(
    ("words", "field"), [({"status": "queued"}, "status"), ({"about": "nobody"}, "about")]
)
def test_what_cannot_be_restarted_is_told_beside_its_field(desk, olga, hss, words, field):
    reply = olga.post(f"{EVENTS}/restart", words)
    assert reply.status == 422
    assert reply.error_at(field)
    assert desk.rows(restart_rows) == []


def deliver(house):
    """What a worker would do to all that waits."""
    with house.database.begin() as connection:
        now = house.database.now(connection)
        rows = connection.execute(
            select(event_queue, event_notifications.c.i_event_handler).join(
                event_notifications, event_notifications.c.i_event == event_queue.c.i_event
            )
        ).all()
        journal.record(
            connection,
            [
                journal.Entry(
                    i_event=row.i_event,
                    i_env=row.i_env,
                    event_type=row.event_type,
                    ordering_key=row.ordering_key,
                    verdict="finished",
                    variables=row.variables,
                    i_event_handler=row.i_event_handler,
                    handler="HSS",
                    attempt=1,
                    created_at=row.created_at,
                    logged_at=now,
                )
                for row in rows
            ],
        )
        for table in (event_notifications, event_queue):
            connection.execute(delete(table))


@pytest.mark.databases("sqlite", "postgresql", "mariadb")
def test_a_restart_restarts_each_event_once_and_is_forgotten_in_the_end(database, sealer, tmp_path):
    house = House(database, sealer, tmp_path)
    house.handler(NOBODY, "HSS", 3)
    for n in range(25):
        event(house, i_account=n)
    deliver(house)
    database.dialect.batch = 10
    with database.begin() as connection:
        since = database.now(connection) - timedelta(hours=1)
        wanted = Filter(i_env=3, status="finished", since=since)
        wanted, total = mass_restarts.prepare(connection, database, wanted)
        number = mass_restarts.begin(connection, database, 3, "olga", wanted, total)
    assert total == 25
    steps, one = 0, None
    while one is None or one.state == "running":
        with database.begin() as connection:
            one = mass_restarts.step(connection, database, 3, number)
        # Delivered again at once, it fits again.
        deliver(house)
        steps += 1
        assert steps < 10
    assert (one.restarted, one.state) == (25, "done")
    with database.begin() as connection:
        assert mass_restarts.find(connection, 3, number) == one
        connection.execute(update(restart_rows).values(moved_at=one.moved_at - mass_restarts.KEPT))
    Janitor(database, timedelta(days=1), timedelta(days=1)).sweep()
    with database.read() as connection, pytest.raises(NotFound):
        mass_restarts.find(connection, 3, number)


# Timelines


def test_a_timeline_has_all_of_a_subscriber_over_all_handlers(olga, house, hss):
    house.handler(NOBODY, "CRM", 3)
    made = [event(house, i_account=541) for _ in range(3)]
    event(house, i_account=7)
    found = olga.get("/env/3/timeline?about=account:541")
    assert (found.status, found.location) == (303, "/env/3/timeline/account%3A541")
    page = olga.get(found.location)
    assert shown(page) == made[::-1]
    assert page.text.count("CRM") == 3
    assert "Nothing: what happens is delivered in order" in page.text
    assert shown(olga.get(f"{found.location}?order=oldest")) == made
    assert "story-row" in olga.get(f"{found.location}?open={made[0]}").html
    rest = next(link for link in page.links() if "format=csv" in link)
    rows = list(csv.DictReader(io.StringIO(olga.get(rest).html)))
    assert {(row["i_event"], row["handler"]) for row in rows} == {
        (str(one), name) for one in made for name in ("CRM", hss.name)
    }
    unknown = olga.get("/env/3/timeline?about=4412345")
    assert unknown.status == 422
    assert "nobody is known as '4412345'" in unknown.error_at("about")
    assert 'value="4412345"' in unknown.html
    assert olga.get("/env/3/timeline/did:a%2Fb%3Fc").status == 200
    assert olga.get("/env/3/timeline/account:1%00").status == 404


def test_what_holds_a_subscriber_is_told_and_can_be_skipped(desk, olga, house, hss):
    first, second = (event(house, i_account=541) for _ in range(2))
    with house.database.begin() as connection:
        now = house.database.now(connection)
    change(house, first, ordering_key="account:541", next_attempt_at=now, **FAILED)
    page = olga.get("/env/3/timeline/account:541")
    assert f"Event {first} failed at" in page.text
    assert "holds what comes behind it: HTTP 503 <busy>" in page.text
    ask = olga.get(link(page, "Skip …"))
    back = re.search(r'name="back" value="([^"]*)"', ask.html)[1]
    assert unescape(back) == "/env/3/timeline/account:541"
    words = {"handler": "HSS", "reason": "x", "back": unescape(back)}
    done = olga.does(f"{EVENTS}/{first}/skip", words)
    assert "Nothing: what happens is delivered in order" in done.text
    with house.database.begin() as connection:
        subscriptions.set_handler_paused(connection, hss, paused=True)
    assert "The handler is paused" in olga.get("/env/3/timeline/account:541").text
    assert statuses(house)[second, "HSS"] == "queued"


def test_a_subscriber_is_held_for_a_reason_and_released(desk, olga, house, hss):
    here = "/env/3/timeline/account:541"
    empty = olga.post(f"{here}/hold", {"handler": "HSS", "reason": " "})
    assert (empty.status, empty.error_at("reason")) == (422, "say why")
    unknown = olga.post(f"{here}/hold", {"handler": "CRM", "reason": "x"})
    assert (unknown.status, bool(unknown.error_at("handler"))) == (422, True)
    page = olga.does(f"{here}/hold", {"handler": "", "reason": "moved by hand"})
    assert "account:541 is held for HSS" in page.text
    assert "olga: moved by hand" in page.text
    assert "olga: moved by hand" in olga.get("/env/3/timeline").text
    twice = olga.post(f"{here}/hold", {"handler": "HSS", "reason": "x"})
    assert (twice.status, "is held already" in twice.text) == (422, True)
    with house.database.read() as connection:
        assert timeline.held_keys(connection, hss.i_event_handler) == {"account:541"}
    assert "goes on for HSS" in olga.does(f"{here}/release", {"handler": "HSS"}).text
    assert olga.post(f"{here}/release", {"handler": "HSS"}).status == 409
    assert [entry.action for entry in desk.audit()] == ["lane.release", "lane.hold"]
    assert desk.audit()[1].after == {"handlers": ["HSS"], "reason": "moved by hand"}
    with house.database.read() as connection:
        assert connection.execute(select(event_notifications)).all() == []
