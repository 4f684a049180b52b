"""Infrastructure > Workers, and Capture: what concerns the whole installation."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import configuration, maintenance, standing
from espf.capture import measuring, rules, triggers
from espf.db.trigger import Trigger
from espf.standing import WorkerStanding
from espf.web.pages import listing
from espf.web.pages.listing import Column
from espf.web.pages.visit import SystemVisitor, Visit

pages = APIRouter(prefix="/system")

Superuser = Annotated[Visit, Depends(SystemVisitor())]

_WORKERS: Sequence[Column[WorkerStanding]] = (
    Column("worker", "Worker", lambda one: standing.short_name(one.worker)),
    Column("alive", "Alive", lambda one: one.alive),
    Column("started_at", "Started", lambda one: one.started_at),
    Column("seen_until", "Sign of life until", lambda one: one.seen_until),
    Column("shards", "Shards", lambda one: sum(one.shards.values())),
)


@pages.get("/workers")
async def show_workers(visit: Superuser) -> Response:
    """The processes that deliver, their shards, and maintenance for all of them."""

    def read(connection: Connection) -> tuple[list[WorkerStanding], bool]:
        found = standing.list_workers(connection, visit.site.database)
        return found, maintenance.in_maintenance(connection)

    found, is_on = await visit.fetch(read)
    page = listing.of(visit, _WORKERS, found, sort="worker")
    if listing.wants_csv(visit):
        return listing.as_csv("workers", _WORKERS, page.rows)
    return visit.page("system/workers.html", listing=page, in_maintenance=is_on)


@pages.post("/maintenance")
async def set_maintenance(visit: Superuser) -> Response:
    """Let all deliveries wait, or go on."""
    on = (await visit.form()).get("on") == "yes"

    def change(connection: Connection) -> None:
        before = {"maintenance": maintenance.in_maintenance(connection)}
        configuration.set_maintenance(connection, visit.site.database, visit.user.login, on=on)
        visit.note(
            connection,
            "maintenance",
            "all deliveries",
            before,
            {"maintenance": on},
            everywhere=True,
        )

    await visit.write(change)
    said = "All deliveries wait; events are captured all the same" if on else "Deliveries go on"
    return visit.go("/system/workers", said)


@dataclass(frozen=True)
class Capture:
    """One trigger: what it captures, and whether the database has it as the rules want it.

    ``state`` is installed, missing, altered or unknown (no rule wants it).
    """

    trigger: str
    table: str
    operation: str
    events: Sequence[str]
    state: str
    ddl: str


_CAPTURES: Sequence[Column[Capture]] = (
    Column("table", "Table", lambda one: one.table),
    Column("operation", "On", lambda one: one.operation),
    Column("events", "Event types", lambda one: ", ".join(one.events), sortable=False),
    Column("trigger", "Trigger", lambda one: one.trigger),
    Column("state", "State", lambda one: one.state),
)


@pages.get("/capture")
async def show_capture(visit: Superuser) -> Response:
    """Each trigger of the rules, and whether it is installed."""
    captures, problems = await visit.fetch(_captures, visit)
    page = listing.of(visit, _CAPTURES, captures, sort="table")
    if listing.wants_csv(visit):
        return listing.as_csv("capture", _CAPTURES, page.rows)
    return visit.page("system/capture.html", listing=page, problems=problems, costs=None)


@pages.post("/capture/apply")
async def apply(visit: Superuser) -> Response:
    """Make the installed triggers those of the rules."""

    def change(connection: Connection) -> triggers.Plan:
        done = triggers.apply(connection, visit.site.database.dialect, _wanted(connection, visit))
        visit.note(
            connection,
            "capture.apply",
            "triggers",
            {"dropped": list(done.drop)},
            {"created": [each.name for each in done.create]},
            everywhere=True,
        )
        return done

    done = await visit.write(change)
    said = (
        f"{len(done.create)} triggers created, {len(done.drop)} dropped, "
        f"{len(done.unchanged)} unchanged"
    )
    return visit.go("/system/capture", said)


@pages.post("/capture/measure")
async def measure(visit: Superuser) -> Response:
    """What each trigger costs a write, measured on a copy of some rows that is thrown away."""
    costs: list[measuring.Cost] = []

    def try_out(connection: Connection) -> None:
        wanted = _wanted(connection, visit)
        costs.extend(measuring.measure(connection, visit.site.database.dialect, wanted))
        raise _Undone

    with suppress(_Undone):
        await visit.write(try_out)
    captures, problems = await visit.fetch(_captures, visit)
    page = listing.of(visit, _CAPTURES, captures, sort="table")
    return visit.page("system/capture.html", listing=page, problems=problems, costs=costs)


class _Undone(Exception):
    """Rolls back what was only a measurement."""


def _wanted(connection: Connection, visit: Visit) -> list[Trigger]:
    disabled = triggers.disabled_types(connection)
    return triggers.compile_rules(rules.chosen_rules(visit.site.rules), disabled)


def _captures(connection: Connection, visit: Visit) -> tuple[list[Capture], Sequence[str]]:
    """What the rules want and the database has; and which rules do not fit it."""
    dialect = visit.site.database.dialect
    found = triggers.survey(connection, dialect, _wanted(connection, visit))
    shown = [
        Capture(
            trigger=one.compiled.name,
            table=str(one.trigger.table),
            operation=one.trigger.operation,
            events=sorted({capture.event_type for capture in one.trigger.captures}),
            state=one.state,
            ddl=";\n\n".join(one.compiled.statements),
        )
        for one in found.wanted
    ]
    shown += [Capture(name, "", "", (), "unknown", "") for name in found.unwanted]
    return shown, found.problems
