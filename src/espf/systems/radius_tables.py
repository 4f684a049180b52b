"""The tables of FreeRADIUS: ``radcheck``, ``radreply`` and ``radusergroup`` of each user.

They have no unique keys, so the rows of a user are removed and made anew. Nothing here waits for
anything but the database: each function is, or is part of, one transaction.

FreeRADIUS looks for a name with ``=`` and the hexadecimal code in place of each character that is
not among its ``safe_characters``, and writes what it is told so, too. A value it reads as a program
would: what stands between quotes or has a backslash is evaluated.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from espf.errors import Misconfigured
from espf.systems.dynamic_authorization import Session
from espf.systems.sql import next_of

#: What FreeRADIUS's safe_characters are unless they are set.
SAFE_CHARACTERS = "@abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_: /"

#: What is not there.
NOTHING = "none"

#: By how much priorities are higher while sessions are to be told of other groups, or to be ended.
UNTOLD, UNENDED = 1000, 2000

#: How many names a page has.
PAGE = 1000

_PASSWORD = "Cleartext-Password"  # noqa: S105  (the name of an attribute)

#: Any other attribute that would let somebody in.
_ANY_PASSWORD = "-password"  # noqa: S105


@dataclass(frozen=True)
class Row:
    """A row of ``radcheck`` or ``radreply``."""

    attribute: str
    op: str
    value: str

    @property
    def plain(self) -> str | None:
        """What FreeRADIUS takes the value for; None where it is not one that we would write."""
        plain = _plain(self.value)
        return plain if self.op == ":=" and _written(plain) == self.value else None

    def __str__(self) -> str:
        return f"{self.attribute} {self.op} {self.value}"


@dataclass(frozen=True)
class Held:
    """What the tables have of a user. ``groups`` come with their priorities."""

    checks: tuple[Row, ...]
    replies: tuple[Row, ...]
    groups: tuple[tuple[int, str], ...]
    sessions: tuple[Session, ...]

    @property
    def is_there(self) -> bool:
        """Whether any row is."""
        return bool(self.checks or self.replies or self.groups)

    @property
    def still_to_do(self) -> int:
        """What there is to do with the sessions: UNTOLD, UNENDED, or 0."""
        highest = max((priority for priority, _ in self.groups), default=0)
        return highest - highest % UNTOLD

    @property
    def passwords(self) -> list[Row]:
        """Whatever would let somebody in."""
        return [row for row in self.checks if row.attribute.lower().endswith(_ANY_PASSWORD)]

    @property
    def password(self) -> str:
        """The password; where there is anything beside it, what is none."""
        found = self.passwords
        return _only(found, _PASSWORD) or "\n".join(map(str, found)) or NOTHING

    def reply(self, attribute: str) -> str:
        """An attribute of the user's own."""
        found = [row for row in self.replies if row.attribute == attribute]
        return _only(found, attribute) or ", ".join(map(str, found)) or NOTHING


@dataclass(frozen=True)
class Wanted:
    """What the tables should have of a user.

    ``replies`` are the attributes that are ours, NOTHING where there is no value.
    """

    password: str
    groups: Sequence[tuple[int, str]]
    replies: Mapping[str, str]


class RadiusTables:
    """The tables, whose names begin with a prefix; it may end with the schema's point."""

    def __init__(self, prefix: str, safe_characters: str, *, sessions: bool) -> None:
        self._safe = safe_characters
        self._with_sessions = sessions
        schema, dot, start = prefix.rpartition(".")

        def table(name: str, *columns: str) -> sa.TableClause:
            named: list[sa.ColumnClause[object]] = [sa.column(one) for one in columns]
            return sa.table(start + name, *named, schema=schema if dot else None)

        self._check = table("radcheck", "id", "username", "attribute", "op", "value")
        self._reply = table("radreply", "id", "username", "attribute", "op", "value")
        self._usergroup = table("radusergroup", "id", "username", "groupname", "priority")
        self._groupcheck = table("radgroupcheck", "id", "groupname")
        self._groupreply = table("radgroupreply", "id", "groupname", "attribute", "value")
        self._nas = table("nas", "nasname", "secret")
        names = ("radacctid", "username", "acctsessionid", "acctuniqueid", "nasipaddress")
        self._acct = table("radacct", *names, "acctstoptime")

    def fetch(self, user: str, connection: Connection) -> Held:
        """All that there is of a user."""
        columns = self._usergroup.c
        groups = connection.execute(
            sa.select(columns.priority, columns.groupname)
            .where(columns.username == self.name_of(user))
            .order_by(columns.priority, columns.id)
        )
        return Held(
            checks=self._rows(self._check, user, connection),
            replies=self._rows(self._reply, user, connection),
            groups=tuple((row.priority, row.groupname) for row in groups),
            sessions=self.open_sessions(user, connection),
        )

    def open_sessions(self, user: str, connection: Connection) -> tuple[Session, ...]:
        """The sessions that have no end by the accounting; none where nobody asks for them."""
        if not self._with_sessions:
            return ()
        columns = self._acct.c
        found = connection.execute(
            sa.select(columns.acctuniqueid, columns.acctsessionid, columns.nasipaddress)
            .where(columns.username == self.name_of(user), columns.acctstoptime.is_(None))
            .order_by(columns.radacctid)
        )
        return tuple(
            Session(str(row.acctuniqueid), user_of(row.acctsessionid), user, str(row.nasipaddress))
            for row in found
        )

    def remove(self, user: str, connection: Connection) -> None:
        """Remove a user."""
        for table in (self._check, self._reply, self._usergroup):
            connection.execute(sa.delete(table).where(table.c.username == self.name_of(user)))

    def write(self, user: str, wanted: Wanted, connection: Connection) -> None:
        """Make the rows of a user anew. Those of attributes that are not ours stay."""
        name = self.name_of(user)
        for table, ours in (
            (self._check, sa.func.lower(self._check.c.attribute).endswith(_ANY_PASSWORD)),
            (self._reply, self._reply.c.attribute.in_(list(wanted.replies))),
            (self._usergroup, sa.true()),
        ):
            connection.execute(sa.delete(table).where(table.c.username == name, ours))
        replies = {one: value for one, value in wanted.replies.items() if value != NOTHING}
        for table, values in (
            (self._check, {_PASSWORD: wanted.password}),
            (self._reply, replies),
        ):
            rows = [
                {"username": name, "attribute": one, "op": ":=", "value": _written(value)}
                for one, value in values.items()
            ]
            if rows:
                connection.execute(sa.insert(table), rows)
        groups = [
            {"username": name, "groupname": group, "priority": priority}
            for priority, group in wanted.groups
        ]
        connection.execute(sa.insert(self._usergroup), groups)

    def settle(self, user: str, done: int, connection: Connection) -> None:
        """Note that the sessions have been told (UNTOLD) or ended (UNENDED)."""
        columns = self._usergroup.c
        connection.execute(
            sa.update(self._usergroup)
            .where(columns.username == self.name_of(user), columns.priority >= done)
            .values(priority=columns.priority - done)
        )

    def filters(self, group: str, connection: Connection) -> tuple[str, ...]:
        """The Filter-Ids of a group."""
        columns = self._groupreply.c
        found = connection.scalars(
            sa.select(columns.value)
            .where(columns.groupname == group, columns.attribute == "Filter-Id")
            .order_by(columns.id)
        )
        return tuple(map(str, found))

    def secret(self, nas: str, connection: Connection) -> str | None:
        """The secret that is shared with an access server."""
        columns = self._nas.c
        found = connection.scalars(sa.select(columns.secret).where(columns.nasname == nas))
        return found.first()

    def must_be_there(self, group: str, connection: Connection) -> None:
        """Raise Misconfigured where a group has no rows: it would let everybody in."""
        for table in (self._groupcheck, self._groupreply):
            asked = sa.select(table.c.id).where(table.c.groupname == group).limit(1)
            if connection.execute(asked).first() is not None:
                return
        raise Misconfigured(
            f"the group {group!r} is neither in {self._groupcheck.name} nor in "
            f"{self._groupreply.name}: it would keep nobody out"
        )

    def names(self, after: str | None, connection: Connection) -> list[str]:
        """The next names, as they stand there, in the order of the database."""
        tables = (self._check, self._reply, self._usergroup)
        selects = [sa.select(table.c.username) for table in tables]
        return next_of(selects, after, PAGE, connection)

    def name_of(self, user: str) -> str:
        """A user's name as the tables have it."""
        return "".join(
            one if one in self._safe or not one.isascii() else f"={ord(one):02X}" for one in user
        )

    def _rows(self, table: sa.TableClause, user: str, connection: Connection) -> tuple[Row, ...]:
        columns = table.c
        found = connection.execute(
            sa.select(columns.attribute, columns.op, columns.value)
            .where(columns.username == self.name_of(user))
            .order_by(columns.id)
        )
        return tuple(Row(str(row.attribute), str(row.op), str(row.value)) for row in found)


def _only(found: Sequence[Row], attribute: str) -> str | None:
    """The value of the one row that is there; None where there are others."""
    return found[0].plain if len(found) == 1 and found[0].attribute == attribute else None


def user_of(name: str) -> str:
    """Whom a name stands for in the tables; so for any other text that FreeRADIUS has written."""
    return re.sub("=([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), name)


def _written(value: str) -> str:
    """A value so that FreeRADIUS takes it as it is."""
    if "\\" not in value and (value[:1] not in {'"', "'", "`"} or value[0] != value[-1]):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(written: str) -> str:
    """What ``_written`` has made of a value."""
    if len(written) < 2 or written[0] != "'" or written[-1] != "'":
        return written
    return re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)
