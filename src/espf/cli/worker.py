"""evctl worker: deliver events, and see who does."""

import click

from espf import standing
from espf.cli.group import json_option, office, show
from espf.cli.run import instance_option, start
from espf.model import SHARDS


@click.group(invoke_without_command=True)
@instance_option
@click.pass_context
def worker(context: click.Context, instance: str | None) -> None:
    """Deliver events until interrupted, without serving the APIs.

    Any number of workers share the work, on one machine or on several: each event is delivered
    by one of them, in order. They find each other through the database. The handlers reach the
    billing API at billing_url, else at the address in 'listen', where 'evctl web' or 'evctl run'
    serves it.

    With --instance it works for the handlers that the active configuration has for that instance
    of ESPF; without, for all.

    \b
    Example:
      evctl worker &
      evctl worker &
      evctl worker --instance hss &
      evctl worker list
    """  # noqa: D301
    if context.invoked_subcommand is None:
        start(serve=False, work=True, instance=instance)


@worker.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the workers: since when each is there, and which shards of which handlers it has.

    The work for a handler has 16 shards. A worker that is not alive has ended without a word; its
    work falls to the others.
    """
    with office() as at, at.database.read() as connection:
        rows = [
            {
                "worker": standing.short_name(one.worker),
                "identity": one.worker,
                "instance": one.instance or None,
                "alive": one.alive,
                "since": one.started_at,
                "seen_until": one.seen_until,
                "shards": [
                    {"i_env": i_env, "handler": name, "shards": count}
                    for (i_env, name), count in sorted(one.shards.items())
                ],
                "work": ", ".join(
                    f"{name}@{i_env} {count}/{SHARDS}"
                    for (i_env, name), count in sorted(one.shards.items())
                )
                or None,
            }
            for one in standing.list_workers(connection, at.database)
        ]
    show(rows, ["worker", "instance", "alive", "since", "work"], as_json=as_json)
