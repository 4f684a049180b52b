"""Ministra, formerly Stalker: the middleware of IPTV set-top boxes, by its REST API, version 1.

An entry is an account by its account number, which is made of ``i_account`` and so never changes:
the login, the tariff, whether it is on, and the password. Every answer comes with HTTP 200; what
went wrong stands in its body. A tariff that is not known is taken without a word, as none; so it is
looked for before.

Passwords are not told. A keyed digest of the one that was sent stands in the account's comment, by
which one can tell whether it is the present one.
"""

import hmac
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, quote_plus

from pydantic import Field, StringConstraints

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers import subscriber as billing
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
    reported_under,
)
from espf.handlers.event_sender import Url
from espf.handlers.http_auth import Password, User, basic
from espf.handlers.pb_data import whole
from espf.handlers.subscriber import Subscriber
from espf.systems.http_api import HttpApi

_GROUP = "Ministra"

#: The list of tariffs has all their packages in it.
_LONGEST_LIST = 4 * 1024 * 1024

#: For how long the list of tariffs is remembered. One that is not in it is looked for anew.
_LIST_SECONDS = 60.0

_MARK = re.compile(r" ?\[espf:([0-9a-f]{16})\]")

_ABSENT = "Account not found"

#: What Ministra says when the request is wrong, now and always.
_WRONG = {
    "Identifier required",
    "Insert data is empty",
    "HTTP POST data is empty",
    "Login required",
    "Not valid mac address",
    "One or more identifiers are incorrect",
    "Only one identifier allowed",
}

#: What a login must not have in it: the API would take it for several, or for a path.
_UNUSABLE = re.compile(r"[,/:\\\x00-\x1f]")


class MinistraSettings(DesiredStateSettings):
    """The options of a Ministra."""

    service_group: str = reported_under("IPTV")
    url: Url = Field(
        alias="Ministra.URL",
        description="Where the API is, such as http://10.0.0.5/stalker_portal/api/v1.",
        json_schema_extra={"group": _GROUP},
    )
    user: User = Field(
        alias="Ministra.User",
        min_length=1,
        description="The login of the API: api_auth_login of Ministra's custom.ini.",
        json_schema_extra={"group": _GROUP},
    )
    key: Password = Field(
        alias="Ministra.Key",
        min_length=1,
        description="Its password: api_auth_password.",
        json_schema_extra={"group": _GROUP},
    )
    tariffs: ProductMap = Field(
        alias="Ministra.Tariffs",
        min_length=1,
        description="The tariff of each product, by its external id, such as 'Family TV=family; "
        "Sport=sport'. The first product that has one counts. Accounts of other products have no "
        "account in Ministra.",
        json_schema_extra={"group": _GROUP},
    )
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,32}$")] = Field(
        default="espf-",
        alias="Ministra.AccountPrefix",
        description="What stands before i_account in the account numbers of Ministra, so that they "
        "are nobody else's. Accounts without it are never touched.",
        json_schema_extra={"group": _GROUP},
    )
    password_mark: bool = Field(
        default=True,
        alias="Ministra.PasswordMark",
        description="On: the service password is kept up to date; a keyed digest of it stands in "
        "the comment of the account, behind whatever else does. Off: it is sent when the account "
        "is added, and never again, since Ministra does not tell it.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=30,
        alias="Ministra.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )


class Ministra(DesiredStateHandler):
    """Make Ministra hold the accounts whose products have a tariff there."""

    Settings: ClassVar[type[HandlerSettings]] = MinistraSettings
    settings: MinistraSettings
    keyed_by = "i_account"
    secret_fields = frozenset({"password"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        self._api = self._by(self.settings.timeout)
        self._known: frozenset[str] = frozenset()
        self._known_until = 0.0

    def _by(self, timeout_seconds: float) -> HttpApi:
        own = self.settings
        headers = {"Authorization": basic(own.user, own.key.get_secret_value())}
        return HttpApi(own.url, timeout_seconds, headers)

    def secrets(self) -> tuple[str, ...]:
        """The password of the API, also in the form in which it is sent."""
        own = self.settings
        return (
            *super().secrets(),
            basic(own.user, own.key.get_secret_value()).partition(" ")[2],
        )

    async def check(self, context: Context) -> str:
        """Ask for the tariffs, and whether those that are named are among them."""
        known = await self._tariffs(context, self._by(CHECK_SECONDS))
        wanted = dict.fromkeys(tariff for _, tariff in self.settings.tariffs if tariff)
        if missing := [tariff for tariff in wanted if tariff not in known]:
            raise Misconfigured(f"Ministra has no tariff with the external id {missing[0]!r}")
        return f"Ministra answers, and has {len(known)} tariffs, with all that are named"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:  # noqa: ARG002
        """The login, the tariff, on or off, and the password that the billing knows."""
        tariffs = mapped(owner.products, self.settings.tariffs)
        if not tariffs:
            return None
        if not owner.id or _UNUSABLE.search(owner.id):
            raise Rejected(f"the account's id {owner.id!r} cannot be a login of Ministra")
        wanted = {
            "login": owner.id,
            "tariff_plan": tariffs[0],
            "status": "0" if owner.barred_by(self.settings.barred_by) else "1",
        }
        if owner.service_password is not None:
            wanted["password"] = owner.service_password
        return wanted

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """The account of this account number."""
        found = await self._ask(context, "GET", self._account(key), but=_ABSENT)
        if found is None:
            return None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise TryLater("Ministra's answer is no list of accounts")
        if len(found) != 1:
            number = self._number(key)
            raise Rejected(f"{len(found)} accounts of Ministra have the number {number}")
        names = ("login", "tariff_plan", "status", "comment")
        held = {name: _text(found[0].get(name)) for name in names}
        password = (wanted or {}).get("password")
        if password is not None:
            held["password"] = self._password(key, password, found[0])
        return held

    def _password(self, key: str, wanted: str, account: Mapping[str, Any]) -> str:
        """The wanted password where it is the present one, else what stands in its place."""
        if not self.settings.password_mark:
            return wanted
        if "comment" not in account:
            raise Misconfigured(
                "this Ministra does not tell the comment of an account: switch PasswordMark off"
            )
        mark = _MARK.search(_text(account["comment"]))
        return wanted if mark is not None and mark[1] == self._mark(key, wanted) else "another"

    async def apply(self, change: Change, context: Context) -> None:
        """Add, change or delete one account."""
        if change.wanted is None:
            await self._ask(context, "DELETE", self._account(change.key), but=_ABSENT)
            return
        names = change.wanted.keys() if change.held is None else change.fields
        fields = {name: change.wanted[name] for name in names}
        if "tariff_plan" in fields:
            await self._must_be_known(fields["tariff_plan"], context)
        if "login" in fields:
            await self._make_way(change.key, fields["login"], context)
        if "password" in fields:
            context.hide(quote_plus(fields["password"]))
            if self.settings.password_mark:
                fields["comment"] = self._comment(change.key, fields["password"], change.held or {})
        if change.held is None:
            form = {"account_number": self._number(change.key), **fields}
            await self._ask(context, "POST", "accounts", form)
        else:
            await self._ask(context, "PUT", self._account(change.key), fields)

    async def _must_be_known(self, tariff: str, context: Context) -> None:
        """Ministra takes an unknown tariff for none, and says nothing."""
        if tariff in self._known and time.monotonic() < self._known_until:
            return
        self._known = await self._tariffs(context, self._api)
        self._known_until = time.monotonic() + _LIST_SECONDS
        if tariff not in self._known:
            raise Rejected(f"Ministra has no tariff with the external id {tariff!r}")

    async def _tariffs(self, context: Context, api: HttpApi) -> frozenset[str]:
        """The external ids of all tariffs."""
        found = await self._ask(context, "GET", "tariffs", api=api, reply_limit=_LONGEST_LIST)
        if not isinstance(found, list):
            raise TryLater("Ministra's answer is no list of tariffs")
        ids = (one.get("external_id") for one in found if isinstance(one, dict))
        return frozenset(_text(one) for one in ids if one)

    async def _make_way(self, key: str, login: str, context: Context) -> None:
        """Take a login from whoever has it, if that is one of ours.

        By the billing it belongs to the account at hand; what the other one should be called, its
        own event says. Two accounts that exchange their logins would wait for each other else.
        """
        path = f"users/{quote(login, safe='')}"
        holder = await self._ask(context, "GET", path, but=_ABSENT)
        if holder is None or not isinstance(holder, dict):
            return
        number = _text(holder.get("account_number"))
        if number == self._number(key):
            return
        other = number.removeprefix(self.settings.prefix)
        ours = number.startswith(self.settings.prefix) and whole(other) is not None
        if not ours or await billing.by_account(context, int(other)) is None:
            raise Rejected(
                f"the login {login!r} belongs to an account of Ministra that the billing does not "
                f"know, with the account number {number!r}"
            )
        context.note(f"{other}: login: {login} -> {number}")
        await self._ask(context, "PUT", self._account(other), {"login": number})

    async def _ask(
        self,
        context: Context,
        method: str,
        path: str,
        form: Mapping[str, str] | None = None,
        *,
        but: str | None = None,
        api: HttpApi | None = None,
        reply_limit: int | None = None,
    ) -> Any:
        """The results of a request; None where the error is the one that is to be expected."""
        told = await (api or self._api).ask(
            context, method, path, form=form, reply_limit=reply_limit
        )
        if told.status in {401, 404}:
            raise Misconfigured(
                "Ministra refuses the login of its API"
                if told.status == 401
                else "there is no API of Ministra, or it is not enabled (enable_api)"
            )
        if not told.ok:
            raise told.verdict()
        answer = told.value
        if not isinstance(answer, dict) or answer.get("status") not in {"OK", "ERROR"}:
            raise TryLater("Ministra's answer is not the JSON of its API")
        if answer["status"] == "ERROR":
            said = _text(answer.get("error"))
            if said == but:
                return None
            raise _verdict(said)
        if answer.get("results") is False:
            raise TryLater("Ministra has not done it, and does not say why")
        return answer.get("results")

    def _number(self, key: str) -> str:
        return f"{self.settings.prefix}{key}"

    def _account(self, key: str) -> str:
        return f"accounts/{self._number(key)}"

    def _mark(self, key: str, password: str) -> str:
        by = self.settings.key.get_secret_value().encode()
        return hmac.new(by, f"{key}:{password}".encode(), "sha256").hexdigest()[:16]

    def _comment(self, key: str, password: str, held: Fields) -> str:
        """What stood there, and the mark of a password."""
        kept = _MARK.sub("", held.get("comment", "")).strip()
        return f"{kept} [espf:{self._mark(key, password)}]".strip()


def _verdict(said: str) -> HandlerError:
    """What an error means for the event."""
    reason = f"Ministra: {said or 'an error without a word'}"
    if said in _WRONG:
        return Rejected(reason)
    if said.startswith('Resource "'):
        return Misconfigured(reason)
    # The login may have been taken meanwhile; and what is not known may pass.
    return TryLater(reason)


def _text(value: object) -> str:
    return "" if value is None else str(value)
