"""The handbook in a real browser, from its first step to its last, against running processes.

"Enable provisioning on the Configuration server", "Create a handler", "Configure the handler",
"Subscribe the handler to the events", "Enable the ESPF components", "Enable notifications upon
failure", "Run tests".
"""

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from desk import PASSWORD
from letters import Mailbox
from screen import browser, somebody, violations
from webhook import Answer, Webhook

pytestmark = [pytest.mark.e2e, pytest.mark.databases("sqlite")]

#: The event types of the handbook's example.
TYPES = (
    "Account/New",
    "Account/SIMCardAssignment",
    "Account/ServicePassword/Changed",
    "Account/Password/Changed",
    "Account/ID/Changed",
    "Account/ZeroAvailableFunds",
    "Account/AvailableFundsAppear",
    "Account/Product/Changed",
    "Account/Blocked",
    "Account/Unblocked",
    "Customer/ZeroAvailableFunds",
    "Customer/AvailableFundsAppear",
    "Customer/Blocked",
    "Customer/Unblocked",
)

KEY = "a key of the receiver"


async def test_the_handbook_in_a_browser(desk, tmp_path):
    """Each step is a function below; the boxes of the check-list tick themselves on the way."""
    box = Mailbox(tmp_path)
    desk("handler", "delete", 3, "EventSender", "--force")
    async with (
        Webhook() as hook,
        desk.running() as base,
        browser() as chromium,
        somebody(chromium, base, "admin", PASSWORD) as page,
    ):
        await enable_provisioning(page)
        await create_handler(page, "EventSender", "EventSender")
        await configure(page, hook.url)
        await subscribe(page)
        await create_handler(page, "Customers", "CustomerToAccountsDispatcher")
        await enable_notifications(page, box, base)
        assert await boxes(page) == ["done"] * 6 + ["to do"]
        await create_account(page)
        told = await hook.wait_for(2)
        assert [one.json["event_type"] for one in told] == [
            "Account/New",
            "Account/SIMCardAssignment",
        ]
        await check_the_log(page, told[0].i_event)
        # What was delivered is counted every few seconds.
        async with asyncio.timeout(60):
            while await boxes(page) != ["done"] * 7:
                await asyncio.sleep(0.5)
        hook.always = Answer(404, body="no such subscriber")
        await block(page)
        await hook.wait_for(3)
        await follow_the_letter(page, box)
        await restart_the_failure(page, hook)


async def go(page: Page, entry: str) -> None:
    """To a page, by the menu."""
    menu = page.get_by_role("navigation", name="Main menu")
    await menu.get_by_role("link", name=entry, exact=True).click()


async def boxes(page: Page) -> list[str | None]:
    """What the boxes of the check-list say, in their order."""
    await go(page, "Set-up checklist")
    found = await page.locator(".checklist [role=img]").all()
    return [await one.get_attribute("aria-label") for one in found]


async def enable_provisioning(page: Page) -> None:
    assert (await boxes(page))[0] == "to do"
    await page.get_by_role("link", name="Enable provisioning").click()
    await page.get_by_role("button", name="Clone").first.click()
    await page.get_by_role("link", name="Create instance").click()
    await page.get_by_label("Name").fill("first")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("The instance first is created")
    await apply(page, "ESPF.first.enabled")


async def apply(page: Page, changed: str) -> None:
    """Verify the clone, see what it changes, and apply it."""
    await page.get_by_role("link", name="Verify").click()
    await expect(page.get_by_role("rowheader", name=changed)).to_be_visible()
    assert await violations(page) == []
    await page.get_by_role("button", name="Check/Apply").click()
    await expect(page.get_by_role("status").first).to_contain_text("is active")


async def create_handler(page: Page, name: str, kind: str) -> None:
    await go(page, "Event handlers")
    await page.get_by_role("link", name="Create event handler").click()
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Type").select_option(kind)
    assert await page.get_by_label("Enabled").is_checked()
    assert await violations(page) == []
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text(f"The handler {name} is created")


async def configure(page: Page, url: str) -> None:
    await page.get_by_label("EventSender.URL").fill(url)
    await page.get_by_label("EventSender.BasicAuth.User").fill("espf")
    await page.get_by_label("EventSender.BasicAuth.Key").fill(KEY)
    await page.get_by_label("EventSender.APIVersion").select_option("1")
    await page.get_by_label("RetryDelays").fill("1s")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("Saved")
    assert KEY not in await page.content()
    assert await violations(page) == []


async def subscribe(page: Page) -> None:
    await page.get_by_role("link", name="Event subscriptions", exact=True).last.click()
    everything = page.get_by_label("All / none")
    await everything.check()
    await everything.uncheck()
    for name in TYPES:
        await page.get_by_role("switch", name=name, exact=True).check()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("subscriptions changed")
    found = page.locator("input[name=on]:checked")
    assert [await one.get_attribute("value") for one in await found.all()] == sorted(TYPES)
    assert await violations(page) == []


async def enable_notifications(page: Page, box: Mailbox, base: str) -> None:
    await go(page, "Configurations")
    row = page.get_by_role("row").filter(has_text="active")
    await row.get_by_role("button", name="Clone").click()
    await page.get_by_role("link", name="Provisioning", exact=True).click()
    await page.get_by_label("AlertRecipient").fill("nobody@")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".invalid-feedback")).to_be_visible()
    await page.get_by_label("AlertRecipient").fill("noc@example.net")
    await page.get_by_label("send_options").fill(f"{box.options} -f espf@example.net")
    await page.get_by_label("The sendmail program").fill(box.sendmail)
    await page.get_by_label("ConsoleURL").fill(base)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("Saved in the draft")
    assert await violations(page) == []
    await apply(page, "Provisioning.AlertRecipient")


async def create_account(page: Page) -> None:
    """ "Run tests": a mobile account for a customer, with a SIM card chosen from the inventory."""
    await go(page, "Customers")
    await page.get_by_role("link", name="Accounts of Demo Telecom Ltd").click()
    await page.get_by_role("link", name="Create an account").click()
    await page.get_by_label("ID", exact=True).fill("380441234567")
    await page.get_by_label("Account role").select_option("Mobile")
    await page.get_by_role("button", name="Choose IMSI").click()
    dialog = page.get_by_role("dialog", name="SIM Card Inventory")
    await dialog.get_by_role("button").nth(1).click()
    assert await page.get_by_label("IMSI", exact=True).input_value()
    await page.get_by_label("Product").select_option(index=1)
    await page.get_by_label("Activation date").fill("2026-01-01")
    await page.get_by_label("Type").select_option("Credit")
    await page.get_by_label("Balance control").select_option("Subordinate")
    assert await violations(page) == []
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("380441234567")


async def check_the_log(page: Page, i_event: int) -> None:
    """ "Check the log": the events of the handler, and the details of one."""
    await go(page, "Provisioning events")
    await page.get_by_label("Event handler").select_option("EventSender")
    await page.get_by_role("button", name="Apply filters").click()
    await expect(page.locator("tbody .tag")).to_have_text(["finished", "finished"])
    await page.get_by_role("link", name=f"Details of event {i_event}").click()
    await expect(page.get_by_role("heading", name=f"Event {i_event}")).to_be_visible()
    attempt = page.locator("details.attempt")
    await expect(attempt.get_by_text("Account/New").first).to_be_visible()
    assert KEY not in await page.content()
    assert await violations(page) == []


async def block(page: Page) -> None:
    await go(page, "Accounts")
    await page.get_by_role("link", name="380441234567").click()
    await page.get_by_role("button", name="Block").click()
    await expect(page.get_by_role("status").first).to_contain_text("locked")


async def follow_the_letter(page: Page, box: Mailbox) -> None:
    """A letter says what failed and leads to where it can be looked at."""
    async with asyncio.timeout(60):
        while not box.letters():
            await asyncio.sleep(0.2)
    (letter,) = box.letters()
    assert letter["to"] == "noc@example.net"
    assert "EventSender" in letter["subject"]
    link = re.search(r"http://\S+/env/\S+", letter.get_content())
    assert link is not None
    await page.goto(link[0])
    await expect(page.get_by_text("no such subscriber")).to_be_visible()
    assert await violations(page) == []


async def restart_the_failure(page: Page, hook: Webhook) -> None:
    """What the receiver refused is seen as such, restarted in one click, and arrives."""
    await go(page, "Provisioning events")
    await page.get_by_label("Status").select_option("failed")
    await page.get_by_role("button", name="Apply filters").click()
    await expect(page.locator("tbody .tag")).to_have_text(["rejected"])
    await expect(page.get_by_text("no such subscriber")).to_be_visible()
    hook.always = Answer(200)
    await page.get_by_role("button", name=re.compile("Restart event .*")).click()
    told = await hook.wait_for(4)
    assert told[3].json["event_type"] == "Account/Blocked"
    assert told[3].i_event == told[2].i_event
    await go(page, "Dashboard")
    await expect(page.get_by_text("Nothing needs attention")).to_be_visible(timeout=30_000)
