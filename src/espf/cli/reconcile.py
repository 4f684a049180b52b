"""evctl reconcile: compare what a handler's system holds with the billing."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from espf import reconciliation, subscriptions
from espf.cli.group import Office, environment, json_option, office, operator, show, show_fields
from espf.errors import InvalidRequest, NotFound
from espf.handlers.desired import RECONCILE
from espf.handlers.http import HttpClient
from espf.reconciler import Reconciler
from espf.reconciliation import KINDS, REPAIR, Finding, Reconciliation, Scope
from espf.subscriptions import EventHandler

#: Exit codes: something is not as it should be; something could not be found out.
DIFFERENCES, UNKNOWN = 7, 1

#: Findings that are printed; a file has all of them.
MOST_SHOWN = 50
MOST_IN_JSON = 1000

#: How often one looks how far another process has come.
LOOK_SECONDS = 1.0

_WORDS = {
    "accounts": "Accounts",
    "held": "What the system holds",
    "repair": "Repairs",
}


@click.command()
@click.argument("i_env", type=environment)
@click.argument("name")
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="ID",
    help="Only this account, by its id or its i_account; repeatable.",
)
@click.option("--product", help="Only accounts that have this product, by its name or i_product.")
@click.option("--all", "everything", is_flag=True, help="All, and what the system holds besides.")
@click.option("--repair", is_flag=True, help="Have what differs put right, through the queue.")
@click.option("--rate", type=click.IntRange(1, 10_000), help="Entries a second; see Audit.Rate.")
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write all that was found to this file.",
)
@click.option("--cancel", is_flag=True, help="End the audit of the handler that is under way.")
@json_option
def reconcile(
    i_env: int,
    name: str,
    accounts: tuple[str, ...],
    product: str | None,
    *,
    everything: bool,
    repair: bool,
    rate: int | None,
    csv_path: Path | None,
    cancel: bool,
    as_json: bool,
) -> None:
    """Compare what a handler's system holds with what the billing wants it to hold.

    Nothing is changed, unless with --repair: then each entry that differs gets an event in the
    queue, for this handler alone. Interrupted, an audit goes on in any process that delivers, or
    where the same command is given again. Exit code 0: all is as it should be; 7: something is not;
    1: something could not be compared.

    \b
    Examples:
      evctl reconcile 3 HLR --all
      evctl reconcile 3 HLR --account 380441234567 --repair
      evctl reconcile 3 HLR --product 'Data only' --csv differences.csv
    """  # noqa: D301
    with office() as at:
        if cancel:
            _cancel(at, i_env, name)
            return
        if csv_path is not None:
            _write(csv_path, [])
        one = _begin(
            at, i_env, name, _scope(accounts, product, everything=everything), repair, rate
        )
        click.echo(f"Audit {one.i_reconciliation} of handler {name}: {one.scope}", err=True)
        try:
            one = asyncio.run(_follow(at, one))
        except KeyboardInterrupt:
            click.echo(
                f"\nAudit {one.i_reconciliation} is not ended: any process that delivers goes on "
                "with it, and so does this command. To end it, add --cancel",
                err=True,
            )
            raise
        if csv_path is not None:
            found = reconciliation.all_findings(at.database, one.i_reconciliation)
            _write(csv_path, found)
        _print(at, one, as_json=as_json)
    _exit(one)


def _scope(accounts: tuple[str, ...], product: str | None, *, everything: bool) -> Scope:
    if sum([bool(accounts), product is not None, everything]) != 1:
        raise click.UsageError("what is to be compared? Give --account, --product or --all")
    return Scope(accounts, product)


def _begin(
    at: Office, i_env: int, name: str, scope: Scope, repair: bool, rate: int | None
) -> Reconciliation:
    """Begin an audit, or find the same that was begun before."""
    with at.database.begin() as connection:
        handler = subscriptions.require_handler(connection, i_env, name)
        reconciliation.settings_of(handler, at.sealer)
        before = reconciliation.running(connection, handler.i_event_handler)
        if before is not None and _is_same(before, scope, repair):
            return before
        one = reconciliation.begin(
            connection,
            at.database,
            at.sealer,
            handler,
            scope,
            operator(),
            repairs=repair,
            rate=rate,
        )
        _note(at, connection, "audit.begin", handler, one)
        return one


def _is_same(one: Reconciliation, scope: Scope, repair: bool) -> bool:
    return one.phase != REPAIR and one.scope == scope and bool(one.repairs_what) == repair


def _cancel(at: Office, i_env: int, name: str) -> None:
    with at.database.begin() as connection:
        handler = subscriptions.require_handler(connection, i_env, name)
        one = reconciliation.running(connection, handler.i_event_handler)
        if one is None:
            raise NotFound(f"no audit of handler {name} is under way")
        one = reconciliation.cancel(connection, at.database, i_env, one.i_reconciliation)
        _note(at, connection, "audit.cancel", handler, one)
    click.echo(f"Audit {one.i_reconciliation} of handler {name} is ended")


def _note(
    at: Office, connection: Connection, action: str, handler: EventHandler, one: Reconciliation
) -> None:
    after = {"audit": one.i_reconciliation, "of": str(one.scope), "repair": bool(one.repairs_what)}
    at.note(connection, action, f"handler {handler.name}", None, after, i_env=handler.i_env)


async def _follow(at: Office, one: Reconciliation) -> Reconciliation:
    """Carry an audit on, or watch who does, until it has ended."""
    # The web server is slow to import and of no use to the other commands.
    from espf.cli.process import way_to_billing  # noqa: PLC0415

    async with HttpClient() as client:
        billing = way_to_billing(at, client, at.settings.address)
        reconciler = Reconciler(at.database, at.sealer, client, billing)
        with _bar() as draw:
            while True:
                one = await reconciler.carry(one, draw)
                draw(one)
                if not one.is_running:
                    return one
                await asyncio.sleep(LOOK_SECONDS)


@contextmanager
def _bar() -> Iterator[Callable[[Reconciliation], None]]:
    """Show on a terminal how far an audit is, and what it waits for."""
    shown = sys.stderr.isatty()
    phase = ""
    with click.progressbar(
        length=1000, file=sys.stderr, hidden=not shown, label="Accounts", item_show_func=_told
    ) as bar:

        def draw(one: Reconciliation) -> None:
            nonlocal phase
            if one.phase != phase:
                phase = one.phase
                bar.label, bar.pos = _WORDS[phase], 0
            at = round(1000 * (one.share() or 0))
            bar.update(max(0, at - bar.pos), one)

        yield draw


def _told(one: Any) -> str | None:
    if one is None:
        return None
    counts = f"{one.compared:,} compared, {one.differences:,} differ"
    return f"{counts}; {one.remark}" if one.remark else counts


def _write(path: Path, found: Iterable[list[Finding]]) -> None:
    """Make a file of findings. Raises InvalidRequest."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, some in enumerate(found):
                file.write(reconciliation.to_csv(some, head=number == 0))
    except OSError as error:
        raise InvalidRequest(f"--csv: {path} cannot be written: {error.strerror}", "csv") from None


def _print(at: Office, one: Reconciliation, *, as_json: bool) -> None:
    most = MOST_IN_JSON if as_json else MOST_SHOWN
    with at.database.read() as connection:
        page = reconciliation.findings(connection, one.i_reconciliation, limit=most)
    fields: dict[str, Any] = {
        "audit": one.i_reconciliation,
        "state": one.state,
        "accounts": one.accounts,
        "same": one.same,
        **{str(kind): getattr(one, kind) for kind in KINDS},
        "repairs": one.repairs,
        "remark": one.remark,
    }
    if as_json:
        found = [_fields(finding) for finding in page.findings]
        more = page.next is not None
        show_fields({**fields, "findings": found, "more_findings": more}, as_json=True)
        return
    if page.findings:
        rows = [{**_fields(finding), "differences": finding.text} for finding in page.findings]
        show(rows, ["kind", "key", "i_account", "differences", "i_event"], as_json=False)
        click.echo()
    show_fields(fields, as_json=False)
    left = one.differences + one.failed - len(page.findings)
    if left > 0:
        click.echo(f"{left:,} more were found; --csv FILE writes them all", err=True)
    if one.repairs:
        watched = f"evctl event list --env {one.i_env} --type {RECONCILE}"
        click.echo(f"{one.repairs:,} repairs are in the queue; to watch them: {watched}", err=True)


def _fields(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "key": finding.key,
        "i_account": finding.i_account,
        "differences": [vars(each) for each in finding.differences],
        "reason": finding.reason,
        "i_event": finding.i_event,
    }


def _exit(one: Reconciliation) -> None:
    """0 when all is as it should be."""
    if one.state != reconciliation.DONE:
        click.echo(f"evctl: the audit {one.state}: {one.remark or 'somebody ended it'}", err=True)
        raise SystemExit(UNKNOWN)
    if one.differences:
        raise SystemExit(DIFFERENCES)
    if one.failed:
        raise SystemExit(UNKNOWN)
