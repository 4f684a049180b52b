"""evctl init: make the key file, the tables, the first administrator; optionally a billing."""

import click
from sqlalchemy import Connection, make_url, select

from espf import subscriptions, tokens, users
from espf.billing import demo, environments
from espf.billing.tables import metadata as billing_tables
from espf.capture import rules, triggers
from espf.cli.group import Office, environment, office
from espf.cli.support import DOCUMENTED
from espf.crypto import Sealer, random_password
from espf.db import parts, schema, tables
from espf.errors import InvalidRequest, SettingsError

DEMO_URL = "http://127.0.0.1:5000"


@click.command()
@click.option(
    "--demo", "with_demo", is_flag=True, help="Also the reference billing with demo data."
)
@click.option("--reference-billing", is_flag=True, help="Also the reference billing, empty.")
@click.option(
    "--env", "i_env", type=environment, default=1, show_default=True, help="admin's environment."
)
@click.option(
    "--check", is_flag=True, help="Only say what is to be made or upgraded; exit code 1: something."
)
def init(i_env: int, *, with_demo: bool, reference_billing: bool, check: bool) -> None:
    """Set up or upgrade the database that ESPF_DATABASE_URL names; again, it changes nothing.

    Stop what is running before an upgrade. It also compiles the installed triggers anew.

    \b
    Examples:
      evctl init --demo                 a billing to play with, in environment 3
      evctl init --reference-billing    the reference billing, empty
      evctl init                        ESPF alone, beside a billing of your own
      evctl init --check                what an upgrade would do
    """  # noqa: D301
    if check:
        _check()
        return
    with_billing = with_demo or reference_billing
    with office(initialised=False, create=True) as at:
        _check_admin_password(at)
        sealer = _sealer(at)
        with at.database.begin() as connection:
            done = _define(at, connection, with_billing=with_billing)
        # Apart from what is defined: a database may commit that at once, and all before it.
        with at.database.begin() as connection:
            schema.reserve(connection, at.database.dialect)
            subscriptions.add_catalogue(connection)
            i_env = demo.DEMO_ENV if with_demo else i_env
            done.append(_add_administrator(at, connection, i_env))
            _add_service_account(connection, sealer, i_env)
            if not tokens.list_keys(connection):
                tokens.add_key(connection, sealer, at.database.now(connection))
            if with_billing:
                environments.add(connection, i_env, "Demo" if with_demo else f"Environment {i_env}")
            if with_demo:
                demo.load(connection, sealer, at.database.now(connection))
                done += _add_demo_handler(connection, sealer)
        if with_billing:
            # What is there from the beginning is no event.
            with at.database.begin() as connection:
                done.append(_capture(at, connection))
    # Passwords are shown when they are true: after the commit.
    for line in (*done, f"ESPF is set up in {make_url(at.settings.database_url)!r}"):
        click.echo(line)


def _check() -> None:
    with office(initialised=False) as at, at.database.read() as connection:
        todo = schema.pending(connection, at.database.dialect)
    for line in todo:
        click.echo(f"pending  {line}")
    if todo:
        raise SystemExit(1)
    click.echo(f"The tables are those of this release (revision {schema.REVISION})")


def _define(at: Office, connection: Connection, *, with_billing: bool) -> list[str]:
    """Make or upgrade tables, and triggers that fit them. Returns what was done."""
    steps = schema.set_up(connection, at.database.dialect)
    done = [f"Tables: {step}" for step in steps]
    if parts.may_change(connection):
        done += [
            f"Journal: a part for events from {part.first} on"
            for part in parts.make_ahead(connection)
        ]
    if with_billing:
        billing_tables.create_all(connection)
    elif steps:
        triggers.reapply(connection, at.database.dialect, at.settings.rules)
    return done


def _sealer(at: Office) -> Sealer:
    """The keys, made with the database. A new file would not open what is sealed already."""
    path = at.settings.key_file
    with at.database.read() as connection:
        is_new = not schema.is_set_up(connection, at.database.dialect)
    if not is_new and not path.exists():
        raise SettingsError(
            f"ESPF_KEY_FILE: {path} does not exist, but the database holds secrets sealed with it; "
            "restore it from the backup"
        )
    return Sealer.create(path)


def _check_admin_password(at: Office) -> None:
    """Raise SettingsError when it will not do: before anything is made."""
    chosen = at.settings.admin_password
    if chosen is None:
        return
    try:
        users.check_password(chosen.get_secret_value())
    except InvalidRequest as error:
        raise SettingsError(f"ESPF_ADMIN_PASSWORD: {error}") from None


def _add_administrator(at: Office, connection: Connection, i_env: int) -> str:
    if any(user.login == "admin" for user in users.list_all(connection)):
        return "The login admin exists; its password stays as it is"
    chosen = at.settings.admin_password
    password = chosen.get_secret_value() if chosen else random_password()
    users.create(connection, "admin", password, i_env, superuser=True)
    shown = "as given in ESPF_ADMIN_PASSWORD" if chosen else f"{password} (shown only now)"
    return f"Login admin, environment {i_env}, password {shown}"


def _add_service_account(connection: Connection, sealer: Sealer, i_env: int) -> None:
    if not any(user.login == users.SERVICE_LOGIN for user in users.list_all(connection)):
        users.create(
            connection,
            users.SERVICE_LOGIN,
            users.service_password(sealer),
            i_env,
            superuser=True,
            rights=frozenset({users.SIM_KEYS}),
        )


def _capture(at: Office, connection: Connection) -> str:
    wanted = triggers.compile_rules(rules.shipped_rules(), triggers.disabled_types(connection))
    triggers.apply(connection, at.database.dialect, wanted)
    return f"{len(wanted)} triggers on the reference billing"


def _add_demo_handler(connection: Connection, sealer: Sealer) -> list[str]:
    """EventSender as the handbook sets it up, subscribed to what the handbook's scenarios need."""
    known = connection.execute(
        select(tables.event_handlers.c.name).where(tables.event_handlers.c.i_env == demo.DEMO_ENV)
    ).scalars()
    if "EventSender" in set(known):
        return []
    key = random_password()
    handler = subscriptions.create_handler(
        connection,
        sealer,
        demo.DEMO_ENV,
        "EventSender",
        "EventSender",
        {
            "EventSender.URL": DEMO_URL,
            "EventSender.APIVersion": "1",
            "EventSender.BasicAuth.User": "espf",
            "EventSender.BasicAuth.Key": key,
        },
    )
    for event_type in subscriptions.subscriptions(connection, handler):
        if event_type not in DOCUMENTED:
            subscriptions.unsubscribe(connection, handler, event_type)
    return [f"Handler EventSender posts to {DEMO_URL} as espf with the key {key}"]
