"""The worker over a real database and a real server: delivery, order, retries, pacing, stopping."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from databases import whatever_the_database
from espf import restarts, subscriptions
from espf.leases import Leases
from house import House
from webhook import Answer, Request, Webhook


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


async def test_an_event_is_delivered_journalled_and_leaves_the_live_tables(house):
    async with Webhook() as hook:
        house.handler(hook.url)
        i_event = house.event(i_account=7)
        async with house.working():
            (request,) = await hook.wait_for(1)
            await house.until("finished")
    assert request.json["event_type"] == "Account/Blocked"
    assert request.json["variables"]["i_account"] == 7
    assert request.i_event == i_event
    assert house.live_rows() == (0, 0)
    (line,) = house.log_lines()
    assert f"i_event={i_event}" in line
    assert "verdict=finished" in line


@whatever_the_database
@pytest.mark.parametrize("is_short", [True, False])
async def test_an_event_goes_out_under_the_name_that_its_handler_subscribed_to(
    house, is_short, monkeypatch
):
    if not is_short:
        monkeypatch.setattr("espf.worker.runner.PostHandler", str)
    async with Webhook() as old, Webhook() as new:
        handler = house.handler(old.url, "Old")
        house.handler(new.url, "New")
        with house.database.begin() as connection:
            subscriptions.subscribe(connection, handler, "Account/Status/Suspend")
        house.event("Account/Status/Suspended", i_account=7)
        house.event("Account/Blocked", i_account=7)
        async with house.working():
            requests = await asyncio.gather(old.wait_for(2), new.wait_for(2))
            await house.until("finished")
    assert [[request.json["event_type"] for request in some] for some in requests] == [
        ["Account/Status/Suspend", "Account/Blocked"],
        ["Account/Status/Suspended", "Account/Blocked"],
    ]
    assert {one.event_type for one in house.events()} == {
        "Account/Status/Suspended",
        "Account/Blocked",
    }


async def test_an_event_reaches_every_subscribed_handler_and_stays_until_all_are_done(house):
    async with Webhook() as good, Webhook() as bad:
        bad.always = Answer(503)
        house.handler(good.url, "Good")
        house.handler(bad.url, "Bad", RetryDelays="1h", RetryJitter=0)
        i_event = house.event(i_account=7)
        async with house.working():
            await asyncio.gather(good.wait_for(1), bad.wait_for(1))
            await house.come_true(
                lambda: (
                    {one.handler: one.status for one in house.events()}
                    == {"Good": "finished", "Bad": "retrying"}
                )
            )
            assert house.statuses() == {i_event: "retrying"}, "it is not over"
            assert house.live_rows() == (1, 2)


async def test_one_account_is_served_strictly_in_order_while_others_go_on(house):
    async with Webhook() as hook:
        refused: set[int] = set()

        def answer(request: Request) -> Answer:
            # Every event of account 0 fails once.
            if request.json["variables"]["i_account"] == 0 and request.i_event not in refused:
                refused.add(request.i_event)
                return Answer(503)
            return Answer()

        hook.always = answer
        house.handler(hook.url, RetryDelays="1s", RetryJitter=0, EventSender__TokenRate=1000)
        made = [house.event(i_account=n % 4) for n in range(12)]
        async with house.working():
            await house.until("finished")
    for account in range(4):
        seen = [r.i_event for r in hook.requests if r.json["variables"]["i_account"] == account]
        expected = [i_event for n, i_event in enumerate(made) if n % 4 == account]
        if account == 0:
            assert seen == [i_event for i_event in expected for _ in (1, 2)]
        else:
            assert seen == expected
    others = max(r.received_at for r in hook.requests if r.json["variables"]["i_account"] != 0)
    stuck = max(r.received_at for r in hook.requests if r.json["variables"]["i_account"] == 0)
    assert others < stuck, "the other accounts waited for the stuck one"


async def test_after_the_last_attempt_an_event_is_failed_kept_and_can_be_restarted(house):
    async with Webhook() as hook:
        hook.then(Answer(500), Answer(500))
        house.handler(hook.url, RetryDelays="0s", MaxAttempts=2)
        first = house.event(i_account=7)
        second = house.event(i_account=7)
        async with house.working():
            await house.until("failed", "finished")
            assert house.statuses() == {first: "failed", second: "finished"}
            assert house.live_rows() == (1, 1)
            assert house.restart(first) == ["Sender"]
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == [first, first, second, first]
    assert house.live_rows() == (0, 0)


async def test_hold_keeps_the_lane_waiting_until_the_failed_one_is_restarted(house):
    async with Webhook() as hook:
        hook.then(Answer(500))
        house.handler(hook.url, RetryDelays="0s", MaxAttempts=1, OnFailure="hold")
        first = house.event(i_account=7)
        followers = [house.event(i_account=7) for _ in range(3)]
        other = house.event(i_account=8)
        async with house.working():
            await hook.wait_for(2)
            await asyncio.sleep(0.3)
            assert [r.i_event for r in hook.requests] == [first, other]
        # A new worker must find the lane held, too.
        async with house.working():
            await asyncio.sleep(0.7)
            assert len(hook.requests) == 2
            late = house.event(i_account=7)
            house.restart(first)
            await house.until("finished")
    assert [r.i_event for r in hook.requests[2:]] == [first, *followers, late]


@whatever_the_database
async def test_a_held_lane_goes_on_when_the_handler_no_longer_holds(house):
    async with Webhook() as hook:
        hook.then(Answer(500))
        handler = house.handler(hook.url, RetryDelays="0s", MaxAttempts=1, OnFailure="hold")
        first = house.event(i_account=7)
        followers = [house.event(i_account=7) for _ in range(3)]
        async with house.working():
            await hook.wait_for(1)
            await asyncio.sleep(0.2)
            house.change(handler, OnFailure="continue")
            await house.until("finished", "failed")
    assert [r.i_event for r in hook.requests] == [first, *followers]


async def test_a_rejected_event_is_not_retried_and_can_come_back_from_the_journal(house):
    async with Webhook() as hook:
        hook.then(Answer(404, body="no such subscriber"))
        house.handler(hook.url)
        i_event = house.event(i_account=7)
        async with house.working():
            await house.until("rejected")
            assert house.live_rows() == (0, 0)
            assert "no such subscriber" in house.events()[0].reason
            house.restart(i_event)
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == [i_event, i_event]


@whatever_the_database
async def test_retry_after_is_honoured(house):
    async with Webhook() as hook:
        hook.then(Answer(503, {"Retry-After": "2"}))
        house.handler(hook.url, RetryDelays="0s")
        house.event(i_account=7)
        async with house.working():
            await house.until("finished")
    first, second = hook.requests
    assert second.received_at - first.received_at >= 1.9


@whatever_the_database
async def test_sync_mode_sends_one_by_one_and_concurrency_bounds_the_lanes(house):
    for concurrency in (1, 3):
        async with Webhook() as hook:
            hook.always = Answer(delay=0.05)
            house.handler(
                hook.url,
                f"Sender{concurrency}",
                EventSender__AsyncMode="off",
                Concurrency=concurrency,
            )
            for n in range(9):
                house.event(i_account=n)
            async with house.working():
                await hook.wait_for(9)
                await house.until("finished")
            assert hook.most_in_progress == concurrency
        with house.database.begin() as connection:
            restarts.remove_handler(connection, house.database, _only(house), force=True)


@whatever_the_database
async def test_async_mode_does_not_wait_for_replies_but_never_sends_two_of_one_account(house):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.3)
        house.handler(hook.url)
        for _ in range(2):
            for account in range(10):
                house.event(i_account=account)
        async with house.working():
            await hook.wait_for(20)
            await house.until("finished")
    assert hook.most_in_progress == 10
    first_round = {r.json["variables"]["i_account"] for r in hook.requests[:10]}
    assert len(first_round) == 10


@whatever_the_database
async def test_async_mode_sends_at_the_rate_of_the_token_bucket(house):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=20, EventSender__TokenBurstiness=5)
        for account in range(15):
            house.event(i_account=account)
        async with house.working():
            requests = await hook.wait_for(15)
    times = [r.received_at - requests[0].received_at for r in requests]
    assert times[4] < 0.2, "the burst goes out at once"
    assert 0.4 < times[14] < 1.5, "ten more at twenty a second"


@whatever_the_database
async def test_max_wait_time_ends_a_batch_that_gets_no_answer(house):
    async with Webhook() as hook:
        hook.then(Answer(fault="hang"))
        house.handler(hook.url, EventSender__MaxWaitTime=1, RetryDelays="0s")
        house.event(i_account=7)
        async with house.working():
            await house.until("finished")
    first, second = hook.requests
    assert second.received_at - first.received_at > 0.9
    assert "no answer" in "".join(house.log_lines())


@whatever_the_database
async def test_a_refused_password_spends_no_attempt_and_one_new_setting_mends_it(house):
    async with Webhook() as hook:
        hook.always = lambda r: Answer(200 if r.headers.get("authorization") else 401)
        handler = house.handler(hook.url, MaxAttempts=1)
        for account in range(5):
            house.event(i_account=account)
        async with house.working():
            await hook.wait_for(1)
            await asyncio.sleep(0.3)
            assert set(house.statuses().values()) <= {"retrying", "queued"}
            assert all(one.attempts == 0 for one in house.events())
            house.change(
                handler,
                EventSender__AuthMethod="Basic",
                **{"EventSender.BasicAuth.User": "u", "EventSender.BasicAuth.Key": "k"},
            )
            for one in house.events(status="retrying"):
                house.restart(one.i_event)
            await house.until("finished")


async def test_a_scheduled_event_waits_for_its_time_and_holds_nobody(house):
    async with Webhook() as hook:
        house.handler(hook.url)
        due = datetime.now(UTC) + timedelta(seconds=1.5)
        planned = house.event(start_time=due, i_account=7)
        now = house.event(i_account=7)
        async with house.working():
            await hook.wait_for(1)
            await house.come_true(lambda: house.statuses()[now] == "finished")
            assert house.statuses()[planned] == "scheduled" or datetime.now(UTC) >= due
            await hook.wait_for(2)
            late = datetime.now(UTC) - due
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == [now, planned]
    (past,) = house.events(i_event=planned)
    assert abs(past.start_time - due) < timedelta(milliseconds=2), "the journal knows its time"
    assert timedelta(0) <= late < timedelta(seconds=30)


async def test_a_scheduled_event_joins_behind_what_waits_in_its_lane(house):
    async with Webhook() as hook:
        hook.then(Answer(503))
        house.handler(hook.url, RetryDelays="2s", RetryJitter=0)
        planned = house.event(start_time=datetime.now(UTC) + timedelta(seconds=1), i_account=7)
        stuck = house.event(i_account=7)
        behind = house.event(i_account=7)
        async with house.working():
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == [stuck, stuck, behind, planned]


async def test_a_lane_longer_than_memory_is_served_in_order(house, monkeypatch):
    monkeypatch.setattr("espf.worker.lanes.LANE_LIMIT", 5)
    monkeypatch.setattr("espf.worker.runner.WINDOW", 30)
    monkeypatch.setattr("espf.worker.runner.READ_AT_LEAST", 3)
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=10000, EventSender__TokenBurstiness=1000)
        made = {n: [house.event(i_account=n) for _ in range(60)] for n in (1, 2)}
        async with house.working():
            await hook.wait_for(10)
            made[1] += [house.event(i_account=1) for _ in range(20)]
            await house.until("finished")
    for account, expected in made.items():
        seen = [r.i_event for r in hook.requests if r.json["variables"]["i_account"] == account]
        assert seen == expected


@whatever_the_database
async def test_what_is_due_all_at_once_goes_out_as_fast_as_it_fits_in_memory(house, monkeypatch):
    monkeypatch.setattr("espf.worker.runner.WINDOW", 4)
    monkeypatch.setattr("espf.worker.runner.READ_AT_LEAST", 2)
    async with Webhook() as hook:
        # Not so many that the breaker would open.
        hook.then(*[Answer(503)] * 40)
        house.handler(
            hook.url,
            EventSender__TokenRate=10000,
            EventSender__TokenBurstiness=1000,
            RetryDelays="1s",
            RetryJitter=0,
        )
        for account in range(40):
            house.event(i_account=account)
        async with house.working():
            await hook.wait_for(40)
            # Three at a time, once a second, would take thirteen.
            await hook.wait_for(80, 10.0)
            await house.until("finished")


async def test_a_retry_has_its_turn_while_very_many_wait(house, monkeypatch):
    monkeypatch.setattr("espf.worker.runner.WINDOW", 200)
    monkeypatch.setattr("espf.worker.runner.READ_AT_LEAST", 50)
    pace = {"EventSender__TokenRate": 500, "EventSender__TokenBurstiness": 16}
    async with Webhook() as hook:
        handler = house.handler(hook.url, RetryDelays="1s", RetryJitter=0, **pace)
        refused = house.event(i_account=1_000_000)
        house.flood(handler, 2000, 2000)
        times = 0

        def answer(request: Request) -> Answer:
            nonlocal times
            times += request.i_event == refused
            return Answer(503 if times == 1 and request.i_event == refused else 200)

        hook.always = answer
        async with house.working():
            await house.come_true(lambda: times == 2)
            place = len(hook.requests)
    assert place < 1500, "it was sent when everything else was through"


@whatever_the_database
async def test_a_stopping_worker_finishes_what_is_in_flight_and_starts_nothing_more(house):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.5)
        house.handler(hook.url, EventSender__AsyncMode="off")
        first = house.event(i_account=1)
        second = house.event(i_account=2)
        async with house.working():
            await hook.wait_for(1)
    assert house.statuses() == {first: "finished", second: "queued"}
    assert len(hook.requests) == 1


@whatever_the_database
async def test_what_is_cut_off_at_the_stop_is_delivered_again_with_the_same_number(house):
    async with Webhook() as hook:
        hook.then(Answer(fault="hang"))
        house.handler(hook.url)
        i_event = house.event(i_account=1)
        async with house.working(grace=0.1):
            await hook.wait_for(1)
        assert house.statuses() == {i_event: "queued"}
        async with house.working():
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == [i_event, i_event]


async def test_a_new_handler_and_a_switched_off_one_take_effect_while_running(house):
    async with Webhook() as hook, house.working() as worker:
        handler = house.handler(hook.url)
        house.event(i_account=1)
        await hook.wait_for(1)
        _switch(house, handler, enabled=False)
        await house.come_true(lambda: not worker._runners)
        ignored = house.event(i_account=1)
        _switch(house, handler, enabled=True)
        house.event(i_account=1)
        await hook.wait_for(2)
        await house.until("finished")
    assert len(hook.requests) == 2
    assert {one.reason for one in house.events(i_event=ignored)} == {"no subscriber"}


@whatever_the_database
async def test_a_switched_off_handler_keeps_what_waits(house):
    async with Webhook() as hook:
        handler = house.handler(hook.url)
        i_event = house.event(i_account=1)
        _switch(house, handler, enabled=False)
        async with house.working():
            await asyncio.sleep(0.7)
            assert hook.requests == []
            assert house.statuses() == {i_event: "queued"}
            _switch(house, handler, enabled=True)
            await hook.wait_for(1)
            await house.until("finished")


async def test_secrets_stay_out_of_journal_and_log(house):
    async with Webhook() as hook:
        hook.always = Answer(400, body="you sent hunter2-very-secret as password")
        house.handler(
            hook.url,
            EventSender__AuthMethod="Basic",
            **{
                "EventSender.BasicAuth.User": "u",
                "EventSender.BasicAuth.Key": "hunter2-very-secret",
            },
        )
        house.event(i_account=1)
        async with house.working():
            await house.until("rejected")
    tables = (
        *("Provisioning_Log", "Provisioning_Log_Texts", "Event_Handlers", "Event_Notifications"),
        "Handler_Breakers",
    )
    dump = "\n".join(str(row) for table in tables for row in house.rows(table))
    assert "POST http://127.0.0.1" in dump
    assert "hunter2" not in dump
    assert "aHVudGVy" not in dump, "the Basic credentials"
    assert "hunter2" not in "".join(house.log_lines())


def take_all_shards(house, worker):
    """Another worker takes everything over, however alive the owner is."""
    leases = Leases(house.database)
    owners = house.owners()
    with house.database.begin() as connection:
        leases.sign_of_life(connection, worker, 600)
        taken = leases.acquire(connection, worker, list(owners), set(owners.values()))
    assert len(taken) == len(owners)


def _switch(house, handler, *, enabled):
    with house.database.begin() as connection:
        subscriptions.set_handler_enabled(connection, handler, enabled=enabled)


def _only(house):
    with house.database.read() as connection:
        (handler,) = subscriptions.list_handlers(connection)
        return handler


async def test_a_reply_that_no_database_takes_as_it_is_does_not_stop_the_worker(house):
    async with Webhook() as hook:
        hook.then(Answer(404, {"X-Odd": "caf\xe9 \xff"}, body=b"\xff\xfe\x00bad"))
        house.handler(hook.url)
        odd = house.event(i_account=1)
        fine = house.event(i_account=1)
        async with house.working():
            await house.until("rejected", "finished")
    assert house.statuses() == {odd: "rejected", fine: "finished"}


async def test_a_stopped_worker_gives_its_handlers_back_at_once(house, monkeypatch):
    # Nobody can wait for a lease to run out.
    monkeypatch.setattr("espf.worker.worker.LEASE_SECONDS", 1000.0)
    async with Webhook() as hook:
        house.handler(hook.url)
        async with house.working():
            house.event(i_account=1)
            await hook.wait_for(1)
        house.event(i_account=1)
        async with house.working():
            await hook.wait_for(2)
            await house.until("finished")


@whatever_the_database
@pytest.mark.parametrize("step", ["post", "judge"])
async def test_a_fault_of_a_handler_is_retried_and_shows_no_secret(
    house, caplog, monkeypatch, step
):
    def faulty(handler, _given):
        raise ValueError(
            f"cannot use {handler.settings.basic_auth_key.get_secret_value()}" + "x" * 5000
        )

    monkeypatch.setattr(f"espf.handlers.event_sender.EventSender.{step}", faulty)
    async with Webhook() as hook:
        house.handler(
            hook.url,
            EventSender__AuthMethod="Basic",
            RetryDelays="1h",
            **{"EventSender.BasicAuth.User": "u", "EventSender.BasicAuth.Key": "hunter2-secret"},
        )
        house.event(i_account=1)
        async with house.working():
            await house.until("retrying")
    (one,) = house.events()
    assert one.reason.startswith("ValueError: cannot use ***")
    assert len(one.reason) < 2100
    assert "in faulty" in caplog.text, "the trace is in the diagnostics"
    assert "hunter2" not in caplog.text + one.reason + "".join(house.log_lines())


async def test_the_first_orphan_tells_a_worker_that_it_has_been_replaced(house):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.3)
        house.handler(hook.url, EventSender__AsyncMode="off")
        made = [house.event(i_account=n) for n in range(5)]
        async with house.working():
            await hook.wait_for(1)
            take_all_shards(house, "another")
            await asyncio.sleep(1.5)
            assert [r.i_event for r in hook.requests[:1]] == made[:1]
            # One more may have gone out before the first result came to be stored.
            assert len(hook.requests) <= 2
    assert set(house.statuses().values()) == {"queued"}
    assert {row["verdict"] for row in house.rows("Provisioning_Log")} == {"orphan"}


@whatever_the_database
async def test_a_handler_that_rests_sends_nothing_though_tokens_come_in(house):
    async with Webhook() as hook:
        hook.always = Answer(401)
        house.handler(hook.url, EventSender__TokenRate=20, EventSender__TokenBurstiness=5)
        for account in range(15):
            house.event(i_account=account)
        async with house.working():
            await hook.wait_for(1)
            await asyncio.sleep(1.2)
            # What the first burst had sent before the first answer came, and no more.
            assert len(hook.requests) <= 5


@whatever_the_database
async def test_a_new_rate_takes_effect_within_two_seconds(house):
    async with Webhook() as hook:
        handler = house.handler(hook.url, EventSender__TokenRate=1, EventSender__TokenBurstiness=20)
        for account in range(60):
            house.event(i_account=account)
        async with house.working():
            await hook.wait_for(20)
            house.change(handler, EventSender__TokenRate=1000)
            # The old rate would take forty seconds.
            await hook.wait_for(60, 30.0)
            await house.until("finished")
