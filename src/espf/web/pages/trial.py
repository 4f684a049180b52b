"""Infrastructure > Event handlers > Test: try a handler out, at once, outside of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import subscriptions
from espf.catalogue import facts
from espf.errors import Conflict, EspfError, InvalidRequest, TooOften
from espf.model import Event
from espf.subscriptions import EventHandler
from espf.trial import Trial, event_for, read_variables, usual_type
from espf.users import ADMINISTER
from espf.web.contract import SmallPathNumber, blaming
from espf.web.pages import listing
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/handlers/{i_event_handler}/test")

Administrator = Annotated[Visit, Depends(Visitor(ADMINISTER))]


@dataclass(frozen=True)
class Bench:
    """The form: the type of the event and its variables as they were typed."""

    handler: EventHandler
    types: Sequence[str]
    event_type: str
    variables: str

    @classmethod
    def of(cls, connection: Connection, visit: Visit, i_event_handler: int) -> "Bench":
        """The form as the address has it, with the variables of its type. Raises NotFound."""
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        types = subscriptions.supported_types(connection, handler)
        event_type = listing.parameter(visit, "event_type") or usual_type(handler)
        variables = _with_lines_for(event_type, listing.parameter(visit, "variables"))
        return cls(handler, types, event_type, variables)


@pages.get("")
async def show(visit: Administrator, i_event_handler: SmallPathNumber) -> Response:
    """The forms "Test connection" and "Send a test event"."""
    return _page(visit, await visit.fetch(Bench.of, visit, i_event_handler))


@pages.post("")
async def try_out(visit: Administrator, i_event_handler: SmallPathNumber) -> Response:
    """Check the handler's way, or send one event; what came of it."""
    form = await visit.form()
    bench = await visit.fetch(Bench.of, visit, i_event_handler)
    bench = replace(
        bench,
        event_type=form.get("event_type", bench.event_type),
        variables=form.get("variables", bench.variables),
    )
    try:
        event = None
        if form.get("what") != "check":
            event = await visit.fetch(_event, visit, bench)
        trial = await visit.site.trials.run(bench.handler, event, visit.user.login)
    except (InvalidRequest, Conflict, TooOften) as error:
        return _page(visit, bench, error=error)
    await visit.write(_note, visit, bench.handler, trial)
    return _page(visit, bench, trial=trial)


def _event(connection: Connection, visit: Visit, bench: Bench) -> Event:
    variables = read_variables(bench.variables)
    with blaming("event_type"):
        return event_for(
            connection, visit.site.database, bench.handler, bench.event_type, variables
        )


def _note(connection: Connection, visit: Visit, handler: EventHandler, trial: Trial) -> None:
    found: dict[str, object] = {"reached": trial.check.reached}
    if trial.sent is not None:
        found |= {"event_type": trial.sent.event.event_type, "verdict": trial.sent.verdict}
    visit.note(connection, "handler.test", f"handler {handler.name}", None, found)


def _page(
    visit: Visit, bench: Bench, *, error: EspfError | None = None, trial: Trial | None = None
) -> Response:
    at_fault = (error.field or "").partition(".")[0] if isinstance(error, InvalidRequest) else ""
    return visit.page(
        "handlers/test.html",
        status=_status(error),
        bench=bench,
        handler=bench.handler,
        told=facts(bench.event_type),
        error=error,
        at_fault=at_fault if at_fault in {"event_type", "variables"} else "",
        trial=trial,
    )


def _status(error: EspfError | None) -> int:
    if error is None:
        return 200
    return 422 if isinstance(error, InvalidRequest) else error.http_status


def _with_lines_for(event_type: str, typed: str) -> str:
    """What was typed, and a line for each other variable of a type, to be filled in."""
    if typed.startswith("{"):
        return typed
    said = [line for line in typed.splitlines() if line.partition("=")[2].strip()]
    names = facts(event_type)["variables"]
    assert isinstance(names, list)
    known = {line.partition("=")[0].strip() for line in said}
    return "\n".join([*said, *(f"{name}=" for name in names if name not in known)])
