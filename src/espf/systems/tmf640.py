"""TMF640: a server for the activation and configuration of services, by TM Forum's open API.

An entry is the service of an account, known by its ``externalId``: its state, its specification,
its name and its characteristics. TMF640 knows no unique external ids and no repeated requests, so
a service is looked for before it is made, and of two the second is ended.

A server may take an order and work on it later (202). Who goes on then? The monitor that it names
is remembered with the event, and asked for before anything else is ordered; where that memory was
lost, or is another event's, the server's list of monitors under way is searched.
"""

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import quote, urlencode

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from espf.errors import CheckLater, HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings, Route
from espf.handlers.desired import (
    RECONCILE,
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.event_sender import TEMPORARY, Url, first_line
from espf.handlers.http_auth import Credentials, Password, User, basic, custom
from espf.handlers.subscriber import Subscriber
from espf.systems.http_api import HttpApi, Told
from espf.systems.oauth import ClientCredentials

_ADDRESS = "Address"
_AUTH = "Authentication"
_GROUP = "TMF640"

#: What a characteristic may be filled with.
Source = Literal[
    "id", "imsi", "iccid", "product", "products", "packages", "i_account", "i_customer"
]
SOURCES: tuple[Source, ...] = get_args(Source)

#: The field of a characteristic is called so, and then as the characteristic.
_CHARACTERISTIC = "characteristic "

#: The field that tells of other services that are there by the same external id.
_SURPLUS = "surplus"
_NONE = "none"

#: A service in one of these is not made yet.
_BEFORE = frozenset({"feasibilityChecked", "designed", "reserved"})

_TERMINATED = "terminated"

#: Of a service, what is asked for in a list.
_FIELDS = "id,externalId,state,name,serviceSpecification,serviceCharacteristic,relatedParty"

#: Items of a list that are asked for at a time, and bytes of a reply that are read.
_PAGE = 100
_REPLY_LIMIT = 1024 * 1024

#: How a server says that it has no list of monitors.
_NO_MONITORS = frozenset({404, 405, 501})


def _sources(pairs: ProductMap) -> ProductMap:
    for name, source in pairs:
        if source not in SOURCES:
            raise ValueError(f"{name}={source}: {source!r} is none of {', '.join(SOURCES)}")
    return pairs


def _no_slash(value: str) -> str:
    return value.rstrip("/")


class TMF640Settings(DesiredStateSettings):
    """The options of a TMF640 server."""

    url: Annotated[Url, AfterValidator(_no_slash)] = Field(
        alias="TMF640.URL",
        description="Where the API begins, such as "
        "https://127.0.0.1/tmf-api/ServiceActivationAndConfiguration/v4.",
        json_schema_extra={"group": _ADDRESS},
    )
    ca_file: str = Field(
        default="",
        alias="TMF640.CAFile",
        max_length=1024,
        description="With https://: a file of PEM certificates of authorities, on every machine "
        "that runs a worker, that are trusted instead of those of the system.",
        json_schema_extra={"group": _ADDRESS},
    )
    timeout: int = Field(
        default=30,
        alias="TMF640.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _ADDRESS, "unit": "seconds"},
    )
    poll_interval: int = Field(
        default=30,
        alias="TMF640.PollInterval",
        ge=1,
        le=86_400,
        description="After how long to ask again how an order goes that the server works on.",
        json_schema_extra={"group": _ADDRESS, "unit": "seconds"},
    )
    auth_method: Literal["None", "Basic", "Bearer", "OAuth"] = Field(
        default="None",
        alias="TMF640.AuthMethod",
        description="Basic: user and password. Bearer: a token. OAuth: tokens of a token server, "
        "by the grant 'client credentials'. None: no authentication header.",
        json_schema_extra={"group": _AUTH},
    )
    basic_user: User = Field(
        default="",
        alias="TMF640.Basic.User",
        description="The user of the Basic method.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=Basic"},
    )
    basic_password: Password = Field(
        default=SecretStr(""),
        alias="TMF640.Basic.Password",
        description="The password of the Basic method.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=Basic"},
    )
    bearer_token: Credentials = Field(
        default=SecretStr(""),
        alias="TMF640.Bearer.Token",
        description="The token of the Bearer method.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=Bearer"},
    )
    oauth_url: str = Field(
        default="",
        alias="TMF640.OAuth.TokenURL",
        max_length=2048,
        description="Where the OAuth method gets its tokens.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=OAuth"},
    )
    oauth_client: str = Field(
        default="",
        alias="TMF640.OAuth.ClientId",
        max_length=255,
        description="The name by which the token server knows us.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=OAuth"},
    )
    oauth_secret: Password = Field(
        default=SecretStr(""),
        alias="TMF640.OAuth.ClientSecret",
        description="The secret of TMF640.OAuth.ClientId.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=OAuth"},
    )
    oauth_scope: str = Field(
        default="",
        alias="TMF640.OAuth.Scope",
        max_length=255,
        description="What a token is to be good for, as the token server calls it. Empty: "
        "whatever it gives.",
        json_schema_extra={"group": _AUTH, "only_with": "TMF640.AuthMethod=OAuth"},
    )
    service: str = Field(
        default="mobile",
        alias="TMF640.Service",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
        description="What kind of service it is. It is the serviceType, and the end of the "
        "externalId: acc-541-mobile.",
        json_schema_extra={"group": _GROUP},
    )
    specification: Annotated[ProductMap, Field(min_length=1)] = Field(
        alias="TMF640.Specification",
        description="The id of the service specification by product, such as 'Gold=MOBILE_GOLD; "
        "*=MOBILE'. Of several products the first counts that has one, the main product before "
        "add-ons. Who has none has no service.",
        json_schema_extra={"group": _GROUP},
    )
    characteristics: Annotated[ProductMap, AfterValidator(_sources)] = Field(
        default=(("msisdn", "id"), ("imsi", "imsi"), ("product", "product")),
        alias="TMF640.Characteristics",
        description="The characteristics and what they are filled with, such as 'msisdn=id; "
        f"sim=iccid': each one of {', '.join(SOURCES)}. Others of the service are left alone.",
        json_schema_extra={"group": _GROUP},
    )
    packages: ProductMap = Field(
        default=(),
        alias="TMF640.Packages",
        description="What 'packages' says in a characteristic, by product; of several products "
        "all, with commas between them.",
        json_schema_extra={"group": _GROUP},
    )
    barred_state: Literal["inactive", "suspended"] = Field(
        default="inactive",
        alias="TMF640.BarredState",
        description="The state of the service of a barred subscriber.",
        json_schema_extra={"group": _GROUP},
    )
    removal: Literal["terminate", "delete"] = Field(
        default="terminate",
        alias="TMF640.Removal",
        description="How a service ends. 'terminate': it gets the state terminated. 'delete': it "
        "is deleted.",
        json_schema_extra={"group": _GROUP},
    )

    @field_validator(
        "basic_user",
        "basic_password",
        "bearer_token",
        "oauth_url",
        "oauth_client",
        "oauth_secret",
    )
    @classmethod
    def _mandatory_with_its_method(
        cls, value: SecretStr | str, info: ValidationInfo
    ) -> SecretStr | str:
        method = info.data.get("auth_method")
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not text and method and str(info.field_name).startswith(f"{method.lower()}_"):
            raise ValueError(f"is mandatory with AuthMethod {method}")
        return value


class TMF640(DesiredStateHandler):
    """Make a TMF640 server hold a service for each account."""

    Settings: ClassVar[type[HandlerSettings]] = TMF640Settings
    settings: TMF640Settings
    keyed_by = "i_account"

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        route = Route(ca_file=own.ca_file or None)
        self._api = HttpApi(own.url, own.timeout, route=route)
        self._oauth = ClientCredentials(
            own.oauth_url,
            own.oauth_client,
            own.oauth_secret.get_secret_value(),
            own.oauth_scope,
            own.timeout,
            route,
        )
        self._external_id = re.compile(rf"acc-(\d{{1,19}})-{re.escape(own.service)}", re.ASCII)
        # The last key of the last page of keys, and where the next page begins.
        self._last_page: tuple[str, int | None] | None = None

    def secrets(self) -> tuple[str, ...]:
        """The secret options, and those of a user in the form in which they are sent."""
        own = self.settings
        sent = basic(own.basic_user, own.basic_password.get_secret_value()).partition(" ")[2]
        return (
            *super().secrets(),
            *((sent,) if own.basic_password.get_secret_value() else ()),
            *((self._oauth.secret,) if own.oauth_secret.get_secret_value() else ()),
        )

    def time_limit_seconds(self) -> float:
        """A change is up to a dozen requests."""
        return 12.0 * self.settings.timeout

    async def check(self, context: Context) -> str:
        """Ask for one service, whichever it is."""
        api = replace(self._api, timeout_seconds=CHECK_SECONDS)
        told = await self._ask(context, "GET", "service?limit=1&fields=id", api=api)
        _listed(told)
        total = told.reply.headers.get("x-total-count", "")
        return f"the server answers; it has {total or 'an untold number of'} services"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:  # noqa: ARG002
        """The state, the specification, the name and our characteristics."""
        own = self.settings
        specifications = mapped(owner.products, own.specification)
        if not specifications:
            return None
        values = self._values(owner)
        return {
            "state": own.barred_state if owner.barred_by(own.barred_by) else "active",
            "specification": specifications[0],
            "name": owner.id,
            "customer": values["i_customer"],
            **{
                f"{_CHARACTERISTIC}{name}": values.get(source, "")
                for name, source in own.characteristics
            },
            _SURPLUS: _NONE,
        }

    def _values(self, owner: Subscriber) -> Mapping[str, str]:
        card = owner.card
        return {
            "id": owner.id,
            "imsi": card.imsi if card else "",
            "iccid": card.iccid if card else "",
            "product": owner.products[0] if owner.products else "",
            "products": ",".join(owner.products),
            "packages": ",".join(mapped(owner.products, self.settings.packages)),
            "i_account": str(owner.i_account),
            "i_customer": str(owner.info.get("i_customer") or ""),
        }

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """The service of an account. One that is terminated is none."""
        found = await self._services(key, context)
        if not found:
            return None
        service, *others = found
        absent = {name: "" for name in wanted or () if name.startswith(_CHARACTERISTIC)}
        return {
            "id": str(service.get("id")),
            "state": str(service.get("state")),
            "specification": str(_object(service.get("serviceSpecification")).get("id", "")),
            "name": str(service.get("name", "")),
            "customer": _customer_of(service) or (wanted or {}).get("customer", ""),
            **absent,
            **{
                f"{_CHARACTERISTIC}{one.get('name')}": _value(one.get("value"))
                for one in _objects(service.get("serviceCharacteristic"))
            },
            _SURPLUS: ",".join(str(one.get("id")) for one in others) or _NONE,
        }

    async def apply(self, change: Change, context: Context) -> None:
        """Create, change or end a service, unless an earlier order for it is still under way."""
        await self._await_earlier_order(change, context)
        if change.held is None:
            await self._create(change, context)
            return
        surplus = change.held[_SURPLUS]
        for number in surplus.split(",") if surplus != _NONE else ():
            await self._end(number, context)
        if change.wanted is None:
            await self._end(change.held["id"], context)
        else:
            await self._patch(change, context)

    async def bring(self, key: str, context: Context) -> list[Change]:
        """See DesiredStateHandler."""
        # Whoever has asked what is remembered with an event makes that forgotten when it is over.
        await context.outlet.reached()
        return await super().bring(key, context)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The accounts that have a service, as the server lists them.

        One goes on where the last page ended. Who comes with another key begins anew.
        """
        offset: int | None = 0
        if after is not None and self._last_page is not None and self._last_page[0] == after:
            offset = self._last_page[1]
        keys: list[str] = []
        while not keys and offset is not None:
            query = {"fields": "id,externalId,state"}
            page, offset = await self._page("service", query, offset, context)
            keys = [
                match[1]
                for one in page
                if (match := self._external_id.fullmatch(str(one.get("externalId"))))
                and one.get("state") != _TERMINATED
            ]
        if keys:
            self._last_page = keys[-1], offset
        return tuple(dict.fromkeys(keys))

    def _id_of(self, key: str) -> str:
        return f"acc-{key}-{self.settings.service}"

    async def _services(self, key: str, context: Context) -> list[dict[str, Any]]:
        """The services of an account that are not over; those that are made already come first."""
        external_id = self._id_of(key)
        found = []
        query = {"externalId": external_id, "fields": _FIELDS}
        async for service in self._items("service", query, context):
            if service.get("externalId") != external_id:
                raise Misconfigured("the server does not look for services by their externalId")
            if service.get("state") != _TERMINATED:
                found.append(service)
        return sorted(found, key=lambda one: (one.get("state") in _BEFORE, str(one.get("id"))))

    async def _items(
        self, path: str, query: Mapping[str, str], context: Context, but: Collection[int] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """All items of a list; none when the server answers with a status of ``but``."""
        offset: int | None = 0
        while offset is not None:
            page, offset = await self._page(path, query, offset, context, but)
            for item in page:
                yield item

    async def _page(
        self,
        path: str,
        query: Mapping[str, str],
        offset: int,
        context: Context,
        but: Collection[int] = (),
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Some items of a list, and where the next ones begin; None: that was all.

        A server says that there are more by 206, or by how many there are.
        """
        asked = urlencode({**query, "offset": offset, "limit": _PAGE})
        told = await self._ask(context, "GET", f"{path}?{asked}")
        if told.status in but:
            return [], None
        page = _listed(told)
        end = offset + len(page)
        total = told.reply.headers.get("x-total-count", "")
        more = end < int(total) if total.isdecimal() else told.status == 206
        return page, end if more and page else None

    async def _create(self, change: Change, context: Context) -> None:
        assert change.wanted is not None, "there is something to change"
        wanted, external_id = change.wanted, self._id_of(change.key)
        body = {
            "@type": "Service",
            "externalId": external_id,
            "name": wanted["name"],
            "serviceType": self.settings.service,
            "state": wanted["state"],
            "serviceSpecification": {"id": wanted["specification"]},
            "serviceCharacteristic": _characteristics(wanted),
            "relatedParty": [_customer(wanted["customer"])],
        }
        told = await self._ask(context, "POST", "service", body)
        if told.status in {404, 405}:
            raise Misconfigured(f"services cannot be made there: {told.verdict(_said(told))}")
        if told.status == 409:
            # Somebody was quicker: it is compared again.
            if not await self._services(change.key, context):
                raise TryLater(f"there is no {external_id}, and yet: {told.verdict(_said(told))}")
            return
        await self._taken(told, context)

    async def _patch(self, change: Change, context: Context) -> None:
        """Change the fields that differ. A list is written as a whole: what is not ours stays."""
        assert change.held is not None, "there is something to change"
        assert change.wanted is not None, "it is to stay"
        wanted, fields = change.wanted, set(change.fields) - {_SURPLUS}
        if not fields:
            return
        path = f"service/{quote(change.held['id'], safe='')}"
        body: dict[str, Any] = {name: wanted[name] for name in ("state", "name") if name in fields}
        if "specification" in fields:
            body["serviceSpecification"] = {"id": wanted["specification"]}
        if any(name == "customer" or name.startswith(_CHARACTERISTIC) for name in fields):
            told = await self._ask(context, "GET", path)
            if told.status == 404:
                return  # it was ended meanwhile, and is compared again
            body |= _lists(_object(_well(told).value), wanted)
        await self._taken(await self._ask(context, "PATCH", path, body), context, but={404})

    async def _end(self, number: str, context: Context) -> None:
        path = f"service/{quote(number, safe='')}"
        if self.settings.removal == "delete":
            told = await self._ask(context, "DELETE", path)
        else:
            told = await self._ask(context, "PATCH", path, {"state": _TERMINATED})
        await self._taken(told, context, but={404})

    async def _taken(self, told: Told, context: Context, but: Collection[int] = ()) -> None:
        """Return when a change is made; raises CheckLater when the server works on it."""
        if told.status in but:
            return
        if told.status == 409:
            raise TryLater(str(told.verdict(_said(told))))
        if _well(told).status != 202:
            return
        monitor = _monitor_named(told)
        if not monitor:
            raise TryLater("the server works on it, and does not name the monitor that tells more")
        await self._remember(monitor, context)
        raise self._under_way(monitor)

    async def _await_earlier_order(self, change: Change, context: Context) -> None:
        """Return when nothing is under way for a service.

        Raises CheckLater while something is, and the verdict of what this event had ordered.
        """
        monitor = await context.outlet.reached()
        if not monitor:
            monitor = await self._monitor_of(change, context)
            if monitor is not None:
                raise self._under_way(monitor)
            return
        told = await self._ask(context, "GET", f"monitor/{quote(monitor, safe='')}")
        if told.status != 404 and _is_under_way(_object(_well(told).value)):
            raise self._under_way(monitor)
        # Whatever has become of it, the next attempt orders anew.
        await self._remember("", context)
        raise _verdict(monitor, _object(told.value), change.told(self.secret_fields))

    async def _monitor_of(self, change: Change, context: Context) -> str | None:
        """The monitor of an order for this service that is under way, if the server lists it."""
        query = {"state": "InProgress"}
        number = (change.held or {}).get("id")
        async for monitor in self._items("monitor", query, context, but=_NO_MONITORS):
            if _is_under_way(monitor) and _is_about(monitor, self._id_of(change.key), number):
                return str(monitor.get("id"))
        return None

    @staticmethod
    async def _remember(monitor: str, context: Context) -> None:
        """Keep it for the next attempt of this event."""
        # That this attempt has had its time is no matter: it is at its end.
        with suppress(CheckLater):
            await context.outlet.emit(RECONCILE, (), monitor)

    def _under_way(self, monitor: str) -> CheckLater:
        after = timedelta(seconds=self.settings.poll_interval)
        return CheckLater(f"the server works on it: monitor {monitor}", after=after)

    async def _ask(
        self,
        context: Context,
        method: str,
        path: str,
        body: object = None,
        api: HttpApi | None = None,
    ) -> Told:
        """One request, with what says who we are; a token that is refused is replaced once."""
        own = self.settings
        ask = partial(_ask_as, api or self._api, context, method, path, body)
        match own.auth_method:
            case "None":
                return await ask(None)
            case "Basic":
                return await ask(basic(own.basic_user, own.basic_password.get_secret_value()))
            case "Bearer":
                return await ask(custom("Bearer", own.bearer_token.get_secret_value()))
            case "OAuth":
                token = await self._oauth.token(context)
                told = await ask(custom("Bearer", token))
                if told.status != 401:
                    return told
                self._oauth.forget(token)
                return await ask(custom("Bearer", await self._oauth.token(context)))


async def _ask_as(
    api: HttpApi, context: Context, method: str, path: str, body: object, who: str | None
) -> Told:
    """One request, with this header of authorization."""
    more = {} if who is None else {"Authorization": who}
    return await api.ask(context, method, path, body, more=more, reply_limit=_REPLY_LIMIT)


def _well(told: Told) -> Told:
    """An answer that is a success. Raises the verdict of any other."""
    if not told.ok:
        raise told.verdict(_said(told))
    return told


def _listed(told: Told) -> list[dict[str, Any]]:
    """The items of a page."""
    if told.status in {404, 405}:
        raise Misconfigured(f"there is no such list: {told.verdict(_said(told))}")
    if not isinstance(_well(told).value, list):
        raise Misconfigured("the answer is no list in JSON, or is longer than 1 MiB")
    return _objects(told.value)


def _monitor_named(told: Told) -> str:
    """The monitor that an answer names: in its Location, or because it is one; empty: none."""
    _, is_one, number = told.reply.headers.get("location", "").partition("/monitor/")
    body = _object(told.value)
    if is_one:
        return number.strip("/")
    return "" if "externalId" in body else str(body.get("id") or "")


def _said(told: Told) -> str | None:
    """What an error of TMF630 says, in one line; None where it is none."""
    error = _object(told.value)
    names = ("code", "reason", "message")
    return ": ".join(str(error[name]) for name in names if error.get(name)) or None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _value(value: Any) -> str:
    """The value of a characteristic as a text; some servers wrap it into an object."""
    inner = value.get("value") if isinstance(value, dict) else value
    if inner is None:
        return ""
    return inner if isinstance(inner, str) else json.dumps(inner)


def _characteristics(wanted: Fields) -> list[dict[str, str]]:
    """Our characteristics that have a value."""
    return [
        {"name": name.removeprefix(_CHARACTERISTIC), "valueType": "string", "value": value}
        for name, value in wanted.items()
        if name.startswith(_CHARACTERISTIC) and value
    ]


def _lists(service: dict[str, Any], wanted: Fields) -> dict[str, Any]:
    """The lists of a service as they should be: ours, and what others have put there."""
    theirs = [
        one
        for one in _objects(service.get("serviceCharacteristic"))
        if f"{_CHARACTERISTIC}{one.get('name')}" not in wanted
    ]
    parties = [one for one in _objects(service.get("relatedParty")) if not _is_customer(one)]
    return {
        "serviceCharacteristic": [*theirs, *_characteristics(wanted)],
        "relatedParty": [*parties, _customer(wanted["customer"])],
    }


def _customer(number: str) -> dict[str, str]:
    return {"role": "customer", "id": number, "@referredType": "Customer"}


def _is_customer(party: dict[str, Any]) -> bool:
    return str(party.get("role")).lower() == "customer"


def _customer_of(service: dict[str, Any]) -> str:
    """The customer of a service; empty where the server does not tell."""
    parties = [one for one in _objects(service.get("relatedParty")) if _is_customer(one)]
    return str(parties[0].get("id", "")) if parties else ""


def _is_under_way(monitor: dict[str, Any]) -> bool:
    return str(monitor.get("state")).lower() not in {"completed", "inerror"}


def _is_about(monitor: dict[str, Any], external_id: str, number: str | None) -> bool:
    """Whether a monitor is that of an order for the service of this external id, or this number."""
    request = _object(monitor.get("request"))
    body = request.get("body")
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            body = None
    at = (str(url or "").rstrip("/") for url in (monitor.get("sourceHref"), request.get("to")))
    named = number is not None and any(url.endswith(f"/service/{number}") for url in at)
    return named or _object(body).get("externalId") == external_id


def _verdict(monitor: str, told: dict[str, Any], change: str) -> HandlerError:
    """What it means that an order is over, and yet the service is not as it should be."""
    if str(told.get("state")).lower() != "inerror":
        return TryLater(f"monitor {monitor} is over, and it is not as it should be: {change}")
    response = _object(told.get("response"))
    status = str(response.get("statusCode") or "")
    reason = first_line(f"monitor {monitor}: {status} {response.get('body') or 'InError'}")
    for_good = status.startswith("4") and status not in {"409", *map(str, TEMPORARY)}
    return (Rejected if for_good else TryLater)(reason)
