"""Ejabberd: a server of chat and presence (XMPP), by its HTTP API for administrators.

An entry is a user of one host. Ejabberd tells neither a password nor, up to version 24.02, whether
somebody is banned: its ban is a password that nobody knows. So whoever is barred gets a password
that only we can compute, for then one can ask whether it is the one that is set. The sessions of
somebody who is barred are ended, for they outlive the password that they began with.
"""

import base64
import hmac
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings, words
from espf.handlers.desired import (
    ACCOUNT_EVENTS,
    RECONCILE,
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.event_sender import Url, first_line
from espf.handlers.http_auth import basic
from espf.handlers.subscriber import Subscriber
from espf.systems.http_api import HttpApi, Told

_GROUP = "Ejabberd"

#: What no name of a user may hold (RFC 7622), beside blanks and what cannot be seen.
_FORBIDDEN = re.compile(r"[\s\"&'/:<>@\x00-\x1f\x7f]")
_LONGEST_NAME = 1023  # bytes

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.ASCII)

_OPEN, _BARRED = "open", "barred"
_NO_SESSION, _SESSION = "none", "live"

#: Errors come with numbers of their own: of a command that failed, and of one that is not there.
_FAILED, _NO_COMMAND = 10001, 40

#: What it says when its own settings do not know the host, and when its database is away.
_NO_HOST, _NO_DATABASE = "Unknown virtual host", "atabase failure"

#: A list of users comes in one piece; so many bytes are a million names.
_LONGEST_LIST = 32 * 1024 * 1024

#: How many users an audit is given at once.
_PAGE = 500


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a host, such as chat.example.org")
    return value


def _administrator(value: str) -> str:
    user, at, host = value.partition("@")
    if not (user and at and _HOST.fullmatch(host)):
        raise ValueError(f"{value!r} is not USER@HOST, such as admin@chat.example.org")
    return value


def _each_on_or_off(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for product, given in pairs:
        if given not in {"on", "off"}:
            raise ValueError(f"{product}: on or off is expected, not {given!r}")
    return pairs


class EjabberdSettings(DesiredStateSettings):
    """The options of an ejabberd."""

    url: Url = Field(
        alias="Ejabberd.URL",
        description="Where its HTTP API (mod_http_api) is, such as http://127.0.0.1:5280/api.",
        json_schema_extra={"group": _GROUP},
    )
    user: Annotated[str, AfterValidator(_administrator)] = Field(
        alias="Ejabberd.User",
        description="As whom it is asked, such as admin@chat.example.org.",
        json_schema_extra={"group": _GROUP},
    )
    password: SecretStr = Field(
        alias="Ejabberd.Password",
        min_length=1,
        description="The password of User. The passwords of whoever is barred are computed from "
        "it, too: after a change, an audit sets them anew.",
        json_schema_extra={"group": _GROUP},
    )
    host: Annotated[str, AfterValidator(_host)] = Field(
        alias="Ejabberd.Host",
        description="The host whose users the subscribers are, such as chat.example.org.",
        json_schema_extra={"group": _GROUP},
    )
    access: Annotated[ProductMap, AfterValidator(_each_on_or_off)] = Field(
        default=(("*", "on"),),
        alias="Ejabberd.Access",
        description="Whether a product gives access, such as 'Data only=off; *=on'. Of several "
        "products, one that does is enough. Without access a subscriber is barred.",
        json_schema_extra={"group": _GROUP},
    )
    reserved: Annotated[tuple[str, ...], BeforeValidator(words), PlainSerializer(", ".join)] = (
        Field(
            default=("admin",),
            alias="Ejabberd.Reserved",
            description="Users of Host who are no subscribers, separated by commas or blanks. They "
            "are left alone, as User is.",
            json_schema_extra={"group": _GROUP},
        )
    )
    timeout: int = Field(
        default=30,
        alias="Ejabberd.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )


class Ejabberd(DesiredStateHandler):
    """Make an ejabberd have a user for each subscriber."""

    supports = (*ACCOUNT_EVENTS, RECONCILE)
    usual = ACCOUNT_EVENTS
    Settings: ClassVar[type[HandlerSettings]] = EjabberdSettings
    settings: EjabberdSettings
    secret_fields = frozenset({"password"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        self._api = self._made(own.timeout)
        user, _, host = own.user.partition("@")
        self._reserved = frozenset((*own.reserved, *([user] if host == own.host else [])))
        #: The users that an audit goes through, in order.
        self._listed: tuple[str, ...] = ()

    async def check(self, context: Context) -> str:
        """Ask which hosts there are."""
        told = await self._made(CHECK_SECONDS).ask(context, "GET", "registered_vhosts")
        hosts = self._taken(told)
        if self.settings.host not in (hosts if isinstance(hosts, list) else []):
            raise Misconfigured(f"it does not know the host {self.settings.host}, but {hosts}")
        return f"it knows {self.settings.user} and has the host {self.settings.host}"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """Access with the service password, or none and no session."""
        fault = _fault(key)
        if fault is None and key in self._reserved:
            fault = f"{key!r} is no subscriber's name: Ejabberd.Reserved"
        if fault is not None:
            raise Rejected(fault)
        given = "on" in mapped(owner.products, self.settings.access)
        if not given or owner.barred_by(self.settings.barred_by):
            return {"access": _BARRED, "session": _NO_SESSION}
        if not owner.service_password:
            raise Rejected("the billing tells no service password of the account")
        return {"access": _OPEN, "password": owner.service_password}

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """Whether there is such a user, and what can be told of it."""
        user = {"user": key, "host": self.settings.host}
        # Ejabberd would take another one for it: there is none of such a name.
        if _fault(key) is not None or key in self._reserved:
            return None
        if wanted is not None and "password" in wanted:
            given = {**user, "password": wanted["password"]}
            if await self._is_so("check_password", given, context):
                return {"access": _OPEN, "password": wanted["password"]}
        barring = {**user, "password": self._barring_password(key, context)}
        if await self._is_so("check_password", barring, context):
            return {"access": _BARRED, "session": await self._session(user, context)}
        if not await self._is_so("check_account", user, context):
            return None
        return {"access": _OPEN, "session": await self._session(user, context)}

    async def apply(self, change: Change, context: Context) -> None:
        """Add, change or remove one user."""
        user = {"user": change.key, "host": self.settings.host}
        if change.wanted is None:
            # It ends the sessions, too.
            await self._ask("unregister", user, context)
            return
        password = change.wanted.get("password") or self._barring_password(change.key, context)
        if change.held is None:
            await self._ask("register", {**user, "password": password}, context)
            return
        # A session that began with the old password can begin again until there is a new one.
        if set(change.fields) & {"access", "password"}:
            await self._ask("change_password", {**user, "newpass": password}, context)
        if "session" in change.fields:
            await self._ask("kick_user", user, context)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The next users, in the order of their names. Ejabberd lists all at once."""
        if after is None or not self._listed:
            host = {"host": self.settings.host}
            told = await self._api.ask(
                context, "POST", "registered_users", host, reply_limit=_LONGEST_LIST
            )
            users = self._taken(told)
            if not isinstance(users, list):
                raise Rejected("its list of users is too long to be read at once")
            self._listed = tuple(sorted({str(user) for user in users} - self._reserved))
        first = 0 if after is None else bisect_right(self._listed, after)
        found = self._listed[first : first + _PAGE]
        if not found:
            self._listed = ()
        return found

    def _made(self, timeout_seconds: float) -> HttpApi:
        own = self.settings
        key = basic(own.user, own.password.get_secret_value())
        return HttpApi(own.url, timeout_seconds, {"Authorization": key})

    def _barring_password(self, user: str, context: Context) -> str:
        """What is set as the password of whoever is barred: nobody else can compute it."""
        key = self.settings.password.get_secret_value().encode()
        made = hmac.digest(key, f"barred:{user}@{self.settings.host}".encode(), "sha256")
        password = base64.urlsafe_b64encode(made).decode().rstrip("=")
        context.hide(password)
        return password

    async def _is_so(self, command: str, arguments: dict[str, str], context: Context) -> bool:
        """The answer of a command that asks: 0 is yes, 1 is no."""
        answer = await self._ask(command, arguments, context)
        if answer not in {0, 1}:
            raise TryLater(f"ejabberd answers neither yes nor no to {command}")
        return bool(answer == 0)

    async def _session(self, user: dict[str, str], context: Context) -> str:
        return _SESSION if await self._ask("user_resources", user, context) else _NO_SESSION

    async def _ask(self, command: str, arguments: dict[str, str], context: Context) -> Any:
        return self._taken(await self._api.ask(context, "POST", command, arguments))

    def _taken(self, told: Told) -> Any:
        """What it answered. Raises the verdict, unless that says how things are already."""
        is_state = told.status == 409 or (told.status == 404 and told.value == "unknown_user")
        if not told.ok and not is_state:
            raise _verdict(told)
        return told.value


def _verdict(told: Told) -> HandlerError:
    """What an answer that is no success means for the event."""
    error = told.value if isinstance(told.value, dict) else {"message": told.value}
    said = first_line(str(error.get("message") or told.reply.text))
    reason = f"ejabberd: {said} (HTTP {told.status})"
    # Of nobody's absence it says 404 in this way: the URL is not that of the API.
    if _NO_HOST in said or error.get("code") == _NO_COMMAND or told.status == 404:
        return Misconfigured(reason)
    if told.status == 500 and error.get("code") == _FAILED and _NO_DATABASE not in said:
        return Rejected(reason)
    return told.verdict()


def _fault(name: str) -> str | None:
    """Why an id cannot be the name of a user; None: it can."""
    if _FORBIDDEN.search(name) or not 0 < len(name.encode()) <= _LONGEST_NAME:
        return f"the account's id {name!r} cannot be the name of a user"
    if unicodedata.normalize("NFKC", name.casefold()) != name:
        return (
            f"the account's id {name!r} is not in small letters: ejabberd would not keep it apart "
            "from the one that is"
        )
    return None
