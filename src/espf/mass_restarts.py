"""Restarts of many events, which people watch: begun, taken a step further, called off.

A restart of millions takes minutes. What is to be restarted and how far that has come is in the
database, so that it goes on where it stopped, whoever asks for the next step. No step is taken
twice: a step is one transaction, which says so itself.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from espf import restarts, sources
from espf.db.database import Database
from espf.db.tables import mass_restarts
from espf.errors import NotFound
from espf.sources import Filter

RUNNING, DONE, CANCELLED = "running", "done", "cancelled"

#: How long one is remembered.
KEPT = timedelta(days=30)

_TIMES = ("since", "until")


@dataclass(frozen=True)
class MassRestart:
    """One of them. ``wanted`` is what is left to do; ``total`` was counted when it began.

    ``moved_at`` is when the last step was taken, or when it ended.
    """

    i_mass_restart: int
    i_env: int
    login: str
    wanted: Filter
    total: int
    restarted: int
    state: str
    begun_at: datetime
    moved_at: datetime


def prepare(connection: Connection, database: Database, wanted: Filter) -> tuple[Filter, int]:
    """What is meant at this moment, and how many notifications that are.

    Events from now on are not meant. Raises InvalidRequest for a status that nothing can be
    restarted from.
    """
    until = wanted.until or database.now(connection)
    wanted = sources.narrowed(connection, replace(wanted, until=until))
    return wanted, restarts.restartable(connection, wanted)


def begin(
    connection: Connection, database: Database, i_env: int, login: str, wanted: Filter, total: int
) -> int:
    """Note what is to be restarted, as ``prepare`` found it; returns the number of the restart."""
    now = database.now(connection)
    made = connection.execute(
        insert(mass_restarts).values(
            i_env=i_env,
            login=login,
            wanted=_text(wanted),
            total=total,
            restarted=0,
            state=RUNNING,
            begun_at=now,
            moved_at=now,
        )
    )
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


def step(
    connection: Connection, database: Database, i_env: int, i_mass_restart: int
) -> MassRestart:
    """Restart the next ones; nothing happens when it has ended. Raises NotFound."""
    one = _locked(connection, i_env, i_mass_restart)
    if one.state != RUNNING:
        return one
    progress = restarts.restart_next(connection, database, one.wanted)
    if progress is None:
        one = replace(one, state=DONE)
    else:
        one = replace(
            one,
            restarted=one.restarted + progress.count,
            wanted=replace(one.wanted, after=progress.last),
        )
    return _moved(connection, database, one)


def cancel(
    connection: Connection, database: Database, i_env: int, i_mass_restart: int
) -> MassRestart:
    """Let it be: what is restarted stays so. Raises NotFound."""
    one = _locked(connection, i_env, i_mass_restart)
    if one.state != RUNNING:
        return one
    return _moved(connection, database, replace(one, state=CANCELLED))


def find(connection: Connection, i_env: int, i_mass_restart: int) -> MassRestart:
    """One of an environment. Raises NotFound."""
    return _found(connection, i_env, i_mass_restart, lock=False)


def running(connection: Connection, i_env: int) -> list[MassRestart]:
    """Those of an environment that have not ended, the oldest first."""
    c = mass_restarts.c
    rows = connection.execute(
        select(mass_restarts).where(c.i_env == i_env, c.state == RUNNING).order_by(c.i_mass_restart)
    )
    return [_of_row(row) for row in rows]


def forget_old(connection: Connection, now: datetime) -> None:
    """Remove what nobody has asked for in a long time."""
    connection.execute(delete(mass_restarts).where(mass_restarts.c.moved_at < now - KEPT))


def _locked(connection: Connection, i_env: int, i_mass_restart: int) -> MassRestart:
    return _found(connection, i_env, i_mass_restart, lock=True)


def _found(connection: Connection, i_env: int, i_mass_restart: int, *, lock: bool) -> MassRestart:
    c = mass_restarts.c
    query = select(mass_restarts).where(c.i_mass_restart == i_mass_restart, c.i_env == i_env)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no restart {i_mass_restart}")
    return _of_row(row)


def _moved(connection: Connection, database: Database, one: MassRestart) -> MassRestart:
    one = replace(one, moved_at=database.now(connection))
    connection.execute(
        update(mass_restarts)
        .where(mass_restarts.c.i_mass_restart == one.i_mass_restart)
        .values(
            wanted=_text(one.wanted),
            restarted=one.restarted,
            state=one.state,
            moved_at=one.moved_at,
        )
    )
    return one


def _text(wanted: Filter) -> str:
    return json.dumps(asdict(wanted), default=datetime.isoformat)


def _of_row(row: Row[Any]) -> MassRestart:
    known = json.loads(row.wanted)
    for name in _TIMES:
        known[name] = known[name] and datetime.fromisoformat(known[name])
    return MassRestart(**{**row._mapping, "wanted": Filter(**known)})  # noqa: SLF001  (SQLAlchemy's public name for it)
