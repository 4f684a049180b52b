"""YateHSS: a home subscriber server for mobile operators, over its JSON API.

An entry is a SIM, by its IMSI, and the subscriber who uses it, with number and profiles. What the
vendor documents of SIMs, of swapping and blocking them, is done so; of a subscriber it is known
that there is ``set_subscriber``. What goes into that is therefore an option, as JSON.

Every answer is an HTTP 200 with a ``code``. 0 is success; there is no public list of the others.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr

from espf.errors import Misconfigured, Rejected, TryLater
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings, words
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.event_sender import Url
from espf.handlers.http import masked
from espf.handlers.subscriber import Subscriber
from espf.model import compact
from espf.systems import mobile
from espf.systems.http_api import HttpApi, Pages

_GROUP = "YateHSS"

#: SIMs of a page of the list.
PAGE = 30

#: The services of a SIM that are switched, and the members that switch them.
_SERVICES: Mapping[str, str] = {"cs": "cs_active", "ps": "ps_active", "lte": "lte_active"}

#: What was sent is remembered for this many cards, where Yate does not tell it.
_MOST_SENT = 10_000

#: A place in a text of a template; braces of JSON never stand around a bare word.
_PLACE = re.compile(r"\{(\w+)\}")


def _template(value: str) -> str:
    try:
        found = json.loads(value)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if isinstance(found, dict):
        return value
    raise ValueError('a JSON object is expected, such as {"active": true}')


def _with_places(value: str, *places: str) -> str:
    for name in _PLACE.findall(value):
        if name not in places:
            raise ValueError(f"{{{name}}} is none of {', '.join(places)}")
    return value


def _of_sim(value: str) -> str:
    return _with_places(_template(value), "imsi", "iccid")


def _of_subscriber(value: str) -> str:
    return _with_places(_template(value), "imsi", "iccid", "msisdn", "profile")


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    return value


#: Codes of answers, as a text.
Codes = Annotated[
    tuple[int, ...],
    BeforeValidator(words),
    PlainSerializer(lambda codes: ", ".join(map(str, codes))),
]


class YateHSSSettings(mobile.RegisterSettings):
    """The options of a YateHSS."""

    url: Url = Field(
        alias="YateHSS.URL",
        description="The server, such as https://hss.example.net; its api.php is called.",
        json_schema_extra={"group": _GROUP},
    )
    secret: SecretStr = Field(
        default=SecretStr(""),
        alias="YateHSS.Secret",
        description="The $api_secret in the server's api_config.php. Empty: it has none, which is "
        "how it is installed.",
        json_schema_extra={"group": _GROUP},
    )
    node: str = Field(
        default="hss",
        alias="YateHSS.Node",
        max_length=64,
        description="The node that requests are for. Empty: the only one of the server.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=10,
        alias="YateHSS.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )
    absent_codes: Codes = Field(
        default=(),
        alias="YateHSS.AbsentCodes",
        description="Codes by which your server says that there is no such SIM or subscriber.",
        json_schema_extra={"group": _GROUP},
    )
    absent_messages: Annotated[str, AfterValidator(_expression)] = Field(
        default="^(?!.*request).*not found",
        alias="YateHSS.AbsentMessages",
        max_length=500,
        description="A regular expression that fits the messages which say the same.",
        json_schema_extra={"group": _GROUP},
    )
    rejected_codes: Codes = Field(
        default=(),
        alias="YateHSS.RejectedCodes",
        description="Codes by which your server refuses a request for good. Any other code but 0 "
        "is tried again.",
        json_schema_extra={"group": _GROUP},
    )
    sim_profile: str = Field(
        alias="YateHSS.SIMProfile",
        min_length=1,
        max_length=100,
        description="The name of the SIM profile that new SIMs get.",
        json_schema_extra={"group": "What is provisioned"},
    )
    sim_params: Annotated[str, AfterValidator(_of_sim)] = Field(
        default="{}",
        alias="YateHSS.SIMParams",
        max_length=4000,
        description="What else is told of a new SIM, as a JSON object, such as "
        '{"amf_lte": "9001"}. Texts may hold {imsi} and {iccid}.',
        json_schema_extra={"group": "What is provisioned"},
    )
    services: ProductMap = Field(
        default=(("*", "cs+ps+lte"),),
        alias="YateHSS.Services",
        description="What each product gives: some of cs, ps and lte with + between them, or "
        "none. Of several products, all that they give.",
        json_schema_extra={"group": "What is provisioned"},
    )
    profile: ProductMap = Field(
        default=(),
        alias="YateHSS.Profile",
        description="What {profile} in SubscriberParams means for each product. The first product "
        "that has one decides.",
        json_schema_extra={"group": "What is provisioned"},
    )
    subscriber_params: Annotated[str, AfterValidator(_of_subscriber)] = Field(
        default='{"msisdn": "{msisdn}", "imsi": "{imsi}"}',
        alias="YateHSS.SubscriberParams",
        max_length=4000,
        description="The params of set_subscriber, as a JSON object. Texts may hold {imsi}, "
        "{iccid}, {msisdn} and {profile}. A subscriber_id is added where there is one.",
        json_schema_extra={"group": "What is provisioned"},
    )
    keep_sims: bool = Field(
        default=False,
        alias="YateHSS.KeepSIMs",
        description="On: the SIM of a card that was taken off stays, without services. Off: it is "
        "deleted, as the vendor advises for a swap.",
        json_schema_extra={"group": "What is provisioned"},
    )


class _AbsentError(Exception):
    """There is no such SIM or subscriber."""


class YateHSS(DesiredStateHandler):
    """Make a YateHSS hold the subscribers that have a SIM card."""

    Settings: ClassVar[type[HandlerSettings]] = YateHSSSettings
    settings: YateHSSSettings
    keyed_by = "imsi"
    needs_card_keys = True
    #: The order that the vendor prescribes for a swap: new SIM, subscriber to it, old SIM off.
    comes_first = True
    secret_fields = frozenset({"ki", "opc"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._api = self._reached(self.settings.timeout)
        self._pages = Pages(self._page)
        self._says_absent = re.compile(self.settings.absent_messages, re.IGNORECASE)
        self._sent: OrderedDict[str, Fields] = OrderedDict()

    def _reached(self, timeout_seconds: float) -> HttpApi:
        secret = self.settings.secret.get_secret_value()
        headers = {"X-Authentication": secret} if secret else {}
        return HttpApi(self.settings.url, timeout_seconds, headers, mobile.SECRETS)

    async def check(self, context: Context) -> str:
        """Ask what the node is. POST is how everything is asked; this changes nothing."""
        api = self._reached(CHECK_SECONDS / 2)
        told = await self._ask("get_node_type", None, context, api)
        nodes = _objects(told, "node_type")
        said = ", ".join(f"{each.get('type')} {each.get('version', '')}".strip() for each in nodes)
        return f"the server answers and takes the secret: {said or 'it names no node'}"

    # What it should hold

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """The SIM with its services and keys, and the subscriber."""
        settings = self.settings
        mobile.imsi(key)
        given = set("+".join(mapped(owner.products, settings.services)).split("+"))
        if given <= {"", "none"}:
            return None
        barred = owner.barred_by(settings.barred_by)
        data = not owner.exceeded & mobile.DATA
        fields = {
            name: "1" if name in given and not barred and (data or name == "cs") else "0"
            for name in _SERVICES
        }
        keys = mobile.keys(owner.card)
        if keys is not None:
            fields |= {"ki": keys[0], "opc": keys[1]}
        places = {
            "imsi": key,
            "iccid": owner.card.iccid if owner.card else "",
            "msisdn": mobile.number(owner),
            "profile": (*mapped(owner.products, settings.profile), "")[0],
        }
        params = _filled(json.loads(settings.subscriber_params), places)
        fields |= {f"subscriber.{name}": _shown(value) for name, value in params.items()}
        return {**fields, **({"iccid": places["iccid"]} if places["iccid"] else {})}

    # What it holds

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """The SIM of an IMSI, and its subscriber."""
        sim = await self._find("sim", {"imsi": key}, context)
        subscriber = await self._find("subscriber", {"imsi": key}, context)
        fields: dict[str, str] = {}
        if sim is not None:
            fields |= {name: _shown(_on(sim.get(on))) for name, on in _SERVICES.items()}
        gone = sim is None or (wanted is None and self.settings.keep_sims)
        if subscriber is None and gone and "1" not in fields.values():
            return None
        if sim is not None:
            fields |= _lasting(sim, wanted or {})
        if subscriber is not None:
            names = json.loads(self.settings.subscriber_params)
            told = {name: _shown(subscriber[name]) for name in names if name in subscriber}
            # What it does not tell was sent by us, or is not known.
            fields |= self._sent.get(key, {})
            fields |= {f"subscriber.{name}": value for name, value in told.items()}
        return fields

    async def _find(
        self, what: str, by: Mapping[str, str], context: Context
    ) -> Mapping[str, Any] | None:
        """The one SIM or subscriber of a filter; None: there is none."""
        try:
            told = await self._ask(f"get_{what}", by, context)
        except _AbsentError:
            return None
        # A filter that it does not know, it may well not heed.
        found = [
            each
            for each in _objects(told, what)
            if all(str(each.get(name, value)) == value for name, value in by.items())
        ]
        if len(found) > 1:
            raise Rejected(f"YateHSS has {len(found)} of {what} {compact(by)}")
        return found[0] if found else None

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """See DesiredStateHandler; the IMSIs of the SIMs that a subscriber uses, and the others."""
        return await self._pages.after(after, context)

    async def _page(self, number: int, context: Context) -> list[str]:
        told = await self._ask("get_sim", {"limit": PAGE, "offset": number * PAGE}, context)
        return [str(sim["imsi"]) for sim in _objects(told, "sim") if sim.get("imsi")]

    # Changes

    async def apply(self, change: Change, context: Context) -> None:
        """Create, change or remove a SIM and its subscriber."""
        wanted, held = change.wanted, change.held or {}
        if wanted is None:
            await self._remove(change.key, context)
            return
        if "cs" not in held:
            await self._add_sim(change.key, wanted, context)
        elif not _SERVICES.keys().isdisjoint(change.fields):
            await self._ask("set_sim", {"imsi": change.key, **_switches(wanted)}, context)
        if any(name.startswith("subscriber.") for name in change.fields):
            await self._set_subscriber(change.key, wanted, context)
        if "cs" in held and not {"ki", "opc", "iccid"}.isdisjoint(change.fields):
            raise Rejected("YateHSS has the SIM with another key or ICCID, which it cannot change")

    async def _add_sim(self, imsi: str, wanted: Fields, context: Context) -> None:
        if "ki" not in wanted:
            raise Rejected("neither the billing nor YateHSS knows the keys of the SIM card")
        for name in ("ki", "opc"):
            context.hide(wanted[name])
        places = {"imsi": imsi, "iccid": wanted.get("iccid", "")}
        sim = {
            **_filled(json.loads(self.settings.sim_params), places),
            "imsi": imsi,
            **({"iccid": wanted["iccid"]} if "iccid" in wanted else {}),
            "ki": wanted["ki"],
            "op": wanted["opc"],
        }
        params = {
            "sims": [sim],
            "sim_profile": self.settings.sim_profile,
            **_switches(wanted),
            # What stands as op is the OPc.
            "use_opc": True,
        }
        await self._ask("set_sim_range", params, context)

    async def _set_subscriber(self, imsi: str, wanted: Fields, context: Context) -> None:
        template = json.loads(self.settings.subscriber_params)
        fields = {f"subscriber.{name}": wanted[f"subscriber.{name}"] for name in template}
        params = {name: _typed(fields[f"subscriber.{name}"], template[name]) for name in template}
        own = await self._find("subscriber", {"imsi": imsi}, context)
        holder = None
        if params.get("msisdn"):
            holder = await self._find("subscriber", {"msisdn": params["msisdn"]}, context)
        # The number is ours, by the billing: whoever has it comes to this SIM, or loses it.
        if own is None:
            own = holder
        elif holder is not None and _id(holder) != _id(own):
            context.note(f"{holder.get('imsi')}: msisdn: {params['msisdn']} -> none")
            taken = {"subscriber_id": _id(holder), "msisdn": None}
            await self._ask("set_subscriber", taken, context)
        known = {} if own is None else {"subscriber_id": _id(own)}
        await self._ask("set_subscriber", {**known, **params}, context)
        self._sent[imsi] = fields
        self._sent.move_to_end(imsi)
        if len(self._sent) > _MOST_SENT:
            self._sent.popitem(last=False)

    async def _remove(self, imsi: str, context: Context) -> None:
        """Off the network first; then the one that refers, then the one that is referred to."""
        self._sent.pop(imsi, None)
        off = {"imsi": imsi, **dict.fromkeys(_SERVICES.values(), False)}
        subscriber = await self._find("subscriber", {"imsi": imsi}, context)
        steps: list[tuple[str, Mapping[str, Any]]] = [("set_sim", off)]
        if subscriber is not None:
            steps.append(("del_subscriber", {"subscriber_id": _id(subscriber)}))
        if not self.settings.keep_sims:
            steps.append(("del_sim", {"imsi": imsi}))
        for request, params in steps:
            try:
                await self._ask(request, params, context)
            except _AbsentError:
                continue

    # Requests

    async def _ask(
        self,
        request: str,
        params: Mapping[str, Any] | None,
        context: Context,
        api: HttpApi | None = None,
    ) -> Mapping[str, Any]:
        """The answer to a request that has succeeded.

        Raises _AbsentError where there is no such thing, else the verdict.
        """
        node = {"node": self.settings.node} if self.settings.node else {}
        body = {"request": request, **node, **({} if params is None else {"params": params})}
        told = await (api or self._api).ask(context, "POST", "api.php", body)
        if told.status in {404, 405}:
            raise Misconfigured("there is no api.php at YateHSS.URL")
        if not told.ok:
            raise told.verdict()
        code = told.value.get("code") if isinstance(told.value, dict) else None
        if code is None:
            raise TryLater(f"YateHSS: the answer to {request} has no code: {told.shown}")
        if str(code) == "0":
            return dict(told.value)
        # Cut after secrets are hidden: a part of one would not be known.
        message = masked(str(told.value.get("message", "")), context.secrets)[:200]
        if str(code) in map(str, self.settings.absent_codes) or self._says_absent.search(message):
            raise _AbsentError(message)
        refused = str(code) in map(str, self.settings.rejected_codes)
        raise (Rejected if refused else TryLater)(f"YateHSS: {request}: {message} (code {code})")


def _lasting(sim: Mapping[str, Any], wanted: Fields) -> dict[str, str]:
    """What cannot be changed once a SIM is there; where it is not told, it is as it should be."""
    fields = {name: wanted[name] for name in ("ki", "opc", "iccid") if name in wanted}
    for name, member in (("ki", "ki"), ("opc", "op"), ("iccid", "iccid")):
        told = str(sim.get(member) or "").upper()
        # Stars may stand in the place of a key.
        if told and (name == "iccid" or mobile.is_key(told)):
            fields[name] = told
    return fields


def _switches(wanted: Fields) -> dict[str, bool]:
    return {member: wanted[name] == "1" for name, member in _SERVICES.items()}


def _objects(told: Mapping[str, Any], what: str) -> list[Mapping[str, Any]]:
    """The objects of an answer: a list of them, or one alone."""
    found = told.get(what)
    listed = found if isinstance(found, list) else [found]
    return [each for each in listed if isinstance(each, dict) and each]


def _id(subscriber: Mapping[str, Any]) -> Any:
    found = subscriber.get("subscriber_id")
    if found is None:
        raise Rejected("YateHSS tells a subscriber without its subscriber_id")
    return found


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    """A template with its places filled."""
    match value:
        case str():
            return _PLACE.sub(lambda found: places[found[1]], value)
        case dict():
            return {name: _filled(each, places) for name, each in value.items()}
        case list():
            return [_filled(each, places) for each in value]
        case _:
            return value


def _typed(text: str, template: Any) -> Any:
    """A value as it is sent: of the type that it has in the template."""
    match template:
        case str():
            return text
        case dict() | list():
            return json.loads(text)
        case _:
            return template


def _on(value: Any) -> bool:
    """A switch, whether it is told as a boolean, a number or a text."""
    return str(value).lower() in {"1", "true", "t", "yes", "on"}


def _shown(value: Any) -> str:
    """A value of JSON as a text that can be compared."""
    match value:
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case str() | int():
            return str(value)
        case _:
            return json.dumps(value, sort_keys=True, ensure_ascii=False)
