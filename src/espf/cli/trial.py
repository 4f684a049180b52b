"""evctl handler test: try a handler out, outside of the queue."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import click

from espf import subscriptions
from espf.cli.events import variable
from espf.cli.group import environment, json_option, office, show_fields
from espf.handlers.base import Billing
from espf.handlers.http import HttpClient
from espf.trial import Trial, Trials, event_for


@click.command("test")
@click.argument("i_env", type=environment)
@click.argument("name")
@click.option("--type", "event_type", help="The type of the event; default Custom/Test.")
@click.option("--var", "variables", multiple=True, metavar="K=V", help="A variable; repeatable.")
@click.option("--check", "check_only", is_flag=True, help="Send no event.")
@json_option
def test(
    i_env: int,
    name: str,
    event_type: str | None,
    variables: tuple[str, ...],
    *,
    check_only: bool,
    as_json: bool,
) -> None:
    """Try a handler out: check its way, and send one event at once, outside of the queue.

    The event has the number 0. Nothing is stored, and nothing is tried again. REACHED says whether
    the external system can be reached, VERDICT what a worker would make of its answer. Exit code 1:
    it did not take the event.

    \b
    Examples:
      evctl handler test 3 EventSender
      evctl handler test 3 EventSender --type Account/Blocked --var i_account=541
      evctl handler test 3 EventSender --check
    """  # noqa: D301
    # The web server is slow to import and of no use to the other commands.
    from espf.cli.process import way_to_billing  # noqa: PLC0415

    values = dict(variable(word) for word in variables)
    with office() as at:
        with at.database.read() as connection:
            found = subscriptions.require_handler(connection, i_env, name)
            event = None
            if not check_only:
                event = event_for(connection, at.database, found, event_type, values)

        def way(client: HttpClient) -> Callable[[int], Billing]:
            return way_to_billing(at, client, at.settings.address)

        trial = asyncio.run(Trials(at.sealer, way).run(found, event, "evctl"))
    _print(trial, as_json=as_json)
    if not trial.is_well:
        raise SystemExit(1)


def _print(trial: Trial, *, as_json: bool) -> None:
    sent = trial.sent
    check: dict[str, Any] = {"reached": trial.check.reached, "found": trial.check.found}
    told: Mapping[str, Any] = {} if sent is None else vars(sent)
    facts = {name: value for name, value in told.items() if name != "event"}
    if sent is not None:
        event = {"event_type": sent.event.event_type, "variables": dict(sent.event.variables)}
        facts = {**event, **facts}
    if as_json:
        show_fields({**check, "sent": facts or None}, as_json=True)
        return
    bodies = [(mark, facts.pop(name, None)) for mark, name in ((">", "request"), ("<", "response"))]
    show_fields({**check, **facts}, as_json=False)
    for mark, body in bodies:
        for line in (body or "").splitlines():
            click.echo(f"    {mark} {line}")
