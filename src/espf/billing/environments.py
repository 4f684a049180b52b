"""Environments: the tenants of the reference billing."""

from sqlalchemy import Connection, insert, inspect, select

from espf.billing.tables import SCHEMA, environments, metadata
from espf.errors import Conflict


def is_reference_billing(connection: Connection) -> bool:
    """Whether the database holds the reference billing, and not one of another make."""
    where = connection.get_execution_options()["schema_translate_map"][SCHEMA]
    there = inspect(connection).get_table_names(schema=where)
    return {table.name for table in metadata.sorted_tables} <= set(there)


def is_known(connection: Connection, i_env: int) -> bool:
    """Whether the database holds the reference billing, and it has this environment."""
    if not is_reference_billing(connection):
        return False
    one = select(environments.c.i_env).where(environments.c.i_env == i_env)
    return connection.execute(one).first() is not None


def add(connection: Connection, i_env: int, name: str) -> None:
    """Add an environment; one that has this number already stays as it is.

    Raises Conflict when the name belongs to another number.
    """
    known = connection.execute(
        select(environments).where((environments.c.i_env == i_env) | (environments.c.name == name))
    ).all()
    if any(row.i_env == i_env for row in known):
        return
    if known:
        raise Conflict(f"environment {known[0].i_env} has the name {name!r} already")
    connection.execute(insert(environments).values(i_env=i_env, name=name))
