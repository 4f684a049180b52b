"""FreeRADIUS: who may use the network, how fast, and whose session has to end.

An entry is a user by name, in the tables from which FreeRADIUS answers: its password in
``radcheck``, attributes of its own in ``radreply``, its groups in ``radusergroup``. What a group
gives is the network's business, and stands in tables that are not touched. The tables have no
unique keys, so the rows of a user are removed and made anew, in one transaction.

The tables decide about the next session, not about one that is under way: a NAS is told of that by
Disconnect or CoA. Whether that is still to do is part of the state, so that a retry finds it:

* Of whom no session may be left, ``radacct`` tells those that are open. One for which its NAS has
  answered counts as ended here, although its last accounting may come later.
* Of others, a session may well be open, and cannot be asked what it was told. So the groups are
  first written with priorities that are higher by ``_UNTOLD`` or ``_UNENDED``, which decide the
  same, and without that when the sessions have been told or ended. A new password ends sessions:
  the name may have gone to somebody else.

FreeRADIUS looks for a name with ``=`` and the hexadecimal code in place of each character that is
not among its ``safe_characters``, and writes it so in ``radacct``; so a name is written like that.

A NAS that is silent is asked again in later attempts. Then a warning stands in the journal and the
event counts as done, for the tables hold the truth already.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import sqlalchemy as sa
from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy import Connection

from espf.errors import Misconfigured, TryLater
from espf.handlers import pb_data
from espf.handlers.base import Context, HandlerSettings
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
    ProductMap,
    mapped,
)
from espf.handlers.subscriber import Subscriber
from espf.systems.dynamic_authorization import AccessServer, Said, Session
from espf.systems.sql import DatabaseUrl, SqlDatabase

_GROUP = "FreeRADIUS"

_PASSWORD = "Cleartext-Password"  # noqa: S105  (the name of an attribute)

#: Any other attribute that would let somebody in.
_ANY_PASSWORD = "-password"  # noqa: S105

#: By how much priorities are higher while sessions are to be told of other groups, or to be ended.
_UNTOLD, _UNENDED = 1000, 2000

#: By which services a quota that is used up takes access away.
_DATA = frozenset({"netaccess", "data"})

_NOTHING = "none"

#: How sessions that may go on stand, by what is still to do.
_SESSIONS = {0: "told", _UNTOLD: "not told", _UNENDED: "not ended"}

#: How long an answer about a session counts: its last accounting must have come by then.
_ANSWER_SECONDS = 600.0

#: How long a session counts as ended whose NAS is silent: until the attempt is over.
_GIVEN_UP_SECONDS = 30.0

#: How many keys a page has.
_PAGE = 1000

#: What FreeRADIUS's safe_characters are unless they are set.
_SAFE = "@abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_: /"

_PREFIX = re.compile(r"(?:[a-z_]\w*\.)?(?:[a-z_]\w*)?", re.ASCII | re.IGNORECASE)


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError(f"{value!r} is neither the beginning of a table's name nor SCHEMA.")
    return value


class FreeRADIUSSettings(DesiredStateSettings):
    """The options of a FreeRADIUS."""

    service_group: str = Field(
        default="Netaccess",
        alias="ServiceGroup",
        max_length=64,
        description="The service group under which the status of each account is reported, as the "
        "status API does. Empty: none is reported.",
        json_schema_extra={"group": "What is provisioned"},
    )
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
        default=_SAFE,
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


@dataclass(frozen=True)
class _Row:
    attribute: str
    op: str
    value: str


@dataclass(frozen=True)
class _Held:
    """What the tables have of a user."""

    checks: tuple[_Row, ...]
    replies: tuple[_Row, ...]
    groups: tuple[tuple[int, str], ...]
    sessions: tuple[Session, ...]

    @property
    def is_there(self) -> bool:
        return bool(self.checks or self.replies or self.groups)

    @property
    def still_to_do(self) -> int:
        """What there is to do with the sessions: _UNTOLD, _UNENDED, or 0."""
        highest = max((priority for priority, _ in self.groups), default=0)
        return highest - highest % _UNTOLD


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
        self._tables = _Tables(own.table_prefix)
        #: Sessions that count as ended, and until when.
        self._ended: dict[str, float] = {}

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
        groups = mapped(owner.products, settings.groups)[::-1]
        if not groups or not owner.service_password:
            return None
        is_barred = owner.barred_by(settings.barred_by)
        if owner.exceeded & _DATA and not is_barred:
            if settings.quota_group:
                groups = (settings.quota_group, *groups)
            else:
                is_barred = True
        if is_barred:
            groups = (settings.barred_group, *groups)
        fields = {"password": owner.service_password, "groups": ", ".join(groups)}
        for attribute, where in settings.reply_attributes:
            fields[attribute] = _told_of(owner.info, where) or _NOTHING
        if settings.live_sessions != "leave":
            may_stay = settings.when_barred == "walled garden" or not is_barred
            fields["sessions"] = "told" if may_stay else _NOTHING
        return fields

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """What the tables have of a user, and its open sessions where there may be none."""
        held = await self._database.run(context, partial(self._fetch, key))
        for row in held.checks:
            context.hide(row.value)
        sessions = self._open(held)
        if not held.is_there and (wanted is not None or not sessions):
            return None
        fields = {
            "password": _password_of(held),
            "groups": ", ".join(name for _, name in held.groups) or _NOTHING,
        }
        for attribute, _ in self.settings.reply_attributes:
            fields[attribute] = _reply_of(held, attribute)
        if wanted is None or wanted.get("sessions") == _NOTHING:
            fields["sessions"] = f"{len(sessions)} open" if sessions else _NOTHING
        else:
            fields["sessions"] = _SESSIONS.get(held.still_to_do, "not told")
        return fields

    async def apply(self, change: Change, context: Context) -> None:
        """Write the rows, if they differ; then see to the sessions."""
        key, wanted = change.key, change.wanted
        if wanted is None or set(change.fields) - {"sessions"}:
            await self._database.run(context, partial(self._write, change), writes=True)
        if self.settings.live_sessions == "leave":
            return
        held = await self._database.run(context, partial(self._fetch, key))
        if wanted is None or wanted["sessions"] == _NOTHING:
            await self._tell(self._open(held), (), context)
        elif held.still_to_do:
            filters: tuple[str, ...] = ()
            if held.still_to_do == _UNTOLD:
                group = held.groups[0][1]
                filters = await self._database.run(context, partial(self._filters, group))
            await self._tell(held.sessions, filters, context)
            work = partial(self._settle, key, held.still_to_do)
            await self._database.run(context, work, writes=True)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The names of users, also of those whom the billing does not know."""
        start = after if after is None else self._name(after)
        while page := await self._database.run(context, partial(self._names, start)):
            # FreeRADIUS cannot find the others, so nobody has them.
            keys = [key for name in page if self._name(key := _key(name)) == name]
            if keys:
                return keys
            start = page[-1]
        return ()

    # Sessions

    def _open(self, held: _Held) -> tuple[Session, ...]:
        """The sessions that nobody has answered for."""
        now = time.monotonic()
        return tuple(one for one in held.sessions if self._ended.get(one.unique, 0) < now)

    async def _tell(
        self, sessions: Sequence[Session], filters: tuple[str, ...], context: Context
    ) -> None:
        """End or change sessions. Raises TryLater while a NAS may still come to do it."""
        left = []
        for session in sessions:
            said = await self._ask(session, filters, context)
            context.note(f"session {session.id}: {said.reason}")
            if said.outcome == "not now" and context.attempt < self.settings.nas_attempts:
                left.append(f"{session.id}: {said.reason}")
                continue
            if said.outcome != "done":
                context.note(f"WARNING: session {session.id} may go on: {said.reason}")
            self._ends(session, said)
        if left:
            raise TryLater(f"the tables are as they should be, but not session {'; '.join(left)}")

    async def _ask(self, session: Session, filters: tuple[str, ...], context: Context) -> Said:
        settings = self.settings
        secret = settings.nas_secret.get_secret_value()
        if not secret:
            found = await self._database.run(context, partial(self._secret, session.nas))
            if found is None:
                return Said("refused", f"the table nas has no secret of {session.nas}")
            context.hide(found)
            secret = found
        server = AccessServer(
            session.nas, settings.nas_port, secret.encode(), settings.nas_timeout
        )
        return await server.ask(session, filters, context)

    def _ends(self, session: Session, said: Said) -> None:
        now = time.monotonic()
        for unique in [one for one, until in self._ended.items() if until < now]:
            del self._ended[unique]
        seconds = _ANSWER_SECONDS if said.outcome == "done" else _GIVEN_UP_SECONDS
        self._ended[session.unique] = now + seconds

    # What runs in a thread

    def _name(self, key: str) -> str:
        """A user's name as the tables have it."""
        safe = self.settings.safe_characters
        return "".join(
            one if one in safe or not one.isascii() else f"={ord(one):02X}" for one in key
        )

    def _fetch(self, key: str, connection: Connection) -> _Held:
        tables, name = self._tables, self._name(key)
        return _Held(
            checks=_rows(connection, tables.check, name),
            replies=_rows(connection, tables.reply, name),
            groups=tuple(
                (row.priority, row.groupname)
                for row in connection.execute(
                    sa.select(tables.usergroup.c.priority, tables.usergroup.c.groupname)
                    .where(tables.usergroup.c.username == name)
                    .order_by(tables.usergroup.c.priority, tables.usergroup.c.id)
                )
            ),
            sessions=self._sessions(key, connection),
        )

    def _sessions(self, key: str, connection: Connection) -> tuple[Session, ...]:
        if self.settings.live_sessions == "leave":
            return ()
        columns = self._tables.acct.c
        found = connection.execute(
            sa.select(columns.acctuniqueid, columns.acctsessionid, columns.nasipaddress)
            .where(columns.username == self._name(key), columns.acctstoptime.is_(None))
            .order_by(columns.radacctid)
        )
        return tuple(
            Session(str(row.acctuniqueid), _key(row.acctsessionid), key, str(row.nasipaddress))
            for row in found
        )

    def _write(self, change: Change, connection: Connection) -> None:
        """Make the rows of a user anew."""
        tables, name, wanted = self._tables, self._name(change.key), change.wanted
        if wanted is None:
            for table in (tables.check, tables.reply, tables.usergroup):
                connection.execute(sa.delete(table).where(table.c.username == name))
            return
        groups = wanted["groups"].split(", ")
        if groups[0] in {self.settings.barred_group, self.settings.quota_group}:
            self._must_be_there(groups[0], connection)
        attributes = [attribute for attribute, _ in self.settings.reply_attributes]
        of_check = sa.func.lower(tables.check.c.attribute).endswith(_ANY_PASSWORD)
        of_reply = tables.reply.c.attribute.in_(attributes)
        for table, ours in (
            (tables.check, of_check),
            (tables.reply, of_reply),
            (tables.usergroup, sa.true()),
        ):
            connection.execute(sa.delete(table).where(table.c.username == name, ours))
        _insert(connection, tables.check, name, {_PASSWORD: wanted["password"]})
        replies = {one: wanted[one] for one in attributes if wanted[one] != _NOTHING}
        _insert(connection, tables.reply, name, replies)
        # Of the barred, the first is at 0.
        first = int(groups[0] not in {self.settings.barred_group, self.settings.quota_group})
        first += self._to_do(change, connection)
        rows = [
            {"username": name, "groupname": group, "priority": priority}
            for priority, group in enumerate(groups, first)
        ]
        connection.execute(sa.insert(tables.usergroup), rows)

    def _to_do(self, change: Change, connection: Connection) -> int:
        """What is to be done with sessions that were opened before a change, and may go on."""
        if change.held is None or (change.wanted or {}).get("sessions") != "told":
            return 0
        if not self._sessions(change.key, connection):
            return 0
        is_another = "password" in change.fields or change.held.get("sessions") == "not ended"
        if is_another or self.settings.live_sessions == "disconnect":
            return _UNENDED
        return _UNTOLD

    def _settle(self, key: str, done: int, connection: Connection) -> None:
        columns = self._tables.usergroup.c
        connection.execute(
            sa.update(self._tables.usergroup)
            .where(columns.username == self._name(key), columns.priority >= done)
            .values(priority=columns.priority - done)
        )

    def _filters(self, group: str, connection: Connection) -> tuple[str, ...]:
        """The Filter-Id of a group."""
        columns = self._tables.groupreply.c
        found = connection.scalars(
            sa.select(columns.value)
            .where(columns.groupname == group, columns.attribute == "Filter-Id")
            .order_by(columns.id)
        )
        return tuple(map(str, found))

    def _secret(self, nas: str, connection: Connection) -> str | None:
        columns = self._tables.nas.c
        found = connection.scalars(sa.select(columns.secret).where(columns.nasname == nas))
        return found.first()

    def _must_be_there(self, group: str, connection: Connection) -> None:
        """A group without any rows would let everybody in, without a limit."""
        for table in (self._tables.groupcheck, self._tables.groupreply):
            asked = sa.select(table.c.id).where(table.c.groupname == group).limit(1)
            if connection.execute(asked).first() is not None:
                return
        raise Misconfigured(
            f"the group {group!r} is neither in {self._tables.groupcheck.name} nor in "
            f"{self._tables.groupreply.name}: it would keep nobody out"
        )

    def _look(self, connection: Connection) -> None:
        self._fetch("", connection)
        settings = self.settings
        if settings.live_sessions != "leave" and not settings.nas_secret.get_secret_value():
            self._secret("", connection)
        for group in {settings.barred_group, settings.quota_group} - {""}:
            self._must_be_there(group, connection)

    def _names(self, after: str | None, connection: Connection) -> list[str]:
        """The next names in the tables, in the order of the database."""
        tables = self._tables
        selects = []
        for table in (tables.check, tables.reply, tables.usergroup):
            select = sa.select(table.c.username.label("name")).distinct()
            if after is not None:
                select = select.where(table.c.username > after)
            selects.append(select)
        found = sa.union(*selects).order_by("name").limit(_PAGE)
        return [str(name) for name in connection.scalars(found)]


class _Tables:
    """The tables of FreeRADIUS, as far as they are used."""

    def __init__(self, prefix: str) -> None:
        schema, dot, start = prefix.rpartition(".")

        def table(name: str, *columns: str) -> sa.TableClause:
            named = map(sa.column, ("id", *columns))
            return sa.table(start + name, *named, schema=schema if dot else None)

        self.check = table("radcheck", "username", "attribute", "op", "value")
        self.reply = table("radreply", "username", "attribute", "op", "value")
        self.usergroup = table("radusergroup", "username", "groupname", "priority")
        self.groupcheck = table("radgroupcheck", "groupname")
        self.groupreply = table("radgroupreply", "groupname", "attribute", "value")
        self.nas = table("nas", "nasname", "secret")
        names = ("username", "acctsessionid", "acctuniqueid", "nasipaddress", "acctstoptime")
        self.acct = table("radacct", "radacctid", *names)


def _rows(connection: Connection, table: sa.TableClause, name: str) -> tuple[_Row, ...]:
    asked = sa.select(table.c.attribute, table.c.op, table.c.value)
    found = connection.execute(asked.where(table.c.username == name).order_by(table.c.id))
    return tuple(_Row(str(row.attribute), str(row.op), str(row.value)) for row in found)


def _insert(
    connection: Connection, table: sa.TableClause, name: str, values: Mapping[str, str]
) -> None:
    rows = [
        {"username": name, "attribute": attribute, "op": ":=", "value": _written(value)}
        for attribute, value in values.items()
    ]
    if rows:
        connection.execute(sa.insert(table), rows)


def _key(name: str) -> str:
    """What a name stands for in the tables, or another text that FreeRADIUS has written."""
    return re.sub("=([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), name)


def _written(value: str) -> str:
    """A value as FreeRADIUS takes it literally: between quotes of its own it would be evaluated."""
    if "\\" not in value and (value[:1] not in {'"', "'", "`"} or value[0] != value[-1]):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(written: str) -> str:
    """What ``_written`` has made of a value."""
    if len(written) < 2 or written[0] != "'" or written[-1] != "'":
        return written
    return re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)


def _password_of(held: _Held) -> str:
    """The password; with anything beside it that would let somebody in, what is no password."""
    found = [row for row in held.checks if row.attribute.lower().endswith(_ANY_PASSWORD)]
    match found:
        case []:
            return _NOTHING
        case [_Row(attribute, ":=", value)] if attribute == _PASSWORD:
            return _plain(value)
        case _:
            return "\n".join(f"{row.attribute} {row.op} {row.value}" for row in found)


def _reply_of(held: _Held, attribute: str) -> str:
    found = [row for row in held.replies if row.attribute == attribute]
    if len(found) == 1 and found[0].op == ":=":
        return _plain(found[0].value)
    return ", ".join(f"{row.op} {row.value}" for row in found) or _NOTHING


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
