"""The reference billing: subscribers, add-ons, service features, custom fields, statuses."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from billing_api import NOW, Api
from espf.billing import clock, environments
from espf.billing import tables as t

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def api(billing_database, sealer):
    """Environment 3 with customers 1 and 2, products 1 and 2, and account 1; and another."""
    with billing_database.begin() as connection:
        environments.add(connection, 3, "three")
        environments.add(connection, 4, "four")
    api = Api(billing_database, sealer)
    for name in ("Acme", "Beta"):
        api("Customer/add_customer", customer_info={"name": name})
    api("Product/add_product", product_info={"name": "LTE"})
    api("Product/add_product", product_info={"name": "Extra", "addon_priority": 20})
    api.account("100")
    return api


def change(api, **fields):
    return api("Account/update_account", account_info={"i_account": 1, **fields})


def refused(api, **fields):
    return api.fault("Account/update_account", account_info={"i_account": 1, **fields})


def rows(api, table):
    with api.database.read() as connection:
        return connection.execute(select(table).order_by(*table.primary_key)).all()


def tick(api, now, limit=clock.BATCH):
    with api.database.begin() as connection:
        return clock.tick(connection, now, limit)


# --- Subscribers ---


def test_an_accounts_subscriber_is_kept_apart_and_shown_with_it(api):
    before = rows(api, t.accounts)
    change(api, firstname="Ada", city="Prague", email="ada@example.com")
    assert rows(api, t.accounts) == before
    info = api.info(1)
    assert (info["firstname"], info["city"], info["email"]) == ("Ada", "Prague", "ada@example.com")
    assert info["i_subscriber"] == 1
    change(api, firstname=None)
    assert (api.info(1)["firstname"], api.info(1)["city"]) == (None, "Prague")


def test_an_account_of_another_program_has_no_subscriber_until_something_is_said_of_it(api):
    with api.database.begin() as connection:
        connection.execute(t.subscribers.delete())
    assert (api.info(1)["i_subscriber"], api.info(1)["firstname"]) == (None, None)
    change(api, firstname=None)
    assert rows(api, t.subscribers) == []
    change(api, firstname="Ada")
    assert api.info(1)["firstname"] == "Ada"


def test_accounts_are_found_by_their_subscribers_company(api):
    api.account("101", companyname="Initech")
    found = api("Account/get_account_list", companyname="Init%")["account_list"]
    assert [account["id"] for account in found] == ["101"]


# --- Add-on products ---


ADDON = {"i_product": 2}


def addons(api):
    return api.info(1)["assigned_addons"]


def test_an_add_on_is_effective_from_now_for_good_with_its_products_priority(api):
    change(api, assigned_addons=[ADDON])
    assert addons(api) == [
        {
            "i_product": 2,
            "name": "Extra",
            "description": None,
            "i_vd_plan": None,
            "addon_priority": 20,
            "addon_effective_from": NOW,
            "addon_effective_to": None,
            "i_product_group": None,
            "i_subscription": None,
            "product_subscription": None,
        }
    ]


def test_add_ons_are_what_the_list_says_and_what_is_not_in_it_goes(api):
    api("Product/add_product", product_info={"name": "More"})
    change(api, assigned_addons=[ADDON, {"i_product": 3, "addon_priority": 30}])
    assert [addon["i_product"] for addon in addons(api)] == [3, 2]
    # A client may send back what it was shown.
    shown = [
        {**addon, "addon_effective_from": "2026-02-20 10:00:00"}
        for addon in addons(api)
        if addon["i_product"] == 2
    ]
    before = rows(api, t.account_addons)
    change(api, assigned_addons=shown)
    assert rows(api, t.account_addons) == before[:1]
    change(api, blocked="Y")
    assert len(addons(api)) == 1
    change(api, assigned_addons=[])
    assert addons(api) == []


def test_a_new_account_has_the_add_ons_that_it_is_given(api):
    i_account = api.account("101", assigned_addons=[ADDON])
    assert [addon["i_product"] for addon in api.info(i_account)["assigned_addons"]] == [2]


def test_the_clock_begins_and_ends_add_ons_at_their_times(api):
    begin, end = NOW + timedelta(days=1), NOW + timedelta(days=2)
    times = {"addon_effective_from": "2026-02-21 10:00:00", "addon_effective_to": end.isoformat()}
    change(api, assigned_addons=[{**ADDON, **times}])

    def after(moment):
        done = tick(api, moment)
        again = tick(api, moment)
        assert (again.addons_begun, again.addons_ended) == (0, 0)
        effective = [row.effective for row in rows(api, t.account_addons)]
        return done.addons_begun, done.addons_ended, effective

    assert after(begin - timedelta(seconds=1)) == (0, 0, ["N"])
    assert after(begin) == (1, 0, ["Y"])
    assert after(end - timedelta(seconds=1)) == (0, 0, ["Y"])
    assert after(end) == (0, 1, [])


def test_the_clock_takes_add_ons_in_small_portions(api):
    for number in range(5):
        later = {"addon_effective_from": "2026-02-21 10:00:00"}
        api.account(f"a{number}", assigned_addons=[{**ADDON, **later}])
    done = tick(api, NOW + timedelta(days=1), limit=3)
    assert (done.addons_begun, done.more) == (3, True)
    done = tick(api, NOW + timedelta(days=1), limit=3)
    assert (done.addons_begun, done.more) == (2, False)


@pytest.mark.parametrize(
    "wanted",
    [
        [{"i_product": 2}, {"i_product": 2}],
        [{"i_product": 2, "addon_effective_to": "2026-02-20 10:00:00"}],
        [
            {
                "i_product": 2,
                "addon_effective_from": "2026-03-02 00:00:00",
                "addon_effective_to": "2026-03-01 00:00:00",
            }
        ],
        [{"i_product": 2, "addon_priority": -1}],
        [{}],
        "all",
    ],
)
def test_add_ons_that_will_not_do_are_refused_and_change_nothing(api, wanted):
    change(api, assigned_addons=[ADDON])
    before = rows(api, t.account_addons)
    info = {"i_account": 1, "blocked": "Y", "assigned_addons": wanted}
    field = api.refuses("Account/update_account", account_info=info)
    assert field.startswith("account_info.assigned_addons")
    assert rows(api, t.account_addons) == before
    assert api.info(1)["blocked"] == "N"


# --- Service features ---


def features(api, method="Account/get_service_features", **owner):
    owner = owner or {"i_account": 1}
    found = api(method, **owner)["service_features"]
    return {feature["name"]: feature for feature in found}


def switch(api, flag_value, owner="Account", **key):
    key = key or {"i_account": 1}
    wanted = [{"name": "clir", "flag_value": flag_value}]
    return api(f"{owner}/update_service_features", **key, service_features=wanted)


@pytest.mark.parametrize(
    ("mine", "effective"),
    [(None, "P"), ("~", "P"), ("^", "C"), ("N", "N"), ("/", "/")],
)
def test_a_switch_may_defer_to_the_product_or_the_customer(api, mine, effective):
    switch(api, "P", "Product", i_product=1)
    switch(api, "C", "Customer", i_customer=1)
    if mine is not None:
        switch(api, mine)
    clir = features(api)["clir"]
    assert clir["flag_value"] == (mine or "~")
    assert clir["effective_flag_value"] == effective


def test_what_a_deferring_switch_finds_nothing_for_is_not_set(api):
    switch(api, "^")
    assert features(api)["clir"]["effective_flag_value"] == "/"


def test_attributes_have_values_of_their_own_or_those_of_who_is_deferred_to(api):
    wanted = [
        {"name": "address", "values": ["10.0.0.1", "10.0.0.2"]},
        {"name": "netmask", "values": "255.0.0.0"},
    ]
    feature = {"name": "netaccess_static_ip", "flag_value": "Y", "attributes": wanted}
    product = {"i_product": 1, "service_features": [feature]}
    api("Product/update_product", product_info=product)
    mine = {"name": "netaccess_static_ip", "attributes": [{"name": "address", "values": ["::1"]}]}
    change(api, service_features=[mine])
    assert features(api)["netaccess_static_ip"]["attributes"] == [
        {"name": "address", "values": ["::1"], "effective_values": ["::1"]},
        {"name": "netmask", "values": [None], "effective_values": ["255.0.0.0"]},
    ]
    given = features(api, "Product/get_service_features", i_product=1)["netaccess_static_ip"]
    assert given["attributes"][0]["values"] == ["10.0.0.1", "10.0.0.2"]


def test_what_was_shown_can_be_sent_back_and_changes_nothing(api):
    switch(api, "Y")
    wanted = [{"name": "a", "attributes": [{"name": "b", "values": ["c"]}]}]
    change(api, service_features=wanted)
    before = rows(api, t.service_attribute_values)
    change(api, service_features=list(features(api).values()))
    assert rows(api, t.service_attribute_values) == before


def test_features_are_left_alone_unless_named_and_taken_back_by_the_default(api):
    switch(api, "Y")
    wanted = [{"name": "other", "attributes": [{"name": "x", "values": ["1"]}]}]
    change(api, service_features=wanted)
    assert features(api).keys() == {"clir", "other"}
    switch(api, "~")
    wanted = [{"name": "other", "attributes": [{"name": "x", "values": [None]}]}]
    change(api, service_features=wanted)
    assert rows(api, t.service_attribute_values) == []


def test_account_info_has_the_features_that_are_asked_for(api):
    wanted = [{"name": name, "flag_value": "Y"} for name in ("clir", "clip")]
    i_account = api.account("101", service_features=wanted)

    def shown(**asked):
        info = api("Account/get_account_info", i_account=i_account, **asked)["account_info"]
        return [feature["name"] for feature in info.get("service_features", [])]

    assert shown() == ["clip", "clir"]
    assert shown(get_service_features=["clir", "other"]) == ["clir"]
    assert shown(without_service_features=1) == []


def test_a_customer_and_its_sites_have_features(api):
    info = {"name": "Third", "service_features": [{"name": "clir", "flag_value": "Y"}]}
    i_customer = api("Customer/add_customer", customer_info=info)["i_customer"]
    assert features(api, "Customer/get_service_features", i_customer=i_customer).keys() == {"clir"}
    site = api("Customer/add_customer_site", i_customer=i_customer, name="Prague")
    wanted = [{"name": "clip", "flag_value": "N"}]
    assert api("Customer/update_site_service_features", **site, service_features=wanted) == site
    assert features(api, "Customer/get_site_service_features", **site).keys() == {"clip"}


@pytest.mark.parametrize(
    "feature",
    [
        {"name": "Clir"},
        {"name": "clir", "flag_value": "~~"},
        {"name": "clir", "attributes": [{"name": "flag_value", "values": ["Y"]}]},
        {"name": "clir", "attributes": [{"name": "a", "values": ["x\ny"]}]},
        {"name": "clir", "attributes": [{"name": "a", "values": ["x" * 255] * 5}]},
        {"name": "p", "attributes": [{"name": "access_policy", "values": ["seven"]}]},
        {"name": "p", "attributes": [{"name": "access_policy", "values": ["1", "2"]}]},
        {"name": "p", "attributes": [{"name": "a", "values": ["1"]}] * 2},
    ],
)
def test_features_that_will_not_do_are_refused(api, feature):
    field = api.refuses("Account/update_service_features", i_account=1, service_features=[feature])
    assert field.startswith("service_features")
    assert rows(api, t.service_attribute_values) == []


# --- Custom fields ---


def test_custom_fields_of_accounts_and_customers_are_apart(api):
    of_account = api("Account/add_custom_field", name="Colour")
    api("Customer/add_custom_field", name="Colour")
    assert api("Account/get_custom_fields_schema") == {
        "custom_fields_list": [{**of_account, "name": "Colour"}]
    }
    api(
        "Account/update_custom_fields_values",
        i_account=1,
        custom_fields_values=[{"name": "Colour", "db_value": "blue", "text_value": "Blue"}],
    )
    assert api("Account/get_custom_fields_values", i_account=1) == {
        "custom_fields_values": [{**of_account, "name": "Colour", "db_value": "blue"}]
    }
    (other,) = api("Customer/get_custom_fields_values", i_customer=1)["custom_fields_values"]
    assert other["db_value"] is None


def test_a_custom_field_is_written_only_when_it_differs_and_removed_by_null(api):
    field = api("Account/add_custom_field", name="Colour")

    def write(value):
        wanted = [{**field, "db_value": value}]
        api("Account/update_custom_fields_values", i_account=1, custom_fields_values=wanted)
        return [row.db_value for row in rows(api, t.custom_field_values)]

    assert write("blue") == ["blue"]
    assert write("red") == ["red"]
    assert write(None) == []
    assert write(None) == []


def test_custom_fields_that_will_not_do_are_refused(api):
    api("Account/add_custom_field", name="Colour")
    assert api.fault("Account/add_custom_field", name="Colour") == (
        "Server.CustomField.duplicate_name"
    )

    def fault(*wanted):
        method = "Account/update_custom_fields_values"
        return api.fault(method, i_account=1, custom_fields_values=list(wanted))

    assert fault({"name": "Weight", "db_value": "1"}) == "Server.CustomField.not_found"
    assert fault({"i_custom_field": 99, "db_value": "1"}) == "Server.CustomField.not_found"
    for wanted in (
        [{"name": "Colour", "db_value": "1"}, {"i_custom_field": 1, "db_value": "2"}],
        [{"db_value": "1"}],
        [{"name": "Colour"}],
    ):
        method = "Account/update_custom_fields_values"
        assert api.refuses(method, i_account=1, custom_fields_values=wanted)
    assert rows(api, t.custom_field_values) == []


# --- Statuses ---


def test_an_exported_account_comes_back_as_its_dates_have_it(api):
    change(api, bill_status="E")
    assert api.info(1)["bill_status"] == "E"
    assert not tick(api, NOW + timedelta(days=3)).activated
    change(api, expiration_date="2026-02-21")
    assert api.info(1)["bill_status"] == "E"
    with api.database.begin() as connection:
        connection.execute(
            update(t.accounts).values(activation_date=None, expiration_date=NOW.date())
        )
    change(api, bill_status="O")
    assert api.info(1)["bill_status"] == "I"


@pytest.mark.parametrize(
    ("status", "reason"),
    [("L", None), ("S", "customer_inactive"), ("E", "customer_inactive")],
)
def test_a_limited_customers_accounts_still_use_their_quotas(api, status, reason):
    quota = {"service": "netaccess", "monthly_amount": 5}
    api("Product/add_product", product_info={"name": "Quota", "quotas": [quota]})
    i_account = api.account("101", i_product=3, opening_balance=5)
    api("Customer/update_customer", customer_info={"i_customer": 1, "bill_status": status})
    answer = api("Usage/authorise", i_account=i_account, service="netaccess")
    assert answer.get("reason") == reason


def test_what_is_closed_keeps_its_features_fields_and_add_ons(api):
    api("Account/add_custom_field", name="Colour")
    site = api("Customer/add_customer_site", i_customer=1, name="Prague")
    api("Customer/terminate_customer", i_customer=1)
    wanted = {"service_features": [{"name": "clir", "flag_value": "Y"}]}
    values = {"custom_fields_values": [{"name": "Colour", "db_value": "blue"}]}
    assert refused(api, **wanted) == "Server.Account.closed"
    assert refused(api, assigned_addons=[ADDON]) == "Server.Account.closed"
    assert refused(api, firstname="Ada") == "Server.Account.closed"
    method = "Account/update_service_features"
    assert api.fault(method, i_account=1, **wanted) == "Server.Account.closed"
    method = "Account/update_custom_fields_values"
    assert api.fault(method, i_account=1, **values) == "Server.Account.closed"
    info = {"i_customer": 1, **wanted}
    assert api.fault("Customer/update_customer", customer_info=info) == "Server.Customer.closed"
    method = "Customer/add_customer_site"
    assert api.fault(method, i_customer=1, name="Brno") == "Server.Customer.closed"
    method = "Account/move_account"
    assert api.fault(method, i_account=1, i_customer=2) == "Server.Account.closed"
    assert site == {"i_customer_site": 1}


# --- Sites, plans, and moving ---


def test_an_account_is_at_a_site_of_its_customer_until_it_moves(api):
    mine = api("Customer/add_customer_site", i_customer=1, name="Prague")
    other = api("Customer/add_customer_site", i_customer=2, name="Prague")
    method = "Customer/add_customer_site"
    code = api.fault(method, i_customer=1, name="Prague")
    assert code == "Server.CustomerSite.duplicate_name"
    assert refused(api, **other) == "Server.CustomerSite.not_found"
    change(api, **mine)
    assert api.info(1)["i_customer_site"] == 1
    assert api("Customer/get_customer_site_list", i_customer=1)["customer_site_list"] == [
        {**mine, "i_customer": 1, "name": "Prague"}
    ]
    assert api("Account/move_account", i_account=1, i_customer=2) == {"i_account": 1}
    info = api.info(1)
    assert (info["i_customer"], info["i_customer_site"]) == (2, None)
    api("Customer/terminate_customer", i_customer=1)
    assert api.fault("Account/move_account", i_account=1, i_customer=1) == "Server.Customer.closed"


def test_discount_plans_go_with_products_and_accounts(api):
    plan = api("DiscountPlan/add_discount_plan", name="Gold")
    method = "DiscountPlan/add_discount_plan"
    assert api.fault(method, name="Gold") == "Server.DiscountPlan.duplicate_name"
    plans = api("DiscountPlan/get_discount_plan_list")["discount_plan_list"]
    assert plans == [{**plan, "name": "Gold"}]
    change(api, **plan)
    assert api.info(1)["i_vd_plan"] == 1
    info = {"i_product": 1, "name": "5G", **plan}
    assert api("Product/update_product", product_info=info) == {"i_product": 1}
    shown = api("Product/get_product_info", i_product=1)["product_info"]
    assert (shown["name"], shown["i_vd_plan"]) == ("5G", 1)
    info = {"i_product": 1, "name": "Extra"}
    code = api.fault("Product/update_product", product_info=info)
    assert code == "Server.Product.duplicate_name"
    assert refused(api, i_vd_plan=9) == "Server.DiscountPlan.not_found"


# --- Environments ---


def one_of_each(api):
    """One thing of each kind, under number 1."""
    api("DiscountPlan/add_discount_plan", name="Gold")
    api("Customer/add_customer_site", i_customer=1, name="Prague")
    api("Account/add_custom_field", name="Colour")
    api("Customer/add_custom_field", name="Colour")
    switch(api, "Y")


FEATURE = {"service_features": [{"name": "clir", "flag_value": "N"}]}
FIELD = {"custom_fields_values": [{"name": "Colour", "db_value": "red"}]}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("Account/move_account", {"i_account": 1, "i_customer": 2}),
        ("Account/get_service_features", {"i_account": 1}),
        ("Account/update_service_features", {"i_account": 1, **FEATURE}),
        ("Account/get_custom_fields_values", {"i_account": 1}),
        ("Account/update_custom_fields_values", {"i_account": 1, **FIELD}),
        ("Customer/get_service_features", {"i_customer": 1}),
        ("Customer/update_service_features", {"i_customer": 1, **FEATURE}),
        ("Customer/get_custom_fields_values", {"i_customer": 1}),
        ("Customer/update_custom_fields_values", {"i_customer": 1, **FIELD}),
        ("Customer/add_customer_site", {"i_customer": 1, "name": "Brno"}),
        ("Customer/get_customer_site_list", {"i_customer": 1}),
        ("Customer/get_site_service_features", {"i_customer_site": 1}),
        ("Customer/update_site_service_features", {"i_customer_site": 1, **FEATURE}),
        ("Product/update_product", {"product_info": {"i_product": 1, "name": "x"}}),
        ("Product/get_service_features", {"i_product": 1}),
        ("Product/update_service_features", {"i_product": 1, **FEATURE}),
    ],
)
def test_what_is_another_environments_does_not_exist(api, method, params):
    one_of_each(api)
    tables = (t.accounts, t.products, t.customer_sites)
    tables += (t.service_attribute_values, t.custom_field_values)
    before = [rows(api, table) for table in tables]
    api.i_env = 4
    assert api.fault(method, **params).endswith(".not_found")
    assert [rows(api, table) for table in tables] == before


@pytest.mark.parametrize("fields", [{"i_vd_plan": 1}, {"i_customer_site": 1}])
def test_an_account_cannot_refer_to_what_is_another_environments(api, fields):
    one_of_each(api)
    api.i_env = 4
    api("Customer/add_customer", customer_info={"name": "Theirs"})
    api("Product/add_product", product_info={"name": "Theirs"})
    info = {"id": "100", "i_customer": 3, "i_product": 3, "billing_model": -1, **fields}
    assert api.fault("Account/add_account", account_info=info).endswith(".not_found")
    assert api("DiscountPlan/get_discount_plan_list") == {"discount_plan_list": []}
    assert api("Account/get_custom_fields_schema") == {"custom_fields_list": []}


def test_rows_of_the_value_tables_belong_to_exactly_one_owner(api):
    one_of_each(api)
    row = {"i_env": 3, "service_feature": "x", "attribute": "y", "value": "z"}
    for owners in ({}, {"i_account": 1, "i_customer": 1}):
        with pytest.raises(IntegrityError), api.database.begin() as connection:
            connection.execute(insert(t.service_attribute_values).values(**row, **owners))


def test_moments_of_add_ons_are_utc(api):
    aware = {"addon_effective_from": "2026-02-20T12:00:00+03:00"}
    change(api, assigned_addons=[{**ADDON, **aware}])
    assert addons(api)[0]["addon_effective_from"] == datetime(2026, 2, 20, 9, tzinfo=UTC)
