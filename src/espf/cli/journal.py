"""evctl journal: how long it is kept."""

from datetime import timedelta

import click

from espf.cli.group import office, progress, span
from espf.janitor import Janitor


@click.group()
def journal() -> None:
    """The journal: every attempt, for as long as it is kept."""


@journal.command()
@click.option(
    "--older-than",
    "keep",
    type=span,
    help="How old. [default: Provisioning.KeepJournalDays of the configuration]",
)
@click.option(
    "--failed-older-than",
    "keep_failed",
    type=span,
    help="How old, of what failed or was rejected. [default: KeepFailedDays]",
)
@click.option("--dry-run", is_flag=True, help="Only say how much is that old.")
def prune(keep: timedelta | None, keep_failed: timedelta | None, *, dry_run: bool) -> None:
    """Remove what is old from the journal; workers do it by themselves, once an hour.

    Small steps hold nobody up, and what is done is done when it is interrupted.

    \b
    Examples:
      evctl journal prune --older-than 30d --dry-run
      evctl journal prune --older-than 30d --failed-older-than 30d
    """  # noqa: D301
    with office() as at:
        janitor = Janitor(at.database, keep, keep_failed)
        count = janitor.prunable()
        if not dry_run:
            with at.database.begin() as connection:
                after = {"older than": keep, "failed older than": keep_failed, "rows": count}
                at.note(connection, "journal.prune", "journal", None, after)
            with progress(count) as step:
                count = janitor.prune_journal(step)
    click.echo(f"{count} rows {'would be' if dry_run else 'are'} removed")
