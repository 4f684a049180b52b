"""How far a handler's new work has been read, and what has to be read again. Pure.

An event has its number before its transaction commits, so a lower number may come to be seen
after a higher one. Some databases tell which transactions are running: the frontier remembers for
each how far reading had come before it was seen, and when it has ended, it is read again from
there. Others tell which positions are written but cannot be seen yet: those are asked for one by
one. Numbers that nobody will ever see (rolled back, or other handlers') cost nothing.

Where a row may be written after its number was taken, it usually follows at once: what was read
lately is doubtful, and read again each time. But whoever makes an event may be held up in between
for any length of time. So what waits on ground that has been passed is gone over again all the
time, a little now and then.
"""

from collections import deque
from collections.abc import Collection

from espf.backlog import Start
from espf.db.dialect import MANY

#: So many positions are asked for one by one.
MOST_UNSEEN = 1000

#: How often to go over a part of what was passed.
AGAIN_SECONDS = 2.0


class Frontier:
    """``lag_seconds``: how old a list of running transactions may be; None: not at all."""

    def __init__(self, lag_seconds: float | None = None) -> None:
        self._lag = lag_seconds
        self._reached = 0
        # Transaction -> how far reading had come before it was first seen.
        self._suspects: dict[int, int] = {}
        # Positions that are there, and could not be seen.
        self._unseen: set[int] = set()
        # When reads ended, and how far reading had come before each.
        self._recent: deque[tuple[float, int]] = deque()
        # How far the ground that was passed has been gone over, and when to go on with that.
        self._swept = 0
        self._sweeps = False
        self._sweep_at = 0.0

    @property
    def start(self) -> Start:
        """Where to read next."""
        again = self._swept if self._sweeps else None
        if len(self._unseen) <= MOST_UNSEEN:
            return Start(self._before, dict(self._suspects), sorted(self._unseen), again)
        # One great transaction: simpler to read all of it again.
        before = min(self._before, min(self._unseen) - 1)
        return Start(before, dict(self._suspects), again=again)

    @property
    def _before(self) -> int:
        """Read from here in any case: what was going on lately may not have been listed."""
        return self._recent[0][1] if self._recent else self._reached

    def ended(
        self,
        running: Collection[int],
        reached: int,
        now: float,
        *,
        complete: bool,
        unseen: Collection[int] = (),
        swept: int = 0,
    ) -> None:
        """A read is over, at the time ``now``: it came as far as ``reached`` while these ran.

        ``complete``: there was nothing more to read. ``unseen``: what could not be seen. ``swept``:
        how far what was passed has been gone over, if that was asked for; 0: to its end.
        """
        if self._sweeps:
            self._swept, self._sweep_at = swept, now + AGAIN_SECONDS
        self._unseen = set(unseen)
        # Those that were too many to name may be among these.
        before = self._suspects.get(MANY, self._before)
        self._suspects = {
            transaction: self._suspects.get(transaction, before) for transaction in running
        }
        if self._lag is not None:
            # The last read is always doubtful, however long ago it was.
            while len(self._recent) > 1 and self._recent[1][0] < now - self._lag:
                self._recent.popleft()
            self._recent.append((now, self._reached))
            self._sweeps = now >= self._sweep_at
        # A read that began further back may not even have come as far as the one before it.
        self._reached = max(self._reached, reached) if complete else reached

    def restart(self) -> None:
        """Read everything again: there is work of new shards, somewhere."""
        self._reached = 0
        self._suspects = {}
        self._unseen = set()
        self._recent.clear()
        self._swept = 0
