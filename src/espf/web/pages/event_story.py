"""One event as pages tell of it, in a list or by itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from espf import overview
from espf.catalogue import facts
from espf.model import PARENT
from espf.overview import RETRYING, SCHEDULED, Overview, Story

#: What waits for its first attempt, or for its time: nothing of it can be restarted.
_UNTRIED = frozenset({"queued", SCHEDULED})
_BROKEN = frozenset({"failed", "rejected", RETRYING})
_SKIPPABLE = frozenset({"failed", RETRYING})


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
        moving = {*_UNTRIED, RETRYING}
        return not any(part.status in moving for part in self.story.parts)


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


def is_restartable(part: Overview) -> bool:
    """Whether a part of an event can be tried again, whatever its verdict was."""
    return part.handler is not None and part.status not in _UNTRIED


def is_broken(part: Overview) -> bool:
    """Whether somebody will want it restarted."""
    return part.status in _BROKEN


def is_skippable(part: Overview) -> bool:
    """Whether a handler can be told to give it up."""
    return part.status in _SKIPPABLE


def _values(variables: str | None) -> dict[str, Any]:
    """What the JSON text holds; a trigger of somebody else's may have written anything."""
    try:
        values = json.loads(variables or "{}")
    except ValueError:
        return {"variables": variables}
    return values if isinstance(values, dict) else {"variables": values}
