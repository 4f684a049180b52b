"""Infrastructure > Event types: the catalogue, and types of one's own."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import subscriptions
from espf.capture import rules, triggers
from espf.errors import Conflict, InvalidRequest
from espf.web.contract import Forbidden
from espf.web.pages import forms, listing
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/event-types")

Reader = Annotated[Visit, Depends(Visitor())]
Facts = Mapping[str, Any]

COLUMNS: Sequence[Column[Facts]] = (
    Column("name", "Event type", lambda one: one["name"]),
    Column("description", "Happens when", lambda one: one["description"], sortable=False),
    Column("entity", "Entity", lambda one: one["entity"]),
    Column("version_2", "Simplified", lambda one: one["version_2"]),
    Column("source", "Known by", lambda one: one["source"]),
    Column("enabled", "Captured", lambda one: one["enabled"]),
)

_NAME = Field(
    "name",
    "Name",
    value="Custom/",
    help="Custom/ and letters, digits, underscores and slashes: Custom/NextMonth. The name is the "
    "same in all environments, and no handler is subscribed to it by itself.",
    required=True,
)


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """All types."""
    found = await visit.fetch(subscriptions.describe_types)
    page = listing.of(visit, COLUMNS, found, sort="name")
    if listing.wants_csv(visit):
        return listing.as_csv("event-types", COLUMNS, page.rows)
    return visit.page("event_types/list.html", listing=page)


@pages.get("/new")
async def ask_new(visit: Reader) -> Response:
    """The form for a custom type."""
    _require_superuser(visit)
    return visit.page("event_types/new.html", fields=[_NAME], error=None)


@pages.post("/new")
async def create(visit: Reader) -> Response:
    """Add a custom type."""
    _require_superuser(visit)
    form = await visit.form()
    name = form.get("name", "")

    def make(connection: Connection) -> None:
        subscriptions.create_type(connection, name)
        visit.note(connection, "type.create", f"event type {name}", everywhere=True)

    try:
        await visit.write(make)
    except (InvalidRequest, Conflict) as error:
        fields = forms.filled([_NAME], form, InvalidRequest(str(error), "name"))
        return visit.page("event_types/new.html", status=422, fields=fields, error=None)
    said = f"{name} is created; subscribe the handlers that are to hear of it"
    return visit.go(visit.path("subscriptions") + f"?q={name}", said)


@pages.get("/{name:path}")
async def show(visit: Reader, name: str) -> Response:
    """One type: all that the catalogue says, and who hears of it here."""

    def read(connection: Connection) -> tuple[Facts, list[str]]:
        known = subscriptions.require_type(connection, name)
        facts = next(
            one for one in subscriptions.describe_types(connection) if one["name"] == known
        )
        heard = [
            handler.name
            for handler in subscriptions.list_handlers(connection, visit.i_env)
            if known in subscriptions.subscriptions(connection, handler)
        ]
        return facts, heard

    facts, heard = await visit.fetch(read)
    captured = _captured(visit, str(facts["name"]))
    return visit.page("event_types/show.html", facts=facts, heard=heard, captured=captured)


@pages.post("/switch")
async def switch(visit: Reader) -> Response:
    """Have the triggers capture a type (``on``), or leave it out of them."""
    _require_superuser(visit)
    form = await visit.form()
    name, on = form.get("name", ""), form.get("on") == "yes"
    site = visit.site

    def change(connection: Connection) -> None:
        subscriptions.set_type_enabled(connection, name, enabled=on)
        triggers.reapply(connection, site.database.dialect, site.rules)
        action = "type.enable" if on else "type.disable"
        visit.note(connection, action, f"event type {name}", everywhere=True)

    await visit.write(change)
    said = f"{name} is captured again" if on else f"{name} is no longer captured"
    return visit.go(visit.path("event-types", *name.split("/")), said)


def _captured(visit: Visit, name: str) -> list[str]:
    """The tables and operations whose triggers tell of a type, by the rules."""
    return sorted(
        {
            f"{rule.table}: {rule.on}"
            for rule in rules.chosen_rules(visit.site.rules)
            if rule.event == name
        }
    )


def _require_superuser(visit: Visit) -> None:
    if not visit.user.superuser:
        raise Forbidden("event types are the same in all environments: only a superuser may")
