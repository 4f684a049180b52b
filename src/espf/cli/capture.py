"""evctl capture: the triggers that the capture rules compile to."""

from collections.abc import Sequence
from pathlib import Path

import click
from sqlalchemy import Connection

from espf.capture import rules, triggers
from espf.cli.group import Office, office
from espf.db.trigger import Trigger

rules_option = click.option(
    "--rules",
    "rules_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of capture rules. [default: ESPF_RULES, else the rules of the reference billing]",
)


@click.group()
def capture() -> None:
    """Triggers on the billing tables, compiled from capture rules."""


@capture.command()
@rules_option
def plan(rules_file: Path | None) -> None:
    """Show what 'apply' would do; changes nothing."""
    with office() as at, at.database.read() as connection:
        todo = triggers.plan(connection, at.database.dialect, _wanted(at, connection, rules_file))
    _print(todo, "would ")
    for problem in todo.problems:
        click.echo(f"problem: {problem}", err=True)
    if todo.problems:
        raise SystemExit(2)


@capture.command()
@rules_option
def apply(rules_file: Path | None) -> None:
    """Make the installed triggers those that the rules compile to: all or none."""
    with office() as at, at.database.begin() as connection:
        done = triggers.apply(connection, at.database.dialect, _wanted(at, connection, rules_file))
    _print(done, "")


@capture.command()
@rules_option
def verify(rules_file: Path | None) -> None:
    """Check that the triggers are installed as compiled; exit code 1 when they are not."""
    with office() as at, at.database.read() as connection:
        wanted = _wanted(at, connection, rules_file)
        drifts = triggers.verify(connection, at.database.dialect, wanted)
    for drift in drifts:
        click.echo(str(drift))
    if drifts:
        click.echo("run 'evctl capture apply' to mend this", err=True)
        raise SystemExit(1)
    click.echo(f"{len(wanted)} triggers are installed as compiled")


@capture.command()
@rules_option
def sql(rules_file: Path | None) -> None:
    """Print the DDL, for a database administrator to read or run."""
    with office() as at, at.database.read() as connection:
        wanted = _wanted(at, connection, rules_file)
        click.echo(triggers.ddl(connection, at.database.dialect, wanted), nl=False)


@capture.command()
def remove() -> None:
    """Drop every trigger of ESPF: nothing is captured from then on."""
    with office() as at, at.database.begin() as connection:
        names = triggers.remove(connection, at.database.dialect)
    click.echo(f"{len(names)} triggers dropped")


def reapply(at: Office, connection: Connection) -> None:
    """Compile again after a type was switched, if anything is installed at all."""
    if at.database.dialect.triggers.installed(connection):
        triggers.apply(connection, at.database.dialect, _wanted(at, connection, None))


def _wanted(at: Office, connection: Connection, rules_file: Path | None) -> Sequence[Trigger]:
    path = rules_file or at.settings.rules
    chosen = rules.load_rules(path) if path else rules.shipped_rules()
    return triggers.compile_rules(chosen, triggers.disabled_types(connection))


def _print(todo: triggers.Plan, would: str) -> None:
    for name in todo.drop:
        click.echo(f"{would}drop    {name}")
    for each in todo.create:
        click.echo(f"{would}create  {each.name}")
    click.echo(f"{len(todo.unchanged)} triggers unchanged")
