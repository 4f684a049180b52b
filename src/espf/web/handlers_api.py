"""/espf/v1, how ESPF is set up: handlers, event types, workers, maintenance, capture."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema
from sqlalchemy import Connection

from espf import configuration, maintenance, restarts, standing, subscriptions
from espf.capture import rules, triggers
from espf.catalogue import canonical
from espf.handlers import registry
from espf.model import Event
from espf.subscriptions import EventHandler
from espf.trial import Sent, event_for
from espf.users import HANDLERS_SCOPE, OPERATE
from espf.web.contract import (
    FAULTS,
    Body,
    Call,
    Caller,
    Fault,
    Gate,
    RequestBody,
    Scheme,
    SmallPathNumber,
    Text,
    Time,
    blaming,
)

api = APIRouter(
    prefix="/espf/v1",
    dependencies=[Depends(Scheme("basic")), Depends(Scheme("bearer"))],
    responses=FAULTS,
)

Administrator = Annotated[Call, Depends(Caller(HANDLERS_SCOPE))]
Operator = Annotated[Call, Depends(Caller(HANDLERS_SCOPE, OPERATE))]
Anybody = Annotated[Call, Depends(Gate(HANDLERS_SCOPE))]
Superuser = Annotated[Call, Depends(Gate(HANDLERS_SCOPE, superuser=True))]

Value = str | int | float | bool


# Handler types


class Option(BaseModel):
    """An option of a handler type. ``default`` null: it is mandatory."""

    name: str
    type: str
    default: str | None
    description: str
    secret: bool


class HandlerType(BaseModel):
    """A handler type: the events that it can handle, and its options.

    ``usual`` are those of the events that it usually needs; none: all.
    """

    type: str
    supports: list[str]
    usual: list[str]
    options: list[Option]


class HandlerTypeList(BaseModel):
    """The handler types that can be used."""

    handler_type_list: list[HandlerType]


@api.get("/handler_types", tags=["Handlers"])
async def list_handler_types(_call: Anybody) -> HandlerTypeList:
    """The handler types, with their options."""
    return HandlerTypeList(
        handler_type_list=[
            HandlerType(
                type=name,
                supports=list(handler_type.supports),
                usual=list(handler_type.usual),
                options=[_option(one) for one in registry.options(name)],
            )
            for name, handler_type in registry.handler_types().items()
        ]
    )


def _option(option: registry.Option) -> Option:
    values = vars(option)
    return Option(name=option.alias, **{key: values[key] for key in values if key != "alias"})


# Handlers


class Breaker(BaseModel):
    """Why nothing goes out to an external system for a while, by worker."""

    worker: str
    state: str
    since: Time
    probe_at: Time | None
    reason: str | None


class HandlerStanding(BaseModel):
    """A handler, and how it stands; ``workers`` counts the shards of each.

    ``estimated``: it is so much that not all was counted. ``waiting`` is an estimate then, and of
    ``retrying`` and ``failed`` there may be more.
    """

    i_event_handler: int
    name: str
    i_env: int
    type: str
    state: str
    enabled: bool
    paused: bool
    maintenance: bool
    waiting: int
    oldest_waiting_seconds: int | None
    retrying: int
    failed: int
    estimated: bool
    workers: dict[str, int]
    breakers: list[Breaker]


class HandlerList(BaseModel):
    """Handlers of an environment, by name."""

    handler_list: list[HandlerStanding]


class NewHandler(RequestBody):
    """A handler to add. Mandatory options may follow later; until then its events wait."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Provisioning",
                    "type": "EventSender",
                    "settings": {
                        "EventSender.URL": "http://127.0.0.1:5000",
                        "EventSender.AuthMethod": "None",
                    },
                }
            ]
        },
    )

    name: str
    type: str
    enabled: bool = True
    usual: Annotated[
        bool,
        Field(
            description="Subscribe it to the types that are usual for its type, where it says "
            "which, and not to all that it supports."
        ),
    ] = False
    settings: Annotated[
        dict[str, Value], Field(default_factory=dict, description="Options of the type, by name.")
    ]


_new_handler = Body(NewHandler)


@api.get("/handlers", tags=["Handlers"])
async def list_handlers(
    call: Administrator,
    name: Annotated[Text | None, Query(description="Only the one of this name.")] = None,
) -> HandlerList:
    """The handlers, and how each stands."""

    def read(connection: Connection) -> HandlerList:
        found = subscriptions.list_handlers(connection, call.i_env)
        chosen = [one for one in found if name in {None, one.name}]
        return HandlerList(handler_list=_standings(connection, call, chosen))

    return await call.fetch(read)


@api.post("/handler/create", tags=["Handlers"], openapi_extra=_new_handler.openapi)
async def create_handler(
    call: Administrator, new: Annotated[NewHandler, Depends(_new_handler)]
) -> HandlerStanding:
    """Add a handler, subscribed to every type of the catalogue that its type supports.

    With ``usual``, to those of them that a handler of this type usually needs.
    """

    def create(connection: Connection) -> HandlerStanding:
        made = subscriptions.create_handler(
            connection,
            call.site.sealer,
            call.i_env,
            new.name,
            new.type,
            new.settings,
            enabled=new.enabled,
            usual=new.usual,
        )
        call.note(connection, "handler.create", f"handler {made.name}", None, made.described())
        return _standings(connection, call, [made])[0]

    return await call.write(create)


@api.get("/handler/{i_event_handler:int}", tags=["Handlers"])
async def show_handler(call: Administrator, i_event_handler: SmallPathNumber) -> HandlerStanding:
    """A handler, and how it stands."""

    def read(connection: Connection) -> HandlerStanding:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        return _standings(connection, call, [found])[0]

    return await call.fetch(read)


@api.post("/handler/{i_event_handler:int}/enable", tags=["Handlers"])
async def enable_handler(call: Administrator, i_event_handler: SmallPathNumber) -> HandlerStanding:
    """Switch a handler on: it goes on with what waits, and hears of new events."""
    return await _switch(call, i_event_handler, "enable")


@api.post("/handler/{i_event_handler:int}/disable", tags=["Handlers"])
async def disable_handler(call: Administrator, i_event_handler: SmallPathNumber) -> HandlerStanding:
    """Switch a handler off: what waits is kept, new events are not recorded for it."""
    return await _switch(call, i_event_handler, "disable")


@api.post("/handler/{i_event_handler:int}/pause", tags=["Handlers"])
async def pause_handler(call: Operator, i_event_handler: SmallPathNumber) -> HandlerStanding:
    """Let a handler's events wait, within two seconds; they are captured all the same."""
    return await _switch(call, i_event_handler, "pause")


@api.post("/handler/{i_event_handler:int}/resume", tags=["Handlers"])
async def resume_handler(call: Operator, i_event_handler: SmallPathNumber) -> HandlerStanding:
    """Let a paused handler go on, in order, with what waits."""
    return await _switch(call, i_event_handler, "resume")


async def _switch(
    call: Call, i_event_handler: int, switch: Literal["enable", "disable", "pause", "resume"]
) -> HandlerStanding:
    def change(connection: Connection) -> HandlerStanding:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        if switch in {"enable", "disable"}:
            subscriptions.set_handler_enabled(connection, found, enabled=switch == "enable")
        else:
            subscriptions.set_handler_paused(connection, found, paused=switch == "pause")
        changed = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        call.note(connection, f"handler.{switch}", f"handler {found.name}")
        return _standings(connection, call, [changed])[0]

    return await call.write(change)


class Deleted(BaseModel):
    """How many notifications were cancelled with a handler."""

    cancelled: int


@api.delete("/handler/{i_event_handler:int}", tags=["Handlers"])
async def delete_handler(
    call: Administrator,
    i_event_handler: SmallPathNumber,
    force: Annotated[
        bool, Query(description="Also when work is waiting, which counts as cancelled.")
    ] = False,
) -> Deleted:
    """Delete a handler with its settings and subscriptions.

    With ``force`` it is switched off first, and what waits is cancelled step by step.
    """
    database = call.site.database
    found = await call.fetch(subscriptions.find_handler, call.i_env, i_event_handler)
    cancelled = 0
    if force:
        await _switch(call, i_event_handler, "disable")
        while some := await call.write(restarts.cancel_next, database, found):
            cancelled += some

    def remove(connection: Connection) -> int:
        count = cancelled + restarts.remove_handler(connection, database, found, force=force)
        after = {"cancelled": count}
        call.note(connection, "handler.delete", f"handler {found.name}", found.described(), after)
        return count

    return Deleted(cancelled=await call.write(remove))


def _standings(
    connection: Connection, call: Call, handlers: list[EventHandler]
) -> list[HandlerStanding]:
    database = call.site.database
    now = database.now(connection)
    return [
        HandlerStanding(**one.fields(now))
        for one in standing.handlers(connection, database, *handlers)
    ]


# A trial


class TryOut(RequestBody):
    """What a handler is tried out with."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"event_type": "Account/Blocked", "variables": {"i_account": 541}}]
        },
    )

    event_type: Annotated[
        Text | None, Field(description="Default: Custom/Test, or the first that it supports.")
    ] = None
    variables: Annotated[
        dict[str, JsonValue],
        Field(default_factory=dict, description="What the event tells."),
        WithJsonSchema({"type": "object"}),
    ]
    check_only: Annotated[bool, Field(description="Send no event.")] = False


class SentEvent(BaseModel):
    """The event of a trial, and what a worker would make of the answer.

    ``retry_seconds`` null: it would not be tried again. ``makes`` counts the events that a
    dispatcher would have made.
    """

    event_type: str
    variables: JsonValue
    verdict: str
    reason: str | None
    retry_seconds: int | None
    duration_ms: int
    request: str | None
    response: str | None
    makes: dict[str, int]


class TriedOut(BaseModel):
    """Whether the external system can be reached, null where only an event tells; what was found.

    ``sent`` null: there was to be no event.
    """

    reached: bool | None
    found: str | None
    sent: SentEvent | None


_try_out = Body(TryOut)


@api.post(
    "/handler/{i_event_handler:int}/test",
    tags=["Handlers"],
    openapi_extra=_try_out.openapi,
    responses={429: {"model": Fault, "description": "It is being tried out already"}},
)
async def try_handler(
    call: Administrator,
    i_event_handler: SmallPathNumber,
    new: Annotated[TryOut, Depends(_try_out)],
) -> TriedOut:
    """Try a handler out, at once: check its way, and send one event, outside of the queue.

    The event has the number 0. Nothing is stored, nothing is tried again.
    """

    def prepare(connection: Connection) -> tuple[EventHandler, Event | None]:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        if new.check_only:
            return found, None
        with blaming("event_type"):
            words = (new.event_type, new.variables)
            return found, event_for(connection, call.site.database, found, *words)

    found, event = await call.fetch(prepare)
    trial = await call.site.trials.run(found, event, call.user.login)
    return TriedOut(
        reached=trial.check.reached,
        found=trial.check.found,
        sent=None if trial.sent is None else _sent(trial.sent),
    )


def _sent(one: Sent) -> SentEvent:
    told = {name: value for name, value in vars(one).items() if name != "event"}
    variables: JsonValue = dict(one.event.variables)
    return SentEvent(event_type=one.event.event_type, variables=variables, **told)


# Settings


class Setting(Option):
    """An option and its value as text. The value of a secret is never shown."""

    is_set: bool
    value: str | None


class Settings(BaseModel):
    """All options of a handler; ``missing`` says what has to be set before it can work."""

    settings: list[Setting]
    missing: str | None


class ChangedSettings(RequestBody):
    """Options to set; null takes one back to its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"settings": {"Concurrency": 4, "EventSender.TokenRate": None}}]
        },
    )

    settings: dict[str, Value | None]


_changed_settings = Body(ChangedSettings)


@api.get("/handler/{i_event_handler:int}/settings", tags=["Handlers"])
async def show_settings(call: Administrator, i_event_handler: SmallPathNumber) -> Settings:
    """All options of a handler."""

    def read(connection: Connection) -> Settings:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        return _settings(call, found)

    return await call.fetch(read)


@api.put(
    "/handler/{i_event_handler:int}/settings",
    tags=["Handlers"],
    openapi_extra=_changed_settings.openapi,
)
async def change_settings(
    call: Administrator,
    i_event_handler: SmallPathNumber,
    new: Annotated[ChangedSettings, Depends(_changed_settings)],
) -> Settings:
    """Change some options, all or none; those that are not named stay as they are."""

    def change(connection: Connection) -> Settings:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        subscriptions.set_options(connection, call.site.sealer, found, new.settings)
        changed = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        subject = f"handler {found.name}"
        call.note(connection, "handler.set", subject, found.described(), changed.described())
        return _settings(call, changed)

    return await call.write(change)


def _settings(call: Call, handler: EventHandler) -> Settings:
    shown = handler.shown()
    return Settings(
        settings=[
            Setting(
                **_option(one).model_dump(),
                is_set=one.alias in handler.options,
                value=None if one.secret else shown[one.alias],
            )
            for one in handler.option_list()
        ],
        missing=handler.missing(call.site.sealer),
    )


# Subscriptions


class Subscription(BaseModel):
    """An event type that a handler supports, and whether it hears of it."""

    event_type: str
    subscribed: bool


class SubscriptionList(BaseModel):
    """The event types that a handler supports."""

    subscription_list: list[Subscription]


class NamedType(RequestBody):
    """An event type."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"event_type": "Account/Blocked"}]})

    event_type: str


class Subscribed(Subscription):
    """What was changed; ``remark`` says why the handler will skip the type all the same."""

    remark: str | None = None


_named_type = Body(NamedType)
NamedTypeBody = Annotated[NamedType, Depends(_named_type)]


@api.get("/handler/{i_event_handler:int}/subscriptions", tags=["Handlers"])
async def list_subscriptions(
    call: Administrator, i_event_handler: SmallPathNumber
) -> SubscriptionList:
    """The event types that a handler supports, and which of them it is subscribed to.

    A type that was subscribed to by another of its names stands there under that one.
    """

    def read(connection: Connection) -> SubscriptionList:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        on = set(subscriptions.subscriptions(connection, found))
        return SubscriptionList(
            subscription_list=[
                Subscription(event_type=found.spellings.get(name, name), subscribed=name in on)
                for name in subscriptions.supported_types(connection, found)
            ]
        )

    return await call.fetch(read)


@api.put(
    "/handler/{i_event_handler:int}/subscriptions",
    tags=["Handlers"],
    openapi_extra=_named_type.openapi,
)
async def subscribe(
    call: Administrator, i_event_handler: SmallPathNumber, new: NamedTypeBody
) -> Subscribed:
    """Subscribe a handler to an event type."""

    def change(connection: Connection) -> Subscribed:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        subscriptions.subscribe(connection, found, new.event_type)
        after = {new.event_type: "subscribed"}
        call.note(connection, "handler.subscribe", f"handler {found.name}", None, after)
        sealer = call.site.sealer
        remark = None
        if found.missing(sealer) is None:
            remark = found.build(sealer).remark(new.event_type)
        return Subscribed(event_type=new.event_type, subscribed=True, remark=remark)

    return await call.write(change)


@api.delete(
    "/handler/{i_event_handler:int}/subscriptions",
    tags=["Handlers"],
)
async def unsubscribe(
    call: Administrator,
    i_event_handler: SmallPathNumber,
    event_type: Annotated[Text, Query(description="The event type.")],
) -> Subscription:
    """End a subscription; what waits already is still delivered."""

    def change(connection: Connection) -> None:
        found = subscriptions.find_handler(connection, call.i_env, i_event_handler)
        subscriptions.unsubscribe(connection, found, event_type)
        after = {event_type: "not subscribed"}
        call.note(connection, "handler.subscribe", f"handler {found.name}", None, after)

    await call.write(change)
    return Subscription(event_type=event_type, subscribed=False)


# Event types


class EventType(BaseModel):
    """An event type; ``version_2`` null: there is no simplified form.

    ``aliases`` are its other names; ``variables`` what its events carry beside i_env, i_event and
    event_time. Of a custom type only its names are known.
    """

    i_event_type: int
    event_type: str
    aliases: list[str]
    enabled: bool
    entity: str
    description: str
    variables: list[str]
    inherited: bool
    version_2: str | None
    latest_only: bool
    source: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> "EventType":
        """A type, as it is shown."""
        names = {"number": "i_event_type", "name": "event_type"}
        return cls(**{names.get(key, key): value for key, value in row.items()})


class EventTypeList(BaseModel):
    """All event types."""

    event_type_list: list[EventType]


@api.get("/event_types", tags=["Event types"])
async def list_types(call: Anybody) -> EventTypeList:
    """All event types, the catalogue's and custom ones; they are the same in all environments."""
    rows = await call.fetch(subscriptions.describe_types)
    return EventTypeList(event_type_list=[EventType.of(row) for row in rows])


class NewType(RequestBody):
    """A custom event type to add."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"event_type": "Custom/NextMonth"}]})

    event_type: Annotated[
        str, Field(max_length=128, pattern=r"^Custom/[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*$")
    ]


_new_type = Body(NewType)


@api.post("/event_type/create", tags=["Event types"], openapi_extra=_new_type.openapi)
async def create_type(call: Superuser, new: Annotated[NewType, Depends(_new_type)]) -> EventType:
    """Add a custom event type, for all environments; its name begins with ``Custom/``."""

    def create(connection: Connection) -> EventType:
        subscriptions.create_type(connection, new.event_type)
        call.note(connection, "type.create", f"event type {new.event_type}", everywhere=True)
        return _type(connection, new.event_type)

    return await call.write(create)


@api.post("/event_type/enable", tags=["Event types"], openapi_extra=_named_type.openapi)
async def enable_type(call: Superuser, one: NamedTypeBody) -> EventType:
    """Have the triggers capture a type again."""
    return await _switch_type(call, one.event_type, enabled=True)


@api.post("/event_type/disable", tags=["Event types"], openapi_extra=_named_type.openapi)
async def disable_type(call: Superuser, one: NamedTypeBody) -> EventType:
    """Leave a type out of the triggers: nothing of it is captured, for anybody."""
    return await _switch_type(call, one.event_type, enabled=False)


async def _switch_type(call: Call, name: str, *, enabled: bool) -> EventType:
    site = call.site

    def switch(connection: Connection) -> EventType:
        subscriptions.set_type_enabled(connection, name, enabled=enabled)
        triggers.reapply(connection, site.database.dialect, site.rules)
        action = "type.enable" if enabled else "type.disable"
        call.note(connection, action, f"event type {canonical(name)}", everywhere=True)
        return _type(connection, name)

    return await call.write(switch)


def _type(connection: Connection, name: str) -> EventType:
    rows = subscriptions.describe_types(connection)
    return next(EventType.of(row) for row in rows if row["name"] == canonical(name))


# The installation


class Drift(BaseModel):
    """A difference between the capture rules and the triggers of the database."""

    kind: str
    subject: str
    explanation: str


class CaptureState(BaseModel):
    """Whether the triggers are those that the rules compile to: ``drifts`` is empty then."""

    triggers: int
    drifts: list[Drift]


@api.get("/capture", tags=["Installation"])
async def show_capture(call: Superuser) -> CaptureState:
    """Whether changes are captured as the rules say."""
    site = call.site

    def verify(connection: Connection) -> CaptureState:
        disabled = triggers.disabled_types(connection)
        wanted = triggers.compile_rules(rules.chosen_rules(site.rules), disabled)
        drifts = triggers.verify(connection, site.database.dialect, wanted)
        return CaptureState(
            triggers=len(wanted),
            drifts=[
                Drift(kind=one.kind, subject=one.subject, explanation=str(one)) for one in drifts
            ],
        )

    return await call.fetch(verify)


class Share(BaseModel):
    """How many of the 16 shards of a handler's work a worker has."""

    i_env: int
    handler: str
    shards: int


class Worker(BaseModel):
    """A process that delivers, or did within the hour; ``instance`` null: for all handlers."""

    worker: str
    instance: str | None
    alive: bool
    started_at: Time
    seen_until: Time
    shards: list[Share]


class WorkerList(BaseModel):
    """The workers, by name."""

    worker_list: list[Worker]


@api.get("/workers", tags=["Installation"])
async def list_workers(call: Superuser) -> WorkerList:
    """The processes that deliver, and what each works for."""
    found = await call.fetch(standing.list_workers, call.site.database)
    return WorkerList(
        worker_list=[
            Worker(
                worker=one.worker,
                instance=one.instance or None,
                alive=one.alive,
                started_at=one.started_at,
                seen_until=one.seen_until,
                shards=[
                    Share(i_env=i_env, handler=name, shards=count)
                    for (i_env, name), count in sorted(one.shards.items())
                ],
            )
            for one in found
        ]
    )


class Maintenance(RequestBody):
    """Whether all deliveries wait."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"maintenance": True}]})

    maintenance: bool


_maintenance = Body(Maintenance)


@api.get("/maintenance", tags=["Installation"])
async def show_maintenance(call: Anybody) -> Maintenance:
    """Whether all deliveries wait."""
    return Maintenance(maintenance=await call.fetch(maintenance.in_maintenance))


@api.put("/maintenance", tags=["Installation"], openapi_extra=_maintenance.openapi)
async def set_maintenance(
    call: Superuser, new: Annotated[Maintenance, Depends(_maintenance)]
) -> Maintenance:
    """Let all deliveries wait, or go on; workers notice within two seconds."""
    on = new.maintenance

    def change(connection: Connection) -> None:
        before = {"maintenance": maintenance.in_maintenance(connection)}
        configuration.set_maintenance(connection, call.site.database, call.user.login, on=on)
        after = {"maintenance": on}
        call.note(connection, "maintenance", "all deliveries", before, after, everywhere=True)

    await call.write(change)
    return new
