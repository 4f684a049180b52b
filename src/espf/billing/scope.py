"""The scope of one billing call: where it works, for whom, and when."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from espf.billing.fields import Page
from espf.billing.tables import accounts, customers, environments
from espf.crypto import Sealer
from espf.errors import BillingFault

#: What a billing method answers: names to numbers, texts, Decimal, date, datetime, lists, objects.
Result = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """One call's transaction, the only environment that it sees, its moment and its rights.

    ``now`` is aware and comes from the database's clock. ``sees_keys`` lets the caller read
    Ki and OPc of SIM cards.
    """

    connection: Connection
    i_env: int
    now: datetime
    sealer: Sealer
    sees_keys: bool = False

    def require_environment(self) -> None:
        """Raise the fault ``Server.Environment.not_found`` when there is no such environment."""
        known = self.connection.execute(
            select(environments.c.i_env).where(environments.c.i_env == self.i_env)
        ).first()
        if known is None:
            raise BillingFault(
                "Server.Environment.not_found", f"there is no environment {self.i_env}"
            )

    def find(
        self, table: Table, entity: str, *conditions: ColumnElement[bool], lock: bool = False
    ) -> Row[Any]:
        """The row of this environment that meets the conditions.

        With ``lock`` nobody else changes it before this transaction ends: for whoever decides by
        what it reads, and then writes. Customers are locked before their accounts, and accounts
        before their cards, so that nobody waits in a circle.

        Raises the fault ``Server.<entity>.not_found``, the same for what does not exist and for
        what belongs to another environment.
        """
        query = select(table).where(table.c.i_env == self.i_env, *conditions)
        if lock:
            # Rows that refer to this one may still be written.
            query = query.with_for_update(key_share=True)
        row = self.connection.execute(query).first()
        if row is None:
            raise not_found(entity)
        return row

    def open_account(self, i_account: int) -> Row[Any]:
        """The row of an account, locked. Raises ``Server.Account.not_found`` and ``.closed``."""
        account = self.find(accounts, "Account", accounts.c.i_account == i_account, lock=True)
        if account.bill_status == "C":
            raise closed("Account")
        return account

    def open_customer(self, i_customer: int) -> Row[Any]:
        """The row of a customer, locked. Raises ``Server.Customer.not_found`` and ``.closed``."""
        customer = self.find(customers, "Customer", customers.c.i_customer == i_customer, lock=True)
        if customer.bill_status == "C":
            raise closed("Customer")
        return customer

    def page(self, table: Table, page: Page, *conditions: ColumnElement[bool]) -> list[Row[Any]]:
        """The rows of this environment that meet the conditions, as they were added: one page."""
        query = select(table).where(table.c.i_env == self.i_env, *conditions)
        ordered = query.order_by(*table.primary_key).limit(page.limit).offset(page.offset)
        return list(self.connection.execute(ordered))

    def insert(self, table: Table, **values: Any) -> int:
        """Add a row to this environment; returns its number."""
        result = self.connection.execute(insert(table).values(i_env=self.i_env, **values))
        assert result.inserted_primary_key is not None
        return int(result.inserted_primary_key[0])

    def change(self, table: Table, row: Row[Any], values: Mapping[str, Any]) -> None:
        """Write what differs from the row as it was read: saving what is there changes nothing."""
        changed = {name: new for name, new in values.items() if new != getattr(row, name)}
        if changed:
            keys = (column == getattr(row, column.name) for column in table.primary_key)
            self.connection.execute(update(table).where(*keys).values(**changed))

    @contextmanager
    def unless_taken(self, code: str, text: str) -> Iterator[None]:
        """Raise the fault when what is written breaks a unique key, and undo it."""
        try:
            with self.connection.begin_nested():
                yield
        except IntegrityError:
            raise BillingFault(code, text) from None


def not_found(entity: str) -> BillingFault:
    """The fault for a thing that is not in the caller's environment."""
    return BillingFault(f"Server.{entity}.not_found", f"{entity}: there is no such record")


def closed(entity: str) -> BillingFault:
    """The fault for a change to what is closed: an account or a customer."""
    return BillingFault(f"Server.{entity}.closed", f"the {entity.lower()} is closed")
