"""The queue over a real database: in, through, out, again."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text, update

from espf import depth, journal, overview, restarts, subscriptions
from espf.backlog import Backlog, Start, Wanted
from espf.db.dialect import MANY
from espf.db.tables import event_notifications, event_queue
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.leases import Leases
from espf.model import SHARDS, Status, shard_of
from espf.queue import NO_SUBSCRIBER, Decision, Queue, Result
from espf.sources import Filter
from espf.worker.frontier import Frontier

FINISHED = Decision(Status.FINISHED)
RETRY = Decision(Status.QUEUED, "HTTP 503", delay=timedelta(minutes=5))
RETRY_NOW = Decision(Status.QUEUED, "HTTP 503", delay=timedelta(0))
FAILED = Decision(Status.FAILED, "gave up")
HELD = Decision(Status.FAILED, "gave up", hold=True)
REJECTED = Decision(Status.REJECTED, "HTTP 404")
SOON = timedelta(hours=1)
AGO = -timedelta(seconds=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ALL = (1 << SHARDS) - 1


class Books:
    """A queue with its database, where everything is on record: each method is one transaction."""

    def __init__(self, database, sealer):
        self.database = database
        self.sealer = sealer
        self.queue = Queue(database)
        self.backlog = Backlog(database)

    def handler(self, name="A", i_env=1, **options):
        settings = {"EventSender.URL": "http://127.0.0.1:1", "EventSender.AuthMethod": "None"}
        with self.database.begin() as connection:
            handler = subscriptions.create_handler(
                connection, self.sealer, i_env, name, "EventSender", settings, **options
            )
        self.take(handler)
        return handler

    def take(self, handler, worker="w1", dead=()):
        """Own the whole of a handler; returns the epoch, or None when somebody else has it."""
        places = [(handler.i_event_handler, shard) for shard in range(SHARDS)]
        self.lease("sign_of_life", worker, 60)
        leases = self.lease("acquire", worker, places, dead)
        assert len(leases) in {0, SHARDS}
        return leases[0].epoch if leases else None

    def do(self, method, *args, **kwargs):
        with self.database.begin() as connection:
            return getattr(self.queue, method)(connection, *args, **kwargs)

    def restart(self, i_event, handler=None):
        with self.database.begin() as connection:
            return restarts.restart(connection, self.database, i_event, handler)

    def cancel(self, i_event):
        with self.database.begin() as connection:
            restarts.cancel(connection, self.database, i_event)

    def remove(self, handler, *, force=False):
        with self.database.begin() as connection:
            return restarts.remove_handler(connection, self.database, handler, force=force)

    def let_go(self, handler):
        with self.database.begin() as connection:
            restarts.let_go(connection, handler.i_event_handler)

    def lease(self, method, *args, **kwargs):
        with self.database.begin() as connection:
            return getattr(Leases(self.database), method)(connection, *args, **kwargs)

    def create(self, event_type="Account/Blocked", i_env=1, wait=None, **variables):
        start_time = None if wait is None else datetime.now(UTC) + wait
        return self.do("create_event", i_env, event_type, variables, start_time)

    def read(self, handler, after=0, room=100, refill=(), shards=ALL):
        wanted = Wanted(handler.i_event_handler, shards, Start(after), room, room, refill)
        with self.database.read() as connection:
            (found,) = self.backlog.read(connection, [wanted])
        return found

    def followers(self, handler, *i_events):
        """What a lane that asks for these gets: number, and whether an earlier one waits."""
        (((key, asked, found),)) = self.read(handler, refill=[("a lane", i_events)]).refilled
        assert (key, asked) == ("a lane", i_events)
        return [(n.event.i_event, behind) for n, behind in found]

    def waiting(self, handler):
        """What a worker that has just begun would find: new ones that may go, and due ones."""
        found = self.read(handler)
        new = [n for n, behind in found.new if not behind]
        return sorted([*found.due, *new], key=lambda n: n.position)

    def settle(self, handler, decision, *i_events, epoch=1):
        by_event = {n.event.i_event: n for n in self.everything(handler)}
        results = [
            Result(by_event[i], handler.name, epoch, decision, 12, "POST …", "HTTP 200")
            for i in i_events or sorted(by_event)
        ]
        return self.store(results)

    def store(self, results):
        texts = {}
        settled = self.do("settle", results, texts)
        self.queue.journal.committed(texts)
        return settled

    def everything(self, handler):
        found = self.read(handler)
        return [*found.due, *(n for n, _ in found.new)]

    def journal(self, i_event):
        with self.database.read() as connection:
            return journal.of_event(connection, i_event)

    def verdicts(self, i_event):
        return [(entry.handler, entry.verdict) for entry in self.journal(i_event)]

    def rows(self, table="Event_Notifications"):
        with self.database.read() as connection:
            return (
                connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1, 2").mappings().all()
            )

    def live(self):
        return len(self.rows("Event_Queue")), len(self.rows())

    def make_due(self, *i_events):
        """Let the time of everything that is scheduled or retrying come, or of some events."""
        mine = event_notifications.c
        chosen = mine.i_event.in_(i_events) if i_events else mine.i_event > 0
        with self.database.begin() as connection:
            connection.execute(
                update(event_queue).where(event_queue.c.notified == 0).values(start_time=LONG_AGO)
            )
            connection.execute(
                update(event_notifications)
                .where(mine.status == Status.QUEUED, mine.next_attempt_at.is_not(None), chosen)
                .values(next_attempt_at=LONG_AGO)
            )

    def find(self, **wanted):
        with self.database.read() as connection:
            return overview.search(connection, Filter(**wanted), 1000)


@pytest.fixture
def books(database, sealer):
    return Books(database, sealer)


def numbers(notifications):
    return [n.event.i_event for n in notifications]


def eventually(condition, seconds=60.0):
    """Wait for a condition; returns what it says when that is true."""
    deadline = time.monotonic() + seconds
    while not (said := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return said


# In


def test_an_event_is_there_for_every_subscriber_of_its_environment_and_nobody_else(books):
    first, second = books.handler("A"), books.handler("B")
    off = books.handler("off", enabled=False)
    deaf = books.handler("deaf")
    foreign = books.handler("C", i_env=2)
    with books.database.begin() as connection:
        subscriptions.unsubscribe(connection, deaf, "Account/Blocked")
    i_event = books.create(i_account=7)
    for handler in (first, second):
        (notification,) = books.waiting(handler)
        assert notification.event.i_event == i_event
        assert notification.event.ordering_key == "account:7"
        assert notification.attempts == 0
    for handler in (off, deaf, foreign):
        assert books.waiting(handler) == []


def test_an_event_says_its_environment_and_time_unless_it_is_custom(books):
    handler = books.handler()
    with books.database.begin() as connection:
        subscriptions.create_type(connection, "Custom/Hello")
        subscriptions.subscribe(connection, handler, "Custom/Hello")
    books.create(i_account=7)
    books.create(" Custom/Hello ", i_account=7)
    standard, custom = books.waiting(handler)
    assert list(standard.event.variables) == ["i_env", "event_time", "i_account"]
    assert custom.event.payload == '{"i_account":7}'
    assert custom.event.event_type == "Custom/Hello"


def test_an_event_that_nobody_hears_gets_a_number_and_goes_to_the_journal(books):
    i_event = books.create(i_account=7)
    assert books.live() == (0, 0)
    (entry,) = books.journal(i_event)
    assert (entry.verdict, entry.reason, entry.handler) == ("finished", NO_SUBSCRIBER, None)
    assert '"i_account":7' in entry.variables


@pytest.mark.parametrize(
    ("event_type", "variables", "error", "names"),
    [
        ("Account/Nonsense", {}, NotFound, "Account/Nonsense"),
        ("account/blocked", {}, NotFound, "did you mean Account/Blocked"),
        ("Account/Blocked", {"i_event": 5}, InvalidRequest, "i_event"),
        ("Account/Blocked", {"i_env": 2}, InvalidRequest, "i_env"),
        ("Account/Blocked", {"text": "x" * 65_536}, InvalidRequest, "at most"),
    ],
)
def test_a_wrong_event_is_refused_and_leaves_no_trace(books, event_type, variables, error, names):
    books.handler()
    with pytest.raises(error, match=names):
        books.do("create_event", 1, event_type, variables)
    assert books.live() == (0, 0)
    assert books.rows("Provisioning_Log") == []


def test_a_transaction_that_is_rolled_back_emits_nothing(books):
    handler = books.handler()
    with suppress(RuntimeError), books.database.begin() as connection:
        books.queue.create_event(connection, 1, "Account/Blocked", {"i_account": 7})
        raise RuntimeError
    assert books.waiting(handler) == []


# Scheduled


def test_a_scheduled_event_is_nobodys_until_its_time_comes(books):
    handler = books.handler()
    i_event = books.create(wait=SOON, i_account=7)
    assert books.do("release_scheduled") == 0
    assert books.waiting(handler) == []
    assert 3500 < books.do("seconds_to_next_scheduled") <= 3600
    books.make_due()
    assert books.do("seconds_to_next_scheduled") < 0
    assert books.do("release_scheduled") == 1
    assert numbers(books.waiting(handler)) == [i_event]
    assert books.do("seconds_to_next_scheduled") is None
    assert books.do("release_scheduled") == 0, "it is handed out once"


def test_a_start_time_that_has_passed_means_now(books):
    handler = books.handler()
    i_event = books.create(wait=AGO, i_account=7)
    assert numbers(books.waiting(handler)) == [i_event]


def test_a_scheduled_event_joins_its_lane_behind_what_waits_there_and_before_what_comes(books):
    handler = books.handler()
    planned = books.create(wait=SOON, i_account=7)
    waiting = books.create(i_account=7)
    books.make_due()
    books.do("release_scheduled")
    later = books.create(i_account=7)
    assert numbers(books.waiting(handler)) == [waiting, planned, later]


def test_scheduled_events_are_handed_out_in_the_order_of_their_times(books):
    handler = books.handler()
    second = books.create(wait=timedelta(hours=2), i_account=7)
    first = books.create(wait=timedelta(hours=1), i_account=7)
    for i_event, start_time in ((second, AGO), (first, 2 * AGO)):
        with books.database.begin() as connection:
            connection.execute(
                update(event_queue)
                .where(event_queue.c.i_event == i_event)
                .values(start_time=datetime.now(UTC) + start_time)
            )
    assert books.do("release_scheduled") == 2
    assert numbers(books.waiting(handler)) == [first, second]


def test_the_subscriptions_at_the_due_time_decide_who_hears_a_scheduled_event(books):
    early = books.handler("early")
    first = books.create(wait=SOON, i_account=7)
    with books.database.begin() as connection:
        subscriptions.unsubscribe(connection, early, "Account/Blocked")
    late = books.handler("late")
    books.make_due()
    books.do("release_scheduled")
    assert books.waiting(early) == []
    assert numbers(books.waiting(late)) == [first]


def test_a_scheduled_event_without_subscribers_at_its_time_ends_in_the_journal(books):
    i_event = books.create(wait=SOON, i_account=7)
    books.make_due()
    books.do("release_scheduled")
    assert books.live() == (0, 0)
    (entry,) = books.journal(i_event)
    assert (entry.verdict, entry.reason) == ("finished", NO_SUBSCRIBER)
    assert entry.start_time is not None


# Through


def test_a_finished_event_leaves_the_live_tables_for_the_journal(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    (settled,) = books.settle(handler, FINISHED)
    assert settled.applied
    assert books.live() == (0, 0)
    (entry,) = books.journal(i_event)
    assert (entry.verdict, entry.attempt, entry.handler) == ("finished", 1, "A")
    assert (entry.request, entry.response, entry.duration_ms) == ("POST …", "HTTP 200", 12)
    assert entry.event_type == "Account/Blocked"
    assert '"i_account":7' in entry.variables


@pytest.mark.parametrize("last", [FINISHED, REJECTED, Decision(Status.SKIPPED, "not for us")])
def test_an_event_stays_until_every_handler_is_done_with_it(books, last):
    first, second, third = books.handler("A"), books.handler("B"), books.handler("C")
    i_event = books.create(i_account=7)
    books.settle(first, FINISHED)
    books.settle(second, RETRY)
    assert books.live() == (1, 3)
    books.settle(third, FINISHED)
    assert books.live() == (1, 3)
    books.make_due()
    books.settle(second, last)
    assert books.live() == (0, 0)
    assert books.verdicts(i_event) == [
        ("A", "finished"),
        ("B", "retry"),
        ("C", "finished"),
        ("B", last.status),
    ]


def test_an_event_that_one_handler_failed_stays_when_the_others_are_done(books):
    bad, good = books.handler("bad"), books.handler("good")
    i_event = books.create(i_account=7)
    books.settle(bad, FAILED)
    books.settle(good, FINISHED)
    assert books.live() == (1, 2)
    books.restart(i_event)
    assert numbers(books.waiting(bad)) == [i_event]
    assert books.waiting(good) == []


def test_the_last_two_handlers_of_an_event_may_finish_in_one_batch(books):
    first, second = books.handler("A"), books.handler("B")
    books.create(i_account=7)
    results = [
        Result(books.waiting(handler)[0], handler.name, 1, FINISHED, 1)
        for handler in (first, second)
    ]
    books.store(results)
    assert books.live() == (0, 0)


def test_one_batch_may_hold_every_kind_of_result(books):
    handler = books.handler()
    made = {account: books.create(i_account=account) for account in range(4)}
    by_event = {n.event.i_event: n for n in books.waiting(handler)}
    decisions = [FINISHED, RETRY, FAILED, REJECTED]
    books.store(
        [
            Result(by_event[made[account]], "A", 1, decision, 1)
            for account, decision in enumerate(decisions)
        ]
    )
    assert {row["i_event"]: row["status"] for row in books.rows()} == {
        made[1]: "queued",
        made[2]: "failed",
    }
    assert [books.verdicts(i)[0][1] for i in made.values()] == [
        "finished",
        "retry",
        "failed",
        "rejected",
    ]


def test_a_retry_waits_until_its_time_counts_the_attempt_and_keeps_its_lane_waiting(books):
    handler = books.handler()
    first = books.create(i_account=7)
    second = books.create(i_account=7)
    other = books.create(i_account=8)
    (settled,) = books.settle(handler, RETRY, first)
    assert settled.next_attempt_at > datetime.now(UTC) + timedelta(minutes=4)
    found = books.read(handler)
    assert found.due == []
    assert [(n.event.i_event, behind) for n, behind in found.new] == [
        (second, True),
        (other, False),
    ]
    assert 240 < found.next_due_seconds <= 300
    assert books.followers(handler, first, second, other) == [(second, True), (other, False)]
    books.make_due()
    (due,) = books.read(handler).due
    assert (due.event.i_event, due.attempts) == (first, 1)


def test_one_that_is_due_is_not_read_while_an_earlier_one_of_its_lane_waits(books):
    handler = books.handler()
    first, second = books.create(i_account=7), books.create(i_account=7)
    books.settle(handler, FAILED, first)
    books.settle(handler, RETRY, second)
    books.restart(first)
    books.settle(handler, RETRY, first)
    books.make_due(second)
    assert books.waiting(handler) == []
    books.make_due()
    assert numbers(books.waiting(handler)) == [first]


def test_an_attempt_that_does_not_count_is_not_counted(books):
    handler = books.handler()
    books.create(i_account=7)
    books.settle(handler, Decision(Status.QUEUED, "HTTP 401", timedelta(0), spent=False))
    (row,) = books.rows()
    assert row["attempts"] == 0


def test_a_failed_event_stays_and_lets_its_lane_go_on(books):
    handler = books.handler()
    first, second = books.create(i_account=7), books.create(i_account=7)
    books.settle(handler, FAILED, first)
    assert books.live() == (2, 2)
    assert numbers(books.waiting(handler)) == [second]
    assert [(row["status"], row["last_error"]) for row in books.rows()] == [
        ("failed", "gave up"),
        ("queued", None),
    ]


def test_a_failed_event_that_holds_keeps_its_lane_until_it_is_let_go(books):
    handler = books.handler()
    first, second, third = (books.create(i_account=7) for _ in range(3))
    books.settle(handler, HELD, first)
    assert books.waiting(handler) == []
    assert books.followers(handler, second, third) == [(second, True), (third, True)]
    books.let_go(handler)
    assert books.followers(handler, second, third) == [(second, False), (third, False)]
    assert numbers(books.waiting(handler)) == [second, third]
    assert books.rows()[0]["status"] == "failed", "letting go restarts nothing"


def test_letting_go_touches_neither_retries_nor_other_handlers(books):
    one, other = books.handler("A"), books.handler("B")
    books.create(i_account=7)
    books.create(i_account=8)
    books.settle(one, RETRY)
    books.settle(other, HELD)
    before = books.rows()
    books.let_go(one)
    assert books.rows() == before


def test_a_result_under_an_old_epoch_is_noted_as_an_orphan_and_changes_nothing(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    assert books.take(handler, "w2", dead=["w1"]) == 2
    before = books.rows(), books.rows("Event_Queue")
    for decision in (FINISHED, RETRY, FAILED, REJECTED):
        (settled,) = books.settle(handler, decision, epoch=1)
        assert not settled.applied
    assert (books.rows(), books.rows("Event_Queue")) == before
    assert books.verdicts(i_event) == [("A", "orphan")] * 4
    (settled,) = books.settle(handler, FINISHED, epoch=2)
    assert settled.applied
    assert books.live() == (0, 0)


def test_a_late_result_of_an_event_that_is_over_resurrects_nothing(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    (notification,) = books.waiting(handler)
    books.take(handler, "w2", dead=["w1"])
    books.settle(handler, FINISHED, epoch=2)
    books.store([Result(notification, "A", 1, RETRY, 1)])
    assert books.live() == (0, 0)
    assert [verdict for _, verdict in books.verdicts(i_event)] == ["finished", "orphan"]
    (overview,) = books.find(i_event=i_event)
    assert overview.status == "finished"


def test_a_number_is_never_given_twice_even_after_the_clean_up(books):
    handler = books.handler()
    seen = []
    for _ in range(3):
        seen.append(books.create(i_account=7))
        books.settle(handler, FINISHED)
        assert books.live() == (0, 0)
    # A scheduled event takes another number for its place; that one is gone, too.
    seen.append(books.create(wait=SOON, i_account=7))
    books.make_due()
    books.do("release_scheduled")
    (notification,) = books.waiting(handler)
    seen.extend([notification.position, books.create(i_account=7)])
    assert seen == sorted(set(seen))


def test_reading_is_bounded_and_goes_on_after_a_position(books):
    handler = books.handler()
    made = [books.create(i_account=n) for n in range(5)]
    first = books.read(handler, room=3)
    assert numbers(n for n, _ in first.new) == made[:3]
    rest = books.read(handler, after=first.new[-1][0].position, room=3)
    assert numbers(n for n, _ in rest.new) == made[3:]
    assert books.read(handler, room=0).new == []


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2]),
            st.sampled_from([FINISHED, RETRY_NOW, FAILED, REJECTED]),
            st.sampled_from(["w1", "w2"]),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_whatever_happens_each_lane_moves_forward_and_every_event_gets_a_verdict(books, steps):
    """Two workers take turns; an event is over once, and only after those before it."""
    with books.database.begin() as connection:
        known = subscriptions.list_handlers(connection)
    handler = known[0] if known else books.handler()
    made = {account: [books.create(i_account=account) for _ in range(4)] for account in (1, 2)}
    over = {1: [], 2: []}
    for account, decision, worker in steps:
        epoch = books.take(handler, worker, dead=["w1", "w2"])
        lane = [n for n in books.waiting(handler) if n.event.ordering_key == f"account:{account}"]
        if not lane:
            continue
        (settled,) = books.store([Result(lane[0], "A", epoch, decision, 1)])
        assert settled.applied
        if decision is not RETRY_NOW:
            over[account].append(lane[0].event.i_event)
    epoch = books.take(handler, "w1", dead=["w1", "w2"])
    while lane := books.waiting(handler):
        books.store([Result(lane[0], "A", epoch, FINISHED, 1)])
        i_event = lane[0].event.i_event
        over[1 if i_event in made[1] else 2].append(i_event)
    for account, i_events in made.items():
        assert over[account] == i_events
        for i_event in i_events:
            final = [v for _, v in books.verdicts(i_event) if v != "retry"]
            assert len(final) == 1
    failed = {row["i_event"] for row in books.rows()}
    assert {row["status"] for row in books.rows()} <= {"failed"}
    assert {row["i_event"] for row in books.rows("Event_Queue")} == failed


# Through, beside others


def test_a_worker_reads_its_own_shards_and_no_others(books):
    handler = books.handler()
    lanes = {shard_of(f"account:{n}"): n for n in range(10, 60)}
    assert len(lanes) == SHARDS
    made = {shard: books.create(i_account=n) for shard, n in lanes.items()}
    for shard, i_event in made.items():
        found = books.read(handler, shards=1 << shard)
        assert numbers(n for n, _ in found.new) == [i_event]
        assert found.new[0][0].shard == shard
    odd = sum(1 << shard for shard in range(1, SHARDS, 2))
    assert {n.shard for n, _ in books.read(handler, shards=odd).new} == set(range(1, SHARDS, 2))
    books.settle(handler, RETRY)
    assert books.read(handler, shards=0).next_due_seconds is None
    books.make_due(made[3], made[4])
    found = books.read(handler, shards=1 << 3)
    assert numbers(found.due) == [made[3]]
    assert found.next_due_seconds is None
    assert books.read(handler, shards=1 << 5).next_due_seconds > 240


def test_several_handlers_are_read_in_one_picture_each_with_its_own(books):
    one, other = books.handler("A"), books.handler("B", i_env=2)
    first, second = books.create(i_account=1), books.create(i_env=2, i_account=1)
    wanted = [
        Wanted(one.i_event_handler, ALL, Start(0), 10, 10),
        Wanted(other.i_event_handler, ALL, Start(first), 10, 10),
        Wanted(other.i_event_handler, ALL, Start(second), 10, 10),
    ]
    with books.database.read() as connection:
        books.settle(one, FINISHED)
        books.create(i_account=1)
        found = books.backlog.read(connection, wanted)
    # On some databases the picture is taken when the transaction begins, on others a moment later.
    mine, its, none = ([n.event.i_event for n, _ in one.new] for one in found)
    assert set(mine) <= {first, second + 1}
    assert (its, none) == ([second], [])


def test_what_only_one_handler_had_leaves_both_tables_in_the_batch_that_ends_it(books):
    handler = books.handler()
    books.create(i_account=7)
    (notification,) = books.waiting(handler)
    assert notification.notified == 1
    books.settle(handler, FINISHED)
    assert books.live() == (0, 0)


def test_what_several_handlers_have_keeps_a_row_for_each_until_all_are_done(books):
    first, second = books.handler("A"), books.handler("B")
    i_event = books.create(i_account=7)
    (notification,) = books.waiting(first)
    assert notification.notified == 2
    books.settle(first, FINISHED)
    assert [(row["i_event_handler"], row["status"]) for row in books.rows()] == [
        (first.i_event_handler, "finished"),
        (second.i_event_handler, "queued"),
    ]
    assert {one.handler: one.status for one in books.find(i_event=i_event)} == {
        "A": "finished",
        "B": "queued",
    }
    assert books.waiting(first) == [], "it is not read again"
    books.settle(second, FINISHED)
    assert books.live() == (0, 0)


def test_what_several_handlers_are_done_with_in_one_batch_leaves_both_tables_in_it(books):
    handlers = [books.handler(name) for name in "ABC"]
    numbers = [books.create(i_account=n) for n in range(3)]
    tried = [n for handler in handlers for n in books.waiting(handler)]
    # All are done with the first, two of three with the second, and the third fails for one.
    results = [
        Result(n, "X", 1, RETRY if (at, n.i_event_handler) == (2, 1) else FINISHED, 1)
        for n in tried
        if (at := numbers.index(n.event.i_event), n.i_event_handler) != (1, 3)
    ]
    books.store(results)
    assert sorted((row["i_event"], row["status"]) for row in books.rows()) == [
        (numbers[1], "finished"),
        (numbers[1], "finished"),
        (numbers[1], "queued"),
        (numbers[2], "finished"),
        (numbers[2], "finished"),
        (numbers[2], "queued"),
    ]
    assert books.live() == (2, 6)


def test_an_event_that_came_back_for_another_handler_survives_the_end_of_the_first(books):
    first, second = books.handler("A"), books.handler("B")
    i_event = books.create(i_account=7)
    books.settle(first, REJECTED)
    books.settle(second, REJECTED)
    books.restart(i_event, first)
    # It is read as the only one's, and meanwhile it comes back for another, too.
    (notification,) = books.waiting(first)
    assert notification.notified == 1
    books.restart(i_event, second)
    books.store([Result(notification, "A", 1, FINISHED, 1)])
    assert numbers(books.waiting(second)) == [i_event]
    books.settle(second, FINISHED)
    assert books.live() == (0, 0)


class Beside:
    """A second transaction that begins while a first one is open, and has to wait for it."""

    def __init__(self, books):
        self._database = books.database
        self._threads = ThreadPoolExecutor(1)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._threads.shutdown()

    def begin(self, work, *args):
        """Begin, and return when it waits for the first, or is over."""
        self._begun = self._threads.submit(self._transaction, work, *args)
        eventually(lambda: self._begun.done() or self._waits())

    def end(self):
        return self._begun.result(10)

    def _transaction(self, work, *args):
        with self._database.begin() as connection:
            return work(connection, *args)

    def _waits(self):
        statement = {
            # It waits for the right to write before it does anything else.
            "sqlite": "SELECT 1",
            "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
            "mysql": "SELECT variable_value FROM information_schema.GLOBAL_STATUS "
            "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'",
        }
        with self._database.read() as connection:
            count = connection.exec_driver_sql(statement[connection.dialect.name]).scalar_one()
        return int(count) > 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_handlers_that_finish_an_event_at_the_same_moment_leave_nothing_of_it(books, order):
    handlers = books.handler("A"), books.handler("B")
    i_event = books.create(i_account=7)
    first, second = (
        [Result(books.waiting(handlers[n])[0], handlers[n].name, 1, FINISHED, 1)] for n in order
    )
    with Beside(books) as beside:
        with books.database.begin() as connection:
            books.queue.settle(connection, first, {})
            beside.begin(Queue(books.database).settle, second, {})
        (settled,) = beside.end()
    assert settled.applied
    assert books.live() == (0, 0)
    assert sorted(books.verdicts(i_event)) == [("A", "finished"), ("B", "finished")]


def test_two_workers_may_store_the_same_new_texts_at_the_same_moment(books):
    handlers = books.handler("A"), books.handler("B")
    made = [books.create(i_account=n) for n in range(100)]
    results = [
        [
            Result(n, handler.name, 1, FINISHED, 1, f"request {n.event.i_event}", "reply")
            for n in books.waiting(handler)
        ]
        for handler in handlers
    ]
    start = Barrier(2)

    def store(results, order):
        """In opposite orders, which a deadlock would need."""
        queue = Queue(books.database)
        for some in (results[:50], results[50:]):
            start.wait(10)
            with books.database.begin() as connection:
                queue.settle(connection, some[::order], {})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(store, results, (1, -1)))
    assert books.live() == (0, 0)
    assert len(books.rows("Provisioning_Log_Texts")) == len(made) + 1


def test_a_batch_takes_no_more_statements_however_many_results_it_has(books):
    """Also where two handlers were notified of each event."""
    first, second = books.handler("first"), books.handler("second")
    for account in range(60):
        books.create(i_account=account)
    statements = []

    def note(_connection, _cursor, statement, *_rest):
        statements.append(statement)

    def count(handler, *i_events):
        statements.clear()
        books.settle(handler, FINISHED, *i_events)
        return len(statements)

    event.listen(books.database._engine, "before_cursor_execute", note)
    (one, *_) = numbers(books.waiting(first))
    few = count(first, one), count(second, one)
    assert count(first) <= few[0]
    assert count(second) <= few[1]
    assert books.live() == (0, 0)


def test_two_workers_that_hand_out_scheduled_events_hand_out_each_one_once(books):
    handler = books.handler()
    made = [books.create(wait=SOON, i_account=n) for n in range(6)]
    books.make_due()
    with Beside(books) as beside:
        with books.database.begin() as connection:
            released = books.queue.release_scheduled(connection, 3)
            beside.begin(Queue(books.database).release_scheduled)
        assert (released, beside.end()) == (3, 3)
    assert sorted(numbers(books.waiting(handler))) == made


def test_a_restart_beside_the_end_of_the_events_last_handler_is_not_lost(books):
    bad, good = books.handler("bad"), books.handler("good")
    i_event = books.create(i_account=7)
    books.settle(bad, REJECTED)
    last = [Result(books.waiting(good)[0], "good", 1, FINISHED, 1)]
    with Beside(books) as beside:
        with books.database.begin() as connection:
            assert restarts.restart(connection, books.database, i_event) == ["bad"]
            beside.begin(Queue(books.database).settle, last, {})
        beside.end()
    assert numbers(books.waiting(bad)) == [i_event]
    books.settle(bad, FINISHED)
    assert books.live() == (0, 0)


def be_patient(connection):
    """Let a transaction do nothing for longer than one of ours may."""
    connection.exec_driver_sql(
        "SET LOCAL idle_in_transaction_session_timeout = '60s'"
        if connection.dialect.name == "postgresql"
        else "SET SESSION idle_transaction_timeout = 60"
    )


class Reading:
    """Reads forward as a worker does, and goes back for what comes to be seen late."""

    def __init__(self, books, handler):
        self._books = books
        self._handler = handler
        self.frontier = Frontier(books.database.dialect.running_lag_seconds)

    def read(self):
        wanted = Wanted(self._handler.i_event_handler, ALL, self.frontier.start, 5, 0)
        with self._books.database.read() as connection:
            (found,) = self._books.backlog.read(connection, [wanted])
        reached = found.new[-1][0].position if found.new else 0
        complete = len(found.new) < wanted.room
        now = time.monotonic()
        self.frontier.ended(found.running, reached, now, complete=complete, unseen=found.unseen)
        return found

    def until(self, expected):
        """Read until these have been found; returns all that was found."""
        seen = set()

        def look():
            found = self.read()
            seen.update(numbers(n for n, _ in (*found.late, *found.new)))
            return seen >= {*expected}

        eventually(look)
        return seen


@pytest.mark.databases("postgresql", "mariadb")
def test_an_event_that_is_committed_late_is_read_however_far_reading_has_come(books):
    handler = books.handler()
    reading = Reading(books, handler)
    with books.database.begin() as slow, books.database.begin() as slower:
        for connection in (slow, slower):
            be_patient(connection)
        late = [
            books.queue.create_event(connection, 1, "Account/Blocked", {"i_account": 7})
            for connection in (slow, slower)
        ]
        for _ in range(2):
            passed = [books.create(i_account=n) for n in range(8)]
            assert reading.until(passed).isdisjoint(late)
            books.settle(handler, FINISHED)
        found = reading.read()
        assert len(found.running) + len(found.unseen) >= 2
        # Wait until nothing that was read lately is doubtful.
        time.sleep(2 * (books.database.dialect.running_lag_seconds or 0))
        assert reading.read().new == []
        assert reading.frontier.start.reached == max(passed)
    assert reading.until(late) == set(late)


@pytest.mark.databases("postgresql")
def test_what_is_being_settled_has_nothing_read_again(books):
    """On PostgreSQL a transaction that runs may make events, unless it says that it does not."""
    handler = books.handler()
    reading = Reading(books, handler)
    made = [books.create(i_account=n) for n in range(3)]
    reading.until(made)
    (first, *_) = books.waiting(handler)
    with books.database.begin() as settling:
        # Whoever connects anew forgets what was said of transactions.
        reading.read()
        books.queue.settle(settling, [Result(first, handler.name, 1, FINISHED, 1)], {})
        # The server's own housekeeping may have a transaction open at the same time.
        number = settling.execute(text("SELECT pg_current_xact_id()::text::int8")).scalar_one()
        assert number not in reading.read().running
    assert reading.read().new == []


@pytest.mark.databases("postgresql", "mariadb")
def test_an_event_of_a_younger_transaction_that_took_its_number_first_is_read(books):
    """A snapshot does not list who is younger than the last one that has ended."""
    reading = Reading(books, books.handler())
    variables = {"i_account": 7}
    with books.database.begin() as younger:
        with books.database.begin() as older:
            begun = books.queue.create_event(older, 1, "Account/Blocked", variables)
            late = books.queue.create_event(younger, 1, "Account/Blocked", {"i_account": 8})
            ended = books.queue.create_event(older, 1, "Account/Blocked", variables)
        assert begun < late < ended
        assert reading.until([begun, ended]) == {begun, ended}
        for _ in range(3):
            assert reading.read().new == [] or books.database.dialect.running_lag_seconds
    assert late in reading.until([late])


@pytest.mark.databases("postgresql")
def test_one_transaction_with_many_numbers_hides_nothing(books, monkeypatch):
    """Each savepoint that writes has a number; an event may be committed behind any of them."""
    reading = Reading(books, books.handler())
    variables = {"i_account": 7}
    for most in (2, 1000):
        monkeypatch.setattr("espf.db.postgresql.MOST_ABOVE", most)
        with books.database.begin() as great:
            late = books.queue.create_event(great, 1, "Account/Blocked", variables)
            # As long as nobody who began later has ended, no snapshot lists these.
            for _ in range(5):
                with great.begin_nested():
                    books.queue.create_event(great, 1, "Account/Blocked", {"i_account": 8})
            running = reading.read().running
            assert (MANY in running) == (most == 2)
            passed = books.create(i_account=9)
            assert late not in reading.until([passed])
        assert late in reading.until([late])


# Again


def test_a_failed_event_is_tried_again_from_attempt_1_before_everything_that_waits(books):
    handler = books.handler()
    first, second = books.create(i_account=7), books.create(i_account=7)
    books.settle(handler, FAILED, first)
    assert books.restart(first) == ["A"]
    found = books.read(handler)
    assert [(n.event.i_event, n.attempts) for n in found.due] == [(first, 0)]
    assert [(n.event.i_event, behind) for n, behind in found.new] == [(second, True)]


def test_a_restarted_event_that_is_being_retried_is_due_at_once(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    books.settle(handler, RETRY)
    books.restart(i_event)
    (due,) = books.read(handler).due
    assert (due.event.i_event, due.attempts) == (i_event, 0)


def test_a_rejected_event_comes_back_from_the_journal_under_its_old_number(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    (before,) = books.waiting(handler)
    books.settle(handler, REJECTED)
    later = books.create(i_account=7)
    assert books.restart(i_event) == ["A"]
    found = books.read(handler)
    assert found.due == [before]
    assert [(n.event.i_event, behind) for n, behind in found.new] == [(later, True)]
    books.settle(handler, FINISHED)
    assert [verdict for _, verdict in books.verdicts(i_event)] == ["rejected", "finished"]
    assert books.live() == (0, 0)


def test_a_restart_goes_to_those_that_failed_and_to_nobody_else(books):
    good, bad, refusing = books.handler("good"), books.handler("bad"), books.handler("refusing")
    i_event = books.create(i_account=7)
    books.settle(good, FINISHED)
    books.settle(bad, FAILED)
    books.settle(refusing, REJECTED)
    assert sorted(books.restart(i_event)) == ["bad", "refusing"]
    assert books.waiting(good) == []
    assert numbers(books.waiting(bad)) == numbers(books.waiting(refusing)) == [i_event]


def test_a_finished_event_is_sent_again_only_to_a_handler_that_is_named(books):
    one, other = books.handler("A"), books.handler("B")
    i_event = books.create(i_account=7)
    books.settle(one, FINISHED)
    books.settle(other, FINISHED)
    with pytest.raises(Conflict, match="nothing to restart"):
        books.restart(i_event)
    assert books.restart(i_event, one) == ["A"]
    assert numbers(books.waiting(one)) == [i_event]
    assert books.waiting(other) == []


@pytest.mark.parametrize("wait", [None, SOON])
def test_what_has_not_been_tried_cannot_be_restarted(books, wait):
    handler = books.handler()
    i_event = books.create(wait=wait, i_account=7)
    before = books.rows(), books.rows("Event_Queue")
    for named in (None, handler):
        with pytest.raises(Conflict):
            books.restart(i_event, named)
    assert (books.rows(), books.rows("Event_Queue")) == before


def test_an_unknown_event_can_be_neither_restarted_nor_cancelled(books):
    with pytest.raises(NotFound, match="999"):
        books.restart(999)
    with pytest.raises(NotFound, match="999"):
        books.cancel(999)


def test_an_event_of_a_deleted_handler_has_nobody_to_be_restarted_for(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    books.settle(handler, REJECTED)
    books.remove(handler)
    with pytest.raises(Conflict, match="a deleted handler: rejected"):
        books.restart(i_event)


# No more


def test_a_scheduled_event_can_be_cancelled_and_is_then_never_sent(books):
    handler = books.handler()
    i_event = books.create(wait=SOON, i_account=7)
    books.cancel(i_event)
    assert books.live() == (0, 0)
    assert books.verdicts(i_event) == [(None, "cancelled")]
    books.make_due()
    assert books.do("release_scheduled") == 0
    assert books.waiting(handler) == []


def test_only_a_scheduled_event_can_be_cancelled(books):
    handler = books.handler()
    waiting = books.create(i_account=7)
    finished = books.create(i_account=8)
    books.settle(handler, FINISHED, finished)
    for i_event in (waiting, finished):
        with pytest.raises(Conflict, match="not scheduled"):
            books.cancel(i_event)
    assert numbers(books.waiting(handler)) == [waiting]


def test_a_handler_with_waiting_or_failed_work_is_not_deleted_unless_forced(books):
    handler, other = books.handler("A"), books.handler("B")
    waiting, failed, done = (books.create(i_account=n) for n in range(3))
    books.settle(handler, FAILED, failed)
    books.settle(handler, FINISHED, done)
    with pytest.raises(Conflict, match="2 notifications"):
        books.remove(handler)
    assert len(books.rows("Event_Handlers")) == 2
    assert books.remove(handler, force=True) == 2
    for i_event in (waiting, failed):
        entry = books.journal(i_event)[-1]
        assert (entry.handler, entry.verdict) == ("A", "cancelled")
        assert entry.variables
    assert ("A", "cancelled") not in books.verdicts(done)
    assert [row["name"] for row in books.rows("Event_Handlers")] == ["B"]
    assert {row["i_event_handler"] for row in books.rows("Event_Subscriptions")} == {
        other.i_event_handler
    }
    assert numbers(books.waiting(other)) == [waiting, failed, done], "the other still gets them"
    books.settle(other, FINISHED)
    assert books.live() == (0, 0)


def test_deleting_the_last_handler_of_its_events_cleans_them_up(books):
    handler = books.handler()
    for n in range(3):
        books.create(i_account=n)
    books.remove(handler, force=True)
    assert books.live() == (0, 0)
    assert books.rows("Handler_Leases") == []


def test_the_result_of_an_attempt_for_a_deleted_handler_is_an_orphan(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    (notification,) = books.waiting(handler)
    books.remove(handler, force=True)
    (settled,) = books.store([Result(notification, "A", 1, FINISHED, 1)])
    assert not settled.applied
    assert books.verdicts(i_event) == [("A", "cancelled"), ("A", "orphan")]


# What waits, and what was


def test_events_are_found_by_number_environment_handler_type_key_and_status(books):
    one, other = books.handler("A"), books.handler("B", i_env=2)
    waiting = books.create(i_account=1)
    retrying = books.create("Account/New", i_account=2)
    failed = books.create(i_account=3)
    rejected = books.create(i_account=4)
    finished = books.create(i_account=5)
    planned = books.create(wait=SOON, i_account=6)
    foreign = books.create(i_env=2, i_account=1)
    books.settle(one, RETRY, retrying)
    books.settle(one, FAILED, failed)
    books.settle(one, REJECTED, rejected)
    books.settle(one, FINISHED, finished)

    def found(**wanted):
        return [overview.i_event for overview in books.find(**wanted)]

    assert found() == [foreign, planned, finished, rejected, failed, retrying, waiting]
    assert found(i_event=retrying) == [retrying]
    assert found(i_env=2) == found(handler="B") == [foreign]
    assert found(event_type="Account/New") == [retrying]
    assert found(ordering_key="account:1") == [foreign, waiting]
    assert found(ordering_key="account:1", i_env=1) == [waiting]
    assert found(status="queued") == [foreign, planned, retrying, waiting]
    assert found(status="retrying") == [retrying]
    assert found(status="scheduled") == [planned]
    assert found(status="failed") == [rejected, failed]
    assert found(status="rejected") == [rejected]
    assert found(status="successful") == found(status="finished") == [finished]
    assert found(status="cancelled") == []
    assert other.name in {overview.handler for overview in books.find(i_env=2)}


def test_a_search_stops_at_its_limit_with_the_newest_of_the_live_and_the_past(books):
    handler = books.handler()
    made = [books.create(i_account=n) for n in range(6)]
    books.settle(handler, FINISHED, made[1], made[3], made[5])
    with books.database.read() as connection:
        found = overview.search(connection, Filter(), 3)
    assert [overview.i_event for overview in found] == [made[5], made[4], made[3]]


def test_an_unknown_status_is_refused_with_the_known_ones():
    with pytest.raises(InvalidRequest, match="retrying"):
        Filter(status="lost")


def test_an_event_shows_one_line_per_handler_with_what_matters(books):
    one, other = books.handler("A"), books.handler("B")
    i_event = books.create(i_account=7)
    books.settle(one, FINISHED)
    books.settle(other, RETRY)
    by_handler = {overview.handler: overview for overview in books.find()}
    assert by_handler["A"].status == "finished"
    assert by_handler["A"].next_attempt_at is None
    assert by_handler["B"].status == "retrying"
    assert by_handler["B"].attempts == 1
    assert by_handler["B"].reason == "HTTP 503"
    assert by_handler["B"].next_attempt_at > datetime.now(UTC)
    books.make_due()
    books.settle(other, FINISHED)
    past = {overview.handler: overview.status for overview in books.find(i_event=i_event)}
    assert past == {"A": "finished", "B": "finished"}


def test_the_variables_of_an_event_are_found_wherever_it_is(books):
    handler = books.handler()
    i_event = books.create(i_account=7)
    with books.database.read() as connection:
        live = overview.variables(connection, i_event)
    books.settle(handler, FINISHED)
    with books.database.read() as connection:
        assert overview.variables(connection, i_event) == live
        assert overview.variables(connection, 999) is None
    assert '"i_account":7' in live


def test_what_a_handler_has_before_it_is_counted_by_kind(books):
    handler, other = books.handler("A"), books.handler("B")
    made = [books.create(i_account=n) for n in range(6)]
    books.settle(handler, RETRY, made[0])
    books.settle(handler, FAILED, made[1])
    books.settle(handler, HELD, made[2])
    books.settle(handler, FINISHED, made[3])
    with books.database.read() as connection:
        counts = depth.counts(connection, handler.i_event_handler)
        untouched = depth.counts(connection, other.i_event_handler)
    assert counts == {"waiting": 2, "retrying": 1, "failed": 2}
    assert untouched == {"waiting": 6, "retrying": 0, "failed": 0}
