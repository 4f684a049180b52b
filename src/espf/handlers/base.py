"""The contract between the worker and a handler type.

A handler is one async method: an event comes in; it returns when the external system has taken
the event, or raises what the verdict is otherwise. Order, concurrency, rate, retries, the
journal and alerts belong to the worker.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
)

from espf.model import Event

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DELAY = re.compile(r"(\d{1,9})([smhd]?)(?:x(\d{1,4}))?", re.ASCII)

#: About a day of growing delays, then a slower tail up to about a month.
DEFAULT_DELAYS = "5s 30s 2m 10m 30m 1hx23"
DEFAULT_LONG_TAIL = "4h 8h 16h 24hx28"
DEFAULT_RETRY_DELAYS = f"{DEFAULT_DELAYS} {DEFAULT_LONG_TAIL}"

#: The option by which a handler says under which service group it reports the status of accounts.
SERVICE_GROUP = "ServiceGroup"

#: How long a ``check`` waits for a connection or an answer; whoever asks is waiting, too.
CHECK_SECONDS = 10.0


def parse_delays(value: object) -> object:
    """Read ``5s 30s 2m 1hx23`` (or a list of seconds) as a tuple of seconds."""
    if not isinstance(value, str):
        return value
    delays: list[int] = []
    for word in value.replace(",", " ").split():
        match = _DELAY.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is not a delay; write 30s, 5m, 1h or 1hx23 (23 times)")
        amount, unit, times = match.groups()
        delays.extend([int(amount) * _UNITS[unit or "s"]] * int(times or 1))
    return tuple(delays)


def format_delays(delays: tuple[int, ...]) -> str:
    """Write a tuple of seconds the way ``parse_delays`` reads it."""
    words: list[str] = []
    index = 0
    while index < len(delays):
        seconds = delays[index]
        times = 1
        while index + times < len(delays) and delays[index + times] == seconds:
            times += 1
        unit, size = next(
            (unit, size)
            for unit, size in (("h", 3600), ("m", 60), ("s", 1))
            if seconds % size == 0 and (seconds or size == 1)
        )
        words.append(f"{seconds // size}{unit}" + (f"x{times}" if times > 1 else ""))
        index += times
    return " ".join(words)


_PATTERN = re.compile(r"[A-Za-z0-9_*]+(/[A-Za-z0-9_*]+)*")


def words(value: object) -> object:
    """Read words with commas, blanks or line breaks between them; what is no text stays."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _pattern(value: str) -> str:
    if not _PATTERN.fullmatch(value):
        raise ValueError(
            f"{value!r} is neither the name of an event type, such as Account/Blocked, "
            "nor a pattern, such as Customer/*"
        )
    return value


#: Names or patterns of event types, written as one text.
Patterns = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern)], ...],
    BeforeValidator(words),
    PlainSerializer(", ".join),
]

Delays = Annotated[
    tuple[Annotated[int, Field(ge=0, le=31 * 86400)], ...],
    BeforeValidator(parse_delays),
    PlainSerializer(format_delays),
    Field(min_length=1, max_length=1000),
]


class HandlerSettings(BaseModel):
    """The options that every handler has. A handler type adds its own in a subclass.

    A field's alias is the option's name as administrators write it; its description is the help
    text. ``SecretStr`` fields are sealed in the database and shown as dots.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_default=True
    )

    concurrency: int = Field(
        default=1,
        alias="Concurrency",
        ge=1,
        le=1000,
        description="How many events are processed at the same time, each of another subscriber.",
    )
    retry_delays: Delays = Field(
        default=parse_delays(DEFAULT_RETRY_DELAYS),  # type: ignore[arg-type]  # it reads a text
        alias="RetryDelays",
        description="Waiting times between attempts, for example '5s 30s 2m 1hx23'.",
    )
    retry_jitter: float = Field(
        default=0.2,
        alias="RetryJitter",
        ge=0,
        le=1,
        description="Share of a waiting time by which it varies, so that retries spread out.",
        json_schema_extra={"unit": "0 to 1"},
    )
    max_attempts: int | None = Field(
        default=None,
        alias="MaxAttempts",
        ge=1,
        description="Attempts before an event counts as failed. Empty: one more than RetryDelays "
        "has entries. When there are more attempts than delays, the last delay repeats.",
        json_schema_extra={"unit": "attempts"},
    )
    on_failure: Literal["continue", "hold"] = Field(
        default="continue",
        alias="OnFailure",
        description="What a failed event does to the later ones of the same subscriber: "
        "'continue' lets them go on, 'hold' keeps them until it is restarted or given up.",
    )
    latest_only: Patterns = Field(
        default=(),
        alias="LatestOnly",
        description="Names or patterns of event types of which only the newest counts that waits "
        "for a subscriber, separated by commas, blanks or line breaks; beside those that the "
        "catalogue marks.",
    )
    trace_context: bool = Field(
        default=False,
        alias="TraceContext",
        description="On: where traces are made of events, HTTP requests carry the header "
        "traceparent, so that the receiver's spans join the event's trace.",
    )


@dataclass(frozen=True)
class Pacing:
    """How the worker feeds a handler.

    With ``rate`` set, events go out at the rate of a token bucket without waiting for replies
    (``burst`` tokens at most, ``rate`` new ones a second); a reply that is missing
    ``max_wait`` after the last send of its batch counts as no answer. Without it, ``concurrency``
    events are in the works at a time.
    """

    concurrency: int = 1
    rate: float | None = None
    burst: int = 1
    max_wait: timedelta | None = None


@dataclass(frozen=True)
class Reply:
    """What an HTTP server answered. ``text`` is capped; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class Answer(Protocol):
    """A reply as whoever judges it needs it; see ``Reply``."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name."""
        ...

    @property
    def text(self) -> str:
        """The body."""
        ...


@dataclass(frozen=True)
class Route:
    """The way to a server, where it is not the usual one.

    ``proxy`` is the URL of an HTTP proxy, ``http://HOST:PORT``; ``proxy_user`` and
    ``proxy_password`` are what it is told, when there is a user. ``ca_file`` is a file of PEM
    certificates that are trusted with TLS, instead of those that the system trusts.
    """

    proxy: str | None = None
    proxy_user: str = ""
    proxy_password: str = field(default="", repr=False)
    ca_file: str | None = None


#: The usual way: straight, and what the system trusts is trusted.
STRAIGHT = Route()


@dataclass(slots=True)
class Post:
    """An HTTP POST that is to be sent. The same ``headers`` object says: the same headers."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_seconds: float
    route: Route = STRAIGHT


class Http(Protocol):
    """HTTP as handlers have it: one attempt's road out, which notes what was said."""

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
    ) -> Reply:
        """POST and read the reply. Redirects are not followed.

        Raises TryLater when there is no reply in time or no connection, Misconfigured when
        ``url`` or ``route`` cannot be right.
        """
        ...

    async def get(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
    ) -> Reply:
        """GET, for a ``check``; raises as ``post``."""
        ...

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
    ) -> Reply:
        """A request of any other method, such as PUT, PATCH or DELETE; else as ``post``."""
        ...

    async def resolve(self, host: str, port: int) -> str:
        """The IP address of a host, for a handler that does not speak HTTP.

        Raises Unreachable when the name is not known, Misconfigured when the handler may not
        call any of its addresses. To be asked before each connection, and to be connected to.
        """
        ...

    async def connect(self, url: str, timeout_seconds: float, route: Route = STRAIGHT) -> str:
        """Connect to the server of a URL, with TLS where the URL says so, and hang up.

        Nothing is sent. Returns whom it reached, which is the proxy where the way leads through
        one: what lies behind it cannot be told. Raises as ``post``.
        """
        ...


class Billing(Protocol):
    """The billing API as handlers have it, in the environment of the event."""

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Call ``/rest/<service>/<method>``. Raises BillingFault, or TryLater when it is away."""
        ...

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        """Account/get_account_info: the ``account_info`` of one account."""
        ...


class Outlet(Protocol):
    """The way back into the queue, for handlers that make events of an event."""

    async def reached(self) -> str | None:
        """How far the events have been made already, in the handler's own words; None: not begun.

        To be asked first. An attempt that was cut off is gone on with by the next one.
        """
        ...

    async def emit(
        self,
        event_type: str,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        reached: str,
    ) -> None:
        """Put events of one type into the queue, in the environment of the event at hand.

        Each comes with how far one has come with it, and with its variables; ``i_env``,
        ``event_time`` and ``i_parent_event`` are added. ``reached`` is how far one has come after
        all of them; there may be none. The events and how far one has come are stored together,
        in steps, and each step waits until most of the one before has been worked on.

        Raises CheckLater when it is time for others, and Skipped when nobody is subscribed: let
        both pass.
        """
        ...


@dataclass
class Context:
    """What a handler may use while it handles one event.

    ``attempt`` counts from 1. ``note`` collects lines for the journal of this attempt, for
    handlers that do not speak HTTP. ``secrets`` are texts that no journal, log or page shows.
    """

    http: Http
    billing: Billing
    attempt: int
    outlet: Outlet
    notes: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list, repr=False)

    def note(self, line: str) -> None:
        """Add a line to the attempt's record in the journal."""
        self.notes.append(line)

    def hide(self, secret: str) -> None:
        """Keep a text out of the journal and the log: a subscriber's key or password."""
        self.secrets.append(secret)


class Handler(ABC):
    """A handler type. One instance serves one configured event handler."""

    #: Names or patterns (``Account/*``) of the event types that this type can handle.
    supports: ClassVar[tuple[str, ...]] = ("*",)

    #: Those of them that a new handler is subscribed to when its administrator wants the usual
    #: ones; none: all that it supports.
    usual: ClassVar[tuple[str, ...]] = ()

    Settings: ClassVar[type[HandlerSettings]] = HandlerSettings

    #: The types that it was subscribed to by another name than the catalogue's: name -> that one.
    spellings: Mapping[str, str] = MappingProxyType({})

    def __init__(self, settings: HandlerSettings) -> None:
        self.settings = settings
        #: The name under which it is configured, where it is.
        self.name = type(self).__name__

    def spelt(self, event: Event) -> Event:
        """An event under the name that the handler was subscribed to."""
        name = self.spellings.get(event.event_type)
        return event if name is None else replace(event, event_type=name)

    def pacing(self) -> Pacing:
        """How the worker feeds this handler."""
        return Pacing(concurrency=self.settings.concurrency)

    def time_limit_seconds(self) -> float:
        """After how long ``handle`` is cut off, as a last resort; counts as no answer."""
        return 600.0

    @property
    def service_group(self) -> str:
        """The group under which the status of accounts is reported; empty: none is.

        One that the environment does not have is reported to nobody. An option for it is called
        ``SERVICE_GROUP``: then it is checked when it is set.
        """
        return ""

    def remark(self, event_type: str) -> str | None:  # noqa: ARG002  (subclasses use it)
        """What an administrator should know who subscribes this handler to a type."""
        return None

    def secrets(self) -> tuple[str, ...]:
        """Texts that must not appear in the journal or the log: every secret option's value."""
        return tuple(
            value.get_secret_value()
            for name in type(self.settings).model_fields
            if isinstance(value := getattr(self.settings, name), SecretStr)
            and value.get_secret_value()
        )

    async def open(self) -> None:  # noqa: B027  (most handlers have nothing to open)
        """Open connections, before the first event."""

    async def close(self) -> None:  # noqa: B027
        """Close connections, after the last event."""

    async def check(self, context: Context) -> str | None:  # noqa: ARG002  (subclasses use it)
        """Find out whether the external system can be reached and used, and change nothing there.

        Returns what was found, in one line that also says what cannot be told; None: nothing can be
        told without an event. Raises what ``handle`` would raise.
        """
        return None

    @abstractmethod
    async def handle(self, event: Event, context: Context) -> None:
        """Bring one event to the external system; return when it has accepted it.

        Raises TryLater, CheckLater, Misconfigured, Rejected or Skipped; any other exception counts
        as temporary. Must be prepared to see an event again: delivery is at least once.
        """


class PostHandler(Handler):
    """A handler whose work is one POST: it says what to send, and what the reply means.

    The worker sends it the short way, without a task for each event.
    """

    @abstractmethod
    def post(self, event: Event) -> Post:
        """What to send. Raises a HandlerError when there is nothing to send."""

    @abstractmethod
    def judge(self, reply: Answer) -> None:
        """Return when the external system has accepted the event, else raise the verdict."""

    async def handle(self, event: Event, context: Context) -> None:
        """See Handler."""
        post = self.post(event)
        self.judge(
            await context.http.post(
                post.url, post.body, post.headers, post.timeout_seconds, post.route
            )
        )
