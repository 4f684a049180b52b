"""The lanes against a model of the database, under every interleaving that hypothesis finds."""

from copy import deepcopy
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from espf.model import Event, Notification
from espf.worker import lanes as lanes_module
from espf.worker.frontier import Frontier
from espf.worker.lanes import Lanes


def notification(position: int, key: str | None) -> Notification:
    event = Event(position, 1, "Account/Blocked", "{}", key)
    return Notification(1, position, 0, event)


@dataclass
class Row:
    position: int
    key: str | None
    due_at: int | None = None
    # The transaction that it is part of; None: committed.
    transaction: int | None = None


@dataclass
class Database:
    """What the queue's read shows, and what settling changes, in a list."""

    rows: dict[int, Row] = field(default_factory=dict)

    def blocked(self, row: Row) -> bool:
        return row.key is not None and any(
            other.key == row.key and other.position < row.position and other.due_at is not None
            for other in self.rows.values()
        )

    def due(self, now: int, room: int) -> list[Row]:
        found = [
            row
            for row in self.rows.values()
            if row.due_at is not None and row.due_at <= now and not self.blocked(row)
        ]
        return sorted(found, key=lambda row: (row.due_at, row.position))[:room]

    def new(self, after: int, room: int) -> list[tuple[Row, bool]]:
        found = [
            row
            for row in self.rows.values()
            if row.position > after and row.due_at is None and row.transaction is None
        ]
        return [(r, self.blocked(r)) for r in sorted(found, key=lambda r: r.position)[:room]]

    def at(self, positions: list[int]) -> list[tuple[Row, bool]]:
        found = [self.rows[p] for p in sorted(positions) if p in self.rows]
        return [(row, self.blocked(row)) for row in found if row.due_at is None]

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
        self.pending_read = None

    def arrive(self, key: str | None, *, late: bool = False) -> None:
        if any(row.key == key and row.transaction for row in self.database.rows.values()):
            # The subscriber's row is locked.
            return
        transaction = self.next_position if late else None
        self.database.rows[self.next_position] = Row(self.next_position, key, None, transaction)
        self.next_position += 1

    def commit(self, *, everything: bool = False) -> None:
        for row in sorted(self.database.rows.values(), key=lambda row: row.position):
            if row.transaction is not None:
                row.transaction = None
                if not everything:
                    return

    def read_begins(self) -> None:
        if self.pending_read is not None:
            return
        room, due_room = self.lanes.room, self.lanes.due_room
        refills = self.lanes.wants_refill(self.refill_lanes)
        self.lanes.read_begins()
        # The picture of now; what is settled before the read ends is not in it.
        picture = deepcopy(self.database)
        running = picture.running()
        after = self.frontier.start.after(running)
        self.pending_read = (
            room,
            running,
            picture.due(self.now, due_room),
            [(key, positions, picture.at(positions)) for key, positions in refills],
            picture.new(after, room) if room else None,
        )

    def read_ends(self) -> None:
        if self.pending_read is None:
            return
        room, running, due, refilled, new = self.pending_read
        self.pending_read = None
        self.lanes.read_ended()
        for row in due:
            self.lanes.offer_due(notification(row.position, row.key))
        for key, asked, rows in refilled:
            found = [(notification(row.position, row.key), behind) for row, behind in rows]
            self.lanes.refill(key, asked, found)
        if new is None:
            return
        for row, behind in new:
            self.lanes.offer(notification(row.position, row.key), behind=behind)
        reached = max((row.position for row, _ in new), default=0)
        self.frontier.ended(running, reached, self.now, complete=len(new) < room)

    def take(self) -> None:
        taken = self.lanes.take()
        if taken is not None:
            key = taken.event.ordering_key
            assert taken.position in self.database.rows, "delivered again after it was settled"
            assert taken.position not in {t.position for t in self.taken}, "delivered twice at once"
            if key is not None:
                assert key not in {t.event.ordering_key for t in self.taken}, "two of one lane"
                earlier = [
                    row.position
                    for row in self.database.rows.values()
                    if row.key == key and row.position < taken.position
                ]
                assert not earlier, f"{taken.position} overtook {earlier}"
            self.taken.append(taken)

    def settle(self, index: int, *, retry_in: int | None) -> None:
        if not self.taken:
            return
        taken = self.taken.pop(index % len(self.taken))
        if retry_in is None:
            del self.database.rows[taken.position]
            self.delivered.append((taken.position, taken.event.ordering_key))
        else:
            self.database.rows[taken.position].due_at = self.now + retry_in
        self.lanes.settled(taken, waits=retry_in is not None)

    def drain(self) -> None:
        self.commit(everything=True)
        for _ in range(3000):
            if not self.database.rows:
                return
            self.now += 1
            self.read_ends()
            self.read_begins()
            self.read_ends()
            self.take()
            self.settle(0, retry_in=None)
        raise AssertionError(f"never delivered: {sorted(self.database.rows)[:10]}")


# Mostly whole reads and deliveries, so that there is something in every state to interfere with.
steps = st.lists(
    st.sampled_from(
        [
            *(("arrive", "a"), ("arrive", "b"), ("arrive", None), ("read",), ("time",)),
            *(("late", "a"), ("late", None), ("commit",)),
            *(("read_begins",), ("read_ends",), ("take",), ("take",)),
            *(("done", 0), ("done", 1), ("retry", 0, 0), ("retry", 1, 1), ("retry", 0, 3)),
        ]
    ),
    min_size=60,
    max_size=250,
)


@settings(max_examples=400, deadline=None)
@given(steps, st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))
def test_nothing_is_lost_doubled_or_overtaken(script, window, lane_limit, refill_limit):
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
                    run.settle(arguments[0], retry_in=None)
                case "retry":
                    run.settle(arguments[0], retry_in=arguments[1])
                case "read":
                    run.read_ends()
                    run.read_begins()
                    run.read_ends()
                case "time":
                    run.now += 1
                case _:
                    getattr(run, step)()
        run.drain()
        for key in ("a", "b"):
            positions = [position for position, its in run.delivered if its == key]
            assert positions == sorted(positions)
        assert len(run.delivered) == run.next_position - 1
        assert run.lanes.room <= window
    finally:
        lanes_module.LANE_LIMIT = usual


def test_memory_is_bounded_and_one_lane_does_not_fill_it():
    lanes = Lanes(window=1000)
    for position in range(1, 5001):
        lanes.offer(notification(position, "a"), behind=False)
    assert lanes.room == 1000 - lanes_module.LANE_LIMIT
    lanes.offer(notification(6000, "b"), behind=False)
    assert {lanes.take().event.ordering_key, lanes.take().event.ordering_key} == {"a", "b"}
