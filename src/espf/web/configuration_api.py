"""/espf/v1, the configuration of the installation: its versions, and which of them is active."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from espf import configuration
from espf.configuration import Instance, Provisioning, Value, Version
from espf.users import HANDLERS_SCOPE
from espf.web.contract import (
    FAULTS,
    Body,
    Call,
    Gate,
    RequestBody,
    Scheme,
    SmallNumber,
    SmallPathNumber,
    Time,
)

api = APIRouter(
    prefix="/espf/v1",
    dependencies=[Depends(Scheme("basic")), Depends(Scheme("bearer"))],
    responses=FAULTS,
    tags=["Configuration"],
)

Superuser = Annotated[Call, Depends(Gate(HANDLERS_SCOPE, superuser=True))]


class Facts(BaseModel):
    """A version. ``base`` is the one that was active when it was cloned from ``cloned_from``."""

    i_configuration: int
    status: Literal["draft", "active", "archived"]
    comment: str
    cloned_from: int | None
    base: int | None
    created_at: Time
    created_by: str
    changed_at: Time | None
    changed_by: str | None
    applied_at: Time | None
    applied_by: str | None
    archived_at: Time | None


class ConfigurationList(BaseModel):
    """All versions, the newest first."""

    configuration_list: list[Facts]


class Whole(Facts):
    """A version with all its fields, defaults included; a secret that is set is shown as dots."""

    settings: dict[str, str | int | float | bool | None]

    @classmethod
    def of(cls, version: Version) -> "Whole":
        """A version, as it is shown."""
        return cls(**version.facts(), settings=version.settings())


@api.get("/configurations")
async def list_configurations(call: Superuser) -> ConfigurationList:
    """The versions of the configuration."""
    found = await call.fetch(configuration.list_versions)
    return ConfigurationList(configuration_list=[Facts(**one.facts()) for one in found])


class Schema(BaseModel):
    """What may be set, as JSON Schema: of ``Provisioning.…`` and of ``ESPF.<instance>.…``."""

    Provisioning: dict[str, Any]
    ESPF: dict[str, Any]


@api.get("/configuration/schema")
async def show_schema(_call: Superuser) -> Schema:
    """The fields of a configuration: titles, help, bounds, defaults."""
    return Schema(Provisioning=Provisioning.model_json_schema(), ESPF=Instance.model_json_schema())


@api.get("/configuration/active")
async def show_active(call: Superuser) -> Whole:
    """The version that holds now."""
    return Whole.of(await call.fetch(configuration.active))


@api.get("/configuration/{i_configuration:int}")
async def show_configuration(call: Superuser, i_configuration: SmallPathNumber) -> Whole:
    """One version."""
    return Whole.of(await call.fetch(configuration.find, i_configuration))


class Origin(RequestBody):
    """What to clone; nothing: the active version."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"comment": "a second instance"}]})

    i_configuration: SmallNumber | None = None
    comment: Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


_origin = Body(Origin)


@api.post("/configuration/clone", openapi_extra=_origin.openapi)
async def clone(call: Superuser, origin: Annotated[Origin, Depends(_origin)]) -> Whole:
    """Make a draft of a version."""

    def make(connection: Connection) -> Version:
        made = configuration.clone(
            connection,
            call.site.database,
            call.user.login,
            origin.i_configuration,
            origin.comment,
        )
        _note(call, connection, "clone", made, None, {"clone of": made.cloned_from})
        return made

    return Whole.of(await call.write(make))


class Changes(RequestBody):
    """Fields to set, by their places; null takes one back to its default, dots leave a secret."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "settings": {
                        "Provisioning.AlertRecipient": "noc@example.net",
                        "Provisioning.MaxAttempts": None,
                    }
                }
            ]
        },
    )

    settings: dict[str, Value]


_changes = Body(Changes)


@api.put("/configuration/{i_configuration:int}/settings", openapi_extra=_changes.openapi)
async def change(
    call: Superuser,
    i_configuration: SmallPathNumber,
    new: Annotated[Changes, Depends(_changes)],
) -> Whole:
    """Change some fields of a draft, all or none; those that are not named stay as they are."""
    site, who = call.site, call.user.login

    def write(connection: Connection) -> Version:
        before = configuration.find(connection, i_configuration).shown()
        changed = configuration.change(
            connection, site.database, site.sealer, i_configuration, new.settings, who
        )
        _note(call, connection, "set", changed, before, changed.shown())
        return changed

    return Whole.of(await call.write(write))


class NewInstance(RequestBody):
    """An instance of ESPF to add; ``settings`` are its fields by their own names."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "hss", "settings": {"server": "espf2.example.net", "port": 8081}}]
        },
    )

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
    settings: dict[str, Value] = Field(default_factory=dict)


_new_instance = Body(NewInstance)


@api.post(
    "/configuration/{i_configuration:int}/instance/create", openapi_extra=_new_instance.openapi
)
async def create_instance(
    call: Superuser,
    i_configuration: SmallPathNumber,
    new: Annotated[NewInstance, Depends(_new_instance)],
) -> Whole:
    """Add an instance of ESPF to a draft."""
    site, who = call.site, call.user.login

    def create(connection: Connection) -> Version:
        before = configuration.find(connection, i_configuration).shown()
        changed = configuration.create_instance(
            connection,
            site.database,
            site.sealer,
            i_configuration,
            new.name,
            new.settings,
            who,
        )
        _note(call, connection, "set", changed, before, changed.shown())
        return changed

    return Whole.of(await call.write(create))


@api.delete("/configuration/{i_configuration:int}/instance/{name}")
async def delete_instance(
    call: Superuser,
    i_configuration: SmallPathNumber,
    name: Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")],
) -> Whole:
    """Remove an instance from a draft."""

    def remove(connection: Connection) -> Version:
        before = configuration.find(connection, i_configuration).shown()
        changed = configuration.delete_instance(
            connection, call.site.database, i_configuration, name, call.user.login
        )
        _note(call, connection, "set", changed, before, changed.shown())
        return changed

    return Whole.of(await call.write(remove))


class Difference(BaseModel):
    """A field that changes; null: there is no such instance before, or after."""

    field: str
    old: str | None
    new: str | None


class DifferenceList(BaseModel):
    """What changes, field by field."""

    difference_list: list[Difference]


@api.get("/configuration/{i_configuration:int}/differences")
async def list_differences(
    call: Superuser,
    i_configuration: SmallPathNumber,
    i_old: Annotated[
        SmallNumber | None, Query(description="From which version; by default the active one.")
    ] = None,
) -> DifferenceList:
    """What changes from another version to this one."""

    def read(connection: Connection) -> list[configuration.Difference]:
        new = configuration.find(connection, i_configuration)
        old = configuration.active(connection)
        if i_old is not None:
            old = configuration.find(connection, i_old)
        return configuration.differences(old, new)

    found = await call.fetch(read)
    return DifferenceList(difference_list=[Difference(**vars(one)) for one in found])


class Finding(BaseModel):
    """Something that is wrong (error), or worth knowing (warning)."""

    severity: Literal["error", "warning"]
    field: str | None
    message: str


class Verdict(BaseModel):
    """Whether a version can be applied over the ``active`` one: not while there are errors."""

    i_configuration: int
    active: int
    findings: list[Finding]
    differences: list[Difference]


@api.post("/configuration/{i_configuration:int}/verify")
async def verify(call: Superuser, i_configuration: SmallPathNumber) -> Verdict:
    """Look whether a version can be applied, on the machine that answers. Changes nothing."""
    verdict = await call.fetch(configuration.verify, i_configuration)
    return Verdict(
        i_configuration=verdict.i_configuration,
        active=verdict.active,
        findings=[Finding(**vars(one)) for one in verdict.findings],
        differences=[Difference(**vars(one)) for one in verdict.differences],
    )


class Replaced(RequestBody):
    """The active version that is to be replaced: the one that the verdict was about.

    Nothing: the one that was active when the draft was made.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"over": 1}]})

    over: SmallNumber | None = None


_replaced = Body(Replaced)


@api.post("/configuration/{i_configuration:int}/apply", openapi_extra=_replaced.openapi)
async def apply(
    call: Superuser,
    i_configuration: SmallPathNumber,
    replaced: Annotated[Replaced, Depends(_replaced)],
) -> Whole:
    """Verify a draft and make it the active version; all processes follow within two seconds.

    409 when another has become active meanwhile: look at the differences, and say ``over``.
    """

    def put(connection: Connection) -> Version:
        before = configuration.active(connection).shown()
        applied = configuration.apply(
            connection, call.site.database, i_configuration, call.user.login, replaced.over
        )
        _note(call, connection, "apply", applied, before, applied.shown())
        return applied

    return Whole.of(await call.write(put))


@api.post("/configuration/{i_configuration:int}/rollback")
async def roll_back(call: Superuser, i_configuration: SmallPathNumber) -> Whole:
    """Verify and apply a copy of a version that was active before."""

    def put(connection: Connection) -> Version:
        before = configuration.active(connection).shown()
        database, who = call.site.database, call.user.login
        applied = configuration.roll_back(connection, database, i_configuration, who)
        _note(call, connection, "rollback", applied, before, applied.shown())
        return applied

    return Whole.of(await call.write(put))


class DeletedConfiguration(BaseModel):
    """The number of the draft that is gone."""

    i_configuration: int


@api.delete("/configuration/{i_configuration:int}")
async def delete(call: Superuser, i_configuration: SmallPathNumber) -> DeletedConfiguration:
    """Delete a draft; what was active once is kept."""

    def remove(connection: Connection) -> None:
        gone = configuration.find(connection, i_configuration)
        configuration.delete(connection, i_configuration)
        _note(call, connection, "delete", gone, None, None)

    await call.write(remove)
    return DeletedConfiguration(i_configuration=i_configuration)


def _note(
    call: Call,
    connection: Connection,
    what: str,
    version: Version,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    subject = f"configuration {version.i_configuration}"
    call.note(connection, f"config.{what}", subject, before, after, everywhere=True)
