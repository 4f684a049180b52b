"""The dispatchers: a change of a customer, a product or a service attribute becomes account events.

An event of the billing is about one thing. What it changes for others is said by events of their
own, which these handlers make: one for every account that the change affects, and for no other.
They ask the billing which accounts there are, page by page, so that any billing will do that
speaks the API.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from espf.catalogue import canonical
from espf.errors import Misconfigured, Rejected, Skipped, TryLater
from espf.handlers.base import Billing, Context, Handler, HandlerSettings
from espf.model import Event

#: Accounts asked for in one call.
PAGE = 500

#: An account as the billing lists it.
Account = Mapping[str, Any]

_ALIAS, _BENEFICIARY = 2, 4
_SUBORDINATE = 2


class DispatcherSettings(HandlerSettings):
    """The options of dispatchers that list accounts."""

    concurrency: int = Field(
        default=4,
        alias="Concurrency",
        ge=1,
        le=1000,
        description="How many events are dispatched at the same time, each of another customer or "
        "product.",
    )
    paging: Literal["key", "offset"] = Field(
        default="key",
        alias="Dispatcher.Paging",
        description="How the billing lists many accounts. key: behind the last one, by the "
        "parameter after_i_account, and with_addons, which the reference billing has. offset: "
        "after so many, which every billing has, and which gets slower with each page.",
    )


@dataclass(frozen=True)
class Output:
    """What an event becomes: ``event_type`` for each account that it ``affects``.

    ``owner`` is the variable, and the field of an account, that says whose accounts. ``carries``
    are variables that are handed on.
    """

    event_type: str
    affects: Callable[[Account], bool]
    owner: str
    carries: tuple[str, ...] = ()


def _is_open(account: Account) -> bool:
    """Whether it is a subscriber of its own, and there at all."""
    return account.get("bill_status") != "C" and account.get("billing_model") != _ALIAS


def _shares_funds(account: Account) -> bool:
    """Whether it spends its customer's funds: one with funds of its own does not notice."""
    subordinate = account.get("i_account_balance_control_type") == _SUBORDINATE
    return subordinate and _is_open(account) and account.get("billing_model") != _BENEFICIARY


def _is_not_suspended(account: Account) -> bool:
    """Whether its customer's suspension makes a difference; its own goes on."""
    return _is_open(account) and account.get("bill_status") != "S"


def _is_not_exported(account: Account) -> bool:
    return _is_open(account) and account.get("bill_status") != "E"


class AccountsDispatcher(Handler):
    """Makes an event for each account of whom or what the event is about."""

    Settings = DispatcherSettings
    settings: DispatcherSettings

    outputs: ClassVar[Mapping[str, Output]]

    #: What else the reference billing is asked for.
    asks: ClassVar[Mapping[str, Any]] = {}

    async def check(self, context: Context) -> str:
        """Ask the billing for one account."""
        await context.billing.call("Account", "get_account_list", {"limit": 1})
        return "the billing API lists accounts"

    async def handle(self, event: Event, context: Context) -> None:
        """See Handler."""
        output = self.outputs[canonical(event.event_type)]
        owner = event.variables.get(output.owner)
        if not isinstance(owner, int):
            raise Rejected(f"the event has no {output.owner}")
        carried = {
            name: event.variables[name] for name in output.carries if name in event.variables
        }
        at = int(await context.outlet.reached() or 0)
        while accounts := await self._page(context.billing, output.owner, owner, at):
            places = self._places(accounts, at)
            events = [
                (str(place), {**_names(account), **carried})
                for place, account in zip(places, accounts, strict=True)
                if _belongs_to(account, output.owner, owner) and output.affects(account)
            ]
            at = places[-1]
            await context.outlet.emit(output.event_type, events, str(at))

    async def _page(self, billing: Billing, owner: str, number: int, at: int) -> list[Account]:
        """The next accounts; none: that was all."""
        params: dict[str, Any] = {owner: number, "limit": PAGE}
        by_key = self.settings.paging == "key"
        if by_key:
            params |= self.asks
        if at:
            params["after_i_account" if by_key else "offset"] = at
        answer = await billing.call("Account", "get_account_list", params)
        accounts = answer.get("account_list")
        if not isinstance(accounts, list) or not all(
            isinstance(account, dict) and isinstance(account.get("i_account"), int)
            for account in accounts
        ):
            raise TryLater(
                "the billing's answer to Account/get_account_list is no list of accounts"
            )
        return accounts

    def _places(self, accounts: Sequence[Account], at: int) -> list[int]:
        """Where to go on after each of the accounts."""
        if self.settings.paging == "offset":
            return list(range(at + 1, at + len(accounts) + 1))
        numbers = [account["i_account"] for account in accounts]
        if numbers != sorted(numbers) or numbers[0] <= at:
            raise Misconfigured(
                "the billing does not list accounts after_i_account; set Dispatcher.Paging=offset"
            )
        return numbers


def _belongs_to(account: Account, owner: str, number: int) -> bool:
    """Whether an account is one of those that were asked for: a billing may list others, too."""
    return number == account.get(owner) or (owner == "i_product" and number in _addons(account))


def _addons(account: Account) -> list[object]:
    """The add-on products of an account, as far as the billing tells."""
    listed = account.get("assigned_addons")
    addons = listed if isinstance(listed, list) else []
    return [addon.get("i_product") for addon in addons if isinstance(addon, dict)]


def _names(account: Account) -> dict[str, Any]:
    return {name: account[name] for name in ("i_account", "i_customer") if name in account}


_ATTRIBUTE = ("service_feature", "attribute")


class CustomerToAccountsDispatcher(AccountsDispatcher):
    """What happens to a customer, for those of its accounts that inherit it.

    A customer's block is no block of an account, and no ``Account/Blocked``: it changes how the
    account stands, which is what who brings a system to a state needs to hear.
    """

    outputs: ClassVar[Mapping[str, Output]] = {
        "Customer/AvailableFundsAppear": Output(
            "Account/AvailableFundsAppear", _shares_funds, "i_customer"
        ),
        "Customer/Blocked": Output("Account/Status/Changed", _is_open, "i_customer"),
        "Customer/ServiceAttribute/Changed": Output(
            "Account/ServiceAttribute/Changed", _is_open, "i_customer", _ATTRIBUTE
        ),
        "Customer/Status/Changed": Output("Account/Status/Changed", _is_open, "i_customer"),
        "Customer/Status/Exported": Output(
            "Account/Status/Exported", _is_not_exported, "i_customer"
        ),
        "Customer/Status/Imported": Output(
            "Account/Status/Imported", _is_not_exported, "i_customer"
        ),
        "Customer/Status/Suspended": Output(
            "Account/Status/Suspended", _is_not_suspended, "i_customer"
        ),
        "Customer/Status/Unsuspend": Output(
            "Account/Status/SuspensionRemoved", _is_not_suspended, "i_customer"
        ),
        "Customer/Unblocked": Output("Account/Status/Changed", _is_open, "i_customer"),
        "Customer/ZeroAvailableFunds": Output(
            "Account/ZeroAvailableFunds", _shares_funds, "i_customer"
        ),
        "CustomerSite/ServiceAttribute/Changed": Output(
            "Account/ServiceAttribute/Changed", _is_open, "i_customer_site", _ATTRIBUTE
        ),
    }
    supports = tuple(outputs)


class ProductToAccountsDispatcher(AccountsDispatcher):
    """What happens to a product, for the accounts that have it, as main product or as add-on."""

    #: They come in one list, so that who has it twice is told once.
    asks = MappingProxyType({"with_addons": 1})

    outputs: ClassVar[Mapping[str, Output]] = {
        "Product/AccessPolicy/Changed": Output(
            "Account/AccessPolicy/Changed",
            _is_open,
            "i_product",
            ("prev_i_access_policy", "curr_i_access_policy"),
        ),
        "Product/Discount/Changed": Output(
            "Account/Discount/Changed", _is_open, "i_product", ("prev_i_vd_plan", "curr_i_vd_plan")
        ),
        "Product/ServiceAttribute/Changed": Output(
            "Account/ServiceAttribute/Changed", _is_open, "i_product", _ATTRIBUTE
        ),
    }
    supports = tuple(outputs)


#: The variable by which a capture rule says that it tells the event of the owner, too.
_TOLD_AS = "told_as"

#: Who may own a service attribute, by the variable that names the owner: the nearest first.
_OWNERS = {
    "i_account": "Account",
    "i_customer_site": "CustomerSite",
    "i_product": "Product",
    "i_customer": "Customer",
}


class ServiceAttributeDispatcher(Handler):
    """A change of a service attribute, whoever owns it, as the event of that owner.

    Where the capture rules tell the owner's event themselves, there is nothing to do.
    """

    supports = ("ServiceAttribute/Changed",)

    async def handle(self, event: Event, context: Context) -> None:
        """See Handler."""
        known = {name: value for name, value in event.variables.items() if value is not None}
        if told := known.get(_TOLD_AS):
            raise Skipped(f"the same change was told as {told}")
        owner = next((entity for name, entity in _OWNERS.items() if name in known), None)
        if owner is None:
            raise Rejected(f"the event names no owner: none of {', '.join(_OWNERS)}")
        if await context.outlet.reached() is None:
            given = {name: known[name] for name in known if name not in {"i_env", "event_time"}}
            await context.outlet.emit(f"{owner}/ServiceAttribute/Changed", [("1", given)], "1")
