"""OsmoHLR: the home location register and authentication centre of GSM and UMTS networks.

An entry is a subscriber by its IMSI: the number (MSISDN), whether it may use voice and messages
(CS) and data (PS), and the keys of its card. Everything is read and written by CTRL; what an
attached phone must notice at once goes by VTY, for only that tells the VLR and the SGSN.

Writing a key again, even the same one, sets the sequence number of its card back to 0 and makes
the next authentication fail. So keys are compared before they are written, as all else is.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from espf.errors import Rejected, TryLater
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.subscriber import Subscriber
from espf.systems import mobile
from espf.systems.mobile import RegisterSettings
from espf.systems.osmocom import Ctrl, Refused, Vty

_GROUP = "OsmoHLR"

#: What OsmoHLR says when there is no such subscriber.
_ABSENT = {"No such subscriber.", "Subscriber doesn't exist."}

#: What it says of a fault that may be over soon: its database is locked for a moment.
_FOR_NOW = {"Cannot create subscriber.", "An error has occurred."}

#: It could not write, for its database is locked or the number is another's; each by its name.
_NOT_WRITTEN = re.compile(r"Update (MSISDN|aud2g|aud3g) failed")

#: What a product may give.
_GIVES = ("cs", "ps", "cs+ps", "none")

_NO_KEY = "none"

#: Subscribers are looked for by number, so many at a time; behind so many numbers without one,
#: there are none.
_NUMBERS = 200
_LONGEST_GAP = 20_000


class OsmoHLRSettings(RegisterSettings):
    """The options of an OsmoHLR."""

    address: str = Field(
        alias="OsmoHLR.Address",
        min_length=1,
        description="The host, by name or address, at which OsmoHLR's CTRL and VTY listen. Neither "
        "asks for a password: keep the way to it private.",
        json_schema_extra={"group": _GROUP},
    )
    ctrl_port: int = Field(
        default=4259,
        alias="OsmoHLR.CtrlPort",
        ge=1,
        le=65535,
        description="The port of CTRL.",
        json_schema_extra={"group": _GROUP},
    )
    vty_port: int = Field(
        default=4258,
        alias="OsmoHLR.VtyPort",
        ge=1,
        le=65535,
        description="The port of VTY.",
        json_schema_extra={"group": _GROUP},
    )
    live_update: bool = Field(
        default=True,
        alias="OsmoHLR.LiveUpdate",
        description="On: a change of number or access goes by VTY, so that attached phones notice "
        "it at once. Off: by CTRL, and phones notice it when they attach again.",
        json_schema_extra={"group": _GROUP},
    )
    services: ProductMap = Field(
        default=(("*", "cs+ps"),),
        alias="OsmoHLR.Services",
        description="What each product gives: cs, ps, cs+ps or none, such as "
        "'Data only=ps; *=cs+ps'. Of several products, all that they give.",
        json_schema_extra={"group": _GROUP},
    )
    algorithm_2g: Literal["none", "comp128v1", "comp128v2", "comp128v3", "xor"] = Field(
        default="none",
        alias="OsmoHLR.Algorithm2G",
        description="The 2G algorithm of cards that have a Ki. 'none': none is provisioned.",
        json_schema_extra={"group": _GROUP},
    )
    algorithm_3g: Literal["none", "milenage"] = Field(
        default="milenage",
        alias="OsmoHLR.Algorithm3G",
        description="The 3G algorithm of cards that have a Ki and an OPc.",
        json_schema_extra={"group": _GROUP},
    )
    when_barred: Literal["cut", "data only"] = Field(
        default="cut",
        alias="OsmoHLR.WhenBarred",
        description="What a barred subscriber loses: everything ('cut'), or data alone.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=10,
        alias="OsmoHLR.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )

    @field_validator("services")
    @classmethod
    def _are_known(cls, value: ProductMap) -> ProductMap:
        for product, given in value:
            if given not in _GIVES:
                raise ValueError(f"what {product} gives is one of {', '.join(_GIVES)}")
        return value


class OsmoHLR(DesiredStateHandler):
    """Make OsmoHLR hold the subscribers that have a SIM card."""

    Settings: ClassVar[type[HandlerSettings]] = OsmoHLRSettings
    settings: OsmoHLRSettings
    keyed_by = "imsi"
    needs_card_keys = True
    secret_fields = frozenset({"aud2g", "aud3g"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        self._ctrl = Ctrl(own.address, own.ctrl_port, own.timeout)
        self._vty = Vty(own.address, own.vty_port, own.timeout)
        # The last subscriber that was listed, and its number.
        self._place = ("", 0)

    async def close(self) -> None:
        """Hang up."""
        await self._ctrl.close()
        await self._vty.close()

    async def check(self, context: Context) -> str:
        """Ask CTRL for a subscriber that cannot be, and VTY for its version."""
        ctrl = Ctrl(self.settings.address, self.settings.ctrl_port, CHECK_SECONDS / 2)
        try:
            await ctrl.get("subscriber.by-imsi-000000.info", context)
        except Refused:
            pass
        finally:
            await ctrl.close()
        if not self.settings.live_update:
            return "CTRL answers"
        vty = Vty(self.settings.address, self.settings.vty_port, CHECK_SECONDS / 2)
        try:
            said = (await vty.run("show version", context)).splitlines()
        finally:
            await vty.close()
        return f"CTRL and VTY answer: {said[0] if said else 'no version is told'}"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """The number, the access and the keys."""
        settings = self.settings
        mobile.imsi(key)
        msisdn = mobile.number(owner)
        given = set("+".join(mapped(owner.products, settings.services)).split("+"))
        barred = owner.barred_by(settings.barred_by)
        cs = "cs" in given and not (barred and settings.when_barred == "cut")
        ps = "ps" in given and not barred and not owner.exceeded & mobile.DATA
        return {
            "msisdn": msisdn,
            "cs": "1" if cs else "0",
            "ps": "1" if ps else "0",
            **self._keys_wanted(owner),
        }

    def _keys_wanted(self, owner: Subscriber) -> dict[str, str]:
        """The keys of the card; of one whose keys the billing does not know, whatever is there."""
        card = owner.card
        if card is None or card.ki is None:
            return {}
        ki, opc = card.ki.upper(), (card.opc or "").upper()
        if not mobile.is_key(ki) or (opc and not mobile.is_key(opc)):
            raise Rejected("a key of the SIM card is not 32 hexadecimal digits")
        two, three = self.settings.algorithm_2g, self.settings.algorithm_3g
        return {
            "aud2g": _NO_KEY if two == "none" else f"{two},{ki}".upper(),
            "aud3g": _NO_KEY if three == "none" or not opc else f"{three},{ki},OPC,{opc}".upper(),
        }

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:  # noqa: ARG002
        """The subscriber of an IMSI."""
        info = await self._get(key, "info", context)
        if info is None:
            return None
        told = dict(line.split("\t", 1) for line in info.splitlines() if "\t" in line)
        two = await self._get(key, "aud2g", context) or _NO_KEY
        three = await self._get(key, "aud3g", context) or _NO_KEY
        for text in (two, three):
            for part in text.split(","):
                if mobile.is_key(part):
                    context.hide(part)
        return {
            "msisdn": told.get("msisdn", "none"),
            "cs": told.get("nam_cs", ""),
            "ps": told.get("nam_ps", ""),
            "aud2g": _key_of(two),
            "aud3g": _key_of(three),
        }

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The next IMSIs, in the order in which OsmoHLR has numbered its subscribers.

        VTY would list all at once, and keep OsmoHLR from all else meanwhile.
        """
        first = 1 if after is None else await self._number_of(after, context) + 1
        for start in range(first, first + _LONGEST_GAP, _NUMBERS):
            numbers = range(start, start + _NUMBERS)
            told = await asyncio.gather(*(self._told(f"by-id-{one}", context) for one in numbers))
            found = {one["imsi"]: number for number, one in zip(numbers, told, strict=True) if one}
            if found:
                self._place = list(found.items())[-1]
                return list(found)
        return ()

    async def _number_of(self, imsi: str, context: Context) -> int:
        """OsmoHLR's own number of a subscriber; of one that is gone, what it was when it was read.

        0 where nobody knows it any more.
        """
        told = await self._told(f"by-imsi-{imsi}", context)
        if told:
            return int(told["id"])
        return self._place[1] if self._place[0] == imsi else 0

    async def _told(self, which: str, context: Context) -> dict[str, str]:
        """What OsmoHLR says of a subscriber; empty: there is none."""
        try:
            info = await self._ctrl.get(f"subscriber.{which}.info", context)
        except Refused as refusal:
            if str(refusal) in _ABSENT:
                return {}
            raise _verdict(str(refusal)) from None
        return dict(line.split("\t", 1) for line in info.splitlines() if "\t" in line)

    async def apply(self, change: Change, context: Context) -> None:
        """Create, change or delete one subscriber."""
        imsi = change.key
        if change.wanted is None:
            await self._remove(imsi, change.held or {}, context)
            return
        if change.held is None:
            await self._set("subscriber.create", imsi, context, but={"Subscriber already exists."})
        fields = {name: change.wanted[name] for name in change.fields}
        if change.held is None:
            # It refuses to take away a key that there is not.
            fields = {name: value for name, value in fields.items() if value != _NO_KEY}
        for name in ("aud2g", "aud3g"):
            # A new one has none, and OsmoHLR fails to take away what is not there.
            if fields.get(name, _NO_KEY) != _NO_KEY or (name in fields and change.held):
                value = fields[name]
                value = value if value == _NO_KEY else _written(value)
                await self._set(f"subscriber.by-imsi-{imsi}.{name}", value, context)
        if "msisdn" in fields:
            await self._number(imsi, fields["msisdn"], context)
        if fields.keys() & {"cs", "ps"}:
            await self._access(imsi, change.wanted["cs"], change.wanted["ps"], context)

    async def _remove(self, imsi: str, held: Fields, context: Context) -> None:
        """Cut it off while the network can still be told whom; then delete it."""
        if "1" in {held.get("cs"), held.get("ps")}:
            await self._access(imsi, "0", "0", context)
        await self._set("subscriber.delete", imsi, context, but=_ABSENT)

    async def _access(self, imsi: str, cs: str, ps: str, context: Context) -> None:
        if self.settings.live_update:
            mode = "+".join(name for name, on in (("cs", cs), ("ps", ps)) if on == "1") or "none"
            await self._run(f"subscriber imsi {imsi} update network-access-mode {mode}", context)
            return
        for name, value in (("cs", cs), ("ps", ps)):
            await self._set(f"subscriber.by-imsi-{imsi}.{name}-enabled", value, context)

    async def _number(self, imsi: str, msisdn: str, context: Context) -> None:
        holder = await self._holder(msisdn, context)
        if holder not in {None, imsi}:
            # By the billing it is ours. What else the other one should have, its own event says.
            context.note(f"{holder}: msisdn: {msisdn} -> none")
            await self._call_it(str(holder), "none", context)
        await self._call_it(imsi, msisdn, context)

    async def _call_it(self, imsi: str, msisdn: str, context: Context) -> None:
        if self.settings.live_update:
            await self._run(f"subscriber imsi {imsi} update msisdn {msisdn}", context)
        else:
            await self._set(f"subscriber.by-imsi-{imsi}.msisdn", msisdn, context)

    async def _holder(self, msisdn: str, context: Context) -> str | None:
        """The IMSI that has a number."""
        try:
            info = await self._ctrl.get(f"subscriber.by-msisdn-{msisdn}.info", context)
        except Refused:
            return None
        told = dict(line.split("\t", 1) for line in info.splitlines() if "\t" in line)
        return told.get("imsi")

    async def _run(self, command: str, context: Context) -> None:
        printed = await self._vty.run(command, context)
        if printed.startswith("%") and not re.match(r"% (Created|Updated|Deleted) ", printed):
            raise _verdict(printed.removeprefix("%").strip())

    async def _get(self, imsi: str, name: str, context: Context) -> str | None:
        try:
            return await self._ctrl.get(f"subscriber.by-imsi-{imsi}.{name}", context)
        except Refused as refusal:
            if str(refusal) in _ABSENT:
                return None
            raise _verdict(str(refusal)) from None

    async def _set(
        self, variable: str, value: str, context: Context, but: set[str] | None = None
    ) -> None:
        try:
            await self._ctrl.set(variable, value, context)
        except Refused as refusal:
            # What is as it should be already is compared again anyway.
            if str(refusal) not in (but or ()):
                raise _verdict(str(refusal)) from None


def _verdict(said: str) -> Exception:
    """What a refusal means for the event."""
    for_now = said in _FOR_NOW or said in _ABSENT or _NOT_WRITTEN.match(said)
    return (TryLater if for_now else Rejected)(f"OsmoHLR: {said}")


def _key_of(told: str) -> str:
    """A key as it is compared: OsmoHLR adds the bits of the sequence number."""
    return told if told == _NO_KEY else ",".join(told.upper().split(",")[:4])


def _written(value: str) -> str:
    """A key as OsmoHLR takes it: the algorithm and the kind in small letters."""
    algorithm, ki, *opc = value.split(",")
    return ",".join([algorithm.lower(), ki, *(["opc", opc[1]] if opc else [])])
