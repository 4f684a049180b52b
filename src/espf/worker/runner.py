"""The work for one event handler: paced, and delivered, in order per lane."""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espf.attempt import presentable, run_once
from espf.backlog import Found, Wanted
from espf.catalogue import LatestOnly
from espf.handlers.base import Billing, Handler, Pacing, PostHandler
from espf.handlers.http import HttpClient
from espf.handlers.post import Poster, Posting
from espf.leases import Lease
from espf.model import SHARDS, Decision, Notification, Result, Said, Settled, Status
from espf.retry import FINISHED, RetryPolicy, decide
from espf.subscriptions import EventHandler
from espf.worker.breaker import Breaker
from espf.worker.delivery import Batch
from espf.worker.frontier import Frontier
from espf.worker.lanes import Lanes
from espf.worker.limits import TokenBucket
from espf.worker.meter import Meter
from espf.worker.outlet import QueueOutlet
from espf.worker.settler import Settler

if TYPE_CHECKING:
    from datetime import datetime

    from espf.worker.tracing import Tracer

_log = logging.getLogger(__name__)

#: Notifications that one handler holds in memory; the rest waits in the database.
WINDOW = 2000

#: Requests of one handler that may be open at a time when it does not wait for replies.
MOST_OPEN = 1000

#: New notifications are read when this many fit, so that a full window is not read one by one.
READ_AT_LEAST = 500

#: Lanes that are gone on with in one read.
REFILLS = 50

#: While a transaction runs whose events cannot be seen yet: how soon to look again, at first and
#: at the longest.
LATE_SECONDS = 0.005
LATEST_SECONDS = 0.25

#: What is due by its time is known beforehand. What somebody has restarted is found so much after
#: the commit; what is new has not to wait for that look.
RESTARTED_SECONDS = 0.02

#: How long a look at what is due is put off, once, when there is something new to read.
DUE_WAITS_SECONDS = 0.005

#: Where there is much that is due, how long to wait before looking at some more of it: where the
#: last look has found something to do, and where not.
DUE_SECONDS = 0.02
DUE_IDLE_SECONDS = 0.1


@dataclass(frozen=True)
class Tools:
    """What every runner of a worker shares.

    ``meter`` is what counts for a handler. ``wake_reader`` asks for a read soon; ``lease_holds``
    says whether the worker's leases are sure to be in force; ``running_lag_seconds``: see
    ``espf.db.dialect``.
    """

    settler: Settler
    client: HttpClient
    billing: Callable[[int], Billing]
    outlet: Callable[[Notification, int], QueueOutlet]
    meter: Callable[[EventHandler], Meter]
    wake_reader: Callable[[], None]
    lease_holds: Callable[[], bool]
    running_lag_seconds: float | None
    tracer: "Tracer | None" = None


class Runner:
    """Works for the shards of one event handler that the worker owns, until it is stopped."""

    def __init__(self, configured: EventHandler, handler: Handler, tools: Tools) -> None:
        self.configured = configured
        self.breaker = Breaker()
        # What the worker owns: shard -> epoch.
        self.epochs: dict[int, int] = {}
        self._tools = tools
        self._client = tools.client.of_environment(configured.i_env)
        self._meter = tools.meter(configured)
        self._paused = False
        self._lanes = Lanes(WINDOW)
        self._frontier = Frontier(tools.running_lag_seconds)
        # How far ahead of that the newest of some types have been looked for.
        self._ahead_after = 0
        self._look = True
        # What has happened since a read began, which it does not show.
        self._looks_again = 0
        self._taken_meanwhile: set[int] = set()
        self._look_at = 0.0
        # When to look for what is due, and how many more have to fit by then.
        self._due_at = 0.0
        self._due_waits = False
        self._due_least = 1
        self._due_after: datetime | None = None
        self._late_seconds = LATE_SECONDS
        self._wake_sender = asyncio.Event()
        self._open: dict[asyncio.Task[None] | Posting, Handler] = {}
        self._poster: Poster | None = None
        self._closing: set[asyncio.Task[None]] = set()
        # Attempts that are under way or not stored yet, by shard.
        self._unsettled = [0] * SHARDS
        self._something_settled = asyncio.Event()
        self._bucket: TokenBucket | None = None
        self._handler = handler
        self._adopt(handler)
        self._sending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._sending = asyncio.create_task(self._guarded(self._send_loop()))

    @property
    def failed(self) -> bool:
        """Whether this cannot go on: a fault ended its loop."""
        return self._sending is not None and self._sending.done()

    @property
    def under_way(self) -> int:
        """Attempts that have begun and whose result is not known yet."""
        return len(self._open)

    @property
    def held(self) -> int:
        """Notifications in memory."""
        return self._lanes.held

    @property
    def lanes(self) -> int:
        """Subscribers who have something in memory, or of whom is known that something waits."""
        return len(self._lanes)

    @property
    def continues(self) -> bool:
        """Whether a lane goes on when one of its events has failed for good."""
        return not self._policy.hold

    # What it owns

    @property
    def units(self) -> int:
        """Into how many parts the work may be split: each has a slot, or a token, to itself."""
        most = self._pacing.concurrency if self._pacing.rate is None else self._pacing.burst
        return 1 << (min(SHARDS, most).bit_length() - 1)

    def take_on(self, leases: Iterable[Lease]) -> None:
        """Work for these shards, too."""
        gained = 0.0
        for lease in leases:
            self.epochs[lease.shard] = lease.epoch
            self._taken_meanwhile.add(lease.shard)
            gained += self._tokens_of(lease)
        self._resize(gained)
        # Their work may be anywhere in what has been read already.
        self._frontier.restart()
        self._ahead_after = 0
        self.wake()

    def busy(self, shards: Collection[int]) -> set[int]:
        """Those of these shards that have attempts which are not stored yet."""
        return {shard for shard in shards if self._unsettled[shard]}

    async def give_up(self, shards: Collection[int], grace_seconds: float | None = None) -> None:
        """Start nothing more for these shards; return when nothing of theirs is under way.

        After ``grace_seconds`` what is under way is cut; it is sent again, by whoever comes next.
        """
        self.forsake(shards)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._all_settled(shards)
        except TimeoutError:
            self._cut()
            await self._all_settled(shards)

    def _cut(self) -> None:
        """Cancel what is under way."""
        for attempt in list(self._open):
            if isinstance(attempt, Posting):
                attempt.poster.cancel(attempt)
                self._closed(attempt)
                self._ended(attempt.notification.shard)
            else:
                attempt.cancel()

    def forsake(self, shards: Collection[int]) -> None:
        """These shards are not ours any more, or soon will not be: nothing more goes out."""
        for shard in shards:
            self.epochs.pop(shard, None)
        self._lanes.drop(shards)
        self._resize(0.0)

    async def _all_settled(self, shards: Collection[int]) -> None:
        while self.busy(shards):
            self._something_settled.clear()
            await self._something_settled.wait()

    def _tokens_of(self, lease: Lease) -> float:
        """What a shard brings with it: what has run into the bucket since somebody had it."""
        rate, burst = (self._pacing.rate or 0.0) / SHARDS, self._pacing.burst / SHARDS
        return burst if lease.idle_seconds is None else min(burst, rate * lease.idle_seconds)

    def _resize(self, gained: float) -> None:
        """Have the share of the pace that goes with the shards."""
        self._slots = self._count_slots()
        if self._bucket is None or self._pacing.rate is None or not self.epochs:
            return
        share = len(self.epochs) / SHARDS
        now = asyncio.get_running_loop().time()
        self._bucket = self._bucket.resized(
            self._pacing.rate * share, self._pacing.burst * share, now, gained
        )

    # What it is told

    def wake(self, *, only_new: bool = False) -> None:
        """Something was committed: there may be work, or only what is new."""
        self._look = True
        if not only_new:
            now = asyncio.get_running_loop().time()
            self._due_at = min(self._due_at, now + RESTARTED_SECONDS)
        self._tools.wake_reader()

    def pause(self, *, paused: bool) -> None:
        """Let everything wait, or go on."""
        if paused != self._paused:
            self._paused = paused
            self._wake_sender.set()
            self.wake()

    async def reconfigure(self, configured: EventHandler, handler: Handler) -> None:
        """Go on with new settings; attempts under way end under the old ones."""
        old = self._handler
        self.configured = configured
        self._meter = self._tools.meter(configured)
        self._adopt(handler)
        self.breaker.reset()
        self._wake_sender.set()
        self.wake()
        if old not in self._open.values():
            self._retire(old)

    def hold(self, keys: Collection[str]) -> None:
        """Deliver nothing of these lanes, which an administrator holds; of all others again."""
        self._lanes.hold(keys)

    def look_again(self) -> None:
        """Somebody may have freed lanes whose heads waited in the database."""
        self._lanes.look_again()
        # A read that is under way may still show them waiting, and only the one after it tells of
        # what was settled last.
        self._looks_again = 2
        self.wake()

    async def stop(self) -> None:
        """Close the handler; everything has been given up."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._retire(self._handler)
        await asyncio.gather(*self._closing)

    def _retire(self, handler: Handler) -> None:
        """Close a handler that is not needed any more, in its own time."""

        async def close() -> None:
            try:
                await handler.close()
            except Exception:  # noqa: BLE001  (a foreign handler may raise anything)
                _log.exception("handler %s did not close", self.configured.name, extra=self._about)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _adopt(self, handler: Handler) -> None:
        self._handler = handler
        self._lanes.latest_only = LatestOnly(handler.settings.latest_only)
        self._policy = RetryPolicy.of(handler.settings)
        self._group = handler.service_group
        self._pacing: Pacing = handler.pacing()
        self._slots = self._count_slots()
        self._poster = (
            Poster(handler, self._client, self._posted)
            if isinstance(handler, PostHandler)
            else None
        )
        rate, burst = self._pacing.rate, self._pacing.burst
        if rate is None:
            self._bucket = None
            return
        now = asyncio.get_running_loop().time()
        share = max(1, len(self.epochs)) / SHARDS
        # Before it owns anything it has no tokens; they come with the shards.
        self._bucket = TokenBucket(rate * share, burst * share, now, None if self.epochs else 0.0)

    @property
    def _about(self) -> dict[str, object]:
        """What a diagnostic message of this is about."""
        return {"handler": self.configured.name}

    async def _guarded(self, loop: Coroutine[None, None, None]) -> None:
        try:
            await loop
        except Exception:  # noqa: BLE001  (one handler's end is not the worker's)
            _log.exception(
                "the work for handler %s is begun anew", self.configured.name, extra=self._about
            )

    # Reading

    def wants(self) -> Wanted | None:
        """What to read now; None: nothing."""
        now = asyncio.get_running_loop().time()
        if self._is_resting(now):
            return None
        lanes = self._lanes
        refill = lanes.wants_refill(REFILLS)
        tried = lanes.wants_tried(REFILLS)
        follow, follow_room = lanes.wants_follow(REFILLS)
        due = self._seconds_to_due(now) <= 0
        if due and self._look and not self._due_waits:
            # What is new goes out first.
            self._due_at, self._due_waits, due = now + DUE_WAITS_SECONDS, True, False
        asked = refill or follow or tried or lanes.wants_ahead
        if not (self._look or asked or due or now >= self._look_at):
            return None
        start = self._frontier.start
        return Wanted(
            i_event_handler=self.configured.i_event_handler,
            shards=sum(1 << shard for shard in self.epochs),
            start=start,
            room=lanes.room if lanes.room >= READ_AT_LEAST else 0,
            due_room=self._due_room if due else None,
            due_after=self._due_after,
            refill=refill,
            follow=follow,
            follow_room=follow_room,
            latest_only=lanes.latest_only,
            tried=tried,
            ahead=max(self._ahead_after, start.reached) if lanes.wants_ahead else None,
        )

    def idle_seconds(self) -> float:
        """How long it makes no sense to read for this handler, unless it is woken."""
        now = asyncio.get_running_loop().time()
        if self._is_resting(now):
            return max(0.01, min(1.0, self.breaker.seconds_to_probe(now) or 1.0))
        if self._lanes.wants_more or (self._look and self._lanes.room >= READ_AT_LEAST):
            return 0.0
        return max(0.0, min(1.0, self._look_at - now, self._seconds_to_due(now)))

    @property
    def _due_room(self) -> int:
        """Those that are here already come first where a look begins, and hardly further on."""
        lanes = self._lanes
        return lanes.due_room if self._due_after is None else lanes.due_free

    def _seconds_to_due(self, now: float) -> float:
        """How long there is nothing due that could be taken."""
        return self._due_at - now if self._lanes.due_free >= self._due_least else 1.0

    def _is_resting(self, now: float) -> bool:
        return self._paused or not self.epochs or self.breaker.seconds_to_probe(now) > 0

    def read_begins(self, wanted: Wanted) -> None:
        """What ``wants`` said is being read."""
        self._look = False
        if wanted.due_room is not None:
            self._due_at, self._due_waits = math.inf, False
        self._taken_meanwhile.clear()
        self._lanes.read_begins()

    def read_ended(self, wanted: Wanted, found: Found) -> None:
        """What was there, and as far as it is still ours."""
        lanes = self._lanes
        lanes.read_ended()
        free = lanes.due_free
        for notification in found.due:
            if self._is_ours(notification):
                followed = notification.event.ordering_key in found.followed
                lanes.offer_due(notification, followed=followed)
        found_due = lanes.due_free < free
        lanes.offer_tried(wanted.tried, (each for each in found.tried if self._is_ours(each[0])))
        for key, asked, followers in found.refilled:
            lanes.refill(key, asked, followers)
        for key, due, more in found.followers:
            lanes.follow(key, [each for each in due if self._is_ours(each)], more=more)
        now = asyncio.get_running_loop().time()
        # However quiet it is. All handlers of a worker are read together then.
        at_the_latest = math.floor(now) + 1.0
        self._look_at = at_the_latest
        if wanted.due_room is not None:
            self._due_after = found.due_upto
            more = len(found.due) >= wanted.due_room
            self._due_least = READ_AT_LEAST if more else 1
            rest = 0.0 if more else found.next_due_seconds or math.inf
            if found.due_upto is not None and not more:
                rest = DUE_SECONDS if found_due else DUE_IDLE_SECONDS
            self._due_at = min(self._due_at, now + rest, at_the_latest)
        if wanted.room:
            self._read_new(wanted, found, now)
        else:
            self._look = True
        self._find_newest(wanted, found)
        if self._looks_again:
            self._looks_again -= 1
            lanes.look_again()
        if lanes.ready:
            self._wake_sender.set()

    def _find_newest(self, wanted: Wanted, found: Found) -> None:
        """Note what waits of which only the newest counts, and whether that is all there is."""
        if self._taken_meanwhile:
            self._lanes.knows(read_all=False, looked_ahead=False)
            return
        if found.ahead is not None:
            self._ahead_after = found.ahead.upto
            self._lanes.note_ahead(found.ahead.kinds)
        self._lanes.knows(
            read_all=len(found.new) < wanted.room,
            looked_ahead=found.ahead is not None and found.ahead.is_all,
        )

    def _is_ours(self, notification: Notification) -> bool:
        """Whether what a read shows may go out; another owner may have been ahead of it."""
        shard = notification.shard
        return shard in self.epochs and shard not in self._taken_meanwhile

    def _read_new(self, wanted: Wanted, found: Found, now: float) -> None:
        for notification, behind in (*found.again, *found.late, *found.new):
            if self._is_ours(notification):
                self._lanes.offer(notification, behind=behind)
        complete = len(found.new) < wanted.room
        reached = found.new[-1][0].position if found.new else 0
        if not self._taken_meanwhile:
            self._frontier.ended(
                found.running,
                reached,
                now,
                complete=complete,
                unseen=found.unseen,
                swept=found.swept,
            )
        self._look |= not complete
        # What is running now may hold back what comes before what has been read.
        self._late_seconds = LATE_SECONDS if found.new else self._late_seconds * 2
        if found.running or found.unseen:
            self._look_at = min(self._look_at, now + min(self._late_seconds, LATEST_SECONDS))

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
        """While the breaker is open, wait for the time of the next try."""
        loop = asyncio.get_running_loop()
        while (seconds := self.breaker.seconds_to_probe(loop.time())) > 0:
            self._wake_sender.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake_sender.wait()
            except TimeoutError:
                self.wake()

    def _send_slots(self) -> None:
        """Fill the free slots; each one frees when its attempt is over."""
        while len(self._open) < self._limit() and (notification := self._take()):
            self._send(notification, None)

    def _take(self) -> Notification | None:
        """The next one to send; those are settled that a newer one has superseded."""
        notification = self._lanes.take()
        for one, newest in self._lanes.superseded():
            self._unsettled[one.shard] += 1
            reason = f"superseded by a newer {one.event.event_type}"
            decision = Decision(Status.SUPERSEDED, reason, spent=False, by=newest)
            epoch = self.epochs[one.shard]
            result = Result(one, self.configured.name, epoch, decision, 0, emits=True)
            self._tools.settler.put(result, self._settled)
        return notification

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
                    await asyncio.sleep(min(seconds, 1.0))
                if not self._may_send(bucket) or (notification := self._take()) is None:
                    break
                self._send(notification, batch)
            if self._pacing.max_wait is not None:
                batch.sent(self._pacing.max_wait.total_seconds())
        if bucket is not self._bucket:
            self._wake_sender.set()

    def _may_send(self, bucket: TokenBucket) -> bool:
        """Whether one more may go out now, at the pace of this bucket."""
        return bucket is self._bucket and len(self._open) < self._limit()

    def _limit(self) -> int:
        """Attempts that may be under way now."""
        if self._paused or not self.epochs or not self._tools.lease_holds():
            return 0
        usual = self._slots if self._bucket is None else MOST_OPEN
        if self.breaker.is_closed:
            return usual
        return self.breaker.allowed(usual, asyncio.get_running_loop().time())

    def _count_slots(self) -> int:
        """The share of the handler's concurrency that goes with the shards; never more in all."""
        total, units = self._pacing.concurrency, self.units
        size = SHARDS // units
        return sum(
            (unit + 1) * total // units - unit * total // units
            for unit in range(units)
            if all(shard in self.epochs for shard in range(unit * size, (unit + 1) * size))
        )

    def _send(self, notification: Notification, batch: Batch | None) -> None:
        shard = notification.shard
        self._unsettled[shard] += 1
        epoch = self.epochs[shard]
        told = None if self._tools.tracer is None else self._trace(self._tools.tracer, notification)
        sent = None if self._poster is None else self._poster.send(notification, epoch, told)
        if isinstance(sent, Posting):
            self._open[sent] = self._handler
            if batch is not None:
                batch.add(sent)
        elif sent is not None:
            said = presentable(sent, self._handler.secrets())
            self._delivered(notification, epoch, said, 0, None, None)
        else:
            attempt = self._attempt(self._handler, notification, epoch, batch, told)
            task = asyncio.create_task(attempt)
            self._open[task] = self._handler
            task.add_done_callback(lambda task: self._task_ended(task, shard))

    def _posted(
        self,
        posting: Posting,
        outcome: Exception | None,
        duration_ms: int,
        request: Said,
        response: Said,
    ) -> None:
        """What went the short way is over."""
        self._closed(posting)
        if outcome is not None:
            outcome = presentable(outcome, posting.poster.secrets)
        self._delivered(
            posting.notification, posting.epoch, outcome, duration_ms, request, response
        )

    def _task_ended(self, task: asyncio.Task[None], shard: int) -> None:
        self._closed(task)
        if task.cancelled():
            self._ended(shard)
        else:
            task.result()

    def _closed(self, attempt: asyncio.Task[None] | Posting) -> None:
        handler = self._open.pop(attempt)
        self._wake_sender.set()
        if handler is not self._handler and handler not in self._open.values():
            self._retire(handler)

    def _trace(self, tracer: "Tracer", notification: Notification) -> str | None:
        """Begin the span of an attempt; returns what its receiver is told of it."""
        traceparent = tracer.begin(notification, self.configured.name)
        return traceparent if self._handler.settings.trace_context else None

    async def _attempt(
        self,
        handler: Handler,
        notification: Notification,
        epoch: int,
        batch: Batch | None,
        traceparent: str | None,
    ) -> None:
        outlet = self._tools.outlet(notification, epoch)
        made = await run_once(
            handler,
            notification.event,
            notification.attempts + 1,
            self._client,
            self._tools.billing(notification.event.i_env),
            outlet,
            handler.time_limit_seconds(),
            nullcontext if batch is None else batch.member,
            traceparent,
        )
        self._delivered(
            notification,
            epoch,
            made.outcome,
            made.duration_ms,
            made.request,
            made.response,
            emits=outlet.is_used,
        )

    def _delivered(
        self,
        notification: Notification,
        epoch: int,
        outcome: Exception | None,
        duration_ms: int,
        request: Said | str | None,
        response: Said | str | None,
        *,
        emits: bool = False,
    ) -> None:
        """Decide what becomes of an attempt, and have it stored."""
        if outcome is None and self.breaker.is_closed:
            decision = FINISHED
            self.breaker.succeeded()
        else:
            spread = random.uniform(-1, 1)  # noqa: S311  (spreads retries; no secret)
            decision = decide(
                outcome,
                notification.attempts + 1,
                self._policy,
                spread,
                counts=self.breaker.is_closed,
            )
            self._record(outcome, spread)
        result = Result(
            notification,
            self.configured.name,
            epoch,
            decision,
            duration_ms,
            request,
            response,
            emits,
            self._group,
        )
        self._tools.settler.put(result, self._settled)

    def _record(self, outcome: Exception | None, spread: float) -> None:
        now = asyncio.get_running_loop().time()
        if self.breaker.record(outcome, now, spread):
            shown = self.breaker.shown()
            if shown.state == "open":
                name, reason = self.configured.name, shown.reason
                _log.warning("handler %s rests: %s", name, reason, extra=self._about)
            else:
                _log.warning("handler %s works again", self.configured.name, extra=self._about)

    def _settled(self, batch: list[Settled]) -> None:
        self._meter.add(batch)
        if self._tools.tracer is not None:
            self._tools.tracer.settled(batch)
        lanes, unsettled = self._lanes, self._unsettled
        for settled in batch:
            notification, decision = settled.result.notification, settled.result.decision
            unsettled[notification.shard] -= 1
            waits = settled.applied and (decision.status is Status.QUEUED or decision.hold)
            if waits and decision.by is not None:
                lanes.is_gone(notification, decision.by)
            lanes.settled(notification, waits=waits)
            if not settled.applied and self.epochs.get(notification.shard) == settled.result.epoch:
                # Another worker has the shard, and may be ahead by now: nothing more goes out.
                self.forsake([notification.shard])
            if decision.delay is not None:
                due = asyncio.get_running_loop().time() + decision.delay.total_seconds()
                self._due_at = min(self._due_at, due)
                self._tools.wake_reader()
        self._something_settled.set()
        if lanes.ready:
            self._wake_sender.set()
        if self.idle_seconds() <= 0:
            self._tools.wake_reader()

    def _ended(self, shard: int) -> None:
        self._unsettled[shard] -= 1
        self._something_settled.set()
