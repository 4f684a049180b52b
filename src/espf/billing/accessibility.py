"""Accessibility: from where, over which service, the accounts of a product may use it."""

from typing import Annotated

from pydantic import Field, StringConstraints
from sqlalchemy import delete, select

from espf.billing import services
from espf.billing.fields import Key, Params, Service
from espf.billing.scope import Result, Scope
from espf.billing.tables import accessibility, products

ENTITY = "Accessibility"


class NewAccessibility(Params):
    """The fields of a new row; ``access_code`` is what is dialled, empty where nothing is."""

    i_product: Key
    service: Service
    access_code: Annotated[
        str, StringConstraints(pattern=r"^[^\x00-\x20\x7f%]{0,32}$"), Field(examples=["*123"])
    ] = ""


class AddAccessibility(Params):
    """Parameters of add."""

    accessibility_info: NewAccessibility


class DeleteAccessibility(Params):
    """Parameters of remove."""

    i_accessibility: Key


class ListAccessibility(Params):
    """Parameters of get_list."""

    i_product: Key


def add(scope: Scope, params: AddAccessibility) -> Result:
    """Let a product be used over a service.

    Raises the faults ``Server.Product.not_found`` and ``Server.Accessibility.duplicate``.
    """
    info = params.accessibility_info
    scope.find(products, "Product", products.c.i_product == info.i_product, lock=True)
    text = "the product can be used over this service, with this code, already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate", text):
        number = scope.insert(accessibility, **info.model_dump())
    services.note(scope, [info.service])
    return {"i_accessibility": number}


def remove(scope: Scope, params: DeleteAccessibility) -> Result:
    """Let a product no longer be used so. Raises ``Server.Accessibility.not_found``."""
    key = accessibility.c.i_accessibility
    row = scope.find(accessibility, ENTITY, key == params.i_accessibility, lock=True)
    scope.connection.execute(delete(accessibility).where(key == row.i_accessibility))
    return {"success": 1}


def get_list(scope: Scope, params: ListAccessibility) -> Result:
    """All rows of a product, in the order in which they were added."""
    product = scope.find(products, "Product", products.c.i_product == params.i_product)
    rows = scope.connection.execute(
        select(accessibility)
        .where(accessibility.c.i_product == product.i_product)
        .order_by(accessibility.c.i_accessibility)
    )
    shown = ("i_accessibility", *NewAccessibility.model_fields)
    return {"accessibility_list": [{name: getattr(row, name) for name in shown} for row in rows]}
