"""The frontier against a model of a database whose transactions commit in any order."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from espf.backlog import Start
from espf.db.dialect import MANY
from espf.worker import frontier as frontier_module
from espf.worker.frontier import AGAIN_SECONDS, Frontier

LAG = 0.3


@dataclass
class Database:
    """Transactions by number, with the positions that they have taken; and who has committed."""

    open: dict[int, list[int]] = field(default_factory=dict)
    visible: set[int] = field(default_factory=set)
    wanted: set[int] = field(default_factory=set)
    numbers: int = 0
    transactions: int = 0

    def begin(self) -> None:
        self.transactions += 1
        self.open[self.transactions] = []

    def insert(self, which: int) -> None:
        if self.open:
            self.numbers += 1
            sorted(self.open.items())[which % len(self.open)][1].append(self.numbers)

    def end(self, which: int, *, commit: bool) -> None:
        if self.open:
            transaction = sorted(self.open)[which % len(self.open)]
            positions = self.open.pop(transaction)
            if commit:
                self.visible.update(positions)
                self.wanted.update(positions)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin")),
        st.tuples(st.just("insert"), st.integers(0, 9)),
        st.tuples(st.just("insert"), st.integers(0, 9)),
        st.tuples(st.just("commit"), st.integers(0, 9)),
        st.tuples(st.just("roll back"), st.integers(0, 9)),
        st.tuples(st.just("read"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.floats(0, 0.4)),
    ),
    max_size=120,
)


def run(script, read, *, lag=None, patience=3):
    """Play a script with ``read``; then let everything end, and read what is left."""
    database, frontier = Database(), Frontier(lag)
    now, seen = 0.0, set()
    for step, *arguments in script:
        match step:
            case "begin":
                database.begin()
            case "insert":
                database.insert(*arguments)
            case "commit":
                database.end(*arguments, commit=True)
            case "roll back":
                database.end(*arguments, commit=False)
            case "wait":
                now += arguments[0]
            case "read":
                now += LAG / 20
                read(database, frontier, now, arguments[0], seen)
    while database.open:
        database.end(0, commit=True)
    for _ in range(patience * database.numbers + patience):
        now += 2 * LAG
        read(database, frontier, now, 5, seen)
    return database, seen


def after(start, running):
    """Where a read begins while these transactions run."""
    ended = (position for number, position in start.suspects.items() if number not in running)
    return min([start.reached, *ended])


def page(database, after, room):
    rows = sorted(position for position in database.visible if position > after)
    return rows[:room], len(rows) < room


@settings(max_examples=300)
@given(steps, st.integers(0, 9))
def test_where_running_transactions_are_known_nothing_is_lost(script, most):
    """As on PostgreSQL; also when those that began last are too many to name."""

    def read(database, frontier, now, room, seen):
        running = frozenset(database.open)
        rows, complete = page(database, after(frontier.start, running), room)
        seen.update(rows)
        named = frozenset(sorted(running)[:most])
        running = named if named == running else named | {MANY}
        frontier.ended(running, max(rows, default=0), now, complete=complete)

    database, seen = run(script, read)
    assert seen == database.wanted


def patient(script):
    """Nothing ends before what it has begun to write is written, and a list has shown it."""
    for step in script:
        if step[0] in {"commit", "roll back"}:
            yield from (("wait", LAG), ("read", 5))
        yield step


@settings(max_examples=300)
@given(steps, st.integers(0, 3), st.floats(0, 1))
def test_where_unseen_positions_are_known_nothing_is_lost(script, limit, age):
    """As on MariaDB: a row may be written a little later than its number was taken.

    Also when there are too many to ask for them one by one.
    """
    taken: dict[int, float] = {}

    def read(database, frontier, now, room, seen):
        start = frontier.start
        rows, complete = page(database, start.reached, room)
        late = {position for position in start.expected if position in database.visible}
        seen.update(rows, late)
        upto = max(rows, default=start.reached)
        numbers = {position for positions in database.open.values() for position in positions}
        for position in numbers:
            taken.setdefault(position, now)
        written = {position for position in numbers if taken[position] <= now - age * LAG}
        unseen = {p for p in written if start.reached < p <= upto or p in start.expected}
        frontier.ended((), max(rows, default=0), now, complete=complete, unseen=unseen)

    usual, frontier_module.MOST_UNSEEN = frontier_module.MOST_UNSEEN, limit
    try:
        database, seen = run(list(patient(script)), read, lag=LAG)
    finally:
        frontier_module.MOST_UNSEEN = usual
    assert seen == database.wanted


@settings(max_examples=300)
@given(steps, st.floats(0, 1))
def test_what_a_list_does_not_show_yet_is_found_when_the_list_is_at_most_so_old(script, age):
    """A transaction that is younger than the lag may be missing in what the database tells."""
    began: dict[int, float] = {}

    def read(database, frontier, now, room, seen):
        for transaction in database.open:
            began.setdefault(transaction, now)
        running = {t for t in database.open if began[t] <= now - age * LAG}
        rows, complete = page(database, after(frontier.start, running), room)
        seen.update(rows)
        frontier.ended(running, max(rows, default=0), now, complete=complete)

    database, seen = run(list(patient(script)), read, lag=LAG)
    assert seen == database.wanted


@settings(max_examples=300)
@given(steps, st.integers(1, 9))
def test_what_is_written_long_after_its_number_was_taken_is_found_all_the_same(script, page_size):
    """Nothing tells of it before it is committed."""

    def read(database, frontier, now, room, seen):
        start = frontier.start
        rows, complete = page(database, start.reached, room)
        seen.update(rows)
        swept = 0
        if start.again is not None:
            old = sorted(p for p in database.visible if start.again < p <= start.reached)
            seen.update(old[:page_size])
            swept = old[page_size - 1] if len(old) >= page_size else 0
        frontier.ended((), max(rows, default=0), now, complete=complete, swept=swept)

    database, seen = run(script, read, lag=LAG, patience=10)
    assert seen == database.wanted


def test_where_it_is_known_what_cannot_be_seen_nothing_is_gone_over_again():
    frontier = Frontier()
    for now in range(100):
        frontier.ended((), 20, float(now), complete=True)
        assert frontier.start.again is None


def test_what_was_passed_is_gone_over_again_a_part_at_a_time():
    frontier = Frontier(LAG)
    parts = []
    for now in range(100):
        again = frontier.start.again
        if again is not None:
            parts.append(again)
        frontier.ended((), 40, float(now), complete=True, swept=((again or 0) + 10) % 40)
    assert parts[:6] == [0, 10, 20, 30, 0, 10]
    assert 100 / AGAIN_SECONDS / 2 < len(parts) < 100 / AGAIN_SECONDS + 1


def test_what_was_read_lately_is_read_again_until_the_lag_is_over():
    """A row may be on its way for as long, and nothing tells of it."""
    frontier = Frontier(LAG)
    for n in range(10):
        frontier.ended((), 20, n * LAG / 10, complete=True)
        assert frontier.start.reached == 0
    for n in range(10, 30):
        frontier.ended((), 20, n * LAG / 10, complete=True)
    assert frontier.start.reached == 20


def test_numbers_that_nobody_will_ever_see_cost_nothing():
    frontier = Frontier()
    frontier.ended((), 1000, 0.0, complete=True)
    assert frontier.start == Start(1000, {}, [])


def test_a_transaction_that_runs_for_long_is_read_again_only_when_it_has_ended():
    frontier = Frontier()
    frontier.ended((), 10, 0.0, complete=True)
    frontier.ended((7,), 20, 0.0, complete=True)
    frontier.ended((7,), 30, 0.0, complete=True)
    assert after(frontier.start, {7}) == 30
    assert after(frontier.start, ()) == 10


def test_one_of_too_many_to_name_is_read_from_where_they_were_met_when_it_has_a_name():
    frontier = Frontier()
    frontier.ended((), 10, 0.0, complete=True)
    frontier.ended({7, MANY}, 30, 0.0, complete=True)
    assert after(frontier.start, {7}) == 10
    frontier.ended({7, 8}, 40, 0.0, complete=True)
    assert after(frontier.start, {7, 8}) == 40
    assert after(frontier.start, {7}) == 10


def test_a_position_that_could_not_be_seen_is_asked_for_and_nothing_else():
    frontier = Frontier(LAG)
    for now in (0.0, 1.0, 2.0):
        frontier.ended((), 20, now, complete=True, unseen={15})
    assert (frontier.start.reached, frontier.start.expected) == (20, [15])


def test_a_great_transaction_is_read_as_a_whole(monkeypatch):
    monkeypatch.setattr(frontier_module, "MOST_UNSEEN", 3)
    frontier = Frontier(LAG)
    for now in (0.0, 1.0, 2.0):
        frontier.ended((), 100, now, complete=True, unseen={40, 41, 42, 43})
    assert (frontier.start.reached, frontier.start.expected) == (39, ())


def test_work_of_new_shards_is_read_from_the_beginning():
    frontier = Frontier(LAG)
    frontier.ended((7,), 100, 0.0, complete=True, unseen={40}, swept=60)
    frontier.restart()
    assert frontier.start == Start(0, {}, [], again=0)
