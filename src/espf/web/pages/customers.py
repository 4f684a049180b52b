"""Billing > Customers: who pays, what they owe, and their accounts."""

from collections.abc import Callable, Sequence

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from espf.billing import customers, payments
from espf.billing.browse import Leaf
from espf.billing.customers import (
    AddCustomer,
    ChangedCustomer,
    GetCustomer,
    NewCustomer,
    TerminateCustomer,
    UpdateCustomer,
)
from espf.billing.scope import Result, Scope
from espf.billing.service_features import UpdateOfCustomer
from espf.web.contract import PathNumber
from espf.web.pages import accounts, billing
from espf.web.pages.billing import Administrator, Kind, Outcome, Parts, Reader, Sheet, Task
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Form, Visit
from espf.web.rest import validated

pages = APIRouter(prefix="/env/{i_env}/customers", dependencies=[Depends(billing.require_billing)])

STATUSES = {
    "O": "open",
    "S": "suspended",
    "L": "limited",
    "E": "exported",
    "D": "deactivated",
    "C": "closed",
}

COLUMNS: Sequence[Column[Result]] = (
    Column("name", "Name", lambda one: one["name"]),
    Column("i_customer", "Number", lambda one: one["i_customer"], sortable=False, number=True),
    Column("status", "Status", lambda one: STATUSES[one["bill_status"]], sortable=False),
    Column("balance", "Balance", lambda one: one["balance"], sortable=False, number=True),
    Column(
        "credit_limit", "Credit limit", lambda one: one["credit_limit"], sortable=False, number=True
    ),
)

#: What CSV has besides.
MORE: Sequence[Column[Result]] = (
    Column("blocked", "Blocked", lambda one: one["blocked"] == "Y"),
    Column("iso_4217", "Currency", lambda one: one["iso_4217"]),
)


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """The customers of the environment."""
    wanted = billing.leaf(visit, "name")
    return await billing.show_list(
        visit,
        "customers/list.html",
        COLUMNS,
        wanted,
        customers.leaf,
        order="name",
        name="customers",
        more=MORE,
        statuses=STATUSES,
    )


@pages.get("/pick")
async def pick(visit: Reader) -> Response:
    """What a dialog offers where a customer is chosen."""
    wanted = Leaf(beginning=billing.leaf(visit, "name").beginning, limit=billing.MOST_PICKS)
    found = await billing.fetch(visit, lambda scope: customers.leaf(scope, wanted))
    picks = [(one["name"], one["name"], f"number {one['i_customer']}") for one in found.rows]
    return visit.page("billing/_picks.html", picks=picks, more=found.has_later)


@pages.get("/{i_customer:int}")
async def show(visit: Reader, i_customer: PathNumber) -> Response:
    """One customer."""
    info = await billing.fetch(visit, lambda scope: _info(scope, i_customer))
    return visit.page("customers/show.html", customer=info, statuses=STATUSES)


@pages.get("/{i_customer:int}/accounts")
async def show_accounts(visit: Reader, i_customer: PathNumber) -> Response:
    """The accounts of a customer."""
    return await accounts.show_list_of_customer(visit, i_customer)


def _info(scope: Scope, i_customer: int) -> Result:
    found = customers.get_info(scope, GetCustomer(i_customer=i_customer))
    return dict(found["customer_info"])


_PERSON = (
    Field("companyname", "Company"),
    Field("firstname", "First name"),
    Field("lastname", "Last name"),
    Field("email", "E-mail"),
    Field("phone1", "Phone"),
)
_MONEY = Field("credit_limit", "Credit limit", kind="number", help="Empty: no limit.")
_ZONE = Field("time_zone_name", "Time zone", help="Such as Europe/Prague.")


# Create a customer


def _new_sheet(visit: Visit) -> Sheet:
    fields = billing.of_model(
        NewCustomer,
        Field("name", "Name", help="As people will know it; unique here."),
        _MONEY,
        Field(
            "opening_balance",
            "Opening balance",
            kind="number",
            help="What the customer owes at the beginning.",
        ),
        Field("iso_4217", "Currency", help="Three letters, such as EUR."),
        _ZONE,
    )
    crumbs = [KIND.list_crumb(visit)]
    person = billing.of_model(NewCustomer, *_PERSON)
    return Sheet("Create a customer", crumbs, [("", fields), ("Contact", person)])


@pages.get("/new")
async def ask_new(visit: Administrator) -> Response:
    """The form "Create a customer"."""
    return billing.show(visit, _new_sheet(visit))


@pages.post("/new")
async def create(visit: Administrator) -> Response:
    """Add a customer."""

    def make(scope: Scope, sheet: Sheet, form: Form) -> int:
        params = validated(AddCustomer, {"customer_info": sheet.given(form)})
        return int(customers.add(scope, params)["i_customer"])

    return await billing.create(visit, KIND, lambda _: _new_sheet(visit), make)


# What can be done with a customer


def _edit_parts(_visit: Visit, _scope: Scope, info: Result) -> Parts:
    status = {code: STATUSES[code] for code in (info["bill_status"], "O", "S", "L", "E", "D")}
    fields = billing.of_model(
        ChangedCustomer,
        Field("name", "Name"),
        Field(
            "bill_status",
            "Status",
            kind="select",
            choices=billing.choices(status),
            help="The accounts of a suspended, exported or deactivated customer cannot use "
            "services; those of a limited one can, within their quotas.",
        ),
        _MONEY,
        _ZONE,
    )
    person = billing.of_model(ChangedCustomer, *_PERSON)
    return [
        ("", billing.with_values(fields, info)),
        ("Contact", billing.with_values(person, info)),
    ]


def _update(scope: Scope, info: Result, changed: dict[str, str | None]) -> Outcome:
    named = {"i_customer": info["i_customer"], **changed}
    customers.update_fields(scope, validated(UpdateCustomer, {"customer_info": named}))
    return Outcome("Saved")


def _edit(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    return _update(scope, info, sheet.changed(form))


def _pay(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    given = {"i_customer": info["i_customer"], **sheet.given(form)}
    params = validated(payments.MakeCustomerTransaction, given)
    payments.make_customer_transaction(scope, params)
    noted = {"action": params.action, "amount": params.amount}
    return Outcome(f"{params.action} of {billing.text(params.amount)} is done", noted=noted)


def _terminate(scope: Scope, info: Result, _sheet: Sheet, _form: Form) -> Outcome:
    customers.terminate(scope, TerminateCustomer(i_customer=info["i_customer"]))
    return Outcome(f"{info['name']} is closed")


KIND = Kind(
    noun="customer",
    plural="Customers",
    path="customers",
    key="i_customer",
    name="name",
    info=_info,
    tasks={
        "edit": Task("edit", _edit_parts, _edit),
        "top-up": Task("top up", lambda *_: [("", accounts.PAYMENT)], _pay, button="Top up"),
        "services": billing.services(UpdateOfCustomer, "i_customer"),
        "terminate": Task(
            "terminate",
            lambda *_: (),
            _terminate,
            button="Terminate",
            is_danger=True,
            about="Terminate this customer? All its accounts are closed for good, one after "
            "another, and its DID numbers go back to the pool. This cannot be undone.",
        ),
    },
)


@pages.post("/{i_customer:int}/block")
async def block(visit: Administrator, i_customer: PathNumber) -> Response:
    """Keep a customer's accounts from their services until it is unblocked."""
    return await billing.act(visit, KIND, i_customer, "block", _blocked("Y"))


@pages.post("/{i_customer:int}/unblock")
async def unblock(visit: Administrator, i_customer: PathNumber) -> Response:
    """Let a customer's accounts use their services again."""
    return await billing.act(visit, KIND, i_customer, "unblock", _blocked("N"))


def _blocked(flag: str) -> Callable[[Scope, Result], str]:
    def change(scope: Scope, info: Result) -> str:
        _update(scope, info, {"blocked": flag})
        return f"{info['name']} is {'blocked' if flag == 'Y' else 'unblocked'}"

    return change


@pages.get("/{i_customer:int}/{task}")
async def ask(visit: Administrator, i_customer: PathNumber, task: str) -> Response:
    """The form for what can be done with a customer."""
    return await billing.ask(visit, KIND, i_customer, task)


@pages.post("/{i_customer:int}/{task}")
async def do(visit: Administrator, i_customer: PathNumber, task: str) -> Response:
    """Do what the form says."""
    return await billing.do(visit, KIND, i_customer, task)
