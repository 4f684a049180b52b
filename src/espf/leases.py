"""Who works for which event handler: leases on shards, with an epoch that counts the owners.

A handler's work is split into shards by ordering key, so that several workers can share it. A
worker gives one sign of life for all its leases; when it stays away, they are free. It may not
know that it has lost one: its results come under an old epoch then, and change nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, tuple_, update

from espf.db.database import Database
from espf.db.tables import handler_leases, workers
from espf.model import SHARDS

#: How long a lease holds without a sign of life.
LEASE_SECONDS = 12.0


@dataclass(frozen=True)
class Lease:
    """The ownership of a shard. A result under an epoch that is over changes nothing.

    ``idle_seconds`` is how long nobody had it before; None: nobody ever had.
    """

    i_event_handler: int
    shard: int
    epoch: int
    idle_seconds: float | None = None


@dataclass(frozen=True)
class Roll:
    """Who is there, and who owns what: (handler, shard) -> worker, alive or not.

    ``instances`` has, of each that is there, the instance that it was started for, or "".
    """

    instances: Mapping[str, str]
    owners: Mapping[tuple[int, int], str]


class Leases:
    """Take, keep and give back shards, by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sign_of_life(
        self, connection: Connection, worker: str, seconds: float, instance: str = ""
    ) -> None:
        """Say that a worker is there, for which instance, and that it will be for so long."""
        now = self._database.now(connection)
        until = now + timedelta(seconds=seconds)
        changed = connection.execute(
            update(workers).where(workers.c.worker == worker).values(expires_at=until)
        )
        if not changed.rowcount:
            connection.execute(
                workers.insert().values(
                    worker=worker, started_at=now, expires_at=until, instance=instance
                )
            )
        # Long gone: nothing is theirs any more.
        connection.execute(delete(workers).where(workers.c.expires_at < now - timedelta(hours=1)))

    def begin_leaving(self, connection: Connection, worker: str) -> None:
        """Say that a worker gives its work away: nothing falls to it any more."""
        connection.execute(update(workers).where(workers.c.worker == worker).values(leaving=1))

    def sign_off(self, connection: Connection, worker: str) -> None:
        """Give everything back that a worker has; it is going."""
        self.release(connection, worker)
        connection.execute(delete(workers).where(workers.c.worker == worker))

    def roll(self, connection: Connection, besides: str = "") -> Roll:
        """Who is there to work, by name, and who owns what, but for one that knows its own."""
        now = self._database.now(connection)
        alive = connection.execute(
            select(workers.c.worker, workers.c.instance)
            .where(workers.c.expires_at > now, workers.c.leaving == 0)
            .order_by(workers.c.worker)
        ).all()
        leases = connection.execute(
            select(
                handler_leases.c.i_event_handler, handler_leases.c.shard, handler_leases.c.worker
            ).where(handler_leases.c.worker.not_in(("", besides)))
        ).all()
        there = {row.worker: row.instance for row in alive}
        return Roll(
            there, {(i_event_handler, shard): owner for i_event_handler, shard, owner in leases}
        )

    def acquire(
        self,
        connection: Connection,
        worker: str,
        wanted: Collection[tuple[int, int]],
        dead: Collection[str] = (),
    ) -> list[Lease]:
        """Take the shards among ``wanted`` that nobody else owns who is alive.

        One that is the worker's own it gets anew: it would not ask if it knew of it.
        ``dead`` names owners that are known to be gone, before their time is up.
        """
        now = self._database.now(connection)
        expiry = {
            row.worker: row.expires_at
            for row in connection.execute(select(workers.c.worker, workers.c.expires_at))
        }
        rows = connection.execute(
            select(handler_leases)
            .where(_among(wanted))
            .order_by(handler_leases.c.i_event_handler, handler_leases.c.shard)
            # One that cannot be had now, because its owner was frozen just then, holds up no other.
            .with_for_update(skip_locked=True)
        ).all()
        taken: list[Lease] = []
        for row in rows:
            end = _end(row.worker, row.since, expiry, {worker, *dead}, now)
            if end is None:
                continue
            idle = (now - end).total_seconds() if row.epoch else None
            taken.append(Lease(row.i_event_handler, row.shard, row.epoch + 1, idle))
        for lease in taken:
            connection.execute(
                update(handler_leases)
                .where(_among([(lease.i_event_handler, lease.shard)]))
                .values(worker=worker, epoch=lease.epoch, since=now)
            )
        return taken

    def held(self, connection: Connection, worker: str) -> dict[tuple[int, int], int]:
        """What a worker still has: (handler, shard) -> epoch."""
        rows = connection.execute(select(handler_leases).where(handler_leases.c.worker == worker))
        return {(row.i_event_handler, row.shard): row.epoch for row in rows}

    def release(
        self,
        connection: Connection,
        worker: str,
        shards: Collection[tuple[int, int]] | None = None,
    ) -> None:
        """Give shards back, or all, so that the next worker need not wait."""
        mine = handler_leases.c.worker == worker
        if shards is not None:
            mine &= _among(shards)
        connection.execute(
            update(handler_leases)
            .where(mine)
            .values(worker="", since=self._database.now(connection))
        )

    def valid(
        self, connection: Connection, claims: Collection[tuple[int, int, int]]
    ) -> set[tuple[int, int, int]]:
        """Which (handler, shard, epoch) are in force, until the end of the transaction."""
        if not claims:
            return set()
        shards: dict[int, set[int]] = defaultdict(set)
        for i_event_handler, shard, _ in claims:
            shards[i_event_handler].add(shard)
        among = " OR ".join(
            f"i_event_handler = {number} AND shard IN ({', '.join(map(str, sorted(some)))})"
            for number, some in sorted(shards.items())
        )
        # As text: this runs for every batch, and is nearly always the same.
        rows = connection.exec_driver_sql(
            "SELECT i_event_handler, shard, epoch FROM Handler_Leases "  # noqa: S608  (numbers)
            f"WHERE {among} ORDER BY i_event_handler, shard {self._database.dialect.share_lock}"
        )
        return {tuple(row) for row in rows}.intersection(claims)


def shards_of_unit(unit: int, units: int) -> range:
    """The shards that belong together when a handler's work is dealt out in so many units."""
    size = SHARDS // units
    return range(unit * size, (unit + 1) * size)


def deal(units: Mapping[int, int], able: Mapping[int, Sequence[str]]) -> dict[tuple[int, int], str]:
    """Which worker is to have which shard: the units of each handler, dealt out in turn.

    ``units`` says for each handler into how many its work may be split, ``able`` who may do it.
    Everybody who counts the same workers comes to the same result.
    """
    return {
        (i_event_handler, shard): some[(i_event_handler + unit) % len(some)]
        for i_event_handler, count in units.items()
        if (some := able[i_event_handler])
        for unit in range(count)
        for shard in shards_of_unit(unit, count)
    }


def _among(shards: Collection[tuple[int, int]]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    return tuple_(handler_leases.c.i_event_handler, handler_leases.c.shard).in_(sorted(shards))


def _end(
    worker: str,
    since: datetime,
    expiry: Mapping[str, datetime],
    dead: Collection[str],
    now: datetime,
) -> datetime | None:
    """Since when a shard is free; None: it is not."""
    if not worker:
        return since
    if worker in dead:
        return now
    expires_at = expiry.get(worker, since)
    return expires_at if expires_at <= now else None
