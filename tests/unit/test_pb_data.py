"""From what the billing answers to the published parts of ``pb_data``."""

from datetime import UTC, datetime

import pytest

import shapes
from espf.handlers import pb_data

NOW = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)

ACCOUNT = {
    "i_account": 541,
    "i_customer": 42,
    "i_product": 6,
    "i_master_account": None,
    "id": "380441234567@msisdn",
    "bill_status": "O",
    "billing_model": 1,
    "i_account_balance_control_type": 1,
    "blocked": "N",
    "customer_bill_status": "O",
    "customer_blocked": "N",
    "available_funds": 10.5,
    "email": "user@example.net",
    "firstname": "Jo",
    "lastname": "",
    "phone1": "",
    "product_name": "Mobile",
    "time_zone_name": "Europe/Kyiv",
    "activation_date": "2026-01-01",
    "expiration_date": None,
    "password": "self-care secret",
    "h323_password": "service secret",
    "sim_card": {"i_sim_card": 7, "ki": "A" * 32},
    "assigned_addons": [
        {
            "i_product": "77",
            "name": "Roaming",
            "description": "",
            "addon_effective_from": "2026-02-01 00:00:00",
            "addon_effective_to": None,
            "addon_priority": 10,
            "i_product_group": None,
            "i_vd_plan": 1591,
            "hidden": "N",
        }
    ],
    "service_features": [
        {
            "name": "netaccess_policy",
            "flag_value": "~",
            "effective_flag_value": "Y",
            "locked": 0,
            "attributes": [
                {"name": "access_policy", "values": [None], "effective_values": ["179"]}
            ],
        },
        {
            "name": "clip",
            "effective_flag_value": "/",
            "attributes": [
                {"name": "several", "effective_values": ["a", None, "b"]},
                {"name": "none", "effective_values": []},
                {"name": "given", "values": ["x"]},
            ],
        },
    ],
}


def info(**changed):
    return pb_data.account_info({**ACCOUNT, **changed}, NOW)


def test_an_account_has_its_published_shape_and_nothing_else():
    made = info()
    shapes.check(shapes.ACCOUNT_INFO, made)
    assert made == {
        "i_account": 541,
        "i_customer": 42,
        "i_product": 6,
        "id": "380441234567@msisdn",
        "bill_status": "open",
        "billing_model": "credit_account",
        "blocked": False,
        "status": "active",
        "email": "user@example.net",
        "firstname": "Jo",
        "lastname": "",
        "phone1": "",
        "product_name": "Mobile",
        "time_zone_name": "Europe/Kyiv",
        "assigned_addons": [
            {
                "i_product": 77,
                "name": "Roaming",
                "description": "",
                "addon_effective_from": "2026-02-01T00:00:00",
                "addon_priority": 10,
                "i_vd_plan": 1591,
            }
        ],
        "service_features": [
            {
                "name": "netaccess_policy",
                "effective_flag_value": "Y",
                "attributes": [{"name": "access_policy", "effective_value": "179"}],
            },
            {
                "name": "clip",
                "effective_flag_value": "N",
                "attributes": [
                    {"name": "several", "effective_value": "a,b"},
                    {"name": "none"},
                    {"name": "given"},
                ],
            },
        ],
    }


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("O", "open"),
        ("S", "suspended"),
        ("I", "inactive"),
        ("E", "inactive"),
        ("C", "terminated"),
    ],
)
def test_billing_statuses(code, name):
    assert info(bill_status=code)["bill_status"] == name


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (-1, "debit_account"),
        (0, "recharge_voucher"),
        (1, "credit_account"),
        ("2", "alias"),
        (4, "beneficiary"),
    ],
)
def test_billing_models(code, name):
    assert info(billing_model=code)["billing_model"] == name


@pytest.mark.parametrize(("flag", "blocked"), [("Y", True), ("N", False)])
def test_blocked_is_true_of_who_is_blocked(flag, blocked):
    assert info(blocked=flag)["blocked"] is blocked


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, "active"),
        ({"bill_status": "C", "blocked": "Y"}, "closed"),
        ({"customer_bill_status": "S", "blocked": "Y"}, "customer_suspended"),
        ({"customer_bill_status": "E"}, "customer_exported"),
        ({"customer_bill_status": "L"}, "customer_limited"),
        ({"customer_bill_status": "D"}, "customer_provisionally_terminated"),
        ({"customer_bill_status": "C"}, "closed"),
        ({"bill_status": "S"}, "customer_suspended"),
        ({"bill_status": "E"}, "customer_exported"),
        ({"bill_status": "I"}, "inactive"),
        # In Kyiv it is the 2nd already.
        ({"bill_status": "I", "expiration_date": "2026-03-02"}, "expired"),
        ({"expiration_date": "2026-03-03"}, "active"),
        ({"bill_status": "I", "activation_date": "2026-03-03"}, "not_yet_active"),
        ({"activation_date": "2026-03-02"}, "active"),
        ({"activation_date": "2026-03-02", "time_zone_name": "No/Where"}, "not_yet_active"),
        ({"blocked": "Y", "customer_blocked": "Y"}, "blocked"),
        ({"customer_blocked": "Y", "available_funds": 0}, "customer_blocked"),
        ({"available_funds": 0}, "credit_exceeded"),
        ({"available_funds": -1, "billing_model": -1}, "zero_balance"),
        (
            {"available_funds": 0, "i_account_balance_control_type": 2},
            "customer_has_no_available_funds",
        ),
        ({"available_funds": None}, "active"),
        ({"status": "frozen", "blocked": "Y"}, "frozen"),
    ],
    ids=str,
)
def test_the_status_in_one_word(changed, status):
    assert info(**changed)["status"] == status
    assert status in shapes.STATUSES


def test_a_card_never_has_its_keys():
    card = {"i_sim_card": 7, "imsi": "255070000000001", "ki": "A" * 32, "opc": "B" * 32, "pin": "1"}
    assert pb_data.sim_info({**card, "i_account": None, "status": "available"}) == {
        "i_sim_card": 7,
        "imsi": "255070000000001",
        "status": "available",
    }


def test_an_access_policy():
    policy = {
        "i_access_policy": 179,
        "name": "Gold",
        "attributes": [
            {"group_name": "lte.wtl", "name": "cs_profile", "values": ["cs-1"]},
            {"group_name": "lte.wtl", "name": "apn", "values": ["a", "b"]},
            {"group_name": "lte.wtl", "name": "eps_profile", "value": "eps-1"},
        ],
        "phases": [],
    }
    made = pb_data.access_policy_info(policy)
    shapes.check(shapes.ACCESS_POLICY_INFO, made)
    assert [each["value"] for each in made["attributes"]] == ["cs-1", "a,b", "eps-1"]


def test_counters():
    row = {
        "service_name": "netaccess",
        "unit": "byte",
        "allocated_amount": "10.5",
        "remaining": "N/A",
        "addon_priority": 10,
        "threshold": 3,
    }
    made = pb_data.counter_info(row)
    shapes.check(shapes.COUNTER, made)
    assert made == {
        "service_name": "netaccess",
        "unit": "byte",
        "allocated_amount": 10.5,
        "remaining": "N/A",
        "addon_priority": 10,
    }
    assert pb_data.counter_info({"remaining": 7, "allocated_amount": "much"}) == {"remaining": 7}


@pytest.mark.parametrize(
    ("features", "policy"),
    [
        (ACCOUNT["service_features"], 179),
        ([], None),
        (None, None),
        ([{"name": "netaccess_policy", "attributes": []}], None),
        ([{**ACCOUNT["service_features"][0], "effective_flag_value": "N"}], None),
        ([{"name": "netaccess_policy", "attributes": [{"name": "access_policy"}]}], None),
        (
            [
                {
                    "name": "netaccess_policy",
                    "attributes": [{"name": "access_policy", "values": ["5"]}],
                }
            ],
            5,
        ),
    ],
)
def test_the_access_policy_of_an_account(features, policy):
    assert pb_data.access_policy_of({"service_features": features}) == policy


@pytest.mark.parametrize("rubbish", [7, "text", [7, None, "x"], {"a": 1}])
def test_rubbish_of_a_foreign_billing_is_left_out(rubbish):
    made = info(assigned_addons=rubbish, service_features=rubbish, i_vd_plan="none")
    assert made["assigned_addons"] == []
    assert made["service_features"] == []
    assert "i_vd_plan" not in made
