"""What the registers of mobile networks have in common: IMSIs, numbers, and the keys of cards."""

import re
from hashlib import blake2b

from espf.errors import Rejected
from espf.handlers.desired import DesiredStateSettings, reported_under
from espf.handlers.subscriber import Card, Subscriber

_IMSI = re.compile(r"\d{6,15}", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)
_KEY = re.compile(r"[0-9A-F]{32}")

#: The keys of cards, and the members of an object in which a register tells a card's other secrets.
SECRETS = re.compile(
    r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{32}(?![0-9A-Fa-f])"
    r'|"(?:pin[12]?|puk[12]?|adm1?|kid|psk|des)"\s*:\s*"[^"]+"'
)

#: By which services a quota that is used up takes data away.
DATA = frozenset({"netaccess", "data"})


class RegisterSettings(DesiredStateSettings):
    """The options of every handler of a register."""

    service_group: str = reported_under("HSS")


def imsi(key: str) -> str:
    """An IMSI, if it is one. Raises Rejected."""
    if not _IMSI.fullmatch(key):
        raise Rejected(f"the IMSI {key!r} is not 6 to 15 digits")
    return key


def number(owner: Subscriber) -> str:
    """The number (MSISDN) of a subscriber: its id. Raises Rejected when that is none."""
    found = owner.id.removeprefix("+")
    if not _NUMBER.fullmatch(found):
        raise Rejected(f"the account's id {owner.id!r} is no number of up to 15 digits")
    return found


def keys(card: Card | None) -> tuple[str, str] | None:
    """The Ki and the OPc of a card; None where the billing does not know both.

    Raises Rejected when they are no keys.
    """
    if card is None or card.ki is None or card.opc is None:
        return None
    found = card.ki.upper(), card.opc.upper()
    if not all(_KEY.fullmatch(each) for each in found):
        raise Rejected("a key of the SIM card is not 32 hexadecimal digits")
    return found


def mark(imsi_: str, ki: str, opc: str) -> str:
    """What says which keys a card has, and not what they are: 40 hexadecimal digits."""
    return blake2b(f"{imsi_}:{ki}:{opc}".encode(), digest_size=20).hexdigest()


def is_key(text: str) -> bool:
    """Whether a text is a key, not stars in its place."""
    return _KEY.fullmatch(text.upper()) is not None
