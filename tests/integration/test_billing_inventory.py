"""The reference billing: devices, numbers, cards, invoices, payments, access and their faults."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from sqlalchemy import insert, select, update

from billing_api import NOW, Api
from espf.billing import clock, environments, references
from espf.billing import tables as t
from espf.errors import InvalidRequest
from espf.web.methods import METHODS

KI = "0123456789ABCDEF0123456789abcdef"

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def api(billing_database, sealer):
    """Environment 3 with customers 1 and 2, product 1 and account 1 of customer 1; and another."""
    with billing_database.begin() as connection:
        environments.add(connection, 3, "three")
        environments.add(connection, 4, "four")
    api = Api(billing_database, sealer)
    for name in ("Acme", "Beta"):
        api("Customer/add_customer", customer_info={"name": name, "time_zone_name": "Asia/Tokyo"})
    api("Product/add_product", product_info={"name": "LTE"})
    api.account("100")
    return api


def named(info, *fields):
    return {name: info[name] for name in fields}


# --- Environments ---


def one_of_each(api):
    """One thing of each kind, under number 1."""
    api("Account/add_followme_number", number_info={"i_account": 1, "redirect_number": "5"})
    api("Account/add_alias", alias_info={"i_master_account": 1, "id": "alias"})
    api("IPDevice/add_ip_device_profile", profile_info={"name": "p"})
    api("IPDevice/add_ip_device", ip_device_info={"name": "d"})
    api("DID/add_number", number_info={"number": "+1"})
    api("SIMCard/add_sim_card", card_info={"imsi": "001010000000001", "iccid": "8" * 18})
    invoice = {"i_customer": 1, "invoice_number": "I-1", "amount": 1}
    api("Invoice/add_invoice", invoice_info=invoice)
    payment = {"i_account": 1, "amount": 1}
    api("PaymentTransaction/add_payment_transaction", payment_transaction_info=payment)
    api("Connection/add_connection", connection_info={"name": "c", "vendor_name": "v"})
    api("AccessPolicy/add_access_policy", access_policy_info={"name": "p"})
    phase = {"i_access_policy": 1, "name": "p", "threshold": 1}
    api("AccessPolicy/add_phase", phase_info=phase)
    access = {"i_product": 1, "service": "voice"}
    api("Product/add_accessibility", accessibility_info=access)
    api("ServicePolicy/add_service_policy", service_policy_info={"name": "p", "service": "voice"})
    api("CallBarring/add_call_barring_class", call_barring_class_info={"name": "c"})
    api("Subscription/add_subscription", subscription_info={"name": "s", "monthly_fee": 1})
    api("DiscountPlan/add_discount_plan", name="d")
    quotas = [{"service": "voice", "monthly_amount": 1}]
    product = {"name": "Fee", "i_subscription": 1, "quotas": quotas}
    i_product = api("Product/add_product", product_info=product)["i_product"]
    api("Account/update_account", account_info={"i_account": 1, "i_product": i_product})
    api("Usage/record", i_account=1, service="voice", amount=1, session_id="s")


POLICY = {"i_access_policy": 1}
FOREIGN = {
    "Account/add_alias": {"alias_info": {"i_master_account": 1, "id": "x"}},
    "Account/get_alias_list": {"i_master_account": 1},
    "Account/delete_alias": {"alias_info": {"i_master_account": 1, "id": "alias"}},
    "Account/get_account_followme": {"i_account": 1},
    "Account/update_account_followme": {"i_account": 1, "followme_info": {}},
    "Account/add_followme_number": {"number_info": {"i_account": 1, "redirect_number": "1"}},
    "Account/update_followme_number": {"number_info": {"i_follow_me_number": 1}},
    "Account/delete_followme_number": {"i_follow_me_number": 1},
    "Account/get_full_vd_counter_info": {"i_account": 1},
    "Account/get_subscriptions": {"i_account": 1},
    "Account/activate_subscriptions": {"i_account": 1},
    "Account/charge_subscription_fees": {"i_account": 1},
    "Account/activate_bundle": {"i_account": 3, "i_vd_plan": 1},
    "CallBarring/update_call_barring_class": {
        "call_barring_class_info": {"i_call_barring_class": 1, "name": "x"}
    },
    "CallBarring/get_account_call_barring": {"i_account": 1},
    "CallBarring/update_account_call_barring": {"i_account": 3, "i_call_barring_classes": [1]},
    "ServicePolicy/update_service_policy": {
        "service_policy_info": {"i_service_policy": 1, "name": "x"}
    },
    "ServicePolicy/delete_service_policy": {"i_service_policy": 1},
    "ServicePolicy/get_service_policy_info": {"i_service_policy": 1},
    "Usage/end_session": {"i_account": 1, "service": "voice", "session_id": "s"},
    "Product/add_accessibility": {"accessibility_info": {"i_product": 1, "service": "x"}},
    "Product/get_accessibility_list": {"i_product": 1},
    "Product/delete_accessibility": {"i_accessibility": 1},
    "AccessPolicy/update_access_policy": {"access_policy_info": POLICY},
    "AccessPolicy/get_access_policy_info": POLICY,
    "AccessPolicy/add_phase": {"phase_info": {**POLICY, "name": "x", "threshold": 2}},
    "AccessPolicy/update_phase": {"phase_info": {"i_access_policy_phase": 1}},
    "AccessPolicy/delete_phase": {"i_access_policy_phase": 1},
    "Connection/update_connection": {"connection_info": {"i_connection": 1}},
    "Connection/delete_connection": {"i_connection": 1},
    "Connection/get_connection_info": {"i_connection": 1},
    "DID/delete_number": {"i_did_number": 1},
    "DID/update_number": {"number_info": {"i_did_number": 1, "status": "canceled"}},
    "DID/get_number_info": {"number": "+1"},
    "DID/get_customer_numbers": {"i_customer": 1},
    "DID/assign_did_to_customer": {"number": "+1", "i_customer": 3},
    "DID/assign_did_to_account": {"i_did_number": 1, "i_account": 3},
    "DID/release_did_from_customer": {"i_did_number": 1},
    "DID/release_did_from_account": {"i_did_number": 1},
    "Invoice/add_invoice": {"invoice_info": {"i_customer": 1, "invoice_number": "2", "amount": 1}},
    "Invoice/get_invoice_info": {"i_invoice": 1},
    "Invoice/pay_invoice": {"i_invoice": 1, "amount": 1},
    "Invoice/apply_invoice_adjustment": {"i_invoice": 1, "amount": 1},
    "Invoice/void_invoice": {"i_invoice": 1},
    "IPDevice/add_ip_device": {"ip_device_info": {"name": "x", "i_ip_device_profile": 1}},
    "IPDevice/get_ip_device_info": {"i_ip_device": 1},
    "IPDevice/assign_ip_device": {"i_ip_device": 1, "i_account": 3},
    "IPDevice/release_ip_device": {"i_ip_device": 1},
    "IPDevice/delete_ip_device": {"i_ip_device": 1},
    "PaymentTransaction/add_payment_transaction": {
        "payment_transaction_info": {"i_customer": 1, "amount": 1}
    },
    "PaymentTransaction/update_payment_transaction": {
        "payment_transaction_info": {"i_payment_transaction": 1, "status": "completed"}
    },
    "PaymentTransaction/get_payment_transaction_info": {"i_payment_transaction": 1},
    "SIMCard/update_sim_card": {"card_info": {"i_sim_card": 1, "status": "disposed"}},
    "SIMCard/update_sim_card_list": {"i_sim_cards": [1], "status": "disposed"},
    "SIMCard/upload_sim_cards": {"card_list": [{"action": "-", "imsi": "001010000000001"}]},
    "SIMCard/delete_sim_card": {"i_sim_card": 1},
    "SIMCard/get_custom_fields_values": {"i_sim_card": 1},
    "SIMCard/update_custom_fields_values": {"i_sim_card": 1, "custom_fields_values": []},
}
LISTS = {
    "BillingSession/get_active_sessions_list": "active_sessions_list",
    "CallBarring/get_call_barring_class_list": "call_barring_class_list",
    "Service/get_service_list": "service_list",
    "ServicePolicy/get_service_policy_list": "service_policy_list",
    "Subscription/get_subscription_list": "subscription_list",
    "AccessPolicy/get_access_policy_list": "access_policy_list",
    "Connection/get_connection_list": "connection_list",
    "DID/get_number_list": "number_list",
    "Invoice/get_invoice_list": "invoice_list",
    "IPDevice/get_ip_device_list": "ip_device_list",
    "IPDevice/get_ip_device_profile_list": "profile_list",
    "PaymentTransaction/get_payment_transaction_list": "payment_transaction_list",
}
OURS = {
    "Account": {"alias", "followme", "vd_counter", "subscription", "bundle"},
    "Usage": {"end_session"},
    "Product": {"accessibility"},
    "SIMCard": {"update_", "upload_", "delete_", "fields_values"},
}


def test_what_belongs_to_another_environment_does_not_exist(api):
    one_of_each(api)
    tables = t.metadata.sorted_tables
    api.i_env = 4
    # What one has oneself does not help: customer, product and account 3.
    customer = api("Customer/add_customer", customer_info={"name": "There"})["i_customer"]
    product = api("Product/add_product", product_info={"name": "There"})["i_product"]
    mine = api.account("100", i_customer=customer, i_product=product)
    assert (customer, mine) == (3, 3)

    def content():
        with api.database.read() as connection:
            return [connection.execute(select(table)).all() for table in tables]

    before = content()
    for method, params in FOREIGN.items():
        assert api.fault(method, **params).endswith(".not_found"), method
    assert content() == before
    for method, name in LISTS.items():
        assert api(method) == {name: []}
    api.i_env = 3
    for method, name in LISTS.items():
        assert len(api(method)[name]) == 1, method


def test_an_application_names_only_what_is_in_its_environment(api):
    one_of_each(api)
    names = (
        "i_invoice",
        "i_payment_transaction",
        "i_connection",
        "i_access_policy",
        "i_access_policy_phase",
        "i_accessibility",
        "i_ip_device_profile",
        "i_follow_me_number",
    )
    with api.database.read() as connection:
        references.check(connection, 3, dict.fromkeys(names, 1))
        for name in names:
            for i_env, key in ((4, 1), (3, 2)):
                with pytest.raises(InvalidRequest) as refused:
                    references.check(connection, i_env, {name: key})
                assert refused.value.field == f"variables.{name}"


def test_every_method_of_these_areas_is_tried_from_another_environment():
    def is_ours(method):
        service, _, name = method.partition("/")
        return service in known or any(word in name for word in OURS.get(service, ()))

    known = {each.partition("/")[0] for each in (*FOREIGN, *LISTS)} - set(OURS)
    # These create something out of nothing of anybody's.
    fresh = {
        "AccessPolicy/add_access_policy",
        "CallBarring/add_call_barring_class",
        "Connection/add_connection",
        "DID/add_number",
        "IPDevice/add_ip_device_profile",
        "ServicePolicy/add_service_policy",
        "Subscription/add_subscription",
    }
    assert {each for each in METHODS if is_ours(each)} == FOREIGN.keys() | LISTS.keys() | fresh


# --- Aliases and follow-me ---


def test_an_alias_is_an_account_that_goes_with_its_master(api):
    alias = api("Account/add_alias", alias_info={"i_master_account": 1, "id": "200"})["i_account"]
    info = api.info(alias)
    expected = {"i_master_account": 1, "i_customer": 1, "billing_model": 2, "bill_status": "O"}
    assert named(info, *expected) == expected
    assert info["available_funds"] is None
    listed = {"i_account": alias, "i_master_account": 1, "id": "200", "blocked": "N"}
    assert api("Account/get_alias_list", i_master_account=1) == {"alias_list": [listed]}
    for taken in ("100", "200"):
        info = {"i_master_account": 1, "id": taken}
        assert api.fault("Account/add_alias", alias_info=info) == "Server.Account.duplicate_id"
    info = {"i_master_account": alias, "id": "300"}
    assert api.fault("Account/add_alias", alias_info=info) == "Server.Account.is_alias"

    api("Account/terminate_account", i_account=1)
    assert api.info(alias)["bill_status"] == "C"
    assert api("Account/get_alias_list", i_master_account=1) == {"alias_list": []}
    for method in ("add_alias", "delete_alias"):
        info = {"i_master_account": 1, "id": "200"}
        assert api.fault(f"Account/{method}", alias_info=info) == "Server.Account.closed"


def test_an_alias_is_deleted_by_its_master_only_and_not_while_it_is_in_use(api):
    other = api.account("101")
    alias = api("Account/add_alias", alias_info={"i_master_account": 1, "id": "200"})["i_account"]
    for params in ({"i_master_account": other, "id": "200"}, {"i_master_account": 1, "id": "100"}):
        assert api.fault("Account/delete_alias", alias_info=params) == "Server.Account.not_found"
    card = {"imsi": "001010000000001", "iccid": "8" * 18}
    i_sim_card = api("SIMCard/add_sim_card", card_info=card)["i_sim_card"]
    api("SIMCard/assign_sim_card", i_sim_card=i_sim_card, i_account=alias)
    named_by_key = {"i_master_account": 1, "i_account": alias}
    assert api.fault("Account/delete_alias", alias_info=named_by_key) == "Server.Account.in_use"
    api("SIMCard/release_sim_card", i_sim_card=i_sim_card)
    api("Account/update_account", account_info={"i_account": alias, "lastname": "Desk"})
    assert api("Account/delete_alias", alias_info=named_by_key) == {"success": 1}
    assert api.account("200") > 0


def test_follow_me_is_shown_as_it_was_set_and_with_defaults_before(api):
    before = api("Account/get_account_followme", i_account=1)
    settings = {"i_account": 1, "sequence": "Order", "timeout": 90, "max_forwards": None}
    assert before == {"followme_info": settings, "followme_numbers": []}
    for info in ({"timeout": 30}, {"max_forwards": 3}):
        api("Account/update_account_followme", i_account=1, followme_info=info)
    numbers = [
        {"i_account": 1, "redirect_number": number, "i_follow_order": order}
        for number, order in (("second", 2), ("first", 1))
    ]
    for info in numbers:
        api("Account/add_followme_number", number_info=info)
    change = {"i_follow_me_number": 1, "active": "N"}
    api("Account/update_followme_number", number_info=change)
    after = api("Account/get_account_followme", i_account=1)
    assert after["followme_info"] == {**settings, "timeout": 30, "max_forwards": 3}
    shown = [named(each, "redirect_number", "active") for each in after["followme_numbers"]]
    assert shown == [
        {"redirect_number": "first", "active": "Y"},
        {"redirect_number": "second", "active": "N"},
    ]
    api("Account/terminate_account", i_account=1)
    change = {"i_account": 1, "followme_info": {"timeout": 31}}
    assert api.fault("Account/update_account_followme", **change) == "Server.Account.closed"
    code = api.fault("Account/delete_followme_number", i_follow_me_number=1)
    assert code == "Server.Account.closed"


# --- Devices and numbers ---


def test_devices_move_between_accounts_and_come_back_from_a_closed_one(api):
    other = api.account("101")
    api("IPDevice/add_ip_device_profile", profile_info={"name": "phone", "description": "desk"})
    device = {"name": "one", "mac": "00:11:22:33:44:55", "i_ip_device_profile": 1}
    api("IPDevice/add_ip_device", ip_device_info=device)
    again = api.fault("IPDevice/add_ip_device", ip_device_info={"name": "one"})
    assert again == "Server.IPDevice.duplicate_name"
    again = api.fault("IPDevice/add_ip_device_profile", profile_info={"name": "phone"})
    assert again == "Server.IPDeviceProfile.duplicate_name"
    wrong = {"name": "two", "mac": "no"}
    assert api.refuses("IPDevice/add_ip_device", ip_device_info=wrong) == "ip_device_info.mac"
    for i_account in (1, other):
        api("IPDevice/assign_ip_device", i_ip_device=1, i_account=i_account)
    info = {"i_ip_device": 1, **device, "i_account": other}
    assert api("IPDevice/get_ip_device_info", i_ip_device=1) == {"ip_device_info": info}
    found = api("IPDevice/get_ip_device_list", i_account=other, mac="00:%", name="one")
    assert found == {"ip_device_list": [info]}
    api("Account/terminate_account", i_account=other)
    assert api("IPDevice/get_ip_device_list", i_account=other) == {"ip_device_list": []}
    code = api.fault("IPDevice/assign_ip_device", i_ip_device=1, i_account=other)
    assert code == "Server.Account.closed"


def test_a_number_is_given_to_one_customer_and_its_accounts_only(api):
    beta = api.account("200", i_customer=2)
    api("DID/add_number", number_info={"number": "+1", "description": "Kyiv"})
    code = api.fault("DID/add_number", number_info={"number": "+1"})
    assert code == "Server.DID.duplicate_number"
    api("DID/assign_did_to_customer", number="+1", i_customer=1)
    assert api.holder("+1") == (1, None)
    api("DID/assign_did_to_account", number="+1", i_account=1)
    # A customer that has the number keeps it where it is.
    api("DID/assign_did_to_customer", number="+1", i_customer=1)
    assert api.holder("+1") == (1, 1)
    assert len(api("DID/get_customer_numbers", i_customer=1)["number_list"]) == 1
    assert api("DID/get_customer_numbers", i_customer=2) == {"number_list": []}
    for method, params in (
        ("assign_did_to_customer", {"i_customer": 2}),
        ("assign_did_to_account", {"i_account": beta}),
    ):
        assert api.fault(f"DID/{method}", number="+1", **params) == "Server.DID.not_available"
    assert api.fault("DID/delete_number", number="+1") == "Server.DID.in_use"
    api("DID/release_did_from_account", number="+1")
    assert api.holder("+1") == (1, None)
    api("DID/release_did_from_customer", number="+1")
    api("DID/assign_did_to_account", number="+1", i_account=beta)
    assert api.holder("+1") == (2, beta)


@pytest.mark.parametrize("status", ["inactive", "moved", "canceled"])
def test_a_number_that_is_not_active_is_given_to_nobody(api, status):
    api("DID/add_number", number_info={"number": "+1"})
    api("DID/assign_did_to_account", number="+1", i_account=1)
    api("DID/release_did_from_customer", number="+1")
    api("DID/update_number", number_info={"i_did_number": 1, "status": status})
    code = api.fault("DID/assign_did_to_customer", number="+1", i_customer=1)
    assert code == "Server.DID.not_available"
    assert len(api("DID/get_number_list", status=status, number="+%")["number_list"]) == 1
    assert api("DID/delete_number", number="+1") == {"success": 1}


def test_numbers_of_what_is_closed_go_to_the_customer_or_the_pool(api):
    accounts = [api.account(f"{number}") for number in (1, 2, 3)]
    for i_account in accounts:
        api("DID/add_number", number_info={"number": f"+{i_account}"})
        api("DID/assign_did_to_account", number=f"+{i_account}", i_account=i_account)
    first, second, third = accounts
    api("Account/terminate_account", i_account=first)
    assert api.holder(f"+{first}") == (1, None)
    api("Account/terminate_account", i_account=second, release_assigned_did="Y")
    assert api.holder(f"+{second}") == (None, None)
    api("Customer/terminate_customer", i_customer=1)
    assert api.holder(f"+{third}") == api.holder(f"+{first}") == (None, None)


def test_numbers_and_aliases_go_with_an_account_to_another_customer(api):
    api("DID/add_number", number_info={"number": "+1"})
    api("DID/assign_did_to_account", number="+1", i_account=1)
    alias = api("Account/add_alias", alias_info={"i_master_account": 1, "id": "200"})["i_account"]
    api("Account/move_account", i_account=1, i_customer=2)
    assert api.holder("+1") == (2, 1)
    assert api.info(alias)["i_customer"] == 2


# --- SIM cards ---


def card(number, **fields):
    return {"imsi": f"00101000000{number:04d}", "iccid": f"890010100000000{number:04d}", **fields}


def test_a_card_is_changed_but_not_the_status_of_one_that_is_held(api):
    api.sees_keys = True
    for number in (1, 2):
        api("SIMCard/add_sim_card", card_info=card(number, ki=KI))
    change = {"i_sim_card": 1, "opc": KI, "description": "spare", "status": "reserved"}
    api("SIMCard/update_sim_card", card_info=change)
    info = api("SIMCard/get_card_info", i_sim_card=1)["card_info"]
    assert named(info, "ki", *change) == {"ki": KI, **change}
    for name in ("imsi", "iccid"):
        taken = {"i_sim_card": 1, name: card(2)[name]}
        code = api.fault("SIMCard/update_sim_card", card_info=taken)
        assert code == f"Server.SIMCard.duplicate_{name}"
    api("SIMCard/assign_sim_card", i_sim_card=1, i_account=1)
    held = {"i_sim_card": 1, "status": "disposed"}
    for method, params in (
        ("update_sim_card", {"card_info": held}),
        ("update_sim_card_list", {"i_sim_cards": [2, 1], "status": "disposed"}),
        ("delete_sim_card", {"i_sim_card": 1}),
        ("upload_sim_cards", {"card_list": [{"action": "-", "imsi": card(1)["imsi"]}]}),
    ):
        assert api.fault(f"SIMCard/{method}", **params) == "Server.SIMCard.in_use", method
    info = api("SIMCard/get_card_info", i_sim_card=2)["card_info"]
    assert info["status"] == "available"


def test_saving_the_same_key_again_writes_nothing(api):
    api("SIMCard/add_sim_card", card_info=card(1, ki=KI))
    with api.database.read() as connection:
        before = connection.execute(select(t.sim_cards.c.ki)).scalar()
    api("SIMCard/update_sim_card", card_info={"i_sim_card": 1, "ki": KI})
    with api.database.read() as connection:
        assert connection.execute(select(t.sim_cards.c.ki)).scalar() == before


def test_a_card_goes_with_its_custom_fields(api):
    api("SIMCard/add_sim_card", card_info=card(1))
    api("SIMCard/add_custom_field", name="batch")
    api("Account/add_custom_field", name="colour")
    wanted = {"i_sim_card": 1, "custom_fields_values": [{"name": "batch", "db_value": "B7"}]}
    assert api("SIMCard/update_custom_fields_values", **wanted) == {"i_sim_card": 1}
    fields = api("SIMCard/get_custom_fields_values", i_sim_card=1)["custom_fields_values"]
    assert fields == [{"i_custom_field": 1, "name": "batch", "db_value": "B7"}]
    api("SIMCard/delete_sim_card", i_sim_card=1)
    with api.database.read() as connection:
        assert connection.execute(select(t.custom_field_values)).all() == []


def test_an_upload_is_all_or_nothing(api):
    lines = [{"action": "add", **card(1)}, {"action": "+", **card(2, ki=KI)}]
    assert api("SIMCard/upload_sim_cards", card_list=lines) == {"added": 2, "removed": 0}
    mixed = [{"action": "-", "imsi": card(1)["imsi"]}, {"action": "+", **card(3)}]
    twice = [*mixed, {"action": "+", **card(2)}]
    code = api.fault("SIMCard/upload_sim_cards", card_list=twice)
    assert code == "Server.SIMCard.duplicate_imsi"
    assert len(api("SIMCard/get_card_list")["card_list"]) == 2
    assert api("SIMCard/upload_sim_cards", card_list=mixed) == {"added": 1, "removed": 1}
    left = [each["imsi"] for each in api("SIMCard/get_card_list")["card_list"]]
    assert left == [card(2)["imsi"], card(3)["imsi"]]
    line = {"action": "+", "imsi": card(4)["imsi"]}
    assert api.refuses("SIMCard/upload_sim_cards", card_list=[line]) == "card_list.0"
    line = {"action": "?", **card(4)}
    assert api.refuses("SIMCard/upload_sim_cards", card_list=[line]) == "card_list.0.action"
    assert api.refuses("SIMCard/update_sim_card_list", i_sim_cards=[2]) is None


# --- Invoices and payments ---


def test_an_invoice_is_adjusted_and_paid_in_parts_and_the_customer_owes_the_less(api):
    info = {"i_customer": 1, "invoice_number": "2026-1", "amount": "100.00001"}
    i_invoice = api("Invoice/add_invoice", invoice_info=info)["i_invoice"]
    code = api.fault("Invoice/add_invoice", invoice_info={**info, "i_customer": 2})
    assert code == "Server.Invoice.duplicate_number"
    assert api.owes() == 0
    of = {"i_invoice": i_invoice}
    less = api("Invoice/apply_invoice_adjustment", **of, amount="-20.00001")
    assert less == {**of, "amount_due": 80}
    assert api("Invoice/pay_invoice", **of, amount=30)["amount_due"] == 50
    shown = api("Invoice/get_invoice_info", **of)["invoice_info"]
    expected = {
        "invoice_status": "partially_paid",
        "amount": Decimal("100.00001"),
        "adjustments": Decimal("-20.00001"),
        "amount_paid": 30,
        "amount_due": 50,
        "iso_4217": "USD",
        # It is the evening of the 20th in Tokyo.
        "issue_date": date(2026, 2, 20),
    }
    assert named(shown, *expected) == expected
    assert api.owes() == Decimal("-50.00001")
    for amount in ("50.00001", 51):
        code = api.fault("Invoice/pay_invoice", **of, amount=amount)
        assert code == "Server.Invoice.amount_exceeds_due"
    code = api.fault("Invoice/apply_invoice_adjustment", **of, amount=-81)
    assert code == "Server.Invoice.amount_out_of_range"
    assert api.fault("Invoice/void_invoice", **of) == "Server.Invoice.paid"
    api("Invoice/pay_invoice", **of, amount=50)
    assert len(api("Invoice/get_invoice_list", invoice_status="paid")["invoice_list"]) == 1
    # Taken off what has been paid, nothing is due, not less.
    assert api("Invoice/apply_invoice_adjustment", **of, amount=-10)["amount_due"] == 0
    assert api.refuses("Invoice/apply_invoice_adjustment", **of, amount=0) == "amount"


def test_a_void_invoice_asks_for_nothing_and_stays_as_it_is(api):
    info = {"i_customer": 1, "invoice_number": "2026-1", "amount": 100}
    of = api("Invoice/add_invoice", invoice_info=info)
    for _ in range(2):
        assert api("Invoice/void_invoice", **of) == of
    assert api("Invoice/get_invoice_info", **of)["invoice_info"]["amount_due"] == 0
    for method in ("pay_invoice", "apply_invoice_adjustment"):
        assert api.fault(f"Invoice/{method}", **of, amount=1) == "Server.Invoice.void"
    assert api.owes() == 0


def payment_of(api, **owner):
    info = {**owner, "amount": "12.5", "x_transaction_id": "x-1"}
    method = "PaymentTransaction/add_payment_transaction"
    return api(method, payment_transaction_info=info)["i_payment_transaction"]


def settle(i_payment_transaction, **fields):
    return {"payment_transaction_info": {"i_payment_transaction": i_payment_transaction, **fields}}


UPDATE_PAYMENT = "PaymentTransaction/update_payment_transaction"


def test_a_completed_payment_moves_the_balance_once(api):
    api("Customer/add_customer", customer_info={"name": "C", "opening_balance": 20})
    by_account, by_customer = payment_of(api, i_account=1), payment_of(api, i_customer=3)
    assert api.info(1)["balance"] == 0
    for each in (by_account, by_customer, by_account, by_customer):
        api(UPDATE_PAYMENT, **settle(each, status="completed", result_code="approved"))
    assert api.info(1)["balance"] == Decimal("12.5")
    assert api.owes(3) == Decimal("7.5")
    code = api.fault(UPDATE_PAYMENT, **settle(by_account, status="canceled"))
    assert code == "Server.PaymentTransaction.settled"
    api(UPDATE_PAYMENT, **settle(by_account, result_code="charged back"))
    listed = api("PaymentTransaction/get_payment_transaction_list", i_account=1)
    (shown,) = listed["payment_transaction_list"]
    expected = {"i_customer": 1, "status": "completed", "result_code": "charged back"}
    assert named(shown, *expected) == expected
    with api.database.read() as connection:
        entries = connection.execute(select(t.transactions.c.action, t.transactions.c.i_account))
        assert [tuple(row) for row in entries] == [("Online payment", 1), ("Online payment", None)]


def test_a_payment_that_cannot_be_booked_stays_pending(api):
    payment = payment_of(api, i_account=1)
    api("Account/terminate_account", i_account=1)
    code = api.fault(UPDATE_PAYMENT, **settle(payment, status="completed"))
    assert code == "Server.Account.closed"
    info = api("PaymentTransaction/get_payment_transaction_info", i_payment_transaction=payment)[
        "payment_transaction_info"
    ]
    assert info["status"] == "pending"
    both = {"i_account": 1, "i_customer": 1, "amount": 1}
    method = "PaymentTransaction/add_payment_transaction"
    assert api.refuses(method, payment_transaction_info=both) == "payment_transaction_info"


# --- Connections, access ---


def test_connections_are_known_by_their_names(api):
    for name in ("one", "two"):
        info = {"name": name, "vendor_name": "Carrier", "remote_ip": "2001:DB8::1"}
        api("Connection/add_connection", connection_info=info)
    shown = api("Connection/get_connection_info", i_connection=2)["connection_info"]
    assert shown == {
        "i_connection": 2,
        "name": "two",
        "vendor_name": "Carrier",
        "remote_ip": "2001:db8::1",
        "capacity": None,
        "active": "Y",
    }
    rename = {"i_connection": 2, "name": "one"}
    code = api.fault("Connection/update_connection", connection_info=rename)
    assert code == "Server.Connection.duplicate_name"
    wrong = {"i_connection": 2, "remote_ip": "10.0.0.256"}
    field = api.refuses("Connection/update_connection", connection_info=wrong)
    assert field == "connection_info.remote_ip"
    assert len(api("Connection/get_connection_list", vendor_name="c%")["connection_list"]) == 2


def test_a_policy_is_shown_with_its_phases_by_threshold(api):
    attributes = [{"group_name": "LTE", "name": "speed", "values": ["5 Mb/s", None]}]
    info = {"name": "fast", "attributes": attributes}
    api("AccessPolicy/add_access_policy", access_policy_info=info)
    for threshold in (100, 80):
        phase = {"i_access_policy": 1, "name": f"from {threshold}", "threshold": threshold}
        api("AccessPolicy/add_phase", phase_info=phase)
    code = api.fault("AccessPolicy/add_phase", phase_info=phase)
    assert code == "Server.AccessPolicy.duplicate_threshold"
    moved = {"i_access_policy_phase": 2, "threshold": 100}
    code = api.fault("AccessPolicy/update_phase", phase_info=moved)
    assert code == "Server.AccessPolicy.duplicate_threshold"
    code = api.fault("AccessPolicy/add_access_policy", access_policy_info={"name": "fast"})
    assert code == "Server.AccessPolicy.duplicate_name"
    shown = api("AccessPolicy/get_access_policy_info", i_access_policy=1)["access_policy_info"]
    phases = shown.pop("phases")
    assert shown == {"i_access_policy": 1, **info}
    assert [named(each, "threshold", "attributes") for each in phases] == [
        {"threshold": 80, "attributes": []},
        {"threshold": 100, "attributes": []},
    ]


def choose(policy):
    feature = {
        "name": "netaccess_policy",
        "attributes": [{"name": "access_policy", "values": [policy]}],
    }
    return {"i_account": 1, "service_features": [feature]}


def test_a_policy_that_is_chosen_is_one_of_the_environment(api):
    api("AccessPolicy/add_access_policy", access_policy_info={"name": "ours"})
    api.i_env = 4
    api("AccessPolicy/add_access_policy", access_policy_info={"name": "theirs"})
    api.i_env = 3
    assert api("Account/update_service_features", **choose("1")) == {"i_account": 1}
    for unknown in ("2", "3"):
        code = api.fault("Account/update_service_features", **choose(unknown))
        assert code == "Server.AccessPolicy.not_found"


def test_a_product_is_accessible_over_a_service_once(api):
    access = {"i_product": 1, "service": "voice"}
    api("Product/add_accessibility", accessibility_info=access)
    code = api.fault("Product/add_accessibility", accessibility_info=access)
    assert code == "Server.Accessibility.duplicate"
    api("Product/add_accessibility", accessibility_info={**access, "access_code": "*99#"})
    listed = api("Product/get_accessibility_list", i_product=1)["accessibility_list"]
    assert [each["access_code"] for each in listed] == ["", "*99#"]


# --- Quotas ---


def counters(api):
    rows = api("Account/get_full_vd_counter_info", i_account=1)["vd_counter_info"]
    return {
        row["service_name"]: (row["allocated_amount"], row["remaining"], row["unit"])
        for row in rows
    }


def test_counters_name_the_discount_plan_of_the_account_or_its_product(api):
    for name in ("of the product", "of the account"):
        api("DiscountPlan/add_discount_plan", name=name)
    api("Product/update_product", product_info={"i_product": 1, "i_vd_plan": 1})
    with api.database.begin() as connection:
        row = {"i_product": 1, "service": "msg", "monthly_amount": 1}
        connection.execute(insert(t.product_quotas).values(**row))

    def plan():
        (row,) = api("Account/get_full_vd_counter_info", i_account=1)["vd_counter_info"]
        return row["i_vd_plan"], row["vdp_name"], row["addon_priority"]

    assert plan() == (1, "of the product", 0)
    api("Account/update_account", account_info={"i_account": 1, "i_vd_plan": 2})
    assert plan() == (2, "of the account", 0)


def test_counters_show_what_is_left_of_each_service(api):
    with api.database.begin() as connection:
        amounts = {"netaccess": 1000, "msg": 50}
        rows = [
            {"i_product": 1, "service": service, "monthly_amount": amount}
            for service, amount in amounts.items()
        ]
        connection.execute(insert(t.product_quotas), rows)
    untouched = {"netaccess": (1000, 1000, "byte"), "msg": (50, 50, "piece")}
    assert counters(api) == untouched
    api("Usage/top_up", i_account=1, service="netaccess", amount=100)
    assert counters(api) == {**untouched, "netaccess": (1100, 1100, "byte")}
    pay = {"i_account": 1, "action": "Manual payment", "amount": 1}
    api("Account/make_transaction", **pay)
    api("Usage/record", i_account=1, service="netaccess", amount=300)
    api("Usage/record", i_account=1, service="msg", amount=60)
    assert counters(api) == {"netaccess": (1100, 800, "byte"), "msg": (50, 0, "piece")}


def test_a_quota_ends_with_the_month_of_its_account(api):
    with api.database.begin() as connection:
        row = {"i_product": 1, "service": "netaccess", "monthly_amount": 1}
        connection.execute(insert(t.product_quotas).values(**row))
    api("Usage/record", i_account=1, service="netaccess", amount=1)

    def expired(*moment):
        with api.database.begin() as connection:
            passed = clock.tick(connection, datetime(*moment, tzinfo=UTC))
            (state,) = connection.execute(select(t.service_quotas.c.expired)).scalars()
            return passed.quotas_expired, state

    # The account is in Tokyo, nine hours ahead.
    assert expired(2026, 2, 28, 14, 59) == (0, "N")
    assert expired(2026, 2, 28, 15) == (1, "Y")
    assert expired(2026, 3, 2) == (0, "Y")


def test_many_quotas_end_in_batches(api):
    with api.database.begin() as connection:
        rows = [
            {
                "i_env": 3,
                "i_account": 1,
                "i_customer": 1,
                "service": f"s{number}",
                "month": "2026-01",
                "ends_at": datetime(2026, 2, 1, tzinfo=UTC),
            }
            for number in range(5)
        ]
        connection.execute(insert(t.service_quotas), rows)
        # Another program's row without an end never ends.
        connection.execute(
            update(t.service_quotas).where(t.service_quotas.c.service == "s4").values(ends_at=None)
        )
        ticks = [clock.tick(connection, NOW, limit=3) for _ in range(3)]
    assert [(each.quotas_expired, each.more) for each in ticks] == [
        (3, True),
        (1, False),
        (0, False),
    ]
