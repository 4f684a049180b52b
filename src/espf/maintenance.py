"""What holds for the whole installation: maintenance mode, circuit breakers, whose turn it is."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, text, update

from espf import configuration
from espf.db.database import Database
from espf.db.dialect import to_text
from espf.db.tables import handler_breakers, system_settings, workers


@dataclass(frozen=True)
class BreakerState:
    """How a worker's circuit breaker for a handler stands, as it told last.

    ``state``: open (nothing goes out until ``probe_at``), probing (one event at a time), ramping
    (more with every success).
    """

    state: str
    since: datetime
    probe_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class BreakerNews:
    """A change to tell: seconds before or after now, since the breaker's clock is its own."""

    state: str
    since_seconds_ago: float
    probe_in_seconds: float | None
    reason: str | None


def in_maintenance(connection: Connection) -> bool:
    """Whether all deliveries wait: the active configuration says so."""
    return configuration.active(connection).content.provisioning.maintenance


def hold(connection: Connection, database: Database, name: str) -> str:
    """Keep out whoever holds the same name, until the end of the transaction.

    Returns what is noted under the name; nothing at first.
    """
    noted = select(system_settings.c.value).where(system_settings.c.name == name).with_for_update()
    value: str | None = connection.execute(noted).scalar_one_or_none()
    if value is None:
        # Of two who make it at the same time, the second waits here for the first.
        otherwise = database.dialect.on_conflict("name", "name")
        make = f"INSERT INTO System_Settings (name, value) VALUES (:name, ''){otherwise}"  # noqa: S608  (our own words)
        connection.execute(text(make), {"name": name})
        value = connection.execute(noted).scalar_one()
    return value


def take_turn(connection: Connection, database: Database, name: str, every: timedelta) -> bool:
    """Whether it is time for what is done once in a while, and nobody else has begun it."""
    now = database.now(connection)
    if hold(connection, database, name) > to_text(now - every):
        return False
    connection.execute(
        update(system_settings).where(system_settings.c.name == name).values(value=to_text(now))
    )
    return True


def keep_turn(
    connection: Connection, database: Database, name: str, who: str, span: timedelta
) -> bool:
    """Whether it is the turn of ``who`` for this long, and nobody else's; it may be kept on."""
    noted, now = hold(connection, database, name), database.now(connection)
    if _holder(noted, now) not in {"", who}:
        return False
    value = f"{to_text(now + span)} {who}"
    connection.execute(
        update(system_settings).where(system_settings.c.name == name).values(value=value)
    )
    return True


def whose_turn(connection: Connection, database: Database, name: str) -> str:
    """Who keeps a turn now; empty: nobody."""
    noted = select(system_settings.c.value).where(system_settings.c.name == name)
    value = connection.execute(noted).scalar_one_or_none()
    return _holder(value or "", database.now(connection))


def _holder(noted: str, now: datetime) -> str:
    until, who = noted[:23], noted[24:]
    return who if until > to_text(now) else ""


def store_breakers(
    connection: Connection, database: Database, worker: str, news: Mapping[int, BreakerNews]
) -> None:
    """Let people see how a worker's breakers stand; closed ones are not kept."""
    now = database.now(connection)
    for i_event_handler, one in news.items():
        connection.execute(
            delete(handler_breakers).where(
                handler_breakers.c.i_event_handler == i_event_handler,
                handler_breakers.c.worker == worker,
            )
        )
        if one.state == "closed":
            continue
        probe_at = one.probe_in_seconds
        connection.execute(
            insert(handler_breakers).values(
                i_event_handler=i_event_handler,
                worker=worker,
                state=one.state,
                since=now - timedelta(seconds=one.since_seconds_ago),
                probe_at=None if probe_at is None else now + timedelta(seconds=probe_at),
                reason=one.reason,
            )
        )


def breakers(connection: Connection, now: datetime) -> defaultdict[int, dict[str, BreakerState]]:
    """The breakers that are not closed, by handler and worker; those of the dead do not count."""
    rows = connection.execute(
        select(handler_breakers)
        .join(workers, workers.c.worker == handler_breakers.c.worker)
        .where(workers.c.expires_at > now)
    )
    found: defaultdict[int, dict[str, BreakerState]] = defaultdict(dict)
    for row in rows:
        state = BreakerState(row.state, row.since, row.probe_at, row.reason)
        found[row.i_event_handler][row.worker] = state
    return found


def forget_breakers(connection: Connection) -> None:
    """Remove what workers told who are gone."""
    gone = handler_breakers.c.worker.not_in(select(workers.c.worker))
    connection.execute(delete(handler_breakers).where(gone))
