"""The SIM card inventory: cards, their keys, and which account holds which card.

An account holds at most one card. Only an available or reserved card can be given to an account;
it is then used, and its msisdn is the account's id. A card that is released is available again.
The card of a closed account is disposed: it is still in the hands of somebody who is no longer a
subscriber.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from sqlalchemy import ColumnElement, Row, delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from espf.billing import browse
from espf.billing.browse import Found, Leaf
from espf.billing.fields import Iccid, Imsi, Key, Line, Page, Params, Search, SimKey, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import custom_field_values, sim_cards
from espf.errors import BillingFault

ENTITY = "SIMCard"

#: Cards that one request may change.
MOST_CARDS = 1000


def _action(value: object) -> object:
    """The vendor's words for its signs."""
    return {"add": "+", "remove": "-"}.get(value, value) if isinstance(value, str) else value


class CardFields(Params):
    """What can be given to a new card and changed later. Keys are sealed before they are stored."""

    ki: SimKey | None = None
    opc: SimKey | None = None
    description: Line | None = None


class NewCard(CardFields):
    """The fields of a new card."""

    imsi: Imsi
    iccid: Iccid
    status: Literal["available", "reserved"] = "available"


class ChangedCard(CardFields):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_sim_card: Key
    imsi: Imsi = "000000"
    iccid: Iccid = "0" * 18
    status: Literal["available", "reserved", "disposed"] = "available"


class UpdateCard(Params):
    """Parameters of update_fields."""

    card_info: ChangedCard


class UpdateCards(Params):
    """Parameters of update_list: the same change for many cards."""

    i_sim_cards: list[Key] = Field(min_length=1, max_length=MOST_CARDS)
    status: Literal["available", "reserved", "disposed"] = "available"
    description: Line | None = None

    @model_validator(mode="after")
    def _changes(self) -> "UpdateCards":
        if not self.model_fields_set - {"i_sim_cards"}:
            raise ValueError("status, description or both are expected")
        return self


class Uploaded(CardFields):
    """A line of an upload: a card to add, or to remove."""

    action: Annotated[Literal["+", "-"], BeforeValidator(_action)]
    imsi: Imsi
    iccid: Iccid | None = None

    @model_validator(mode="after")
    def _has_both_numbers(self) -> "Uploaded":
        if self.action == "+" and self.iccid is None:
            raise ValueError("a card to add has an iccid")
        return self


class Upload(Params):
    """Parameters of upload."""

    card_list: list[Uploaded] = Field(min_length=1, max_length=MOST_CARDS)


class AddCard(Params):
    """Parameters of add."""

    card_info: NewCard


class GetCard(Params):
    """Names one card by exactly one of its identifiers."""

    i_sim_card: Key | None = None
    imsi: Imsi | None = None
    iccid: Iccid | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "GetCard":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("exactly one of i_sim_card, imsi and iccid is expected")
        return self


class ListCards(Page):
    """Parameters of get_list. ``imsi`` and ``iccid`` may hold ``%``."""

    status: Literal["available", "reserved", "used", "disposed"] | None = None
    imsi: Search | None = None
    iccid: Search | None = None
    i_account: Key | None = None


class AssignCard(Params):
    """Parameters of assign."""

    i_sim_card: Key
    i_account: Key


class OneCard(Params):
    """Parameters of release and remove."""

    i_sim_card: Key


def add(scope: Scope, params: AddCard) -> Result:
    """Add a card to the inventory.

    Raises the faults ``Server.SIMCard.duplicate_imsi`` and ``.duplicate_iccid``; both numbers are
    unique over all environments, as they are in the world.
    """
    values = params.card_info.model_dump()
    with _unless_taken(scope, values["imsi"]):
        number = scope.insert(sim_cards, **_sealed(scope, values))
    return {"i_sim_card": number}


def update_fields(scope: Scope, params: UpdateCard) -> Result:
    """Change the fields that are named and differ.

    Raises the faults ``Server.SIMCard.duplicate_imsi``, ``.duplicate_iccid`` and ``.in_use``: the
    status of a card that an account holds is not changed; release it first.
    """
    info = params.card_info
    card = find(scope, lock=True, i_sim_card=info.i_sim_card)
    values = info.model_dump(exclude_unset=True)
    with _unless_taken(scope, values.get("imsi"), card.i_sim_card):
        _update(scope, card, values)
    return {"i_sim_card": card.i_sim_card}


def update_list(scope: Scope, params: UpdateCards) -> Result:
    """Give many cards the same status or description: all of them or, with a fault, none.

    Raises the faults ``Server.SIMCard.not_found`` and ``.in_use``.
    """
    values = params.model_dump(exclude_unset=True, exclude={"i_sim_cards"})
    keys = sorted(set(params.i_sim_cards))
    for key in keys:
        _update(scope, find(scope, lock=True, i_sim_card=key), values)
    return {"updated": len(keys)}


def upload(scope: Scope, params: Upload) -> Result:
    """Add and remove many cards, line by line: all of them or, with a fault, none.

    Raises the faults of add and remove.
    """
    for line in params.card_list:
        try:
            _do(scope, line)
        except BillingFault as fault:
            raise BillingFault(fault.code, f"{line.imsi}: {fault}") from None
    signs = [line.action for line in params.card_list]
    return {"added": signs.count("+"), "removed": signs.count("-")}


def _do(scope: Scope, line: Uploaded) -> None:
    if line.action == "+":
        card = NewCard(**line.model_dump(exclude={"action"}))
        add(scope, AddCard(card_info=card))
    else:
        _remove(scope, find(scope, lock=True, imsi=line.imsi))


def remove(scope: Scope, params: OneCard) -> Result:
    """Delete a card that no account holds. Raises ``Server.SIMCard.in_use``."""
    _remove(scope, find(scope, lock=True, i_sim_card=params.i_sim_card))
    return {"success": 1}


def get_info(scope: Scope, params: GetCard) -> Result:
    """One card; with its keys when the caller may see them."""
    card = find(scope, **params.model_dump(exclude_none=True))
    info = _described(card)
    if scope.sees_keys:
        for name in ("ki", "opc"):
            sealed = getattr(card, name)
            info[name] = scope.sealer.unseal(sealed) if sealed else None
    return {"card_info": info}


def get_list(scope: Scope, params: ListCards) -> Result:
    """Cards of the inventory, in the order in which they were added; never with keys."""
    query = select(sim_cards).where(sim_cards.c.i_env == scope.i_env)
    if params.status is not None:
        query = query.where(sim_cards.c.status == params.status)
    if params.imsi is not None:
        query = query.where(matches(sim_cards.c.imsi, params.imsi))
    if params.iccid is not None:
        query = query.where(matches(sim_cards.c.iccid, params.iccid))
    if params.i_account is not None:
        query = query.where(sim_cards.c.i_account == params.i_account)
    rows = scope.connection.execute(
        query.order_by(sim_cards.c.i_sim_card).limit(params.limit).offset(params.offset)
    )
    return {"card_list": [_described(row) for row in rows]}


def leaf(scope: Scope, wanted: Leaf, status: str | None = None) -> Found[Result]:
    """A leaf of the environment's cards, or of those of one status, by their IMSIs."""
    of_status = [] if status is None else [sim_cards.c.status == status]
    found = browse.numbers(scope, sim_cards.c.imsi, wanted, *of_status)
    leaf = browse.rows_of(scope, select(sim_cards), sim_cards.c.i_sim_card, found)
    return Found([_described(row) for row in leaf.rows], leaf.has_earlier, leaf.has_later)


def assign(scope: Scope, params: AssignCard) -> Result:
    """Give a card to an account; the card that the account held before is released.

    Raises the faults ``Server.SIMCard.not_available`` and ``Server.Account.closed``. Assigning the
    card that the account holds changes nothing.
    """
    account = scope.open_account(params.i_account)
    card = find(scope, lock=True, i_sim_card=params.i_sim_card)
    if card.i_account != account.i_account:
        give(scope, card, account.i_account, account.id)
    return {"i_sim_card": card.i_sim_card}


def release(scope: Scope, params: OneCard) -> Result:
    """Take a card from its account, or out of reserve or disposal: it is available again."""
    card = find(scope, lock=True, i_sim_card=params.i_sim_card)
    _take(scope, sim_cards.c.i_sim_card == card.i_sim_card, "available")
    return {"i_sim_card": card.i_sim_card}


def find(scope: Scope, *, lock: bool = False, **identifiers: int | str) -> Row[Any]:
    """The card with these column values. Raises the fault ``Server.SIMCard.not_found``."""
    wanted = (sim_cards.c[name] == value for name, value in identifiers.items())
    return scope.find(sim_cards, ENTITY, *wanted, lock=lock)


def give(scope: Scope, card: Row[Any], i_account: int, msisdn: str) -> None:
    """Link a card to an account, in place of the one that it holds.

    Raises the fault ``Server.SIMCard.not_available``.
    """
    if card.status not in {"available", "reserved"}:
        raise BillingFault(
            "Server.SIMCard.not_available",
            f"the card {card.imsi} is {card.status}; only an available or reserved card "
            "can be assigned",
        )
    _take(scope, sim_cards.c.i_account == i_account, "available")
    scope.connection.execute(
        update(sim_cards)
        .where(sim_cards.c.i_sim_card == card.i_sim_card)
        .values(i_account=i_account, status="used", msisdn=msisdn)
    )


def rename(scope: Scope, i_account: int, msisdn: str) -> None:
    """Keep the msisdn of an account's card equal to the account's id."""
    scope.connection.execute(
        update(sim_cards).where(sim_cards.c.i_account == i_account).values(msisdn=msisdn)
    )


def dispose(scope: Scope, i_account: int) -> None:
    """Take the card from an account that is closed, for good."""
    _take(scope, sim_cards.c.i_account == i_account, "disposed")


def held_by(scope: Scope, i_account: int) -> Result | None:
    """The summary of the card that an account holds."""
    row = scope.connection.execute(
        select(sim_cards.c.i_sim_card, sim_cards.c.imsi, sim_cards.c.iccid)
        .where(sim_cards.c.i_account == i_account)
        .order_by(sim_cards.c.i_sim_card)
    ).first()
    return None if row is None else dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's public name)


def _update(scope: Scope, card: Row[Any], values: dict[str, Any]) -> None:
    if card.i_account is not None and "status" in values:
        raise _in_use(card)
    for name in values.keys() & {"ki", "opc"}:
        # Sealed anew, the same key would look like another.
        sealed = getattr(card, name)
        if values[name] == (scope.sealer.unseal(sealed) if sealed else None):
            del values[name]
    scope.change(sim_cards, card, _sealed(scope, values))


def _remove(scope: Scope, card: Row[Any]) -> None:
    if card.i_account is not None:
        raise _in_use(card)
    fields = custom_field_values
    scope.connection.execute(delete(fields).where(fields.c.i_sim_card == card.i_sim_card))
    scope.connection.execute(delete(sim_cards).where(sim_cards.c.i_sim_card == card.i_sim_card))


def _in_use(card: Row[Any]) -> BillingFault:
    return BillingFault(
        f"Server.{ENTITY}.in_use", f"an account holds the card {card.imsi}: release it first"
    )


def _sealed(scope: Scope, values: dict[str, Any]) -> dict[str, Any]:
    keys = {name: key for name in ("ki", "opc") if (key := values.get(name))}
    return values | {name: scope.sealer.seal(key) for name, key in keys.items()}


@contextmanager
def _unless_taken(scope: Scope, imsi: str | None, but: int | None = None) -> Iterator[None]:
    """Raise the fault that says which number another card than ``but`` has."""
    try:
        # A savepoint, so that the transaction can still be asked which number is taken.
        with scope.connection.begin_nested():
            yield
    except IntegrityError:
        query = select(sim_cards.c.i_sim_card).where(sim_cards.c.imsi == imsi)
        taken = scope.connection.execute(query).scalar()
        name = "iccid" if taken in {None, but} else "imsi"
        raise BillingFault(
            f"Server.SIMCard.duplicate_{name}", f"there is a card with this {name} already"
        ) from None


def _take(scope: Scope, which: ColumnElement[bool], status: str) -> None:
    scope.connection.execute(
        update(sim_cards)
        .where(which, or_(sim_cards.c.status != status, sim_cards.c.i_account.is_not(None)))
        .values(i_account=None, status=status, msisdn=None)
    )


def _described(card: Row[Any]) -> Result:
    return {
        name: getattr(card, name)
        for name in ("i_sim_card", "i_account", "imsi", "iccid", "msisdn", "status", "description")
    }
