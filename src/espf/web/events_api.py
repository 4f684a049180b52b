"""/espf/v1, what became of events: found, looked at, tried again, given up, called off."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from sqlalchemy import Connection

from espf import overview, restarts, schedule, subscriptions, timeline
from espf.db.walk import Progress
from espf.errors import InvalidRequest
from espf.model import parse_time
from espf.overview import Page
from espf.sources import Filter
from espf.subscriptions import EventHandler
from espf.users import API_SCOPE, OPERATE
from espf.web.contract import (
    FAULTS,
    Body,
    Call,
    Caller,
    Number,
    PathNumber,
    RequestBody,
    Scheme,
    Text,
    Time,
    Whole,
    blaming,
)

api = APIRouter(
    prefix="/espf/v1",
    tags=["Events"],
    dependencies=[Depends(Scheme("basic")), Depends(Scheme("bearer"))],
    responses=FAULTS,
)

Application = Annotated[Call, Depends(Caller(API_SCOPE, OPERATE))]

Status = Literal[
    "all",
    "queued",
    "scheduled",
    "retrying",
    "successful",
    "finished",
    "failed",
    "rejected",
    "skipped",
    "superseded",
    "cancelled",
]
Tried = Literal[
    "failed",
    "rejected",
    "retrying",
    "finished",
    "successful",
    "skipped",
    "superseded",
    "cancelled",
]
Limit = Annotated[int, Query(ge=1, le=1000, description="About so many; an event stays whole.")]


class Part(BaseModel):
    """An event, and where one handler stands with it."""

    i_event: int
    event_type: str | None
    ordering_key: str | None
    handler: str | None
    status: str
    attempts: int
    created_at: Time | None
    start_time: Time | None
    next_attempt_at: Time | None
    reason: str | None


class EventList(BaseModel):
    """A page of events.

    ``next``: what to give as ``before`` for older ones, ``newer``: as ``after`` for newer ones;
    null: there are none. ``partial``: so much had to be looked at that the page ended before it was
    full; there may be more on the next one, also when this one is empty.
    """

    event_list: list[Part]
    next: int | None
    newer: int | None
    partial: bool


@dataclass(frozen=True)
class Chosen:
    """The parameters of an address that say which events are meant."""

    status: Annotated[Status, Query(description="What has become of it.")] = "all"
    handler: Annotated[Text | None, Query(description="The name of a handler.")] = None
    event_type: Annotated[
        Text | None, Query(description="A type, or the beginning of types: Account/*")
    ] = None
    i_account: Annotated[Number | None, Query(description="About this account.")] = None
    about: Annotated[
        Text | None,
        Query(
            description="About account:541, customer:7, sim:3, did:... or product:...; or by the "
            "id of an account, the name of a customer, an IMSI, an ICCID or a DID number."
        ),
    ] = None
    since: Annotated[
        Text | None, Query(alias="from", description="What happened then or later; UTC.")
    ] = None
    until: Annotated[Text | None, Query(alias="to", description="What happened before; UTC.")] = (
        None
    )

    def filter(self, connection: Connection, i_env: int) -> Filter:
        """The same for the overview. Raises InvalidRequest."""
        wanted = _filter(
            *(i_env, self.status, self.handler, self.event_type),
            *(self.i_account, self.since, self.until),
        )
        if self.about is None:
            return wanted
        if self.i_account is not None:
            raise InvalidRequest("about: i_account says it already", "about")
        with blaming("about"):
            return replace(wanted, ordering_key=timeline.key_of(connection, self.about, i_env))


Choice = Annotated[Chosen, Depends()]
Before = Annotated[Number | None, Query(description="Only lower numbers: the older page.")]
After = Annotated[Number | None, Query(description="Only higher numbers: the newer page.")]
Order = Annotated[Literal["newest", "oldest"], Query(description="Which come first.")]


@api.get("/events")
async def list_events(
    call: Application,
    chosen: Choice,
    before: Before = None,
    after: After = None,
    order: Order = "newest",
    limit: Limit = 100,
) -> EventList:
    """Find events, those that wait and those in the journal: an entry for each handler."""

    def find(connection: Connection) -> EventList:
        wanted = replace(chosen.filter(connection, call.i_env), before=before, after=after)
        return _event_list(overview.page(connection, wanted, limit, oldest_first=order == "oldest"))

    return await call.fetch(find)


class EventCount(BaseModel):
    """How many entries; ``more``: there are, or may be, more than these."""

    count: int
    more: bool


@api.get("/events/count")
async def count_events(call: Application, chosen: Choice) -> EventCount:
    """How many entries a search finds, up to 5,000, among those that are looked at at once."""

    def count(connection: Connection) -> EventCount:
        found = overview.count(connection, chosen.filter(connection, call.i_env))
        return EventCount(count=found.number, more=not found.is_all)

    return await call.fetch(count)


@api.get(
    "/events.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_events(
    call: Application, chosen: Choice, order: Order = "newest"
) -> StreamingResponse:
    """All that a search finds, as CSV, however much it is."""
    wanted = await call.fetch(chosen.filter, call.i_env)
    found = overview.lines(call.site.database, wanted, oldest_first=order == "oldest")
    rows = (overview.to_csv(some, head=n == 0) for n, some in enumerate(found))
    # What is wrong with the database is to be told before anything is sent.
    first = await asyncio.to_thread(next, rows)
    return StreamingResponse(
        chain([first], rows),
        media_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="events.csv"'},
    )


class Obstacle(BaseModel):
    """What stops somebody's events for a handler, or the handler itself."""

    handler: str
    state: str
    i_event: int | None
    since: Time | None
    until: Time | None
    reason: str | None


class Timeline(EventList):
    """What happened to somebody, and what stops it now."""

    ordering_key: str
    obstacles: list[Obstacle]


Whom = Annotated[Text, Query(description="As for /events.")]


@api.get("/timeline")
async def show_timeline(
    call: Application,
    about: Whom,
    before: Before = None,
    after: After = None,
    order: Order = "oldest",
    limit: Limit = 100,
) -> Timeline:
    """What happened to somebody, over all handlers, and what stops it now and why."""

    def look(connection: Connection) -> Timeline:
        with blaming("about"):
            key = timeline.key_of(connection, about, call.i_env)
        wanted = Filter(i_env=call.i_env, ordering_key=key, before=before, after=after)
        page = overview.page(connection, wanted, limit, oldest_first=order == "oldest")
        stops = timeline.obstacles(connection, call.site.database, call.i_env, key)
        return Timeline(
            **dict(_event_list(page)),
            ordering_key=key,
            obstacles=[Obstacle(**asdict(one)) for one in stops],
        )

    return await call.fetch(look)


class HeldLane(BaseModel):
    """Somebody whose events are held for a handler."""

    handler: str
    ordering_key: str
    since: Time
    reason: str


class HeldLanes(BaseModel):
    """All whose events are held."""

    held_list: list[HeldLane]


@api.get("/held")
async def list_held(call: Application) -> HeldLanes:
    """Whose events are held, for whom, since when and why."""
    found = await call.fetch(timeline.held, call.i_env)
    return HeldLanes(held_list=[HeldLane(**_members(HeldLane, asdict(one))) for one in found])


class LaneChange(BaseModel):
    """Whose lane it was about, and the handlers for which it was changed."""

    ordering_key: str
    handlers: list[str]


class Lane(RequestBody):
    """Somebody's events for one handler, or for all."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"about": "account:541"}]})

    about: Annotated[Text, Field(description="As for /events.")]
    handler: Annotated[Text | None, Field(description="A handler; default: all.")] = None


class LaneHold(Lane):
    """Whose events are to wait, and why."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"about": "account:541", "reason": "moved by hand"}]}
    )

    reason: Annotated[Text, Field(description="Shown until the release.", pattern=r"[^\s\x00]")]


_hold = Body(LaneHold)
_release = Body(Lane)


@api.post("/lane/hold", openapi_extra=_hold.openapi)
async def hold_lane(call: Application, lane: Annotated[LaneHold, Depends(_hold)]) -> LaneChange:
    """Deliver nothing more about somebody until it is released; it waits, in order."""
    reason = f"{call.user.login}: {lane.reason.strip()}"

    def hold(connection: Connection) -> LaneChange:
        some, key = _lane(connection, call.i_env, lane)
        names = timeline.hold(connection, call.site.database, some, key, reason)
        call.note(connection, "lane.hold", key, after={"handlers": names, "reason": lane.reason})
        return LaneChange(ordering_key=key, handlers=names)

    return await call.write(hold)


@api.post("/lane/release", openapi_extra=_release.openapi)
async def release_lane(call: Application, lane: Annotated[Lane, Depends(_release)]) -> LaneChange:
    """Go on with what was held, in order."""

    def release(connection: Connection) -> LaneChange:
        some, key = _lane(connection, call.i_env, lane)
        names = timeline.release(connection, call.site.database, some, key)
        call.note(connection, "lane.release", key, after={"handlers": names})
        return LaneChange(ordering_key=key, handlers=names)

    return await call.write(release)


class PlannedEvent(BaseModel):
    """An event whose time has not come."""

    i_event: int
    event_type: str
    key: str | None
    start_time: Time
    variables: JsonValue


class Plan(BaseModel):
    """A page of planned events, the next first. ``next``: what to give as ``after``."""

    event_list: list[PlannedEvent]
    next: str | None


@api.get("/events/scheduled")
async def list_planned(
    call: Application,
    after: Annotated[Text | None, Query(description="What the page before gave as next.")] = None,
    limit: Limit = 100,
) -> Plan:
    """What is planned, in the order of time."""
    begin = None if after is None else _place(after)
    found = await call.fetch(schedule.planned, call.i_env, limit + 1, begin)
    page = found[:limit]
    return Plan(
        event_list=[
            PlannedEvent(
                i_event=one.i_event,
                event_type=one.event_type,
                key=one.key,
                start_time=one.start_time,
                variables=_value(one.variables),
            )
            for one in page
        ],
        next=f"{page[-1].start_time.isoformat()},{page[-1].i_event}" if found[limit:] else None,
    )


class Standing(BaseModel):
    """Where a handler stands with an event."""

    handler: str | None
    status: str
    attempts: int
    next_attempt_at: Time | None
    reason: str | None


class Attempt(BaseModel):
    """What was tried; ``attempt`` 0: the event ended without."""

    handler: str | None
    attempt: int
    verdict: str
    reason: str | None
    logged_at: Time | None
    duration_ms: int | None
    next_attempt_at: Time | None
    request: str | None
    response: str | None


class EventStory(BaseModel):
    """All that is known of an event."""

    i_event: int
    event_type: str | None
    ordering_key: str | None
    created_at: Time | None
    start_time: Time | None
    variables: JsonValue
    handlers: list[Standing]
    attempts: list[Attempt]


@api.get("/event/{i_event:int}")
async def show_event(call: Application, i_event: PathNumber) -> EventStory:
    """An event: its variables, where each handler stands with it, and every attempt."""
    story = await call.fetch(overview.story, i_event, call.i_env)
    first = story.parts[0]
    return EventStory(
        i_event=i_event,
        event_type=first.event_type,
        ordering_key=first.ordering_key,
        created_at=first.created_at,
        start_time=first.start_time,
        variables=_value(story.variables),
        handlers=[Standing(**_members(Standing, asdict(one))) for one in story.parts],
        attempts=[Attempt(**_members(Attempt, asdict(one))) for one in story.attempts],
    )


class RestartOne(RequestBody):
    """For whom an event is to be tried again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"handler": "EventSender"}]})

    handler: Annotated[
        Text | None,
        Field(description="A handler; default: those that failed, rejected, or wait to retry."),
    ] = None


class Restarted(BaseModel):
    """The handlers for which an event is tried again."""

    i_event: int
    handlers: list[str]


_restart_one = Body(RestartOne)


@api.post("/event/{i_event:int}/restart", openapi_extra=_restart_one.openapi)
async def restart_event(
    call: Application, i_event: PathNumber, one: Annotated[RestartOne, Depends(_restart_one)]
) -> Restarted:
    """Try an event again, attempts counting from 1."""

    def restart(connection: Connection) -> list[str]:
        overview.require(connection, i_event, call.i_env)
        handler = (
            subscriptions.require_handler(connection, call.i_env, one.handler)
            if one.handler is not None
            else None
        )
        names = restarts.restart(connection, call.site.database, i_event, handler)
        call.note(connection, "event.restart", f"event {i_event}", None, {"handlers": names})
        return names

    return Restarted(i_event=i_event, handlers=await call.write(restart))


class RestartMany(RequestBody):
    """Which events are to be tried again. At least one of the members that choose is needed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"handler": "EventSender", "from": "2027-03-01 00:00:00", "dry_run": True},
            ]
        },
    )

    status: Annotated[Tried | None, Field(description="Default: failed, with rejected.")] = None
    handler: Text | None = None
    event_type: Text | None = None
    i_account: Number | None = None
    since: Annotated[Text | None, Field(alias="from")] = None
    until: Annotated[Text | None, Field(alias="to")] = None
    after: Annotated[Number | None, Field(description="Only higher numbers: to go on.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="About so many at a time."), Whole] = (
        1000
    )
    dry_run: Annotated[bool, Field(description="Only count them, all of them.")] = False

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        if not self.model_fields_set - {"after", "limit", "dry_run"}:
            raise ValueError(
                "which events? Give status, handler, event_type, i_account, from or to"
            )
        return self


class RestartedMany(BaseModel):
    """How many notifications were restarted, or with ``dry_run`` would be.

    ``next`` is what to give as ``after`` for those that are left, with the same ``to``; null: none
    are left.
    """

    restarted: int
    to: Annotated[
        datetime,
        # To the microsecond: of a second that has not ended, others may fail yet.
        PlainSerializer(datetime.isoformat),
        WithJsonSchema({"type": "string", "description": "UTC, ISO 8601"}),
    ]
    next: int | None


_restart_many = Body(RestartMany)


@api.post("/events/restart", openapi_extra=_restart_many.openapi)
async def restart_events(
    call: Application, many: Annotated[RestartMany, Depends(_restart_many)]
) -> RestartedMany:
    """Try all events again that fit, in their order, some at a time."""
    wanted = replace(
        _filter(
            call.i_env,
            many.status or "failed",
            *(many.handler, many.event_type, many.i_account, many.since, many.until),
        ),
        after=many.after,
    )
    # What fails from now on is not meant.
    until = wanted.until or await call.fetch(call.site.database.now)
    wanted = replace(wanted, until=until)
    if many.dry_run:
        count = await call.fetch(restarts.restartable, wanted)
        return RestartedMany(restarted=count, to=until, next=None)
    restarted = 0

    def restart(connection: Connection) -> Progress | None:
        step = restarts.restart_next(connection, call.site.database, wanted)
        if step is not None and step.count and not restarted:
            # One line for all of the steps.
            meant = many.model_dump(mode="json", by_alias=True, exclude_unset=True)
            call.note(connection, "event.restart", "events", None, meant)
        return step

    while restarted < many.limit:
        step = await call.write(restart)
        if step is None:
            return RestartedMany(restarted=restarted, to=until, next=None)
        restarted += step.count
        wanted = replace(wanted, after=step.last)
    return RestartedMany(restarted=restarted, to=until, next=wanted.after)


class SkipOne(RequestBody):
    """Which handler is to give up an event, and why."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"handler": "EventSender", "reason": "the account is closed"}]
        },
    )

    handler: Text
    reason: Annotated[Text, Field(description="The journal keeps it.", pattern=r"[^\s\x00]")]


_skip_one = Body(SkipOne)


class Done(BaseModel):
    """The event that it was about."""

    i_event: int


@api.post("/event/{i_event:int}/skip", openapi_extra=_skip_one.openapi)
async def skip_event(
    call: Application, i_event: PathNumber, one: Annotated[SkipOne, Depends(_skip_one)]
) -> Done:
    """Give up an event for a handler that failed or waits to retry; those behind it go on."""

    def skip(connection: Connection) -> None:
        overview.require(connection, i_event, call.i_env)
        handler = subscriptions.require_handler(connection, call.i_env, one.handler)
        reason = one.reason.strip()
        restarts.skip(connection, call.site.database, i_event, handler, reason)
        after = {"handler": handler.name, "reason": reason}
        call.note(connection, "event.skip", f"event {i_event}", None, after)

    await call.write(skip)
    return Done(i_event=i_event)


class CancelOne(RequestBody):
    """The scheduled event to call off, by its key."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "next-month-541"}]})

    key: Text


_cancel_one = Body(CancelOne)


@api.post("/event/cancel", openapi_extra=_cancel_one.openapi)
async def cancel_by_key(call: Application, one: Annotated[CancelOne, Depends(_cancel_one)]) -> Done:
    """Call off the event that is scheduled under a key."""

    def cancel(connection: Connection) -> int:
        i_event = schedule.under(connection, call.i_env, one.key)
        restarts.cancel(connection, call.site.database, i_event)
        call.note(connection, "event.cancel", f"event {i_event}", None, {"key": one.key})
        return i_event

    return Done(i_event=await call.write(cancel))


@api.post("/event/{i_event:int}/cancel")
async def cancel_event(call: Application, i_event: PathNumber) -> Done:
    """Call off a scheduled event whose time has not come."""

    def cancel(connection: Connection) -> None:
        overview.require(connection, i_event, call.i_env)
        restarts.cancel(connection, call.site.database, i_event)
        call.note(connection, "event.cancel", f"event {i_event}")

    await call.write(cancel)
    return Done(i_event=i_event)


def _event_list(page: Page) -> EventList:
    return EventList(
        event_list=[Part(**_members(Part, asdict(one))) for one in page.lines],
        next=page.older,
        newer=page.newer,
        partial=page.is_short,
    )


def _lane(connection: Connection, i_env: int, lane: Lane) -> tuple[list[EventHandler], str]:
    with blaming("about"):
        key = timeline.key_of(connection, lane.about, i_env)
    return subscriptions.some_handlers(connection, i_env, lane.handler), key


def _filter(
    i_env: int,
    status: str,
    handler: str | None,
    event_type: str | None,
    i_account: int | None,
    since: str | None,
    until: str | None,
) -> Filter:
    wanted = Filter(
        i_env=i_env,
        handler=handler,
        status=status,
        event_type=event_type,
        ordering_key=None if i_account is None else f"account:{i_account}",
        since=_moment(since, "from"),
        until=_moment(until, "to"),
    )
    if wanted.since and wanted.until and wanted.since >= wanted.until:
        raise InvalidRequest("from: it must be before to", "from")
    return wanted


def _moment(text: str | None, field: str) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text, field=field)
    except ValueError as error:
        raise InvalidRequest(str(error), field) from None


def _place(text: str) -> schedule.After:
    time, _, number = text.partition(",")
    try:
        return schedule.After(parse_time(time, field="after"), int(number))
    except ValueError:
        raise InvalidRequest("after: expected what another page gave as next", "after") from None


def _value(text: str | None) -> JsonValue:
    value: JsonValue = json.loads(text) if text else None
    return value


def _members(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in model.model_fields}
