from hypothesis import given
from hypothesis import strategies as st

from espf.errors import Misconfigured, Rejected, Skipped, TryLater, Unreachable
from espf.worker.breaker import (
    ATTEMPTS,
    FIRST_SECONDS,
    LONGEST_SECONDS,
    RAMPED,
    REST,
    UNREACHABLE,
    WINDOW_SECONDS,
    Breaker,
)

USUAL = 1000
DOWN = Unreachable("no connection")
BUSY = TryLater("HTTP 503")


def opened(now=0.0, spread=0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(UNREACHABLE):
        breaker.record(DOWN, now, spread)
    return breaker


def test_it_opens_after_some_connections_in_a_row_that_did_not_come_about():
    breaker = Breaker()
    for _ in range(UNREACHABLE - 1):
        assert not breaker.record(DOWN, 0.0, 0.0)
    assert breaker.is_closed
    assert breaker.record(DOWN, 0.0, 0.0)
    assert not breaker.is_closed
    assert breaker.allowed(USUAL, 0.0) == 0
    assert breaker.shown().reason == "no connection"


def test_whatever_else_comes_between_they_are_not_in_a_row():
    for between in (None, BUSY, Rejected("no"), Skipped("not for us")):
        breaker = Breaker()
        for _ in range(3):
            for _ in range(UNREACHABLE - 1):
                breaker.record(DOWN, 0.0, 0.0)
            breaker.record(between, 0.0, 0.0)
        assert breaker.is_closed
    breaker = Breaker()
    for _ in range(3 * UNREACHABLE):
        breaker.record(DOWN, 0.0, 0.0)
        breaker.succeeded()
        if breaker.is_closed:
            continue
        break
    assert breaker.is_closed


def test_it_opens_when_half_of_the_latest_attempts_have_failed():
    breaker = Breaker()
    for n in range(ATTEMPTS - 1):
        breaker.record(BUSY if n % 2 else None, n / 10, 0.0)
        assert breaker.is_closed
    assert breaker.record(BUSY, ATTEMPTS / 10, 0.0)
    assert breaker.shown().reason == "HTTP 503"


def test_successes_that_were_told_the_short_way_count_as_well():
    breaker = Breaker()
    for n in range(3 * ATTEMPTS):
        if n % 3:
            breaker.succeeded()
        else:
            breaker.record(BUSY, n / 100, 0.0)
    assert breaker.is_closed, "a third of them failed"


def test_failures_of_long_ago_do_not_open_it():
    breaker = Breaker()
    for n in range(3 * ATTEMPTS):
        breaker.record(BUSY, n * 1.1 * WINDOW_SECONDS / ATTEMPTS, 0.0)
    assert breaker.is_closed


@given(st.lists(st.sampled_from([None, Rejected("no"), Skipped("not for us")]), max_size=200))
def test_what_the_other_system_does_as_it_should_never_opens_it(outcomes):
    breaker = Breaker()
    for now, outcome in enumerate(outcomes):
        breaker.record(outcome, now, 0.0)
    assert breaker.is_closed


def test_refused_settings_open_it_at_once_for_a_fixed_time_however_often():
    breaker = Breaker()
    now = 0.0
    for _ in range(5):
        breaker.record(Misconfigured("HTTP 401"), now, 1.0)
        assert breaker.seconds_to_probe(now) == REST.total_seconds()
        now += REST.total_seconds()
        assert breaker.allowed(USUAL, now) == 1


def test_each_probe_that_fails_doubles_the_pause_up_to_a_limit():
    breaker = opened()
    now, pauses = 0.0, []
    for _ in range(10):
        pauses.append(breaker.seconds_to_probe(now))
        now += pauses[-1]
        assert breaker.allowed(USUAL, now - 0.001) == 0
        assert breaker.allowed(USUAL, now) == 1
        breaker.record(DOWN, now, 0.0)
    assert pauses == [min(FIRST_SECONDS * 2**n, LONGEST_SECONDS) for n in range(10)]


@given(st.floats(-1, 1))
def test_the_pause_varies_a_little_so_that_many_do_not_begin_together(spread):
    pause = opened(spread=spread).seconds_to_probe(0.0)
    assert 0.8 * FIRST_SECONDS - 1e-9 <= pause <= 1.2 * FIRST_SECONDS + 1e-9


def test_a_success_lets_twice_as_many_out_until_all_may():
    breaker = opened()
    now = FIRST_SECONDS
    assert breaker.allowed(USUAL, now) == 1
    allowed = []
    while not breaker.is_closed:
        assert breaker.shown().state in {"probing", "ramping"}
        closed = breaker.record(None, now, 0.0)
        allowed.append(breaker.allowed(USUAL, now))
        assert closed == breaker.is_closed
    assert allowed == [2, 4, 8, 16, 32, USUAL]
    assert allowed[-2] * 2 == RAMPED
    assert breaker.shown().reason is None


def test_it_never_lets_out_more_than_is_usual():
    breaker = opened()
    for _ in range(3):
        assert breaker.allowed(2, FIRST_SECONDS) <= 2
        breaker.record(None, FIRST_SECONDS, 0.0)


def test_a_failure_on_the_way_up_opens_it_again():
    breaker = opened()
    assert breaker.allowed(USUAL, FIRST_SECONDS) == 1
    breaker.record(None, FIRST_SECONDS, 0.0)
    breaker.record(BUSY, FIRST_SECONDS, 0.0)
    assert breaker.allowed(USUAL, FIRST_SECONDS) == 0
    assert breaker.shown().state == "open"


def test_answers_to_what_went_out_before_change_nothing_while_it_is_open():
    breaker = opened()
    until = breaker.shown().probe_at
    for outcome in (DOWN, None, BUSY, Misconfigured("HTTP 401"), None):
        breaker.record(outcome, 1.0, 0.0)
    assert breaker.shown().state == "open"
    assert breaker.shown().probe_at == until


def test_after_an_outage_the_next_one_begins_with_the_shortest_pause():
    breaker = opened()
    now = 0.0
    for _ in range(3):
        now += breaker.seconds_to_probe(now)
        breaker.allowed(USUAL, now)
        breaker.record(DOWN, now, 0.0)
    now += breaker.seconds_to_probe(now)
    breaker.allowed(USUAL, now)
    while not breaker.is_closed:
        breaker.record(None, now, 0.0)
    for _ in range(UNREACHABLE):
        breaker.record(DOWN, now, 0.0)
    assert breaker.seconds_to_probe(now) == FIRST_SECONDS


def test_new_settings_begin_as_if_nothing_had_been():
    breaker = opened()
    breaker.reset()
    assert breaker.allowed(USUAL, 0.0) == USUAL
    assert breaker.shown() == Breaker().shown()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, DOWN, BUSY, Rejected("no"), Misconfigured("HTTP 401")]),
            st.floats(0, 400),
        ),
        max_size=100,
    )
)
def test_whatever_has_happened_there_is_always_a_way_back(steps):
    breaker, now = Breaker(), 0.0
    for outcome, pause in steps:
        now += pause
        if breaker.allowed(USUAL, now):
            breaker.record(outcome, now, 0.0)
    now += breaker.seconds_to_probe(now)
    assert now < float("inf")
    for _ in range(RAMPED):
        assert breaker.allowed(USUAL, now) > 0
        breaker.record(None, now, 0.0)
    assert breaker.is_closed
