"""Events as pages show them: a line per handler in lists, and all that is known of one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection

from espf import overview
from espf.catalogue import facts
from espf.errors import InvalidRequest, NotFound
from espf.model import PARENT
from espf.overview import Overview, Page, Story
from espf.sources import RETRYING, SCHEDULED, Filter
from espf.web.pages import listing
from espf.web.pages.visit import Visit

#: The highest number that an event can have.
MAX_EVENT = 2**63 - 1

#: Statuses of what goes on by itself.
_MOVING = frozenset({"queued", SCHEDULED, RETRYING})


@dataclass(frozen=True)
class Told:
    """An event with its variables as pairs of a name and JSON, what its type means, its parent."""

    i_event: int
    story: Story
    variables: Sequence[tuple[str, str]]
    description: str
    parent: int | None

    @property
    def first(self) -> Overview:
        """What all parts say of the event."""
        return self.story.parts[0]

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return not any(part.status in _MOVING for part in self.story.parts)


def tell(connection: Connection, i_event: int, i_env: int) -> Told:
    """An event of an environment. Raises NotFound."""
    story = overview.story(connection, i_event, i_env)
    values = _values(story.variables)
    parent = values.get(PARENT)
    return Told(
        i_event,
        story,
        [(name, json.dumps(value, ensure_ascii=False)) for name, value in values.items()],
        str(facts(story.parts[0].event_type or "")["description"]),
        parent if isinstance(parent, int) else None,
    )


def opened(connection: Connection, visit: Visit) -> Told | None:
    """The event that the address says is open; None: there is no such event."""
    i_event = listing.number(visit, "open", 0, most=MAX_EVENT)
    try:
        return tell(connection, i_event, visit.i_env) if i_event else None
    except NotFound:
        return None


def number_of(text: str) -> int:
    """The number of an event. Raises InvalidRequest."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= MAX_EVENT:
        raise InvalidRequest(f"{text!r:.30} is no number of an event", "chosen")
    return int(text)


@dataclass(frozen=True)
class Group:
    """The lines of one event in a list, a line per handler. ``told``: it is open."""

    lines: Sequence[Overview]
    told: Told | None = None

    @property
    def first(self) -> Overview:
        """What all lines say of the event."""
        return self.lines[0]


def groups_of(lines: Sequence[Overview], told: Told | None = None) -> list[Group]:
    """Lines by event, each with its handlers by name; the event that is told stands open."""
    is_open = told and told.i_event
    return [
        Group(sorted(some, key=lambda one: one.handler or ""), told if i_event == is_open else None)
        for i_event, some in groupby(lines, key=attrgetter("i_event"))
    ]


@dataclass(frozen=True)
class Cursors:
    """The addresses of the neighbouring pages: before this one, and behind it.

    ``onward`` is where to look further when nothing was found among as much as a page looks at,
    ``reached`` the event that was come to.
    """

    previous: str | None = None
    next: str | None = None
    onward: str | None = None
    reached: int | None = None


def page_of(connection: Connection, visit: Visit, wanted: Filter) -> tuple[Page, Cursors]:
    """The page of a list that the address names, and its neighbours."""
    after, before = (
        listing.number(visit, name, 0, most=MAX_EVENT) or None for name in ("after", "before")
    )
    wanted = replace(wanted, after=after, before=None if after else before)
    size = listing.number(visit, "size", 50, most=200)
    oldest_first = is_oldest_first(visit)
    page = overview.page(connection, wanted, size, oldest_first=oldest_first)
    newer = None if page.newer is None else turn(visit, after=page.newer)
    older = None if page.older is None else turn(visit, before=page.older)
    cursors = Cursors(older, newer) if oldest_first else Cursors(newer, older)
    if page.is_short and not page.lines:
        upward = wanted.after is not None or (oldest_first and wanted.before is None)
        reached = page.newer if upward else page.older
        cursors = replace(cursors, onward=newer if upward else older, reached=reached)
    return page, cursors


def turn(visit: Visit, **place: object) -> str:
    """The address of another page of a list."""
    return visit.here(**{"before": None, "after": None, "chosen": None, "open": None, **place})


def is_oldest_first(visit: Visit) -> bool:
    """Which order the address asks for."""
    return listing.parameter(visit, "order") == "oldest"


def _values(variables: str | None) -> dict[str, Any]:
    """What the JSON text holds; a trigger of somebody else's may have written anything."""
    try:
        values = json.loads(variables or "{}")
    except ValueError:
        return {"variables": variables}
    return values if isinstance(values, dict) else {"variables": values}
