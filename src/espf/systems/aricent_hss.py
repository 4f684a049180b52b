"""AricentHSS: a home subscriber server behind an adapter, under the name and events of the vendor.

The vendor's handler of this name is known by the events that it hears, and by no more: what it
tells its HSS is not public. This one hears exactly those, and speaks a small REST contract of our
own, which is in docs/reference/aricent-hss.md. Whoever has such an HSS, or any other, puts an
adapter in front of it that does what the contract says.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr

from espf.errors import CheckLater, Misconfigured, Rejected, TryLater
from espf.handlers import pb_data
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings, words
from espf.handlers.desired import (
    RECONCILE,
    Bars,
    Change,
    DesiredStateHandler,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.event_sender import Url, retry_after
from espf.handlers.subscriber import Subscriber
from espf.systems import mobile
from espf.systems.http_api import HttpApi, Told

_GROUP = "AricentHSS"

#: The complete list of the vendor's documents. Older releases say Suspend and Unsuspend, which are
#: other names of the same types.
EVENTS = (
    "Account/Blocked",
    "Account/ID/Changed",
    "Account/Product/Changed",
    "Account/ProductAddon/Changed",
    "Account/ProductAddon/Deleted",
    "Account/ProductAddon/Inserted",
    "Account/SIMCardAssignment",
    "Account/ServiceAttribute/Changed",
    "Account/Status/Suspended",
    "Account/Status/SuspensionRemoved",
    "Account/Unblocked",
)

#: Keys of a page of the list.
PAGE = 1000

#: When to look again at what an adapter has accepted and not done yet, unless it says so.
_LOOK_AGAIN = timedelta(seconds=10)

_FEATURE = "feature."


class AricentHSSSettings(mobile.RegisterSettings):
    """The options of an AricentHSS."""

    barred_by: Bars = Field(
        default=("blocked", "customer_blocked", "suspended", "customer_suspended"),
        alias="BarredBy",
        description="What keeps a subscriber from using the HSS. By default that of which an event "
        "of this handler tells; no_funds, inactive and the others are heard of only by chance.",
        json_schema_extra={"group": "What is provisioned"},
    )
    url: Url = Field(
        alias="AricentHSS.URL",
        description="The base URL of the adapter, such as https://hss-adapter.example.net/v1.",
        json_schema_extra={"group": _GROUP},
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        alias="AricentHSS.Token",
        description="The Bearer token by which the adapter knows us. Empty: it asks for none.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=30,
        alias="AricentHSS.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )
    services: ProductMap = Field(
        default=(("*", "cs+ps+eps"),),
        alias="AricentHSS.Services",
        description="The services that each product and add-on gives, words of your own with + "
        "between them, such as 'Data only=ps+eps; *=cs+ps+eps'. Of several, all. Who has none is "
        "not in the HSS.",
        json_schema_extra={"group": "What is provisioned"},
    )
    profiles: ProductMap = Field(
        default=(),
        alias="AricentHSS.Profiles",
        description="The profile of the HSS that each product and add-on stands for. All are told, "
        "that of the main product first.",
        json_schema_extra={"group": "What is provisioned"},
    )
    features: Annotated[tuple[str, ...], BeforeValidator(words), PlainSerializer(", ".join)] = (
        Field(
            default=(),
            alias="AricentHSS.Features",
            description="The service features of the account that are told, such as "
            "'call_barring, clir'.",
            json_schema_extra={"group": "What is provisioned"},
        )
    )


class AricentHSS(DesiredStateHandler):
    """Make an HSS behind an adapter hold the subscribers that have a SIM card."""

    supports = (*EVENTS, RECONCILE)
    usual = EVENTS
    Settings: ClassVar[type[HandlerSettings]] = AricentHSSSettings
    settings: AricentHSSSettings
    keyed_by = "imsi"
    needs_card_keys = True
    secret_fields = frozenset({"ki", "opc"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._api = self._reached(self.settings.timeout)

    def _reached(self, timeout_seconds: float) -> HttpApi:
        token = self.settings.token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return HttpApi(self.settings.url, timeout_seconds, headers, mobile.SECRETS)

    async def check(self, context: Context) -> str:
        """Ask the adapter for the first subscriber of its list."""
        path = "subscribers?limit=1"
        told = await self._reached(CHECK_SECONDS).ask(context, "GET", path)
        _imsis(told)
        return "the adapter answers and takes the token"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """The number, the state, what the products give, the features and the keys."""
        settings = self.settings
        services = set("+".join(mapped(owner.products, settings.services)).split("+"))
        services -= {"", "none"}
        if not services:
            return None
        card = owner.card
        keys = mobile.keys(card)
        mobile.imsi(key)
        return {
            "msisdn": mobile.number(owner),
            "state": "barred" if owner.barred_by(settings.barred_by) else "granted",
            "services": "+".join(sorted(services)),
            "profiles": ", ".join(mapped(owner.products, settings.profiles)),
            **self._features(owner),
            **({"iccid": card.iccid} if card and card.iccid else {}),
            **({"ki": keys[0], "opc": keys[1]} if keys else {}),
        }

    def _features(self, owner: Subscriber) -> dict[str, str]:
        """The features that are told, each as JSON; one that the account does not have is null."""
        told = pb_data.account_info(owner.info, datetime.now(UTC))["service_features"]
        found = {feature.get("name"): feature for feature in told}
        return {f"{_FEATURE}{name}": _feature(found.get(name)) for name in self.settings.features}

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """What the adapter tells of an IMSI."""
        told = await self._api.ask(context, "GET", f"subscribers/{key}")
        if told.status == 404 and isinstance(told.value, dict) and "reason" in told.value:
            return None
        entry = told.value if told.ok else _refused(told)
        if not isinstance(entry, dict):
            raise TryLater(f"the adapter's answer is no JSON object: {told.shown}")
        features = entry.get("features")
        fields = {
            "msisdn": str(entry.get("msisdn") or ""),
            "state": str(entry.get("state")),
            "services": "+".join(sorted(_texts(entry.get("services")))),
            "profiles": ", ".join(_texts(entry.get("profiles"))),
            "iccid": str(entry.get("iccid") or ""),
        }
        if isinstance(features, dict):
            fields |= {f"{_FEATURE}{name}": _text(value) for name, value in features.items()}
        if wanted and "ki" in wanted:
            check = mobile.mark(key, wanted["ki"], wanted["opc"])
            if entry.get("key_check") == check:
                fields |= {"ki": wanted["ki"], "opc": wanted["opc"]}
        return fields

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """See DesiredStateHandler."""
        since = f"&after={mobile.imsi(after)}" if after is not None else ""
        told = await self._api.ask(context, "GET", f"subscribers?limit={PAGE}{since}")
        return _imsis(told)

    async def apply(self, change: Change, context: Context) -> None:
        """Put the whole entry, or delete it."""
        wanted = change.wanted
        if wanted is None:
            await self._write("DELETE", change.key, None, context)
            return
        entry: dict[str, Any] = {
            "imsi": change.key,
            "msisdn": wanted["msisdn"],
            "state": wanted["state"],
            "services": wanted["services"].split("+"),
            "profiles": [each for each in wanted["profiles"].split(", ") if each],
            "features": {
                name.removeprefix(_FEATURE): json.loads(value)
                for name, value in wanted.items()
                if name.startswith(_FEATURE)
            },
        }
        if "iccid" in wanted:
            entry["iccid"] = wanted["iccid"]
        if "ki" in wanted:
            keys = {name: wanted[name] for name in ("ki", "opc")}
            for key in keys.values():
                context.hide(key)
            check = mobile.mark(change.key, keys["ki"], keys["opc"])
            entry |= {"keys": keys, "key_check": check}
        await self._write("PUT", change.key, entry, context)

    async def _write(self, method: str, imsi: str, entry: object, context: Context) -> None:
        event = {} if context.i_event is None else {"X-Event-Id": str(context.i_event)}
        told = await self._api.ask(context, method, f"subscribers/{imsi}", entry, more=event)
        if told.status == 202:
            after = retry_after(told.reply.headers.get("retry-after"), datetime.now(UTC))
            raise CheckLater("the adapter has begun", after=after or _LOOK_AGAIN)
        gone = method == "DELETE" and told.status == 404 and isinstance(told.value, dict)
        if not told.ok and not gone:
            _refused(told)


def _refused(told: Told) -> NoReturn:
    """Raise what a refusal means."""
    if told.status in {404, 405}:
        raise Misconfigured(f"there is no subscribers/ at AricentHSS.URL: {told.shown}")
    if told.status == 409:
        raise TryLater(f"the adapter is at it already: {told.shown}")
    if told.status in {400, 422}:
        raise Rejected(f"the adapter refuses the entry: {told.shown}")
    raise told.verdict()


def _imsis(told: Told) -> list[str]:
    """The keys in an answer of the list."""
    if not told.ok:
        _refused(told)
    found = told.value.get("imsis") if isinstance(told.value, dict) else None
    if not isinstance(found, list):
        raise TryLater(f"the adapter's answer has no list of IMSIs: {told.shown}")
    return _texts(found)


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _text(value: object) -> str:
    """JSON that can be compared."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _feature(feature: pb_data.Info | None) -> str:
    if feature is None:
        return "null"
    attributes = {
        str(each.get("name")): str(each.get("effective_value", ""))
        for each in feature.get("attributes", ())
    }
    return _text({"flag": str(feature.get("effective_flag_value", "")), **attributes})
