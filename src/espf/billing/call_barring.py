"""Call barring: classes of destinations, and which of them an account cannot call.

What is barred is the service feature ``call_barring`` of the account, or of the product or customer
that it defers to: its switch, and the numbers of the classes as its attribute ``barred_classes``.
"""

import json
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from sqlalchemy import Row, select

from espf.billing import service_features
from espf.billing.fields import Key, Page, Params, Search, ShortName, matches
from espf.billing.scope import Result, Scope, not_found
from espf.billing.service_features import Attribute, Feature, Owner
from espf.billing.tables import accounts
from espf.billing.tables import call_barring_classes as table
from espf.model import compact

ENTITY = "CallBarringClass"

FEATURE, CLASSES = "call_barring", "barred_classes"

_NAME_TAKEN = (f"Server.{ENTITY}.duplicate_name", "there is a class of this name already")

Prefix = Annotated[str, StringConstraints(pattern=r"^\+?[0-9]{1,15}$"), Field(examples=["+900"])]
Prefixes = Annotated[list[Prefix], Field(max_length=500)]


class NewClass(Params):
    """The fields of a new class: ``prefixes`` are what numbers of its destinations begin with."""

    name: ShortName
    prefixes: Prefixes = Field(default=[])


class ChangedClass(Params):
    """The fields to change; what is not named stays as it is. ``prefixes`` are all of them."""

    i_call_barring_class: Key
    name: ShortName = "-"
    prefixes: Prefixes = Field(default=[])


class AddClass(Params):
    """Parameters of add."""

    call_barring_class_info: NewClass


class UpdateClass(Params):
    """Parameters of update_fields."""

    call_barring_class_info: ChangedClass


class ListClasses(Page):
    """Parameters of get_list. ``name`` may hold ``%``."""

    name: Search | None = None


class OfAccount(Params):
    """Names an account."""

    i_account: Key


class UpdateOfAccount(OfAccount):
    """Parameters of update_of_account: all classes that the account is not to call."""

    i_call_barring_classes: Annotated[list[Key], Field(max_length=50)]


def add(scope: Scope, params: AddClass) -> Result:
    """Add a class. Raises the fault ``Server.CallBarringClass.duplicate_name``."""
    with scope.unless_taken(*_NAME_TAKEN):
        number = scope.insert(table, **_stored(params.call_barring_class_info.model_dump()))
    return {"i_call_barring_class": number}


def update_fields(scope: Scope, params: UpdateClass) -> Result:
    """Change the fields that are named and differ. Raises ``.not_found``, ``.duplicate_name``."""
    info = params.call_barring_class_info
    key = table.c.i_call_barring_class == info.i_call_barring_class
    row = scope.find(table, ENTITY, key, lock=True)
    with scope.unless_taken(*_NAME_TAKEN):
        scope.change(table, row, _stored(info.model_dump(exclude_unset=True)))
    return {"i_call_barring_class": row.i_call_barring_class}


def get_list(scope: Scope, params: ListClasses) -> Result:
    """The environment's classes, in the order in which they were added."""
    wanted = [] if params.name is None else [matches(table.c.name, params.name)]
    rows = scope.page(table, params, *wanted)
    return {"call_barring_class_list": [_described(row) for row in rows]}


def get_of_account(scope: Scope, params: OfAccount) -> Result:
    """All classes, and for each whether the account's calls to it are barred."""
    scope.find(accounts, "Account", accounts.c.i_account == params.i_account)
    barred = _barred(scope, params.i_account)
    query = select(table).where(table.c.i_env == scope.i_env).order_by(*table.primary_key)
    return {
        "call_barring_class_list": [
            {**_described(row), "barred": "Y" if row.i_call_barring_class in barred else "N"}
            for row in scope.connection.execute(query)
        ]
    }


def update_of_account(scope: Scope, params: UpdateOfAccount) -> Result:
    """Bar these classes for an account, and no others: a change of its service feature.

    Raises the faults ``Server.Account.not_found``, ``.closed``,
    ``Server.CallBarringClass.not_found``.
    """
    classes = sorted(set(params.i_call_barring_classes))
    known = select(table.c.i_call_barring_class).where(
        table.c.i_env == scope.i_env, table.c.i_call_barring_class.in_(classes)
    )
    if set(classes) - set(scope.connection.execute(known).scalars()):
        raise not_found(ENTITY)
    feature = Feature(
        name=FEATURE,
        flag_value="Y" if classes else "N",
        attributes=[Attribute(name=CLASSES, values=[str(number) for number in classes])],
    )
    wanted = service_features.UpdateOfAccount(
        i_account=params.i_account, service_features=[feature]
    )
    return service_features.update_fields(scope, wanted)


def _barred(scope: Scope, i_account: int) -> set[int]:
    """The classes that hold for an account, wherever it has them from."""
    for feature in service_features.of(scope.connection, Owner("i_account", i_account)):
        if feature["name"] == FEATURE and feature["effective_flag_value"] == "Y":
            for attribute in feature["attributes"]:
                if attribute["name"] == CLASSES:
                    there = attribute["effective_values"]
                    # Other programs, and update_service_features, may write any text.
                    return {int(one) for one in there if (one or "").isdecimal()}
    return set()


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    """A request's values as the table has them."""
    if "prefixes" in values:
        values["prefixes"] = compact(values["prefixes"])
    return values


def _described(row: Row[Any]) -> Result:
    return {
        "i_call_barring_class": row.i_call_barring_class,
        "name": row.name,
        "prefixes": json.loads(row.prefixes),
    }
