"""A real browser for the tests of the console: Debian's Chromium, driven by Playwright."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

CHROMIUM = "/usr/bin/chromium"

# A slow machine is no fault of the pages.
expect.set_options(timeout=30_000)

#: What makes a page good for everybody: WCAG 2.2, levels A and AA.
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser without a window. As root it cannot have a sandbox of its own."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield launched
        finally:
            await launched.close()


@asynccontextmanager
async def somebody(
    of: Browser, base: str, login: str, password: str, **options: Any
) -> AsyncIterator[Page]:
    """A page of somebody who has logged in; whatever the browser complains about is a fault."""
    context = await of.new_context(
        base_url=base, **{"viewport": {"width": 1280, "height": 900}, **options}
    )
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.extend(_fault(message)))
    await page.goto("/login")
    await page.get_by_label("Login").fill(login)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/dashboard")
    try:
        yield page
    finally:
        await context.close()
    assert complaints == []


def _fault(message: ConsoleMessage) -> list[str]:
    """What is wrong by the browser's own words; that a form was refused is what was tried."""
    refused = "status of 422" in message.text or "status of 403" in message.text
    return [message.text] if message.type == "error" and not refused else []


async def violations(page: Page, *rules: str, within: str = "html") -> list[str]:
    """What keeps a page, or a part of it, from being good for everybody, in words.

    By some rules alone, or by all.
    """
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(AXE_SCRIPT)
    # What is right need not be told: to tell it takes longer than to find it.
    options = {"runOnly": [*(rules or RULES)], "resultTypes": ["violations"]}
    found = await page.evaluate("(asked) => axe.run(...asked)", [within, options])
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]} {node.get('failureSummary', '')}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
