"""provisioning.log: one line per verdict, whatever is said, wherever logrotate has put the file."""

import json
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from espf.errors import SettingsError
from espf.model import Decision, Event, Notification, Result, Settled, Status
from espf.telemetry import (
    LONGEST_VALUE,
    ProvisioningLog,
    about,
    configure_diagnostics,
    logged,
)
from espf.worker import settler


def write(log, verdict, **fields):
    values = {"verdict": verdict, **fields}
    log.write([" ".join(f"{name}={logged(str(value))}" for name, value in values.items())])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "var" / "provisioning.log"


@pytest.fixture
def log(path):
    opened = ProvisioningLog(path)
    yield opened
    opened.close()


def test_a_line_has_its_fields_in_order(log, path):
    write(
        log,
        "retry",
        i_event=5,
        type="Account/New",
        handler="EventSender",
        attempt=1,
        reason="503 Bad",
    )
    time, rest = path.read_text().split(" ", 1)
    assert rest == (
        'verdict=retry i_event=5 type=Account/New handler=EventSender attempt=1 reason="503 Bad"\n'
    )
    moment = datetime.strptime(time, "time=%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert datetime.now(UTC) - moment < timedelta(seconds=10)


@pytest.mark.parametrize(
    "reason",
    ["a\nb", "a\r\nverdict=finished i_event=6", "\x1b[31mred", "\x85", "\u2028", "\x00", "\x0b"],
)
def test_a_verdict_is_one_line_whatever_was_said(log, path, reason):
    write(log, "retry", i_event=5, reason=reason)
    write(log, "finished", i_event=5)
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2
    assert all(c.isprintable() or c == "\n" for c in text)
    assert re.findall(r" verdict=(\w+) i_event=(\d)(?= |$)", text, re.MULTILINE)[0] == (
        "retry",
        "5",
    )


def test_a_quote_cannot_end_a_value(log, path):
    write(log, "retry", reason='he said "no" i_event=9', i_event=5)
    assert path.read_text().endswith(' reason="he said \\"no\\" i_event=9" i_event=5\n')


def test_a_value_that_is_too_long_is_cut(log, path):
    write(log, "retry", reason="x" * 1_000_000)
    assert len(path.read_text()) < LONGEST_VALUE + 200


def test_text_that_is_not_unicode_does_not_stop_the_log(log, path):
    write(log, "retry", reason="\udcff")
    write(log, "finished")
    assert len(path.read_text().splitlines()) == 2


def test_the_file_is_made_anew_when_logrotate_has_moved_it(log, path):
    write(log, "finished", i_event=1)
    path.rename(path.with_suffix(".log.1"))
    write(log, "finished", i_event=2)
    write(log, "finished", i_event=3)
    assert "i_event=1" in path.with_suffix(".log.1").read_text()
    assert re.findall(r"i_event=(\d)", path.read_text()) == ["2", "3"]


def test_a_lost_file_stops_nothing_and_is_told(log, path, caplog):
    write(log, "finished", i_event=1)
    path.rename(path.with_suffix(".log.1"))
    path.parent.rename(path.parent.with_name("gone"))
    write(log, "finished", i_event=2)
    assert "a line of" in caplog.text
    path.parent.mkdir()
    write(log, "finished", i_event=3)
    assert re.findall(r"i_event=(\d)", path.read_text()) == ["3"]


def test_a_full_disk_stops_nothing_and_is_told(tmp_path, caplog):
    path = tmp_path / "provisioning.log"
    path.symlink_to("/dev/full")
    log = ProvisioningLog(path)
    write(log, "finished", i_event=1)
    assert "No space left" in caplog.text
    # What could not be written is not tried again when the log is closed.
    stream, log._handler.stream = log._handler.stream, None
    with pytest.raises(OSError, match="No space left"):
        stream.close()
    log.close()


def test_a_log_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log", tmp_path):
        with pytest.raises(SettingsError, match="ESPF_LOG: "):
            ProvisioningLog(path)


def settled(decision):
    at = datetime(2026, 3, 1, tzinfo=UTC)
    event = Event(623623, 1, "Custom/NextMonth", "{}", "account:541")
    result = Result(Notification(7, 1, 0, event), "Event Sender", 1, decision, 12)
    return Settled(result, True, at + timedelta(seconds=5), at)


def test_in_json_a_verdict_has_the_members_of_the_line(path):
    retry = settled(Decision(Status.QUEUED, 'said "no"\n\u2028', delay=timedelta(seconds=5)))
    log = ProvisioningLog(path, as_json=True)
    log.write([settler._json_line(retry), settler._json_line(settled(Decision(Status.FINISHED)))])
    log.close()
    lines = path.read_text().splitlines()
    told = [json.loads(line) for line in lines]
    moment = datetime.fromisoformat(told[0].pop("time"))
    assert datetime.now(UTC) - moment < timedelta(minutes=1)
    assert told[0] == {
        "verdict": "retry",
        "i_event": 623623,
        "type": "Custom/NextMonth",
        "key": "account:541",
        "handler": "Event Sender",
        "attempt": 1,
        "reason": 'said "no"\n\u2028',
        "next_try": "2026-03-01T00:00:05Z",
    }
    assert told[1].keys() == {"time", "verdict", "i_event", "type", "key", "handler", "attempt"}
    # In the order of the text, and not longer.
    assert list(told[0]) == re.findall(r"(?:^| )(\w+)=", settler._line(retry))
    long = settler._json_line(settled(Decision(Status.FAILED, "x" * 10_000)))
    assert len(json.loads(f"{{{long}")["reason"]) == LONGEST_VALUE + 1


@pytest.fixture
def diagnostics():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield logging.getLogger("espf.test")
    root.handlers[:], root.level = handlers, level


def test_in_json_a_message_says_what_it_is_about(diagnostics, capsys):
    configure_diagnostics(as_json=True)
    diagnostics.error("no\n%s", "answer", extra=about("Sender", 623623, 2))
    try:
        int("broken")
    except ValueError:
        diagnostics.exception("a fault")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    datetime.fromisoformat(first.pop("time"))
    assert first == {
        "level": "error",
        "logger": "espf.test",
        "message": "no\nanswer",
        "handler": "Sender",
        "i_event": 623623,
        "attempt": 2,
    }
    assert "ValueError: " in second["trace"]
    assert "i_event" not in second
