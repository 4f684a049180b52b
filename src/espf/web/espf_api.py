"""/espf/v1: the ESPF API, with which applications put events into the queue."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, WithJsonSchema
from sqlalchemy import Connection
from starlette.requests import ClientDisconnect

from espf.billing import references
from espf.db.database import Database
from espf.errors import InvalidRequest, NotFound
from espf.model import parse_time
from espf.queue import Queue
from espf.users import User

MAX_BODY = 256 * 1024

#: Characters of a parameter's name that an error repeats.
LONGEST_FIELD = 100


class NewEvent(BaseModel):
    """An event to put into the queue."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "event_type": "Custom/NextMonth",
                    "variables": {"i_account": 541},
                    "start_time": "2027-03-01 00:00:00",
                }
            ]
        },
    )

    event_type: Annotated[str, Field(description="A type of the catalogue, or a custom one.")]
    variables: Annotated[
        dict[str, JsonValue],
        Field(description="What the event tells; i_account says whom about."),
        WithJsonSchema({"type": "object"}),
    ] = {}
    start_time: Annotated[
        str | None,
        Field(description="When it is due: UTC 'YYYY-MM-DD HH:MM:SS', or ISO 8601 with offset."),
    ] = None
    i_env: Annotated[
        int | None,
        Field(
            strict=True,
            ge=1,
            lt=2**63,
            description="Another environment than your own; superusers only.",
        ),
    ] = None


class CreatedEvent(BaseModel):
    """The number of the event."""

    i_event: int


class Fault(BaseModel):
    """What every error looks like; ``field`` names the parameter at fault."""

    error: str
    field: str | None = None


class Scheme(SecurityBase):
    """A way to say who calls, for the OpenAPI document; ``authenticate`` is what checks it."""

    def __init__(self, name: str) -> None:
        self.model = HTTPBase(scheme=name)
        self.scheme_name = name

    async def __call__(self) -> None:
        """Check nothing."""


def router(database: Database, authenticated: Callable[[Request], Awaitable[User]]) -> APIRouter:
    """The routes of the API, for users that ``authenticated`` lets in."""
    api = APIRouter(
        prefix="/espf/v1",
        tags=["ESPF API"],
        dependencies=[Depends(Scheme("basic")), Depends(Scheme("bearer"))],
        responses={status: {"model": Fault} for status in (400, 401, 503)},
    )
    queue = Queue(database)

    @api.post(
        "/event/create",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": NewEvent.model_json_schema()}},
            }
        },
    )
    async def create_event(
        request: Request, user: Annotated[User, Depends(authenticated)]
    ) -> CreatedEvent:
        """Put an event into the queue, now or at ``start_time``."""
        new = _new_event(await _body(request))
        i_env = _environment(user, new.i_env)
        start_time = None
        if new.start_time is not None:
            try:
                start_time = parse_time(new.start_time)
            except ValueError as error:
                raise InvalidRequest(str(error), "start_time") from None

        def create(connection: Connection) -> int:
            references.check(connection, i_env, new.variables)
            try:
                return queue.create_event(
                    connection, i_env, new.event_type, new.variables, start_time
                )
            except NotFound as error:
                raise InvalidRequest(str(error), "event_type") from None

        return CreatedEvent(i_event=await database.write(create))

    return api


async def _body(request: Request) -> bytes:
    """The body, as long as it is not too long."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise InvalidRequest(f"the body is larger than {MAX_BODY} bytes", "body")
    except ClientDisconnect:
        raise InvalidRequest("the body ends too early", "body") from None
    return bytes(body)


def _new_event(body: bytes) -> NewEvent:
    try:
        return NewEvent.model_validate_json(body)
    except ValidationError as error:
        problem: Any = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"])[:LONGEST_FIELD] or "body"
        unknown = problem["type"] == "extra_forbidden"
        said = "there is no such parameter" if unknown else problem["msg"]
        raise InvalidRequest(f"{field}: {said}", field) from None


def _environment(user: User, i_env: int | None) -> int:
    """The environment to act in. Only a superuser may name another than its own."""
    if i_env is None or i_env == user.i_env:
        return user.i_env
    if not user.superuser:
        raise InvalidRequest("i_env: only a superuser may name another environment", "i_env")
    return i_env
