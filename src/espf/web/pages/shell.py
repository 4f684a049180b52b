"""What all pages have around them: templates, the menu, static files, and pages for what fails."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from espf.model import format_time
from espf.users import ADMINISTER, READ, User

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_STATIC = Path(__file__).parent.parent / "static"

#: Nothing but our own files, nobody's frame, no form to elsewhere. Styles and scripts stand in
#: files: an attribute or an element with some of its own does nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


#: The cookie that carries a word to the next page.
SAID = "espf_said"


@dataclass(frozen=True)
class Entry:
    """A line of the menu. ``path`` is below the environment, or absolute."""

    title: str
    path: str
    icon: str
    needs: str = READ


@dataclass(frozen=True)
class Section:
    """A part of the menu, as the documents name it."""

    title: str
    entries: tuple[Entry, ...]
    superuser: bool = False


MENU = (
    Section(
        "",
        (
            Entry("Dashboard", "dashboard", "layout-dashboard"),
            Entry("Set-up checklist", "setup", "list-check"),
        ),
    ),
    Section(
        "Infrastructure",
        (
            Entry("Event handlers", "handlers", "plug-connected"),
            Entry("Event subscriptions", "subscriptions", "table"),
            Entry("Event types", "event-types", "tags"),
            Entry("Workers", "/system/workers", "cpu"),
            Entry("Capture", "/system/capture", "database"),
        ),
    ),
    Section(
        "Toolbox",
        (
            Entry("Provisioning events", "events", "list-details"),
            Entry("Subscriber timeline", "timeline", "timeline"),
        ),
    ),
    Section(
        "Billing",
        (
            Entry("Customers", "customers", "users"),
            Entry("Accounts", "accounts", "user"),
            Entry("Products", "products", "package"),
            Entry("SIM card inventory", "sim-cards", "device-sim"),
        ),
    ),
    Section(
        "Administration",
        (
            Entry("Configurations", "/system/configurations", "settings"),
            Entry("Users", "users", "user-shield", ADMINISTER),
            Entry("Audit log", "audit", "history", ADMINISTER),
        ),
    ),
)


@dataclass(frozen=True)
class Link:
    """An entry of the menu as it stands on a page."""

    title: str
    href: str
    icon: str
    is_here: bool


def menu(user: User, i_env: int, here: str, *, has_billing: bool) -> list[tuple[str, list[Link]]]:
    """The sections and entries that a user may go to."""
    shown = []
    for section in MENU:
        if section.title == "Billing" and not has_billing:
            continue
        links = [
            Link(entry.title, href, entry.icon, here == href or here.startswith(f"{href}/"))
            for entry in section.entries
            if user.may(entry.needs) and (user.superuser or not entry.path.startswith("/system"))
            for href in [entry.path if entry.path[0] == "/" else f"/env/{i_env}/{entry.path}"]
        ]
        if links:
            shown.append((section.title, links))
    return shown


def render(request: Request, template: str, *, status: int = 200, **words: Any) -> HTMLResponse:
    """A page from a template. ``words`` has ``visit`` where somebody is logged in."""
    said = request.cookies.get(SAID)
    visit = words.get("visit")
    if visit is not None:
        words["menu"] = menu(
            visit.user,
            visit.i_env,
            request.url.path,
            has_billing=visit.guest.has_billing,
        )
    text = (
        _environment()
        .get_template(template)
        .render(
            {"visit": None, "said": unquote(said) if said else None, "request": request, **words}
        )
    )
    reply = HTMLResponse(text, status, HEADERS)
    if said:
        reply.delete_cookie(SAID)
    return reply


def wants_page(request: Request) -> bool:
    """Whether a person looks at what is answered, and not a program."""
    path = request.url.path
    return not path.startswith(("/espf/", "/rest/", "/doc/")) and (
        "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers
    )


def fault(request: Request, status: int, message: str, words: Mapping[str, Any]) -> Response:
    """The page that says what went wrong; a part of one where htmx asked."""
    is_part = request.headers.get("hx-request") == "true"
    template = "_fault.html" if is_part else "fault.html"
    return render(request, template, status=status, message=message, code=status, **words)


def to_login(request: Request) -> Response:
    """To the log-in page, and back here afterwards."""
    if request.headers.get("hx-request") == "true":
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    to = "/login" if request.method != "GET" or back == "/" else f"/login?to={quote(back)}"
    return RedirectResponse(to, 303)


class Static:
    """The files of the console: compressed, and kept by browsers until their address changes."""

    def __init__(self) -> None:
        self._files: ASGIApp = GZipMiddleware(StaticFiles(directory=_STATIC), minimum_size=500)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one."""

        async def lasting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] += [
                    (b"cache-control", b"public, max-age=31536000, immutable"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self._files(scope, receive, lasting)


@cache
def static(name: str) -> str:
    """The address of a static file; it changes when the file does."""
    digest = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?{digest}"


def icon(name: str) -> Markup:
    """A drawing beside a word; whoever cannot see it misses nothing."""
    return Markup(
        '<svg class="icon" aria-hidden="true" width="20" height="20"><use href="{}#{}"/></svg>'
    ).format(static("icons.svg"), name)


def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit: ``5 min``."""
    if moment is None:
        return ""
    return span((datetime.now(UTC) - moment).total_seconds())


def span(seconds: float) -> str:
    """A duration as people say it: ``5 min``."""
    seconds = abs(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def when(moment: datetime | None) -> Markup:
    """A time in UTC, which the browser's own tooltip spells out."""
    if moment is None:
        return Markup("")
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), format_time(moment)
    )


def money(amount: Decimal | None) -> str:
    """An amount with two places, or as many more as it has: ``1,000.00``."""
    if amount is None:
        return ""
    places = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:,.{places}f}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("espf.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        when=when, ago=ago, span=span, money=money, number=lambda n: f"{n:,}"
    )
    environment.globals.update(static=static, icon=icon, espf_version=version("espf"))
    return environment
