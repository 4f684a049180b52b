"""The database as the worker has it: when it is away, wait and go on."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from espf.db.database import Database
from espf.errors import DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class PatientDatabase:
    """Runs transactions until the database takes them; says once that it is away, once that not.

    A transaction that met a database that was away has changed nothing, unless it went away between
    the commit and the reply: so what runs here must do no harm when it runs again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # What does not work now: reading may, while somebody else's lock keeps us from writing.
        self._away: set[str] = set()
        #: How many transactions found the database away; each was tried again.
        self.failures: Counter[str] = Counter()

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See Database.write."""
        return await self._insist("write", lambda: self._database.write(work, *args, **kwargs))

    async def fetch(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See Database.fetch."""
        return await self._insist("read", lambda: self._database.fetch(work, *args, **kwargs))

    async def ask(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what reads without a thread."""
        return await self._insist("read", lambda: work(*args, **kwargs))

    async def _insist(self, what: str, transaction: Callable[[], Awaitable[T]]) -> T:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = await transaction()
            except DatabaseUnavailable as error:
                if not self._away:
                    _log.warning("waiting for the database: %s", error)
                self._away.add(what)
                self.failures[what] += 1
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                if what in self._away:
                    self._away.discard(what)
                    if not self._away:
                        _log.warning("the database is back")
                return result
