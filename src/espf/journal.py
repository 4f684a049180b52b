"""The memory: one row per attempt in Provisioning_Log, what was said and heard beside it.

Most requests of a handler differ only in what the event itself holds, and most replies not at
all. So a text is stored once, with marks where the event's own parts stood, under a number made
from the text; a row of the journal holds that number.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from sqlalchemy import BigInteger, Connection, delete, func, insert, select
from sqlalchemy.types import TypeEngine

from espf.db import parts
from espf.db.bulk import execute_rows
from espf.db.database import Database
from espf.db.dialect import Moment
from espf.db.tables import LongText, event_queue, provisioning_log, provisioning_log_texts
from espf.db.walk import Progress, first_at
from espf.model import Event, Result, Said, Settled, Status

#: What an attempt is called that ends in a retry; all other verdicts are final statuses.
RETRY = "retry"

#: What a result is called that came after another worker had taken the handler.
ORPHAN = "orphan"

#: Characters that are kept of a request or a response, and of a reason.
LONGEST_BODY = 16 * 1024
LONGEST_REASON = 2000

#: Texts that a process remembers to have stored.
MOST_KNOWN = 10_000

# What a status is called as a verdict: text, for a driver.
_VERDICTS = {status: str(status) for status in Status} | {Status.QUEUED: RETRY}

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


#: Texts, each with its number.
Texts = dict[Said | str, int]


class Journal:
    """Writes attempts, many in one statement."""

    def __init__(self, database: Database) -> None:
        self._dialect = database.dialect
        # Texts that are stored.
        self._known: Texts = {}
        self._day: object = None

    def record_attempts(
        self, connection: Connection, settled: Sequence[Settled], now: datetime, fresh: Texts
    ) -> None:
        """Append attempts, in the caller's transaction.

        The events are still in Event_Queue, and what is known of them is copied there. ``fresh``
        takes the texts that were not met before, for ``committed``.
        """
        if not settled:
            return
        results = [one.result for one in settled]
        tried = [result.notification for result in results]
        decisions = [result.decision for result in results]
        values: list[list[Any]] = [
            [notification.event.i_event for notification in tried],
            [notification.i_event_handler for notification in tried],
            [result.handler for result in results],
            [result.attempt for result in results],
            [_VERDICTS[decision.status] for decision in decisions],
            [_capped(decision.reason, LONGEST_REASON) for decision in decisions],
            [now] * len(settled),
            [result.duration_ms for result in results],
            [
                one.next_attempt_at if decision.delay is not None else None
                for one, decision in zip(settled, decisions, strict=True)
            ],
            [self._number(result.request, result, fresh) for result in results],
            [self._number(result.response, result, fresh) for result in results],
        ]
        self._store_fresh(connection, now, fresh)
        execute_rows(connection, self._dialect, _RECORD, _RECORDED, values)

    def committed(self, fresh: Texts) -> None:
        """These texts are there to stay."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        self._known |= fresh

    def _number(self, text: Said | str | None, result: Result, fresh: Texts) -> int | None:
        if not text:
            return None
        folded = _folded(text, result.notification.event)
        number = self._known.get(folded) or fresh.get(folded)
        if number is None:
            number = fresh[folded] = _number_of(_whole(folded))
        return number

    def _store_fresh(self, connection: Connection, now: datetime, fresh: Texts) -> None:
        """Store texts that were not met before; once a day say that they are still in use."""
        today = now.date()
        if today != self._day:
            fresh |= self._known
            self._known.clear()
            self._day = today
        if fresh:
            # In one order, so that two workers do not wait for each other crosswise.
            texts = sorted({number: text for text, number in fresh.items()}.items())
            statement = _STORE + self._dialect.on_conflict("i_text", "used_on")
            values: list[list[Any]] = [
                [number for number, _ in texts],
                [_whole(text) for _, text in texts],
                [now] * len(texts),
            ]
            execute_rows(connection, self._dialect, statement, _STORED, values)


def record(connection: Connection, entries: Sequence[Entry]) -> None:
    """Append entries as they are, in the caller's transaction; what was said is not stored.

    For events that end without an attempt, and for results that came too late.
    """
    if entries:
        connection.execute(
            insert(provisioning_log),
            [
                {name: getattr(entry, name) for name in _COLUMNS}
                | {"reason": _capped(entry.reason, LONGEST_REASON)}
                for entry in entries
            ],
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


# Forgetting


@dataclass(frozen=True)
class Retention:
    """From when on the journal is kept: what failed or was rejected, and everything else."""

    failed: datetime
    others: datetime

    @property
    def latest(self) -> datetime:
        """From then on everything is kept."""
        return max(self.failed, self.others)


def prunable(connection: Connection, keep: Retention) -> int:
    """How many rows ``prune`` would remove in all."""
    log = provisioning_log.c
    end = first_at(connection, log.i_log, log.logged_at, keep.latest)
    failed = log.verdict.in_(_KEPT_LONGER)
    old = (failed & (log.logged_at < keep.failed)) | (~failed & (log.logged_at < keep.others))
    query = select(func.count()).select_from(provisioning_log).where(log.i_log < end, old)
    return int(connection.execute(query).scalar_one())


def prune(connection: Connection, keep: Retention, after: int, limit: int) -> Progress | None:
    """Remove old rows, at most ``limit``, that have a number above ``after``; None: it is done.

    What is removed is nobody's any more: it holds up neither who writes nor who reads.
    """
    log = provisioning_log.c
    rows = connection.execute(
        select(log.i_log, log.i_event, log.verdict, log.logged_at)
        .where(log.i_log > after)
        .order_by(log.i_log)
        .limit(_SEEN * limit)
    ).all()
    old: list[int] = []
    last: int | None = None
    for row in rows:
        if row.logged_at >= keep.latest or len(old) == limit:
            break
        last = row.i_log
        if row.logged_at < (keep.failed if row.verdict in _KEPT_LONGER else keep.others):
            old.append(last)
    if old:
        # They are of events that happened at about the same time: in one part or two.
        events = [row.i_event for row in rows]
        connection.execute(
            delete(provisioning_log).where(
                log.i_log.in_(old), log.i_event.between(min(events), max(events))
            )
        )
    return None if last is None else Progress(len(old), last)


def drop_next(connection: Connection, keep: Retention) -> int | None:
    """Drop the first part of the journal that is old, where it has parts; None: none is.

    Returns how many rows are gone. The few that are to be kept stay. A part of which many are to
    be kept is left to ``prune``.
    """
    kept = (
        f"logged_at >= '{keep.others.isoformat()}' OR verdict IN ('failed', 'rejected') "
        f"AND logged_at >= '{keep.failed.isoformat()}'"
    )
    with parts.changing(connection):
        for part in parts.past(connection):
            newest = _newest(connection, part)
            if newest is not None and newest >= keep.others:
                return None
            # As long as its events wait, rows will come.
            if newest is None and _has_waiting(connection, part):
                continue
            gone = parts.drop(connection, part, kept, MOST_MOVED)
            if gone is not None:
                return gone
    return None


def _newest(connection: Connection, part: parts.Part) -> datetime | None:
    """When the last event of a part was last logged; None: none was."""
    log = provisioning_log.c
    newest: datetime | None = connection.execute(
        select(log.logged_at)
        .where(log.i_event >= part.first, log.i_event < part.end)
        .order_by(log.i_event.desc(), log.i_log.desc())
        .limit(1)
    ).scalar_one_or_none()
    return newest


def _has_waiting(connection: Connection, part: parts.Part) -> bool:
    q = event_queue.c
    waiting = select(q.i_event).where(q.i_event >= part.first, q.i_event < part.end).limit(1)
    return connection.execute(waiting).first() is not None


def texts_in_use(connection: Connection, keep: Retention) -> set[int]:
    """Texts of the rows that are kept longer than others; newer rows have texts as new as they."""
    log = provisioning_log.c
    end = first_at(connection, log.i_log, log.logged_at, keep.latest)
    rows = connection.execute(select(log.i_request, log.i_response).where(log.i_log < end))
    return {number for row in rows for number in row if number is not None}


def prune_texts(
    connection: Connection, keep: Retention, in_use: Collection[int], after: int, limit: int
) -> Progress | None:
    """Remove texts that no row of the journal has any more; see ``prune``."""
    texts = provisioning_log_texts.c
    rows = connection.execute(
        select(texts.i_text, texts.used_on)
        .where(texts.i_text > after)
        .order_by(texts.i_text)
        .limit(_SEEN * limit)
    ).all()
    old: list[int] = []
    last: int | None = None
    for row in rows:
        if len(old) == limit:
            break
        last = row.i_text
        # A process says once a day what it uses.
        if row.used_on < keep.others - timedelta(days=2) and last not in in_use:
            old.append(last)
    if old:
        connection.execute(delete(provisioning_log_texts).where(texts.i_text.in_(old)))
    return None if last is None else Progress(len(old), last)


#: What people may want to restart after a long time.
_KEPT_LONGER = frozenset({Status.FAILED, Status.REJECTED})

#: So many rows are moved, at most, out of a part that is dropped.
MOST_MOVED = 10_000

#: So many rows are looked at in one step for each that it may remove: some are kept longer.
_SEEN = 5

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
    # For this statement alone: an option of the connection would stay with it.
    with connection.execute(query, execution_options={"stream_results": True}) as rows:
        for row in rows:
            known = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
            for name in ("request", "response"):
                known[name] = _unfolded(known[name], row.variables, row.i_event)
            yield Entry(**known)


def _folded(text: Said | str, event: Event) -> Said | str:
    """The text without what is the event's own; control characters make way for the marks."""
    if isinstance(text, str):
        return _fold(_clean(text), event)
    head, body = text
    return _clean(head), _fold(body, event) if body else ""


def _fold(text: str, event: Event) -> str:
    if not text.isprintable():
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    if len(text) > LONGEST_BODY:
        text = _capped(text, LONGEST_BODY) or ""
    inner = event.payload[1:-1]
    if inner:
        text = text.replace(inner, _VARIABLES)
    return text.replace(f'"i_event":{event.i_event}', _NUMBER)


@lru_cache(1000)
def _clean(text: str) -> str:
    """A head, or a whole text, without what says when."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _DATE.sub("", f"{text}\n")).removesuffix("\n")


def _whole(text: Said | str) -> str:
    return text if isinstance(text, str) else "\n\n".join(text)


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
