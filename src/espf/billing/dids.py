"""The DID inventory: telephone numbers, and whose they are.

A number is in the pool, or with a customer, or with an account of that customer. Only an active
number can be given to anybody. One that has moved to another installation or was cancelled is
nobody's any more.
"""

from typing import Any, Literal

from pydantic import model_validator
from sqlalchemy import Column, ColumnElement, Row, delete, exists, update

from espf.billing.fields import Key, Line, Number, Page, Params, Search, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import customers, did_numbers
from espf.errors import BillingFault

ENTITY = "DID"

Status = Literal["inactive", "active", "moved", "canceled"]

#: Statuses in which a number is nobody's.
GONE = frozenset({"moved", "canceled"})


class NewNumber(Params):
    """The fields of a new number; an inactive one is activated later."""

    number: Number
    description: Line | None = None
    status: Literal["inactive", "active"] = "active"


class AddNumber(Params):
    """Parameters of add."""

    number_info: NewNumber


class OneNumber(Params):
    """Names a number by exactly one of its identifiers."""

    i_did_number: Key | None = None
    number: Number | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "OneNumber":
        if (self.i_did_number is None) == (self.number is None):
            raise ValueError("exactly one of i_did_number and number is expected")
        return self


class ChangedNumber(Params):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_did_number: Key
    description: Line | None = None
    status: Status = "active"


class UpdateNumber(Params):
    """Parameters of update_fields."""

    number_info: ChangedNumber


class AssignToCustomer(OneNumber):
    """Parameters of assign_to_customer."""

    i_customer: Key


class AssignToAccount(OneNumber):
    """Parameters of assign_to_account."""

    i_account: Key


class ListNumbers(Page):
    """Parameters of get_list. ``number`` may hold ``%``."""

    number: Search | None = None
    status: Status | None = None
    i_customer: Key | None = None
    i_account: Key | None = None


class ListOfCustomer(Page):
    """Parameters of get_customer_numbers."""

    i_customer: Key


def add(scope: Scope, params: AddNumber) -> Result:
    """Add a number to the pool. Raises the fault ``Server.DID.duplicate_number``."""
    info = params.number_info
    text = f"there is a number {info.number!r} already"
    with scope.unless_taken(f"Server.{ENTITY}.duplicate_number", text):
        number = scope.insert(did_numbers, **info.model_dump())
    return {"i_did_number": number}


def remove(scope: Scope, params: OneNumber) -> Result:
    """Delete a number that is nobody's. Raises the fault ``Server.DID.in_use``."""
    did = _find(scope, params, lock=True)
    if did.i_customer is not None:
        raise BillingFault(
            f"Server.{ENTITY}.in_use", f"the number {did.number} is a customer's: release it first"
        )
    scope.connection.execute(
        delete(did_numbers).where(did_numbers.c.i_did_number == did.i_did_number)
    )
    return {"success": 1}


def update_fields(scope: Scope, params: UpdateNumber) -> Result:
    """Change the fields that are named and differ; what is gone is nobody's any more."""
    info = params.number_info
    did = _find(scope, OneNumber(i_did_number=info.i_did_number), lock=True)
    values = info.model_dump(exclude_unset=True)
    if values.get("status") in GONE:
        values |= {"i_customer": None, "i_account": None}
    scope.change(did_numbers, did, values)
    return {"i_did_number": did.i_did_number}


def get_info(scope: Scope, params: OneNumber) -> Result:
    """One number."""
    return {"number_info": _described(_find(scope, params))}


def get_list(scope: Scope, params: ListNumbers) -> Result:
    """The environment's numbers, in the order in which they were added."""
    exact = params.model_dump(include={"status", "i_customer", "i_account"}, exclude_none=True)
    wanted = [did_numbers.c[name] == value for name, value in exact.items()]
    if params.number is not None:
        wanted.append(matches(did_numbers.c.number, params.number))
    rows = scope.page(did_numbers, params, *wanted)
    return {"number_list": [_described(row) for row in rows]}


def get_customer_numbers(scope: Scope, params: ListOfCustomer) -> Result:
    """The numbers of a customer. Raises the fault ``Server.Customer.not_found``."""
    customer = scope.find(customers, "Customer", customers.c.i_customer == params.i_customer)
    rows = scope.page(did_numbers, params, did_numbers.c.i_customer == customer.i_customer)
    return {"number_list": [_described(row) for row in rows]}


def assign_to_customer(scope: Scope, params: AssignToCustomer) -> Result:
    """Give a number to a customer; one that it has, it keeps, with its account.

    Raises the faults ``Server.DID.not_available``, ``Server.Customer.not_found`` and ``.closed``.
    """
    customer = scope.open_customer(params.i_customer)
    did = _find(scope, params, lock=True)
    _require_available(did, customer.i_customer)
    scope.change(did_numbers, did, {"i_customer": customer.i_customer})
    return {"i_did_number": did.i_did_number}


def assign_to_account(scope: Scope, params: AssignToAccount) -> Result:
    """Give a number to an account, out of the pool or from its customer's other numbers.

    Raises the faults ``Server.DID.not_available``, ``Server.Account.not_found`` and ``.closed``.
    """
    account = scope.open_account(params.i_account)
    did = _find(scope, params, lock=True)
    _require_available(did, account.i_customer)
    holder = {"i_customer": account.i_customer, "i_account": account.i_account}
    scope.change(did_numbers, did, holder)
    return {"i_did_number": did.i_did_number}


def release_from_customer(scope: Scope, params: OneNumber) -> Result:
    """Take a number back into the pool, from its account, too."""
    did = _find(scope, params, lock=True)
    scope.change(did_numbers, did, {"i_customer": None, "i_account": None})
    return {"i_did_number": did.i_did_number}


def release_from_account(scope: Scope, params: OneNumber) -> Result:
    """Take a number from its account; the customer keeps it."""
    did = _find(scope, params, lock=True)
    scope.change(did_numbers, did, {"i_account": None})
    return {"i_did_number": did.i_did_number}


def is_held_by(i_account: Column[int], number: str) -> ColumnElement[bool]:
    """Whether an account has a number that fits, in which ``%`` stands for any characters."""
    return exists().where(
        did_numbers.c.i_account == i_account, matches(did_numbers.c.number, number)
    )


def follow(scope: Scope, i_account: int, i_customer: int) -> None:
    """Its numbers go with an account that moves to another customer."""
    which = did_numbers.c.i_account == i_account
    scope.connection.execute(update(did_numbers).where(which).values(i_customer=i_customer))


def leave_account(scope: Scope, i_account: int, *, pool: bool) -> None:
    """Take its numbers from an account that is closed: into the ``pool``, or to its customer."""
    values: dict[str, None] = {"i_account": None} | ({"i_customer": None} if pool else {})
    which = did_numbers.c.i_account == i_account
    scope.connection.execute(update(did_numbers).where(which).values(values))


def leave_customer(scope: Scope, i_customer: int) -> None:
    """Take back the numbers of a customer that is closed, and of its accounts."""
    which = did_numbers.c.i_customer == i_customer
    holder = {"i_customer": None, "i_account": None}
    scope.connection.execute(update(did_numbers).where(which).values(holder))


def _find(scope: Scope, params: OneNumber, *, lock: bool = False) -> Row[Any]:
    named = params.model_dump(include={"i_did_number", "number"}, exclude_none=True)
    wanted = (did_numbers.c[name] == value for name, value in named.items())
    return scope.find(did_numbers, ENTITY, *wanted, lock=lock)


def _require_available(did: Row[Any], i_customer: int) -> None:
    if did.status != "active" or did.i_customer not in {None, i_customer}:
        state = did.status if did.status != "active" else "another customer's"
        raise BillingFault(f"Server.{ENTITY}.not_available", f"the number {did.number} is {state}")


def _described(did: Row[Any]) -> Result:
    shown = ("i_did_number", "number", "description", "status", "i_customer", "i_account")
    return {name: getattr(did, name) for name in shown}
