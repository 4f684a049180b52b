"""ESPF: tells every external system what changed in a billing database, in order, until accepted.

This face is what a handler type in another package needs.
"""

from espf.errors import CheckLater, Misconfigured, Rejected, Skipped, TryLater
from espf.handlers.base import Context, Handler, HandlerSettings, Pacing, Reply, Route
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.subscriber import Card, Subscriber
from espf.model import Event

__all__ = [
    "Card",
    "Change",
    "CheckLater",
    "Context",
    "DesiredStateHandler",
    "DesiredStateSettings",
    "Event",
    "Fields",
    "Handler",
    "HandlerSettings",
    "Misconfigured",
    "Pacing",
    "ProductMap",
    "Rejected",
    "Reply",
    "Route",
    "Skipped",
    "Subscriber",
    "TryLater",
    "mapped",
]
