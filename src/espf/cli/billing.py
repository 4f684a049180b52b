"""evctl billing: the clock of the reference billing."""

import click
from sqlalchemy import Connection

from espf.billing import clock, environments
from espf.cli.group import office
from espf.db.database import Database
from espf.errors import NotFound
from espf.maintenance import hold


@click.group()
def billing() -> None:
    """The reference billing: what it does by itself as time passes."""


@billing.command()
def tick() -> None:
    """Do what the time brings: accounts, add-on products and quotas begin and end.

    'evctl run', 'worker' and 'web' do it each minute, one of them at a time.
    """
    activated = expired = begun = ended = quotas = 0
    with office() as at:
        more = True
        while more:
            with at.database.begin() as connection:
                passed = pass_time(connection, at.database)
            if passed is None:
                raise NotFound("there is no reference billing in this database")
            activated, expired = activated + passed.activated, expired + passed.expired
            begun, ended = begun + passed.addons_begun, ended + passed.addons_ended
            quotas += passed.quotas_expired
            more = passed.more
    click.echo(
        f"{activated} accounts activated, {expired} expired; "
        f"{begun} add-on products begun, {ended} ended; {quotas} quotas ended"
    )


def pass_time(connection: Connection, database: Database) -> clock.Tick | None:
    """Let time pass in the reference billing; None: there is none. Others wait meanwhile."""
    if not environments.is_reference_billing(connection):
        return None
    hold(connection, database, __name__)
    return clock.tick(connection, database.now(connection))
