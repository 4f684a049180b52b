"""ESPF: tells every external system what changed in a billing database, in order, until accepted.

This face is what a handler type in another package needs.
"""

from espf.errors import CheckLater, Misconfigured, Rejected, Skipped, TryLater
from espf.handlers.base import Context, Handler, HandlerSettings, Pacing, Reply, Route
from espf.model import Event

__all__ = [
    "CheckLater",
    "Context",
    "Event",
    "Handler",
    "HandlerSettings",
    "Misconfigured",
    "Pacing",
    "Rejected",
    "Reply",
    "Route",
    "Skipped",
    "TryLater",
]
