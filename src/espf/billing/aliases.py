"""Aliases: further numbers or names of an account, which is called their master.

An alias is an account of the billing model *alias*, with its master's customer and product. It has
no funds of its own.
"""

from typing import Any

from pydantic import model_validator
from sqlalchemy import Row, delete
from sqlalchemy.exc import IntegrityError

from espf.billing import accounts, clock
from espf.billing.fields import AccountId, Flag, Key, Page, Params
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts as account_table
from espf.billing.tables import subscribers
from espf.errors import BillingFault

ALIAS = 2


class NewAlias(Params):
    """The fields of a new alias."""

    i_master_account: Key
    id: AccountId
    blocked: Flag = "N"


class AddAlias(Params):
    """Parameters of add."""

    alias_info: NewAlias


class OneAlias(Params):
    """Names one alias of an account, by its number or its id."""

    i_master_account: Key
    i_account: Key | None = None
    id: AccountId | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "OneAlias":
        if (self.i_account is None) == (self.id is None):
            raise ValueError("exactly one of i_account and id is expected")
        return self


class DeleteAlias(Params):
    """Parameters of remove."""

    alias_info: OneAlias


class ListAliases(Page):
    """Parameters of get_list."""

    i_master_account: Key


def add(scope: Scope, params: AddAlias) -> Result:
    """Give an account another id.

    Raises the faults ``Server.Account.not_found``, ``.closed``, ``.is_alias`` and
    ``.duplicate_id``: an id is an account's or an alias's, once in an environment.
    """
    info = params.alias_info
    master = scope.open_account(info.i_master_account)
    if master.billing_model == ALIAS:
        raise BillingFault("Server.Account.is_alias", "an alias cannot have aliases")
    shared = ("i_customer", "i_product", "i_account_role", "time_zone_name")
    values = {name: getattr(master, name) for name in shared}
    i_account = accounts.insert_account(
        scope,
        {
            **values,
            **info.model_dump(),
            "billing_model": ALIAS,
            "activation_date": clock.local_day(scope.now, master.time_zone_name),
        },
    )
    return {"i_account": i_account}


def get_list(scope: Scope, params: ListAliases) -> Result:
    """The aliases of an account that are not closed, in the order in which they were added."""
    master = accounts.find(scope, params.i_master_account)
    table = account_table
    mine = table.c.i_master_account == master.i_account
    rows = scope.page(table, params, mine, table.c.bill_status != "C")
    shown = ("i_account", "i_master_account", "id", "blocked")
    return {"alias_list": [{name: getattr(row, name) for name in shown} for row in rows]}


def remove(scope: Scope, params: DeleteAlias) -> Result:
    """Take an alias away for good: its id is free then.

    Raises the faults ``Server.Account.not_found``, ``.closed`` (the master) and ``.in_use``: an
    alias that has a card, usage or the like stays.
    """
    info = params.alias_info
    scope.open_account(info.i_master_account)
    alias = _find(scope, info)
    try:
        with scope.connection.begin_nested():
            mine = subscribers.c.i_account == alias.i_account
            scope.connection.execute(delete(subscribers).where(mine))
            which = account_table.c.i_account == alias.i_account
            scope.connection.execute(delete(account_table).where(which))
    except IntegrityError:
        raise BillingFault(
            "Server.Account.in_use", "the alias is in use: it has a SIM card, usage or the like"
        ) from None
    return {"success": 1}


def _find(scope: Scope, info: OneAlias) -> Row[Any]:
    table = account_table
    named = info.model_dump(exclude_none=True)
    wanted = (table.c[name] == value for name, value in named.items())
    return scope.find(table, accounts.ENTITY, *wanted, lock=True)
