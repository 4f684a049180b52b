"""evctl metrics: what Prometheus is told."""

import click

from espf.cli.group import json_option, show


@click.command()
@click.option("--markdown", is_flag=True, help="Print the page of the documents.")
@json_option
def metrics(*, markdown: bool, as_json: bool) -> None:
    """List the metrics that processes serve at /metrics, and what each one says.

    \b
    Example: what there is about latency
      evctl metrics | grep latency
    """  # noqa: D301
    # They are the worker's, which is slow to import.
    from espf.metrics import DATABASE, page  # noqa: PLC0415
    from espf.worker.gauges import WORKER  # noqa: PLC0415

    if markdown:
        click.echo(page([(*_OF_WORKER, WORKER), (*_OF_DATABASE, DATABASE)]), nl=False)
        return
    rows = [
        {
            "metric": family.name,
            "type": family.kind,
            "labels": ", ".join(family.labels) or None,
            "bounds": family.bounds,
            "source": source,
            "help": family.help,
        }
        for source, families in (("worker", WORKER), ("database", DATABASE))
        for family in families
    ]
    show(rows, ("metric", "type", "labels", "source"), as_json=as_json)


_OF_WORKER = (
    "What a worker knows",
    (
        "Served by `evctl run` and `evctl worker`, each about itself: add up over all of them. "
        "Counters and histograms begin at 0 with the process. `handler` is the name of the event "
        "handler, in the environment `i_env`."
    ),
)
_OF_DATABASE = (
    "What the database knows",
    (
        "Served by `evctl run` and `evctl web`, by each the same: take the maximum over all of "
        "them. The database is asked once in 5 s at most."
    ),
)
