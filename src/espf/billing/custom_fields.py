"""Custom fields: what an operator keeps of accounts, customers or SIM cards beside the rest."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator
from sqlalchemy import Row, Table, delete, insert, select, update

from espf.billing.fields import Key, Params
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts, customers, sim_cards
from espf.billing.tables import custom_field_values as values
from espf.billing.tables import custom_fields as fields
from espf.errors import BillingFault, InvalidRequest

Entity = Literal["account", "customer", "sim_card"]

FieldName = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$"
    ),
    Field(examples=["Colour"]),
]
FieldValue = Annotated[
    str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$"), Field(examples=["blue"])
]

_OWNERS: dict[Entity, tuple[Table, str, str]] = {
    "account": (accounts, "i_account", "Account"),
    "customer": (customers, "i_customer", "Customer"),
    "sim_card": (sim_cards, "i_sim_card", "SIMCard"),
}


class NewField(Params):
    """A field that every account, customer or SIM card of the environment has from now on."""

    name: FieldName


class NoParams(Params):
    """Parameters of get_schema: none."""


class FieldToSet(Params):
    """A field by its number or its name, and the value it gets; null: none.

    The vendor's ``text_value``, which is for people to see, is taken and has no effect.
    """

    i_custom_field: Key | None = None
    name: FieldName | None = None
    db_value: FieldValue | None
    text_value: FieldValue | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "FieldToSet":
        if (self.i_custom_field is None) == (self.name is None):
            raise ValueError("exactly one of i_custom_field and name is expected")
        return self


FieldsToSet = Annotated[list[FieldToSet], Field(max_length=100)]


class OfAccount(Params):
    """Names an account."""

    i_account: Key


class OfCustomer(Params):
    """Names a customer."""

    i_customer: Key


class OfCard(Params):
    """Names a SIM card."""

    i_sim_card: Key


class UpdateOfAccount(OfAccount):
    """Parameters of update for an account."""

    custom_fields_values: FieldsToSet


class UpdateOfCustomer(OfCustomer):
    """Parameters of update for a customer."""

    custom_fields_values: FieldsToSet


class UpdateOfCard(OfCard):
    """Parameters of update for a SIM card."""

    custom_fields_values: FieldsToSet


def has_any(scope: Scope, i_account: int) -> bool:
    """Whether an account has a value in any custom field."""
    query = select(values.c.i_custom_field_value).where(values.c.i_account == i_account)
    return scope.connection.execute(query.limit(1)).first() is not None


class CustomFields:
    """The custom fields of accounts, of customers, or of SIM cards."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity
        self._owners, self._column, self._name = _OWNERS[entity]

    def add(self, scope: Scope, params: NewField) -> Result:
        """Add a field. Raises the fault ``Server.CustomField.duplicate_name``."""
        said = f"there is a custom field {params.name!r} already"
        with scope.unless_taken("Server.CustomField.duplicate_name", said):
            number = scope.insert(fields, entity=self._entity, name=params.name)
        return {"i_custom_field": number}

    def get_schema(self, scope: Scope, params: NoParams) -> Result:  # noqa: ARG002  (every method has them)
        """The fields that there are."""
        return {
            "custom_fields_list": [
                {"i_custom_field": row.i_custom_field, "name": row.name}
                for row in self._schema(scope)
            ]
        }

    def get_values(self, scope: Scope, params: OfAccount | OfCustomer | OfCard) -> Result:
        """All fields of an owner; ``db_value`` is null where it has no value."""
        owner = self._owner(scope, params)
        there = self._values(scope, owner)
        return {
            "custom_fields_values": [
                {
                    "i_custom_field": row.i_custom_field,
                    "name": row.name,
                    "db_value": there[row.i_custom_field].db_value
                    if row.i_custom_field in there
                    else None,
                }
                for row in self._schema(scope)
            ]
        }

    def update_values(
        self, scope: Scope, params: UpdateOfAccount | UpdateOfCustomer | UpdateOfCard
    ) -> Result:
        """Set the fields that are named and differ.

        Raises the faults ``Server.CustomField.not_found`` and the owner's.
        """
        owner = self._owner(scope, params, lock=True)
        there = self._values(scope, owner)
        for number, value in self._wanted(scope, params.custom_fields_values).items():
            self._write(scope, owner, number, value, there.get(number))
        return {self._column: owner}

    def _wanted(self, scope: Scope, named: list[FieldToSet]) -> dict[int, str | None]:
        known = self._schema(scope)
        wanted: dict[int, str | None] = {}
        for each in named:
            field = next(
                (row for row in known if each.name == row.name or each.i_custom_field == row[0]),
                None,
            )
            if field is None:
                raise BillingFault("Server.CustomField.not_found", "there is no such custom field")
            if field.i_custom_field in wanted:
                raise InvalidRequest(
                    f"custom_fields_values: {field.name} is there twice", "custom_fields_values"
                )
            wanted[field.i_custom_field] = each.db_value
        return wanted

    def _write(
        self, scope: Scope, owner: int, number: int, value: str | None, row: Row[Any] | None
    ) -> None:
        is_it = (values.c[self._column] == owner, values.c.i_custom_field == number)
        if row is None and value is not None:
            keys = {"i_env": scope.i_env, "i_custom_field": number, self._column: owner}
            scope.connection.execute(insert(values).values(**keys, db_value=value))
        elif row is not None and value is None:
            scope.connection.execute(delete(values).where(*is_it))
        elif row is not None and row.db_value != value:
            scope.connection.execute(update(values).where(*is_it).values(db_value=value))

    def _owner(
        self, scope: Scope, params: OfAccount | OfCustomer | OfCard, *, lock: bool = False
    ) -> int:
        key: int = getattr(params, self._column)
        row = scope.find(self._owners, self._name, self._owners.c[self._column] == key, lock=lock)
        # A card is never closed.
        if lock and getattr(row, "bill_status", None) == "C":
            raise BillingFault(f"Server.{self._name}.closed", "what is closed does not change")
        return key

    def _schema(self, scope: Scope) -> list[Row[Any]]:
        return list(
            scope.connection.execute(
                select(fields.c.i_custom_field, fields.c.name)
                .where(fields.c.i_env == scope.i_env, fields.c.entity == self._entity)
                .order_by(fields.c.i_custom_field)
            )
        )

    def _values(self, scope: Scope, owner: int) -> dict[int, Row[Any]]:
        rows = scope.connection.execute(select(values).where(values.c[self._column] == owner))
        return {row.i_custom_field: row for row in rows}
