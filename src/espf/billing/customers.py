"""Customers: who pays. A customer's balance is what it owes; its accounts may spend its funds."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from sqlalchemy import Row, or_, select, update

from espf.billing import browse, dids, service_features, subscribers
from espf.billing.browse import Found, Leaf
from espf.billing.closing import close_account
from espf.billing.columns import UNLIMITED_FUNDS
from espf.billing.fields import (
    Currency,
    Flag,
    Key,
    Money,
    Name,
    Number,
    Page,
    Params,
    Search,
    ServiceFlags,
    TimeZone,
    matches,
)
from espf.billing.scope import Result, Scope, closed
from espf.billing.service_features import Features, Owner
from espf.billing.tables import accounts, customers
from espf.errors import InvalidRequest

ENTITY = "Customer"


SearchedField = Literal[
    "name",
    "refnum",
    "firstname",
    "lastname",
    "companyname",
    "baddr1",
    "city",
    "state",
    "zip",
    "country",
    "email",
    "phone1",
    "phone2",
    "faxnum",
    "cont1",
    "cont2",
    "note",
]


class CustomerFields(subscribers.ContactFields):
    """What can be given to a new customer and changed later."""

    blocked: Flag = "N"
    credit_limit: Money | None = None
    time_zone_name: TimeZone = "UTC"
    refnum: Number | None = None
    service_flags: ServiceFlags | None = None
    service_features: Features = Field(default=[])


class NewCustomer(CustomerFields):
    """The fields of a new customer."""

    name: Name
    iso_4217: Currency = "USD"
    opening_balance: Money = Decimal(0)


class ChangedCustomer(CustomerFields):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_customer: Key
    name: Name = "-"
    bill_status: Literal["O", "S", "L", "C", "E", "D"] = "O"


class AddCustomer(Params):
    """Parameters of add."""

    customer_info: NewCustomer


class UpdateCustomer(Params):
    """Parameters of update."""

    customer_info: ChangedCustomer


class GetCustomer(Params):
    """Names one customer by exactly one of its identifiers."""

    i_customer: Key | None = None
    name: Name | None = None
    refnum: Number | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "GetCustomer":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("exactly one of i_customer, name and refnum is expected")
        return self


class CustomerSearch(Params):
    """A text to look for in several fields; it may hold ``%``."""

    search_by: Annotated[list[SearchedField], Field(min_length=1, max_length=20)]
    value: Search


class ListCustomers(Page):
    """Parameters of get_list. ``name`` may hold ``%``."""

    search: CustomerSearch | None = None
    name: Search | None = None
    bill_status: Literal["O", "S", "L", "C", "E", "D"] | None = None


class TerminateCustomer(Params):
    """Parameters of terminate."""

    i_customer: Key


def add(scope: Scope, params: AddCustomer) -> Result:
    """Add a customer.

    Raises the faults ``Server.Customer.duplicate_name`` and ``.duplicate_refnum``.
    """
    values = params.customer_info.model_dump(exclude={"service_features", "refnum"})
    values["balance"] = values.pop("opening_balance")
    with scope.unless_taken(*_name_taken(values["name"])):
        i_customer = scope.insert(customers, creation_date=scope.now, **values)
    if params.customer_info.refnum is not None:
        _write_refnum(scope, i_customer, params.customer_info.refnum)
    owner = Owner("i_customer", i_customer)
    service_features.write(scope, owner, params.customer_info.service_features)
    return {"i_customer": i_customer}


def update_fields(scope: Scope, params: UpdateCustomer) -> Result:
    """Change the fields that are named and differ.

    Raises the faults ``Server.Customer.duplicate_name``, ``.duplicate_refnum`` and ``.closed``.
    """
    customer = find(scope, params.customer_info.i_customer, lock=True)
    features = params.customer_info.service_features
    values = params.customer_info.model_dump(exclude_unset=True, exclude={"service_features"})
    changed = {name: value for name, value in values.items() if value != getattr(customer, name)}
    if (changed or features) and customer.bill_status == "C":
        raise closed(ENTITY)
    if changed.get("bill_status") == "C":
        raise InvalidRequest(
            "customer_info.bill_status: Customer/terminate_customer closes a customer",
            "customer_info.bill_status",
        )
    if "refnum" in changed:
        _write_refnum(scope, customer.i_customer, changed.pop("refnum"))
    with scope.unless_taken(*_name_taken(params.customer_info.name)):
        scope.change(customers, customer, changed)
    service_features.write(scope, Owner("i_customer", customer.i_customer), features)
    return {"i_customer": customer.i_customer}


def get_info(scope: Scope, params: GetCustomer) -> Result:
    """One customer, with its service features."""
    criteria = params.model_dump(exclude_none=True)
    row = scope.find(
        customers, ENTITY, *(customers.c[name] == value for name, value in criteria.items())
    )
    features = service_features.of(scope.connection, Owner("i_customer", row.i_customer))
    return {"customer_info": {**described(row), "service_features": features}}


def get_list(scope: Scope, params: ListCustomers) -> Result:
    """The environment's customers, in the order in which they were added."""
    query = select(customers).where(customers.c.i_env == scope.i_env)
    if params.name is not None:
        query = query.where(matches(customers.c.name, params.name))
    if params.search is not None:
        columns = (customers.c[name] for name in params.search.search_by)
        query = query.where(or_(*(matches(column, params.search.value) for column in columns)))
    if params.bill_status is not None:
        query = query.where(customers.c.bill_status == params.bill_status)
    rows = scope.connection.execute(
        query.order_by(customers.c.i_customer).limit(params.limit).offset(params.offset)
    )
    return {"customer_list": [described(row) for row in rows]}


def leaf(scope: Scope, wanted: Leaf) -> Found[Result]:
    """A leaf of the environment's customers, by their names; as in get_list."""
    found = browse.numbers(scope, customers.c.name, wanted)
    leaf = browse.rows_of(scope, select(customers), customers.c.i_customer, found)
    return Found([described(row) for row in leaf.rows], leaf.has_earlier, leaf.has_later)


def terminate(scope: Scope, params: TerminateCustomer) -> Result:
    """Close a customer and, one after another, its accounts; its numbers go back to the pool.

    Repeating it changes nothing.
    """
    customer = find(scope, params.i_customer, lock=True)
    still_open = scope.connection.execute(
        select(accounts.c.i_account)
        .where(accounts.c.i_customer == customer.i_customer, accounts.c.bill_status != "C")
        .order_by(accounts.c.i_account)
        .with_for_update(key_share=True)
    ).scalars()
    for i_account in list(still_open):
        close_account(scope, i_account, release_numbers=True)
    if customer.bill_status != "C":
        dids.leave_customer(scope, customer.i_customer)
        scope.connection.execute(
            update(customers)
            .where(customers.c.i_customer == customer.i_customer)
            .values(bill_status="C")
        )
    return {"success": 1}


def find(scope: Scope, i_customer: int, *, lock: bool = False) -> Row[Any]:
    """The customer's row. Raises the fault ``Server.Customer.not_found``."""
    return scope.find(customers, ENTITY, customers.c.i_customer == i_customer, lock=lock)


def described(customer: Row[Any]) -> Result:
    """A customer as the API shows it."""
    funds = customer.available_funds
    unlimited = funds >= UNLIMITED_FUNDS
    return {
        **{
            name: getattr(customer, name)
            for name in (
                "i_customer",
                "name",
                "bill_status",
                "blocked",
                "iso_4217",
                "balance",
                "credit_limit",
                "time_zone_name",
                "refnum",
                *subscribers.ContactFields.model_fields,
                "service_flags",
                "creation_date",
            )
        },
        "available_funds": None if unlimited else funds,
        "credit_exceed": int(not unlimited and funds <= 0),
        # A limit is never raised for a time only, and no status is put off or planned.
        "perm_credit_limit": customer.credit_limit,
        "bill_suspension_delayed": 0,
        "suspension_delay_date": None,
        "terminate_on": None,
        "restore_on": None,
        "deactivate_on": None,
        "scheduled_status_change_list": [],
    }


def _write_refnum(scope: Scope, i_customer: int, refnum: str | None) -> None:
    """Apart from the name: both are unique, and a fault says which one is taken."""
    said = f"there is a customer with the refnum {refnum!r} already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate_refnum", said):
        scope.connection.execute(
            update(customers).where(customers.c.i_customer == i_customer).values(refnum=refnum)
        )


def _name_taken(name: str) -> tuple[str, str]:
    return f"Server.{ENTITY}.duplicate_name", f"there is a customer {name!r} already"
