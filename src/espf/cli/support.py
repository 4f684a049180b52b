"""evctl handler types: which handler types there are, and which events each supports."""

import json
from collections.abc import Iterable

import click

from espf.catalogue import catalogue, fits_any
from espf.cli.group import json_option, show
from espf.handlers import registry
from espf.handlers.base import Handler

#: Types that the vendor's documents name for EventSender: the handbook's checklist, and the two of
#: its scheduling scenario. Ours sends any other as well; the demo's hears these.
DOCUMENTED = {
    **dict.fromkeys(
        (
            "Account/New",
            "Account/SIMCardAssignment",
            "Account/ServicePassword/Changed",
            "Account/Password/Changed",
            "Account/ID/Changed",
            "Account/ZeroAvailableFunds",
            "Account/AvailableFundsAppear",
            "Account/Product/Changed",
            "Account/Blocked",
            "Account/Unblocked",
            "Customer/ZeroAvailableFunds",
            "Customer/AvailableFundsAppear",
            "Customer/Blocked",
            "Customer/Unblocked",
        ),
        "handbook",
    ),
    **dict.fromkeys(
        ("Account/Service/Netaccess/QuotaExceeded", "Account/Service/QuotaAvailable"),
        "scheduling guide",
    ),
}

_PAGE = """\
# Events that handlers support

Made from the catalogue and the handler types by `evctl handler types --markdown`; do not edit.

A new handler is subscribed to every type that its handler type supports (✓), or with `--usual` to those alone that are *usual* for its type, if any are; and to no `Custom/…` type, which any handler that supports it can be [subscribed](evctl.md#evctl-handler-subscribe) to. What the events mean and carry is told in [event types](event-types.md). Names of one type from several releases stand side by side.

**Version 2** is the name under which an EventSender with `EventSender.APIVersion` 2 sends the event. Where there is none, such a handler skips it, and version 1 sends it.

The vendor's documents name {count} types for EventSender: those marked *handbook* and *scheduling guide*. Its complete list is not known; ours sends every type.

| Event type | Version 2 | {names} |
|---|---|{lines}|
{rows}
"""  # noqa: E501  (a paragraph of a document is one line)


@click.command("types")
@json_option
@click.option("--markdown", is_flag=True, help="Print a page of documentation instead.")
def types(*, as_json: bool, markdown: bool) -> None:
    """List the handler types, and how many types of the catalogue each supports.

    --json has all of them by name.

    \b
    Example: the page of the documentation
      evctl handler types --markdown > docs/reference/events-that-handlers-support.md
    """  # noqa: D301
    found = registry.handler_types()
    if markdown:
        click.echo(page(found), nl=False)
        return
    supported = {name: registry.supported(name, catalogue()) for name in found}
    if as_json:
        click.echo(json.dumps(supported, indent=2))
        return
    rows = [
        {"type": name, "supports": len(supported[name]), "description": _summary(found[name])}
        for name in found
    ]
    show(rows, ["type", "supports", "description"], as_json=False)


def page(names: Iterable[str]) -> str:
    """The page of the documentation about these handler types."""
    columns = {name: set(registry.supported(name, catalogue())) for name in names}
    rows = []
    for entry in catalogue().values():
        others = "".join(f", `{alias}`" for alias in entry.aliases)
        cells = [f"`{entry.name}`{others}", f"`{entry.version_2}`" if entry.version_2 else ""]
        for name, supported in columns.items():
            mark = "✓" if entry.name in supported else ""
            if fits_any(entry.name, registry.handler_type(name).usual):
                mark += " usual"
            known = DOCUMENTED.get(entry.name) if name == "EventSender" else None
            cells.append(f"{mark} *{known}*" if known else mark)
        rows.append(f"| {' | '.join(cells)} |")
    return _PAGE.format(
        count=len(DOCUMENTED),
        names=" | ".join(columns),
        lines="|".join("---" for _ in columns),
        rows="\n".join(rows),
    )


def _summary(handler_type: type[Handler]) -> str:
    return (handler_type.__doc__ or "").strip().partition("\n")[0]
