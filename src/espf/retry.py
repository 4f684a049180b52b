"""Step 6 of 8, decide: from what a handler said to what becomes of the notification. Pure."""

from dataclasses import dataclass
from datetime import timedelta

from espf.errors import CheckLater, Misconfigured, Rejected, Skipped, TryLater
from espf.handlers.base import HandlerSettings
from espf.model import Decision, Status

#: No wait is longer, whatever a server asks for in Retry-After.
LONGEST_DELAY = timedelta(days=31)

#: How long a handler rests whose own settings are refused.
REST = timedelta(seconds=30)

#: What becomes of nearly every attempt.
FINISHED = Decision(Status.FINISHED)


@dataclass(frozen=True)
class RetryPolicy:
    """When to try again: ``delays`` in seconds after attempt 1, 2, ...; the last one repeats."""

    delays: tuple[int, ...]
    max_attempts: int
    jitter: float
    hold: bool

    @classmethod
    def of(cls, settings: HandlerSettings) -> "RetryPolicy":
        """The policy that a handler's options describe."""
        return cls(
            delays=settings.retry_delays,
            max_attempts=settings.max_attempts or len(settings.retry_delays) + 1,
            jitter=settings.retry_jitter,
            hold=settings.on_failure == "hold",
        )

    def delay(self, attempt: int, spread: float) -> timedelta:
        """The wait after an attempt; ``spread`` between -1 and 1 places it in the jitter."""
        seconds = self.delays[min(attempt, len(self.delays)) - 1]
        return timedelta(seconds=seconds * (1 + self.jitter * spread))


def decide(
    outcome: Exception | None,
    attempt: int,
    policy: RetryPolicy,
    spread: float,
    *,
    counts: bool = True,
) -> Decision:
    """What becomes of a notification whose attempt number ``attempt`` ended with ``outcome``.

    ``counts`` is False while the breaker is not closed: the event is not to blame.
    """
    match outcome:
        case None:
            return FINISHED
        case Skipped():
            return Decision(Status.SKIPPED, str(outcome))
        case Rejected():
            return Decision(Status.REJECTED, str(outcome))
        case CheckLater() | Misconfigured():
            begun = isinstance(outcome, CheckLater)
            delay = min(outcome.after if isinstance(outcome, CheckLater) else REST, LONGEST_DELAY)
            return Decision(Status.QUEUED, str(outcome), delay=delay, spent=False, begun=begun)
        case _ if counts and attempt >= policy.max_attempts:
            reason = f"gave up after {attempt} attempts: {_reason(outcome)}"
            return Decision(Status.FAILED, reason, hold=policy.hold)
        case _:
            asked = (outcome.after if isinstance(outcome, TryLater) else None) or timedelta(0)
            delay = min(max(policy.delay(attempt, spread), asked), LONGEST_DELAY)
            return Decision(Status.QUEUED, _reason(outcome), delay=delay, spent=counts)


def _reason(outcome: Exception) -> str:
    if isinstance(outcome, TryLater):
        return str(outcome)
    return f"{type(outcome).__name__}: {outcome}"
