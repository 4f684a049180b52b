"""evctl type: the event types."""

import click

from espf import subscriptions
from espf.capture import triggers
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
    click.echo(f"Created event type #{number} {name}")


@type_.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List all event types."""
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
    click.echo(f"Event type {name} is {'enabled' if enabled else 'disabled'}")
