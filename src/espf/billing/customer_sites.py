"""Customer sites: places of a customer, at which its accounts may be together."""

from sqlalchemy import select

from espf.billing import customers
from espf.billing.fields import Key, Page, Params, ShortName
from espf.billing.scope import Result, Scope
from espf.billing.tables import customer_sites as table

ENTITY = "CustomerSite"


class AddSite(Params):
    """Parameters of add."""

    i_customer: Key
    name: ShortName


class ListSites(Page):
    """Parameters of get_list."""

    i_customer: Key


def add(scope: Scope, params: AddSite) -> Result:
    """Add a site to a customer. Raises the fault ``Server.CustomerSite.duplicate_name``."""
    scope.open_customer(params.i_customer)
    said = f"the customer has a site {params.name!r} already"
    with scope.unless_taken("Server.CustomerSite.duplicate_name", said):
        number = scope.insert(table, i_customer=params.i_customer, name=params.name)
    return {"i_customer_site": number}


def get_list(scope: Scope, params: ListSites) -> Result:
    """The sites of a customer, in the order in which they were added."""
    customers.find(scope, params.i_customer)
    rows = scope.connection.execute(
        select(table.c.i_customer_site, table.c.i_customer, table.c.name)
        .where(table.c.i_customer == params.i_customer)
        .order_by(table.c.i_customer_site)
        .limit(params.limit)
        .offset(params.offset)
    )
    return {"customer_site_list": [dict(row) for row in rows.mappings()]}


def require(scope: Scope, i_customer_site: int, i_customer: int) -> None:
    """Raise the fault ``Server.CustomerSite.not_found`` unless the customer has the site."""
    scope.find(
        table, ENTITY, table.c.i_customer_site == i_customer_site, table.c.i_customer == i_customer
    )
