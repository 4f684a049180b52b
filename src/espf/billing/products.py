"""Products: what accounts buy, with the monthly quota that each gives per service.

An account has one main product and may have others as add-ons. A product may bring a discount plan
and a subscription.
"""

from typing import Any

from pydantic import Field
from sqlalchemy import insert, select

from espf.billing import browse, discount_plans, service_features, services, subscriptions
from espf.billing.browse import Found, Leaf
from espf.billing.fields import (
    Code,
    Comment,
    Key,
    Page,
    Params,
    Search,
    Service,
    ShortName,
    Units,
    matches,
)
from espf.billing.scope import Result, Scope
from espf.billing.service_features import Features, Owner
from espf.billing.tables import product_quotas, products
from espf.errors import InvalidRequest

ENTITY = "Product"


class MonthlyQuota(Params):
    """What a product gives each account in a month: bytes for netaccess, pieces for msg."""

    service: Service
    monthly_amount: Units


class ProductFields(Params):
    """What can be given to a new product and changed later."""

    description: Comment | None = None
    i_vd_plan: Key | None = None
    i_subscription: Key | None = None
    addon_priority: Code = 0
    service_features: Features = Field(default=[])


class NewProduct(ProductFields):
    """The fields of a new product."""

    name: ShortName
    quotas: list[MonthlyQuota] = Field(default=[], max_length=100)


class ChangedProduct(ProductFields):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_product: Key
    name: ShortName = "-"


class UpdateProduct(Params):
    """Parameters of update."""

    product_info: ChangedProduct


class AddProduct(Params):
    """Parameters of add."""

    product_info: NewProduct


class GetProduct(Params):
    """Parameters of get_info."""

    i_product: Key


class ListProducts(Page):
    """Parameters of get_list."""

    name: Search | None = None


def add(scope: Scope, params: AddProduct) -> Result:
    """Add a product.

    Raises the faults ``Server.Product.duplicate_name``, ``Server.DiscountPlan.not_found`` and
    ``Server.Subscription.not_found``.
    """
    info = params.product_info
    given = [quota.service for quota in info.quotas]
    if len(set(given)) < len(given):
        raise InvalidRequest("product_info.quotas: each service may stand there once", "quotas")
    values = info.model_dump(exclude={"quotas", "service_features"})
    _require_references(scope, values)
    with scope.unless_taken(*_taken(info.name)):
        i_product = scope.insert(products, **values)
    services.note(scope, given)
    if info.quotas:
        scope.connection.execute(
            insert(product_quotas),
            [{"i_product": i_product, **quota.model_dump()} for quota in info.quotas],
        )
    service_features.write(scope, Owner("i_product", i_product), info.service_features)
    return {"i_product": i_product}


def update_fields(scope: Scope, params: UpdateProduct) -> Result:
    """Change the fields that are named and differ; who has the product keeps its subscription.

    Raises the faults of add.
    """
    info = params.product_info
    product = scope.find(products, ENTITY, products.c.i_product == info.i_product, lock=True)
    values = info.model_dump(exclude_unset=True, exclude={"service_features"})
    _require_references(scope, values)
    with scope.unless_taken(*_taken(info.name)):
        scope.change(products, product, values)
    service_features.write(scope, Owner("i_product", product.i_product), info.service_features)
    return {"i_product": product.i_product}


def require(scope: Scope, i_product: int) -> None:
    """Raise the fault ``Server.Product.not_found`` unless there is such a product."""
    scope.find(products, ENTITY, products.c.i_product == i_product)


def _require_references(scope: Scope, values: dict[str, Any]) -> None:
    if values.get("i_vd_plan") is not None:
        discount_plans.require(scope, values["i_vd_plan"])
    if values.get("i_subscription") is not None:
        subscriptions.require(scope, values["i_subscription"])


def _taken(name: str) -> tuple[str, str]:
    return f"Server.{ENTITY}.duplicate_name", f"there is a product {name!r} already"


def get_info(scope: Scope, params: GetProduct) -> Result:
    """One product with its quotas."""
    row = scope.find(products, ENTITY, products.c.i_product == params.i_product)
    return {"product_info": _described(scope, [row.i_product])[0]}


def get_list(scope: Scope, params: ListProducts) -> Result:
    """The environment's products, in the order in which they were added."""
    query = select(products.c.i_product).where(products.c.i_env == scope.i_env)
    if params.name is not None:
        query = query.where(matches(products.c.name, params.name))
    keys = scope.connection.execute(
        query.order_by(products.c.i_product).limit(params.limit).offset(params.offset)
    ).scalars()
    return {"product_list": _described(scope, list(keys))}


def leaf(scope: Scope, wanted: Leaf) -> Found[Result]:
    """A leaf of the environment's products, by their names; as in get_list."""
    found = browse.numbers(scope, products.c.name, wanted)
    there = {each["i_product"]: each for each in _described(scope, list(found.rows))}
    rows = [there[key] for key in found.rows if key in there]
    return Found(rows, found.has_earlier, found.has_later)


def names(scope: Scope) -> list[tuple[int, str]]:
    """All products of the environment by their names: number and name."""
    rows = scope.connection.execute(
        select(products.c.i_product, products.c.name)
        .where(products.c.i_env == scope.i_env)
        .order_by(products.c.name)
    )
    return [(row.i_product, row.name) for row in rows]


def _described(scope: Scope, keys: list[int]) -> list[Result]:
    found: dict[int, Result] = {
        row.i_product: {
            "i_product": row.i_product,
            "name": row.name,
            "description": row.description,
            "i_vd_plan": row.i_vd_plan,
            "i_subscription": row.i_subscription,
            "addon_priority": row.addon_priority,
            "quotas": [],
        }
        for row in scope.connection.execute(
            select(products).where(products.c.i_product.in_(keys)).order_by(products.c.i_product)
        )
    }
    for row in scope.connection.execute(
        select(product_quotas)
        .where(product_quotas.c.i_product.in_(keys))
        .order_by(product_quotas.c.i_product, product_quotas.c.service)
    ):
        found[row.i_product]["quotas"].append(
            {"service": row.service, "monthly_amount": row.monthly_amount}
        )
    return list(found.values())
