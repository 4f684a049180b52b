"""Who did what, when, and what it was before: written in the transaction that does it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, or_, select

from espf.db.database import Database
from espf.db.tables import audit_log
from espf.db.walk import first_at

#: So many lines are looked at for a page.
LOOK = 10_000

#: How far the time of a line and its number may disagree: numbers are taken before commits.
CLOCK_SLACK = timedelta(minutes=1)


@dataclass(frozen=True)
class Actor:
    """Somebody who changes something; ``door`` is ``console``, ``api`` or ``evctl``."""

    login: str
    door: str


@dataclass(frozen=True)
class Entry:
    """One line of the log. ``before`` and ``after`` hold what was changed; no secrets."""

    i_audit: int
    happened_at: datetime
    i_env: int | None
    actor: Actor
    action: str
    subject: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which lines are meant: of an environment (None: all), and what they must hold.

    ``text`` is looked for in the action and the subject.
    """

    i_env: int | None = None
    login: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None


def record(
    connection: Connection,
    database: Database,
    actor: Actor,
    action: str,
    subject: str,
    *,
    i_env: int | None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write down what somebody does, ``handler.pause``, and to what, ``handler HSS``.

    Where both are given, only what differs is kept of ``before`` and ``after``. Secrets must have
    been masked.
    """
    old, new = dict(before or {}), dict(after or {})
    if before is not None and after is not None:
        same = {name for name in old.keys() & new.keys() if old[name] == new[name]}
        old, new = ({k: v for k, v in one.items() if k not in same} for one in (old, new))
    connection.execute(
        insert(audit_log).values(
            happened_at=database.now(connection),
            i_env=i_env,
            login=actor.login,
            door=actor.door,
            action=action,
            subject=subject[:255],
            value_before=_text(old),
            value_after=_text(new),
        )
    )


@dataclass(frozen=True)
class Found:
    """Some lines, newest first. ``older``: what to give as ``before`` to go on; None: that is all.

    ``is_short``: so much had to be looked at that it ended before there were as many as asked for.
    """

    entries: Sequence[Entry]
    older: int | None
    is_short: bool = False


def page(connection: Connection, wanted: Wanted, limit: int) -> Found:
    """The newest lines that fit, as far as they are found among ``LOOK``."""
    number = audit_log.c.i_audit
    way = _way(connection, wanted)
    reached: int | None = connection.execute(
        select(number).where(*way).order_by(number.desc()).offset(LOOK - 1).limit(1)
    ).scalar_one_or_none()
    looked_at = way if reached is None else [*way, number >= reached]
    query = select(audit_log).where(*looked_at, *_fits(wanted))
    rows = connection.execute(query.order_by(number.desc()).limit(limit + 1)).all()
    entries = [_entry(row) for row in rows[:limit]]
    if len(rows) > limit:
        return Found(entries, entries[-1].i_audit)
    return Found(entries, reached, is_short=reached is not None)


def search(connection: Connection, wanted: Wanted, limit: int) -> list[Entry]:
    """The newest lines that fit, however far they are from one another."""
    entries: list[Entry] = []
    while len(entries) < limit:
        found = page(connection, wanted, limit - len(entries))
        entries += found.entries
        if found.older is None:
            break
        wanted = replace(wanted, before=found.older)
    return entries


def _way(connection: Connection, wanted: Wanted) -> list[ColumnElement[bool]]:
    """What an index leads to, in the order of the numbers; times are turned into numbers."""
    log = audit_log.c
    way: list[ColumnElement[bool]] = []
    if wanted.i_env is not None:
        way.append(log.i_env == wanted.i_env)
    if wanted.since is not None:
        way.append(
            log.i_audit
            >= first_at(connection, log.i_audit, log.happened_at, wanted.since - CLOCK_SLACK)
        )
    before = wanted.before
    if before is None and wanted.until is not None:
        before = first_at(connection, log.i_audit, log.happened_at, wanted.until + CLOCK_SLACK)
    return way if before is None else [*way, log.i_audit < before]


def _fits(wanted: Wanted) -> list[ColumnElement[bool]]:
    log = audit_log.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.login is not None:
        conditions.append(log.login == wanted.login)
    if wanted.text:
        # One text: of a pattern in parts MariaDB puts them together again for each row.
        text = re.sub(r"[/%_]", r"/\g<0>", wanted.text)
        conditions.append(
            or_(*(column.like(f"%{text}%", escape="/") for column in (log.action, log.subject)))
        )
    if wanted.since is not None:
        conditions.append(log.happened_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(log.happened_at < wanted.until)
    return conditions


def forget(connection: Connection, older_than: datetime, limit: int) -> int:
    """Remove old lines, some at a time; returns how many."""
    log = audit_log.c
    old = connection.execute(
        select(log.i_audit).where(log.happened_at < older_than).limit(limit)
    ).scalars()
    return connection.execute(delete(audit_log).where(log.i_audit.in_(list(old)))).rowcount


def _text(values: Mapping[str, Any]) -> str | None:
    return json.dumps(values, default=str, ensure_ascii=False) if values else None


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        i_audit=row.i_audit,
        happened_at=row.happened_at,
        i_env=row.i_env,
        actor=Actor(row.login, row.door),
        action=row.action,
        subject=row.subject,
        before=json.loads(row.value_before or "{}"),
        after=json.loads(row.value_after or "{}"),
    )
