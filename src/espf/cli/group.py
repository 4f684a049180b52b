"""What all commands share: the open database, errors as exit codes, tables and JSON."""

import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy import Connection

from espf import audit, settings
from espf.crypto import Sealer
from espf.db import schema
from espf.db.database import Database
from espf.errors import EspfError, InvalidRequest
from espf.model import MAX_ENV, format_time, parse_span, parse_time
from espf.settings import Settings


def number(value: str) -> int:
    """An i_event, an i_account: what fits into a column of the database."""
    try:
        whole = int(value)
    except ValueError:
        whole = 0
    if not 0 < whole < 2**63:
        raise click.BadParameter(f"{value!r:.50} is no whole number above 0")
    return whole


def environment(value: str) -> int:
    """An i_env."""
    i_env = number(value)
    if i_env > MAX_ENV:
        raise click.BadParameter(f"{value!r:.50} is no environment; at most {MAX_ENV}")
    return i_env


def span(value: str) -> timedelta:
    """A span of time: 45s, 30m, 2h, 90d, 4w."""
    found = parse_span(value)
    if found is None:
        raise click.BadParameter(f"{value!r:.50} is no span of time; expected 30m, 2h, 90d or so")
    return found


def roughly(span: timedelta) -> str:
    """How long something takes, in the largest unit that fits: 3d, 12h, 5m, 0s."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def moment_of(text: str, name: str, now: datetime) -> datetime:
    """A time as people give it: UTC or with an offset, or how long ago: 2h, 7d."""
    try:
        return now - span(text)
    except (click.BadParameter, OverflowError):
        pass
    try:
        return parse_time(text, field=name)
    except ValueError as error:
        raise InvalidRequest(f"{error}; or how long ago: 30m, 2h, 7d", name) from None


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

    def note(
        self,
        connection: Connection,
        action: str,
        subject: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        *,
        i_env: int | None = None,
    ) -> None:
        """Write into the audit log what a command does, in the transaction that does it.

        Without an ``i_env`` it concerns the whole installation. No secrets.
        """
        who = audit.Actor(_shell_user(), "evctl")
        audit.record(
            connection, self.database, who, action, subject, i_env=i_env, before=before, after=after
        )


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


@contextmanager
def progress(count: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far a long work of so many steps has come."""
    shown = sys.stderr.isatty()
    with click.progressbar(length=count, file=sys.stderr, hidden=not shown, show_pos=True) as bar:
        yield bar.update


def operator() -> str:
    """Who gives commands, for the record."""
    name = _shell_user()
    return f"{name} (evctl)" if name else "evctl"


def _shell_user() -> str:
    """The name of the account; some have none."""
    try:
        return getpass.getuser()[:50]
    except (OSError, KeyError):
        return ""


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
