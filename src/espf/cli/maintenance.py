"""evctl maintenance: let all deliveries wait."""

import click

from espf import configuration
from espf import maintenance as state
from espf.cli.group import json_option, office, operator, show_fields


@click.group()
def maintenance() -> None:
    """Let all deliveries wait while the systems around ESPF are worked on.

    Events are captured all the while. They go out afterwards, in order; none fails for it. The
    switch is Provisioning.Maintenance of the configuration: each turn of it is a version there.
    """


@maintenance.command()
def on() -> None:
    """Let everything wait, within two seconds; what is in flight comes to its end."""
    _switch(on=True)


@maintenance.command()
def off() -> None:
    """Go on with what waits, within two seconds."""
    _switch(on=False)


@maintenance.command()
@json_option
def status(*, as_json: bool) -> None:
    """Say whether deliveries wait."""
    with office() as at, at.database.read() as connection:
        waits = state.in_maintenance(connection)
    show_fields({"maintenance": waits}, as_json=as_json)


def _switch(*, on: bool) -> None:
    with office() as at, at.database.begin() as connection:
        before = {"maintenance": state.in_maintenance(connection)}
        configuration.set_maintenance(connection, at.database, operator(), on=on)
        at.note(connection, "maintenance", "all deliveries", before, {"maintenance": on})
    click.echo("Maintenance is on: all deliveries wait" if on else "Maintenance is off")
