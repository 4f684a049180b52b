"""For authors of handlers: run a handler on one event, and check that it keeps the contract.

    verdict = await run_handler(SmsGreeting, {"Greeting.URL": url}, sample_event("Account/New"))
    assert verdict.outcome == "finished"

    await check_handler(SmsGreeting, {"Greeting.URL": "http://127.0.0.1:1"}, sample_event())

``run_handler`` speaks real HTTP, so that a test gives the handler the address of a server of its
own. ``check_handler`` needs no server: it stands in for one. ``check_desired_state`` is for
handlers that bring a system to a state, with the system itself.
"""

from espf.testing.desired_state import OneAccount, check_desired_state
from espf.testing.running import (
    FakeBilling,
    FakeOutlet,
    Outcome,
    Verdict,
    check_handler,
    run_handler,
    sample_event,
)

__all__ = [
    "FakeBilling",
    "FakeOutlet",
    "OneAccount",
    "Outcome",
    "Verdict",
    "check_desired_state",
    "check_handler",
    "run_handler",
    "sample_event",
]
