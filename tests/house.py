"""A worker over a test database, with handlers that post to a real server, for the test suites."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from espf import overview, restarts, subscriptions
from espf.backlog import Backlog
from espf.crypto import Sealer
from espf.db.database import Database
from espf.db.tables import event_notifications, event_queue
from espf.handlers.billing_client import BillingClient
from espf.handlers.http import HttpClient
from espf.leases import Leases
from espf.model import shard_of
from espf.overview import Overview
from espf.queue import Queue
from espf.sources import Filter
from espf.subscriptions import EventHandler
from espf.telemetry import ProvisioningLog
from espf.worker.worker import Worker

#: What has not come true by then never will, however slow the machine is.
PATIENCE_SECONDS = 60.0

QUICK = {"EventSender.APIVersion": "1", "EventSender.AuthMethod": "None"}


class House:
    """ESPF around one database: make handlers and events, see what became of them."""

    def __init__(self, database: Database, sealer: Sealer, folder: Path) -> None:
        self.database = database
        self.sealer = sealer
        self.queue = Queue(database)
        self.backlog = Backlog(database)
        self.log_path = folder / "provisioning.log"
        self.url = database._engine.url.render_as_string(hide_password=False)
        self._running: dict[Worker, asyncio.Task[None]] = {}
        self._stops: dict[Worker, asyncio.Event] = {}

    def handler(
        self, url: str, name: str = "Sender", i_env: int = 1, **options: object
    ) -> EventHandler:
        """An EventSender of version 1 without authentication, and what else is given."""
        settings: dict[str, object] = {**QUICK, "EventSender.URL": url}
        settings.update({key.replace("__", "."): value for key, value in options.items()})
        with self.database.begin() as connection:
            return subscriptions.create_handler(
                connection, self.sealer, i_env, name, "EventSender", settings
            )

    def change(self, handler: EventHandler, **options: object) -> None:
        with self.database.begin() as connection:
            current = subscriptions.require_handler(connection, handler.i_env, handler.name)
            changed = {key.replace("__", "."): value for key, value in options.items()}
            subscriptions.set_options(connection, self.sealer, current, changed)

    def event(
        self,
        event_type: str = "Account/Blocked",
        i_env: int = 1,
        start_time: datetime | None = None,
        **variables: object,
    ) -> int:
        with self.database.begin() as connection:
            return self.queue.create_event(connection, i_env, event_type, variables, start_time)

    def events(self, **wanted: object) -> list[Overview]:
        with self.database.read() as connection:
            return overview.search(connection, Filter(**wanted), 100_000)  # type: ignore[arg-type]

    def statuses(self) -> Mapping[int, str]:
        """Each event with its status; with that of a handler that is not done, while there is one.

        Lists of events have what is not done before what is.
        """
        return {one.i_event: one.status for one in reversed(self.events())}

    def flood(
        self,
        handler: EventHandler,
        count: int,
        accounts: int = 1000,
        due_from: datetime | None = None,
    ) -> list[int]:
        """Many events in one transaction, as triggers make them; returns their numbers.

        With ``due_from`` they have been restarted, and are due from then on, one every 5 ms.
        """
        q = event_queue.c
        with self.database.begin() as connection:
            before = connection.execute(select(func.max(q.i_event))).scalar_one() or 0
            now = self.database.now(connection)
            one = {"i_env": 1, "event_type": "Account/Blocked", "created_at": now, "notified": 1}
            made = [
                {
                    **one,
                    "ordering_key": f"account:{n % accounts}",
                    "variables": f'{{"i_env":1,"i_account":{n % accounts}}}',
                }
                for n in range(count)
            ]
            connection.execute(insert(event_queue), made)
            rows = connection.execute(
                select(q.i_event, q.ordering_key).where(q.i_event > before).order_by(q.i_event)
            ).all()
            notifications = [
                {
                    "i_event_handler": handler.i_event_handler,
                    "position": i_event,
                    "i_event": i_event,
                    "shard": shard_of(key),
                    "ordering_key": due_from and key,
                    "next_attempt_at": due_from and due_from + timedelta(milliseconds=5 * n),
                }
                for n, (i_event, key) in enumerate(rows)
            ]
            connection.execute(insert(event_notifications), notifications)
            self.database.announce(connection)
        return [i_event for i_event, _ in rows]

    def restart(self, i_event: int, handler: EventHandler | None = None) -> list[str]:
        with self.database.begin() as connection:
            return restarts.restart(connection, self.database, i_event, handler)

    def live_rows(self) -> tuple[int, ...]:
        return tuple(len(self.rows(table)) for table in ("Event_Queue", "Event_Notifications"))

    def rows(self, table: str) -> list[Mapping[str, Any]]:
        with self.database.read() as connection:
            rows = connection.exec_driver_sql(f"SELECT * FROM {table}")
            return [dict(row) for row in rows.mappings()]

    def owners(self) -> Mapping[tuple[int, int], str]:
        """Who has which shard of which handler."""
        with self.database.read() as connection:
            return Leases(self.database).roll(connection).owners

    def log_lines(self) -> list[str]:
        return self.log_path.read_text().splitlines() if self.log_path.exists() else []

    @asynccontextmanager
    async def working(
        self,
        name: str | None = None,
        grace: float = 5.0,
        billing_url: str = "http://127.0.0.1:1",
        instance: str = "",
        tracer: Any = None,
    ) -> AsyncIterator[Worker]:
        """A worker with its own way to the database, for as long as the block lasts.

        Workers of one test process need ``name``, since they are known by their process. Nobody
        listens at the ``billing_url`` unless one is given: most handlers do not ask the billing.
        """
        stop = asyncio.Event()
        database = Database.open(self.url)
        async with HttpClient() as client:
            log = ProvisioningLog(self.log_path)
            billing = BillingClient(client, billing_url, "nobody", "nothing")
            worker = Worker(
                database,
                self.sealer,
                log,
                client,
                billing.for_environment,
                grace,
                instance,
                tracer,
            )
            worker.name = name or worker.name
            running = asyncio.create_task(worker.run(stop))
            self._running[worker], self._stops[worker] = running, stop
            try:
                yield worker
            finally:
                stop.set()
                await asyncio.gather(running, return_exceptions=running.cancelled())
                database.close()
                log.close()

    async def stop(self, worker: Worker) -> None:
        """End a worker in peace."""
        self._stops[worker].set()
        await self._running[worker]

    async def kill(self, worker: Worker) -> None:
        """End a worker without a word, as far as the database and the others can see."""
        running = self._running[worker]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for runner in worker._runners.values():
            if runner._sending is not None:
                runner._sending.cancel()
            runner._cut()

    async def come_true(
        self, condition: Callable[[], bool], timeout: float = PATIENCE_SECONDS
    ) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(timeout):
            while True:
                began = time.monotonic()
                if condition():
                    return
                # Whoever looks holds up the workers, which are to have most of the time.
                await asyncio.sleep(max(0.01, 3 * (time.monotonic() - began)))

    async def until(self, *statuses: str, timeout: float = PATIENCE_SECONDS) -> Mapping[int, str]:
        """Wait until every event has one of these statuses, for each of its handlers."""
        found: Mapping[int, str] = {}

        def reached() -> bool:
            nonlocal found
            found = self.statuses()
            return all(status in statuses for status in found.values())

        await self.come_true(reached, timeout)
        return found
