"""The SIM card inventory: cards, their keys, and which account holds which card.

An account holds at most one card. Only an available or reserved card can be given to an account;
it is then used, and its msisdn is the account's id. A card that is released is available again.
The card of a closed account is disposed: it is still in the hands of somebody who is no longer a
subscriber.
"""

from typing import Any, Literal

from pydantic import model_validator
from sqlalchemy import ColumnElement, Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from espf.billing.fields import Iccid, Imsi, Key, Page, Params, Search, SimKey, matches
from espf.billing.scope import Result, Scope
from espf.billing.tables import accounts, sim_cards
from espf.errors import BillingFault

ENTITY = "SIMCard"


class NewCard(Params):
    """The fields of a new card. ``ki`` and ``opc`` are sealed before they are stored."""

    imsi: Imsi
    iccid: Iccid
    ki: SimKey | None = None
    opc: SimKey | None = None
    status: Literal["available", "reserved"] = "available"


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


class ReleaseCard(Params):
    """Parameters of release."""

    i_sim_card: Key


def add(scope: Scope, params: AddCard) -> Result:
    """Add a card to the inventory.

    Raises the faults ``Server.SIMCard.duplicate_imsi`` and ``.duplicate_iccid``; both numbers are
    unique over all environments, as they are in the world.
    """
    info = params.card_info
    sealed = {
        name: scope.sealer.seal(key) if (key := getattr(info, name)) else None
        for name in ("ki", "opc")
    }
    row = {**info.model_dump(), **sealed, "i_env": scope.i_env}
    try:
        # A savepoint, so that the transaction can still be asked which number is taken.
        with scope.connection.begin_nested():
            result = scope.connection.execute(insert(sim_cards).values(**row))
    except IntegrityError:
        taken = scope.connection.execute(
            select(sim_cards.c.imsi).where(sim_cards.c.imsi == info.imsi)
        ).first()
        name = "imsi" if taken else "iccid"
        raise BillingFault(
            f"Server.SIMCard.duplicate_{name}", f"there is a card with this {name} already"
        ) from None
    assert result.inserted_primary_key is not None
    return {"i_sim_card": result.inserted_primary_key[0]}


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


def assign(scope: Scope, params: AssignCard) -> Result:
    """Give a card to an account; the card that the account held before is released.

    Raises the faults ``Server.SIMCard.not_available`` and ``Server.Account.closed``. Assigning the
    card that the account holds changes nothing.
    """
    account = scope.find(accounts, "Account", accounts.c.i_account == params.i_account, lock=True)
    if account.bill_status == "C":
        raise BillingFault("Server.Account.closed", "the account is closed")
    card = find(scope, lock=True, i_sim_card=params.i_sim_card)
    if card.i_account != account.i_account:
        give(scope, card, account.i_account, account.id)
    return {"i_sim_card": card.i_sim_card}


def release(scope: Scope, params: ReleaseCard) -> Result:
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


def _take(scope: Scope, which: ColumnElement[bool], status: str) -> None:
    scope.connection.execute(
        update(sim_cards)
        .where(which, or_(sim_cards.c.status != status, sim_cards.c.i_account.is_not(None)))
        .values(i_account=None, status=status, msisdn=None)
    )


def _described(card: Row[Any]) -> Result:
    return {
        name: getattr(card, name)
        for name in ("i_sim_card", "i_account", "imsi", "iccid", "msisdn", "status")
    }
