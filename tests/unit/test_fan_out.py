"""What the dispatchers make of an event: for which accounts, with which variables, page by page."""

import pytest

from espf.catalogue import catalogue
from espf.errors import BillingFault
from espf.handlers import fan_out
from espf.handlers.fan_out import (
    CustomerToAccountsDispatcher,
    ProductToAccountsDispatcher,
    ServiceAttributeDispatcher,
)
from espf.testing import FakeOutlet, run_handler, sample_event


class Billing:
    """Lists accounts as the vendor's API does; ``keys``: also behind an account."""

    def __init__(self, accounts, *, keys=True, most=1000):
        self.accounts = accounts
        self.keys = keys
        self.most = most
        self.calls = []

    async def call(self, service, method, params):
        assert (service, method) == ("Account", "get_account_list")
        self.calls.append(params)
        owners = {name: params[name] for name in ("i_customer", "i_product") if name in params}
        addons = params.get("with_addons") == 1
        after = params.get("after_i_account", 0) if self.keys else 0
        found = [
            account
            for account in self.accounts
            if account["i_account"] > after
            and all(
                account[name] == value or (addons and value in of_addons(account))
                for name, value in owners.items()
            )
        ]
        start = params.get("offset", 0)
        return {"account_list": found[start : start + min(params["limit"], self.most)]}

    async def get_account_info(self, i_account):
        raise BillingFault("Server.Test", f"nobody asks for {i_account}")


def of_addons(account):
    return [addon["i_product"] for addon in account.get("assigned_addons", ())]


def account(i_account, **fields):
    usual = {
        "i_customer": 42,
        "i_product": 5,
        "bill_status": "O",
        "billing_model": 1,
        "i_account_balance_control_type": 1,
    }
    return {"i_account": i_account, **usual, **fields}


ACCOUNTS = [
    account(1),
    account(2, i_account_balance_control_type=2),
    account(3, i_account_balance_control_type=2, bill_status="C"),
    account(4, bill_status="S"),
    account(5, billing_model=2, i_account_balance_control_type=2),
    account(6, billing_model=4, i_account_balance_control_type=2),
    account(7, bill_status="E"),
    account(8, blocked="Y"),
    account(9, i_customer=43, i_account_balance_control_type=2),
    account(10, i_product=6),
]


async def made(handler, event, billing=None, outlet=None, **options):
    outlet = outlet or FakeOutlet()
    verdict = await run_handler(
        handler, options, event, billing=billing or Billing(ACCOUNTS), outlet=outlet
    )
    return verdict, outlet.emitted


@pytest.mark.parametrize(
    ("event_type", "made_of_it", "affected"),
    [
        ("Customer/ZeroAvailableFunds", "Account/ZeroAvailableFunds", [2]),
        ("Customer/AvailableFundsAppear", "Account/AvailableFundsAppear", [2]),
        (
            "Customer/ServiceAttribute/Changed",
            "Account/ServiceAttribute/Changed",
            [1, 2, 4, 6, 7, 8, 10],
        ),
        ("Customer/Status/Changed", "Account/Status/Changed", [1, 2, 4, 6, 7, 8, 10]),
        ("Customer/Blocked", "Account/Status/Changed", [1, 2, 4, 6, 7, 8, 10]),
        ("Customer/Unblocked", "Account/Status/Changed", [1, 2, 4, 6, 7, 8, 10]),
        ("Customer/Status/Suspended", "Account/Status/Suspended", [1, 2, 6, 7, 8, 10]),
        ("Customer/Status/Unsuspend", "Account/Status/SuspensionRemoved", [1, 2, 6, 7, 8, 10]),
        ("Customer/Status/Exported", "Account/Status/Exported", [1, 2, 4, 6, 8, 10]),
        ("Customer/Status/Imported", "Account/Status/Imported", [1, 2, 4, 6, 8, 10]),
    ],
)
async def test_what_happens_to_a_customer_reaches_the_accounts_that_it_affects(
    event_type, made_of_it, affected
):
    event = sample_event(event_type, i_customer=42)
    verdict, events = await made(CustomerToAccountsDispatcher, event)
    assert verdict.outcome == "finished"
    assert events == [(made_of_it, {"i_account": number, "i_customer": 42}) for number in affected]


async def test_a_dispatcher_knows_a_type_by_any_of_its_names():
    event = sample_event("Customer/Status/Suspend", i_customer=43)
    _, events = await made(CustomerToAccountsDispatcher, event)
    assert events == [("Account/Status/Suspended", {"i_account": 9, "i_customer": 43})]


async def test_what_happens_to_a_product_reaches_the_accounts_that_have_it():
    change = {"i_product": 5, "prev_i_vd_plan": None, "curr_i_vd_plan": 7}
    event = sample_event("Product/Discount/Changed", **change)
    _, events = await made(ProductToAccountsDispatcher, event)
    assert [variables["i_account"] for _, variables in events] == [1, 2, 4, 6, 7, 8, 9]
    assert events[0] == (
        "Account/Discount/Changed",
        {"i_account": 1, "i_customer": 42, "prev_i_vd_plan": None, "curr_i_vd_plan": 7},
    )


@pytest.mark.parametrize("paging", ["key", "offset"])
async def test_an_add_on_product_counts_where_the_billing_tells_of_it(paging):
    addons = [{"i_product": 7}, {"i_product": 5}]
    accounts = [
        account(1),
        account(2, i_product=6, assigned_addons=addons),
        account(3, assigned_addons=addons),
        account(4, i_product=6, assigned_addons=addons, bill_status="C"),
        account(5, i_product=6),
    ]
    event = sample_event("Product/ServiceAttribute/Changed", i_product=5)
    options = {"Dispatcher.Paging": paging}
    _, events = await made(ProductToAccountsDispatcher, event, Billing(accounts), **options)
    found = [variables["i_account"] for _, variables in events]
    assert found == ([1, 2, 3] if paging == "key" else [1, 3])


@pytest.mark.parametrize("told", [None, 7, "x", [None, "x", {}, {"i_product": 8}]])
async def test_what_a_billing_tells_of_add_ons_is_taken_with_care(told):
    class Careless(Billing):
        async def call(self, service, method, params):
            return {"account_list": [] if params.get("after_i_account") else self.accounts}

    accounts = [account(1, assigned_addons=told), account(2, i_product=6, assigned_addons=told)]
    event = sample_event("Product/ServiceAttribute/Changed", i_product=5)
    _, events = await made(ProductToAccountsDispatcher, event, Careless(accounts))
    assert [variables["i_account"] for _, variables in events] == [1]


async def test_a_billing_that_does_not_know_the_filter_makes_no_other_account_hear_of_it():
    class Careless(Billing):
        async def call(self, service, method, params):
            return await super().call(
                service, method, {k: v for k, v in params.items() if k != "i_product"}
            )

    event = sample_event("Product/ServiceAttribute/Changed", i_product=6)
    _, events = await made(ProductToAccountsDispatcher, event, Careless(ACCOUNTS))
    assert [variables["i_account"] for _, variables in events] == [10]


@pytest.mark.parametrize(
    ("variables", "entity"),
    [
        ({"i_account": 1, "i_customer": 42, "i_customer_site": None}, "Account"),
        ({"i_account": None, "i_customer_site": 3, "i_customer": 42}, "CustomerSite"),
        ({"i_product": 5, "i_customer": None}, "Product"),
        ({"i_account": None, "i_customer": 42}, "Customer"),
    ],
)
async def test_a_service_attribute_is_an_event_of_its_owner(variables, entity):
    event = sample_event("ServiceAttribute/Changed", **variables, attribute="address")
    outlet = FakeOutlet()
    for _ in range(2):
        verdict, events = await made(ServiceAttributeDispatcher, event, outlet=outlet)
        assert verdict.outcome == "finished"
    known = {name: value for name, value in variables.items() if value is not None}
    # The second time nothing was left to do.
    assert events == [(f"{entity}/ServiceAttribute/Changed", {**known, "attribute": "address"})]


async def test_a_service_attribute_that_was_told_as_its_owners_is_not_told_once_more():
    told = "Customer/ServiceAttribute/Changed"
    event = sample_event("ServiceAttribute/Changed", i_customer=42, told_as=told)
    verdict, events = await made(ServiceAttributeDispatcher, event)
    assert (verdict.outcome, verdict.reason) == ("skipped", f"the same change was told as {told}")
    assert events == []


@pytest.mark.parametrize("handler", [CustomerToAccountsDispatcher, ServiceAttributeDispatcher])
async def test_an_event_without_an_owner_is_rejected(handler):
    verdict, events = await made(handler, sample_event(handler.supports[0], service="x"))
    assert verdict.outcome == "rejected"
    assert events == []


@pytest.mark.parametrize(("paging", "keys"), [("key", True), ("offset", False)])
@pytest.mark.parametrize("most", [1000, 7])
async def test_all_pages_are_read_whatever_a_billing_takes_for_a_page(
    monkeypatch, paging, keys, most
):
    monkeypatch.setattr(fan_out, "PAGE", 20)
    billing = Billing([account(n) for n in range(1, 101)], keys=keys, most=most)
    event = sample_event("Customer/Status/Suspended", i_customer=42)
    _, events = await made(
        CustomerToAccountsDispatcher, event, billing, **{"Dispatcher.Paging": paging}
    )
    assert [variables["i_account"] for _, variables in events] == list(range(1, 101))
    assert all(call["limit"] == 20 for call in billing.calls)


@pytest.mark.parametrize("paging", ["key", "offset"])
async def test_what_was_begun_is_gone_on_with(paging):
    billing = Billing([account(n) for n in range(1, 11)])
    event = sample_event("Customer/Status/Suspended", i_customer=42)
    outlet = FakeOutlet(at="4")
    _, events = await made(
        CustomerToAccountsDispatcher, event, billing, outlet, **{"Dispatcher.Paging": paging}
    )
    assert [variables["i_account"] for _, variables in events] == list(range(5, 11))


async def test_a_billing_that_lists_the_same_accounts_again_doubles_nothing(monkeypatch):
    monkeypatch.setattr(fan_out, "PAGE", 20)
    billing = Billing([account(n) for n in range(1, 101)], keys=False)
    event = sample_event("Customer/Status/Suspended", i_customer=42)
    verdict, events = await made(CustomerToAccountsDispatcher, event, billing)
    assert verdict.outcome == "misconfigured"
    assert "Dispatcher.Paging=offset" in verdict.reason
    assert len(events) == 20


def test_the_dispatchers_and_the_catalogue_agree():
    handlers = (CustomerToAccountsDispatcher, ProductToAccountsDispatcher)
    for handler in handlers:
        for event_type, output in handler.outputs.items():
            assert output.owner in catalogue()[event_type].variables
            assert set(output.carries) <= set(catalogue()[event_type].variables)
            assert set(output.carries) <= set(catalogue()[output.event_type].variables)
    inherited = {entry.name for entry in catalogue().values() if entry.inherited}
    outputs = {output.event_type for output in CustomerToAccountsDispatcher.outputs.values()}
    assert outputs == inherited
