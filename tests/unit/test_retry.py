from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espf.errors import Misconfigured, Rejected, Skipped, TryLater
from espf.handlers.base import HandlerSettings
from espf.model import Status
from espf.retry import LONGEST_DELAY, RetryPolicy, decide

policies = st.builds(
    RetryPolicy,
    delays=st.lists(st.integers(0, 31 * 86400), min_size=1, max_size=60).map(tuple),
    max_attempts=st.integers(1, 100),
    jitter=st.floats(0, 1),
    hold=st.booleans(),
)
spreads = st.floats(-1, 1)
afters = st.none() | st.timedeltas(timedelta(0), timedelta(days=400))


def test_success_skip_and_refusal_are_final():
    policy = RetryPolicy.of(HandlerSettings())
    assert decide(None, 1, policy, 0).status is Status.FINISHED
    assert decide(Skipped("no SIM"), 1, policy, 0).status is Status.SKIPPED
    assert decide(Rejected("unknown"), 1, policy, 0).status is Status.REJECTED


@given(policies, st.integers(1, 200), spreads, afters)
def test_a_fault_is_retried_until_the_limit_and_then_failed(policy, attempt, spread, after):
    decision = decide(TryLater("busy", after=after), attempt, policy, spread)
    if attempt >= policy.max_attempts:
        assert decision.status is Status.FAILED
        assert decision.hold is policy.hold
        assert decision.delay is None
    else:
        assert decision.status is Status.QUEUED
        assert decision.spent
        assert timedelta(0) <= decision.delay <= LONGEST_DELAY


@given(policies, st.integers(1, 99), spreads, st.timedeltas(timedelta(0), timedelta(days=30)))
def test_the_next_try_is_never_before_what_the_server_asked_for(policy, attempt, spread, after):
    decision = decide(TryLater("busy", after=after), attempt, policy, spread)
    if decision.status is Status.QUEUED:
        assert decision.delay >= min(after, LONGEST_DELAY)
        assert decision.delay >= min(policy.delay(attempt, spread), LONGEST_DELAY)


@given(policies, st.integers(1, 200), spreads)
def test_a_wait_stays_within_its_jitter(policy, attempt, spread):
    base = policy.delays[min(attempt, len(policy.delays)) - 1]
    seconds = policy.delay(attempt, spread).total_seconds()
    assert base * (1 - policy.jitter) - 1e-3 <= seconds <= base * (1 + policy.jitter) + 1e-3


@given(policies, st.integers(1, 200), spreads)
def test_wrong_settings_spend_no_attempt_however_many_there_were(policy, attempt, spread):
    decision = decide(Misconfigured("401"), attempt, policy, spread)
    assert decision.status is Status.QUEUED
    assert not decision.spent


def test_a_foreign_exception_counts_as_temporary_and_is_named():
    decision = decide(KeyError("imsi"), 1, RetryPolicy.of(HandlerSettings()), 0)
    assert decision.status is Status.QUEUED
    assert decision.reason == "KeyError: 'imsi'"


def test_the_default_covers_a_day_and_then_a_slower_tail_of_a_month():
    policy = RetryPolicy.of(HandlerSettings())
    waits = [policy.delay(n, 0) for n in range(1, policy.max_attempts)]
    assert waits[0] == timedelta(seconds=5)
    first_day = [w for n, w in enumerate(waits) if sum(waits[: n + 1], timedelta()) < timedelta(1)]
    assert all(w <= timedelta(hours=1) for w in first_day)
    assert len(first_day) == 28
    assert timedelta(days=28) < sum(waits, timedelta()) < timedelta(days=32)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s 30s 2m", (5, 30, 120)), ("1hx3", (3600,) * 3), ("7,1d", (7, 86400)), ("0", (0,))],
)
def test_delays_are_written_as_operators_write_them(text, seconds):
    assert HandlerSettings(RetryDelays=text).retry_delays == seconds


@pytest.mark.parametrize("text", ["", "soon", "5s 3x", "-1s", "99999h", "1.5h"])
def test_delays_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match="RetryDelays"):
        HandlerSettings(RetryDelays=text)
