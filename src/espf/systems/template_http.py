"""TemplateHTTP: any system with an HTTP interface, reached by a description of its requests.

An operator describes, in TOML, what a subscriber should look like there, how one is read, added,
changed and deleted, and what the replies mean; interface.py checks it. What a system does not tell
cannot be compared: it is sent with every event of the subscriber, once.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, SecretStr

from espf.errors import CheckLater, HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers.base import CHECK_SECONDS, Context, HandlerSettings, Route
from espf.handlers.desired import (
    RECONCILE,
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
    reported_under,
)
from espf.handlers.event_sender import TEMPORARY, UNKNOWN_SENDER, Url, first_line, retry_after
from espf.handlers.http import status_line
from espf.handlers.subscriber import Subscriber
from espf.systems.interface import SECRETS, Call, Meaning, RequestTemplate, Rule, interface
from espf.systems.replies import NotRead, Said
from espf.systems.templates import TemplateFault, a_while_from_now

_GROUP = "TemplateHTTP"

#: What the statuses mean to which no rule applies, by request.
_USUAL: Mapping[tuple[Call, int], Meaning] = {
    ("create", 409): "exists",
    **{
        (call, status): "absent"
        for call in ("read", "change", "delete")
        for status in (404, 410)
    },
}  # fmt: skip

#: What no reply to a request can mean; it is refused.
_SENSELESS: frozenset[tuple[Call, Meaning]] = frozenset(
    {("create", "absent"), ("change", "exists"), ("list", "absent"), ("list", "exists")}
)

#: When to ask again about what was accepted and goes on.
_USUAL_WAIT = timedelta(seconds=30)

#: The key of nobody, to ask whether the system answers.
_NOBODY = "0"


def _interface(value: str) -> str:
    # Browsers send texts of several lines in this way.
    value = value.replace("\r\n", "\n")
    interface(value)
    return value


def _secret(letter: str) -> Any:
    return Field(
        default=SecretStr(""),
        alias=f"TemplateHTTP.Secret.{letter.upper()}",
        description=f"A key or password that templates of requests use as secret.{letter}.",
        json_schema_extra={"group": _GROUP},
    )


class TemplateHTTPSettings(DesiredStateSettings):
    """The options of a TemplateHTTP."""

    service_group: str = reported_under("IPTV")
    url: Url = Field(
        alias="TemplateHTTP.URL",
        description="Where the interface is, such as https://tv.example.net/api; the paths of the "
        "requests stand behind it.",
        json_schema_extra={"group": _GROUP},
    )
    interface: Annotated[str, AfterValidator(_interface)] = Field(
        alias="TemplateHTTP.Interface",
        description="The description of the interface, in TOML: what a subscriber should look "
        "like, the requests, and what replies mean.",
        json_schema_extra={"group": _GROUP, "lines": "on"},
    )
    products: ProductMap = Field(
        default=(),
        alias="TemplateHTTP.Packages",
        description="What the system calls each product, such as 'Family TV=FAM; Sport=SPO'; "
        "accounts of other products are not there. Empty: all accounts are, and products keep "
        "their names.",
        json_schema_extra={"group": _GROUP},
    )
    secret_a: SecretStr = _secret("a")
    secret_b: SecretStr = _secret("b")
    secret_c: SecretStr = _secret("c")
    ca_file: str = Field(
        default="",
        alias="TemplateHTTP.CAFile",
        max_length=1024,
        description="With https://: a file of PEM certificates of authorities, on every machine "
        "that runs a worker, that are trusted instead of those of the system. Empty: those of the "
        "system.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=30,
        alias="TemplateHTTP.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )


class TemplateHTTP(DesiredStateHandler):
    """Make a system hold the subscribers, by the requests that somebody has described."""

    Settings: ClassVar[type[HandlerSettings]] = TemplateHTTPSettings
    settings: TemplateHTTPSettings
    #: A description may be about anything that the billing knows of an account.
    supports = ("Account/*", "SIM/*", RECONCILE)

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        self._interface = interface(own.interface)
        self.keyed_by = self._interface.key
        self.secret_fields = self._interface.secret_fields
        self._route = Route(ca_file=own.ca_file or None)
        self._secrets = {
            name: getattr(own, f"secret_{name}").get_secret_value() for name in SECRETS
        }

    async def check(self, context: Context) -> str:
        """Read the entry of nobody; where that is no GET, or nothing can be read, connect."""
        read = self._interface.read
        if read is None or read.method != "GET":
            reached = await context.http.connect(self.settings.url, CHECK_SECONDS, self._route)
            return f"{reached} can be reached; whether it takes requests, only an event tells"
        meaning, _ = await self._ask(read, context, {"key": _NOBODY}, CHECK_SECONDS)
        found = "nothing" if meaning == "absent" else "something"
        return f"the interface answers: under the key {_NOBODY} there is {found}"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """The fields of the description, with what the billing knows."""
        settings = self.settings
        packages = mapped(owner.products, settings.products)
        if not settings.products:
            packages = owner.products
        elif not packages:
            return None
        card = owner.card
        values = {
            "account": {
                name: value
                for name, value in owner.info.items()
                if value is not None and "password" not in name
            },
            "barred": owner.barred_by(settings.barred_by),
            "bars": sorted(owner.bars),
            "card": {} if card is None else {"imsi": card.imsi, "iccid": card.iccid},
            "exceeded": sorted(owner.exceeded),
            "key": key,
            "package": packages[0] if packages else "",
            "packages": list(packages),
            "password": owner.service_password,
            "products": list(owner.products),
            "secret": self._secrets,
        }
        wanted = {}
        deadline = a_while_from_now()
        for name, template in self._interface.fields.items():
            # A password that the billing does not know is left as it is.
            if owner.service_password is not None or "password" not in template.uses:
                try:
                    wanted[name] = template.render(values, [], deadline)
                except TemplateFault as fault:
                    raise Rejected(f"fields.{name}: {fault}") from None
        return wanted

    async def compare(self, key: str, context: Context) -> Change:
        """See DesiredStateHandler. Raises Rejected where the system cannot be read."""
        if not self._interface.can_read:
            raise Rejected("this system cannot be read, so nothing can be compared")
        return await super().compare(key, context)

    async def bring(self, key: str, context: Context) -> list[Change]:
        """See DesiredStateHandler. What the system does not tell is sent in any case."""
        changes = await super().bring(key, context) if self._interface.can_read else []
        if changes or not self._interface.untold:
            return changes
        async with self._lock(key):
            change = self._unseen(await super().compare(key, context))
            if change is None:
                return []
            if self.settings.mode == "live":
                context.note(f"{key}: sent, since it cannot be told whether it is there already")
                await self.apply(change, context)
            return [change]

    def _unseen(self, seen: Change) -> Change | None:
        """What is to be sent though nothing differs that can be seen; None: nothing."""
        if not self._interface.can_read:
            return Change(seen.key, None if seen.wanted is not None else {}, seen.wanted)
        untold = self._interface.untold
        if seen.held is None or seen.wanted is None or untold.isdisjoint(seen.wanted):
            return None
        held = {name: value for name, value in seen.held.items() if name not in untold}
        return Change(seen.key, held, seen.wanted)

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """The fields that the reply tells; what it does not is taken to be as it is wanted."""
        read = self._interface.read
        if read is None:
            return wanted
        self._hide(wanted, context)
        meaning, said = await self._ask(read, context, {"key": key})
        if meaning == "absent":
            return None
        try:
            held = {name: place.text(said) for name, place in self._interface.places.items()}
        except NotRead as error:
            raise TryLater(f"read: {error}") from None
        self._hide(held, context)
        return held | self._taken_for_told(wanted or {}, held)

    def _taken_for_told(self, wanted: Fields, held: Fields) -> dict[str, str]:
        """The fields that a reply does not tell, as far as they are taken to be as wanted."""
        told_by = self._interface.told_by
        return {
            name: wanted[name]
            for name in wanted
            if name in self._interface.untold
            or (name in told_by and held.get(told_by[name]) == wanted.get(told_by[name]))
        }

    async def apply(self, change: Change, context: Context) -> None:
        """Add, change or delete one entry."""
        self._hide(change.wanted, context)
        held = {
            name: value
            for name, value in (change.held or {}).items()
            if name in self._interface.places
        }
        values: dict[str, Any] = {"key": change.key, "held": held, "wanted": change.wanted or {}}
        if change.wanted is None:
            await self._ask(self._interface.delete, context, values)
            return
        values["changed"] = list(change.wanted)
        if change.held is None:
            meaning, _ = await self._ask(self._interface.create, context, values)
            # What can be read is compared again, and found to be there.
            if meaning != "exists" or self._interface.can_read:
                return
        else:
            values["changed"] = [
                name
                for name in change.wanted
                if name in change.fields or name in self._interface.untold
            ]
        for request in self._interface.changes or [self._interface.create]:
            if not request.fields or set(request.fields) & set(values["changed"]):
                await self._ask(request, context, values)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The keys of the next page. Raises Rejected where the description has no list."""
        request, place = self._interface.list, self._interface.keys
        if request is None or place is None:
            return await super().held_keys(after, context)
        if after is not None and "after" not in request.uses:
            return ()
        _, said = await self._ask(request, context, {"after": after or ""})
        try:
            keys = place.found(said)
        except NotRead as error:
            raise TryLater(f"list: {error}") from None
        if after is not None and after in keys:
            raise Rejected("the list does not go on behind the key that it is asked for")
        return keys

    def _hide(self, fields: Fields | None, context: Context) -> None:
        """Keep the secret fields out of the journal."""
        for name in self.secret_fields & (fields or {}).keys():
            context.hide((fields or {})[name])

    async def _ask(
        self,
        template: RequestTemplate,
        context: Context,
        values: Mapping[str, Any],
        timeout_seconds: float | None = None,
    ) -> tuple[Meaning, Said]:
        """One request: what the reply means, and what it says. Raises the verdict."""
        try:
            request = template.render({**values, "secret": self._secrets}, context.secrets)
        except TemplateFault as fault:
            raise Rejected(str(fault)) from None
        reply = await context.http.send(
            request.method,
            f"{self.settings.url.rstrip('/')}{request.path}",
            request.body,
            request.headers,
            timeout_seconds or self.settings.timeout,
            self._route,
        )
        said = Said(reply)
        meaning, rule = self._meaning(template.call, said)
        if verdict := self._verdict(template.call, meaning, rule, said):
            raise verdict
        return meaning, said

    def _meaning(self, call: Call, said: Said) -> tuple[Meaning, Rule | None]:
        """What a reply means: by the first rule that applies, else by its status."""
        for rule in self._interface.rules:
            try:
                if rule.fits(call, said):
                    return rule.means, rule
            except NotRead as error:
                raise Misconfigured(f"{call}: {error}") from None
        status = said.reply.status
        if said.reply.ok:
            return "success", None
        if (call, status) in _USUAL:
            return _USUAL[call, status], None
        if status == 403 or status in UNKNOWN_SENDER or status < 400:
            return "misconfigured", None
        return ("retry" if status >= 500 or status in TEMPORARY else "refused"), None

    def _verdict(
        self, call: Call, meaning: Meaning, rule: Rule | None, said: Said
    ) -> HandlerError | None:
        """What it means for the event; None: go on."""
        reason = f"{call}: {self._reason(said)}"
        after = None if rule is None or rule.after is None else timedelta(seconds=rule.after)
        if meaning == "retry":
            told = retry_after(said.reply.headers.get("retry-after"), datetime.now(UTC))
            return TryLater(reason, after=after or told)
        if meaning == "accepted":
            return CheckLater(reason, after=after or _USUAL_WAIT)
        if meaning == "misconfigured":
            return Misconfigured(reason)
        if meaning == "refused" or (call, meaning) in _SENSELESS:
            return Rejected(reason)
        return None

    def _reason(self, said: Said) -> str:
        """The status, and what the reply says of it."""
        told = ""
        if self._interface.reason is not None:
            try:
                told = self._interface.reason.text(said)
            except NotRead:
                told = ""
        told = first_line(told or said.reply.text)
        return ": ".join(part for part in (status_line(said.reply.status), told) if part)
