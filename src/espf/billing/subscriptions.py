"""Subscriptions: what accounts pay each month for their products.

A product may bring a subscription. An account that gets the product, as its main one or as an
add-on, gets the subscription with it, *pending*: nothing is due before it is activated. It is
*closed* from the day on at which the product is no longer there.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Row, or_, select

from espf.billing import clock
from espf.billing.fields import Key, Money, Page, Params, ShortName
from espf.billing.scope import Result, Scope, not_found
from espf.billing.tables import account_addons, accounts, products, subscriptions
from espf.billing.tables import account_subscriptions as table

ENTITY = "Subscription"

PENDING, ACTIVE, CLOSED = 0, 1, 2


class NewSubscription(Params):
    """The fields of a new subscription."""

    name: ShortName
    monthly_fee: Annotated[Money, Field(ge=Decimal(0))]


class AddSubscription(Params):
    """Parameters of add."""

    subscription_info: NewSubscription


class OfAccount(Params):
    """Names an account."""

    i_account: Key


class Activate(OfAccount):
    """Parameters of activate: all that are pending, or one of them."""

    i_account_subscription: Key | None = None


@dataclass(frozen=True)
class _Period:
    """From when to when a product gives an account its subscription; None: for good."""

    begin: date
    end: date | None


def add(scope: Scope, params: AddSubscription) -> Result:
    """Add a subscription. Raises the fault ``Server.Subscription.duplicate_name``."""
    info = params.subscription_info
    said = f"there is a subscription {info.name!r} already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate_name", said):
        return {"i_subscription": scope.insert(subscriptions, **info.model_dump())}


def get_list(scope: Scope, params: Page) -> Result:
    """The environment's subscriptions, in the order in which they were added."""
    shown = ("i_subscription", "name", "monthly_fee")
    rows = scope.page(subscriptions, params)
    return {"subscription_list": [{name: getattr(row, name) for name in shown} for row in rows]}


def require(scope: Scope, i_subscription: int) -> None:
    """Raise the fault ``Server.Subscription.not_found`` unless there is such a subscription."""
    scope.find(subscriptions, ENTITY, subscriptions.c.i_subscription == i_subscription)


def get_of_account(scope: Scope, params: OfAccount) -> Result:
    """What an account has subscribed to, and had, in the order in which it got them."""
    account = scope.find(accounts, "Account", accounts.c.i_account == params.i_account)
    today = clock.local_day(scope.now, account.time_zone_name)
    shown = (
        *("i_account_subscription", "i_subscription", "i_product", "name", "monthly_fee"),
        *("start_date", "activation_date", "finish_date", "billed_to"),
    )
    return {
        "subscriptions": [
            {**{name: getattr(row, name) for name in shown}, "int_status": _status(row, today)}
            for row in rows_of(scope, account.i_account)
        ]
    }


def activate(scope: Scope, params: Activate) -> Result:
    """Let fees be due from today on, in the account's time zone, for what is pending.

    What has not begun stays pending. Raises the faults ``Server.Account.not_found``, ``.closed``
    and ``Server.Subscription.not_found``.
    """
    account = scope.open_account(params.i_account)
    today = clock.local_day(scope.now, account.time_zone_name)
    mine = rows_of(scope, account.i_account)
    if params.i_account_subscription is not None:
        mine = [row for row in mine if row.i_account_subscription == params.i_account_subscription]
        if not mine:
            raise not_found(ENTITY)
    begun = [row for row in mine if _status(row, today) == PENDING and row.start_date <= today]
    for row in begun:
        scope.change(table, row, {"activation_date": today})
    return {"success": 1, "activated": len(begun)}


def rows_of(scope: Scope, i_account: int) -> list[Row[Any]]:
    """The subscriptions of an account, each with its name and fee."""
    query = (
        select(table, subscriptions.c.name, subscriptions.c.monthly_fee)
        .join(subscriptions, subscriptions.c.i_subscription == table.c.i_subscription)
        .where(table.c.i_account == i_account)
    )
    return list(scope.connection.execute(query.order_by(table.c.i_account_subscription)))


def follow(scope: Scope, i_account: int) -> None:
    """Let an account have the subscriptions of the products that it has now, and no others."""
    account = scope.find(accounts, "Account", accounts.c.i_account == i_account)
    today = clock.local_day(scope.now, account.time_zone_name)
    given = _given(scope, account, today)
    for row in _open(scope, i_account, today):
        period = given.pop((row.i_product, row.i_subscription), None)
        if period is None:
            scope.change(table, row, {"finish_date": today})
        else:
            scope.change(table, row, {"finish_date": period.end})
            # What has begun does not begin anew.
            if row.activation_date is None and max(row.start_date, period.begin) > today:
                scope.change(table, row, {"start_date": period.begin})
    for (i_product, i_subscription), period in sorted(given.items()):
        keys = {"i_account": i_account, "i_product": i_product, "i_subscription": i_subscription}
        scope.insert(table, **keys, start_date=period.begin, finish_date=period.end)


def finish(scope: Scope, i_account: int) -> None:
    """Close what is open of an account that is closed."""
    zone: str = scope.connection.execute(
        select(accounts.c.time_zone_name).where(accounts.c.i_account == i_account)
    ).scalar_one()
    today = clock.local_day(scope.now, zone)
    for row in _open(scope, i_account, today):
        scope.change(table, row, {"finish_date": today})


def _status(row: Row[Any], today: date) -> int:
    if row.finish_date is not None and row.finish_date <= today:
        return CLOSED
    return PENDING if row.activation_date is None else ACTIVE


def _open(scope: Scope, i_account: int, today: date) -> list[Row[Any]]:
    still = or_(table.c.finish_date.is_(None), table.c.finish_date > today)
    return list(
        scope.connection.execute(select(table).where(table.c.i_account == i_account, still))
    )


def _given(scope: Scope, account: Row[Any], today: date) -> dict[tuple[int, int], _Period]:
    """What the account's products give it, by product and subscription."""
    starts = max(today, account.activation_date or today)
    periods = {account.i_product: _Period(starts, None)}
    for row in scope.connection.execute(
        select(account_addons).where(account_addons.c.i_account == account.i_account)
    ):
        begin = clock.local_day(row.addon_effective_from, account.time_zone_name)
        end = row.addon_effective_to and clock.local_day(
            row.addon_effective_to, account.time_zone_name
        )
        periods[row.i_product] = _Period(max(starts, begin), end)
    bringing = select(products.c.i_product, products.c.i_subscription).where(
        products.c.i_product.in_(periods), products.c.i_subscription.is_not(None)
    )
    return {
        (row.i_product, row.i_subscription): periods[row.i_product]
        for row in scope.connection.execute(bringing)
    }
