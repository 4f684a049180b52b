"""Who works for which event handler: leases with an epoch that counts the owners.

A worker that has lost its lease may not know it yet. Its results come under an old epoch, and
change nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, insert, select, update

from espf.db.database import Database
from espf.db.tables import handler_leases


@dataclass(frozen=True)
class Lease:
    """The ownership of a handler. A result under an epoch that is over changes nothing."""

    i_event_handler: int
    epoch: int


class Leases:
    """Take, keep and give back handlers, by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(
        self,
        connection: Connection,
        worker: str,
        lease_seconds: float,
        wanted: Sequence[int],
        dead: Sequence[str] = (),
    ) -> list[Lease]:
        """Take the handlers among ``wanted`` that nobody owns: never owned, let go, or run out.

        ``dead`` names owners that are known to be gone, whose leases need not run out.
        """
        now = self._database.now(connection)
        owners = {
            row.i_event_handler: row
            for row in connection.execute(
                select(handler_leases).where(handler_leases.c.i_event_handler.in_(wanted))
            )
        }
        taken: list[Lease] = []
        for i_event_handler in wanted:
            owner = owners.get(i_event_handler)
            if owner and owner.expires_at > now and owner.worker not in dead:
                continue
            epoch = owner.epoch + 1 if owner else 1
            values = {
                "worker": worker,
                "epoch": epoch,
                "expires_at": now + timedelta(seconds=lease_seconds),
            }
            if owner:
                connection.execute(
                    update(handler_leases)
                    .where(handler_leases.c.i_event_handler == i_event_handler)
                    .values(**values)
                )
            else:
                connection.execute(
                    insert(handler_leases).values(i_event_handler=i_event_handler, **values)
                )
            taken.append(Lease(i_event_handler, epoch))
        return taken

    def owners(self, connection: Connection) -> dict[int, str]:
        """Who owns which handler, run out or not."""
        rows = connection.execute(select(handler_leases.c.i_event_handler, handler_leases.c.worker))
        return {row.i_event_handler: row.worker for row in rows}

    def extend(self, connection: Connection, worker: str, lease_seconds: float) -> dict[int, int]:
        """Keep a worker's leases; returns handler -> epoch of those that it still has."""
        until = self._database.now(connection) + timedelta(seconds=lease_seconds)
        rows = connection.execute(
            update(handler_leases)
            .where(handler_leases.c.worker == worker)
            .values(expires_at=until)
            .returning(handler_leases.c.i_event_handler, handler_leases.c.epoch)
        )
        return {row.i_event_handler: row.epoch for row in rows}

    def release(self, connection: Connection, worker: str, i_event_handlers: Sequence[int]) -> None:
        """Give leases back, so that the next worker need not wait."""
        connection.execute(
            update(handler_leases)
            .where(
                handler_leases.c.worker == worker,
                handler_leases.c.i_event_handler.in_(i_event_handlers),
            )
            .values(worker="", expires_at=self._database.now(connection))
        )

    def epochs(self, connection: Connection, i_event_handlers: Collection[int]) -> dict[int, int]:
        """The epochs under which handlers are owned now."""
        rows = connection.execute(
            select(handler_leases.c.i_event_handler, handler_leases.c.epoch).where(
                handler_leases.c.i_event_handler.in_(sorted(i_event_handlers))
            )
        )
        return {row.i_event_handler: row.epoch for row in rows}
