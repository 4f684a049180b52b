"""When an external system is down, or an administrator says wait: nothing spent, nothing lost."""

import asyncio
from collections import Counter

import pytest

from databases import whatever_the_database
from espf import configuration, maintenance, subscriptions
from house import House
from webhook import Answer, Webhook

BUCKET = {"EventSender__TokenRate": 1000, "EventSender__TokenBurstiness": 100}
SLOTS = {"EventSender__AsyncMode": "off", "Concurrency": 4}
# Attempts that are tried again soon, so that only the breaker keeps them from going out.
EAGER = {"RetryDelays": "0s", "RetryJitter": 0, "MaxAttempts": 1000}


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


@pytest.fixture
def brief(monkeypatch):
    """Breakers that try again soon, and workers that tell of them soon."""
    monkeypatch.setattr("espf.worker.breaker.FIRST_SECONDS", 0.5)
    monkeypatch.setattr("espf.worker.worker.ROSTER_SECONDS", 0.05)


def states(house, handler):
    with house.database.read() as connection:
        found = maintenance.breakers(connection, house.database.now(connection))
    return [one.state for one in found[handler.i_event_handler].values()]


def spent(house):
    """Attempts that count, over all events."""
    return sum(one.attempts for one in house.events())


async def down(house):
    """A port on which nobody listens any more, and what listens there later."""
    hook = Webhook()
    await hook.start()
    await hook.stop()
    return hook


def in_order(hook):
    lanes = {}
    for request in hook.requests:
        lanes.setdefault(request.json["variables"]["i_account"], []).append(request.i_event)
    return all(list(dict.fromkeys(made)) == sorted(set(made)) for made in lanes.values())


# The breaker


@pytest.mark.parametrize("pace", [BUCKET, SLOTS], ids=["bucket", "slots"])
async def test_a_system_that_is_down_is_left_alone_and_gets_everything_in_order_later(
    house, brief, pace
):
    hook = await down(house)
    handler = house.handler(hook.url, **pace, **EAGER)
    # One lane first, so that the five attempts come one after the other.
    made = [house.event(i_account=0) for _ in range(3)]
    async with house.working():
        await house.come_true(lambda: states(house, handler) == ["open"])
        # The last result may still be on its way to the database.
        await house.come_true(lambda: spent(house) >= 5)
        assert spent(house) == 5, "as many as it takes to see that nobody is there, and no more"
        with house.database.read() as connection:
            found = maintenance.breakers(connection, house.database.now(connection))
            (shown,) = found[handler.i_event_handler].values()
        assert "connection refused" in shown.reason
        assert shown.probe_at > shown.since
        made += [house.event(i_account=n % 20) for n in range(200)]
        # Long enough for a probe that fails, too.
        await asyncio.sleep(1.0)
        assert spent(house) == 5
        assert set(house.statuses().values()) <= {"queued", "retrying"}
        hook.always = Answer(delay=0.005)
        await hook.start(hook.port)
        try:
            await house.until("finished")
            await house.come_true(lambda: states(house, handler) == [])
        finally:
            await hook.stop()
    assert Counter(r.i_event for r in hook.requests) == Counter(made)
    assert in_order(hook)


@whatever_the_database
async def test_a_system_that_mostly_fails_is_left_alone_until_a_probe_gets_through(
    house, brief, monkeypatch
):
    # Time to look at it before it probes.
    monkeypatch.setattr("espf.worker.breaker.FIRST_SECONDS", 2.0)
    async with Webhook() as hook:
        hook.always = Answer(503)
        handler = house.handler(hook.url, **SLOTS, **EAGER)
        made = [house.event(i_account=n) for n in range(40)]
        async with house.working():
            await house.come_true(lambda: states(house, handler) == ["open"])
            tried = len(hook.requests)
            assert 50 <= tried <= 50 + 4
            # The last results may still be on their way to the database.
            await house.come_true(lambda: spent(house) >= 50)
            assert spent(house) == 50, "what was under way then does not count"
            await hook.wait_for(tried + 1)
            await asyncio.sleep(0.3)
            assert len(hook.requests) == tried + 1, "one event tries, and the pause is longer now"
            assert spent(house) == 50
            # Recovery begins with one at a time.
            hook.always = Answer(delay=0.05)
            hook.most_in_progress = 0
            before = len(hook.requests)
            await hook.wait_for(before + 2)
            assert hook.most_in_progress <= 2
            await house.until("finished")
            await house.come_true(lambda: states(house, handler) == [])
    assert {r.i_event for r in hook.requests} == set(made)
    assert in_order(hook)


@whatever_the_database
@pytest.mark.parametrize("status", [401, 407])
async def test_refused_credentials_rest_the_handler_at_the_first_answer(house, brief, status):
    async with Webhook() as hook:
        hook.always = Answer(status)
        handler = house.handler(hook.url, EventSender__AsyncMode="off", **EAGER)
        for n in range(10):
            house.event(i_account=n)
        async with house.working():
            await house.come_true(lambda: states(house, handler) == ["open"])
            await asyncio.sleep(0.3)
            assert len(hook.requests) == 1
            assert spent(house) == 0
            hook.always = Answer()
            # A change of the settings ends the rest at once.
            house.change(handler, EventSender__RequestTimeout=7)
            await house.come_true(lambda: states(house, handler) == [])
            for one in house.events(status="retrying"):
                house.restart(one.i_event)
            await house.until("finished")


@whatever_the_database
async def test_a_system_that_is_down_slows_down_no_other(house, brief):
    hook = await down(house)
    async with Webhook() as other:
        house.handler(hook.url, "Down", **BUCKET, **EAGER)
        house.handler(other.url, "Up", **BUCKET)
        async with house.working():
            house.event(i_account=0)
            await house.come_true(lambda: len(house.rows("Handler_Breakers")) == 1)
            for n in range(200):
                house.event(i_account=n % 20)
            await other.wait_for(201)
            await house.come_true(
                lambda: {one.status for one in house.events(handler="Up")} == {"finished"}
            )
    assert in_order(other)


# An administrator says wait


def pause(house, handler, *, paused):
    with house.database.begin() as connection:
        subscriptions.set_handler_paused(connection, handler, paused=paused)


def maintain(house, _handler, *, paused):
    with house.database.begin() as connection:
        configuration.set_maintenance(connection, house.database, "noc", on=paused)


@whatever_the_database
@pytest.mark.parametrize("wait", [pause, maintain])
async def test_while_it_has_to_wait_nothing_is_sent_and_nothing_fails(house, brief, wait):
    async with Webhook() as hook:
        answered = asyncio.Event()
        hook.always = Answer(after=answered)
        handler = house.handler(hook.url, **BUCKET)
        async with house.working() as worker:
            made = [house.event(i_account=n % 10) for n in range(100)]
            await hook.wait_for(10)
            wait(house, handler, paused=True)
            await house.come_true(lambda: worker._runners[handler.i_event_handler]._paused)
            answered.set()
            await house.come_true(lambda: len(house.events(status="finished")) == 10)
            quiet = len(hook.requests)
            assert quiet == 10, "each lane was waiting for its answer"
            made += [house.event(i_account=n % 10) for n in range(50)]
            await asyncio.sleep(0.5)
            assert len(hook.requests) == quiet
            assert set(house.statuses().values()) == {"finished", "queued"}
            assert spent(house) == quiet, "every attempt that was made got through"
            wait(house, handler, paused=False)
            await house.until("finished")
    assert Counter(r.i_event for r in hook.requests) == Counter(made)
    assert in_order(hook)


@whatever_the_database
@pytest.mark.parametrize("wait", [pause, maintain])
async def test_a_worker_that_starts_while_it_has_to_wait_sends_nothing_either(house, wait):
    async with Webhook() as hook:
        handler = house.handler(hook.url)
        wait(house, handler, paused=True)
        made = [house.event(i_account=1) for _ in range(3)]
        async with house.working():
            await asyncio.sleep(0.8)
            assert hook.requests == []
            wait(house, handler, paused=False)
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == made


@pytest.mark.databases("postgresql")
def test_what_was_numbered_before_a_server_was_killed_is_forgotten(database):
    """It gives those numbers once more, to others: whose events would be passed by."""
    dialect = database.dialect
    with database.begin() as connection:
        dialect.make_no_events(connection)
        number = int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())
    assert number not in dialect._running(f"{number}:{number + 1}:{number}", 0)
    # As after an outage, all connections are new ones.
    database._engine.dispose()
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert number in dialect._running(f"{number}:{number + 1}:{number}", 0)
