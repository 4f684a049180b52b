"""Payments and charges: what moves a balance."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from sqlalchemy import Column, Row, Table, select, update

from espf.billing import customers
from espf.billing.accounts import find
from espf.billing.columns import SUBORDINATE
from espf.billing.fields import Comment, Key, Params, SomeMoney
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts, transactions
from espf.billing.tables import customers as customer_table
from espf.errors import BillingFault

#: No balance gets beyond this, so that an integer of 1/100,000 always holds it.
MAX_BALANCE = Decimal(10) ** 12


@dataclass(frozen=True)
class Entry:
    """What the list of transactions says of one."""

    action: str
    amount: Decimal
    comment: str | None = None


def _action(value: object) -> object:
    return value.strip().capitalize() if isinstance(value, str) else value


class Transaction(Params):
    """A payment or a charge. ``amount`` is positive; ``action`` says which way it goes."""

    action: Annotated[Literal["Manual payment", "Manual charge"], BeforeValidator(_action)]
    amount: SomeMoney
    visible_comment: Comment | None = None

    @property
    def funds(self) -> Decimal:
        """What there is more to spend; below 0, less."""
        return self.amount if self.action == "Manual payment" else -self.amount

    @property
    def entry(self) -> Entry:
        """What the list of transactions says of it."""
        return Entry(self.action, self.amount, self.visible_comment)


class MakeTransaction(Transaction):
    """Parameters of make_transaction."""

    i_account: Key


class MakeCustomerTransaction(Transaction):
    """Parameters of make_customer_transaction."""

    i_customer: Key


def make_transaction(scope: Scope, params: MakeTransaction) -> Result:
    """Pay into an account or charge it; answers the new balance and the transaction's number.

    A payment raises the balance of a debit account or voucher and lowers that of a credit account,
    which is what is owed. A subordinate account's transaction moves its customer's balance. A
    charge is not limited by the funds. Raises the faults ``Server.Account.closed``,
    ``.has_no_balance`` and ``.balance_out_of_range``.
    """
    return for_account(scope, params.i_account, params.funds, params.entry)


def make_customer_transaction(scope: Scope, params: MakeCustomerTransaction) -> Result:
    """Take a customer's payment, which lowers what it owes, or charge it; see for_customer."""
    return for_customer(scope, params.i_customer, params.funds, params.entry)


def for_account(scope: Scope, i_account: int, funds: Decimal, entry: Entry) -> Result:
    """Give an account (or, below 0, take from it) funds of this amount; see make_transaction."""
    account = locked(scope, i_account)
    i_customer = account.i_customer
    if account.i_account_balance_control_type == SUBORDINATE:
        balance = _move(scope, customer_table.c.i_customer, i_customer, -funds)
    elif account.billing_model in {-1, 0}:
        balance = _move(scope, accounts.c.i_account, account.i_account, funds)
    elif account.billing_model == 1:
        balance = _move(scope, accounts.c.i_account, account.i_account, -funds)
    else:
        raise BillingFault(
            "Server.Account.has_no_balance",
            "an alias or a beneficiary has no balance of its own",
        )
    return _written(scope, "Account", balance, entry, i_customer, account.i_account)


def locked(scope: Scope, i_account: int) -> Row[Any]:
    """The row of an account whose money is to move, locked after its customer.

    Raises the faults ``Server.Account.not_found`` and ``.closed``.
    """
    customers.find(scope, find(scope, i_account).i_customer, lock=True)
    return scope.open_account(i_account)


def for_customer(scope: Scope, i_customer: int, funds: Decimal, entry: Entry) -> Result:
    """Lower what a customer owes (or, below 0, raise it) by this amount.

    Raises the faults ``Server.Customer.not_found`` and ``.balance_out_of_range``. Who is closed may
    still pay.
    """
    customers.find(scope, i_customer, lock=True)
    balance = _move(scope, customer_table.c.i_customer, i_customer, -funds)
    return _written(scope, "Customer", balance, entry, i_customer, None)


def _written(
    scope: Scope,
    entity: str,
    balance: Decimal,
    entry: Entry,
    i_customer: int,
    i_account: int | None,
) -> Result:
    """Note what has moved a balance; answer the transaction's number and the new balance."""
    if abs(balance) > MAX_BALANCE:
        code = f"Server.{entity}.balance_out_of_range"
        raise BillingFault(code, "the balance would be too large")
    number = scope.insert(
        transactions,
        i_customer=i_customer,
        i_account=i_account,
        action=entry.action,
        amount=entry.amount,
        visible_comment=entry.comment,
        transaction_time=scope.now,
    )
    return {"transaction_id": number, "balance": balance}


def _move(scope: Scope, key: Column[int], number: int, amount: Decimal) -> Decimal:
    """Add to the balance of the row with this key; return the new balance."""
    table = key.table
    assert isinstance(table, Table)
    scope.connection.execute(
        update(table).where(key == number).values(balance=table.c.balance + amount)
    )
    balance: Decimal = scope.connection.execute(
        select(table.c.balance).where(key == number)
    ).scalar_one()
    return balance
