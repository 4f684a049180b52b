"""Restarts of many events: counted first, then carried on by the page of whoever watches."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import mass_restarts
from espf.errors import InvalidRequest
from espf.mass_restarts import DONE, RUNNING, MassRestart
from espf.sources import Filter
from espf.users import OPERATE
from espf.web.contract import SmallPathNumber
from espf.web.pages import listing
from espf.web.pages.event_search import STATUSES, VIEWS, Panel, Typed
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/events")

Reader = Annotated[Visit, Depends(Visitor())]
Operator = Annotated[Visit, Depends(Visitor(OPERATE))]

#: A page hears of its restart about so often, and steps are taken meanwhile.
STEPS_SECONDS = 0.5

#: What is restarted when nobody says which: failed, with rejected.
_UNSAID = "failed"

#: From these there is nothing to restart, or it is not said what.
_NOT_TRIED = frozenset({"all", "queued", "scheduled"})


@pages.get("/restart")
async def ask(visit: Operator) -> Response:
    """Which events to restart; with ``count``, how many those are."""
    typed = _typed(visit.request.query_params)
    counts = listing.parameter(visit, "count") == "1"
    return await _ask(visit, typed, counts=counts)


@pages.post("/restart")
async def begin(visit: Operator) -> Response:
    """Begin to restart all that fit; on to the page that shows how far it is."""
    form = await visit.form()
    typed = _typed(form)
    try:
        # Counting may take long: nobody who writes is to wait for it.
        wanted, total = await visit.fetch(_prepare, visit, typed)
    except InvalidRequest as error:
        return await _ask(visit, typed, error=error)

    def note(connection: Connection) -> int:
        told = {**typed.words, "status": typed.status, "notifications": total}
        number = mass_restarts.begin(
            connection, visit.site.database, visit.i_env, visit.user.login, wanted, total
        )
        visit.note(connection, "events.restart", f"restart {number}", None, told)
        return number

    return visit.go(visit.path("events", "restarts", await visit.write(note)))


@pages.get("/restarts/{i_mass_restart}")
async def show(visit: Reader, i_mass_restart: SmallPathNumber) -> Response:
    """How far a restart is."""
    one = await visit.fetch(mass_restarts.find, visit.i_env, i_mass_restart)
    return visit.page("events/restarting.html", one=one)


@pages.post("/restarts/{i_mass_restart}/step")
async def step(visit: Operator, i_mass_restart: SmallPathNumber) -> Response:
    """Restart the next ones, for a moment."""
    until = time.monotonic() + STEPS_SECONDS
    while True:
        begun = time.monotonic()
        one = await visit.write(_step, visit, i_mass_restart)
        if one.state != RUNNING or time.monotonic() >= until:
            break
        if visit.site.database.dialect.writers == 1:
            # Nobody else could write meanwhile: now they can, as long.
            await asyncio.sleep(time.monotonic() - begun)
    if visit.is_part:
        return visit.page("events/restarting.html", one=one)
    return visit.go(visit.path("events", "restarts", i_mass_restart))


@pages.post("/restarts/{i_mass_restart}/cancel")
async def cancel(visit: Operator, i_mass_restart: SmallPathNumber) -> Response:
    """Restart no more of them."""

    def stop(connection: Connection) -> None:
        before = mass_restarts.find(connection, visit.i_env, i_mass_restart)
        one = mass_restarts.cancel(connection, visit.site.database, visit.i_env, i_mass_restart)
        if before.state == RUNNING:
            _note_end(connection, visit, one)

    await visit.write(stop)
    return visit.go(visit.path("events", "restarts", i_mass_restart))


async def _ask(
    visit: Visit, typed: Typed, *, counts: bool = False, error: InvalidRequest | None = None
) -> Response:
    total = None
    if counts:
        try:
            _, total = await visit.fetch(_prepare, visit, typed)
        except InvalidRequest as fault:
            error = fault
    panel = await visit.fetch(Panel.of, visit.i_env, typed)
    return visit.page(
        "events/restart.html",
        status=422 if error else 200,
        panel=panel.faulty(error) if error else panel,
        total=total,
        views=[one for one in VIEWS if one[0] not in _NOT_TRIED],
        statuses=[one for one in STATUSES if one[0] not in _NOT_TRIED],
    )


def _prepare(connection: Connection, visit: Visit, typed: Typed) -> tuple[Filter, int]:
    wanted = typed.filter(connection, visit.site.database, visit.i_env)
    return mass_restarts.prepare(connection, visit.site.database, wanted)


def _step(connection: Connection, visit: Visit, i_mass_restart: int) -> MassRestart:
    before = mass_restarts.find(connection, visit.i_env, i_mass_restart)
    one = mass_restarts.step(connection, visit.site.database, visit.i_env, i_mass_restart)
    if before.state == RUNNING and one.state == DONE:
        _note_end(connection, visit, one)
    return one


def _note_end(connection: Connection, visit: Visit, one: MassRestart) -> None:
    subject = f"restart {one.i_mass_restart}"
    visit.note(
        connection, f"events.restart.{one.state}", subject, None, {"restarted": one.restarted}
    )


def _typed(words: Mapping[str, str]) -> Typed:
    typed = Typed.of(words)
    return typed if typed.status != "all" else replace(typed, status=_UNSAID)
