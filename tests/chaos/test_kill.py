"""One blow at a time, and what exactly it does: told to stop, killed, locked out.

ESPF runs as ``evctl run`` over a database of its own; the application is a real HTTP server in
this process; the billing changes accounts as any program does, and what it has committed is
compared with what the application heard.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest
from checker import Fault, Write, check
from sqlalchemy import func, make_url, select
from storm import ENV, add_accounts, left, look, reception, record
from writers import change, connect

from espf import subscriptions
from espf.db.sqlite import BUSY_SECONDS, SqliteDialect
from espf.db.tables import handler_leases, provisioning_log, workers
from webhook import Answer, Webhook

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

COUNT = 12
HANDLER = "EventSender"

#: What a worker may take to begin, and to notice that another one is gone, on a busy machine.
SOON_SECONDS = 60.0


class Application(Webhook):
    """Keeps what it heard, for the checker."""

    def __init__(self):
        super().__init__()
        self.delay = 0.0
        self.heard = []
        self.always = self._hear

    def _hear(self, request):
        at = request.received_at
        self.heard.append(
            reception(at=at, until=at + self.delay, body=request.body.decode(), accepted=True)
        )
        return Answer(delay=self.delay)


class Site:
    """An installation, its processes, and the billing that writes beside them."""

    def __init__(self, desk):
        self.desk = desk
        self.engine = connect(desk.environment["ESPF_DATABASE_URL"])
        self.writes = []
        self.messages = desk.folder / "messages.txt"
        self._running = []

    def set_up(self, url, **options):
        """One handler that posts to ``url``, and accounts to change."""
        with closing(self.desk.database()) as database, database.begin() as connection:
            demo = subscriptions.require_handler(connection, ENV, HANDLER)
            subscriptions.delete_handler(connection, demo)
            add_accounts(connection, COUNT)
            subscriptions.create_handler(
                connection,
                self.desk.sealer(),
                ENV,
                HANDLER,
                "EventSender",
                {
                    "EventSender.URL": url,
                    "EventSender.APIVersion": "1",
                    "EventSender.AuthMethod": "None",
                    "EventSender.TokenRate": "10000",
                    "RetryDelays": "1s",
                    **options,
                },
            )

    def run(self):
        with self.messages.open("ab") as messages:
            process = subprocess.Popen(
                [sys.executable, "-m", "espf", "run"],
                cwd=self.desk.folder,
                env={**os.environ, **self.desk.environment, "ESPF_STOP_GRACE": "5"},
                stderr=messages,
            )
        self._running.append(process)
        return process

    def change(self, *i_accounts):
        """One transaction that changes each of these accounts."""
        with self.engine.begin() as connection:
            self._change(connection, i_accounts)

    @contextmanager
    def changing(self, *i_accounts):
        """The same, open for as long as the block lasts."""
        with self.engine.begin() as connection:
            self._change(connection, i_accounts)
            yield

    def _change(self, connection, i_accounts):
        for i_account in i_accounts:
            before, after = change(connection, i_account, f"t{len(self.writes)}")
            self.writes.append(Write(i_account, before, after, "committed"))

    @property
    def made(self):
        """Every change is two events."""
        return 2 * len(self.writes)

    def owners(self):
        """The process numbers of the workers that own something."""
        owned = select(handler_leases.c.worker).where(handler_leases.c.worker != "")
        rows = look(self.desk, owned.distinct())
        return {int(worker.split("/")[-2]) for (worker,) in rows}

    async def until(self, condition, seconds=SOON_SECONDS):
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.05)

    async def until_owned_by(self, *processes):
        wanted = {process.pid for process in processes}
        await self.until(lambda: self.owners() == wanted)

    async def until_quiet(self):
        await self.until(lambda: not any(left(self.desk).values()))

    def problems(self, application, *faults):
        return check(record(self.desk, self.writes, {HANDLER: application.heard}, faults))

    def clear_away(self):
        for process in self._running:
            process.kill()
            process.wait()
        self.engine.dispose()


@pytest.fixture
def site(desk):
    made = Site(desk)
    yield made
    made.clear_away()


async def test_sigterm_finishes_what_is_in_flight_starts_nothing_more_and_exits_with_0(site):
    async with Application() as application:
        application.delay = 1.0
        site.set_up(application.url, **{"EventSender.AsyncMode": "off", "Concurrency": "3"})
        for i_account in range(1, COUNT + 1):
            site.change(i_account)
        process = site.run()
        await application.wait_for(3, SOON_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, SOON_SECONDS) == 0
        heard = len(application.heard)
        assert heard <= 6, "it went on with what was ready"
        stored = select(func.count()).select_from(provisioning_log)
        assert look(site.desk, stored) == [(heard,)], "what was answered is stored"
        assert site.owners() == set(), "the handler was not given back"
        application.delay = 0.0
        site.run()
        await site.until_quiet()
    assert len(application.heard) == site.made, "nothing is sent twice"
    assert site.problems(application) == []


async def test_the_work_of_a_killed_process_is_taken_over_at_once(site):
    """On one machine nobody waits for the leases of the dead to run out."""
    async with Application() as application:
        site.set_up(application.url)
        first, second = site.run(), site.run()
        await site.until_owned_by(first, second)
        for number in range(60):
            site.change(1 + number % COUNT, 1 + (number + 5) % COUNT)
        await application.wait_for(20)
        killed = time.monotonic()
        first.kill()
        await asyncio.to_thread(first.wait)
        await site.until_owned_by(second)
        taken = select(func.max(handler_leases.c.since))
        over = select(func.min(workers.c.expires_at))
        assert look(site.desk, taken) < look(site.desk, over), "its lease had not run out"
        await site.until_quiet()
    assert site.problems(application, Fault("kill", killed, killed)) == []


async def test_a_kill_beside_an_open_billing_transaction_disturbs_neither(site):
    async with Application() as application:
        site.set_up(application.url)
        process = site.run()
        await site.until_owned_by(process)
        site.change(1, 2, 3)
        await application.wait_for(6)
        with site.changing(12):
            killed = time.monotonic()
            process.kill()
            await asyncio.to_thread(process.wait)
            second = site.run()
            await asyncio.sleep(2.0)
            assert second.poll() is None
        site.change(3)
        await site.until_quiet()
    assert len({one.i_event for one in application.heard}) == site.made
    assert site.problems(application, Fault("kill", killed, killed)) == []


@pytest.mark.databases("sqlite")
async def test_a_database_that_is_locked_for_long_is_waited_for_and_said_so_once(site):
    async with Application() as application:
        site.set_up(application.url)
        process = site.run()
        await site.until_owned_by(process)
        with closing(sqlite3.connect(site.desk.database_file, isolation_level=None)) as hog:
            site.change(*range(1, COUNT + 1))
            await application.wait_for(1)
            locked = time.monotonic()
            hog.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(BUSY_SECONDS + 2)
            assert "the database is back" not in site.messages.read_text(), "reading is not writing"
            hog.rollback()
            freed = time.monotonic()
            site.change(*range(1, COUNT + 1))
        await site.until_quiet()
        assert process.poll() is None
        await site.until(lambda: "the database is back" in site.messages.read_text())
    assert site.problems(application, Fault("database", locked, freed)) == []
    messages = site.messages.read_text()
    assert messages.count("waiting for the database") == 1, messages
    assert messages.count("the database is back") == 1, messages


@pytest.mark.databases("sqlite")
async def test_looking_for_commits_outlives_a_database_that_cannot_be_read(site):
    with closing(sqlite3.connect(site.desk.database_file, isolation_level=None)) as other:
        # Without the write-ahead log a writer shuts out the readers.
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        dialect = SqliteDialect(make_url(site.desk.environment["ESPF_DATABASE_URL"]), create=False)
        started = time.monotonic()
        await dialect.wait(0.2)
        assert time.monotonic() - started < 5, "the event loop was held up"
        other.rollback()
        await dialect.wait(0.2)
        other.execute("UPDATE Customers SET blocked = 'Y'")
        started = time.monotonic()
        await dialect.wait(60)
        assert time.monotonic() - started < 30, "a commit was overlooked"
        dialect.close()
