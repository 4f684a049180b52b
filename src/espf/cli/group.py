"""What all commands share: the open database, errors as exit codes, tables and JSON."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from espf import settings
from espf.crypto import Sealer
from espf.db import schema
from espf.db.database import Database
from espf.errors import EspfError, InvalidRequest
from espf.model import format_time
from espf.settings import Settings


def number(value: str) -> int:
    """An i_env, an i_event, an i_account: what fits into a column of the database."""
    try:
        whole = int(value)
    except ValueError:
        whole = 0
    if not 0 < whole < 2**63:
        raise click.BadParameter(f"{value!r:.50} is no whole number above 0")
    return whole


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class ErrorsToExitCodes(click.Group):
    """Turns an error of ESPF into a message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is not text, before a command meets it."""
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:
                raise click.UsageError(f"the argument {word!r} is not valid UTF-8") from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except EspfError as error:
            click.echo(f"evctl: {error}", err=True)
            ctx.exit(error.exit_code)


class Office:
    """The database, the keys and the settings, as a command needs them."""

    def __init__(self, database: Database, loaded: Settings) -> None:
        self.database = database
        self.settings = loaded

    @property
    def sealer(self) -> Sealer:
        """The keys. Raises SettingsError when there is no key file."""
        return Sealer.open(self.settings.key_file)


@contextmanager
def office(*, initialised: bool = True, create: bool = False) -> Iterator[Office]:
    """Open the database that the settings name, and close it at the end.

    ``initialised``: raise SettingsError unless it has the tables of this release. ``create``: make
    the file of an embedded database.
    """
    loaded = settings.load()
    database = Database.open(loaded.database_url, create=create)
    try:
        if initialised:
            with database.read() as connection:
                schema.require_current(connection, database.dialect)
        yield Office(database, loaded)
    finally:
        database.close()


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as a table of some columns, or all of them as JSON."""
    if as_json:
        click.echo(json.dumps([dict(row) for row in rows], default=_plain, indent=2))
        return
    table = [[_cell(row[name]) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *table]) for i in range(len(columns))]
    for line in [[name.upper() for name in columns], *table]:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def show_fields(fields: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing, a line per field."""
    if as_json:
        click.echo(json.dumps(dict(fields), default=_plain, indent=2))
        return
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        click.echo(f"{name.ljust(width)}  {_cell(value)}".rstrip())


def is_interactive() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def standard_input() -> str:
    """What was piped in. Raises InvalidRequest when it is no text."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"standard input is not valid UTF-8: {error}") from None


def _plain(value: object) -> str:
    return format_time(value) if isinstance(value, datetime) else str(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = _plain(value)
    return "".join(character if character.isprintable() else "·" for character in text)
