"""Every method, field, type and code of the vendor's API that is documented in public.

A field that the reference billing has no data for is left out, so that no client is told what is
not so, and the page says why.
"""

from pathlib import Path

import pytest

from databases import whatever_the_database
from espf.web import methods
from portabilling import (
    ACCOUNT,
    ACCOUNT_NOT_HELD,
    ADDON,
    ADDON_NOT_HELD,
    CARD,
    COUNTER,
    COUNTER_NOT_HELD,
    CUSTOMER,
    CUSTOMER_NOT_HELD,
    FEATURE,
    FEATURES,
    LISTED_ACCOUNT,
    METHODS,
    NO_METHODS,
    PARAMETERS_NOT_HELD,
    PRODUCT,
    SUBSCRIPTION,
    USAGE,
    check,
)

pytestmark = whatever_the_database


@pytest.fixture
def ask(call):
    """A call that has to succeed: its result."""

    def ask(path, **params):
        reply = call(path, **params)
        assert reply.status_code == 200, reply.text
        return reply.json()

    return ask


def account_of(ask, i_account):
    return ask("Account/get_account_info", i_account=i_account)["account_info"]


def test_every_documented_method_is_there():
    documented = {f"{name}/{one}" for name, all_ in METHODS.items() for one in all_.split()}
    assert documented - methods.METHODS.keys() == set()


def test_a_method_that_is_not_there_is_a_fault_and_no_empty_answer(call, i_account):
    for path in NO_METHODS:
        reply = call(path, i_account=i_account)
        assert reply.status_code == 500
        assert reply.json()["faultcode"] in {"Client.unknown_method", "Client.unknown_service"}


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "rest-api.md"


def test_what_is_documented_and_not_there_is_named_on_the_page_and_refused(call):
    _, _, section = PAGE.read_text().partition("## What is not here")
    not_held = ACCOUNT_NOT_HELD | ADDON_NOT_HELD | CUSTOMER_NOT_HELD | COUNTER_NOT_HELD
    for path, parameters in PARAMETERS_NOT_HELD.items():
        for parameter in parameters:
            fault = call(path, **{parameter: 1}).json()["faultstring"]
            assert f"{parameter}: there is no such parameter" in fault
        not_held = not_held | parameters
    assert {name for name in not_held if f"`{name}`" not in section} == set()


# --- Accounts ---


def test_account_info_has_the_documented_fields_and_types(ask, i_account):
    reply = ask("Account/get_account_info", i_account=i_account)
    assert reply.keys() == {"account_info"}
    check(reply["account_info"], ACCOUNT, ACCOUNT_NOT_HELD)
    assert reply["account_info"]["has_custom_fields"] == 0
    assert ask("Account/get_account_info", id="6808881050@msisdn") == reply


def test_the_usage_of_an_account_is_told_with_its_times(ask, i_account):
    quota = [{"service": "netaccess", "monthly_amount": 1000}]
    product = {"name": "Data", "quotas": quota}
    i_product = ask("Product/add_product", product_info=product)["i_product"]
    ask("Account/update_account", account_info={"i_account": i_account, "i_product": i_product})
    used = {"i_account": i_account, "service": "netaccess", "amount": 10}
    for event_time in ("2026-03-05 08:00:00", "2026-02-01 23:30:00", "2026-03-04 08:00:00"):
        ask("Usage/record", **used, event_time=event_time)
    info = account_of(ask, i_account)
    check(info, USAGE)
    assert (info["first_usage"], info["last_usage"]) == ("2026-02-01", "2026-03-05 08:00:00")
    assert info["first_usage_time"] == "2026-02-01 23:30:00"
    assert info["idle_days"] > 0
    ask("Usage/record", **used)
    assert account_of(ask, i_account)["idle_days"] == 0


def test_included_services_come_when_they_are_asked_for(ask, i_account):
    quota = [{"service": "netaccess", "monthly_amount": 1000}]
    product = {"name": "Data", "quotas": quota}
    i_product = ask("Product/add_product", product_info=product)["i_product"]
    ask("Account/update_account", account_info={"i_account": i_account, "i_product": i_product})
    reply = ask("Account/get_account_info", i_account=i_account, get_included_services=1)
    (service,) = ask("Service/get_service_list")["service_list"]
    assert reply["account_info"]["included_services"] == [{**service, "monthly_amount": 1000}]
    assert "included_services" not in account_of(ask, i_account)


def test_account_fields_without_a_value_are_null(ask, i_account):
    info = {"id": "bare", "billing_model": -1, "i_customer": 1, "i_product": 1}
    bare = account_of(ask, ask("Account/add_account", account_info=info)["i_account"])
    for name in ("expiration_date", "credit_limit", "firstname", "email", "h323_password"):
        assert bare[name] is None


def test_documented_switches_of_get_account_info_are_taken(call, ask, i_account):
    switches = {
        **dict.fromkeys(("detailed_info", "expand_alias", "get_included_services"), 1),
        **dict.fromkeys(("without_service_features", "with_reseller_info"), 1),
        "with_call_processing_mode": 1,
        "aux_field_names": ["email"],
        "get_service_features": ["netaccess_policy"],
        "limit_alias_did_number_list": 100,
    }
    for name, value in switches.items():
        ask("Account/get_account_info", **{"i_account": i_account, name: value})
    too_many = {"i_account": i_account, "limit_alias_did_number_list": 101}
    assert call("Account/get_account_info", **too_many).status_code == 500


def test_customer_info_comes_with_the_account_when_asked_for(ask, i_account):
    reply = ask("Account/get_account_info", i_account=i_account, with_customer_info=1)
    assert reply.keys() == {"account_info", "customer_info"}
    assert reply["customer_info"]["i_customer"] == reply["account_info"]["i_customer"]


def test_account_list_has_the_same_fields_without_passwords(ask, i_account):
    reply = ask("Account/get_account_list")
    assert reply.keys() == {"account_list"}
    (shown,) = reply["account_list"]
    check(shown, LISTED_ACCOUNT, {"h323_password", "password"})


def test_account_list_takes_the_documented_parameters(ask, i_account):
    """Each with a value that finds the account, and with one that does not."""
    i_master = account_of(ask, i_account)["i_account"]
    ask("DID/add_number", number_info={"number": "420123456789"})
    ask("DID/assign_did_to_account", number="420123456789", i_account=i_account)
    alias = {"i_master_account": i_master, "id": "alias"}
    ask("Account/add_alias", alias_info=alias)
    for params, others in (
        ({"i_customer": 1}, {"i_customer": 2}),
        ({"id": "680888%"}, {"id": "%999"}),
        ({"bill_status": "O"}, {"bill_status": "S"}),
        ({"billing_model": 1}, {"billing_model": -1}),
        ({"companyname": "Acme"}, {"companyname": "Other"}),
        ({"did_number": "420123456789"}, {"did_number": "420123456788"}),
        ({"did_number": "420%"}, {"did_number": "421%"}),
        ({"limit": 1}, {"offset": 2}),
    ):
        found = ask("Account/get_account_list", **params)["account_list"]
        assert i_account in [one["i_account"] for one in found], params
        found = ask("Account/get_account_list", **others)["account_list"]
        assert i_account not in [one["i_account"] for one in found], others
    for params, count in (({}, 2), ({"get_only_real_accounts": 1}, 1)):
        assert len(ask("Account/get_account_list", **params)["account_list"]) == count
    ask("Account/terminate_account", i_account=i_account)
    assert ask("Account/get_account_list", get_not_closed_accounts=1) == {"account_list": []}


def test_update_answers_the_account_and_blocks_it(ask, i_account):
    features = [{"name": "clip", "flag_value": "Y"}]
    change = {"i_account": i_account, "blocked": "Y", "service_features": features}
    assert ask("Account/update_account", account_info=change) == {"i_account": i_account}
    info = account_of(ask, i_account)
    assert info["blocked"] == "Y"
    assert [one["name"] for one in info["service_features"]] == ["clip"]


def test_terminate_answers_success_and_closes_the_account(ask, i_account):
    params = {"i_account": i_account, "force": 1, "release_assigned_did": 1}
    assert ask("Account/terminate_account", **params) == {"success": 1}
    assert account_of(ask, i_account)["bill_status"] == "C"


def test_every_code_of_bill_status(ask, i_account):
    def status_with(**fields):
        change = {"i_account": i_account, **fields}
        ask("Account/update_account", account_info=change)
        return account_of(ask, i_account)["bill_status"]

    assert status_with() == "O"
    assert status_with(bill_status="S") == "S"
    assert status_with(bill_status="O") == "O"
    assert status_with(activation_date="2089-01-01") == "I"
    ask("Account/terminate_account", i_account=i_account)
    assert account_of(ask, i_account)["bill_status"] == "C"


def test_every_code_of_billing_model(ask, i_account):
    for code in (-1, 0, 1, 2, 4):
        info = {"id": f"model{code}", "billing_model": code, "i_customer": 1, "i_product": 1}
        added = ask("Account/add_account", account_info=info)["i_account"]
        assert account_of(ask, added)["billing_model"] == code


def test_aliases_are_accounts_of_their_master(ask, i_account):
    alias = {"i_master_account": i_account, "id": "6808881059@msisdn"}
    added = ask("Account/add_alias", alias_info=alias)["i_account"]
    (shown,) = ask("Account/get_alias_list", i_master_account=i_account)["alias_list"]
    assert shown.items() >= {**alias, "i_account": added}.items()
    info = account_of(ask, added)
    assert (info["billing_model"], info["i_master_account"]) == (2, i_account)


def test_follow_me_of_an_account_can_be_read(ask, i_account):
    reply = ask("Account/get_account_followme", i_account=i_account)
    assert reply["followme_info"]["i_account"] == i_account
    assert reply["followme_numbers"] == []


def test_an_account_moves_to_another_customer(ask, i_account):
    other = ask("Customer/add_customer", customer_info={"name": "Other"})["i_customer"]
    reply = ask("Account/move_account", i_account=i_account, i_customer=other)
    assert reply == {"i_account": i_account}
    assert account_of(ask, i_account)["i_customer"] == other


def test_a_counter_has_the_documented_members(ask, i_account):
    plan = ask("DiscountPlan/add_discount_plan", name="Flat")["i_vd_plan"]
    quota = {"service": "netaccess", "monthly_amount": 1000}
    product = {"name": "Data", "i_vd_plan": plan, "quotas": [quota]}
    i_product = ask("Product/add_product", product_info=product)["i_product"]
    change = {"i_account": i_account, "i_product": i_product}
    ask("Account/update_account", account_info=change)
    reply = ask("Account/get_full_vd_counter_info", i_account=i_account)
    (counter,) = reply["vd_counter_info"]
    check(counter, COUNTER, COUNTER_NOT_HELD)
    assert (counter["i_vd_plan"], counter["vdp_name"]) == (plan, "Flat")


# --- Service features, custom fields, add-ons ---


def test_a_service_feature_has_the_documented_members(ask, i_account):
    wanted = {
        "name": "netaccess_static_ip",
        "flag_value": "Y",
        "attributes": [{"name": "address", "values": ["10.0.0.1"]}],
    }
    reply = ask("Account/update_service_features", i_account=i_account, service_features=[wanted])
    assert reply == {"i_account": i_account}
    params = {"i_account": i_account}
    (feature,) = ask("Account/get_service_features", **params)["service_features"]
    assert feature == {
        "name": "netaccess_static_ip",
        "flag_value": "Y",
        "effective_flag_value": "Y",
        "locked": 0,
        "locks": [],
        "attributes": [
            {"name": "address", "values": ["10.0.0.1"], "effective_values": ["10.0.0.1"]}
        ],
    }
    assert account_of(ask, i_account)["service_features"] == [feature]


def test_what_was_shown_of_a_feature_can_be_sent_back(ask, i_account):
    params = {"i_account": i_account}
    wanted = [{"name": "clir", "flag_value": "Y", "locked": 0, "locks": []}]
    ask("Account/update_service_features", **params, service_features=wanted)
    shown = ask("Account/get_service_features", **params)["service_features"]
    ask("Account/update_service_features", **params, service_features=shown)
    assert ask("Account/get_service_features", **params)["service_features"] == shown


def test_the_features_of_the_documented_sample(ask, i_account):
    ask("AccessPolicy/add_access_policy", access_policy_info={"name": "Fast"})
    wanted = [
        {
            "name": name,
            "flag_value": "Y",
            "attributes": [{"name": attribute, "values": ["1"]} for attribute in attributes],
        }
        for name, attributes in FEATURES.items()
    ]
    params = {"i_account": i_account}
    ask("Account/update_service_features", **params, service_features=wanted)
    shown = {one["name"]: one for one in account_of(ask, i_account)["service_features"]}
    assert shown.keys() == FEATURES.keys()
    for name, attributes in FEATURES.items():
        check(shown[name], FEATURE)
        assert [one["name"] for one in shown[name]["attributes"]] == attributes
        for one in shown[name]["attributes"]:
            assert one == {"name": one["name"], "values": ["1"], "effective_values": ["1"]}


def test_every_flag_of_a_feature(ask, i_account):
    """What holds: the account's own, its product's for ``~``, its customer's for ``^``."""
    for owner, flag in (("Product", "P"), ("Customer", "C")):
        key = {f"i_{owner.lower()}": 1}
        given = [{"name": "clip", "flag_value": flag}]
        ask(f"{owner}/update_service_features", **key, service_features=given)
    flags = {"Y": "Y", "N": "N", "~": "P", "^": "C", "/": "/", "conditional": "conditional"}
    for flag, effective in flags.items():
        wanted = [{"name": "clip", "flag_value": flag}]
        ask("Account/update_service_features", i_account=i_account, service_features=wanted)
        (shown,) = account_of(ask, i_account)["service_features"]
        assert (shown["flag_value"], shown["effective_flag_value"]) == (flag, effective)


def test_an_add_on_has_the_documented_members_in_every_priority(ask, i_account):
    plan = ask("DiscountPlan/add_discount_plan", name="Flat")["i_vd_plan"]
    fee = {"name": "More", "monthly_fee": 2.5}
    fee |= ask("Subscription/add_subscription", subscription_info=fee)
    priorities = [0, 10, 15, 20, 25, 30]
    addons = []
    for priority in priorities:
        product = {"name": f"Extra {priority}", "description": "More", "i_vd_plan": plan}
        product["i_subscription"] = fee["i_subscription"]
        i_product = ask("Product/add_product", product_info=product)["i_product"]
        end = "2090-01-01 00:00:00"
        addons.append(
            {"i_product": i_product, "addon_effective_to": end, "addon_priority": priority}
        )
    change = {"i_account": i_account, "assigned_addons": addons}
    ask("Account/update_account", account_info=change)
    shown = account_of(ask, i_account)["assigned_addons"]
    assert [one["addon_priority"] for one in shown] == priorities[::-1]
    for one in shown:
        check(one, ADDON, ADDON_NOT_HELD)
        assert one["product_subscription"] == fee
    # A client may send back what it was shown.
    change = {"i_account": i_account, "assigned_addons": shown}
    ask("Account/update_account", account_info=change)
    assert account_of(ask, i_account)["assigned_addons"] == shown


def test_custom_fields_have_the_documented_members(ask, i_account):
    field = ask("Account/add_custom_field", name="Colour")
    schema = ask("Account/get_custom_fields_schema")
    assert schema == {"custom_fields_list": [{**field, "name": "Colour"}]}
    for named, value in (({"name": "Colour"}, "blue"), (field, "red")):
        values = [{**named, "db_value": value, "text_value": value.title()}]
        params = {"i_account": i_account, "custom_fields_values": values}
        ask("Account/update_custom_fields_values", **params)
        assert account_of(ask, i_account)["has_custom_fields"] == 1
        shown = ask("Account/get_custom_fields_values", i_account=i_account)
        assert shown == {
            "custom_fields_values": [{**field, "name": "Colour", "db_value": value}],
        }


# --- Subscriptions, bundles, sessions, services ---


def test_a_subscription_has_the_documented_members_and_statuses(ask, i_account):
    params = {"i_account": i_account}

    def status():
        (one,) = ask("Account/get_subscriptions", **params)["subscriptions"]
        return one["int_status"]

    fee = {"name": "Basic", "monthly_fee": 9.5}
    added = ask("Subscription/add_subscription", subscription_info=fee)
    product = {"name": "Plus", **added}
    i_product = ask("Product/add_product", product_info=product)["i_product"]
    ask("Account/update_account", account_info={**params, "i_product": i_product})
    assert status() == 0
    assert ask("Account/activate_subscriptions", **params) == {"success": 1, "activated": 1}
    assert status() == 1
    reply = ask("Account/charge_subscription_fees", **params)
    assert reply == {"success": 1, "charged": 9.5}
    (shown,) = ask("Account/get_subscriptions", **params)["subscriptions"]
    check(shown, SUBSCRIPTION)
    assert shown.items() >= {**fee, **added, "i_product": i_product}.items()
    assert account_of(ask, i_account)["balance"] == 9.5
    ask("Account/update_account", account_info={**params, "i_product": 1})
    assert status() == 2


def test_a_bundle_becomes_the_accounts_discount_plan(ask, i_account):
    plan = ask("DiscountPlan/add_discount_plan", name="Weekend")
    assert ask("Account/activate_bundle", i_account=i_account, **plan) == {"success": 1}
    assert account_of(ask, i_account)["i_vd_plan"] == plan["i_vd_plan"]


def test_active_sessions_are_those_that_the_network_names(ask, i_account):
    quota = [{"service": "netaccess", "monthly_amount": 1000}]
    product = {"name": "Data", "quotas": quota}
    i_product = ask("Product/add_product", product_info=product)["i_product"]
    ask("Account/update_account", account_info={"i_account": i_account, "i_product": i_product})
    session = {"i_account": i_account, "service": "netaccess", "session_id": "5f0c21"}
    assert ask("Usage/authorise", **session)["authorised"] == "Y"
    ask("Usage/record", **session, amount=10)
    (shown,) = ask("BillingSession/get_active_sessions_list")["active_sessions_list"]
    expected = {"i_account": i_account, "account_id": "6808881050@msisdn", "i_customer": 1}
    assert shown.items() >= {**expected, "session_id": "5f0c21", "used": 10}.items()
    assert ask("Usage/end_session", **session) == {"success": 1}
    assert ask("BillingSession/get_active_sessions_list") == {"active_sessions_list": []}


def test_service_policies_are_there(ask):
    attributes = [{"group_name": "Voice", "name": "codec", "values": ["G.711"]}]
    info = {"name": "Clear", "service": "voice", "attributes": attributes}
    added = ask("ServicePolicy/add_service_policy", service_policy_info=info)
    reply = ask("ServicePolicy/get_service_policy_info", **added)
    assert reply == {"service_policy_info": {**added, **info}}
    listed = ask("ServicePolicy/get_service_policy_list", name="cl%")["service_policy_list"]
    assert listed == [{**added, **info}]


# --- Customers and products ---


def test_customer_methods_have_the_documented_shapes(ask):
    info = {
        "name": "Acme",
        "iso_4217": "EUR",
        "credit_limit": 100,
        "firstname": "Ada",
        "lastname": "Smith",
        "companyname": "Acme",
        "email": "a@example.net",
        "phone1": "1",
        "refnum": "A-1",
    }
    assert ask("Customer/add_customer", customer_info=info) == {"i_customer": 1}
    reply = ask("Customer/get_customer_info", i_customer=1)
    assert reply.keys() == {"customer_info"}
    shown = reply["customer_info"]
    check(shown, {**CUSTOMER, "service_features": list}, CUSTOMER_NOT_HELD)
    for named in ({"name": "Acme"}, {"refnum": "A-1"}):
        assert ask("Customer/get_customer_info", **named) == reply
    listed = ask("Customer/get_customer_list", limit=5, offset=0, bill_status="O", name="Acme")
    (one,) = listed["customer_list"]
    check(one, CUSTOMER)
    assert {**one, "service_features": []} == shown
    change = {"i_customer": 1, "blocked": "Y"}
    assert ask("Customer/update_customer", customer_info=change) == {"i_customer": 1}
    assert ask("Customer/terminate_customer", i_customer=1) == {"success": 1}


def test_customers_are_found_by_a_text_in_several_fields(ask):
    for name, fields in (("Acme", {"city": "Prague"}), ("Prague Ltd", {}), ("Other", {})):
        ask("Customer/add_customer", customer_info={"name": name, **fields})
    for by, value, found in (
        (["name", "city"], "%prague%", ["Acme", "Prague Ltd"]),
        (["name"], "%prague%", ["Prague Ltd"]),
        (["city", "note"], "Prague", ["Acme"]),
    ):
        search = {"search_by": by, "value": value}
        listed = ask("Customer/get_customer_list", search=search)["customer_list"]
        assert [one["name"] for one in listed] == found


def test_every_status_of_a_customer(ask, i_account):
    def status():
        return ask("Customer/get_customer_info", i_customer=1)["customer_info"]["bill_status"]

    for code in "SEDO":
        change = {"i_customer": 1, "bill_status": code}
        ask("Customer/update_customer", customer_info=change)
        assert status() == code
        info = account_of(ask, i_account)
        assert info["customer_bill_status"] == code
        assert info["customer_bill_suspended"] == int(code == "S")
    ask("Customer/terminate_customer", i_customer=1)
    assert status() == "C"


def test_product_methods_have_the_documented_shapes(ask):
    plan = ask("DiscountPlan/add_discount_plan", name="Flat")["i_vd_plan"]
    info = {"name": "LTE", "description": "Fast", "i_vd_plan": plan, "addon_priority": 20}
    ask("Product/add_product", product_info=info)
    reply = ask("Product/get_product_info", i_product=1)
    assert reply.keys() == {"product_info"}
    check(reply["product_info"], PRODUCT)
    assert reply["product_info"].items() >= info.items()
    assert ask("Product/get_product_list") == {"product_list": [reply["product_info"]]}


# --- The inventory: SIM cards, access policies, numbers; invoices ---


def test_card_methods_have_the_documented_fields(ask, i_account):
    reply = ask("SIMCard/get_card_info", i_sim_card=1)
    assert reply.keys() == {"card_info"}
    check(reply["card_info"], CARD)
    assert reply["card_info"]["msisdn"] == "6808881050@msisdn", "the id of the linked account"
    assert ask("SIMCard/get_card_list") == {"card_list": [reply["card_info"]]}


def test_every_status_of_a_card(ask, i_account):
    def status():
        return ask("SIMCard/get_card_info", i_sim_card=1)["card_info"]["status"]

    assert status() == "used"
    assert ask("SIMCard/release_sim_card", i_sim_card=1) == {"i_sim_card": 1}
    assert status() == "available"
    for name in ("reserved", "disposed"):
        ask("SIMCard/update_sim_card", card_info={"i_sim_card": 1, "status": name})
        assert status() == name
    params = {"i_sim_cards": [1], "status": "available"}
    ask("SIMCard/update_sim_card_list", **params)
    assert status() == "available"
    ask("SIMCard/assign_sim_card", i_sim_card=1, i_account=i_account)
    assert status() == "used"


def test_the_numbers_and_keys_of_a_card_have_the_documented_lengths(call):
    for changed, taken in (
        ({"imsi": "001010"}, True),
        ({"imsi": "001010000000009", "iccid": "8" * 18}, True),
        ({"iccid": "8" * 22, "ki": "0" * 32, "opc": "F" * 32}, True),
        ({"imsi": "00101"}, False),
        ({"imsi": "0010100000000099"}, False),
        ({"iccid": "8" * 17}, False),
        ({"iccid": "8" * 23}, False),
        ({"ki": "0" * 31}, False),
        ({"opc": "G" * 32}, False),
    ):
        card = {"imsi": "001010000000002", "iccid": "8" * 19, **changed}
        status = call("SIMCard/add_sim_card", card_info=card).status_code
        assert (status == 200) is taken, changed


def test_an_upload_adds_and_removes_cards(ask):
    card = {"imsi": "001010000000003", "iccid": "8" * 19, "ki": "0" * 32, "opc": "1" * 32}
    for add, remove in (("+", "-"), ("add", "remove")):
        lines = [{"action": add, **card, "description": "new"}]
        assert ask("SIMCard/upload_sim_cards", card_list=lines) == {"added": 1, "removed": 0}
        lines = [{"action": remove, "imsi": card["imsi"]}]
        assert ask("SIMCard/upload_sim_cards", card_list=lines) == {"added": 0, "removed": 1}


def test_an_access_policy_has_the_documented_members(ask):
    attributes = [{"group_name": "LTE", "name": "speed", "values": ["5"]}]
    info = {"name": "Fast", "attributes": attributes}
    ask("AccessPolicy/add_access_policy", access_policy_info=info)
    reply = ask("AccessPolicy/get_access_policy_info", i_access_policy=1)
    assert reply["access_policy_info"].items() >= {"i_access_policy": 1, **info}.items()
    listed = ask("AccessPolicy/get_access_policy_list")["access_policy_list"]
    assert listed == [{"i_access_policy": 1, **info}]


def test_the_methods_of_numbers(ask, i_account):
    def holder():
        info = ask("DID/get_number_info", number="420123456789")["number_info"]
        return info["i_customer"], info["i_account"]

    number = {"number": "420123456789"}
    ask("DID/add_number", number_info=number)
    assert holder() == (None, None)
    ask("DID/assign_did_to_customer", **number, i_customer=1)
    assert holder() == (1, None)
    ask("DID/assign_did_to_account", **number, i_account=i_account)
    assert holder() == (1, i_account)
    (listed,) = ask("DID/get_number_list")["number_list"]
    assert listed["number"] == "420123456789"
    assert ask("DID/get_customer_numbers", i_customer=1) == {"number_list": [listed]}
    ask("DID/release_did_from_customer", **number)
    assert holder() == (None, None)
    ask("DID/delete_number", **number)
    assert ask("DID/get_number_list") == {"number_list": []}


def test_the_methods_of_invoices(ask, i_account):
    info = {"i_customer": 1, "invoice_number": "2026-1", "amount": 100}
    ask("Invoice/add_invoice", invoice_info=info)
    ask("Invoice/apply_invoice_adjustment", i_invoice=1, amount=-20)
    shown = ask("Invoice/get_invoice_info", i_invoice=1)["invoice_info"]
    assert (shown["i_invoice"], shown["i_customer"]) == (1, 1)
    assert (shown["amount"], shown["adjustments"], shown["amount_due"]) == (100.0, -20.0, 80.0)
    assert ask("Invoice/get_invoice_list", i_customer=1) == {"invoice_list": [shown]}
