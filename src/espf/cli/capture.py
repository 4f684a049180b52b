"""evctl capture: the triggers that the capture rules compile to."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from sqlalchemy import Connection

from espf.capture import measuring, rules, triggers
from espf.cli.group import Office, json_option, office, show, show_fields
from espf.db.trigger import Trigger

rules_option = click.option(
    "--rules",
    "chosen",
    metavar="FILE|NAME",
    help="A file of capture rules, or the name of rules that come with ESPF: "
    f"{', '.join(rules.SHIPPED)}. [default: ESPF_RULES, else billing, the reference billing's]",
)


@click.group()
def capture() -> None:
    """Triggers on the billing tables, compiled from capture rules."""


@capture.command()
@rules_option
@click.option(
    "--measure",
    "measured",
    is_flag=True,
    help="Measure what a write costs with each trigger and without, on a copy of some rows.",
)
@json_option
def plan(chosen: str | None, measured: bool, as_json: bool) -> None:
    """Show what 'apply' would do, and with --measure what it costs; changes nothing."""
    with office() as at:
        with at.database.read() as connection:
            wanted = _wanted(at, connection, chosen)
            todo = triggers.plan(connection, at.database.dialect, wanted)
        costs = _measured(at, wanted) if measured and not todo.problems else []
    rows = [{"action": "drop", "trigger": name, "ddl": None} for name in todo.drop]
    rows += [
        {"action": "create", "trigger": each.name, "ddl": ";\n".join(each.statements)}
        for each in todo.create
    ]
    rows += [{"action": "keep", "trigger": name, "ddl": None} for name in todo.unchanged]
    _report(rows, costs, as_json=as_json)
    for problem in todo.problems:
        click.echo(f"problem: {problem}", err=True)
    if todo.problems:
        raise SystemExit(2)


@capture.command()
@rules_option
def apply(chosen: str | None) -> None:
    """Make the installed triggers those that the rules compile to.

    All or none, where the database can undo it (SQLite, PostgreSQL). On MariaDB each trigger is
    replaced by one statement: no write goes uncaptured, and running it again completes it.
    """
    with office() as at, at.database.begin() as connection:
        done = triggers.apply(connection, at.database.dialect, _wanted(at, connection, chosen))
        dropped = {"dropped": list(done.drop)}
        created = {"created": [each.name for each in done.create]}
        at.note(connection, "capture.apply", "triggers", dropped, created)
    for name in done.drop:
        click.echo(f"drop    {name}")
    for each in done.create:
        click.echo(f"create  {each.name}")
    click.echo(f"{len(done.unchanged)} triggers unchanged")


@capture.command()
@rules_option
def verify(chosen: str | None) -> None:
    """Check that the triggers are installed as compiled; exit code 1 when they are not."""
    with office() as at, at.database.read() as connection:
        wanted = _wanted(at, connection, chosen)
        drifts = triggers.verify(connection, at.database.dialect, wanted)
    for drift in drifts:
        click.echo(str(drift))
    if drifts:
        click.echo("run 'evctl capture apply' to mend this", err=True)
        raise SystemExit(1)
    click.echo(f"{len(wanted)} triggers are installed as compiled")


@capture.command()
@rules_option
def sql(chosen: str | None) -> None:
    """Print the DDL as a script, for a database administrator to read or run.

    It is complete: it makes all triggers, and drops those that no rule wants any more.
    """
    with office() as at, at.database.read() as connection:
        wanted = _wanted(at, connection, chosen)
        click.echo(triggers.ddl(connection, at.database.dialect, wanted), nl=False)


@capture.command()
def remove() -> None:
    """Drop every trigger of ESPF: nothing is captured from then on."""
    with office() as at, at.database.begin() as connection:
        names = triggers.remove(connection, at.database.dialect)
        at.note(connection, "capture.remove", "triggers", {"dropped": list(names)})
    click.echo(f"{len(names)} triggers dropped")


def _wanted(at: Office, connection: Connection, chosen: str | None) -> Sequence[Trigger]:
    wanted = rules.chosen_rules(chosen or at.settings.rules)
    return triggers.compile_rules(wanted, triggers.disabled_types(connection))


def _measured(at: Office, wanted: Sequence[Trigger]) -> list[measuring.Cost]:
    costs: list[measuring.Cost] = []
    with suppress(_Undone), at.database.begin() as connection:
        costs += measuring.measure(connection, at.database.dialect, wanted)
        raise _Undone
    return costs


class _Undone(Exception):
    """Rolls back what was only a measurement."""


def _report(
    rows: Sequence[Mapping[str, Any]], costs: Sequence[measuring.Cost], *, as_json: bool
) -> None:
    measured = [vars(each) for each in costs]
    if as_json:
        show_fields({"triggers": rows, "costs": measured}, as_json=True)
        return
    show(rows, ("action", "trigger"), as_json=False)
    if measured:
        show(measured, tuple(measured[0]), as_json=False)
        click.echo(
            f"microseconds per row over this connection, {measuring.ROWS} rows at most, 'rows' of "
            "them in each statement, in one transaction that was rolled back; what a commit costs "
            "comes on top. 'bulk' is the trigger of a table that the rules call so",
            err=True,
        )
