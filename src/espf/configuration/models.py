"""What there is to configure. Forms, the command line, the API and the documents are drawn from it.

A field's alias is the name that administrators write. Its place in the vendor's tree is written
with points: ``Provisioning.AlertRecipient``, and for an instance of ESPF ``ESPF.main.port``.
"""

import ipaddress
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
)
from yarl import URL

from espf.errors import InvalidRequest, NotFound
from espf.handlers.base import (
    DEFAULT_DELAYS,
    DEFAULT_LONG_TAIL,
    format_delays,
    parse_delays,
    words,
)
from espf.handlers.networks import ANYWHERE, Network, Networks
from espf.model import MAX_ENV

#: What a field may be set to; None: back to its default.
Value = str | int | float | bool | list[str] | None

#: The two groups of the vendor's tree, by the first word of a field's place.
PROVISIONING, INSTANCES = "Provisioning", "ESPF"

#: What is shown of a secret that is set.
DOTS = "••••••••"

#: Other spellings that the documents have.
SPELLINGS = MappingProxyType({"AlertRecepient": "AlertRecipient"})

_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~][A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{0,63}"
    r"@[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _mail_address(value: str) -> str:
    if not _ADDRESS.fullmatch(value) or ".." in value:
        raise ValueError(f"{value!r:.80} is no e-mail address; write it like noc@example.net")
    return value


def _arguments(value: str) -> str:
    if value and not value.isprintable():
        raise ValueError("one line of printable characters is expected")
    try:
        shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{error}: what is quoted must end") from None
    return value


def _program(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError("the full path of a program is expected, such as /usr/sbin/sendmail")
    return value


def _target(value: str) -> str:
    """An address to post to, or nothing."""
    if value == "":
        return value
    try:
        url = URL(value)
        fits = url.scheme in {"http", "https"} and bool(url.host) and url.explicit_port != 0
    except ValueError:
        fits = False
    if not fits or not value.isprintable() or " " in value:
        raise ValueError("http:// or https:// and a host are expected, or nothing")
    return value


def _host_name(value: str) -> str:
    if value and (not _HOST.fullmatch(value) or ".." in value):
        raise ValueError(f"{value!r:.80} is no name of a host")
    return value


def _ip_address(value: str) -> str:
    if not value:
        return value
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(
            f"{value!r:.80} is no IP address; write it like 192.0.2.7 or 2001:db8::7"
        ) from None


def _span(value: object) -> object:
    """Read ``90s``, ``15m``, ``2h`` or a number of seconds."""
    if not isinstance(value, str):
        return value
    delays = parse_delays(value)
    if not isinstance(delays, tuple) or len(delays) != 1:
        raise ValueError("one span of time is expected, such as 90s, 15m or 2h")
    return delays[0]


def _handler_name(value: str) -> str:
    name, _, i_env = value.rpartition("@")
    if (
        not name
        or not name.isprintable()
        or not re.fullmatch(r"[1-9]\d{0,9}", i_env)
        or int(i_env) > MAX_ENV
    ):
        raise ValueError(f"{value!r:.80} is no handler; write NAME@ENVIRONMENT: EventSender@3")
    return value


def _handler_names(value: object) -> object:
    """Read names with commas or line breaks between them; one that has a comma needs a list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return tuple(json.loads(value))
        except (ValueError, TypeError):
            raise ValueError("what begins with [ must be a list in JSON") from None
    return tuple(name for part in re.split(r"[,\n]", value) if (name := part.strip()))


def _format_handler_names(names: tuple[str, ...]) -> str:
    plain = ", ".join(names)
    ambiguous = plain.startswith("[") or any("," in name or name != name.strip() for name in names)
    return json.dumps(names, ensure_ascii=False) if ambiguous else plain


#: In TargetNetworks, all environments that are not named.
_OTHERS = "*"


def _target_networks(value: object) -> object:
    """Read ``3: 10.0.0.0/8, 192.0.2.7; *: 0.0.0.0/0``, with line breaks or semicolons between."""
    if not isinstance(value, str):
        return value
    found: dict[str, Networks] = {}
    for part in filter(str.strip, re.split(r"[;\n]", value)):
        name, colon, networks = part.partition(":")
        who = name.strip()
        if not colon or not (
            who == _OTHERS or (re.fullmatch(r"[1-9]\d{0,9}", who) and int(who) <= MAX_ENV)
        ):
            raise ValueError(
                f"{part.strip()!r:.80}: write ENVIRONMENT: NETWORKS, such as 3: 192.0.2.0/24"
            )
        if who in found:
            raise ValueError(f"the environment {who} is there twice")
        found[who] = Networks(tuple(map(_network, networks.replace(",", " ").split())))
        if not found[who].allowed:
            raise ValueError(f"the environment {who} has no networks; leave it out to allow all")
    return tuple(sorted(found.items(), key=lambda one: (one[0] == _OTHERS, len(one[0]), one[0])))


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r:.80} is no network such as 192.0.2.0/24: {error}") from None


def _format_target_networks(entries: tuple[tuple[str, Networks], ...]) -> str:
    return "; ".join(
        f"{who}: {', '.join(map(str, networks.allowed or ()))}" for who, networks in entries
    )


def _sorted_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def _as_text(**more: object) -> WithJsonSchema:
    """What is a list in here is one text in forms and requests."""
    return WithJsonSchema({"type": "string", **more})


_MailAddresses = Annotated[
    tuple[Annotated[str, AfterValidator(_mail_address)], ...],
    BeforeValidator(words),
    PlainSerializer(", ".join),
    Field(max_length=50),
    _as_text(),
]

_Waits = Annotated[
    tuple[Annotated[int, Field(ge=0, le=31 * 86400)], ...],
    BeforeValidator(parse_delays),
    PlainSerializer(format_delays),
    _as_text(),
]

_Span = Annotated[
    int,
    BeforeValidator(_span),
    PlainSerializer(lambda seconds: format_delays((seconds,))),
    _as_text(),
]

_HandlerNames = Annotated[
    tuple[Annotated[str, AfterValidator(_handler_name)], ...],
    BeforeValidator(_handler_names),
    AfterValidator(_sorted_once),
    PlainSerializer(_format_handler_names),
    Field(max_length=1000),
    _as_text(),
]

_TargetNetworks = Annotated[
    tuple[tuple[str, Networks], ...],
    BeforeValidator(_target_networks),
    PlainSerializer(_format_target_networks),
    Field(max_length=1000),
    _as_text(),
]

#: A number, or nothing.
_Number = Annotated[int | None, BeforeValidator(lambda value: None if value == "" else value)]

_Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]


def _defaults_as_text(schema: dict[str, Any], kind: type[BaseModel]) -> None:
    """Have the schema show the default of what is a text there as that text."""
    defaults = kind().model_dump(by_alias=True)
    for name, one in schema["properties"].items():
        if one.get("type") == "string":
            one["default"] = as_text(defaults[name])


class Group(BaseModel):
    """Fields with names as administrators write them; ``model_json_schema()`` makes a form."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_default=True,
        json_schema_extra=_defaults_as_text,
    )


class Provisioning(Group):
    """Groups > Provisioning: alerts, retries, how long things are kept, maintenance."""

    alert_recipient: _MailAddresses = Field(
        default=(),
        alias="AlertRecipient",
        title="Alert recipients",
        description="E-mail addresses that hear of failures, separated by commas. "
        "Empty: no e-mail is sent.",
        examples=["noc@example.net, oncall@example.net"],
    )
    send_options: Annotated[_Text, AfterValidator(_arguments)] = Field(
        default="-i",
        alias="send_options",
        title="Options for sendmail",
        description="Passed to the sendmail program, split as a shell would, but without a shell. "
        "The recipients follow as arguments.",
        examples=["-i -f espf@example.net"],
    )
    sendmail: Annotated[_Text, AfterValidator(_program)] = Field(
        default="/usr/sbin/sendmail",
        alias="sendmail",
        title="The sendmail program",
        description="Full path of the program that takes an e-mail on its standard input.",
    )
    alert_url: Annotated[_Text, AfterValidator(_target)] = Field(
        default="",
        alias="AlertURL",
        title="Address for alerts by HTTP",
        description="Where the same alerts are posted as JSON. Empty: nowhere.",
        examples=["https://alerts.example.net/espf"],
    )
    alert_token: SecretStr = Field(
        default=SecretStr(""),
        alias="AlertToken",
        title="Token for alerts by HTTP",
        description="Sent with them in the header Authorization, as Bearer. Empty: no such header.",
    )
    console_url: Annotated[_Text, AfterValidator(_target)] = Field(
        default="",
        alias="ConsoleURL",
        title="Address of the console",
        description="Where people reach the console; alerts have links to it. Empty: no links.",
        examples=["https://espf.example.net"],
    )
    alert_oldest_waiting: Annotated[_Span, Field(ge=10, le=31 * 86400)] = Field(
        default=900,
        alias="AlertOldestWaiting",
        title="Alert when the oldest waits longer than",
        description="How long ago the first event may have happened that waits for a handler, "
        "retries included, for example 15m.",
    )
    alert_worker_lost: Annotated[_Span, Field(ge=15, le=3600)] = Field(
        default=60,
        alias="AlertWorkerLost",
        title="Alert when a worker is gone for",
        description="How long a worker that did not sign off may be without a sign of life, "
        "for example 60s.",
    )
    retry_delays: Annotated[_Waits, Field(min_length=1, max_length=500)] = Field(
        default=parse_delays(DEFAULT_DELAYS),  # type: ignore[arg-type]  # it reads a text
        alias="RetryDelays",
        title="Waiting times between attempts",
        description="For handlers that have no RetryDelays of their own, neither set nor by their "
        "type. For example '5s 30s 2m 1hx23': 1hx23 is an hour, 23 times.",
    )
    long_tail: Annotated[_Waits, Field(max_length=500)] = Field(
        default=parse_delays(DEFAULT_LONG_TAIL),  # type: ignore[arg-type]
        alias="LongTail",
        title="Long tail of waiting times",
        description="What follows the RetryDelays above, for systems that are away for days. "
        "Empty: nothing follows.",
    )
    retry_jitter: float = Field(
        default=0.2,
        alias="RetryJitter",
        title="Variation of waiting times",
        ge=0,
        le=1,
        description="Share of a waiting time by which it varies, so that retries spread out. For "
        "handlers that have no RetryJitter of their own.",
    )
    max_attempts: _Number = Field(
        default=None,
        alias="MaxAttempts",
        title="Attempts before an event counts as failed",
        ge=1,
        lt=2**31,
        description="For handlers that have neither RetryDelays nor MaxAttempts of their own. "
        "Empty: one more than RetryDelays and LongTail have entries.",
    )
    keep_journal_days: int = Field(
        default=90,
        alias="KeepJournalDays",
        title="Days that the journal is kept",
        ge=1,
        le=36_500,
        description="What is older is removed once an hour.",
    )
    keep_failed_days: int = Field(
        default=365,
        alias="KeepFailedDays",
        title="Days that what failed is kept",
        ge=1,
        le=36_500,
        description="How long the journal keeps what failed or was rejected; also how long what "
        "failed stays in the queue, to be restarted.",
    )
    keep_audit_days: int = Field(
        default=365,
        alias="KeepAuditDays",
        title="Days that the audit log is kept",
        ge=1,
        le=36_500,
        description="How long is kept who changed what. What is older is removed once an hour.",
    )
    target_networks: _TargetNetworks = Field(
        default=(),
        alias="TargetNetworks",
        title="Networks that handlers may call",
        description="By environment: ENVIRONMENT: NETWORKS, the networks separated by commas, the "
        "environments by semicolons or line breaks; * is every environment that is not named. What "
        "is not there is refused. An environment without an entry may call any address that is not "
        "link-local (169.254.0.0/16, fe80::/10).",
        examples=["3: 192.0.2.0/24, 2001:db8::/32; *: 10.0.0.0/8"],
    )
    maintenance: bool = Field(
        default=False,
        alias="Maintenance",
        title="Maintenance",
        description="While it is on, all deliveries wait. Events are captured all the same, and go "
        "out in order afterwards.",
    )

    @property
    def send_arguments(self) -> tuple[str, ...]:
        """``send_options`` as the arguments that they are."""
        return tuple(shlex.split(self.send_options))

    def networks(self, i_env: int) -> Networks:
        """Whom the handlers of an environment may call."""
        known = dict(self.target_networks)
        return known.get(str(i_env), known.get(_OTHERS, ANYWHERE))

    def retries(self) -> dict[str, object]:
        """The options RetryDelays, RetryJitter and MaxAttempts that handlers inherit."""
        return {
            "RetryDelays": self.retry_delays + self.long_tail,
            "RetryJitter": self.retry_jitter,
            "MaxAttempts": self.max_attempts,
        }


class Instance(Group):
    """Auxiliaries > ESPF > an instance: a process or several, started with its name."""

    server: Annotated[_Text, AfterValidator(_host_name)] = Field(
        default="",
        alias="server",
        title="Server",
        description="Name of the host that it runs on. Empty: any.",
        examples=["espf1.example.net"],
    )
    address: Annotated[_Text, AfterValidator(_ip_address)] = Field(
        default="",
        alias="address",
        title="Service IP",
        description="The IP address at which its APIs listen, from its next start. "
        "Empty: that of the setting listen.",
        examples=["192.0.2.7"],
    )
    port: _Number = Field(
        default=None,
        alias="port",
        title="Port",
        ge=1,
        le=65535,
        description="The port of its APIs, from its next start. Empty: that of the setting listen.",
        examples=[8080],
    )
    enabled: bool = Field(
        default=True,
        alias="enabled",
        title="Enabled",
        description="Off: it delivers nothing, and waits until it is enabled again.",
    )
    handlers: _HandlerNames = Field(
        default=(),
        alias="handlers",
        title="Handlers",
        description="The handlers that it delivers for, as NAME@ENVIRONMENT, separated by commas "
        "or line breaks. Empty: all.",
        examples=["EventSender@3, HSS@3"],
    )

    def serves(self, i_env: int, name: str) -> bool:
        """Whether it delivers for a handler."""
        return self.enabled and (not self.handlers or f"{name}@{i_env}" in self.handlers)

    def place(self, otherwise: tuple[str, int]) -> tuple[str, int]:
        """Host and port to listen at; ``otherwise`` is what the settings say."""
        host, port = otherwise
        return self.address or host, self.port or port


@dataclass(frozen=True)
class Configuration:
    """All that one version holds: the group Provisioning, and the instances of ESPF by name.

    Secrets are sealed, unless it was opened.
    """

    provisioning: Provisioning = field(default_factory=Provisioning)
    instances: Mapping[str, Instance] = field(default_factory=dict)

    def instance(self, name: str) -> Instance:
        """The instance of this name. Raises NotFound, naming those that exist."""
        if name in self.instances:
            return self.instances[name]
        known = ", ".join(sorted(self.instances)) or "there are none"
        raise NotFound(f"there is no instance {name!r:.50} in the configuration (known: {known})")

    def serves(self, instance: str, i_env: int, name: str) -> bool:
        """Whether workers of an instance deliver for a handler; those of none ("") do for all."""
        if not instance:
            return True
        found = self.instances.get(instance)
        return found is not None and found.serves(i_env, name)

    def values(self) -> dict[str, object]:
        """Every field by its place, in the order of forms, defaults included."""
        groups: dict[str, Group] = {PROVISIONING: self.provisioning}
        groups |= {f"{INSTANCES}.{name}": one for name, one in sorted(self.instances.items())}
        return {
            f"{prefix}.{name}": value
            for prefix, group in groups.items()
            for name, value in group.model_dump(by_alias=True).items()
        }


def check_instance_name(name: str) -> None:
    """Raise InvalidRequest unless an instance may have this name: it stands in fields' places."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name):
        raise InvalidRequest(
            "name: 1 to 32 letters, digits, hyphens and underscores are expected", "name"
        )


def secrets(kind: type[Group]) -> frozenset[str]:
    """The fields of a group that are sealed in the database and shown as dots, by alias."""
    return frozenset(
        one.alias or name for name, one in kind.model_fields.items() if one.annotation is SecretStr
    )


def as_text(value: object) -> str:
    """A field's value as people see it; a secret as dots."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, SecretStr):
        return DOTS if value.get_secret_value() else ""
    return "" if value is None else str(value)
