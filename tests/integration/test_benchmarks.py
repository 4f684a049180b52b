"""The benchmarks measure what they say: the sink counts and sees disorder, the targets judge."""

import http.client
import json
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# The benchmarks are no part of what is installed.
sys.path.append(str(_ROOT))

from benchmarks import drain, targets  # noqa: E402
from benchmarks.__main__ import _PAGE, SECTIONS  # noqa: E402
from benchmarks.measure import BenchError  # noqa: E402
from benchmarks.side import until  # noqa: E402
from benchmarks.sink import Arrival, SinkProgram  # noqa: E402


@pytest.fixture(scope="module")
def sinks(tmp_path_factory):
    return SinkProgram(tmp_path_factory.mktemp("sink"))


@contextmanager
def _connected(sink, **options):
    with closing(http.client.HTTPConnection("127.0.0.1", sink.port, **options)) as connection:
        yield connection


def _post(connection, i_event, i_account=1, padding=""):
    variables = {"i_account": i_account, "padding": padding, "i_event": i_event}
    connection.request("POST", "/", json.dumps({"event_type": "x", "variables": variables}))
    reply = connection.getresponse()
    reply.read()
    return reply.status


def test_the_sink_remembers_when_which_event_came(sinks):
    with sinks.running(10) as sink, _connected(sink) as connection:
        before = time.monotonic()
        for number in (7, 9):
            assert _post(connection, number, i_account=number * 10) == 200
        first, second = sink.arrivals()
        assert (first.i_event, first.i_account) == (7, 70)
        assert (second.i_event, second.i_account) == (9, 90)
        assert before < first.at < second.at < time.monotonic()
        assert (sink.requests, sink.first, sink.last) == (2, first.at, second.at)


def test_a_sink_counts_on_when_it_has_no_room_to_remember(sinks):
    with sinks.running(1) as sink, _connected(sink) as connection:
        # More than a page of memory would hold.
        for number in range(400):
            assert _post(connection, number) == 200
        assert sink.requests == 400
        assert len(sink.arrivals()) == 1


def test_requests_in_pieces_and_in_one_piece_are_told_apart(sinks):
    with sinks.running(10) as sink, _connected(sink) as connection:
        connection.connect()
        body = b'{"i_event": 5, "i_account": 6}'
        request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        for byte in range(len(request)):
            connection.sock.sendall(request[byte : byte + 1])
        connection.sock.sendall(request * 3)
        until(lambda: sink.requests == 4, "four requests")
        assert {(each.i_event, each.i_account) for each in sink.arrivals()} == {(5, 6)}


def test_an_answer_takes_as_long_as_it_is_told(sinks):
    with sinks.running(10) as sink, _connected(sink) as connection:
        sink.delay(80)
        started = time.monotonic()
        assert _post(connection, 1) == 200
        assert time.monotonic() - started >= 0.08


def test_a_sink_that_hangs_answers_nobody(sinks):
    with sinks.running(10) as sink, _connected(sink, timeout=0.1) as connection:
        sink.hang()
        with pytest.raises(TimeoutError):
            _post(connection, 1)
        assert sink.requests == 1


def test_what_never_comes_is_told_by_its_name():
    with pytest.raises(BenchError, match="the first request"):
        until(lambda: False, "the first request", 0.01)


def test_disorder_is_counted_per_account():
    arrivals = [Arrival(0.0, event, account) for event, account in ((1, 1), (3, 2), (2, 1), (4, 1))]
    assert drain.disordered(arrivals) == 0
    assert drain.disordered([*arrivals, Arrival(0.0, 1, 2), Arrival(0.0, 3, 1)]) == 2


@pytest.mark.parametrize(
    ("value", "more_is_better", "verdict"),
    [
        (1.0, False, "stretch"),
        (1.4, False, "stretch"),
        (1.5, False, "must"),
        (1.7, False, "**missed**"),
        (1.65, True, "stretch"),
        (1.6, True, "must"),
        (1.5, True, "**missed**"),
    ],
)
def test_a_target_is_judged_by_its_bounds(value, more_is_better, verdict):
    must, stretch = (1.6, 1.65) if more_is_better else (1.6, 1.4)
    target = targets.Target("x", "fact", must, stretch, "", more_is_better)
    assert target.row({"fact": value})[-1] == verdict


def test_what_was_not_measured_is_not_judged():
    rows = targets.measure({}).splitlines()[2:]
    assert len(rows) == len(targets.TARGETS)
    assert all("not measured" in row and row.endswith("| - |") for row in rows)


def test_the_page_has_a_place_for_every_section():
    page = _PAGE.read_text()
    assert all(f"{{{name}}}" in page for name in (*SECTIONS, "targets"))


def test_an_unknown_section_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "drain,drane"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no section drane" in done.stderr
