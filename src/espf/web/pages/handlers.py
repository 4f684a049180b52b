"""Infrastructure > Event handlers: make them, set them up, say what they hear, stop and go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import restarts, standing, statistics, subscriptions
from espf.catalogue import facts
from espf.errors import Conflict, InvalidRequest
from espf.handlers import registry
from espf.standing import Standing
from espf.statistics import Figures, Step
from espf.subscriptions import EventHandler
from espf.users import ADMINISTER, OPERATE
from espf.web.contract import Forbidden, SmallPathNumber
from espf.web.pages import charts, forms, listing
from espf.web.pages.charts import Chart
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/handlers")

Reader = Annotated[Visit, Depends(Visitor())]
Operator = Annotated[Visit, Depends(Visitor(OPERATE))]
Administrator = Annotated[Visit, Depends(Visitor(ADMINISTER))]

COLUMNS: Sequence[Column[Standing]] = (
    Column("name", "Name", lambda one: one.handler.name),
    Column("type", "Type", lambda one: one.handler.type),
    Column("state", "State", lambda one: one.state),
    Column("waiting", "Waiting", lambda one: one.waiting, number=True),
    Column("retrying", "Retrying", lambda one: one.retrying, number=True),
    Column("failed", "Failed", lambda one: one.failed, number=True),
    Column("oldest", "Oldest waiting", lambda one: one.oldest),
)


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """All handlers of the environment, and how they stand."""

    def read(connection: Connection) -> list[Standing]:
        mine = subscriptions.list_handlers(connection, visit.i_env)
        return standing.handlers(connection, visit.site.database, *mine)

    page = listing.of(visit, COLUMNS, await visit.fetch(read), sort="name")
    if listing.wants_csv(visit):
        return listing.as_csv("handlers", COLUMNS, page.rows)
    return visit.page("handlers/list.html", listing=page)


@pages.get("/new")
async def ask_new(visit: Administrator) -> Response:
    """The form "Create event handler"."""
    return visit.page("handlers/new.html", fields=_new_fields(), error=None)


@pages.post("/new")
async def create(visit: Administrator) -> Response:
    """Make a handler; on to its configuration."""
    form = await visit.form()

    def make(connection: Connection) -> EventHandler:
        made = subscriptions.create_handler(
            connection,
            visit.site.sealer,
            visit.i_env,
            form.get("name", ""),
            form.get("type", ""),
            {},
            enabled=form.get("enabled") == "on",
            usual=form.get("usual") == "on",
        )
        after = {"type": made.type, "enabled": made.enabled}
        visit.note(connection, "handler.create", f"handler {made.name}", None, after)
        return made

    try:
        made = await visit.write(make)
    except (InvalidRequest, Conflict) as error:
        wrong = error if isinstance(error, InvalidRequest) else InvalidRequest(str(error), "name")
        fields = forms.filled(_new_fields(), form, wrong)
        general = forms.general_error(fields, wrong)
        return visit.page("handlers/new.html", status=422, fields=fields, error=general)
    said = f"The handler {made.name} is created; say now how it reaches its system"
    return visit.go(visit.path("handlers", made.i_event_handler, "configuration"), said)


@pages.get("/{i_event_handler}")
async def show(visit: Reader, i_event_handler: SmallPathNumber) -> Response:
    """One handler: how it stands, what is in its way, and how it went of late."""

    def read(connection: Connection) -> tuple[Standing, str | None, list[Lately]]:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        (stands,) = standing.handlers(connection, visit.site.database, handler)
        lately = [_lately(connection, visit, handler, *span) for span in SPANS]
        return stands, handler.missing(visit.site.sealer), lately

    stands, missing, lately = await visit.fetch(read)
    return visit.page(
        "handlers/show.html",
        handler=stands.handler,
        stands=stands,
        missing=missing,
        lately=lately,
        short_name=standing.short_name,
    )


#: What the page of a handler looks back on: title, step, number of steps.
SPANS = (("Last hour", Step.MINUTE, 60), ("Last day", Step.TEN_MINUTES, 144))


@dataclass(frozen=True)
class Lately:
    """What a handler delivered in a while: all together, and over time."""

    title: str
    figures: Figures
    chart: Chart


def _lately(
    connection: Connection, visit: Visit, handler: EventHandler, title: str, step: Step, count: int
) -> Lately:
    number = handler.i_event_handler
    database = visit.site.database
    over_time = statistics.series(connection, database, step, count, i_event_handler=number)
    figures = over_time.handlers[number]
    chart = charts.bars(f"Delivered, {title.lower()}", charts.told(over_time.began_at, figures))
    return Lately(title, statistics.summed(figures), chart)


@pages.get("/{i_event_handler}/configuration")
async def show_configuration(visit: Reader, i_event_handler: SmallPathNumber) -> Response:
    """The options of a handler."""
    handler = await _handler(visit, i_event_handler)
    return _configuration(visit, handler, _option_fields(handler))


@pages.post("/{i_event_handler}/configuration")
async def configure(visit: Administrator, i_event_handler: SmallPathNumber) -> Response:
    """Change the options of a handler, all or none."""
    form = await visit.form()

    def change(connection: Connection) -> None:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        wanted = forms.values_of(_option_fields(handler), form)
        if back := form.get("default"):
            # Only that one; what was typed into the others was not to be saved yet.
            wanted = {back: None}
        subscriptions.set_options(connection, visit.site.sealer, handler, wanted)
        changed = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        subject = f"handler {handler.name}"
        visit.note(connection, "handler.set", subject, handler.described(), changed.described())

    try:
        await visit.write(change)
    except InvalidRequest as error:
        handler = await _handler(visit, i_event_handler)
        fields = forms.filled(_option_fields(handler), form, error)
        return _configuration(visit, handler, fields, error)
    here = visit.path("handlers", i_event_handler, "configuration")
    return visit.go(here, "Saved; it holds for what is delivered from now on")


@dataclass(frozen=True)
class Toggle:
    """One event type, and whether a handler hears of it."""

    name: str
    facts: Mapping[str, Any]
    is_on: bool


@pages.get("/{i_event_handler}/subscriptions")
async def show_subscriptions(visit: Reader, i_event_handler: SmallPathNumber) -> Response:
    """The event types that a handler can hear of, each with a toggle."""
    wanted = listing.parameter(visit, "q").casefold()

    def read(connection: Connection) -> tuple[EventHandler, list[Toggle]]:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        heard = set(subscriptions.subscriptions(connection, handler))
        names = subscriptions.supported_types(connection, handler)
        return handler, [Toggle(name, facts(name), name in heard) for name in names]

    handler, toggles = await visit.fetch(read)
    shown = [
        one
        for one in toggles
        if wanted in one.name.casefold() or wanted in str(one.facts["description"]).casefold()
    ]
    return visit.page(
        "handlers/subscriptions.html", handler=handler, toggles=shown, total=len(toggles)
    )


@pages.post("/{i_event_handler}/subscriptions")
async def subscribe(visit: Administrator, i_event_handler: SmallPathNumber) -> Response:
    """Subscribe to the types that are on, end the subscription of those that are not.

    Only the types that the form showed (``shown``) are touched.
    """
    form = await visit.form()
    shown, on = set(form.all("shown")), set(form.all("on"))

    def change(connection: Connection) -> int:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        heard = set(subscriptions.subscriptions(connection, handler))
        for name in sorted((on & shown) - heard):
            subscriptions.subscribe(connection, handler, name)
        for name in sorted((heard & shown) - on):
            subscriptions.unsubscribe(connection, handler, name)
        now = set(subscriptions.subscriptions(connection, handler))
        visit.note(
            connection,
            "handler.subscribe",
            f"handler {handler.name}",
            {"ended": sorted(heard - now)},
            {"begun": sorted(now - heard)},
        )
        return len(now ^ heard)

    count = await visit.write(change)
    here = visit.path("handlers", i_event_handler, "subscriptions")
    return visit.go(here, f"{count} subscriptions changed" if count else "Nothing changed")


@pages.post("/{i_event_handler}/{switch}")
async def turn(visit: Operator, i_event_handler: SmallPathNumber, switch: str) -> Response:
    """Pause, resume, enable or disable a handler."""
    if switch in {"enable", "disable", "delete"} and not visit.user.may(ADMINISTER):
        raise Forbidden(f"the role {visit.user.role} does not allow this")
    if switch == "delete":
        return await _delete(visit, i_event_handler)

    def change(connection: Connection) -> EventHandler:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        match switch:
            case "pause" | "resume":
                subscriptions.set_handler_paused(connection, handler, paused=switch == "pause")
            case "enable" | "disable":
                subscriptions.set_handler_enabled(connection, handler, enabled=switch == "enable")
            case _:
                raise InvalidRequest(f"a handler cannot {switch}")
        visit.note(connection, f"handler.{switch}", f"handler {handler.name}")
        return handler

    handler = await visit.write(change)
    here = visit.path("handlers", i_event_handler)
    return visit.go(here, f"{handler.name} is {_DONE[switch]}")


_DONE = {
    "pause": "paused: its events wait, in order, and none is lost",
    "resume": "resumed",
    "enable": "enabled: it hears of what happens from now on",
    "disable": "disabled: it keeps what waits, and hears of nothing new",
}


@pages.get("/{i_event_handler}/delete")
async def ask_delete(visit: Administrator, i_event_handler: SmallPathNumber) -> Response:
    """What goes along with a handler."""

    def read(connection: Connection) -> tuple[Standing, int]:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        (stands,) = standing.handlers(connection, visit.site.database, handler)
        return stands, len(subscriptions.subscriptions(connection, handler))

    stands, heard = await visit.fetch(read)
    return visit.page("handlers/delete.html", handler=stands.handler, stands=stands, heard=heard)


async def _delete(visit: Visit, i_event_handler: int) -> Response:
    form = await visit.form()

    def remove(connection: Connection) -> tuple[EventHandler, int]:
        handler = subscriptions.find_handler(connection, visit.i_env, i_event_handler)
        if form.get("name") != handler.name:
            raise InvalidRequest(f"type the handler's name, {handler.name}, to delete it", "name")
        before = handler.described()
        count = restarts.remove_handler(connection, visit.site.database, handler, force=True)
        visit.note(
            connection, "handler.delete", f"handler {handler.name}", before, {"cancelled": count}
        )
        return handler, count

    handler, count = await visit.write(remove)
    more = f"; {count} notifications are recorded as cancelled" if count else ""
    return visit.go(visit.path("handlers"), f"The handler {handler.name} is deleted{more}")


async def _handler(visit: Visit, i_event_handler: int) -> EventHandler:
    return await visit.fetch(subscriptions.find_handler, visit.i_env, i_event_handler)


def _configuration(
    visit: Visit,
    handler: EventHandler,
    fields: Sequence[Field],
    error: InvalidRequest | None = None,
) -> Response:
    return visit.page(
        "handlers/configuration.html",
        status=422 if error else 200,
        handler=handler,
        groups=forms.by_group(fields),
        error=forms.general_error(fields, error),
    )


def _option_fields(handler: EventHandler) -> list[Field]:
    return forms.of_options(handler.option_list(), handler.options)


def _new_fields() -> list[Field]:
    types = [(name, name) for name in registry.handler_types()]
    return [
        Field("name", "Name", help="As people will know it; unique here.", required=True),
        Field(
            "type",
            "Type",
            value="EventSender",
            kind="select",
            choices=types,
            help="EventSender tells a web application of your own; the dispatchers turn what "
            "happens to customers and products into events of their accounts.",
        ),
        Field(
            "usual",
            "Usual events only",
            kind="switch",
            help="On: it hears of what a handler of its type usually needs, such as what may "
            "change a subscriber in the system. Off: of all that its type supports.",
        ),
        Field(
            "enabled",
            "Enabled",
            value="on",
            kind="switch",
            help="Its events are captured from now on. They wait until it is configured.",
        ),
    ]
