"""What it takes to look: the APIs and the console's pages, with millions of events.

Whoever adds a page adds a line to ``PAGES``: an address, which is asked for over HTTP as a program
does, or a browser if it is one of the console; or a function of a connection.
"""

import http.client
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from functools import partial
from urllib.parse import quote, urlencode

from sqlalchemy import Connection

from benchmarks.backlog import insert, joined, key, numbers, second
from benchmarks.bench import Bench
from benchmarks.measure import BenchError, Facts, table, tell
from benchmarks.sites import ENV, HANDLERS, SYNC, MariaDBSite, PostgreSQLSite, Site
from espf import overview
from espf import statistics as figures_of_late
from espf.db import parts
from espf.db.database import Database
from espf.sources import Filter

#: An address of the APIs, or what a page asks of the database.
Page = str | Callable[[Connection], object]

_TYPE = (
    "CASE WHEN n % 10000 = 0 THEN 'Account/New' WHEN n % 50 = 0 THEN 'Customer/Name/Changed' "
    "WHEN n % 2 = 0 THEN 'Account/Unblocked' ELSE 'Account/Blocked' END"
)


def _count(connection: Connection) -> object:
    return overview.count(connection, Filter(i_env=ENV))


_CONSOLE = f"/env/{ENV}"
_EVENTS = f"/espf/v1/events?i_env={ENV}&limit=50"

PAGES: Mapping[str, Page] = {
    "newest": _EVENTS,
    "oldest first": f"{_EVENTS}&order=oldest",
    "in the middle": f"{_EVENTS}&before={{middle}}",
    "back from the middle": f"{_EVENTS}&after={{middle}}",
    "of a day": f"{_EVENTS}&from=2026-01-05T00:00:00&to=2026-01-06T00:00:00",
    "failed": f"{_EVENTS}&status=failed",
    "successful": f"{_EVENTS}&status=successful",
    "queued": f"{_EVENTS}&status=queued",
    "scheduled": f"{_EVENTS}&status=scheduled",
    "superseded, none": f"{_EVENTS}&status=superseded",
    "a handler": f"{_EVENTS}&handler={HANDLERS[0]}",
    "a rare type": f"{_EVENTS}&event_type=Account/New",
    "a type that is not there": f"{_EVENTS}&event_type=Custom/*",
    "Customer/*": f"{_EVENTS}&event_type=Customer/*",
    "an account": f"{_EVENTS}&about=account:77",
    "an account, by its id": f"{_EVENTS}&about=a77",
    "count, all": f"/espf/v1/events/count?i_env={ENV}",
    "count, failed": f"/espf/v1/events/count?i_env={ENV}&status=failed",
    "count, a rare type": f"/espf/v1/events/count?i_env={ENV}&event_type=Account/New",
    "timeline": f"/espf/v1/timeline?i_env={ENV}&about=account:77",
    "one event": f"/espf/v1/event/{{middle}}?i_env={ENV}",
    "count, of the database alone": _count,
    **{
        f"console: {name}": path
        for name, path in {
            "dashboard": f"{_CONSOLE}/dashboard",
            "set-up checklist": f"{_CONSOLE}/setup",
            "handlers": f"{_CONSOLE}/handlers",
            "one handler": f"{_CONSOLE}/handlers/1",
            "its options": f"{_CONSOLE}/handlers/1/configuration",
            "its subscriptions": f"{_CONSOLE}/handlers/1/subscriptions",
            "its test": f"{_CONSOLE}/handlers/1/test",
            "its audits": f"{_CONSOLE}/handlers/1/audits",
            "its end": f"{_CONSOLE}/handlers/1/delete",
            "events": f"{_CONSOLE}/events",
            "events of a handler": f"{_CONSOLE}/events?handler={HANDLERS[0]}",
            "events that failed": f"{_CONSOLE}/events?status=failed",
            "events that are retried": f"{_CONSOLE}/events?status=retrying",
            "events of some types": f"{_CONSOLE}/events?type=Customer/*",
            "events of an account": f"{_CONSOLE}/events?about=account:77",
            "events of a day": f"{_CONSOLE}/events?from=2026-01-05 00:00:00&to=2026-01-06 00:00:00",
            "events, page 50": f"{_CONSOLE}/events?before={{middle}}",
            "events, back from there": f"{_CONSOLE}/events?after={{middle}}",
            "count of events": f"{_CONSOLE}/events/count",
            "count of failed events": f"{_CONSOLE}/events/count?status=failed",
            "restart of all that failed": f"{_CONSOLE}/events/restart?status=failed",
            "first byte of CSV": f"{_CONSOLE}/events?format=csv",
            "one event": f"{_CONSOLE}/events/{{middle}}",
            "an event that waits": f"{_CONSOLE}/events/{{waiting}}",
            "timelines, and who is held": f"{_CONSOLE}/timeline",
            "timeline of a busy account": f"{_CONSOLE}/timeline/account:77",
            "subscriptions": f"{_CONSOLE}/subscriptions",
            "event types": f"{_CONSOLE}/event-types",
            "one event type": f"{_CONSOLE}/event-types/Account/Blocked",
            "audit log": f"{_CONSOLE}/audit",
            "audit log, searched": f"{_CONSOLE}/audit?q=handler.pause",
            "users": f"{_CONSOLE}/users",
            "workers": "/system/workers",
            "capture": "/system/capture",
            "configurations": "/system/configurations",
            "a configuration": "/system/configurations/1/provisioning",
            "a configuration, verified": "/system/configurations/1/verify",
            "password, sessions, API": "/me",
            "customers": f"{_CONSOLE}/customers",
            "accounts": f"{_CONSOLE}/accounts",
            "accounts, searched": f"{_CONSOLE}/accounts?q=many77",
            "accounts, last page": f"{_CONSOLE}/accounts?order=-id",
            "accounts of a customer": f"{_CONSOLE}/customers/1/accounts",
            "one account": f"{_CONSOLE}/accounts/77",
            "products": f"{_CONSOLE}/products",
            "SIM cards": f"{_CONSOLE}/sim-cards",
        }.items()
    },
}


def measure(bench: Bench, facts: Facts) -> str:
    """The report's section."""
    took: dict[str, list[str]] = {name: [name] for name in PAGES}
    heads = ["page, ms: p50 / worst"]
    past, live = bench.sized(5_000_000, 20_000), bench.sized(1_000_000, 4_000)
    for name, installation in bench.installations.items():
        heads.append(name)
        tell(f"pages on {name}: {past:,} in the journal, {live:,} waiting, {live:,} accounts")
        make = partial(fill, past=past, live=live)
        with installation.filled(f"pages_{past}", make) as site:
            found = looked_at(site, past, bench.sized(20, 3))
        for page, seconds in found.items():
            middle, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
            took[page].append(f"{middle:.0f} / {worst:.0f}")
        slowest = max(statistics.median(seconds) for seconds in found.values())
        facts[f"pages {name}"] = slowest * 1000
    return table(heads, list(took.values()))


def looked_at(
    site: Site, past: int, times: int, pages: Mapping[str, Page] = PAGES
) -> dict[str, list[float]]:
    """How long each page took, so many times, in seconds; first once, to get warm."""
    places = {"middle": past // 2, "waiting": past + 1}
    with site.serving(), closing(Database.open(site.url)) as database:
        browser = Browser(site)
        return {
            name: [_seconds(browser, database, page, places) for _ in range(times + 1)][1:]
            for name, page in pages.items()
        }


def _seconds(
    browser: "Browser", database: Database, page: Page, places: Mapping[str, int]
) -> float:
    if isinstance(page, str):
        return browser.ask(page.format(**places))
    begun = time.monotonic()
    with database.read() as connection:
        page(connection)
    return time.monotonic() - begun


class Browser:
    """Somebody who is logged in, and a program that says who it is each time."""

    def __init__(self, site: Site) -> None:
        self._port = site.port
        password = site.environment()["ESPF_ADMIN_PASSWORD"]
        login = b64encode(f"admin:{password}".encode()).decode()
        self._program = {"Authorization": f"Basic {login}"}
        with closing(self._connected()) as connection:
            form = urlencode({"login": "admin", "password": password})
            headers = {
                "Content-Type": "application/x-www-form-urlencoded",
                "Origin": f"http://127.0.0.1:{self._port}",
            }
            connection.request("POST", "/login", form, headers)
            cookie = connection.getresponse().headers.get("Set-Cookie", "")
        self._person = {"Cookie": cookie.partition(";")[0], "Accept": "text/html"}

    def ask(self, path: str) -> float:
        """How long a page takes, in seconds: all of it, of CSV the first byte."""
        is_csv = path.endswith("format=csv")
        headers = self._program if path.startswith("/espf/") else self._person
        with closing(self._connected()) as connection:
            begun = time.monotonic()
            connection.request("GET", quote(path, safe="/?&=:*"), headers=headers)
            reply = connection.getresponse()
            body = reply.read(1 if is_csv else None)
            took = time.monotonic() - begun
        if reply.status != 200:
            raise BenchError(f"{path}: {reply.status} {body.decode()[:2000]}")
        return took

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        connection.connect()
        return connection


def fill(site: Site, past: int, live: int) -> None:
    """So many events are over, one a second since the year began; so many wait.

    Of those that wait one in fifty has failed, and one in fifty is retried. There are as many
    accounts of one customer as events that wait, figures of two days, and lines of the audit log.
    """
    site.configure(SYNC)
    if isinstance(site, PostgreSQLSite):
        _make_parts(site, past + live)
    many, _ = numbers(site, past)
    at = second(site)
    site.say(
        f"INSERT INTO {site.home}Provisioning_Log (i_event, i_env, event_type, ordering_key, "
        "variables, i_event_handler, handler, attempt, verdict, reason, created_at, logged_at, "
        f"duration_ms) SELECT n, {ENV}, {_TYPE}, {key(site)}, '{{}}', 1, '{HANDLERS[0]}', 1, "
        "CASE WHEN n % 1000 = 0 THEN 'rejected' ELSE 'finished' END, 'HTTP 200 OK', "
        f"{at}, {at}, 12 FROM {many}",
        f"INSERT INTO {site.home}Audit_Log (happened_at, i_env, login, door, action, subject) "
        f"SELECT {at}, {ENV}, 'admin', 'console', 'event.restart', 'event' "
        f"FROM {numbers(site, live // 10)[0]}",
    )
    insert(site, live, after=past)
    _break_some(site)
    _count_up(site)
    _fill_accounts(site, live)
    # As each server does by itself, a while later.
    if isinstance(site, PostgreSQLSite):
        site.say("VACUUM ANALYZE")
    elif isinstance(site, MariaDBSite):
        names = ("Event_Queue", "Event_Notifications", "Provisioning_Log", "Audit_Log")
        site.say(f"ANALYZE TABLE {', '.join(f'{site.home}{name}' for name in names)}")


def _break_some(site: Site) -> None:
    keyed = f"ordering_key = (SELECT q.ordering_key FROM {site.home}Event_Queue q"
    wait = f"{keyed} WHERE q.i_event = {site.home}Event_Notifications.i_event), attempts = 3"
    site.say(
        f"UPDATE {site.home}Event_Notifications SET status = 'failed', {wait}, "
        "last_error = 'HTTP 500 Internal Server Error' WHERE position % 50 = 0",
        f"UPDATE {site.home}Event_Notifications SET next_attempt_at = '2037-01-01 00:00:00.000', "
        f"{wait}, last_error = 'HTTP 503 Service Unavailable' WHERE position % 50 = 1",
    )


def _count_up(site: Site) -> None:
    """Two handlers have been busy for two days."""
    with closing(Database.open(site.url)) as database, database.begin() as connection:
        now = database.now(connection)
        figures = figures_of_late.Figures(finished=600, duration_ms=7200, latency_ms=6000)
        moments = [now - timedelta(minutes=minute) for minute in range(2880)]
        counted = {(number, moment): figures for number in (1, 2) for moment in moments}
        figures_of_late.store(connection, database, counted)


def _fill_accounts(site: Site, count: int) -> None:
    """Accounts of one customer, without events of them."""
    many, number = numbers(site, count)
    site.evctl("capture", "remove")
    site.say(
        f"INSERT INTO {site.accounts()} (i_env, i_customer, i_product, id, billing_model, "
        f"issue_date) SELECT {ENV}, 1, 1, {joined(site, chr(39) + 'many' + chr(39), number)}, 1, "
        f"'2026-01-01 00:00:00' FROM {many}"
    )
    site.evctl("capture", "apply")


def _make_parts(site: Site, upto: int) -> None:
    """As a worker makes them in time."""
    for number in range(0, upto, parts.WIDTH * parts.AHEAD):
        site.say(
            f"SELECT setval(pg_get_serial_sequence('{site.home}event_queue', 'i_event'), "
            f"{number + 1})"
        )
        site.evctl("init")
