"""Demo data: an environment in which the handbook's scenarios can be played."""

import secrets
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, select

from espf.billing import customers, environments, products, sim_cards
from espf.billing.scope import Scope
from espf.billing.tables import customers as customer_table
from espf.billing.tables import products as product_table
from espf.billing.tables import sim_cards as card_table
from espf.crypto import Sealer

DEMO_ENV = 3
ENVIRONMENT = "Demo"
PRODUCT = "LTE Product"
CUSTOMER = "Demo Telecom Ltd"
CARDS = 10
MONTHLY_BYTES = 5 * 10**9

#: Numbers of the test network (mobile country code 001, network code 01).
FIRST_IMSI = 1010000000001
FIRST_ICCID = 8900101000000000001


def load(connection: Connection, sealer: Sealer, now: datetime) -> None:
    """Add environment 3 with a product, a credit customer and SIM cards; tables must exist.

    A second call changes nothing.
    """
    environments.add(connection, DEMO_ENV, ENVIRONMENT)
    scope = Scope(connection, DEMO_ENV, now, sealer)
    _add_product(scope)
    _add_customer(scope)
    _add_cards(scope)


def _add_product(scope: Scope) -> None:
    known = scope.connection.execute(
        select(product_table.c.i_product).where(
            product_table.c.i_env == DEMO_ENV, product_table.c.name == PRODUCT
        )
    ).first()
    if known is None:
        quota = products.MonthlyQuota(service="netaccess", monthly_amount=MONTHLY_BYTES)
        product = products.NewProduct(
            name=PRODUCT, description="Mobile Internet with a monthly quota", quotas=[quota]
        )
        products.add(scope, products.AddProduct(product_info=product))


def _add_customer(scope: Scope) -> None:
    known = scope.connection.execute(
        select(customer_table.c.i_customer).where(
            customer_table.c.i_env == DEMO_ENV, customer_table.c.name == CUSTOMER
        )
    ).first()
    if known is None:
        customer = customers.NewCustomer(
            name=CUSTOMER, companyname=CUSTOMER, credit_limit=Decimal(1000)
        )
        customers.add(scope, customers.AddCustomer(customer_info=customer))


def _add_cards(scope: Scope) -> None:
    known = set(scope.connection.execute(select(card_table.c.imsi)).scalars())
    for number in range(CARDS):
        imsi = f"{FIRST_IMSI + number:015d}"
        if imsi not in known:
            card = sim_cards.NewCard(
                imsi=imsi,
                iccid=str(FIRST_ICCID + number),
                ki=secrets.token_hex(16),
                opc=secrets.token_hex(16),
            )
            sim_cards.add(scope, sim_cards.AddCard(card_info=card))
