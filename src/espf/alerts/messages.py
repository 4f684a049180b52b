"""Alerts in words: what happened, to whom, since when, what to do, and where to look. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from espf.alerts.conditions import Kind
from espf.model import format_time

#: Of so many alerts an e-mail tells; the others are on the dashboard.
MOST_TOLD = 100

#: Characters of an e-mail's subject.
_LONGEST_SUBJECT = 150


class State(StrEnum):
    """What there is to tell of an alert: it has begun, there is more of it, it is over."""

    RAISED = "raised"
    REPEATED = "repeated"
    OVER = "over"


@dataclass(frozen=True)
class Alert:
    """Something that is wrong, and who was told; see the table Alerts."""

    kind: Kind
    about: str
    i_env: int | None
    subject: str
    text: str
    count: int
    since: datetime
    gone_since: datetime | None = None
    mailed_at: datetime | None = None
    posted_at: datetime | None = None


@dataclass(frozen=True)
class News:
    """What is to be told of an alert."""

    alert: Alert
    state: State


@dataclass(frozen=True)
class Message:
    """What is sent: a subject and a text for people, and the same for programs."""

    subject: str
    text: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class _Words:
    """What is said of a kind: that it holds, that it is over, and what to do."""

    holds: str
    over: str
    todo: str


_WORDS: Mapping[Kind, _Words] = {
    Kind.FAILING: _Words(
        "Deliveries of {} fail and are tried again",
        "Nothing of {} waits for a retry any more",
        "Nothing is lost: what waits goes out, in order, when the system takes it. Look at the "
        "error, and at the system.",
    ),
    Kind.FAILED: _Words(
        "Events of {} have failed",
        "No failed event of {} is left, and none has failed within the hour",
        "They are not tried again by themselves. Mend what the error says, then restart them: on "
        "the page of the events, or with 'evctl event restart'.",
    ),
    Kind.BREAKER: _Words(
        "{} rests: its system cannot be reached, or fails",
        "{} works again",
        "See that the system is up, and that its address and credentials in the handler's "
        "configuration are right. It is tried from time to time by itself; no attempts are spent.",
    ),
    Kind.WAITING: _Words(
        "Events for {} wait too long",
        "No event for {} waits too long any more, or it is paused",
        "See that a worker works for it ('evctl worker list'), that its system keeps up, and that "
        "its rate is high enough.",
    ),
    Kind.WORKER: _Words(
        "The worker {} is gone",
        "The worker {} is there again or replaced, or gone for more than an hour",
        "Look at the log of its service, and start it again: 'systemctl status espf', or whatever "
        "supervises it.",
    ),
    Kind.CAPTURE: _Words(
        "Triggers on the billing tables are not as the rules have them",
        "The triggers on the billing tables are as the rules have them",
        "Events may be missing. 'evctl capture verify' tells what differs, 'evctl capture apply' "
        "mends it.",
    ),
    Kind.AUDIT: _Words(
        "The system of {} is not as the billing wants it",
        "The system of {} is as the billing wants it, as the last audit found",
        "Look at what was found, on the page of the handler under Audits; have it repaired there "
        "or with 'evctl reconcile --repair', and find out who changed it.",
    ),
    Kind.SENDING: _Words(
        "Alerts cannot be sent {}",
        "Alerts are sent {} again",
        "See what it says, put it right in the configuration, and try it with 'evctl alert test'.",
    ),
    Kind.DATABASE: _Words(
        "The database does not answer {}",
        "The database answers {} again",
        "Nothing is delivered without it, and nothing is lost that was committed. Look at the "
        "database server, and at the way there.",
    ),
}

_SECTIONS: Mapping[State, str] = {
    State.RAISED: "Needs attention",
    State.REPEATED: "More of it",
    State.OVER: "Over",
}


def headline(alert: Alert, state: State = State.RAISED) -> str:
    """An alert in a few words."""
    words = _WORDS[alert.kind]
    return (words.over if state is State.OVER else words.holds).format(alert.subject)


def path(alert: Alert) -> str:
    """Where in the console to look."""
    match alert.kind:
        case Kind.FAILED:
            return f"/env/{alert.i_env}/events?status=failed"
        case Kind.FAILING | Kind.BREAKER | Kind.WAITING:
            return f"/env/{alert.i_env}/handlers/{alert.about}"
        case Kind.AUDIT:
            return f"/env/{alert.i_env}/handlers/{alert.about}/audits"
        case Kind.WORKER:
            return "/system/workers"
        case Kind.CAPTURE:
            return "/system/capture"
        case Kind.SENDING | Kind.DATABASE:
            return "/system/configurations"


def compose(news: Sequence[News], console_url: str, now: datetime) -> Message:
    """One message of all that is to be told; at least one."""
    ordered = sorted(news, key=lambda one: list(State).index(one.state))
    first = ordered[0]
    over = "Over: " if first.state is State.OVER else ""
    more = f" (and {len(news) - 1} more)" if len(news) > 1 else ""
    lines = []
    for state, title in _SECTIONS.items():
        some = [one for one in ordered[:MOST_TOLD] if one.state is state]
        if some:
            lines += [f"{title}:", ""]
        for one in some:
            lines += [*_told(one, console_url), ""]
    if len(ordered) > MOST_TOLD:
        lines += [f"And {len(ordered) - MOST_TOLD} more; see the dashboard or 'evctl alert list'."]
    return Message(
        _one_line(f"[ESPF] {over}{headline(first.alert, first.state)}{more}"),
        "\n".join(lines),
        _content([_as_json(one, console_url) for one in ordered], now, test=False),
    )


def test_message(who: str, console_url: str, now: datetime) -> Message:
    """What is sent to see whether it arrives."""
    said = f"This is a test of ESPF's alerts, sent by {_one_line(who)}. Nothing is wrong."
    link = f"\n{console_url}" if console_url else ""
    return Message("[ESPF] Test alert", f"{said}\n{link}\n", _content([], now, test=True))


def _told(one: News, console_url: str) -> list[str]:
    alert = one.alert
    where = "" if alert.i_env is None else f" (environment {alert.i_env})"
    lines = [f"* {_one_line(headline(alert, one.state))}{where}"]
    if one.state is State.OVER:
        lines.append(f"  From {_time(alert.since)} to {_time(alert.gone_since)}.")
    else:
        lines.append(f"  Since {_time(alert.since)}. {alert.text}")
        lines.append(f"  What to do: {_WORDS[alert.kind].todo}")
    if console_url:
        lines.append(f"  {console_url.rstrip('/')}{path(alert)}")
    return lines


def _as_json(one: News, console_url: str) -> dict[str, Any]:
    alert = one.alert
    return {
        "kind": alert.kind,
        "state": one.state,
        "about": alert.about,
        "subject": alert.subject,
        "i_env": alert.i_env,
        "since": format_time(alert.since),
        "over_since": alert.gone_since and format_time(alert.gone_since),
        "headline": headline(alert, one.state),
        "text": alert.text,
        "todo": None if one.state is State.OVER else _WORDS[alert.kind].todo,
        "link": f"{console_url.rstrip('/')}{path(alert)}" if console_url else None,
    }


def _content(told: list[dict[str, Any]], now: datetime, *, test: bool) -> dict[str, Any]:
    return {"version": 1, "sent_at": format_time(now), "test": test, "alerts": told}


def _time(moment: datetime | None) -> str:
    return f"{format_time(moment)} UTC" if moment else "now"


def _one_line(text: str) -> str:
    """Without what would end a line or a header: names are chosen by people."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain[:_LONGEST_SUBJECT]
