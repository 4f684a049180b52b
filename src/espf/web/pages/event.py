"""One provisioning event: its page; restart, cancel, skip; the same for those selected."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import overview, restarts, subscriptions
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.journal import LONGEST_REASON
from espf.users import OPERATE
from espf.web.contract import PathNumber
from espf.web.pages import forms
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

    def restart(connection: Connection, i_event: int, name: str) -> None:
        _restart(connection, visit, i_event, name)

    return await _each(visit, restart, "restarted")


@pages.post("/chosen/cancel")
async def cancel_chosen(visit: Operator) -> Response:
    """Call off what was selected of the scheduled events; what cannot be is told."""

    def cancel(connection: Connection, i_event: int, _name: str) -> None:
        _cancel(connection, visit, i_event)

    return await _each(visit, cancel, "cancelled")


async def _each(visit: Visit, act: Callable[[Connection, int, str], None], verb: str) -> Response:
    """Do it to all that were selected, in transactions of their own: nobody waits for long."""
    form = await visit.form()
    done, refused = 0, None
    for i_event, name in _chosen(form):
        try:
            await visit.write(act, i_event, name)
            done += 1
        except (Conflict, NotFound) as error:
            refused = refused or str(error)
    if refused is not None and not done:
        raise Conflict(refused)
    said = f"{done} {verb}"
    return visit.go(_back(visit, form), f"{said}; not all: {refused}" if refused else said)


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
    return visit.go(_back(visit, form, i_event), said)


@pages.post("/{i_event:int}/cancel")
async def cancel(visit: Operator, i_event: PathNumber) -> Response:
    """Call off a scheduled event."""
    form = await visit.form()
    await visit.write(_cancel, visit, i_event)
    return visit.go(_back(visit, form, i_event), f"Event {i_event} is cancelled")


@pages.get("/{i_event:int}/skip")
async def ask_skip(visit: Operator, i_event: PathNumber) -> Response:
    """Why a handler is to give up an event."""
    asked = Form(visit.request.query_params.multi_items())
    return await _ask_skip(visit, i_event, asked)


@pages.post("/{i_event:int}/skip")
async def skip(visit: Operator, i_event: PathNumber) -> Response:
    """Give up an event for one handler; what waits behind it goes on."""
    form = await visit.form()
    name, reason = form.get("handler", ""), form.get("reason", "")

    def give_up(connection: Connection) -> None:
        if not reason:
            raise InvalidRequest("say why", "reason")
        if len(reason) > LONGEST_REASON:
            raise InvalidRequest(f"at most {LONGEST_REASON:,} characters", "reason")
        overview.require(connection, i_event, visit.i_env)
        handler = subscriptions.require_handler(connection, visit.i_env, name)
        restarts.skip(connection, visit.site.database, i_event, handler, reason)
        told = {"handler": name, "reason": reason}
        visit.note(connection, "event.skip", f"event {i_event}", None, told)

    try:
        await visit.write(give_up)
    except InvalidRequest as error:
        return await _ask_skip(visit, i_event, form, error)
    return visit.go(_back(visit, form, i_event), f"Event {i_event} is skipped for {name}")


async def _ask_skip(
    visit: Visit, i_event: int, form: Form, error: InvalidRequest | None = None
) -> Response:
    told = await visit.fetch(tell, i_event, visit.i_env)
    handler = form.get("handler", "")
    mine = [part for part in told.story.parts if part.handler == handler]
    if not mine:
        raise NotFound(f"event {i_event} is not known for handler {handler!r:.70}")
    return visit.page(
        "events/skip.html",
        status=422 if error else 200,
        told=told,
        part=mine[0],
        back=_back(visit, form, i_event),
        fields=forms.filled(_REASON, form, error),
    )


def _back(visit: Visit, form: Form, i_event: int | None = None) -> str:
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


def _chosen(form: Form) -> list[tuple[int, str]]:
    """What was selected: an event and a handler each; empty: the event is no handler's yet."""
    chosen = [one.partition("/") for one in dict.fromkeys(form.all("chosen"))]
    if not chosen:
        raise InvalidRequest("select some events first", "chosen")
    return [(number_of(i_event), name) for i_event, _, name in chosen]
