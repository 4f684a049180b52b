"""What keeps a subscriber from using services reaches a handler of a real system, and so does its
end, whoever it is that the billing bars: the account or its customer.
"""

import asyncio

import pytest

from espf.catalogue import fits_any
from espf.handlers.desired import Change, DesiredStateHandler
from espf.handlers.fan_out import CustomerToAccountsDispatcher
from espf.handlers.subscriber import BARS
from espf.model import Event, compact, ordering_key
from espf.testing import FakeOutlet, run_handler
from town import Direct

IMSI = "001010000000541"

#: What a dispatcher has to hear for handlers of this kind, and no more.
DISPATCHED = (
    "Customer/Blocked",
    "Customer/Unblocked",
    "Customer/Status/Changed",
    "Customer/ZeroAvailableFunds",
    "Customer/AvailableFundsAppear",
)


class Shelf(DesiredStateHandler):
    """A system that knows of each subscriber what bars it."""

    keyed_by = "i_account"

    def __init__(self, settings):
        super().__init__(settings)
        self.held = {}

    def desired(self, key, owner):
        return {"bars": ",".join(sorted(owner.bars))}

    async def read(self, key, wanted, context):
        return self.held.get(key)

    async def apply(self, change, context):
        self.held[change.key] = change.wanted


class Home:
    """An account, and what its billing does to it and its customer."""

    def __init__(self, town, *, subordinate):
        self._town = town
        self._customer = {"i_customer": town.i_customer}
        if subordinate:
            # It spends what its customer may owe.
            self.customer(credit_limit=10)
            funds = {"billing_model": 1, "i_account_balance_control_type": 2}
        else:
            funds = {"billing_model": -1, "opening_balance": 10}
        product = town.product("Everything")
        info = {"id": "anna", "i_product": product, "activation_date": "2020-01-01"}
        info |= {**self._customer, **funds}
        self.i_account = town.api("Account/add_account", account_info=info)["i_account"]

    def account(self, **fields):
        info = {"i_account": self.i_account, **fields}
        self._town.api("Account/update_account", account_info=info)

    def customer(self, **fields):
        self._town.api("Customer/update_customer", customer_info={**self._customer, **fields})

    def money(self, action, amount=10):
        named = {"i_account": self.i_account, "action": f"manual {action}", "amount": amount}
        self._town.api("Account/make_transaction", **named)


#: A bar, what makes it, and what ends it.
WAYS = [
    ("blocked", lambda home: home.account(blocked="Y"), lambda home: home.account(blocked="N")),
    (
        "customer_blocked",
        lambda home: home.customer(blocked="Y"),
        lambda home: home.customer(blocked="N"),
    ),
    *(
        (
            bar,
            lambda home, s=status: home.account(bill_status=s),
            lambda home: home.account(bill_status="O"),
        )
        for bar, status in (("suspended", "S"), ("exported", "E"))
    ),
    *(
        (
            bar,
            lambda home, s=status: home.customer(bill_status=s),
            lambda home: home.customer(bill_status="O"),
        )
        for bar, status in (
            ("customer_suspended", "S"),
            ("customer_limited", "L"),
            ("customer_inactive", "D"),
            ("exported", "E"),
        )
    ),
    (
        "inactive",
        lambda home: home.account(activation_date="2090-01-01"),
        lambda home: home.account(activation_date="2020-01-01"),
    ),
    (
        "inactive",
        lambda home: home.account(expiration_date="2020-01-02"),
        lambda home: home.account(expiration_date="2090-01-01"),
    ),
    ("no_funds", lambda home: home.money("charge"), lambda home: home.money("payment")),
]


async def hear(town):
    """Let the dispatcher and the handler hear of what has happened, as far as each is to."""
    told = town.events("*")
    billing = Direct(town.api)
    for event in [event for event in told if event.event_type in DISPATCHED]:
        outlet = FakeOutlet()
        await run_handler(CustomerToAccountsDispatcher, {}, event, billing=billing, outlet=outlet)
        told += [
            Event(0, 3, name, compact(values), ordering_key(values))
            for name, values in outlet.emitted
        ]
    for event in told:
        if fits_any(event.event_type, Shelf.usual):
            await town.attempt(event)


def test_there_is_a_way_to_each_bar():
    assert {bar for bar, *_ in WAYS} == set(BARS)


@pytest.mark.parametrize("subordinate", [False, True])
async def test_each_bar_and_its_end_reach_the_account(town, subordinate):
    async with town.served(Shelf, {}) as handler:
        home = Home(town, subordinate=subordinate)
        key = str(home.i_account)
        await hear(town)
        assert handler.held == {key: {"bars": ""}}
        for bar, begins, ends in WAYS:
            for happens, bars in ((begins, bar), (ends, "")):
                happens(home)
                await hear(town)
                assert handler.held == {key: {"bars": bars}}, bar


# What an attempt asks the billing


@pytest.fixture
def asked(monkeypatch):
    """The calls that the billing is asked."""
    calls = []
    call = Direct.call

    async def counted(self, service, method, params):
        calls.append(f"{service}/{method}")
        return await call(self, service, method, params)

    monkeypatch.setattr(Direct, "call", counted)
    return calls


def resident(town):
    """An account with a card, and the event that tells of it."""
    card = {"id": "anna", "i_product": town.product("Everything"), "i_sim_card": town.card(IMSI)}
    info = {"i_customer": town.i_customer, "billing_model": -1, "opening_balance": 10, **card}
    i_account = town.api("Account/add_account", account_info=info)["i_account"]
    (event,) = town.events("Account/New")
    return i_account, event


@pytest.mark.parametrize("keyed_by", ["id", "i_account", "imsi"])
async def test_an_attempt_asks_the_billing_once_and_anew_when_it_has_changed_something(
    town, asked, keyed_by
):
    calls = ["Account/get_account_info"]
    if keyed_by == "imsi":
        calls.append("SIMCard/get_card_info")
    async with town.served(type("Keyed", (Shelf,), {"keyed_by": keyed_by}), {}):
        _, event = resident(town)
        for times in (2, 1):
            await town.attempt(event)
            assert sorted(asked) == sorted(calls * times)
            asked.clear()


async def test_no_attempt_knows_what_an_earlier_one_was_told(town):
    async with town.served(Shelf, {}) as handler:
        i_account, event = resident(town)
        for blocked, bars in (("N", ""), ("Y", "blocked"), ("N", "")):
            info = {"i_account": i_account, "blocked": blocked}
            town.api("Account/update_account", account_info=info)
            await town.attempt(event)
            assert handler.held == {str(i_account): {"bars": bars}}


async def test_what_the_billing_changes_while_the_system_is_changed_gets_there_at_once(town):
    class Slow(Shelf):
        async def apply(self, change, context):
            await super().apply(change, context)
            info = {"i_account": int(change.key), "blocked": "Y"}
            town.api("Account/update_account", account_info=info)

    async with town.served(Slow, {}) as handler:
        i_account, event = resident(town)
        await town.attempt(event)
        assert handler.held == {str(i_account): {"bars": "blocked"}}


async def test_whoever_has_waited_for_another_attempt_asks_the_billing_anew(town):
    """What it was told before would undo what the other one has done since."""
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    class Slow(Shelf):
        async def apply(self, change, context):
            await super().apply(change, context)
            begun.set()
            await may_go_on.wait()

    async with town.served(Slow, {}):
        i_account, event = resident(town)
        first = asyncio.create_task(town.attempt(event))
        await begun.wait()
        second = asyncio.create_task(town.attempt(event))
        while not next(iter(town.handler._locks.values()))._waiters:
            await asyncio.sleep(0.01)
        town.api("Account/update_account", account_info={"i_account": i_account, "blocked": "Y"})
        may_go_on.set()
        await asyncio.gather(first, second)
        assert [change.wanted["bars"] for change in town.changes] == ["", "blocked"]


# What is told of a change


@pytest.mark.parametrize(
    ("held", "wanted", "told"),
    [
        (None, {"cs": "1", "ki": "k1"}, "7 is added (cs: 1, ki: ***)"),
        ({"cs": "1", "ki": "k1"}, None, "7 is removed (cs: 1, ki: ***)"),
        ({"cs": "1", "ki": "k1"}, {"cs": "0", "ki": "k1"}, "7: cs: 1 -> 0"),
        ({"cs": "1"}, {"cs": "1", "ki": "k2"}, "7: ki: nothing -> ***"),
        ({"cs": "1", "theirs": "x"}, {"cs": "1"}, "7 is as it should be"),
        (None, {}, "7 is added"),
    ],
)
def test_a_change_is_told_field_by_field_and_without_secrets(held, wanted, told):
    assert Change("7", held, wanted).told({"ki"}) == told
