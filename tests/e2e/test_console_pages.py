"""Every page of the console in a real browser: for all eyes, hands, screens and rights.

The pages are not listed here. They are found as a person finds them, from one page to those that
it leads to, one of each shape.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from playwright.async_api import Page, expect

from desk import PASSWORD, Desk
from espf.billing import environments
from screen import browser, somebody, violations
from webhook import Answer, Request, Webhook

pytestmark = [pytest.mark.e2e, pytest.mark.databases("sqlite")]

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

#: Who else may log in: login, role, environment.
PEOPLE = (("olga", "operator", 3), ("rita", "readonly", 3), ("carl", "administrator", 4))

#: How the numbers of the subscribers begin.
NUMBER = "38044123456"

#: What the application makes of an event, by its type.
ANSWERS = {
    "Account/Blocked": Answer(403, body="no such subscriber"),
    "Account/Unblocked": Answer(503, body="the core is busy"),
}

#: A walk that ends early proves nothing: at least these are on the way.
LANDMARKS = {
    "/env/3/accounts/1",
    "/env/3/audit",
    "/env/3/customers/1/terminate",
    "/env/3/handlers/new",
    "/env/3/setup",
    "/env/3/sim-cards/upload",
    "/env/3/subscriptions",
    "/env/3/timeline",
    "/env/3/users/new",
    "/me",
    "/system/capture",
    "/system/workers",
}

#: What sorts, sizes or turns a list: the page stays the same.
SAME_PAGE = {"about", "after", "before", "handler", "order", "page", "size", "sort", "type"}

#: What a key can stop at, and does not show it. A key was pressed before: focus is to be seen.
UNSEEN = """() => {
  const stops = "a[href], button, input, select, textarea, summary";
  const look = (one) => {
    const {boxShadow, outlineStyle, outlineWidth} = getComputedStyle(one);
    return [boxShadow, outlineStyle, outlineWidth].join();
  };
  const seen = {visibilityProperty: true};
  return [...document.querySelectorAll(stops)].filter((one) => {
    if (one.disabled || one.type === "hidden" || !one.checkVisibility(seen)) return false;
    document.activeElement.blur();
    const before = look(one);
    one.focus({preventScroll: true});
    return document.activeElement !== one || look(one) === before;
  }).map((one) => one.outerHTML.slice(0, 120));
}"""

#: How much wider than the screen a page is, and what sticks out.
TOO_WIDE = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > wide + 1 && !one.closest(".table-box"))
    .map((one) => one.outerHTML.slice(0, 120));
}"""

#: Where the links of a page lead.
LINKS = """(html) => [...new DOMParser().parseFromString(html, "text/html")
  .querySelectorAll("a[href]:not([download])")].map((link) => link.getAttribute("href"))"""

#: What can be pressed on a page: where each button sends its form, and with which fields.
BUTTONS = """(html) => [...new DOMParser().parseFromString(html, "text/html")
  .querySelectorAll("button")]
  .filter((one) => one.type === "submit" && one.form && one.matches(":enabled"))
  .filter((one) => one.form.getAttribute("method") === "post")
  .map((one) => [
    one.getAttribute("formaction") || one.form.getAttribute("action"),
    [...new FormData(one.form, one)],
  ])"""


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_every_page_is_good_for_everybody(desk):
    """By day and by night, by keyboard, on a phone; and it asks nobody else for anything."""
    faults: list[str] = []
    seen: list[str] = []
    async with life(desk) as base, browser() as chromium:
        options = {"reduced_motion": "reduce", "color_scheme": "light"}
        async with somebody(chromium, base, "admin", PASSWORD, **options) as page:
            page.on("request", lambda made: faults.extend(abroad(made.url, base)))
            await page.goto("/system/configurations")
            await page.get_by_role("button", name="Clone").first.click()
            async for path, _ in walk(page):
                await page.goto(path)
                seen.append(urlsplit(path).path)
                faults += [f"{path}: {fault}" for fault in await judged(page)]
    assert faults == []
    assert set(seen) >= LANDMARKS


async def test_keys_and_thumbs_come_everywhere(desk):
    """The skip link and the menu by keyboard; on a phone the menu opens, leads on, closes."""
    async with desk.running() as base, browser() as chromium:
        async with somebody(chromium, base, "admin", PASSWORD) as page:
            await by_keyboard(page)
        async with somebody(chromium, base, "admin", PASSWORD, viewport=PHONE) as page:
            await by_thumb(page)


async def test_nobody_is_offered_what_is_refused_or_shown_what_is_not_theirs(desk):
    """Each link and button that somebody sees works for them; another tenant sees nothing."""
    async with life(desk) as base, browser() as chromium:
        async with somebody(chromium, base, "admin", PASSWORD) as page:
            paths = [path async for path, _ in walk(page)]
        async with somebody(chromium, base, "rita", PASSWORD) as page:
            offered = await buttons(page)
            ours = [path for path, _ in offered if not path.startswith(("/me", "/logout"))]
            assert ours == []
        async with somebody(chromium, base, "carl", PASSWORD) as page:
            await sees_nothing(page, paths)
        async with somebody(chromium, base, "olga", PASSWORD) as page:
            await may_press_all(page)


@asynccontextmanager
async def life(desk: Desk) -> AsyncIterator[str]:
    """A running installation with some of everything; gives its address.

    Events are finished, rejected, retried and scheduled; a subscriber is held; the breaker of the
    handler Away is open. Account 1 has a SIM card.
    """
    async with Webhook() as hook:
        hook.always = answer
        options = ("EventSender.AuthMethod=None", "RetryDelays=1h")
        desk("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}", *options)
        away = [f"--set={option}" for option in (f"EventSender.URL={hook.url}/away", *options)]
        desk("handler", "create", 3, "Away", "--type", "EventSender", *away)
        desk("type", "create", "Custom/NextMonth")
        with closing(desk.database()) as database, database.begin() as connection:
            environments.add(connection, 4, "Another tenant")
        for login, role, i_env in PEOPLE:
            desk("user", "create", login, "--env", i_env, "--role", role, stdin=PASSWORD)
        async with desk.running() as base:
            await add_subscribers(base)
            for i_account, name in enumerate(("Blocked", "Unblocked"), 1):
                desk("event", "create", 3, f"Account/{name}", "--var", f"i_account={i_account}")
            later = ("--start-time", "2099-01-01 00:00:00", "--key", "the new month")
            desk("event", "create", 3, "Custom/NextMonth", "--var", "i_account=1", *later)
            await settled(desk, "finished", "rejected", "retrying")
            desk("event", "hold", 3, "account:2", "--reason", "moved by hand")
            yield base


def answer(request: Request) -> Answer:
    """What the application makes of a POST."""
    if request.path == "/away":
        return Answer(401)
    return ANSWERS.get(request.json["event_type"], Answer())


async def add_subscribers(base: str) -> None:
    """Accounts 1 and 2, each with a SIM card from the inventory."""
    info = {
        "i_customer": 1,
        "i_product": 1,
        "billing_model": 1,
        "i_account_balance_control_type": 2,
        "i_account_role": 3,
    }
    async with httpx2.AsyncClient(base_url=base, auth=("admin", PASSWORD), timeout=60) as client:
        for number in (1, 2):
            own = {"id": f"{NUMBER}{number}", "imsi": f"00101000000000{number}"}
            params = {"params": {"account_info": {**info, **own}}}
            reply = await client.post("/rest/Account/add_account", json=params)
            assert reply.status_code == 200, reply.text


async def settled(desk: Desk, *wanted: str) -> None:
    """Wait until EventSender has events of all these statuses, and the breaker of Away is open."""
    async with asyncio.timeout(120):
        while True:
            rows = await asyncio.to_thread(desk.json, "event", "list", "--handler", "EventSender")
            handlers = await asyncio.to_thread(desk.json, "handler", "list", 3)
            states = {one["name"]: one["state"] for one in handlers}
            if {*wanted} <= {row["status"] for row in rows} and states["Away"] != "working":
                return
            await asyncio.sleep(0.2)


def abroad(url: str, base: str) -> list[str]:
    """A request of a page to somebody else, in words."""
    return [] if url.startswith((f"{base}/", "data:")) else [f"somebody else is asked: {url}"]


async def walk(page: Page, start: str = "/me") -> AsyncIterator[tuple[str, str]]:
    """Each page that another one leads to, one of each shape: its address, and what it holds.

    The browser asks for them, and stays where it is.
    """
    waiting, shapes = [start], {shape(start)}
    while waiting:
        path = waiting.pop(0)
        reply = await page.request.get(path, headers={"Accept": "text/html"})
        assert reply.status == 200, path
        html = await reply.text()
        for href in await page.evaluate(LINKS, html):
            url = urlsplit(urljoin(path, href))
            to = f"{url.path}?{url.query}" if url.query else url.path
            if to.startswith(("/env/", "/system/", "/me")) and shape(to) not in shapes:
                shapes.add(shape(to))
                waiting.append(to)
        yield path, html


def shape(path: str) -> tuple[str, frozenset[str]]:
    """What pages of one kind have in common: the place without names, and what is asked for."""
    url = urlsplit(path)
    place = re.sub(r"/(event-types/[A-Z].*|(account|customer|sim)(:|%3A)[^/]*|\d+)", "/*", url.path)
    place = re.sub(r"/users/(?!new$).+", "/users/*", place)
    return place, frozenset(parse_qs(url.query)) - SAME_PAGE


async def judged(page: Page) -> list[str]:
    """What is wrong with a page, in words."""
    faults = [f"by day: {one}" for one in await violations(page)]
    await page.emulate_media(color_scheme="dark")
    # The menu is the same on all pages.
    within = "html" if page.url.endswith("/me") else "main"
    dark = await violations(page, "color-contrast", within=within)
    faults += [f"by night: {one}" for one in dark]
    await page.emulate_media(color_scheme="light")
    if not (await page.title()).removesuffix("· ESPF").strip():
        faults.append("it has no title")
    if (headings := await page.locator("h1").count()) != 1:
        faults.append(f"it has {headings} headings of the first order")
    await page.keyboard.press("Tab")
    faults += [f"the focus is not to be seen: {one}" for one in await page.evaluate(UNSEEN)]
    await page.set_viewport_size(PHONE)
    faults += [f"too wide for a phone: {one}" for one in await page.evaluate(TOO_WIDE)]
    await page.set_viewport_size(DESK)
    return faults


async def by_keyboard(page: Page) -> None:
    """Past the menu into the content, and by the menu to another page."""
    skip = page.get_by_role("link", name="Skip to the content")
    await page.keyboard.press("Tab")
    await expect(skip).to_be_focused()
    await expect(skip).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.reload()
    entry = page.get_by_role("navigation", name="Main menu").get_by_role("link", name="Event types")
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await entry.evaluate("(link) => link === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Event types")


async def by_thumb(page: Page) -> None:
    """The menu of a phone: open it, close it, and go by it."""
    menu = page.get_by_role("navigation", name="Main menu")
    opener = page.get_by_role("button", name="Menu", exact=True)
    await expect(menu).to_be_hidden()
    await opener.click()
    await expect(menu).to_be_visible()
    assert await violations(page) == []
    await page.keyboard.press("Escape")
    await expect(menu).to_be_hidden()
    await opener.click()
    await menu.get_by_role("link", name="Provisioning events").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Provisioning events")
    await expect(menu).to_be_hidden()


async def buttons(page: Page) -> list[tuple[str, list[tuple[str, str]]]]:
    """What somebody is offered to press on all of their pages, one of each shape."""
    found = {}
    async for path, html in walk(page):
        for action, fields in await page.evaluate(BUTTONS, html):
            to = urljoin(path, action or path)
            found.setdefault(shape(to), (to, fields))
    return list(found.values())


async def sees_nothing(page: Page, paths: list[str]) -> None:
    """To a user of environment 4 the pages of environment 3 are not there; their own tell none."""
    for path in paths:
        if path.startswith(("/env/3", "/system")):
            reply = await page.request.get(path, headers={"Accept": "text/html"})
            assert reply.status == (404 if path.startswith("/env") else 403), path
            assert NUMBER not in await reply.text()
    async for path, html in walk(page):
        assert NUMBER not in html, path
        assert "Away" not in html, path


async def may_press_all(page: Page) -> None:
    """Whatever an operator is offered is not refused for want of a right."""
    offered = await buttons(page)
    assert any(path.endswith("/restart") for path, _ in offered)
    for path, fields in offered:
        if not path.startswith(("/me", "/logout")):
            headers = {
                "Origin": page.url.removesuffix(urlsplit(page.url).path),
                "Accept": "text/html",
            }
            reply = await page.request.post(path, form=dict(fields), headers=headers)
            assert reply.status not in {401, 403, 404}, path
