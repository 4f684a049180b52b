"""The end of an account, whoever asks for it: its own termination or its customer's."""

from sqlalchemy import update

from espf.billing import sim_cards
from espf.billing.scope import Scope
from espf.billing.tables import accounts


def close_account(scope: Scope, i_account: int) -> None:
    """Close an account that is not closed yet and dispose of its SIM card."""
    scope.connection.execute(
        update(accounts).where(accounts.c.i_account == i_account).values(bill_status="C")
    )
    sim_cards.dispose(scope, i_account)
