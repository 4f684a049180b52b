"""Handlers that bring a system to the state that the billing wants, whatever event they hear of.

No external system is safe to be told the same twice, so nothing is ever sent because of an event
alone. The event names a subscriber; what the system should hold for it is computed from the
billing now, compared with what the system holds, and only what differs is changed. Then both are
asked again, until they agree. An event that comes late, twice or after a crash finds nothing to do.

A system holds *entries* under *keys*. A key has an owner at any moment, the subscriber whose
number or card it is, or nobody. A handler type says what its system should hold for an owner, reads
an entry, and applies a change; the rest is here.
"""

import asyncio
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import time
from typing import Annotated, Any, ClassVar, Literal
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from espf.errors import Rejected, Skipped, TryLater
from espf.handlers import subscriber as billing
from espf.handlers.account_pages import Paging
from espf.handlers.base import (
    SERVICE_GROUP,
    Context,
    Handler,
    HandlerSettings,
    Pacing,
    words,
)
from espf.handlers.pb_data import whole
from espf.handlers.subscriber import BARS, Bar, Subscriber
from espf.model import Event

#: What an entry holds, or should hold: a text by field.
Fields = Mapping[str, str]

#: By what a system names its entries: an account's id, the IMSI of its card, or its number.
KeyKind = Literal["id", "imsi", "i_account"]

#: How often a system is compared with the billing, and changed, within one attempt.
ROUNDS = 3

#: The event by which a repair comes through the queue; it names one key.
RECONCILE = "Custom/Reconcile"

#: What all events of an account that may change what a system holds are called.
ACCOUNT_EVENTS = (
    "Account/New",
    "Account/ID/Changed",
    "Account/SIMCardAssignment",
    "Account/Blocked",
    "Account/Unblocked",
    "Account/ZeroAvailableFunds",
    "Account/AvailableFundsAppear",
    "Account/ActivationDate/Changed",
    "Account/ExpirationDate/Changed",
    "Account/Product/Changed",
    "Account/ProductAddon/*",
    "Account/ServiceAttribute/Changed",
    "Account/ServicePassword/Changed",
    "Account/Service/*",
    "Account/Status/*",
)

_HIDDEN = "***"

_AUDIT = "Audit"


def _parse_map(value: object) -> object:
    """Read ``Gold = fast; * = slow``, an entry per line or between semicolons, as pairs."""
    if not isinstance(value, str):
        return value
    pairs = []
    for entry in value.replace("\n", ";").split(";"):
        name, equals, target = (part.strip() for part in entry.partition("="))
        if entry.strip() and not (name and equals):
            raise ValueError(f"{entry.strip()!r} is not NAME=VALUE")
        if entry.strip():
            pairs.append((name, target))
    return tuple(pairs)


def _once(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands there twice")
    return pairs


#: What a system calls the products of the billing: ``PRODUCT=VALUE``, between semicolons or on
#: lines of their own; ``*`` is any other product.
ProductMap = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_parse_map),
    AfterValidator(_once),
    PlainSerializer(lambda pairs: "; ".join(f"{name}={value}" for name, value in pairs)),
]


def mapped(products: Sequence[str], by: ProductMap) -> tuple[str, ...]:
    """What a map makes of a subscriber's products, each value once; ``*`` where none is named."""
    known = dict(by)
    found = [known[name] for name in products if name in known and name != "*"]
    if not found and "*" in known:
        found = [known["*"]]
    return tuple(dict.fromkeys(value for value in found if value))


def _known_bars(value: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [one for one in value if one not in BARS]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(BARS)}")
    return value


#: A time of the day, and where another zone than UTC is meant, its name.
_DAILY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?:\s+(\S+))?", re.ASCII)


def _daily(value: str) -> str:
    """Raise ValueError unless it is a time of the day, and nothing where it is empty."""
    if value:
        daily_time(value)
    return value


def daily_time(text: str) -> time:
    """Read ``03:00`` or ``03:00 Europe/Prague`` as a time in its zone. Raises ValueError."""
    found = _DAILY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time such as 03:00 or 03:00 Europe/Prague")
    hour, minute, zone = found.groups()
    try:
        where = ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {zone!r}, such as Europe/Prague") from None
    return time(int(hour), int(minute), tzinfo=where)


#: Some of the reasons for which somebody may not use services.
Bars = Annotated[
    tuple[Bar, ...],
    BeforeValidator(words),
    AfterValidator(_known_bars),
    PlainSerializer(", ".join),
]


def reported_under(group: str) -> Any:
    """The option ServiceGroup of handlers that report under this group, unless somebody chooses."""
    return Field(
        default=group,
        alias=SERVICE_GROUP,
        max_length=64,
        description="The service group under which the status of each account is reported, as the "
        "status API does. Empty: none is reported.",
        json_schema_extra={"group": "What is provisioned"},
    )


class DesiredStateSettings(HandlerSettings):
    """The options that every handler of this kind has."""

    concurrency: int = Field(
        default=4,
        alias="Concurrency",
        ge=1,
        le=1000,
        description="How many events are processed at the same time, each of another subscriber.",
    )
    mode: Literal["live", "shadow"] = Field(
        default="live",
        alias="Mode",
        description="'shadow': compute and record what would be changed, and change nothing.",
        json_schema_extra={"group": "What is provisioned"},
    )
    barred_by: Bars = Field(
        default=tuple(bar for bar in BARS if bar != "customer_limited"),
        alias="BarredBy",
        description=f"What keeps a subscriber from using the system: some of {', '.join(BARS)}.",
        json_schema_extra={"group": "What is provisioned"},
    )
    service_group: str = reported_under("")
    audit_at: Annotated[str, AfterValidator(_daily)] = Field(
        default="",
        alias="Audit.At",
        max_length=64,
        description="When to compare all that the system holds with the billing, each day: 03:00 "
        "is meant in UTC, 03:00 Europe/Prague by the clocks there. Empty: never by itself.",
        json_schema_extra={"group": _AUDIT},
    )
    audit_rate: int = Field(
        default=50,
        alias="Audit.Rate",
        ge=1,
        le=10_000,
        description="How many entries an audit compares a second at most, where nobody says "
        "otherwise. Each asks the billing and the system.",
        json_schema_extra={"group": _AUDIT, "unit": "entries a second"},
    )
    audit_paging: Paging = Field(
        default="key",
        alias="Audit.Paging",
        description="How the billing lists all accounts. key: behind the last one, by the "
        "parameter after_i_account, which the reference billing has. offset: after so many, which "
        "every billing has, and which gets slower with each page.",
        json_schema_extra={"group": _AUDIT},
    )


@dataclass(frozen=True)
class Difference:
    """A field that a system holds otherwise than it should, as it may be shown."""

    field: str
    held: str | None
    wanted: str | None

    def __str__(self) -> str:
        held, wanted = ("nothing" if one is None else one for one in (self.held, self.wanted))
        return f"{self.field}: {held} -> {wanted}"


@dataclass(frozen=True)
class Change:
    """What must become of one entry. ``held`` None: it is not there; ``wanted`` None: nor shall it.

    Of an entry that is there, only the fields that are wanted count: a system may hold more.
    """

    key: str
    held: Fields | None
    wanted: Fields | None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that differ, in the order in which they are wanted."""
        if self.wanted is None:
            return ()
        held = self.held or {}
        return tuple(name for name, value in self.wanted.items() if held.get(name) != value)

    @property
    def kind(self) -> Literal["same", "different", "missing", "extra"]:
        """How the system stands to the billing."""
        if self.held is None:
            return "same" if self.wanted is None else "missing"
        if self.wanted is None:
            return "extra"
        return "different" if self.fields else "same"

    def differences(self, secret: Collection[str]) -> list[Difference]:
        """The fields that differ; the values of ``secret`` ones are not told."""
        held, wanted = self.held or {}, self.wanted or {}

        def shown(name: str, of: Fields) -> str | None:
            value = of.get(name)
            return _HIDDEN if value and name in secret else value

        names = self.fields if self.wanted is not None else tuple(held)
        return [Difference(name, shown(name, held), shown(name, wanted)) for name in names]

    def told(self, secret: Collection[str]) -> str:
        """The change in one line, for the journal."""
        found = self.differences(secret)
        if self.kind == "same":
            return f"{self.key} is as it should be"
        if self.kind == "different":
            return f"{self.key}: {', '.join(map(str, found))}"
        is_new = self.kind == "missing"
        fields = ", ".join(f"{one.field}: {one.wanted if is_new else one.held}" for one in found)
        verb = f"{self.key} is {'added' if is_new else 'removed'}"
        return f"{verb} ({fields})" if fields else verb


class DesiredStateHandler(Handler):
    """A handler that makes a system hold what the billing wants."""

    supports: ClassVar[tuple[str, ...]] = (
        *ACCOUNT_EVENTS,
        "SIM/*",
        RECONCILE,
    )
    usual: ClassVar[tuple[str, ...]] = ACCOUNT_EVENTS
    Settings: ClassVar[type[HandlerSettings]] = DesiredStateSettings
    settings: DesiredStateSettings

    #: By what the system names its entries.
    keyed_by: KeyKind = "id"

    #: Whether the keys of SIM cards (Ki, OPc) are needed.
    needs_card_keys: ClassVar[bool] = False

    #: Whether what comes is brought before what goes. Where a key is taken from one entry and
    #: given to another, what goes has to make way first.
    comes_first: ClassVar[bool] = False

    #: The fields whose values are never shown.
    secret_fields: frozenset[str] = frozenset()

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @abstractmethod
    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """What the system should hold under a key of this subscriber; None: nothing. Pure.

        Raises Rejected when the billing's data cannot be provisioned as they are.
        """

    @abstractmethod
    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """What the system holds under a key; None: nothing.

        What a system does not tell, such as a password, can only be compared with what is
        ``wanted``: an equal one is given back. Raises the verdict when the system does not answer.
        """

    @abstractmethod
    async def apply(self, change: Change, context: Context) -> None:
        """Change the system. Returns when it has accepted the change, else raises the verdict."""

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:  # noqa: ARG002
        """The next keys that the system holds, in its order, after this one; none: that was all.

        Raises Rejected where a system cannot list them.
        """
        raise Rejected("this system cannot list what it holds")

    def keys_of(self, owner: Subscriber) -> tuple[str, ...]:
        """The keys under which the system may hold something of a subscriber now."""
        if self.keyed_by == "imsi":
            return (owner.card.imsi,) if owner.card else ()
        return (owner.id,) if self.keyed_by == "id" else (str(owner.i_account),)

    def pacing(self) -> Pacing:
        """``Concurrency`` at a time."""
        return Pacing(concurrency=self.settings.concurrency)

    @property
    def service_group(self) -> str:
        """See Handler."""
        return self.settings.service_group

    async def handle(self, event: Event, context: Context) -> None:
        """Bring all entries that the event may be about to where they should be."""
        # What the billing has told of a subscriber does to compare, too.
        context = replace(context, billing=billing.Remembering(context.billing))
        keys = await self._keys(event, context)
        if not keys:
            raise Skipped("the event is about nobody whom the system knows by a key")
        changes = [change for key in keys for change in await self.bring(key, context)]
        if changes and self.settings.mode == "shadow":
            told = "; ".join(change.told(self.secret_fields) for change in changes)
            raise Skipped(f"shadow mode, not done: {told}")

    async def compare(self, key: str, context: Context) -> Change:
        """How the system stands to the billing, under one key."""
        owner = await self.owner_of(key, context)
        wanted = None
        if owner is not None and not owner.is_closed and key in self.keys_of(owner):
            wanted = self.desired(key, owner)
        return Change(key, await self.read(key, wanted, context), wanted)

    async def owner_of(self, key: str, context: Context) -> Subscriber | None:
        """Whose key it may be, as the billing has it now: whether it is, ``keys_of`` tells."""
        keys = self.needs_card_keys
        if self.keyed_by == "imsi":
            return await billing.by_imsi(context, key, keys=keys)
        if self.keyed_by == "id":
            return await billing.by_id(context, key, keys=keys)
        number = whole(key)
        return None if number is None else await billing.by_account(context, number, keys=keys)

    async def bring(self, key: str, context: Context) -> list[Change]:
        """Make the system hold what it should under one key; returns what was changed.

        In shadow mode, what would be. Raises TryLater when they do not come to agree.
        """
        changes: list[Change] = []
        # Events of two subscribers may be about one key: it went from one to the other.
        lock = self._lock(key)
        if lock.locked():
            billing.forget(context)
        async with lock:
            while (change := await self.compare(key, context)).kind != "same":
                told = change.told(self.secret_fields)
                if len(changes) == ROUNDS:
                    raise TryLater(
                        f"after {ROUNDS} changes it is still not as it should be: {told}"
                    )
                changes.append(change)
                if self.settings.mode == "shadow":
                    break
                context.note(told)
                await self.apply(change, context)
                billing.forget(context)
        return changes

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    async def _keys(self, event: Event, context: Context) -> list[str]:
        """The keys that an event may be about, in the order in which they are brought."""
        variables = event.variables
        if event.event_type == RECONCILE and isinstance(variables.get("key"), str):
            return [str(variables["key"])]
        i_account = whole(variables.get("i_account"))
        keys = [str(variables["prev_id"])] if variables.get("prev_id") else []
        if self.keyed_by == "imsi":
            keys = await self._cards(event, context)
        elif self.keyed_by == "i_account":
            keys = [] if i_account is None else [str(i_account)]
        if i_account is not None:
            owner = await billing.by_account(context, i_account)
            if owner is not None:
                keys += self.keys_of(owner)
        found = list(dict.fromkeys(keys))
        return found[::-1] if self.comes_first else found

    async def _cards(self, event: Event, context: Context) -> list[str]:
        """The IMSIs of the cards that an event names."""
        variables = event.variables
        found = [str(variables[name]) for name in ("prev_imsi", "imsi") if variables.get(name)]
        for name in ("prev_i_sim_card", "i_sim_card", "curr_i_sim_card"):
            number = whole(variables.get(name))
            if number is not None:
                params = {"i_sim_card": number}
                card = await billing.ask(context, "SIMCard", "get_card_info", params, "card_info")
                found += [str(card["imsi"])] if card and card.get("imsi") else []
        return found
