"""An LDAP directory, as its handler asks it: pooled connections, in threads, and verdicts.

The client library waits in the thread that calls it. So each directory has a few threads of its
own: one that does not answer holds up nobody else's work. A connection serves one request at a
time, and is kept for the next one.
"""

import asyncio
import re
import select
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

# It comes without types; what it gives is given a type where it is taken.
import ldap3  # type: ignore[import-untyped]
from ldap3.core.exceptions import (  # type: ignore[import-untyped]
    LDAPException,
    LDAPSocketOpenError,
    LDAPStartTLSError,
)
from ldap3.utils.conv import escape_filter_chars  # type: ignore[import-untyped]

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.base import Context

T = TypeVar("T")

Security = Literal["starttls", "ldaps", "none"]
PORTS: Mapping[Security, int] = {"starttls": 389, "ldaps": 636, "none": 389}

#: Result codes (RFC 4511) of what may be over soon: operationsError, timeLimitExceeded,
#: adminLimitExceeded, busy, unavailable, other.
_FOR_NOW = frozenset({1, 3, 11, 51, 52, 80})

#: Of what the settings, or the rights of the bind DN, are to blame for: authMethodNotSupported,
#: strongerAuthRequired, referral, confidentialityRequired, undefinedAttributeType,
#: inappropriateAuthentication, invalidCredentials, insufficientAccessRights.
_SETTINGS = frozenset({7, 8, 10, 13, 17, 48, 49, 50})

#: Of what is not there, or is there already: what is compared again will show it.
#: noSuchAttribute, attributeOrValueExists, noSuchObject, entryAlreadyExists.
STATE = frozenset({16, 20, 32, 68})

NO_SUCH_OBJECT = 32
OBJECT_CLASS_VIOLATION = 65
_UNWILLING = 53
_COMPARE_FALSE, _COMPARE_TRUE = 5, 6

#: What slapd says, as "unwilling", of a database that may only be read for now.
_READ_ONLY = re.compile(r"restricted|read.?only|shadow context", re.IGNORECASE)

#: How OpenSSL calls a certificate of somebody who is not trusted, or of another host.
_NOT_TRUSTED = "CERTIFICATE_VERIFY_FAILED"

_PAGED = "1.2.840.113556.1.4.319"

_PLAIN = re.compile(r"[A-Za-z0-9._-]")
_RDN = re.compile(r"[^=]*=\s*((?:\\.|[^,+\\])*)", re.DOTALL)
_FIRST = re.compile(r"(?:\\.|[^,\\])*,", re.DOTALL)
_ESCAPED = re.compile(rb"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)


class Refused(Exception):
    """The directory has refused a request: its result code, and its words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code

    def verdict(self) -> HandlerError:
        """What it means for an event."""
        reason = f"the directory: {self} ({self.code})"
        if self.code in _FOR_NOW | STATE or (
            self.code == _UNWILLING and _READ_ONLY.search(str(self))
        ):
            return TryLater(reason)
        return (Misconfigured if self.code in _SETTINGS else Rejected)(reason)


@contextmanager
def judged() -> Iterator[None]:
    """Within it, a refusal is raised as the verdict that it means."""
    try:
        yield
    except Refused as refusal:
        raise refusal.verdict() from None


@dataclass(frozen=True)
class Entry:
    """An entry: its name and the attributes that were asked for, by name in small letters."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]] = field(repr=False)

    def values(self, name: str) -> tuple[str, ...]:
        """The values of an attribute; none where it is not there, or may not be seen."""
        raw = self.attributes.get(name.lower(), ())
        return tuple(value.decode("utf-8", "replace") for value in raw)

    @property
    def parent(self) -> str:
        """The name of the entry that it lies below."""
        found = _FIRST.match(self.dn)
        return self.dn[found.end() :] if found else ""

    @property
    def rdn_value(self) -> str:
        """What it is named by: the value in the first part of its name."""
        found = _RDN.match(self.dn)
        raw = (found.group(1) if found else "").strip().encode()
        return _ESCAPED.sub(_unescaped, raw).decode("utf-8", "replace")


@dataclass(frozen=True)
class Place:
    """Where a directory is, and as whom it is asked."""

    host: str
    port: int
    security: Security
    ca_file: str | None
    bind_dn: str
    password: str = field(repr=False)
    timeout_seconds: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class _Tls(ldap3.Tls):  # type: ignore[misc]  # it has no types
    """TLS as Python does it by itself: its name is what the directory must prove.

    We connect to the address that was checked, which the library would expect to be proven.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._host = place.host
        try:
            self._trusted = ssl.create_default_context(cafile=place.ca_file)
        except ssl.SSLError:
            raise Misconfigured(f"{place.ca_file} is not a file of PEM certificates") from None
        except OSError as error:
            raise Misconfigured(f"cannot read {place.ca_file}: {error.strerror}") from None

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: ARG002
        """See the library: called when the connection is open, or StartTLS was granted."""
        connection.socket = self._trusted.wrap_socket(connection.socket, server_hostname=self._host)


class Pages:
    """A search whose answer comes in pages, on a connection of its own."""

    def __init__(self, connection: Any, search: Callable[[Any, bytes | None], Any]) -> None:
        self.connection = connection
        self.search = search
        self.cookie: bytes | None = None
        self.is_over = False


class Directory:
    """The connections to one directory.

    Every method raises Refused, or the verdict when the directory does not answer at all.
    """

    def __init__(self, place: Place, connections: int) -> None:
        self._place = place
        self._idle: list[Any] = []
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="ldap")

    async def close(self) -> None:
        """Hang up."""
        while self._idle:
            _drop(self._idle.pop())
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def entry(self, dn: str, attributes: Sequence[str], context: Context) -> Entry | None:
        """The entry of this name; None: there is none."""
        try:
            found = await self._search(dn, "(objectClass=*)", ldap3.BASE, attributes, context)
        except Refused as refusal:
            if refusal.code == NO_SUCH_OBJECT:
                return None
            raise
        return found[0] if found else None

    async def find(
        self, base: str, attribute: str, value: str, attributes: Sequence[str], context: Context
    ) -> list[Entry]:
        """The entries below ``base`` whose attribute has this value."""
        wanted = f"({attribute}={escape_filter_chars(value)})"
        return await self._search(base, wanted, ldap3.SUBTREE, attributes, context)

    async def compare(self, dn: str, attribute: str, value: str, context: Context) -> bool:
        """Whether an attribute of an entry has a value. Raises Refused where there is no entry."""

        def work(connection: Any) -> bool:
            connection.compare(dn, attribute, value)
            code = connection.result["result"]
            if code in {_COMPARE_TRUE, _COMPARE_FALSE}:
                return bool(code == _COMPARE_TRUE)
            raise _refused(connection)

        return await self._do(work, context)

    async def add(
        self, dn: str, classes: Sequence[str], attributes: Mapping[str, Any], context: Context
    ) -> None:
        """Add an entry."""
        await self._asked(lambda one: one.add(dn, list(classes), dict(attributes)), context)

    async def replace(
        self, dn: str, attributes: Mapping[str, Sequence[str]], context: Context
    ) -> None:
        """Give attributes these values, in one step; without any, remove them."""
        changes = {
            name: [(ldap3.MODIFY_REPLACE, list(values))] for name, values in attributes.items()
        }
        await self._asked(lambda one: one.modify(dn, changes), context)

    async def join(self, dn: str, attribute: str, value: str, context: Context) -> None:
        """Add a value to an attribute that may have many; one that is there already is fine."""
        await self._value(ldap3.MODIFY_ADD, dn, attribute, value, context)

    async def leave(self, dn: str, attribute: str, value: str, context: Context) -> None:
        """Remove a value from an attribute; one that is not there is fine."""
        await self._value(ldap3.MODIFY_DELETE, dn, attribute, value, context)

    async def _value(self, how: str, dn: str, attribute: str, value: str, context: Context) -> None:
        changes = {attribute: [(how, [value])]}
        try:
            await self._asked(lambda one: one.modify(dn, changes), context)
        except Refused as refusal:
            if refusal.code not in STATE:
                raise

    async def rename(self, dn: str, rdn: str, context: Context) -> None:
        """Give an entry another first part of its name; it stays where it is."""
        await self._asked(lambda one: one.modify_dn(dn, rdn, delete_old_dn=True), context)

    async def delete(self, dn: str, context: Context) -> None:
        """Delete an entry; one that is not there is fine."""
        try:
            await self._asked(lambda one: one.delete(dn), context)
        except Refused as refusal:
            if refusal.code != NO_SUCH_OBJECT:
                raise

    async def set_password(self, dn: str, password: str, context: Context) -> None:
        """Set a password by the extended operation (RFC 3062): the directory hashes it."""
        await self._asked(
            lambda one: one.extend.standard.modify_password(dn, new_password=password), context
        )

    async def pages(self, base: str, attribute: str, size: int, context: Context) -> Pages:
        """Begin to read the entries below ``base`` that have an attribute, a page at a time."""
        connection = await self._connected(context)

        def search(one: Any, cookie: bytes | None) -> None:
            one.search(
                base,
                f"({attribute}=*)",
                ldap3.SUBTREE,
                attributes=[attribute],
                paged_size=size,
                paged_cookie=cookie,
            )

        return Pages(connection, search)

    async def next_page(self, pages: Pages) -> list[Entry]:
        """The next entries; none: that was all."""

        def work(connection: Any) -> list[Entry]:
            pages.search(connection, pages.cookie)
            if connection.result["result"] != 0:
                raise _refused(connection)
            controls = connection.result.get("controls") or {}
            pages.cookie = controls.get(_PAGED, {}).get("value", {}).get("cookie") or None
            return _entries(connection)

        found: list[Entry] = []
        while not found and not pages.is_over:
            found = await self._on(pages.connection, work)
            if pages.cookie is None:
                self.end(pages)
        return found

    def end(self, pages: Pages) -> None:
        """Read no further."""
        if not pages.is_over:
            pages.is_over = True
            # Its connection has a search under way, which nobody would end.
            _drop(pages.connection)

    async def _search(
        self, base: str, wanted: str, scope: str, attributes: Sequence[str], context: Context
    ) -> list[Entry]:
        def work(connection: Any) -> list[Entry]:
            connection.search(base, wanted, scope, attributes=list(attributes))
            if connection.result["result"] != 0:
                raise _refused(connection)
            return _entries(connection)

        return await self._do(work, context)

    async def _asked(self, ask: Callable[[Any], object], context: Context) -> None:
        def work(connection: Any) -> None:
            ask(connection)
            if connection.result["result"] != 0:
                raise _refused(connection)

        await self._do(work, context)

    async def _do(self, work: Callable[[Any], T], context: Context) -> T:
        connection = await self._connected(context)
        try:
            return await self._on(connection, work)
        finally:
            if not connection.closed:
                self._idle.append(connection)

    async def _connected(self, context: Context) -> Any:
        """A connection that stands, as far as one can tell."""
        while self._idle:
            connection = self._idle.pop()
            if not _has_ended(connection):
                return connection
            _drop(connection)
        address = await context.http.resolve(self._place.host, self._place.port)
        connection = self._made(address)
        await self._on(connection, self._open)
        return connection

    def _made(self, address: str) -> Any:
        place = self._place
        server = ldap3.Server(
            address,
            place.port,
            use_ssl=place.security == "ldaps",
            get_info=ldap3.NONE,
            tls=None if place.security == "none" else _Tls(place),
            connect_timeout=place.timeout_seconds,
        )
        return ldap3.Connection(
            server,
            place.bind_dn,
            place.password,
            receive_timeout=place.timeout_seconds,
            auto_referrals=False,
            check_names=False,
        )

    def _open(self, connection: Any) -> None:
        if self._place.security == "starttls":
            connection.open(read_server_info=False)
            connection.start_tls(read_server_info=False)
        if not connection.bind(read_server_info=False):
            refusal = _refused(connection).verdict()
            if isinstance(refusal, Rejected):  # that it does not know us is no fault of an event
                refusal = Misconfigured(str(refusal))
            raise refusal

    async def _on(self, connection: Any, work: Callable[[Any], T]) -> T:
        """Do something with a connection, in a thread. One that fails is not used again."""
        started = self._threads.submit(work, connection)
        try:
            return await asyncio.wrap_future(started)
        except Refused:
            raise
        except BaseException as error:
            _drop(connection)
            # Whoever was told to stop does not wait for the thread, which may open it meanwhile.
            started.add_done_callback(lambda _: _drop(connection))
            if isinstance(error, (LDAPException, OSError)):
                raise self._told(error, str(connection.last_error or error)) from None
            raise

    def _told(self, error: Exception, said: str) -> HandlerError:
        """What a fault of the way there means."""
        is_refused = isinstance(error, LDAPStartTLSError) and not isinstance(error, OSError)
        if is_refused or _NOT_TRUSTED in said:
            return Misconfigured(f"no TLS with {self._place}: {said}")
        if isinstance(error, (LDAPSocketOpenError, LDAPStartTLSError)):
            return Unreachable(f"no connection to {self._place}: {said}")
        return TryLater(f"no answer of {self._place}: {said}")


def rdn(attribute: str, value: str) -> str:
    """The first part of a name: ``uid=alice``. Whatever could mean something is escaped."""
    return f"{attribute}=" + "".join(
        one if _PLAIN.fullmatch(one) else "".join(f"\\{byte:02x}" for byte in one.encode())
        for one in value
    )


def _unescaped(found: re.Match[bytes]) -> bytes:
    said = found.group(1)
    return bytes.fromhex(said.decode()) if len(said) == 2 else said


def _entries(connection: Any) -> list[Entry]:
    return [
        Entry(
            str(one["dn"]),
            {
                str(name).lower(): tuple(bytes(value) for value in values)
                for name, values in one["raw_attributes"].items()
            },
        )
        for one in connection.response or ()
        if one["type"] == "searchResEntry"
    ]


def _refused(connection: Any) -> Refused:
    result = connection.result
    words = ": ".join(one for one in (result["description"], result["message"]) if one)
    return Refused(int(result["result"]), words)


def _has_ended(connection: Any) -> bool:
    """Whether the directory has hung up meanwhile: unasked, it says nothing but that."""
    try:
        return bool(select.select([connection.socket], [], [], 0)[0])
    except (OSError, ValueError, TypeError):
        return True


def _drop(connection: Any) -> None:
    """Hang up at once, whatever a thread waits for."""
    connection.closed = True
    if connection.socket is not None:
        with suppress(OSError, AttributeError):
            connection.socket.shutdown(2)
        with suppress(OSError, AttributeError):
            connection.socket.close()
