"""evctl config: the versions of the configuration."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from espf import configuration
from espf.cli.group import environment, json_option, office, operator, show, show_fields
from espf.cli.handlers import file_option, options_of
from espf.configuration import (
    Difference,
    Finding,
    Instance,
    Provisioning,
    Value,
    Version,
    as_text,
)

_PAGE = """\
# Configuration

Made from the models by `evctl config fields --markdown`; do not edit.

What holds for the whole installation, and may change without a restart, is the configuration. It has versions: *drafts*, one that is *active*, and *archived* ones that were active before. A version that was applied is not changed any more; who made, changed and applied it, and when, is kept with it. [How to change it](../how-to/change-the-configuration.md) tells the steps.

A field is written as its place in the tree: `Provisioning.AlertRecipient`, and for the instance `hss` of ESPF `ESPF.hss.port`. What is not set has its default, and follows it when a new release has another. Times are written `90s`, `15m`, `2h`; lists with commas; switches `on` and `off`. Secrets are sealed with the [key file](settings.md#the-key-file), and shown as dots.

## Groups > Provisioning

| Field | Default | |
|---|---|---|
{provisioning}

The documents' other spelling `AlertRecepient` is taken for `AlertRecipient`.

## Auxiliaries > ESPF

One group per instance; `NAME` is a word of up to 32 letters, digits, hyphens and underscores.

| Field | Default | |
|---|---|---|
{instances}

`evctl run --instance NAME` and `evctl worker --instance NAME` work as an instance; any number of processes may. One without the option works for all handlers.

## What verifying looks at

Each value is checked when it is set. Verifying looks further, on the machine where it is done:

| | Finding |
|---|---|
| `AlertRecipient` is set, and the program `sendmail` is not there or not executable | error |
| an instance names a handler that does not exist | error |
| two instances have the same server, address and port | error |
| an instance's server is this machine, and its address is not | error |
| an instance's address and port cannot be had now, and were not its own before | warning |
| a handler for which no enabled instance delivers, when there are instances | warning |
| nobody is told of failures: neither `AlertRecipient` nor `AlertURL` | warning |
| `AlertToken` without `AlertURL`, or to one without TLS | warning |
| the URL of a handler has an address that is in none of the `TargetNetworks` of its environment; what a name leads to is not looked at | warning |
| `Maintenance` is on | warning |

Only errors keep a version from being applied.
"""  # noqa: E501  (a paragraph of a document is one line)

_number = click.argument("number", type=environment, metavar="NUMBER")


@click.group()
def config() -> None:
    """The configuration: alerts, retries, how long things are kept, instances of ESPF.

    It has versions, one of which is active. Clone that, change the clone, verify it, apply it.

    \b
    Example:
      evctl config clone
      evctl config set 2 Provisioning.AlertRecipient=noc@example.net
      evctl config verify 2
      evctl config apply 2
    """  # noqa: D301


@config.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the versions, the newest first; STATUS is draft, active or archived."""
    with office() as at, at.database.read() as connection:
        rows = [one.facts() for one in configuration.list_versions(connection)]
    columns = ["i_configuration", "status", "cloned_from", "created_at", "created_by"]
    show(rows, [*columns, "applied_at", "applied_by", "comment"], as_json=as_json)


@config.command("show")
@click.argument("number", type=environment, metavar="[NUMBER]", required=False)
@json_option
def show_(number: int | None, *, as_json: bool) -> None:
    """Show a version, by default the active one: who made it, and every field; secrets as dots."""
    with office() as at, at.database.read() as connection:
        if number is None:
            found = configuration.active(connection)
        else:
            found = configuration.find(connection, number)
        facts, settings, shown = found.facts(), found.settings(), found.shown()
    if as_json:
        show_fields({**facts, "settings": settings}, as_json=True)
    else:
        show_fields({**facts, **shown}, as_json=False)


@config.command()
@json_option
@click.option("--markdown", is_flag=True, help="Print a page of documentation instead.")
def fields(*, as_json: bool, markdown: bool) -> None:
    """List the fields that can be set, with their defaults; --json has their JSON Schema.

    \b
    Example: the page of the documentation
      evctl config fields --markdown > docs/reference/configuration.md
    """  # noqa: D301
    schemas = {
        prefix: kind.model_json_schema()
        for prefix, kind in (("Provisioning", Provisioning), ("ESPF.NAME", Instance))
    }
    if markdown:
        click.echo(_page(schemas), nl=False)
        return
    if as_json:
        show_fields(schemas, as_json=True)
        return
    rows = [
        {"field": f"{prefix}.{name}", "default": as_text(one["default"]), "means": one["title"]}
        for prefix, schema in schemas.items()
        for name, one in schema["properties"].items()
    ]
    show(rows, ["field", "default", "means"], as_json=False)


def _page(schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of the documentation about the fields."""
    tables = {
        prefix: "\n".join(
            f"| `{prefix}.{name}` | {_default(one)} | {one['title']}. {one['description']} |"
            for name, one in schema["properties"].items()
        )
        for prefix, schema in schemas.items()
    }
    return _PAGE.format(provisioning=tables["Provisioning"], instances=tables["ESPF.NAME"])


def _default(one: Mapping[str, Any]) -> str:
    text = as_text(one["default"])
    return f"`{text}`" if text else ""


@config.command()
@click.argument("number", type=environment, metavar="[NUMBER]", required=False)
@click.option("--comment", default="", help="What it is for.")
@json_option
def clone(number: int | None, comment: str, *, as_json: bool) -> None:
    """Make a draft of a version, by default of the active one.

    \b
    Example:
      evctl config clone --comment "a second instance"
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        made = configuration.clone(connection, at.database, operator(), number, comment)
        after = {"clone of": made.cloned_from}
        at.note(connection, "config.clone", f"configuration {made.i_configuration}", None, after)
    _tell(made, f"is a draft, made of {made.cloned_from}", as_json=as_json)


@config.command("set")
@_number
@click.argument("words", nargs=-1, metavar="[K=V]...")
@file_option
@click.option("--unset", multiple=True, metavar="K", help="Back to the default.")
@click.option("--create-instance", "create", multiple=True, metavar="NAME", help="Add an instance.")
@click.option("--delete-instance", "remove", multiple=True, metavar="NAME", help="Remove one.")
@json_option
def set_(
    number: int,
    words: tuple[str, ...],
    files: tuple[str, ...],
    unset: tuple[str, ...],
    create: tuple[str, ...],
    remove: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Change a draft: all of what is said, or nothing. 'evctl config show' has the fields.

    \b
    Examples:
      evctl config set 2 Provisioning.RetryDelays='5s 1m 10m 1hx24' Provisioning.LongTail=
      evctl config set 2 --set-file Provisioning.AlertToken=/etc/espf/token
      evctl config set 2 --create-instance hss ESPF.hss.server=espf2 ESPF.hss.handlers=HSS@3
    """  # noqa: D301
    changes: dict[str, Value] = dict(options_of(words, files))
    changes.update(dict.fromkeys(unset))
    if not (changes or create or remove):
        raise click.UsageError("nothing to set; write K=V or --unset K")
    with office() as at, at.database.begin() as connection:
        who = operator()
        before = configuration.find(connection, number).shown()
        for name in remove:
            configuration.delete_instance(connection, at.database, number, name, who)
        for name in create:
            configuration.create_instance(connection, at.database, at.sealer, number, name, {}, who)
        changed = configuration.change(connection, at.database, at.sealer, number, changes, who)
        at.note(connection, "config.set", f"configuration {number}", before, changed.shown())
    _tell(changed, "is changed", as_json=as_json)


@config.command()
@_number
@click.argument("other", type=environment, metavar="[OTHER]", required=False)
@json_option
def diff(number: int, other: int | None, *, as_json: bool) -> None:
    """Show what would change: from the active version to this one, or from this one to another.

    \b
    Examples:
      evctl config diff 4
      evctl config diff 3 4
    """  # noqa: D301
    with office() as at, at.database.read() as connection:
        one = configuration.find(connection, number)
        if other is None:
            old, new = configuration.active(connection), one
        else:
            old, new = one, configuration.find(connection, other)
        changed = configuration.differences(old, new)
    show([asdict(each) for each in changed], ["field", "old", "new"], as_json=as_json)


@config.command()
@_number
@json_option
def verify(number: int, *, as_json: bool) -> None:
    """Say whether a version could be applied, from this machine, and what that would change.

    Exit code 1: something is wrong with it.
    """
    with office() as at, at.database.read() as connection:
        verdict = configuration.verify(connection, number)
    if as_json:
        show_fields(asdict(verdict), as_json=True)
    else:
        _tell_findings(verdict.findings)
        _tell_differences(verdict.differences)
        said = "cannot be applied" if verdict.errors else "can be applied"
        click.echo(f"Configuration {number} {said} over {verdict.active}")
    if verdict.errors:
        raise SystemExit(1)


@config.command()
@_number
@click.option(
    "--over",
    type=environment,
    metavar="NUMBER",
    help="The active version that it is to replace. [default: that of which the draft knows]",
)
@json_option
def apply(number: int, over: int | None, *, as_json: bool) -> None:
    """Verify a draft and make it the active version; every process follows within two seconds.

    When another has become active since the draft was made, nothing is done, lest what that one
    changed is lost: see 'evctl config diff', and say --over.

    \b
    Example:
      evctl config apply 4 --over 3
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        warnings = configuration.verify(connection, number).findings
        before = configuration.active(connection).shown()
        applied = configuration.apply(connection, at.database, number, operator(), over)
        at.note(connection, "config.apply", f"configuration {number}", before, applied.shown())
    for one in warnings:
        click.echo(f"Note: {one.field}: {one.message}", err=True)
    _tell(applied, "is active", as_json=as_json)


@config.command()
@_number
@json_option
def rollback(number: int, *, as_json: bool) -> None:
    """Go back to a version that was active before: a copy of it is verified and applied.

    \b
    Example:
      evctl config rollback 3
    """  # noqa: D301
    with office() as at, at.database.begin() as connection:
        before = configuration.active(connection).shown()
        applied = configuration.roll_back(connection, at.database, number, operator())
        subject = f"configuration {applied.i_configuration}"
        at.note(connection, "config.rollback", subject, before, applied.shown())
    _tell(applied, f"is active, a copy of {number}", as_json=as_json)


@config.command()
@_number
def delete(number: int) -> None:
    """Delete a draft. What was active once is kept."""
    with office() as at, at.database.begin() as connection:
        configuration.delete(connection, number)
        at.note(connection, "config.delete", f"configuration {number}")
    click.echo(f"Configuration {number} is deleted")


def _tell(version: Version, said: str, *, as_json: bool) -> None:
    if as_json:
        show_fields(version.facts(), as_json=True)
    else:
        click.echo(f"Configuration {version.i_configuration} {said}")


def _tell_findings(found: list[Finding]) -> None:
    if found:
        show([asdict(one) for one in found], ["severity", "field", "message"], as_json=False)


def _tell_differences(changed: list[Difference]) -> None:
    if changed:
        show([asdict(one) for one in changed], ["field", "old", "new"], as_json=False)
    else:
        click.echo("It is the same as the active one")
