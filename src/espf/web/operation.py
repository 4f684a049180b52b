"""For those who watch a process: its metrics, and whether it lives and is ready.

They are served twice: beside the APIs, where metrics are for superusers, and on an address of their
own that needs no credentials, since only the machine or a network of trust reaches it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol

from prometheus_client import Metric
from sqlalchemy import Connection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from espf.db import schema
from espf.db.database import Database
from espf.errors import EspfError
from espf.metrics import DatabaseMetrics, exposition
from espf.users import Users
from espf.web.contract import Forbidden
from espf.web.security import authenticate

#: After so long a database that does not answer is away, as far as those can tell who ask.
PATIENCE_SECONDS = 5.0


class Watched(Protocol):
    """What a process does beside serving."""

    def metrics(self) -> Iterable[Metric]:
        """What it tells Prometheus."""
        ...

    def problems(self) -> Iterable[str]:
        """Why it does not do what it is there for; nothing: it does."""
        ...


class Operation:
    """What is told of a process.

    ``serves``: it serves the APIs, and tells what the database knows. ``works``: it does something
    else, too, which is ``watched`` as soon as it has begun. ``rules`` is the setting.
    """

    def __init__(
        self, database: Database, rules: Path | None, *, serves: bool, works: bool = False
    ) -> None:
        self._database = database
        self._works = works
        self._of_database = DatabaseMetrics(database, rules) if serves else None
        self.watched: Watched | None = None

    async def metrics(self, request: Request) -> Response:
        """The metrics, in the form that the scraper accepts."""
        found: list[Metric] = []
        if self._of_database is not None:
            found += await self._of_database.collect()
        if self.watched is not None:
            found += self.watched.metrics()
        text, content_type = exposition(found, request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    async def alive(self, _request: Request) -> Response:
        """The process lives: it answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Whether it can do what it is there for; else 503, and what is wrong."""
        if problems := await self._problems():
            return JSONResponse({"status": "not ready", "problems": problems}, 503)
        return JSONResponse({"status": "ok"})

    async def _problems(self) -> list[str]:
        problems = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._database.fetch(self._look)
        except EspfError as error:
            problems.append(str(error))
        except TimeoutError:
            problems.append(f"the database does not answer within {PATIENCE_SECONDS:.0f} s")
        if self.watched is not None:
            problems += self.watched.problems()
        elif self._works:
            problems.append("the worker has not begun")
        return problems

    def _look(self, connection: Connection) -> None:
        schema.require_current(connection, self._database.dialect)


def routes(operation: Operation, users: Users | None = None) -> list[Route]:
    """Where it is told; with ``users``, metrics are for superusers."""
    metrics: Callable[[Request], Awaitable[Response]] = operation.metrics
    if users is not None:

        async def metrics(request: Request) -> Response:
            user = await authenticate(request, users)
            if not user.superuser:
                raise Forbidden("metrics are about the whole installation: only for superusers")
            return await operation.metrics(request)

    return [
        Route("/metrics", metrics, methods=["GET"]),
        Route("/healthz", operation.alive, methods=["GET"]),
        Route("/readyz", operation.ready, methods=["GET"]),
    ]


def build_operation(operation: Operation) -> Starlette:
    """The application for an address of its own."""
    return Starlette(routes=routes(operation))
