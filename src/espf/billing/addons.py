"""Add-on products: what an account has beside its main product, from one moment to another.

An add-on whose time has not begun is there, but not effective. The billing clock makes it
effective, and removes it when its time is over.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, model_validator
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    delete,
    insert,
    select,
    update,
)

from espf.billing.fields import Code, Comment, Key, Money, Params, Search, Time
from espf.billing.scope import Result, Scope
from espf.billing.tables import account_addons as table
from espf.billing.tables import products, subscriptions
from espf.errors import InvalidRequest

FIELD = "account_info.assigned_addons"


#: The fields that are the add-on's own, and not its product's.
_OWN = {"addon_effective_from", "addon_effective_to", "addon_priority"}


class ProductSubscription(Params):
    """What the vendor shows of the subscription that an add-on's product brings."""

    i_subscription: Key | None = None
    name: Search | None = None
    monthly_fee: Money | None = None


class Addon(Params):
    """An add-on of an account; from now on, for good and with the product's priority by default.

    What the vendor shows of an add-on's product is taken and has no effect.
    """

    i_product: Key
    name: Search | None = None
    description: Comment | None = None
    i_vd_plan: Key | None = None
    i_product_group: Key | None = None
    i_subscription: Key | None = None
    product_subscription: ProductSubscription | None = None
    addon_effective_from: Time | None = None
    addon_effective_to: Time | None = None
    addon_priority: Code | None = None

    @model_validator(mode="after")
    def _has_a_time(self) -> "Addon":
        begin, end = self.addon_effective_from, self.addon_effective_to
        if begin is not None and end is not None and end <= begin:
            raise ValueError("addon_effective_to: a time after addon_effective_from is expected")
        return self


Addons = Annotated[list[Addon], Field(max_length=100)]


def write(scope: Scope, i_account: int, wanted: list[Addon]) -> None:
    """Let an account have these add-ons and no others. What does not differ is left alone.

    Raises the fault ``Server.Product.not_found``.
    """
    if len({addon.i_product for addon in wanted}) < len(wanted):
        raise InvalidRequest(f"{FIELD}: each product may stand there once", FIELD)
    there = {row.i_product: row for row in _rows(scope.connection, i_account)}
    for i_product, row in there.items():
        if i_product not in {addon.i_product for addon in wanted}:
            scope.connection.execute(delete(table).where(_is(row)))
    for addon in wanted:
        _write_one(scope, i_account, addon, there.get(addon.i_product))


def _write_one(scope: Scope, i_account: int, addon: Addon, row: Row[Any] | None) -> None:
    values = addon.model_dump(include=addon.model_fields_set & _OWN)
    for name in ("addon_effective_from", "addon_priority"):
        if values.get(name, ...) is None:
            del values[name]
    begin = values.get("addon_effective_from", row and row.addon_effective_from) or scope.now
    end = values.get("addon_effective_to", row and row.addon_effective_to)
    if end is not None and end <= max(begin, scope.now):
        raise InvalidRequest(f"{FIELD}: addon_effective_to is over already", FIELD)
    values["effective"] = "Y" if begin <= scope.now else "N"
    if row is None:
        product = scope.find(products, "Product", products.c.i_product == addon.i_product)
        defaults = {"addon_priority": product.addon_priority, "addon_effective_from": begin}
        keys = {"i_env": scope.i_env, "i_account": i_account, "i_product": addon.i_product}
        scope.connection.execute(insert(table).values(**keys, **{**defaults, **values}))
    elif any(getattr(row, name) != value for name, value in values.items()):
        scope.connection.execute(update(table).where(_is(row)).values(**values))


def of_account(scope: Scope, i_account: int) -> list[Result]:
    """The add-ons of an account, highest priority first; in no product group."""
    rows = scope.connection.execute(_with_products().where(table.c.i_account == i_account))
    return [_described(row) for row in rows]


def effective(scope: Scope, accounts: Sequence[int]) -> Mapping[int, list[Result]]:
    """The add-ons of many accounts that are effective now, by account, as ``of_account`` has it."""
    found: dict[int, list[Result]] = defaultdict(list)
    query = _with_products().where(table.c.i_account.in_(accounts), _is_effective(scope.now))
    for row in scope.connection.execute(query):
        found[row.i_account].append(_described(row))
    return found


def has(i_account: ColumnElement[int], i_product: int, now: datetime) -> ColumnElement[bool]:
    """Whether an account of a query has a product as an add-on that is effective now."""
    # One value, which is looked up by its key for each account: databases do not plan it otherwise.
    found = select(table.c.i_product).where(
        table.c.i_account == i_account, table.c.i_product == i_product, _is_effective(now)
    )
    return found.scalar_subquery() == i_product


def _is_effective(now: datetime) -> ColumnElement[bool]:
    end = table.c.addon_effective_to
    return (table.c.addon_effective_from <= now) & (end.is_(None) | (end > now))


def _with_products() -> Select[Any]:
    return (
        select(
            table,
            *(products.c[name] for name in ("name", "description", "i_vd_plan", "i_subscription")),
            subscriptions.c.name.label("subscription_name"),
            subscriptions.c.monthly_fee,
        )
        .join(products, products.c.i_product == table.c.i_product)
        .outerjoin(subscriptions, subscriptions.c.i_subscription == products.c.i_subscription)
        .order_by(table.c.addon_priority.desc(), table.c.i_account_addon)
    )


def _described(row: Row[Any]) -> Result:
    names = (
        *("i_product", "name", "description", "i_vd_plan", "i_subscription", "addon_priority"),
        *("addon_effective_from", "addon_effective_to"),
    )
    return {
        **{name: getattr(row, name) for name in names},
        "i_product_group": None,
        "product_subscription": _subscription(row),
    }


def _subscription(row: Row[Any]) -> Result | None:
    if row.i_subscription is None:
        return None
    return {
        "i_subscription": row.i_subscription,
        "name": row.subscription_name,
        "monthly_fee": row.monthly_fee,
    }


def tick(connection: Connection, now: datetime, limit: int) -> tuple[int, int]:
    """Begin and end at most ``limit`` add-ons each whose time it is; return how many of both."""
    ended = _due(connection, table.c.addon_effective_to <= now, limit)
    connection.execute(delete(table).where(table.c.i_account_addon.in_(ended)))
    begun = _due(
        connection, (table.c.effective == "N") & (table.c.addon_effective_from <= now), limit
    )
    connection.execute(
        update(table).where(table.c.i_account_addon.in_(begun)).values(effective="Y")
    )
    return len(begun), len(ended)


def _due(connection: Connection, condition: Any, limit: int) -> list[int]:
    return list(
        connection.execute(
            select(table.c.i_account_addon)
            .where(condition)
            .limit(limit)
            # Somebody else is changing the others; the next tick looks at them again.
            .with_for_update(skip_locked=True)
        ).scalars()
    )


def _rows(connection: Connection, i_account: int) -> list[Row[Any]]:
    return list(connection.execute(select(table).where(table.c.i_account == i_account)))


def _is(row: Row[Any]) -> Any:
    return table.c.i_account_addon == row.i_account_addon
