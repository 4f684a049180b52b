"""Administration > Users: who may log in here, and what they may do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import users
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.users import ADMINISTER, ROLES, User
from espf.web.pages import forms, listing
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Form, Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/users")

Administrator = Annotated[Visit, Depends(Visitor(ADMINISTER))]

COLUMNS: Sequence[Column[User]] = (
    Column("login", "Login", lambda one: one.login),
    Column("role", "Role", lambda one: "superuser" if one.superuser else one.role),
    Column("rights", "Extra rights", lambda one: " ".join(sorted(one.rights)), sortable=False),
    Column("enabled", "May log in", lambda one: one.enabled),
)

_ROLE = Field(
    "role",
    "Role",
    value="operator",
    kind="select",
    choices=[(name, name) for name in ROLES],
    help="administrator: everything in this environment. operator: pause and resume handlers, "
    "restart, skip, hold and cancel events. readonly: look at everything, change nothing.",
)
_SUPERUSER = Field(
    "superuser",
    "Superuser",
    kind="switch",
    help="May do everything, in all environments, and what concerns the whole installation.",
)


@pages.get("")
async def show_list(visit: Administrator) -> Response:
    """The users of the environment."""
    page = listing.of(visit, COLUMNS, await visit.fetch(_of_environment, visit), sort="login")
    if listing.wants_csv(visit):
        return listing.as_csv("users", COLUMNS, page.rows)
    return visit.page("users/list.html", listing=page)


@pages.get("/new")
async def ask_new(visit: Administrator) -> Response:
    """The form for a new user."""
    return visit.page("users/new.html", fields=_new_fields(visit), error=None)


@pages.post("/new")
async def create(visit: Administrator) -> Response:
    """Add a user to the environment."""
    form = await visit.form()
    login = form.get("login", "")

    def make(connection: Connection) -> None:
        users.create(
            connection,
            login,
            form.raw("password"),
            visit.i_env,
            superuser=_superuser(visit, form),
            role=form.get("role", ""),
        )
        made = _rights(users.find(connection, login))
        visit.note(connection, "user.create", f"user {login}", None, made)

    try:
        await visit.write(make)
    except (InvalidRequest, Conflict) as error:
        wrong = error if isinstance(error, InvalidRequest) else InvalidRequest(str(error), "login")
        fields = forms.filled(_new_fields(visit), form, wrong)
        general = forms.general_error(fields, wrong)
        return visit.page("users/new.html", status=422, fields=fields, error=general)
    return visit.go(visit.path("users"), f"The user {login} is created")


@pages.get("/{login}")
async def show(visit: Administrator, login: str) -> Response:
    """One user: role, password, whether it may log in."""
    user = await visit.fetch(_find, visit, login)
    return _page(visit, user)


@pages.post("/{login}")
async def change(visit: Administrator, login: str) -> Response:
    """Change what a user may do."""
    form = await visit.form()

    def write(connection: Connection) -> None:
        before = _find(connection, visit, login)
        after = users.change(
            connection,
            login,
            role=form.get("role", before.role),
            superuser=_superuser(visit, form, before.superuser),
            enabled=form.get("enabled", "on") == "on",
        )
        visit.note(connection, "user.set", f"user {login}", _rights(before), _rights(after))

    try:
        await visit.write(write)
    except (InvalidRequest, Conflict) as error:
        return _page(visit, await visit.fetch(_find, visit, login), error)
    return visit.go(visit.path("users"), f"The user {login} is changed")


@pages.post("/{login}/password")
async def set_password(visit: Administrator, login: str) -> Response:
    """Give a user a new password; all of its sessions end."""
    form = await visit.form()

    def write(connection: Connection) -> None:
        _find(connection, visit, login)
        users.set_password(connection, login, form.raw("password"))
        visit.note(connection, "user.password", f"user {login}")

    try:
        await visit.write(write)
    except InvalidRequest as error:
        return _page(visit, await visit.fetch(_find, visit, login), error)
    return visit.go(visit.path("users"), f"{login} has a new password; its sessions have ended")


@pages.post("/{login}/delete")
async def delete(visit: Administrator, login: str) -> Response:
    """Delete a user."""

    def remove(connection: Connection) -> None:
        before = _rights(_find(connection, visit, login))
        users.remove(connection, login)
        visit.note(connection, "user.delete", f"user {login}", before, None)

    if login == visit.user.login:
        raise Conflict("nobody deletes the user that they are")
    await visit.write(remove)
    return visit.go(visit.path("users"), f"The user {login} is deleted")


def _of_environment(connection: Connection, visit: Visit) -> list[User]:
    return [user for user in users.list_all(connection) if user.i_env == visit.i_env]


def _find(connection: Connection, visit: Visit, login: str) -> User:
    """A user of this environment; a superuser is nobody's to change but a superuser's."""
    user = users.find(connection, login)
    if user.i_env != visit.i_env:
        raise NotFound(f"there is no user {login!r}")
    if user.superuser and not visit.user.superuser:
        raise Conflict("only a superuser may change a superuser")
    return user


def _superuser(visit: Visit, form: Form, before: bool = False) -> bool:
    """What the form says; only a superuser may make one."""
    return form.get("superuser") == "on" if visit.user.superuser else before


def _rights(user: User) -> dict[str, object]:
    return {"role": user.role, "superuser": user.superuser, "enabled": user.enabled}


def _page(visit: Visit, user: User, error: InvalidRequest | Conflict | None = None) -> Response:
    fields = [
        replace(_ROLE, value=user.role),
        *(
            [replace(_SUPERUSER, value="on" if user.superuser else "off")]
            if visit.user.superuser
            else []
        ),
        Field(
            "enabled",
            "May log in",
            value="on" if user.enabled else "off",
            kind="switch",
            help="Off: all sessions and tokens end at once.",
        ),
    ]
    return visit.page(
        "users/show.html",
        status=422 if error else 200,
        user=user,
        fields=fields,
        error=str(error) if error else None,
    )


def _new_fields(visit: Visit) -> list[Field]:
    return [
        Field("login", "Login", help="No blanks and no colons; unique everywhere.", required=True),
        Field("password", "Password", kind="secret", help="At least 8 characters.", required=True),
        _ROLE,
        *([_SUPERUSER] if visit.user.superuser else []),
    ]
