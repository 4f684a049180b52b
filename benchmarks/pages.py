"""What it takes to look: pages of events, counts, a subscriber's timeline, with millions of events.

Whoever adds a page adds a line to ``PAGES``: an address, which is asked for over HTTP as a browser
does, or a function of a connection.
"""

import http.client
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial

from sqlalchemy import Connection

from benchmarks.backlog import insert, key, numbers, second
from benchmarks.bench import Bench
from benchmarks.measure import BenchError, Facts, percentile, table, tell
from benchmarks.sites import ENV, HANDLERS, SYNC, PostgreSQLSite, Site
from espf import overview
from espf.db import parts
from espf.db.database import Database
from espf.overview import Filter

#: An address of the APIs, or what a page asks of the database.
Page = str | Callable[[Connection], object]

_TYPE = (
    "CASE WHEN n % 10000 = 0 THEN 'Account/New' WHEN n % 50 = 0 THEN 'Customer/Name/Changed' "
    "WHEN n % 2 = 0 THEN 'Account/Unblocked' ELSE 'Account/Blocked' END"
)


def _count(connection: Connection) -> object:
    return overview.count(connection, Filter(i_env=ENV))


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
}


def measure(bench: Bench, facts: Facts) -> str:
    """The report's section."""
    took: dict[str, list[str]] = {name: [name] for name in PAGES}
    heads = ["page, ms: p50 / p95"]
    for name, installation in bench.installations.items():
        most = 5_000_000 if name == "PostgreSQL" else 1_000_000
        past, live = bench.sized(most, 20_000), bench.sized(most // 5, 4_000)
        heads.append(f"{name}, {past:,} and {live:,}")
        tell(f"pages on {name}: {past:,} in the journal, {live:,} waiting")
        make = partial(fill, past=past, live=live)
        with installation.filled(f"pages_{past}", make) as site:
            found = looked_at(site, past // 2, bench.sized(20, 3))
        for page, seconds in found.items():
            middle, high = statistics.median(seconds) * 1000, percentile(seconds, 0.95) * 1000
            took[page].append(f"{middle:.0f} / {high:.0f}")
        slowest = max(statistics.median(seconds) for seconds in found.values())
        facts[f"pages {name}"] = slowest * 1000
    return table(heads, list(took.values()))


def looked_at(site: Site, middle: int, times: int) -> dict[str, list[float]]:
    """How long each page took, so many times, in seconds; first once, to get warm."""
    with site.serving(), closing(Database.open(site.url)) as database:
        return {
            name: [_seconds(site, database, page, middle) for _ in range(times + 1)][1:]
            for name, page in PAGES.items()
        }


def _seconds(site: Site, database: Database, page: Page, middle: int) -> float:
    if isinstance(page, str):
        return _asked(site, page.format(middle=middle))
    begun = time.monotonic()
    with database.read() as connection:
        page(connection)
    return time.monotonic() - begun


def _asked(site: Site, path: str) -> float:
    login = b64encode(f"admin:{site.environment()['ESPF_ADMIN_PASSWORD']}".encode()).decode()
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)) as connection:
        connection.connect()
        begun = time.monotonic()
        connection.request("GET", path, headers={"Authorization": f"Basic {login}"})
        reply = connection.getresponse()
        body = reply.read()
        took = time.monotonic() - begun
    if reply.status != 200:
        raise BenchError(f"{path}: {reply.status} {body.decode()}")
    return took


def fill(site: Site, past: int, live: int) -> None:
    """So many events are over, one a second since the year began; so many wait."""
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
        f"{at}, {at}, 12 FROM {many}"
    )
    insert(site, live, after=past)
    if isinstance(site, PostgreSQLSite):
        site.say("VACUUM ANALYZE")


def _make_parts(site: Site, upto: int) -> None:
    """As a worker makes them in time."""
    for number in range(0, upto, parts.WIDTH * parts.AHEAD):
        site.say(
            f"SELECT setval(pg_get_serial_sequence('{site.home}event_queue', 'i_event'), "
            f"{number + 1})"
        )
        site.evctl("init")
