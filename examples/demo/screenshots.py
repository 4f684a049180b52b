"""Pictures of the console for the documents: ``make screenshots``.

Plays the demo, lets some things go wrong for two more handlers, and takes each page by day and by
night, some on a phone, too. Ends by itself; what it started is stopped.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hlr
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from stage import I_ENV, NEXT_MONTH, PATIENCE_SECONDS, ROOT, Billing, DemoFailed, Stage

from demo import Story

PICTURES = ROOT / "docs" / "images" / "console"
CHROMIUM = "/usr/bin/chromium"
SCHEMES = ("light", "dark")
DESK = ViewportSize(width=1280, height=860)
PHONE = ViewportSize(width=390, height=844)

#: What the second application refuses, or is too busy for.
REFUSED = {
    "Account/Blocked": (403, "the number is not known here"),
    "Account/Product/Changed": (503, "the message centre is busy"),
}

#: Whoever posts here is not let in.
KEPT_OUT = "/mailboxes"

CUSTOMERS = ("Blue Kite Logistics", "Harbour Bakery", "Northwind Cycles")

#: Name of a picture: the page, with the numbers of an event that was refused, and of one that is
#: retried.
PAGES = {
    "dashboard": "dashboard",
    "setup": "setup",
    "handlers": "handlers",
    "handler": "handlers/1",
    "handler-configuration": "handlers/1/configuration",
    "handler-subscriptions": "handlers/1/subscriptions",
    "handler-test": "handlers/1/test",
    "handler-audits": "handlers/5/audits",
    "handler-audit": "handlers/5/audits/1",
    "handler-new": "handlers/new",
    "handler-delete": "handlers/2/delete",
    "subscriptions": "subscriptions",
    "event-types": "event-types",
    "event-type": "event-types/Account/Blocked",
    "event-type-new": "event-types/new",
    "workers": "/system/workers",
    "capture": "/system/capture",
    "events": "events",
    "event-open": "events?handler=Messages&status=failed&open={refused}",
    "event": "events/{refused}",
    "event-skip": "events/{retried}/skip?handler=Messages",
    "events-restart": "events/restart?status=failed",
    "events-scheduled": "events?status=scheduled",
    "timeline": "timeline",
    "timeline-held": "timeline/account:3",
    "timeline-hold": "timeline/account:4/hold",
    "customers": "customers",
    "customer": "customers/1",
    "customer-new": "customers/new",
    "customer-accounts": "customers/1/accounts",
    "account-new": "accounts/new?customer=1",
    "accounts": "accounts",
    "account": "accounts/1",
    "products": "products",
    "product": "products/1",
    "product-new": "products/new",
    "sim-cards": "sim-cards",
    "sim-card": "sim-cards/1",
    "sim-card-new": "sim-cards/new",
    "sim-cards-upload": "sim-cards/upload",
    "configurations": "/system/configurations",
    "configuration": "/system/configurations/2",
    "configuration-instance": "/system/configurations/2/instances/new",
    "configuration-provisioning": "/system/configurations/2/provisioning",
    "configuration-verify": "/system/configurations/2/verify",
    "users": "users",
    "user": "users/olga",
    "user-new": "users/new",
    "audit": "audit",
    "me": "/me",
}

#: Where the HLR listens; its ports are fixed.
HLR_ADDRESS = "127.0.72.2"

#: The exit code of an audit that has found differences.
DIFFERENT = 7

#: These are taken on a phone as well.
ON_A_PHONE = ("dashboard", "event-open", "account")


class Messages(BaseHTTPRequestHandler):
    """A second application, which takes most events and refuses some."""

    def do_POST(self) -> None:
        """Answer an event."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, said = REFUSED.get(body["event_type"], (200, "sent"))
        if self.path == KEPT_OUT:
            status, said = 401, "who is this?"
        reply = json.dumps({"message": said}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def messages(port: int) -> Iterator[None]:
    """The second application, while it is needed."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Messages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def enliven(stage: Stage, port: int) -> None:
    """What an installation has that works: more handlers, subscribers, people, and some trouble."""
    env = str(I_ENV)
    _create(stage, "Messages", f"http://127.0.0.1:{port}/events", "RetryDelays=30m 1hx23")
    _create(stage, "VoiceMail", f"http://127.0.0.1:{port}{KEPT_OUT}")
    stage.evctl(
        *("handler", "create", env, "Customers", "--type", "CustomerToAccountsDispatcher"),
    )
    call = Billing(stage.url, stage.password).call
    for number, name in enumerate(CUSTOMERS, 1):
        info = {"name": name, "credit_limit": 100, "opening_balance": 12.5 * number}
        i_customer = call("Customer/add_customer", customer_info=info)["i_customer"]
        for line in (1, 2):
            _add_account(call, i_customer, f"38044555{number}{line}00", i_product=1 + line % 2)
    call("Account/update_account", account_info={"i_account": 5, "blocked": "Y"})
    call("Account/update_account", account_info={"i_account": 6, "i_product": 2})
    stage.evctl("event", "hold", env, "account:3", "--reason", "moved by hand, ticket 77")
    call("Account/update_account", account_info={"i_account": 3, "id": "380445551199"})
    month = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(day=1)
    for i_account in (3, 4, 5):
        stage.evctl(
            *("event", "create", env, NEXT_MONTH, "--var", f"i_account={i_account}"),
            *("--start-time", f"{month:%Y-%m-%d} 00:00:00", "--key", f"next-month-{i_account}"),
        )
    for login, role in (("olga", "operator"), ("rita", "readonly"), ("adam", "administrator")):
        stage.evctl("user", "create", login, "--env", env, "--role", role, stdin=stage.password)
    # An HLR that knows none of them yet: an audit has something to find.
    hlr.add(stage, HLR_ADDRESS)
    stage.evctl("reconcile", env, "HLR", "--all", code=DIFFERENT)
    stage.evctl("config", "clone")
    stage.evctl("config", "set", "2", "Provisioning.AlertURL=https://alerts.example.net/espf")


def _create(stage: Stage, name: str, url: str, *options: str) -> None:
    chosen = (
        *(f"EventSender.URL={url}", "EventSender.AuthMethod=None", "EventSender.APIVersion=1"),
        *options,
    )
    words = [word for option in chosen for word in ("--set", option)]
    stage.evctl("handler", "create", str(I_ENV), name, "--type", "EventSender", *words)


def _add_account(call: Any, i_customer: int, number: str, i_product: int) -> None:
    (card,) = call("SIMCard/get_card_list", status="available", limit=1)["card_list"]
    info = {
        "id": number,
        "i_customer": i_customer,
        "i_product": i_product,
        "billing_model": -1,
        "opening_balance": 25,
        "i_account_role": 3,
        "imsi": card["imsi"],
    }
    call("Account/add_account", account_info=info)


def troubled(stage: Stage) -> dict[str, int]:
    """The events that the second application has refused, and that it was too busy for.

    By then the breaker is open.
    """
    end = time.monotonic() + 4 * PATIENCE_SECONDS
    while time.monotonic() < end:
        rows = json.loads(
            stage.evctl("event", "list", "--handler", "Messages", "--json", show=False)
        )
        found = {row["status"]: int(row["i_event"]) for row in rows}
        states = json.loads(stage.evctl("handler", "list", str(I_ENV), "--json", show=False))
        if {"rejected", "retrying"} <= set(found) and any("breaker" in s["state"] for s in states):
            return {"refused": found["rejected"], "retried": found["retrying"]}
        time.sleep(0.2)
    raise DemoFailed("nothing was refused")


def take(stage: Stage, browser: Browser, events: dict[str, int]) -> None:
    """All pictures."""
    for scheme in SCHEMES:
        page = _logged_in(stage, browser, scheme)
        if scheme == SCHEMES[0]:
            _work(page)
        for name, path in PAGES.items():
            where = path.format(**events)
            page.goto(where if where[0] == "/" else f"/env/{I_ENV}/{where}")
            page.wait_for_load_state("networkidle")
            _shoot(page, f"{name}-{scheme}")
            if name in ON_A_PHONE:
                page.set_viewport_size(PHONE)
                _shoot(page, f"{name}-phone-{scheme}")
                page.set_viewport_size(DESK)
        page.set_viewport_size(PHONE)
        page.get_by_role("button", name="Menu", exact=True).click()
        _shoot(page, f"menu-phone-{scheme}")
        page.context.close()


def _logged_in(stage: Stage, browser: Browser, scheme: Any) -> Page:
    context = browser.new_context(
        base_url=stage.url, viewport=DESK, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto("/login")
    _shoot(page, f"login-{scheme}")
    page.get_by_label("Login").fill("admin")
    page.get_by_label("Password").fill(stage.password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/dashboard")
    return page


def _work(page: Page) -> None:
    """Something for the audit log."""
    page.goto(f"/env/{I_ENV}/handlers/1")
    for button in ("Pause", "Resume"):
        page.get_by_role("button", name=button).click()
        page.get_by_role("status").first.wait_for()
    page.goto(f"/env/{I_ENV}/handlers/1/configuration")
    page.get_by_label("RetryDelays").fill("1s 2s 5s 30s")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("status").first.wait_for()


def _shoot(page: Page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{name}.jpg", type="jpeg", quality=72)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Take pictures of the console.")
    parser.add_argument("--port", type=int, default=8080, help="of ESPF's APIs [8080]")
    parser.add_argument("--app-port", type=int, default=5000, help="of the application [5000]")
    parser.add_argument("--more-port", type=int, default=5001, help="of a second one [5001]")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "var" / "screenshots", help="made anew"
    )
    return parser.parse_args()


def main() -> int:
    """Take the pictures; returns the exit code."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    stage = Stage(options.folder, options.port, options.app_port)
    try:
        stage.set_up()
        Story(stage).play()
        with messages(options.more_port), sync_playwright() as playwright:
            enliven(stage, options.more_port)
            events = troubled(stage)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            PICTURES.mkdir(parents=True, exist_ok=True)
            take(stage, browser, events)
            browser.close()
    except DemoFailed as failure:
        print(f"No pictures: {failure}", file=sys.stderr)
        return 1
    finally:
        stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
