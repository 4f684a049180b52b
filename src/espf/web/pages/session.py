"""Log in and out; where a visit begins; oneself: password and sessions."""

import time
from collections import deque
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Connection

from espf import credentials, sessions, users
from espf.credentials import Credential
from espf.errors import Conflict, Denied, InvalidRequest
from espf.sessions import Session
from espf.users import SCOPES
from espf.web import security
from espf.web.contract import Site
from espf.web.pages import shell
from espf.web.pages.visit import (
    COOKIE,
    AnyVisitor,
    Form,
    NotLoggedIn,
    Visit,
    logged_in,
    read_form,
    refuse_foreign,
)

pages = APIRouter()

Anybody = Annotated[Visit, Depends(AnyVisitor())]

#: So many wrong passwords for one login, or from one address, within the time, and it waits.
TRIES = 10
TRIES_SECONDS = 300.0


class Throttle:
    """Counts what went wrong of late, by whom; the oldest names are forgotten first."""

    def __init__(self, most_names: int = 10_000) -> None:
        self._failures: dict[str, deque[float]] = {}
        self._most_names = most_names

    def wait_seconds(self, name: str, now: float) -> float:
        """How long somebody has to wait until the next try; 0: not at all."""
        times = self._failures.get(name, deque())
        while times and times[0] <= now - TRIES_SECONDS:
            times.popleft()
        return times[0] + TRIES_SECONDS - now if len(times) >= TRIES else 0.0

    def failed(self, name: str, now: float) -> None:
        """Count a failure."""
        times = self._failures.pop(name, deque(maxlen=TRIES))
        times.append(now)
        self._failures[name] = times
        while len(self._failures) > self._most_names:
            del self._failures[next(iter(self._failures))]

    def forgive(self, name: str) -> None:
        """Forget the failures of somebody who got it right."""
        self._failures.pop(name, None)


@pages.get("/login")
async def ask(request: Request, to: str = "/") -> Response:
    """The form; whoever is logged in goes on at once."""
    try:
        await logged_in(request)
    except NotLoggedIn:
        return _form(request, to=to)
    return RedirectResponse(_local(to), 303)


@pages.post("/login")
async def log_in(request: Request) -> Response:
    """Check login and password, and begin a session."""
    refuse_foreign(request)
    site = Site.of(request.app)
    throttle: Throttle = request.app.state.throttle
    form = await read_form(request)
    address = request.client.host if request.client else ""
    names = (f"login {form.get('login', '')}", f"address {address}")
    now = time.monotonic()
    if seconds := max(throttle.wait_seconds(name, now) for name in names):
        error = f"too many wrong passwords; try again in {shell.span(seconds)}"
        return _form(request, form, error=error, status=429)
    try:
        user = await security.by_password(site.users, form.get("login", ""), form.raw("password"))
    except Denied as fault:
        for name in names:
            throttle.failed(name, now)
        return _form(request, form, error=str(fault), status=401)
    for name in names:
        throttle.forgive(name)
    browser = request.headers.get("user-agent", "")
    word = await site.database.write(sessions.begin, site.database, user, address, browser)
    reply = RedirectResponse(_local(form.get("to", "/")), 303)
    _remember(request, reply, word)
    return reply


@pages.post("/logout")
async def log_out(visit: Anybody) -> Response:
    """End the session."""
    await visit.write(sessions.end, visit.user.i_user, visit.session.i_session)
    reply = RedirectResponse("/login", 303)
    reply.delete_cookie(COOKIE)
    return reply


@pages.get("/")
async def begin(visit: Anybody) -> Response:
    """To the dashboard of one's own environment."""
    return RedirectResponse(visit.path("dashboard"), 303)


@pages.get("/switch")
async def switch(_visit: Anybody, i_env: str = "") -> Response:
    """To the same for another environment."""
    if not i_env.isascii() or not i_env.isdigit() or len(i_env) > 9:
        raise InvalidRequest("i_env: a number is expected", "i_env")
    return RedirectResponse(f"/env/{int(i_env)}/dashboard", 303)


@pages.get("/me")
async def show_me(visit: Anybody) -> Response:
    """Oneself: password, sessions."""
    return await _me(visit)


@pages.post("/me/password")
async def change_password(visit: Anybody) -> Response:
    """Give oneself a new password; all other sessions end."""
    form = await visit.form()
    try:
        await security.by_password(visit.site.users, visit.user.login, form.raw("old"))
    except Denied:
        return await _me(visit, InvalidRequest("the present password is wrong", "old"))
    new = form.raw("new")
    if new != form.raw("again"):
        return await _me(visit, InvalidRequest("the two are not the same", "again"))
    site = visit.site

    def change(connection: Connection) -> str:
        users.set_password(connection, visit.user.login, new)
        visit.note(connection, "user.password", f"user {visit.user.login}")
        session = visit.session
        return sessions.begin(
            connection, site.database, visit.user, session.address, session.browser
        )

    try:
        word = await visit.write(change)
    except InvalidRequest as error:
        return await _me(visit, InvalidRequest(str(error), "new"))
    reply = visit.go("/me", "Your password is changed; all your other sessions have ended")
    _remember(visit.request, reply, word)
    return reply


@pages.post("/me/sessions/{i_session}/end")
async def end_session(visit: Anybody, i_session: int) -> Response:
    """End one of one's own sessions."""
    await visit.write(sessions.end, visit.user.i_user, i_session)
    return visit.go("/me", "The session has ended")


@pages.post("/me/sessions/end")
async def end_other_sessions(visit: Anybody) -> Response:
    """End all of one's own sessions but this one."""

    def end(connection: Connection) -> int:
        return sessions.end_all(connection, visit.user.i_user, but=visit.session.i_session)

    count = await visit.write(end)
    return visit.go("/me", f"{count} other sessions have ended")


@pages.post("/me/credentials")
async def issue_credential(visit: Anybody) -> Response:
    """Make a credential for a program; its token is shown this once."""
    form = await visit.form()
    scopes = frozenset(form.all("scopes"))
    name = form.get("name", "")

    def issue(connection: Connection) -> str:
        site = visit.site
        days = form.number("days")
        token = credentials.issue(
            connection, site.database, site.sealer, visit.user, name, scopes, days
        )
        after = {"scopes": " ".join(sorted(scopes)), "days": days}
        visit.note(connection, "credential.create", f"credential {name}", None, after)
        return token

    try:
        token = await visit.write(issue)
    except InvalidRequest as error:
        return await _me(visit, error, form=form)
    except Conflict as error:
        return await _me(visit, InvalidRequest(str(error), "name"), form=form)
    return await _me(visit, token=token)


@pages.post("/me/credentials/{key}/revoke")
async def revoke_credential(visit: Anybody, key: str) -> Response:
    """Take a credential back."""

    def revoke(connection: Connection) -> str:
        name = credentials.revoke(connection, visit.user.i_user, key)
        visit.note(connection, "credential.revoke", f"credential {name}")
        return name

    name = await visit.write(revoke)
    return visit.go("/me", f"The credential {name} opens nothing any more")


async def _me(
    visit: Visit,
    error: InvalidRequest | None = None,
    *,
    form: Form | None = None,
    token: str | None = None,
) -> Response:
    def read(connection: Connection) -> tuple[list[Session], list[Credential]]:
        i_user = visit.user.i_user
        return sessions.list_of(connection, i_user), credentials.list_of(connection, i_user)

    mine, issued = await visit.fetch(read)
    return visit.page(
        "me.html",
        sessions=mine,
        credentials=issued,
        scopes=sorted(SCOPES),
        form=form,
        token=token,
        error=error,
        status=422 if error else 200,
    )


def _form(
    request: Request,
    form: Form | None = None,
    *,
    to: str = "/",
    error: str | None = None,
    status: int = 200,
) -> Response:
    return shell.render(
        request,
        "login.html",
        status=status,
        to=form.get("to", "/") if form else to,
        login=form.get("login", "") if form else "",
        error=error,
    )


def _remember(request: Request, reply: Response, word: str) -> None:
    """Have the browser keep the word of its session."""
    reply.set_cookie(
        COOKIE,
        word,
        max_age=int(sessions.LIFE.total_seconds()),
        httponly=True,
        secure=request.url.scheme == "https",
        # A link in a mail leads here with the session; another site's form does not.
        samesite="lax",
    )


def _local(path: str) -> str:
    """An address of ours, and no other, to go on to."""
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if ours and "\\" not in path else "/"
