"""What a page of the console costs does not grow: in what the database does, not in time."""

import asyncio
from functools import partial

import pytest
from sqlalchemy import insert, text

from console import console
from databases import rows_read
from espf import audit, depth, overview, sources, subscriptions
from espf.audit import Wanted
from espf.db.database import Database
from espf.db.tables import audit_log

PAGES = (
    "dashboard",
    "setup",
    "handlers",
    "handlers/{h}",
    "handlers/{h}/configuration",
    "handlers/{h}/test",
    "handlers/{h}/delete",
    "events",
    "events?handler=HSS",
    "events?status=failed",
    "events?status=retrying",
    "events?type=Custom/*",
    "events?about=account:7",
    "events?from=2026-01-01+00:10:00&to=2026-01-01+00:20:00",
    "events?before={middle}",
    "events?after={middle}",
    "events/count",
    "events/{middle}",
    "timeline/account:7",
    "event-types/Account/Blocked",
    "audit",
    "audit?q=handler.pause",
    "audit?until=2026-01-01T00:10",
)


@pytest.fixture
def desk(database, sealer):
    with console(database, sealer, billing=False) as one:
        yield one


@pytest.fixture
def costs(monkeypatch):
    """What each read of a page costs."""
    found = []

    async def fetch(self, work, *args, **words):
        def read():
            with self.read() as connection:
                results = []
                found.append(
                    rows_read(connection, lambda: results.append(work(connection, *args, **words)))
                )
                return results[0]

        return await asyncio.to_thread(read)

    monkeypatch.setattr(Database, "fetch", fetch)
    return found


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("broken", ["failed", "queued"])
def test_a_page_costs_the_same_however_much_is_over_and_waits(desk, costs, monkeypatch, broken):
    # Both times there is more than one look goes over.
    for room, name, size in (
        *((overview, "FIRST_LOOK", 50), (overview, "LOOK", 200), (sources, "LOOK", 200)),
        *((overview, "MOST_COUNTED", 200), (depth, "MOST_COUNTED", 200), (depth, "SAMPLE", 100)),
        (audit, "LOOK", 200),
    ):
        monkeypatch.setattr(room, name, size)
    with desk.database.begin() as connection:
        url = {"EventSender.URL": "http://127.0.0.1:1", "EventSender.AuthMethod": "None"}
        made = subscriptions.create_handler(connection, desk.sealer, 3, "HSS", "EventSender", url)
    root = desk.as_("root")
    known = []
    for rows in (4_000, 40_000):
        fill(desk.database, made.i_event_handler, rows, broken)
        measured = {}
        for page in PAGES:
            path = f"/env/3/{page.format(h=made.i_event_handler, middle=rows // 2)}"
            root.get(path)
            costs.clear()
            reply = root.get(path)
            assert reply.status == 200, (path, reply.text)
            measured[page] = sum(costs)
        known.append(measured)
    few, many = known
    if broken != "failed":
        # Where none has, all that is retried is looked through for it, in the index alone.
        del few["events?status=failed"]
    grown = {page: (few[page], many[page]) for page in few if many[page] > few[page] * 1.2 + 50}
    assert not grown


def fill(database, handler, rows, broken):
    """As many events are over as wait; of these one in ten is ``broken``, one in ten retried."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    about = "3, 'Account/Blocked', 'account:' || (i % 50)"
    moment = "strftime('%Y-%m-%d %H:%M:%f', '2026-01-01', '+' || i || ' seconds')"
    filled = {
        "Provisioning_Log (i_event, i_env, event_type, ordering_key, variables, i_event_handler, "
        "handler, attempt, verdict, created_at, logged_at)": f"i, {about}, '{{}}', {handler}, "
        f"'HSS', 1, CASE i % 10 WHEN 0 THEN 'rejected' ELSE 'finished' END, {moment}, {moment}",
        "Event_Queue (i_event, i_env, event_type, ordering_key, variables, created_at, notified)": (
            f"i + {rows}, {about}, '{{}}', {moment}, 1"
        ),
        "Event_Notifications (i_event_handler, position, i_event, shard, status, ordering_key, "
        "next_attempt_at, last_error)": f"{handler}, i + {rows}, i + {rows}, i % 16, "
        f"CASE i % 10 WHEN 0 THEN '{broken}' ELSE 'queued' END, "
        "CASE WHEN i % 10 < 2 THEN 'account:' || (i % 50) END, "
        "CASE i % 10 WHEN 1 THEN '2999-01-01 00:00:00.000' END, "
        "CASE WHEN i % 10 < 2 THEN 'HTTP 503' END",
        "Audit_Log (happened_at, i_env, login, door, action, subject)": (
            f"{moment}, 3, 'adam', 'api', 'event.restart', 'event ' || i"
        ),
    }
    with database.begin() as connection:
        for table, values in filled.items():
            connection.execute(text(f"DELETE FROM {table.partition(' ')[0]}"))
            connection.exec_driver_sql(f"INSERT INTO {table} {numbers} SELECT {values} FROM n")


PAUSES = Wanted(i_env=3, text="handler.pause")


def look(connection):
    page = audit.page(connection, PAUSES, 50)
    assert (page.entries, page.is_short) == ([], True)


def test_a_line_of_the_audit_log_is_found_at_the_same_cost_however_long_it_is(
    database, monkeypatch
):
    monkeypatch.setattr(audit, "LOOK", 500)
    costs = []
    for more in (2_000, 8_000):
        with database.begin() as connection:
            now = database.now(connection)
            line = {"happened_at": now, "i_env": 3, "login": "a", "door": "api", "subject": "x"}
            one = [{**line, "action": "handler.pause"}]
            others = [{**line, "action": "event.restart"}] * more
            connection.execute(insert(audit_log), [*one, *others])
        with database.begin() as connection:
            if connection.dialect.name == "postgresql":
                # As it does by itself within a minute.
                connection.execute(text("ANALYZE"))
        with database.read() as connection:
            costs.append(rows_read(connection, partial(look, connection)))
            assert len(audit.search(connection, PAUSES, 50)) == len(costs)
    few, many = costs
    assert few > 10, "it looks"
    assert many <= few * 1.3 + 50
