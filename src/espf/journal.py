"""The memory: one row per attempt in Provisioning_Log, bodies beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection, func, select

from espf.db.bulk import insert_rows
from espf.db.tables import provisioning_log, provisioning_log_bodies

#: What an attempt is called that ends in a retry; all other verdicts are final statuses.
RETRY = "retry"

#: What a result is called that came after another worker had taken the handler.
ORPHAN = "orphan"

#: Characters that are kept of a request or a response, and of a reason.
LONGEST_BODY = 16 * 1024
LONGEST_REASON = 2000


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


_NARROW = (
    "i_event",
    "i_env",
    "event_type",
    "ordering_key",
    "i_event_handler",
    "handler",
    "attempt",
    "verdict",
    "created_at",
    "start_time",
    "logged_at",
    "duration_ms",
    "next_attempt_at",
)
_narrow = attrgetter(*_NARROW)


def record(connection: Connection, entries: Sequence[Entry]) -> None:
    """Append entries, in the transaction that makes them true."""
    if not entries:
        return
    # Newer rows have higher numbers: the last verdict on an event is the one with the highest.
    first = (
        connection.execute(
            select(func.coalesce(func.max(provisioning_log.c.i_log), 0))
        ).scalar_one()
        + 1
    )
    insert_rows(
        connection,
        [provisioning_log.c[name] for name in ("i_log", "reason", *_NARROW)],
        [
            (i_log, _capped(entry.reason, LONGEST_REASON), *_narrow(entry))
            for i_log, entry in enumerate(entries, first)
        ],
    )
    insert_rows(
        connection,
        list(provisioning_log_bodies.c),
        [
            (
                i_log,
                entry.variables,
                _capped(entry.request, LONGEST_BODY),
                _capped(entry.response, LONGEST_BODY),
            )
            for i_log, entry in enumerate(entries, first)
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


def _entries(
    connection: Connection, *conditions: object, newest_first: bool = True
) -> Iterator[Entry]:
    order = provisioning_log.c.i_log.desc() if newest_first else provisioning_log.c.i_log
    query = (
        select(
            *(provisioning_log.c[name] for name in ("reason", *_NARROW)),
            provisioning_log_bodies.c.variables,
            provisioning_log_bodies.c.request,
            provisioning_log_bodies.c.response,
        )
        .outerjoin_from(
            provisioning_log,
            provisioning_log_bodies,
            provisioning_log.c.i_log == provisioning_log_bodies.c.i_log,
        )
        .where(*conditions)  # type: ignore[arg-type]  # column expressions
        .order_by(order)
    )
    for row in connection.execution_options(stream_results=True).execute(query):
        yield Entry(**row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)


def _capped(text: str | None, cap: int) -> str | None:
    if text is None or len(text) <= cap:
        return text
    return f"{text[:cap]}… ({len(text) - cap} more characters)"
