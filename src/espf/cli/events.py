"""evctl event: what waits, what was, and another try."""

import json
from dataclasses import asdict
from datetime import datetime

import click

from espf import journal, overview, restarts, subscriptions
from espf.billing import references
from espf.cli.group import json_option, number, office, show, show_fields
from espf.errors import InvalidRequest, NotFound
from espf.model import parse_time
from espf.overview import Filter
from espf.queue import Queue

LIST_COLUMNS = ["i_event", "event_type", "key", "handler", "status", "attempts", "when", "reason"]


@click.group()
def event() -> None:
    """Provisioning events: list, look, restart, create, cancel."""


@event.command()
@click.argument("i_env", type=number)
@click.argument("event_type")
@click.option("--var", "variables", multiple=True, metavar="K=V", help="A variable; repeatable.")
@click.option("--start-time", metavar="T", help="UTC 'YYYY-MM-DD HH:MM:SS', or ISO 8601.")
def create(i_env: int, event_type: str, variables: tuple[str, ...], start_time: str | None) -> None:
    """Put an event into the queue, now or at a time.

    A value that reads as JSON (541, true) is sent as such, anything else as text.

    \b
    Example:
      evctl event create 3 Custom/NextMonth --var i_account=541 \\
        --start-time '2027-03-01 00:00:00'
    """  # noqa: D301
    values = dict(_variable(word) for word in variables)
    at_time = _moment(start_time) if start_time else None
    with office() as at, at.database.begin() as connection:
        references.check(connection, i_env, values)
        i_event = Queue(at.database).create_event(connection, i_env, event_type, values, at_time)
    click.echo(f"Created event {i_event}")


@event.command("list")
@click.option("--env", "i_env", type=number, help="Only of this environment.")
@click.option("--handler", "handler", help="Only for the handler of this name.")
@click.option("--status", default="all", help="all, failed, queued, successful, or one status.")
@click.option("--type", "event_type", help="Only of this event type.")
@click.option("--account", "i_account", type=number, help="Only of this account (i_account).")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="At most so many lines.",
)
@json_option
def list_(
    i_env: int | None,
    handler: str | None,
    status: str,
    event_type: str | None,
    i_account: int | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """List events, newest first, a line per handler."""
    wanted = Filter(
        i_env=i_env,
        handler=handler,
        status=status,
        event_type=event_type,
        ordering_key=None if i_account is None else f"account:{i_account}",
    )
    with office() as at, at.database.read() as connection:
        found = overview.search(connection, wanted, limit)
    rows = [
        {
            **asdict(one),
            "key": one.ordering_key,
            "when": one.start_time if one.status == "scheduled" else one.created_at,
        }
        for one in found
    ]
    show(rows, LIST_COLUMNS, as_json=as_json)


@event.command("show")
@click.argument("i_event", type=number)
@json_option
def show_(i_event: int, *, as_json: bool) -> None:
    """Show an event: its variables, where each handler stands, and every attempt."""
    with office() as at, at.database.read() as connection:
        parts = overview.search(connection, Filter(i_event=i_event), 1000)
        attempts = journal.of_event(connection, i_event)
        variables = overview.variables(connection, i_event)
    if not parts:
        raise NotFound(f"there is no event {i_event}")
    first = parts[0]
    fields = {
        "i_event": i_event,
        "i_env": first.i_env,
        "event_type": first.event_type,
        "key": first.ordering_key,
        "created_at": first.created_at,
        "start_time": first.start_time,
        "variables": variables,
    }
    if as_json:
        all_ = {**fields, "handlers": [asdict(p) for p in parts]}
        show_fields({**all_, "attempts": [asdict(a) for a in attempts]}, as_json=True)
        return
    show_fields(fields, as_json=False)
    click.echo()
    columns = ["handler", "status", "attempts", "next_attempt_at", "reason"]
    show([asdict(part) for part in parts], columns, as_json=False)
    for entry in attempts:
        click.echo()
        _print_attempt(entry)


@event.command()
@click.argument("i_event", type=number)
@click.option("--handler", "name", help="For this handler alone, whatever its verdict was.")
def restart(i_event: int, name: str | None) -> None:
    """Try an event again: for every handler that failed or rejected it, or waits to retry."""
    with office() as at, at.database.begin() as connection:
        handler = None
        if name is not None:
            parts = overview.search(connection, Filter(i_event=i_event), 1)
            if not parts or parts[0].i_env is None:
                raise NotFound(f"there is no event {i_event}")
            handler = subscriptions.require_handler(connection, parts[0].i_env, name)
        names = restarts.restart(connection, at.database, i_event, handler)
    click.echo(f"Event {i_event} is restarted for {', '.join(names)}")


@event.command()
@click.argument("i_event", type=number)
def cancel(i_event: int) -> None:
    """Call off a scheduled event."""
    with office() as at, at.database.begin() as connection:
        restarts.cancel(connection, at.database, i_event)
    click.echo(f"Event {i_event} is cancelled")


def _print_attempt(entry: journal.Entry) -> None:
    when = entry.logged_at.strftime("%Y-%m-%d %H:%M:%S") if entry.logged_at else "-"
    head = f"{when}  {entry.handler or '-'}  attempt {entry.attempt}: {entry.verdict}"
    took = "" if entry.duration_ms is None else f" ({entry.duration_ms} ms)"
    click.echo(f"{head}{took}" + (f" - {entry.reason}" if entry.reason else ""))
    for mark, body in ((">", entry.request), ("<", entry.response)):
        for line in (body or "").splitlines():
            click.echo(f"    {mark} {line}")


def _variable(word: str) -> tuple[str, object]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise InvalidRequest(f"--var {word!r}: expected NAME=VALUE, e.g. i_account=541", "var")
    try:
        return name, json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return name, value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidRequest(str(error), "start_time") from None
