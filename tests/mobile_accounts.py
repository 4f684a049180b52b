"""Accounts with SIM cards in a town, and what an administrator does with them."""

from espf.attempt import run_once
from espf.testing import FakeOutlet
from town import Direct

IMSI, OTHER_IMSI = "001010000000001", "001010000000002"
NUMBER, OTHER_NUMBER = "380441234567", "380441234568"


def new_account(town, number=NUMBER):
    return {
        "id": number,
        "i_customer": town.i_customer,
        "i_product": town.product("Everything"),
        "billing_model": -1,
        "opening_balance": 10,
    }


async def open_account(town, number=NUMBER, imsi=IMSI, **card):
    """A new account with a new card, of which the handler is told; their numbers."""
    info = new_account(town, number)
    i_account = (await town.do("Account/add_account", account_info=info))["i_account"]
    i_sim_card = town.card(imsi, **card)
    await town.do("SIMCard/assign_sim_card", i_sim_card=i_sim_card, i_account=i_account)
    return i_account, i_sim_card


def card_given(town):
    """The event of a new account with a card, of which nobody was told."""
    i_account = town.api("Account/add_account", account_info=new_account(town))["i_account"]
    town.api("SIMCard/assign_sim_card", i_sim_card=town.card(IMSI), i_account=i_account)
    *_, event = town.events("Account/SIMCardAssignment")
    return event


async def journal_of(town, event):
    """All that an attempt would leave, as a worker stores it."""
    outlet = FakeOutlet()
    attempt = await run_once(
        town.handler, event, 1, town._client, Direct(town.api), outlet, limit_seconds=30
    )
    return f"{attempt.outcome}\n{attempt.request}\n{attempt.response}"


def of(i_account, **fields):
    return {"i_account": i_account, **fields}


def charge(i_account, amount):
    return {"i_account": i_account, "action": "manual charge", "amount": amount}


def pay(i_account, amount):
    return {"i_account": i_account, "action": "manual payment", "amount": amount}
