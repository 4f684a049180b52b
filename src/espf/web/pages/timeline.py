"""Toolbox > Subscriber timeline: what happened to somebody, what is stuck and why; hold it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import subscriptions, timeline
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.sources import Filter
from espf.timeline import HeldLane, Obstacle
from espf.users import OPERATE
from espf.web.contract import blaming
from espf.web.pages import forms, listing
from espf.web.pages.event_lines import (
    Cursors,
    Group,
    groups_of,
    opened,
    page_of,
)
from espf.web.pages.event_search import LONGEST
from espf.web.pages.forms import Field
from espf.web.pages.visit import Form, Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/timeline")

Reader = Annotated[Visit, Depends(Visitor())]
Operator = Annotated[Visit, Depends(Visitor(OPERATE))]


@dataclass(frozen=True)
class Life:
    """What a timeline shows of a subscriber; ``known`` are the handlers that are there."""

    groups: Sequence[Group]
    cursors: Cursors
    is_short: bool
    obstacles: Sequence[Obstacle]
    known: frozenset[str]


@pages.get("")
async def find(visit: Reader) -> Response:
    """Find a subscriber; on to the timeline."""
    about = listing.parameter(visit, "about")

    def look(connection: Connection) -> tuple[str | None, list[HeldLane]]:
        held = timeline.held(connection, visit.i_env)
        if not about:
            return None, held
        with blaming("about"):
            return timeline.key_of(connection, about, visit.i_env), held

    error: InvalidRequest | None = None
    try:
        key, held = await visit.fetch(look)
    except InvalidRequest as fault:
        error, key = fault, None
        held = await visit.fetch(timeline.held, visit.i_env)
    if key is not None:
        return visit.go(visit.path("timeline", key))
    return visit.page(
        "timeline/find.html", status=422 if error else 200, about=about, held=held, error=error
    )


@pages.get("/{ordering_key:path}/hold")
async def ask_hold(visit: Operator, ordering_key: str) -> Response:
    """For whom, and why, somebody's events are to wait."""
    return await _ask_hold(visit, ordering_key)


@pages.post("/{ordering_key:path}/hold")
async def hold(visit: Operator, ordering_key: str) -> Response:
    """Deliver nothing more about somebody, until it is released."""
    form = await visit.form()
    reason = form.get("reason", "")

    def stop(connection: Connection) -> list[str]:
        if not reason:
            raise InvalidRequest("say why", "reason")
        handlers = _handlers(connection, visit, form)
        words = f"{visit.user.login}: {reason}"
        names = timeline.hold(connection, visit.site.database, handlers, ordering_key, words)
        told = {"handlers": names, "reason": reason}
        visit.note(connection, "lane.hold", ordering_key, None, told)
        return names

    try:
        names = await visit.write(stop)
    except (InvalidRequest, Conflict) as error:
        wrong = (
            error if isinstance(error, InvalidRequest) else InvalidRequest(str(error), "handler")
        )
        return await _ask_hold(visit, ordering_key, form, wrong)
    said = f"{ordering_key} is held for {', '.join(names)}: what happens waits, in order"
    return visit.go(visit.path("timeline", ordering_key), said)


@pages.post("/{ordering_key:path}/release")
async def release(visit: Operator, ordering_key: str) -> Response:
    """Go on with what was held, in order."""
    form = await visit.form()

    def go_on(connection: Connection) -> list[str]:
        handlers = _handlers(connection, visit, form)
        names = timeline.release(connection, visit.site.database, handlers, ordering_key)
        visit.note(connection, "lane.release", ordering_key, None, {"handlers": names})
        return names

    names = await visit.write(go_on)
    said = f"{ordering_key} goes on for {', '.join(names)}"
    return visit.go(visit.path("timeline", ordering_key), said)


@pages.get("/{ordering_key:path}")
async def show(visit: Reader, ordering_key: str) -> Response:
    """What happened to somebody, over all handlers, and what stops it now."""
    if not ordering_key.isprintable() or len(ordering_key) > LONGEST:
        raise NotFound("there is no such subscriber")
    life = await visit.fetch(_look, visit, ordering_key)
    return visit.page("timeline/show.html", key=ordering_key, life=life)


def _look(connection: Connection, visit: Visit, key: str) -> Life:
    page, cursors = page_of(connection, visit, Filter(i_env=visit.i_env, ordering_key=key))
    handlers = subscriptions.list_handlers(connection, visit.i_env)
    return Life(
        groups_of(page.lines, opened(connection, visit)),
        cursors,
        page.is_short,
        timeline.obstacles(connection, visit.site.database, visit.i_env, key),
        frozenset(handler.name for handler in handlers),
    )


async def _ask_hold(
    visit: Visit, key: str, form: Form | None = None, error: InvalidRequest | None = None
) -> Response:
    handlers = await visit.fetch(subscriptions.list_handlers, visit.i_env)
    choices = [("", "All handlers"), *((one.name, one.name) for one in handlers)]
    fields = [
        Field("handler", "Handler", kind="select", choices=choices),
        Field(
            "reason",
            "Reason",
            help="It is shown, with your login, until the release.",
            required=True,
        ),
    ]
    return visit.page(
        "timeline/hold.html",
        status=422 if error else 200,
        key=key,
        fields=forms.filled(fields, form, error) if form else fields,
        error=forms.general_error(fields, error),
    )


def _handlers(connection: Connection, visit: Visit, form: Form) -> list[subscriptions.EventHandler]:
    with blaming("handler"):
        return subscriptions.some_handlers(connection, visit.i_env, form.get("handler") or None)
