"""EventSender: sends every event to a web application, as an HTTP POST of JSON.

Step 5 of the walk. The application answers with a status, and the status decides: taken,
refused for good, or to be sent again. Rate and concurrency are the worker's; ``pacing`` says
which. Options carry the names that administrators know from the handbook.
"""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from espf.catalogue import VERSION_2_OPTIONAL, VERSION_2_VARIABLES, fits_any, version_2
from espf.errors import Misconfigured, Rejected, Skipped, TryLater
from espf.handlers.base import (
    CHECK_SECONDS,
    Answer,
    Context,
    HandlerSettings,
    Pacing,
    Patterns,
    Post,
    PostHandler,
    Route,
)
from espf.handlers.http import status_line
from espf.handlers.http_auth import (
    Credentials,
    HeaderName,
    KeyId,
    Password,
    Scheme,
    SignatureAlgorithm,
    User,
    basic,
    custom,
    http_date,
    signature,
)
from espf.model import Event, compact

#: No receiver may put an event off for longer; its next word may come after that.
LONGEST_DELAY = timedelta(hours=24)

#: Client errors that pass by themselves: time-out, too early, too many requests.
TEMPORARY = frozenset({408, 425, 429})

#: The receiver does not know us. That is no event's fault.
UNKNOWN_SENDER = frozenset({401, 407})

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|[0-9a-f]*:[0-9a-f:.]*(%\w+)?")
_INTEGER = re.compile(r"-?[0-9]{1,19}")


def _number(value: object) -> object:
    """A choice among numbers, as text from a form or a command line."""
    return int(value) if isinstance(value, str) and value.strip() in {"1", "2"} else value


def _url(value: str) -> str:
    value = value.strip(" ")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("a URL has no blanks or line breaks in it")
    scheme = _SCHEME.match(value)
    if scheme is None:
        value = f"http://{value}"
    elif scheme[1].lower() not in {"http", "https"}:
        raise ValueError(f"expected http:// or https://, not {scheme[0]}")
    parts = urlsplit(value)
    if parts.username is not None:
        raise ValueError("credentials do not belong here; there are options for them")
    if not parts.hostname or not _HOST.fullmatch(parts.hostname) or parts.port == 0:
        raise ValueError("a host is expected, for example http://127.0.0.1:5000")
    return value


#: The type of an option that says where requests go.
Url = Annotated[str, Field(max_length=2048), AfterValidator(_url)]


def _proxy(value: str) -> str:
    if not value.strip():
        return ""
    value = _url(value)
    parts = urlsplit(value)
    if parts.scheme != "http" or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("an HTTP proxy is expected, for example http://10.0.0.1:3128")
    return value


class EventSenderSettings(HandlerSettings):
    """The options of an EventSender."""

    allowed_types: Patterns = Field(
        default=(),
        alias="EventSender.AllowedTypes",
        description="Names or patterns of the event types to send, such as Account/Blocked or "
        "Customer/*, separated by commas, blanks or line breaks. Empty: all. Events of other "
        "types are skipped.",
        json_schema_extra={"group": "What is sent"},
    )
    api_version: Annotated[Literal[1, 2], BeforeValidator(_number)] = Field(
        default=2,
        alias="EventSender.APIVersion",
        description="1: standard events. 2: simplified events, of fewer types and with fewer "
        "variables.",
        json_schema_extra={"group": "What is sent"},
    )
    async_mode: bool = Field(
        default=True,
        alias="EventSender.AsyncMode",
        description="On: send at the rate of TokenRate without waiting for replies. Off: send "
        "the next event when the reply has come, Concurrency of them at a time.",
        json_schema_extra={"group": "Pace"},
    )
    auth_header: HeaderName = Field(
        default="Authorization",
        alias="EventSender.AuthHeader",
        description="The header that carries the authentication.",
        json_schema_extra={"group": "Authentication"},
    )
    auth_method: Literal["Basic", "Custom", "Signature", "None"] = Field(
        default="Basic",
        alias="EventSender.AuthMethod",
        description="Basic: user and password. Custom: a type and credentials. Signature: an "
        "HMAC over the Date header. None: no authentication header.",
        json_schema_extra={"group": "Authentication"},
    )
    basic_auth_key: Password = Field(
        default=SecretStr(""),
        alias="EventSender.BasicAuth.Key",
        description="The password of the Basic method.",
        json_schema_extra={"group": "Authentication", "only_with": "EventSender.AuthMethod=Basic"},
    )
    basic_auth_user: User = Field(
        default="",
        alias="EventSender.BasicAuth.User",
        description="The user of the Basic method.",
        json_schema_extra={"group": "Authentication", "only_with": "EventSender.AuthMethod=Basic"},
    )
    ca_file: str = Field(
        default="",
        alias="EventSender.CAFile",
        max_length=1024,
        description="With https://: a file of PEM certificates of authorities, on every machine "
        "that runs a worker, that are trusted instead of those of the system. Empty: those of the "
        "system.",
        json_schema_extra={"group": "Address"},
    )
    custom_auth_credentials: Credentials = Field(
        default=SecretStr(""),
        alias="EventSender.CustomAuth.Credentials",
        description="The credentials of the Custom method, such as a token.",
        json_schema_extra={"group": "Authentication", "only_with": "EventSender.AuthMethod=Custom"},
    )
    custom_auth_type: Scheme = Field(
        default="",
        alias="EventSender.CustomAuth.Type",
        description="The word before the credentials of the Custom method, such as Bearer.",
        json_schema_extra={"group": "Authentication", "only_with": "EventSender.AuthMethod=Custom"},
    )
    max_wait_time: int = Field(
        default=600,
        alias="EventSender.MaxWaitTime",
        ge=1,
        le=86_400,
        description="Async mode: seconds to wait for replies after the last request of a batch.",
        json_schema_extra={
            "group": "Pace",
            "unit": "seconds",
            "only_with": "EventSender.AsyncMode=on",
        },
    )
    request_timeout: int = Field(
        default=300,
        alias="EventSender.RequestTimeout",
        ge=1,
        le=3600,
        description="Seconds to wait for the reply to one request.",
        json_schema_extra={"group": "Pace", "unit": "seconds"},
    )
    proxy: Annotated[str, Field(max_length=2048), AfterValidator(_proxy)] = Field(
        default="",
        alias="EventSender.Proxy",
        description="The HTTP proxy that requests go through, such as http://10.0.0.1:3128. "
        "Empty: none; what the environment says of proxies is ignored.",
        json_schema_extra={"group": "Address"},
    )
    proxy_auth_user: User = Field(
        default="",
        alias="EventSender.ProxyAuth.User",
        description="The user that the proxy knows us by. Empty: it asks for none.",
        json_schema_extra={"group": "Address"},
    )
    proxy_auth_key: Password = Field(
        default=SecretStr(""),
        alias="EventSender.ProxyAuth.Key",
        description="The password of ProxyAuth.User.",
        json_schema_extra={"group": "Address"},
    )
    signature_auth_key: Password = Field(
        default=SecretStr(""),
        alias="EventSender.SignatureAuth.Key",
        description="The key of the Signature method.",
        json_schema_extra={
            "group": "Authentication",
            "only_with": "EventSender.AuthMethod=Signature",
        },
    )
    signature_auth_key_id: KeyId = Field(
        default="",
        alias="EventSender.SignatureAuth.KeyId",
        description="The name by which the receiver finds the key of the Signature method.",
        json_schema_extra={
            "group": "Authentication",
            "only_with": "EventSender.AuthMethod=Signature",
        },
    )
    signature_auth_algorithm: SignatureAlgorithm = Field(
        default="hmac-sha1",
        alias="EventSender.SignatureAuth.Algorithm",
        description="How the Signature method signs.",
        json_schema_extra={
            "group": "Authentication",
            "only_with": "EventSender.AuthMethod=Signature",
        },
    )
    token_burstiness: int = Field(
        default=100,
        alias="EventSender.TokenBurstiness",
        ge=1,
        le=10_000,
        description="Async mode: the most requests that go out at once.",
        json_schema_extra={
            "group": "Pace",
            "unit": "requests",
            "only_with": "EventSender.AsyncMode=on",
        },
    )
    token_rate: int = Field(
        default=10,
        alias="EventSender.TokenRate",
        ge=1,
        le=10_000,
        description="Async mode: requests per second, on average.",
        json_schema_extra={
            "group": "Pace",
            "unit": "requests per second",
            "only_with": "EventSender.AsyncMode=on",
        },
    )
    url: Url = Field(
        alias="EventSender.URL",
        description="Where the events go, such as http://127.0.0.1:5000. Without http:// or "
        "https:// it means http://.",
        json_schema_extra={"group": "Address"},
    )
    with_unique_id: bool = Field(
        default=True,
        alias="EventSender.WithUniqueID",
        description="Send i_event, by which the receiver knows a repeated event.",
        json_schema_extra={"group": "What is sent"},
    )

    @field_validator(
        "basic_auth_key",
        "basic_auth_user",
        "custom_auth_credentials",
        "custom_auth_type",
        "signature_auth_key",
        "signature_auth_key_id",
    )
    @classmethod
    def _mandatory_with_its_method(
        cls, value: SecretStr | str, info: ValidationInfo
    ) -> SecretStr | str:
        method = info.data.get("auth_method")
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not text and method and str(info.field_name).startswith(f"{method.lower()}_auth"):
            raise ValueError(f"is mandatory with AuthMethod {method}")
        return value

    @field_validator("proxy_auth_key")
    @classmethod
    def _belongs_to_a_user(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if value.get_secret_value() and not info.data.get("proxy_auth_user", "?"):
            raise ValueError("needs EventSender.ProxyAuth.User, too")
        return value


class EventSender(PostHandler):
    """Send events to a web application over HTTP."""

    Settings: ClassVar[type[HandlerSettings]] = EventSenderSettings
    settings: EventSenderSettings

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._route = Route(
            proxy=self.settings.proxy or None,
            proxy_user=self.settings.proxy_auth_user,
            proxy_password=self.settings.proxy_auth_key.get_secret_value(),
            ca_file=self.settings.ca_file or None,
        )
        # Why events of a type are not sent, by type; None: they are.
        self._unsent_types: dict[str, str | None] = {}
        # How a body begins, by type.
        self._starts: dict[str, str] = {}
        # The headers of this second.
        self._second = 0
        self._last_headers: Mapping[str, str] = {}

    def pacing(self) -> Pacing:
        """Async mode: at the bucket's rate. Otherwise ``Concurrency`` at a time."""
        settings = self.settings
        if not settings.async_mode:
            return Pacing(concurrency=settings.concurrency)
        return Pacing(
            concurrency=settings.concurrency,
            rate=settings.token_rate,
            burst=settings.token_burstiness,
            max_wait=timedelta(seconds=settings.max_wait_time),
        )

    def time_limit_seconds(self) -> float:
        """A little more than RequestTimeout, which ends a request before."""
        return self.settings.request_timeout + 10.0

    def secrets(self) -> tuple[str, ...]:
        """The secret options, and the passwords in the form in which Basic sends them."""
        settings = self.settings
        logins = (
            (settings.basic_auth_user, settings.basic_auth_key.get_secret_value()),
            (settings.proxy_auth_user, settings.proxy_auth_key.get_secret_value()),
        )
        sent = (basic(user, key).partition(" ")[2] for user, key in logins if key)
        return (*super().secrets(), *sent)

    def remark(self, event_type: str) -> str | None:
        """Why the events of a type will be skipped, if they will be."""
        reason = self._unsent(event_type)
        return f"its events will be skipped: {reason}" if reason else None

    async def check(self, context: Context) -> str:
        """Connect, with TLS where the URL says so: any request would be an event."""
        settings = self.settings
        reached = await context.http.connect(settings.url, CHECK_SECONDS, self._route)
        return f"{reached} can be reached; whether it takes events, only an event tells"

    def post(self, event: Event) -> Post:
        """One event as JSON."""
        unsent = self._unsent_types.get(event.event_type, "")
        if unsent == "":
            unsent = self._unsent_types[event.event_type] = self._unsent(event.event_type)
        if unsent is not None:
            raise Skipped(unsent)
        settings = self.settings
        return Post(
            settings.url,
            self._headers(),
            self._body(event),
            settings.request_timeout,
            self._route,
        )

    def judge(self, reply: Answer) -> None:
        """The reply's status is the verdict."""
        if reply.status != 200:
            _judge(reply)

    def _unsent(self, event_type: str) -> str | None:
        """Why events of a type are not sent; None: they are."""
        allowed = self.settings.allowed_types
        if allowed and not fits_any(event_type, allowed):
            return f"EventSender.AllowedTypes does not name {event_type}"
        if self.settings.api_version == 2 and version_2(event_type) is None:
            return f"{event_type} has no version 2 form; EventSender.APIVersion 1 sends it"
        return None

    def _body(self, event: Event) -> bytes:
        name, variables = event.event_type, event.payload
        if self.settings.api_version == 2:
            # A type without a simplified form does not come here.
            name = version_2(name) or name
            # Custom/* keeps the variables that it has.
            if name.partition("/")[0] in VERSION_2_VARIABLES:
                variables = compact(_chosen(event, name))
        if self.settings.with_unique_id:
            variables = numbered(variables, event.i_event)
        start = self._starts.get(name)
        if start is None:
            start = self._starts[name] = f'{{"event_type":{compact(name)},"variables":'
        return f"{start}{variables}}}".encode()

    def _headers(self) -> Mapping[str, str]:
        """The headers, which say the time: the same ones for a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._last_headers = self._headers_at(datetime.fromtimestamp(second, UTC))
        return self._last_headers

    def _headers_at(self, now: datetime) -> Mapping[str, str]:
        settings = self.settings
        date = http_date(now)
        headers = {"Date": date, "Content-Type": "application/json"}
        match settings.auth_method:
            case "Basic":
                headers[settings.auth_header] = basic(
                    settings.basic_auth_user, settings.basic_auth_key.get_secret_value()
                )
            case "Custom":
                headers[settings.auth_header] = custom(
                    settings.custom_auth_type, settings.custom_auth_credentials.get_secret_value()
                )
            case "Signature":
                headers[settings.auth_header] = signature(
                    settings.signature_auth_key_id,
                    settings.signature_auth_key.get_secret_value(),
                    date,
                    settings.signature_auth_algorithm,
                )
            case "None":
                pass
        return headers


def standard(event: Event) -> str:
    """An event in its standard form, that of version 1, with ``i_event``: a JSON object as text."""
    variables = numbered(event.payload, event.i_event)
    return f'{{"event_type":{compact(event.event_type)},"variables":{variables}}}'


def numbered(variables: str, i_event: int) -> str:
    """The variables, a JSON object as text, with ``i_event`` as the last one.

    They are not parsed: what the trigger wrote goes out.
    """
    rest = variables.strip()[:-1].rstrip()
    comma = "" if rest == "{" else ","
    return f'{rest}{comma}"i_event":{i_event}}}'


def _chosen(event: Event, simplified: str) -> dict[str, int | str]:
    """The variables of an event's simplified form, in its types."""
    group = simplified.partition("/")[0]
    mandatory = VERSION_2_VARIABLES[group]
    found = {
        name: value
        for name in (*mandatory, *VERSION_2_OPTIONAL.get(group, ()))
        if (value := _typed(name, event.variables.get(name))) is not None
    }
    if missing := [name for name in mandatory if name not in found]:
        raise Rejected(f"the event has no {' and no '.join(missing)}, which {simplified} needs")
    return found


def _typed(name: str, value: object) -> int | str | None:
    """A variable as its simplified form has it; None: there is none that could be sent."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    if not name.startswith("i_"):
        return str(value)
    return int(value) if _INTEGER.fullmatch(str(value)) else None


def _judge(reply: Answer) -> None:
    if reply.ok:
        return
    status = reply.status
    reason = status_line(status)
    if said := first_line(reply.text):
        reason += f": {said}"
    if status in UNKNOWN_SENDER:
        raise Misconfigured(reason)
    if 400 <= status < 500 and status not in TEMPORARY:
        raise Rejected(reason)
    raise TryLater(reason, after=retry_after(reply.headers.get("retry-after"), datetime.now(UTC)))


def first_line(text: str) -> str:
    """The start of what a server said, fit for one line of a log."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line[:200])


def retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Read a Retry-After header, seconds or a date; at most 24 hours. None: it says nothing."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return LONGEST_DELAY if len(text) > 6 else min(timedelta(seconds=int(text)), LONGEST_DELAY)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # A date that gives "-0000" as its zone comes without one; it is in UTC.
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    return min(max(moment - now, timedelta(0)), LONGEST_DELAY)
