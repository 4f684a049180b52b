"""NatsSender: stores every event in a stream of NATS JetStream, for whoever reads it there.

Each message has a subject that tells whom it is about, and an id by which the stream knows an event
that comes again. It counts as taken when JetStream says that it is stored. So consumers on other
machines take part at their own pace, and each account's events come to them in order.
"""

import re
from itertools import takewhile
from typing import Annotated, ClassVar, Literal, get_args
from uuid import uuid5

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from espf.handlers.base import CHECK_SECONDS, Context, Handler, HandlerSettings, Pacing, words
from espf.handlers.connector_sender import enriched, event_id
from espf.handlers.enrichment import Enrichment, Part
from espf.handlers.event_sender import standard
from espf.handlers.http_auth import Credentials, Password, User
from espf.model import Event
from espf.systems.jetstream import JetStream, Login, Stream, read_credentials, read_seed

_ADDRESS = "Address"
_AUTH = "Authentication"
_CONTENT = "What is sent"
_STREAM = "Stream"

_PORT = 4222

_SERVER = re.compile(r"(?:nats://|tls://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", re.ASCII)
_FIELD = re.compile(r"\{(\w+)\}", re.ASCII)
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|\{\w+\})+", re.ASCII)

#: What no token of a subject is made of.
_NO_TOKEN = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)

#: What stands for a variable that an event does not have.
_NOBODY = "none"

#: All calls that the billing gets about one event, each within its own time-out.
_ASKING_SECONDS = 180.0


def _server(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SERVER.fullmatch(value)
    if match is None or not 0 < int(match[2] or _PORT) < 65536:
        raise ValueError(f"{value!r} is no server, such as 127.0.0.1:4222; users are options")
    return match[1].strip("[]"), int(match[2] or _PORT)


def _written(servers: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in servers)


#: Servers by host and port.
Servers = Annotated[
    tuple[Annotated[tuple[str, int], BeforeValidator(_server)], ...],
    BeforeValidator(words),
    PlainSerializer(_written),
    Field(min_length=1, max_length=20),
]


def _subject(value: str) -> str:
    tokens = value.split(".")
    if not all(_TOKEN.fullmatch(token) for token in tokens):
        raise ValueError(
            "words with dots between them are expected, of letters, digits, - and _, or of "
            "variables such as {i_account}"
        )
    if "{" in tokens[0]:
        raise ValueError("the first word must be the same for all events")
    return value


class NatsSenderSettings(HandlerSettings):
    """The options of a NatsSender."""

    concurrency: int = Field(
        default=50,
        alias="Concurrency",
        ge=1,
        le=1000,
        description="How many events are processed at the same time, each of another subscriber.",
    )
    servers: Servers = Field(
        alias="NatsSender.Servers",
        description="The servers, such as '127.0.0.1:4222', separated by commas or blanks. They "
        "are tried in this order. Without a port it is 4222.",
        json_schema_extra={"group": _ADDRESS},
    )
    tls: bool = Field(
        default=False,
        alias="NatsSender.TLS",
        description="On: a server that does not speak TLS is told nothing. Off: TLS is spoken "
        "with a server that demands it.",
        json_schema_extra={"group": _ADDRESS},
    )
    ca_file: str = Field(
        default="",
        alias="NatsSender.CAFile",
        max_length=1024,
        description="A file of PEM certificates of authorities, on every machine that runs a "
        "worker, that are trusted instead of those of the system.",
        json_schema_extra={"group": _ADDRESS},
    )
    timeout: int = Field(
        default=10,
        alias="NatsSender.Timeout",
        ge=1,
        le=300,
        description="How long to wait for a connection, and then for the ack of a message.",
        json_schema_extra={"group": _ADDRESS, "unit": "seconds"},
    )
    auth_method: Literal["None", "Password", "Token", "Credentials"] = Field(
        default="None",
        alias="NatsSender.AuthMethod",
        description="Password: a user and a password. Token: a token. Credentials: the text of a "
        ".creds file.",
        json_schema_extra={"group": _AUTH},
    )
    user: User = Field(
        default="",
        alias="NatsSender.User",
        description="The user of the Password method.",
        json_schema_extra={"group": _AUTH, "only_with": "NatsSender.AuthMethod=Password"},
    )
    password: Password = Field(
        default=SecretStr(""),
        alias="NatsSender.Password",
        description="The password of the Password method.",
        json_schema_extra={"group": _AUTH, "only_with": "NatsSender.AuthMethod=Password"},
    )
    token: Credentials = Field(
        default=SecretStr(""),
        alias="NatsSender.Token",
        description="The token of the Token method.",
        json_schema_extra={"group": _AUTH, "only_with": "NatsSender.AuthMethod=Token"},
    )
    credentials: SecretStr = Field(
        default=SecretStr(""),
        alias="NatsSender.Credentials",
        max_length=10_000,
        description="The text of the .creds file of the Credentials method.",
        json_schema_extra={"group": _AUTH, "only_with": "NatsSender.AuthMethod=Credentials"},
    )
    subject: Annotated[str, Field(max_length=255), AfterValidator(_subject)] = Field(
        default="espf.{i_env}.{entity}.{event}.{i_account}",
        alias="NatsSender.Subject",
        description="The subject of an event. {entity} and {event} are the parts of its type, "
        "{key} is whom it is about, such as account-541; any other is a variable of the event.",
        json_schema_extra={"group": _CONTENT},
    )
    content: Literal["event", "enriched"] = Field(
        default="event",
        alias="NatsSender.Content",
        description="event: as EventSender sends it in version 1. enriched: as ConnectorSender "
        "does, with what the billing knows.",
        json_schema_extra={"group": _CONTENT},
    )
    data: Annotated[tuple[Part, ...], BeforeValidator(words), PlainSerializer(", ".join)] = Field(
        default=get_args(Part),
        alias="NatsSender.Data",
        description="The parts of pb_data to send, separated by commas or blanks. Each costs a "
        "call of the billing API or two.",
        json_schema_extra={"group": _CONTENT, "only_with": "NatsSender.Content=enriched"},
    )
    cache_ttl: int = Field(
        default=5,
        alias="NatsSender.CacheTTL",
        ge=0,
        le=300,
        description="Seconds for which a product or an access policy is remembered. 0: not at all.",
        json_schema_extra={
            "group": _CONTENT,
            "unit": "seconds",
            "only_with": "NatsSender.Content=enriched",
        },
    )
    stream: str = Field(
        default="ESPF",
        alias="NatsSender.Stream",
        pattern=r"^[A-Za-z0-9_-]{1,255}$",
        description="The stream that the events are for. A message that another stream would take "
        "is not sent.",
        json_schema_extra={"group": _STREAM},
    )
    create_stream: bool = Field(
        default=True,
        alias="NatsSender.CreateStream",
        description="On: the stream is made where there is none. One that is there is never "
        "changed.",
        json_schema_extra={"group": _STREAM},
    )
    max_age: int = Field(
        default=168,
        alias="NatsSender.MaxAge",
        ge=0,
        le=87_600,
        description="How long a stream that is made keeps events. 0: for ever.",
        json_schema_extra={
            "group": _STREAM,
            "unit": "hours",
            "only_with": "NatsSender.CreateStream=on",
        },
    )
    duplicate_window: int = Field(
        default=600,
        alias="NatsSender.DuplicateWindow",
        ge=1,
        le=3600,
        description="For how long a stream that is made knows an event that comes again. It costs "
        "the server memory for each event of that time.",
        json_schema_extra={
            "group": _STREAM,
            "unit": "seconds",
            "only_with": "NatsSender.CreateStream=on",
        },
    )
    replicas: int = Field(
        default=1,
        alias="NatsSender.Replicas",
        ge=1,
        le=5,
        description="On how many servers of a cluster a stream that is made is stored.",
        json_schema_extra={
            "group": _STREAM,
            "unit": "servers",
            "only_with": "NatsSender.CreateStream=on",
        },
    )

    @field_validator("user", "password", "token", "credentials")
    @classmethod
    def _mandatory_with_its_method(
        cls, value: SecretStr | str, info: ValidationInfo
    ) -> SecretStr | str:
        method = info.data.get("auth_method")
        needs = {"Password": {"user", "password"}, "Token": {"token"}}
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not text and info.field_name in needs.get(str(method), {str(method).lower()}):
            raise ValueError(f"is mandatory with AuthMethod {method}")
        if text and info.field_name == "credentials":
            read_seed(read_credentials(text)[1])
        return value


def _all_like(subject: str) -> str:
    """All subjects that begin as this one does; consumers choose among them as they like."""
    fixed = list(takewhile(lambda token: "{" not in token, subject.split(".")))
    return ".".join(fixed) if ".".join(fixed) == subject else ".".join([*fixed, ">"])


class NatsSender(Handler):
    """Store events in a stream of NATS JetStream."""

    Settings: ClassVar[type[HandlerSettings]] = NatsSenderSettings
    settings: NatsSenderSettings

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._enrichment = Enrichment(self.settings.data, self.settings.cache_ttl)
        self._jetstream = self._connected_by(self.settings.timeout)

    def pacing(self) -> Pacing:
        """``Concurrency`` at a time."""
        return Pacing(concurrency=self.settings.concurrency)

    def time_limit_seconds(self) -> float:
        """A connection, the stream and the ack; and what is asked of the billing."""
        asking = _ASKING_SECONDS if self.settings.content == "enriched" else 0.0
        return (len(self.settings.servers) + 3.0) * self.settings.timeout + asking

    def secrets(self) -> tuple[str, ...]:
        """The secret options, and what stands in the credentials."""
        credentials = self.settings.credentials.get_secret_value()
        return (*super().secrets(), *(read_credentials(credentials) if credentials else ()))

    async def close(self) -> None:
        """Hang up."""
        await self._jetstream.close()

    async def check(self, context: Context) -> str:
        """Connect, and look for the stream."""
        return await self._connected_by(CHECK_SECONDS / 2).look(context)

    async def handle(self, event: Event, context: Context) -> None:
        """Publish the event; wait until it is stored."""
        body = standard(event).encode("utf-8", "replace")
        if self.settings.content == "enriched":
            body = enriched(event, self.name, await self._enrichment.of(event, context))
        subject = self.subject(event)
        headers = {"Nats-Msg-Id": self.message_id(event)}
        context.note(f"{subject}\nNats-Msg-Id: {headers['Nats-Msg-Id']}\n\n{body.decode()}")
        ack = await self._jetstream.publish(subject, body, headers, context)
        was = " before" if ack.was_there else ""
        context.note(f"stored in {ack.stream} as number {ack.number}{was}")

    def subject(self, event: Event) -> str:
        """The subject of an event."""
        entity, _, rest = event.event_type.partition("/")
        known = {
            **event.variables,
            "i_env": event.i_env,
            "entity": entity,
            "event": rest.replace("/", "-"),
            "key": (event.ordering_key or "").replace(":", "-"),
        }

        def token(match: re.Match[str]) -> str:
            value = known.get(match[1])
            return _NO_TOKEN.sub("_", "" if value is None else str(value)) or _NOBODY

        return _FIELD.sub(token, self.settings.subject)

    def message_id(self, event: Event) -> str:
        """The same for each attempt; another one for each event and for each handler."""
        return str(uuid5(event_id(event), self.name))

    def _connected_by(self, timeout_seconds: float) -> JetStream:
        own = self.settings
        method = own.auth_method
        login = Login(
            user=own.user if method == "Password" else "",
            password=own.password.get_secret_value() if method == "Password" else "",
            token=own.token.get_secret_value() if method == "Token" else "",
            credentials=own.credentials.get_secret_value() if method == "Credentials" else "",
        )
        stream = Stream(
            name=own.stream,
            made=own.create_stream,
            subjects=_all_like(own.subject),
            max_age=own.max_age * 3600.0,
            duplicate_window=own.duplicate_window,
            replicas=own.replicas,
        )
        return JetStream(
            own.servers, login, stream, timeout_seconds, tls=own.tls, ca_file=own.ca_file
        )
