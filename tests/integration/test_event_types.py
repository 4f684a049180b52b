"""Every type of the catalogue happens, by API and by SQL, as the catalogue states it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from typing import Any

import pytest

from billing_site import Site
from databases import Store
from espf import subscriptions
from espf.billing import clock, environments
from espf.billing.scope import Scope
from espf.billing.tables import metadata
from espf.capture.rules import shipped_rules
from espf.catalogue import Way, catalogue, is_custom
from espf.crypto import Sealer
from espf.model import ordering_key
from espf.web.methods import METHODS
from espf.web.rest import validated
from scenarios import (
    Call,
    New,
    Scenario,
    Step,
    Tick,
    filled,
    in_short,
    inventory,
    set_account,
    subscribers,
    update_account,
)

MODULES = (subscribers, inventory)
SCENARIOS = [scenario for module in MODULES for scenario in module.SCENARIOS]
WAYS = [
    pytest.param(way, scenario, id=f"{scenario.event_type}-{way}")
    for scenario in SCENARIOS
    for way in ("api", "sql")
]


class World:
    """The reference billing with every type subscribed to, for many scenarios one by one."""

    def __init__(self, kind: str, url: str, sealer: Sealer) -> None:
        self.site = Site(kind, url)
        # One stranger for all: connecting takes longer than writing.
        self._stranger = self.site.connect()
        self.sealer = sealer
        self.known: dict[str, Any] = {}
        # Far from what the database counts up, and in steps: some count on from there.
        self._numbers = itertools.count(10**9, 1000)
        with self.site.database.begin() as connection:
            metadata.create_all(connection)
            subscriptions.add_catalogue(connection)
            environments.add(connection, 3, "three")
        self.site.apply(shipped_rules())
        self.site.subscribe(set(catalogue()))

    def begin(self) -> None:
        """Make a customer, two products and an account that nobody has done anything to."""
        number = next(self._numbers)
        self.known = {
            "i_customer": number,
            "i_product": number,
            "other_product": number + 1,
            "i_account": number,
            # SQLite counts money in 1/100,000.
            "money_2_5": self.site.pick(sqlite=250_000, others="2.5"),
            "money_5": self.site.pick(sqlite=500_000, others="5"),
        }
        self.do(
            """
            INSERT INTO "Customers" (i_customer, i_env, name, creation_date)
            VALUES ({i_customer}, 3, 'customer-{i_customer}', '2026-02-20 10:00:00')
            """,
            """
            INSERT INTO "Products" (i_product, i_env, name) VALUES
              ({i_product}, 3, 'product-{i_product}'),
              ({other_product}, 3, 'other-{i_product}')
            """,
            """
            INSERT INTO "Accounts"
              (i_account, i_env, i_customer, i_product, id, billing_model, issue_date,
               activation_date)
            VALUES
              ({i_account}, 3, {i_customer}, {i_product}, 'account-{i_account}', -1,
               '2026-02-20 10:00:00', '2026-02-20')
            """,
        )
        self.site.events()

    def do(self, *steps: Step) -> None:
        """Take the steps, each in a transaction of its own."""
        for step in steps:
            match step:
                case str():
                    with closing(self._stranger.cursor()) as cursor:
                        cursor.execute(self.site.quote(step.format_map(self.known)))
                case New():
                    self.known[step.name] = next(self._numbers)
                case Call():
                    self._call(step)
                case Tick():
                    with self.site.database.begin() as connection:
                        clock.tick(connection, step.at)

    def close(self) -> None:
        self._stranger.close()
        self.site.close()

    def _call(self, step: Call) -> None:
        method = METHODS[step.method]
        params = validated(method.params, filled(step.params, self.known))
        with self.site.database.begin() as connection:
            now = self.site.database.now(connection)
            answer = method.serve(Scope(connection, 3, now, self.sealer), params)
        self.known |= {name: value for name, value in answer.items() if isinstance(value, int)}


@pytest.fixture(scope="session")
def worlds(
    stores: Callable[[str], Store], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], World]]:
    """One world for each sort of database."""
    with ExitStack() as opened:

        @cache
        def world(kind: str) -> World:
            keys = Sealer.create(tmp_path_factory.mktemp("keys") / "espf.key")
            made = World(kind, stores(kind).empty("event_types"), keys)
            opened.callback(made.close)
            return made

        yield world


@pytest.fixture
def world(database_kind: str, worlds: Callable[[str], World]) -> World:
    world = worlds(database_kind)
    world.begin()
    return world


@pytest.mark.parametrize(("way", "scenario"), WAYS)
def test_a_type_happens_with_exactly_these_events(world, way, scenario):
    world.do(*scenario.before)
    world.site.events()
    world.do(*getattr(scenario, way))
    events = world.site.events()
    assert [key for _type, key, _ in events] == [ordering_key(each) for _type, _, each in events]
    told = [(event_type, variables) for event_type, _key, variables in events]
    assert told == [(name, filled(variables, world.known)) for name, variables in scenario.told]
    assert [list(variables) for _type, variables in told] == [
        list(variables) for _type, variables in scenario.told
    ]


def of_account(method: str, **params: Any) -> Call:
    return Call(f"Account/{method}", {"i_account": "{i_account}", **params})


#: Methods that make types happen which others have scenarios for: what comes before, and the types.
OTHER_WAYS = [
    (
        of_account("activate_bundle", i_vd_plan="{i_vd_plan}"),
        [Call("DiscountPlan/add_discount_plan", {"name": "bundle-{i_account}"})],
        ["Account/Discount/Changed"],
    ),
    (
        of_account("charge_subscription_fees"),
        [
            set_account("balance = {money_5}"),
            Call(
                "Subscription/add_subscription",
                {"subscription_info": {"name": "fee-{i_account}", "monthly_fee": 2}},
            ),
            Call(
                "Product/update_product",
                {
                    "product_info": {
                        "i_product": "{i_product}",
                        "i_subscription": "{i_subscription}",
                    }
                },
            ),
            update_account(i_product="{i_product}"),
            of_account("activate_subscriptions"),
        ],
        ["Account/BalanceChanged"],
    ),
    (
        Call(
            "CallBarring/update_account_call_barring",
            {"i_account": "{i_account}", "i_call_barring_classes": ["{i_call_barring_class}"]},
        ),
        [
            Call(
                "CallBarring/add_call_barring_class",
                {"call_barring_class_info": {"name": "class-{i_account}"}},
            ),
        ],
        ["Account/ServiceAttribute/Changed", "ServiceAttribute/Changed"] * 2,
    ),
]


@pytest.mark.parametrize(
    ("call", "before", "told"), OTHER_WAYS, ids=[call.method for call, *_ in OTHER_WAYS]
)
def test_a_method_of_another_name_tells_its_types_too(world, call, before, told):
    world.do(*before)
    world.site.events()
    world.do(call)
    assert [event_type for event_type, _key, _variables in world.site.events()] == told


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.event_type)
def test_a_scenario_tells_its_type_with_the_catalogues_variables(scenario: Scenario):
    told = dict(scenario.told)
    assert scenario.event_type in told
    for name, variables in told.items():
        assert tuple(variables) == catalogue()[name].variables, name


def test_every_type_of_the_catalogue_has_a_scenario():
    missing = frozenset().union(*(module.MISSING for module in MODULES))
    there = {scenario.event_type for scenario in SCENARIOS}
    # What is custom is not captured: applications put it into the queue.
    assert there | missing == {name for name in catalogue() if not is_custom(name)}
    assert not there & missing


def test_the_catalogue_states_each_way_in_which_a_type_comes_about():
    shown: dict[str, list[Way]] = {}
    for one in SCENARIOS:
        told = tuple(event_type for event_type, _ in one.told)
        way = Way(in_short(one.api), in_short(one.sql), told)
        shown.setdefault(one.event_type, []).append(way)
    assert {name: list(entry.ways) for name, entry in catalogue().items() if entry.ways} == shown
