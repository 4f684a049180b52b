"""The token bucket, as pure arithmetic over a clock that the caller brings."""


class TokenBucket:
    """Lets ``burst`` through at once and ``rate`` a second on average; starts full.

    ``tokens`` is what it starts with instead.
    """

    def __init__(self, rate: float, burst: float, now: float, tokens: float | None = None) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = self._burst if tokens is None else min(tokens, self._burst)
        self._at = now

    def resized(self, rate: float, burst: float, now: float, gained: float = 0.0) -> "TokenBucket":
        """A bucket of another size, with what is in this one, and some more, as far as it goes."""
        elapsed = max(0.0, now - self._at)
        held = min(self._burst, self._tokens + elapsed * self._rate)
        # Who gives a part of the work away gives a part of the tokens with it.
        share = min(1.0, burst / self._burst)
        return TokenBucket(rate, burst, now, held * share + gained)

    def take(self, now: float) -> float:
        """Take a token and return 0.0, or take none and return the seconds until there is one."""
        elapsed = max(0.0, now - self._at)
        self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        self._at = max(self._at, now)
        # A wait that was obeyed is never asked for again because of the last bit of a float.
        if self._tokens >= 1.0 - 1e-9:
            self._tokens = max(0.0, self._tokens - 1.0)
            return 0.0
        return (1.0 - self._tokens) / self._rate
