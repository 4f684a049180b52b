"""The contract's own parts: delays as text, and what every handler has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espf import Handler, HandlerSettings
from espf.errors import InvalidRequest
from espf.handlers.base import (
    DEFAULT_RETRY_DELAYS,
    Pacing,
    Reply,
    format_delays,
    parse_delays,
)
from espf.handlers.registry import read_settings

MONTH = 31 * 86400


def test_the_default_delays_cover_a_day_and_then_a_month():
    delays = parse_delays(DEFAULT_RETRY_DELAYS)
    assert delays[:5] == (5, 30, 120, 600, 1800)
    assert delays[5:28] == (3600,) * 23
    assert 23 * 3600 < sum(delays[:28]) < 25 * 3600
    assert delays[28:31] == (4 * 3600, 8 * 3600, 16 * 3600)
    assert 28 * 86400 < sum(delays) < 32 * 86400
    assert list(delays) == sorted(delays)


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("5", (5,)),
        ("5s, 1m 2h,1d", (5, 60, 7200, 86400)),
        ("10sx3", (10, 10, 10)),
        ("0s", (0,)),
        ([1, 2], [1, 2]),
    ],
)
def test_delays_are_read(text, delays):
    assert parse_delays(text) == delays


@given(st.lists(st.integers(0, MONTH), min_size=1, max_size=50).map(tuple))
def test_delays_survive_being_written_and_read(delays):
    assert parse_delays(format_delays(delays)) == delays


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "5 minutes",
        "-5s",
        "1.5h",
        "5sx",
        "5sx0",
        "32d",
        "1sx1001",
        "1sx999999999999",
        "٣s",
    ],
)
def test_other_delays_are_refused(text):
    with pytest.raises(InvalidRequest) as caught:
        read_settings(HandlerSettings, {"RetryDelays": text})
    assert caught.value.field == "RetryDelays"


@pytest.mark.parametrize(
    "option",
    [
        {"Concurrency": 0},
        {"Concurrency": 1001},
        {"RetryJitter": -0.1},
        {"RetryJitter": 1.1},
        {"MaxAttempts": 0},
        {"OnFailure": "stop"},
    ],
)
def test_the_options_of_every_handler_have_bounds(option):
    with pytest.raises(InvalidRequest) as caught:
        read_settings(HandlerSettings, option)
    assert caught.value.field == next(iter(option))


def test_a_handler_is_paced_by_its_concurrency_unless_it_says_otherwise():
    class Plain(Handler):
        async def handle(self, event, context):
            raise NotImplementedError

    handler = Plain(read_settings(HandlerSettings, {"Concurrency": "4"}))
    assert handler.pacing() == Pacing(concurrency=4)
    assert handler.time_limit_seconds() == 600
    assert handler.secrets() == ()


@pytest.mark.parametrize(("status", "ok"), [(199, False), (200, True), (299, True), (300, False)])
def test_a_reply_is_ok_when_it_is_2xx(status, ok):
    assert Reply(status, {}, "").ok is ok
