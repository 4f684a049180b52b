"""/rest/<Service>/<method>: the reference billing behind the vendor's JSON API.

A request is an envelope of ``auth_info`` and ``params``, as JSON or as a form. Every answer is a
JSON object; whatever goes wrong is a fault, ``{"faultcode", "faultstring"}`` with HTTP 500.
Adding a method is one entry in ``METHODS``.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from espf import statuses
from espf.billing import (
    access_policies,
    accessibility,
    accounts,
    aliases,
    connections,
    custom_fields,
    customer_sites,
    customers,
    dids,
    follow_me,
    invoices,
    ip_devices,
    payment_transactions,
    payments,
    products,
    quotas,
    service_features,
    sim_cards,
)
from espf.billing.custom_fields import CustomFields
from espf.billing.fields import Key, Page, Params
from espf.billing.scope import Result, Scope
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import BillingFault, DatabaseUnavailable, Denied, EspfError, InvalidRequest
from espf.model import MAX_ENV, compact, format_time
from espf.tokens import Forged
from espf.users import ADMINISTER, READ, SCOPES, SIM_KEYS, Tokens, User, Users
from espf.web import security

MAX_BODY = 1024 * 1024

#: Problems of one request that its fault tells about.
MAX_PROBLEMS = 5

P = TypeVar("P", bound=Params)

_log = logging.getLogger(__name__)
_key: TypeAdapter[int] = TypeAdapter(Key)


@dataclass(frozen=True)
class Method(Generic[P]):
    """One method of the billing: the model of its parameters, and the function that serves it."""

    params: type[P]
    serve: Callable[[Scope, P], Result]
    writes: bool = False


_ACCOUNT_FIELDS, _CUSTOMER_FIELDS = CustomFields("account"), CustomFields("customer")
_CARD_FIELDS = CustomFields("sim_card")


def _get_account_info(scope: Scope, params: accounts.GetAccount) -> Result:
    """What the billing knows of an account, and what applications have reported about it."""
    result = accounts.get_info(scope, params)
    info = result["account_info"]
    info["provisioning_statuses"] = [
        {
            "i_group": str(one.group.i_group),
            "group": one.group.name,
            "status": one.status,
            "message": one.message,
            "reported_at": one.reported_at,
        }
        for one in statuses.of_account(scope.connection, scope.i_env, info["i_account"])
    ]
    return result


METHODS: Mapping[str, Method[Any]] = {
    "Account/add_account": Method(accounts.AddAccount, accounts.add, writes=True),
    "Account/update_account": Method(accounts.UpdateAccount, accounts.update_fields, writes=True),
    "Account/terminate_account": Method(accounts.TerminateAccount, accounts.terminate, writes=True),
    "Account/move_account": Method(accounts.MoveAccount, accounts.move, writes=True),
    "Account/get_account_info": Method(accounts.GetAccount, _get_account_info),
    "Account/get_account_list": Method(accounts.ListAccounts, accounts.get_list),
    "Account/make_transaction": Method(
        payments.MakeTransaction, payments.make_transaction, writes=True
    ),
    "Account/add_alias": Method(aliases.AddAlias, aliases.add, writes=True),
    "Account/get_alias_list": Method(aliases.ListAliases, aliases.get_list),
    "Account/delete_alias": Method(aliases.DeleteAlias, aliases.remove, writes=True),
    "Account/get_account_followme": Method(follow_me.GetFollowMe, follow_me.get),
    "Account/update_account_followme": Method(
        follow_me.UpdateFollowMe, follow_me.update_settings, writes=True
    ),
    "Account/add_followme_number": Method(follow_me.AddNumber, follow_me.add_number, writes=True),
    "Account/update_followme_number": Method(
        follow_me.UpdateNumber, follow_me.update_number, writes=True
    ),
    "Account/delete_followme_number": Method(
        follow_me.DeleteNumber, follow_me.delete_number, writes=True
    ),
    "Account/get_full_vd_counter_info": Method(quotas.OfAccount, quotas.get_full_vd_counter_info),
    "Account/get_service_features": Method(service_features.OfAccount, service_features.get),
    "Account/update_service_features": Method(
        service_features.UpdateOfAccount, service_features.update_fields, writes=True
    ),
    "Account/add_custom_field": Method(custom_fields.NewField, _ACCOUNT_FIELDS.add, writes=True),
    "Account/get_custom_fields_schema": Method(custom_fields.NoParams, _ACCOUNT_FIELDS.get_schema),
    "Account/get_custom_fields_values": Method(custom_fields.OfAccount, _ACCOUNT_FIELDS.get_values),
    "Account/update_custom_fields_values": Method(
        custom_fields.UpdateOfAccount, _ACCOUNT_FIELDS.update_values, writes=True
    ),
    "Customer/add_customer": Method(customers.AddCustomer, customers.add, writes=True),
    "Customer/update_customer": Method(
        customers.UpdateCustomer, customers.update_fields, writes=True
    ),
    "Customer/terminate_customer": Method(
        customers.TerminateCustomer, customers.terminate, writes=True
    ),
    "Customer/make_transaction": Method(
        payments.MakeCustomerTransaction, payments.make_customer_transaction, writes=True
    ),
    "Customer/get_customer_info": Method(customers.GetCustomer, customers.get_info),
    "Customer/get_customer_list": Method(customers.ListCustomers, customers.get_list),
    "Customer/get_service_features": Method(service_features.OfCustomer, service_features.get),
    "Customer/update_service_features": Method(
        service_features.UpdateOfCustomer, service_features.update_fields, writes=True
    ),
    "Customer/add_custom_field": Method(custom_fields.NewField, _CUSTOMER_FIELDS.add, writes=True),
    "Customer/get_custom_fields_schema": Method(
        custom_fields.NoParams, _CUSTOMER_FIELDS.get_schema
    ),
    "Customer/get_custom_fields_values": Method(
        custom_fields.OfCustomer, _CUSTOMER_FIELDS.get_values
    ),
    "Customer/update_custom_fields_values": Method(
        custom_fields.UpdateOfCustomer, _CUSTOMER_FIELDS.update_values, writes=True
    ),
    "Customer/add_customer_site": Method(customer_sites.AddSite, customer_sites.add, writes=True),
    "Customer/get_customer_site_list": Method(customer_sites.ListSites, customer_sites.get_list),
    "Customer/get_site_service_features": Method(service_features.OfSite, service_features.get),
    "Customer/update_site_service_features": Method(
        service_features.UpdateOfSite, service_features.update_fields, writes=True
    ),
    "DiscountPlan/add_discount_plan": Method(
        products.NewDiscountPlan, products.add_discount_plan, writes=True
    ),
    "DiscountPlan/get_discount_plan_list": Method(Page, products.get_discount_plan_list),
    "Product/add_product": Method(products.AddProduct, products.add, writes=True),
    "Product/update_product": Method(products.UpdateProduct, products.update_fields, writes=True),
    "Product/get_service_features": Method(service_features.OfProduct, service_features.get),
    "Product/update_service_features": Method(
        service_features.UpdateOfProduct, service_features.update_fields, writes=True
    ),
    "Product/get_product_info": Method(products.GetProduct, products.get_info),
    "Product/get_product_list": Method(products.ListProducts, products.get_list),
    "Product/add_accessibility": Method(
        accessibility.AddAccessibility, accessibility.add, writes=True
    ),
    "Product/get_accessibility_list": Method(
        accessibility.ListAccessibility, accessibility.get_list
    ),
    "Product/delete_accessibility": Method(
        accessibility.DeleteAccessibility, accessibility.remove, writes=True
    ),
    "AccessPolicy/add_access_policy": Method(
        access_policies.AddPolicy, access_policies.add, writes=True
    ),
    "AccessPolicy/update_access_policy": Method(
        access_policies.UpdatePolicy, access_policies.update_fields, writes=True
    ),
    "AccessPolicy/get_access_policy_info": Method(
        access_policies.GetPolicy, access_policies.get_info
    ),
    "AccessPolicy/get_access_policy_list": Method(
        access_policies.ListPolicies, access_policies.get_list
    ),
    "AccessPolicy/add_phase": Method(
        access_policies.AddPhase, access_policies.add_phase, writes=True
    ),
    "AccessPolicy/update_phase": Method(
        access_policies.UpdatePhase, access_policies.update_phase, writes=True
    ),
    "AccessPolicy/delete_phase": Method(
        access_policies.DeletePhase, access_policies.delete_phase, writes=True
    ),
    "Connection/add_connection": Method(connections.AddConnection, connections.add, writes=True),
    "Connection/update_connection": Method(
        connections.UpdateConnection, connections.update_fields, writes=True
    ),
    "Connection/delete_connection": Method(
        connections.OneConnection, connections.remove, writes=True
    ),
    "Connection/get_connection_info": Method(connections.OneConnection, connections.get_info),
    "Connection/get_connection_list": Method(connections.ListConnections, connections.get_list),
    "DID/add_number": Method(dids.AddNumber, dids.add, writes=True),
    "DID/delete_number": Method(dids.OneNumber, dids.remove, writes=True),
    "DID/update_number": Method(dids.UpdateNumber, dids.update_fields, writes=True),
    "DID/get_number_info": Method(dids.OneNumber, dids.get_info),
    "DID/get_number_list": Method(dids.ListNumbers, dids.get_list),
    "DID/get_customer_numbers": Method(dids.ListOfCustomer, dids.get_customer_numbers),
    "DID/assign_did_to_customer": Method(
        dids.AssignToCustomer, dids.assign_to_customer, writes=True
    ),
    "DID/assign_did_to_account": Method(dids.AssignToAccount, dids.assign_to_account, writes=True),
    "DID/release_did_from_customer": Method(
        dids.OneNumber, dids.release_from_customer, writes=True
    ),
    "DID/release_did_from_account": Method(dids.OneNumber, dids.release_from_account, writes=True),
    "Invoice/add_invoice": Method(invoices.AddInvoice, invoices.add, writes=True),
    "Invoice/get_invoice_info": Method(invoices.OneInvoice, invoices.get_info),
    "Invoice/get_invoice_list": Method(invoices.ListInvoices, invoices.get_list),
    "Invoice/pay_invoice": Method(invoices.Pay, invoices.pay, writes=True),
    "Invoice/apply_invoice_adjustment": Method(
        invoices.Adjust, invoices.apply_adjustment, writes=True
    ),
    "Invoice/void_invoice": Method(invoices.OneInvoice, invoices.void, writes=True),
    "IPDevice/add_ip_device": Method(ip_devices.AddDevice, ip_devices.add, writes=True),
    "IPDevice/get_ip_device_info": Method(ip_devices.OneDevice, ip_devices.get_info),
    "IPDevice/get_ip_device_list": Method(ip_devices.ListDevices, ip_devices.get_list),
    "IPDevice/assign_ip_device": Method(ip_devices.AssignDevice, ip_devices.assign, writes=True),
    "IPDevice/release_ip_device": Method(ip_devices.OneDevice, ip_devices.release, writes=True),
    "IPDevice/delete_ip_device": Method(ip_devices.OneDevice, ip_devices.remove, writes=True),
    "IPDevice/add_ip_device_profile": Method(
        ip_devices.AddProfile, ip_devices.add_profile, writes=True
    ),
    "IPDevice/get_ip_device_profile_list": Method(
        ip_devices.ListProfiles, ip_devices.get_profile_list
    ),
    "PaymentTransaction/add_payment_transaction": Method(
        payment_transactions.AddTransaction, payment_transactions.add, writes=True
    ),
    "PaymentTransaction/update_payment_transaction": Method(
        payment_transactions.UpdateTransaction, payment_transactions.update_fields, writes=True
    ),
    "PaymentTransaction/get_payment_transaction_info": Method(
        payment_transactions.OneTransaction, payment_transactions.get_info
    ),
    "PaymentTransaction/get_payment_transaction_list": Method(
        payment_transactions.ListTransactions, payment_transactions.get_list
    ),
    "SIMCard/add_sim_card": Method(sim_cards.AddCard, sim_cards.add, writes=True),
    "SIMCard/update_sim_card": Method(sim_cards.UpdateCard, sim_cards.update_fields, writes=True),
    "SIMCard/update_sim_card_list": Method(
        sim_cards.UpdateCards, sim_cards.update_list, writes=True
    ),
    "SIMCard/upload_sim_cards": Method(sim_cards.Upload, sim_cards.upload, writes=True),
    "SIMCard/delete_sim_card": Method(sim_cards.OneCard, sim_cards.remove, writes=True),
    "SIMCard/add_custom_field": Method(custom_fields.NewField, _CARD_FIELDS.add, writes=True),
    "SIMCard/get_custom_fields_schema": Method(custom_fields.NoParams, _CARD_FIELDS.get_schema),
    "SIMCard/get_custom_fields_values": Method(custom_fields.OfCard, _CARD_FIELDS.get_values),
    "SIMCard/update_custom_fields_values": Method(
        custom_fields.UpdateOfCard, _CARD_FIELDS.update_values, writes=True
    ),
    "SIMCard/assign_sim_card": Method(sim_cards.AssignCard, sim_cards.assign, writes=True),
    "SIMCard/release_sim_card": Method(sim_cards.OneCard, sim_cards.release, writes=True),
    "SIMCard/get_card_info": Method(sim_cards.GetCard, sim_cards.get_info),
    "SIMCard/get_card_list": Method(sim_cards.ListCards, sim_cards.get_list),
    "Usage/authorise": Method(quotas.Authorise, quotas.authorise, writes=True),
    "Usage/record": Method(quotas.Record, quotas.record, writes=True),
    "Usage/top_up": Method(quotas.Record, quotas.top_up, writes=True),
}

Text = Annotated[str, Field(max_length=4096)]


class AuthInfo(Params):
    """Who calls, in the body: a session, a token, or login and password."""

    session_id: Text | None = None
    access_token: Text | None = None
    login: Text | None = None
    password: Text | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> "AuthInfo":
        if (
            self.model_fields_set
            not in (
                {"session_id"},
                {"access_token"},
                {"login", "password"},
            )
            or None in self.model_dump(exclude_unset=True).values()
        ):
            raise ValueError("session_id, or access_token, or login and password is expected")
        return self


class Login(Params):
    """Parameters of Session/login. ``scopes`` makes a token that may do less."""

    login: Text
    password: Text
    scopes: Text | None = None


class Refresh(Params):
    """Parameters of Session/refresh_access_token."""

    refresh_token: Text


class OneSession(Params):
    """Parameters of Session/ping and Session/logout: a session by its token or its number."""

    access_token: Text | None = None
    session_id: Text | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "OneSession":
        if (self.access_token is None) == (self.session_id is None):
            raise ValueError("exactly one of access_token and session_id is expected")
        return self


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
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise BillingFault(
                    "Client.request_too_large", f"a request may have {MAX_BODY} bytes"
                )
    except ClientDisconnect:
        raise _malformed("the body ends too early") from None
    return bytes(body)


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
