"""When to stop asking a system that is down, and how to begin again. Pure.

Closed, everything goes out. After several connections in a row that did not come about, or when
most attempts of late have failed, or when the handler's own settings are refused, the breaker
opens: nothing goes out, and no attempt is spent. Then one event tries; when it gets through, twice
as many at a time with each success, until the usual number is reached.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

from espf.errors import CheckLater, HandlerError, Misconfigured, Rejected, Skipped, Unreachable
from espf.retry import REST

#: It opens after so many connections in a row that did not come about.
UNREACHABLE = 5

#: It opens when of so many attempts within the time at least this share has failed.
ATTEMPTS = 50
SHARE = 0.5
WINDOW_SECONDS = 60.0

#: How long it stays open at first, and at most; each probe that fails doubles it.
FIRST_SECONDS = 5.0
LONGEST_SECONDS = 300.0

#: With so many at a time the usual number is as good as reached.
RAMPED = 64

State = Literal["closed", "open", "probing", "ramping"]


@dataclass(frozen=True)
class Shown:
    """What people see: ``since`` and ``probe_at`` are on the clock that the caller brings."""

    state: State
    since: float
    probe_at: float | None
    reason: str | None


class Breaker:
    """Counts outcomes, and says how many attempts may be under way."""

    def __init__(self) -> None:
        self._state: State = "closed"
        #: Whether everything goes its usual way.
        self.is_closed = True
        self._since = 0.0
        self._until = 0.0
        self._seconds = FIRST_SECONDS
        self._reason: str | None = None
        self._in_a_row = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=ATTEMPTS)
        self._allowed = 1

    def allowed(self, usual: int, now: float) -> int:
        """How many attempts may be under way, when it is ``usual`` otherwise."""
        if self._state == "closed":
            return usual
        if self._state == "open":
            if now < self._until:
                return 0
            self._become("probing", now)
            self._allowed = 1
        return min(usual, self._allowed)

    def seconds_to_probe(self, now: float) -> float:
        """How long nothing may go out; 0: something may."""
        return max(0.0, self._until - now) if self._state == "open" else 0.0

    def shown(self) -> Shown:
        """For people to see."""
        probe_at = self._until if self._state == "open" else None
        return Shown(self._state, self._since, probe_at, self._reason)

    def reset(self) -> None:
        """The handler's settings have changed: begin as if nothing had been."""
        self.__init__()  # type: ignore[misc]  # the beginning is the beginning

    def record(self, outcome: Exception | None, now: float, spread: float) -> bool:
        """Take note of an outcome; returns whether the breaker opened or closed by it.

        ``spread`` between -1 and 1 varies the pause, so that many do not begin again together.
        """
        failed = outcome is not None and not isinstance(outcome, (CheckLater, Rejected, Skipped))
        if not failed:
            self._in_a_row = 0
            self._recent.append((now, False))
            return self._succeeded(now)
        assert outcome is not None
        self._recent.append((now, True))
        self._in_a_row = self._in_a_row + 1 if isinstance(outcome, Unreachable) else 0
        if self._state == "open":
            return False
        if isinstance(outcome, Misconfigured):
            self._seconds = REST.total_seconds()
            return self._open(outcome, now, 0.0)
        if self._state != "closed":
            self._seconds = min(self._seconds * 2, LONGEST_SECONDS)
            return self._open(outcome, now, spread)
        if self._in_a_row >= UNREACHABLE or self._most_fail(now):
            self._seconds = FIRST_SECONDS
            return self._open(outcome, now, spread)
        return False

    def succeeded(self) -> None:
        """Take note of a success while closed: the short way of ``record``."""
        self._in_a_row = 0
        if self._recent:
            self._recent.append((self._recent[-1][0], False))

    def _most_fail(self, now: float) -> bool:
        if len(self._recent) < ATTEMPTS or self._recent[0][0] < now - WINDOW_SECONDS:
            return False
        return sum(failed for _, failed in self._recent) >= SHARE * ATTEMPTS

    def _open(self, outcome: Exception, now: float, spread: float) -> bool:
        was_closed = self._state == "closed"
        self._become("open", now)
        self._until = now + self._seconds * (1 + 0.2 * spread)
        said = str(outcome) if isinstance(outcome, HandlerError) else repr(outcome)
        self._reason = said
        self._recent.clear()
        self._in_a_row = 0
        return was_closed

    def _succeeded(self, now: float) -> bool:
        if self._state == "probing":
            self._become("ramping", now)
        if self._state != "ramping":
            return False
        self._allowed *= 2
        if self._allowed < RAMPED:
            return False
        self._become("closed", now)
        self._reason = None
        return True

    def _become(self, state: State, now: float) -> None:
        self._state, self._since = state, now
        self.is_closed = state == "closed"
