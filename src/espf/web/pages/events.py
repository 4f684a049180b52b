"""Toolbox > External provisioning > Provisioning events: find them; restart, cancel, skip them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import mass_restarts, overview, restarts, schedule, subscriptions
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.mass_restarts import MassRestart
from espf.model import parse_time
from espf.overview import CSV_COLUMNS, Filter, Overview, Page
from espf.schedule import After, Planned
from espf.users import OPERATE
from espf.web.contract import PathNumber
from espf.web.pages import listing
from espf.web.pages.event_search import Panel, Typed
from espf.web.pages.event_story import Told, tell
from espf.web.pages.listing import Column
from espf.web.pages.visit import Form, Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/events")

Reader = Annotated[Visit, Depends(Visitor())]
Operator = Annotated[Visit, Depends(Visitor(OPERATE))]

#: So many events that somebody has opened or selected stay in a list that moves on.
MOST_KEPT = 50

COLUMNS: Sequence[Column[Overview]] = tuple(
    Column(name, name, attrgetter(name)) for name in CSV_COLUMNS
)
PLANNED_COLUMNS: Sequence[Column[Planned]] = tuple(
    Column(name, name, attrgetter(name))
    for name in ("start_time", "i_event", "event_type", "ordering_key", "key", "variables")
)


@dataclass(frozen=True)
class Group:
    """The lines of one event in a list, a line per handler. ``told``: it is open."""

    lines: Sequence[Overview]
    told: Told | None = None

    @property
    def first(self) -> Overview:
        """What all lines say of the event."""
        return self.lines[0]


@dataclass(frozen=True)
class Cursors:
    """The addresses of the neighbouring pages."""

    newer: str | None
    older: str | None


def groups_of(lines: Sequence[Overview], told: Told | None = None) -> list[Group]:
    """Lines by event; that of the event that is told stands open."""
    opened = told and told.i_event
    return [
        Group(tuple(some), told if i_event == opened else None)
        for i_event, some in groupby(lines, key=attrgetter("i_event"))
    ]


def cursors_of(visit: Visit, page: Page) -> Cursors:
    """The neighbours of a page of events."""

    def to(**place: object) -> str:
        return visit.here(**{"before": None, "after": None, "chosen": None, **place})

    return Cursors(
        newer=None if page.newer is None else to(after=page.newer),
        older=None if page.older is None else to(before=page.older),
    )


def place(visit: Visit, wanted: Filter) -> Filter:
    """A filter with the place that the address names."""
    after, before = (
        listing.number(visit, name, 0, most=2**63 - 1) or None for name in ("after", "before")
    )
    return replace(wanted, after=after, before=None if after else before)


def is_oldest_first(visit: Visit) -> bool:
    """Which order the address asks for."""
    return listing.parameter(visit, "order") == "oldest"


# The list


@dataclass(frozen=True)
class Found:
    """What a list shows. ``kept``: what was opened or selected and is on another page now."""

    groups: Sequence[Group]
    kept: Sequence[Group]
    cursors: Cursors
    is_short: bool
    chosen: frozenset[str]
    known: frozenset[str]


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """Search provisioning events."""
    typed = Typed.of(visit.request.query_params)
    try:
        if listing.wants_csv(visit):
            return await _csv(visit, typed)
        if typed.status == "scheduled":
            return await _show_planned(visit, typed)
        panel, found, under_way = await visit.fetch(_find, visit, typed)
    except InvalidRequest as error:
        return await _refused(visit, typed, error)
    return visit.page(
        "events/list.html", panel=panel, found=found, under_way=under_way, planned=None
    )


@pages.get("/count")
async def count(visit: Reader) -> Response:
    """How many lines a search finds: a part of the list, asked for by itself."""
    typed = Typed.of(visit.request.query_params)

    def look(connection: Connection) -> overview.Count:
        wanted = typed.filter(connection, visit.site.database, visit.i_env)
        return overview.count(connection, wanted)

    try:
        number = await visit.fetch(look)
    except InvalidRequest:
        # The list says what is wrong.
        number = None
    return visit.page("events/_count.html", count=number)


def _find(
    connection: Connection, visit: Visit, typed: Typed
) -> tuple[Panel, Found, list[MassRestart]]:
    panel = Panel.of(connection, visit.i_env, typed)
    wanted = place(visit, typed.filter(connection, visit.site.database, visit.i_env))
    size = listing.number(visit, "size", 50, most=200)
    page = overview.page(connection, wanted, size, oldest_first=is_oldest_first(visit))
    opened = listing.number(visit, "open", 0, most=2**63 - 1)
    told = _told(connection, visit, opened) if opened else None
    chosen = visit.request.query_params.getlist("chosen")
    there = {line.i_event for line in page.lines}
    keep = {_number(one) for one in chosen[:MOST_KEPT]} | {opened}
    kept = [
        line
        for i_event in sorted(keep - there - {0}, reverse=True)
        for line in overview.search(
            connection, Filter(i_event=i_event, i_env=visit.i_env), MOST_KEPT
        )
    ]
    found = Found(
        groups_of(page.lines, told),
        groups_of(kept, told),
        cursors_of(visit, page),
        page.is_short,
        frozenset(chosen),
        frozenset(one.name for one in subscriptions.list_handlers(connection, visit.i_env)),
    )
    return panel, found, mass_restarts.running(connection, visit.i_env)


def _told(connection: Connection, visit: Visit, i_event: int) -> Told | None:
    try:
        return tell(connection, i_event, visit.i_env)
    except NotFound:
        return None


async def _refused(visit: Visit, typed: Typed, error: InvalidRequest) -> Response:
    """The list without any lines; what is wrong stands beside the field."""
    panel = await visit.fetch(Panel.of, visit.i_env, typed)
    nothing = Found((), (), Cursors(None, None), False, frozenset(), frozenset())  # noqa: FBT003
    return visit.page(
        "events/list.html",
        status=422,
        panel=panel.faulty(error),
        found=nothing,
        under_way=[],
        planned=None,
    )


async def _csv(visit: Visit, typed: Typed) -> Response:
    database = visit.site.database
    wanted = await visit.fetch(typed.filter, database, visit.i_env)
    if typed.status == "scheduled":
        return listing.stream_csv("scheduled-events", PLANNED_COLUMNS, _all_planned(visit, wanted))
    lines = overview.lines(database, wanted, oldest_first=is_oldest_first(visit))
    return listing.stream_csv("events", COLUMNS, _in_thread(lines))


async def _in_thread(batches: Iterator[list[Overview]]) -> AsyncIterator[list[Overview]]:
    while (some := await asyncio.to_thread(next, batches, None)) is not None:
        yield some


# What is scheduled


@dataclass(frozen=True)
class Plan:
    """A page of events whose time has not come, the next first."""

    rows: Sequence[Planned]
    cursors: Cursors


async def _show_planned(visit: Visit, typed: Typed) -> Response:
    size = listing.number(visit, "size", 50, most=200)
    after, before = (_after(visit, name) for name in ("after", "before"))

    def read(connection: Connection) -> tuple[Panel, list[Planned]]:
        panel = Panel.of(connection, visit.i_env, typed)
        wanted = typed.filter(connection, visit.site.database, visit.i_env)
        if wanted.handler is not None:
            return panel, []
        return panel, schedule.planned(
            connection, visit.i_env, size + 1, after, before=before, wanted=wanted
        )

    panel, rows = await visit.fetch(read)
    plan = _plan(visit, rows, size, after, before)
    return visit.page("events/list.html", panel=panel, found=None, under_way=[], planned=plan)


def _plan(
    visit: Visit, rows: Sequence[Planned], size: int, after: After | None, before: After | None
) -> Plan:
    backward = after is None and before is not None
    more = len(rows) > size
    shown = rows[-size:] if backward else rows[:size]

    def to(name: str, one: Planned) -> str:
        place = {name: f"{one.start_time.isoformat()},{one.i_event}"}
        return visit.here(**{"before": None, "after": None, **place})

    has_newer = more if backward else after is not None
    has_older = backward or more
    return Plan(
        shown,
        Cursors(
            newer=to("before", shown[0]) if shown and has_newer else None,
            older=to("after", shown[-1]) if shown and has_older else None,
        ),
    )


def _after(visit: Visit, name: str) -> After | None:
    text = listing.parameter(visit, name)
    if not text:
        return None
    moment, _, number = text.rpartition(",")
    try:
        return After(parse_time(moment), _i_event(number))
    except (ValueError, InvalidRequest):
        raise InvalidRequest(f"{name}: this is no place in the list", name) from None


async def _all_planned(visit: Visit, wanted: Filter) -> AsyncIterator[list[Planned]]:
    after: After | None = None
    while wanted.handler is None:
        some = await visit.fetch(
            schedule.planned, visit.i_env, overview.LINES, after, wanted=wanted
        )
        yield some
        if len(some) < overview.LINES:
            return
        after = After(some[-1].start_time, some[-1].i_event)


# What an administrator may do


@pages.post("/chosen/restart")
async def restart_chosen(visit: Operator) -> Response:
    """Try again what was selected, each for its handler; what cannot be is told."""
    form = await visit.form()

    def restart(connection: Connection) -> tuple[int, str | None]:
        done, refused = 0, None
        for one in _chosen(form):
            try:
                _restart(connection, visit, _number(one), one.partition("/")[2])
                done += 1
            except (Conflict, NotFound) as error:
                refused = refused or str(error)
        return done, refused

    return _after_some(visit, form, *await visit.write(restart), "restarted")


@pages.post("/chosen/cancel")
async def cancel_chosen(visit: Operator) -> Response:
    """Call off what was selected of the scheduled events; what cannot be is told."""
    form = await visit.form()

    def cancel(connection: Connection) -> tuple[int, str | None]:
        done, refused = 0, None
        for one in _chosen(form):
            try:
                _cancel(connection, visit, _number(one))
                done += 1
            except (Conflict, NotFound) as error:
                refused = refused or str(error)
        return done, refused

    return _after_some(visit, form, *await visit.write(cancel), "cancelled")


def _after_some(
    visit: Visit, form: Form, done: int, refused: str | None, verb: str
) -> Response:
    if refused is not None and not done:
        raise Conflict(refused)
    said = f"{done} {verb}"
    return visit.go(back(visit, form), f"{said}; not all: {refused}" if refused else said)


@pages.get("/{i_event}")
async def show(visit: Reader, i_event: PathNumber) -> Response:
    """One event: its variables, where each handler stands with it, every attempt."""

    def read(connection: Connection) -> tuple[Told, frozenset[str]]:
        handlers = subscriptions.list_handlers(connection, visit.i_env)
        told = tell(connection, i_event, visit.i_env)
        return told, frozenset(handler.name for handler in handlers)

    told, known = await visit.fetch(read)
    return visit.page("events/show.html", told=told, known=known)


@pages.post("/{i_event}/restart")
async def restart(visit: Operator, i_event: PathNumber) -> Response:
    """Try an event again: for one handler, or for all for which it failed or is retried."""
    form = await visit.form()
    names = await visit.write(_restart, visit, i_event, form.get("handler", ""))
    said = f"Event {i_event} is restarted for {', '.join(names)}"
    return visit.go(back(visit, form, i_event), said)


@pages.post("/{i_event}/cancel")
async def cancel(visit: Operator, i_event: PathNumber) -> Response:
    """Call off a scheduled event."""
    form = await visit.form()
    await visit.write(_cancel, visit, i_event)
    return visit.go(back(visit, form, i_event), f"Event {i_event} is cancelled")


@pages.get("/{i_event}/skip")
async def ask_skip(visit: Operator, i_event: PathNumber) -> Response:
    """Why a handler is to give up an event."""
    handler = listing.parameter(visit, "handler")
    return await _ask_skip(visit, i_event, handler, listing.parameter(visit, "back"))


@pages.post("/{i_event}/skip")
async def skip(visit: Operator, i_event: PathNumber) -> Response:
    """Give up an event for one handler; what waits behind it goes on."""
    form = await visit.form()
    name, reason = form.get("handler", ""), form.get("reason", "")

    def give_up(connection: Connection) -> None:
        if not reason:
            raise InvalidRequest("say why", "reason")
        overview.require(connection, i_event, visit.i_env)
        handler = subscriptions.require_handler(connection, visit.i_env, name)
        restarts.skip(connection, visit.site.database, i_event, handler, reason)
        told = {"handler": name, "reason": reason}
        visit.note(connection, "event.skip", f"event {i_event}", None, told)

    try:
        await visit.write(give_up)
    except InvalidRequest as error:
        return await _ask_skip(visit, i_event, name, form.get("back", ""), error)
    return visit.go(back(visit, form, i_event), f"Event {i_event} is skipped for {name}")


async def _ask_skip(
    visit: Visit,
    i_event: int,
    handler: str,
    back_to: str,
    error: InvalidRequest | None = None,
) -> Response:
    told = await visit.fetch(tell, i_event, visit.i_env)
    mine = [part for part in told.story.parts if part.handler == handler]
    if not mine:
        raise NotFound(f"event {i_event} is not known for handler {handler!r:.70}")
    return visit.page(
        "events/skip.html",
        status=422 if error else 200,
        told=told,
        part=mine[0],
        back=_ours(visit, back_to) or visit.path("events", i_event),
        error=error,
    )


def back(visit: Visit, form: Form, i_event: int | None = None) -> str:
    """Where somebody came from, as a form says; else the page of an event, or the list."""
    parts = ("events",) if i_event is None else ("events", i_event)
    return _ours(visit, form.get("back", "")) or visit.path(*parts)


def _ours(visit: Visit, path: str) -> str | None:
    """An address of this environment, and no other."""
    ours = path.startswith(f"{visit.path()}/") and path.isprintable() and "\\" not in path
    return path if ours else None


def _restart(connection: Connection, visit: Visit, i_event: int, name: str) -> list[str]:
    overview.require(connection, i_event, visit.i_env)
    handler = subscriptions.require_handler(connection, visit.i_env, name) if name else None
    names = restarts.restart(connection, visit.site.database, i_event, handler)
    visit.note(connection, "event.restart", f"event {i_event}", None, {"handlers": names})
    return names


def _cancel(connection: Connection, visit: Visit, i_event: int) -> None:
    overview.require(connection, i_event, visit.i_env)
    restarts.cancel(connection, visit.site.database, i_event)
    visit.note(connection, "event.cancel", f"event {i_event}")


def _chosen(form: Form) -> list[str]:
    """What was selected: ``623/HSS`` each, or ``623/`` for an event that is no handler's."""
    chosen = list(dict.fromkeys(form.all("chosen")))
    if not chosen:
        raise InvalidRequest("select some events first", "chosen")
    return chosen


def _number(chosen: str) -> int:
    return _i_event(chosen.partition("/")[0])


def _i_event(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) < 2**63:
        raise InvalidRequest("the number of an event is expected", "chosen")
    return int(text)


def address_of(visit: Visit, typed: Typed, *parts: object) -> str:
    """An address below the events with what is searched for."""
    query = urlencode(typed.words)
    path = visit.path("events", *parts)
    return f"{path}?{query}" if query else path
