"""evctl run: everything in one process."""

import click

from espf.cli.group import office
from espf.db import schema


@click.command()
def run() -> None:
    """Serve the APIs and deliver events until interrupted.

    SIGTERM and Ctrl-C finish what is in flight (at most stop_grace seconds); what is cut off is
    delivered again at the next start, under the same number.
    """
    # The web server is slow to import and of no use to the other commands.
    from espf.cli.process import run_until_stopped  # noqa: PLC0415

    with office() as at:
        with at.database.read() as connection:
            schema.require_rights(connection)
        run_until_stopped(at)
