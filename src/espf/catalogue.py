"""The catalogue of event types: what ESPF can tell about, and each type's simplified form."""

import re
import tomllib
from collections.abc import Iterable, Mapping
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
class Way:
    """A way in which events come about in the reference billing.

    ``by_api`` names methods with their parameters, ``by_sql`` statements that do the same, both as
    texts for people. ``events`` are all types that follow, in their order, where somebody hears.
    """

    by_api: str
    by_sql: str
    events: tuple[str, ...]


@dataclass(frozen=True)
class EventType:
    """One entry of the catalogue.

    ``aliases`` are other spellings of the name, from other releases. ``variables`` are what an
    event carries beside ``i_env``, ``i_event`` and ``event_time``; a custom type's are up to who
    creates the event. ``inherited``: CustomerToAccountsDispatcher makes it of a change of the
    customer, too. ``version_2`` is None where no simplified form exists. ``source`` says how the
    type is known: handbook, vendor docs, observed (in public client code) or inferred. ``ways``:
    how it comes about; none where only applications make it.
    """

    name: str
    aliases: tuple[str, ...]
    entity: str
    description: str
    variables: tuple[str, ...]
    inherited: bool
    version_2: str | None
    latest_only: bool
    source: str
    ways: tuple[Way, ...] = ()

    def facts(self) -> dict[str, object]:
        """The entry as a JSON object, the same for the command line and the APIs."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "entity": self.entity,
            "description": self.description,
            "variables": list(self.variables),
            "inherited": self.inherited,
            "version_2": self.version_2,
            "latest_only": self.latest_only,
            "source": self.source,
        }


@cache
def catalogue() -> Mapping[str, EventType]:
    """All types by name, sorted."""
    entries = tomllib.loads((files("espf") / "catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: EventType(
            name=name,
            aliases=tuple(entry.get("aliases", ())),
            entity=entry["entity"],
            description=entry["description"],
            variables=tuple(entry.get("variables", ())),
            inherited=entry.get("inherited", False),
            version_2=name if is_custom(name) else entry.get("version_2"),
            latest_only=entry.get("latest_only", False),
            source=entry["source"],
            ways=tuple(
                Way(way["by_api"], way["by_sql"], tuple(way["events"]))
                for way in entry.get("ways", ())
            ),
        )
        for name, entry in entries.items()
    }


@cache
def aliases() -> Mapping[str, str]:
    """The other spellings, and the name that each stands for."""
    return {alias: entry.name for entry in catalogue().values() for alias in entry.aliases}


def canonical(event_type: str) -> str:
    """The name of a type in the catalogue, whichever of its spellings this is.

    What the catalogue does not know is returned as it is.
    """
    return aliases().get(event_type, event_type)


def spellings(event_type: str) -> tuple[str, ...]:
    """All names of a type, the catalogue's first."""
    name = canonical(event_type)
    entry = catalogue().get(name)
    return (name, *entry.aliases) if entry else (name,)


def facts(event_type: str) -> dict[str, object]:
    """What is known of a type, by any spelling; of one that somebody made that is little."""
    entry = catalogue().get(canonical(event_type))
    if entry is None:
        entry = EventType(
            name=event_type,
            aliases=(),
            entity="custom",
            description="",
            variables=(),
            inherited=False,
            version_2=event_type,
            latest_only=False,
            source="",
        )
    return entry.facts()


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
    entry = catalogue().get(canonical(event_type))
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


def fits_any(event_type: str, patterns: Iterable[str]) -> bool:
    """Whether a type, by any of its names, fits one of the patterns."""
    return any(matches(name, pattern) for pattern in patterns for name in spellings(event_type))


class LatestOnly(dict[str, bool]):
    """Of which types only the newest counts that waits for a subscriber: name -> whether.

    Those that the catalogue marks, and those that fit one of the ``patterns``. A look-up costs
    next to nothing: each event is asked for.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        given = tuple(patterns)
        entries = catalogue().values()
        marked = (e.name for e in entries if e.latest_only or fits_any(e.name, given))
        self.patterns = (*marked, *given)

    def __missing__(self, event_type: str) -> bool:
        found = any(matches(event_type, pattern) for pattern in self.patterns)
        self[event_type] = found
        return found
