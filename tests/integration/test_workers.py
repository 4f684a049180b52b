"""Several workers over one database: shared handlers, takeovers, and commits out of order."""

import asyncio
import math
import threading
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, contextmanager

import pytest

from databases import whatever_the_database
from espf.backlog import Backlog
from espf.errors import DatabaseUnavailable
from espf.model import shard_of
from espf.queue import Queue
from house import House
from webhook import Answer, Webhook

ACCOUNTS = 40


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


@pytest.fixture
def brief(monkeypatch):
    """Leases that run out soon, and workers that look often."""
    monkeypatch.setattr("espf.worker.worker.LEASE_SECONDS", 4.0)
    monkeypatch.setattr("espf.worker.worker.HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr("espf.worker.worker.ROSTER_SECONDS", 0.1)
    monkeypatch.setattr("espf.worker.worker.ORPHAN_SECONDS", 0.5)


def by_account(requests):
    """What came for each account, in the order in which it came."""
    lanes = defaultdict(list)
    for request in requests:
        lanes[request.json["variables"]["i_account"]].append(request.i_event)
    return lanes


def assert_each_once_and_in_order(requests, made):
    assert Counter(r.i_event for r in requests) == Counter(made)
    for account, i_events in by_account(requests).items():
        assert i_events == sorted(i_events), f"account {account}"


def share(house, worker):
    """How many shards a worker owns."""
    return Counter(house.owners().values())[worker]


async def runner_of(house, worker):
    """What works for the only handler, when it has begun."""
    await house.come_true(lambda: worker._runners)
    (runner,) = worker._runners.values()
    return runner


@contextmanager
def cut_off(worker):
    """Let no sign of life of a worker come through, as if its process were frozen."""
    leases = worker._leases
    sign_of_life, frozen = leases.sign_of_life, True

    def say(*args):
        if frozen:
            raise DatabaseUnavailable("cut off")
        sign_of_life(*args)

    leases.sign_of_life = say
    yield
    frozen = False


@asynccontextmanager
async def traffic(house):
    """Events of many accounts while the block runs; yields the list of those that were made."""
    made, stopped = [], asyncio.Event()

    async def produce():
        while not stopped.is_set():
            for n in range(5):
                made.append(house.event(i_account=(len(made) + n) % ACCOUNTS))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(produce())
    try:
        yield made
    finally:
        stopped.set()
        await task


# Sharing


async def test_two_workers_share_a_handler_and_deliver_everything_once_and_in_order(house):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=1000, EventSender__TokenBurstiness=100)
        async with house.working("w1"), house.working("w2"):
            await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
            async with traffic(house) as made:
                await hook.wait_for(300)
            await house.until("finished")
    assert_each_once_and_in_order(hook.requests, made)


@whatever_the_database
async def test_handlers_that_cannot_be_split_go_to_one_worker_each(house):
    async with Webhook() as hook:
        handlers = [
            house.handler(hook.url, f"S{n}", EventSender__AsyncMode="off") for n in range(4)
        ]
        async with house.working("w1"), house.working("w2"):
            await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 32)
            owners = house.owners()
            for handler in handlers:
                assert len({owners[handler.i_event_handler, shard] for shard in range(16)}) == 1


async def test_a_worker_that_comes_gets_its_share_and_one_that_goes_leaves_it(house, monkeypatch):
    """While there is traffic, and without an event that goes out twice or too early."""
    # Nobody can wait for a lease to run out.
    monkeypatch.setattr("espf.worker.worker.LEASE_SECONDS", 1000.0)
    async with Webhook() as hook:
        hook.always = Answer(delay=0.02)
        house.handler(hook.url, EventSender__TokenRate=1000, EventSender__TokenBurstiness=100)
        async with traffic(house) as made, house.working("w2"):
            async with house.working("w1"):
                await hook.wait_for(50)
                await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
                await hook.wait_for(len(made) + 50)
            # It gave everything back.
            await house.come_true(lambda: share(house, "w2") == 16)
            await hook.wait_for(len(made) + 50)
        async with house.working("w2"):
            await house.until("finished")
    assert_each_once_and_in_order(hook.requests, made)


@whatever_the_database
async def test_the_concurrency_of_a_handler_is_for_all_workers_together(house):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.05)
        house.handler(hook.url, EventSender__AsyncMode="off", Concurrency=5)
        for n in range(40):
            house.event(i_account=n)
        async with house.working("w2"):
            await hook.wait_for(10)
            async with house.working("w1"):
                await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
                for n in range(80):
                    house.event(i_account=n)
                arrived = len(hook.requests)
                hook.most_in_progress = 0
                await hook.wait_for(arrived + 40)
                # Together they use what there is.
                await house.come_true(lambda: hook.most_in_progress == 5)
            await house.until("finished")
    assert hook.most_in_progress <= 5


@whatever_the_database
async def test_the_rate_of_a_handler_is_for_all_workers_together(house):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=40, EventSender__TokenBurstiness=16)
        for n in range(300):
            house.event(i_account=n)
        async with house.working("w1") as first, house.working("w2") as second:
            await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
            await hook.wait_for(16 + 40 * 2)
            buckets = [(await runner_of(house, worker))._bucket for worker in (first, second)]
    times = [r.received_at for r in hook.requests]
    for first, start in enumerate(times):
        for count, end in enumerate(times[first:], 1):
            # A little more for what waited in sockets while the machine was busy.
            assert count <= 16 + 40 * (end - start) * 1.1 + 8
    assert sum(bucket._rate for bucket in buckets) == 40, "and they use it"


# Taking over


async def test_the_work_of_a_worker_that_died_goes_on_elsewhere_in_order(house, brief):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=1000, EventSender__TokenBurstiness=100)
        async with house.working("w1") as first, house.working("w2"):
            await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
            async with traffic(house) as made:
                await hook.wait_for(50)
                hook.then(*[Answer(delay=1.0)] * 10)
                await hook.wait_for(len(hook.requests) + 30)
                await house.kill(first)
                await house.come_true(lambda: share(house, "w2") == 16)
            await house.until("finished")
    assert set(made) == {r.i_event for r in hook.requests}, "nothing is lost"
    for account, i_events in by_account(hook.requests).items():
        assert list(dict.fromkeys(i_events)) == sorted(set(i_events)), f"account {account}"
        # Again only what had gone out when the worker died: the last one of its lane.
        again = [i_event for i_event, count in Counter(i_events).items() if count > 1]
        assert len(again) <= 1


async def test_the_backlog_of_a_shard_that_is_taken_over_is_delivered_whole(
    house, brief, monkeypatch
):
    """However far the new owner had read for its own shards before, or is reading just now."""
    read = Backlog.read

    def read_slowly(*args):
        found = read(*args)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(Backlog, "read", read_slowly)
    async with Webhook() as hook:
        handler = house.handler(
            hook.url, EventSender__TokenRate=2000, EventSender__TokenBurstiness=100
        )
        async with house.working("w1"), house.working("w2") as second:
            await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
            await house.kill(second)
            made = house.flood(handler, 2000, accounts=400)
            await hook.wait_for(500)
            async with traffic(house) as more:
                await house.come_true(lambda: share(house, "w1") == 16)
                await asyncio.sleep(0.3)
            await house.until("finished")
    assert_each_once_and_in_order(hook.requests, [*made, *more])


@whatever_the_database
async def test_a_worker_without_a_sure_lease_sends_nothing(house, brief):
    """It may have been frozen, or cut off: somebody else may have its shards by now."""
    async with Webhook() as hook:
        house.handler(hook.url)
        async with house.working("w1") as worker:
            house.event(i_account=1)
            await hook.wait_for(1)
            with cut_off(worker):
                await house.come_true(lambda: not worker._tools.lease_holds())
                house.event(i_account=2)
                await asyncio.sleep(0.5)
                assert len(hook.requests) == 1
            await hook.wait_for(2)
            await house.until("finished")


async def test_a_worker_that_was_frozen_overtakes_and_doubles_nothing_when_it_wakes(house, brief):
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=1000, EventSender__TokenBurstiness=100)
        async with house.working("w1") as frozen:
            first = [house.event(i_account=n % 10) for n in range(50)]
            await house.until("finished")
            async with house.working("w2"):
                with cut_off(frozen):
                    await house.come_true(lambda: share(house, "w2") == 16)
                    second = [house.event(i_account=n % 10) for n in range(50)]
                    await house.until("finished")
                await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
                third = [house.event(i_account=n % 10) for n in range(50)]
                await house.until("finished")
    assert_each_once_and_in_order(hook.requests, [*first, *second, *third])


@whatever_the_database
async def test_a_stop_waits_for_a_slow_answer_but_gives_everything_else_back_at_once(house):
    async with Webhook() as hook:
        late = asyncio.Event()
        hook.then(Answer(after=late))
        house.handler(hook.url, EventSender__TokenRate=1000, EventSender__TokenBurstiness=100)
        async with house.working("w2"):
            async with house.working("w1", grace=60.0) as first:
                await house.come_true(lambda: share(house, "w1") == share(house, "w2") == 8)
                mine = [shard for (_, shard), w in house.owners().items() if w == "w1"]
                accounts = {shard_of(f"account:{n}"): n for n in range(10, 60)}
                slow = house.event(i_account=accounts[mine[0]])
                await hook.wait_for(1)
                behind = house.event(i_account=accounts[mine[0]])
                stopping = asyncio.create_task(house.stop(first))
                await house.come_true(lambda: share(house, "w2") >= 15)
                house.event(i_account=accounts[mine[1]])
                await hook.wait_for(2)
                assert share(house, "w1") == 1, "the shard that is being worked for"
                late.set()
                await stopping
            await house.until("finished")
    assert [r.i_event for r in hook.requests] == [slow, behind + 1, behind]


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_a_handler_that_a_worker_cannot_open_is_left_to_the_others(house, brief, concurrency):
    async with Webhook() as hook:
        options = {"EventSender__AsyncMode": "off", "Concurrency": concurrency}
        for name in ("A", "B"):
            house.handler(hook.url, name, **options)
        async with house.working("w1") as broken:

            async def cannot(_configured):
                return None

            broken._build = cannot
            async with house.working("w2"):
                await house.come_true(lambda: share(house, "w2") == 32)
                for n in range(20):
                    house.event(i_account=n)
                await house.until("finished")
    assert len(hook.requests) == 40


# Commits out of order


@pytest.fixture
def known(monkeypatch):
    """Nothing that was passed is gone over again: the worker has to know what is late."""
    monkeypatch.setattr("espf.worker.frontier.AGAIN_SECONDS", math.inf)


@pytest.mark.databases("postgresql")
async def test_what_a_trigger_calls_for_is_read_without_a_thread(house, monkeypatch):
    """Only the look once a second at what is due takes one, and no event waits for that."""
    in_threads = []
    read = Backlog.read
    monkeypatch.setattr(
        Backlog, "read", lambda *args: in_threads.append(found := read(*args)) or found
    )
    async with Webhook() as hook:
        sender = house.handler(hook.url)
        async with house.working() as worker:
            await runner_of(house, worker)
            house.event(i_account=1)
            await hook.wait_for(1)
            in_threads.clear()
            for n in range(30):
                with house.database.begin() as connection:
                    event = f'{{"i_account":{n}}}'
                    connection.exec_driver_sql(
                        "WITH e AS (INSERT INTO Event_Queue (i_env, event_type, ordering_key, "
                        "variables, created_at, notified) VALUES (1, 'Account/Blocked', '', "
                        "%s, now(), 1) RETURNING i_event) "
                        "INSERT INTO Event_Notifications (i_event_handler, position, i_event) "
                        "SELECT %s, i_event, i_event FROM e",
                        (event, sender.i_event_handler),
                    )
                    connection.exec_driver_sql("NOTIFY espf")
                await hook.wait_for(n + 2)
                await asyncio.sleep(0.03)
    assert len(in_threads) < 15
    assert sum(bool(one.new) for found in in_threads for one in found) < 5


@pytest.mark.databases("postgresql", "mariadb")
async def test_when_it_is_quiet_all_handlers_are_read_together(house, monkeypatch):
    """Whenever they began: a read of many costs hardly more than one of one."""
    monkeypatch.setattr("espf.worker.worker.ROSTER_SECONDS", 0.05)
    asked = []
    read = Backlog.read

    def counted(backlog, connection, wanted):
        asked.append(len(wanted))
        return read(backlog, connection, wanted)

    monkeypatch.setattr(Backlog, "read", counted)
    async with house.working() as worker:
        for n in range(4):
            house.handler("http://127.0.0.1:9", name=f"Sender{n}")
            await asyncio.sleep(0.25)
        await house.come_true(lambda: [bool(r.epochs) for r in worker.runners] == [True] * 4)
        await asyncio.sleep(1.5)
        asked.clear()
        await house.come_true(lambda: len(asked) >= 3)
    assert asked[:3] == [4, 4, 4]


@pytest.mark.databases("postgresql", "mariadb")
async def test_events_of_a_transaction_that_commits_late_are_delivered_in_order(house, known):
    """3000 others pass meanwhile, more than a worker holds; nothing goes out twice."""
    async with Webhook() as hook:
        handler = house.handler(
            hook.url, EventSender__TokenRate=10_000, EventSender__TokenBurstiness=1000
        )
        # It begins, and ends, while there is always something to read.
        async with house.working("w1"), traffic(house) as others:
            await hook.wait_for(50)
            with house.database.begin() as slow:
                late = [
                    house.queue.create_event(slow, 1, "Account/Blocked", {"i_account": 999_999})
                    for _ in range(3)
                ]
                await hook.wait_for(len(hook.requests) + 100)
                made = house.flood(handler, 3000)
                while len(hook.requests) < len(made) + len(others):
                    # The server ends a transaction of ours that does nothing.
                    slow.exec_driver_sql("SELECT 1")
                    await asyncio.sleep(0.1)
                assert min(made) > max(late)
            await house.come_true(lambda: {*late} <= {r.i_event for r in hook.requests[-100:]})
        async with house.working("w1"):
            await house.until("finished")
    assert_each_once_and_in_order(hook.requests, [*made, *late, *others])


@pytest.mark.databases("postgresql", "mariadb")
async def test_transactions_that_overlap_lose_nothing(house, known):
    """Writers that hold their transactions open for different times, and roll some back."""
    async with Webhook() as hook:
        house.handler(hook.url, EventSender__TokenRate=10_000, EventSender__TokenBurstiness=1000)
        made = []

        def write(writer):
            for n in range(25):
                with house.database.begin() as connection:
                    i_events = []
                    for _ in range(2):
                        variables = {"i_account": writer}
                        i_events.append(
                            house.queue.create_event(connection, 1, "Account/Blocked", variables)
                        )
                        time.sleep(0.002 * ((n * 7 + writer * 3) % 10))
                    if n % 5 == 4:
                        connection.rollback()
                        i_events = []
                made.extend(i_events)

        async with house.working("w1"), house.working("w2"):
            await asyncio.gather(*(asyncio.to_thread(write, writer) for writer in range(5)))
            await hook.wait_for(len(made))
            await house.until("finished")
    assert_each_once_and_in_order(hook.requests, made)


@pytest.mark.databases("postgresql", "mariadb")
async def test_an_event_whose_maker_is_held_up_after_taking_its_number_is_delivered(
    house, monkeypatch
):
    """For any length of time: nothing is written by which a worker could know of it."""
    monkeypatch.setattr("espf.worker.frontier.AGAIN_SECONDS", 0.1)
    notify, held_up, goes_on = Queue._notify, threading.Event(), threading.Event()

    def notify_late(queue, connection, i_event, *rest):
        if "late" in threading.current_thread().name:
            held_up.set()
            goes_on.wait()
        notify(queue, connection, i_event, *rest)

    monkeypatch.setattr(Queue, "_notify", notify_late)
    async with Webhook() as hook:
        house.handler(hook.url)
        async with house.working() as worker:
            runner = await runner_of(house, worker)
            late = threading.Thread(target=house.event, kwargs={"i_account": 1}, name="late")
            late.start()
            await asyncio.to_thread(held_up.wait)
            passed = house.event(i_account=2)
            await hook.wait_for(1)
            # It is not doubtful any more.
            if house.database.dialect.running_lag_seconds:
                await house.come_true(lambda: runner._frontier.start.reached >= passed)
            goes_on.set()
            late.join()
            await hook.wait_for(2)
            await house.until("finished")
    assert [request.i_event for request in hook.requests] == [passed, passed - 1]
