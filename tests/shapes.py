"""The published shapes of what ESPF sends, as JSON schemas, written from the vendor's documents.

Nothing here is taken from the code: what it sends is held against this.
"""

from collections.abc import Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator

Schema = Mapping[str, Any]

INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
STRING: Schema = {"type": "string"}
#: YYYY-MM-DD HH:MM:SS, in UTC.
TIME: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"}
#: ISO 8601 without an offset, and with one.
ISO_TIME: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?$"}
ISO_OFFSET: Schema = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d$",
}


def thing(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these members and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def check(schema: Schema, value: object) -> None:
    """Fail with every difference between a value and its published shape."""
    errors = [
        f"{'/'.join(map(str, error.instance_path))}: {error.message}"
        for error in Draft202012Validator(schema).iter_errors(value)
    ]
    assert not errors, "\n".join(errors)


# EventSender, version 1: the event's own name; what else it carries is up to its type.

#: The variables that have a documented type, where an event has them; an empty column is null.
_TYPED: Mapping[str, Schema] = {
    **dict.fromkeys(("i_env", "i_event"), INTEGER),
    **{name: {"type": ["integer", "null"]} for name in ("i_account", "i_customer", "i_invoice")},
    **dict.fromkeys(("prev_balance", "curr_balance"), NUMBER),
    "event_time": TIME,
}


def version_1(event_type: str) -> Schema:
    variables = {"type": "object", "required": ["i_event"], "properties": _TYPED}
    return thing({"event_type": one_of(event_type), "variables": variables})


# EventSender, version 2: fifteen simplified events, each with exactly these variables.

_CUSTOMER = thing({"i_customer": INTEGER, "i_event": INTEGER})
_SUBSCRIBER = thing({"i_account": INTEGER, "i_event": INTEGER})
_DID = thing({"number": STRING, "i_event": INTEGER})
_INVOICE = thing({"i_customer": INTEGER, "i_invoice": INTEGER, "i_event": INTEGER})
_SIM = thing(
    {"i_env": INTEGER, "i_event": INTEGER},
    # i_sim_card is ours: without it, an event of a card that nobody holds would name no card.
    {
        "i_account": INTEGER,
        "event_time": TIME,
        "curr_status": STRING,
        "prev_status": STRING,
        "i_sim_card": INTEGER,
    },
)

VERSION_2: Mapping[str, Schema] = {
    **dict.fromkeys(("Customer/Created", "Customer/Updated", "Customer/Deleted"), _CUSTOMER),
    **dict.fromkeys(
        ("Subscriber/Created", "Subscriber/Updated", "Subscriber/Deleted"), _SUBSCRIBER
    ),
    **dict.fromkeys(("DID/Created", "DID/Updated", "DID/Deleted"), _DID),
    **dict.fromkeys(("Invoice/Created", "Invoice/Updated"), _INVOICE),
    **dict.fromkeys(("SIM/Created", "SIM/Updated", "SIM/Deleted", "SIM/Replaced"), _SIM),
}


def version_2(event_type: str) -> Schema:
    return thing({"event_type": one_of(event_type), "variables": VERSION_2[event_type]})


# ConnectorSender: the enriched event.

_ADDON = thing(
    {"i_product": INTEGER, "name": STRING},
    {
        "addon_effective_from": ISO_TIME,
        "addon_effective_to": ISO_TIME,
        "addon_priority": INTEGER,
        "description": STRING,
        "i_product_group": INTEGER,
        "i_vd_plan": INTEGER,
    },
)

_FEATURE = thing(
    {"name": STRING, "attributes": many(thing({"name": STRING}, {"effective_value": STRING}))},
    {"effective_flag_value": STRING},
)

STATUSES = (
    *("active", "customer_exported", "expired", "quarantine", "screening", "closed", "inactive"),
    *("customer_suspended", "customer_limited", "customer_provisionally_terminated", "blocked"),
    *("customer_blocked", "not_yet_active", "credit_exceeded", "overdraft"),
    *("customer_has_no_available_funds", "customer_credit_exceed", "zero_balance"),
    *("customer_suspension_delayed", "customer_limiting_delayed", "frozen"),
)

ACCOUNT_INFO = thing(
    {
        "i_account": INTEGER,
        "i_customer": INTEGER,
        "i_product": INTEGER,
        "id": STRING,
        "bill_status": one_of("open", "suspended", "inactive", "terminated"),
        "billing_model": one_of(
            "debit_account", "recharge_voucher", "credit_account", "alias", "beneficiary"
        ),
        "blocked": {"type": "boolean"},
        "status": one_of(*STATUSES),
        "assigned_addons": many(_ADDON),
        "service_features": many(_FEATURE),
    },
    {
        "email": STRING,
        "firstname": STRING,
        "lastname": STRING,
        "i_master_account": INTEGER,
        "i_vd_plan": INTEGER,
        "phone1": STRING,
        "product_name": STRING,
        "time_zone_name": STRING,
        "zip": STRING,
    },
)

SIM_INFO = thing(
    {"i_sim_card": INTEGER},
    {
        "i_account": INTEGER,
        "iccid": STRING,
        "imsi": STRING,
        "msisdn": STRING,
        "status": one_of("available", "reserved", "used", "disposed"),
    },
)

ACCESS_POLICY_INFO = thing(
    {
        "i_access_policy": INTEGER,
        "name": STRING,
        "attributes": many(thing({"name": STRING}, {"group_name": STRING, "value": STRING})),
    }
)

PRODUCT_INFO = thing(
    {"i_product": INTEGER, "name": STRING},
    {"description": STRING, "i_vd_plan": INTEGER, "addon_priority": INTEGER},
)

COUNTER = thing(
    {},
    {
        "discount_info": STRING,
        "dg_name": STRING,
        "i_vd_plan": INTEGER,
        "i_dest_group": INTEGER,
        "allocated_amount": NUMBER,
        "unit": STRING,
        "addon_priority": INTEGER,
        "vdp_name": STRING,
        "i_vd_dg": INTEGER,
        "i_service": INTEGER,
        "service_name": STRING,
        "remaining": {"type": ["number", "string"]},
    },
)

ENRICHED = thing(
    {
        "event_id": {"type": "string", "pattern": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "data": thing(
            {"event_type": STRING, "variables": {"type": "object", "properties": _TYPED}}
        ),
        "pb_data": thing(
            {},
            {
                "account_info": ACCOUNT_INFO,
                "sim_info": SIM_INFO,
                "prev_sim_info": SIM_INFO,
                "access_policy_info": ACCESS_POLICY_INFO,
                "product_info": PRODUCT_INFO,
                "full_vd_counter_info": many(COUNTER),
            },
        ),
        "handler_id": STRING,
        "updated_at": ISO_OFFSET,
        "status": one_of("received", "queued", "undefined"),
    },
    {"created_at": ISO_OFFSET},
)
