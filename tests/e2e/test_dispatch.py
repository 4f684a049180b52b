"""A dispatcher in the whole product: the billing's own API, real processes, and a kill."""

import asyncio
import re
from decimal import Decimal

import pytest
from sqlalchemy import func, insert, select, update

from espf.billing.tables import accounts, customers
from espf.db.tables import dispatches, event_queue
from webhook import Webhook

pytestmark = pytest.mark.e2e

SUBORDINATE, INDIVIDUAL = 600, 20


def fill(desk):
    """A customer with accounts that spend its funds, and some that have their own: the first."""
    desk("handler", "unsubscribe", 3, "EventSender", "Account/New")
    database = desk.database()
    with database.begin() as connection:
        now = database.now(connection)
        rows = [
            {
                "i_env": 3,
                "i_customer": 1,
                "i_product": 1,
                "id": f"a{number}",
                "billing_model": 1,
                "i_account_balance_control_type": 2 if number < SUBORDINATE else 1,
                "issue_date": now,
            }
            for number in range(SUBORDINATE + INDIVIDUAL)
        ]
        connection.execute(insert(accounts), rows)
        connection.execute(update(customers).values(credit_limit=Decimal(100), balance=Decimal(0)))
        subordinate = select(accounts.c.i_account).where(
            accounts.c.i_account_balance_control_type == 2, accounts.c.i_customer == 1
        )
        numbers = list(connection.execute(subordinate).scalars())
    database.close()
    return numbers


async def started(desk):
    process = desk.start("run")
    line = await asyncio.to_thread(process.stderr.readline)
    assert re.search(r"listening on http://", line), line
    return process


# test_dispatchers.py kills workers on each database.
@pytest.mark.databases("postgresql")
async def test_subordinate_accounts_lose_their_funds_with_their_customer_once_each(desk):
    desk("handler", "create", 3, "Customers", "--type", "CustomerToAccountsDispatcher")
    numbers = fill(desk)
    async with Webhook() as hook:
        desk(
            *("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}"),
            *("EventSender.TokenRate=10000", "EventSender.TokenBurstiness=1000"),
        )
        desk.execute(
            update(customers).where(customers.c.i_customer == 1).values(balance=Decimal(100))
        )
        for known in (1, 200):
            process = await started(desk)
            await hook.wait_for(known, 60)
            process.kill()
            await asyncio.to_thread(process.communicate)
        process = await started(desk)
        try:
            async with asyncio.timeout(60):
                while desk.execute(select(func.count()).select_from(event_queue)) != [(0,)]:
                    await asyncio.sleep(0.1)
        finally:
            process.terminate()
            await asyncio.to_thread(process.communicate)
    (cause,) = {r.i_event for r in hook.requests if "i_account" not in r.json["variables"]}
    told = {r.i_event: r.json for r in hook.requests if r.i_event != cause}
    assert {event["event_type"] for event in told.values()} == {"Account/ZeroAvailableFunds"}
    assert {event["variables"]["i_parent_event"] for event in told.values()} == {cause}
    assert sorted(event["variables"]["i_account"] for event in told.values()) == sorted(numbers)
    assert desk.execute(select(func.count()).select_from(dispatches)) == [(0,)]
    assert desk.json("event", "show", min(told))["i_parent_event"] == cause
