"""Subscribers: the person or company behind an account, with name, address and contact data."""

from typing import Any

from sqlalchemy import Row, select, update

from espf.billing.fields import Comment, Email, Language, Line, Params, Phone
from espf.billing.scope import Scope
from espf.billing.tables import subscribers as table


class ContactFields(Params):
    """Who somebody is, and how to reach them."""

    salutation: Line | None = None
    firstname: Line | None = None
    midinit: Line | None = None
    lastname: Line | None = None
    companyname: Line | None = None
    baddr1: Line | None = None
    address_line_2: Line | None = None
    city: Line | None = None
    state: Line | None = None
    zip: Line | None = None
    country: Line | None = None
    email: Email | None = None
    phone1: Phone | None = None
    phone2: Phone | None = None
    faxnum: Phone | None = None
    cont1: Line | None = None
    cont2: Line | None = None
    bcc: Email | None = None
    note: Comment | None = None


class SubscriberFields(ContactFields):
    """What can be said of a subscriber, among the fields of the account."""

    i_lang: Language | None = None


FIELDS = tuple(SubscriberFields.model_fields)


def add(scope: Scope, i_account: int, values: dict[str, Any]) -> int:
    """Add the subscriber of an account; returns its key."""
    return scope.insert(table, i_account=i_account, **values)


def of_account(scope: Scope, i_account: int) -> Row[Any] | None:
    """The subscriber of an account; None: another program added the account, without one."""
    return scope.connection.execute(select(table).where(table.c.i_account == i_account)).first()


def write(scope: Scope, i_account: int, values: dict[str, Any]) -> None:
    """Change the fields that are named and differ."""
    if not values:
        return
    row = of_account(scope, i_account)
    changed = {name: value for name, value in values.items() if value != getattr(row, name, None)}
    if not changed:
        return
    i_subscriber = add(scope, i_account, {}) if row is None else row.i_subscriber
    scope.connection.execute(
        update(table).where(table.c.i_subscriber == i_subscriber).values(**changed)
    )
