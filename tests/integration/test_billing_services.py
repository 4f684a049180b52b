"""The reference billing: subscriptions, sessions, services, service policies, call barring."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from billing_api import NOW, Api
from espf.billing import environments
from espf.billing import tables as t

pytestmark = pytest.mark.databases("sqlite")

MINE = {"i_account": 1}


@pytest.fixture
def api(database, sealer):
    """Environment 3 with a customer, a product without a fee, one with a fee, and account 1."""
    with database.begin() as connection:
        t.metadata.create_all(connection)
        environments.add(connection, 3, "three")
        environments.add(connection, 4, "four")
    api = Api(database, sealer)
    api("Customer/add_customer", customer_info={"name": "Acme", "time_zone_name": "Asia/Tokyo"})
    api("Product/add_product", product_info={"name": "Free"})
    api("Subscription/add_subscription", subscription_info={"name": "Basic", "monthly_fee": "9.5"})
    quotas = [{"service": "netaccess", "monthly_amount": 1000}]
    product = {"name": "Paid", "i_subscription": 1, "quotas": quotas}
    api("Product/add_product", product_info=product)
    api.account("100", opening_balance=100)
    return api


def change(api, **fields):
    api("Account/update_account", account_info={**MINE, **fields})


def subscribed(api, *names):
    """These members of the subscriptions of account 1."""
    there = api("Account/get_subscriptions", **MINE)["subscriptions"]
    return [tuple(str(one[name]) for name in names) for one in there]


def charged(api, **params):
    return float(api("Account/charge_subscription_fees", **MINE, **params)["charged"])


def activated_on(api, day):
    """Say that the subscription of account 1 was activated on a day."""
    day = datetime.fromisoformat(day).date()
    with api.database.begin() as connection:
        connection.execute(update(t.account_subscriptions).values(activation_date=day))


# --- Subscriptions ---


def test_a_subscription_comes_and_goes_with_the_main_product(api):
    assert subscribed(api) == []
    change(api, i_product=2)
    change(api, i_product=2, firstname="Ada")
    shown = subscribed(api, "i_product", "start_date", "finish_date")
    assert shown == [("2", "2026-02-20", "None")]
    change(api, i_product=1)
    assert subscribed(api, "finish_date", "int_status") == [("2026-02-20", "2")]
    change(api, i_product=2)
    assert subscribed(api, "int_status") == [("2",), ("0",)], "what is closed does not begin anew"


def test_a_subscription_of_an_add_on_has_the_add_ons_time(api):
    # In Tokyo it is the day after already.
    begin, end = "2026-03-01 16:00:00", "2026-05-31 16:00:00"
    addon = {"i_product": 2, "addon_effective_from": begin, "addon_effective_to": end}
    change(api, assigned_addons=[addon])
    assert subscribed(api, "start_date", "finish_date") == [("2026-03-02", "2026-06-01")]
    assert api("Account/activate_subscriptions", **MINE)["activated"] == 0
    addon["addon_effective_from"] = "2026-02-20 00:00:00"
    change(api, assigned_addons=[addon])
    assert subscribed(api, "start_date") == [("2026-02-20",)]
    assert api("Account/activate_subscriptions", **MINE)["activated"] == 1
    change(api, assigned_addons=[{**addon, "addon_effective_to": None}])
    assert subscribed(api, "start_date", "finish_date") == [("2026-02-20", "None")]
    change(api, assigned_addons=[])
    assert subscribed(api, "int_status") == [("2",)]


def test_a_new_account_has_the_subscription_of_its_product_and_a_closed_one_none(api):
    later = "2026-03-01"
    mine = {"i_account": api.account("200", i_product=2, activation_date=later)}
    (one,) = api("Account/get_subscriptions", **mine)["subscriptions"]
    assert str(one["start_date"]) == later
    api("Account/terminate_account", **mine)
    (one,) = api("Account/get_subscriptions", **mine)["subscriptions"]
    assert one["int_status"] == 2
    for method in ("activate_subscriptions", "charge_subscription_fees"):
        assert api.fault(f"Account/{method}", **mine) == "Server.Account.closed"


def test_one_of_the_subscriptions_is_activated_alone(api):
    change(api, i_product=2)
    activate = "Account/activate_subscriptions"
    fault = api.fault(activate, **MINE, i_account_subscription=2)
    assert fault == "Server.Subscription.not_found"
    assert api(activate, **MINE, i_account_subscription=1)["activated"] == 1
    assert api(activate, **MINE, i_account_subscription=1)["activated"] == 0


def test_fees_are_due_once_for_each_month_that_has_begun(api):
    change(api, i_product=2)
    assert charged(api) == 0, "it is pending"
    api("Account/activate_subscriptions", **MINE)
    assert charged(api) == 9.5
    assert subscribed(api, "activation_date", "billed_to") == [("2026-02-20", "2026-03-19")]
    assert charged(api) == 0
    assert charged(api, immediately_in_advance=2) == 19
    assert subscribed(api, "billed_to") == [("2026-05-19",)]
    assert float(api.info(1)["balance"]) == 100 - 28.5


def test_a_month_that_is_too_short_begins_on_its_last_day(api):
    change(api, i_product=2)
    activated_on(api, "2025-11-30")
    assert charged(api) == 28.5, "November, December and January; February begins on the 28th"
    assert subscribed(api, "billed_to") == [("2026-02-27",)]
    assert charged(api, immediately_in_advance=1) == 9.5
    assert subscribed(api, "billed_to") == [("2026-03-29",)]


def test_no_fee_is_due_for_a_month_that_begins_when_it_is_finished(api):
    # Midnight in Tokyo.
    end = "2026-03-19 15:00:00"
    change(api, assigned_addons=[{"i_product": 2, "addon_effective_to": end}])
    activated_on(api, "2026-01-20")
    assert charged(api, immediately_in_advance=3) == 19


def test_the_fee_of_a_subordinate_account_is_its_customers(api):
    change(api, i_product=2, i_account_balance_control_type=2)
    api("Account/activate_subscriptions", **MINE)
    assert charged(api) == 9.5
    assert (float(api.owes()), api.info(1)["balance"]) == (9.5, 100)


def test_a_fee_that_cannot_be_charged_changes_nothing(api):
    mine = {"i_account": api.account("200", i_product=2, billing_model=4)}
    api("Account/activate_subscriptions", **mine)
    fault = api.fault("Account/charge_subscription_fees", **mine)
    assert fault == "Server.Account.has_no_balance"
    (one,) = api("Account/get_subscriptions", **mine)["subscriptions"]
    assert one["billed_to"] is None


def test_wrong_subscriptions_are_refused(api):
    again = {"name": "Basic", "monthly_fee": 1}
    fault = api.fault("Subscription/add_subscription", subscription_info=again)
    assert fault == "Server.Subscription.duplicate_name"
    for info in ({"name": "x", "monthly_fee": -1}, {"name": "x"}):
        assert api.refuses("Subscription/add_subscription", subscription_info=info)
    product = {"name": "Other", "i_subscription": 2}
    assert api.fault("Product/add_product", product_info=product) == "Server.Subscription.not_found"
    changed = {"i_product": 1, "i_subscription": 2}
    fault = api.fault("Product/update_product", product_info=changed)
    assert fault == "Server.Subscription.not_found"
    assert api.refuses("Account/charge_subscription_fees", **MINE, immediately_in_advance=13)


# --- Bundles ---


def test_a_bundle_is_for_accounts_that_are_open_and_must_be_there(api):
    activate = "Account/activate_bundle"
    assert api.fault(activate, **MINE, i_vd_plan=1) == "Server.DiscountPlan.not_found"
    api("DiscountPlan/add_discount_plan", name="Weekend")
    api(activate, **MINE, i_vd_plan=1)
    api("Account/terminate_account", **MINE)
    assert api.fault(activate, **MINE, i_vd_plan=1) == "Server.Account.closed"


# --- Sessions ---

SESSION = {**MINE, "service": "netaccess", "session_id": "5f0c21"}


def sessions(api, **params):
    shown = api("BillingSession/get_active_sessions_list", **params)["active_sessions_list"]
    return [(one["session_id"], one["used"]) for one in shown]


def test_a_session_is_active_from_its_authorisation_to_its_end(api):
    change(api, i_product=2)
    api("Usage/authorise", **{**SESSION, "session_id": None})
    assert sessions(api) == []
    api("Usage/authorise", **SESSION, event_time="2026-02-20 09:59:00")
    for amount in (10, 20):
        api("Usage/record", **SESSION, amount=amount)
    api("Usage/record", **{**SESSION, "session_id": "other"}, amount=5)
    (shown, _) = api("BillingSession/get_active_sessions_list")["active_sessions_list"]
    assert (shown["used"], shown["duration"]) == (30, 60)
    for params, found in (
        (MINE, 2),
        ({"i_customer": 1}, 2),
        ({"i_customer": 2}, 0),
        ({"service": "msg"}, 0),
        ({"limit": 1, "offset": 1}, 1),
    ):
        assert len(sessions(api, **params)) == found, params
    api("Usage/end_session", **SESSION)
    assert sessions(api) == [("other", 5)]
    assert api.fault("Usage/end_session", **SESSION) == "Server.BillingSession.not_found"


def test_who_is_refused_has_no_session(api):
    change(api, i_product=2, blocked="Y")
    assert api("Usage/authorise", **SESSION)["authorised"] == "N"
    assert sessions(api) == []


def test_sessions_end_with_their_account_and_in_silence(api):
    change(api, i_product=2)
    api("Usage/authorise", **SESSION)
    with api.database.begin() as connection:
        silent = {"last_update_time": NOW - timedelta(days=1)}
        connection.execute(update(t.active_sessions).values(silent))
    assert sessions(api) == []
    api("Usage/authorise", **{**SESSION, "session_id": "next"})
    with api.database.read() as connection:
        assert len(connection.execute(t.active_sessions.select()).all()) == 1
    api("Account/terminate_account", **MINE)
    with api.database.read() as connection:
        assert connection.execute(t.active_sessions.select()).all() == []


def test_the_days_without_use_are_counted_where_the_account_is(api):
    change(api, i_product=2)
    # The 20th in Tokyo, still the 19th in London.
    late = datetime(2026, 2, 19, 15, 30, tzinfo=UTC)
    api("Usage/record", **MINE, service="netaccess", amount=1, event_time=str(late))
    assert api.info(1)["idle_days"] == 0
    assert str(api.info(1)["first_usage"]) == "2026-02-20"


# --- Services, policies, call barring ---


def test_a_service_is_there_once_somebody_has_named_it(api):
    def named():
        listed = api("Service/get_service_list")["service_list"]
        return [(one["i_service"], one["name"], one["unit"]) for one in listed]

    assert named() == [(1, "netaccess", "byte")]
    for service in ("voice", "netaccess"):
        access = {"i_product": 1, "service": service}
        api("Product/add_accessibility", accessibility_info=access)
    info = {"name": "p", "service": "msg"}
    api("ServicePolicy/add_service_policy", service_policy_info=info)
    assert named() == [(1, "netaccess", "byte"), (2, "voice", "piece"), (3, "msg", "piece")]


def test_a_service_policy_changes_and_goes(api):
    info = {"name": "Clear", "service": "voice"}
    (number,) = api("ServicePolicy/add_service_policy", service_policy_info=info).values()
    key = {"i_service_policy": number}
    fault = api.fault("ServicePolicy/add_service_policy", service_policy_info=info)
    assert fault == "Server.ServicePolicy.duplicate_name"
    attributes = [{"group_name": "g", "name": "codec", "values": ["G.711", None]}]
    changed = {**key, "attributes": attributes}
    api("ServicePolicy/update_service_policy", service_policy_info=changed)
    shown = api("ServicePolicy/get_service_policy_info", **key)["service_policy_info"]
    assert shown == {**key, **info, "attributes": attributes}
    found = api("ServicePolicy/get_service_policy_list", service="msg")["service_policy_list"]
    assert found == []
    api("ServicePolicy/delete_service_policy", **key)
    fault = api.fault("ServicePolicy/get_service_policy_info", **key)
    assert fault == "Server.ServicePolicy.not_found"


@pytest.fixture
def classes(api):
    """Two classes of destinations: 1 and 2."""
    for name, prefixes in (("Premium", ["900", "+900"]), ("Abroad", ["00"])):
        info = {"name": name, "prefixes": prefixes}
        api("CallBarring/add_call_barring_class", call_barring_class_info=info)
    return api


def barred(api):
    answer = api("CallBarring/get_account_call_barring", **MINE)
    return {one["name"]: one["barred"] for one in answer["call_barring_class_list"]}


def test_the_classes_that_an_account_cannot_call_are_its_service_feature(classes):
    api = classes
    assert barred(api) == {"Premium": "N", "Abroad": "N"}
    api("CallBarring/update_account_call_barring", **MINE, i_call_barring_classes=[2])
    assert barred(api) == {"Premium": "N", "Abroad": "Y"}
    (feature,) = api("Account/get_service_features", **MINE)["service_features"]
    assert (feature["name"], feature["flag_value"]) == ("call_barring", "Y")
    assert [one["values"] for one in feature["attributes"]] == [["2"]]
    api("CallBarring/update_account_call_barring", **MINE, i_call_barring_classes=[])
    assert barred(api) == {"Premium": "N", "Abroad": "N"}


def test_what_a_product_bars_holds_for_accounts_that_defer_to_it(classes):
    api = classes
    attribute = {"name": "barred_classes", "values": ["1", "x", "99"]}
    feature = {"name": "call_barring", "flag_value": "Y", "attributes": [attribute]}
    api("Product/update_service_features", i_product=1, service_features=[feature])
    assert barred(api) == {"Premium": "Y", "Abroad": "N"}
    own = [{"name": "call_barring", "flag_value": "N"}]
    api("Account/update_service_features", **MINE, service_features=own)
    assert barred(api) == {"Premium": "N", "Abroad": "N"}


def test_a_class_changes_and_wrong_ones_are_refused(classes):
    api = classes
    info = {"i_call_barring_class": 1, "prefixes": ["901"]}
    api("CallBarring/update_call_barring_class", call_barring_class_info=info)
    listed = api("CallBarring/get_call_barring_class_list", name="prem%")
    expected = {"i_call_barring_class": 1, "name": "Premium", "prefixes": ["901"]}
    assert listed == {"call_barring_class_list": [expected]}
    taken = {"i_call_barring_class": 1, "name": "Abroad"}
    fault = api.fault("CallBarring/update_call_barring_class", call_barring_class_info=taken)
    assert fault == "Server.CallBarringClass.duplicate_name"
    update_account = "CallBarring/update_account_call_barring"
    fault = api.fault(update_account, **MINE, i_call_barring_classes=[1, 3])
    assert fault == "Server.CallBarringClass.not_found"
    api("Account/terminate_account", **MINE)
    fault = api.fault(update_account, **MINE, i_call_barring_classes=[1])
    assert fault == "Server.Account.closed"
    wrong = {"name": "x", "prefixes": ["abc"]}
    assert api.refuses("CallBarring/add_call_barring_class", call_barring_class_info=wrong)


# --- Customers ---


def test_a_refnum_is_one_customers(api):
    add, change_it = "Customer/add_customer", "Customer/update_customer"
    number = api(add, customer_info={"name": "Beta", "refnum": "B-1"})["i_customer"]
    fault = api.fault(add, customer_info={"name": "Gamma", "refnum": "B-1"})
    assert fault == "Server.Customer.duplicate_refnum"
    fault = api.fault(add, customer_info={"name": "Beta", "refnum": "B-2"})
    assert fault == "Server.Customer.duplicate_name"
    fault = api.fault(change_it, customer_info={"i_customer": 1, "refnum": "B-1"})
    assert fault == "Server.Customer.duplicate_refnum"
    for refnum in ("B-1", None):
        api(change_it, customer_info={"i_customer": number, "refnum": refnum})
    api(change_it, customer_info={"i_customer": 1, "refnum": "B-1"})
    found = api("Customer/get_customer_info", refnum="B-1")["customer_info"]
    assert (found["i_customer"], found["name"]) == (1, "Acme")
