"""Products: what accounts buy, with the monthly quota that each gives per service."""

from pydantic import Field
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from espf.billing.fields import (
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
from espf.billing.tables import product_quotas, products
from espf.errors import BillingFault, InvalidRequest


class MonthlyQuota(Params):
    """What a product gives each account in a month: bytes for netaccess, pieces for msg."""

    service: Service
    monthly_amount: Units


class NewProduct(Params):
    """The fields of a new product."""

    name: ShortName
    description: Comment | None = None
    quotas: list[MonthlyQuota] = Field(default=[], max_length=100)


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
    """Add a product. Raises the fault ``Server.Product.duplicate_name``."""
    info = params.product_info
    services = [quota.service for quota in info.quotas]
    if len(set(services)) < len(services):
        raise InvalidRequest("product_info.quotas: each service may stand there once", "quotas")
    row = insert(products).values(i_env=scope.i_env, name=info.name, description=info.description)
    try:
        with scope.connection.begin_nested():
            result = scope.connection.execute(row)
    except IntegrityError:
        raise BillingFault(
            "Server.Product.duplicate_name", f"there is a product {info.name!r} already"
        ) from None
    assert result.inserted_primary_key is not None
    (i_product,) = result.inserted_primary_key
    if info.quotas:
        scope.connection.execute(
            insert(product_quotas),
            [{"i_product": i_product, **quota.model_dump()} for quota in info.quotas],
        )
    return {"i_product": i_product}


def get_info(scope: Scope, params: GetProduct) -> Result:
    """One product with its quotas."""
    row = scope.find(products, "Product", products.c.i_product == params.i_product)
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


def _described(scope: Scope, keys: list[int]) -> list[Result]:
    found: dict[int, Result] = {
        row.i_product: {
            "i_product": row.i_product,
            "name": row.name,
            "description": row.description,
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
