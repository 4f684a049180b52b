"""The catalogue of event types: what ESPF can tell about, and each type's simplified form."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

CUSTOM_PREFIX = "Custom/"

#: The variables of a simplified (version 2) event, beside ``i_event``, by the name's first word.
#: Whole numbers are those whose names begin with ``i_``, texts are the others.
VERSION_2_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "Customer": ("i_customer",),
    "Subscriber": ("i_account",),
    "DID": ("number",),
    "Invoice": ("i_customer", "i_invoice"),
    "SIM": ("i_env",),
}

#: Those that it carries only when the event has them.
VERSION_2_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "SIM": ("i_account", "i_sim_card", "curr_status", "prev_status", "event_time"),
}

_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")


@dataclass(frozen=True)
class EventType:
    """One entry of the catalogue. ``version_2`` is None where no simplified form exists."""

    name: str
    entity: str
    description: str
    version_2: str | None
    latest_only: bool
    source: str


@cache
def catalogue() -> Mapping[str, EventType]:
    """All types by name, sorted."""
    entries = tomllib.loads((files("espf") / "catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: EventType(
            name=name,
            entity=entry["entity"],
            description=entry["description"],
            version_2=entry.get("version_2"),
            latest_only=entry.get("latest_only", False),
            source=entry["source"],
        )
        for name, entry in entries.items()
    }


def is_custom(event_type: str) -> bool:
    """Whether an administrator made this type."""
    return event_type.startswith(CUSTOM_PREFIX)


def is_well_formed(event_type: str) -> bool:
    """Whether a name is words of letters, digits and underscores, joined by slashes."""
    return len(event_type) <= 128 and _NAME.fullmatch(event_type) is not None


def version_2(event_type: str) -> str | None:
    """The name under which API version 2 sends a type; None: not at all."""
    if is_custom(event_type):
        return event_type
    entry = catalogue().get(event_type)
    return entry.version_2 if entry else None


def matches(event_type: str, pattern: str) -> bool:
    """Whether a name fits a pattern such as ``Account/Blocked``, ``Account/*`` or ``*``.

    ``*`` stands for one word between slashes; at the end of the pattern it stands for any rest,
    so that ``Account/*`` covers ``Account/Status/Closed``.
    """
    parts = [re.escape(part) for part in pattern.split("*")]
    tail = parts.pop()
    expression = "[^/]*".join(parts)
    if len(pattern.split("*")) > 1:
        expression += ".*" if not tail else "[^/]*" + tail
    else:
        expression = tail
    return re.fullmatch(expression, event_type) is not None
