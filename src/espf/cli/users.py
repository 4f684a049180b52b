"""evctl user: administrators."""

import click

from espf import users
from espf.cli.group import environment, is_interactive, json_option, office, show, standard_input
from espf.errors import InvalidRequest


@click.group()
def user() -> None:
    """Administrators: who may log in, with which rights, to which environment."""


@user.command()
@click.argument("login")
@click.option("--env", "i_env", type=environment, required=True, help="The environment (i_env).")
@click.option("--superuser", is_flag=True, help="May act in other environments.")
@click.option("--right", "rights", multiple=True, help="An extra right: sim.keys.")
def create(login: str, i_env: int, rights: tuple[str, ...], *, superuser: bool) -> None:
    """Create an administrator; the password is asked for, or read from standard input.

    \b
    Example:
      evctl user create jane --env 3
      pwgen 16 1 | evctl user create robot --env 3
    """  # noqa: D301
    with office() as at:
        password = _new_password()
        with at.database.begin() as connection:
            users.create(
                connection,
                login,
                password,
                i_env,
                superuser=superuser,
                rights=frozenset(rights),
            )
    click.echo(f"User {login} is created in environment {i_env}")


@user.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the administrators and their rights."""
    with office() as at, at.database.read() as connection:
        rows = [
            {
                "i_user": row.i_user,
                "login": row.login,
                "i_env": row.i_env,
                "superuser": row.superuser,
                "rights": " ".join(sorted(row.rights)),
            }
            for row in users.list_all(connection)
        ]
    show(rows, ["i_user", "login", "i_env", "superuser", "rights"], as_json=as_json)


@user.command()
@click.argument("login")
def password(login: str) -> None:
    """Give LOGIN a new password, asked for or read from standard input; its sessions end."""
    with office() as at:
        new = _new_password()
        with at.database.begin() as connection:
            users.set_password(connection, login, new)
    click.echo(f"The password of {login} is changed")


def _new_password() -> str:
    if is_interactive():
        entered: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return entered
    entered = standard_input().partition("\n")[0].rstrip("\r")
    if not entered:
        raise InvalidRequest("no password on standard input", "password")
    return entered
