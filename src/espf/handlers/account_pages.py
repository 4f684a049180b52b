"""The accounts of a billing, page after page, for whoever goes through all of them.

Any billing that speaks the API will do. A place is where to go on: behind an account, or after so
many of them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from espf.errors import Misconfigured, TryLater
from espf.handlers.base import Billing

#: Accounts asked for in one call.
PAGE = 500

#: How a billing lists many accounts: behind the last one, or after so many.
Paging = Literal["key", "offset"]

#: An account as the billing lists it.
Account = Mapping[str, Any]


async def accounts_after(
    billing: Billing, paging: Paging, at: int, params: Mapping[str, Any], *, option: str
) -> list[tuple[int, Account]]:
    """The next accounts, each with the place behind it; none: that was all. ``at`` 0: the first.

    ``params`` say which, and with ``limit`` how many at most. Raises TryLater for an answer that
    makes no sense, Misconfigured when the billing cannot page by key: ``option`` is to be set then.
    """
    asked: dict[str, Any] = {"limit": PAGE, **params}
    if at:
        asked["after_i_account" if paging == "key" else "offset"] = at
    answer = await billing.call("Account", "get_account_list", asked)
    accounts = answer.get("account_list")
    if not isinstance(accounts, list) or not all(
        isinstance(account, dict) and isinstance(account.get("i_account"), int)
        for account in accounts
    ):
        raise TryLater("the billing's answer to Account/get_account_list is no list of accounts")
    if paging == "offset":
        return list(enumerate(accounts, at + 1))
    numbers = [account["i_account"] for account in accounts]
    if numbers != sorted(numbers) or (numbers and numbers[0] <= at):
        raise Misconfigured(
            f"the billing does not list accounts after_i_account; set {option}=offset"
        )
    return list(zip(numbers, accounts, strict=True))
