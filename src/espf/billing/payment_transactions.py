"""Payment transactions: what a payment system tells of payments by card and the like.

A transaction is pending until it is completed, failed or canceled, once and for all. Completed, its
amount is paid into the account, or off what the customer owes.
"""

from typing import Any, Literal

from pydantic import model_validator
from sqlalchemy import Row

from espf.billing import customers, payments
from espf.billing.fields import Key, Line, Page, Params, SomeMoney
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts, payment_transactions
from espf.errors import BillingFault

ENTITY = "PaymentTransaction"

Status = Literal["pending", "completed", "failed", "canceled"]


class NewTransaction(Params):
    """The fields of a new transaction: for an account, or for a customer itself."""

    i_account: Key | None = None
    i_customer: Key | None = None
    amount: SomeMoney
    result_code: Line | None = None
    x_transaction_id: Line | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "NewTransaction":
        if (self.i_account is None) == (self.i_customer is None):
            raise ValueError("exactly one of i_account and i_customer is expected")
        return self


class AddTransaction(Params):
    """Parameters of add."""

    payment_transaction_info: NewTransaction


class ChangedTransaction(Params):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_payment_transaction: Key
    status: Status = "pending"
    result_code: Line | None = None


class UpdateTransaction(Params):
    """Parameters of update_fields."""

    payment_transaction_info: ChangedTransaction


class OneTransaction(Params):
    """Names a transaction."""

    i_payment_transaction: Key


class ListTransactions(Page):
    """Parameters of get_list."""

    i_customer: Key | None = None
    i_account: Key | None = None
    status: Status | None = None


def add(scope: Scope, params: AddTransaction) -> Result:
    """Note a payment that has begun.

    Raises the faults ``Server.Account.not_found``, ``.closed``, ``Server.Customer.not_found``.
    """
    values = params.payment_transaction_info.model_dump()
    if values["i_account"] is not None:
        values["i_customer"] = scope.open_account(values["i_account"]).i_customer
    else:
        customers.find(scope, values["i_customer"])
    number = scope.insert(payment_transactions, **values, transaction_time=scope.now)
    return {"i_payment_transaction": number}


def update_fields(scope: Scope, params: UpdateTransaction) -> Result:
    """Say how a payment goes on; when it is completed, the money moves.

    Raises the faults ``Server.PaymentTransaction.not_found`` and ``.settled``, and those of
    ``payments.make_transaction``.
    """
    info = params.payment_transaction_info
    payment = _open(scope, info.i_payment_transaction)
    values = info.model_dump(exclude_unset=True)
    status = values.get("status", payment.status)
    if payment.status not in {status, "pending"}:
        raise BillingFault(f"Server.{ENTITY}.settled", f"the payment is {payment.status} already")
    scope.change(payment_transactions, payment, values)
    if status == "completed" and payment.status == "pending":
        _paid(scope, payment)
    return {"i_payment_transaction": payment.i_payment_transaction}


def get_info(scope: Scope, params: OneTransaction) -> Result:
    """One transaction."""
    return {"payment_transaction_info": _described(_find(scope, params.i_payment_transaction))}


def get_list(scope: Scope, params: ListTransactions) -> Result:
    """The environment's transactions, in the order in which they were added."""
    exact = params.model_dump(exclude={"limit", "offset"}, exclude_none=True)
    wanted = (payment_transactions.c[name] == value for name, value in exact.items())
    rows = scope.page(payment_transactions, params, *wanted)
    return {"payment_transaction_list": [_described(row) for row in rows]}


def _paid(scope: Scope, payment: Row[Any]) -> None:
    entry = payments.Entry("Online payment", payment.amount)
    if payment.i_account is not None:
        payments.for_account(scope, payment.i_account, payment.amount, entry)
    else:
        payments.for_customer(scope, payment.i_customer, payment.amount, entry)


def _find(scope: Scope, number: int, *, lock: bool = False) -> Row[Any]:
    key = payment_transactions.c.i_payment_transaction
    return scope.find(payment_transactions, ENTITY, key == number, lock=lock)


def _open(scope: Scope, number: int) -> Row[Any]:
    """The row of a transaction, locked after those whose money it is."""
    payment = _find(scope, number)
    customers.find(scope, payment.i_customer, lock=True)
    if payment.i_account is not None:
        scope.find(accounts, "Account", accounts.c.i_account == payment.i_account, lock=True)
    return _find(scope, number, lock=True)


def _described(payment: Row[Any]) -> Result:
    shown = (
        "i_payment_transaction",
        "i_customer",
        "i_account",
        "amount",
        "status",
        "result_code",
        "x_transaction_id",
        "transaction_time",
    )
    return {name: getattr(payment, name) for name in shown}
