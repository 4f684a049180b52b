"""Everything that ESPF can say went wrong, as one tree.

EspfError
├─ SettingsError          espf.toml, ESPF_* or a handler's settings are wrong
├─ RuleError              a capture rule is wrong; says file, rule and field
├─ InvalidRequest         a parameter is missing or malformed; names the field
├─ NotFound               no such event type, handler, account, event
├─ Conflict               the name is taken, the state does not allow it
├─ TooOften               not so soon again; nothing is wrong with it
├─ Denied                 not logged in, or not allowed
├─ DatabaseUnavailable    the database is away or locked; try again
├─ LeaseLost              another worker owns the handler now; its results count, ours do not
├─ BillingFault           the billing API said no: fault code and string
└─ HandlerError           what a handler may say about an event
   ├─ TryLater            temporary; try again, optionally not before a while
   │  └─ Unreachable      not even a connection came about
   ├─ Misconfigured       nothing is wrong with the event; the handler's settings are
   ├─ Rejected            the external system refused; do not try again
   └─ Skipped             nothing to do, and why

Each class carries the exit code of ``evctl`` and the HTTP status of the APIs, so that
each front end needs one function from error to reply.
"""

from datetime import timedelta
from typing import ClassVar


class EspfError(Exception):
    """ESPF could not do what was asked."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").split("\n", 1)[0])


class SettingsError(EspfError):
    """The settings are wrong."""

    exit_code = 2
    http_status = 400


class RuleError(EspfError):
    """A capture rule is wrong."""

    exit_code = 2
    http_status = 400


class InvalidRequest(EspfError):
    """A parameter is missing or malformed.

    ``field`` is the parameter's name as the caller wrote it, for the caller's form.
    """

    exit_code = 2
    http_status = 400

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(EspfError):
    """There is no such thing."""

    exit_code = 3
    http_status = 404


class Conflict(EspfError):
    """The name is taken, or the state does not allow it."""

    exit_code = 4
    http_status = 409


class TooOften(EspfError):
    """It is under way, or was a moment ago; try again in a moment."""

    exit_code = 4
    http_status = 429


class Denied(EspfError):
    """Not logged in, or not allowed."""

    exit_code = 5
    http_status = 401


class DatabaseUnavailable(EspfError):
    """The database is away or locked."""

    exit_code = 6
    http_status = 503


class LeaseLost(EspfError):
    """Another worker owns this handler now."""


class BillingFault(EspfError):
    """The billing API said no.

    ``code`` is the vendor's fault code, for example ``Server.Account.duplicate_id``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class HandlerError(EspfError):
    """What a handler may say about an event; its message is the reason shown everywhere."""


class TryLater(HandlerError):
    """The external system cannot take the event now.

    ``after`` is the earliest moment of the next try, for example from ``Retry-After``.
    """

    def __init__(self, message: str | None = None, *, after: timedelta | None = None) -> None:
        super().__init__(message)
        self.after = after


class Unreachable(TryLater):
    """No connection to the external system comes about; it is down, or the way to it."""


class Misconfigured(HandlerError):
    """The handler's own settings are refused (a wrong password, a wrong URL).

    No event is to blame, so no attempt is spent: the worker waits and tries again.
    """


class CheckLater(HandlerError):
    """What has begun is not over yet, and goes on ``after`` a while. No attempt is spent."""

    def __init__(self, message: str | None = None, *, after: timedelta) -> None:
        super().__init__(message)
        self.after = after


class Rejected(HandlerError):
    """The external system refused the event for good."""


class Skipped(HandlerError):
    """There is nothing to do for this event."""
