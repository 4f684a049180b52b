"""PyHSS: a home subscriber server of 4G and IMS networks, over its REST API.

An entry is what PyHSS holds of one IMSI in three tables: the keys (``auc``), the subscription
(``subscriber``) and, for those with voice over LTE, the IMS subscription (``ims_subscriber``). They
refer to each other by numbers, which are looked up each time and never kept.

PyHSS answers much with 200 and ``null``: what is not there, and also what it could not do, for any
reason. So nothing counts as done before it was read again. Its error texts hold all that it was
sent, keys too.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NoReturn

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
from espf.handlers.subscriber import Subscriber
from espf.systems import mobile
from espf.systems.http_api import HttpApi, Pages, Told

_GROUP = "PyHSS"

#: Entries of a page of a list. Their texts are about 1 KB each, and of a reply 64 KB are read.
PAGE = 30

#: How long the names of APNs are believed.
_APN_SECONDS = 60.0

#: How a mark begins by which we know what we have written.
_OURS = "espf:"

_AMBR = re.compile(r"(\d{1,10})/(\d{1,10})", re.ASCII)

#: Another entry has it, or what it refers to has gone.
_OF_STATE = re.compile(r"unique|duplicate|foreign key", re.IGNORECASE)

#: Where the statement and its parameters begin in an error text.
_STATEMENT = re.compile(r"\s*\[(?:SQL|parameters)\b", re.IGNORECASE)

_SESSION = ("serving_mme", "serving_mme_realm", "serving_mme_peer", "serving_mme_timestamp")


def _rates(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for _, value in pairs:
        if value and not _AMBR.fullmatch(value):
            raise ValueError(f"{value!r} is not DOWN/UP in bits per second")
    return pairs


class PyHSSSettings(mobile.RegisterSettings):
    """The options of a PyHSS."""

    url: Url = Field(
        alias="PyHSS.URL",
        description="Where PyHSS's API listens, such as http://127.0.0.1:8080.",
        json_schema_extra={"group": _GROUP},
    )
    provisioning_key: SecretStr = Field(
        default=SecretStr(""),
        alias="PyHSS.ProvisioningKey",
        description="The provisioning_key in PyHSS's configuration. Empty: it asks for none.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=10,
        alias="PyHSS.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )
    apns: ProductMap = Field(
        default=(("*", "internet"),),
        alias="PyHSS.APNs",
        description="The APNs that each product gives, by name, such as "
        "'Voice=internet, ims; *=internet'. Of several products, all; the first is the default "
        "APN. Who has none is not in PyHSS.",
        json_schema_extra={"group": "What is provisioned"},
    )
    without_quota: Annotated[
        tuple[str, ...], BeforeValidator(words), PlainSerializer(", ".join)
    ] = Field(
        default=(),
        alias="PyHSS.APNsWithoutQuota",
        description="The APNs that a subscriber keeps when its data quota is used up. Who keeps "
        "none is disabled.",
        json_schema_extra={"group": "What is provisioned"},
    )
    ambr: Annotated[ProductMap, AfterValidator(_rates)] = Field(
        default=(),
        alias="PyHSS.AMBR",
        description="The most that each product gives, DOWN/UP in bits per second, such as "
        "'Gold=100000000/50000000; *=10000000/5000000'. The first product that has one decides. "
        "Empty: what PyHSS has.",
        json_schema_extra={"group": "What is provisioned"},
    )
    ims_apn: str = Field(
        default="ims",
        alias="PyHSS.IMSAPN",
        max_length=50,
        description="Who has this APN is an IMS subscriber, too. Empty: nobody is.",
        json_schema_extra={"group": "What is provisioned"},
    )
    ifc_path: str = Field(
        default="default_ifc.xml",
        alias="PyHSS.IFCPath",
        max_length=512,
        description="The template of the initial filter criteria of IMS subscribers.",
        json_schema_extra={"group": "What is provisioned"},
    )
    amf: str = Field(
        default="8000",
        alias="PyHSS.AMF",
        pattern=r"^[0-9A-Fa-f]{4}$",
        description="The authentication management field of the cards.",
        json_schema_extra={"group": "What is provisioned"},
    )
    key_mark: Literal["misc1", "misc2", "misc3", "misc4", "none"] = Field(
        default="misc4",
        alias="PyHSS.KeyMark",
        description="The free field of an AuC entry that says by a hash which keys were written, "
        "for PyHSS does not tell keys. 'none': keys are written once, never compared and never "
        "removed.",
        json_schema_extra={"group": "What is provisioned"},
    )


class _ChangedError(Exception):
    """It is no longer as it was read, and has to be compared anew."""


@dataclass(frozen=True)
class _Held:
    """What PyHSS holds of an IMSI, table by table."""

    auc: Mapping[str, Any] | None
    subscriber: Mapping[str, Any] | None
    ims: Mapping[str, Any] | None

    @property
    def session(self) -> bool:
        """Whether an MME serves it."""
        return bool((self.subscriber or {}).get("serving_mme"))


class PyHSS(DesiredStateHandler):
    """Make PyHSS hold the subscribers that have a SIM card."""

    Settings: ClassVar[type[HandlerSettings]] = PyHSSSettings
    settings: PyHSSSettings
    keyed_by = "imsi"
    needs_card_keys = True
    comes_first = True
    secret_fields = frozenset({"ki", "opc"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._api = self._reached(self.settings.timeout)
        self._pages = Pages(self._page)
        self._apns: dict[str, int] = {}
        self._apns_until = 0.0

    def _reached(self, timeout_seconds: float) -> HttpApi:
        key = self.settings.provisioning_key.get_secret_value()
        headers = {"Provisioning-Key": key} if key else {}
        return HttpApi(self.settings.url, timeout_seconds, headers, mobile.SECRETS)

    async def check(self, context: Context) -> str:
        """Ask for the APNs. Who only reads needs no key, so it is not tried."""
        self._apns_until = 0.0
        api = self._reached(CHECK_SECONDS / 2)
        _judged(await api.ask(context, "GET", "oam/ping"))
        names = [name for each in self.settings.apns for name in _names(each[1])]
        await self._ids(list(dict.fromkeys(names)), context)
        return "PyHSS answers and has the APNs; whether it takes the key, only a change tells"

    # What it should hold

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """The keys, the subscription and the IMS subscription."""
        settings = self.settings
        mobile.imsi(key)
        given = _names(",".join(mapped(owner.products, settings.apns)))
        if not given:
            return None
        kept = given
        if owner.exceeded & mobile.DATA:
            kept = tuple(apn for apn in given if apn in settings.without_quota)
        enabled = bool(kept) and not owner.barred_by(settings.barred_by)
        number = mobile.number(owner)
        rates = mapped(owner.products, settings.ambr)[:1]
        return {
            **self._card_wanted(owner),
            "auc": "own",
            "apns": ",".join(sorted(kept or given)),
            "default_apn": (kept or given)[0],
            **({"ambr": rates[0]} if rates else {}),
            "msisdn": number,
            "enabled": "1" if enabled else "0",
            # A session goes on unless it is cut.
            **({} if enabled else {"session": "none"}),
            "ims": number if settings.ims_apn in given else "none",
            **({"ifc": settings.ifc_path} if settings.ims_apn in given else {}),
        }

    def _card_wanted(self, owner: Subscriber) -> dict[str, str]:
        """What is known of the card; of one without keys, whatever is there."""
        keys = mobile.keys(owner.card)
        if keys is None or owner.card is None:
            return {}
        iccid = {"iccid": owner.card.iccid} if owner.card.iccid else {}
        return {**iccid, "amf": self.settings.amf.upper(), "ki": keys[0], "opc": keys[1]}

    # What it holds

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """What is there of an IMSI, whole or in part."""
        held = await self._held(key, context)
        # Keys that wait for a subscriber are no entry of ours, unless we have written them.
        waiting = held.auc is None or (wanted is None and not self._is_ours(held.auc))
        if held.subscriber is None and held.ims is None and waiting:
            if wanted is None:
                # It says null of a database that is away, too; but then it cannot list either.
                await self._list("apn", 0, context)
            return None
        fields = self._card_held(key, held.auc, wanted)
        if held.subscriber is not None:
            fields |= await self._subscription(held, context)
        ims = held.ims or {}
        return {**fields, "ims": str(ims.get("msisdn") or "none"), "ifc": str(ims.get("ifc_path"))}

    async def _held(self, imsi: str, context: Context) -> _Held:
        # The AuC first: the last exchange stays in the journal, and it tells of cards.
        auc = await self._get(f"auc/imsi/{imsi}", context)
        subscriber = await self._get(f"subscriber/imsi/{imsi}", context)
        return _Held(
            auc, subscriber, await self._get(f"ims_subscriber/ims_subscriber_imsi/{imsi}", context)
        )

    def _is_ours(self, auc: Mapping[str, Any] | None) -> bool:
        """Whether we have written an AuC entry, and the billing knows its keys, therefore."""
        return str((auc or {}).get(self.settings.key_mark) or "").startswith(_OURS)

    def _card_held(
        self, imsi: str, auc: Mapping[str, Any] | None, wanted: Fields | None
    ) -> dict[str, str]:
        if auc is None:
            return {}
        fields = {"iccid": str(auc.get("iccid") or ""), "amf": str(auc.get("amf")).upper()}
        if wanted is None or "ki" not in wanted:
            return fields
        field = self.settings.key_mark
        mark = str(auc.get(field) or "")
        if mark and not mark.startswith(_OURS):
            raise Misconfigured(f"{field} of PyHSS's AuC is in use; choose another PyHSS.KeyMark")
        keys = {name: wanted[name] for name in ("ki", "opc")}
        told = {name: str(auc.get(name) or keys[name]).upper() for name in keys}
        if field == "none" or mark == _mark(imsi, keys["ki"], keys["opc"]):
            return fields | told
        return fields

    async def _subscription(self, held: _Held, context: Context) -> dict[str, str]:
        row = held.subscriber or {}
        names = {number: name for name, number in (await self._known_apns(context)).items()}
        apns = [_name_of(number, names) for number in str(row.get("apn_list") or "").split(",")]
        own = held.auc is not None and row.get("auc_id") == held.auc.get("auc_id")
        return {
            "auc": "own" if own else "another",
            "apns": ",".join(sorted(apns)),
            "default_apn": _name_of(str(row.get("default_apn")), names),
            "ambr": f"{row.get('ue_ambr_dl')}/{row.get('ue_ambr_ul')}",
            "msisdn": str(row.get("msisdn") or ""),
            "enabled": "1" if row.get("enabled") else "0",
            "session": "attached" if held.session else "none",
        }

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """See DesiredStateHandler; the IMSIs of the subscribers."""
        return await self._pages.after(after, context)

    async def _page(self, number: int, context: Context) -> list[str]:
        rows = await self._list("subscriber", number, context)
        return [str(row["imsi"]) for row in rows if row.get("imsi")]

    async def _list(self, table: str, number: int, context: Context) -> list[dict[str, Any]]:
        path = f"{table}/list?page={number}&page_size={PAGE}"
        rows = _judged(await self._api.ask(context, "GET", path))
        if not isinstance(rows, list):
            raise TryLater(f"PyHSS does not list what it has of {table}")
        return [row for row in rows if isinstance(row, dict)]

    # APNs

    async def _known_apns(self, context: Context) -> dict[str, int]:
        """The number of each APN, by name."""
        if time.monotonic() >= self._apns_until:
            found: dict[int, str] = {}
            number = 0
            while rows := await self._list("apn", number, context):
                before = len(found)
                found |= {int(row["apn_id"]): str(row["apn"]) for row in rows}
                number += 1
                # One that knows no pages tells all each time.
                if len(found) == before or len(rows) < PAGE:
                    break
            self._apns = {name: key for key, name in sorted(found.items(), reverse=True)}
            if len(self._apns) < len(found):
                raise Misconfigured("two APNs of PyHSS have the same name")
            self._apns_until = time.monotonic() + _APN_SECONDS
        return self._apns

    async def _ids(self, names: Sequence[str], context: Context) -> list[int]:
        known = await self._known_apns(context)
        if not known.keys() >= set(names):
            self._apns_until = 0.0
            known = await self._known_apns(context)
        missing = [name for name in names if name not in known]
        if missing:
            raise Misconfigured(f"PyHSS has no APN {missing[0]!r}")
        return [known[name] for name in names]

    # Changes

    async def apply(self, change: Change, context: Context) -> None:
        """Create, change or remove what is there of one IMSI."""
        held = await self._held(change.key, context)
        try:
            if change.wanted is None:
                await self._remove(change.key, held, context)
                return
            auc_id = await self._bring_card(change.key, change, held, context)
            await self._bring_subscriber(change.key, change, held, auc_id, context)
            await self._bring_ims(change.key, change.wanted, held, context)
        except _ChangedError as changed:
            self._apns_until = 0.0
            context.note(f"PyHSS: {changed}")

    async def _bring_card(self, imsi: str, change: Change, held: _Held, context: Context) -> Any:
        """Returns the number of the AuC entry."""
        wanted = change.wanted or {}
        row = {name: wanted[name] for name in ("iccid", "amf", "ki", "opc") if name in wanted}
        if "ki" in row:
            context.hide(row["ki"])
            context.hide(row["opc"])
            if self.settings.key_mark != "none":
                row[self.settings.key_mark] = _mark(imsi, row["ki"], row["opc"])
        if held.auc is None:
            if "ki" not in row:
                raise Rejected("neither the billing nor PyHSS knows the keys of the SIM card")
            return await self._create("auc", {"imsi": imsi, "sqn": 0, **row}, context)
        if not {"iccid", "amf", "ki", "opc"}.isdisjoint(change.fields):
            await self._patch("auc", held.auc, row, context)
        return held.auc.get("auc_id")

    async def _bring_subscriber(
        self, imsi: str, change: Change, held: _Held, auc_id: Any, context: Context
    ) -> None:
        wanted = change.wanted or {}
        names = wanted["apns"].split(",")
        ids = await self._ids([*names, wanted["default_apn"]], context)
        row: dict[str, Any] = {
            "auc": {"auc_id": auc_id},
            "apns": {"apn_list": ",".join(map(str, sorted(ids[:-1])))},
            "default_apn": {"default_apn": ids[-1]},
            "ambr": _rates_of(wanted.get("ambr")),
            "msisdn": {"msisdn": wanted["msisdn"]},
            "enabled": {"enabled": wanted["enabled"] == "1"},
        }
        if held.subscriber is None:
            columns = {name: value for part in row.values() for name, value in part.items()}
            await self._create("subscriber", {"imsi": imsi, **columns}, context)
            return
        changed = [row[name] for name in change.fields if name in row]
        columns = {name: value for part in changed for name, value in part.items()}
        if wanted.get("session") == "none" and held.session:
            await self._cut(imsi, held.subscriber, columns, context)
        elif columns:
            await self._patch("subscriber", held.subscriber, columns, context)

    async def _cut(
        self, imsi: str, row: Mapping[str, Any], columns: Mapping[str, Any], context: Context
    ) -> None:
        """Disable a subscriber and end its session.

        PyHSS tells the MME only of what stands in the request itself; and it goes on to hold the
        session, which shows what is still to be done until it is cleared.
        """
        serving = {name: row.get(name) for name in ("serving_mme", "serving_mme_realm")}
        cutting = {**columns, "imsi": imsi, "enabled": False, **serving}
        await self._patch("subscriber", row, cutting, context)
        await self._patch("subscriber", row, dict.fromkeys(_SESSION), context)

    async def _bring_ims(self, imsi: str, wanted: Fields, held: _Held, context: Context) -> None:
        number = wanted["ims"]
        if number == "none":
            await self._delete("ims_subscriber", held.ims, context)
            return
        row = {"msisdn": number, "msisdn_list": number, "ifc_path": wanted["ifc"]}
        if held.ims is None or held.ims.get("msisdn") != number:
            await self._make_way(imsi, number, context)
        if held.ims is None:
            await self._create("ims_subscriber", {"imsi": imsi, **row}, context)
        elif any(held.ims.get(name) != row[name] for name in ("msisdn", "ifc_path")):
            await self._patch("ims_subscriber", held.ims, row, context)

    async def _make_way(self, imsi: str, number: str, context: Context) -> None:
        """Take a number from another IMS subscriber: by the billing it is not its own any more.

        It goes by its IMSI until its own event has come, for it must go by something.
        """
        other = await self._get(f"ims_subscriber/ims_subscriber_msisdn/{number}", context)
        if other is not None and other.get("imsi") not in {None, imsi}:
            context.note(f"{other['imsi']}: ims: {number} -> {other['imsi']}")
            row = {"msisdn": other["imsi"], "msisdn_list": other["imsi"]}
            await self._patch("ims_subscriber", other, row, context)

    async def _remove(self, imsi: str, held: _Held, context: Context) -> None:
        """From the one that refers to the one that is referred to, and off the network first."""
        if held.subscriber is not None and held.session:
            await self._cut(imsi, held.subscriber, {}, context)
        await self._delete("ims_subscriber", held.ims, context)
        await self._delete("subscriber", held.subscriber, context)
        if self._is_ours(held.auc):
            await self._delete("auc", held.auc, context)

    # Requests

    async def _get(self, path: str, context: Context) -> Mapping[str, Any] | None:
        found = _judged(await self._api.ask(context, "GET", path))
        return found if isinstance(found, dict) else None

    async def _create(self, table: str, row: Mapping[str, Any], context: Context) -> Any:
        """Returns the number that the row got."""
        made = await self._write("PUT", f"{table}/", row, context)
        if f"{table}_id" not in made:
            raise TryLater(f"PyHSS does not tell the {table}_id of what it has created")
        return made[f"{table}_id"]

    async def _patch(
        self, table: str, held: Mapping[str, Any], row: Mapping[str, Any], context: Context
    ) -> None:
        await self._write("PATCH", f"{table}/{held[f'{table}_id']}", row, context)

    async def _delete(self, table: str, held: Mapping[str, Any] | None, context: Context) -> None:
        if held is not None:
            path = self._labelled(f"{table}/{held[f'{table}_id']}", context)
            _judged(await self._api.ask(context, "DELETE", path))

    async def _write(
        self, method: str, path: str, row: Mapping[str, Any], context: Context
    ) -> Mapping[str, Any]:
        told = await self._api.ask(context, method, self._labelled(path, context), row)
        written = _judged(told)
        if not isinstance(written, dict):
            raise _ChangedError(f"{method} {path} has done nothing")
        return written

    def _labelled(self, path: str, context: Context) -> str:
        """With the event in it, for PyHSS's log of operations."""
        if context.i_event is None:
            return path
        return f"{path}?operation_id=espf-{context.i_event}"


def _judged(told: Told) -> Any:
    """The JSON of an answer; None where PyHSS says ``null``. Raises the verdict of any other."""
    # Look-ups of IMS subscribers say 400 with it.
    if told.status in {200, 400} and told.reply.text.strip() == "null":
        return None
    if told.ok and told.value is not None:
        return told.value
    if told.ok:
        raise TryLater(f"PyHSS's answer is no JSON: {told.shown}")
    if told.status == 404:
        raise Misconfigured("PyHSS knows no such path; is PyHSS.URL the one of its API?")
    if told.status in {400, 500}:
        _refused(told)
    raise told.verdict()


def _refused(told: Told) -> NoReturn:
    """Raise what a refusal with a reason means."""
    found = told.value[0] if isinstance(told.value, list) and told.value else told.value
    reason = str(found.get("reason", "")) if isinstance(found, dict) else ""
    # What was sent stands behind it, keys too.
    said = " ".join(_STATEMENT.split(reason)[0].split())[:300]
    if "OperationalError" in reason:
        raise TryLater(f"PyHSS: {said}")
    if "IntegrityError" in reason and _OF_STATE.search(said):
        raise _ChangedError(said)
    if told.status == 400 or "keyword argument" in reason:
        raise Rejected(f"PyHSS: {said or told.shown}")
    raise TryLater(f"PyHSS: {said or told.shown}")


def _names(text: str) -> tuple[str, ...]:
    """The names in a list, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _name_of(number: str, names: Mapping[int, str]) -> str:
    """The name of an APN; of one that is not there, its number."""
    text = number.strip()
    return names.get(int(text), f"#{text}") if text.isdigit() else f"#{text}"


def _rates_of(ambr: str | None) -> dict[str, int]:
    found = _AMBR.fullmatch(ambr or "")
    return {"ue_ambr_dl": int(found[1]), "ue_ambr_ul": int(found[2])} if found else {}


def _mark(imsi: str, ki: str, opc: str) -> str:
    """What says which keys we have written."""
    return _OURS + mobile.mark(imsi, ki, opc)
