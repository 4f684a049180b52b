"""Dispatchers with a real queue, a billing over HTTP, and workers that end in the middle."""

import asyncio
import json
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from espf import subscriptions
from espf.backlog import Start, Wanted
from espf.billing import environments, tables
from espf.billing.scope import Scope
from espf.capture import triggers
from espf.capture.rules import shipped_rules
from espf.db.dialect import Dialect
from espf.dispatches import Dispatches
from espf.errors import LeaseLost
from espf.handlers import account_pages
from espf.leases import Leases
from espf.model import SHARDS
from espf.web.rest import METHODS, validated
from house import House
from webhook import Answer, Webhook

whatever_the_database = pytest.mark.databases("sqlite")

SUSPENDED, UNSUSPEND = "Customer/Status/Suspended", "Customer/Status/Unsuspend"
ENV, OTHER_ENV = 1, 2
SOONER, LATER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2037, 1, 1, tzinfo=UTC)


@pytest.fixture
def house(database, sealer, tmp_path, monkeypatch) -> House:
    # Small steps, so that there are many.
    monkeypatch.setattr(type(database.dialect), "batch", 20)
    monkeypatch.setattr(Dialect, "batch", 20)
    monkeypatch.setattr(account_pages, "PAGE", 30)
    return House(database, sealer, tmp_path)


@asynccontextmanager
async def billing(accounts):
    """A billing that lists these accounts, each in its environment."""

    def answer(request):
        if request.path == "/rest/Session/login":
            return Answer(body=json.dumps({"access_token": "t"}))
        params = request.json["params"]
        found = [
            account
            for account in accounts
            if account["i_env"] == params["i_env"]
            and account["i_customer"] == params["i_customer"]
            and account["i_account"] > params.get("after_i_account", 0)
        ]
        return Answer(body=json.dumps({"account_list": found[: params["limit"]]}))

    async with Webhook() as hook:
        hook.always = answer
        yield hook


def account(i_account, i_customer=42, i_env=ENV):
    return {
        "i_account": i_account,
        "i_customer": i_customer,
        "i_env": i_env,
        "bill_status": "O",
        "billing_model": 1,
    }


def dispatcher(house, kind="CustomerToAccountsDispatcher", **options):
    with house.database.begin() as connection:
        return subscriptions.create_handler(connection, house.sealer, ENV, kind, kind, options)


class Reference:
    """The reference billing with its triggers, in the database of a house."""

    def __init__(self, house):
        self.house = house
        with house.database.begin() as connection:
            tables.metadata.create_all(connection)
        with house.database.begin() as connection:
            environments.add(connection, ENV, "one")
            wanted = triggers.compile_rules(shipped_rules())
            triggers.apply(connection, house.database.dialect, wanted)
            self.now = house.database.now(connection)

    def call(self, name, **params):
        """A method of the billing's API."""
        method = METHODS[name]
        with self.house.database.begin() as connection:
            now = self.house.database.now(connection)
            scope = Scope(connection, ENV, now, self.house.sealer)
            return method.serve(scope, validated(method.params, params))

    def add(self, table, **values):
        """A row, with all that its columns want."""
        dates = {"Accounts": "issue_date", "Customers": "creation_date"}
        dated = {dates[table.name]: self.now} if table.name in dates else {}
        with self.house.database.begin() as connection:
            connection.execute(insert(table).values(i_env=ENV, **dated, **values))

    def account(self, i_account, i_customer, i_product, **values):
        fields = {"i_customer": i_customer, "i_product": i_product, "billing_model": -1}
        name = f"account-{i_account}"
        self.add(tables.accounts, i_account=i_account, id=name, **fields, **values)

    @asynccontextmanager
    async def served(self):
        """Its API over HTTP, as dispatchers ask it."""

        def answer(request):
            if request.path == "/rest/Session/login":
                return Answer(body=json.dumps({"access_token": "t"}))
            params = {k: v for k, v in request.json["params"].items() if k != "i_env"}
            answer = self.call(request.path.removeprefix("/rest/"), **params)
            return Answer(body=json.dumps(answer, default=str))

        async with Webhook() as hook:
            hook.always = answer
            yield hook


@pytest.fixture
def reference(house):
    made = Reference(house)
    for i_customer in (42, 43):
        made.add(tables.customers, i_customer=i_customer, name=f"customer-{i_customer}")
    for i_product in (5, 6):
        made.add(tables.products, i_product=i_product, name=f"product-{i_product}")
    made.add(tables.customer_sites, i_customer_site=8, i_customer=42, name="Prague")
    return made


def sender(house, hook, **options):
    """It takes account events only, and as fast as they come."""
    quick = {"EventSender__TokenRate": 10_000, "EventSender__TokenBurstiness": 1000}
    handler = house.handler(hook.url, **quick, **options)
    with house.database.begin() as connection:
        for event_type in subscriptions.subscriptions(connection, handler):
            if not event_type.startswith("Account/"):
                subscriptions.unsubscribe(connection, handler, event_type)
    return handler


async def over(house):
    """Wait until nothing waits any more."""
    await house.come_true(lambda: house.live_rows() == (0, 0), 60)


def told(hook):
    """i_account -> the events that were told of it, each once, in the order of the first time."""
    seen = defaultdict(dict)
    for request in hook.requests:
        seen[request.json["variables"]["i_account"]][request.i_event] = request.json
    return {i_account: list(events.values()) for i_account, events in seen.items()}


async def test_each_account_hears_once_and_what_caused_it(house):
    accounts = [account(n) for n in range(1, 101)]
    accounts += [account(n, i_customer=43) for n in range(101, 106)]
    accounts += [account(n, i_env=OTHER_ENV) for n in range(201, 206)]
    async with Webhook() as hook, Webhook() as of_others, billing(accounts) as bills:
        dispatcher(house)
        sender(house, hook)
        house.handler(of_others.url, i_env=OTHER_ENV)
        cause = house.event(SUSPENDED, i_customer=42)
        async with house.working(billing_url=bills.url):
            await over(house)
    heard = told(hook)
    assert sorted(heard) == list(range(1, 101))
    for i_account, events in heard.items():
        (event,) = events
        assert event["event_type"] == "Account/Status/Suspended"
        variables = event["variables"]
        assert list(variables) == [
            "i_env",
            "i_account",
            "i_customer",
            "i_parent_event",
            "event_time",
            "i_event",
        ]
        assert (variables["i_env"], variables["i_account"]) == (ENV, i_account)
        assert (variables["i_customer"], variables["i_parent_event"]) == (42, cause)
    assert of_others.requests == []
    assert house.rows("Dispatches") == []
    assert {one.status for one in house.events()} == {"finished"}


async def test_workers_that_are_killed_in_the_middle_double_nothing_and_lose_nothing(house):
    accounts = [account(n) for n in range(1, 301)]
    async with Webhook() as hook, billing(accounts) as bills:
        dispatcher(house)
        sender(house, hook)
        causes = [house.event(kind, i_customer=42) for kind in (SUSPENDED, UNSUSPEND)]
        for number in range(5):
            async with house.working(f"worker-{number}", billing_url=bills.url) as worker:
                known = len(hook.requests)
                await hook.wait_for(known + 40, 30)
                await house.kill(worker)
            with house.database.begin() as connection:
                Leases(house.database).sign_off(connection, worker.name)
        async with house.working("the last", billing_url=bills.url):
            await over(house)
    heard = told(hook)
    assert sorted(heard) == list(range(1, 301))
    for events in heard.values():
        assert [event["variables"]["i_parent_event"] for event in events] == causes


async def test_an_account_hears_of_its_own_changes_and_of_its_customer_in_order(house):
    accounts = [account(n) for n in range(1, 101)]
    async with Webhook() as hook, billing(accounts) as bills:
        dispatcher(house)
        sender(house, hook)
        async with house.working(billing_url=bills.url):
            for kind in (SUSPENDED, UNSUSPEND):
                house.event(kind, i_customer=42)
                for number in range(1, 101, 10):
                    house.event("Account/Blocked", i_account=number)
                    await asyncio.sleep(0)
            await over(house)
    per_account = defaultdict(list)
    for request in hook.requests:
        per_account[request.json["variables"]["i_account"]].append(request)
    for requests in per_account.values():
        assert [r.i_event for r in requests] == sorted(r.i_event for r in requests)
        kinds = [
            r.json["event_type"] for r in requests if r.json["event_type"] != "Account/Blocked"
        ]
        assert kinds == ["Account/Status/Suspended", "Account/Status/SuspensionRemoved"]


async def test_no_more_is_made_than_the_subscribers_work_on(house):
    accounts = [account(n) for n in range(1, 201)]
    async with Webhook() as hook, billing(accounts) as bills:
        dispatcher(house)
        handler = sender(house, hook)
        with house.database.begin() as connection:
            subscriptions.set_handler_paused(connection, handler, paused=True)
        cause = house.event(SUSPENDED, i_customer=42)
        async with house.working(billing_url=bills.url):
            await house.come_true(lambda: house.statuses().get(cause) == "retrying", 30)
            (one,) = house.events(i_event=cause)
            assert one.reason == "20 events so far; the subscribers have enough for now"
            assert one.attempts == 0
            assert len(house.rows("Event_Queue")) == 21
            with house.database.begin() as connection:
                subscriptions.set_handler_paused(connection, handler, paused=False)
            await over(house)
    assert sorted(told(hook)) == list(range(1, 201))


async def test_with_all_dispatchers_an_account_hears_of_a_service_attribute_once(house, reference):
    reference.account(1, 42, 5, i_customer_site=8)
    reference.account(2, 42, 6)
    reference.account(3, 43, 6)
    reference.add(tables.account_addons, i_account=3, i_product=5, addon_effective_from=SOONER)
    for kind in ("Customer", "Product"):
        dispatcher(house, f"{kind}ToAccountsDispatcher")
    dispatcher(house, "ServiceAttributeDispatcher")
    owners = {
        "of_account": ("Account/update_service_features", {"i_account": 2}, [2]),
        "of_customer": ("Customer/update_service_features", {"i_customer": 42}, [1, 2]),
        "of_site": ("Customer/update_site_service_features", {"i_customer_site": 8}, [1]),
        "of_product": ("Product/update_service_features", {"i_product": 5}, [1, 3]),
    }
    async with Webhook() as hook, reference.served() as bills:
        # Subscribed to whatever a new handler is subscribed to.
        quick = {"EventSender__TokenRate": 10_000, "EventSender__TokenBurstiness": 1000}
        house.handler(hook.url, **quick)
        for feature, (method, owner, _) in owners.items():
            switched = [{"name": feature, "flag_value": "Y"}]
            reference.call(method, **owner, service_features=switched)
        # By an application, or a billing whose rules capture nothing else.
        house.event("ServiceAttribute/Changed", i_customer=43, service_feature="alone")
        async with house.working(billing_url=bills.url):
            await over(house)
    heard = Counter(
        (variables["service_feature"], variables["i_account"])
        for variables in {
            request.i_event: request.json["variables"]
            for request in hook.requests
            if request.json["event_type"] == "Account/ServiceAttribute/Changed"
        }.values()
    )
    told = [(feature, number) for feature, (_, _, all_) in owners.items() for number in all_]
    assert heard == dict.fromkeys([*told, ("alone", 3)], 1)


async def test_an_account_hears_of_its_product_once_main_product_or_add_on(house, reference):
    has = []
    for number in range(1, 101):
        main, begin, end = [
            (5, None, None),
            (6, SOONER, LATER),
            (5, SOONER, None),
            (6, LATER, None),
            (6, SOONER, SOONER + timedelta(days=1)),
            (6, None, None),
        ][number % 6]
        reference.account(number, 42, main)
        if begin is not None:
            dates = {"addon_effective_from": begin, "addon_effective_to": end}
            reference.add(tables.account_addons, i_account=number, i_product=5, **dates)
        if number % 6 < 3:
            has.append(number)
    reference.account(101, 42, 5, bill_status="C")
    dispatcher(house, "ProductToAccountsDispatcher")
    async with Webhook() as hook, reference.served() as bills:
        sender(house, hook)
        # What was added has told of itself.
        async with house.working(billing_url=bills.url):
            await over(house)
        hook.requests.clear()
        features = [{"name": "clir", "flag_value": "Y"}]
        reference.call("Product/update_service_features", i_product=5, service_features=features)
        async with house.working("another", billing_url=bills.url):
            await over(house)
    heard = told(hook)
    assert sorted(heard) == has
    assert {len(events) for events in heard.values()} == {1}


@whatever_the_database
async def test_where_nobody_is_subscribed_nothing_is_made(house):
    async with billing([account(1), account(2)]) as bills:
        dispatcher(house)
        cause = house.event(SUSPENDED, i_customer=42)
        async with house.working(billing_url=bills.url):
            await house.until("skipped")
    assert "nobody is subscribed to Account/Status/Suspended" in house.events()[0].reason
    assert [one.i_event for one in house.events()] == [cause]


@whatever_the_database
async def test_many_customers_are_dispatched_side_by_side(house):
    accounts = [account(n, i_customer=n % 5) for n in range(1, 501)]
    async with Webhook() as hook, billing(accounts) as bills:
        dispatcher(house, Concurrency=2)
        sender(house, hook)
        for number in range(5):
            house.event(SUSPENDED, i_customer=number)
        async with house.working(billing_url=bills.url):
            await over(house)
    counts = Counter(events[0]["variables"]["i_customer"] for events in told(hook).values())
    assert counts == dict.fromkeys(range(5), 100)
    assert all(len(events) == 1 for events in told(hook).values())


def test_a_step_is_stored_only_by_the_owner_and_only_once(house):
    handler = dispatcher(house)
    number = handler.i_event_handler
    house.handler("http://127.0.0.1:1")
    house.event(SUSPENDED, i_customer=42)
    dispatches = Dispatches(house.database)
    with house.database.begin() as connection:
        leases = Leases(house.database)
        leases.sign_of_life(connection, "w", 600)
        leases.acquire(connection, "w", [(number, shard) for shard in range(SHARDS)])
        (found,) = house.backlog.read(
            connection, [Wanted(number, (1 << SHARDS) - 1, Start(0), 10, None)]
        )
        one = found.new[0][0]

    def step(epoch, before, reached):
        with house.database.begin() as connection:
            dispatches.step(
                connection,
                one,
                epoch,
                "Account/Status/Suspended",
                [{"i_account": 1}, {"i_account": 2}],
                before,
                reached,
            )

    step(1, None, "2")
    for epoch, before in ((0, "2"), (1, None), (1, "1")):
        with pytest.raises(LeaseLost):
            step(epoch, before, "4")
    step(1, "2", "4")
    made = [r for r in house.rows("Event_Queue") if r["event_type"] == "Account/Status/Suspended"]
    assert len(made) == 4
    with house.database.read() as connection:
        assert dispatches.at(connection, one).reached == "4"
        assert dispatches.at(connection, one).emitted == 4
    with house.database.begin() as connection:
        Dispatches.sweep(connection)
    assert len(house.rows("Dispatches")) == 1
