"""What is planned: events for a later time, and the names by which they are replaced or called off.

A caller may give a scheduled event a key, unique in its environment. The next event under the key
takes the place of the one before it, as long as that has not gone out. Works inside the caller's
transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, or_, select, text, update

from espf import restarts
from espf.db.database import Database
from espf.db.tables import event_queue, scheduled_keys
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.model import parse_local_time, parse_time
from espf.queue import Queue
from espf.sources import Filter, of_type

LONGEST_KEY = 128

#: Names of events that have gone out are forgotten so many at a time.
_STEP = 500


@dataclass(frozen=True)
class Created:
    """The number of a new event, and of the one that it replaced, if it did."""

    i_event: int
    replaced: int | None


@dataclass(frozen=True)
class Planned:
    """An event whose time has not come. ``variables`` is JSON text, ``start_time`` UTC."""

    i_event: int
    i_env: int
    event_type: str
    ordering_key: str | None
    key: str | None
    start_time: datetime
    variables: str


@dataclass(frozen=True)
class After:
    """Where a list goes on: behind the event of this time and number, or before it."""

    start_time: datetime
    i_event: int


def start_time(words: str | None, time_zone: str | None) -> datetime | None:
    """Read when an event is due: a time in UTC or with an offset, or of the clocks of a zone.

    Raises InvalidRequest that names the field.
    """
    if words is None:
        if time_zone is not None:
            raise InvalidRequest("time_zone: there is no start_time for it", "time_zone")
        return None
    try:
        return parse_time(words) if time_zone is None else parse_local_time(words, time_zone)
    except ValueError as error:
        raise InvalidRequest(str(error), str(error).partition(":")[0]) from None


def create(
    connection: Connection,
    queue: Queue,
    database: Database,
    i_env: int,
    event_type: str,
    variables: Mapping[str, object],
    start_time: datetime | None,
    key: str | None,
) -> Created:
    """Put an event into the queue, as ``Queue.create_event``; see there.

    With a ``key``: in place of the event under this key, if its time has not come yet. One that
    is due at once takes its place, too, and leaves the key free. Raises InvalidRequest for a key
    that will not do.
    """
    if key is None:
        i_event = queue.create_event(connection, i_env, event_type, variables, start_time)
        return Created(i_event, None)
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable() or key != key.strip():
        raise InvalidRequest(
            f"key: 1 to {LONGEST_KEY} printable characters are expected, no blanks at the ends",
            "key",
        )
    old = _take(connection, database, i_env, key)
    i_event = queue.create_event(connection, i_env, event_type, variables, start_time)
    replaced = None
    if old:
        try:
            restarts.cancel(connection, database, old, f"replaced by event {i_event}")
            replaced = old
        except (Conflict, NotFound):
            pass  # it has gone out, or was called off by its number
    k = scheduled_keys.c
    connection.execute(
        update(scheduled_keys).where(k.i_env == i_env, k.event_key == key).values(i_event=i_event)
    )
    return Created(i_event, replaced)


def under(connection: Connection, i_env: int, key: str) -> int:
    """The number of the event that waits under a key. Raises NotFound."""
    q, k = event_queue.c, scheduled_keys.c
    i_event = connection.execute(
        select(q.i_event)
        .join(scheduled_keys, k.i_event == q.i_event)
        .where(k.i_env == i_env, k.event_key == key, q.notified == 0)
    ).scalar_one_or_none()
    if i_event is None:
        raise NotFound(f"no event is scheduled under the key {key[:LONGEST_KEY]!r}")
    return int(i_event)


def planned(
    connection: Connection,
    i_env: int | None,
    limit: int,
    after: After | None = None,
    *,
    before: After | None = None,
    wanted: Filter | None = None,
) -> list[Planned]:
    """The next events whose time has not come, in the order of their times.

    Those behind ``after``, else the last ones ahead of ``before``. ``wanted`` may narrow them by
    type, ordering key, and when they are due.
    """
    q, k = event_queue.c, scheduled_keys.c
    backward = after is None and before is not None
    order = (q.start_time.desc(), q.i_event.desc()) if backward else (q.start_time, q.i_event)
    query = (
        select(event_queue, k.event_key)
        .outerjoin(scheduled_keys, and_(k.i_event == q.i_event, k.i_env == q.i_env))
        .where(q.notified == 0, q.start_time.is_not(None), *_due(wanted or Filter()))
        .order_by(*order)
        .limit(limit)
    )
    if i_env is not None:
        query = query.where(q.i_env == i_env)
    if after is not None:
        same_time = and_(q.start_time == after.start_time, q.i_event > after.i_event)
        query = query.where(or_(q.start_time > after.start_time, same_time))
    elif before is not None:
        same_time = and_(q.start_time == before.start_time, q.i_event < before.i_event)
        query = query.where(or_(q.start_time < before.start_time, same_time))
    found = [_planned(row) for row in connection.execute(query)]
    return found[::-1] if backward else found


def _due(wanted: Filter) -> list[ColumnElement[bool]]:
    q = event_queue.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.event_type is not None:
        conditions.append(of_type(q.event_type, wanted.event_type))
    if wanted.ordering_key is not None:
        conditions.append(q.ordering_key == wanted.ordering_key)
    if wanted.since is not None:
        conditions.append(q.start_time >= wanted.since)
    if wanted.until is not None:
        conditions.append(q.start_time < wanted.until)
    return conditions


def forget_keys(connection: Connection) -> bool:
    """Remove some keys whose events have gone out or were called off; whether there may be more."""
    k, q = scheduled_keys.c, event_queue.c
    waits = select(q.i_event).where(q.i_event == k.i_event, q.notified == 0).exists()
    gone = connection.execute(
        select(k.i_env, k.event_key, k.i_event).where(~waits).limit(_STEP)
    ).all()
    for row in gone:
        # Another event may have been put under it meanwhile.
        connection.execute(
            delete(scheduled_keys).where(
                k.i_env == row.i_env, k.event_key == row.event_key, k.i_event == row.i_event
            )
        )
    return len(gone) == _STEP


def _take(connection: Connection, database: Database, i_env: int, key: str) -> int:
    """Keep others from the key until the transaction ends; returns what is noted there, or 0."""
    k = scheduled_keys.c
    # Written first: to look for what is not there yet would have two who do so wait crosswise.
    insert = (
        "INSERT INTO Scheduled_Keys (i_env, event_key, i_event) "
        "VALUES (:i_env, :event_key, 0)"
        + database.dialect.on_conflict("i_env, event_key", "event_key")
    )
    connection.execute(text(insert), {"i_env": i_env, "event_key": key})
    noted = select(k.i_event).where(k.i_env == i_env, k.event_key == key).with_for_update()
    return int(connection.execute(noted).scalar_one())


def _planned(row: Row[Any]) -> Planned:
    return Planned(
        i_event=row.i_event,
        i_env=row.i_env,
        event_type=row.event_type,
        ordering_key=row.ordering_key,
        key=row.event_key,
        start_time=row.start_time,
        variables=row.variables,
    )
