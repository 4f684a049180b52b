"""The web application, put together: the ESPF API and the billing API of the reference billing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection, text
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import Denied, EspfError, InvalidRequest
from espf.trial import Trials, WayToBilling
from espf.users import Users
from espf.web import (
    alerts_api,
    configuration_api,
    description,
    espf_api,
    events_api,
    handlers_api,
    reconciliation_api,
    rest,
    rest_description,
)
from espf.web.contract import Fault, Forbidden, Site, invalid
from espf.web.operation import Operation, routes
from espf.web.pages import (
    accounts,
    audit,
    configurations,
    customers,
    dashboard,
    event,
    event_types,
    events,
    handlers,
    products,
    reconciling,
    restarting,
    session,
    setup,
    shell,
    sim_cards,
    subscriptions,
    system,
    timeline,
    trial,
)
from espf.web.pages import (
    users as user_pages,
)
from espf.web.pages.visit import NotLoggedIn, Visit, logged_in

#: The pages of the console.
CONSOLE = (
    dashboard,
    setup,
    session,
    trial,
    reconciling,
    handlers,
    subscriptions,
    event_types,
    system,
    user_pages,
    audit,
    configurations,
    customers,
    accounts,
    products,
    sim_cards,
    events,
    restarting,
    event,
    timeline,
)


def build_app(
    database: Database,
    sealer: Sealer,
    rules: Path | None = None,
    operation: Operation | None = None,
    way_to_billing: WayToBilling | None = None,
) -> FastAPI:
    """The application over an open database; ``rules`` is the setting.

    ``operation``: of a process that does more than to serve. ``way_to_billing`` is for handlers
    that are tried out.
    """
    users = Users(database, sealer)
    app = _App(
        title="ESPF",
        summary="External System Provisioning Framework",
        description=description.INTRODUCTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/doc/api/openapi.json",
        redirect_slashes=False,
    )
    app.add_middleware(_Guarded)
    app.state.site = Site(database, sealer, users, Trials(sealer, way_to_billing), rules)
    for kind in (EspfError, HTTPException, RequestValidationError, Exception):
        app.exception_handler(kind)(_reply)
    app.state.throttle = session.Throttle()
    # Routes are tried in this order, and nobody asks as often as handlers ask the billing.
    app.router.routes.extend(rest.routes(database, users, sealer))
    app.router.routes.extend(_routes())
    app.mount("/static", shell.Static())
    operation = operation or Operation(database, rules, serves=True)
    app.router.routes.extend(routes(operation, users))

    @app.get("/health", tags=["Operation"], responses={503: {"model": Fault}})
    async def health() -> dict[str, str]:
        """Whether the process answers and its database does."""
        await database.fetch(_ping)
        return {"status": "ok"}

    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """What is the same for all databases; to make it takes longer than all else."""
    router = APIRouter()
    for part in (
        *(espf_api, events_api, handlers_api),
        *(reconciliation_api, configuration_api, alerts_api),
    ):
        router.include_router(part.api)
    router.include_router(description.pages)
    for page in CONSOLE:
        router.include_router(page.pages, include_in_schema=False)
    return router.routes


class _Guarded:
    """Tells browsers to guess no types and to keep nothing, where a reply says nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                # To say so of what a browser holds would make it throw that away.
                if message["status"] != 304:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, guarded)


class _App(FastAPI):
    """FastAPI with a description that says what is true."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            description.mend(document)
            rest_description.add_to(document)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _ping(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


async def _reply(request: Request, error: Exception) -> Response:
    """The one way from an error to a reply. A fault of our own is logged by the server."""
    if isinstance(error, NotLoggedIn):
        return shell.to_login(request)
    reply = _fault(request, error)
    if shell.wants_page(request):
        return await _page(request, reply)
    return JSONResponse(reply.fault.model_dump(exclude_none=True), reply.status, reply.headers)


async def _page(request: Request, reply: "_Fault") -> Response:
    """A fault for people, with the menu around it where they are logged in."""
    try:
        visit = Visit.of(request, await logged_in(request))
    except EspfError:
        visit = None
    return shell.fault(request, reply.status, reply.fault.error, {"visit": visit})


@dataclass(frozen=True)
class _Fault:
    fault: Fault
    status: int
    headers: dict[str, str] | None


def _fault(request: Request, error: Exception) -> _Fault:
    headers: dict[str, str] | None = None
    if isinstance(error, RequestValidationError):
        error = invalid(error.errors()[0])
    match error:
        case Forbidden():
            fault, status = Fault(error=str(error)), error.http_status
        case Denied():
            fault, status = Fault(error=str(error)), error.http_status
            headers = {"WWW-Authenticate": 'Basic realm="ESPF", charset="UTF-8"'}
        case InvalidRequest():
            fault, status = Fault(error=str(error), field=error.field), error.http_status
        case EspfError():
            fault, status = Fault(error=str(error)), error.http_status
        case HTTPException():
            fault, status = Fault(error=error.detail), error.status_code
            headers = {"Allow": _allowed(request)} if status == 405 else None
        case _:
            fault, status = Fault(error="something went wrong inside ESPF; its log tells what"), 500
    return _Fault(fault, status, headers)


def _allowed(request: Request) -> str:
    """The methods that an address knows: several routes may share it."""
    methods = {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods))
