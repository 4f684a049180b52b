"""What is counted of a batch of results, and how times are told from it."""

from datetime import UTC, datetime, timedelta

import pytest

from espf.model import Decision, Event, Notification, Result, Settled, Status
from espf.retry import FINISHED
from espf.statistics import BOUNDS, Figures
from espf.subscriptions import EventHandler
from espf.worker.meter import DURATION_BOUNDS, Meters

AT = datetime(2026, 3, 1, 12, 30, 59, 500_000, tzinfo=UTC)
MINUTE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
AGAIN = Decision(Status.QUEUED, "503", delay=timedelta(seconds=5))


def settled(decision=FINISHED, *, waited=0.02, duration_ms=7, applied=True, at=AT):
    since = None if waited is None else at.timestamp() - waited
    notification = Notification(1, 5, 0, Event(5, 1, "Account/New", "{}"), since=since)
    result = Result(notification, "Sender", 1, decision, duration_ms)
    return Settled(result, applied, None, at)


def handler(number=1, name="Sender"):
    return EventHandler(number, 1, name, "EventSender", True, "{}", 1)


def counted(*batch):
    meters = Meters()
    meters.of(handler()).add(batch)
    return meters.take()[1, MINUTE]


def test_every_verdict_is_counted_under_its_name():
    others = [
        AGAIN,
        *(Decision(status) for status in (Status.FAILED, Status.REJECTED, Status.SKIPPED)),
        Decision(Status.SUPERSEDED, spent=False, by=9),
    ]
    figures = counted(settled(), settled(), *map(settled, others), settled(applied=False))
    assert [getattr(figures, name) for name in Figures.__slots__[:7]] == [2, 1, 1, 1, 1, 1, 1]
    # Of what is superseded no attempt is made.
    assert figures.attempts == 7
    assert figures.duration_ms == 7 * 7


def test_one_that_was_to_be_superseded_and_was_not_is_no_attempt():
    reprieved = Decision(Status.QUEUED, "taken away", delay=timedelta(0), spent=False, by=9)
    assert counted(settled(reprieved)) == Figures()


def test_the_time_from_the_event_is_that_of_what_was_delivered():
    slow, unknown = settled(waited=4.0), settled(waited=None)
    figures = counted(settled(), slow, unknown, settled(AGAIN, waited=4000.0))
    assert figures.latency_ms == 4020
    assert figures.slowest_ms == 4000
    assert dict(zip(BOUNDS, figures.within, strict=True)) == {
        bound: (bound >= 0.02) + (bound >= 4) for bound in BOUNDS
    }


def test_a_clock_that_was_set_back_makes_no_negative_times():
    figures = counted(settled(waited=-60.0))
    assert (figures.latency_ms, figures.slowest_ms, set(figures.within)) == (0, 0, {1})


def test_what_could_not_be_stored_is_counted_with_what_came_after_it():
    meters = Meters()
    meters.of(handler()).add([settled()])
    taken = meters.take()
    assert meters.take() == {}
    meters.of(handler()).add([settled(duration_ms=100)])
    meters.put_back(taken)
    figures = meters.take()[1, MINUTE]
    assert (figures.finished, figures.duration_ms, figures.longest_ms) == (2, 107, 100)


def test_minutes_and_handlers_are_counted_apart_and_all_of_them_together():
    meters = Meters()
    for number, at in ((1, AT), (1, AT + timedelta(seconds=1)), (2, AT)):
        meters.of(handler(number, f"Sender{number}")).add([settled(at=at)])
    later = MINUTE + timedelta(minutes=1)
    assert set(meters.take()) == {(1, MINUTE), (1, later), (2, MINUTE)}
    meters.of(handler(1, "Renamed"))
    assert [(m.configured.name, m.total.finished) for m in meters] == [
        ("Renamed", 2),
        ("Sender2", 1),
    ]


def test_attempts_are_told_apart_by_their_times():
    meters = Meters()
    meters.of(handler()).add([settled(duration_ms=ms) for ms in (0, 3, 3, 40, 999_999)])
    (meter,) = meters
    assert dict(zip(DURATION_BOUNDS, meter.durations, strict=True)) == {
        bound: 1 + 2 * (bound >= 3) + (bound >= 40) for bound in DURATION_BOUNDS
    }


@pytest.mark.parametrize(
    ("waits", "share", "ms"),
    [
        ([0.02] * 100, 0.5, 15.0),
        ([0.02] * 100, 1.0, 20.0),
        ([0.003] * 90 + [2.0] * 10, 0.95, 1500.0),
        ([9000.0], 0.5, 9_000_000.0),
    ],
)
def test_the_time_within_which_a_share_was_delivered_is_estimated(waits, share, ms):
    figures = counted(*(settled(waited=wait) for wait in waits))
    assert figures.latency_within_ms(share) == pytest.approx(ms, rel=0.01)


def test_of_nothing_there_are_no_times():
    nothing = Figures()
    assert nothing.latency_within_ms(0.5) is None
    assert nothing.mean_latency_ms() is None
    assert nothing.mean_duration_ms() is None
