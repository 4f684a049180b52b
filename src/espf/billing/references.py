"""References from outside: whether what a caller names exists in its own environment."""

import re
from collections.abc import Mapping

from sqlalchemy import Connection, select

from espf.billing.environments import is_reference_billing
from espf.billing.tables import (
    access_policies,
    access_policy_phases,
    accessibility,
    accounts,
    connections,
    customers,
    environments,
    follow_me_numbers,
    invoices,
    ip_device_profiles,
    payment_transactions,
    products,
    sim_cards,
)
from espf.errors import InvalidRequest

_TABLES = {
    "i_account": accounts,
    "i_customer": customers,
    "i_product": products,
    "i_sim_card": sim_cards,
    "i_invoice": invoices,
    "i_payment_transaction": payment_transactions,
    "i_connection": connections,
    "i_access_policy": access_policies,
    "i_access_policy_phase": access_policy_phases,
    "i_accessibility": accessibility,
    "i_ip_device_profile": ip_device_profiles,
    "i_follow_me_number": follow_me_numbers,
}


def check(connection: Connection, i_env: int, variables: Mapping[str, object]) -> None:
    """Raise InvalidRequest when there is no such environment, or nothing in it of such a name.

    Ids are whole numbers, or texts of their digits: another spelling would be another lane.
    Beside a billing database of another make nothing can be checked, and nothing is.
    """
    checkable = is_reference_billing(connection)
    if checkable:
        there = select(environments.c.i_env).where(environments.c.i_env == i_env)
        if connection.execute(there).first() is None:
            raise InvalidRequest(f"i_env: there is no environment {i_env}", "i_env")
    named = {name: table for name, table in _TABLES.items() if name in variables}
    for name, table in named.items():
        field = f"variables.{name}"
        value = variables[name]
        if not _is_id(value):
            raise InvalidRequest(f"{field}: expected a whole number, not {value!r:.50}", field)
        if not checkable:
            continue
        known = select(table.c.i_env).where(
            table.c[name] == int(str(value)), table.c.i_env == i_env
        )
        if connection.execute(known).first() is None:
            raise InvalidRequest(f"{field}: there is no {name} {value} in your environment", field)


def _is_id(value: object) -> bool:
    text = str(value)
    return (
        isinstance(value, (int, str))
        and re.fullmatch("[1-9][0-9]{0,18}", text) is not None
        and int(text) < 2**63
    )
