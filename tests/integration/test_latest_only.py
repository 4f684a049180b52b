"""Of some types only the newest counts that waits for a subscriber; the others are superseded."""

import pytest
from sqlalchemy import update

from espf import restarts
from espf.backlog import Start, Wanted
from espf.db.tables import event_notifications
from espf.leases import Leases
from espf.model import SHARDS, Decision, Result, Status
from espf.sources import Filter
from house import House
from webhook import Answer, Webhook

whatever_the_database = pytest.mark.databases("sqlite")

LATEST_ONLY = "Account/ProductAddon/Changed"


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


def seen(hook):
    return [request.i_event for request in hook.requests]


async def over(house):
    """Wait until nothing waits any more."""
    await house.come_true(lambda: house.live_rows() == (0, 0), 60)


async def test_of_those_that_wait_only_the_newest_goes_out_in_its_own_place(house):
    async with Webhook() as hook:
        house.handler(hook.url)
        first = house.event(LATEST_ONLY, i_account=7)
        blocked = house.event(i_account=7)
        second = house.event(LATEST_ONLY, i_account=7)
        of_another = house.event(LATEST_ONLY, i_account=8)
        unblocked = house.event("Account/Unblocked", i_account=7)
        newest = house.event(LATEST_ONLY, i_account=7)
        async with house.working():
            await over(house)
    assert [i for i in seen(hook) if i != of_another] == [blocked, unblocked, newest]
    assert of_another in seen(hook)
    statuses = house.statuses()
    assert {i for i, status in statuses.items() if status == "superseded"} == {first, second}
    (one,) = house.events(i_event=first)
    assert one.attempts == 0
    assert one.reason == f"superseded by a newer {LATEST_ONLY}"
    (line,) = [line for line in house.log_lines() if f"i_event={first} " in line]
    assert "verdict=superseded" in line
    assert "attempt=0" in line


async def test_one_that_waits_for_a_retry_is_superseded_when_a_newer_one_comes(house):
    async with Webhook() as hook:
        hook.then(Answer(503))
        house.handler(hook.url, RetryDelays="1h")
        first = house.event(LATEST_ONLY, i_account=7)
        async with house.working():
            await house.until("retrying")
            newest = house.event(LATEST_ONLY, i_account=7)
            await over(house)
    assert seen(hook) == [first, newest]
    assert house.statuses() == {first: "superseded", newest: "finished"}
    assert house.events(i_event=first)[0].attempts == 1


async def test_a_new_worker_finds_that_one_was_superseded(house):
    async with Webhook() as hook:
        hook.then(Answer(503))
        house.handler(hook.url, RetryDelays="1h")
        first = house.event(LATEST_ONLY, i_account=7)
        async with house.working():
            await house.until("retrying")
        newest = house.event(LATEST_ONLY, i_account=7)
        async with house.working():
            await over(house)
    assert house.statuses() == {first: "superseded", newest: "finished"}


async def test_the_newest_is_found_in_a_backlog_that_does_not_fit_in_memory(house, monkeypatch):
    monkeypatch.setattr("espf.worker.runner.WINDOW", 30)
    monkeypatch.setattr("espf.worker.runner.READ_AT_LEAST", 3)
    monkeypatch.setattr("espf.backlog.AHEAD", 25)
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=10000, EventSender__TokenBurstiness=1000)
        old = [house.event(LATEST_ONLY, i_account=n % 3) for n in range(9)]
        others = [house.event(i_account=100 + n) for n in range(100)]
        newest = [house.event(LATEST_ONLY, i_account=n) for n in range(3)]
        async with house.working():
            await over(house)
    assert sorted(seen(hook)) == [*others, *newest]
    assert {house.statuses()[i] for i in old} == {"superseded"}


@whatever_the_database
async def test_any_type_can_be_made_latest_only_for_one_handler(house):
    async with Webhook() as hook, Webhook() as other:
        house.handler(hook.url, LatestOnly="Account/*locked Custom/*")
        house.handler(other.url, "Other")
        made = [house.event(i_account=7) for _ in range(3)]
        made += [house.event("Account/New", i_account=7) for _ in range(2)]
        async with house.working():
            await over(house)
    assert seen(hook) == made[2:]
    assert seen(other) == made
    verdicts = {(one.handler, one.i_event): one.status for one in house.events()}
    assert verdicts["Sender", made[0]] == "superseded"
    assert verdicts["Other", made[0]] == "finished"


async def test_of_those_that_are_restarted_together_only_the_newest_goes_out(house):
    async with Webhook() as hook:
        hook.always = Answer(404)
        house.handler(hook.url)
        made = []
        async with house.working():
            for _ in range(3):
                made.append(house.event(LATEST_ONLY, i_account=7))
                await house.until("rejected")
        hook.always = Answer()
        with house.database.begin() as connection:
            restarts.restart_next(connection, house.database, Filter(status="rejected"))
        async with house.working():
            await over(house)
    assert seen(hook) == [*made, made[2]]
    assert [house.statuses()[i] for i in made] == ["superseded", "superseded", "finished"]


async def test_one_whose_newer_one_was_taken_away_meanwhile_is_tried_after_all(house):
    handler = house.handler("http://127.0.0.1:1")
    first = house.event(LATEST_ONLY, i_account=7)
    second = house.event(LATEST_ONLY, i_account=7)
    number = handler.i_event_handler
    with house.database.begin() as connection:
        leases = Leases(house.database)
        leases.sign_of_life(connection, "w", 600)
        leases.acquire(connection, "w", [(number, shard) for shard in range(SHARDS)])
        wanted = Wanted(number, (1 << SHARDS) - 1, Start(0), 10, None)
        (found,) = house.backlog.read(connection, [wanted])
        one = found.new[0][0]
        connection.execute(
            update(event_notifications)
            .where(event_notifications.c.i_event == second)
            .values(status=Status.SKIPPED)
        )
        decision = Decision(Status.SUPERSEDED, "a newer one waits", spent=False, by=second)
        (settled,) = house.queue.settle(connection, [Result(one, "Sender", 1, decision, 0)], {})
    assert settled.result.decision.status is Status.QUEUED
    assert settled.result.decision.by == second
    assert house.statuses()[first] == "retrying"
    assert house.events(i_event=first)[0].attempts == 0


@whatever_the_database
async def test_one_that_failed_and_holds_its_lane_is_not_superseded(house):
    async with Webhook() as hook:
        hook.then(Answer(503))
        house.handler(hook.url, RetryDelays="0s", MaxAttempts=1, OnFailure="hold")
        first = house.event(LATEST_ONLY, i_account=7)
        async with house.working():
            await house.until("failed")
            newest = house.event(LATEST_ONLY, i_account=7)
            other = house.event(i_account=8)
            await hook.wait_for(2)
            await house.come_true(lambda: house.statuses()[other] == "finished")
        assert house.statuses()[first] == "failed"
        assert house.statuses()[newest] == "queued"


@whatever_the_database
async def test_only_what_a_handler_waits_for_is_looked_through(house, monkeypatch):
    """Where no type is in the backlog of which only the newest counts, nobody looks for any."""

    def looked(*_):
        raise AssertionError("somebody looked ahead")

    monkeypatch.setattr("espf.worker.runner.WINDOW", 30)
    monkeypatch.setattr("espf.worker.runner.READ_AT_LEAST", 3)
    monkeypatch.setattr("espf.backlog.Backlog._read_ahead", staticmethod(looked))
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=10000, EventSender__TokenBurstiness=1000)
        made = [house.event(i_account=n) for n in range(100)]
        async with house.working():
            await over(house)
    assert sorted(seen(hook)) == made
