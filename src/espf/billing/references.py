"""References from outside: whether what a caller names exists in its own environment."""

from collections.abc import Mapping

from sqlalchemy import Connection, inspect, select

from espf.billing.tables import accounts, customers, products, sim_cards
from espf.errors import InvalidRequest

_TABLES = {
    "i_account": accounts,
    "i_customer": customers,
    "i_product": products,
    "i_sim_card": sim_cards,
}


def check(connection: Connection, i_env: int, variables: Mapping[str, object]) -> None:
    """Raise InvalidRequest when variables name something that is not there for this environment.

    Beside a billing database of another make nothing can be checked, and nothing is.
    """
    named = {name: table for name, table in _TABLES.items() if name in variables}
    for name, table in named.items():
        field = f"variables.{name}"
        value = variables[name]
        if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) >= 2**63:
            raise InvalidRequest(f"{field}: expected a whole number, not {value!r}", field)
        if not inspect(connection).has_table(table.name) or "i_env" not in {
            column["name"] for column in inspect(connection).get_columns(table.name)
        }:
            continue
        known = select(table.c.i_env).where(
            table.c[name] == int(str(value)), table.c.i_env == i_env
        )
        if connection.execute(known).first() is None:
            raise InvalidRequest(f"{field}: there is no {name} {value} in your environment", field)
