"""HTTP/1.1 over plain TCP, and of it what delivering needs: POST a body, read the reply.

Step 5 of the walk, the hot path: a general client costs several times as much per request. Three
parts: ``Names`` finds addresses, ``Reply`` makes sense of bytes (no I/O), ``LeanClient`` keeps the
connections. There is no TLS here, and no redirects, cookies or proxies. What goes wrong is raised
as one of the faults below; http.py puts them into words.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

#: What the client says of itself, unless the caller says otherwise.
OWN_HEADERS: Mapping[str, str] = {
    "User-Agent": "ESPF",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Content-Type": "application/octet-stream",
}

_OWN_LINES = tuple((name.lower(), f"{name}: {value}") for name, value in OWN_HEADERS.items())

#: A connection that nobody used for so long is closed.
IDLE_SECONDS = 60.0

#: How long found addresses are good for.
NAME_SECONDS = 10.0

#: Of a reply, the longest status line and headers together; the same for trailers.
HEAD_LIMIT = 64 * 1024

#: The longest line with the size of a chunk.
CHUNK_LINE_LIMIT = 4096

#: When a server has several addresses, the next one is tried after so many seconds.
_NEXT_ADDRESS_SECONDS = 0.25

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[!-~]+")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) +([1-9][0-9]{2})(?: .*)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\0]*)?")


class Fault(Exception):
    """Why there is no reply."""


class UnknownHostError(Fault):
    """The host name is not known."""


class UnreachableError(Fault):
    """No connection came about; ``os_error`` says why."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__(str(os_error))
        self.os_error = os_error


class ConnectTimeoutError(Fault):
    """No connection came about in time."""


class ConnectionBrokenError(Fault):
    """The connection failed before there was a reply; ``os_error`` says how."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__(str(os_error))
        self.os_error = os_error


class ClosedError(Fault):
    """The server closed the connection before there was a reply."""


class BrokeOffError(Fault):
    """The connection ended within the body of the reply."""


class NotHttpError(Fault):
    """What came is not HTTP, or its length is in doubt."""


class Names:
    """Looks up names in threads of its own, so that a dead name server holds up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="espf-dns")
        self._found: dict[
            tuple[str, int, socket.AddressFamily], asyncio.Future[list[AddrInfoType]]
        ] = {}

    async def look_up(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[AddrInfoType]:
        """The addresses of a host, as ``socket.getaddrinfo`` has them; OSError when unknown."""
        try:
            return _addresses(host, port, family, socket.AI_NUMERICHOST)
        except OSError:
            pass  # not an address, but a name
        key = (host, port, family)
        found = self._found.get(key)
        if found is None:
            # Many requests may ask at once: one look-up serves them all.
            found = asyncio.get_running_loop().run_in_executor(
                self._threads, partial(_addresses, host, port, family, 0)
            )
            self._found[key] = found
            found.add_done_callback(partial(self._remember, key))
        try:
            return await asyncio.shield(found)
        except asyncio.CancelledError:
            if found.cancelled():
                raise OSError("no more names are looked up") from None
            raise

    def _remember(
        self,
        key: tuple[str, int, socket.AddressFamily],
        found: asyncio.Future[list[AddrInfoType]],
    ) -> None:
        if found.cancelled() or found.exception() is not None:
            del self._found[key]
        else:
            found.get_loop().call_later(NAME_SECONDS, self._found.pop, key, None)

    def close(self) -> None:
        """Start no more look-ups; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Target:
    """A URL taken apart: whom to call, and how the request begins."""

    host: str
    port: int
    request_line: str
    host_header: str


@lru_cache(1024)
def target(url: str) -> Target | None:
    """Where a POST to this URL goes; None when that is not for this client.

    Those are: all but ``http://``, malformed ones, and those with credentials in them.
    """
    try:
        parts = URL(url)
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.raw_host or parts.port is None:
        return None
    host = parts.host_port_subcomponent
    if parts.raw_user is not None or parts.raw_password is not None:
        return None
    if host is None or not _HOST.fullmatch(host):
        return None
    return Target(parts.raw_host, parts.port, f"POST {parts.raw_path_qs} HTTP/1.1", host)


def request_bytes(to: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request as it goes over the wire; ValueError for a header that would break it."""
    lines = [to.request_line]
    given = {_header_name(name) for name in headers}
    if "host" not in given:
        lines.append(f"Host: {to.host_header}")
    lines += [line for name, line in _OWN_LINES if name not in given]
    for name, value in headers.items():
        if _CONTROL.search(value):
            raise ValueError(f"a control character in the value of the header {name}")
        # How long the body is, is for the client to say.
        if _header_name(name) != "content-length":
            lines.append(f"{name}: {value}")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode() + body


@lru_cache(1024)
def _header_name(name: str) -> str:
    """The name in lower case; ValueError when a caller cannot set such a header."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header")
    if name.lower() == "transfer-encoding":
        raise ValueError("the header Transfer-Encoding cannot be set")
    return name.lower()


class Reply:
    """One reply, read from bytes as they come in whatever pieces.

    ``body`` has at least the first ``limit`` bytes, when there are so many. ``reusable`` says
    whether another request may follow on the connection. Once ``feed`` or ``end`` has returned
    True, or raised, neither is called again.
    """

    def __init__(self, limit: int) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.reusable = False
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._left = 0
        self._trailers = 0
        self._lasting = False
        self._whole = False
        # Functions, not methods bound to this reply: that would be a circle for each reply.
        self._step: Callable[[Reply], bool] = Reply._head

    def feed(self, data: bytes) -> bool:
        """Take what came; True when the reply is whole, or as much of it as is wanted."""
        self._buffer += data
        while self._step(self):
            if self._whole:
                # More than the reply means that the server has lost the thread.
                self.reusable = self._lasting and not self._buffer
                return True
            if len(self.body) > self._limit:
                # Closing is cheaper than reading what nobody wants; the status is known already.
                return True
        return len(self.body) > self._limit

    def end(self) -> bool:
        """Nothing more comes: True when the reply is whole by that, else raises the fault."""
        if self._step is Reply._rest:
            return True
        raise self.fault()

    def fault(self) -> Fault:
        """What it means that the connection is lost now."""
        return ClosedError() if self._step is Reply._head else BrokeOffError()

    def _head(self) -> bool:
        buffer = self._buffer
        found = _HEAD_END.search(buffer, max(0, self._searched - 3))
        if found is None:
            if not buffer.startswith(b"HTTP/1."[: len(buffer)]):
                raise NotHttpError("it does not begin with HTTP/1.1")
            if len(buffer) > HEAD_LIMIT:
                raise NotHttpError(f"its headers are longer than {HEAD_LIMIT} bytes")
            self._searched = len(buffer)
            return False
        if found.end() > HEAD_LIMIT:
            raise NotHttpError(f"its headers are longer than {HEAD_LIMIT} bytes")
        head = buffer[: found.start()].decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        del buffer[: found.end()]
        self._searched = 0
        if "\r" in head or "\0" in head:
            raise NotHttpError("a control character in its headers")
        status_line, *lines = head.split("\n")
        parsed = _STATUS_LINE.fullmatch(status_line)
        if parsed is None:
            raise NotHttpError("it does not begin with HTTP/1.1 and a status")
        self.status = int(parsed[2])
        self.headers = _headers(lines)
        if self.status >= 200:
            self._frame(parsed[1])
        elif self.status == 101:
            raise NotHttpError("it switches to another protocol")
        # Other statuses below 200 announce the reply; it is still to come.
        return True

    def _frame(self, minor_version: str) -> None:
        """How the body ends, as RFC 9112, section 6.3, has it; what it leaves open is refused."""
        length, coding = (self.headers.get(n) for n in ("content-length", "transfer-encoding"))
        if length is not None and coding is not None:
            raise NotHttpError("both Content-Length and Transfer-Encoding")
        if length is not None and not _LENGTH.fullmatch(length):
            raise NotHttpError("its Content-Length is not a number")
        codings = [c.strip().lower() for c in coding.split(",")] if coding is not None else []
        if "chunked" in codings[:-1]:
            raise NotHttpError("its Transfer-Encoding is chunked before it is something else")
        options = {o.strip().lower() for o in self.headers.get("connection", "").split(",")}
        self._lasting = "close" not in options and (
            minor_version == "1" or ("keep-alive" in options and coding is None)
        )
        if self.status in {204, 304}:
            self._whole = True
        elif codings[-1:] == ["chunked"]:
            self._step = Reply._chunk_line
        elif length is not None:
            self._left = int(length)
            self._step = Reply._counted
        else:
            self._lasting = False
            self._step = Reply._rest

    def _rest(self) -> bool:
        self.body += self._buffer
        self._buffer.clear()
        return False

    def _counted(self) -> bool:
        self._whole = self._moved()
        return self._whole

    def _chunk_line(self) -> bool:
        line = self._line(CHUNK_LINE_LIMIT)
        if line is None:
            return False
        parsed = _CHUNK_LINE.fullmatch(line)
        if parsed is None:
            raise NotHttpError("a chunk of its body has no size")
        self._left = int(parsed[1], 16)
        self._step = Reply._chunk if self._left else Reply._trailer
        return True

    def _chunk(self) -> bool:
        if not self._moved():
            return False
        self._step = Reply._chunk_end
        return True

    def _chunk_end(self) -> bool:
        line = self._line(CHUNK_LINE_LIMIT)
        if line:
            raise NotHttpError("a chunk of its body is longer than its size")
        if line is None:
            return False
        self._step = Reply._chunk_line
        return True

    def _trailer(self) -> bool:
        line = self._line(HEAD_LIMIT - self._trailers)
        if line is None:
            return False
        self._trailers += len(line) + 1
        self._whole = not line
        return True

    def _moved(self) -> bool:
        """Move what there is of a counted piece to the body; whether that was all of it."""
        piece = self._buffer[: self._left]
        del self._buffer[: self._left]
        self.body += piece
        self._left -= len(piece)
        return self._left == 0

    def _line(self, limit: int) -> bytes | None:
        """The next line without its end; None when it is not all there."""
        end = self._buffer.find(b"\n")
        if (end if end >= 0 else len(self._buffer)) > limit:
            raise NotHttpError("a line in its body is too long")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")


class LeanClient:
    """The connections to servers without TLS: kept alive, the last used first.

    At most ``connections`` are open; what is beyond that waits. To be created in the event loop
    that posts.
    """

    def __init__(
        self,
        names: Names,
        *,
        connections: int,
        connect_seconds: float,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._names = names
        self._limit = connections
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(connections)
        self._busy = 0
        self._open: set[_Connection] = set()
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(idle_seconds / 4, self._sweep)

    async def post(
        self,
        to: Target,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        limit: int,
    ) -> Reply:
        """POST and read the reply; of its body, not much more than ``limit`` bytes.

        Raises a fault of this module, TimeoutError after ``timeout_seconds``, and ValueError when
        a header cannot be sent.
        """
        request = request_bytes(to, headers, body)
        async with asyncio.timeout(timeout_seconds), self._slots:
            self._busy += 1
            try:
                return await self._exchange(to, request, limit)
            finally:
                self._busy -= 1

    async def close(self) -> None:
        """Close every connection; what is under way fails."""
        self._closed = True
        self._sweeper.cancel()
        self._idle.clear()
        lost = [connection.lost for connection in self._open]
        for connection in self._open:
            connection.abort()
        if lost:
            await asyncio.wait(lost)

    async def _exchange(self, to: Target, request: bytes, limit: int) -> Reply:
        connection = self._kept(to)
        if connection is not None:
            connection.expect(limit)
            try:
                return await self._said(connection, to, request)
            except (ClosedError, ConnectionBrokenError):
                # Servers close connections that were idle, and that may cross with a request.
                if connection.heard or self._closed:
                    raise
        return await self._said(await self._connected(to, limit), to, request)

    async def _said(self, connection: "_Connection", to: Target, request: bytes) -> Reply:
        reply = await connection.say(request)
        if not self._closed and not connection.closing:
            connection.idle_since = self._loop.time()
            self._idle.setdefault((to.host, to.port), []).append(connection)
        return reply

    def _kept(self, to: Target) -> "_Connection | None":
        idle = self._idle.get((to.host, to.port))
        while idle:
            connection = idle.pop()
            if not connection.closing:
                return connection
        return None

    async def _connected(self, to: Target, limit: int) -> "_Connection":
        try:
            addresses = await self._names.look_up(to.host, to.port)
        except OSError:
            raise UnknownHostError from None
        self._make_room()
        try:
            async with asyncio.timeout(self._connect_seconds):
                connected = await start_connection(
                    addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS
                )
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise ConnectTimeoutError from None
            raise UnreachableError(error) from None
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self._open, limit), sock=connected
        )
        if self._closed:
            connection.abort()
        return connection

    def _make_room(self) -> None:
        """Close idle connections to other servers, when there are too many with a new one."""
        excess = self._busy + sum(map(len, self._idle.values())) - self._limit
        for idle in self._idle.values():
            while excess > 0 and idle:
                idle.pop(0).abort()
                excess -= 1

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self._idle_seconds / 4, self._sweep)
        oldest = self._loop.time() - self._idle_seconds
        for key, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since < oldest:
                    connection.abort()
            idle[:] = [connection for connection in idle if not connection.closing]
            if not idle:
                del self._idle[key]


class _Connection(asyncio.Protocol):
    """One connection: a request, its reply, the next request.

    It is in ``registry`` as long as it is open. A new one expects a reply at once, for there are
    servers that speak first.
    """

    _transport: asyncio.Transport

    def __init__(self, registry: set["_Connection"], limit: int) -> None:
        self.heard = False
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._registry = registry
        self._fault: Fault | None = None
        self.expect(limit)

    @property
    def closing(self) -> bool:
        """Whether no request can be made any more."""
        return self._transport.is_closing()

    def expect(self, limit: int) -> None:
        """What comes from now on is a reply; of its body, ``limit`` bytes are wanted."""
        self.heard = False
        self._reply = Reply(limit)
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def say(self, request: bytes) -> Reply:
        """Send a request and await the reply; whatever prevents that closes the connection."""
        try:
            if not self._ended.done():
                self._transport.write(request)
            await self._ended
        except asyncio.CancelledError:
            self.abort()
            raise
        if self._fault is not None:
            self.abort()
            raise self._fault
        # A server that answers before it has all of the request does not want the rest of it.
        if not self._reply.reusable or self._transport.get_write_buffer_size():
            self.abort()
        return self._reply

    def abort(self) -> None:
        """Close without waiting for anything."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._registry.add(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._ended.done():
            self.abort()  # nobody asked
            return
        self.heard = True
        try:
            if self._reply.feed(data):
                self._end(None)
        except NotHttpError as fault:
            self._end(fault)

    def eof_received(self) -> None:
        """See asyncio.Protocol; the transport closes itself after this."""
        if not self._ended.done():
            try:
                self._reply.end()
            except (ClosedError, BrokeOffError) as fault:
                self._end(fault)
            else:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._registry.discard(self)
        self.lost.set_result(None)
        if not self._ended.done():
            fault = self._reply.fault()
            if isinstance(exc, OSError) and isinstance(fault, ClosedError):
                fault = ConnectionBrokenError(exc)
            self._end(fault)

    def _end(self, fault: Fault | None) -> None:
        self._fault = fault
        self._ended.set_result(None)


def _addresses(
    host: str, port: int, family: socket.AddressFamily, flags: int
) -> list[AddrInfoType]:
    try:
        return socket.getaddrinfo(  # type: ignore[return-value]
            host, port, family=family, type=socket.SOCK_STREAM, flags=flags
        )
    except UnicodeError as error:
        raise OSError(f"no host can have this name: {error}") from None


def _headers(lines: list[str]) -> dict[str, str]:
    """Headers by lower-case name; what is given twice is joined, what is folded is unfolded."""
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[0] in " \t" and name:
            headers[name] += " " + line.strip(" \t")
            continue
        given, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(given):
            raise NotHttpError("a header without a name")
        name, value = given.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
