"""The database as the worker has it: when it is away, wait and go on."""

import asyncio
import logging
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

    A transaction that met a database that was away has changed nothing, so running it again is
    safe.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._away = False

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See Database.write."""
        return await self._insist(lambda: self._database.write(work, *args, **kwargs))

    async def fetch(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See Database.fetch."""
        return await self._insist(lambda: self._database.fetch(work, *args, **kwargs))

    async def _insist(self, transaction: Callable[[], Awaitable[T]]) -> T:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = await transaction()
            except DatabaseUnavailable as error:
                if not self._away:
                    self._away = True
                    _log.warning("waiting for the database: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                if self._away:
                    self._away = False
                    _log.warning("the database is back")
                return result
