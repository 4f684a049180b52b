"""Kill, stop, freeze and lock: whatever happens to the processes, nothing is lost or overtaken.

ESPF runs as ``evctl run`` over a database of its own; the application is a real HTTP server in
this process; the billing is a thread that writes the database file with plain sqlite3, as any
billing program may. It notes what it has committed, and that is what the application must have
received, in that order, when the dust settles.
"""

import asyncio
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import closing

import pytest

from espf import subscriptions
from espf.crypto import Sealer
from espf.db.database import Database
from espf.db.sqlite import SqliteDialect
from webhook import Answer, Webhook

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

ENV = 3
ACCOUNTS = 12
KILLS = 20

#: A heartbeat is missing for this long before another worker takes over, and what that may take.
TAKE_OVER_SECONDS = 15.0


class Site:
    """A database as ``evctl init --demo`` makes it, and the processes that run on it.

    ``init`` is run once; ``copy`` gives each test a site of its own.
    """

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "espf.db"
        self.messages = folder / "messages.txt"
        self._running = []
        self._environment = {
            "PATH": os.environ["PATH"],
            "ESPF_DATABASE_URL": f"sqlite:///{self.path}",
            "ESPF_LOG": str(folder / "provisioning.log"),
            "ESPF_KEY_FILE": str(folder / "espf.key"),
            "ESPF_ADMIN_PASSWORD": "a-password-for-tests",
            "ESPF_STOP_GRACE": "5",
        }

    def init(self):
        """Set up, with accounts to change; their creation is nobody's news."""
        subprocess.run(
            [sys.executable, "-m", "espf", "init", "--demo"],
            cwd=self.folder,
            env=self._environment,
            check=True,
            capture_output=True,
        )
        with self.billing() as billing, billing:
            billing.executemany(
                "INSERT INTO Accounts (i_account, i_env, i_customer, i_product, id, billing_model,"
                " issue_date) VALUES (?, ?, 1, 1, ?, 1, '2026-01-01 00:00:00.000')",
                [(n, ENV, f"{n}-0") for n in range(1, ACCOUNTS + 1)],
            )
            billing.execute("DELETE FROM Event_Notifications")
            billing.execute("DELETE FROM Event_Queue")

    def copy(self, folder):
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Site(folder)

    def configure(self, url, **options):
        """Let the demo's EventSender post to ``url``, fast and patiently."""
        database = Database.open(self._environment["ESPF_DATABASE_URL"])
        with database.begin() as connection:
            handler = subscriptions.require_handler(connection, ENV, "EventSender")
            changes = {
                "EventSender.URL": url,
                "EventSender.TokenRate": "10000",
                "EventSender.TokenBurstiness": "1000",
                "EventSender.RequestTimeout": "3",
                "RetryDelays": "0s 1s",
                "MaxAttempts": "1000",
                **options,
            }
            sealer = Sealer.open(self.folder / "espf.key")
            subscriptions.set_options(connection, sealer, handler, changes)
        database.close()

    def run(self):
        """Start ``evctl run`` on a port of its own; returns the process."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with self.messages.open("ab") as messages:
            process = subprocess.Popen(
                [sys.executable, "-m", "espf", "run"],
                cwd=self.folder,
                env={**self._environment, "ESPF_LISTEN": f"127.0.0.1:{port}"},
                stderr=messages,
            )
        self._running.append(process)
        return process

    def kill_all(self):
        for process in self._running:
            process.kill()
            process.wait()

    def billing(self):
        """A connection as a billing program has it, which knows nothing of ESPF."""
        return closing(sqlite3.connect(self.path, timeout=20, isolation_level="IMMEDIATE"))

    def query(self, sql, *values):
        with self.billing() as connection:
            return connection.execute(sql, values).fetchall()

    def live_rows(self):
        return self.query(
            "SELECT (SELECT count(*) FROM Event_Queue), (SELECT count(*) FROM Event_Notifications)"
        )[0]

    def owner(self):
        """The number of the process that owns the handler, if one does."""
        rows = self.query("SELECT worker FROM Handler_Leases")
        return int(rows[0][0].split("/")[-2]) if rows and rows[0][0] else None

    async def until_owned_by(self, process, timeout=TAKE_OVER_SECONDS):
        async with asyncio.timeout(timeout):
            while self.owner() != process.pid:
                await asyncio.sleep(0.02)

    async def until_quiet(self, timeout=40.0):
        """Wait until both live tables are empty."""
        try:
            async with asyncio.timeout(timeout):
                while self.live_rows() != (0, 0):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            stuck = self.query("SELECT * FROM Event_Notifications LIMIT 5")
            pytest.fail(f"{self.live_rows()} rows are stuck, among them {stuck}")


class Billing:
    """Changes accounts all the time, and notes per account which events that must make."""

    def __init__(self, site, pause=0.01):
        self.expected = defaultdict(list)
        self.waits = []
        self._site = site
        self._pause = pause
        self._random = random.Random(7)
        self._changes = defaultdict(int)
        self._stop = threading.Event()
        self._fault = None
        self._thread = threading.Thread(target=self._work, name="billing")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _work(self):
        try:
            with self._site.billing() as connection:
                while not self._stop.is_set():
                    self.change(connection)
                    time.sleep(self._random.uniform(0, 2 * self._pause))
        except Exception as fault:  # noqa: BLE001  (raised again by the test's own thread)
            self._fault = fault

    def change(self, connection, account=None):
        """One transaction: usually a change that is two events; sometimes one that is undone."""
        account = account or self._random.randint(1, ACCOUNTS)
        number = self._changes[account] + 1
        undone = self._random.random() < 0.1
        started = time.monotonic()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "UPDATE Accounts SET id = ?, blocked = CASE blocked WHEN 'Y' THEN 'N' ELSE 'Y' END "
            "WHERE i_account = ?",
            (f"{account}-{number}{'-undone' * undone}", account),
        )
        if undone:
            connection.rollback()
            return
        connection.commit()
        self.waits.append(time.monotonic() - started)
        self._changes[account] = number
        self.expected[account] += [
            ("Account/ID/Changed", f"{account}-{number}"),
            ("Account/Blocked" if number % 2 else "Account/Unblocked", None),
        ]


class Application(Webhook):
    """Keeps what it heard of each account: i_event, what it says, body, whether it was taken."""

    def __init__(self, misbehaviour=0.0, slowness=0.0):
        super().__init__()
        self.heard = defaultdict(list)
        self._misbehaviour = misbehaviour
        self._slowness = slowness
        self._random = random.Random(11)
        self.always = self._answer

    def _answer(self, request):
        answer = Answer(delay=self._random.uniform(0, self._slowness))
        if self._random.random() < self._misbehaviour:
            answer = self._random.choice(
                [
                    Answer(503),
                    Answer(429),
                    Answer(fault="close"),
                    Answer(fault="reset"),
                    Answer(body="half of this", fault="half"),
                    Answer(delay=0.2, fault="close"),
                ]
            )
        variables = request.json["variables"]
        self.heard[variables["i_account"]].append(
            (
                request.i_event,
                (request.json["event_type"], variables.get("curr_id")),
                request.body,
                answer.status == 200 and answer.fault is None,
            )
        )
        return answer

    def check_order(self):
        """First receptions in order, each after its forerunner was taken; repetitions identical."""
        for account, heard in self.heard.items():
            bodies, taken = {}, set()
            for i_event, _, body, accepted in heard:
                if i_event in bodies:
                    assert body == bodies[i_event], "a repetition differs from the first"
                else:
                    assert all(i_event > earlier for earlier in bodies), (account, i_event)
                    assert taken == set(bodies), f"{account}: {i_event} came before its time"
                    bodies[i_event] = body
                if accepted:
                    taken.add(i_event)

    def check_no_step_back(self):
        """No event comes again after a later one: with one worker at a time, none ever does."""
        for account, heard in self.heard.items():
            numbers = [i_event for i_event, *_ in heard]
            assert numbers == sorted(numbers), f"account {account} was told old news"

    def check_complete(self, billing):
        """What was committed has been heard: all of it, in order of the commits, nothing else."""
        for account in range(1, ACCOUNTS + 1):
            said = {i_event: what for i_event, what, *_ in self.heard[account]}
            assert list(said.values()) == billing.expected[account], f"account {account}"

    def check_no_doubles(self):
        assert len(self.requests) == len({request.i_event for request in self.requests})

    @property
    def repetitions(self):
        return len(self.requests) - len({request.i_event for request in self.requests})


def check_journal(site, billing):
    """Every event has exactly one final verdict, and nothing was noted that never was."""
    committed = sum(map(len, billing.expected.values()))
    final = site.query(
        "SELECT i_event, verdict FROM Provisioning_Log WHERE verdict NOT IN ('retry', 'orphan')"
    )
    assert {verdict for _, verdict in final} == {"finished"}
    assert len(final) == len({i_event for i_event, _ in final}) == committed
    assert site.query("PRAGMA integrity_check") == [("ok",)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("template"))
    made.init()
    return made


@pytest.fixture
def site(template, tmp_path):
    made = template.copy(tmp_path)
    yield made
    made.kill_all()


async def test_twenty_kills_under_load_lose_nothing_and_change_no_order(site):
    choice = random.Random(3)
    async with Application(misbehaviour=0.06, slowness=0.02) as application:
        site.configure(application.url)
        with Billing(site) as billing:
            for number in range(KILLS):
                process = site.run()
                if number % 5 == 0:
                    # While it starts: it may or may not have taken the handler.
                    await asyncio.sleep(choice.uniform(0.3, 1.5))
                else:
                    await application.wait_for(len(application.requests) + 1)
                    await asyncio.sleep(choice.uniform(0, 0.8))
                assert process.poll() is None, "it ended by itself"
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
        site.run()
        await site.until_quiet()
    application.check_complete(billing)
    application.check_order()
    application.check_no_step_back()
    check_journal(site, billing)
    assert application.repetitions >= KILLS / 4, "the kills hit nothing"
    waits = sorted(billing.waits)
    assert waits[len(waits) * 99 // 100] < 0.25, "billing was held up"


async def test_sigterm_finishes_what_is_in_flight_starts_nothing_more_and_exits_with_0(site):
    async with Application() as application:
        application.always = Answer(delay=1.0)
        site.configure(application.url, **{"EventSender.AsyncMode": "off", "Concurrency": "3"})
        process = site.run()
        with Billing(site) as billing:
            await application.wait_for(3)
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            assert await asyncio.to_thread(process.wait, 5) == 0
            assert time.monotonic() - sent < 5, "it took longer than stop_grace"
        assert len(application.requests) == 3
        assert site.query("SELECT count(*) FROM Provisioning_Log") == [(3,)]
        assert site.owner() is None, "the handler was not given back"
        application.always = application._answer
        site.run()
        await site.until_quiet()
    application.check_no_doubles()
    check_journal(site, billing)


async def test_two_processes_share_a_database_and_a_dead_owner_is_replaced_at_once(site):
    async with Application() as application:
        site.configure(application.url)
        first = site.run()
        await site.until_owned_by(first)
        second = site.run()
        with Billing(site) as billing:
            await application.wait_for(200)
            application.check_no_doubles()
            first.kill()
            await asyncio.to_thread(first.wait)
            killed = time.monotonic()
            await application.wait_for(len(application.requests) + 20, TAKE_OVER_SECONDS)
            assert time.monotonic() - killed < 5, "a dead owner need not be waited for"
        await site.until_quiet()
        assert site.owner() == second.pid
    application.check_complete(billing)
    application.check_order()
    application.check_no_step_back()
    check_journal(site, billing)


async def test_a_frozen_owner_is_replaced_and_its_late_results_change_nothing(site):
    async with Application(slowness=0.3) as application:
        site.configure(application.url, **{"EventSender.RequestTimeout": "60"})
        first = site.run()
        await site.until_owned_by(first)
        second = site.run()
        with Billing(site, pause=0.08) as billing:
            await application.wait_for(50)
            first.send_signal(signal.SIGSTOP)
            await site.until_owned_by(second)
            await application.wait_for(len(application.requests) + 50)
            settled = site.query("SELECT max(i_log) FROM Provisioning_Log")[0][0]
            first.send_signal(signal.SIGCONT)
            async with asyncio.timeout(5):
                while not site.query(
                    "SELECT 1 FROM Provisioning_Log WHERE verdict = 'orphan' AND i_log > ?", settled
                ):
                    await asyncio.sleep(0.05)
        await site.until_quiet()
        assert site.owner() == second.pid
        # It has not lost its wits: when the other one goes, it is there.
        second.kill()
        await asyncio.to_thread(second.wait)
        await site.until_owned_by(first)
        assert first.poll() is None
    application.check_complete(billing)
    application.check_order()
    check_journal(site, billing)


async def test_a_kill_beside_an_open_billing_transaction_disturbs_neither(site):
    async with Application() as application:
        site.configure(application.url)
        billing = Billing(site)
        process = site.run()
        await site.until_owned_by(process)
        with site.billing() as connection:
            for account in range(1, 6):
                billing.change(connection, account)
            await application.wait_for(1)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE Accounts SET blocked = 'Y' WHERE i_account = 12")
            process.kill()
            await asyncio.to_thread(process.wait)
            site.run()
            await asyncio.sleep(2.0)
            connection.commit()
        billing.expected[12] = [("Account/Blocked", None)]
        await application.wait_for(sum(map(len, billing.expected.values())))
        await site.until_quiet()
    application.check_complete(billing)
    application.check_order()
    check_journal(site, billing)


async def test_a_billing_program_that_is_killed_in_its_transaction_has_changed_nothing(site):
    async with Application() as application:
        site.configure(application.url)
        site.run()
        script = (
            "import sqlite3, sys, time\n"
            "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute('BEGIN IMMEDIATE')\n"
            "c.execute(\"UPDATE Accounts SET blocked = 'Y' WHERE i_account = 1\")\n"
            "print('open', flush=True)\n"
            "time.sleep(60)\n"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", script, str(site.path)], stdout=subprocess.PIPE
        )
        with other:
            assert await asyncio.to_thread(other.stdout.readline) == b"open\n"
            other.kill()
        billing = Billing(site)
        with site.billing() as connection:
            while not billing.expected[1]:
                billing.change(connection, 1)
        await application.wait_for(2)
        await site.until_quiet()
    application.check_complete(billing)
    check_journal(site, billing)


async def test_a_database_that_is_locked_for_long_is_waited_for_and_said_so_once(site):
    async with Application() as application:
        site.configure(application.url)
        process = site.run()
        await site.until_owned_by(process)
        billing = Billing(site)
        with site.billing() as connection, site.billing() as hog:
            for account in range(1, ACCOUNTS + 1):
                billing.change(connection, account)
            await application.wait_for(1)
            hog.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(15)
            assert "the database is back" not in site.messages.read_text(), "reading is not writing"
            hog.rollback()
            for account in range(1, ACCOUNTS + 1):
                billing.change(connection, account)
        await site.until_quiet()
        assert process.poll() is None
        # Time for it to say that all is well.
        await asyncio.sleep(0.5)
    application.check_complete(billing)
    application.check_order()
    check_journal(site, billing)
    messages = site.messages.read_text()
    assert messages.count("waiting for the database") == 1, messages
    assert messages.count("the database is back") == 1, messages


async def test_looking_for_commits_outlives_a_database_that_cannot_be_read(site):
    with site.billing() as other:
        # Without the write-ahead log a writer shuts out the readers.
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        dialect = SqliteDialect(site.path)
        started = time.monotonic()
        await dialect.wait(0.2)
        assert time.monotonic() - started < 1, "the event loop was held up"
        other.rollback()
        await dialect.wait(0.2)
        other.execute("UPDATE Accounts SET blocked = 'Y' WHERE i_account = 1")
        other.commit()
        started = time.monotonic()
        await dialect.wait(5)
        assert time.monotonic() - started < 1, "a commit was overlooked"
        dialect.close()
