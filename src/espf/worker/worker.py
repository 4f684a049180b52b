"""The worker process: takes handlers under lease, runs them, hands out what becomes due."""

import asyncio
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from espf import configuration, statistics
from espf.backlog import Backlog
from espf.configuration import Configuration
from espf.crypto import Sealer
from espf.db.database import Database
from espf.db.dialect import Noticed
from espf.dispatches import Dispatches
from espf.errors import DatabaseUnavailable, EspfError
from espf.handlers.base import Billing, Handler
from espf.handlers.http import HttpClient
from espf.leases import LEASE_SECONDS, Lease, Leases, Roll, deal
from espf.maintenance import BreakerNews, store_breakers
from espf.queue import Queue
from espf.restarts import let_go
from espf.subscriptions import EventHandler, list_handlers
from espf.telemetry import ProvisioningLog
from espf.timeline import held_keys
from espf.worker.breaker import Breaker, Shown
from espf.worker.meter import LAG_BOUNDS, Distribution, Meters, watch_loop
from espf.worker.outlet import QueueOutlet
from espf.worker.patience import PatientDatabase
from espf.worker.reader import Reader
from espf.worker.runner import Runner, Tools
from espf.worker.settler import Settler

if TYPE_CHECKING:
    from espf.worker.tracing import Tracer

_log = logging.getLogger(__name__)

#: How often a sign of life is given.
HEARTBEAT_SECONDS = 3.0

#: How long the results of the last attempts may take to be stored when the worker stops.
STORE_SECONDS = 5.0

#: After how long a handler that could not be opened is tried again.
REOPEN_SECONDS = 30.0

#: How long a shard waits for the worker that it falls to, before another takes it.
ORPHAN_SECONDS = 5.0

#: How soon after its commit a scheduled event is known, at the latest.
SCHEDULE_SECONDS = 0.1

#: How often what was counted is stored. What was counted since is lost when the worker is killed.
STATISTICS_SECONDS = 5.0

#: How often changes of handlers are looked for; they take effect within two seconds.
ROSTER_SECONDS = 1.0


@dataclass(frozen=True)
class _Roster:
    """What the database says about handlers and workers, in one picture.

    ``handlers`` are those that this worker may work for.
    """

    handlers: Mapping[int, EventHandler]
    roll: Roll
    configuration: Configuration

    @property
    def maintenance(self) -> bool:
        """Whether all deliveries wait."""
        return self.configuration.provisioning.maintenance

    def able(self, i_event_handler: int, alive: Sequence[str]) -> list[str]:
        """Who of these workers may work for a handler."""
        handler = self.handlers[i_event_handler]
        return [
            worker
            for worker in alive
            if self.configuration.serves(self.roll.instances[worker], handler.i_env, handler.name)
        ]


class Worker:
    """Delivers for the shards of enabled handlers that fall to it, until it is told to stop."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        log: ProvisioningLog,
        client: HttpClient,
        billing: Callable[[int], Billing],
        stop_grace_seconds: float,
        instance: str = "",
        tracer: "Tracer | None" = None,
    ) -> None:
        self.name = _identity()
        self._instance = instance
        # Why an instance delivers nothing, as it was said last.
        self._idle_reason = ""
        self._raw = database
        self.database = PatientDatabase(database)
        self._sealer = sealer
        self._queue = Queue(database)
        self._leases = Leases(database)
        self._grace = stop_grace_seconds
        self.meters = Meters()
        self.lag = Distribution(LAG_BOUNDS)
        self._runners: dict[int, Runner] = {}
        # Work that is being given up, by handler.
        self._leaving: dict[asyncio.Task[None], int] = {}
        # Handlers that could not be opened: at which revision, what was said, when to try again.
        self._broken: dict[int, tuple[tuple[object, ...], str, float]] = {}
        # Shards that belong to nobody who takes them: since when; and those we took for that.
        self._orphaned: dict[tuple[int, int], float] = {}
        self._adopted: set[tuple[int, int]] = set()
        # Shards that are ours until what is under way is stored.
        self._departing: set[tuple[int, int]] = set()
        self._alive: Sequence[str] = ()
        self._lease_until = 0.0
        self._scheduled = asyncio.Event()
        # How the breakers stood when people were told last.
        self._told: dict[int, Shown] = {}
        self.settler = Settler(
            self._queue,
            self.database,
            log,
            lambda: sum(runner.under_way for runner in self._runners.values()),
            database.dialect,
        )
        self._reader = Reader(Backlog(database), self.database, lambda: self.runners, tracer)
        self._tools = Tools(
            settler=self.settler,
            client=client,
            billing=billing,
            outlet=partial(QueueOutlet, Dispatches(database), self.database),
            meter=self.meters.of,
            wake_reader=self._reader.wake,
            lease_holds=lambda: self.lease_holds,
            running_lag_seconds=database.dialect.running_lag_seconds,
            tracer=tracer,
        )

    @property
    def runners(self) -> Sequence[Runner]:
        """The work for each handler."""
        return list(self._runners.values())

    @property
    def lease_holds(self) -> bool:
        """Whether its leases are sure to be in force: its last sign of life is not too old."""
        return asyncio.get_running_loop().time() < self._lease_until

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish what is under way and give the shards back."""
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self.settler.run(), name="settle")
            loops = [
                group.create_task(self._watch(), name="watch"),
                group.create_task(self._heartbeat(), name="heartbeat"),
                group.create_task(self._attend(), name="attend"),
                group.create_task(self._release_scheduled(), name="scheduled"),
                group.create_task(self._reader.run(), name="read"),
                group.create_task(self._keep_statistics(), name="statistics"),
                group.create_task(watch_loop(self.lag), name="lag"),
            ]
            await stop.wait()
            for loop in loops:
                if loop.get_name() != "heartbeat":
                    loop.cancel()
            await self._leave()
            for task in (settling, *loops):
                task.cancel()

    async def _leave(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STORE_SECONDS):
                await self.database.write(self._leases.begin_leaving, self.name)
        for i_event_handler in list(self._runners):
            self._dismiss(i_event_handler)
        # Longer than that only when the database is away: what is not stored is sent again.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace + STORE_SECONDS):
                if self._leaving:
                    await asyncio.wait(list(self._leaving))
                await self._store_statistics()
                await self.database.write(self._leases.sign_off, self.name)

    # Loops

    async def _watch(self) -> None:
        """Step 3 of 8, wake: when somebody has committed, look for work."""
        while True:
            noticed = await self._raw.wait_for_work(1.0)
            self._scheduled.set()
            if noticed is Noticed.NOTHING:
                # The runners look by themselves from time to time.
                continue
            for runner in self._runners.values():
                runner.wake(only_new=noticed is Noticed.EVENTS)
            # Many commits in a row make one look.
            await asyncio.sleep(0)

    async def _heartbeat(self) -> None:
        """Say that we are there; stop working for shards that another worker has taken."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.database.write(
                self._leases.sign_of_life, self.name, LEASE_SECONDS, self._instance
            )
            held = await self.database.fetch(self._leases.held, self.name)
            for i_event_handler, runner in self._runners.items():
                lost = [
                    shard
                    for shard, epoch in runner.epochs.items()
                    if held.get((i_event_handler, shard), epoch) != epoch
                    or (i_event_handler, shard) not in held
                ]
                if lost:
                    _log.warning("another worker took shards of %s", runner.configured.name)
                    runner.forsake(lost)
            # Counted from before: the others may think so, too.
            self._lease_until = began + LEASE_SECONDS - 1.0
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _attend(self) -> None:
        """Keep up with handlers and workers: new, changed, paused, switched off, gone."""
        while True:
            if self.lease_holds:
                roster = await self.database.fetch(self._look)
                self._tell_idleness(roster.configuration)
                self._confine(roster.handlers.values())
                await self._keep_up(roster)
                await self._share(roster)
                await self._tell_breakers()
            await asyncio.sleep(ROSTER_SECONDS if self._alive else 0.01)

    def _look(self, connection: Connection) -> _Roster:
        content = configuration.active(connection).content
        return _Roster(
            handlers={
                handler.i_event_handler: handler
                for handler in list_handlers(connection, usual=content.provisioning)
                if handler.enabled and content.serves(self._instance, handler.i_env, handler.name)
            },
            # Its own are in its runners: with many handlers they are most of all leases.
            roll=self._leases.roll(connection, besides=self.name),
            configuration=content,
        )

    def _confine(self, handlers: Iterable[EventHandler]) -> None:
        """Have handlers call no networks but those that their environment may call now."""
        for one in handlers:
            self._tools.client.of_environment(one.i_env).confine(one.networks)

    def _tell_idleness(self, content: Configuration) -> None:
        """Say once that our instance is disabled or gone, and once that it is not any more."""
        reason = ""
        if self._instance and self._instance not in content.instances:
            reason = "is not in the active configuration any more"
        elif self._instance and not content.instances[self._instance].enabled:
            reason = "is disabled"
        if reason:
            if reason != self._idle_reason:
                _log.warning("instance %s %s: it waits", self._instance, reason)
        elif self._idle_reason:
            _log.warning("instance %s is enabled: it works", self._instance)
        self._idle_reason = reason

    async def _release_scheduled(self) -> None:
        """Hand out scheduled events at their time, sleeping until the next one."""
        while True:
            self._scheduled.clear()
            seconds = await self.database.fetch(self._queue.seconds_to_next_scheduled)
            if seconds is not None and seconds <= 0:
                if not await self.database.write(self._queue.release_scheduled):
                    # Another worker is at it.
                    await asyncio.sleep(0.05)
                continue
            rest = min(seconds or 60.0, 60.0)
            # However much is committed, it is looked for only so often.
            pause = min(rest, SCHEDULE_SECONDS)
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(rest - pause):
                    await self._scheduled.wait()

    async def _tell_breakers(self) -> None:
        """Let people see which handlers rest."""
        now = asyncio.get_running_loop().time()
        shown = {i: runner.breaker.shown() for i, runner in self._runners.items()}
        closed = Breaker().shown()
        news = {
            i: BreakerNews(
                one.state,
                now - one.since,
                None if one.probe_at is None else one.probe_at - now,
                one.reason,
            )
            for i, one in shown.items()
            if one != self._told.get(i, closed)
        }
        if news:
            await self.database.write(store_breakers, self._raw, self.name, news)
        self._told = shown

    async def _keep_statistics(self) -> None:
        while True:
            await asyncio.sleep(STATISTICS_SECONDS)
            await self._store_statistics()

    async def _store_statistics(self) -> None:
        """Store what was counted. Nothing waits for that: it can be done later as well."""
        if counted := self.meters.take():
            try:
                await self._raw.write(statistics.store, self._raw, counted)
            except DatabaseUnavailable:
                self.meters.put_back(counted)

    # Taking and leaving work

    async def _keep_up(self, roster: _Roster) -> None:
        for i_event_handler, runner in list(self._runners.items()):
            configured = roster.handlers.get(i_event_handler)
            if runner.failed or configured is None:
                self._dismiss(i_event_handler)
                continue
            was = runner.configured
            # To be equal is told sooner than what a revision is made of.
            if configured != was and configured.revision != was.revision:
                await self._reconfigure(runner, configured)
            runner.pause(paused=configured.paused or roster.maintenance)
        for i_event_handler, configured in roster.handlers.items():
            if (
                i_event_handler not in self._runners
                and i_event_handler not in self._leaving.values()
                and not self._is_broken(configured)
            ):
                handler = await self._build(configured)
                if handler is not None:
                    runner = Runner(configured, handler, self._tools)
                    runner.hold(await self.database.fetch(held_keys, i_event_handler))
                    runner.pause(paused=configured.paused or roster.maintenance)
                    self._runners[i_event_handler] = runner
                    runner.start()

    async def _share(self, roster: _Roster) -> None:
        """Have the shards that fall to us, and no others that somebody waits for."""
        others = {*roster.roll.owners.values()}
        dead = {owner for owner in others if _is_dead(owner)}
        alive = [worker for worker in roster.roll.instances if worker not in dead]
        if alive != self._alive:
            self._alive = alive
            self._adopted.clear()
            self._orphaned.clear()
        units = {i: runner.units for i, runner in self._runners.items()}
        dealt = deal(units, {i: roster.able(i, alive) for i in units})
        for i_event_handler, runner in self._runners.items():
            surplus = [
                shard
                for shard in runner.epochs
                if dealt.get((i_event_handler, shard), self.name) != self.name
                and (i_event_handler, shard) not in self._adopted
            ]
            if surplus:
                self._hand_over(i_event_handler, runner, surplus)
        free = {
            place: owner
            for place, worker in dealt.items()
            if (owner := roster.roll.owners.get(place, "")) in {"", *dead} or owner not in alive
            if worker == self.name or self._is_orphaned(place)
        }
        wanted = [
            place
            for place in free
            if place[1] not in self._runners[place[0]].epochs and place not in self._departing
        ]
        if wanted:
            await self._take(wanted, dead)

    def _is_orphaned(self, place: tuple[int, int]) -> bool:
        """Whether nobody has taken a shard for a while: its worker cannot, as it seems."""
        now = asyncio.get_running_loop().time()
        if now - self._orphaned.setdefault(place, now) < ORPHAN_SECONDS:
            return False
        self._adopted.add(place)
        return True

    async def _take(self, wanted: Sequence[tuple[int, int]], dead: Collection[str]) -> None:
        leases = await self.database.write(self._leases.acquire, self.name, wanted, dead)
        by_handler: dict[int, list[Lease]] = defaultdict(list)
        for lease in leases:
            by_handler[lease.i_event_handler].append(lease)
            self._orphaned.pop((lease.i_event_handler, lease.shard), None)
        for i_event_handler, some in by_handler.items():
            runner = self._runners[i_event_handler]
            if not runner.epochs:
                _log.info("working for handler %s", runner.configured.name)
                await self._let_go(runner)
            runner.take_on(some)

    async def _let_go(self, runner: Runner) -> None:
        if runner.continues:
            await self.database.write(let_go, runner.configured.i_event_handler)

    def _hand_over(self, i_event_handler: int, runner: Runner, shards: Collection[int]) -> None:
        """Give shards to whom they fall now, each as soon as nothing of it is under way."""

        async def hand_over() -> None:
            idle = set(shards) - runner.busy(shards)
            for some in (idle, set(shards) - idle):
                await runner.give_up(some)
                await self._release(i_event_handler, some)

        self._departing |= {(i_event_handler, shard) for shard in shards}
        runner.forsake(shards)

        task = asyncio.create_task(hand_over(), name=f"hand over {runner.configured.name}")
        self._leaving[task] = 0
        task.add_done_callback(lambda task: self._leaving.pop(task, None))

    async def _reconfigure(self, runner: Runner, configured: EventHandler) -> None:
        handler = await self._build(configured)
        if handler is None:
            self._dismiss(configured.i_event_handler)
        else:
            await runner.reconfigure(configured, handler)
            await self._let_go(runner)
            runner.hold(await self.database.fetch(held_keys, configured.i_event_handler))
            runner.look_again()

    async def _build(self, configured: EventHandler) -> Handler | None:
        """Make a handler and open it; None, and a message, when its type or settings are wrong."""
        try:
            handler = configured.build(self._sealer)
            await handler.open()
        except (EspfError, OSError) as error:
            _, said, _ = self._broken.get(configured.i_event_handler, ((), "", 0.0))
            if str(error) != said:
                _log.error("handler %s cannot work: %s", configured.name, error)
            again = asyncio.get_running_loop().time() + REOPEN_SECONDS
            self._broken[configured.i_event_handler] = (configured.revision, str(error), again)
            return None
        self._broken.pop(configured.i_event_handler, None)
        return handler

    def _is_broken(self, configured: EventHandler) -> bool:
        revision, _, again = self._broken.get(configured.i_event_handler, ((), "", 0.0))
        return revision == configured.revision and asyncio.get_running_loop().time() < again

    def _dismiss(self, i_event_handler: int) -> None:
        """Stop working for a handler; give its shards back, each as soon as all is stored."""
        runner = self._runners.pop(i_event_handler)
        shards = set(runner.epochs)

        async def leave() -> None:
            idle = shards - runner.busy(shards)
            await self._release(i_event_handler, idle)
            await runner.give_up(shards, self._grace)
            await runner.stop()
            await self._release(i_event_handler, shards - idle)

        self._departing |= {(i_event_handler, shard) for shard in shards}
        runner.forsake(shards)
        task = asyncio.create_task(leave(), name=f"leave {runner.configured.name}")
        self._leaving[task] = i_event_handler
        task.add_done_callback(lambda task: self._leaving.pop(task, None))

    async def _release(self, i_event_handler: int, shards: Collection[int]) -> None:
        if shards:
            places = [(i_event_handler, shard) for shard in shards]
            await self.database.write(self._leases.release, self.name, places)
            self._departing.difference_update(places)


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
