"""A subscriber as the billing describes it now, for handlers that bring a system to a state.

An event says that something has changed; what a system should hold is computed from the answers
here, never from the event. Late, repeated and coalesced events are harmless then.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from espf.errors import BillingFault, TryLater
from espf.handlers import pb_data
from espf.handlers.base import Billing, Context
from espf.handlers.pb_data import Info, whole

#: Why somebody may not use services. Several may hold at once, and all must end.
Bar = Literal[
    "blocked",
    "customer_blocked",
    "suspended",
    "customer_suspended",
    "customer_limited",
    "customer_inactive",
    "exported",
    "inactive",
    "no_funds",
]
BARS: tuple[Bar, ...] = get_args(Bar)

#: How the billing says that there is no such thing in this environment, or no such method.
_ABSENT = (".not_found", ".unknown_method", ".unknown_service")

#: What the billing status of a customer keeps its accounts from.
_OF_CUSTOMER: Mapping[str, Bar] = {
    "S": "customer_suspended",
    "L": "customer_limited",
    "D": "customer_inactive",
    "C": "customer_inactive",
    "E": "exported",
}


@dataclass(frozen=True)
class Card:
    """The SIM card of an account; the keys are None where the billing does not tell them."""

    imsi: str
    iccid: str
    ki: str | None = field(default=None, repr=False)
    opc: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Subscriber:
    """An account. A closed one has no right to any service, and no card.

    ``id`` is its number or login. ``products`` are its main product and then its add-ons, each by
    name. ``exceeded`` are the services whose quota is used up. ``info`` is the whole answer of
    ``Account/get_account_info``.
    """

    i_account: int
    id: str
    is_closed: bool
    bars: frozenset[Bar]
    products: tuple[str, ...]
    exceeded: frozenset[str]
    card: Card | None
    service_password: str | None = field(repr=False)
    info: Info = field(repr=False)

    def barred_by(self, bars: Collection[Bar]) -> bool:
        """Whether one of these keeps it from using services."""
        return not self.bars.isdisjoint(bars)


async def by_account(context: Context, i_account: int, *, keys: bool = False) -> Subscriber | None:
    """The account of this number; None: there is none.

    With ``keys`` those of its card are asked for, too. Raises TryLater or Misconfigured when the
    billing is away or refuses to answer.
    """
    return await _found(context, {"i_account": i_account}, keys=keys)


async def by_id(context: Context, id_: str, *, keys: bool = False) -> Subscriber | None:
    """The account whose id this is; see ``by_account``."""
    return await _found(context, {"id": id_}, keys=keys)


async def by_imsi(context: Context, imsi: str, *, keys: bool = False) -> Subscriber | None:
    """The account that holds the card with this IMSI; see ``by_account``."""
    card = await ask(context, "SIMCard", "get_card_info", {"imsi": imsi}, "card_info")
    i_account = whole((card or {}).get("i_account"))
    return None if i_account is None else await by_account(context, i_account, keys=keys)


async def ask(
    context: Context, service: str, method: str, params: Mapping[str, Any], answer: str
) -> Any:
    """One member of the billing's answer; None when there is no such thing.

    Raises TryLater or Misconfigured when the billing is away or refuses to answer.
    """
    called = f"{service}/{method}"
    try:
        found = await context.billing.call(service, method, params)
    except BillingFault as fault:
        if not fault.code.endswith(_ABSENT):
            raise TryLater(f"the billing refuses {called}: {fault} ({fault.code})") from fault
        context.note(f"{called}: {fault.code}")
        return None
    return found.get(answer)


async def _found(context: Context, which: Mapping[str, Any], *, keys: bool) -> Subscriber | None:
    account = await ask(context, "Account", "get_account_info", which, "account_info")
    if account is None:
        return None
    number = whole(account.get("i_account"))
    if number is None:
        raise TryLater("the billing's answer to Account/get_account_info has no i_account")
    for name in ("h323_password", "password"):
        if account.get(name):
            context.hide(str(account[name]))
    return Subscriber(
        i_account=number,
        id=str(account.get("id", "")),
        is_closed=account.get("bill_status") == "C",
        bars=bars_of(account, datetime.now(UTC)),
        products=_products(account),
        exceeded=frozenset(
            str(quota.get("service"))
            for quota in pb_data.listed(account, "service_quotas")
            if quota.get("exceeded") in {"Y", 1}
        ),
        card=await _card(context, account, keys=keys),
        service_password=account.get("h323_password") or None,
        info=account,
    )


async def _card(context: Context, account: Info, *, keys: bool) -> Card | None:
    held = account.get("sim_card")
    if not isinstance(held, dict) or not held.get("imsi"):
        return None
    found = held
    if keys:
        params = {"i_sim_card": held.get("i_sim_card")}
        found = await ask(context, "SIMCard", "get_card_info", params, "card_info") or held
        for name in ("ki", "opc"):
            if found.get(name):
                context.hide(str(found[name]))
    return Card(
        imsi=str(held["imsi"]),
        iccid=str(held.get("iccid") or ""),
        ki=found.get("ki") or None,
        opc=found.get("opc") or None,
    )


def bars_of(account: Info, now: datetime) -> frozenset[Bar]:
    """All that keeps an account from using services, as far as the billing tells."""
    bars: set[Bar] = set()
    if account.get("blocked") == "Y":
        bars.add("blocked")
    if account.get("customer_blocked") == "Y":
        bars.add("customer_blocked")
    status = account.get("bill_status")
    if status == "S":
        bars.add("suspended")
    if status == "E":
        bars.add("exported")
    of_customer = _OF_CUSTOMER.get(account.get("customer_bill_status") or "")
    if of_customer is not None:
        bars.add(of_customer)
    if pb_data.by_dates(account, now) is not None:
        bars.add("inactive")
    if pb_data.by_funds(account) is not None:
        bars.add("no_funds")
    return frozenset(bars)


def _products(account: Info) -> tuple[str, ...]:
    named = [account, *pb_data.listed(account, "assigned_addons")]
    names = [one.get("product_name") or one.get("name") for one in named]
    return tuple(str(name) for name in names if name)


#: By which parameters the answer to a call is asked for, by the member that has their values.
_NAMED_BY: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Account/get_account_info": {"account_info": ("i_account", "id")},
    "SIMCard/get_card_info": {"card_info": ("i_sim_card", "imsi")},
}


class Remembering:
    """The billing, which is asked only once for an account and its card.

    For a comparison, or an attempt until it changes something.
    """

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self._known: dict[tuple[str, str, object], dict[str, Any]] = {}

    def forget(self) -> None:
        """Ask anew from now on."""
        self._known.clear()

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """See Billing."""
        called = f"{service}/{method}"
        if len(params) == 1:
            ((name, value),) = params.items()
            if (known := self._known.get((called, name, value))) is not None:
                return known
        answer = await self._billing.call(service, method, params)
        if len(params) == 1:
            self._remember(called, answer)
        return answer

    def _remember(self, called: str, answer: dict[str, Any]) -> None:
        """An account goes by its number and its id, a card by its number and its IMSI."""
        for member, names in _NAMED_BY.get(called, {}).items():
            info = answer.get(member)
            if isinstance(info, dict):
                for name in names:
                    self._known[called, name, info.get(name)] = answer

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        """See Billing."""
        answer = await self.call("Account", "get_account_info", {"i_account": i_account})
        return dict(answer["account_info"])


def forget(context: Context) -> None:
    """Have the billing asked anew in this attempt, where it is asked only once."""
    if isinstance(context.billing, Remembering):
        context.billing.forget()
