"""The web application, put together: the ESPF API and the billing API of the reference billing."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Connection, text
from starlette.exceptions import HTTPException

from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import Denied, EspfError, InvalidRequest
from espf.users import User, Users
from espf.web import espf_api, rest
from espf.web.espf_api import Fault
from espf.web.security import authenticate


def build_app(database: Database, sealer: Sealer) -> FastAPI:
    """The application over an open database."""
    users = Users(database, sealer)
    app = FastAPI(
        title="ESPF",
        summary="External System Provisioning Framework",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/doc/api/openapi.json",
        redirect_slashes=False,
    )
    for kind in (EspfError, HTTPException, Exception):
        app.exception_handler(kind)(_reply)
    app.include_router(espf_api.router(database, _guard(users)))
    app.router.routes.extend(rest.routes(database, users, sealer))

    @app.get("/health", tags=["Operation"], responses={503: {"model": Fault}})
    async def health() -> dict[str, str]:
        """Whether the process answers and its database does."""
        await database.fetch(_ping)
        return {"status": "ok"}

    return app


def _guard(users: Users) -> Callable[[Request], Awaitable[User]]:
    async def authenticated(request: Request) -> User:
        return await authenticate(request, users)

    return authenticated


def _ping(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


async def _reply(_request: Request, error: Exception) -> JSONResponse:
    """The one way from an error to a reply. A fault of our own is logged by the server."""
    headers: Mapping[str, str] | None = None
    match error:
        case Denied():
            fault, status = Fault(error=str(error)), error.http_status
            headers = {"WWW-Authenticate": 'Basic realm="ESPF", charset="UTF-8"'}
        case InvalidRequest():
            fault, status = Fault(error=str(error), field=error.field), error.http_status
        case EspfError():
            fault, status = Fault(error=str(error)), error.http_status
        case HTTPException():
            fault, status, headers = Fault(error=error.detail), error.status_code, error.headers
        case _:
            fault, status = Fault(error="something went wrong inside ESPF; its log tells what"), 500
    return JSONResponse(fault.model_dump(exclude_none=True), status, headers)
