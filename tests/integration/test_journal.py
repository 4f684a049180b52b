"""The journal: every attempt, in order, as much of it as is worth keeping."""

from datetime import UTC, datetime

import pytest

from espf import journal
from espf.journal import LONGEST_REASON, Entry

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def entry(i_event=1, verdict="finished", **rest):
    return Entry(i_event, 3, "Account/New", "account:541", verdict, logged_at=NOW, **rest)


@pytest.fixture
def connection(database):
    with database.begin() as opened:
        yield opened


def test_what_is_recorded_is_read_again(connection):
    whole = entry(
        variables='{"i_account":541}',
        i_event_handler=2,
        handler="EventSender",
        attempt=3,
        reason="200 OK",
        created_at=NOW,
        start_time=NOW,
        duration_ms=12,
        next_attempt_at=NOW,
    )
    journal.record(connection, [whole])
    assert journal.of_event(connection, 1) == [whole]
    assert journal.of_event(connection, 2) == []


def test_nothing_to_record_is_no_write(connection):
    journal.record(connection, [])
    assert journal.of_event(connection, 1) == []


def test_attempts_are_told_oldest_first_and_verdicts_newest_first(connection):
    for attempt in (1, 2):
        journal.record(connection, [entry(i_event, "retry", attempt=attempt) for i_event in (1, 2)])
    journal.record(connection, [entry(1, attempt=3), entry(2, "failed", attempt=3)])
    assert [one.attempt for one in journal.of_event(connection, 1)] == [1, 2, 3]
    assert [one.i_event for one in journal.final(connection)] == [2, 1]


def test_the_last_verdict_counts_for_each_handler(connection):
    journal.record(connection, [entry(1, "failed", i_event_handler=1), entry(1, i_event_handler=2)])
    journal.record(connection, [entry(1, "finished", i_event_handler=1)])
    journal.record(connection, [entry(1, "orphan", i_event_handler=1)])
    verdicts = {one.i_event_handler: one.verdict for one in journal.final(connection)}
    assert verdicts == {1: "finished", 2: "finished"}


def test_a_reason_is_kept_up_to_a_size(connection):
    journal.record(connection, [entry(reason="x" * 100_000)])
    (one,) = journal.of_event(connection, 1)
    assert one.reason == "x" * LONGEST_REASON + f"… ({100_000 - LONGEST_REASON} more characters)"


def test_variables_are_kept_whole(connection):
    """An event that is restarted from the journal goes out as it was."""
    variables = '{"x":"' + "x" * 60_000 + '"}'
    journal.record(connection, [entry(variables=variables)])
    assert journal.of_event(connection, 1)[0].variables == variables


def test_what_is_rolled_back_is_not_remembered(database):
    def fail():
        with database.begin() as connection:
            journal.record(connection, [entry()])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as connection:
        assert journal.of_event(connection, 1) == []
