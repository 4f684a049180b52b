"""ConnectorSender: sends every event, with what the billing knows about it, to a connector.

Step 5 of the walk. A connector is a small web service in front of one external system. It gets the
event as EventSender of version 1 sends it, enriched (enrichment.py), so that it need not ask the
billing itself; its answer decides: taken, refused for good, or to be sent again.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, ClassVar, get_args
from urllib.parse import urlsplit
from uuid import UUID, uuid4, uuid5

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr

from espf.errors import Misconfigured, Rejected, TryLater
from espf.handlers.base import (
    CHECK_SECONDS,
    Answer,
    Context,
    Delays,
    Handler,
    HandlerSettings,
    Pacing,
    parse_delays,
    words,
)
from espf.handlers.enrichment import Enrichment, Part, happened_at
from espf.handlers.event_sender import (
    TEMPORARY,
    UNKNOWN_SENDER,
    Url,
    first_line,
    retry_after,
    standard,
)
from espf.handlers.http import status_line
from espf.handlers.http_auth import Credentials, custom
from espf.handlers.pb_data import Info
from espf.model import Event, compact

#: About a day: 100 attempts, 1 to 10 minutes apart. Then the long tail, of about a month.
RETRY_DELAYS = "1m 2m 3m 5m 8m 10mx94 1h 2h 4h 8h 16h 24hx28"

#: What the ids of events are made from. It must never change: receivers know events by them.
_EVENT_IDS = UUID("6f0f5d1e-3a8f-4f7c-9f7d-6d4c7b0e52a1")

#: All calls that the billing gets about one event, each within its own time-out.
_ASKING_SECONDS = 180.0

#: Types of errors by which a connector says that the external system, or the way to it, is at fault
#: and not the event: it may do better later.
_FOR_NOW = frozenset({"service_error", "connection_error", "rate_limit_error", "internal_error"})

#: Nothing is there under the URL, or nothing that takes a POST.
_WRONG_URL = frozenset({404, 405})


def _mandatory(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("is mandatory")
    return value


class ConnectorSenderSettings(HandlerSettings):
    """The options of a ConnectorSender."""

    concurrency: int = Field(
        default=10,
        alias="Concurrency",
        ge=1,
        le=1000,
        description="How many events are processed at the same time, each of another subscriber.",
    )
    retry_delays: Delays = Field(
        default=parse_delays(RETRY_DELAYS),  # type: ignore[arg-type]  # it reads a text
        alias="RetryDelays",
        description="Waiting times between attempts, for example '1m 5m 10mx97'.",
    )
    cache_ttl: int = Field(
        default=5,
        alias="ConnectorSender.CacheTTL",
        ge=0,
        le=300,
        description="Seconds for which a product or an access policy is remembered. 0: not at "
        "all. What is the subscriber's own is never remembered.",
        json_schema_extra={"group": "What is sent", "unit": "seconds"},
    )
    data: Annotated[tuple[Part, ...], BeforeValidator(words), PlainSerializer(", ".join)] = Field(
        default=get_args(Part),
        alias="ConnectorSender.Data",
        description="The parts of pb_data to send, separated by commas or blanks. Each costs a "
        "call of the billing API or two.",
        json_schema_extra={"group": "What is sent"},
    )
    request_timeout: int = Field(
        default=300,
        alias="ConnectorSender.RequestTimeout",
        ge=1,
        le=3600,
        description="Seconds to wait for the reply to one request.",
        json_schema_extra={"group": "Address", "unit": "seconds"},
    )
    token: Annotated[Credentials, AfterValidator(_mandatory)] = Field(
        alias="ConnectorSender.Token",
        description="The Bearer token by which the connector knows the sender.",
        json_schema_extra={"group": "Address"},
    )
    url: Url = Field(
        alias="ConnectorSender.URL",
        description="Where the connector takes events, such as "
        "http://127.0.0.1:8000/process-event. Without http:// or https:// it means http://.",
        json_schema_extra={"group": "Address"},
    )


class ConnectorSender(Handler):
    """Send events, with what the billing knows about them, to a connector."""

    Settings: ClassVar[type[HandlerSettings]] = ConnectorSenderSettings
    settings: ConnectorSenderSettings

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._enrichment = Enrichment(self.settings.data, self.settings.cache_ttl)

    def pacing(self) -> Pacing:
        """``Concurrency`` at a time."""
        return Pacing(concurrency=self.settings.concurrency)

    def time_limit_seconds(self) -> float:
        """The time-outs of all that is asked and sent, and a little more."""
        return self.settings.request_timeout + _ASKING_SECONDS

    async def check(self, context: Context) -> str:
        """Ask for the health of the connector, which by its protocol changes nothing."""
        url = urlsplit(self.settings.url)._replace(path="/health", query="", fragment="").geturl()
        headers = {"Authorization": custom("Bearer", self.settings.token.get_secret_value())}
        reply = await context.http.get(url, headers, CHECK_SECONDS)
        if reply.status in UNKNOWN_SENDER:
            raise Misconfigured(f"{url}: {status_line(reply.status)}")
        if not reply.ok and reply.status not in _WRONG_URL:
            raise TryLater(f"{url}: {status_line(reply.status)}")
        found = "is well" if reply.ok else "answers, and has no /health"
        return f"the connector {found}; whether it takes events, only an event tells"

    async def handle(self, event: Event, context: Context) -> None:
        """Ask the billing, send the enriched event, judge the answer."""
        settings = self.settings
        body = enriched(event, self.name, await self._enrichment.of(event, context))
        token = settings.token.get_secret_value()
        headers = {
            "Content-Type": "application/json",
            "Authorization": custom("Bearer", token),
            "x-request-id": str(uuid4()),
            # All attempts of an event are one trace.
            "x-b3-traceid": event_id(event).hex,
        }
        judge(await context.http.post(settings.url, body, headers, settings.request_timeout))


def event_id(event: Event) -> UUID:
    """The same for each attempt and each handler; no other event of any installation has it."""
    return uuid5(_EVENT_IDS, f"{event.i_event}\n{event.payload}")


def enriched(event: Event, handler_id: str, pb_data: Info) -> bytes:
    """The body of a request. The variables are what the trigger wrote, and ``i_event``."""
    moment = happened_at(event)
    rest = {
        "pb_data": pb_data,
        "handler_id": handler_id,
        **({"created_at": moment.isoformat()} if moment else {}),
        "updated_at": datetime.now(UTC).isoformat(),
        "status": "received",
    }
    text = f'{{"event_id":"{event_id(event)}","data":{standard(event)},{compact(rest)[1:]}'
    return text.encode("utf-8", "replace")


def judge(reply: Answer) -> None:
    """Return when the connector has taken the event, else raise the verdict.

    By the type of the error that the reply tells about, else by its status.
    """
    if reply.ok:
        return
    status = reply.status
    kind, said = _error(reply.text)
    reason = ": ".join(text for text in (status_line(status), said) if text)
    if status in UNKNOWN_SENDER or (status in _WRONG_URL and kind is None):
        raise Misconfigured(reason)
    if 400 <= status < 500 and status not in TEMPORARY and kind not in _FOR_NOW:
        raise (Misconfigured if kind == "authentication_error" else Rejected)(reason)
    raise TryLater(reason, after=retry_after(reply.headers.get("retry-after"), datetime.now(UTC)))


def _error(text: str) -> tuple[str | None, str]:
    """What a connector says went wrong: the type, in small letters, and all of it in one line."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return None, first_line(text)
    told = [str(body[name]) for name in ("type", "message", "error") if body.get(name)]
    kind = str(body["type"]).lower() if body.get("type") else None
    return kind, first_line(": ".join(told) or text)
