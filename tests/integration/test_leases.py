"""Who works for which part of a handler, by the clock and the locks of a real database."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from espf import subscriptions
from espf.db.tables import workers
from espf.leases import Lease, Leases, deal, shards_of_unit
from espf.model import SHARDS

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
EVERY = range(SHARDS)


class Register:
    """The leases of a database; each method is one transaction."""

    def __init__(self, database, sealer):
        self.database = database
        self.sealer = sealer
        self.leases = Leases(database)

    def handler(self, name="A"):
        settings = {"EventSender.URL": "http://127.0.0.1:1", "EventSender.AuthMethod": "None"}
        with self.database.begin() as connection:
            return subscriptions.create_handler(
                connection, self.sealer, 1, name, "EventSender", settings
            ).i_event_handler

    def do(self, method, *args, **kwargs):
        with self.database.begin() as connection:
            return getattr(self.leases, method)(connection, *args, **kwargs)

    def come(self, *names, seconds=60.0):
        for name in names:
            self.do("sign_of_life", name, seconds)

    def expire(self, worker):
        """Let the time of a worker's last sign of life run out."""
        with self.database.begin() as connection:
            # Not so long ago that the row is taken away.
            past = self.database.now(connection) - timedelta(seconds=30)
            connection.execute(
                update(workers).where(workers.c.worker == worker).values(expires_at=past)
            )

    def take(self, worker, handler, shards=EVERY, dead=()):
        """The shards that a worker got, with their epochs."""
        wanted = [(handler, shard) for shard in shards]
        leases = self.do("acquire", worker, wanted, dead)
        assert all(lease.i_event_handler == handler for lease in leases)
        return {lease.shard: lease.epoch for lease in leases}

    def owners(self):
        return self.do("roll").owners


@pytest.fixture
def register(database, sealer):
    return Register(database, sealer)


def test_a_shard_has_one_owner_and_every_new_owner_another_epoch(register):
    handler = register.handler()
    register.come("w1", "w2")
    assert register.take("w1", handler) == dict.fromkeys(EVERY, 1)
    assert register.take("w2", handler) == {}
    register.do("release", "w1")
    assert register.take("w2", handler) == dict.fromkeys(EVERY, 2)
    assert set(register.owners().values()) == {"w2"}


def test_a_worker_that_asks_for_its_own_does_not_know_of_it_and_gets_it_anew(register):
    handler = register.handler()
    register.come("w1")
    register.take("w1", handler, range(8))
    assert register.take("w1", handler, [3]) == {3: 2}
    assert register.do("held", "w1")[handler, 3] == 2


def test_nothing_falls_to_a_worker_that_is_leaving_and_what_it_has_stays_its_own(register):
    handler = register.handler()
    register.come("w1", "w2")
    register.take("w1", handler)
    register.do("begin_leaving", "w1")
    register.come("w1")
    assert register.do("roll").instances == {"w2": ""}
    assert register.take("w2", handler) == {}


def test_the_shards_of_a_handler_go_to_different_workers(register):
    handler = register.handler()
    register.come("w1", "w2")
    assert register.take("w1", handler, range(8)) == dict.fromkeys(range(8), 1)
    assert register.take("w2", handler) == dict.fromkeys(range(8, 16), 1)
    assert Counter(register.owners().values()) == {"w1": 8, "w2": 8}
    assert register.do("held", "w1") == {(handler, shard): 1 for shard in range(8)}


def test_who_gives_no_sign_of_life_loses_everything_and_who_does_nothing(register):
    one, other = register.handler("A"), register.handler("B")
    register.come("w1", "w2", "w3")
    register.take("w1", one)
    register.take("w2", other)
    register.expire("w1")
    assert register.do("roll").instances == {"w2": "", "w3": ""}
    assert register.take("w3", one) == dict.fromkeys(EVERY, 2)
    assert register.take("w3", other) == {}
    register.expire("w2")
    register.come("w2")
    assert register.take("w3", other) == {}, "a new sign of life came in time"


def test_a_worker_that_never_gave_a_sign_of_life_owns_nothing_for_long(register):
    handler = register.handler()
    register.come("w2")
    register.take("w1", handler)
    assert register.take("w2", handler) == dict.fromkeys(EVERY, 2)


def test_what_a_dead_worker_had_can_be_taken_before_its_time_is_up(register):
    handler = register.handler()
    register.come("w1", "w2")
    register.take("w1", handler)
    assert register.take("w2", handler, dead=["w3"]) == {}
    assert register.take("w2", handler, dead=["w1"]) == dict.fromkeys(EVERY, 2)


def test_a_worker_gives_back_only_what_is_its_own(register):
    handler = register.handler()
    register.come("w1", "w2", "w3")
    register.take("w1", handler, range(8))
    register.take("w2", handler, range(8, 16))
    register.do("release", "w1", [(handler, shard) for shard in (3, 12)])
    assert register.take("w3", handler) == {3: 2}
    register.do("sign_off", "w1")
    assert register.do("roll").instances == {"w2": "", "w3": ""}
    assert register.take("w3", handler, [0, 1, 2, *range(4, 16)]) == dict.fromkeys(
        [0, 1, 2, 4, 5, 6, 7], 2
    )


def test_several_handlers_are_taken_in_one_go_without_what_has_an_owner(register):
    one, other = register.handler("A"), register.handler("B")
    register.come("w1", "w2")
    register.take("w1", one)
    leases = register.do("acquire", "w2", [(one, 5), (other, 5)])
    assert leases == [Lease(other, 5, 1, None)]


def test_a_lease_says_how_long_nobody_had_it(register):
    """The tokens that have run into a bucket meanwhile come with it."""
    handler = register.handler()
    register.come("w1", "w2")
    (first,) = register.do("acquire", "w1", [(handler, 0)])
    assert first.idle_seconds is None, "nobody ever had it"
    register.do("release", "w1")
    (released,) = register.do("acquire", "w2", [(handler, 0)])
    assert 0 <= released.idle_seconds < 25
    register.expire("w2")
    (expired,) = register.do("acquire", "w1", [(handler, 0)])
    assert 29 < expired.idle_seconds < 120


def test_a_claim_is_valid_under_the_epoch_in_force_and_no_other(register):
    handler = register.handler()
    register.come("w1", "w2")
    register.take("w1", handler)
    register.take("w2", handler, [4], dead=["w1"])
    claims = {(handler, 3, 1), (handler, 4, 1), (handler, 4, 2), (handler, 3, 2), (99, 3, 1)}
    assert register.do("valid", claims) == {(handler, 3, 1), (handler, 4, 2)}


@pytest.mark.databases("postgresql", "mariadb")
def test_nobody_takes_a_shard_whose_results_are_being_stored(register):
    handler = register.handler()
    register.come("w1", "w2")
    register.take("w1", handler)
    register.expire("w1")
    with register.database.begin() as connection:
        assert register.leases.valid(connection, {(handler, 3, 1)})
        # Without a wait, so that the others are not held up by one that is frozen just then.
        assert register.take("w2", handler) == dict.fromkeys([*range(3), *range(4, 16)], 2)
    assert register.take("w2", handler, [3]) == {3: 2}


def test_of_workers_that_want_the_same_at_the_same_moment_each_gets_its_own(register):
    handler = register.handler()
    names = ["w1", "w2"]
    register.come(*names)
    start = Barrier(len(names))

    def scramble(name):
        start.wait()
        got = []
        for _ in range(10):
            got += register.take(name, handler).items()
            register.do("release", name)
        return got

    with ThreadPoolExecutor(len(names)) as threads:
        got = [lease for taken in threads.map(scramble, names) for lease in taken]
    assert len(got) == len(set(got)), "an epoch was given to two"
    for shard in EVERY:
        epochs = sorted(epoch for its, epoch in got if its == shard)
        assert epochs == list(range(1, len(epochs) + 1))


def test_workers_that_have_been_gone_for_long_are_forgotten(register):
    register.come("w1", "w2")
    with register.database.begin() as connection:
        connection.execute(
            update(workers).where(workers.c.worker == "w1").values(expires_at=LONG_AGO)
        )
    register.come("w2")
    with register.database.read() as connection:
        names = connection.exec_driver_sql("SELECT worker FROM Workers").scalars().all()
    assert names == ["w2"]


# Dealing out

powers = st.sampled_from([1, 2, 4, 8, 16])
rosters = st.lists(st.text("abc", min_size=1), unique=True, max_size=20).map(sorted)


@given(st.dictionaries(st.integers(1, 50), powers, max_size=8), rosters)
def test_every_shard_falls_to_one_worker_and_what_belongs_together_to_the_same(units, alive):
    dealt = deal(units, dict.fromkeys(units, alive))
    if not alive:
        assert dealt == {}
        return
    assert set(dealt) == {(handler, shard) for handler in units for shard in EVERY}
    for handler, count in units.items():
        owners = [
            {dealt[handler, shard] for shard in shards_of_unit(unit, count)}
            for unit in range(count)
        ]
        assert all(len(some) == 1 for some in owners)
        shares = Counter(owner for some in owners for owner in some)
        assert max(shares.values()) - min(shares.get(name, 0) for name in alive) <= 1


@given(st.lists(powers, min_size=1, max_size=40), st.integers(2, 10))
def test_handlers_that_cannot_be_split_are_spread_over_the_workers(units, count):
    alive = [f"w{n}" for n in range(count)]
    handlers = range(1, len(units) + 1)
    dealt = deal(dict.fromkeys(handlers, 1), dict.fromkeys(handlers, alive))
    shares = Counter(worker for (_, shard), worker in dealt.items() if shard == 0)
    assert max(shares.values()) - min(shares.get(name, 0) for name in alive) <= 1
