"""The web application, put together: the ESPF API and the billing API of the reference billing."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import Connection, text

from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import Denied, EspfError
from espf.users import User, Users
from espf.web import espf_api, rest
from espf.web.security import authenticate


class Fault(BaseModel):
    """What every error of the ESPF API looks like; ``field`` names the parameter at fault."""

    error: str
    field: str | None = None


def build_app(database: Database, sealer: Sealer) -> FastAPI:
    """The application over an open database."""
    users = Users(database)
    app = FastAPI(
        title="ESPF",
        summary="External System Provisioning Framework",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/doc/api/openapi.json",
        responses={400: {"model": Fault}, 401: {"model": Fault}, 503: {"model": Fault}},
    )
    app.exception_handler(EspfError)(_reply)
    app.include_router(espf_api.router(database, _guard(users)))
    app.router.routes.extend(rest.routes(database, users, sealer))

    @app.get("/health", tags=["Operation"])
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
    """The one way from an error to a reply."""
    assert isinstance(error, EspfError)
    fault = Fault(error=str(error), field=getattr(error, "field", None))
    headers = {"WWW-Authenticate": 'Basic realm="ESPF"'} if isinstance(error, Denied) else None
    return JSONResponse(fault.model_dump(exclude_none=True), error.http_status, headers)
