"""The end of an account, whoever asks for it: its own termination or its customer's."""

from sqlalchemy import update

from espf.billing import active_sessions, dids, ip_devices, sim_cards, subscriptions
from espf.billing.scope import Scope
from espf.billing.tables import accounts


def close_account(scope: Scope, i_account: int, *, release_numbers: bool) -> None:
    """Close an account that is not closed yet, and its aliases.

    Its subscriptions and sessions end. Its SIM card is disposed of, its IP devices go back into the
    stock, and its DID numbers to its customer or, with ``release_numbers``, to the pool.
    """
    table = accounts
    mine = (table.c.i_account == i_account) | (table.c.i_master_account == i_account)
    scope.connection.execute(
        update(table).where(mine, table.c.bill_status != "C").values(bill_status="C")
    )
    subscriptions.finish(scope, i_account)
    active_sessions.end_all(scope, i_account)
    sim_cards.dispose(scope, i_account)
    ip_devices.leave(scope, i_account)
    dids.leave_account(scope, i_account, pool=release_numbers)
