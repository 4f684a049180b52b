from hypothesis import given
from hypothesis import strategies as st

from espf.worker.limits import TokenBucket

rates = st.floats(0.1, 1000)
bursts = st.integers(1, 200)
steps = st.lists(st.floats(0, 5), max_size=40)


@given(rates, bursts, steps)
def test_never_more_than_the_burst_plus_the_rate_pass_in_any_stretch(rate, burst, pauses):
    bucket = TokenBucket(rate, burst, now=0.0)
    now, passed = 0.0, []
    for pause in pauses:
        now += pause
        count = 0
        while bucket.take(now) == 0.0:
            count += 1
        passed.append((now, count))
    for first, (start, _) in enumerate(passed):
        total = 0
        for end, count in passed[first:]:
            total += count
            assert total <= burst + rate * (end - start) + 1e-6 * total + 1e-3


@given(rates, bursts)
def test_a_full_bucket_lets_exactly_the_burst_through_at_once(rate, burst):
    bucket = TokenBucket(rate, burst, now=5.0)
    assert [bucket.take(5.0) == 0.0 for _ in range(burst + 1)] == [True] * burst + [False]


@given(rates, bursts, st.integers(1, 50))
def test_who_waits_as_long_as_told_gets_a_token(rate, burst, more):
    bucket = TokenBucket(rate, burst, now=0.0)
    now = 0.0
    for _ in range(burst + more):
        wait = bucket.take(now)
        if wait > 0:
            now += wait
            assert bucket.take(now) == 0.0


@given(rates, bursts)
def test_a_clock_that_steps_back_gives_no_tokens_away(rate, burst):
    bucket = TokenBucket(rate, burst, now=100.0)
    for _ in range(burst):
        bucket.take(100.0)
    assert bucket.take(50.0) > 0
    assert bucket.take(100.0) > 0
