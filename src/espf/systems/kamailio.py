"""Kamailio: who may register a SIP phone, and whose phone is cut off.

An entry is a user of one SIP domain: its digest in the table ``subscriber`` (never the password),
and whether it is barred. Kamailio asks the table of users anew each time, but looks for the barred
in its memory (an htable), which a restart empties. So a bar is written twice: into the table from
which Kamailio loads that memory when it starts, and by JSON-RPC into the memory of now.

A phone that is registered stays so until its time is over, whatever the tables say. The
registration of somebody who may have none is part of the state: it is asked for and removed. A
digest that changes ends it as well: the name may have gone to somebody else.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import sqlalchemy as sa
from pydantic import AfterValidator, Field
from sqlalchemy import Connection

from espf.errors import Misconfigured, TryLater
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
from espf.handlers.event_sender import Url
from espf.handlers.subscriber import Subscriber
from espf.systems.http_api import HttpApi
from espf.systems.sql import DatabaseUrl, SqlDatabase, next_of

_GROUP = "Kamailio"

#: What Kamailio says of what is not there, whichever number comes with it.
_ABSENT = (
    "AOR not found in location table",
    "Key name doesn't exist in htable.",
    "Key not found in htable.",
)

#: And of what should be there by its configuration.
_MISSING = ("No such htable", "Domain table not found", "Method Not Found")

_YES, _NO, _NOTHING = "yes", "no", "none"

_PAGE = 1000


def _all_known(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for _, service in pairs:
        if service not in {"sip", _NOTHING}:
            raise ValueError(f"{service!r} is neither sip nor {_NOTHING}")
    return pairs


class KamailioSettings(DesiredStateSettings):
    """The options of a Kamailio."""

    service_group: str = reported_under("VoIP")
    database_url: DatabaseUrl = Field(
        alias="Kamailio.DatabaseURL",
        description="The database of Kamailio, such as "
        "postgresql://espf:PASSWORD@sip.example.net/kamailio, mariadb://… or sqlite:///FILE.",
        json_schema_extra={"group": _GROUP},
    )
    rpc: Url = Field(
        alias="Kamailio.RPC",
        description="Where Kamailio takes JSON-RPC by HTTP, such as http://127.0.0.1:5060/RPC.",
        json_schema_extra={"group": _GROUP},
    )
    domain: str = Field(
        alias="Kamailio.Domain",
        min_length=1,
        max_length=64,
        description="The SIP domain, which is also the realm of the digest.",
        json_schema_extra={"group": _GROUP},
    )
    services: Annotated[ProductMap, AfterValidator(_all_known)] = Field(
        default=(("*", "sip"),),
        alias="Kamailio.Services",
        description="Which products let a phone register: sip or none, such as "
        "'Internet only=none; *=sip'. One that does is enough.",
        json_schema_extra={"group": _GROUP},
    )
    htable: str = Field(
        default="blocked",
        alias="Kamailio.HTable",
        min_length=1,
        max_length=64,
        description="The htable in which Kamailio's configuration looks for the barred.",
        json_schema_extra={"group": _GROUP},
    )
    bar_table: str = Field(
        default="htable",
        alias="Kamailio.BarTable",
        pattern=r"^[A-Za-z_]\w{0,63}$",
        description="The table of the database from which that htable is loaded when Kamailio "
        "starts (its dbtable). It must be loaded into no other htable.",
        json_schema_extra={"group": _GROUP},
    )
    location: str = Field(
        default="location",
        alias="Kamailio.Location",
        min_length=1,
        max_length=64,
        description='What registrations are saved under, as in save("location").',
        json_schema_extra={"group": _GROUP},
    )
    timeout: int = Field(
        default=10,
        alias="Kamailio.Timeout",
        ge=1,
        le=300,
        description="How long to wait for an answer, of the database as of Kamailio.",
        json_schema_extra={"group": _GROUP, "unit": "seconds"},
    )


class Kamailio(DesiredStateHandler):
    """Make Kamailio know the users of its domain, and refuse the barred."""

    Settings: ClassVar[type[HandlerSettings]] = KamailioSettings
    settings: KamailioSettings
    keyed_by = "id"
    secret_fields = frozenset({"ha1", "ha1b"})

    def __init__(self, settings: HandlerSettings) -> None:
        super().__init__(settings)
        own = self.settings
        self._database = SqlDatabase(own.database_url, own.timeout, own.concurrency)
        self._api = HttpApi(own.rpc, own.timeout)
        self._users = sa.table(
            "subscriber", *map(sa.column, ("username", "domain", "password", "ha1", "ha1b"))
        )
        columns = ("key_name", "key_type", "value_type", "key_value", "expires")
        self._bars = sa.table(own.bar_table, *map(sa.column, columns))

    def secrets(self) -> tuple[str, ...]:
        """See Handler; and the password in the URL."""
        return (*super().secrets(), *self._database.secrets)

    async def close(self) -> None:
        """Hang up."""
        await self._database.close()

    async def check(self, context: Context) -> str:
        """Look into both tables, and ask Kamailio for somebody who cannot be."""
        await self._database.run(context, partial(self._fetch, ""))
        version = await self._ask(context, "core.version")
        await self._ask(context, "htable.get", self.settings.htable, "?")
        await self._ask(context, "ul.lookup", self.settings.location, "?")
        return f"{self._database.place} has the tables; {str(version).strip()} answers"

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        """The digest, the bar in the table and in memory, and no registration of the barred."""
        if "sip" not in mapped(owner.products, self.settings.services):
            return None
        if not owner.service_password:
            return None
        domain, password = self.settings.domain, owner.service_password
        fields = {
            "ha1": _md5(f"{key}:{domain}:{password}"),
            "ha1b": _md5(f"{key}@{domain}:{domain}:{password}"),
        }
        if owner.barred_by(self.settings.barred_by):
            return {**fields, "barred": _YES, "barred_now": _YES, "registrations": _NOTHING}
        return {**fields, "barred": _NO, "barred_now": _NO}

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        """What the tables and Kamailio's memory have of a user."""
        held = await self._database.run(context, partial(self._fetch, key))
        for digests in (held, wanted or {}):
            for name in self.secret_fields & digests.keys():
                context.hide(digests[name])
        bar = await self._ask(context, "htable.get", self.settings.htable, key)
        found = await self._ask(context, "ul.lookup", self.settings.location, key)
        contacts = found.get("Contacts", []) if isinstance(found, dict) else []
        is_there = "ha1" in held or held["barred"] == _YES
        if not is_there and (wanted is not None or not (contacts or bar is not None)):
            return None
        return {
            **held,
            "barred_now": _NO if bar is None else _YES,
            "registrations": str(len(contacts) or _NOTHING),
        }

    async def apply(self, change: Change, context: Context) -> None:
        """Write the tables, then what Kamailio has in memory."""
        key, wanted, held = change.key, change.wanted, change.held or {}
        fields = {"ha1", "ha1b", "barred"} if wanted is None else set(change.fields)
        # Before the digest as well: if this ends in between, nothing would tell of it later.
        is_another = wanted is not None and bool(fields & {"ha1", "ha1b"})
        if is_another:
            await self._drop(key, context)
        if fields & {"ha1", "ha1b", "barred"}:
            await self._database.run(context, partial(self._write, key, wanted), writes=True)
        if wanted is not None and wanted["barred"] == _YES:
            if "barred_now" in fields:
                await self._ask(context, "htable.sets", self.settings.htable, key, "1")
        elif wanted is None or held.get("barred_now") != _NO:
            await self._ask(context, "htable.delete", self.settings.htable, key)
        if is_another or wanted is None or wanted["barred"] == _YES:
            await self._drop(key, context)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        """The users of the domain, and the barred."""
        return await self._database.run(context, partial(self._names, after))

    async def _drop(self, key: str, context: Context) -> None:
        await self._ask(context, "ul.rm", self.settings.location, key)

    async def _ask(self, context: Context, method: str, *params: str) -> Any:
        """What Kamailio answers; None when there is no such thing. Raises the verdict."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        told = await self._api.ask(context, "POST", "", body)
        if not isinstance(told.value, dict) or "jsonrpc" not in told.value:
            # Errors have a status of their own, too, so this comes first.
            if told.ok or told.status < 500:
                raise Misconfigured(f"{told.status}: what answers at Kamailio.RPC is no JSON-RPC")
            raise told.verdict()
        if "error" not in told.value:
            return told.value.get("result")
        said = str((told.value["error"] or {}).get("message"))
        if said in _ABSENT:
            return None
        kind = Misconfigured if said in _MISSING else TryLater
        raise kind(f"Kamailio, {method}: {said}")

    # What runs in a thread

    def _fetch(self, key: str, connection: Connection) -> dict[str, str]:
        users, bars = self._users.c, self._bars.c
        asked = sa.select(users.ha1, users.ha1b).where(
            users.username == key, users.domain == self.settings.domain
        )
        row = connection.execute(asked).first()
        bar = connection.execute(
            sa.select(bars.key_value).where(bars.key_name == key).limit(1)
        ).first()
        digests = {} if row is None else {"ha1": str(row.ha1), "ha1b": str(row.ha1b)}
        return {**digests, "barred": _NO if bar is None else _YES}

    def _write(self, key: str, wanted: Fields | None, connection: Connection) -> None:
        """Make the rows of a user as they should be; they have no key that all databases know."""
        users, bars, domain = self._users, self._bars, self.settings.domain
        connection.execute(sa.delete(bars).where(bars.c.key_name == key))
        is_it = sa.and_(users.c.username == key, users.c.domain == domain)
        if wanted is None:
            connection.execute(sa.delete(users).where(is_it))
            return
        digests = {"ha1": wanted["ha1"], "ha1b": wanted["ha1b"], "password": ""}
        if not connection.execute(sa.update(users).where(is_it).values(digests)).rowcount:
            user = sa.insert(users).values(username=key, domain=domain, **digests)
            connection.execute(user)
        if wanted["barred"] == _YES:
            # A text by a text, for ever.
            for_ever = {"key_type": 0, "value_type": 0, "expires": 0}
            bar = sa.insert(bars).values(key_name=key, key_value="1", **for_ever)
            connection.execute(bar)

    def _names(self, after: str | None, connection: Connection) -> list[str]:
        users, bars = self._users.c, self._bars.c
        ours = sa.select(users.username).where(users.domain == self.settings.domain)
        return next_of([ours, sa.select(bars.key_name)], after, _PAGE, connection)


def _md5(text: str) -> str:
    """RFC 2617 knows no other digest, and phones know no other RFC."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
