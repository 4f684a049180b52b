"""The parts of ``pb_data`` in their published shape, each made of an answer of the billing. Pure.

Only what is published is taken on, by name: no password, no Ki and no OPc. What the billing does
not say is left out; there is no null in any part.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Info = dict[str, Any]

_Fields = Mapping[str, Callable[[Any], Any]]

#: There is no published word for an exported account (E); its status says what it is.
_BILL_STATUSES = {
    "O": "open",
    "S": "suspended",
    "I": "inactive",
    "E": "inactive",
    "C": "terminated",
}

_BILLING_MODELS = {
    -1: "debit_account",
    0: "recharge_voucher",
    1: "credit_account",
    2: "alias",
    4: "beneficiary",
}

_FLAG = "effective_flag_value"

#: What the customer's billing status makes of its accounts; of a status of their own, there are no
#: other words.
_CUSTOMER_STATUSES = {
    "C": "closed",
    "D": "customer_provisionally_terminated",
    "E": "customer_exported",
    "L": "customer_limited",
    "S": "customer_suspended",
}


def account_info(account: Info, now: datetime) -> Info:
    """The account as ``Account/get_account_info`` describes it; ``now`` is for its status."""
    told = account.get("status")
    return {
        **_picked(account, _ACCOUNT),
        "status": told if isinstance(told, str) and told else status(account, now),
        "assigned_addons": [_picked(addon, _ADDON) for addon in listed(account, "assigned_addons")],
        "service_features": [_feature(each) for each in listed(account, "service_features")],
    }


def sim_info(card: Info) -> Info:
    """A card as ``SIMCard/get_card_info`` or ``get_card_list`` describes it; never its keys."""
    return _picked(card, _CARD)


def product_info(product: Info) -> Info:
    """A product as ``Product/get_product_info`` describes it."""
    return _picked(product, _PRODUCT)


def access_policy_info(policy: Info) -> Info:
    """A policy as ``AccessPolicy/get_access_policy_info`` describes it."""
    attributes = [
        {**_picked(each, _POLICY_ATTRIBUTE), **_joined(each, "value", "values")}
        for each in listed(policy, "attributes")
    ]
    return {**_picked(policy, _POLICY), "attributes": attributes}


def counter_info(counter: Info) -> Info:
    """A row of ``Account/get_full_vd_counter_info``."""
    return _picked(counter, _COUNTER)


def access_policy_of(account: Info) -> int | None:
    """The access policy in an account's service features, unless it is switched off."""
    for feature in listed(account, "service_features"):
        if feature.get("name") == "netaccess_policy" and feature.get(_FLAG) != "N":
            for attribute in listed(feature, "attributes"):
                if attribute.get("name") == "access_policy":
                    return whole(_values(attribute, "effective_values", "values").split(",")[0])
    return None


def status(account: Info, now: datetime) -> str:
    """How an account stands, in one of the published words, where the billing has no word for it.

    The first that holds of: closed, what its customer's status makes of it, its own dates,
    blocks, funds.
    """
    bill_status = account.get("bill_status")
    if bill_status == "C":
        return "closed"
    if inherited := _CUSTOMER_STATUSES.get(account.get("customer_bill_status") or ""):
        return inherited
    if bill_status in {"S", "E"}:
        return _CUSTOMER_STATUSES[bill_status]
    return by_dates(account, now) or _by_blocks(account) or by_funds(account) or "active"


def whole(value: object) -> int | None:
    """A whole number, also where it is written as a text; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def by_dates(account: Info, now: datetime) -> str | None:
    """What an account's own dates make of it: expired, not yet active, inactive; None: nothing."""
    try:
        today = now.astimezone(ZoneInfo(account.get("time_zone_name") or "UTC")).date()
    except (ZoneInfoNotFoundError, ValueError):
        today = now.date()
    expiration, activation = _day(account, "expiration_date"), _day(account, "activation_date")
    if expiration is not None and expiration <= today:
        return "expired"
    if activation is not None and activation > today:
        return "not_yet_active"
    return "inactive" if account.get("bill_status") == "I" else None


def _by_blocks(account: Info) -> str | None:
    if account.get("blocked") == "Y":
        return "blocked"
    return "customer_blocked" if account.get("customer_blocked") == "Y" else None


def by_funds(account: Info) -> str | None:
    """What a lack of funds makes of an account; None: there is no lack."""
    funds = account.get("available_funds")
    if not isinstance(funds, (int, float)) or funds > 0:
        return None
    if account.get("i_account_balance_control_type") == 2:
        return "customer_has_no_available_funds"
    return "credit_exceeded" if account.get("billing_model") == 1 else "zero_balance"


def _day(account: Info, name: str) -> date | None:
    try:
        return date.fromisoformat(str(account.get(name))[:10])
    except ValueError:
        return None


def _feature(feature: Info) -> Info:
    attributes = [
        {**_picked(each, {"name": _text}), **_joined(each, "effective_value", "effective_values")}
        for each in listed(feature, "attributes")
    ]
    return {**_picked(feature, _FEATURE), "attributes": attributes}


def _joined(attribute: Info, one: str, many: str) -> Info:
    """The values of an attribute, with commas between them."""
    text = _values(attribute, many, one)
    return {one: text} if text else {}


def _values(attribute: Info, *names: str) -> str:
    """The values under the first of these names that is there: a list, or one alone."""
    for name in names:
        value = attribute.get(name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            return ",".join(str(each) for each in values if each is not None)
    return ""


def listed(info: Info, name: str) -> Sequence[Info]:
    """The objects in a list of an answer; none where there is no such list."""
    found = info.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _picked(info: Info, fields: _Fields) -> Info:
    """The fields that are there, in their types."""
    found = {name: kind(info[name]) for name, kind in fields.items() if info.get(name) is not None}
    return {name: value for name, value in found.items() if value is not None}


def _text(value: object) -> str:
    return str(value)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return value if isinstance(value, (int, float)) else float(value)
    except ValueError:
        return None


def _number_or_text(value: object) -> float | str:
    return value if isinstance(value, (int, float)) else str(value)


def _iso(value: object) -> str:
    return str(value).replace(" ", "T", 1)


def _bill_status(value: str) -> str:
    return _BILL_STATUSES.get(value, value)


def _billing_model(value: object) -> str | None:
    number = whole(value)
    return None if number is None else _BILLING_MODELS.get(number)


def _flag(value: object) -> str:
    """A switch that nobody has set (/) is off."""
    return "N" if value == "/" else str(value)


def _yes(value: object) -> bool:
    return value in {"Y", 1}


_ACCOUNT: _Fields = {
    "bill_status": _bill_status,
    "billing_model": _billing_model,
    "blocked": _yes,
    "email": _text,
    "firstname": _text,
    "i_account": whole,
    "i_customer": whole,
    "i_master_account": whole,
    "i_product": whole,
    "i_vd_plan": whole,
    "id": _text,
    "lastname": _text,
    "phone1": _text,
    "product_name": _text,
    "time_zone_name": _text,
    "zip": _text,
}

_ADDON: _Fields = {
    "addon_effective_from": _iso,
    "addon_effective_to": _iso,
    "addon_priority": whole,
    "description": _text,
    "i_product": whole,
    "i_product_group": whole,
    "i_vd_plan": whole,
    "name": _text,
}

_FEATURE: _Fields = {"name": _text, _FLAG: _flag}

_CARD: _Fields = {
    "i_account": whole,
    "i_sim_card": whole,
    "iccid": _text,
    "imsi": _text,
    "msisdn": _text,
    "status": _text,
}

_PRODUCT: _Fields = {
    "name": _text,
    "description": _text,
    "i_product": whole,
    "i_vd_plan": whole,
    "addon_priority": whole,
}

_POLICY: _Fields = {"i_access_policy": whole, "name": _text}

_POLICY_ATTRIBUTE: _Fields = {"group_name": _text, "name": _text}

_COUNTER: _Fields = {
    "discount_info": _text,
    "dg_name": _text,
    "i_vd_plan": whole,
    "i_dest_group": whole,
    "allocated_amount": _number,
    "unit": _text,
    "addon_priority": whole,
    "vdp_name": _text,
    "i_vd_dg": whole,
    "i_service": whole,
    "service_name": _text,
    "remaining": _number_or_text,
}
