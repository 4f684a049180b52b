"""Infrastructure > Event handlers > Audits: what a system holds, compared with the billing."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import reconciliation, subscriptions
from espf.errors import Conflict, EspfError, InvalidRequest
from espf.handlers.base import words
from espf.reconciliation import (
    KINDS,
    REPAIRABLE,
    Finding,
    FindingPage,
    Reconciliation,
    Scope,
)
from espf.subscriptions import EventHandler
from espf.users import OPERATE
from espf.web.contract import SmallPathNumber
from espf.web.pages import listing
from espf.web.pages.listing import Column, Listing
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/handlers/{i_event_handler}/audits")

Reader = Annotated[Visit, Depends(Visitor())]
Operator = Annotated[Visit, Depends(Visitor(OPERATE))]

COLUMNS: Sequence[Column[Finding]] = (
    Column("kind", "How", lambda one: one.kind, sortable=False),
    Column("key", "Entry", lambda one: one.key, sortable=False),
    Column("i_account", "Account", lambda one: one.i_account, sortable=False),
    Column("differences", "System → billing", lambda one: one.text, sortable=False),
    Column("i_event", "Repair", lambda one: one.i_event, sortable=False),
)

AUDITS: Sequence[Column[Reconciliation]] = (
    Column("i_reconciliation", "Audit", lambda one: one.i_reconciliation),
    Column("state", "State", lambda one: one.state),
    Column("scope", "Of", lambda one: one.scope),
    Column("begun_by", "By", lambda one: one.begun_by),
    Column("begun_at", "Begun", lambda one: one.begun_at),
    Column("same", "Same", lambda one: one.same, number=True),
    Column("different", "Different", lambda one: one.different, number=True),
    Column("missing", "Missing", lambda one: one.missing, number=True),
    Column("extra", "Extra", lambda one: one.extra, number=True),
    Column("failed", "Failed", lambda one: one.failed, number=True),
    Column("repairs", "Repairs", lambda one: one.repairs, number=True),
)

#: Audits that the page of a handler shows: as many as are remembered, or nearly so.
MOST_SHOWN = 30


@dataclass(frozen=True)
class Overview:
    """The audits of a handler; ``refused``: why it cannot be audited; ``at``: when it is daily."""

    handler: EventHandler
    audits: Sequence[Reconciliation]
    refused: str | None
    at: str
    rate: int

    @classmethod
    def of(cls, connection: Connection, visit: Visit, i_event_handler: int) -> "Overview":
        """All of them, newest first. Raises NotFound."""
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        audits = reconciliation.recent(connection, visit.i_env, i_event_handler, limit=MOST_SHOWN)
        try:
            settings = reconciliation.settings_of(handler, visit.site.sealer)
        except EspfError as error:
            return cls(handler, audits, str(error), "", 0)
        return cls(handler, audits, None, settings.audit_at, settings.audit_rate)


@dataclass(frozen=True)
class Audit:
    """One audit of a handler, with a page of what it has found."""

    handler: EventHandler
    one: Reconciliation
    found: FindingPage

    @classmethod
    def of(
        cls, connection: Connection, visit: Visit, i_event_handler: int, i_reconciliation: int
    ) -> "Audit":
        """As the address has it. Raises NotFound, InvalidRequest."""
        handler, one = _found(connection, visit, i_event_handler, i_reconciliation)
        found = reconciliation.findings(
            connection,
            i_reconciliation,
            _kinds(visit),
            _after(visit),
            listing.number(visit, "size", 50, most=200),
        )
        return cls(handler, one, found)


@pages.get("")
async def show(visit: Reader, i_event_handler: SmallPathNumber) -> Response:
    """The audits of a handler, and what begins another."""
    overview = await visit.fetch(Overview.of, visit, i_event_handler)
    if listing.wants_csv(visit):
        return listing.as_csv(f"audits-{i_event_handler}", AUDITS, _listed(visit, overview).rows)
    return _overview(visit, overview, {})


@pages.post("")
async def begin(visit: Operator, i_event_handler: SmallPathNumber) -> Response:
    """Begin an audit; on to its page."""
    form = await visit.form()

    def add(connection: Connection) -> Reconciliation:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        one = reconciliation.begin(
            connection,
            visit.site.database,
            visit.site.sealer,
            handler,
            _scope(form),
            visit.user.login,
            repairs=form.get("repair") == "yes",
            rate=_rate(form),
        )
        told = {
            "audit": one.i_reconciliation,
            "of": str(one.scope),
            "repair": bool(one.repairs_what),
        }
        visit.note(connection, "audit.begin", f"handler {handler.name}", None, told)
        return one

    try:
        one = await visit.write(add)
    except (InvalidRequest, Conflict) as error:
        overview = await visit.fetch(Overview.of, visit, i_event_handler)
        return _overview(visit, overview, form, error)
    return visit.go(visit.path("handlers", i_event_handler, "audits", one.i_reconciliation))


@pages.get("/{i_reconciliation}")
async def show_one(
    visit: Reader, i_event_handler: SmallPathNumber, i_reconciliation: SmallPathNumber
) -> Response:
    """How far an audit is, and what it has found."""
    audit = await visit.fetch(Audit.of, visit, i_event_handler, i_reconciliation)
    if listing.wants_csv(visit):
        name = f"audit-{i_reconciliation}"
        return listing.stream_csv(name, COLUMNS, _batches(visit, i_reconciliation))
    begun = listing.parameter(visit, "after")
    page = Listing(
        visit,
        COLUMNS,
        audit.found.findings,
        "",
        older=None if audit.found.next is None else visit.here(after=audit.found.next),
        newer=visit.here(after=None) if begun else None,
    )
    return visit.page(
        "handlers/audit.html",
        handler=audit.handler,
        one=audit.one,
        listing=page,
        kinds=KINDS,
        chosen=listing.parameter(visit, "kind"),
        can_repair=audit.one.differences > audit.one.repairs,
    )


@pages.post("/{i_reconciliation}/cancel")
async def cancel(
    visit: Operator, i_event_handler: SmallPathNumber, i_reconciliation: SmallPathNumber
) -> Response:
    """End an audit that is under way."""

    def stop(connection: Connection) -> None:
        handler, before = _found(connection, visit, i_event_handler, i_reconciliation)
        reconciliation.cancel(connection, visit.site.database, visit.i_env, i_reconciliation)
        if before.is_running:
            told = {"audit": i_reconciliation}
            visit.note(connection, "audit.cancel", f"handler {handler.name}", None, told)

    await visit.write(stop)
    return visit.go(visit.path("handlers", i_event_handler, "audits", i_reconciliation))


@pages.post("/{i_reconciliation}/repair")
async def repair(
    visit: Operator, i_event_handler: SmallPathNumber, i_reconciliation: SmallPathNumber
) -> Response:
    """Have put right what was ticked, or all that was found."""
    form = await visit.form()
    numbers = [int(text) for text in form.all("finding") if text.isascii() and text.isdigit()]
    everything = form.get("what") == "all"
    if not everything and not numbers:
        raise InvalidRequest("tick what is to be repaired", "finding")

    def put(connection: Connection) -> str:
        handler, _ = _found(connection, visit, i_event_handler, i_reconciliation)
        words = (connection, visit.site.database, visit.i_env, i_reconciliation)
        what: list[object]
        if everything:
            kinds = [kind for kind in REPAIRABLE if form.get("kind") in {"", None, kind}]
            reconciliation.repair_all(*words, kinds)
            said, what = "All that was found is being put into the queue", [*kinds]
        else:
            count = reconciliation.repair(*words, numbers)
            said, what = f"{count} repairs are in the queue", [*numbers]
        told = {"audit": i_reconciliation, "what": what}
        visit.note(connection, "audit.repair", f"handler {handler.name}", None, told)
        return said

    said = await visit.write(put)
    return visit.go(visit.path("handlers", i_event_handler, "audits", i_reconciliation), said)


def _listed(visit: Visit, overview: Overview) -> Listing[Reconciliation]:
    return listing.of(visit, AUDITS, overview.audits, sort="-i_reconciliation")


def _overview(
    visit: Visit, overview: Overview, typed: Mapping[str, str], error: EspfError | None = None
) -> Response:
    at_fault = (error.field or "") if isinstance(error, InvalidRequest) else ""
    return visit.page(
        "handlers/audits.html",
        status=200 if error is None else error.http_status if not at_fault else 422,
        overview=overview,
        listing=_listed(visit, overview),
        handler=overview.handler,
        typed=typed,
        error=error,
        at_fault=at_fault,
    )


def _found(
    connection: Connection, visit: Visit, i_event_handler: int, i_reconciliation: int
) -> tuple[EventHandler, Reconciliation]:
    handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
    one = reconciliation.find(connection, visit.i_env, i_reconciliation)
    if one.i_event_handler != i_event_handler:
        raise reconciliation.unknown(i_reconciliation)
    return handler, one


def _scope(form: Mapping[str, str]) -> Scope:
    match form.get("of"):
        case "accounts":
            named = words(form.get("accounts", ""))
            assert isinstance(named, tuple)
            if not named:
                raise InvalidRequest("which accounts?", "accounts")
            return Scope(accounts=named)
        case "product":
            return Scope(product=form.get("product", ""))
    return Scope()


def _rate(form: Mapping[str, str]) -> int | None:
    text = form.get("rate", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000:
        raise InvalidRequest("a number from 1 to 10,000 is expected", "rate")
    return int(text)


def _kinds(visit: Visit) -> list[str]:
    kind = listing.parameter(visit, "kind")
    if kind and kind not in KINDS:
        raise InvalidRequest(f"kind: expected one of {', '.join(KINDS)}", "kind")
    return [kind] if kind else []


def _after(visit: Visit) -> int:
    """The finding behind which the page begins."""
    return listing.number(visit, "after", 1) if listing.parameter(visit, "after") else 0


async def _batches(visit: Visit, i_reconciliation: int) -> AsyncIterator[list[Finding]]:
    found = reconciliation.all_findings(visit.site.database, i_reconciliation, _kinds(visit))
    while (some := await asyncio.to_thread(next, found, None)) is not None:
        yield some
