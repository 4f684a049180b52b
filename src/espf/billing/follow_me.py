"""Follow-me: where an account's calls are forwarded to, and in which order."""

from typing import Any, Literal

from sqlalchemy import Row, delete, select

from espf.billing.fields import Count, Flag, Key, Number, Params, Seconds, ShortName
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts, follow_me, follow_me_numbers

ENTITY = "FollowMe"


class FollowMeFields(Params):
    """How the numbers of an account are called; ``timeout`` is that for all of them."""

    sequence: Literal["Order", "Random", "Simultaneous"] = "Order"
    timeout: Seconds = 90
    max_forwards: Count | None = None


class UpdateFollowMe(Params):
    """Parameters of update_settings."""

    i_account: Key
    followme_info: FollowMeFields


class GetFollowMe(Params):
    """Parameters of get."""

    i_account: Key


class NumberFields(Params):
    """What can be given to a number and changed later."""

    name: ShortName | None = None
    i_follow_order: Count = 1
    timeout: Seconds = 15
    active: Flag = "Y"


class NewNumber(NumberFields):
    """The fields of a new number."""

    i_account: Key
    redirect_number: Number


class ChangedNumber(NumberFields):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_follow_me_number: Key
    redirect_number: Number = "-"


class AddNumber(Params):
    """Parameters of add_number."""

    number_info: NewNumber


class UpdateNumber(Params):
    """Parameters of update_number."""

    number_info: ChangedNumber


class DeleteNumber(Params):
    """Parameters of delete_number."""

    i_follow_me_number: Key


def update_settings(scope: Scope, params: UpdateFollowMe) -> Result:
    """Say how the numbers are called; what is not named stays, or is the default at first.

    Raises the faults ``Server.Account.not_found`` and ``.closed``.
    """
    account = scope.open_account(params.i_account)
    row = _settings(scope, account.i_account)
    if row is None:
        values = params.followme_info.model_dump()
        scope.insert(follow_me, i_account=account.i_account, **values)
    else:
        scope.change(follow_me, row, params.followme_info.model_dump(exclude_unset=True))
    return {"i_account": account.i_account}


def get(scope: Scope, params: GetFollowMe) -> Result:
    """The settings, the defaults while nobody has set any, and the numbers in their order."""
    account = scope.find(accounts, "Account", accounts.c.i_account == params.i_account)
    row = _settings(scope, account.i_account)
    fields = FollowMeFields.model_fields
    settings = {
        name: field.default if row is None else getattr(row, name) for name, field in fields.items()
    }
    table = follow_me_numbers
    numbers = scope.connection.execute(
        select(table)
        .where(table.c.i_account == account.i_account)
        .order_by(table.c.i_follow_order, table.c.i_follow_me_number)
    )
    return {
        "followme_info": {"i_account": account.i_account, **settings},
        "followme_numbers": [_described(number) for number in numbers],
    }


def add_number(scope: Scope, params: AddNumber) -> Result:
    """Add a number to an account. Raises ``Server.Account.not_found`` and ``.closed``."""
    scope.open_account(params.number_info.i_account)
    number = scope.insert(follow_me_numbers, **params.number_info.model_dump())
    return {"i_follow_me_number": number}


def update_number(scope: Scope, params: UpdateNumber) -> Result:
    """Change a number. Raises ``Server.FollowMe.not_found`` and ``Server.Account.closed``."""
    info = params.number_info
    number = _open_number(scope, info.i_follow_me_number)
    scope.change(follow_me_numbers, number, info.model_dump(exclude_unset=True))
    return {"i_follow_me_number": info.i_follow_me_number}


def delete_number(scope: Scope, params: DeleteNumber) -> Result:
    """Take a number away. Raises ``Server.FollowMe.not_found`` and ``Server.Account.closed``."""
    number = _open_number(scope, params.i_follow_me_number)
    key = follow_me_numbers.c.i_follow_me_number
    scope.connection.execute(delete(follow_me_numbers).where(key == number.i_follow_me_number))
    return {"success": 1}


def _settings(scope: Scope, i_account: int) -> Row[Any] | None:
    query = select(follow_me).where(follow_me.c.i_account == i_account)
    return scope.connection.execute(query).first()


def _open_number(scope: Scope, i_follow_me_number: int) -> Row[Any]:
    """The number's row, under the lock of its account."""
    which = follow_me_numbers.c.i_follow_me_number == i_follow_me_number
    scope.open_account(scope.find(follow_me_numbers, ENTITY, which).i_account)
    return scope.find(follow_me_numbers, ENTITY, which, lock=True)


def _described(number: Row[Any]) -> Result:
    shown = ("i_follow_me_number", "redirect_number", *NumberFields.model_fields)
    return {name: getattr(number, name) for name in shown}
