"""Infrastructure > Event subscriptions: event types by handlers, each cell a toggle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import subscriptions
from espf.errors import InvalidRequest
from espf.handlers import registry
from espf.subscriptions import EventHandler
from espf.users import ADMINISTER
from espf.web.pages import listing
from espf.web.pages.listing import Column
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/subscriptions")

#: What a cell says: the handler's type does not support the event, or it hears of it, or not.
UNSUPPORTED = "not supported"
ON = "subscribed"
OFF = "not subscribed"


@dataclass(frozen=True)
class Row:
    """An event type, and what each handler does with it, in the order of the handlers."""

    name: str
    enabled: bool
    cells: Sequence[str]


@dataclass(frozen=True)
class Matrix:
    """All of it."""

    handlers: Sequence[EventHandler]
    rows: Sequence[Row]


@pages.get("")
async def show(visit: Annotated[Visit, Depends(Visitor())]) -> Response:
    """The matrix."""
    matrix = await visit.fetch(_matrix, visit.i_env)
    columns = [
        Column[Row]("event_type", "Event type", lambda row: row.name),
        *(_column(handler, place) for place, handler in enumerate(matrix.handlers)),
    ]
    if listing.wants_csv(visit):
        page = listing.of(visit, columns, matrix.rows, sort="event_type")
        return listing.as_csv("subscriptions", columns, page.rows)
    wanted = listing.parameter(visit, "q").casefold()
    rows = [row for row in matrix.rows if wanted in row.name.casefold()]
    return visit.page("subscriptions/matrix.html", handlers=matrix.handlers, rows=rows)


@pages.post("")
async def toggle(visit: Annotated[Visit, Depends(Visitor(ADMINISTER))]) -> Response:
    """Turn one cell (``cell``: handler and type) over; with htmx the new cell is the reply."""
    cell = (await visit.form()).get("cell", "")
    number, _, event_type = cell.partition(" ")
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        raise InvalidRequest("cell: the number of a handler and an event type are expected", "cell")

    def change(connection: Connection) -> tuple[EventHandler, str]:
        handler = subscriptions.find_handler(connection, visit.i_env, int(number))
        was_on = event_type in subscriptions.subscriptions(connection, handler)
        turn = subscriptions.unsubscribe if was_on else subscriptions.subscribe
        turn(connection, handler, event_type)
        now = {event_type: OFF if was_on else ON}
        visit.note(connection, "handler.subscribe", f"handler {handler.name}", None, now)
        return handler, now[event_type]

    handler, state = await visit.write(change)
    if visit.is_part:
        return visit.page("subscriptions/_cell.html", handler=handler, name=event_type, state=state)
    return visit.go(visit.path("subscriptions"), f"{handler.name}: {event_type} is {state}")


def _matrix(connection: Connection, i_env: int) -> Matrix:
    handlers = subscriptions.list_handlers(connection, i_env)
    types = sorted(subscriptions.list_types(connection), key=lambda row: str(row.name))
    names = [row.name for row in types]
    heard = [set(subscriptions.subscriptions(connection, one)) for one in handlers]
    able = [
        set(registry.supported(one.type, names)) if one.type in registry.handler_types() else set()
        for one in handlers
    ]

    def cell(name: str, place: int) -> str:
        if name in heard[place]:
            return ON
        return OFF if name in able[place] else UNSUPPORTED

    rows = [
        Row(row.name, bool(row.enabled), [cell(row.name, i) for i in range(len(handlers))])
        for row in types
    ]
    return Matrix(handlers, rows)


def _column(handler: EventHandler, place: int) -> Column[Row]:
    return Column(handler.name, handler.name, lambda row: row.cells[place])
