"""Voice mailboxes: one for each open account, under its number.

A mailbox is closed while its owner is barred, and messages are kept meanwhile. It is told by the
PIN, which is the account's service password, and holds as many minutes as the product gives.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator

from espf import (
    Change,
    Context,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    HandlerSettings,
    Misconfigured,
    ProductMap,
    Rejected,
    Reply,
    Subscriber,
    TryLater,
    mapped,
)


class VoicemailSettings(DesiredStateSettings):
    """The options of a voicemail system."""

    service_group: str = Field(
        default="VoIP",
        alias="ServiceGroup",
        max_length=64,
        description="The service group under which the status of each account is reported.",
    )
    url: str = Field(
        alias="Voicemail.URL", description="Where its API is, such as https://voicemail.example."
    )
    token: SecretStr = Field(alias="Voicemail.Token", description="What its API asks for.")
    minutes: ProductMap = Field(
        default=(("*", "20"),),
        alias="Voicemail.Minutes",
        description="How many minutes each product gives, such as 'Gold=60; *=20'.",
    )
    timeout: float = Field(
        default=10,
        alias="Voicemail.Timeout",
        gt=0,
        description="How long to wait for an answer.",
        json_schema_extra={"unit": "seconds"},
    )

    @field_validator("minutes")
    @classmethod
    def _are_numbers(cls, value: ProductMap) -> ProductMap:
        for product, minutes in value:
            if not minutes.isdecimal():
                raise ValueError(f"the minutes of {product} are a number, not {minutes!r}")
        return value


class Voicemail(DesiredStateHandler):
    """Give each subscriber a voice mailbox."""

    Settings: ClassVar[type[HandlerSettings]] = VoicemailSettings
    settings: VoicemailSettings
    keyed_by = "id"
    secret_fields = frozenset({"pin"})

    def desired(self, key: str, owner: Subscriber) -> Fields | None:  # noqa: ARG002
        """What the mailbox should be like. Nothing is asked here, and nothing is done."""
        if owner.service_password is None:
            raise Rejected("a mailbox needs a PIN, and the account has no service password")
        given = mapped(owner.products, self.settings.minutes)
        if not given:
            return None
        return {
            "open": "no" if owner.barred_by(self.settings.barred_by) else "yes",
            "minutes": str(max(int(minutes) for minutes in given)),
            "pin": owner.service_password,
        }

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:  # noqa: ARG002
        """The mailbox as it is."""
        reply = await self._ask(context, "GET", _path(key))
        if reply.status == 404:
            return None
        held = _json(reply)
        context.hide(str(held["pin"]))
        return {name: str(value) for name, value in held.items()}

    async def apply(self, change: Change, context: Context) -> None:
        """Make, change or remove it."""
        if change.wanted is None:
            await self._ask(context, "DELETE", _path(change.key))
        else:
            await self._ask(context, "PUT", _path(change.key), dict(change.wanted))

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The numbers of the mailboxes, for audits."""
        query = "" if after is None else f"?after={quote(after, safe='')}"
        listed = _json(await self._ask(context, "GET", f"/boxes{query}"))["boxes"]
        return [str(number) for number in listed]

    async def check(self, context: Context) -> str:
        """Ask for a mailbox that cannot be."""
        await self._ask(context, "GET", _path("nobody"))
        return "the voicemail system answers, and knows the token"

    async def _ask(
        self, context: Context, method: str, path: str, body: dict[str, str] | None = None
    ) -> Reply:
        """A request, and what its status means; 404 is an answer, not a fault."""
        headers = {
            "Authorization": f"Bearer {self.settings.token.get_secret_value()}",
            "Content-Type": "application/json",
        }
        content = None if body is None else json.dumps(body).encode()
        url = self.settings.url.rstrip("/") + path
        reply = await context.http.send(method, url, content, headers, self.settings.timeout)
        if reply.ok or reply.status == 404:
            return reply
        reason = f"the voicemail system answers {reply.status}: {reply.text[:200]}"
        if reply.status in {401, 403}:
            raise Misconfigured(reason)
        if reply.status == 429 or reply.status >= 500:
            raise TryLater(reason)
        raise Rejected(reason)


def _path(number: str) -> str:
    return f"/boxes/{quote(number, safe='')}"


def _json(reply: Reply) -> dict[str, Any]:
    try:
        told = json.loads(reply.text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise TryLater("the voicemail system's answer is no JSON object")
    return told
