"""evctl key: the keys that sign access tokens."""

import click

from espf import tokens
from espf.cli.group import json_option, office, show


@click.group()
def key() -> None:
    """The keys that sign the access tokens of Session/login."""


@key.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the keys whose tokens are valid, newest first; --json shows the public halves."""
    with office() as at, at.database.read() as connection:
        rows = [vars(one) for one in tokens.list_keys(connection)]
    show(rows, ["kid", "created_at", "retired_at"], as_json=as_json)


@key.command()
@click.option(
    "--end-tokens", is_flag=True, help="Also end every token that was signed with an old key."
)
def rotate(*, end_tokens: bool) -> None:
    """Sign with a new key from now on; tokens that are in use stay valid until they expire.

    \b
    Examples:
      evctl key rotate
      evctl key rotate --end-tokens     when somebody may have seen the old key
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        now = at.database.now(connection)
        kid = tokens.add_key(connection, at.sealer, now)
        ended = tokens.forget_retired(connection, now) if end_tokens else 0
        at.note(connection, "key.rotate", f"key {kid}", None, {"end tokens": end_tokens})
    click.echo(f"Key {kid} signs from now on")
    if ended:
        click.echo("Tokens of the keys before it have ended: refresh them, or log in again")
