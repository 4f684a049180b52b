"""Billing > Products: what accounts buy, with monthly quotas and service features."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from espf.billing import discount_plans, products, service_features
from espf.billing.fields import Page
from espf.billing.products import AddProduct, ChangedProduct, GetProduct, NewProduct, UpdateProduct
from espf.billing.scope import Result, Scope
from espf.billing.service_features import Owner, UpdateOfProduct
from espf.web.contract import PathNumber
from espf.web.pages import billing
from espf.web.pages.billing import Administrator, Kind, Outcome, Parts, Reader, Sheet, Task
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Form, Visit
from espf.web.rest import validated

pages = APIRouter(prefix="/env/{i_env}/products", dependencies=[Depends(billing.require_billing)])


def _quotas(product: Result) -> str:
    return ", ".join(f"{one['service']} {one['monthly_amount']:,}" for one in product["quotas"])


COLUMNS: Sequence[Column[Result]] = (
    Column("name", "Name", lambda one: one["name"]),
    Column("i_product", "Number", lambda one: one["i_product"], sortable=False, number=True),
    Column("description", "Description", lambda one: one["description"], sortable=False),
    Column("quotas", "Monthly quotas", _quotas, sortable=False),
    Column(
        "addon_priority", "Priority", lambda one: one["addon_priority"], sortable=False, number=True
    ),
)


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """The products of the environment."""
    wanted = billing.leaf(visit, "name")
    return await billing.show_list(
        visit, "products/list.html", COLUMNS, wanted, products.leaf, order="name", name="products"
    )


@pages.get("/{i_product:int}")
async def show(visit: Reader, i_product: PathNumber) -> Response:
    """One product, with what it gives."""
    info = await billing.fetch(visit, lambda scope: _info(scope, i_product))
    return visit.page("products/show.html", product=info)


def _info(scope: Scope, i_product: int) -> Result:
    info = products.get_info(scope, GetProduct(i_product=i_product))["product_info"]
    features = service_features.of(scope.connection, Owner("i_product", i_product))
    return {**info, "service_features": features}


def _fields(scope: Scope) -> list[Field]:
    rows = discount_plans.get_list(scope, Page())["discount_plan_list"]
    plans = [("", "none"), *((str(row["i_vd_plan"]), row["name"]) for row in rows)]
    return [
        Field("name", "Name", help="As people will know it; unique here."),
        Field("description", "Description", kind="area"),
        Field("i_vd_plan", "Discount plan", kind="select", choices=plans),
        Field(
            "addon_priority",
            "Priority",
            kind="number",
            help="Among an account's products: 0 main, 10 low, up to 30 high.",
        ),
    ]


# Create a product


def _new_sheet(visit: Visit, scope: Scope) -> Sheet:
    quotas = Field(
        "quotas",
        "Monthly quotas",
        kind="area",
        help="One service on a line: netaccess 5000000000. Bytes for netaccess, pieces for msg.",
    )
    fields = billing.of_model(NewProduct, *_fields(scope))
    return Sheet("Create a product", [KIND.list_crumb(visit)], [("", [*fields, quotas])])


def _quotas_of(lines: str) -> list[dict[str, str]]:
    """Quotas as a form has them: a service and an amount on a line."""
    split = [line.split(maxsplit=1) for line in lines.splitlines() if line.strip()]
    return [{"service": one[0], "monthly_amount": "".join(one[1:])} for one in split]


@pages.get("/new")
async def ask_new(visit: Administrator) -> Response:
    """The form "Create a product"."""
    return billing.show(visit, await billing.fetch(visit, lambda scope: _new_sheet(visit, scope)))


@pages.post("/new")
async def create(visit: Administrator) -> Response:
    """Add a product, with its quotas."""

    def make(scope: Scope, sheet: Sheet, form: Form) -> int:
        given: dict[str, Any] = sheet.given(form)
        given["quotas"] = _quotas_of(given.get("quotas", ""))
        params = validated(AddProduct, {"product_info": given})
        return int(products.add(scope, params)["i_product"])

    return await billing.create(visit, KIND, lambda scope: _new_sheet(visit, scope), make)


# What can be done with a product


def _edit_parts(_visit: Visit, scope: Scope, info: Result) -> Parts:
    fields = billing.of_model(ChangedProduct, *_fields(scope))
    return [("", billing.with_values(fields, info))]


def _edit(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    named = {"i_product": info["i_product"], **sheet.changed(form)}
    products.update_fields(scope, validated(UpdateProduct, {"product_info": named}))
    return Outcome("Saved")


KIND = Kind(
    noun="product",
    plural="Products",
    path="products",
    key="i_product",
    name="name",
    info=_info,
    tasks={
        "edit": Task("edit", _edit_parts, _edit),
        "services": billing.services(UpdateOfProduct, "i_product"),
    },
)


@pages.get("/{i_product:int}/{task}")
async def ask(visit: Administrator, i_product: PathNumber, task: str) -> Response:
    """The form for what can be done with a product."""
    return await billing.ask(visit, KIND, i_product, task)


@pages.post("/{i_product:int}/{task}")
async def do(visit: Administrator, i_product: PathNumber, task: str) -> Response:
    """Do what the form says."""
    return await billing.do(visit, KIND, i_product, task)
