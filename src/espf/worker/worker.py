"""The worker process: takes handlers under lease, runs them, hands out what becomes due."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import EspfError
from espf.handlers.base import Billing, Handler
from espf.handlers.http import HttpClient
from espf.leases import Leases
from espf.queue import Queue
from espf.subscriptions import EventHandler, list_handlers
from espf.telemetry import ProvisioningLog
from espf.worker.patience import PatientDatabase
from espf.worker.runner import Runner, Tools
from espf.worker.settler import Settler

_log = logging.getLogger(__name__)

#: How long a lease holds without a sign of life, and how often one is given.
LEASE_SECONDS = 12.0
HEARTBEAT_SECONDS = 3.0

#: How long the results of the last attempts may take to be stored when the worker stops.
STORE_SECONDS = 5.0

#: After how long a handler that could not be opened is tried again.
REOPEN_SECONDS = 30.0

#: How often changes of handlers are looked for; they take effect within two seconds.
ROSTER_SECONDS = 0.5


class Worker:
    """Delivers for every enabled handler that no other worker owns, until it is told to stop."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        log: ProvisioningLog,
        client: HttpClient,
        billing: Callable[[int], Billing],
        stop_grace_seconds: float,
    ) -> None:
        self.name = _identity()
        self._raw = database
        self._database = PatientDatabase(database)
        self._sealer = sealer
        self._queue = Queue(database)
        self._leases = Leases(database)
        self._grace = stop_grace_seconds
        self._client = client
        self._runners: dict[int, Runner] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        # Handlers that could not be opened: at which version, what was said, when to try again.
        self._broken: dict[int, tuple[int, str, float]] = {}
        self._scheduled = asyncio.Event()
        self._settler = Settler(
            self._queue,
            self._database,
            log,
            lambda: sum(runner.under_way for runner in self._runners.values()),
        )
        self._tools = Tools(self._queue, self._database, self._settler, client, billing)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish what is under way and give the handlers back."""
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._settler.run(), name="settle")
            loops = [
                group.create_task(self._watch(), name="watch"),
                group.create_task(self._heartbeat(), name="heartbeat"),
                group.create_task(self._attend(), name="attend"),
                group.create_task(self._release_scheduled(), name="scheduled"),
            ]
            await stop.wait()
            for loop in loops:
                if loop.get_name() != "heartbeat":
                    loop.cancel()
            await self._leave()
            for task in (settling, *loops):
                task.cancel()

    async def _leave(self) -> None:
        for i_event_handler in list(self._runners):
            self._dismiss(i_event_handler)
        if self._leaving:
            # Longer than that only when the database is away: what is not stored is sent again.
            await asyncio.wait(list(self._leaving.values()), timeout=self._grace + STORE_SECONDS)

    # Loops

    async def _watch(self) -> None:
        """Step 3 of 8, wake: when somebody has committed, look for work."""
        while True:
            await self._raw.wait_for_work(1.0)
            self._scheduled.set()
            for runner in self._runners.values():
                runner.wake()
            # Many commits in a row make one look.
            await asyncio.sleep(0.001)

    async def _heartbeat(self) -> None:
        """Keep the leases; stop working for a handler that another worker has taken."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            epochs = await self._database.write(self._leases.extend, self.name, LEASE_SECONDS)
            for i_event_handler, runner in list(self._runners.items()):
                if epochs.get(i_event_handler) != runner.lease.epoch:
                    _log.warning("another worker took handler %s", runner.configured.name)
                    self._dismiss(i_event_handler, grace_seconds=0)

    async def _attend(self) -> None:
        """Keep up with the handlers: new, changed, switched on or off, deleted, left by others."""
        while True:
            handlers = {
                handler.i_event_handler: handler
                for handler in await self._database.fetch(list_handlers)
                if handler.enabled
            }
            for i_event_handler, runner in list(self._runners.items()):
                if runner.failed or i_event_handler not in handlers:
                    self._dismiss(i_event_handler)
            await self._take_free(handlers)
            for i_event_handler, runner in list(self._runners.items()):
                configured = handlers.get(i_event_handler)
                if configured and configured.version != runner.configured.version:
                    await self._reconfigure(runner, configured)
            await asyncio.sleep(ROSTER_SECONDS)

    async def _release_scheduled(self) -> None:
        """Hand out scheduled events at their time, sleeping until the next one."""
        while True:
            self._scheduled.clear()
            seconds = await self._database.fetch(self._queue.seconds_to_next_scheduled)
            if seconds is not None and seconds <= 0:
                await self._database.write(self._queue.release_scheduled)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._scheduled.wait()

    # Taking and leaving handlers

    async def _take_free(self, handlers: dict[int, EventHandler]) -> None:
        free = [
            i_event_handler
            for i_event_handler, handler in handlers.items()
            if i_event_handler not in self._runners
            and i_event_handler not in self._leaving
            and not self._is_broken(handler)
        ]
        if not free:
            return
        built = {}
        for i_event_handler in free:
            handler = await self._build(handlers[i_event_handler])
            if handler is not None:
                built[i_event_handler] = handler
        owners = await self._database.fetch(self._leases.owners)
        dead = [owner for owner in set(owners.values()) if _is_dead(owner)]
        leases = await self._database.write(
            self._leases.acquire, self.name, LEASE_SECONDS, list(built), dead
        )
        for lease in leases:
            configured = handlers[lease.i_event_handler]
            handler = built.pop(lease.i_event_handler)
            if handler.settings.on_failure == "continue":
                await self._database.write(self._queue.let_go, lease.i_event_handler)
            runner = Runner(configured, handler, lease, self._tools)
            self._runners[lease.i_event_handler] = runner
            runner.start()
            _log.info("working for handler %s", configured.name)
        for handler in built.values():
            await handler.close()

    async def _reconfigure(self, runner: Runner, configured: EventHandler) -> None:
        handler = await self._build(configured)
        if handler is None:
            self._dismiss(configured.i_event_handler)
        else:
            await runner.reconfigure(configured, handler)

    async def _build(self, configured: EventHandler) -> Handler | None:
        """Make a handler and open it; None, and a message, when its type or settings are wrong."""
        try:
            handler = configured.build(self._sealer)
            await handler.open()
        except (EspfError, OSError) as error:
            _, said, _ = self._broken.get(configured.i_event_handler, (0, "", 0.0))
            if str(error) != said:
                _log.error("handler %s cannot work: %s", configured.name, error)
            again = asyncio.get_running_loop().time() + REOPEN_SECONDS
            self._broken[configured.i_event_handler] = (configured.version, str(error), again)
            return None
        self._broken.pop(configured.i_event_handler, None)
        return handler

    def _is_broken(self, configured: EventHandler) -> bool:
        version, _, again = self._broken.get(configured.i_event_handler, (0, "", 0.0))
        return version == configured.version and asyncio.get_running_loop().time() < again

    def _dismiss(self, i_event_handler: int, grace_seconds: float | None = None) -> None:
        """Stop working for a handler and give its lease back when everything is stored."""
        runner = self._runners.pop(i_event_handler)
        grace = self._grace if grace_seconds is None else grace_seconds

        async def leave() -> None:
            await runner.stop(grace)
            await self._database.write(self._leases.release, self.name, [i_event_handler])

        task = asyncio.create_task(leave(), name=f"leave {runner.configured.name}")
        self._leaving[i_event_handler] = task
        task.add_done_callback(lambda _: self._leaving.pop(i_event_handler, None))


def _identity() -> str:
    """Who this process is, so that others can tell whether it is still there."""
    return f"{_host()}/{os.getpid()}/{_started(os.getpid())}"


def _host() -> str:
    """Name the machine, and within it the space in which process numbers mean something."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began, in the kernel's own unit; empty where that cannot be told."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A process that has ended but was not waited for works for nobody.
        return fields[19] if fields[0] not in "ZX" else ""
    return ""


def _is_dead(owner: str) -> bool:
    """Whether the owner of a lease was a process of this machine that is there no more."""
    host, _, rest = owner.rpartition("/")
    host, _, pid = host.rpartition("/")
    if host != _host() or not pid.isdigit() or not rest:
        return False
    return _started(int(pid)) != rest
