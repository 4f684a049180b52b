"""evctl event: what waits, what was, and another try."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import click
from sqlalchemy import Connection

from espf import journal, overview, restarts, schedule, sources, subscriptions, timeline
from espf.billing import references
from espf.cli.group import (
    Office,
    environment,
    is_interactive,
    json_option,
    moment_of,
    number,
    office,
    progress,
    show,
    show_fields,
)
from espf.errors import InvalidRequest, NotFound
from espf.model import PARENT, read_value
from espf.overview import Page
from espf.queue import Queue
from espf.sources import Filter
from espf.subscriptions import EventHandler

LIST_COLUMNS = ["i_event", "event_type", "key", "handler", "status", "attempts", "when", "reason"]


@click.group()
def event() -> None:
    """Provisioning events: list, look, restart, create, cancel."""


@event.command()
@click.argument("i_env", type=environment)
@click.argument("event_type")
@click.option("--var", "variables", multiple=True, metavar="K=V", help="A variable; repeatable.")
@click.option("--start-time", metavar="T", help="UTC 'YYYY-MM-DD HH:MM:SS', or ISO 8601.")
@click.option("--time-zone", metavar="ZONE", help="T is what clocks show there: Europe/Prague.")
@click.option("--key", help="In place of the event that is scheduled under the same key.")
def create(
    i_env: int,
    event_type: str,
    variables: tuple[str, ...],
    start_time: str | None,
    time_zone: str | None,
    key: str | None,
) -> None:
    """Put an event into the queue, now or at a time.

    A value that reads as JSON (541, true) is sent as such, anything else as text. A time that the
    clocks of a zone leave out is moved forward; of one that they show twice, the first is meant.

    \b
    Examples:
      evctl event create 3 Custom/NextMonth --var i_account=541 \\
        --start-time '2027-03-01 00:00:00'
      evctl event create 3 Custom/NextMonth --var i_account=541 --key next-month-541 \\
        --start-time '2027-03-01 00:00:00' --time-zone Europe/Prague
    """  # noqa: D301
    values = dict(variable(word) for word in variables)
    at_time = schedule.start_time(start_time, time_zone)
    with office() as at, at.database.begin() as connection:
        references.check(connection, i_env, values)
        created = schedule.create(
            connection, Queue(at.database), at.database, i_env, event_type, values, at_time, key
        )
    click.echo(f"Created event {created.i_event}")
    if created.replaced is not None:
        click.echo(f"Event {created.replaced} is cancelled", err=True)


_CHOICES = (
    click.option("--env", "i_env", type=environment, help="Only of this environment."),
    click.option("--handler", "name", help="Only for the handler of this name."),
    click.option("--type", "event_type", help="Only of this event type, or as Account/*."),
    click.option("--account", "i_account", type=number, help="Only of this account (i_account)."),
    click.option(
        "--about",
        metavar="WHO",
        help="Only about account:541, customer:7, sim:3; or an id of the reference billing.",
    ),
    click.option("--from", "since", metavar="T", help="Only what happened at T or after it."),
    click.option("--to", "until", metavar="T", help="Only what happened before T."),
    click.option(
        "--since", "since", metavar="T", help="The same as --from; reads better with 2h, 7d."
    ),
)


def chosen(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which events are meant; see ``_filter``."""
    for option in reversed(_CHOICES):
        command = option(command)
    return command


@event.command("list")
@chosen
@click.option("--status", default="all", help="all, failed, queued, successful, or one status.")
@click.option("--before", type=number, metavar="I_EVENT", help="Only with lower numbers: to page.")
@click.option("--after", type=number, metavar="I_EVENT", help="Only with higher numbers: to page.")
@click.option("--oldest-first", is_flag=True, help="In the other order.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    help="At most so many lines.  [default: 50; with --csv: all]",
)
@click.option("--count", "counts", is_flag=True, help="Only say how many there are.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table.")
@json_option
def list_(
    status: str,
    before: int | None,
    after: int | None,
    limit: int | None,
    *,
    oldest_first: bool,
    counts: bool,
    as_csv: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """List events, newest first, a line per handler.

    T is a time in UTC, 'YYYY-MM-DD HH:MM:SS', or with an offset; or how long ago: 30m, 2h, 7d.

    \b
    Examples:
      evctl event list --status failed --since 2h
      evctl event list --account 541 --from '2027-03-01 00:00:00' --to '2027-03-02 00:00:00'
      evctl event list --type 'Account/*' --env 3 --about 4471234567 --oldest-first
      evctl event list --before 623623
      evctl event list --status rejected --since 30d --csv > rejected.csv
    """  # noqa: D301
    if counts + as_csv + as_json > 1:
        raise click.UsageError("--count, --csv and --json exclude each other")
    if as_csv and limit is not None:
        raise click.UsageError("--csv prints all that fits; it takes no --limit")
    with office() as at:
        with at.database.read() as connection:
            wanted = _filter(at, connection, status, **choices)
            wanted = replace(wanted, before=before, after=after)
            if counts:
                found = overview.count(connection, wanted)
                click.echo(found.number if found.is_all else f"more than {found.number}")
            elif not as_csv:
                page = overview.page(
                    connection, wanted, limit or 50, oldest_first=oldest_first, patient=True
                )
                _show_page(page, as_json=as_json)
        if as_csv:
            some = overview.lines(at.database, wanted, oldest_first=oldest_first)
            for n, lines in enumerate(some):
                click.echo(overview.to_csv(lines, head=n == 0), nl=False)


def _show_page(page: Page, *, as_json: bool) -> None:
    rows = [
        {
            **asdict(one),
            "key": one.ordering_key,
            "when": one.start_time if one.status == "scheduled" else one.created_at,
        }
        for one in page.lines
    ]
    show(rows, LIST_COLUMNS, as_json=as_json)
    if is_interactive():
        for word, option, place in (
            ("older", "before", page.older),
            ("newer", "after", page.newer),
        ):
            if place is not None:
                click.echo(f"{word} ones: --{option} {place}", err=True)


@event.command("show")
@click.argument("i_event", type=number)
@json_option
def show_(i_event: int, *, as_json: bool) -> None:
    """Show an event: its variables, where each handler stands, and every attempt."""
    with office() as at, at.database.read() as connection:
        story = overview.story(connection, i_event)
    first = story.parts[0]
    fields = {
        "i_event": i_event,
        "i_env": first.i_env,
        "event_type": first.event_type,
        "key": first.ordering_key,
        "created_at": first.created_at,
        "start_time": first.start_time,
        "i_parent_event": _parent(story.variables),
        "variables": story.variables,
    }
    if as_json:
        all_ = {**fields, "handlers": [asdict(p) for p in story.parts]}
        show_fields({**all_, "attempts": [asdict(a) for a in story.attempts]}, as_json=True)
        return
    show_fields(fields, as_json=False)
    click.echo()
    columns = ["handler", "status", "attempts", "next_attempt_at", "reason"]
    show([asdict(part) for part in story.parts], columns, as_json=False)
    for entry in story.attempts:
        click.echo()
        _print_attempt(entry)


@event.command()
@click.argument("i_events", nargs=-1, type=number, metavar="[I_EVENT]...")
@chosen
@click.option("--status", help="failed (with rejected; the default), retrying, finished, ...")
@click.option("--after", type=number, metavar="I_EVENT", help="Only with higher numbers.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restart(
    i_events: tuple[int, ...],
    status: str | None,
    after: int | None,
    *,
    dry_run: bool,
    yes: bool,
    **choices: Any,
) -> None:
    """Try events again: some by their numbers, or all that fit.

    By number, an event is restarted for every handler that failed or rejected it, or waits to
    retry; with --handler for that one, whatever its verdict was. Otherwise everything that fits is
    restarted, in the order of events, beside what is new, and at the pace of the handlers. There
    may be millions: it goes in small steps, and when it is interrupted, the same command goes on.

    T is a time in UTC, 'YYYY-MM-DD HH:MM:SS', or with an offset; or how long ago: 30m, 2h, 7d.

    \b
    Examples:
      evctl event restart 623623 623624
      evctl event restart --handler EventSender --since 2h --dry-run
      evctl event restart --handler EventSender --status rejected --type Account/Blocked --yes
    """  # noqa: D301
    rest = {key: value for key, value in choices.items() if key != "name" and value is not None}
    if i_events and (rest or status or after):
        raise click.UsageError("give the numbers of events, or say which ones, but not both")
    with office() as at:
        if i_events:
            _restart_some(at, i_events, choices["name"], dry_run=dry_run)
        elif status or any(value is not None for value in choices.values()):
            with at.database.read() as connection:
                wanted = _filter(at, connection, status or "failed", **choices)
                # What fails from now on is not meant.
                until = wanted.until or at.database.now(connection)
                wanted = replace(wanted, until=until, after=after)
                wanted = sources.narrowed(connection, wanted)
                count = restarts.restartable(connection, wanted)
            _restart_all(at, wanted, count, dry_run=dry_run, yes=yes)
        else:
            raise click.UsageError(
                "which events? Give their numbers, or --handler, --status, --since, ..."
            )


def _restart_some(at: Office, i_events: Sequence[int], name: str | None, *, dry_run: bool) -> None:
    """All of them, or none when one cannot be."""
    said: list[str] = []
    with at.database.begin() as connection:
        for i_event in dict.fromkeys(i_events):
            handler = None if name is None else _handler_of(connection, i_event, name)
            names = restarts.restart(connection, at.database, i_event, handler)
            verb = "would be" if dry_run else "is"
            said.append(f"Event {i_event} {verb} restarted for {', '.join(names)}")
            i_env = _environment_of(connection, i_event)
            after = {"handlers": names}
            at.note(connection, "event.restart", f"event {i_event}", None, after, i_env=i_env)
        if dry_run:
            connection.rollback()
    click.echo("\n".join(said))


def _restart_all(at: Office, wanted: Filter, count: int, *, dry_run: bool, yes: bool) -> None:
    if dry_run or not count:
        click.echo(f"{count} notifications would be restarted")
        return
    if is_interactive() and not yes:
        click.confirm(f"Restart {count} notifications?", abort=True, err=True)
    restarted = 0
    try:
        with progress(count) as step:
            while True:
                begun = time.monotonic()
                with at.database.begin() as connection:
                    done = restarts.restart_next(connection, at.database, wanted)
                    if done is not None and done.count and not restarted:
                        # One line for all of the steps.
                        after = {"about": count, **_set_fields(wanted)}
                        i_env = wanted.i_env
                        at.note(connection, "event.restart", "events", None, after, i_env=i_env)
                if done is None:
                    break
                wanted = replace(wanted, after=done.last)
                restarted += done.count
                step(done.count)
                if at.database.dialect.writers == 1:
                    # Nobody else could write meanwhile: now they can, as long.
                    time.sleep(time.monotonic() - begun)
    except KeyboardInterrupt:
        click.echo(
            f"interrupted: {restarted} are restarted, up to event {wanted.after or 0}; the same "
            "command goes on with the others",
            err=True,
        )
        raise
    click.echo(f"{restarted} notifications are restarted")


@event.command()
@click.argument("i_event", type=number)
@click.option("--handler", "name", required=True, help="For the handler of this name.")
@click.option("--reason", required=True, help="Why; the journal keeps it.")
def skip(i_event: int, name: str, reason: str) -> None:
    """Give up an event for one handler: one that failed, holds its lane, or waits for a retry.

    What waits behind it goes on. An attempt that is under way at this moment is not called back.

    \b
    Example:
      evctl event skip 623623 --handler EventSender --reason 'the account is closed'
    """  # noqa: D301
    if not reason.strip():
        raise InvalidRequest("--reason: say why", "reason")
    with office() as at, at.database.begin() as connection:
        handler = _handler_of(connection, i_event, name)
        restarts.skip(connection, at.database, i_event, handler, reason.strip())
        after = {"handler": name, "reason": reason.strip()}
        at.note(connection, "event.skip", f"event {i_event}", None, after, i_env=handler.i_env)
    click.echo(f"Event {i_event} is skipped for {name}")


@event.command("timeline")
@click.argument("i_env", type=environment)
@click.argument("who")
@click.option("--newest-first", is_flag=True, help="In the other order.")
@click.option("--before", type=number, metavar="I_EVENT", help="Only with lower numbers: to page.")
@click.option("--after", type=number, metavar="I_EVENT", help="Only with higher numbers: to page.")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="At most so many lines.",
)
@json_option
def timeline_(
    i_env: int,
    who: str,
    before: int | None,
    after: int | None,
    limit: int,
    *,
    newest_first: bool,
    as_json: bool,
) -> None:
    """Show what happened to somebody, oldest first, and what stops it now.

    WHO is account:541, customer:7, sim:3, did:... or product:...; or, with the reference billing,
    the id of an account, the name of a customer, an IMSI, an ICCID, or a DID number.

    \b
    Examples:
      evctl event timeline 3 account:541
      evctl event timeline 3 4471234567 --newest-first
    """  # noqa: D301
    with office() as at, at.database.read() as connection:
        key = timeline.key_of(connection, who, i_env)
        wanted = Filter(i_env=i_env, ordering_key=key, before=before, after=after)
        page = overview.page(connection, wanted, limit, oldest_first=not newest_first, patient=True)
        stops = timeline.obstacles(connection, at.database, i_env, key)
    if as_json:
        found = {"obstacles": map(asdict, stops), "events": map(asdict, page.lines)}
        show_fields(
            {"key": key, **{name: list(some) for name, some in found.items()}}, as_json=True
        )
        return
    _show_page(page, as_json=False)
    if stops:
        click.echo()
        columns = ["handler", "state", "i_event", "since", "until", "reason"]
        show([asdict(one) for one in stops], columns, as_json=False)


@event.command()
@click.argument("i_env", type=environment)
@click.argument("who")
@click.option("--handler", "name", help="For the handler of this name. [default: all]")
@click.option("--reason", required=True, help="Why; it is shown until the release.")
def hold(i_env: int, who: str, name: str | None, reason: str) -> None:
    """Deliver nothing more about somebody until it is released; others go on.

    What happens meanwhile waits, in order. An attempt that is under way is not called back. A
    handler that is made later is not meant. WHO is as for 'evctl event timeline'.

    \b
    Example:
      evctl event hold 3 account:541 --handler EventSender --reason 'moved by hand, see ticket 77'
    """  # noqa: D301
    if not reason.strip():
        raise InvalidRequest("--reason: say why", "reason")
    with office() as at, at.database.begin() as connection:
        key = timeline.key_of(connection, who, i_env)
        some = subscriptions.some_handlers(connection, i_env, name)
        names = timeline.hold(connection, at.database, some, key, f"evctl: {reason.strip()}")
        after = {"handlers": names, "reason": reason.strip()}
        at.note(connection, "lane.hold", key, None, after, i_env=i_env)
    click.echo(f"{key} is held for {', '.join(names)}")


@event.command()
@click.argument("i_env", type=environment)
@click.argument("who")
@click.option("--handler", "name", help="For the handler of this name. [default: all]")
def release(i_env: int, who: str, name: str | None) -> None:
    """Go on with what was held, in order.

    \b
    Example:
      evctl event release 3 account:541
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        key = timeline.key_of(connection, who, i_env)
        some = subscriptions.some_handlers(connection, i_env, name)
        names = timeline.release(connection, at.database, some, key)
        at.note(connection, "lane.release", key, None, {"handlers": names}, i_env=i_env)
    click.echo(f"{key} goes on for {', '.join(names)}")


@event.command()
@click.option("--env", "i_env", type=environment, help="Only of this environment.")
@json_option
def held(i_env: int | None, *, as_json: bool) -> None:
    """List what is held."""
    with office() as at, at.database.read() as connection:
        rows = [asdict(one) for one in timeline.held(connection, i_env)]
    columns = ["i_env", "handler", "ordering_key", "since", "reason"]
    show(rows, columns, as_json=as_json)


@event.command()
@click.argument("i_event", type=number, required=False)
@click.option("--key", help="The event that is scheduled under this key, instead of a number.")
@click.option("--env", "i_env", type=environment, help="The environment of the key.")
def cancel(i_event: int | None, key: str | None, i_env: int | None) -> None:
    """Call off a scheduled event.

    \b
    Examples:
      evctl event cancel 623623
      evctl event cancel --env 3 --key next-month-541
    """  # noqa: D301
    by_key = key is not None and i_env is not None
    if by_key == (i_event is not None):
        raise click.UsageError("give the number of an event, or --env and --key")
    with office() as at, at.database.begin() as connection:
        if i_event is None:
            assert key is not None
            assert i_env is not None
            i_event = schedule.under(connection, i_env, key)
        i_env = _environment_of(connection, i_event)
        restarts.cancel(connection, at.database, i_event)
        at.note(connection, "event.cancel", f"event {i_event}", None, {"key": key}, i_env=i_env)
    click.echo(f"Event {i_event} is cancelled")


@event.command()
@click.option("--env", "i_env", type=environment, help="Only of this environment.")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="At most so many.",
)
@json_option
def planned(i_env: int | None, limit: int, *, as_json: bool) -> None:
    """List the events whose time has not come, in the order of their times."""
    with office() as at, at.database.read() as connection:
        rows = [asdict(one) for one in schedule.planned(connection, i_env, limit)]
    columns = ["start_time", "i_event", "i_env", "event_type", "key", "variables"]
    show(rows, columns, as_json=as_json)


def _filter(
    at: Office,
    connection: Connection,
    status: str,
    *,
    i_env: int | None,
    name: str | None,
    event_type: str | None,
    i_account: int | None,
    about: str | None,
    since: str | None,
    until: str | None,
) -> Filter:
    if about is not None and i_account is not None:
        raise click.UsageError("--about and --account say the same: give one of them")
    now = at.database.now(connection)
    key = None if i_account is None else f"account:{i_account}"
    wanted = Filter(
        i_env=i_env,
        handler=name,
        status=status,
        event_type=event_type,
        ordering_key=key if about is None else timeline.key_of(connection, about, i_env),
        since=None if since is None else moment_of(since, "--from", now),
        until=None if until is None else moment_of(until, "--to", now),
    )
    if wanted.since and wanted.until and wanted.since >= wanted.until:
        raise InvalidRequest("--from must be before --to", "from")
    return wanted


def _handler_of(connection: Connection, i_event: int, name: str) -> EventHandler:
    """The handler of this name in the environment of an event."""
    i_env = _environment_of(connection, i_event)
    if i_env is None:
        raise NotFound(f"there is no event {i_event}")
    return subscriptions.require_handler(connection, i_env, name)


def _environment_of(connection: Connection, i_event: int) -> int | None:
    parts = overview.search(connection, Filter(i_event=i_event), 1)
    return parts[0].i_env if parts else None


def _set_fields(wanted: Filter) -> dict[str, object]:
    """What a choice of events is made by."""
    return {name: value for name, value in asdict(wanted).items() if value is not None}


def _parent(variables: str | None) -> int | None:
    """The event of which a dispatcher has made one with these variables, if one has."""
    try:
        parent = json.loads(variables or "{}").get(PARENT)
    except (ValueError, AttributeError):
        return None
    return parent if isinstance(parent, int) else None


def _print_attempt(entry: journal.Entry) -> None:
    when = entry.logged_at.strftime("%Y-%m-%d %H:%M:%S") if entry.logged_at else "-"
    head = f"{when}  {entry.handler or '-'}  attempt {entry.attempt}: {entry.verdict}"
    took = "" if entry.duration_ms is None else f" ({entry.duration_ms} ms)"
    click.echo(f"{head}{took}" + (f" - {entry.reason}" if entry.reason else ""))
    for mark, body in ((">", entry.request), ("<", entry.response)):
        for line in (body or "").splitlines():
            click.echo(f"    {mark} {line}")


def variable(word: str) -> tuple[str, object]:
    """Read ``K=V``; what reads as JSON is taken as such. Raises InvalidRequest."""
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise InvalidRequest(f"--var {word!r}: expected NAME=VALUE, e.g. i_account=541", "var")
    return name, read_value(value)
