"""The memory: one row per attempt in Provisioning_Log, what was said and heard beside it.

Most requests of a handler differ only in what the event itself holds, and most replies not at
all. So a text is stored once, with marks where the event's own parts stood, under a number made
from the text; a row of the journal holds that number.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from hashlib import blake2b
from typing import Any

from sqlalchemy import BigInteger, Connection, insert, select
from sqlalchemy.types import TypeEngine

from espf.db.bulk import execute_rows
from espf.db.database import Database
from espf.db.dialect import Moment
from espf.db.tables import LongText, provisioning_log, provisioning_log_texts

#: What an attempt is called that ends in a retry; all other verdicts are final statuses.
RETRY = "retry"

#: What a result is called that came after another worker had taken the handler.
ORPHAN = "orphan"

#: Characters that are kept of a request or a response, and of a reason.
LONGEST_BODY = 16 * 1024
LONGEST_REASON = 2000

#: Texts that a process remembers to have stored.
MOST_KNOWN = 10_000

_VARIABLES, _NUMBER = "\x01", "\x02"

# Says when, which the journal knows, and would make every text a new one.
_DATE = re.compile(r"(?im)^date: .*\n")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class Entry:
    """One attempt, or the end of an event without one (``attempt`` 0, no handler).

    ``created_at`` is when the event happened, ``logged_at`` when the verdict was stored.
    ``request`` and ``response`` are what went over the wire, without secrets; they and
    ``reason`` are capped when they are stored.
    """

    i_event: int
    i_env: int | None
    event_type: str | None
    ordering_key: str | None
    verdict: str
    variables: str | None = None
    i_event_handler: int | None = None
    handler: str | None = None
    attempt: int = 0
    reason: str | None = None
    created_at: datetime | None = None
    start_time: datetime | None = None
    logged_at: datetime | None = None
    duration_ms: int | None = None
    next_attempt_at: datetime | None = None
    request: str | None = None
    response: str | None = None


class Journal:
    """Writes attempts, many in one statement."""

    def __init__(self, database: Database) -> None:
        self._dialect = database.dialect
        # Texts that are stored: text -> number. `fresh` ones only when the caller has committed.
        self._known: dict[str, int] = {}
        self._fresh: dict[str, int] = {}
        self._day: object = None

    def record_attempts(self, connection: Connection, entries: Sequence[Entry]) -> None:
        """Append attempts at events that are still in Event_Queue, in the caller's transaction.

        What is known of the events is copied there, in the database. Call ``committed`` after the
        commit.
        """
        if not entries:
            return
        numbers = [(self._number(e, e.request), self._number(e, e.response)) for e in entries]
        self._store_fresh(connection, entries[0].logged_at)
        execute_rows(
            connection,
            self._dialect,
            _RECORD,
            _RECORDED,
            [
                (
                    entry.i_event,
                    entry.i_event_handler,
                    entry.handler,
                    entry.attempt,
                    entry.verdict,
                    _capped(entry.reason, LONGEST_REASON),
                    entry.logged_at,
                    entry.duration_ms,
                    entry.next_attempt_at,
                    *pair,
                )
                for entry, pair in zip(entries, numbers, strict=True)
            ],
        )

    def committed(self) -> None:
        """What was stored last is there to stay."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        self._known |= self._fresh
        self._fresh.clear()

    def _number(self, entry: Entry, text: str | None) -> int | None:
        if not text:
            return None
        text = _folded(text, entry)
        number = self._known.get(text) or self._fresh.get(text)
        if number is None:
            number = self._fresh[text] = _number_of(text)
        return number

    def _store_fresh(self, connection: Connection, now: datetime | None) -> None:
        """Store texts that were not met before; once a day say that they are still in use."""
        today = now and now.date()
        if today != self._day:
            self._fresh |= self._known
            self._known.clear()
            self._day = today
        if self._fresh:
            # In one order, so that two workers do not wait for each other crosswise.
            rows = sorted((number, text, now) for text, number in self._fresh.items())
            statement = _STORE + self._dialect.on_conflict("i_text", "used_on")
            execute_rows(connection, self._dialect, statement, _STORED, rows)


def record(connection: Connection, entries: Sequence[Entry]) -> None:
    """Append the ends of events that come without an attempt, in the caller's transaction."""
    if entries:
        connection.execute(
            insert(provisioning_log),
            [{name: getattr(entry, name) for name in _COLUMNS} for entry in entries],
        )


def of_event(connection: Connection, i_event: int) -> list[Entry]:
    """Every attempt of one event, oldest first."""
    return list(_entries(connection, provisioning_log.c.i_event == i_event, newest_first=False))


def final(connection: Connection, *conditions: object) -> Iterator[Entry]:
    """Final verdicts, newest first, one per event and handler."""
    seen: set[tuple[int, int | None]] = set()
    for entry in _entries(
        connection, provisioning_log.c.verdict.not_in([RETRY, ORPHAN]), *conditions
    ):
        key = (entry.i_event, entry.i_event_handler)
        if key not in seen:
            seen.add(key)
            yield entry


_COLUMNS = tuple(f.name for f in fields(Entry) if f.name not in {"request", "response"})

_RECORDED: Mapping[str, TypeEngine[Any]] = {
    name: provisioning_log.c[name].type
    for name in (
        *("i_event", "i_event_handler", "handler", "attempt", "verdict", "reason", "logged_at"),
        *("duration_ms", "next_attempt_at", "i_request", "i_response"),
    )
}
_OF_EVENT = ("i_env", "event_type", "ordering_key", "variables", "created_at", "start_time")
_RECORD = (
    f"INSERT INTO Provisioning_Log ({', '.join((*_RECORDED, *_OF_EVENT))}) "  # noqa: S608
    f"SELECT {', '.join(f'r.{name}' for name in _RECORDED)}, "
    f"{', '.join(f'q.{name}' for name in _OF_EVENT)} "
    "FROM {rows} LEFT JOIN Event_Queue q ON q.i_event = r.i_event"
)
_STORED: Mapping[str, TypeEngine[Any]] = {
    "i_text": BigInteger(),
    "content": LongText,
    "used_on": Moment(),
}
_STORE = (
    "INSERT INTO Provisioning_Log_Texts (i_text, content, used_on) "
    "SELECT r.i_text, r.content, r.used_on FROM {rows} WHERE 1 = 1"
)


def _entries(
    connection: Connection, *conditions: object, newest_first: bool = True
) -> Iterator[Entry]:
    log = provisioning_log.c
    request = provisioning_log_texts.alias("request")
    response = provisioning_log_texts.alias("response")
    query = (
        select(
            *(log[name] for name in _COLUMNS),
            request.c.content.label("request"),
            response.c.content.label("response"),
        )
        .select_from(provisioning_log)
        .outerjoin(request, request.c.i_text == log.i_request)
        .outerjoin(response, response.c.i_text == log.i_response)
        .where(*conditions)  # type: ignore[arg-type]  # column expressions
        .order_by(log.i_log.desc() if newest_first else log.i_log)
    )
    for row in connection.execution_options(stream_results=True).execute(query):
        known = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
        for name in ("request", "response"):
            known[name] = _unfolded(known[name], row.variables, row.i_event)
        yield Entry(**known)


def _folded(text: str, entry: Entry) -> str:
    """The text without what is the event's own; control characters make way for the marks."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _DATE.sub("", text))
    text = _capped(text, LONGEST_BODY) or ""
    inner = (entry.variables or "")[1:-1]
    if inner:
        text = text.replace(inner, _VARIABLES)
    return text.replace(f'"i_event":{entry.i_event}', _NUMBER)


def _unfolded(text: str | None, variables: str | None, i_event: int) -> str | None:
    if text is None:
        return None
    text = text.replace(_NUMBER, f'"i_event":{i_event}')
    return text.replace(_VARIABLES, (variables or "")[1:-1])


def _number_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _capped(text: str | None, cap: int) -> str | None:
    if text is None:
        return None
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) <= cap:
        return text
    return f"{text[:cap]}… ({len(text) - cap} more characters)"
