"""One subscriber's events: whom people mean, what stops whose lane and why, holding a lane.

What happened is a page of ``espf.overview`` with the ordering key. A lane is held by a mark in the
live table: a notification of no event, which stands before everything in the lane and never comes
to its turn. So what waits, and what is yet to come, waits behind it like behind any other that
waits, and whoever writes or reads events need not know of it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select

from espf import maintenance
from espf.billing import environments
from espf.billing.tables import accounts, customers, did_numbers, sim_cards
from espf.db.database import Database
from espf.db.tables import event_notifications
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.journal import LONGEST_REASON
from espf.maintenance import BreakerState
from espf.model import HELD, KEY_VARIABLES, LONGEST_KEY, Status, shard_of
from espf.subscriptions import EventHandler, list_handlers, look_again

_KEY = re.compile(rf"({'|'.join(prefix for _, prefix in KEY_VARIABLES)}):[ -~]{{1,{LONGEST_KEY}}}")

#: By what people call those whom events are about, and the name of its number in a key.
_NAMES = (
    (accounts.c.id, accounts.c.i_account, "account"),
    (customers.c.name, customers.c.i_customer, "customer"),
    (sim_cards.c.imsi, sim_cards.c.i_sim_card, "sim"),
    (sim_cards.c.iccid, sim_cards.c.i_sim_card, "sim"),
    (did_numbers.c.number, did_numbers.c.number, "did"),
)


def key_of(connection: Connection, text: str, i_env: int | None) -> str:
    """The ordering key that people mean: the key itself, or an id that the reference billing knows.

    That is the id of an account, the name of a customer, the IMSI or ICCID of a SIM card, or a DID
    number, in ``i_env``. Beside a billing of another make only keys can be told. Raises NotFound
    when nobody is called so, InvalidRequest when several are.
    """
    if _KEY.fullmatch(text):
        return text
    known: set[str] = set()
    if i_env is not None and environments.is_reference_billing(connection):
        for name, number, kind in _NAMES:
            rows = connection.execute(
                select(number).where(name == text, name.table.c.i_env == i_env).limit(2)
            )
            known |= {f"{kind}:{found}" for found in rows.scalars()}
    if not known:
        raise NotFound(
            f"nobody is known as {text!r:.60}; say who in the form account:541, customer:7 or sim:3"
        )
    if len(known) > 1:
        raise InvalidRequest(f"{text!r:.60} may be each of {', '.join(sorted(known))}", "about")
    return known.pop()


@dataclass(frozen=True)
class Obstacle:
    """What stops a lane of one handler, or the handler.

    ``state``: held (by an administrator), failed (and ``OnFailure`` hold), retrying, restarted (and
    due); of the handler: disabled, maintenance, paused, or what a breaker does. ``i_event`` is the
    event that waits at the head of the lane; None: it is no event that stops it. ``since`` and
    ``until`` as far as they are known.
    """

    handler: str
    state: str
    i_event: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None


def obstacles(connection: Connection, database: Database, i_env: int, key: str) -> list[Obstacle]:
    """All that stops a subscriber's events now, handler by handler."""
    in_maintenance = maintenance.in_maintenance(connection)
    breakers = maintenance.breakers(connection, database.now(connection))
    found: list[Obstacle] = []
    for handler in list_handlers(connection, i_env):
        found += _of_lane(connection, handler, key)
        found += _of_handler(handler, breakers[handler.i_event_handler].values(), in_maintenance)
    return found


def _of_lane(connection: Connection, handler: EventHandler, key: str) -> Iterator[Obstacle]:
    n = event_notifications.c
    # In these words no planner goes through all that the handler has.
    mine = (n.ordering_key == key, n.i_event_handler + 0 == handler.i_event_handler)
    rows = connection.execute(
        select(event_notifications)
        .where(*mine, n.next_attempt_at.is_not(None))
        .order_by(n.position)
        .limit(2)
    ).all()
    for row in rows:
        yield _obstacle(handler, row)
        if row.status != HELD:
            return


def _obstacle(handler: EventHandler, row: Row[Any]) -> Obstacle:
    at: datetime = row.next_attempt_at
    if row.status == HELD:
        return Obstacle(handler.name, HELD, since=at, reason=row.last_error)
    if row.status == Status.FAILED:
        return Obstacle(handler.name, row.status, row.i_event, since=at, reason=row.last_error)
    state = "restarted" if row.last_error is None else "retrying"
    return Obstacle(handler.name, state, row.i_event, until=at, reason=row.last_error)


def _of_handler(
    handler: EventHandler, breakers: Iterable[BreakerState], in_maintenance: bool
) -> Iterator[Obstacle]:
    stops = {
        "disabled": not handler.enabled,
        "maintenance": in_maintenance,
        "paused": handler.paused,
    }
    yield from (Obstacle(handler.name, state) for state, holds in stops.items() if holds)
    for one in breakers:
        state = f"breaker {one.state}"
        yield Obstacle(handler.name, state, since=one.since, until=one.probe_at, reason=one.reason)


# Holding


@dataclass(frozen=True)
class HeldLane:
    """A lane that an administrator holds: since when, and why."""

    i_env: int
    handler: str
    ordering_key: str
    since: datetime
    reason: str


def hold(
    connection: Connection,
    database: Database,
    handlers: Sequence[EventHandler],
    key: str,
    reason: str,
) -> list[str]:
    """Deliver nothing more to handlers about somebody, until it is released; for whom it is new.

    Workers notice within two seconds; an attempt that is under way at this moment is not called
    back. Raises InvalidRequest for what is no key or too long a reason, Conflict when the lane is
    held already for all of them.
    """
    if not _KEY.fullmatch(key):
        raise InvalidRequest(f"{key!r:.60} is no ordering key such as account:541", "about")
    if len(reason) > LONGEST_REASON:
        raise InvalidRequest(f"reason: at most {LONGEST_REASON} characters", "reason")
    maintenance.hold(connection, database, __name__)
    free = [one for one in handlers if key not in held_keys(connection, one.i_event_handler)]
    if not free:
        raise Conflict(f"{key} is held already")
    now = database.now(connection)
    for handler in free:
        _mark(connection, handler, key, reason, now)
    return [handler.name for handler in free]


def _mark(
    connection: Connection, handler: EventHandler, key: str, reason: str, now: datetime
) -> None:
    lowest = connection.execute(
        select(func.min(event_notifications.c.position)).where(*_marks(handler.i_event_handler))
    ).scalar_one()
    connection.execute(
        insert(event_notifications).values(
            i_event_handler=handler.i_event_handler,
            position=(lowest or 0) - 1,
            i_event=0,
            shard=shard_of(key),
            status=HELD,
            ordering_key=key,
            next_attempt_at=now,
            last_error=reason,
        )
    )
    look_again(connection, handler)


def release(
    connection: Connection, database: Database, handlers: Sequence[EventHandler], key: str
) -> list[str]:
    """Go on with a lane, in order; for whom it was held. Raises Conflict when nobody holds it."""
    maintenance.hold(connection, database, __name__)
    freed = [one for one in handlers if key in held_keys(connection, one.i_event_handler)]
    if not freed:
        raise Conflict(f"{key!r:.60} is not held")
    for handler in freed:
        connection.execute(
            delete(event_notifications).where(
                *_marks(handler.i_event_handler), event_notifications.c.ordering_key == key
            )
        )
        look_again(connection, handler)
    return [handler.name for handler in freed]


def held_keys(connection: Connection, i_event_handler: int) -> frozenset[str]:
    """The lanes of a handler that are held."""
    keys = select(event_notifications.c.ordering_key).where(*_marks(i_event_handler))
    return frozenset(connection.execute(keys).scalars())


def held(connection: Connection, i_env: int | None = None) -> list[HeldLane]:
    """All lanes that are held, handler by handler, in the order in which they have been."""
    return [
        HeldLane(handler.i_env, handler.name, row.ordering_key, row.next_attempt_at, row.last_error)
        for handler in list_handlers(connection, i_env)
        for row in connection.execute(
            select(event_notifications)
            .where(*_marks(handler.i_event_handler))
            .order_by(event_notifications.c.position.desc())
        )
    ]


def _marks(i_event_handler: int) -> tuple[ColumnElement[bool], ...]:
    n = event_notifications.c
    return n.i_event_handler == i_event_handler, n.position < 0, n.status == HELD
