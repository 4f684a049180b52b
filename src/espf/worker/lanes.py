"""What one handler's worker holds in memory: a lane per ordering key, in order, bounded. Pure.

A lane is handed out one notification at a time, and goes on only when that one is settled. What
does not fit stays in the database, and so do the followers of one that waits for a retry: the lane
remembers their positions, and asks for them by position (a *refill*) when it can go on.

Two facts of life shape the rest. A read may show the past: rows that were settled while it ran.
So whatever is settled is remembered until a read that *began* afterwards has ended. And rows come
more than once: transactions that overlap commit out of the order of their numbers, so the reader
goes back now and then.

Of some types only the newest counts that waits in a lane. Whatever waits is noted by lane and type,
wherever it is: here, among what was passed, or further on in the database, where it was looked for
(*ahead*). Whoever comes to its turn and is not the newest is superseded instead of delivered; one
that may not be the newest, because not all is known that waits, has to wait for that look.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Collection, Iterable
from itertools import islice

from espf.catalogue import LatestOnly
from espf.model import Notification, shard_of

#: Notifications that one lane may hold in memory, so that no subscriber fills it alone.
LANE_LIMIT = 100

#: Positions that the lanes of a handler remember; then it reads on only when some are done.
PASSED_LIMIT = 2_000_000

#: While both are there, so many that are new, or are tried again by themselves, go out for each one
#: that somebody has restarted or a dispatcher has made: there may be a million of those.
NEW_PER_MANY = 8

#: Newest ones that are known of a handler's lanes; beyond that, nobody waits for a look ahead.
NEWEST_LIMIT = 200_000

#: A lane, and a type of which only the newest counts there.
Kind = tuple[str, str]

# A lane is open; or its head waits in the database, and a read may not show that yet (closed) or
# does (parked).
_OPEN, _CLOSED, _PARKED = range(3)


def _position(notification: Notification) -> int:
    return notification.position


class _Lane:
    __slots__ = ("busy", "followed", "passed", "state", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Notification] = []
        # Later notifications that stay in the database, by position, in order.
        self.passed = array("q")
        self.busy = False
        self.state = _OPEN
        # Whether there are some, as far as is known, that have been tried and follow the head.
        self.followed = False


class Lanes:
    """The lanes of one handler; at most about ``window`` notifications in memory.

    ``latest_only``: the types of which only the newest counts.
    """

    def __init__(self, window: int, latest_only: LatestOnly | None = None) -> None:
        self.latest_only = LatestOnly() if latest_only is None else latest_only
        self._window = window
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[str] = deque()
        # Lanes whose head is one of many, and how many of the others went out since one of these.
        self._many: deque[str] = deque()
        self._since_many = 0
        self._known: set[int] = set()
        self._due: set[int] = set()
        self._passed = 0
        # In the order in which they ran empty, so that none of them starves.
        self._refill: dict[str, None] = {}
        # Likewise, those that go on with what has been tried already.
        self._follow: dict[str, None] = {}
        # Settled positions, some with their lane, to be forgotten in time.
        self._settled: list[tuple[int, str | None]] = []
        self._forgetting: list[tuple[int, str | None]] = []
        # Lanes whose head waited in the database, and is done since.
        self._ended: set[str] = set()
        # The positions of the newest that wait, as far as they are known.
        self._newest: dict[Kind, int] = {}
        # Superseded, each by which position; to be settled.
        self._superseded: list[tuple[Notification, int]] = []
        # Whether the last read told of all that waits; until one does, lanes may wait for it.
        self._knows_all = False
        self._unsure: dict[str, None] = {}
        # Whether to look ahead with each read, as long as reading has not come to the end.
        self._looks_ahead = False
        # Lanes in which one that waits for a retry may not be the newest any more.
        self._overtaken: dict[str, None] = {}
        # Lanes that an administrator holds.
        self._held: Collection[str] = ()

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
    def follow_room(self) -> int:
        """How many due followers to read.

        A part of what is for due ones is left to those that are found by their time. And it makes
        no sense to read them one by one.
        """
        most = max(1, self._window // 2)
        return most - len(self._due) if self._free and len(self._due) <= most * 3 // 4 else 0

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def held(self) -> int:
        """How many notifications are in memory, those that have been handed out among them."""
        # What is settled is known for a while, but needs no room any more.
        return len(self._known) - len(self._settled) - len(self._forgetting)

    @property
    def _free(self) -> int:
        return max(0, self._window - self.held)

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._ready or self._many)

    def wants_refill(self, lanes: int) -> list[tuple[str, list[int]]]:
        """Lanes that ran empty and have more in the database: key, and the next positions."""
        return [
            (key, self._lanes[key].passed[:LANE_LIMIT].tolist())
            for key in islice(self._refill, lanes)
        ]

    def wants_follow(self, lanes: int) -> tuple[list[str], int]:
        """Lanes that ran empty and go on with what has been tried; how many of each to read."""
        room = min(self.follow_room, self._free)
        keys = list(islice(self._follow, min(lanes, room)))
        return keys, min(LANE_LIMIT, room // len(keys)) if keys else 0

    @property
    def wants_more(self) -> bool:
        """Whether a read is wanted now: to refill, or to find out which is the newest."""
        follow = self._follow and self.follow_room
        return bool(self._refill or follow or self._overtaken or self._unsure)

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
        behind = behind or key in self._held
        if self.latest_only[notification.event.event_type]:
            self._note_waiting(notification)
            if behind or (lane is not None and lane.state != _OPEN):
                self._overtaken[key] = None
        if behind or (
            lane is not None
            and (lane.state != _OPEN or lane.passed or len(lane.waiting) >= LANE_LIMIT)
        ):
            self._pass(key, lane, notification.position, behind=behind)
        else:
            self._add(key, notification)

    def offer_due(self, notification: Notification, *, followed: bool = False) -> None:
        """A notification whose time has come; it goes before every later one of its lane.

        ``followed``: in the database others come after it that have been tried.
        """
        key = _key(notification)
        if notification.position in self._known or key in self._held:
            return
        lane = self._lanes.get(key)
        if lane is not None and lane.state == _CLOSED:
            return
        if lane is not None:
            lane.state = _OPEN
            self._step_back(key, lane, notification.position)
        self._due.add(notification.position)
        if self.latest_only[notification.event.event_type]:
            self._note_waiting(notification)
        self._add(key, notification)
        self._lanes[key].followed |= followed

    def follow(self, key: str, found: Iterable[Notification], *, more: bool) -> None:
        """The first ones of a lane that have been tried, all due; ``more``: others may follow."""
        self._follow.pop(key, None)
        lane = self._lanes.get(key)
        if lane is None or lane.state == _CLOSED:
            return
        lane.followed = more
        for notification in found:
            self.offer_due(notification)
        if lane.state == _OPEN and not lane.waiting and not lane.busy:
            self._after(key, lane)

    # The newest

    @property
    def wants_ahead(self) -> bool:
        """Whether to look for the newest further on, as it has to be known here."""
        return self._looks_ahead

    def note_ahead(self, kinds: Iterable[tuple[str, str, int]]) -> None:
        """What waits further on in the database: lane, type and position."""
        for key, event_type, position in kinds:
            if self.latest_only[event_type] and position not in self._known:
                self._note(key, event_type, position)

    def knows(self, *, read_all: bool, looked_ahead: bool) -> None:
        """How much of what waited when the last read began is known by now.

        ``read_all``: all of it was offered, now or before; ``looked_ahead``: what was not is noted.
        """
        self._looks_ahead &= not read_all
        self._knows_all = read_all or looked_ahead
        if self._is_sure:
            # They have had their turn.
            self._ready.extendleft(self._unsure)
            self._unsure.clear()

    @property
    def _is_sure(self) -> bool:
        return self._knows_all or len(self._newest) >= NEWEST_LIMIT

    def wants_tried(self, lanes: int) -> list[str]:
        """Lanes of which to read all that has been tried: one may have been superseded."""
        return list(islice(self._overtaken, lanes))

    def offer_tried(
        self, asked: Collection[str], found: Iterable[tuple[Notification, bool]]
    ) -> None:
        """What has been tried in some lanes and waits; those that ``asked`` go on if they may.

        Each with whether an earlier one of its lane waits.
        """
        heads: list[Notification] = []
        for notification, behind in found:
            is_known = notification.position in self._known
            if self.latest_only[notification.event.event_type] and not is_known:
                self._note_waiting(notification)
                if not behind:
                    heads.append(notification)
        for head in heads:
            if _key(head) in asked and self._newer(head):
                self.offer_due(head)
        for key in asked:
            lane = self._lanes.get(key)
            # What a read shows of a closed lane is out of date; ask again.
            if lane is None or lane.state != _CLOSED:
                self._overtaken.pop(key, None)

    def superseded(self) -> list[tuple[Notification, int]]:
        """Those that ``take`` has passed over, each with the position of the newest; taken, too."""
        some, self._superseded = self._superseded, []
        return some

    def is_gone(self, notification: Notification, position: int) -> None:
        """What was to supersede a notification does not wait any more."""
        kind = (_key(notification), notification.event.event_type)
        if self._newest.get(kind) == position:
            del self._newest[kind]

    def _note_waiting(self, notification: Notification) -> None:
        event = notification.event
        self._note(_key(notification), event.event_type, notification.position)

    def _note(self, key: str, event_type: str, position: int) -> None:
        if self._newest.get((key, event_type), 0) < position:
            self._newest[key, event_type] = position

    def _newer(self, notification: Notification) -> int | None:
        """The position of a newer one of the same lane and type that waits."""
        newest = self._newest.get((_key(notification), notification.event.event_type), 0)
        return newest if newest > notification.position else None

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
            if behind or key in self._held:
                self._pass(key, lane, notification.position, behind=True)
                if not lane.busy and not lane.waiting:
                    lane.state = _PARKED
            elif notification.position not in self._known:
                if self.latest_only[notification.event.event_type]:
                    self._note_waiting(notification)
                self._add(key, notification)
        if lane.state == _OPEN and not lane.waiting and not lane.busy:
            self._after(key, lane)

    def look_again(self) -> None:
        """Somebody may have freed lanes whose heads waited in the database: ask for followers."""
        for key, lane in self._lanes.items():
            if lane.state == _PARKED and lane.passed and key not in self._held:
                lane.state = _OPEN
                if not lane.busy:
                    self._refill[key] = None

    def hold(self, keys: Collection[str]) -> None:
        """Hold these lanes and no others: nothing more of them is given out.

        In the database they wait behind a mark. Ask for those that go on with ``look_again``.
        """
        self._held = keys
        for key in keys:
            for asked in (self._refill, self._follow, self._overtaken, self._unsure):
                asked.pop(key, None)
            lane = self._lanes.get(key)
            if lane is None:
                continue
            self._step_back(key, lane, 0)
            if lane.state == _OPEN:
                lane.state = _PARKED
                if not lane.busy and not lane.passed:
                    del self._lanes[key]

    def take(self) -> Notification | None:
        """The next notification to deliver; its lane is busy until it is settled.

        So are those that ``superseded`` names afterwards.
        """
        while turn := self._turn():
            key = turn.popleft()
            lane = self._lanes.get(key)
            if lane is None or not lane.waiting or lane.busy:
                continue
            first = lane.waiting[0]
            if self.latest_only[first.event.event_type] and not self._is_newest(key, lane, first):
                continue
            lane.busy = True
            return lane.waiting.pop(0)
        return None

    def _is_newest(self, key: str, lane: _Lane, first: Notification) -> bool:
        """Whether the first of a lane is to be delivered; it is superseded, or waits, if not."""
        newest = self._newer(first)
        if newest is not None:
            lane.busy = True
            self._superseded.append((lane.waiting.pop(0), newest))
            return False
        if not self._is_sure:
            self._unsure[key] = None
            self._looks_ahead = True
            return False
        self._newest.pop((key, first.event.event_type), None)
        return True

    def _turn(self) -> deque[str]:
        """Those of whom the next one is; empty: there is none."""
        if not self._many:
            return self._ready
        if self._ready and self._since_many < NEW_PER_MANY:
            self._since_many += 1
            return self._ready
        self._since_many = 0
        return self._many

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
            self._follow.pop(key, None)
            self._step_back(key, lane, 0)
            self._settled.append((notification.position, key))
            if self.latest_only[notification.event.event_type] and self._newer(notification):
                self._overtaken[key] = None
        else:
            self._settled.append((notification.position, key if was_due else None))
            if was_due:
                self._ended.add(key)
            self._after(key, lane)

    def drop(self, shards: Collection[int]) -> None:
        """Forget what waits in lanes of these shards; what was taken is still to be settled."""
        for kind in [kind for kind in self._newest if _shard(kind[0]) in shards]:
            del self._newest[kind]
        for keys in (self._unsure, self._overtaken):
            for key in [key for key in keys if _shard(key) in shards]:
                del keys[key]
        for key, lane in list(self._lanes.items()):
            if _shard(key) not in shards:
                continue
            for notification in lane.waiting:
                self._known.discard(notification.position)
                self._due.discard(notification.position)
            lane.waiting.clear()
            self._passed -= len(lane.passed)
            lane.passed = array("q")
            lane.followed = False
            self._refill.pop(key, None)
            self._follow.pop(key, None)
            if not lane.busy:
                del self._lanes[key]

    def _step_back(self, key: str, lane: _Lane, position: int) -> None:
        """Leave those behind a position in the database: others may come before them there."""
        at = bisect_right(lane.waiting, position, key=_position)
        for follower in lane.waiting[at:]:
            self._known.discard(follower.position)
            if follower.position in self._due:
                # It is found by its time, or after the one that comes before it.
                self._due.discard(follower.position)
                lane.followed = True
            else:
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
        many = restarted or first.event.is_dispatched
        (self._many if many else self._ready).append(key)

    def _after(self, key: str, lane: _Lane) -> None:
        """Go on with a lane that has just become free."""
        if key in self._held:
            if not lane.passed:
                del self._lanes[key]
        elif lane.waiting:
            self._make_ready(key, lane)
        elif lane.followed and len(self._follow) < self._window:
            self._follow[key] = None
        elif lane.passed:
            self._refill[key] = None
        else:
            del self._lanes[key]


def _key(notification: Notification) -> str:
    """The lane of a notification; one without an ordering key has a lane to itself."""
    key = notification.event.ordering_key
    return f"\0{notification.position}" if key is None else key


def _shard(key: str) -> int:
    return shard_of(None if key.startswith("\0") else key)
