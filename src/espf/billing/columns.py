"""What the tables of the reference billing are made of.

Money is exact to 1/100,000 of the currency's unit.
"""

from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Integer,
    Numeric,
    String,
    Text,
    TypeDecorator,
    case,
    column,
    literal,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

SCALE = 100_000

#: More than anybody can have, and a number that every database stores.
UNLIMITED_FUNDS = Decimal(10) ** 13

#: The balance control under which an account spends its customer's funds.
SUBORDINATE = 2

#: 64 bits, and still the number that SQLite counts up by itself.
Number = BigInteger().with_variant(Integer, "sqlite")


class Money(TypeDecorator[Decimal]):
    """Decimal in Python; an integer of 1/100,000 where the database has no decimals."""

    impl = Numeric(20, 5)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """SQLite counts; the others have DECIMAL."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(Numeric(20, 5))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Python to database."""
        if value is None or dialect.name != "sqlite":
            return value
        return int((value * SCALE).to_integral_value())

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Database to Python: 5, not 5.00000, from every database."""
        if value is None:
            return None
        return Decimal(value if dialect.name == "sqlite" else int(value * SCALE)) / SCALE


def one_of(*owners: str) -> CheckConstraint:
    """A row belongs to exactly one of these."""
    counted = " + ".join(f"CASE WHEN {owner} IS NULL THEN 0 ELSE 1 END" for owner in owners)
    return CheckConstraint(f"{counted} = 1")


def credit() -> ColumnElement[Decimal]:
    """What a credit limit leaves to spend."""
    limit = column("credit_limit", Money)
    return case(
        (limit.is_(None), literal(UNLIMITED_FUNDS, Money)),
        else_=limit - column("balance", Money),
    )


def contact() -> list[Column[str]]:
    """Who somebody is, and how to reach them."""
    return [
        *(Column(name, String(120)) for name in ("salutation", "firstname", "midinit", "lastname")),
        Column("companyname", String(120)),
        *(Column(name, String(120)) for name in ("baddr1", "address_line_2", "city", "state")),
        *(Column(name, String(120)) for name in ("zip", "country")),
        Column("email", String(255)),
        Column("bcc", String(255)),
        *(Column(name, String(64)) for name in ("phone1", "phone2", "faxnum")),
        *(Column(name, String(120)) for name in ("cont1", "cont2")),
        # What the operator has to say of them.
        Column("note", Text),
    ]
