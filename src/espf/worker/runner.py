"""The work for one event handler: read what waits, pace it, deliver it, in order per lane."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from espf.errors import Misconfigured
from espf.handlers.base import Billing, Handler
from espf.handlers.http import HttpClient
from espf.leases import Lease
from espf.model import Notification, Status
from espf.queue import Queue, Result, Settled, Wanted
from espf.subscriptions import EventHandler
from espf.worker.delivery import Batch, deliver
from espf.worker.lanes import Lanes
from espf.worker.limits import TokenBucket
from espf.worker.patience import PatientDatabase
from espf.worker.retry import REST, RetryPolicy, decide
from espf.worker.settler import Outcome, Settler

_log = logging.getLogger(__name__)

#: Notifications that one handler holds in memory; the rest waits in the database.
WINDOW = 2000

#: Requests of one handler that may be open at a time when it does not wait for replies.
MOST_OPEN = 1000

#: New notifications are read when this many fit, so that a full window is not read one by one.
READ_AT_LEAST = 200

#: Lanes that are gone on with in one read.
REFILLS = 50


@dataclass(frozen=True)
class Tools:
    """What every runner of a worker shares."""

    queue: Queue
    database: PatientDatabase
    settler: Settler
    client: HttpClient
    billing: Callable[[int], Billing]


class Runner:
    """Owns one event handler under a lease, until it is stopped."""

    def __init__(
        self, configured: EventHandler, handler: Handler, lease: Lease, tools: Tools
    ) -> None:
        self.configured = configured
        self.lease = lease
        self._tools = tools
        self._lanes = Lanes(WINDOW)
        self._after = 0
        self._wake_reader = asyncio.Event()
        self._wake_sender = asyncio.Event()
        self._open: dict[asyncio.Task[None], Handler] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._lost = False
        self._unsettled = 0
        self._all_settled = asyncio.Event()
        self._all_settled.set()
        self._resting_until = 0.0
        self._doubtful = False
        self._handler = handler
        self._adopt(handler)
        self._loops: list[asyncio.Task[None]] = []

    @property
    def under_way(self) -> int:
        """Attempts that have begun and whose result is not known yet."""
        return len(self._open)

    def start(self) -> None:
        """Begin to read and to send."""
        self._loops = [
            asyncio.create_task(self._guarded(loop()))
            for loop in (self._read_loop, self._send_loop)
        ]

    def wake(self) -> None:
        """Something was committed: look whether there is work."""
        self._wake_reader.set()

    @property
    def failed(self) -> bool:
        """Whether this cannot go on: another worker has the handler, or a fault ended a loop."""
        return self._lost or any(loop.done() for loop in self._loops)

    async def reconfigure(self, configured: EventHandler, handler: Handler) -> None:
        """Go on with new settings; attempts under way end under the old ones."""
        old = self._handler
        self.configured = configured
        self._adopt(handler)
        self._resting_until, self._doubtful = 0.0, False
        if handler.settings.on_failure == "continue":
            await self._tools.database.write(
                self._tools.queue.let_go, self.configured.i_event_handler
            )
        self._wake_sender.set()
        if old not in self._open.values():
            self._retire(old)

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing more; give what is under way some time, then cut it. It is sent again.

        Returns when every result is stored.
        """
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._open:
            _, late = await asyncio.wait(list(self._open), timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._retire(self._handler)
        await asyncio.gather(*self._closing)
        await self._all_settled.wait()

    def _retire(self, handler: Handler) -> None:
        """Close a handler that is not needed any more, in its own time."""

        async def close() -> None:
            try:
                await handler.close()
            except Exception:  # noqa: BLE001  (a foreign handler may raise anything)
                _log.exception("handler %s did not close", self.configured.name)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _adopt(self, handler: Handler) -> None:
        self._handler = handler
        self._policy = RetryPolicy.of(handler.settings)
        self._pacing = pacing = handler.pacing()
        now = asyncio.get_running_loop().time()
        self._bucket = (
            TokenBucket(pacing.rate, pacing.burst, now) if pacing.rate is not None else None
        )

    async def _guarded(self, loop: Coroutine[None, None, None]) -> None:
        try:
            await loop
        except Exception:  # noqa: BLE001  (one handler's end is not the worker's)
            _log.exception("the work for handler %s is begun anew", self.configured.name)

    # Reading

    async def _read_loop(self) -> None:
        while True:
            self._wake_reader.clear()
            idle_seconds = await self._read()
            if idle_seconds <= 0:
                continue
            try:
                async with asyncio.timeout(idle_seconds):
                    await self._wake_reader.wait()
            except TimeoutError:
                pass

    async def _read(self) -> float:
        """Read once; returns the seconds until it makes sense to look again."""
        lanes = self._lanes
        wanted = Wanted(
            i_event_handler=self.configured.i_event_handler,
            after=self._after,
            room=lanes.room if lanes.room >= READ_AT_LEAST else 0,
            due_room=lanes.due_room,
            refill=lanes.wants_refill(REFILLS),
        )
        lanes.read_begins()
        found = await self._tools.database.fetch(self._tools.queue.read, wanted)
        lanes.read_ended()
        for notification in found.due:
            lanes.offer_due(notification)
        for key, (followers, more) in found.refilled.items():
            lanes.refill(key, followers, more=more)
        for notification, behind in found.new:
            lanes.offer(notification, behind=behind)
            self._after = notification.position
        if lanes.ready:
            self._wake_sender.set()
        more_to_read = wanted.room and len(found.new) == wanted.room
        if more_to_read or lanes.wants_refill(1):
            return 0.0
        return 1.0 if found.next_due_seconds is None else min(1.0, found.next_due_seconds)

    # Sending

    async def _send_loop(self) -> None:
        while True:
            await self._wake_sender.wait()
            self._wake_sender.clear()
            await self._rested()
            if self._bucket is None:
                self._send_slots()
            else:
                await self._send_batches(self._bucket)

    async def _rested(self) -> None:
        """After the handler's settings were refused, wait before the next try."""
        loop = asyncio.get_running_loop()
        while (seconds := self._resting_until - loop.time()) > 0:
            self._wake_sender.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake_sender.wait()
            except TimeoutError:
                pass

    def _send_slots(self) -> None:
        """Fill the free slots; each one frees when its attempt is over."""
        while len(self._open) < self._limit() and (notification := self._lanes.take()):
            self._send(notification, None)

    async def _send_batches(self, bucket: TokenBucket) -> None:
        """Send what is ready at the bucket's rate, without waiting for answers."""
        loop = asyncio.get_running_loop()
        while self._lanes.ready and self._may_send(bucket):
            batch = Batch()
            for _ in range(self._pacing.burst):
                # While it waits for a token the handler may have been changed, or come to rest.
                while (  # noqa: ASYNC110  (it is time that is waited for)
                    self._may_send(bucket) and (seconds := bucket.take(loop.time())) > 0
                ):
                    await asyncio.sleep(seconds)
                if not self._may_send(bucket) or (notification := self._lanes.take()) is None:
                    break
                self._send(notification, batch)
            if self._pacing.max_wait is not None:
                batch.sent(self._pacing.max_wait.total_seconds())

    def _may_send(self, bucket: TokenBucket) -> bool:
        """Whether one more may go out now, at the pace of this bucket."""
        return bucket is self._bucket and len(self._open) < self._limit()

    def _limit(self) -> int:
        """Attempts that may be under way now."""
        if self._lost or self._resting_until > asyncio.get_running_loop().time():
            return 0
        if self._doubtful:
            return 1
        return self._pacing.concurrency if self._bucket is None else MOST_OPEN

    def _send(self, notification: Notification, batch: Batch | None) -> None:
        handler = self._handler
        task = asyncio.create_task(self._attempt(handler, notification, batch))
        self._open[task] = handler
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        handler = self._open.pop(task)
        self._wake_sender.set()
        if handler is not self._handler and handler not in self._open.values():
            self._retire(handler)
        if not task.cancelled():
            task.result()

    async def _attempt(
        self, handler: Handler, notification: Notification, batch: Batch | None
    ) -> None:
        delivery = await deliver(
            handler,
            notification,
            self._tools.client,
            self._tools.billing(notification.event.i_env),
            batch,
        )
        attempt = notification.attempts + 1
        spread = random.uniform(-1, 1)  # noqa: S311  (spreads retries; no secret)
        decision = decide(delivery.outcome, attempt, self._policy, spread)
        self._doubt(delivery.outcome)
        result = Result(
            notification=notification,
            handler=self.configured.name,
            epoch=self.lease.epoch,
            decision=decision,
            duration_ms=delivery.duration_ms,
            request=delivery.request,
            response=delivery.response,
        )
        self._unsettled += 1
        self._all_settled.clear()
        self._tools.settler.put(Outcome(result, self._settled))

    def _doubt(self, outcome: Exception | None) -> None:
        """Rest when the handler's own settings are refused; then one event tries at a time."""
        if isinstance(outcome, Misconfigured):
            if not self._doubtful:
                _log.warning("handler %s rests: %s", self.configured.name, outcome)
            self._doubtful = True
            self._resting_until = asyncio.get_running_loop().time() + REST.total_seconds()
        elif self._doubtful:
            self._doubtful = False
            _log.warning("handler %s works again", self.configured.name)

    def _settled(self, settled: Settled) -> None:
        self._unsettled -= 1
        if not self._unsettled:
            self._all_settled.set()
        if not settled.applied:
            # Another worker has the handler, and may be ahead by now: nothing more goes out.
            self._lost = True
            return
        decision = settled.result.decision
        waits = decision.status is Status.QUEUED or decision.hold
        self._lanes.settled(settled.result.notification, waits=waits)
        if self._lanes.ready:
            self._wake_sender.set()
        self._wake_reader.set()
