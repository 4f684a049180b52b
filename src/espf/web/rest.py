"""/rest/<Service>/<method>: the reference billing behind the vendor's JSON API.

A request is an envelope of ``auth_info`` and ``params``, as JSON or as a form. Every answer is a
JSON object; whatever goes wrong is a fault, ``{"faultcode", "faultstring"}`` with HTTP 500.
The methods themselves are in ``methods``.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from espf.billing.fields import Key, Params
from espf.billing.scope import Result, Scope
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import BillingFault, DatabaseUnavailable, Denied, EspfError, InvalidRequest
from espf.model import MAX_ENV, compact, format_time
from espf.tokens import Forged
from espf.users import ADMINISTER, READ, SCOPES, SIM_KEYS, Tokens, User, Users
from espf.web import security
from espf.web.body import TooLarge, read_body
from espf.web.methods import METHODS, AuthInfo, Login, Method, OneSession, Refresh

MAX_BODY = 1024 * 1024

#: Problems of one request that its fault tells about.
MAX_PROBLEMS = 5

P = TypeVar("P", bound=Params)

_log = logging.getLogger(__name__)
_key: TypeAdapter[int] = TypeAdapter(Key)


@dataclass(frozen=True)
class Envelope:
    """What a request carries. ``auth_info`` is None when the body holds none."""

    auth_info: dict[str, Any] | None
    params: dict[str, Any]


def routes(database: Database, users: Users, sealer: Sealer) -> list[Route]:
    """The routes of the billing API over an open database that holds the reference billing."""
    api = _RestApi(database, users, sealer)
    return [Route("/rest/{service}/{method}", api.reply, methods=["POST"])]


class _RestApi:
    def __init__(self, database: Database, users: Users, sealer: Sealer) -> None:
        self._database = database
        self._users = users
        self._sealer = sealer
        self._sessions: Mapping[str, Callable[[dict[str, Any]], Awaitable[Result]]] = {
            "login": self._login,
            "refresh_access_token": self._refresh,
            "ping": self._ping,
            "logout": self._logout,
        }

    async def reply(self, request: Request) -> Response:
        """Answer one request: the one way from an error to a fault."""
        service, method = request.path_params["service"], request.path_params["method"]
        try:
            answer, status = await self._answer(service, method, request), 200
        except EspfError as error:
            answer, status = _fault(error, service, method), 500
        except Exception:  # noqa: BLE001  (the edge: a caller gets a fault, never a traceback)
            _log.exception("%s/%s failed", service, method)
            answer, status = _fault(EspfError(), service, method), 500
        return Response(render(answer), status, media_type="application/json")

    async def _answer(self, service: str, name: str, request: Request) -> Result:
        session = self._sessions.get(name) if service == "Session" else None
        method = METHODS.get(f"{service}/{name}")
        if session is None and method is None:
            known = {"Session", *(known.partition("/")[0] for known in METHODS)}
            code = "unknown_method" if service in known else "unknown_service"
            raise BillingFault(f"Client.{code}", "there is no such service or method")
        envelope = await read_envelope(request)
        if session is not None:
            return await session(envelope.params)
        assert method is not None
        user = await self._user(request, envelope)
        if not user.may(ADMINISTER if method.writes else READ):
            raise BillingFault(
                "Server.access_denied", f"the role {user.role} may read, and change nothing"
            )
        i_env = _environment(user, envelope.params)
        return await self._serve(method, validated(method.params, envelope.params), user, i_env)

    async def _serve(self, method: Method[P], params: P, user: User, i_env: int) -> Result:
        def serve(connection: Connection) -> Result:
            scope = Scope(
                connection,
                i_env,
                self._database.now(connection),
                self._sealer,
                sees_keys=SIM_KEYS in user.rights,
            )
            scope.require_environment()
            return method.serve(scope, params)

        run = self._database.write if method.writes else self._database.fetch
        return await run(serve)

    async def _user(self, request: Request, envelope: Envelope) -> User:
        """The user named in the body or, failing that, in the Authorization header."""
        if envelope.auth_info is not None:
            return await self._named(envelope.auth_info)
        header = request.headers.get("authorization")
        if header is None:
            raise BillingFault("Client.check_auth.envelope_missed", "auth_info is missing: log in")
        try:
            return await security.authenticate(request, self._users)
        except Denied as error:
            raise _unknown_caller(error, by_token=header.lower().startswith("bearer")) from None

    async def _named(self, auth_info: dict[str, Any]) -> User:
        if not auth_info:
            raise BillingFault("Client.check_auth.envelope_missed", "auth_info is empty: log in")
        try:
            who = validated(AuthInfo, auth_info)
        except InvalidRequest as error:
            raise BillingFault(
                "Client.check_auth.invalid_auth_info", f"auth_info: {error}"
            ) from None
        try:
            if who.access_token is not None:
                return await asyncio.to_thread(self._users.by_token, who.access_token)
            if who.session_id is not None:
                return await asyncio.to_thread(self._users.by_session, who.session_id)
            assert who.login is not None
            assert who.password is not None
            return await security.by_password(self._users, who.login, who.password)
        except Denied as error:
            raise _unknown_caller(error, by_token=who.access_token is not None) from None

    async def _login(self, params: dict[str, Any]) -> Result:
        who = validated(Login, params)
        try:
            user = await security.by_password(self._users, who.login, who.password)
        except Denied as error:
            raise BillingFault("Server.Session.auth_failed", str(error)) from None
        scopes = SCOPES if who.scopes is None else frozenset(who.scopes.split())
        tokens = await asyncio.to_thread(self._users.open_session, user, scopes)
        return {"session_id": tokens.session_id, **_shown(tokens)}

    async def _refresh(self, params: dict[str, Any]) -> Result:
        token = validated(Refresh, params).refresh_token
        try:
            return _shown(await asyncio.to_thread(self._users.refresh, token))
        except Denied as error:
            raise BillingFault(
                "Client.Session.refresh_access_token.failed_to_process_refresh_token", str(error)
            ) from None

    async def _ping(self, params: dict[str, Any]) -> Result:
        session = validated(OneSession, params)
        try:
            if session.access_token is not None:
                user = await asyncio.to_thread(self._users.by_token, session.access_token)
            else:
                user = await asyncio.to_thread(self._users.by_session, session.session_id or "")
        except Denied:
            return {"user_id": 0}
        return {"user_id": user.i_user}

    async def _logout(self, params: dict[str, Any]) -> Result:
        session = validated(OneSession, params)
        if session.access_token is not None:
            await asyncio.to_thread(self._users.close_session, session.access_token)
        else:
            await asyncio.to_thread(self._users.close_session_id, session.session_id or "")
        return {"success": 1}


def _shown(tokens: Tokens) -> Result:
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "expires_at": tokens.expires_at,
    }


def _unknown_caller(error: Denied, *, by_token: bool) -> BillingFault:
    if isinstance(error, Forged):
        code = "Client.Session.check_auth.failed_to_process_jwt"
    elif by_token:
        code = "Client.Session.check_auth.failed_to_process_access_token"
    else:
        code = "Server.Session.check_auth.auth_failed"
    return BillingFault(code, str(error))


def _environment(user: User, params: dict[str, Any]) -> int:
    """Take ``i_env`` out of the parameters: the user's own, or any for a superuser."""
    if "i_env" not in params:
        return user.i_env
    try:
        i_env = _key.validate_python(params.pop("i_env"))
    except ValidationError:
        raise InvalidRequest("i_env: a whole number above 0 is expected", "i_env") from None
    if i_env > MAX_ENV:
        raise InvalidRequest(f"i_env: at most {MAX_ENV}", "i_env")
    if i_env != user.i_env and not user.superuser:
        raise BillingFault(
            "Client.environment_denied", "i_env: only a superuser may name another environment"
        )
    return i_env


class InvalidParameters(InvalidRequest):
    """Some parameters are wrong; ``problems`` are pairs of a field and what is wrong with it."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        text = "; ".join(f"{field}: {what}" if field else what for field, what in problems)
        super().__init__(text, problems[0][0] or None)
        self.problems = problems


def validated(model: type[P], params: dict[str, Any]) -> P:
    """The parameters as their model has them. Raises InvalidParameters."""
    try:
        return model.model_validate(params)
    except ValidationError as error:
        problems = [
            (
                ".".join(str(part) for part in problem["loc"])[:100],
                "there is no such parameter"
                if problem["type"] == "extra_forbidden"
                else problem["msg"].removeprefix("Value error, "),
            )
            for problem in error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]
        ]
        raise InvalidParameters(problems) from None


def _fault(error: EspfError, service: str, method: str) -> Result:
    match error:
        case BillingFault():
            code = error.code
        case InvalidRequest():
            code = f"Client.{service}.{method}.invalid_parameter"
        case DatabaseUnavailable():
            code = "Server.unavailable"
        case _:
            code = "Server.internal_error"
    return {"faultcode": code, "faultstring": str(error)}


async def read_envelope(request: Request) -> Envelope:
    """Read a request's body in any of the three content types. Raises BillingFault."""
    body = await _body(request)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json":
        fields = _object(body, "the body")
    elif kind in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        fields = {
            name: _object(value.encode(errors="replace"), name)
            for name, value in (await _form(request, body)).items()
        }
    else:
        raise _malformed(
            "Content-Type: application/json, application/x-www-form-urlencoded or "
            "multipart/form-data is expected"
        )
    if unknown := fields.keys() - {"auth_info", "params"}:
        raise _malformed(f"the body: {min(unknown)[:100]!r} is neither auth_info nor params")
    params = fields.get("params", {})
    auth_info = fields.get("auth_info")
    if not isinstance(params, dict) or not isinstance(auth_info, dict | None):
        raise _malformed("auth_info and params must be JSON objects")
    return Envelope(auth_info, params)


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request, MAX_BODY)
    except TooLarge as error:
        raise BillingFault("Client.request_too_large", str(error)) from None
    except InvalidRequest as error:
        raise _malformed(str(error)) from None


async def _form(request: Request, body: bytes) -> dict[str, str]:
    """The fields of a form, urlencoded or multipart; files are refused."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, replay).form(max_files=0, max_fields=10) as form:
            return {name: value for name, value in form.items() if isinstance(value, str)}
    except HTTPException as error:
        raise _malformed(f"the form cannot be read: {error.detail}") from None


def _object(text: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object; numbers with a point or an exponent become Decimal, exactly."""
    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _malformed(f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise _malformed(f"{name} must be a JSON object")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _malformed(text: str) -> BillingFault:
    return BillingFault("Client.malformed_request", text)


def render(value: object) -> str:
    """Write an answer as JSON, money digit by digit and never through a float.

    Money always has a decimal point, so that typed clients read the same type every time.
    """
    match value:
        case Mapping():
            members = (f"{compact(name)}:{render(member)}" for name, member in value.items())
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(render, value)) + "]"
        case Decimal():
            # Adding 0 turns -0 into 0; normalize drops the zeros at the end.
            digits = f"{(value + 0).normalize():f}"
            return digits if "." in digits else f"{digits}.0"
        case datetime():
            return compact(format_time(value))
        case date():
            return compact(value.isoformat())
        case _:
            return compact(value)
