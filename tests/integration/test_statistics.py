"""Figures by handler and minute: all workers add to them, people read them, old ones go."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import insert, select

from databases import whatever_the_database
from espf import statistics
from espf.db.tables import handler_statistics
from espf.errors import DatabaseUnavailable
from espf.janitor import Janitor
from espf.statistics import KEPT, WITHIN, Figures, Step
from house import House
from webhook import Answer, Webhook

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


def now(house):
    with house.database.read() as connection:
        return house.database.now(connection)


def store(house, *counted):
    with house.database.begin() as connection:
        statistics.store(connection, house.database, dict(counted))


def read(house, step=Step.MINUTE, count=60, **wanted):
    with house.database.read() as connection:
        return statistics.series(connection, house.database, step, count, **wanted)


def some(n=1):
    within = [n * place for place in range(len(WITHIN))]
    return Figures(n, n, n, n, n, n, n, 10 * n, 100 * n, 1000 * n, 10_000 * n, within)


def test_what_workers_store_is_added_up_minute_by_minute_and_in_longer_steps(house):
    one, other = house.handler(NOBODY, "One"), house.handler(NOBODY, "Other")
    at = now(house)
    before = at - timedelta(minutes=1)
    store(house, ((one.i_event_handler, at), some(1)), ((one.i_event_handler, before), some(2)))
    store(house, ((one.i_event_handler, at), some(5)), ((other.i_event_handler, at), some(7)))
    both = some(1)
    both.add(some(5))
    figures = read(house).handlers
    # The minute may be over by now.
    stored = [one for one in figures[one.i_event_handler] if one != Figures()]
    assert stored == [some(2), both]
    assert (both.finished, both.duration_ms, both.longest_ms) == (6, 60, 500)
    assert [one for one in figures[other.i_event_handler] if one != Figures()] == [some(7)]
    for step in (Step.TEN_MINUTES, Step.HOUR):
        total = read(house, step, 2).total()
        assert sum(each.finished for each in total) == 2 + 6 + 7
        assert max(each.slowest_ms for each in total) == 70_000


def test_the_database_adds_up_the_same_as_is_read_one_by_one(house, monkeypatch):
    first, other = house.handler(NOBODY, "One"), house.handler(NOBODY, "Other")
    idle, theirs = house.handler(NOBODY, "Idle"), house.handler(NOBODY, i_env=2)
    at = now(house)
    minutes = [at - timedelta(minutes=back) for back in range(5)]
    for place, handler in enumerate((first, other, theirs), 1):
        of_handler = enumerate(minutes, 1)
        store(house, *(((handler.i_event_handler, one), some(place * n)) for n, one in of_handler))
    # No minute begins between two looks.
    monkeypatch.setattr(house.database, "now", lambda _: at)
    with house.database.read() as connection:
        for step, count in ((Step.MINUTE, 3), (Step.MINUTE, 60), (Step.HOUR, 2)):
            asked = (connection, house.database, step, count, 1)
            whole = statistics.series(*asked)
            added = {number: statistics.summed(each) for number, each in whole.handlers.items()}
            brief = statistics.series(*asked, counts_only=True)
            course = statistics.course(*asked)
            assert statistics.sums(*asked) == added
            assert added[idle.i_event_handler] == Figures()
            assert list(course) == whole.began_at == brief.began_at
            assert list(course.values()) == brief.total()
            assert [each.attempts for each in brief.total()] == [
                each.attempts for each in whole.total()
            ]


def test_every_span_has_figures_and_only_the_last_one_is_not_over(house):
    one = house.handler(NOBODY)
    began, series, ended = now(house), read(house, Step.TEN_MINUTES, 144), now(house)
    assert len(series.began_at) == 144
    assert series.handlers == {one.i_event_handler: [Figures()] * 144}
    assert series.began_at[-1] in {Step.TEN_MINUTES.start(began), Step.TEN_MINUTES.start(ended)}
    assert series.began_at[0] == series.began_at[-1] - timedelta(minutes=1430)


def test_an_environment_sees_its_own_handlers_only(house):
    mine, theirs = house.handler(NOBODY), house.handler(NOBODY, i_env=2)
    at = now(house)
    store(house, *(((each.i_event_handler, at), some()) for each in (mine, theirs)))
    assert set(read(house, i_env=1).handlers) == {mine.i_event_handler}
    assert set(read(house, i_event_handler=theirs.i_event_handler).handlers) == {
        theirs.i_event_handler
    }
    assert read(house, i_env=1, i_event_handler=theirs.i_event_handler).handlers == {}
    with house.database.read() as connection:
        rates = statistics.rates(connection, house.database, i_env=2)
    assert set(rates) == {theirs.i_event_handler}
    assert 0 < rates[theirs.i_event_handler] <= 1 / 60


def test_old_figures_are_removed_in_steps_and_others_stay(house):
    one = house.handler(NOBODY).i_event_handler
    at = now(house)
    old = {step: step.start(at - kept) for step, kept in KEPT.items()}
    rows = [
        (step, old[step] - timedelta(seconds=step * back), handler)
        for step in Step
        for back in (-1, 1, 2, 3)
        for handler in (one, one + 1)
    ]
    zero = {c.name: 0 for c in handler_statistics.columns}
    with house.database.begin() as connection:
        values = [
            zero | {"step": int(step), "began_at": began, "i_event_handler": handler}
            for step, began, handler in rows
        ]
        connection.execute(insert(handler_statistics), values)
    steps = []
    while True:
        with house.database.begin() as connection:
            done = statistics.prune(connection, at, 4)
        if done is None:
            break
        steps.append(done.count)
    assert steps == [4, 2] * 3
    with house.database.read() as connection:
        left = connection.execute(select(handler_statistics.c.began_at)).scalars().all()
    assert set(left) == {old[step] + timedelta(seconds=step) for step in Step}


@whatever_the_database
def test_the_janitor_removes_old_figures(house):
    one = house.handler(NOBODY).i_event_handler
    at = now(house)
    store(house, ((one, at), some()), ((one, at - timedelta(days=401)), some()))
    Janitor(house.database, timedelta(days=90), timedelta(days=365)).sweep()
    assert len(house.rows("Handler_Statistics")) == 3


async def test_a_worker_says_what_it_has_delivered_and_how_long_that_took(house):
    async with Webhook() as hook:
        hook.then(Answer(status=503), Answer(status=404))
        one = house.handler(hook.url, RetryDelays="1s", RetryJitter=0, MaxAttempts=5)
        # It is late from the time on that it was scheduled for.
        house.event(i_account=9, start_time=now(house) - timedelta(hours=2))
        for n in range(5):
            house.event(i_account=n)
        async with house.working():
            await house.until("finished", "rejected")
    (total,) = [figures for figures in read(house, Step.HOUR, 2).total() if figures.attempts]
    assert (total.finished, total.retried, total.rejected, total.attempts) == (5, 1, 1, 7)
    assert total.within[-1] == 4
    assert total.latency_ms >= total.slowest_ms >= 7_200_000
    assert one.i_event_handler in read(house).handlers


@whatever_the_database
async def test_figures_that_cannot_be_stored_are_stored_later(house, monkeypatch):
    tried = threading.Event()

    def unavailable(*_):
        tried.set()
        raise DatabaseUnavailable("away")

    monkeypatch.setattr("espf.worker.worker.STATISTICS_SECONDS", 0.01)
    async with Webhook() as hook:
        house.handler(hook.url)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("espf.statistics.store", unavailable)
            async with house.working():
                house.event()
                await house.until("finished")
                await house.come_true(tried.is_set)
                patched.undo()
                await house.come_true(lambda: len(house.rows("Handler_Statistics")) == 3)
    assert sum(each.finished for each in read(house, Step.HOUR, 2).total()) == 1
