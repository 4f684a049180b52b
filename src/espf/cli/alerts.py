"""evctl alert: what is wrong, and whether those hear of it who are to hear."""

import asyncio

import click

from espf import alerts, audit, configuration
from espf.cli.group import json_option, office, operator, show


@click.group()
def alert() -> None:
    """Alerts: what is wrong now, and who is told.

    Failures are told by e-mail to Provisioning.AlertRecipient and by HTTP to Provisioning.AlertURL
    of the active configuration, once when they begin and once when they are over.

    \b
    Example:
      evctl alert list
      evctl alert test
    """  # noqa: D301


@alert.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List what is wrong now, the newest first, and when people were told.

    A process of 'evctl run', 'worker' or 'web' looks every ten seconds; while none runs, the list
    stays as it is.

    \b
    Example:
      evctl alert list
    """  # noqa: D301
    with office() as at, at.database.read() as connection:
        rows = [
            {
                "kind": one.kind,
                "i_env": one.i_env,
                "subject": one.subject,
                "since": one.since,
                "mailed_at": one.mailed_at,
                "posted_at": one.posted_at,
                "headline": alerts.headline(one),
                "text": one.text,
            }
            for one in alerts.list_alerts(connection)
        ]
    show(rows, ["kind", "i_env", "since", "mailed_at", "posted_at", "headline"], as_json=as_json)


@alert.command()
@json_option
def test(*, as_json: bool) -> None:
    """Send a test message to all who are to be told, and say what became of it.

    By the active configuration, from this machine. The exit code is 1 when one could not be sent.

    \b
    Example:
      evctl alert test
    """  # noqa: D301
    who = operator()
    with office() as at:
        with at.database.read() as connection:
            settings = configuration.active(connection).opened(at.sealer).provisioning
        receipts = asyncio.run(alerts.send_test(settings, who))
        sent = {str(one.channel): one.fault or "taken" for one in receipts}
        with at.database.begin() as connection:
            actor = audit.Actor(who, "evctl")
            audit.record(
                connection,
                at.database,
                actor,
                "alert.test",
                "active configuration",
                i_env=None,
                after=sent,
            )
    rows = [
        {"channel": one.channel, "taken": one.fault is None, "said": one.fault or one.said}
        for one in receipts
    ]
    show(rows, ["channel", "taken", "said"], as_json=as_json)
    if any(one.fault for one in receipts):
        raise SystemExit(1)
