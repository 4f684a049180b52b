"""One provisioning event: its page; restart, cancel, skip; the same for those selected."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import overview, restarts, subscriptions
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.users import OPERATE
from espf.web.contract import PathNumber
from espf.web.pages import forms, listing
from espf.web.pages.event_lines import Told, number_of, tell
from espf.web.pages.forms import Field
from espf.web.pages.visit import Form, Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/events")

Reader = Annotated[Visit, Depends(Visitor())]
Operator = Annotated[Visit, Depends(Visitor(OPERATE))]


_REASON = (Field("reason", "Reason", help="The journal keeps it.", required=True),)


@pages.post("/chosen/restart")
async def restart_chosen(visit: Operator) -> Response:
    """Try again what was selected, each for its handler; what cannot be is told."""
    form = await visit.form()

    def restart(connection: Connection) -> tuple[int, str | None]:
        done, refused = 0, None
        for one in _chosen(form):
            try:
                i_event, _, name = one.partition("/")
                _restart(connection, visit, number_of(i_event), name)
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
                _cancel(connection, visit, number_of(one.partition("/")[0]))
                done += 1
            except (Conflict, NotFound) as error:
                refused = refused or str(error)
        return done, refused

    return _after_some(visit, form, *await visit.write(cancel), "cancelled")


def _after_some(visit: Visit, form: Form, done: int, refused: str | None, verb: str) -> Response:
    if refused is not None and not done:
        raise Conflict(refused)
    said = f"{done} {verb}"
    return visit.go(back(visit, form), f"{said}; not all: {refused}" if refused else said)


@pages.get("/{i_event:int}")
async def show(visit: Reader, i_event: PathNumber) -> Response:
    """One event: its variables, where each handler stands with it, every attempt."""

    def read(connection: Connection) -> tuple[Told, frozenset[str]]:
        handlers = subscriptions.list_handlers(connection, visit.i_env)
        told = tell(connection, i_event, visit.i_env)
        return told, frozenset(handler.name for handler in handlers)

    told, known = await visit.fetch(read)
    return visit.page("events/show.html", told=told, known=known)


@pages.post("/{i_event:int}/restart")
async def restart(visit: Operator, i_event: PathNumber) -> Response:
    """Try an event again: for one handler, or for all for which it failed or is retried."""
    form = await visit.form()
    names = await visit.write(_restart, visit, i_event, form.get("handler", ""))
    said = f"Event {i_event} is restarted for {', '.join(names)}"
    return visit.go(back(visit, form, i_event), said)


@pages.post("/{i_event:int}/cancel")
async def cancel(visit: Operator, i_event: PathNumber) -> Response:
    """Call off a scheduled event."""
    form = await visit.form()
    await visit.write(_cancel, visit, i_event)
    return visit.go(back(visit, form, i_event), f"Event {i_event} is cancelled")


@pages.get("/{i_event:int}/skip")
async def ask_skip(visit: Operator, i_event: PathNumber) -> Response:
    """Why a handler is to give up an event."""
    handler = listing.parameter(visit, "handler")
    return await _ask_skip(visit, i_event, handler, listing.parameter(visit, "back"))


@pages.post("/{i_event:int}/skip")
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
        fields=forms.filled(_REASON, Form([]), error),
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
