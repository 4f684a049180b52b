"""The nouns: events, ordering keys, times and the JSON that goes over the wire."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espf.model import (
    DONE,
    LONGEST_KEY,
    Event,
    Status,
    compact,
    format_time,
    ordering_key,
    parse_time,
)


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({}, None),
        ({"i_env": 3, "note": "x"}, None),
        ({"i_account": 541}, "account:541"),
        ({"i_account": "541"}, "account:541"),
        ({"i_customer": 7, "i_account": 541}, "account:541"),
        ({"i_customer": 7, "i_sim_card": 1, "i_product": 2}, "customer:7"),
        ({"i_account": None, "i_customer": 7}, "customer:7"),
        ({"i_account": [1], "i_sim_card": 1}, "sim:1"),
        ({"i_account": True, "number": "380441234567"}, "did:380441234567"),
        ({"i_product": 1}, "product:1"),
        ({"number": "näh"}, None),
        ({"number": "a\0"}, None),
        ({"number": "x" * 300}, f"did:{'x' * LONGEST_KEY}"),
        ({"number": "x" * 300 + "\n"}, None),
    ],
)
def test_the_ordering_key_says_whom_an_event_is_about(variables, key):
    assert ordering_key(variables) == key


def test_json_on_the_wire_is_compact_and_readable():
    assert compact({"a": [1, None, True], "ü": "☎"}) == '{"a":[1,null,true],"ü":"☎"}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_form_for_is_refused(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        compact([number])


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2021-03-01 00:00:00", datetime(2021, 3, 1, tzinfo=UTC)),
        ("2021-03-01T00:00:00Z", datetime(2021, 3, 1, tzinfo=UTC)),
        ("2021-03-01T02:00:00+02:00", datetime(2021, 3, 1, tzinfo=UTC)),
        ("2021-03-01 00:00:00.5", datetime(2021, 3, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        (" 1970-01-01 00:00:00 ", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_utc(text, moment):
    read = parse_time(text)
    assert (read, read.tzinfo) == (moment, UTC)


NO_TIMES = """now | 2021-03-01 | 2021-3-1 0:0:0 | 2021-03-01 24:00:01 | 2021-W09-1
    | 20210301T000000 | 2021-03-01 00:00 | 1969-12-31 23:59:59 | 1970-01-01T00:00:00+01:00
    | 9999-12-31T23:59:59-01:00 | ٢٠٢١-03-01 00:00:00 | 2021-02-29 00:00:00 | """


@pytest.mark.parametrize("text", [text.strip() for text in NO_TIMES.split("|")])
def test_what_is_no_time_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="a date: expected 'YYYY-MM-DD HH:MM:SS' in UTC"):
        parse_time(text, field="a date")


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_written_time_is_read_again(moment, offset):
    local = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset)))
    assert parse_time(format_time(local)) == local
    assert parse_time(local.isoformat()) == local


@given(st.text())
def test_no_text_is_worse_than_a_value_error(text):
    with suppress(ValueError):
        assert parse_time(text).tzinfo is UTC


def test_an_event_knows_whom_it_is_about():
    event = Event(1, 3, "Account/New", '{"i_account":541,"i_customer":7}')
    assert (event.i_account, event.i_customer, event.variables["i_account"]) == (541, 7, 541)
    assert Event(1, 3, "Custom/A", "{}").i_account is None


def test_only_a_failed_or_waiting_notification_is_not_done():
    assert set(Status) - DONE == {Status.QUEUED, Status.FAILED}
