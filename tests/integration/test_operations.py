"""What an administrator does to a running ESPF: restart, skip, pause, prune, share the work."""

import asyncio
import csv
import io
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest
from sqlalchemy import func, insert, select, update

from databases import rows_read, whatever_the_database
from desk import COMMANDS, Desk
from espf import (
    configuration,
    depth,
    journal,
    maintenance,
    overview,
    restarts,
    sources,
    standing,
    subscriptions,
    timeline,
    users,
)
from espf.crypto import Sealer
from espf.db import parts, schema
from espf.db.database import Database
from espf.db.tables import (
    access_tokens,
    event_notifications,
    event_queue,
    handler_breakers,
    provisioning_log,
    provisioning_log_texts,
    workers,
)
from espf.db.walk import first_at
from espf.errors import Conflict, DatabaseUnavailable, InvalidRequest, NotFound
from espf.janitor import Janitor
from espf.model import SHARDS
from espf.sources import Filter
from house import House
from servers import MariaDB, PostgreSQL
from webhook import Answer, Webhook

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NOBODY = "http://127.0.0.1:1"
FAILED = {"status": "failed", "attempts": 3, "last_error": "503"}


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


def change(house, i_events, **values):
    """What a worker or the years would have done to notifications."""
    with house.database.begin() as connection:
        connection.execute(
            update(event_notifications)
            .where(event_notifications.c.i_event.in_(i_events))
            .values(values)
        )


def restart_all(house, wanted, most=1000):
    """As `evctl event restart` does it; returns how many, and in how many steps."""
    count = steps = 0
    while steps < most:
        with house.database.begin() as connection:
            done = restarts.restart_next(connection, house.database, wanted)
        if done is None:
            break
        wanted = replace(wanted, after=done.last)
        count, steps = count + done.count, steps + 1
    return count, steps


def notifications(house, *columns):
    with house.database.read() as connection:
        names = [event_notifications.c[column] for column in columns]
        rows = connection.execute(select(*names).order_by(event_notifications.c.position))
        return [tuple(row) for row in rows]


def restartable(house, **wanted):
    with house.database.read() as connection:
        return restarts.restartable(connection, Filter(**wanted))


# Restart, many


def test_what_is_restarted_is_counted_first_and_restarted_in_order_and_once(house):
    house.handler(NOBODY)
    made = [house.event(i_account=n % 7) for n in range(250)]
    change(house, made[::2], **FAILED)
    assert restartable(house, status="failed") == 125
    house.database.dialect.batch = 50
    assert restart_all(house, Filter(status="failed")) == (125, 5)
    assert restartable(house, status="failed") == 0
    rows = notifications(house, "i_event", "status", "attempts", "next_attempt_at", "last_error")
    again = [row for row in rows if row[3] is not None]
    assert [row[0] for row in again] == made[::2]
    assert {(row[1], row[2], row[4]) for row in again} == {("queued", 0, None)}
    # Due in the order of events: a step was never due before the one before it.
    assert [row[3] for row in again] == sorted(row[3] for row in again)


def test_a_restart_that_was_interrupted_goes_on_where_it_was(house):
    house.handler(NOBODY)
    made = [house.event() for _ in range(30)]
    change(house, made, **FAILED)
    house.database.dialect.batch = 10
    assert restart_all(house, Filter(status="failed"), most=2)[1] == 2
    restarted_before = dict(notifications(house, "i_event", "next_attempt_at"))
    count, _ = restart_all(house, Filter(status="failed"))
    after = dict(notifications(house, "i_event", "next_attempt_at"))
    untouched = [i for i, at in restarted_before.items() if at is not None and after[i] == at]
    assert len(untouched) + count == 30
    assert None not in after.values()


def test_none_is_left_out_where_handlers_have_failed_at_different_events(house):
    one, _ = house.handler(NOBODY, "One"), house.handler(NOBODY, "Two")
    made = [house.event(i_account=n) for n in range(12)]
    change(house, made[8:], **FAILED)
    with house.database.begin() as connection:
        mine = event_notifications.c.i_event_handler == one.i_event_handler
        connection.execute(update(event_notifications).where(mine).values(FAILED))
    house.database.dialect.batch = 4
    assert restart_all(house, Filter(status="failed"))[0] == 16


async def test_what_is_restarted_goes_before_all_of_its_subscriber_that_is_not_sent(house):
    async with Webhook() as hook:
        # Some databases are looked at once a second only.
        hook.then(Answer(delay=1.5))
        house.handler(hook.url)
        old = [house.event(i_account=7) for _ in range(2)]
        change(house, old, **FAILED)
        async with house.working():
            new = [house.event(i_account=7) for _ in range(3)]
            await hook.wait_for(1)
            restart_all(house, Filter(status="failed"))
            await hook.wait_for(5)
            await house.until("finished")
    assert [request.i_event for request in hook.requests] == [new[0], *old, *new[1:]]


def test_only_what_fits_is_restarted(house):
    one, other = house.handler(NOBODY, "One"), house.handler(NOBODY, "Other", i_env=2)
    events = {
        "one": house.event(i_account=1),
        "type": house.event("Account/Unblocked", i_account=1),
        "account": house.event(i_account=2),
        "env": house.event(i_env=2, i_account=1),
    }
    change(house, events.values(), **FAILED)
    with house.database.begin() as connection:
        connection.execute(
            update(event_queue)
            .where(event_queue.c.i_event == events["one"])
            .values(created_at=LONG_AGO)
        )
    wanted = {
        "handler": ("Other", ["env"]),
        "i_env": (2, ["env"]),
        "event_type": ("Account/Unblocked", ["type"]),
        "ordering_key": ("account:2", ["account"]),
        "until": (LONG_AGO + timedelta(days=1), ["one"]),
        "since": (LONG_AGO + timedelta(days=1), ["type", "account", "env"]),
        "after": (events["type"], ["account", "env"]),
    }
    for name, (value, expected) in wanted.items():
        assert restartable(house, status="failed", **{name: value}) == len(expected), name
    restart_all(house, Filter(status="failed", event_type="Account/Unblocked"))
    rows = notifications(house, "i_event", "status")
    assert [row[0] for row in rows if row[1] == "queued"] == [events["type"]]
    assert {one.i_event_handler, other.i_event_handler} == {
        row[0] for row in notifications(house, "i_event_handler")
    }


@pytest.mark.parametrize("status", ["all", "queued", "scheduled"])
def test_what_was_never_tried_cannot_be_restarted(house, status):
    with pytest.raises(InvalidRequest, match="name what has been tried"):
        restartable(house, status=status)


async def test_what_was_delivered_long_ago_goes_out_again_in_order(house):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=1000)
        made = [house.event(i_account=n % 3) for n in range(30)]
        async with house.working():
            await house.until("finished")
            assert house.live_rows() == (0, 0)
            assert restartable(house, status="finished") == 30
            house.database.dialect.batch = 7
            assert restart_all(house, Filter(status="finished", since=LONG_AGO))[0] == 30
            await hook.wait_for(60)
            await house.until("finished")
    for account in range(3):
        again = [
            r.i_event for r in hook.requests[30:] if r.json["variables"]["i_account"] == account
        ]
        assert again == made[account::3]
    assert house.live_rows() == (0, 0)


async def test_what_is_restarted_from_the_journal_is_as_it_was(house):
    async with Webhook() as hook:
        house.handler(hook.url)
        house.event(i_account=7, note="ä\N{SNOWMAN}'\"\\")
        async with house.working():
            (first,) = await hook.wait_for(1)
            await house.until("finished")
            restart_all(house, Filter(status="finished"))
            _, second = await hook.wait_for(2)
    assert first.body == second.body


def test_an_event_of_two_handlers_is_restarted_for_both_and_stays_for_both(house):
    house.handler(NOBODY, "One"), house.handler(NOBODY, "Two")
    i_event = house.event(i_account=1)
    change(house, [i_event], status="failed", last_error="503")
    for name in ("One", "Two"):
        with house.database.begin() as connection:
            handler = subscriptions.require_handler(connection, 1, name)
            restarts.skip(connection, house.database, i_event, handler, "enough")
    assert house.live_rows() == (0, 0)
    assert restart_all(house, Filter(status="skipped")) == (2, 1)
    assert [row["notified"] for row in house.rows("Event_Queue")] == [2]
    assert len(notifications(house, "position")) == 2
    assert restartable(house, status="skipped") == 0


def test_one_part_of_an_event_that_waits_for_others_is_restarted_in_its_place(house):
    house.handler(NOBODY, "One"), house.handler(NOBODY, "Two")
    i_event = house.event(i_account=1)
    with house.database.begin() as connection:
        one = subscriptions.require_handler(connection, 1, "One")
        connection.execute(
            update(event_notifications)
            .where(event_notifications.c.i_event_handler == one.i_event_handler)
            .values(FAILED)
        )
        restarts.skip(connection, house.database, i_event, one, "enough")
    assert sorted(notifications(house, "status")) == [("queued",), ("skipped",)]
    house.restart(i_event, one)
    assert notifications(house, "status") == [("queued",), ("queued",)]


def blocked(house, connection, i_account):
    return house.queue.create_event(connection, 1, "Account/Blocked", {"i_account": i_account})


@whatever_the_database
async def test_a_restart_of_very_many_does_not_starve_what_is_new(house):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=200, EventSender__TokenBurstiness=16)
        with house.database.begin() as connection:
            made = [blocked(house, connection, n) for n in range(600)]
        change(house, made, **FAILED)
        restart_all(house, Filter(status="failed"))
        async with house.working():
            await hook.wait_for(50)
            with house.database.begin() as connection:
                new = {blocked(house, connection, 1000 + n) for n in range(5)}
            await house.come_true(lambda: new <= {request.i_event for request in hook.requests})
            await hook.wait_for(605)
    places = [place for place, request in enumerate(hook.requests) if request.i_event in new]
    assert max(places) < 500, "it was sent when everything else was through"


# Skip


async def test_what_is_skipped_lets_go_of_its_lane(house):
    async with Webhook() as hook:
        hook.always = lambda request: Answer(503 if request.i_event == first else 200)
        house.handler(
            hook.url,
            RetryDelays="1s",
            RetryJitter=0,
            MaxAttempts=1,
            OnFailure="hold",
        )
        first, *others = [house.event(i_account=7) for _ in range(3)]
        async with house.working():
            await house.come_true(lambda: house.statuses()[first] == "failed")
            with house.database.begin() as connection:
                handler = subscriptions.require_handler(connection, 1, "Sender")
                restarts.skip(connection, house.database, first, handler, "not needed")
            await house.come_true(lambda: house.statuses()[others[-1]] == "finished")
    assert [request.i_event for request in hook.requests] == [first, *others]
    (line,) = house.events(i_event=first)
    assert (line.status, line.reason) == ("skipped", "not needed")
    assert house.live_rows() == (0, 0)


async def test_what_waits_for_its_retry_can_be_skipped(house):
    async with Webhook() as hook:
        hook.then(Answer(503))
        house.handler(hook.url, RetryDelays="1h", RetryJitter=0)
        first, second = (house.event(i_account=7) for _ in range(2))
        async with house.working():
            await house.come_true(lambda: house.statuses()[first] == "retrying")
            with house.database.begin() as connection:
                handler = subscriptions.require_handler(connection, 1, "Sender")
                restarts.skip(connection, house.database, first, handler, "not needed")
            await house.come_true(lambda: house.statuses()[second] == "finished")
    assert house.statuses() == {first: "skipped", second: "finished"}


def test_only_what_was_tried_can_be_skipped(house):
    handler = house.handler(NOBODY)
    i_event = house.event(i_account=7)

    def skip(number):
        with house.database.begin() as connection:
            restarts.skip(connection, house.database, number, handler, "why")

    with pytest.raises(Conflict, match="must have failed"):
        skip(i_event)
    with pytest.raises(NotFound):
        skip(i_event + 1)
    assert notifications(house, "status") == [("queued",)]


# Hold


KEY = "account:7"


def holding(house, reason="moved by hand", *names):
    with house.database.begin() as connection:
        handlers = [subscriptions.require_handler(connection, 1, name) for name in names]
        handlers = handlers or subscriptions.list_handlers(connection)
        return timeline.hold(connection, house.database, handlers, KEY, reason)


def releasing(house):
    with house.database.begin() as connection:
        handlers = subscriptions.list_handlers(connection)
        return timeline.release(connection, house.database, handlers, KEY)


def obstacles(house):
    with house.database.read() as connection:
        found = timeline.obstacles(connection, house.database, 1, KEY)
        return [(one.handler, one.state, one.i_event, one.reason) for one in found]


async def test_a_lane_that_is_held_waits_while_others_go_on_and_goes_on_in_order(house):
    async with Webhook() as hook:
        handler = house.handler(hook.url)
        before = house.event(i_account=7)
        assert holding(house) == ["Sender"]
        async with house.working():
            other = house.event(i_account=8)
            later = [house.event(i_account=7) for _ in range(3)]
            await hook.wait_for(1)
            last = house.event(i_account=9)
            await hook.wait_for(2)
            assert [request.i_event for request in hook.requests] == [other, last]
            assert obstacles(house) == [("Sender", "held", None, "moved by hand")]
            assert {house.statuses()[one] for one in (before, *later)} == {"queued"}
            releasing(house)
            await hook.wait_for(6)
            await house.until("finished")
    assert [request.i_event for request in hook.requests[2:]] == [before, *later]
    assert house.live_rows() == (0, 0)
    assert handler.name == "Sender"


async def test_what_a_worker_has_in_memory_is_held_too_and_retries_keep_their_place(house):
    async with Webhook() as hook:
        hook.then(Answer(503), Answer(delay=1.0))
        house.handler(hook.url, RetryDelays="1s", RetryJitter=0)
        made = [house.event(i_account=7) for _ in range(50)]
        async with house.working() as worker:
            # The first is tried again, and is under way while the lane is held.
            await hook.wait_for(2)
            holding(house)
            (runner,) = worker._runners.values()
            await house.come_true(lambda: KEY in runner._lanes._held)
            await house.come_true(lambda: not runner.under_way)
            sent = len(hook.requests)
            other = house.event(i_account=8)
            await house.come_true(lambda: hook.requests[-1].i_event == other)
            assert len(hook.requests) == sent + 1
            newest = house.event(i_account=7)
            releasing(house)
            await house.until("finished")
    delivered = list(dict.fromkeys(r.i_event for r in hook.requests if r.i_event != other))
    assert delivered == [*made, newest]


async def test_a_hold_outlives_the_worker_and_is_for_the_handlers_that_are_named(house):
    async with Webhook() as hook:
        house.handler(hook.url, "One"), house.handler(hook.url, "Two")
        holding(house, "ticket 77", "Two")
        async with house.working():
            i_event = house.event(i_account=7)
            await hook.wait_for(1)
        async with house.working():
            other = house.event(i_account=8)
            await hook.wait_for(3)
    assert [r.i_event for r in hook.requests].count(i_event) == 1
    assert {line.handler: line.status for line in house.events(i_event=i_event)} == {
        "One": "finished",
        "Two": "queued",
    }
    assert {line.status for line in house.events(i_event=other)} == {"finished"}
    with house.database.read() as connection:
        (one,) = timeline.held(connection, 1)
    assert (one.handler, one.ordering_key, one.reason) == ("Two", KEY, "ticket 77")


def test_a_lane_is_held_once_and_released_once(house):
    house.handler(NOBODY, "One"), house.handler(NOBODY, "Two")
    assert holding(house, "first", "One") == ["One"]
    assert holding(house, "second") == ["Two"]
    with pytest.raises(Conflict, match="held already"):
        holding(house)
    assert releasing(house) == ["One", "Two"]
    with pytest.raises(Conflict, match="not held"):
        releasing(house)
    assert house.rows("Event_Notifications") == []


@whatever_the_database
def test_what_stops_a_subscriber_is_told(house):
    handler = house.handler(NOBODY)
    first, second = house.event(i_account=7), house.event(i_account=7)
    assert obstacles(house) == []
    change(house, [second], next_attempt_at=LONG_AGO, ordering_key=KEY, last_error="503")
    change(house, [first], status="failed", next_attempt_at=LONG_AGO, ordering_key=KEY)
    with house.database.begin() as connection:
        subscriptions.set_handler_paused(connection, handler, paused=True)
    assert obstacles(house) == [
        ("Sender", "failed", first, None),
        ("Sender", "paused", None, None),
    ]
    change(house, [first], status="queued", last_error="502")
    assert obstacles(house)[0] == ("Sender", "retrying", first, "502")
    change(house, [first], last_error=None)
    assert obstacles(house)[0] == ("Sender", "restarted", first, None)
    holding(house)
    assert [state for _, state, *_ in obstacles(house)] == ["held", "restarted", "paused"]


# Pause and maintenance


@pytest.mark.parametrize("by", ["pause", "maintenance"])
async def test_what_is_paused_waits_and_drains_in_order_and_nothing_is_built_anew(house, by):
    def switch(on):
        with house.database.begin() as connection:
            handler = subscriptions.require_handler(connection, 1, "Sender")
            if by == "pause":
                subscriptions.set_handler_paused(connection, handler, paused=on)
            else:
                configuration.set_maintenance(connection, house.database, "noc", on=on)

    async with Webhook() as hook:
        handler = house.handler(hook.url)
        async with house.working() as worker:
            await house.come_true(lambda: len(house.owners()) == SHARDS)
            runner = worker._runners[handler.i_event_handler]
            built = runner._handler
            switch(on=True)
            await house.come_true(lambda: runner._paused)
            made = [house.event(i_account=7) for _ in range(5)]
            await asyncio.sleep(0.7)
            assert hook.requests == []
            assert set(house.statuses().values()) == {"queued"}
            switch(on=False)
            await hook.wait_for(5)
            await house.until("finished")
            assert runner._handler is built
    assert [request.i_event for request in hook.requests] == made
    assert house.rows("Event_Handlers")[0]["version"] == handler.version


def test_maintenance_is_on_for_two_who_switch_it_on_at_once(house):
    for on in (True, True, False, False, True):
        with house.database.begin() as connection:
            configuration.set_maintenance(connection, house.database, "noc", on=on)
        with house.database.read() as connection:
            assert maintenance.in_maintenance(connection) == on


# Whose turn it is


async def test_of_many_who_want_a_turn_at_once_one_gets_it(house):
    every = timedelta(hours=1)
    others = [Database.open(house.url) for _ in range(3)]
    try:
        for round_ in range(3):
            turns = await asyncio.gather(
                *(
                    other.write(maintenance.take_turn, other, f"round {round_}", every)
                    for other in others
                )
            )
            assert sorted(turns) == [False, False, True]
    finally:
        for other in others:
            other.close()


async def test_whoever_wants_the_same_turn_waits_for_who_was_first(house):
    hour = timedelta(hours=1)
    with house.database.begin() as connection:
        maintenance.take_turn(connection, house.database, "sweep", timedelta(0))
    time.sleep(0.01)
    with closing(Database.open(house.url)) as other:
        with house.database.begin() as connection:
            assert maintenance.take_turn(connection, house.database, "sweep", timedelta(0))
            second = asyncio.create_task(other.write(maintenance.take_turn, other, "sweep", hour))
            await asyncio.sleep(0.3)
            assert not second.done()
        assert not await second


def test_a_turn_comes_again_when_its_time_is_over(house):
    def turn(every):
        with house.database.begin() as connection:
            return maintenance.take_turn(connection, house.database, "sweep", every)

    assert turn(timedelta(hours=1))
    assert not turn(timedelta(hours=1))
    time.sleep(0.01)
    assert turn(timedelta(milliseconds=1))


# How things stand


def standings(house):
    with house.database.read() as connection:
        found = subscriptions.list_handlers(connection)
        return {
            one.handler.name: one for one in standing.handlers(connection, house.database, *found)
        }


async def test_a_handlers_state_says_what_keeps_its_events_waiting(house):
    handler = house.handler(NOBODY)
    before = house.event(i_account=1)
    assert standings(house)["Sender"].state == "unattended"
    with house.database.begin() as connection:
        subscriptions.set_handler_paused(connection, handler, paused=True)
    assert standings(house)["Sender"].state == "paused"
    async with house.working() as worker:
        await house.come_true(lambda: len(house.owners()) == SHARDS)
        assert standings(house)["Sender"].workers == {worker.name: SHARDS}
        with house.database.begin() as connection:
            subscriptions.set_handler_paused(connection, handler, paused=False)
        for n in range(10):
            house.event(i_account=n)
        await house.come_true(lambda: standings(house)["Sender"].state == "breaker open")
        (breaker,) = standings(house)["Sender"].breakers.values()
        assert breaker.reason
        with house.database.begin() as connection:
            configuration.set_maintenance(connection, house.database, "noc", on=True)
        assert standings(house)["Sender"].state == "maintenance"
        (line,) = list_workers(house)
        assert (line.worker, line.alive, line.shards) == (
            worker.name,
            True,
            {(1, "Sender"): SHARDS},
        )
    found = standings(house)["Sender"]
    assert found.waiting + found.retrying == 11
    assert found.oldest == house.events(i_event=before)[0].created_at
    assert list_workers(house) == []


def list_workers(house):
    with house.database.read() as connection:
        return standing.list_workers(connection, house.database)


def test_a_worker_that_died_is_shown_as_dead_and_owns_nothing(house):
    house.handler(NOBODY)
    with house.database.begin() as connection:
        connection.execute(
            insert(workers).values(
                worker="h/1/2", started_at=LONG_AGO, expires_at=datetime.now(UTC)
            )
        )
    (line,) = list_workers(house)
    assert (line.alive, dict(line.shards)) == (False, {})
    assert standings(house)["Sender"].state == "unattended"


def test_the_name_of_a_worker_is_told_short():
    assert standing.short_name("box/pid:[4026531836]/1234/56789") == "box/1234"
    assert standing.short_name("box/1234/56789") == "box/1234"
    assert standing.short_name("box") == "box"


def test_what_was_restarted_counts_as_waiting_and_what_failed_as_failed(house):
    handler = house.handler(NOBODY)
    made = [house.event(i_account=n) for n in range(4)]
    change(house, made[:2], **FAILED)
    change(house, made[2:3], next_attempt_at=datetime.now(UTC), last_error="503", attempts=1)
    with house.database.read() as connection:
        counts = depth.counts(connection, handler.i_event_handler)
    assert counts == {"waiting": 1, "retrying": 1, "failed": 2}
    restart_all(house, Filter(status="failed"))
    with house.database.read() as connection:
        counts = depth.counts(connection, handler.i_event_handler)
    assert counts == {"waiting": 3, "retrying": 1, "failed": 0}


# Search


def test_pages_show_every_line_once_and_never_half_an_event(house):
    for name in ("One", "Two", "Three"):
        house.handler(NOBODY, name)
    made = [house.event(i_account=n) for n in range(5)]
    with house.database.begin() as connection:
        one = subscriptions.require_handler(connection, 1, "One")
        restarts.cancel_next(connection, house.database, one)
    seen, before = [], None
    while page := [(o.i_event, o.handler) for o in find(house, 4, before=before)]:
        seen += page
        before = page[-1][0]
    assert sorted(seen) == sorted(
        (i_event, name) for i_event in made for name in ("One", "Two", "Three")
    )
    assert [i_event for i_event, _ in seen] == sorted((i for i, _ in seen), reverse=True)


def leaf(house, cursor, limit=3, *, oldest_first=False, **wanted):
    """Pages from a cursor on, to the end of the list: the numbers on each."""
    word, place = cursor
    pages = []
    while True:
        with house.database.read() as connection:
            here = Filter(**wanted, **({} if place is None else {word: place}))
            page = overview.page(connection, here, limit, oldest_first=oldest_first)
        pages.append([one.i_event for one in page.lines])
        place = page.older if word == "before" else page.newer
        if place is None:
            return pages, page


@pytest.mark.parametrize("oldest_first", [False, True])
def test_pages_lead_from_one_end_to_the_other_and_back(house, oldest_first):
    house.handler(NOBODY)
    made = [house.event(i_account=n) for n in range(8)]
    with house.database.begin() as connection:
        one = subscriptions.require_handler(connection, 1, "Sender")
        house.database.dialect.batch = 5
        restarts.cancel_next(connection, house.database, one)
    order = made if oldest_first else made[::-1]
    word, back = ("after", "before") if oldest_first else ("before", "after")
    there, last = leaf(house, (word, None), oldest_first=oldest_first)
    assert there == [order[:3], order[3:6], order[6:]]
    place = last.older if oldest_first else last.newer
    again, first = leaf(house, (back, place), oldest_first=oldest_first)
    assert again == [order[3:6], order[:3]]
    assert (first.newer if not oldest_first else first.older) is None


def test_a_page_ends_where_too_much_was_looked_at_and_the_next_one_goes_on(house, monkeypatch):
    monkeypatch.setattr(overview, "FIRST_LOOK", 4)
    monkeypatch.setattr(overview, "LOOK", 10)
    monkeypatch.setattr(sources, "LOOK", 10)
    house.handler(NOBODY)
    made = [house.event("Account/Blocked", i_account=n) for n in range(60)]
    rare = [house.event("Account/Unblocked", i_account=5)]
    made += [house.event("Account/Blocked", i_account=n) for n in range(60)]
    with house.database.begin() as connection:
        one = subscriptions.require_handler(connection, 1, "Sender")
        house.database.dialect.batch = 40
        restarts.cancel_next(connection, house.database, one)
    for oldest_first, word in ((False, "before"), (True, "after")):
        wanted = {"event_type": "Account/Unblocked", "oldest_first": oldest_first}
        pages, _ = leaf(house, (word, None), **wanted)
        assert list(chain.from_iterable(pages)) == rare
        assert 10 < len(pages) < 40
        assert (
            list(chain.from_iterable(leaf(house, (word, None))[0]))
            == sorted(made + rare, reverse=not oldest_first)
            or oldest_first
        )
    assert [one.i_event for one in find(house, 10, event_type="Account/Unblocked")] == rare
    with house.database.read() as connection:
        assert overview.count(connection, Filter(event_type="Account/Unblocked")) == overview.Count(
            0, is_all=False
        )
    found = chain.from_iterable(overview.lines(house.database, Filter()))
    assert [one.i_event for one in found] == sorted(made + rare, reverse=True)


def test_types_are_found_by_how_they_begin(house):
    house.handler(NOBODY)
    made = {
        name: house.event(name, i_account=1)
        for name in ("Account/Blocked", "Account/Unblocked", "Customer/New")
    }
    for wanted, expected in (
        ("Account/*", 2),
        ("account/*", 0),
        ("Account/B*", 1),
        ("Account_*", 0),
        ("*", 3),
    ):
        assert len(find(house, 10, event_type=wanted)) == expected, wanted
    with pytest.raises(InvalidRequest, match="stands for the rest"):
        find(house, 10, event_type="*/Blocked")
    assert len(made) == 3


def test_a_count_is_exact_up_to_its_limit(house, monkeypatch):
    monkeypatch.setattr(overview, "MOST_COUNTED", 6)
    house.handler(NOBODY)
    for n in range(6):
        house.event(i_account=n)

    def count(**wanted):
        with house.database.read() as connection:
            found = overview.count(connection, Filter(**wanted))
        return found.number, found.is_all

    assert count() == (6, True)
    assert count(status="failed") == (0, True)
    house.event(i_account=9)
    assert count() == (6, False)
    assert count(ordering_key="account:9") == (1, True)


@whatever_the_database
def test_a_line_of_csv_cannot_become_a_formula(house):
    house.handler(NOBODY)
    i_event = house.event(i_account=1)
    change(house, [i_event], status="failed", last_error='=cmd|"x"\n, y')
    (lines,) = overview.lines(house.database, Filter())
    head, row = csv.reader(io.StringIO(overview.to_csv(lines, head=True)))
    assert dict(zip(head, row, strict=True)) == {
        "i_event": str(i_event),
        "i_env": "1",
        "event_type": "Account/Blocked",
        "ordering_key": "account:1",
        "handler": "Sender",
        "status": "failed",
        "attempts": "0",
        "created_at": lines[0].created_at.strftime("%Y-%m-%d %H:%M:%S"),
        "start_time": "",
        "next_attempt_at": "",
        "reason": '\'=cmd|"x"\n, y',
    }


def find(house, limit, **wanted):
    with house.database.read() as connection:
        return overview.search(connection, Filter(**wanted), limit)


async def test_an_event_that_was_scheduled_is_found_while_it_waits(house):
    house.handler(NOBODY)
    before = house.event(i_account=1)
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    i_event = house.event("Account/Unblocked", start_time=soon, i_account=1)
    later = house.event(start_time=soon + timedelta(days=300), i_account=1)
    assert house.statuses() == {before: "queued", i_event: "scheduled", later: "scheduled"}
    with house.database.begin() as connection:
        subscriptions.set_handler_paused(
            connection, subscriptions.require_handler(connection, 1, "Sender"), paused=True
        )
    async with house.working():
        await house.come_true(lambda: house.statuses()[i_event] == "queued")
    assert house.statuses() == {before: "queued", i_event: "queued", later: "scheduled"}
    assert [one.i_event for one in find(house, 10, event_type="Account/Unblocked")] == [i_event]


def test_times_choose_by_when_it_happened(house):
    house.handler(NOBODY)
    made = [house.event(i_account=1) for _ in range(6)]
    hours = [LONG_AGO + timedelta(hours=n) for n in range(6)]
    with house.database.begin() as connection:
        for i_event, moment in zip(made, hours, strict=True):
            connection.execute(
                update(event_queue)
                .where(event_queue.c.i_event == i_event)
                .values(created_at=moment)
            )

    def found(**wanted):
        return [one.i_event for one in reversed(find(house, 10, **wanted))]

    assert found(since=hours[2], until=hours[4]) == made[2:4]
    assert found(since=hours[2]) == made[2:]
    assert found(until=hours[2]) == made[:2]
    assert found(since=LONG_AGO + timedelta(days=9)) == []
    with house.database.begin() as connection:
        handler = subscriptions.require_handler(connection, 1, "Sender")
        restarts.cancel_next(connection, house.database, handler)
    assert found(since=hours[2], until=hours[4]) == made[2:4]


def test_the_place_of_a_time_is_found_whatever_is_missing(house):
    at = [None, LONG_AGO, None, LONG_AGO + timedelta(hours=1), None]
    with house.database.begin() as connection:
        for n, moment in enumerate(at):
            connection.execute(
                insert(event_queue).values(i_event=10 * n + 5, created_at=moment, notified=1)
            )
        number, column = event_queue.c.i_event, event_queue.c.created_at
        for hours, expected in ((-1, 15), (0, 15), (0.5, 35), (1, 35), (2, None)):
            found = first_at(connection, number, column, LONG_AGO + timedelta(hours=hours))
            rows = connection.execute(
                select(number).where(number >= found, column.is_not(None)).order_by(number)
            ).scalars()
            assert next(rows, None) == expected
            rows.close()


def filled(house, live, past):
    """Very many rows, made by the database itself."""
    handler = house.handler(NOBODY)
    h = handler.i_event_handler
    numbers = {
        "sqlite": "WITH RECURSIVE s(n) AS "
        "(SELECT {a} UNION ALL SELECT n + 1 FROM s WHERE n < {b}) ",
        "postgresql": "WITH s(n) AS (SELECT generate_series({a}, {b})) ",
        "mysql": "",
    }
    with house.database.begin() as connection:
        dialect = connection.dialect.name
        source = "FROM s" if dialect != "mysql" else "FROM (SELECT seq AS n FROM seq_{a}_to_{b}) s"

        def run(statement, a, b):
            if dialect == "mysql":
                into, _, rest = statement.partition(" SELECT ")
                statement = f"{into} SELECT {rest} {source}"
            else:
                into, _, rest = statement.partition(" SELECT ")
                statement = f"{into} {numbers[dialect]} SELECT {rest} {source}"
            connection.exec_driver_sql(statement.format(a=a, b=b))

        now = "CURRENT_TIMESTAMP"
        # A hundred subscribers.
        key = {
            "sqlite": "'account:' || (n % 100)",
            "postgresql": "'account:' || mod(n, 100)",
            "mysql": "concat('account:', mod(n, 100))",
        }[dialect]
        run(
            "INSERT INTO Provisioning_Log (i_log, i_event, i_env, event_type, ordering_key,"
            f" i_event_handler, handler, attempt, verdict, created_at, logged_at) SELECT n, n, 1,"
            f" 'Account/Blocked', {key}, {h}, 'Sender', 1, 'finished', {now}, {now}",
            1,
            past,
        )
        run(
            "INSERT INTO Event_Queue (i_event, i_env, event_type, ordering_key, variables,"
            f" created_at, notified) SELECT n, 1, 'Account/Blocked', {key}, '{{{{}}}}',"
            f" {now}, 1",
            past + 1,
            past + live,
        )
        run(
            "INSERT INTO Event_Notifications (i_event_handler, position, i_event, shard)"
            f" SELECT {h}, n, n, 0",
            past + 1,
            past + live,
        )
    if dialect == "postgresql":
        # As it does by itself within a minute.
        with house.database.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    return handler


def test_a_page_costs_the_same_however_much_there_is(house):
    much = 20_000
    filled(house, live=much, past=much)
    change(house, [much + 1000, much + 9000], **FAILED)
    with house.database.begin() as connection:
        connection.execute(
            update(provisioning_log)
            .where(provisioning_log.c.i_log == 1000)
            .values(verdict="rejected", ordering_key="account:77")
        )
    now = datetime.now(UTC)
    for wanted, count in (
        ({}, 50),
        ({"before": much // 2}, 50),
        ({"status": "failed"}, 3),
        ({"status": "rejected"}, 1),
        ({"status": "retrying"}, 0),
        ({"status": "scheduled"}, 0),
        ({"status": "finished"}, 50),
        ({"handler": "Sender"}, 50),
        ({"i_event": 5}, 1),
        ({"i_event": much + 1000}, 1),
        ({"ordering_key": "account:77", "status": "rejected"}, 1),
        ({"since": now + timedelta(hours=2)}, 0),
        ({"until": now - timedelta(hours=2)}, 0),
    ):
        with house.database.read() as connection:
            found = []

            def work(connection=connection, wanted=wanted, found=found):
                found += overview.search(connection, Filter(**wanted), 50)

            cost = rows_read(connection, work)
            # SQLite, which knows nothing of its tables, looks once through what a handler has.
            walks = connection.dialect.name == "sqlite" and wanted.get("status") == "failed"
            assert cost < (much if walks else 2500), wanted
        assert len(found) == count, wanted


def test_a_search_for_what_is_rare_costs_the_same_however_much_there_is(house, monkeypatch):
    """However far the next one is: a page looks at so many rows, then it ends."""
    monkeypatch.setattr(overview, "FIRST_LOOK", 100)
    monkeypatch.setattr(overview, "LOOK", 1000)
    monkeypatch.setattr(sources, "LOOK", 1000)
    much = 20_000
    handler = filled(house, live=much, past=much)
    # Many failed, and nearly all of another kind than is looked for.
    change(house, range(much + 5000, much + 15_000), **FAILED)
    searches = (
        {},
        {"event_type": "Account/New"},
        {"event_type": "Customer/*"},
        {"i_env": 2},
        {"handler": "Nobody"},
        {"ordering_key": "account:77"},
        {"ordering_key": "account:5", "event_type": "Account/New"},
        {"status": "failed"},
        {"status": "failed", "event_type": "Account/New"},
        {"status": "retrying", "event_type": "Account/New"},
        {"status": "finished", "event_type": "Account/New", "before": much // 2},
        {"event_type": "Account/New", "since": datetime.now(UTC) - timedelta(hours=1)},
    )
    for wanted in searches:
        for oldest_first in (False, True):
            with house.database.read() as connection:
                cost = rows_read(
                    connection,
                    lambda c=connection, w=wanted, o=oldest_first: overview.page(
                        c, Filter(**w), 50, oldest_first=o
                    ),
                )
            assert cost < 12_000, (wanted, oldest_first)
        with house.database.read() as connection:
            cost = rows_read(
                connection, lambda c=connection, w=wanted: overview.count(c, Filter(**w))
            )
        assert cost < 15_000, wanted
    with house.database.read() as connection:
        cost = rows_read(
            connection,
            lambda: timeline.obstacles(connection, house.database, 1, "account:5"),
        )
    assert cost < 1000
    assert handler.name == "Sender"


@pytest.mark.databases("mariadb")
def test_a_wrong_sample_of_the_verdicts_makes_no_page_dear(house, monkeypatch):
    """MariaDB guesses from a few pages of an index how often a verdict occurs."""
    monkeypatch.setattr(overview, "FIRST_LOOK", 100)
    monkeypatch.setattr(overview, "LOOK", 1000)
    much = 10_000
    filled(house, live=10, past=much)
    with house.database.begin() as connection:
        run = connection.exec_driver_sql
        run("ALTER TABLE Provisioning_Log STATS_PERSISTENT = 1, STATS_AUTO_RECALC = 0")
        run("ANALYZE TABLE Provisioning_Log").all()
        run(
            f"UPDATE mysql.innodb_index_stats SET stat_value = {much} WHERE database_name ="
            " database() AND table_name = 'Provisioning_Log' AND stat_name LIKE 'n_diff%%'"
        )
        # Where the server keeps a table open, it knows the old ones.
        run("RENAME TABLE Provisioning_Log TO Elsewhere")
        run("RENAME TABLE Elsewhere TO Provisioning_Log")
    for wanted in (
        {"status": "finished", "event_type": "Account/New", "before": much // 2},
        {"status": "finished", "ordering_key": "account:5", "event_type": "Account/New"},
    ):
        with house.database.read() as connection:
            cost = rows_read(
                connection,
                lambda c=connection, w=wanted: overview.page(c, Filter(**w), 50),
            )
        assert cost < 4000, wanted


def test_a_step_of_a_restart_costs_the_same_however_much_there_is(house):
    much = 20_000
    filled(house, live=much, past=much)
    house.database.dialect.batch = 50
    change(house, range(much + 100, much + 300), **FAILED)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    wanted = Filter(status="failed", until=tomorrow, after=much)
    with house.database.begin() as connection:
        cost = rows_read(
            connection, lambda: restarts.restart_next(connection, house.database, wanted)
        )
    assert cost < 4000


def test_a_step_costs_the_same_when_all_that_failed_has_its_line_in_the_journal(house):
    much = 20_000
    handler = filled(house, live=much, past=0)
    change(house, range(1, much + 1), **FAILED)
    with house.database.begin() as connection:
        names = "i_event, i_env, event_type, ordering_key, created_at"
        connection.exec_driver_sql(
            f"INSERT INTO Provisioning_Log ({names}, i_event_handler, handler, attempt, verdict,"
            f" logged_at) SELECT {names}, {handler.i_event_handler}, 'Sender', 3, 'failed',"
            " created_at FROM Event_Queue"
        )
    house.database.dialect.batch = 50
    wanted = Filter(status="failed", until=datetime.now(UTC) + timedelta(days=1))
    for after in (0, much // 2):
        with house.database.begin() as connection:
            step = replace(wanted, after=after)
            cost = rows_read(
                connection,
                lambda step=step: restarts.restart_next(connection, house.database, step),
            )
        assert cost < 4000


# The journal is forgotten in time


def logged(house, *rows):
    """Rows of the journal: how many days old, with which verdict, which text."""
    now = datetime.now(UTC)
    with house.database.begin() as connection:
        for n, (days, verdict, text) in enumerate(rows, 1):
            at = now - timedelta(days=days)
            connection.execute(
                insert(provisioning_log).values(
                    i_event=n, verdict=verdict, attempt=1, logged_at=at, i_request=text
                )
            )
            if text is not None:
                have = select(provisioning_log_texts).where(provisioning_log_texts.c.i_text == text)
                if connection.execute(have).first() is None:
                    connection.execute(
                        insert(provisioning_log_texts).values(i_text=text, content="x", used_on=at)
                    )


def janitor(house, keep=90, keep_failed=365):
    return Janitor(house.database, timedelta(days=keep), timedelta(days=keep_failed))


def test_old_rows_go_what_failed_stays_longer_and_texts_go_with_their_rows(house):
    house.database.dialect.batch = 2
    logged(
        house,
        (400, "failed", -9),
        (400, "finished", -8),
        (200, "rejected", -7),
        (200, "finished", 6),
        (200, "retry", -7),
        (95, "finished", 5),
        (91, "finished", 4),
        (10, "finished", 3),
        (1, "failed", 2),
    )
    assert janitor(house).prunable() == 6
    assert janitor(house).prune_journal() == 6
    assert [row["i_event"] for row in house.rows("Provisioning_Log")] == [3, 8, 9]
    # A text is used for a little longer than its rows say.
    assert {row["i_text"] for row in house.rows("Provisioning_Log_Texts")} == {-7, 4, 3, 2}
    assert janitor(house).prunable() == 0
    assert janitor(house).prune_journal() == 0


def test_pruning_looks_at_no_more_than_is_old(house):
    logged(house, *[(100, "finished", None)] * 5, *[(1, "finished", None)] * 5)
    keep = journal.Retention(*[datetime.now(UTC) - timedelta(days=90)] * 2)
    with house.database.begin() as connection:
        first = journal.prune(connection, keep, 0, 3)
        assert (first.count, first.last) == (3, 3)
        second = journal.prune(connection, keep, first.last, 3)
        assert (second.count, second.last) == (2, 5)
        assert journal.prune(connection, keep, second.last, 3) is None


def where_rows_are(house):
    with house.database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT i_event, tableoid::regclass::text FROM provisioning_log ORDER BY i_event"
        )
        return {i_event: name.removeprefix("provisioning_log_") for i_event, name in found}


def make_parts(house, last):
    with house.database.begin() as connection:
        connection.exec_driver_sql(f"SELECT setval('event_queue_i_event_seq', {last})")
        return [part.number for part in parts.make_ahead(connection)]


@pytest.mark.databases("postgresql")
def test_parts_of_the_journal_are_made_ahead_and_dropped_but_for_what_is_kept(house, monkeypatch):
    monkeypatch.setattr(parts, "WIDTH", 10)
    assert make_parts(house, 5) == [0, 1, 2, 3]
    assert make_parts(house, 9) == []
    assert make_parts(house, 31) == [4, 5, 6]
    age = {**dict.fromkeys(range(1, 20), 100), **dict.fromkeys(range(20, 100), 1)}
    now = datetime.now(UTC)
    with house.database.begin() as connection:
        for i_event, days in age.items():
            verdict = "failed" if i_event in {3, 30} else "finished"
            connection.execute(
                insert(provisioning_log).values(
                    i_event=i_event,
                    verdict=verdict,
                    attempt=1,
                    logged_at=now - timedelta(days=days),
                )
            )
        # It was sent again today.
        again = {"i_event": 4, "verdict": "finished", "attempt": 1, "logged_at": now}
        connection.execute(insert(provisioning_log).values(again))
    found = where_rows_are(house)
    assert (found[3], found[19], found[31], found[69], found[70]) == ("0", "1", "3", "6", "rest")
    told = []
    assert janitor(house).prune_journal(told.append) == 18
    assert [count for count in told if count] == [8, 10]
    left = {i_event: place for i_event, place in where_rows_are(house).items() if i_event < 30}
    assert left == {3: "rest", 4: "rest", **dict.fromkeys(range(20, 30), "2")}
    # What comes later about an old event has its place, and numbers go on.
    with house.database.begin() as connection:
        connection.execute(insert(provisioning_log).values({**again, "i_event": 5}))
        logs = connection.execute(select(provisioning_log.c.i_log)).scalars().all()
    assert where_rows_are(house)[5] == "rest"
    assert len(logs) == len(set(logs))
    # Into the place of a part that has rows elsewhere none is made.
    assert make_parts(house, 85) == [10, 11]


@pytest.mark.databases("postgresql")
def test_a_part_with_much_to_keep_is_pruned_in_steps_and_waits_only_so_long(house, monkeypatch):
    monkeypatch.setattr(parts, "WIDTH", 10)
    monkeypatch.setattr(journal, "MOST_MOVED", 2)
    make_parts(house, 5), make_parts(house, 25)
    logged(house, *[(94, "failed", None)] * 5, *[(94, "finished", None)] * 14)
    # They are old, but not so much that they cannot wait for their part.
    assert janitor(house).prune_journal(overdue=timedelta(days=7)) == 10
    assert sorted(where_rows_are(house).items()) == [(n, "0") for n in range(1, 10)]
    assert janitor(house).prune_journal() == 4
    assert sorted(where_rows_are(house)) == [1, 2, 3, 4, 5]
    with house.database.read() as connection:
        assert [part.number for part in parts.past(connection)] == [0]


@pytest.mark.databases("postgresql")
def test_parts_are_changed_by_one_at_a_time_who_waits_for_nobody_long(house, monkeypatch):
    monkeypatch.setattr(parts, "WIDTH", 10)
    make_parts(house, 5), make_parts(house, 25)
    logged(house, *[(100, "finished", None)] * 9)
    with house.database.read() as connection:
        # Somebody reads the journal for a long time.
        connection.execute(select(provisioning_log.c.i_event).limit(1)).all()
        # No part is dropped, but the rows go.
        assert janitor(house).prune_journal() == 9
    with house.database.read() as connection:
        assert [part.number for part in parts.past(connection)] == [0, 1]
    with house.database.begin() as connection, parts.changing(connection):
        other = Database.open(house.url)
        with (
            closing(other),
            pytest.raises(DatabaseUnavailable),
            other.begin() as second,
        ):
            parts.make_ahead(second)


@pytest.mark.databases("postgresql")
async def test_an_event_is_restarted_from_whatever_part_of_the_journal(house, monkeypatch):
    monkeypatch.setattr(parts, "WIDTH", 3)
    make_parts(house, 1)
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=1000)
        made = [house.event(i_account=7) for _ in range(16)]
        async with house.working():
            await house.until("finished")
            assert len(set(where_rows_are(house).values())) == 5
            with house.database.read() as connection:
                pages = overview.page(connection, Filter(), 5)
            assert [one.i_event for one in pages.lines] == made[::-1][:5]
            restart_all(house, Filter(status="finished"))
            await hook.wait_for(32)
            await house.until("finished")
    assert [request.i_event for request in hook.requests] == [*made, *made]


def test_what_failed_long_ago_leaves_the_queue_and_stays_in_the_journal(house):
    house.database.dialect.batch = 2
    house.handler(NOBODY)
    made = [house.event(i_account=n) for n in range(6)]
    change(house, made[:5], **FAILED)
    # One holds its lane.
    change(house, made[:1], next_attempt_at=LONG_AGO)
    with house.database.begin() as connection:
        old = event_queue.c.i_event.in_([*made[:4], made[5]])
        connection.execute(update(event_queue).where(old).values(created_at=LONG_AGO))
        # Scheduled long ago, failed today.
        scheduled = event_queue.c.i_event == made[3]
        connection.execute(
            update(event_queue).where(scheduled).values(start_time=datetime.now(UTC))
        )
    version = house.rows("Event_Handlers")[0]["version"]
    assert janitor(house).retire_failed() == 3
    assert sorted(house.statuses().items()) == [
        *((i_event, "failed") for i_event in made[:5]),
        (made[5], "queued"),
    ]
    assert {row["i_event"] for row in house.rows("Event_Queue")} == {*made[3:]}
    assert house.rows("Event_Handlers")[0]["version"] == version + 1
    assert restart_all(house, Filter(status="failed"))[0] == 5
    assert len(house.rows("Event_Queue")) == 6


def test_tokens_and_breakers_of_the_past_are_forgotten(house):
    with house.database.begin() as connection:
        users.create(connection, "jane", "a good password", 1)
        soon = datetime.now(UTC) + timedelta(hours=1)
        for n, until in enumerate((LONG_AGO, soon)):
            connection.execute(
                insert(access_tokens).values(
                    digest=bytes([n]) * 32,
                    session_digest=bytes(32),
                    kind="access",
                    i_user=select(func.min(users.users.c.i_user)).scalar_subquery(),
                    expires_at=until,
                )
            )
        connection.execute(
            insert(handler_breakers).values(
                i_event_handler=1, worker="gone", state="open", since=LONG_AGO
            )
        )
    janitor(house).sweep()
    assert len(house.rows("Access_Tokens")) == 1
    assert house.rows("Handler_Breakers") == []


async def test_of_two_janitors_one_sweeps_and_stops_when_it_is_told(house):
    logged(house, (400, "finished", None))
    swept = []
    both = [janitor(house) for _ in range(2)]
    for one in both:
        one.sweep = lambda one=one: swept.append(one)
    running = [asyncio.create_task(one.run()) for one in both]
    await house.come_true(lambda: bool(swept))
    await asyncio.sleep(0.2)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert len(swept) == 1
    assert all(one._stopped.is_set() for one in both)


# evctl


@pytest.fixture
def failed(desk):
    """Three events of the demo's handler have failed; returns their numbers."""
    for blocked in "YNY":
        desk.sql("UPDATE Customers SET blocked = ?", [blocked])
    desk.sql("UPDATE Event_Notifications SET status = 'failed', attempts = 3, last_error = '503'")
    return [row["i_event"] for row in reversed(desk.json("event", "list"))]


@whatever_the_database
def test_restart_says_first_how_many_and_changes_nothing(desk, failed):
    said = desk("event", "restart", "--handler", "EventSender", "--dry-run")
    assert said == "3 notifications would be restarted\n"
    assert desk("event", "restart", *failed, "--dry-run").count("would be restarted") == 3
    assert len(desk.json("event", "list", "--status", "failed")) == 3
    assert desk("event", "restart", "--since", "2h") == "3 notifications are restarted\n"
    assert desk("event", "restart", "--since", "2h") == "0 notifications would be restarted\n"
    assert {row["status"] for row in desk.json("event", "list")} == {"queued"}


@whatever_the_database
def test_several_events_are_restarted_all_or_none(desk, failed):
    desk.fails(3, "event", "restart", *failed, 99)
    assert len(desk.json("event", "list", "--status", "failed")) == 3
    said = desk("event", "restart", failed[0], failed[2])
    assert [line.split()[1] for line in said.splitlines()] == [str(failed[0]), str(failed[2])]
    assert [row["i_event"] for row in desk.json("event", "list", "--status", "failed")] == [
        failed[1]
    ]


@whatever_the_database
@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "which events"),
        (["1", "--since", "2h"], "not both"),
        (["1", "--status", "failed"], "not both"),
        (["--since", "soon"], "how long ago"),
        (["--since", "2y"], "how long ago"),
        (["--from", "2h", "--to", "3h"], "before --to"),
        (["--status", "queued"], "name what has been tried"),
        (["--status", "broken"], "is not one of"),
        (["--handler", "EventSender", "--status", "all"], "name what has been tried"),
        (["--account", "x"], "no whole number"),
    ],
)
def test_a_restart_that_is_not_understood_changes_nothing(desk, failed, words, named):
    assert named in desk.fails(2, "event", "restart", *words)
    assert len(desk.json("event", "list", "--status", "failed")) == 3


@whatever_the_database
def test_an_event_is_skipped_with_a_reason(desk, failed):
    said = desk("event", "skip", failed[0], "--handler", "EventSender", "--reason", "closed")
    assert said == f"Event {failed[0]} is skipped for EventSender\n"
    (row,) = desk.json("event", "list", "--status", "skipped")
    assert (row["i_event"], row["reason"]) == (failed[0], "closed")
    skip = ("event", "skip", failed[0], "--handler")
    desk.fails(4, *skip, "EventSender", "--reason", "again")
    desk.fails(2, *skip, "EventSender", "--reason", " ")
    desk.fails(3, *skip, "Nobody", "--reason", "x")
    desk.fails(3, "event", "skip", 99, "--handler", "EventSender", "--reason", "x")


@whatever_the_database
def test_events_are_listed_by_time_and_page(desk, failed):
    assert len(desk.json("event", "list", "--since", "1h", "--limit", 2)) == 2
    older = desk.json("event", "list", "--before", failed[1])
    assert [row["i_event"] for row in older] == failed[:1]
    assert desk.json("event", "list", "--to", "1h") == []
    assert len(desk.json("event", "list", "--from", "2020-01-01 00:00:00")) == 3
    desk.fails(2, "event", "list", "--from", "yesterday")


@whatever_the_database
def test_events_are_counted_and_printed_as_csv(desk, failed):
    assert desk("event", "list", "--count", "--type", "Customer/*") == "3\n"
    assert desk("event", "list", "--count", "--type", "Account/*") == "0\n"
    rows = list(csv.DictReader(io.StringIO(desk("event", "list", "--csv", "--oldest-first"))))
    assert [int(row["i_event"]) for row in rows] == failed
    assert {row["status"] for row in rows} == {"failed"}
    newer = desk.json("event", "list", "--after", failed[0], "--limit", 1)
    assert [row["i_event"] for row in newer] == [failed[1]]
    desk.fails(2, "event", "list", "--csv", "--count")
    desk.fails(2, "event", "list", "--csv", "--limit", 5)
    desk.fails(2, "event", "list", "--type", "*/Blocked")


@whatever_the_database
def test_a_subscriber_is_looked_at_held_and_released_by_any_name(desk, failed):
    (name,) = desk.sql("SELECT name FROM Customers WHERE i_customer = 1")[0]
    assert len(desk.json("event", "list", "--env", 3, "--about", name)) == 3
    story = desk.json("event", "timeline", 3, name)
    assert story["key"] == "customer:1"
    assert [row["i_event"] for row in story["events"]] == failed
    assert story["obstacles"] == []
    hold = ("event", "hold", 3, "customer:1", "--reason")
    assert desk(*hold, "ticket 77") == "customer:1 is held for EventSender\n"
    desk.fails(4, *hold, "again")
    desk.fails(2, *hold, " ")
    desk.fails(3, *hold, "x", "--handler", "Nobody")
    desk.fails(3, "event", "hold", 3, "nobody at all", "--reason", "x")
    (one,) = desk.json("event", "held", "--env", 3)
    assert (one["ordering_key"], one["reason"]) == ("customer:1", "evctl: ticket 77")
    assert "ticket 77" in desk("event", "timeline", 3, name, "--newest-first")
    assert len(desk.json("event", "list")) == 3
    assert desk("event", "release", 3, name) == "customer:1 goes on for EventSender\n"
    desk.fails(4, "event", "release", 3, name)
    assert desk.json("event", "held") == []


@whatever_the_database
def test_a_handler_is_paused_and_goes_on(desk):
    assert desk("handler", "pause", 3, "EventSender") == "Handler EventSender is paused\n"
    (row,) = desk.json("handler", "list")
    assert (row["state"], row["paused"], row["enabled"]) == ("paused", True, True)
    desk("maintenance", "on")
    done = desk.run("handler", "resume", 3, "EventSender")
    assert (done.stdout, "maintenance is on" in done.stderr) == (
        "Handler EventSender goes on\n",
        True,
    )
    assert desk.json("handler", "show", 3, "EventSender")["state"] == "maintenance"
    assert desk("maintenance", "status").split() == ["maintenance", "yes"]
    desk("maintenance", "off")
    assert desk.json("maintenance", "status") == {"maintenance": False}
    desk("handler", "disable", 3, "EventSender", "--yes")
    assert desk.json("handler", "list")[0]["state"] == "disabled"
    assert "disabled" in desk.run("handler", "resume", 3, "EventSender").stderr
    desk.fails(3, "handler", "pause", 3, "Nobody")


@whatever_the_database
def test_the_list_of_handlers_tells_what_waits_and_since_when(desk, failed, monkeypatch):
    desk.sql("UPDATE Customers SET blocked = 'N'")
    desk.sql("UPDATE Event_Queue SET created_at = '2020-01-01 00:00:00.000'")
    (row,) = desk.json("handler", "list")
    assert (row["waiting"], row["retrying"], row["failed"]) == (1, 0, 3)
    assert row["oldest_waiting_seconds"] > 86_400
    line = desk("handler", "list").splitlines()[1].split()
    assert line[3:5] == ["unattended", "1"]
    assert line[5].endswith("d")
    assert not row["estimated"]
    monkeypatch.setattr(depth, "SAMPLE", 1)
    assert desk("handler", "list").splitlines()[1].split()[4].startswith("~")
    assert desk.json("handler", "list")[0]["estimated"]


@whatever_the_database
def test_a_handler_with_very_much_work_is_deleted_step_by_step(desk, failed):
    desk.fails(4, "handler", "delete", 3, "EventSender")
    assert desk.json("handler", "list")[0]["enabled"]
    said = desk("handler", "delete", 3, "EventSender", "--force")
    assert said == "Handler EventSender is deleted; 3 notifications cancelled\n"
    assert {row["status"] for row in desk.json("event", "list")} == {"cancelled"}


@whatever_the_database
def test_the_journal_is_pruned_when_one_says_so(desk, failed):
    desk("handler", "delete", 3, "EventSender", "--force")
    desk.sql("UPDATE Provisioning_Log SET logged_at = '2020-01-01 00:00:00.000'")
    prune = ("journal", "prune", "--older-than", "30d")
    assert desk(*prune, "--dry-run") == "3 rows would be removed\n"
    assert desk(*prune) == "3 rows are removed\n"
    assert desk(*prune) == "0 rows are removed\n"
    desk.fails(2, "journal", "prune", "--older-than", "a while")
    assert desk.json("event", "list") == []


# Processes


@contextmanager
def process(desk, *words, **environment):
    """evctl as a process of its own, which is told to stop at the end."""
    running = subprocess.Popen(
        [COMMANDS / "evctl", *words],
        cwd=desk.folder,
        env={**os.environ, **desk.environment, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        os.set_blocking(running.stderr.fileno(), True)
        running.communicate()


def line_with(running, words, timeout=60):
    """Read what a process says until it says this."""
    os.set_blocking(running.stderr.fileno(), False)
    said, deadline = "", time.monotonic() + timeout
    while words not in said:
        assert time.monotonic() < deadline, said
        with suppress(BlockingIOError):
            said += os.read(running.stderr.fileno(), 65_536).decode()
        time.sleep(0.02)
    return said


def stopped(running):
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0


@whatever_the_database
def test_workers_and_apis_run_apart_and_share_the_work(desk):
    address = f"127.0.0.1:{free_port()}"
    with (
        process(desk, "web", ESPF_LISTEN=address) as web,
        process(desk, "worker", ESPF_LISTEN=address) as one,
        process(desk, "worker", ESPF_LISTEN=address) as two,
    ):
        line_with(web, f"listening on http://{address}")
        desk("handler", "set", 3, "EventSender", "Concurrency=16", "EventSender.AsyncMode=0")
        wait_until(
            lambda: (
                sorted(
                    work["shards"] for row in desk.json("worker", "list") for work in row["shards"]
                )
                == [8, 8]
            )
        )
        assert desk("worker", "list").count("EventSender@3 8/16") == 2
        shown = desk.json("handler", "show", 3, "EventSender")
        assert shown["state"] == "working"
        assert sorted(shown["workers"].values()) == [8, 8]
        assert "8/16" in desk("handler", "show", 3, "EventSender")
        stopped(two)
        wait_until(lambda: [*desk.json("handler", "list")[0]["workers"].values()] == [16])
        stopped(one)
        stopped(web)
    assert desk.json("worker", "list") == []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_until(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@whatever_the_database
def test_a_worker_that_cannot_know_where_the_billing_is_says_so(desk):
    done = desk.child("worker", ESPF_LISTEN="127.0.0.1:0")
    assert done.returncode == 2
    assert "ESPF_BILLING_URL" in last_line(done.stderr)


def last_line(text):
    assert "Traceback" not in text
    return text.splitlines()[-1]


@whatever_the_database
@pytest.mark.parametrize("words", ["run", "worker", "web"])
def test_a_process_does_not_start_on_what_was_never_set_up(tmp_path, words):
    (tmp_path / "var").mkdir()
    desk = Desk(tmp_path)
    (tmp_path / "var/espf.db").touch()
    Sealer.create(desk.key_file)
    done = desk.child(words, ESPF_LISTEN=f"127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "run 'evctl init'" in last_line(done.stderr)


SERVERS = {"postgresql": PostgreSQL, "mariadb": MariaDB}


@pytest.fixture(params=SERVERS)
def server(request):
    with SERVERS[request.param]() as running:
        yield running


def installed(server, folder):
    """An installation over a server: tables and keys, no billing."""
    desk = Desk(folder, server.empty())
    desk.key_file.parent.mkdir()
    Sealer.create(desk.key_file)
    with closing(Database.open(server.url())) as database, database.begin() as connection:
        schema.set_up(connection, database.dialect)
        subscriptions.add_catalogue(connection)
    desk.environment["ESPF_LISTEN"] = f"127.0.0.1:{free_port()}"
    return desk


def test_a_database_that_is_away_at_the_start_is_waited_for_and_told_once(server, tmp_path):
    desk = installed(server, tmp_path)
    server.stop()
    with process(desk, "worker") as worker, process(desk, "web") as web:
        said = line_with(worker, "waiting for the database")
        line_with(web, "waiting for the database")
        time.sleep(1.0)
        assert (worker.poll(), web.poll()) == (None, None)
        server.start()
        for one in (worker, web):
            said = line_with(one, "the database is back")
            assert "waiting for" not in said
        wait_until(lambda: desk.json("worker", "list"))
        stopped(worker)
        stopped(web)


def test_a_worker_that_waits_for_the_database_stops_when_it_is_told(server, tmp_path):
    desk = installed(server, tmp_path)
    server.stop()
    with process(desk, "worker") as worker:
        line_with(worker, "waiting for the database")
        stopped(worker)


def test_a_database_of_another_name_is_a_fault_of_the_settings(server, tmp_path):
    desk = installed(server, tmp_path)
    done = desk.child("worker", ESPF_DATABASE_URL=server.url("elsewhere"))
    assert done.returncode == 2
    assert "ESPF_DATABASE_URL" in last_line(done.stderr)


def test_too_many_connections_are_waited_out(tmp_path):
    with PostgreSQL() as server:
        desk = installed(server, tmp_path)
        server._execute("ALTER ROLE espf CONNECTION LIMIT 0", "ALTER ROLE espf NOSUPERUSER")
        with process(desk, "worker") as worker:
            assert "too many connections" in line_with(worker, "waiting for the database")
            assert worker.poll() is None


@pytest.mark.parametrize("command", ["worker", "web", "run"])
@whatever_the_database
def test_a_process_ends_when_its_tables_are_upgraded_under_it(desk, command):
    impatient = "from espf.cli import main, process; process.TABLES_LOOK_SECONDS = 0.1; main()"
    with subprocess.Popen(
        [sys.executable, "-c", impatient, command],
        cwd=desk.folder,
        env={**os.environ, **desk.environment, "ESPF_LISTEN": f"127.0.0.1:{free_port()}"},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            line_with(running, "listening" if command == "web" else "working for handler")
            assert running.poll() is None
            desk.sql("UPDATE espf_alembic_version SET version_num = '9999'")
            assert running.wait(20) == 2
            os.set_blocking(running.stderr.fileno(), True)
            said = running.stderr.read()
        finally:
            running.kill()
    assert said.count("a newer ESPF has made this database (revision 9999)") == 1
    assert "Traceback" not in said
