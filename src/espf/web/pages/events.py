"""Toolbox > External provisioning > Provisioning events: the list, searched, live, as CSV."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import mass_restarts, overview, schedule, subscriptions
from espf.errors import InvalidRequest
from espf.mass_restarts import MassRestart
from espf.model import parse_time
from espf.overview import CSV_COLUMNS, Overview
from espf.schedule import After, Planned
from espf.sources import SCHEDULED, Filter
from espf.web.pages import listing
from espf.web.pages.event_lines import (
    Cursors,
    Group,
    groups_of,
    is_oldest_first,
    number_of,
    opened,
    page_of,
    turn,
)
from espf.web.pages.event_search import STATUSES, VIEWS, Panel, Typed
from espf.web.pages.listing import Column
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/events")

Reader = Annotated[Visit, Depends(Visitor())]

#: So many events that somebody has selected stay in a list that moves on.
MOST_KEPT = 50

COLUMNS: Sequence[Column[Overview]] = tuple(
    Column(name, name, attrgetter(name)) for name in CSV_COLUMNS
)
PLANNED_COLUMNS: Sequence[Column[Planned]] = tuple(
    Column(name, name, attrgetter(name))
    for name in ("start_time", "i_event", "event_type", "ordering_key", "key", "variables")
)


NO_NEIGHBOURS = Cursors()


@dataclass(frozen=True)
class Found:
    """What a list shows. ``kept``: what is open or selected, and not on this page (any more)."""

    groups: Sequence[Group] = ()
    kept: Sequence[Group] = ()
    cursors: Cursors = NO_NEIGHBOURS
    is_short: bool = False
    chosen: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """A page of events whose time has not come, the next first."""

    rows: Sequence[Planned]
    cursors: Cursors


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """Search provisioning events."""
    typed = Typed.of(visit.request.query_params)
    try:
        if listing.wants_csv(visit):
            return await _csv(visit, typed)
        look = _plan if typed.status == SCHEDULED else _find
        panel, found, under_way = await visit.fetch(_look, visit, typed, look)
    except InvalidRequest as error:
        panel = (await visit.fetch(Panel.of, visit.i_env, typed)).faulty(error)
        return _list(visit, panel, Found(), (), status=422)
    return _list(visit, panel, found, under_way)


def _list(
    visit: Visit,
    panel: Panel,
    found: Found | Plan,
    under_way: Sequence[MassRestart],
    *,
    status: int = 200,
) -> Response:
    return visit.page(
        "events/list.html",
        status=status,
        panel=panel,
        found=found,
        under_way=under_way,
        views=VIEWS,
        statuses=STATUSES,
        sizes=listing.PAGE_SIZES,
    )


@pages.get("/count")
async def count(visit: Reader) -> Response:
    """How many lines a search finds: a part of the list, asked for by itself."""
    typed = Typed.of(visit.request.query_params)

    def look(connection: Connection) -> overview.Count:
        wanted = typed.filter(connection, visit.site.database, visit.i_env)
        return overview.count(connection, wanted)

    return visit.page("events/_count.html", count=await visit.fetch(look))


def _look(
    connection: Connection,
    visit: Visit,
    typed: Typed,
    look: Callable[[Connection, Visit, Filter], Found | Plan],
) -> tuple[Panel, Found | Plan, list[MassRestart]]:
    panel = Panel.of(connection, visit.i_env, typed)
    wanted = typed.filter(connection, visit.site.database, visit.i_env)
    found = look(connection, visit, wanted)
    return panel, found, mass_restarts.running(connection, visit.i_env)


def _find(connection: Connection, visit: Visit, wanted: Filter) -> Found:
    page, cursors = page_of(connection, visit, wanted)
    told = opened(connection, visit)
    chosen = visit.request.query_params.getlist("chosen")
    keep = {number_of(one.partition("/")[0]) for one in chosen[:MOST_KEPT]}
    keep |= {told.i_event} if told else set()
    kept = [
        line
        for i_event in sorted(keep - {line.i_event for line in page.lines}, reverse=True)
        for line in overview.search(connection, Filter(i_event=i_event, i_env=visit.i_env), 1000)
    ]
    handlers = subscriptions.list_handlers(connection, visit.i_env)
    return Found(
        groups_of(page.lines, told),
        groups_of(kept, told),
        cursors,
        page.is_short,
        frozenset(chosen),
        frozenset(handler.name for handler in handlers),
    )


def _plan(connection: Connection, visit: Visit, wanted: Filter) -> Plan:
    size = listing.number(visit, "size", 50, most=200)
    after, before = (_place(visit, name) for name in ("after", "before"))
    backward = after is None and before is not None
    rows = _planned(connection, wanted, size + 1, after, before)
    more = len(rows) > size
    shown = rows[-size:] if backward else rows[:size]
    has_previous = more if backward else after is not None
    has_next = backward or more
    return Plan(
        shown,
        Cursors(
            turn(visit, before=_cursor(shown[0])) if shown and has_previous else None,
            turn(visit, after=_cursor(shown[-1])) if shown and has_next else None,
        ),
    )


def _planned(
    connection: Connection,
    wanted: Filter,
    limit: int,
    after: After | None = None,
    before: After | None = None,
) -> list[Planned]:
    if wanted.handler is not None:
        # They are no handler's before their time.
        return []
    return schedule.planned(connection, wanted.i_env, limit, after, before=before, wanted=wanted)


def _cursor(one: Planned) -> str:
    return f"{one.start_time.isoformat()},{one.i_event}"


def _place(visit: Visit, name: str) -> After | None:
    text = listing.parameter(visit, name)
    if not text:
        return None
    moment, _, number = text.rpartition(",")
    try:
        return After(parse_time(moment), number_of(number))
    except (ValueError, InvalidRequest):
        raise InvalidRequest(f"{name}: this is no place in the list", name) from None


# As CSV


async def _csv(visit: Visit, typed: Typed) -> Response:
    database = visit.site.database
    wanted = await visit.fetch(typed.filter, database, visit.i_env)
    if typed.status == SCHEDULED:
        return listing.stream_csv("scheduled-events", PLANNED_COLUMNS, _all_planned(visit, wanted))
    lines = overview.lines(database, wanted, oldest_first=is_oldest_first(visit))
    return listing.stream_csv("events", COLUMNS, _in_threads(lines))


async def _in_threads(batches: Iterator[list[Overview]]) -> AsyncIterator[list[Overview]]:
    while (some := await asyncio.to_thread(next, batches, None)) is not None:
        yield some


async def _all_planned(visit: Visit, wanted: Filter) -> AsyncIterator[list[Planned]]:
    after: After | None = None
    while some := await visit.fetch(_planned, wanted, overview.LINES, after):
        yield some
        after = After(some[-1].start_time, some[-1].i_event)
