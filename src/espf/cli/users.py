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
@click.option(
    "--role",
    type=click.Choice(sorted(users.ROLES)),
    default="administrator",
    show_default=True,
    help="What the user may do there: all, restart and pause, or look.",
)
@click.option("--right", "rights", multiple=True, help="An extra right: sim.keys.")
def create(login: str, i_env: int, role: str, rights: tuple[str, ...], *, superuser: bool) -> None:
    """Create an administrator; the password is asked for, or read from standard input.

    \b
    Example:
      evctl user create jane --env 3
      evctl user create ops --env 3 --role operator
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
                role=role,
            )
            made = _rights(users.find(connection, login))
            at.note(connection, "user.create", f"user {login}", None, made, i_env=i_env)
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
                "role": row.role,
                "enabled": row.enabled,
                "rights": " ".join(sorted(row.rights)),
            }
            for row in users.list_all(connection)
        ]
    show(
        rows,
        ["i_user", "login", "i_env", "superuser", "role", "rights", "enabled"],
        as_json=as_json,
    )


@user.command("set")
@click.argument("login")
@click.option("--role", type=click.Choice(sorted(users.ROLES)), help="What the user may do.")
@click.option("--superuser/--no-superuser", default=None, help="May act in other environments.")
@click.option("--enabled/--disabled", default=None, help="May log in, or not.")
def set_(login: str, role: str | None, superuser: bool | None, enabled: bool | None) -> None:
    """Change what LOGIN may do; with other rights its sessions end.

    \b
    Examples:
      evctl user set jane --role operator
      evctl user set robot --disabled
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        before = users.find(connection, login)
        after = users.change(
            connection,
            login,
            role=role or before.role,
            superuser=before.superuser if superuser is None else superuser,
            enabled=before.enabled if enabled is None else enabled,
        )
        rights = (_rights(before), _rights(after))
        at.note(connection, "user.set", f"user {login}", *rights, i_env=before.i_env)
    click.echo(f"User {login} is changed")


@user.command()
@click.argument("login")
def delete(login: str) -> None:
    """Delete the user LOGIN; its sessions and tokens end."""
    with office() as at, at.database.begin() as connection:
        before = users.find(connection, login)
        users.remove(connection, login)
        rights = _rights(before)
        at.note(connection, "user.delete", f"user {login}", rights, i_env=before.i_env)
    click.echo(f"User {login} is deleted")


@user.command()
@click.argument("login")
def password(login: str) -> None:
    """Give LOGIN a new password, asked for or read from standard input; its sessions end."""
    with office() as at:
        new = _new_password()
        with at.database.begin() as connection:
            users.set_password(connection, login, new)
            i_env = users.find(connection, login).i_env
            at.note(connection, "user.password", f"user {login}", i_env=i_env)
    click.echo(f"The password of {login} is changed")


def _rights(one: users.User) -> dict[str, object]:
    rights = sorted(one.rights)
    return {
        "role": one.role,
        "superuser": one.superuser,
        "enabled": one.enabled,
        "rights": rights,
    }


def _new_password() -> str:
    if is_interactive():
        entered: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return entered
    entered = standard_input().partition("\n")[0].rstrip("\r")
    if not entered:
        raise InvalidRequest("no password on standard input", "password")
    return entered
