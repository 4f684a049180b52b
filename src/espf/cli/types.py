"""evctl type: the event types."""

from itertools import groupby

import click

from espf import subscriptions
from espf.capture import triggers
from espf.catalogue import EventType, Way, canonical, catalogue
from espf.cli.group import json_option, office, show


@click.group("type")
def type_() -> None:
    """Event types: the catalogue's and your own."""


@type_.command()
@click.argument("name")
def create(name: str) -> None:
    """Create a custom event type; its NAME starts with Custom/.

    \b
    Example:
      evctl type create Custom/NextMonth
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        number = subscriptions.create_type(connection, name)
        at.note(connection, "type.create", f"event type {name}")
    click.echo(f"Created event type #{number} {name}")


@type_.command("list")
@json_option
@click.option("--markdown", is_flag=True, help="Print the catalogue as a page of documentation.")
def list_(*, as_json: bool, markdown: bool) -> None:
    """List all event types.

    \b
    Examples:
      evctl type list
      evctl type list --markdown > docs/reference/event-types.md
    """  # noqa: D301
    if markdown:
        click.echo(_page(), nl=False)
        return
    with office() as at, at.database.read() as connection:
        rows = subscriptions.describe_types(connection)
    show(rows, ["number", "name", "enabled", "version_2", "description"], as_json=as_json)


@type_.command()
@click.argument("name")
def enable(name: str) -> None:
    """Have the triggers capture a type again."""
    _switch(name, enabled=True)


@type_.command()
@click.argument("name")
def disable(name: str) -> None:
    """Leave a type out of the triggers: nothing of it is captured, for anybody."""
    _switch(name, enabled=False)


def _switch(name: str, *, enabled: bool) -> None:
    with office() as at, at.database.begin() as connection:
        subscriptions.set_type_enabled(connection, name, enabled=enabled)
        triggers.reapply(connection, at.database.dialect, at.settings.rules)
        action = "type.enable" if enabled else "type.disable"
        at.note(connection, action, f"event type {canonical(name)}")
    click.echo(f"Event type {name} is {'enabled' if enabled else 'disabled'}")


_HEAD = """# Event types

Made by `evctl type list --markdown` from the catalogue, `src/espf/catalogue.toml`.

Every type happens in the reference billing, over its [API](rest-api.md) and by plain SQL alike: the
shipped [rules](capture-rules.md) capture it. Handlers can be subscribed to all of them, and all can
be put into the queue over the [ESPF API](espf-api.md).

- **Variables**: `i_env` stands before them, `event_time` (UTC) after them; at delivery `i_event`
  comes last. Passwords are never among them: ask the billing API.
- **Version 2**: the simplified event that a handler of API version 2 sends instead. A type without
  one goes out under version 1 only.
- **Other names**: a name that changed between releases of the vendor's. ESPF takes each spelling
  everywhere, and sends an event under the one that its handler was subscribed to.
- **Latest only**: of several that wait for one subscriber only the newest is delivered.
- **Inherited**: a change of the customer makes it, too, by way of a CustomerToAccountsDispatcher.
- **Source**: how the type is known. The vendor's *handbook* or *vendor docs* describe it, it was
  *observed* in public client code, or it is *inferred* from others. Variables are documented in
  public only for the balance events and those of SIM cards; the others are what a subscriber needs.

One change may be several events. They come in the order of the rules: who the subscriber is, then
the money, what it does, the blocks, the status, and the end last. [How they come
about](#how-they-come-about) tells what makes each type, and what comes with it.

`Custom/…` types are yours: [`evctl type create`](evctl.md#evctl-type-create) makes them, they carry
the variables that you give them, and are the same in both versions.
"""


_WAYS = """## How they come about

What makes each type in the reference billing: a call of its [API](rest-api.md), and statements of
any other program that come to the same. A parameter stands there with its value where that is what
counts; … is any value. All that follows is listed, in its order, of types that somebody is
subscribed to; what dispatchers make of it comes on top.

| Type | By API | By SQL | Events |
|---|---|---|---|
"""


def _page() -> str:
    """The catalogue as a page: a table for each group of names that begin alike, and of ways."""
    lines = [_HEAD]
    for group, entries in groupby(catalogue().values(), lambda entry: entry.name.split("/")[0]):
        lines += [f"## {group}", "", "| Type | When | Variables | Version 2 | Notes | Source |"]
        lines += ["|---|---|---|---|---|---|", *map(_row, entries), ""]
    ways = [_way(entry.name, way) for entry in catalogue().values() for way in entry.ways]
    return "\n".join(lines) + "\n" + _WAYS + "".join(ways)


def _way(name: str, way: Way) -> str:
    events = ", ".join(f"`{each}`" for each in way.events)
    return f"| `{name}` | `{way.by_api}` | `{way.by_sql}` | {events} |\n"


def _row(entry: EventType) -> str:
    notes = [
        *(f"other name `{alias}`" for alias in entry.aliases),
        *(["latest only"] if entry.latest_only else []),
        *(["inherited"] if entry.inherited else []),
    ]
    cells = [
        f"`{entry.name}`",
        entry.description,
        ", ".join(f"`{name}`" for name in entry.variables),
        f"`{entry.version_2}`" if entry.version_2 else "",
        ", ".join(notes),
        entry.source,
    ]
    return f"| {' | '.join(cells)} |"
