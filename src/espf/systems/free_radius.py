"""FreeRADIUS: who may use the network, how fast, and whose session has to end.

An entry is a user by name, in the tables from which FreeRADIUS answers: its password, attributes of
its own, and its groups. What a group gives is the network's business, and stands in tables that
are not touched.

The tables decide about the next session, not about one that is under way: a NAS is told of that by
Disconnect or CoA. Whether that is still to do is part of the state, so that a retry finds it:

* Of whom no session may be left, ``radacct`` tells those that are open. One whose end its NAS has
  confirmed counts as ended here, although its last accounting may come later.
* Of others, a session may well be open, and cannot be asked what it was told. So the groups are
  first written with priorities that are higher by UNTOLD or UNENDED, which decide the same, and
  without that when the sessions have been told or ended. A new password ends sessions: the name may
  have gone to somebody else.

A NAS that is silent is asked again in later attempts. Then a warning stands in the journal and the
event counts as done, for the tables hold the truth already.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal
from weakref import ref

from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy import Connection

from espf.errors import TryLater
from espf.handlers import pb_data
from espf.handlers.base import Context, HandlerSettings
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
    reported_under,
)
from espf.handlers.subscriber import Subscriber
from espf.systems.dynamic_authorization import AccessServer, Said, Session
from espf.systems.radius_tables import (
    NOTHING,
    SAFE_CHARACTERS,
    UNENDED,
    UNTOLD,
    Held,
    RadiusTables,
    Wanted,
    user_of,
)
from espf.systems.sql import DatabaseUrl, SqlDatabase

_GROUP = "FreeRADIUS"

#: By which services a quota that is used up takes access away.
_DATA = frozenset({"netaccess", "data"})

#: How sessions that may go on stand, by what is still to do.
_SESSIONS = {0: "told", UNTOLD: "not told", UNENDED: "not ended"}

#: How long a session counts as ended: its last accounting must have come by then.
_ENDED_SECONDS = 600.0

_PREFIX = re.compile(r"(?:[a-z_]\w*\.)?(?:[a-z_]\w*)?", re.ASCII | re.IGNORECASE)


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError(f"{value!r} is neither the beginning of a table's name nor SCHEMA.")
    return value


class FreeRADIUSSettings(DesiredStateSettings):
    """The options of a FreeRADIUS."""

    service_group: str = reported_under("Netaccess")
    database_url: DatabaseUrl = Field(
        alias="FreeRADIUS.DatabaseURL",
        description="The database of FreeRADIUS, such as "
        "postgresql://espf:PASSWORD@radius.example.net/radius, mariadb://… or sqlite:///FILE.",
        json_schema_extra={"group": _GROUP},
    )
    table_prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="",
        alias="FreeRADIUS.TablePrefix",
        max_length=64,
        description="What the names of the tables begin with, such as 'aaa_' or 'radius.'. Empty: "
        "they are radcheck, radreply, and so on.",
        json_schema_extra={"group": _GROUP},
    )
    safe_characters: str = Field(
        default=SAFE_CHARACTERS,
        alias="FreeRADIUS.SafeCharacters",
        max_length=128,
        description="What safe_characters of FreeRADIUS's module sql is set to: any other one of a "
        "name is written as = and its hexadecimal code, as FreeRADIUS looks for it.",
        json_schema_extra={"group": _GROUP},
    )
    groups: ProductMap = Field(
        alias="FreeRADIUS.Groups",
        min_length=1,
        description="The group of each product, such as 'Fast=inet-100M; *=inet-50M'. A group of "
        "an add-on comes before that of the main product. Who has none has no access.",
        json_schema_extra={"group": _GROUP},
    )
    when_barred: Literal["reject", "walled garden"] = Field(
        default="reject",
        alias="FreeRADIUS.WhenBarred",
        description="What the group of the barred does. 'reject': it lets nobody in, so no session "
        "is left open. 'walled garden': it leads elsewhere, so sessions may go on there.",
        json_schema_extra={"group": _GROUP},
    )
    barred_group: str = Field(
        default="suspended",
        alias="FreeRADIUS.BarredGroup",
        min_length=1,
        max_length=64,
        description="The group that a barred subscriber is in before all others. It must be there.",
        json_schema_extra={"group": _GROUP},
    )
    quota_group: str = Field(
        default="",
        alias="FreeRADIUS.QuotaGroup",
        max_length=64,
        description="The group, such as a slow one, before all others of a subscriber whose quota "
        "is used up. Empty: such a subscriber is barred.",
        json_schema_extra={"group": _GROUP},
    )
    reply_attributes: ProductMap = Field(
        default=(),
        alias="FreeRADIUS.ReplyAttributes",
        description="Attributes of the reply to each user, and where the billing's "
        "Account/get_account_info has the value: a field, or FEATURE.ATTRIBUTE. An example: "
        "'Class=i_account; Framed-IP-Address=netaccess_static_ip.address'.",
        json_schema_extra={"group": _GROUP},
    )
    live_sessions: Literal["disconnect", "change", "leave"] = Field(
        default="disconnect",
        alias="FreeRADIUS.LiveSessions",
        description="What becomes of a session that is open when its user is barred or comes into "
        "another group. 'disconnect': it is ended. 'change': it is given the Filter-Id of the "
        "group, and ended where the group has none. 'leave': nothing.",
        json_schema_extra={"group": _GROUP},
    )
    nas_port: int = Field(
        default=3799,
        alias="FreeRADIUS.NASPort",
        ge=1,
        le=65535,
        description="The UDP port at which access servers (NAS) take Disconnect and CoA.",
        json_schema_extra={"group": _GROUP},
    )
    nas_secret: SecretStr = Field(
        default=SecretStr(""),
        alias="FreeRADIUS.NASSecret",
        description="The secret that is shared with the access servers. Empty: each one's own, "
        "which the table nas has.",
        json_schema_extra={"group": _GROUP},
    )
    nas_timeout: float = Field(
        default=3,
        alias="FreeRADIUS.NASTimeout",
        gt=0,
        le=30,
        description="How long to wait for the answer of an access server, three times in all.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )
    nas_attempts: int = Field(
        default=3,
        alias="FreeRADIUS.NASAttempts",
        ge=1,
        le=100,
        description="In how many attempts of an event a silent access server is asked. After the "
        "last one a warning stands in the journal and the event is done.",
        json_schema_extra={"group": _GROUP, "unit": "attempts"},
    )
    timeout: int = Field(
        default=10,
        alias="FreeRADIUS.Timeout",
        ge=1,
        le=300,
        description="How long to wait for the database.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )


class FreeRADIUS(DesiredStateHandler):
    """Make the tables of FreeRADIUS hold the users, and access servers the sessions."""

    Settings: ClassVar[type[HandlerSettings]] = FreeRADIUSSettings
    settings: FreeRADIUSSettings
    keyed_by = "id"
    secret_fields = frozenset({"password"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        self._database = SqlDatabase(own.database_url, own.timeout, own.concurrency)
        self._tables = RadiusTables(
            own.table_prefix, own.safe_characters, sessions=own.live_sessions != "leave"
        )
        #: Sessions that count as ended, and until when.
        self._ended: dict[str, float] = {}
        #: Sessions that are left as they are, and the attempt for which that holds.
        self._given_up: dict[str, ref[Context]] = {}

    def secrets(self) -> tuple[str, ...]:
        """See Handler; and the password in the URL."""
        return (*super().secrets(), *self._database.secrets)

    async def close(self) -> None:
        """Hang up."""
        await self._database.close()

    async def check(self, context: Context) -> str:
        """Look into every table, and for the groups that somebody may be put into."""
        await self._database.run(context, self._look)
        told = f"{self._database.place} answers, and has the tables and the groups"
        if self.settings.live_sessions == "leave":
            return told
        return f"{told}; whether access servers end sessions, only an event tells"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:  # noqa: ARG002
        """The password, the groups, the reply's attributes, and what sessions there may be."""
        settings = self.settings
        groups = self._groups(owner)
        if not groups or not owner.service_password:
            return None
        fields = {"password": owner.service_password, "groups": ", ".join(groups)}
        for attribute, where in settings.reply_attributes:
            fields[attribute] = _told_of(owner.info, where) or NOTHING
        if settings.live_sessions != "leave":
            none_may = groups[0] == settings.barred_group and settings.when_barred == "reject"
            fields["sessions"] = NOTHING if none_may else "told"
        return fields

    def _groups(self, owner: Subscriber) -> list[str]:
        """The groups, the one that decides first; none: no access."""
        settings = self.settings
        given = mapped(owner.products, settings.groups)[::-1]
        groups = [one.strip() for value in given for one in value.split(",") if one.strip()]
        if not groups:
            return []
        if owner.barred_by(settings.barred_by):
            groups.insert(0, settings.barred_group)
        elif owner.exceeded & _DATA:
            groups.insert(0, settings.quota_group or settings.barred_group)
        return list(dict.fromkeys(groups))

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """What the tables have of a user, and its open sessions where there may be none."""
        held = await self._fetch(key, context)
        for row in held.passwords:
            context.hide(row.value)
            context.hide(row.plain or row.value)
        sessions = self._open(held, context)
        if not held.is_there and (wanted is not None or not sessions):
            return None
        fields = {
            "password": held.password,
            "groups": ", ".join(name for _, name in held.groups) or NOTHING,
        }
        for attribute, _ in self.settings.reply_attributes:
            fields[attribute] = held.reply(attribute)
        if wanted is None or wanted.get("sessions") == NOTHING:
            fields["sessions"] = f"{len(sessions)} open" if sessions else NOTHING
        else:
            fields["sessions"] = _SESSIONS.get(held.still_to_do, "not told")
        return fields

    async def apply(self, change: Change, context: Context) -> None:
        """Write the rows, if they differ; then see to the sessions."""
        key, wanted = change.key, change.wanted
        if wanted is None:
            await self._database.run(context, partial(self._tables.remove, key), writes=True)
        elif set(change.fields) - {"sessions"}:
            work = partial(self._write, change, wanted)
            await self._database.run(context, work, writes=True)
        if self.settings.live_sessions == "leave":
            return
        held = await self._fetch(key, context)
        if wanted is None or wanted["sessions"] == NOTHING:
            await self._tell(self._open(held, context), (), context)
        elif held.still_to_do:
            filters: tuple[str, ...] = ()
            if held.still_to_do == UNTOLD:
                group = held.groups[0][1]
                filters = await self._database.run(context, partial(self._tables.filters, group))
            await self._tell(self._open(held, context), filters, context)
            settle = partial(self._tables.settle, key, held.still_to_do)
            await self._database.run(context, settle, writes=True)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The names of users, also of those whom the billing does not know."""
        tables = self._tables
        start = after if after is None else tables.name_of(after)
        while page := await self._database.run(context, partial(tables.names, start)):
            # FreeRADIUS cannot find the others, so nobody has them.
            keys = [user for name in page if tables.name_of(user := user_of(name)) == name]
            if keys:
                return keys
            start = page[-1]
        return ()

    async def _fetch(self, key: str, context: Context) -> Held:
        return await self._database.run(context, partial(self._tables.fetch, key))

    # What runs in a thread

    def _look(self, connection: Connection) -> None:
        settings, tables = self.settings, self._tables
        tables.fetch("", connection)
        if settings.live_sessions != "leave" and not settings.nas_secret.get_secret_value():
            tables.secret("", connection)
        for group in {settings.barred_group, settings.quota_group} - {""}:
            tables.must_be_there(group, connection)

    def _write(self, change: Change, wanted: Fields, connection: Connection) -> None:
        settings, groups = self.settings, wanted["groups"].split(", ")
        is_special = groups[0] in {settings.barred_group, settings.quota_group}
        if is_special:
            self._tables.must_be_there(groups[0], connection)
        # 0 is theirs.
        first = self._to_do(change, wanted, connection) + (0 if is_special else 1)
        self._tables.write(
            change.key,
            Wanted(
                password=wanted["password"],
                groups=list(enumerate(groups, first)),
                replies={one: wanted[one] for one, _ in settings.reply_attributes},
            ),
            connection,
        )

    def _to_do(self, change: Change, wanted: Fields, connection: Connection) -> int:
        """What is to be done with sessions that were opened before a change, and may go on."""
        if change.held is None or wanted.get("sessions") != "told":
            return 0
        if not self._tables.open_sessions(change.key, connection):
            return 0
        is_another = "password" in change.fields or change.held.get("sessions") == "not ended"
        return UNENDED if is_another or self.settings.live_sessions == "disconnect" else UNTOLD

    # Sessions

    def _open(self, held: Held, context: Context) -> list[Session]:
        """The sessions that do not count as ended in this attempt."""
        now = time.monotonic()
        # They are in the order of time.
        while self._ended and next(iter(self._ended.values())) < now:
            del self._ended[next(iter(self._ended))]
        left = {one for one, attempt in self._given_up.items() if attempt() is context}
        return [
            one for one in held.sessions if one.unique not in left and one.unique not in self._ended
        ]

    async def _tell(
        self, sessions: Sequence[Session], filters: tuple[str, ...], context: Context
    ) -> None:
        """End sessions, or change them. Raises TryLater while a NAS may still come to do it."""
        answers = await asyncio.gather(*(self._ask(one, filters, context) for one in sessions))
        left = []
        for session, said in zip(sessions, answers, strict=True):
            told = f"session {session.id}: {said.reason}"
            if said.outcome == "not now" and context.attempt < self.settings.nas_attempts:
                left.append(told)
                continue
            if said.outcome != "done":
                context.note(f"WARNING: {told}; it may go on")
                self._give_up(session, context)
                continue
            context.note(told)
            if not filters:
                self._ended.pop(session.unique, None)
                self._ended[session.unique] = time.monotonic() + _ENDED_SECONDS
        if left:
            raise TryLater(f"the tables are as they should be, but not {'; '.join(left)}")

    def _give_up(self, session: Session, context: Context) -> None:
        running = {one: by for one, by in self._given_up.items() if by() is not None}
        self._given_up = {**running, session.unique: ref(context)}

    async def _ask(self, session: Session, filters: tuple[str, ...], context: Context) -> Said:
        settings = self.settings
        secret: str | None = settings.nas_secret.get_secret_value()
        if not secret:
            work = partial(self._tables.secret, session.nas)
            secret = await self._database.run(context, work)
        if not secret:
            return Said("refused", f"the table nas has no secret of {session.nas}")
        context.hide(secret)
        server = AccessServer(session.nas, settings.nas_port, secret.encode(), settings.nas_timeout)
        return await server.ask(session, filters, context)


def _told_of(info: pb_data.Info, where: str) -> str | None:
    """A field of an account, or the first value of an attribute of one of its features."""
    feature, dot, name = where.partition(".")
    if not dot:
        value = info.get(where)
        return None if value is None or isinstance(value, (dict, list)) else str(value)
    for one in pb_data.listed(info, "service_features"):
        if one.get("name") == feature and one.get("effective_flag_value") != "N":
            for attribute in pb_data.listed(one, "attributes"):
                if attribute.get("name") == name:
                    return next(iter(_values(attribute)), None)
    return None


def _values(attribute: Mapping[str, Any]) -> list[str]:
    found = attribute.get("effective_values") or attribute.get("values") or []
    return [str(value) for value in found if value is not None]
