"""The lanes against a model of the database, under every interleaving that hypothesis finds."""

import os
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espf.model import SHARDS, Event, Notification, shard_of
from espf.worker import lanes as lanes_module
from espf.worker.frontier import Frontier
from espf.worker.lanes import Lanes

PLAIN, LATEST_ONLY = "Account/Blocked", "Account/ProductAddon/Changed"

#: More for ``make chaos``.
MINUTES = float(os.environ.get("CHAOS_MINUTES", "0"))
EXAMPLES = 120 + int(100 * MINUTES)

pytestmark = pytest.mark.timeout(240 + 60 * MINUTES)


def notification(position: int, key: str | None, event_type: str = PLAIN) -> Notification:
    event = Event(position, 1, event_type, "{}", key)
    return Notification(1, position, 0, event, shard=shard_of(key))


@dataclass
class Row:
    position: int
    key: str | None
    due_at: int | None = None
    # The transaction that it is part of; None: committed.
    transaction: int | None = None
    # It has failed for good, and its lane waits for somebody.
    held: bool = False
    event_type: str = PLAIN

    @property
    def notification(self) -> Notification:
        return notification(self.position, self.key, self.event_type)

    @property
    def waits(self) -> bool:
        return self.held or self.due_at is not None


@dataclass
class Database:
    """What the queue's read shows, and what settling changes, in a list."""

    rows: dict[int, Row] = field(default_factory=dict)
    # The shards that are asked for.
    shards: set[int] = field(default_factory=set)
    # Lanes that an administrator holds.
    stopped: set[str] = field(default_factory=set)

    def picture(self, shards: set[int]) -> "Database":
        """What a read sees that begins now."""
        rows = {position: replace(row) for position, row in self.rows.items()}
        return Database(rows, set(shards))

    def asked_for(self) -> list[Row]:
        return [row for row in self.rows.values() if shard_of(row.key) in self.shards]

    def blocked(self, row: Row) -> bool:
        return row.key in self.stopped or any(
            other.key == row.key is not None and other.position < row.position and other.waits
            for other in self.rows.values()
        )

    def due(self, now: int, room: int, after: int, at_once: int) -> tuple[list[Row], int | None]:
        """The first of their lanes after a time, of some that are due; and how far that went."""
        waiting = [row for row in self.rows.values() if row.due_at is not None]
        times = sorted(row.due_at for row in waiting if after < row.due_at <= now)
        upto = times[at_once - 1] if len(times) >= at_once else None
        heads = [row for row in self.asked_for() if row.due_at is not None]
        heads = [row for row in heads if not self.blocked(row)]
        heads.sort(key=lambda row: (row.due_at, row.position))
        end = now if upto is None else upto
        last = [row for row in heads if end < row.due_at <= now][: room // 4]
        found = [row for row in heads if after < row.due_at <= end][: room - len(last)]
        if len(found) >= room - len(last):
            upto = found[-1].due_at - 1 if found else after
        return last + found, upto

    def followers(self, key: str, now: int, room: int) -> tuple[list[Row], bool]:
        """Those of a lane that have been tried, up to the first that is not due."""
        tried = [row for row in self.rows.values() if row.key == key and row.waits]
        tried.sort(key=lambda row: row.position)
        due = takewhile(lambda row: not row.held and row.due_at <= now, tried[:room])
        found = list(due)
        return found, len(found) == room

    def is_followed(self, row: Row) -> bool:
        return row.key is not None and any(
            other.key == row.key and other.position > row.position and other.waits
            for other in self.rows.values()
        )

    def new(self, after: int, room: int) -> list[tuple[Row, bool]]:
        found = [
            row
            for row in self.asked_for()
            if row.position > after and not row.waits and row.transaction is None
        ]
        return [(r, self.blocked(r)) for r in sorted(found, key=lambda r: r.position)[:room]]

    def at(self, positions: list[int]) -> list[tuple[Row, bool]]:
        found = [self.rows[p] for p in sorted(positions) if p in self.rows]
        return [(row, self.blocked(row)) for row in found if not row.waits]

    def newer(self, row: Row) -> list[int]:
        """Those that wait of which only the newest counts, newer than this one."""
        return [
            other.position
            for other in self.rows.values()
            if row.event_type == other.event_type == LATEST_ONLY
            and row.key == other.key is not None
            and other.position > row.position
            and not other.held
            and other.transaction is None
        ]

    def tried(self, keys: set[str]) -> list[tuple[Row, bool]]:
        found = [r for r in self.rows.values() if r.key in keys and r.due_at is not None]
        return [(row, self.blocked(row)) for row in sorted(found, key=lambda row: row.position)]

    def ahead(self, after: int, count: int) -> tuple[list[tuple[str, str, int]], int, bool]:
        seen = [row.position for row in self.rows.values() if row.transaction is None]
        last = max(seen, default=0)
        upto = min(after + count, last)
        kinds = [
            (row.key, row.event_type, row.position)
            for row, _ in self.new(after, 10_000)
            if row.position <= upto and row.key is not None
        ]
        return kinds, max(after, upto), after + count >= last

    def running(self) -> set[int]:
        return {row.transaction for row in self.rows.values() if row.transaction is not None}


class Simulation:
    """A runner without tasks: hypothesis says which step comes next."""

    def __init__(self, window: int, refill_lanes: int) -> None:
        self.database = Database()
        self.lanes = Lanes(window)
        self.frontier = Frontier()
        self.now = 0
        self.refill_lanes = refill_lanes
        self.next_position = 1
        self.taken: list[Notification] = []
        self.delivered: list[tuple[int, str | None]] = []
        self.types: dict[int, str] = {}
        self.late: set[int] = set()
        self.pending_read = None
        self.set_aside: list[int] = []
        # Those that came back after others of their lane; what is in memory may go before them.
        self.returned: set[int] = set()
        self.owned = set(range(SHARDS))
        # Since the read began that is under way.
        self.taken_meanwhile: set[int] = set()
        # Reads after which to look again: they may not show yet what was let go.
        self.looks_again = 0
        # As the last read that has ended showed it, and what was in flight when it began.
        self.shown = Database()
        self.shown_taken: set[int] = set()
        self.ahead_after = 0
        self.due_after: int | None = None
        self.superseded: list[int] = []
        # Those that were taken to be superseded, and by which.
        self.superseded_by: dict[int, int] = {}

    def is_ours(self, row: Row) -> bool:
        shard = shard_of(row.key)
        return shard in self.owned and shard not in self.taken_meanwhile

    def give_up(self, key: str | None) -> None:
        """The shard goes to another worker, which does nothing with it."""
        self.owned.discard(shard_of(key))
        self.lanes.drop({shard_of(key)})

    def take_on(self, key: str | None) -> None:
        shard = shard_of(key)
        under_way = {shard_of(taken.event.ordering_key) for taken in self.taken}
        if shard not in self.owned | under_way:
            self.owned.add(shard)
            self.taken_meanwhile.add(shard)
            self.frontier.restart()
            self.ahead_after = 0

    def let_go(self) -> None:
        """Failed ones hold their lanes no more."""
        for position in [position for position, row in self.database.rows.items() if row.held]:
            self.set_aside.append(position)
            del self.database.rows[position]
        self.lanes.look_again()
        self.looks_again = 2

    def stop(self, key: str) -> None:
        """An administrator holds a lane."""
        self.database.stopped.add(key)
        self.hold_lanes()

    def go_on(self, key: str) -> None:
        self.database.stopped.discard(key)
        self.hold_lanes()

    def hold_lanes(self) -> None:
        self.lanes.hold(frozenset(self.database.stopped))
        self.lanes.look_again()
        self.looks_again = 2

    def restart(self, key: str | None) -> None:
        """The held one of a lane is tried again, or one that was delivered already."""
        for row in self.database.rows.values():
            if row.held and row.key == key:
                row.held, row.due_at = False, self.now
                return
        for entry in self.delivered:
            if entry[1] == key is not None and entry[0] not in self.returned:
                self.delivered.remove(entry)
                self.returned.add(entry[0])
                self.database.rows[entry[0]] = Row(
                    entry[0], key, due_at=self.now, event_type=self.types[entry[0]]
                )
                return

    def arrive(self, key: str | None, event_type: str = PLAIN, *, late: bool = False) -> None:
        if any(row.key == key and row.transaction for row in self.database.rows.values()):
            # The subscriber's row is locked.
            return
        transaction = self.next_position if late else None
        self.database.rows[self.next_position] = Row(
            self.next_position, key, None, transaction, event_type=event_type
        )
        self.types[self.next_position] = event_type
        if late:
            self.late.add(self.next_position)
        self.next_position += 1

    def newest(self, key: str | None) -> None:
        self.arrive(key, LATEST_ONLY)

    def late_newest(self, key: str | None) -> None:
        self.arrive(key, LATEST_ONLY, late=True)

    def gone(self, key: str) -> None:
        """Somebody takes the newest of a lane away, if it waits for a retry."""
        rows = [r for r in self.database.rows.values() if r.key == key and r.due_at is not None]
        if rows and self.pending_read is None and rows[-1].position not in self.lanes._known:
            self.set_aside.append(rows[-1].position)
            del self.database.rows[rows[-1].position]
            self.lanes.look_again()
            self.looks_again = 2

    def commit(self, *, everything: bool = False) -> None:
        for row in sorted(self.database.rows.values(), key=lambda row: row.position):
            if row.transaction is not None:
                row.transaction = None
                if not everything:
                    return

    def read_begins(self) -> None:
        if self.pending_read is not None:
            return
        room = self.lanes.room
        due_room = self.lanes.due_room if self.due_after is None else self.lanes.due_free
        follow, follow_room = self.lanes.wants_follow(self.refill_lanes)
        refills = self.lanes.wants_refill(self.refill_lanes)
        asked = self.lanes.wants_tried(self.refill_lanes)
        start = max(self.ahead_after, self.frontier.start.reached)
        ahead = start if self.lanes.wants_ahead else None
        self.lanes.read_begins()
        self.taken_meanwhile.clear()
        # The picture of now; what is settled before the read ends is not in it.
        picture = self.database.picture(self.owned)
        running = picture.running()
        start = self.frontier.start
        after = min([start.reached, *(p for t, p in start.suspects.items() if t not in running)])
        due, self.due_after = picture.due(
            self.now, max(0, due_room), -1 if self.due_after is None else self.due_after, 2
        )
        followers = [(key, *picture.followers(key, self.now, follow_room)) for key in follow]
        both = [*due, *chain.from_iterable(rows for _, rows, _ in followers)]
        tried = {row.key for row in both if row.event_type == LATEST_ONLY and row.key is not None}
        self.pending_read = (
            picture,
            {taken.position for taken in self.taken},
            (asked, picture.tried({*asked, *tried})),
            None if ahead is None else picture.ahead(ahead, self.refill_lanes),
            room,
            running,
            due,
            followers,
            [(key, positions, picture.at(positions)) for key, positions in refills],
            picture.new(after, room) if room else None,
        )

    def read_ends(self) -> None:
        if self.pending_read is None:
            return
        picture, in_flight, (asked, tried), ahead, room, running, due, *more = self.pending_read
        followers, refilled, new = more
        self.shown, self.shown_taken = picture, in_flight
        self.pending_read = None
        self.lanes.read_ended()
        for row in filter(self.is_ours, due):
            self.lanes.offer_due(row.notification, followed=picture.is_followed(row))
        ours = [(row.notification, behind) for row, behind in tried if self.is_ours(row)]
        self.lanes.offer_tried(asked, ours)
        for key, positions, rows in refilled:
            self.lanes.refill(key, positions, [(row.notification, b) for row, b in rows])
        for key, rows, more in followers:
            ours = [row.notification for row in rows if self.is_ours(row)]
            self.lanes.follow(key, ours, more=more)
        if new is not None:
            for row, behind in new:
                if self.is_ours(row):
                    self.lanes.offer(row.notification, behind=behind)
            reached = max((row.position for row, _ in new), default=0)
            if not self.taken_meanwhile:
                self.frontier.ended(running, reached, self.now, complete=len(new) < room)
        if self.taken_meanwhile:
            self.lanes.knows(read_all=False, looked_ahead=False)
        else:
            kinds, self.ahead_after, is_all = ahead or ([], self.ahead_after, False)
            self.lanes.note_ahead(kinds)
            self.lanes.knows(read_all=new is not None and len(new) < room, looked_ahead=is_all)
        if self.looks_again:
            self.looks_again -= 1
            self.lanes.look_again()

    def take(self) -> None:
        taken = self.lanes.take()
        for outdated, newest in self.lanes.superseded():
            assert shard_of(outdated.event.ordering_key) in self.owned
            self.superseded_by[outdated.position] = newest
            self.taken.append(outdated)
        if taken is not None:
            self.look_for_newer(taken)
            key = taken.event.ordering_key
            assert shard_of(key) in self.owned, "delivered for another worker's shard"
            assert key not in self.database.stopped, "delivered out of a lane that is held"
            assert taken.position in self.database.rows, "delivered again after it was settled"
            assert taken.position not in {t.position for t in self.taken}, "delivered twice at once"
            if key is not None:
                assert key not in {t.event.ordering_key for t in self.taken}, "two of one lane"
                earlier = [
                    row.position
                    for row in self.database.rows.values()
                    if row.key == key
                    and row.position < taken.position
                    and row.position not in self.returned
                ]
                assert not earlier, f"{taken.position} overtook {earlier}"
            self.taken.append(taken)

    def look_for_newer(self, taken: Notification) -> None:
        """Of what only the newest counts, it must be the newest, as far as could be known."""
        row = self.database.rows[taken.position]
        newer = self.database.newer(row)
        known = self.shown.rows.get(taken.position)
        shown = self.shown.newer(known) if known is not None else []
        # A look ahead may miss what is committed late.
        surely = set(newer).intersection(shown) - self.shown_taken - self.late
        assert not surely, f"{taken.position} went out before {surely}"

    def settle(self, index: int, *, retry_in: int | None = None, hold: bool = False) -> None:
        if not self.taken:
            return
        taken = self.taken.pop(index % len(self.taken))
        newest = self.superseded_by.pop(taken.position, None)
        if newest is not None:
            if newest in self.database.newer(self.database.rows[taken.position]):
                del self.database.rows[taken.position]
                self.superseded.append(taken.position)
                self.lanes.settled(taken, waits=False)
            else:
                self.database.rows[taken.position].due_at = self.now
                self.lanes.is_gone(taken, newest)
                self.lanes.settled(taken, waits=True)
            return
        if hold:
            self.database.rows[taken.position].due_at = None
            self.database.rows[taken.position].held = True
        elif retry_in is None:
            del self.database.rows[taken.position]
            self.delivered.append((taken.position, taken.event.ordering_key))
        else:
            self.database.rows[taken.position].due_at = self.now + retry_in
        self.lanes.settled(taken, waits=hold or retry_in is not None)

    def drain(self) -> None:
        self.commit(everything=True)
        while self.taken:
            self.settle(0)
        for key in KEYS:
            self.take_on(key)
        self.let_go()
        for key in KEYS[:2]:
            self.go_on(key)
        for _ in range(3000):
            if not self.database.rows:
                return
            self.now += 1
            self.read_ends()
            self.read_begins()
            self.read_ends()
            self.take()
            self.settle(0)
        raise AssertionError(f"never delivered: {sorted(self.database.rows)[:10]}")


# Two lanes in two shards; None: lanes of their own, which share a shard with the second.
KEYS = ("aa", "bb", None)

# Mostly whole reads and deliveries, so that there is something in every state to interfere with.
USUAL = (
    *(("arrive", "aa"), ("arrive", "bb"), ("arrive", None), ("read",), ("time",)),
    *(("late", "aa"), ("late", None), ("commit",)),
    *(("read_begins",), ("read_ends",), ("take",), ("take",)),
    *(("done", 0), ("done", 1), ("retry", 0, 0), ("retry", 1, 1), ("retry", 0, 3)),
)
HELD = (("hold", 0), ("hold", 0), ("let_go",), ("restart", "aa"), ("restart", "bb"))
NEWEST = (
    *(("newest", "aa"), ("newest", "bb")) * 2,
    *(
        ("newest", None),
        ("late_newest", "bb"),
        ("gone", "aa"),
        ("restart", "aa"),
        ("restart", "bb"),
    ),
)
STOPPED = (
    *(("stop", "aa"), ("go_on", "aa"), ("stop", "bb"), ("go_on", "bb"), ("go_on", "aa")),
    *(("read_begins",), ("read_ends",), ("take",), ("retry", 0, 0), ("time",)) * 2,
)
# Mostly owned, and mostly full, so that there is something to give up.
SHARED = (
    *(("give_up", "aa"), ("give_up", "bb")),
    *(("take_on", "aa"), ("take_on", "bb")) * 3,
    *(("arrive", "aa"), ("arrive", "bb"), ("read",)) * 3,
)


# Many of a lane that have been delivered are restarted, or fail again, among one another.
AGAIN = (
    *(("restart", "aa"), ("restart", "aa"), ("restart", "bb")) * 3,
    *(("read",), ("take",), ("done", 0)) * 4,
)


def scripts(*kinds):
    return st.lists(st.sampled_from([*USUAL, *kinds]), min_size=60, max_size=250)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))


@settings(max_examples=EXAMPLES)
@given(scripts(), sizes)
def test_nothing_is_lost_doubled_or_overtaken(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*HELD), sizes)
def test_lanes_that_wait_for_somebody_go_on_when_they_may(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*AGAIN, *HELD, *SHARED), sizes)
def test_restarted_ones_follow_one_another_in_order(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*STOPPED, *AGAIN, *HELD), sizes)
def test_a_lane_that_is_held_gives_nothing_and_goes_on_in_order(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*STOPPED, *NEWEST, *SHARED), sizes)
def test_a_lane_is_held_whatever_else_happens(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*HELD, *SHARED), sizes)
def test_shards_come_and_go_in_any_state(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*NEWEST), sizes)
def test_of_some_types_only_the_newest_goes_out(script, sizes):
    play(script, *sizes)


@settings(max_examples=EXAMPLES)
@given(scripts(*NEWEST, *HELD, *SHARED), sizes)
def test_only_the_newest_goes_out_whatever_else_happens(script, sizes):
    play(script, *sizes)


def play(script, window, lane_limit, refill_limit):
    usual = lanes_module.LANE_LIMIT
    lanes_module.LANE_LIMIT = lane_limit
    try:
        run = Simulation(window, refill_limit)
        for step, *arguments in script:
            match step:
                case "arrive":
                    run.arrive(*arguments)
                case "late":
                    run.arrive(*arguments, late=True)
                case "done":
                    run.settle(arguments[0])
                case "hold":
                    run.settle(arguments[0], hold=True)
                case "retry":
                    run.settle(arguments[0], retry_in=arguments[1])
                case "read":
                    run.read_ends()
                    run.read_begins()
                    run.read_ends()
                case "time":
                    run.now += 1
                case _:
                    getattr(run, step)(*arguments)
        run.drain()
        for key in KEYS[:2]:
            positions = [p for p, its in run.delivered if its == key and p not in run.returned]
            assert positions == sorted(positions)
        over = [*(position for position, _ in run.delivered), *run.set_aside, *run.superseded]
        assert sorted(over) == list(range(1, run.next_position))
        assert run.lanes.room <= window
        assert run.lanes.due_free == run.lanes.due_room, "nothing is there any more"
    finally:
        lanes_module.LANE_LIMIT = usual


def test_memory_is_bounded_and_one_lane_does_not_fill_it():
    lanes = Lanes(window=1000)
    for position in range(1, 5001):
        lanes.offer(notification(position, "a"), behind=False)
    assert lanes.room == 1000 - lanes_module.LANE_LIMIT
    lanes.offer(notification(6000, "b"), behind=False)
    assert {lanes.take().event.ordering_key, lanes.take().event.ordering_key} == {"a", "b"}


def test_what_follows_leaves_room_for_what_is_found_by_its_time():
    lanes = Lanes(window=100)
    for position in range(1, 61):
        lanes.offer_due(notification(position, f"a{position}"), followed=True)
    while taken := lanes.take():
        lanes.settled(taken, waits=False)
    keys, room = lanes.wants_follow(10)
    assert len(keys) == 10
    assert 1 < room * len(keys) <= 50
    for number, key in enumerate(keys):
        due = [notification(100 + room * number + n, key) for n in range(room)]
        lanes.follow(key, due, more=True)
    assert lanes.wants_follow(10) == ([], 0)
    assert lanes.due_free >= 25


def test_what_waits_for_a_retry_is_superseded_as_soon_as_a_newer_one_comes():
    for when in ("settled", "in flight"):
        run = Simulation(window=10, refill_lanes=5)
        run.arrive("aa", LATEST_ONLY)
        run.read_begins()
        run.read_ends()
        run.take()
        if when == "in flight":
            run.arrive("aa", LATEST_ONLY)
            run.read_begins()
            run.read_ends()
        run.settle(0, retry_in=1_000_000)
        if when == "settled":
            run.arrive("aa", LATEST_ONLY)
        run.now = 1
        for _ in range(6):
            run.read_begins()
            run.read_ends()
            run.take()
            run.settle(0)
        assert run.superseded == [1], when
        assert [position for position, _ in run.delivered] == [2], when


def test_a_long_backlog_is_looked_through_before_one_that_may_not_be_the_newest_goes_out():
    run = Simulation(window=5, refill_lanes=10)
    run.arrive("aa", LATEST_ONLY)
    for _ in range(100):
        run.arrive(None)
    run.arrive("aa", LATEST_ONLY)
    run.drain()
    assert run.superseded == [1]
    assert run.delivered[-1][0] == 102


def restarted_together() -> Simulation:
    """Two were delivered, and are both to be delivered again."""
    run = Simulation(window=10, refill_lanes=5)
    for _ in range(2):
        run.arrive("aa", LATEST_ONLY)
        run.read_begins()
        run.read_ends()
        run.take()
        run.settle(0)
    run.restart("aa")
    run.restart("aa")
    run.read_begins()
    run.read_ends()
    return run


def test_of_those_that_are_restarted_together_only_the_newest_goes_out():
    run = restarted_together()
    run.drain()
    assert run.superseded == [1]
    assert [position for position, _ in run.delivered] == [2]


def test_one_goes_out_after_all_when_the_newer_one_was_taken_away():
    run = restarted_together()
    run.gone("aa")
    run.drain()
    assert run.superseded == []
    assert [position for position, _ in run.delivered] == [1]


@pytest.mark.parametrize("newer_still", [False, True])
def test_one_goes_out_when_the_newer_one_is_gone_unless_another_is_newer_still(newer_still):
    lanes = Lanes(window=10)
    old = notification(1, "a", LATEST_ONLY)
    lanes.offer(old, behind=False)
    lanes.note_ahead([("a", LATEST_ONLY, 5)])
    lanes.knows(read_all=False, looked_ahead=True)
    assert lanes.take() is None
    assert lanes.superseded() == [(old, 5)]
    if newer_still:
        lanes.note_ahead([("a", LATEST_ONLY, 7)])
    lanes.is_gone(old, 5)
    lanes.settled(old, waits=True)
    lanes.read_begins()
    lanes.read_ended()
    lanes.offer_due(old)
    assert lanes.take() is (None if newer_still else old)
    assert lanes.superseded() == ([(old, 7)] if newer_still else [])


@pytest.mark.parametrize("shown", ["further on", "among those that have been tried"])
def test_what_a_read_shows_and_is_settled_by_now_supersedes_nothing(shown):
    lanes = Lanes(window=10)
    newest, old = notification(2, "a", LATEST_ONLY), notification(1, "a", LATEST_ONLY)
    lanes.offer(newest, behind=False)
    lanes.knows(read_all=True, looked_ahead=False)
    lanes.read_begins()
    assert lanes.take() is newest
    lanes.settled(newest, waits=False)
    lanes.read_ended()
    lanes.offer_due(old)
    if shown == "further on":
        lanes.note_ahead([("a", LATEST_ONLY, 2)])
    else:
        lanes.offer_tried(["a"], [(newest, False)])
    assert lanes.take() is old


def test_what_followed_one_that_failed_again_waits_behind_it():
    run = Simulation(window=10, refill_lanes=0)
    for _ in range(3):
        run.arrive("aa")
        run.read_begins()
        run.read_ends()
        run.take()
        run.settle(0)
    for _ in range(3):
        run.restart("aa")
    # The second one is found by its time, and is under way while the lane asks for followers.
    while [taken.position for taken in run.taken] != [2]:
        run.settle(0)
        run.read_begins()
        run.read_ends()
        run.take()
    run.refill_lanes = 5
    run.read_begins()
    run.settle(0, retry_in=3)
    run.read_ends()
    run.take()
    assert not run.taken
    run.drain()
    assert [position for position, _ in run.delivered] == [1, 2, 3]
