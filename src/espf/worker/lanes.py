"""What one handler's worker holds in memory: a lane per ordering key, in order, bounded. Pure.

A lane is handed out one notification at a time, and goes on only when that one is settled. What
does not fit stays in the database, and so do the followers of one that waits for a retry: the lane
remembers their positions, and asks for them by position (a *refill*) when it can go on.

Two facts of life shape the rest. A read may show the past: rows that were settled while it ran.
So whatever is settled is remembered until a read that *began* afterwards has ended. And rows come
more than once: transactions that overlap commit out of the order of their numbers, so the reader
goes back now and then.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Collection, Iterable
from itertools import islice

from espf.model import Notification, shard_of

#: Notifications that one lane may hold in memory, so that no subscriber fills it alone.
LANE_LIMIT = 100

#: Positions that the lanes of a handler remember; then it reads on only when some are done.
PASSED_LIMIT = 2_000_000

#: While both are there, so many that are new, or are tried again by themselves, go out for each one
#: that somebody has restarted: there may be a million of those.
NEW_PER_RESTARTED = 8

# A lane is open; or its head waits in the database, and a read may not show that yet (closed) or
# does (parked).
_OPEN, _CLOSED, _PARKED = range(3)


def _position(notification: Notification) -> int:
    return notification.position


class _Lane:
    __slots__ = ("busy", "passed", "state", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Notification] = []
        # Later notifications that stay in the database, by position, in order.
        self.passed = array("q")
        self.busy = False
        self.state = _OPEN


class Lanes:
    """The lanes of one handler; at most about ``window`` notifications in memory."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[str] = deque()
        # Lanes whose head was restarted, and how many of the others went out since one of these.
        self._restarted: deque[str] = deque()
        self._since_restarted = 0
        self._known: set[int] = set()
        self._due: set[int] = set()
        self._passed = 0
        # In the order in which they ran empty, so that none of them starves.
        self._refill: dict[str, None] = {}
        # Settled positions, some with their lane, to be forgotten in time.
        self._settled: list[tuple[int, str | None]] = []
        self._forgetting: list[tuple[int, str | None]] = []
        # Lanes whose head waited in the database, and is done since.
        self._ended: set[str] = set()

    @property
    def room(self) -> int:
        """How many more new notifications fit."""
        return 0 if self._passed >= PASSED_LIMIT else self._free

    @property
    def due_room(self) -> int:
        """How many due notifications to read: those that fit, beside those already here.

        A part of the window is kept for what is new.
        """
        return min(self._free + len(self._due), max(1, self._window * 3 // 4)) if self._free else 0

    @property
    def due_free(self) -> int:
        """How many due notifications fit that are not here yet."""
        return self.due_room - len(self._due)

    @property
    def _free(self) -> int:
        # What is settled is known for a while, but needs no room any more.
        held = len(self._known) - len(self._settled) - len(self._forgetting)
        return max(0, self._window - held)

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._ready or self._restarted)

    def wants_refill(self, lanes: int) -> list[tuple[str, list[int]]]:
        """Lanes that ran empty and have more in the database: key, and the next positions."""
        return [
            (key, self._lanes[key].passed[:LANE_LIMIT].tolist())
            for key in islice(self._refill, lanes)
        ]

    def read_begins(self) -> None:
        """A read of the database begins: it will not show what has been settled until now."""
        self._forgetting, self._settled = self._settled, []

    def read_ended(self) -> None:
        """That read is over, its rows come next: what it cannot show may be forgotten."""
        for position, key in self._forgetting:
            self._known.discard(position)
            if key is not None:
                self._ended.discard(key)
                lane = self._lanes.get(key)
                if lane is not None and lane.state == _CLOSED:
                    lane.state = _PARKED
                    if not lane.passed:
                        del self._lanes[key]
        self._forgetting = []

    def offer(self, notification: Notification, *, behind: bool) -> None:
        """A new notification. ``behind``: an earlier one of its lane waits in the database."""
        if notification.position in self._known:
            return
        key = _key(notification)
        lane = self._lanes.get(key)
        if behind or (
            lane is not None
            and (lane.state != _OPEN or lane.passed or len(lane.waiting) >= LANE_LIMIT)
        ):
            self._pass(key, lane, notification.position, behind=behind)
        else:
            self._add(key, notification)

    def offer_due(self, notification: Notification) -> None:
        """A notification whose time has come; it goes before every later one of its lane."""
        if notification.position in self._known:
            return
        key = _key(notification)
        lane = self._lanes.get(key)
        if lane is not None and lane.state == _CLOSED:
            return
        if lane is not None:
            lane.state = _OPEN
            self._step_back(key, lane, notification.position)
        self._due.add(notification.position)
        self._add(key, notification)

    def refill(
        self, key: str, asked: Collection[int], found: Iterable[tuple[Notification, bool]]
    ) -> None:
        """The followers that a lane asked for; what was asked for and is not there is gone."""
        self._refill.pop(key, None)
        lane = self._lanes.get(key)
        if lane is None or lane.state == _CLOSED:
            return
        gone = set(asked)
        kept = array("q", [position for position in lane.passed if position not in gone])
        self._passed -= len(lane.passed) - len(kept)
        lane.passed = kept
        for notification, behind in found:
            if behind:
                self._pass(key, lane, notification.position, behind=True)
                if not lane.busy and not lane.waiting:
                    lane.state = _PARKED
            elif notification.position not in self._known:
                self._add(key, notification)
        if lane.state == _OPEN and not lane.waiting and not lane.busy:
            self._after(key, lane)

    def look_again(self) -> None:
        """Somebody may have freed lanes whose heads waited in the database: ask for followers."""
        for key, lane in self._lanes.items():
            if lane.state == _PARKED and lane.passed:
                lane.state = _OPEN
                if not lane.busy:
                    self._refill[key] = None

    def take(self) -> Notification | None:
        """The next notification to deliver; its lane is busy until it is settled."""
        while turn := self._turn():
            lane = self._lanes.get(turn.popleft())
            if lane is not None and lane.waiting and not lane.busy:
                lane.busy = True
                return lane.waiting.pop(0)
        return None

    def _turn(self) -> deque[str]:
        """Those of whom the next one is; empty: there is none."""
        if not self._restarted:
            return self._ready
        if self._ready and self._since_restarted < NEW_PER_RESTARTED:
            self._since_restarted += 1
            return self._ready
        self._since_restarted = 0
        return self._restarted

    def settled(self, notification: Notification, *, waits: bool) -> None:
        """A notification that was taken is settled; ``waits``: it is to be tried again later."""
        key = _key(notification)
        lane = self._lanes[key]
        lane.busy = False
        was_due = notification.position in self._due
        self._due.discard(notification.position)
        if waits:
            lane.state = _CLOSED
            self._refill.pop(key, None)
            self._step_back(key, lane, 0)
            self._settled.append((notification.position, key))
        else:
            self._settled.append((notification.position, key if was_due else None))
            if was_due:
                self._ended.add(key)
            self._after(key, lane)

    def drop(self, shards: Collection[int]) -> None:
        """Forget what waits in lanes of these shards; what was taken is still to be settled."""
        for key, lane in list(self._lanes.items()):
            if shard_of(None if key.startswith("\0") else key) not in shards:
                continue
            for notification in lane.waiting:
                self._known.discard(notification.position)
                self._due.discard(notification.position)
            lane.waiting.clear()
            self._passed -= len(lane.passed)
            lane.passed = array("q")
            self._refill.pop(key, None)
            if not lane.busy:
                del self._lanes[key]

    def _step_back(self, key: str, lane: _Lane, position: int) -> None:
        """Leave those behind a position in the database: others may come before them there."""
        at = bisect_right(lane.waiting, position, key=_position)
        for follower in lane.waiting[at:]:
            self._due.discard(follower.position)
            self._known.discard(follower.position)
            self._pass(key, lane, follower.position, behind=True)
        del lane.waiting[at:]

    def _pass(self, key: str, lane: _Lane | None, position: int, *, behind: bool) -> None:
        """Leave a notification in the database, and remember where."""
        if lane is None:
            lane = self._lanes[key] = _Lane()
            lane.state = _PARKED
            if key in self._ended:
                # What the read shows as waiting is done by now, as likely as not: ask again.
                lane.state = _OPEN
                self._refill[key] = None
        at = bisect_left(lane.passed, position)
        if at == len(lane.passed) or lane.passed[at] != position:
            lane.passed.insert(at, position)
            self._passed += 1
        if not behind and lane.state == _PARKED:
            # Its head waits no more: somebody took it away.
            lane.state = _OPEN
            if not lane.waiting and not lane.busy:
                self._refill[key] = None

    def _add(self, key: str, notification: Notification) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        self._known.add(notification.position)
        if lane.waiting:
            insort(lane.waiting, notification, key=_position)
        else:
            lane.waiting.append(notification)
            if not lane.busy:
                self._make_ready(key, lane)

    def _make_ready(self, key: str, lane: _Lane) -> None:
        first = lane.waiting[0]
        restarted = first.attempts == 0 and first.position in self._due
        (self._restarted if restarted else self._ready).append(key)

    def _after(self, key: str, lane: _Lane) -> None:
        """Go on with a lane that has just become free."""
        if lane.waiting:
            self._make_ready(key, lane)
        elif lane.passed:
            self._refill[key] = None
        else:
            del self._lanes[key]


def _key(notification: Notification) -> str:
    """The lane of a notification; one without an ordering key has a lane to itself."""
    key = notification.event.ordering_key
    return f"\0{notification.position}" if key is None else key
