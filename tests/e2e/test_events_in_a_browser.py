"""Provisioning events in a real browser: a list that renews itself, a restart of many."""

import pytest
from playwright.async_api import Page, expect

from desk import PASSWORD, Desk
from screen import browser, somebody, violations
from webhook import Answer, Webhook

pytestmark = [pytest.mark.e2e, pytest.mark.databases("sqlite")]


async def test_a_live_list_loses_nothing_and_a_restart_of_many_shows_how_far_it_is(desk):
    async with Webhook() as hook:
        hook.always = Answer(403, body="no such subscriber")
        desk("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}")
        desk("handler", "set", 3, "EventSender", "EventSender.AuthMethod=None")
        made = [create(desk) for _ in range(3)]
        async with (
            desk.running() as base,
            browser() as chromium,
            somebody(chromium, base, "admin", PASSWORD) as page,
        ):
            await hook.wait_for(3)
            await page.goto("/env/3/events?size=25")
            await expect(page.locator("tbody .tag")).to_have_text(["rejected"] * 3)
            await nothing_is_lost(page, desk, *made[:2])
            hook.always = Answer(200)
            await restart_all(page)


def create(desk: Desk) -> int:
    said: str = desk("event", "create", 3, "Account/Blocked", "--var", "id=4412345")
    return int(said.rsplit(maxsplit=1)[-1])


async def nothing_is_lost(page: Page, desk: Desk, opened: int, chosen: int) -> None:
    """What is open stays open, what is folded stays folded, what is ticked stays ticked."""
    await page.get_by_label(f"Event {chosen} for EventSender", exact=True).check()
    await page.get_by_role("link", name=f"Details of event {opened}").click()
    attempt = page.locator("details.attempt")
    await expect(attempt.get_by_text("no such subscriber").last).to_be_visible()
    await attempt.locator("summary").click()
    await page.get_by_role("link", name="Live", exact=True).click()
    await expect(page.get_by_text("drawn anew every 3 seconds")).to_be_visible()
    assert await violations(page) == []
    new = create(desk)
    await expect(page.locator(f"#event-{new} .tag")).to_have_text("rejected")
    await expect(page.get_by_label(f"Event {chosen} for EventSender", exact=True)).to_be_checked()
    await expect(page.get_by_role("heading", name=f"Event {opened}")).to_be_visible()
    assert await attempt.get_attribute("open") is None
    await page.reload()
    await expect(page.get_by_role("heading", name=f"Event {opened}")).to_be_visible()


async def restart_all(page: Page) -> None:
    await page.get_by_label("Status").select_option("rejected")
    await page.get_by_role("button", name="Apply filters").click()
    await page.get_by_role("link", name="Restart all that match").click()
    await page.get_by_role("button", name="Restart 4").click()
    await expect(page.locator("#progress")).to_contain_text("4 of 4 done")
    assert await violations(page) == []
    await page.get_by_role("link", name="Provisioning events").last.click()
    await expect(page.locator("tbody .tag").first).to_have_text("finished")
