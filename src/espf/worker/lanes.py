"""What one handler's worker holds in memory: a lane per ordering key, in order, bounded. Pure.

A lane is handed out one notification at a time, and goes on only when that one is settled. What
does not fit stays in the database: the lane then says that there is more, and asks for a refill
when it runs empty.

Two facts of life shape the rest. A read may show the past: rows that were settled while it ran.
So whatever is settled is remembered until a read that *began* afterwards has ended. And a lane
that waits for a retry lives in the database alone: its lane here is closed, and rows that an old
read still offers for it are turned away.
"""

from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from espf.model import Notification

#: Notifications that one lane may hold in memory, so that no subscriber fills it alone.
LANE_LIMIT = 100


def _position(notification: Notification) -> int:
    return notification.position


@dataclass
class _Lane:
    waiting: list[Notification] = field(default_factory=list)
    last: int = 0
    busy: bool = False
    # There are, or may be, later notifications in the database that have been passed by.
    more: bool = False
    # Its head waits in the database for a retry.
    parked: bool = False


class Lanes:
    """The lanes of one handler; at most about ``window`` notifications in memory."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[str] = deque()
        self._known: set[int] = set()
        self._due: set[int] = set()
        # In the order in which they ran empty, so that none of them starves.
        self._refill: dict[str, None] = {}
        # Settled positions and closed lanes, to be forgotten in time.
        self._settled: list[tuple[int, str | None]] = []
        self._forgetting: list[tuple[int, str | None]] = []

    @property
    def room(self) -> int:
        """How many more new notifications fit."""
        return max(0, self._window - len(self._known))

    @property
    def due_room(self) -> int:
        """How many due notifications to read: those that fit, beside those already here."""
        return self.room + len(self._due) if self.room else 0

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._ready)

    def wants_refill(self, limit: int) -> list[tuple[str, int]]:
        """Lanes that ran empty and have more in the database: key, and the position reached."""
        return [(key, self._lanes[key].last) for key in islice(self._refill, limit)]

    def read_begins(self) -> None:
        """A read of the database begins: it will not show what has been settled until now."""
        self._forgetting, self._settled = self._settled, []

    def read_ended(self) -> None:
        """That read is over, its rows come next: what it cannot show may be forgotten."""
        for position, closed in self._forgetting:
            self._known.discard(position)
            if closed is not None:
                self._lanes.pop(closed, None)
        self._forgetting = []

    def offer(self, notification: Notification, *, behind: bool) -> None:
        """A new notification, in the order of positions. ``behind``: an earlier one waits."""
        key = _key(notification)
        lane = self._lanes.get(key)
        if notification.position in self._known or (lane is not None and lane.parked):
            return
        if behind or (lane is not None and (lane.more or len(lane.waiting) >= LANE_LIMIT)):
            if lane is not None:
                lane.more = True
            return
        self._add(key, notification)

    def offer_due(self, notification: Notification) -> None:
        """A notification whose time has come; it goes before every later one of its lane."""
        key = _key(notification)
        lane = self._lanes.get(key)
        if notification.position in self._known or (lane is not None and lane.parked):
            return
        self._due.add(notification.position)
        self._add(key, notification)
        # Its followers were passed by when it began to wait.
        self._lanes[key].more = notification.event.ordering_key is not None

    def refill(self, key: str, notifications: list[Notification], *, more: bool) -> None:
        """The followers that a lane asked for."""
        self._refill.pop(key, None)
        lane = self._lanes.get(key)
        if lane is None or lane.parked:
            return
        lane.more = more
        for notification in notifications:
            if notification.position not in self._known:
                self._add(key, notification)
        if not lane.waiting and not lane.busy:
            self._after(key, lane)

    def take(self) -> Notification | None:
        """The next notification to deliver; its lane is busy until it is settled."""
        if not self._ready:
            return None
        lane = self._lanes[self._ready.popleft()]
        lane.busy = True
        return lane.waiting.pop(0)

    def settled(self, notification: Notification, *, waits: bool) -> None:
        """A notification that was taken is settled; ``waits``: it is to be tried again later."""
        key = _key(notification)
        lane = self._lanes[key]
        lane.busy = False
        lane.last = notification.position
        self._due.discard(notification.position)
        if waits:
            lane.parked = True
            self._refill.pop(key, None)
            for follower in lane.waiting:
                self._due.discard(follower.position)
                self._settled.append((follower.position, None))
            lane.waiting.clear()
            self._settled.append((notification.position, key))
        else:
            self._settled.append((notification.position, None))
            self._after(key, lane)

    def _add(self, key: str, notification: Notification) -> None:
        lane = self._lanes.setdefault(key, _Lane())
        self._known.add(notification.position)
        insort(lane.waiting, notification, key=_position)
        if not lane.busy and len(lane.waiting) == 1:
            self._ready.append(key)

    def _after(self, key: str, lane: _Lane) -> None:
        """Go on with a lane that has just become free."""
        if lane.waiting:
            self._ready.append(key)
        elif lane.more:
            self._refill[key] = None
        else:
            del self._lanes[key]


def _key(notification: Notification) -> str:
    """The lane of a notification; one without an ordering key has a lane to itself."""
    key = notification.event.ordering_key
    return f"\0{notification.position}" if key is None else key
