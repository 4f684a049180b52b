"""Audits: each entry is compared once, whatever comes in between, and what differs is repaired."""

import asyncio
import gc
import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from espf import comparison, reconciler, reconciliation, subscriptions
from espf.db.tables import reconciliation_findings, reconciliations
from espf.errors import Conflict, InvalidRequest, LeaseLost, Misconfigured, NotFound, TryLater
from espf.handlers.http import HttpClient
from espf.janitor import Janitor
from espf.reconciler import Reconciler
from espf.reconciliation import Scope, last_time
from house import House
from shelf import People, Shelf, shelves

whatever_the_database = pytest.mark.databases("sqlite")

QUICK = 10_000


@pytest.fixture
def house(database, sealer, tmp_path):
    return House(database, sealer, tmp_path)


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    monkeypatch.setattr(comparison, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(comparison, "STEP_SECONDS", 0.002)
    monkeypatch.setattr(reconciler, "KEEP_SECONDS", 0.05)
    monkeypatch.setattr(reconciler, "FIRST_PAUSE_SECONDS", 0.01)
    with shelves(monkeypatch) as one:
        yield one


@pytest.fixture
async def client():
    async with HttpClient() as one:
        yield one


@pytest.fixture
def handler(house):
    return made(house)


def made(house, name="Shelf", kind="Shelf", **options):
    settings = {key.replace("__", "."): value for key, value in options.items()}
    with house.database.begin() as connection:
        return subscriptions.create_handler(connection, house.sealer, 1, name, kind, settings)


def begun(house, handler, scope=Scope(), rate=QUICK, **words):  # noqa: B008  (it is frozen)
    with house.database.begin() as connection:
        return reconciliation.begin(
            connection, house.database, house.sealer, handler, scope, "ada", rate=rate, **words
        )


def carrier(house, client, people):
    return Reconciler(house.database, house.sealer, client, people)


async def audited(house, handler, client, people, scope=Scope(), **words):  # noqa: B008
    one = begun(house, handler, scope, **words)
    return await carrier(house, client, people).carry(one)


def found(house, one, **words):
    with house.database.read() as connection:
        page = reconciliation.findings(connection, one.i_reconciliation, **words)
    return {finding.key: finding for finding in page.findings}


def kinds(house, one):
    return {key: finding.kind for key, finding in found(house, one, limit=1000).items()}


def drift(people):
    """Of each kind one; what is different, missing and extra."""
    people.fill()
    people.known[4] = {"bill_status": "C"}
    Shelf.entries["n0000002"]["access"] = "no"
    Shelf.entries["n0000002"]["pin"] = "another"
    del Shelf.entries["n0000003"]
    Shelf.entries["nobodys"] = {"access": "yes", "pin": "1234"}
    Shelf.faults["n0000005"] = TryLater("locked for a moment")
    people.known[6] = {"id": "odd"}
    del Shelf.entries["n0000006"]


async def test_what_differs_is_found_field_by_field_and_nothing_else(house, handler, client):
    people = People(50)
    drift(people)
    one = await audited(house, handler, client, people)
    assert one.state == "done"
    assert (one.different, one.missing, one.extra, one.failed) == (1, 1, 2, 2)
    assert (one.same, one.accounts, one.remark) == (45, 50, None)
    assert kinds(house, one) == {
        "n0000002": "different",
        "n0000003": "missing",
        "n0000004": "extra",
        "nobodys": "extra",
        "n0000005": "failed",
        "odd": "failed",
    }
    all_ = found(house, one)
    assert all_["n0000002"].text == "access: no -> yes, pin: *** -> ***"
    assert all_["n0000002"].i_account == 2
    assert all_["n0000004"].i_account == 4
    assert all_["nobodys"].i_account is None
    assert all_["n0000005"].reason == "locked for a moment"
    assert all_["odd"].reason == "nobody can be called odd"
    told = str(house.rows("Reconciliation_Findings")) + str(house.rows("Reconciliations"))
    assert "pin-n" not in told
    assert "another" not in told
    assert set(found(house, one, kinds=["extra"])) == {"n0000004", "nobodys"}
    assert Shelf.entries["n0000002"]["access"] == "no"


async def test_repairs_go_through_the_queue_to_this_handler_alone(house, client):
    """Subscribed or not, in the lane of the account; then the next audit finds nothing."""
    people = People(20)
    drift(people)
    del people.known[6], Shelf.faults["n0000005"]
    Shelf.entries["n0000006"] = {"access": "yes", "pin": "pin-n0000006"}
    handler, other = made(house), made(house, "Other")
    with house.database.begin() as connection:
        for name in subscriptions.subscriptions(connection, handler):
            subscriptions.unsubscribe(connection, handler, name)
    one = await audited(house, handler, client, people, repairs=True)
    assert (one.differences, one.repairs) == (4, 4)
    rows = house.rows("Event_Queue")
    assert {row["event_type"] for row in rows} == {"Custom/Reconcile"}
    assert {row["ordering_key"] for row in rows} == {
        "account:2",
        "account:3",
        "account:4",
        None,
    }
    notified = {row["i_event_handler"] for row in house.rows("Event_Notifications")}
    assert notified == {handler.i_event_handler}
    numbers = {row["i_event"] for row in rows}
    assert {finding.i_event for finding in found(house, one).values()} == numbers
    async with house.working() as worker:
        worker._tools.__dict__["billing"] = people
        await house.until("finished")
    assert "nobodys" not in Shelf.entries
    assert "n0000003" in Shelf.entries
    again = await audited(house, handler, client, people)
    assert (again.differences, again.failed, again.same) == (0, 0, 20)
    assert other.i_event_handler not in notified


async def test_who_goes_on_after_a_kill_leaves_out_none_and_counts_none_twice(
    house, handler, client, monkeypatch
):
    """Whoever is killed says no word: only when it is silent for long the next one goes on."""
    monkeypatch.setattr(reconciliation, "CARRIED", timedelta(seconds=0.2))
    monkeypatch.setattr(reconciliation, "let_go", lambda *_: None)
    people = People(300)
    people.fill()
    for number in range(1, 301, 7):
        del Shelf.entries[people.info(number)["id"]]
    one = begun(house, handler, repairs=True)
    kills = 0
    while one.is_running:
        enough = asyncio.Event()
        watched = counted(3, enough.set)
        working = asyncio.create_task(carrier(house, client, people).carry(one, watched))
        killed = asyncio.create_task(enough.wait())
        await asyncio.wait({working, killed}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            one = working.result()
            await asyncio.sleep(0.02)
        else:
            kills += 1
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        killed.cancel()
    assert kills > 3
    assert (one.state, one.missing, one.same, one.repairs) == ("done", 43, 257, 43)
    assert one.accounts == 300
    assert len(found(house, one, limit=1000)) == 43
    assert len(house.rows("Event_Queue")) == 43


def counted(steps, then):
    """Somebody who watches so many steps and then does something."""
    left = steps

    def watch(_one):
        nonlocal left
        left -= 1
        if not left:
            then()

    return watch


async def test_only_one_carries_an_audit_on(house, handler, client):
    people = People(400)
    people.fill()
    one = begun(house, handler, rate=2000)
    both = await asyncio.gather(
        carrier(house, client, people).carry(one), carrier(house, client, people).carry(one)
    )
    assert sorted(each.state for each in both) == ["done", "running"]
    with house.database.read() as connection:
        ended = reconciliation.find(connection, 1, one.i_reconciliation)
    assert (ended.same, ended.accounts) == (400, 400)
    with house.database.begin() as connection, pytest.raises(LeaseLost):
        reconciliation.wait(connection, ended, "somebody else", "for nothing")


async def test_of_a_handler_one_audit_runs_at_a_time(house, handler, client):
    one = begun(house, handler)
    with pytest.raises(Conflict, match=f"audit {one.i_reconciliation} of all, begun by ada"):
        begun(house, handler, Scope(accounts=("n0000001",)))
    begun(house, made(house, "Other"))
    with house.database.begin() as connection:
        ended = reconciliation.cancel(connection, house.database, 1, one.i_reconciliation)
    assert ended.state == "cancelled"
    begun(house, handler)


async def test_an_audit_is_cancelled_while_it_is_carried_on(house, handler, client):
    people = People(5000)
    people.fill()
    one = begun(house, handler, rate=100)
    working = asyncio.create_task(carrier(house, client, people).carry(one))
    await house.come_true(lambda: house.rows("Reconciliations")[0]["accounts"] > 0)
    with house.database.begin() as connection:
        reconciliation.cancel(connection, house.database, 1, one.i_reconciliation)
    ended = await working
    assert ended.state == "cancelled"
    assert 0 < ended.accounts < 5000


async def test_some_accounts_and_those_of_a_product(house, handler, client):
    people = People(60)
    for number in range(1, 61, 3):
        people.known[number] = {"i_product": 5}
    people.known[7] = {"i_product": 5, "id": "12"}
    people.fill()
    Shelf.entries["nobodys"] = {}
    del Shelf.entries["n0000004"]
    some = Scope(accounts=("n0000004", "12", "13", "unknown"))
    one = await audited(house, handler, client, people, some)
    assert (one.state, one.missing, one.same, one.extra, one.failed) == ("done", 1, 2, 0, 1)
    assert found(house, one)["unknown"].reason.startswith("the billing has no account of this id")
    for name in ("Gold", "5"):
        one = await audited(house, handler, client, people, Scope(product=name))
        assert (one.state, one.accounts, one.missing, one.same) == ("done", 20, 1, 19)
    one = await audited(house, handler, client, people, Scope(product="Silver"))
    assert (one.state, one.remark) == ("failed", "the billing has no product 'Silver'")


@whatever_the_database
async def test_what_is_just_on_its_way_is_no_finding(house, handler, client, monkeypatch):
    people = People(10)
    people.fill()
    lost = Shelf.entries.pop("n0000003")
    sleep = asyncio.sleep

    async def arrives(seconds):
        if seconds == comparison.AGAIN_SECONDS:
            Shelf.entries["n0000003"] = lost
        await sleep(0)

    monkeypatch.setattr(comparison.asyncio, "sleep", arrives)
    one = await audited(house, handler, client, people)
    assert (one.same, one.differences) == (10, 0)


@whatever_the_database
async def test_the_system_is_asked_once_for_what_is_as_it_should_be(house, handler, client):
    people = People(30)
    people.fill()
    one = await audited(house, handler, client, people)
    assert (one.same, one.held_keys, Shelf.reads) == (30, 30, 30)


@whatever_the_database
@pytest.mark.parametrize("whose", ["system", "billing"])
async def test_while_a_system_is_away_an_audit_waits_and_says_so(house, handler, client, whose):
    people = People(30)
    people.fill()
    one = begun(house, handler)
    if whose == "system":
        Shelf.fault = TryLater("no connection to the shelf")
    else:
        people.fault = TryLater("no connection to the shelf")
    working = asyncio.create_task(carrier(house, client, people).carry(one))
    said = "it is tried again: no connection to the shelf"
    await house.come_true(lambda: house.rows("Reconciliations")[0]["remark"] == said)
    Shelf.fault = people.fault = None
    ended = await working
    assert (ended.state, ended.same, ended.failed, ended.remark) == ("done", 30, 0, None)


@whatever_the_database
async def test_one_that_cannot_go_on_says_why(house, handler, client, monkeypatch):
    people = People(30)
    people.fill()
    Shelf.fault = Misconfigured("the shelf refuses the password")
    one = await audited(house, handler, client, people)
    assert (one.state, one.remark) == ("failed", "the shelf refuses the password")
    monkeypatch.setattr(reconciler, "PATIENCE_SECONDS", 0.02)
    Shelf.fault = TryLater("away for good")
    one = await audited(house, handler, client, people)
    assert (one.state, one.remark) == ("failed", "away for good")
    one = begun(house, handler)
    with house.database.begin() as connection:
        subscriptions.set_handler_enabled(connection, handler, enabled=False)
        subscriptions.delete_handler(connection, handler)
    one = await carrier(house, client, people).carry(one)
    assert (one.state, one.remark) == ("failed", "there is no handler 1 in environment 1")


@whatever_the_database
async def test_a_system_that_cannot_list_what_it_holds(house, handler, client, monkeypatch):
    monkeypatch.setattr(Shelf, "lists", False)
    people = People(3)
    people.fill()
    one = await audited(house, handler, client, people)
    assert (one.state, one.same) == ("done", 3)
    assert "was not looked for: this system cannot list" in one.remark


@whatever_the_database
async def test_a_handler_that_only_passes_on_is_not_audited(house):
    sender = house.handler("http://127.0.0.1:1")
    with pytest.raises(Conflict, match="nothing that its system should hold"):
        begun(house, sender)


@whatever_the_database
async def test_shadow_mode_is_audited_like_any_other(house, client):
    people = People(10)
    one = await audited(house, made(house, Mode="shadow"), client, people)
    assert (one.missing, one.state) == (10, "done")
    assert Shelf.entries == {}


@whatever_the_database
async def test_settings_that_change_hold_from_the_next_step_on(house, handler, client):
    people = People(200)
    people.known = {number: {"blocked": "Y"} for number in range(1, 201)}
    people.fill()
    seen = []

    def change(one):
        if not seen:
            house.change(handler, BarredBy="suspended")
        seen.append(one)

    one = await carrier(house, client, people).carry(begun(house, handler), change)
    assert one.state == "done"
    assert one.different == 200 - seen[0].same
    assert 0 < seen[0].same < 200


@whatever_the_database
@pytest.mark.parametrize("paging", ["key", "offset"])
async def test_accounts_come_by_whatever_paging_the_billing_has(house, client, paging):
    people = People(100, first=1000)
    people.fill()
    handler = made(house, Audit__Paging=paging)
    one = await audited(house, handler, client, people)
    assert (one.same, one.accounts) == (100, 100)
    assert one.last_account == (1099 if paging == "key" else None)


@whatever_the_database
async def test_no_more_is_compared_in_a_second_than_was_said(house, client):
    people = People(40)
    people.fill()
    handler = made(house, Audit__Rate=100)
    one = begun(house, handler, rate=None)
    assert one.rate == 100
    began = asyncio.get_running_loop().time()
    await carrier(house, client, people).carry(one)
    # Each once with its account, and once because the system holds it.
    assert asyncio.get_running_loop().time() - began > 0.7


async def test_repairs_wait_while_too_many_events_wait(house, handler, client, monkeypatch):
    monkeypatch.setattr(reconciliation, "MOST_WAITING", 20)
    monkeypatch.setattr(reconciler, "REPAIRS", 20)
    people = People(100)
    one = begun(house, handler, repairs=True)
    working = asyncio.create_task(carrier(house, client, people).carry(one))
    said = "it waits until the handler has worked on repairs that are in the queue"
    await house.come_true(lambda: house.rows("Reconciliations")[0]["remark"] == said)
    assert 20 <= len(house.rows("Event_Notifications")) < 60
    async with house.working() as worker:
        worker._tools.__dict__["billing"] = people
        ended = await working
    assert (ended.state, ended.missing, ended.repairs) == ("done", 100, 100)


async def test_what_was_found_is_repaired_afterwards_some_or_all_and_nothing_twice(
    house, handler, client, monkeypatch
):
    monkeypatch.setattr(reconciler, "REPAIRS", 7)
    people = People(40)
    Shelf.entries["nobodys"] = {}
    one = await audited(house, handler, client, people)
    assert (one.missing, one.extra, one.repairs) == (40, 1, 0)
    numbers = [each.i_finding for each in found(house, one).values()][:5]
    with house.database.begin() as connection:
        words = (connection, house.database, 1, one.i_reconciliation)
        assert reconciliation.repair(*words, numbers) == 5
        assert reconciliation.repair(*words, numbers) == 0
        with pytest.raises(NotFound):
            reconciliation.repair(connection, house.database, 2, one.i_reconciliation, numbers)
        begun_again = reconciliation.repair_all(*words, ["missing"])
    assert begun_again.is_running
    with pytest.raises(Conflict):
        begun(house, handler)
    ended = await carrier(house, client, people).carry(begun_again)
    assert (ended.state, ended.repairs, ended.ended_at) == ("done", 40, one.ended_at)
    assert len(house.rows("Event_Queue")) == 40
    assert found(house, one, kinds=["extra"])["nobodys"].i_event is None


@whatever_the_database
async def test_what_did_not_come_to_its_end_is_not_repaired_as_a_whole(house, handler):
    one = begun(house, handler)
    with house.database.begin() as connection:
        words = (connection, house.database, 1, one.i_reconciliation)
        with pytest.raises(Conflict, match="is being audited"):
            reconciliation.repair_all(*words)
        reconciliation.cancel(*words)
        with pytest.raises(Conflict, match="did not come to its end"):
            reconciliation.repair_all(*words)


# The audit of each day


@pytest.mark.parametrize(
    ("at", "now", "then"),
    [
        ("03:00", "2026-11-22T14:00", "2026-11-22T03:00"),
        ("03:00", "2026-11-22T02:59", "2026-11-21T03:00"),
        ("3:00", "2026-11-22T03:00", "2026-11-22T03:00"),
        ("03:00 Europe/Prague", "2026-07-01T01:30", "2026-07-01T01:00"),
        ("03:00 Europe/Prague", "2026-12-01T01:30", "2026-11-30T02:00"),
        ("00:30 Asia/Tokyo", "2026-12-01T16:00", "2026-12-01T15:30"),
    ],
)
@whatever_the_database
def test_a_time_of_the_day_is_by_the_clocks_of_its_zone(at, now, then):
    moments = [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in (now, then)]
    assert last_time(at, moments[0]) == moments[1]


@pytest.mark.parametrize("at", ["25:00", "3", "03:60", "03:00 Nowhere/Else", "03:00 ../etc", "x"])
@whatever_the_database
def test_a_time_that_is_none_is_refused(house, at):
    with pytest.raises(InvalidRequest, match=r"Audit\.At"):
        made(house, Audit__At=at)


async def test_the_audit_of_the_day_begins_once_and_is_carried_on(house, client, monkeypatch):
    monkeypatch.setattr(reconciler, "LOOK_SECONDS", 0.02)
    people = People(10)
    people.fill()
    with house.database.read() as connection:
        now = house.database.now(connection)
    made(house, Audit__At=f"{now:%H:%M}", Audit__Rate=QUICK)
    made(house, "Later", Audit__At=f"{now + timedelta(hours=3):%H:%M}")
    made(house, "Never")
    looking = [asyncio.create_task(carrier(house, client, people).run()) for _ in range(3)]
    ended = house.rows
    await house.come_true(lambda: [row["state"] for row in ended("Reconciliations")] == ["done"])
    await asyncio.sleep(0.2)
    for task in looking:
        task.cancel()
    await asyncio.gather(*looking, return_exceptions=True)
    (row,) = house.rows("Reconciliations")
    assert (row["begun_by"], row["handler"], row["same"]) == ("schedule", "Shelf", 10)
    with house.database.begin() as connection:
        earlier = now - timedelta(days=1)
        connection.execute(update(reconciliations).values(begun_at=earlier))
        handler = subscriptions.require_handler(connection, 1, "Shelf")
        assert reconciliation.due(connection, house.database, handler, house.sealer)


async def test_old_audits_are_forgotten_with_what_they_found(house, handler, client, monkeypatch):
    monkeypatch.setattr(reconciliation, "MOST_KEPT", 2)
    house.database.dialect.batch = 10
    people = People(25)
    audits = [await audited(house, handler, client, people) for _ in range(3)]
    running = begun(house, handler)
    Janitor(house.database, timedelta(days=1), timedelta(days=1)).sweep()
    c = reconciliation_findings.c
    with house.database.read() as connection:
        left = dict(
            connection.execute(
                select(c.i_reconciliation, func.count()).group_by(c.i_reconciliation)
            ).all()
        )
        assert left == {one.i_reconciliation: 25 for one in audits[1:]}
        with pytest.raises(NotFound):
            reconciliation.find(connection, 1, audits[0].i_reconciliation)
        assert reconciliation.find(connection, 1, running.i_reconciliation).is_running


@whatever_the_database
async def test_memory_does_not_grow_with_the_number_of_subscribers(
    house, handler, client, monkeypatch
):
    """Twenty thousand accounts take no more of it than the first thousands did."""
    monkeypatch.setattr(comparison, "STEP_SECONDS", 0.05)
    monkeypatch.setattr(Shelf, "lists", False)
    people = People(20_000)

    class Always(dict):
        def get(self, key, default=None):
            return {"access": "yes", "pin": f"pin-{key}"} if int(key[1:]) % 50 else None

    monkeypatch.setattr(Shelf, "entries", Always())
    blocks = {}

    def watch(one):
        if one.accounts in {5000, 20_000} and one.accounts not in blocks:
            gc.collect()
            blocks[one.accounts] = sys.getallocatedblocks()

    one = await carrier(house, client, people).carry(begun(house, handler), watch)
    assert (one.same, one.missing) == (19_600, 400)
    assert blocks[20_000] - blocks[5000] < 5000
