"""A visit: one request of a browser, who makes it, in which environment; and what it gets back.

The counterpart of ``contract`` for people. A page depends on a ``Visitor``, which lets in who is
logged in and may do what the page does, and refuses what another site makes a browser send.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import Connection
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from espf import sessions
from espf.billing import environments
from espf.errors import Denied, InvalidRequest, NotFound
from espf.sessions import Session
from espf.users import READ, User
from espf.web.body import read_body
from espf.web.contract import MAX_BODY, SAFE_METHODS, Call, Forbidden, Site, SmallPathNumber
from espf.web.pages import shell

#: The cookie of a session.
COOKIE = "espf_session"

#: More than any form has.
MAX_FIELDS = 5000


class NotLoggedIn(Denied):
    """Log in first."""


class Form(Mapping[str, str]):
    """What a form sent: text by field, blanks at the ends removed."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._all: dict[str, list[str]] = {}
        for name, value in pairs:
            self._all.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        """The last value of a field."""
        return self._all[name][-1].strip()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def all(self, name: str) -> list[str]:
        """Every value of a field that may be there several times."""
        return self._all.get(name, [])

    def raw(self, name: str) -> str:
        """A value as it was typed, such as a password."""
        return self._all.get(name, [""])[-1]

    def number(self, name: str) -> int:
        """A value that must be a whole number. Raises InvalidRequest."""
        value = self.get(name, "")
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise InvalidRequest("a whole number is expected", name)
        return int(value)


@dataclass(frozen=True)
class Guest:
    """Who is logged in.

    ``has_billing``: the reference billing has the environment that is visited, so there are pages.
    """

    session: Session
    user: User
    has_billing: bool


@dataclass(frozen=True)
class Visit(Call):
    """A request of somebody who is logged in."""

    request: Request
    guest: Guest

    @classmethod
    def of(cls, request: Request, guest: Guest, i_env: int | None = None) -> "Visit":
        """A visit to an environment; without one, to the guest's own."""
        where = guest.user.i_env if i_env is None else i_env
        return cls(Site.of(request.app), guest.user, where, request, guest)

    @property
    def session(self) -> Session:
        """The log-in that the request belongs to."""
        return self.guest.session

    door = "console"

    @property
    def is_part(self) -> bool:
        """Whether htmx asks, which replaces a part of the page."""
        return self.request.headers.get("hx-request") == "true"

    def path(self, *parts: object) -> str:
        """An address in this environment: ``path("handlers", 7)`` is ``/env/1/handlers/7``."""
        return "/".join(["/env", str(self.i_env), *(quote(str(part), safe="") for part in parts)])

    def page(self, template: str, *, status: int = 200, **words: Any) -> HTMLResponse:
        """A page, or with htmx a part of one, from a template."""
        return shell.render(self.request, template, status=status, visit=self, **words)

    def go(self, path: str, said: str | None = None) -> RedirectResponse:
        """On to another page, which says first what was done here."""
        reply = RedirectResponse(path, 303)
        if said is not None:
            reply.set_cookie(shell.SAID, quote(said), max_age=60, httponly=True, samesite="strict")
        return reply

    async def form(self) -> Form:
        """The fields that were sent. Raises InvalidRequest."""
        return await read_form(self.request)

    def here(self, **changed: object) -> str:
        """The address of this page with some of its parameters changed; None takes one away."""
        words = {**self.request.query_params, **changed}
        query = urlencode({name: value for name, value in words.items() if value is not None})
        return f"{self.request.url.path}?{query}" if query else self.request.url.path


async def read_form(request: Request) -> Form:
    """The fields of a form, a file among them as its text. Raises InvalidRequest."""
    body = await read_body(request, MAX_BODY)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            pairs = await _parts(request, body)
        else:
            pairs = parse_qsl(
                body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
            )
    except (ValueError, HTTPException):
        raise InvalidRequest("the body is no form", "body") from None
    if any("\x00" in name + value for name, value in pairs):
        raise InvalidRequest("no text may have a NUL in it", "body")
    return Form(pairs)


async def _parts(request: Request, body: bytes) -> list[tuple[str, str]]:
    """The fields of a form that may hold a file."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, replay).form(max_files=1) as form:
        return [
            (name, value if isinstance(value, str) else await _text(name, value))
            for name, value in form.multi_items()
        ]


async def _text(name: str, file: UploadFile) -> str:
    try:
        return (await file.read()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("the file is no text in UTF-8", name) from None


def refuse_foreign(request: Request) -> None:
    """Raise Forbidden for a change that another site makes the browser ask for.

    A browser says where a request comes from, and no page can make it say something else.
    """
    if request.method in SAFE_METHODS:
        return
    from_where = request.headers.get("sec-fetch-site")
    if from_where is not None:
        foreign = from_where != "same-origin"
    else:
        origin = urlsplit(request.headers.get("origin", ""))
        foreign = not origin.netloc or origin.netloc != request.headers.get("host")
    if foreign:
        raise Forbidden("this request does not come from a page of the console")


async def logged_in(request: Request) -> Guest:
    """Who is logged in. Raises NotLoggedIn, or Forbidden for what another site sends."""
    refuse_foreign(request)
    word = request.cookies.get(COOKIE)
    if not word:
        raise NotLoggedIn("log in first")
    database = Site.of(request.app).database

    def resume(connection: Connection) -> tuple[Guest, bool]:
        session, user = sessions.resume(connection, database, word)
        where = str(request.path_params.get("i_env", ""))
        i_env = int(where) if where.isdecimal() and len(where) < 10 else user.i_env
        guest = Guest(session, user, environments.is_known(connection, i_env))
        return guest, sessions.is_stale(connection, database, session)

    try:
        guest, is_stale = await database.fetch(resume)
    except Denied as error:
        raise NotLoggedIn(str(error)) from None
    if is_stale:
        await database.write(sessions.touch, database, guest.session)
    return guest


class Visitor:
    """Lets in who is logged in and may do what a page of an environment does.

    Raises NotFound for the environment of somebody else: what is there is not theirs to know.
    """

    def __init__(self, needs: str = READ) -> None:
        self.needs = needs

    async def __call__(
        self,
        request: Request,
        i_env: SmallPathNumber,
        guest: Annotated[Guest, Depends(logged_in)],
    ) -> Visit:
        """The visit, in the environment that the address names."""
        user = guest.user
        if i_env != user.i_env and not user.superuser:
            raise NotFound("there is no such page")
        if not user.may(self.needs):
            raise Forbidden(f"the role {user.role} does not allow this")
        return Visit.of(request, guest, i_env)


class SystemVisitor:
    """Lets in who may see or do what concerns the whole installation: superusers."""

    async def __call__(
        self, request: Request, guest: Annotated[Guest, Depends(logged_in)]
    ) -> Visit:
        """The visit, in the user's own environment."""
        if not guest.user.superuser:
            raise Forbidden("this is about the whole installation: only a superuser may do it")
        return Visit.of(request, guest)


class AnyVisitor:
    """Lets in everybody who is logged in, for pages about oneself."""

    async def __call__(
        self, request: Request, guest: Annotated[Guest, Depends(logged_in)]
    ) -> Visit:
        """The visit, in the user's own environment."""
        return Visit.of(request, guest)
