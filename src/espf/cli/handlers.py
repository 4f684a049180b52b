"""evctl handler: event handlers, their settings and subscriptions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import click
from sqlalchemy import Connection

from espf import depth, restarts, standing, subscriptions
from espf.cli import support, trial
from espf.cli.group import (
    Office,
    environment,
    is_interactive,
    json_option,
    office,
    progress,
    roughly,
    show,
    show_fields,
    standard_input,
)
from espf.errors import InvalidRequest
from espf.maintenance import in_maintenance
from espf.model import SHARDS, format_time
from espf.standing import Standing, short_name
from espf.subscriptions import EventHandler


@click.group()
def handler() -> None:
    """Event handlers: create, configure, subscribe, switch on and off."""


handler.add_command(support.types)
handler.add_command(trial.test)

set_option = click.option(
    "--set", "assignments", multiple=True, metavar="K=V", help="Set an option; may be repeated."
)
file_option = click.option(
    "--set-file",
    "files",
    multiple=True,
    metavar="K=PATH",
    help="Set an option to what a file holds ('-': standard input), to keep secrets out of sight.",
)


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
@click.option(
    "--type",
    "type_name",
    required=True,
    help="The handler type, e.g. EventSender; 'evctl handler types' lists them.",
)
@set_option
@file_option
@click.option(
    "--usual",
    is_flag=True,
    help="Subscribe it to the types that are usual for its type, not to all that it supports.",
)
@click.option("--disabled", is_flag=True, help="Do not switch it on yet.")
def create(
    i_env: int,
    name: str,
    type_name: str,
    assignments: tuple[str, ...],
    files: tuple[str, ...],
    *,
    usual: bool,
    disabled: bool,
) -> None:
    """Create a handler; it is subscribed to every event type that its type supports.

    With --usual, to those that a handler of this type usually needs: a handler of a real system
    to what may change its subscribers, and to nothing else.

    \b
    Example:
      evctl handler create 3 EventSender --type EventSender \\
        --set EventSender.URL=http://127.0.0.1:5000 \\
        --set EventSender.BasicAuth.User=espf \\
        --set-file EventSender.BasicAuth.Key=/etc/espf/key
      evctl handler create 3 HLR --type OsmoHLR --usual --set OsmoHLR.Address=127.0.0.1
    """  # noqa: D301
    options = options_of(assignments, files)
    with office() as at, at.database.begin() as connection:
        made = subscriptions.create_handler(
            connection,
            at.sealer,
            i_env,
            name,
            type_name,
            options,
            enabled=not disabled,
            usual=usual,
        )
        subscribed = subscriptions.subscriptions(connection, made)
        missing = made.missing(at.sealer)
        remarks = _remarks(at, made, subscribed)
        at.note(
            connection, "handler.create", f"handler {name}", None, made.described(), i_env=i_env
        )
    state = "disabled" if disabled else "enabled"
    click.echo(f"Handler {name} is created, {state}, subscribed to {len(subscribed)} event types")
    _tell_missing(missing)
    _tell_remarks(remarks)


@handler.command("set")
@click.argument("i_env", type=environment)
@click.argument("name")
@click.argument("words", nargs=-1, metavar="[K=V]...")
@set_option
@file_option
@click.option("--unset", "unset", multiple=True, metavar="K", help="Back to the default.")
def set_(
    i_env: int,
    name: str,
    words: tuple[str, ...],
    assignments: tuple[str, ...],
    files: tuple[str, ...],
    unset: tuple[str, ...],
) -> None:
    """Change options of a handler; all or none take effect, within two seconds.

    \b
    Example:
      evctl handler set 3 EventSender EventSender.APIVersion=1 Concurrency=4
    """  # noqa: D301
    options: dict[str, object | None] = dict(options_of(words + assignments, files))
    options.update(dict.fromkeys(unset))
    if not options:
        raise click.UsageError("nothing to set; write K=V or --unset K")
    with office() as at, at.database.begin() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        subscribed = subscriptions.subscriptions(connection, found)
        before = _remarks(at, found, subscribed)
        subscriptions.set_options(connection, at.sealer, found, options)
        changed = subscriptions.require_handler(connection, i_env, name)
        missing = changed.missing(at.sealer)
        after = _remarks(at, changed, subscribed)
        subject = f"handler {name}"
        at.note(
            connection, "handler.set", subject, found.described(), changed.described(), i_env=i_env
        )
    click.echo(f"Handler {name}: {', '.join(options)} changed")
    _tell_missing(missing)
    _tell_remarks({each: after[each] for each in after if each not in before})


@handler.command("show")
@click.argument("i_env", type=environment)
@click.argument("name")
@json_option
def show_(i_env: int, name: str, *, as_json: bool) -> None:
    """Show a handler: how it stands, and all its options; secrets as dots."""
    with office() as at, at.database.read() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        (one,) = standing.handlers(connection, at.database, found)
        subscribed = len(subscriptions.subscriptions(connection, found))
        fields = {**one.fields(at.database.now(connection)), "subscriptions": subscribed}
    shown = found.shown()
    if as_json:
        show_fields({**fields, "options": shown}, as_json=True)
        return
    fields["workers"] = _work(one) or None
    fields["breakers"] = _breakers(one) or None
    show_fields({**fields, **shown}, as_json=False)


@handler.command("list")
@click.argument("i_env", type=environment, required=False)
@json_option
def list_(i_env: int | None, *, as_json: bool) -> None:
    """List the handlers of one environment, or of all, and how each stands.

    STATE is 'working', or what keeps the events waiting: disabled, maintenance, paused, unattended
    (no worker is there), or a breaker that is open. OLDEST is the age of the first that waits; a ~
    before WAITING means that it is an estimate, since very many do.
    """
    with office() as at, at.database.read() as connection:
        now = at.database.now(connection)
        found = subscriptions.list_handlers(connection, i_env)
        rows = [
            one.fields(now) | {"oldest": _age(one, now)}
            for one in standing.handlers(connection, at.database, *found)
        ]
    for row in rows if not as_json else ():
        if row["estimated"]:
            row["waiting"] = f"~{row['waiting']}"
    columns = ["i_env", "name", "type", "state", "waiting", "oldest", "retrying", "failed"]
    show(rows, columns, as_json=as_json)


def _age(one: Standing, now: datetime) -> str | None:
    return None if one.oldest is None else roughly(now - one.oldest)


def _work(one: Standing) -> str:
    return ", ".join(
        f"{short_name(worker)} {count}/{SHARDS}" for worker, count in sorted(one.workers.items())
    )


def _breakers(one: Standing) -> str:
    return ", ".join(
        f"{breaker.state} since {format_time(breaker.since)}"
        + (f", tries again at {format_time(breaker.probe_at)}" if breaker.probe_at else "")
        + f" ({short_name(worker)}): {breaker.reason or '-'}"
        for worker, breaker in sorted(one.breakers.items())
    )


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
def enable(i_env: int, name: str) -> None:
    """Switch a handler on: it goes on with what waits, and hears of new events."""
    with office() as at, at.database.begin() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        subscriptions.set_handler_enabled(connection, found, enabled=True)
        at.note(connection, "handler.enable", f"handler {name}", i_env=i_env)
    click.echo(f"Handler {name} is enabled")


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def disable(i_env: int, name: str, *, yes: bool) -> None:
    """Switch a handler off: what waits is kept, new events are not recorded for it."""
    with office() as at:
        with at.database.read() as connection:
            found = subscriptions.require_handler(connection, i_env, name)
        click.echo(
            f"While handler {name} is disabled, what changes in billing is not recorded for it; "
            "what waits already is kept. "
            f"To have everything wait instead, say: evctl handler pause {i_env} {name}",
            err=True,
        )
        if is_interactive() and not yes:
            click.confirm("Disable it?", abort=True, err=True)
        with at.database.begin() as connection:
            subscriptions.set_handler_enabled(connection, found, enabled=False)
            at.note(connection, "handler.disable", f"handler {name}", i_env=i_env)
    click.echo(f"Handler {name} is disabled")


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
def pause(i_env: int, name: str) -> None:
    """Let a handler's events wait, within two seconds; they are captured all the same.

    What is in flight comes to its end. Nothing fails, and no attempt is spent.

    \b
    Example: while the application is being upgraded
      evctl handler pause 3 EventSender
      evctl handler resume 3 EventSender
    """  # noqa: D301
    _pause(i_env, name, paused=True)


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
def resume(i_env: int, name: str) -> None:
    """Let a paused handler go on, in order, with what waits."""
    _pause(i_env, name, paused=False)


def _pause(i_env: int, name: str, *, paused: bool) -> None:
    with office() as at, at.database.begin() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        subscriptions.set_handler_paused(connection, found, paused=paused)
        waits = in_maintenance(connection)
        action = "handler.pause" if paused else "handler.resume"
        at.note(connection, action, f"handler {name}", i_env=i_env)
    click.echo(f"Handler {name} {'is paused' if paused else 'goes on'}")
    if not paused and waits:
        click.echo("Note: maintenance is on; until 'evctl maintenance off' it waits", err=True)
    if not paused and not found.enabled:
        click.echo("Note: it is disabled; until 'evctl handler enable' it waits", err=True)


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when work is waiting; it counts as cancelled.")
def delete(i_env: int, name: str, *, force: bool) -> None:
    """Delete a handler with its settings and subscriptions.

    With --force it is switched off first, so that nothing comes after; what waits is cancelled step
    by step. If that is interrupted, the handler is left switched off, with what is left.
    """
    with office() as at:
        cancelled = _cancel_all(at, i_env, name) if force else 0
        with at.database.begin() as connection:
            found = subscriptions.require_handler(connection, i_env, name)
            cancelled += restarts.remove_handler(connection, at.database, found, force=force)
            before, after = found.described(), {"cancelled": cancelled}
            subject = f"handler {name}"
            at.note(connection, "handler.delete", subject, before, after, i_env=i_env)
    click.echo(f"Handler {name} is deleted; {cancelled} notifications cancelled")


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
@click.argument("event_type")
def subscribe(i_env: int, name: str, event_type: str) -> None:
    """Subscribe a handler to an event type.

    \b
    Example:
      evctl handler subscribe 3 EventSender Custom/NextMonth
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        subscriptions.subscribe(connection, found, event_type)
        _note_subscription(at, connection, found, event_type, "subscribed")
        remarks = _remarks(at, found, [event_type])
    click.echo(f"Handler {name} is subscribed to {event_type}")
    for remark in remarks.values():
        click.echo(f"Note: {remark}", err=True)


@handler.command()
@click.argument("i_env", type=environment)
@click.argument("name")
@click.argument("event_type")
def unsubscribe(i_env: int, name: str, event_type: str) -> None:
    """End a subscription; what waits already is still delivered."""
    with office() as at, at.database.begin() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        subscriptions.unsubscribe(connection, found, event_type)
        _note_subscription(at, connection, found, event_type, "not subscribed")
    click.echo(f"Handler {name} is unsubscribed from {event_type}")


@handler.command("subscriptions")
@click.argument("i_env", type=environment)
@click.argument("name")
@json_option
def subscriptions_(i_env: int, name: str, *, as_json: bool) -> None:
    """List the event types that a handler supports, and which it is subscribed to.

    A type that was subscribed to by another of its names stands there under that one. NOTE says
    which of them it will skip, and why.
    """
    with office() as at, at.database.read() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        on = set(subscriptions.subscriptions(connection, found))
        known = subscriptions.supported_types(connection, found)
        remarks = _remarks(at, found, known)
        rows = [
            {
                "event_type": found.spellings.get(event_type, event_type),
                "subscribed": event_type in on,
                "note": remarks.get(event_type),
            }
            for event_type in known
        ]
    show(rows, ["event_type", "subscribed", "note"], as_json=as_json)


def _note_subscription(
    at: Office, connection: Connection, found: EventHandler, event_type: str, state: str
) -> None:
    subject = f"handler {found.name}"
    after = {event_type: state}
    at.note(connection, "handler.subscribe", subject, None, after, i_env=found.i_env)


def _cancel_all(at: Office, i_env: int, name: str) -> int:
    with at.database.begin() as connection:
        found = subscriptions.require_handler(connection, i_env, name)
        subscriptions.set_handler_enabled(connection, found, enabled=False)
        at.note(connection, "handler.disable", f"handler {name}", i_env=i_env)
        count = sum(depth.counts(connection, found.i_event_handler).values())
    cancelled = 0
    with progress(count) as step:
        while True:
            with at.database.begin() as connection:
                some = restarts.cancel_next(connection, at.database, found)
            if not some:
                return cancelled
            cancelled += some
            step(some)


def _remarks(at: Office, found: EventHandler, event_types: Sequence[str]) -> dict[str, str]:
    """What there is to say of these types to who subscribes the handler to them, by type."""
    if found.missing(at.sealer) is not None:
        return {}
    built = found.build(at.sealer)
    return {each: remark for each in event_types if (remark := built.remark(each))}


def _tell_remarks(remarks: Mapping[str, str]) -> None:
    if remarks:
        event_type, remark = next(iter(remarks.items()))
        more = f", and the like of {len(remarks) - 1} more types" if len(remarks) > 1 else ""
        click.echo(
            f"Note: it is subscribed to {event_type}, but {remark}{more}; "
            "see 'evctl handler subscriptions'",
            err=True,
        )


def _tell_missing(missing: str | None) -> None:
    if missing:
        click.echo(f"Not configured yet, its events wait: {missing}", err=True)


def options_of(assignments: tuple[str, ...], files: tuple[str, ...]) -> dict[str, str]:
    """What K=V and K=PATH say. Raises InvalidRequest."""
    options = dict(_split(word) for word in assignments)
    for alias, path in (_split(word) for word in files):
        try:
            text = standard_input() if path == "-" else Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{alias}: cannot read {path}: {error}", alias) from None
        options[alias] = text.rstrip("\n")
    return options


def _split(word: str) -> tuple[str, str]:
    alias, equals, value = word.partition("=")
    if not equals or not alias:
        raise InvalidRequest(f"{word!r}: expected OPTION=VALUE, e.g. Concurrency=4", word)
    return alias, value
