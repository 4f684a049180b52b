"""Clears away what is old, in small transactions that hold up nobody.

Between two of them it rests for as long as the last one took. One process does it, once an hour;
should two, both find done what the other has done.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection

from espf import (
    audit,
    configuration,
    journal,
    maintenance,
    mass_restarts,
    reconciliation,
    restarts,
    schedule,
    statistics,
    users,
)
from espf.db import parts
from espf.db.database import Database
from espf.db.walk import Progress
from espf.dispatches import Dispatches
from espf.errors import DatabaseUnavailable
from espf.journal import Retention
from espf.subscriptions import EventHandler, list_handlers

_log = logging.getLogger(__name__)

#: How often it looks whether it is time, and how often it is.
LOOK_SECONDS = 60.0
EVERY = timedelta(hours=1)

#: How long rows of the journal may wait for their part to be dropped as a whole.
OVERDUE = timedelta(days=7)

#: Before the number of any text.
_FIRST_TEXT = -(2**63)


class Janitor:
    """``keep`` is how long the journal is kept, ``keep_failed`` how long what failed is.

    Where they are None, the active configuration says it.
    """

    def __init__(
        self,
        database: Database,
        keep: timedelta | None = None,
        keep_failed: timedelta | None = None,
    ) -> None:
        self._database = database
        self._keep = keep
        self._keep_failed = keep_failed
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Clear away, when it is time, until cancelled."""
        try:
            while True:
                try:
                    await asyncio.to_thread(self._clear)
                except DatabaseUnavailable as error:
                    _log.info("clearing away later: %s", error)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._stopped.set()

    def _clear(self) -> None:
        with self._database.begin() as connection:
            turn = maintenance.take_turn(connection, self._database, __name__, EVERY)
        if turn:
            self.sweep()
        self._make_parts()

    def sweep(self) -> None:
        """Clear away everything that is old."""
        self.retire_failed()
        removed = self.prune_journal(overdue=OVERDUE)
        if removed:
            _log.info("%d rows of the journal were old, and are removed", removed)
        with self._database.begin() as connection:
            now = self._database.now(connection)
            users.forget_expired(connection, now)
            mass_restarts.forget_old(connection, now)
            maintenance.forget_breakers(connection)
            Dispatches.sweep(connection)
        self._forget_keys()
        self._forget_figures()
        self._forget_audit()
        self._forget_reconciliations()

    def _forget_reconciliations(self) -> None:
        size = self._database.dialect.batch
        self._walk(partial(reconciliation.forget_next, self._database, size), 0)

    def _forget_keys(self) -> None:
        more = True
        while more and not self._stopped.is_set():
            with self._database.begin() as connection:
                more = schedule.forget_keys(connection)

    def _forget_figures(self) -> None:
        size = self._database.dialect.batch
        with self._database.read() as connection:
            now = self._database.now(connection)
        self._walk(lambda connection, _: statistics.prune(connection, now, size), 0)

    def _forget_audit(self) -> None:
        with self._database.read() as connection:
            kept = configuration.active(connection).content.provisioning.keep_audit_days
            old = self._database.now(connection) - timedelta(days=kept)
        more = True
        while more and not self._stopped.is_set():
            with self._database.begin() as connection:
                more = audit.forget(connection, old, self._database.dialect.batch) > 0

    def prunable(self) -> int:
        """How many rows of the journal are old."""
        with self._database.read() as connection:
            return journal.prunable(connection, self._retention(connection))

    def prune_journal(
        self, tell: Callable[[int], None] = lambda _: None, overdue: timedelta = timedelta(0)
    ) -> int:
        """Remove old rows of the journal, and the texts that only they had.

        Returns how many rows; ``tell`` hears of each step how many. Where the journal has parts,
        rows that are ``overdue`` for less wait for their part, which is dropped when all are old.
        """
        size = self._database.dialect.batch
        with self._database.read() as connection:
            keep = self._retention(connection)
            has_parts = parts.may_change(connection)
        rows = self._drop_parts(keep, tell) if has_parts else 0
        if has_parts:
            keep = replace(keep, others=keep.others - overdue)
        rows += self._walk(
            lambda connection, after: journal.prune(connection, keep, after, size), 0, tell
        )
        with self._database.read() as connection:
            in_use = journal.texts_in_use(connection, keep)
        self._walk(
            lambda connection, after: journal.prune_texts(connection, keep, in_use, after, size),
            _FIRST_TEXT,
        )
        return rows

    def _make_parts(self) -> None:
        """Have a part for what will be logged; without one it is pruned row by row."""
        with self._database.begin() as connection:
            if parts.may_change(connection):
                parts.make_ahead(connection)

    def _drop_parts(self, keep: Retention, tell: Callable[[int], None]) -> int:
        total = 0
        try:
            while not self._stopped.is_set():
                with self._database.begin() as connection:
                    gone = journal.drop_next(connection, keep)
                if gone is None:
                    break
                total += gone
                tell(gone)
        except DatabaseUnavailable as error:
            # Somebody reads, or writes, for a long time.
            _log.info("changing the parts of the journal later: %s", error)
        return total

    def retire_failed(self) -> int:
        """Take what failed long ago out of the live tables; the journal keeps it as long again."""
        with self._database.read() as connection:
            old = self._retention(connection).failed
            handlers = list_handlers(connection)
        return sum(self._walk(partial(self._retire_next, one, old), 0) for one in handlers)

    def _retire_next(
        self, handler: EventHandler, old: datetime, connection: Connection, after: int
    ) -> Progress | None:
        return restarts.retire_next(connection, self._database, handler, old, after)

    def _retention(self, connection: Connection) -> Retention:
        now = self._database.now(connection)
        usual = configuration.active(connection).content.provisioning
        keep, keep_failed = self._keep, self._keep_failed
        if keep is None:
            keep = timedelta(days=usual.keep_journal_days)
        if keep_failed is None:
            keep_failed = timedelta(days=usual.keep_failed_days)
        return Retention(failed=now - keep_failed, others=now - keep)

    def _walk(
        self,
        step: Callable[[Connection, int], Progress | None],
        after: int,
        tell: Callable[[int], None] = lambda _: None,
    ) -> int:
        total = 0
        while not self._stopped.is_set():
            began = time.monotonic()
            with self._database.begin() as connection:
                progress = step(connection, after)
            if progress is None:
                break
            total += progress.count
            after = progress.last
            tell(progress.count)
            if progress.count:
                self._stopped.wait(time.monotonic() - began)
        return total
