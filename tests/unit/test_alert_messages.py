"""Alerts in words."""

import email
import email.policy
from datetime import UTC, datetime

import pytest

from espf.alerts import Alert, Kind, path
from espf.alerts.channels import _letter
from espf.alerts.messages import MOST_TOLD, News, State, compose
from espf.configuration import Provisioning

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def alert(kind: Kind = Kind.FAILED, subject: str = "HSS", **other: object) -> Alert:
    fields = {"about": "7", "i_env": 3, "text": "12 events.", "count": 1, "since": NOW, **other}
    return Alert(kind=kind, subject=subject, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("state", State)
def test_each_kind_has_words_for_each_state_and_a_place_to_look(kind, state):
    message = compose([News(alert(kind, gone_since=NOW), state)], "https://x.example/", NOW)
    assert "{" not in message.subject + message.text
    assert f"https://x.example{path(alert(kind))}" in message.text
    assert ("What to do:" in message.text) == (state is not State.OVER)
    (told,) = message.content["alerts"]
    assert (told["kind"], told["state"]) == (kind, state)


def test_no_name_of_a_handler_makes_a_header_or_a_line_of_its_own():
    wicked = "HSS\r\nBcc: all@example.net\n.\n{subject} \u2028x"
    message = compose([News(alert(subject=wicked), State.RAISED)], "", NOW)
    letter = email.message_from_bytes(
        _letter(message, Provisioning(AlertRecipient="noc@example.net")),
        policy=email.policy.default,
    )
    assert letter["bcc"] is None
    assert letter["to"] == "noc@example.net"
    assert "Bcc: all@example.net" in letter["subject"]
    lines = letter.get_content().splitlines()
    assert all(line == "" or line[0] in "*  N" for line in lines), lines


def test_without_a_console_there_are_no_links():
    message = compose([News(alert(), State.RAISED)], "", NOW)
    assert "http" not in message.text
    assert message.content["alerts"][0]["link"] is None


def test_a_message_tells_of_many_and_stays_readable():
    news = [News(alert(about=str(n)), State.RAISED) for n in range(MOST_TOLD + 5)]
    message = compose(news, "", NOW)
    assert message.text.count("\n* ") == MOST_TOLD
    assert "And 5 more" in message.text
    assert len(message.content["alerts"]) == MOST_TOLD + 5
