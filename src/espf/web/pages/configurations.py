"""Administration > Configurations: versions of how the installation is set up, as a tree of forms.

Clone the current one, change the clone, verify it, apply it; go back to one that was active before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import alerts, configuration
from espf.configuration import Instance, Provisioning, Status, Version
from espf.errors import Conflict, InvalidRequest
from espf.web.contract import SmallPathNumber
from espf.web.pages import forms, listing
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import SystemVisitor, Visit

pages = APIRouter(prefix="/system/configurations")

Superuser = Annotated[Visit, Depends(SystemVisitor())]
T = TypeVar("T")

_NAME = Field(
    "name",
    "Name",
    help="Workers are started with it: evctl worker --instance NAME. Letters, digits, hyphens and "
    "underscores.",
    required=True,
)

COLUMNS: Sequence[Column[Version]] = (
    Column("i_configuration", "Number", lambda one: one.i_configuration),
    Column("status", "Status", lambda one: str(one.status)),
    Column("comment", "Comment", lambda one: one.comment),
    Column("cloned_from", "Clone of", lambda one: one.cloned_from),
    Column("created_at", "Made", lambda one: one.created_at),
    Column("created_by", "By", lambda one: one.created_by),
    Column("applied_at", "Applied", lambda one: one.applied_at),
    Column("applied_by", "By", lambda one: one.applied_by),
)


@pages.get("")
async def show_list(visit: Superuser) -> Response:
    """All versions, the newest first."""
    found = await visit.fetch(configuration.list_versions)
    page = listing.of(visit, COLUMNS, found, sort="-i_configuration")
    if listing.wants_csv(visit):
        return listing.as_csv("configurations", COLUMNS, page.rows)
    return visit.page("configurations/list.html", listing=page)


@pages.get("/{number}")
async def show(visit: Superuser, number: SmallPathNumber) -> Response:
    """A version: its tree, and who did what to it."""
    version = await visit.fetch(configuration.find, number)
    return visit.page("configurations/show.html", version=version)


@pages.post("/{number}/clone")
async def clone(visit: Superuser, number: SmallPathNumber) -> Response:
    """Make a draft of a version."""
    comment = (await visit.form()).get("comment", "")

    def make(connection: Connection) -> Version:
        database = visit.site.database
        made = configuration.clone(connection, database, visit.user.login, number, comment)
        subject = f"configuration {made.i_configuration}"
        visit.note(connection, "config.clone", subject, None, {"clone of": number}, everywhere=True)
        return made

    made = await visit.write(make)
    said = f"Configuration {made.i_configuration} is a clone of {number}; nothing holds yet of it"
    return visit.go(_path(made.i_configuration), said)


@pages.get("/{number}/provisioning")
async def show_provisioning(visit: Superuser, number: SmallPathNumber) -> Response:
    """The form Groups > Provisioning."""
    version = await visit.fetch(configuration.find, number)
    return _node(visit, version, "Provisioning", _provisioning_fields(version))


@pages.post("/{number}/provisioning")
async def set_provisioning(visit: Superuser, number: SmallPathNumber) -> Response:
    """Change the group of a draft."""
    return await _set(visit, number, "Provisioning", _provisioning_fields)


@pages.post("/{number}/provisioning/test")
async def test_alerts(visit: Superuser, number: SmallPathNumber) -> Response:
    """Send a test alert by what a version says, whether it is active or not."""
    version = await visit.fetch(configuration.find, number)
    settings = version.opened(visit.site.sealer).provisioning
    receipts = await alerts.send_test(settings, visit.user.login)

    def note(connection: Connection) -> None:
        sent = {str(one.channel): one.fault or "taken" for one in receipts}
        subject = f"configuration {number}"
        visit.note(connection, "alert.test", subject, None, sent, everywhere=True)

    await visit.write(note)
    said = [
        f"{one.channel.spoken} it failed: {one.fault:.300}"
        if one.fault
        else f"sent {one.channel.spoken}: {one.said:.300}"
        for one in receipts
    ]
    return visit.go(_path(number, "provisioning"), f"Test alert: {'; '.join(said)}")


@pages.get("/{number}/instances/new")
async def ask_instance(visit: Superuser, number: SmallPathNumber) -> Response:
    """The form "Create instance"."""
    version = await visit.fetch(configuration.find, number)
    return _node(visit, version, "Create instance", _new_instance_fields())


@pages.post("/{number}/instances/new")
async def create_instance(visit: Superuser, number: SmallPathNumber) -> Response:
    """Add an instance to a draft."""
    form = await visit.form()
    values = forms.values_of(_new_instance_fields(), form)
    name = str(values.pop("name", None) or "")
    own = {key: value for key, value in values.items() if value is not None}

    def make(connection: Connection) -> None:
        configuration.create_instance(
            connection,
            visit.site.database,
            visit.site.sealer,
            number,
            name,
            own,
            visit.user.login,
        )
        subject = f"configuration {number}"
        added = {"instance": name, **own}
        visit.note(connection, "config.set", subject, None, added, everywhere=True)

    try:
        await visit.write(make)
    except (InvalidRequest, Conflict) as error:
        version = await visit.fetch(configuration.find, number)
        if version.status != Status.DRAFT:
            raise
        field = (error.field or "name") if isinstance(error, InvalidRequest) else "name"
        wrong = InvalidRequest(str(error), field.rpartition(".")[2])
        fields = forms.filled(_new_instance_fields(), form, wrong)
        return _node(visit, version, "Create instance", fields, wrong)
    return visit.go(_path(number, "instances", name), f"The instance {name} is created")


@pages.get("/{number}/instances/{name}")
async def show_instance(visit: Superuser, number: SmallPathNumber, name: str) -> Response:
    """The form of an instance."""
    version = await visit.fetch(configuration.find, number)
    version.content.instance(name)
    return _node(visit, version, name, _instance_fields(version, name))


@pages.post("/{number}/instances/{name}")
async def set_instance(visit: Superuser, number: SmallPathNumber, name: str) -> Response:
    """Change an instance of a draft."""
    return await _set(visit, number, name, lambda version: _instance_fields(version, name))


@pages.post("/{number}/instances/{name}/delete")
async def delete_instance(visit: Superuser, number: SmallPathNumber, name: str) -> Response:
    """Take an instance out of a draft."""

    def remove(connection: Connection) -> None:
        configuration.delete_instance(
            connection, visit.site.database, number, name, visit.user.login
        )
        subject = f"configuration {number}"
        visit.note(connection, "config.set", subject, {"instance": name}, None, everywhere=True)

    await visit.write(remove)
    return visit.go(_path(number), f"The instance {name} is removed from the draft")


@pages.get("/{number}/verify")
async def verify(visit: Superuser, number: SmallPathNumber) -> Response:
    """What verifying finds, and what applying would change."""

    def read(connection: Connection) -> tuple[Version, configuration.Verdict]:
        return configuration.find(connection, number), configuration.verify(connection, number)

    version, verdict = await visit.fetch(read)
    return visit.page("configurations/verify.html", version=version, verdict=verdict)


@pages.post("/{number}/apply")
async def apply(visit: Superuser, number: SmallPathNumber) -> Response:
    """Let a draft hold from now on, over the version that was shown as the active one."""
    over = (await visit.form()).number("over")

    def put(connection: Connection) -> None:
        before = configuration.active(connection).shown()
        now = configuration.apply(connection, visit.site.database, number, visit.user.login, over)
        _note_applied(visit, connection, "config.apply", now, before)

    await visit.write(put)
    said = f"Configuration {number} is active; all processes go by it within two seconds"
    return visit.go("/system/configurations", said)


@pages.post("/{number}/rollback")
async def roll_back(visit: Superuser, number: SmallPathNumber) -> Response:
    """Let a version hold again that was active before."""

    def put(connection: Connection) -> Version:
        before = configuration.active(connection).shown()
        now = configuration.roll_back(connection, visit.site.database, number, visit.user.login)
        _note_applied(visit, connection, "config.rollback", now, before)
        return now

    now = await visit.write(put)
    said = f"Configuration {now.i_configuration} is active: a clone of {number}"
    return visit.go("/system/configurations", said)


@pages.post("/{number}/delete")
async def delete(visit: Superuser, number: SmallPathNumber) -> Response:
    """Throw a draft away."""

    def remove(connection: Connection) -> None:
        configuration.delete(connection, number)
        visit.note(connection, "config.delete", f"configuration {number}", everywhere=True)

    await visit.write(remove)
    return visit.go("/system/configurations", f"The draft {number} is deleted")


async def _set(
    visit: Visit, number: int, title: str, fields_of: Callable[[Version], list[Field]]
) -> Response:
    """Change fields of a draft, all or none."""
    form = await visit.form()

    def change(connection: Connection) -> None:
        before = configuration.find(connection, number)
        after = configuration.change(
            connection,
            visit.site.database,
            visit.site.sealer,
            number,
            forms.values_of(fields_of(before), form),
            visit.user.login,
        )
        subject = f"configuration {number}"
        visit.note(
            connection, "config.set", subject, before.shown(), after.shown(), everywhere=True
        )

    try:
        await visit.write(change)
    except InvalidRequest as error:
        version = await visit.fetch(configuration.find, number)
        fields = forms.filled(fields_of(version), form, error)
        return _node(visit, version, title, fields, error)
    return visit.go(visit.request.url.path, "Saved in the draft; verify and apply it when done")


def _node(
    visit: Visit,
    version: Version,
    title: str,
    fields: Sequence[Field],
    error: InvalidRequest | None = None,
) -> Response:
    return visit.page(
        "configurations/node.html",
        status=422 if error else 200,
        version=version,
        title=title,
        fields=fields,
        error=forms.general_error(fields, error),
    )


def _note_applied(
    visit: Visit,
    connection: Connection,
    action: str,
    now: Version,
    before: Mapping[str, str],
) -> None:
    subject = f"configuration {now.i_configuration}"
    visit.note(connection, action, subject, before, now.shown(), everywhere=True)


def _provisioning_fields(version: Version) -> list[Field]:
    return forms.of_model(Provisioning, version.shown(), "Provisioning.")


def _instance_fields(version: Version, name: str) -> list[Field]:
    return forms.of_model(Instance, version.shown(), f"ESPF.{name}.")


def _new_instance_fields() -> list[Field]:
    fresh = {"enabled": "on"}
    return [_NAME, *forms.of_model(Instance, fresh)]


def _path(number: int, *parts: str) -> str:
    return "/".join(["/system/configurations", str(number), *parts])
