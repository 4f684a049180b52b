"""Service features: what accounts, customers, customer sites and products may do, and how.

A feature has a switch, its ``flag_value``, and attributes with values. An account's switch may
defer: ``~``, the default, is as its product has it, ``^`` is as its customer has it. ``/`` is not
set. A change of one value is an event, so only what differs is written.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from sqlalchemy import Column, ColumnElement, Connection, Row, delete, insert, select, update

from espf.billing.fields import Key, Params, Search, Switch
from espf.billing.scope import Result, Scope
from espf.billing.tables import access_policies, accounts, customer_sites, customers, products
from espf.billing.tables import service_attribute_values as table
from espf.errors import BillingFault, InvalidRequest

OwnerColumn = Literal["i_account", "i_customer", "i_customer_site", "i_product"]

#: The attribute under which a feature's switch is stored.
FLAG = "flag_value"

#: The attribute whose value is the number of an access policy.
POLICY = "access_policy"

DEFAULT, OF_CUSTOMER, NOT_SET = "~", "^", "/"

_OWNERS = {
    "i_account": (accounts, "Account"),
    "i_customer": (customers, "Customer"),
    "i_customer_site": (customer_sites, "CustomerSite"),
    "i_product": (products, "Product"),
}


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


FeatureName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$"), Field(examples=["clip"])
]
FlagValue = Annotated[
    str, StringConstraints(pattern=r"^([~^/]|[A-Za-z0-9_]{1,32})$"), Field(examples=["Y"])
]
Value = Annotated[
    str,
    StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$"),
    Field(examples=["10.0.0.1"]),
]


class Attribute(Params):
    """An attribute of a feature. ``effective_values`` are taken and have no effect."""

    name: FeatureName
    values: Annotated[list[Value | None], BeforeValidator(_listed), Field(max_length=50)]
    effective_values: list[Value | None] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Attribute":
        if self.name == FLAG:
            raise ValueError(f"{FLAG} is a member of the feature, not one of its attributes")
        if len(self.text or "") > 1000:
            raise ValueError("values: together they may have 1000 characters")
        if self.name == POLICY and not _is_policy(self.text):
            raise ValueError("values: the number of one access policy, or null, is expected")
        return self

    @property
    def text(self) -> str | None:
        """The values as they are stored, one on a line; None: there are none."""
        there = [value for value in self.values if value is not None]
        return "\n".join(there) if there else None


def _is_policy(text: str | None) -> bool:
    return text is None or (text.isascii() and text.isdigit() and 0 < int(text) < 2**63)


class Feature(Params):
    """A feature to set; what is not named stays as it is.

    The vendor's members for effective values and for locks are taken and have no effect.
    """

    name: FeatureName
    flag_value: FlagValue | None = None
    attributes: list[Attribute] = Field(default=[], max_length=100)
    effective_flag_value: FlagValue | None = None
    locked: Switch = 0
    locks: list[Search] | None = None


Features = Annotated[list[Feature], Field(max_length=200)]


@dataclass(frozen=True)
class Owner:
    """Whose features: the name and the value of the key, such as ``i_account`` 541."""

    column: OwnerColumn
    key: int

    @property
    def is_it(self) -> ColumnElement[bool]:
        """Whether a row of the values belongs to it."""
        column: Column[int] = table.c[self.column]
        return column == self.key


class OfAccount(Params):
    """Names an account."""

    i_account: Key

    @property
    def owner(self) -> Owner:
        """Whose features these are."""
        return Owner("i_account", self.i_account)


class OfCustomer(Params):
    """Names a customer."""

    i_customer: Key

    @property
    def owner(self) -> Owner:
        """Whose features these are."""
        return Owner("i_customer", self.i_customer)


class OfSite(Params):
    """Names a customer site."""

    i_customer_site: Key

    @property
    def owner(self) -> Owner:
        """Whose features these are."""
        return Owner("i_customer_site", self.i_customer_site)


class OfProduct(Params):
    """Names a product."""

    i_product: Key

    @property
    def owner(self) -> Owner:
        """Whose features these are."""
        return Owner("i_product", self.i_product)


class UpdateOfAccount(OfAccount):
    """Parameters of update for an account."""

    service_features: Features


class UpdateOfCustomer(OfCustomer):
    """Parameters of update for a customer."""

    service_features: Features


class UpdateOfSite(OfSite):
    """Parameters of update for a customer site."""

    service_features: Features


class UpdateOfProduct(OfProduct):
    """Parameters of update for a product."""

    service_features: Features


def get(scope: Scope, params: OfAccount | OfCustomer | OfSite | OfProduct) -> Result:
    """The features of somebody, by name."""
    _require(scope, params.owner)
    return {"service_features": of(scope.connection, params.owner)}


def update_fields(
    scope: Scope, params: UpdateOfAccount | UpdateOfCustomer | UpdateOfSite | UpdateOfProduct
) -> Result:
    """Set the features that are named. Raises the faults ``.not_found`` and ``.closed``."""
    row = _require(scope, params.owner, lock=True)
    if getattr(row, "bill_status", None) == "C":
        entity = _OWNERS[params.owner.column][1]
        raise BillingFault(f"Server.{entity}.closed", "what is closed does not change")
    write(scope, params.owner, params.service_features)
    return {params.owner.column: params.owner.key}


def write(scope: Scope, owner: Owner, features: Iterable[Feature]) -> None:
    """Store what differs from what is there. Raises ``Server.AccessPolicy.not_found``."""
    there = {(row.service_feature, row.attribute): row for row in _rows(scope.connection, owner)}
    wanted = _wanted(features)
    for (feature, attribute), text in wanted.items():
        row = there.get((feature, attribute))
        if text is None and row is not None:
            scope.connection.execute(delete(table).where(_is(row)))
        elif text is not None:
            column = "i_access_policy" if attribute == POLICY else "value"
            value = _policy(scope, text) if attribute == POLICY else text
            _store(scope, owner, row, feature, attribute, {column: value})


def _wanted(features: Iterable[Feature]) -> dict[tuple[str, str], str | None]:
    wanted: dict[tuple[str, str], str | None] = {}
    for feature in features:
        named = [(attribute.name, attribute.text) for attribute in feature.attributes]
        if feature.flag_value is not None:
            # What defers to others in the usual way needs no row.
            switch = None if feature.flag_value == DEFAULT else feature.flag_value
            named.insert(0, (FLAG, switch))
        for name, text in named:
            if (feature.name, name) in wanted:
                raise InvalidRequest(
                    f"service_features: {feature.name} {name} is there twice", "service_features"
                )
            wanted[feature.name, name] = text
    return wanted


def _store(
    scope: Scope,
    owner: Owner,
    row: Row[Any] | None,
    feature: str,
    attribute: str,
    values: Mapping[str, object],
) -> None:
    if row is None:
        scope.connection.execute(
            insert(table).values(
                i_env=scope.i_env,
                service_feature=feature,
                attribute=attribute,
                **{owner.column: owner.key},
                **values,
            )
        )
    elif any(getattr(row, name) != value for name, value in values.items()):
        scope.connection.execute(update(table).where(_is(row)).values(**values))


def _is(row: Row[Any]) -> ColumnElement[bool]:
    key: int = row.i_service_attribute_value
    return table.c.i_service_attribute_value == key


def _policy(scope: Scope, text: str) -> int:
    """The number of an access policy. Raises ``Server.AccessPolicy.not_found``."""
    number = int(text)
    scope.find(access_policies, "AccessPolicy", access_policies.c.i_access_policy == number)
    return number


def of(connection: Connection, owner: Owner) -> list[Result]:
    """The features of somebody; an account's with what its product and customer give."""
    own = _features(connection, owner)
    given: list[_Features] = [{}, {}]
    if owner.column == "i_account":
        row = connection.execute(
            select(accounts.c.i_product, accounts.c.i_customer).where(
                accounts.c.i_account == owner.key
            )
        ).one()
        givers = (Owner("i_product", row.i_product), Owner("i_customer", row.i_customer))
        given = [_features(connection, giver) for giver in givers]
    return [_described(name, own, *given) for name in sorted(own.keys() | given[0].keys())]


#: Feature -> attribute -> values; the switch is an attribute like any other.
_Features = Mapping[str, Mapping[str, list[str]]]


def _features(connection: Connection, owner: Owner) -> _Features:
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for row in _rows(connection, owner):
        value = row.value if row.i_access_policy is None else str(row.i_access_policy)
        found[row.service_feature][row.attribute] = (value or "").split("\n")
    return found


def _described(name: str, own: _Features, of_product: _Features, of_customer: _Features) -> Result:
    mine = own.get(name, {})
    switch = mine.get(FLAG, [DEFAULT])[0]
    giver = {DEFAULT: of_product, OF_CUSTOMER: of_customer}.get(switch, own)
    theirs = giver.get(name, {})
    effective = theirs.get(FLAG, [NOT_SET])[0]
    names = sorted((mine.keys() | theirs.keys()) - {FLAG})
    return {
        "name": name,
        "flag_value": switch,
        "effective_flag_value": NOT_SET if effective in {DEFAULT, OF_CUSTOMER} else effective,
        "locked": 0,
        "locks": [],
        "attributes": [
            {
                "name": attribute,
                "values": mine.get(attribute, [None]),
                "effective_values": mine.get(attribute) or theirs.get(attribute, [None]),
            }
            for attribute in names
        ],
    }


def _rows(connection: Connection, owner: Owner) -> list[Row[Any]]:
    return list(connection.execute(select(table).where(owner.is_it)))


def _require(scope: Scope, owner: Owner, *, lock: bool = False) -> Row[Any]:
    owners, entity = _OWNERS[owner.column]
    return scope.find(owners, entity, owners.c[owner.column] == owner.key, lock=lock)
