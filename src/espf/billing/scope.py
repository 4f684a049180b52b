"""The scope of one billing call: where it works, for whom, and when."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, select

from espf.billing.tables import environments
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


def not_found(entity: str) -> BillingFault:
    """The fault for a thing that is not in the caller's environment."""
    return BillingFault(f"Server.{entity}.not_found", f"{entity}: there is no such record")
