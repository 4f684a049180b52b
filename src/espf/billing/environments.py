"""Environments: the tenants of the reference billing."""

from sqlalchemy import Connection, insert, select

from espf.billing.tables import environments
from espf.errors import Conflict


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
