"""LDAP: a directory of subscribers, such as OpenLDAP with its password policy.

An entry is found by an attribute that holds the account's number (``i_account``), so that it stays
the same entry when the account's id, by which it is named, changes. Without such an attribute it is
found by its name, and another name is another entry.

Three things that a directory does not do by itself are seen to here:

* A password is hashed. It is compared with what is stored; never by a bind, which fails for a
  locked entry and, for a wrong password, counts as an attack.
* To set a password lifts the password policy's lock. So that of a locked entry waits until it is
  unlocked; nobody can use it before.
* Groups know their members by name. Those of an entry that gets another name are carried along.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    model_validator,
)

from espf.errors import Misconfigured, Rejected, TryLater
from espf.handlers import subscriber as billing
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
from espf.handlers.pb_data import whole
from espf.handlers.subscriber import Subscriber
from espf.model import Event
from espf.systems import password_hashes
from espf.systems.ldap_client import (
    NO_SUCH_OBJECT,
    OBJECT_CLASS_VIOLATION,
    PORTS,
    STATE,
    Directory,
    Entry,
    Pages,
    Place,
    Refused,
    Security,
    judged,
    rdn,
)

_GROUP = "LDAP server"
_ENTRIES = "Entries"
_BARS = "Barring"

_EVENTS = (*ACCOUNT_EVENTS, "Subscriber/*")

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+", re.ASCII)
_NAME_PART = re.compile(r"\s*[A-Za-z0-9.-]+\s*=.*[^\s]", re.DOTALL)
_FIELD = re.compile(r"\{([a-z][a-z0-9_]*)\}", re.ASCII)

#: What is not told of a subscriber, whatever a template asks for.
_SECRET = frozenset({"password", "h323_password"})

#: The attribute of OpenLDAP's password policy that locks an entry; its value of a lock for good.
#: Any other value is a moment: the policy's own lock after failed binds, which is not ours.
_LOCK, _FOR_GOOD = "pwdAccountLockedTime", "000001010000Z"

_PASSWORD = "userPassword"  # noqa: S105  (the attribute)

_MEMBER = "member"
_BARRED, _FREE = "barred", "free"

#: Between the values of an attribute that has many; no value of a map can hold it.
_AND = "; "

#: How many entries an audit reads at once.
PAGE = 500


def _attribute(value: str) -> str:
    if value and not _ATTRIBUTE.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of an attribute")
    return value


def _name(value: str) -> str:
    if value and not _NAME_PART.fullmatch(value):
        raise ValueError(f"{value!r} is not a name in the directory, such as ou=people,dc=example")
    return value


def _templates(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for name, template in pairs:
        _attribute(name)
        if set(_FIELD.sub("", template)) & set("{}"):
            raise ValueError(f"{name}: fields are written {{firstname}}, in small letters")
        if secret := _SECRET.intersection(_FIELD.findall(template)):
            raise ValueError(f"{name}: {{{min(secret)}}} is a secret")
    return pairs


def _groups(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for _, group in pairs:
        _name(group)
    return pairs


Attribute = Annotated[str, AfterValidator(_attribute)]
Name = Annotated[str, AfterValidator(_name)]
Classes = Annotated[
    tuple[Attribute, ...],
    BeforeValidator(words),
    PlainSerializer(", ".join),
    Field(min_length=1),
]


class LdapSettings(DesiredStateSettings):
    """The options of a directory."""

    address: str = Field(
        alias="LDAP.Address",
        min_length=1,
        description="The host, by name or address, of the directory.",
        json_schema_extra={"group": _GROUP},
    )
    port: int | None = Field(
        default=None,
        alias="LDAP.Port",
        ge=1,
        le=65535,
        description="Its port. Empty: 636 with 'ldaps', otherwise 389.",
        json_schema_extra={"group": _GROUP},
    )
    security: Security = Field(
        default="starttls",
        alias="LDAP.Security",
        description="'starttls': TLS is begun on the usual port. 'ldaps': TLS from the first byte. "
        "'none': passwords go over the wire as they are; for a directory on the same machine.",
        json_schema_extra={"group": _GROUP},
    )
    ca_file: str = Field(
        default="",
        alias="LDAP.CAFile",
        description="A file of PEM certificates of authorities, on every machine that runs a "
        "worker. They are trusted instead of those of the system. Empty: those of the system.",
        json_schema_extra={"group": _GROUP},
    )
    bind_dn: Name = Field(
        alias="LDAP.BindDN",
        min_length=1,
        description="As whom the directory is asked, such as cn=espf,dc=example,dc=org.",
        json_schema_extra={"group": _GROUP},
    )
    bind_password: SecretStr = Field(
        alias="LDAP.BindPassword",
        min_length=1,
        description="The password of BindDN.",
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=10,
        alias="LDAP.Timeout",
        ge=1,
        le=300,
        description="How long to wait for a connection, and for an answer.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )
    base_dn: Name = Field(
        alias="LDAP.BaseDN",
        min_length=1,
        description="Below which entry the subscribers are, such as ou=people,dc=example,dc=org. "
        "An audit takes whoever else has an AccountAttribute below it for a former subscriber.",
        json_schema_extra={"group": _ENTRIES},
    )
    naming_attribute: Attribute = Field(
        default="uid",
        alias="LDAP.NamingAttribute",
        min_length=1,
        description="The attribute that entries are named by; its value is the account's id.",
        json_schema_extra={"group": _ENTRIES},
    )
    account_attribute: Attribute = Field(
        default="employeeNumber",
        alias="LDAP.AccountAttribute",
        description="The attribute that holds the account's number, by which its entry is found "
        "whatever its name; let the directory index it. Empty: entries are found by their name, "
        "and an account whose id changes gets a new one.",
        json_schema_extra={"group": _ENTRIES},
    )
    object_classes: Classes = Field(
        default=("inetOrgPerson",),
        alias="LDAP.ObjectClasses",
        description="The object classes of new entries, separated by commas or blanks.",
        json_schema_extra={"group": _ENTRIES},
    )
    attributes: Annotated[ProductMap, AfterValidator(_templates)] = Field(
        default=(
            ("cn", "{firstname} {lastname} | {companyname} | {id}"),
            ("sn", "{lastname} | {id}"),
            ("mail", "{email}"),
        ),
        alias="LDAP.Attributes",
        description="Further attributes, such as 'sn={lastname} | {id}; mail={email}': fields of "
        "the account in braces, as Account/get_account_info names them. Of what stands between |, "
        "the first of which every field is known counts; if none, the attribute is removed.",
        json_schema_extra={"group": _ENTRIES},
    )
    products: ProductMap = Field(
        default=(),
        alias="LDAP.Products",
        description="What each product makes of ProductAttribute, such as 'Gold=gold; *=basic'. "
        "Empty: the attribute is left alone.",
        json_schema_extra={"group": _ENTRIES},
    )
    product_attribute: Attribute = Field(
        default="employeeType",
        alias="LDAP.ProductAttribute",
        min_length=1,
        description="The attribute for the products, a value for each.",
        json_schema_extra={"group": _ENTRIES},
    )
    groups: Annotated[ProductMap, AfterValidator(_groups)] = Field(
        default=(),
        alias="LDAP.Groups",
        description="The group (groupOfNames) that a product makes somebody a member of, such as "
        "'Gold=cn=gold,ou=groups,dc=example,dc=org', one per line.",
        json_schema_extra={"group": _ENTRIES},
    )
    passwords: bool = Field(
        default=True,
        alias="LDAP.Passwords",
        description="On: the service password of the account is the password of the entry.",
        json_schema_extra={"group": _ENTRIES},
    )
    digest_attribute: Attribute = Field(
        default="",
        alias="LDAP.DigestAttribute",
        description="For a directory that does not let BindDN read userPassword, or hashes it in a "
        "way that cannot be compared: the attribute that keeps a salted digest of the password "
        "that was set. Let nobody else read it. Empty: userPassword is compared.",
        json_schema_extra={"group": _ENTRIES},
    )
    bar_attribute: Attribute = Field(
        default=_LOCK,
        alias="LDAP.BarAttribute",
        description="The attribute that keeps somebody out. The default is the lock of OpenLDAP's "
        "password policy. Empty: BarGroup alone does.",
        json_schema_extra={"group": _BARS},
    )
    barred_value: str = Field(
        default=_FOR_GOOD,
        alias="LDAP.BarredValue",
        min_length=1,
        description="The value of BarAttribute while somebody is barred.",
        json_schema_extra={"group": _BARS},
    )
    free_value: str = Field(
        default="",
        alias="LDAP.FreeValue",
        description="Its value otherwise. Empty: BarredValue is removed.",
        json_schema_extra={"group": _BARS},
    )
    bar_group: Name = Field(
        default="",
        alias="LDAP.BarGroup",
        description="A group (groupOfNames) that has whoever is barred as a member. Empty: none.",
        json_schema_extra={"group": _BARS},
    )

    @model_validator(mode="after")
    def _each_attribute_once(self) -> Self:
        names = [
            self.naming_attribute,
            self.account_attribute,
            *dict(self.attributes),
            self.product_attribute if self.products else "",
            self.bar_attribute,
            self.digest_attribute,
            _PASSWORD,
            "objectClass",
        ]
        seen = [name.lower() for name in names if name]
        for name in names:
            if seen.count(name.lower()) > 1:
                raise ValueError(f"the attribute {name} has more than one meaning")
        if self.barred_by and not (self.bar_attribute or self.bar_group):
            raise ValueError("BarAttribute or BarGroup must say what becomes of whoever is barred")
        return self


class LDAP(DesiredStateHandler):
    """Make a directory hold an entry for each subscriber."""

    supports = (*_EVENTS, RECONCILE)
    usual = _EVENTS
    Settings: ClassVar[type[HandlerSettings]] = LdapSettings
    settings: LdapSettings
    secret_fields = frozenset({_PASSWORD})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        self.keyed_by: Literal["id", "i_account"] = "i_account" if own.account_attribute else "id"
        # One more for an audit.
        self._directory = Directory(_place(own, own.timeout), own.concurrency + 1)
        targets = [group for _, group in own.groups]
        self._groups = tuple(dict.fromkeys(one for one in (*targets, own.bar_group) if one))
        self._plain = (*dict(own.attributes), *([own.product_attribute] if own.products else []))
        #: Where an audit is: its search, what it has read and not told yet, and the last key told.
        self._pages: Pages | None = None
        self._ahead: list[str] = []
        self._reached: str | None = None
        #: The accounts whose entries had to make way for others.
        self._moved: set[str] = set()

    async def close(self) -> None:
        """Hang up."""
        if self._pages is not None:
            self._directory.end(self._pages)
        await self._directory.close()

    async def check(self, context: Context) -> str:
        """Bind, and look whether the base and the groups are there."""
        own = self.settings
        place = _place(own, min(own.timeout, int(CHECK_SECONDS / 2)))
        directory = Directory(place, 1)
        try:
            with judged():
                for dn in (own.base_dn, *self._groups):
                    if await directory.entry(dn, ["objectClass"], context) is None:
                        raise Misconfigured(f"there is no {dn}, or it may not be seen")
        finally:
            await directory.close()
        return (
            f"{place} knows {own.bind_dn}, and {own.base_dn} is there; whether it may be written "
            "to, and whether a lock keeps anybody out, only an event tells"
        )

    async def handle(self, event: Event, context: Context) -> None:
        """See DesiredStateHandler. Whose entry had to make way gets its own name, too."""
        await super().handle(event, context)
        for key in list(self._moved):
            try:
                await self.bring(key, context)
            except Rejected as refusal:
                # Its own event says so, too; this one is done.
                context.note(f"{key}: {refusal}")
            self._moved.discard(key)

    def desired(self, key: str, owner: Subscriber) -> Fields | None:  # noqa: ARG002
        """The name, the attributes, the groups, the bar and the password."""
        own = self.settings
        if not owner.id:
            raise Rejected("the account has no id")
        barred = owner.barred_by(own.barred_by)
        known = {**owner.info, "product": next(iter(owner.products), None)}
        wanted = {own.naming_attribute: owner.id}
        wanted |= {name: _filled(template, known) for name, template in own.attributes}
        if own.products:
            wanted[own.product_attribute] = _AND.join(sorted(mapped(owner.products, own.products)))
        joined = set(mapped(owner.products, own.groups)) | ({own.bar_group} if barred else set())
        wanted |= {group: _MEMBER if group in joined else "" for group in self._groups}
        if own.bar_attribute:
            wanted[own.bar_attribute] = _BARRED if barred else _FREE
        waits = barred and own.bar_attribute.lower() == _LOCK.lower()
        if own.passwords and owner.service_password and not waits:
            wanted[_PASSWORD] = owner.service_password
        return wanted

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """The entry of an account, and whether it is in the groups."""
        own = self.settings
        password = (wanted or {}).get(_PASSWORD)
        names = [own.naming_attribute, *self._plain]
        names += [own.bar_attribute] if own.bar_attribute else []
        names += [own.digest_attribute or _PASSWORD] if password else []
        with judged():
            entry = await self._entry(key, names, context)
            if entry is None:
                return None
            held = {"dn": entry.dn, own.naming_attribute: entry.rdn_value}
            held |= {name: _AND.join(sorted(entry.values(name))) for name in self._plain}
            for group in self._groups:
                held[group] = _MEMBER if await self._is_member(entry.dn, group, context) else ""
        if own.bar_attribute:
            held[own.bar_attribute] = self._bar_told(entry.values(own.bar_attribute))
        if password:
            held[_PASSWORD] = await asyncio.to_thread(self._password_told, entry, password)
        return held

    async def apply(self, change: Change, context: Context) -> None:
        """Add, change or delete one entry."""
        held, wanted = change.held, change.wanted
        try:
            if wanted is None:
                await self._remove(held or {}, context)
            elif held is None:
                await self._add(change.key, wanted, context)
            else:
                await self._change(change, held, wanted, context)
        except Refused as refusal:
            # What is there already, or not there, is compared again anyway.
            if refusal.code not in STATE:
                raise refusal.verdict() from None
            context.note(f"the directory: {refusal}")

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The accounts, or the names, of the next entries, in the directory's own order.

        A directory goes on only with a search that is under way. One that was cut off begins
        anew, and passes by what was read before.
        """
        try:
            with judged():
                if self._pages is None or after is None or after != self._reached:
                    await self._begin(after, context)
                keys = await self._next_keys()
        except BaseException:
            self._reached = None
            raise
        self._reached = keys[-1] if keys else None
        return keys

    async def _entry(self, key: str, names: Sequence[str], context: Context) -> Entry | None:
        own = self.settings
        if not own.account_attribute:
            dn = f"{rdn(own.naming_attribute, key)},{own.base_dn}"
            entry = await self._directory.entry(dn, names, context)
            # A directory does not tell capital letters from small ones; the billing may.
            return entry if entry is not None and entry.rdn_value == key else None
        try:
            found = await self._directory.find(
                own.base_dn, own.account_attribute, key, names, context
            )
        except Refused as refusal:
            raise self._without_base(refusal) from None
        if len(found) > 1:
            told = " and ".join(one.dn for one in found)
            raise Rejected(f"{own.account_attribute} {key} is there more than once: {told}")
        return found[0] if found else None

    async def _is_member(self, dn: str, group: str, context: Context) -> bool:
        try:
            return await self._directory.compare(group, _MEMBER, dn, context)
        except Refused as refusal:
            if refusal.code == NO_SUCH_OBJECT:
                raise Misconfigured(f"there is no group {group}, or it may not be seen") from None
            if refusal.code in STATE:  # a group without any member
                return False
            raise

    def _bar_told(self, values: Sequence[str]) -> str:
        """Whether an entry is barred; anything that is neither is told as it is."""
        own = self.settings
        if own.barred_value in values:
            return _BARRED
        is_free = not own.free_value or tuple(values) == (own.free_value,)
        return _FREE if is_free else _AND.join(values)

    def _password_told(self, entry: Entry, wanted: str) -> str:
        """The password that is wanted, where that is the one that is set."""
        kept = entry.values(self.settings.digest_attribute)
        if self.settings.digest_attribute:
            is_set = any(password_hashes.is_digest_of(wanted, one) for one in kept)
            return wanted if is_set else _AND.join(kept)
        stored = entry.attributes.get(_PASSWORD.lower(), ())
        verdicts = [password_hashes.fits(wanted, one) for one in stored]
        if None in verdicts and True not in verdicts:
            raise Misconfigured(
                f"userPassword of {entry.dn} is hashed in a way that cannot be compared: "
                "set LDAP.DigestAttribute"
            )
        return wanted if True in verdicts else "another one" if stored else ""

    async def _add(self, key: str, wanted: Fields, context: Context) -> None:
        own = self.settings
        name = rdn(own.naming_attribute, wanted[own.naming_attribute])
        dn = f"{name},{own.base_dn}"
        if own.account_attribute:
            await self._make_way(dn, key, wanted[own.naming_attribute], context)
        values = {own.naming_attribute: [wanted[own.naming_attribute]]}
        if own.account_attribute:
            values[own.account_attribute] = [key]
        values |= self._values(wanted, wanted)
        filled = {attribute: several for attribute, several in values.items() if several}
        try:
            await self._directory.add(dn, own.object_classes, filled, context)
        except Refused as refusal:
            raise self._without_base(refusal) from None
        for group in self._groups:
            if wanted[group]:
                await self._directory.join(group, _MEMBER, dn, context)
        if _PASSWORD in wanted:
            await self._set_password(dn, wanted[_PASSWORD], context)

    async def _change(self, change: Change, held: Fields, wanted: Fields, context: Context) -> None:
        fields, dn = change.fields, held["dn"]
        if _PASSWORD in fields:
            await self._set_password(dn, wanted[_PASSWORD], context)
        values = self._values(wanted, fields)
        if values:
            await self._directory.replace(dn, values, context)
        if self.settings.naming_attribute in fields:
            dn = await self._rename(change.key, dn, wanted, context)
        for group in self._groups:
            if group in fields and wanted[group]:
                await self._directory.join(group, _MEMBER, dn, context)
            elif group in fields:
                await self._leave(group, dn, context)

    async def _remove(self, held: Fields, context: Context) -> None:
        """The groups first: of an entry that is gone, nobody knows that it is still a member."""
        for group in self._groups:
            if held.get(group):
                await self._leave(group, held["dn"], context)
        await self._directory.delete(held["dn"], context)

    def _values(self, wanted: Fields, fields: Fields | Sequence[str]) -> dict[str, list[str]]:
        """The attributes among these fields as they are to be, none for one that is to go."""
        own = self.settings
        values = {
            name: [one for one in wanted[name].split(_AND) if one]
            if own.products and name == own.product_attribute
            else [wanted[name]] * bool(wanted[name])
            for name in self._plain
            if name in fields
        }
        if own.bar_attribute and own.bar_attribute in fields:
            value = own.barred_value if wanted[own.bar_attribute] == _BARRED else own.free_value
            values[own.bar_attribute] = [value] if value else []
        return values

    async def _set_password(self, dn: str, password: str, context: Context) -> None:
        await self._directory.set_password(dn, password, context)
        kept = self.settings.digest_attribute
        if kept:
            digest = await asyncio.to_thread(password_hashes.digest, password)
            await self._directory.replace(dn, {kept: [digest]}, context)
            return
        entry = await self._directory.entry(dn, [_PASSWORD], context)
        if entry is not None and not entry.values(_PASSWORD):
            raise Misconfigured(
                f"{self.settings.bind_dn} may not read userPassword: let it, or set "
                "LDAP.DigestAttribute"
            )

    async def _rename(self, key: str, dn: str, wanted: Fields, context: Context) -> str:
        """Give an entry its name, and its groups the new one; returns it."""
        own = self.settings
        name = rdn(own.naming_attribute, wanted[own.naming_attribute])
        renamed = f"{name},{Entry(dn, {}).parent}"
        if own.account_attribute:
            await self._make_way(renamed, key, wanted[own.naming_attribute], context)
        for group in self._groups:
            if wanted[group]:
                await self._directory.join(group, _MEMBER, renamed, context)
        await self._directory.rename(dn, name, context)
        for group in self._groups:
            await self._leave(group, dn, context)
        return renamed

    async def _make_way(self, dn: str, key: str, name: str, context: Context) -> None:
        """Take a name from the entry that has it: by the billing it is ours."""
        own = self.settings
        other = await self._directory.entry(dn, [own.account_attribute], context)
        if other is None:
            return
        holders = other.values(own.account_attribute)
        if key in holders:
            return
        number = whole(holders[0]) if len(holders) == 1 else None
        if number is None:
            raise Rejected(
                f"{other.dn} is there already, and has no number of an account: give it "
                f"{own.account_attribute} {key} if it is this one's"
            )
        owner = await billing.by_account(context, number)
        if owner is not None and not owner.is_closed and owner.id.casefold() == name.casefold():
            # The very same one: it went from us to the other a moment ago.
            raise (TryLater if owner.id == name else Rejected)(
                f"the ids {owner.id} and {name} of two accounts are one name in the directory"
            )
        aside = rdn(own.naming_attribute, f"moved-{holders[0]}")
        context.note(f"{other.dn}: -> {aside}")
        await self._directory.rename(other.dn, aside, context)
        self._moved.add(holders[0])

    async def _leave(self, group: str, dn: str, context: Context) -> None:
        try:
            await self._directory.leave(group, _MEMBER, dn, context)
        except Refused as refusal:
            if refusal.code != OBJECT_CLASS_VIOLATION:
                raise
            raise Misconfigured(
                f"{group} would be without a member, which it may not be: add one that stays, "
                "such as its own name"
            ) from None

    def _without_base(self, refusal: Refused) -> Exception:
        if refusal.code != NO_SUCH_OBJECT:
            return refusal
        return Misconfigured(f"there is no {self.settings.base_dn}, or it may not be seen")

    async def _begin(self, after: str | None, context: Context) -> None:
        """Begin to list, and read on until behind ``after``; from the start if that is gone."""
        own = self.settings
        attribute = own.account_attribute or own.naming_attribute
        for looking in (after, None):
            if self._pages is not None:
                self._directory.end(self._pages)
            self._pages = await self._directory.pages(own.base_dn, attribute, PAGE, context)
            self._ahead = []
            if looking is None:
                return
            while keys := await self._next_keys():
                if looking in keys:
                    self._ahead = keys[keys.index(looking) + 1 :]
                    return

    async def _next_keys(self) -> list[str]:
        assert self._pages is not None
        if self._ahead:
            keys, self._ahead = self._ahead, []
            return keys
        attribute = self.settings.account_attribute
        while entries := await self._directory.next_page(self._pages):
            if not attribute:
                return [entry.rdn_value for entry in entries]
            values = [value for entry in entries for value in entry.values(attribute)]
            # Somebody else's numbers may be of another kind.
            if keys := [value for value in values if whole(value) is not None]:
                return keys
        return []


def _place(own: LdapSettings, timeout_seconds: int) -> Place:
    return Place(
        host=own.address,
        port=own.port or PORTS[own.security],
        security=own.security,
        ca_file=own.ca_file or None,
        bind_dn=own.bind_dn,
        password=own.bind_password.get_secret_value(),
        timeout_seconds=timeout_seconds,
    )


def _filled(template: str, known: Mapping[str, Any]) -> str:
    """The first alternative of which every field is known, filled in; empty: there is none."""
    for alternative in template.split("|"):
        # What stands between the fields, and their names by turns.
        parts = _FIELD.split(alternative)
        parts[1::2] = [_text(known.get(name)) for name in parts[1::2]]
        if all(parts[1::2]):
            return " ".join("".join(parts).split())
    return ""


def _text(value: object) -> str:
    is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return str(value).strip() if is_plain else ""
