"""The methods, fields and types of the vendor's API, written from its public documents.

Nothing here is taken from the code: what it answers is held against this. What is documented and
not there is in tables of its own, ``*_NOT_HELD``; the page rest-api.md says why of each.
"""

import re

DATE = re.compile(r"\d{4}-\d\d-\d\d")
DATETIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

METHODS = {
    "Account": (
        "get_account_info get_account_list add_account update_account terminate_account "
        "get_service_features update_service_features get_custom_fields_schema "
        "get_custom_fields_values update_custom_fields_values add_alias get_alias_list "
        "get_account_followme move_account get_full_vd_counter_info get_subscriptions "
        "activate_subscriptions charge_subscription_fees activate_bundle"
    ),
    "Customer": (
        "get_customer_info get_customer_list add_customer update_customer terminate_customer"
    ),
    "Product": "get_product_info get_product_list",
    "SIMCard": (
        "get_card_info get_card_list add_sim_card update_sim_card update_sim_card_list "
        "assign_sim_card release_sim_card upload_sim_cards"
    ),
    "AccessPolicy": "get_access_policy_info get_access_policy_list",
    "DID": (
        "get_number_list get_number_info add_number delete_number assign_did_to_customer "
        "assign_did_to_account release_did_from_customer get_customer_numbers"
    ),
    "Invoice": "get_invoice_info get_invoice_list apply_invoice_adjustment",
    "BillingSession": "get_active_sessions_list",
    "Service": "get_service_list",
    "ServicePolicy": "get_service_policy_info get_service_policy_list",
}

#: What no document names, so that no client can expect it.
NO_METHODS = ["Account/get_subscription", "Invoice/get_subscriptions", "CallBarring/get_list"]

LISTED_ACCOUNT = {
    "i_account": int,
    "i_customer": int,
    "i_product": int,
    "i_account_role": int,
    "i_subscriber": int,
    "i_account_balance_control_type": int,
    "billing_model": int,
    "is_active": int,
    "customer_bill_suspended": int,
    "cust_bill_suspension_delayed": int,
    "balance": float,
    "opening_balance": float,
    "credit_limit": float,
    "id": str,
    "bill_status": str,
    "blocked": str,
    "customer_bill_status": str,
    "customer_blocked": str,
    "customer_name": str,
    "product_name": str,
    "product_visible_name": str,
    "iso_4217": str,
    "time_zone_name": str,
    "service_flags": str,
    "salutation": str,
    "firstname": str,
    "midinit": str,
    "lastname": str,
    "companyname": str,
    "address_line_2": str,
    "zip": str,
    "email": str,
    "bcc": str,
    "phone1": str,
    "phone2": str,
    "faxnum": str,
    "cont1": str,
    "cont2": str,
    "note": str,
    "i_lang": str,
    "iso_639_1": str,
    "activation_date": DATE,
    "issue_date": DATE,
    "expiration_date": DATE,
    "inactivity_expire_time": None,
    "life_time": None,
    "i_master_account": None,
    "i_vd_plan": None,
}
ACCOUNT = {
    **LISTED_ACCOUNT,
    "h323_password": str,
    "assigned_addons": list,
    "service_features": list,
    "has_custom_fields": int,
    "idle_days": int,
}

#: Of an account that has used something.
USAGE = {"first_usage": DATE, "first_usage_time": DATETIME, "last_usage": DATETIME}

#: Members of get_subscriptions, of one that is paid for.
SUBSCRIPTION = {
    "i_account_subscription": int,
    "i_subscription": int,
    "i_product": int,
    "int_status": int,
    "start_date": DATE,
    "activation_date": DATE,
    "finish_date": None,
    "billed_to": DATE,
    "monthly_fee": float,
    "name": str,
}
ACCOUNT_NOT_HELD = {
    *("i_acl", "i_role", "i_time_zone", "ecommerce_enabled", "in_date_format", "out_date_format"),
}

ADDON = {
    "i_product": int,
    "name": str,
    "description": str,
    "addon_effective_from": DATETIME,
    "addon_effective_to": DATETIME,
    "addon_priority": int,
    "i_product_group": None,
    "i_subscription": int,
    "product_subscription": dict,
    "i_vd_plan": int,
}
ADDON_NOT_HELD = {
    *("i_account_role", "end_user_name", "realm", "default_i_acl", "hidden", "shared"),
    "managed_by_user",
}

FEATURE = {
    "name": str,
    "flag_value": str,
    "effective_flag_value": str,
    "locked": int,
    "locks": list,
    "attributes": list,
}

CUSTOMER = {
    "i_customer": int,
    "name": str,
    "bill_status": str,
    "blocked": str,
    "balance": float,
    "credit_limit": float,
    "perm_credit_limit": float,
    "credit_exceed": int,
    "iso_4217": str,
    "creation_date": DATETIME,
    "bill_suspension_delayed": int,
    "suspension_delay_date": None,
    "terminate_on": None,
    "restore_on": None,
    "deactivate_on": None,
    "scheduled_status_change_list": list,
    "firstname": str,
    "lastname": str,
    "companyname": str,
    "email": str,
    "phone1": str,
}
CUSTOMER_NOT_HELD = {
    *("i_customer_class", "i_customer_type", "i_billing_period", "i_time_zone"),
    *("i_balance_control_type", "billed_to", "next_billed_to", "callshop_enabled"),
}

PRODUCT = {
    "i_product": int,
    "name": str,
    "description": str,
    "i_vd_plan": int,
    "addon_priority": int,
}
COUNTER = {
    "i_vd_plan": int,
    "vdp_name": str,
    "i_service": int,
    "service_name": str,
    "unit": str,
    "addon_priority": int,
    "allocated_amount": int,
    "remaining": int,
}
COUNTER_NOT_HELD = {"discount_info", "dg_name", "i_dest_group", "i_vd_dg"}

#: Parameters that are documented, by method, and that nothing here answers to.
PARAMETERS_NOT_HELD = {
    "Account/get_account_info": {
        *("login", "batch_name", "i_batch", "control_number", "i_subscriber"),
    },
    "Account/get_account_list": {
        *("extension_id", "extension_name", "get_statuses", "sip_status", "state"),
    },
    "Customer/get_customer_info": {"login"},
    "Customer/get_customer_list": {"i_customer_type", "i_parent", "i_office_type", "get_statuses"},
}

CARD = {
    "i_sim_card": int,
    "i_account": int,
    "imsi": str,
    "iccid": str,
    "msisdn": str,
    "status": str,
}

#: Features of the documented sample, with their attributes.
FEATURES = {
    "netaccess_policy": ["access_policy"],
    "netaccess_static_ip": ["address", "netmask", "routed_network"],
    "netaccess_sessions": ["max_sessions"],
    "call_barring": [],
    "clip": [],
    "clir": [],
    "forward_mode": [],
    "sim_calls_limit": [],
    "legal_intercept": [],
    "voice_location": [],
    "individual_routing_plan": [],
}


def check(record, fields, not_held=frozenset()):
    """Fail with every documented field that is missing or of another type."""
    wrong = {
        name: record.get(name, "missing")
        for name, kind in fields.items()
        if name not in record or not has_type(record[name], kind)
    }
    assert wrong == {}
    assert not_held & record.keys() == set(), "it is held now: move it to the other table"


def has_type(value, kind):
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    return value is None if kind is None else type(value) is kind
