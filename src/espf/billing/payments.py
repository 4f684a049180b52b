"""Payments and charges: what moves a balance."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator
from sqlalchemy import Column, Table, insert, select, update

from espf.billing import customers
from espf.billing.accounts import closed, find
from espf.billing.fields import Comment, Key, Params, SomeMoney
from espf.billing.scope import Result, Scope
from espf.billing.tables import SUBORDINATE, accounts, transactions
from espf.billing.tables import customers as customer_table
from espf.errors import BillingFault

#: No balance gets beyond this, so that an integer of 1/100,000 always holds it.
MAX_BALANCE = Decimal(10) ** 12


def _action(value: object) -> object:
    return value.strip().capitalize() if isinstance(value, str) else value


class MakeTransaction(Params):
    """Parameters of make_transaction. ``amount`` is positive; ``action`` says which way it goes."""

    i_account: Key
    action: Annotated[Literal["Manual payment", "Manual charge"], BeforeValidator(_action)]
    amount: SomeMoney
    visible_comment: Comment | None = None


def make_transaction(scope: Scope, params: MakeTransaction) -> Result:
    """Pay into an account or charge it; answers the new balance and the transaction's number.

    A payment raises the balance of a debit account or voucher and lowers that of a credit account,
    which is what is owed. A subordinate account's transaction moves its customer's balance. A
    charge is not limited by the funds. Raises the faults ``Server.Account.closed``,
    ``.has_no_balance`` and ``.balance_out_of_range``.
    """
    i_customer = find(scope, params.i_account).i_customer
    customers.find(scope, i_customer, lock=True)
    account = find(scope, params.i_account, lock=True)
    if account.bill_status == "C":
        raise closed()
    funds = params.amount if params.action == "Manual payment" else -params.amount
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
    if abs(balance) > MAX_BALANCE:
        raise BillingFault("Server.Account.balance_out_of_range", "the balance would be too large")
    result = scope.connection.execute(
        insert(transactions).values(
            i_env=scope.i_env,
            i_customer=i_customer,
            i_account=account.i_account,
            action=params.action,
            amount=params.amount,
            visible_comment=params.visible_comment,
            transaction_time=scope.now,
        )
    )
    assert result.inserted_primary_key is not None
    return {"transaction_id": result.inserted_primary_key[0], "balance": balance}


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
