"""Active sessions: what accounts use at the moment, as far as the network says so.

The network names a session when it asks for the use of a service, or reports it, and says when it
is over. One that nothing is heard of for a day is active no longer.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select

from espf.billing.fields import Key, Page, Params, Service, SessionId
from espf.billing.scope import Result, Scope, not_found
from espf.billing.tables import accounts
from espf.billing.tables import active_sessions as table

ENTITY = "BillingSession"

SILENCE = timedelta(days=1)


class OneSession(Params):
    """Names a session of an account."""

    i_account: Key
    service: Service
    session_id: SessionId


class ListSessions(Page):
    """Parameters of get_list."""

    i_account: Key | None = None
    i_customer: Key | None = None
    service: Service | None = None


def get_list(scope: Scope, params: ListSessions) -> Result:
    """The environment's active sessions, in the order in which they began to be known."""
    query = (
        select(table, accounts.c.id, accounts.c.i_customer)
        .join(accounts, accounts.c.i_account == table.c.i_account)
        .where(table.c.i_env == scope.i_env, table.c.last_update_time > scope.now - SILENCE)
    )
    for column, value in (
        (table.c.i_account, params.i_account),
        (accounts.c.i_customer, params.i_customer),
        (table.c.service, params.service),
    ):
        if value is not None:
            query = query.where(column == value)
    page = query.order_by(table.c.i_active_session).limit(params.limit).offset(params.offset)
    rows = scope.connection.execute(page)
    return {"active_sessions_list": [_described(row, scope.now) for row in rows]}


def heard_of(scope: Scope, session: OneSession, at: datetime, used: int = 0) -> None:
    """Note that a session goes on, or begins ``at`` a moment. The account's row is locked."""
    row = scope.connection.execute(select(table).where(_is(session))).first()
    if row is not None:
        values = {"used": row.used + used, "last_update_time": scope.now}
        scope.change(table, row, values)
        return
    # What was never ended goes when its account begins another.
    silent = table.c.last_update_time <= scope.now - SILENCE
    mine = table.c.i_account == session.i_account
    scope.connection.execute(delete(table).where(mine, silent))
    times = {"connect_time": at, "last_update_time": scope.now}
    scope.insert(table, **session.model_dump(), used=used, **times)


def end(scope: Scope, params: OneSession) -> Result:
    """Say that a session is over. Raises the fault ``Server.BillingSession.not_found``."""
    scope.find(accounts, "Account", accounts.c.i_account == params.i_account)
    gone = scope.connection.execute(delete(table).where(_is(params)))
    if gone.rowcount == 0:
        raise not_found(ENTITY)
    return {"success": 1}


def end_all(scope: Scope, i_account: int) -> None:
    """Forget the sessions of an account that is closed."""
    scope.connection.execute(delete(table).where(table.c.i_account == i_account))


def _is(session: OneSession) -> ColumnElement[bool]:
    return (
        (table.c.i_account == session.i_account)
        & (table.c.service == session.service)
        & (table.c.session_id == session.session_id)
    )


def _described(row: Row[Any], now: datetime) -> Result:
    shown = ("i_account", "i_customer", "session_id", "used", "connect_time", "last_update_time")
    return {
        "i_active_session": row.i_active_session,
        "account_id": row.id,
        "service_name": row.service,
        **{name: getattr(row, name) for name in shown},
        "duration": max(0, int((now - row.connect_time).total_seconds())),
    }
