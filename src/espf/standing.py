"""How handlers and workers stand: who works for whom, what waits, what keeps it waiting. Reads."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from espf import depth, maintenance
from espf.db.database import Database
from espf.db.tables import workers
from espf.leases import Leases
from espf.maintenance import BreakerState
from espf.subscriptions import EventHandler, list_handlers


@dataclass(frozen=True)
class Standing:
    """How one handler stands.

    ``state`` says in a word what keeps its events waiting, if anything does: disabled,
    maintenance, paused, unattended (no worker is there for it), or what the breaker of a worker
    does; else working. ``workers`` counts the shards of each. What waits is told as a ``Backlog``
    tells it.
    """

    handler: EventHandler
    state: str
    maintenance: bool
    breakers: Mapping[str, BreakerState]
    workers: Mapping[str, int]
    waiting: int
    retrying: int
    failed: int
    oldest: datetime | None
    estimated: bool

    def fields(self, now: datetime) -> dict[str, Any]:
        """The same, flat, as the command line and the API show it."""
        handler, oldest = self.handler, self.oldest
        return {
            "i_event_handler": handler.i_event_handler,
            "name": handler.name,
            "i_env": handler.i_env,
            "type": handler.type,
            "state": self.state,
            "enabled": handler.enabled,
            "paused": handler.paused,
            "maintenance": self.maintenance,
            "waiting": self.waiting,
            "oldest_waiting_seconds": oldest and max(0, round((now - oldest).total_seconds())),
            "retrying": self.retrying,
            "failed": self.failed,
            "estimated": self.estimated,
            "workers": self.workers,
            "breakers": [
                {"worker": worker, **asdict(breaker)} for worker, breaker in self.breakers.items()
            ],
        }


@dataclass(frozen=True)
class WorkerStanding:
    """A worker that is there, or was within the hour; its shards by (i_env, handler).

    ``instance`` is the one that it was started for; empty: none, it works for all handlers.
    """

    worker: str
    instance: str
    alive: bool
    started_at: datetime
    seen_until: datetime
    shards: Mapping[tuple[int, str], int]


def handlers(connection: Connection, database: Database, *some: EventHandler) -> list[Standing]:
    """How these handlers stand, at a cost that does not grow with what waits."""
    now = database.now(connection)
    in_maintenance = maintenance.in_maintenance(connection)
    owned = _owned(connection, database)
    breakers = maintenance.breakers(connection, now)
    return [
        _standing(
            one,
            owned[one.i_event_handler],
            in_maintenance,
            breakers[one.i_event_handler],
            depth.backlog(connection, one.i_event_handler, now),
        )
        for one in some
    ]


def list_workers(connection: Connection, database: Database) -> list[WorkerStanding]:
    """The workers, by name."""
    names = {one.i_event_handler: (one.i_env, one.name) for one in list_handlers(connection)}
    shards: dict[str, dict[tuple[int, str], int]] = defaultdict(dict)
    for i_event_handler, owners in _owned(connection, database).items():
        for worker, count in owners.items():
            shards[worker][names[i_event_handler]] = count
    now = database.now(connection)
    return [
        WorkerStanding(
            row.worker,
            row.instance,
            row.expires_at > now,
            row.started_at,
            row.expires_at,
            shards[row.worker],
        )
        for row in connection.execute(select(workers).order_by(workers.c.worker))
    ]


def short_name(worker: str) -> str:
    """The machine and the process of a worker, without what only tells it from its forerunners."""
    host, _, rest = worker.partition("/")
    parts = rest.split("/")
    return f"{host}/{parts[-2]}" if len(parts) > 1 else worker


def _standing(
    handler: EventHandler,
    owners: Mapping[str, int],
    in_maintenance: bool,
    breakers: Mapping[str, BreakerState],
    backlog: depth.Backlog,
) -> Standing:
    keeps_waiting = {
        "disabled": not handler.enabled,
        "maintenance": in_maintenance,
        "paused": handler.paused,
        "unattended": not owners,
        **{
            f"breaker {state}": any(one.state == state for one in breakers.values())
            for state in ("open", "probing", "ramping")
        },
    }
    return Standing(
        handler=handler,
        state=next((state for state, holds in keeps_waiting.items() if holds), "working"),
        maintenance=in_maintenance,
        breakers=breakers,
        workers=owners,
        **asdict(backlog),
    )


def _owned(connection: Connection, database: Database) -> dict[int, Counter[str]]:
    """How many shards of each handler each living worker has."""
    roll = Leases(database).roll(connection)
    owned: dict[int, Counter[str]] = defaultdict(Counter)
    for (i_event_handler, _), worker in roll.owners.items():
        if worker in roll.instances:
            owned[i_event_handler][worker] += 1
    return owned
