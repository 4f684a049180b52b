"""/espf/v1, what applications use: events for now and later, statuses of accounts, groups."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, WithJsonSchema
from sqlalchemy import Connection

from espf import schedule, statuses
from espf.billing import references
from espf.statuses import LONGEST_MESSAGE, AccountStatus, Group, Report
from espf.users import API_SCOPE, OPERATE
from espf.web.contract import (
    FAULTS,
    Body,
    Call,
    Caller,
    PathNumber,
    RequestBody,
    Scheme,
    SmallNumber,
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

Application = Annotated[Call, Depends(Caller(API_SCOPE, OPERATE))]


# Events


class NewEvent(RequestBody):
    """An event to put into the queue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_type": "Custom/NextMonth",
                    "variables": {"i_account": 541},
                    "start_time": "2027-03-01 00:00:00",
                    "time_zone": "Europe/Prague",
                    "key": "next-month-541",
                }
            ]
        },
    )

    event_type: Annotated[str, Field(description="A type of the catalogue, or a custom one.")]
    variables: Annotated[
        dict[str, JsonValue],
        Field(default_factory=dict, description="What the event tells; i_account says whom about."),
        WithJsonSchema({"type": "object"}),
    ]
    start_time: Annotated[
        str | None,
        Field(description="When it is due: UTC 'YYYY-MM-DD HH:MM:SS', or ISO 8601 with offset."),
    ] = None
    time_zone: Annotated[
        str | None,
        Field(description="The zone of whose clocks start_time is, such as Europe/Prague."),
    ] = None
    key: Annotated[
        str | None,
        Field(description="A name of your own, by which it is replaced or called off."),
    ] = None
    i_env: Annotated[
        SmallNumber | None, Field(description="Another environment than your own; superusers only.")
    ] = None


class CreatedEvent(BaseModel):
    """The number of the event, and of the scheduled one in whose place it came."""

    i_event: int
    replaced: int | None = None


_new_event = Body(NewEvent)


@api.post(
    "/event/create",
    tags=["Events"],
    openapi_extra=_new_event.openapi,
    response_model_exclude_none=True,
)
async def create_event(
    call: Application, new: Annotated[NewEvent, Depends(_new_event)]
) -> CreatedEvent:
    """Put an event into the queue, now or at ``start_time``."""
    call = call.elsewhere(new.i_env)
    start_time = schedule.start_time(new.start_time, new.time_zone)

    def create(connection: Connection) -> schedule.Created:
        references.check(connection, call.i_env, new.variables)
        with blaming("event_type"):
            return schedule.create(
                connection,
                call.site.queue,
                call.site.database,
                call.i_env,
                new.event_type,
                new.variables,
                start_time,
                new.key,
            )

    # Whether the environment is there has been looked at with the rest of the body.
    created = await call.site.database.write(create)
    return CreatedEvent(i_event=created.i_event, replaced=created.replaced)


# Statuses of accounts


class NewStatus(RequestBody):
    """How far the provisioning of an account has come."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "RETRY", "group": "HSS", "message": "HSS: connection refused"},
            ]
        },
    )

    status: Annotated[AccountStatus, WithJsonSchema({"type": "string", "enum": [*AccountStatus]})]
    group: Annotated[Text, Field(description="The name of a service group.")]
    message: Annotated[
        Annotated[str, StringConstraints(max_length=LONGEST_MESSAGE, pattern=r"^[^\x00]*$")] | None,
        Field(description="Details, for people."),
    ] = None


class StatusReport(BaseModel):
    """What was said last about an account in a service group."""

    i_group: str
    group: str
    status: AccountStatus
    message: str | None
    reported_at: Time

    @classmethod
    def of(cls, report: Report) -> "StatusReport":
        """A report, as it is shown."""
        return cls(
            i_group=str(report.group.i_group),
            group=report.group.name,
            status=report.status,
            message=report.message,
            reported_at=report.reported_at,
        )


class StatusList(BaseModel):
    """What was said last about an account, by service group."""

    i_account: int
    status_list: list[StatusReport]


_new_status = Body(NewStatus, form=True)
NewStatusBody = Annotated[NewStatus, Depends(_new_status)]
AccountId = Annotated[
    str, PathParameter(max_length=255, pattern=r"^[^\x00]+$", examples=["4412345"])
]


@api.post("/account/i/{i_account:int}/status", tags=["Statuses"], openapi_extra=_new_status.openapi)
async def report_status(
    call: Application, i_account: PathNumber, new: NewStatusBody
) -> StatusReport:
    """Say how far the provisioning of an account has come, by its ``i_account``."""
    return await _report(call, new, i_account, None)


@api.post("/account/{account_id:path}/status", tags=["Statuses"], openapi_extra=_new_status.openapi)
async def report_status_by_id(
    call: Application, account_id: AccountId, new: NewStatusBody
) -> StatusReport:
    """Say how far the provisioning of an account has come, by its id."""
    return await _report(call, new, None, account_id)


@api.get("/account/i/{i_account:int}/status", tags=["Statuses"])
async def get_statuses(call: Application, i_account: PathNumber) -> StatusList:
    """What was reported last about an account, by its ``i_account``."""
    return await _statuses(call, i_account, None)


@api.get("/account/{account_id:path}/status", tags=["Statuses"])
async def get_statuses_by_id(call: Application, account_id: AccountId) -> StatusList:
    """What was reported last about an account, by its id."""
    return await _statuses(call, None, account_id)


async def _report(
    call: Call, new: NewStatus, i_account: int | None, id_: str | None
) -> StatusReport:
    def report(connection: Connection) -> Report:
        found = statuses.find_account(connection, call.i_env, i_account=i_account, id_=id_)
        now = call.site.database.now(connection)
        return statuses.report(
            connection, call.i_env, found, new.group, new.status, new.message, now
        )

    return StatusReport.of(await call.write(report))


async def _statuses(call: Call, i_account: int | None, id_: str | None) -> StatusList:
    def read(connection: Connection) -> StatusList:
        found = statuses.find_account(connection, call.i_env, i_account=i_account, id_=id_)
        reports = statuses.of_account(connection, call.i_env, found)
        return StatusList(i_account=found, status_list=[StatusReport.of(one) for one in reports])

    return await call.fetch(read)


# Service groups


class NewGroup(RequestBody):
    """A service group to add."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "IOT"}]})

    name: Annotated[str, Field(description="1 to 64 printable characters.")]


class OneGroup(RequestBody):
    """A custom service group."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"i_group": 1001}]})

    i_group: SmallNumber


class NamedGroup(BaseModel):
    """A service group, by number and name."""

    i_group: str
    name: str

    @classmethod
    def of(cls, group: Group) -> "NamedGroup":
        """A group, as it is shown."""
        return cls(i_group=str(group.i_group), name=group.name)


class ListedGroup(NamedGroup):
    """A service group of a list."""

    is_custom: bool


class GroupList(BaseModel):
    """The service groups of an environment."""

    group_list: list[ListedGroup]


_new_group = Body(NewGroup, form=True)
_one_group = Body(OneGroup, form=True)


@api.get("/groups", tags=["Service groups"])
async def list_groups(call: Application) -> GroupList:
    """The service groups: eight predefined ones, and those of your environment."""
    groups = await call.fetch(statuses.list_groups, call.i_env)
    return GroupList(
        group_list=[
            ListedGroup(i_group=str(one.i_group), name=one.name, is_custom=one.is_custom)
            for one in groups
        ]
    )


@api.post("/group/create", tags=["Service groups"], openapi_extra=_new_group.openapi)
async def create_group(
    call: Application, new: Annotated[NewGroup, Depends(_new_group)]
) -> NamedGroup:
    """Add a service group; custom ones have numbers from 1001."""

    def create(connection: Connection) -> Group:
        made = statuses.create_group(connection, call.i_env, new.name)
        call.note(connection, "group.create", f"service group {made.name}")
        return made

    return NamedGroup.of(await call.write(create))


@api.post("/group/delete", tags=["Service groups"], openapi_extra=_one_group.openapi)
async def delete_group_named(
    call: Application, one: Annotated[OneGroup, Depends(_one_group)]
) -> NamedGroup:
    """Delete a custom service group, and what was reported in it."""
    return await _delete_group(call, one.i_group)


@api.delete("/group/{i_group:int}", tags=["Service groups"])
async def delete_group(call: Application, i_group: SmallPathNumber) -> NamedGroup:
    """Delete a custom service group, and what was reported in it."""
    return await _delete_group(call, i_group)


@api.post("/group/{i_group:int}", tags=["Service groups"])
async def delete_group_by_post(call: Application, i_group: SmallPathNumber) -> NamedGroup:
    """The same as DELETE, for clients that have no DELETE."""
    return await _delete_group(call, i_group)


async def _delete_group(call: Call, i_group: int) -> NamedGroup:
    def delete(connection: Connection) -> Group:
        gone = statuses.delete_group(connection, call.i_env, i_group)
        call.note(connection, "group.delete", f"service group {gone.name}")
        return gone

    return NamedGroup.of(await call.write(delete))
