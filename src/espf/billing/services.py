"""The services of an environment: what its products give, and what they can be used over.

A service is there from the moment that something of the billing is given its name.
"""

from collections.abc import Iterable
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from espf.billing.fields import Page, Search, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import services


class ListServices(Page):
    """Parameters of get_list. ``name`` may hold ``%``."""

    name: Search | None = None


def get_list(scope: Scope, params: ListServices) -> Result:
    """The environment's services, in the order in which they were first named."""
    wanted = [] if params.name is None else [matches(services.c.name, params.name)]
    return {
        "service_list": [
            {"i_service": row.i_service, "name": row.name, "unit": unit_of(row.name)}
            for row in scope.page(services, params, *wanted)
        ]
    }


def note(scope: Scope, names: Iterable[str]) -> None:
    """Give those of these services a number that have none."""
    for name in sorted(set(names) - numbers(scope).keys()):
        # Somebody else may do so at the same time.
        with suppress(IntegrityError), scope.connection.begin_nested():
            scope.insert(services, name=name)


def numbers(scope: Scope) -> dict[str, int]:
    """The numbers of the environment's services, by name."""
    rows = scope.connection.execute(
        select(services.c.name, services.c.i_service).where(services.c.i_env == scope.i_env)
    )
    return {row.name: row.i_service for row in rows}


def unit_of(service: str) -> str:
    """What amounts of a service count."""
    return "byte" if service == "netaccess" else "piece"
