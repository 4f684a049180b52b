"""What every request to the ESPF API has in common: who calls, for which environment, with what.

Whoever may not come in does not hear what else is wrong with a request. Whatever a request holds
that nobody asked for is refused by name, so that a typing error does nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar
from urllib.parse import parse_qsl

from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from sqlalchemy import Connection

from espf import audit
from espf.billing import references
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import Denied, InvalidRequest, NotFound
from espf.model import format_time
from espf.queue import Queue
from espf.trial import Trials
from espf.users import ADMINISTER, READ, User, Users
from espf.web import security
from espf.web.body import read_body

MAX_BODY = 256 * 1024

#: Characters of a parameter's name that an error repeats.
LONGEST_FIELD = 100

#: Requests that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD"})

FORM = "application/x-www-form-urlencoded"

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Forbidden(Denied):
    """You may not do this."""

    http_status = 403


class Fault(BaseModel):
    """What every error looks like; ``field`` names the parameter at fault."""

    error: str
    field: str | None = None


#: What every route may answer beside its own reply.
FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": Fault, "description": "Something in the request is wrong"},
    401: {"model": Fault, "description": "No credentials, or wrong ones"},
    403: {"model": Fault, "description": "These credentials do not allow it"},
    404: {"model": Fault, "description": "There is no such thing, or it is not yours"},
    405: {"model": Fault, "description": "The address wants another method"},
    409: {"model": Fault, "description": "It is there already, or its state does not allow this"},
    503: {"model": Fault, "description": "The database cannot be used now; try again"},
}


def _whole(value: object) -> object:
    """JSON knows no other numbers than those with a point: 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
Number = Annotated[int, Field(ge=1, lt=2**63), Whole]
PathNumber = Annotated[int, PathParameter(ge=1, lt=2**63, examples=[1])]

#: Environments, handlers and groups are few, and so are the bits of their numbers.
SmallNumber = Annotated[int, Field(ge=1, lt=2**31), Whole]
SmallPathNumber = Annotated[int, PathParameter(ge=1, lt=2**31, examples=[1])]

#: No database takes a text with a NUL in it.
Text = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00]*$")]

Time = Annotated[
    datetime,
    PlainSerializer(format_time),
    WithJsonSchema({"type": "string", "description": "UTC, YYYY-MM-DD HH:MM:SS"}),
]


class RequestBody(BaseModel):
    """What a request's body may hold, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Site:
    """What the application works with; ``rules`` is the setting that names the capture rules."""

    database: Database
    sealer: Sealer
    users: Users
    trials: Trials
    rules: Path | None = None

    @cached_property
    def queue(self) -> Queue:
        """The way into the queue."""
        return Queue(self.database)

    @classmethod
    def of(cls, app: FastAPI) -> "Site":
        """The site of an application."""
        site = app.state.site
        assert isinstance(site, cls)
        return site


@dataclass(frozen=True)
class Call:
    """One request: who calls, and the environment that it is about."""

    site: Site
    user: User
    i_env: int

    #: How the caller came in, for the audit log.
    door: ClassVar[str] = "api"

    def note(
        self,
        connection: Connection,
        action: str,
        subject: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        *,
        everywhere: bool = False,
    ) -> None:
        """Write into the audit log what the caller does, in the transaction that does it.

        ``everywhere``: it concerns the whole installation.
        """
        audit.record(
            connection,
            self.site.database,
            audit.Actor(self.user.login, self.door),
            action,
            subject,
            i_env=None if everywhere else self.i_env,
            before=before,
            after=after,
        )

    async def fetch(
        self, read: Callable[Concatenate[Connection, P], T], *args: P.args, **words: P.kwargs
    ) -> T:
        """Run a function that only reads. Raises NotFound for an unknown environment."""
        return await self.site.database.fetch(self._checked(read), *args, **words)

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **words: P.kwargs
    ) -> T:
        """Run a function in a transaction of its own. Raises as ``fetch``."""
        return await self.site.database.write(self._checked(change), *args, **words)

    def elsewhere(self, i_env: int | None) -> "Call":
        """The same for another environment, which only a superuser may name."""
        if i_env is None or i_env == self.i_env:
            return self
        if not self.user.superuser and i_env != self.user.i_env:
            raise InvalidRequest("i_env: only a superuser may name another environment", "i_env")
        return Call(self.site, self.user, i_env)

    def _checked(
        self, work: Callable[Concatenate[Connection, P], T]
    ) -> Callable[Concatenate[Connection, P], T]:
        if self.i_env == self.user.i_env:
            return work

        def checked(connection: Connection, /, *args: P.args, **words: P.kwargs) -> T:
            try:
                references.check(connection, self.i_env, {})
            except InvalidRequest as error:
                raise NotFound(str(error)) from None
            return work(connection, *args, **words)

        return checked


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """What is not there was named in a field of the body: that is what is wrong."""
    try:
        yield
    except NotFound as error:
        raise InvalidRequest(str(error), field) from None


async def authenticated(request: Request) -> User:
    """Who calls. Raises Denied."""
    return await security.authenticate(request, Site.of(request.app).users)


class Gate:
    """Lets in who may use a part of the API that is about the whole installation.

    Raises Forbidden for a token without the scope, and for who may not do what a change ``needs``;
    with ``superuser`` for everybody else, too.
    """

    def __init__(self, scope: str, needs: str = ADMINISTER, *, superuser: bool = False) -> None:
        self.scope = scope
        self.needs = needs
        self.superuser = superuser

    async def __call__(
        self, request: Request, user: Annotated[User, Depends(authenticated)]
    ) -> Call:
        """The call, in the user's own environment."""
        if self.scope not in user.scopes:
            raise Forbidden(f"the token has not the scope {self.scope}")
        needs = READ if request.method in SAFE_METHODS else self.needs
        if not user.may(needs):
            raise Forbidden(f"the role {user.role} does not allow this")
        if self.superuser and not user.superuser:
            raise Forbidden("this is about the whole installation: only a superuser may do it")
        _refuse_unknown(request)
        return Call(Site.of(request.app), user, user.i_env)


class Caller:
    """Lets in who may use a part of the API, and says for which environment. Raises Forbidden."""

    def __init__(self, scope: str, needs: str = ADMINISTER) -> None:
        self.gate = Gate(scope, needs)

    async def __call__(
        self,
        request: Request,
        user: Annotated[User, Depends(authenticated)],
        i_env: Annotated[
            SmallNumber | None,
            Query(description="Another environment than your own; superusers only."),
        ] = None,
    ) -> Call:
        """The call, in the environment that is named."""
        return (await self.gate(request, user)).elsewhere(i_env)


def _refuse_unknown(request: Request) -> None:
    """Raise InvalidRequest for a parameter of the address that the route does not document."""
    if not request.query_params:
        return
    paths = request.app.openapi()["paths"]
    operation = paths[request.scope["route"].path_format][request.method.lower()]
    known = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    if unknown := sorted(request.query_params.keys() - known):
        field = unknown[0][:LONGEST_FIELD]
        raise InvalidRequest(f"{field}: there is no such parameter", field)


class Body(Generic[M]):
    """Reads the body of a request as JSON, and where ``form`` says so as a form, too."""

    def __init__(self, model: type[M], *, form: bool = False) -> None:
        self.model = model
        self.form = form

    async def __call__(self, request: Request, _user: Annotated[User, Depends(authenticated)]) -> M:
        """What the body holds. Raises InvalidRequest that names what is wrong."""
        body = await read_body(request, MAX_BODY)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            # What curl says of any body, unless it is told otherwise.
            if self.form and kind == FORM and not body.lstrip().startswith(b"{"):
                return self.model.model_validate(_fields(body), strict=False)
            return self.model.model_validate_json(body or b"{}" if self._may_be_empty else body)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_input=False)[0]) from None

    @property
    def _may_be_empty(self) -> bool:
        return not any(field.is_required() for field in self.model.model_fields.values())

    @property
    def openapi(self) -> dict[str, Any]:
        """What the description of a route says about its body."""
        content = {"schema": self.model.model_json_schema()}
        kinds = ("application/json", FORM) if self.form else ("application/json",)
        return {
            "requestBody": {
                "required": not self._may_be_empty,
                "content": dict.fromkeys(kinds, content),
            }
        }


def invalid(problem: Mapping[str, Any]) -> InvalidRequest:
    """What pydantic found wrong, as an error that names the field."""
    place = [str(part) for part in problem["loc"] if part not in {"query", "path"}]
    field = ".".join(place)[:LONGEST_FIELD] or "body"
    unknown = problem["type"] == "extra_forbidden"
    said = "there is no such parameter" if unknown else problem["msg"]
    return InvalidRequest(f"{field}: {said.removeprefix('Value error, ')}", field)


class Scheme(SecurityBase):
    """A way to say who calls, for the OpenAPI document; ``authenticated`` is what checks it."""

    def __init__(self, name: str) -> None:
        self.model = HTTPBase(scheme=name)
        self.scheme_name = name

    async def __call__(self) -> None:
        """Check nothing."""


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form. Raises InvalidRequest."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise InvalidRequest("the body is no form", "body") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest("the body names a field twice", "body")
    return fields
