"""HTTP/1.1 over plain TCP, and of it what delivering needs: POST a body, read the reply.

Step 5 of the walk, the hot path: a general client costs several times as much per request. Three
parts: ``Names`` finds addresses, ``Reading`` makes sense of bytes (no I/O), ``LeanClient`` keeps
the connections. There is no TLS here, and no redirects, cookies or proxies. What goes wrong is one
of the faults below; http.py puts them into words.

A request costs no task, no coroutine and no timer: it is one object, a ``Ticket``, which
``LeanClient.send`` sends and tells what became of it. Only opening a connection takes a task.
"""

import asyncio
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from time import monotonic
from typing import cast

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

from espf.handlers.networks import Gate

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

#: So much is read at a time.
_READ_BYTES = 64 * 1024

#: How often deadlines are looked at: so much later than asked for, at most, a time-out comes.
_LOOK_SECONDS = 0.05

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[!-~]+")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) +([1-9][0-9]{2})(?: .*)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\0]*)?")

# Any header that does not say how the reply ends, nor that the connection does.
_PLAIN_HEADERS = (
    rb"(?:(?!(?i:content-length|transfer-encoding|connection(?!:[ \t]*keep-alive[ \t]*\r)))"
    rb"[A-Za-z0-9!#$%&'*+.^_`|~-]++:[^\r\n\0]*+\r\n)*+"
)

# The head of nearly every reply: one Content-Length and nothing unusual. ``Reading`` would come to
# the same result, in seven times the time.
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-9][0-9]{2})(?: [^\r\n\0]*+)?\r\n"
    + _PLAIN_HEADERS
    + rb"(?i:content-length):[ \t]*([0-9]{1,15})[ \t]*\r\n"
    + _PLAIN_HEADERS
    + rb"\r\n"
)

#: Statuses whose replies have no body, whatever their headers say.
_BODILESS = frozenset({204, 304})


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

    #: Host and port.
    origin: tuple[str, int]
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
    return Target((parts.raw_host, parts.port), f"POST {parts.raw_path_qs} HTTP/1.1", host)


class RequestHead:
    """What many requests have in common; ValueError for a header that would break them."""

    __slots__ = ("_start",)

    def __init__(self, to: Target, headers: Mapping[str, str]) -> None:
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
        lines.append("Content-Length: ")
        self._start = "\r\n".join(lines).encode()

    def bytes(self, body: bytes, traceparent: str | None = None) -> bytes:
        """A whole request, as it goes over the wire; ``traceparent`` is a header of its own."""
        if traceparent is not None:
            more = f"traceparent: {traceparent}".encode()
            return b"%b%d\r\n%b\r\n\r\n%b" % (self._start, len(body), more, body)
        return b"%b%d\r\n\r\n%b" % (self._start, len(body), body)


def request_bytes(to: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request as it goes over the wire; ValueError for a header that would break it."""
    return RequestHead(to, headers).bytes(body)


@lru_cache(1024)
def _header_name(name: str) -> str:
    """The name in lower case; ValueError when a caller cannot set such a header."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header")
    if name.lower() == "transfer-encoding":
        raise ValueError("the header Transfer-Encoding cannot be set")
    return name.lower()


class Reply:
    """What a server answered. What nobody asks for is not made."""

    __slots__ = ("_headers", "body", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        self.status = status
        self.body = body
        self.head = head
        self._headers: dict[str, str] | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name; what was given twice is joined with a comma."""
        if self._headers is None:
            self._headers = _headers(_lines(self.head)[1:])
        return self._headers

    @property
    def text(self) -> str:
        """The body as text; what is not UTF-8 in it is replaced."""
        return self.body.decode("utf-8", "replace")


def usual_reply(data: bytes, limit: int) -> Reply | None:
    """The reply that these bytes are, when it is one of the usual kind and there is no more.

    None: ``Reading`` must tell what they are.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end > HEAD_LIMIT:
        return None
    head = data[:end]
    usual = _usual_head(head)
    if usual is None:
        return None
    status, length = usual
    if len(data) != end + length or length > limit:
        return None
    return Reply(status, head, data[end:])


@lru_cache(100)
def _usual_head(head: bytes) -> tuple[int, int] | None:
    """Status and length of the body; servers say the same for a second."""
    match = _USUAL_HEAD.fullmatch(head)
    if match is None or int(match[1]) in _BODILESS:
        return None
    return int(match[1]), int(match[2])


class Reading:
    """One reply, read from bytes as they come in whatever pieces.

    ``limit`` is how many bytes of the body are wanted. ``reusable`` says whether another request
    may follow on the connection. Once ``feed`` or ``end`` has returned True, or raised, neither is
    called again.
    """

    def __init__(self, limit: int) -> None:
        self.reusable = False
        self._limit = limit
        self._status = 0
        self._raw_head = b""
        self._body = bytearray()
        self._buffer = bytearray()
        self._searched = 0
        self._left = 0
        self._trailers = 0
        self._lasting = False
        self._whole = False
        # Functions, not methods bound to this object: that would be a circle for each reply.
        self._step: Callable[[Reading], bool] = Reading._head

    @property
    def reply(self) -> Reply:
        """The reply, once it is whole; of its body, at most ``limit`` bytes."""
        return Reply(self._status, self._raw_head, bytes(self._body[: self._limit]))

    def feed(self, data: bytes) -> bool:
        """Take what came; True when the reply is whole, or as much of it as is wanted."""
        self._buffer += data
        while self._step(self):
            if self._whole:
                # More than the reply means that the server has lost the thread.
                self.reusable = self._lasting and not self._buffer
                return True
            if len(self._body) > self._limit:
                # Closing is cheaper than reading what nobody wants; the status is known already.
                return True
        return len(self._body) > self._limit

    def end(self) -> bool:
        """Nothing more comes: True when the reply is whole by that, else raises the fault."""
        if self._step is Reading._rest:
            return True
        raise self.fault()

    def fault(self) -> Fault:
        """What it means that the connection is lost now."""
        return ClosedError() if self._step is Reading._head else BrokeOffError()

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
        self._raw_head = bytes(buffer[: found.start()])
        del buffer[: found.end()]
        self._searched = 0
        status_line, *lines = _lines(self._raw_head)
        parsed = _STATUS_LINE.fullmatch(status_line)
        if parsed is None:
            raise NotHttpError("it does not begin with HTTP/1.1 and a status")
        self._status = int(parsed[2])
        headers = _headers(lines)
        if self._status >= 200:
            self._frame(parsed[1], headers)
        elif self._status == 101:
            raise NotHttpError("it switches to another protocol")
        # Other statuses below 200 announce the reply; it is still to come.
        return True

    def _frame(self, minor_version: str, headers: Mapping[str, str]) -> None:
        """How the body ends, as RFC 9112, section 6.3, has it; what it leaves open is refused."""
        length, coding = (headers.get(n) for n in ("content-length", "transfer-encoding"))
        if length is not None and coding is not None:
            raise NotHttpError("both Content-Length and Transfer-Encoding")
        if length is not None and not _LENGTH.fullmatch(length):
            raise NotHttpError("its Content-Length is not a number")
        codings = [c.strip().lower() for c in coding.split(",")] if coding is not None else []
        if "chunked" in codings[:-1]:
            raise NotHttpError("its Transfer-Encoding is chunked before it is something else")
        options = {o.strip().lower() for o in headers.get("connection", "").split(",")}
        self._lasting = "close" not in options and (
            minor_version == "1" or ("keep-alive" in options and coding is None)
        )
        if self._status in _BODILESS:
            self._whole = True
        elif codings[-1:] == ["chunked"]:
            self._step = Reading._chunk_line
        elif length is not None:
            self._left = int(length)
            self._step = Reading._counted
        else:
            self._lasting = False
            self._step = Reading._rest

    def _rest(self) -> bool:
        self._body += self._buffer
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
        self._step = Reading._chunk if self._left else Reading._trailer
        return True

    def _chunk(self) -> bool:
        if not self._moved():
            return False
        self._step = Reading._chunk_end
        return True

    def _chunk_end(self) -> bool:
        line = self._line(CHUNK_LINE_LIMIT)
        if line:
            raise NotHttpError("a chunk of its body is longer than its size")
        if line is None:
            return False
        self._step = Reading._chunk_line
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
        self._body += piece
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


class Ticket(ABC):
    """A request on its way, made by who sends it and told how it ended.

    Its fields are the client's, but for ``deadline``, which may be brought forward.
    """

    #: Whether it may go out twice, when a kept connection turns out to be closed.
    repeatable = True

    #: Whether its connection is there already, so that who opens it must not be stopped any more.
    connected = False
    telling: asyncio.Handle | None = None
    connection: "_Connection | None" = None

    def __init__(self, to: Target, request: bytes, timeout_seconds: float, limit: int) -> None:
        """``request`` is what ``RequestHead.bytes`` made; ``limit``: bytes wanted of the body."""
        self.to = to
        self.request = request
        self.began = monotonic()
        self.deadline = self.began + timeout_seconds
        self.limit = limit
        self.over = False

    @abstractmethod
    def ended(self, result: "Reply | Exception") -> None:
        """Take what became of it: the reply, a fault of this module, or TimeoutError.

        Called once, by the event loop and never from within ``send``, at the latest a little after
        the time-out; must not raise.
        """


_Origin = tuple[str, int]


class LeanClient:
    """The connections to servers without TLS: kept alive, the last used first.

    At most ``connections`` are open; what is beyond that waits, and the servers take turns.
    ``gate`` makes the sockets (None: one that allows all but link-local addresses). To be created
    in the event loop that sends.
    """

    def __init__(
        self,
        names: Names,
        *,
        connections: int,
        connect_seconds: float,
        idle_seconds: float = IDLE_SECONDS,
        gate: Gate | None = None,
    ) -> None:
        self._names = names
        self._gate = gate or Gate()
        self._limit = connections
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        # A request is busy when it has a connection, or one is being opened for it. Others wait
        # in the order in which they came, for which a dict is the set.
        self._busy = 0
        self._waiting: dict[_Origin, dict[Ticket, None]] = {}
        self._opening: dict[Ticket, asyncio.Task[None]] = {}
        self._open: set[_Connection] = set()
        # One for all: what was read is taken from it before anything else is read. The loop of
        # the standard library would otherwise allocate 256 KiB each time.
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._idle: dict[_Origin, list[_Connection]] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(idle_seconds / 4, self._sweep)
        self._clock: asyncio.TimerHandle | None = None

    def send(self, ticket: Ticket) -> None:
        """Send a request.

        When a connection that was kept turns out to be closed, and nothing of a reply has come, a
        ``repeatable`` one goes out once more, on a new connection.
        """
        if self._closed:
            self._tell(ticket, ClosedError())
            return
        if self._busy < self._limit:
            self._busy += 1
            self._begin(ticket)
        else:
            self._waiting.setdefault(ticket.to.origin, {})[ticket] = None
        if self._clock is None:
            self._clock = self._loop.call_later(_LOOK_SECONDS, self._look)

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: it is told nothing any more, and a connection it is on is closed."""
        if not ticket.over:
            ticket.over = True
            self._withdraw(ticket)
        elif ticket.telling is not None:
            ticket.telling.cancel()

    async def post(
        self,
        to: Target,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        limit: int,
    ) -> Reply:
        """Send a request and await the reply.

        Raises a fault of this module, TimeoutError after ``timeout_seconds``, and ValueError when
        a header cannot be sent.
        """
        ticket = _Awaited(to, request_bytes(to, headers, body), timeout_seconds, limit)
        self.send(ticket)
        try:
            result = await ticket.result
        finally:
            self.cancel(ticket)
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Close every connection; what is under way fails."""
        self._closed = True
        self._sweeper.cancel()
        self._idle.clear()
        if self._clock is not None:
            self._clock.cancel()
        opening = list(self._opening.values())
        for ticket in self._under_way():
            self._fail(ticket, ClosedError())
        if opening:
            await asyncio.wait(opening)
        lost = [connection.lost for connection in self._open]
        for connection in self._open:
            connection.abort()
        if lost:
            await asyncio.wait(lost)

    # A request: it waits, or begins on a connection that was kept, or has one opened; it ends in
    # ``_answered`` or in ``_fail``.

    def _begin(self, ticket: Ticket) -> None:
        idle = self._idle.get(ticket.to.origin)
        while idle:
            connection = idle.pop()
            if not connection.closing:
                connection.say(ticket)
                return
        self._open_for(ticket)

    def _open_for(self, ticket: Ticket) -> None:
        ticket.connected = False
        self._opening[ticket] = self._loop.create_task(self._opened(ticket))

    async def _opened(self, ticket: Ticket) -> None:
        try:
            await self._connected(ticket)
        except Fault as fault:
            self._opening.pop(ticket, None)
            self._fail(ticket, fault)
        finally:
            self._opening.pop(ticket, None)

    async def _connected(self, ticket: Ticket) -> None:
        try:
            addresses = await self._names.look_up(*ticket.to.origin)
        except OSError:
            raise UnknownHostError from None
        self._make_room()
        try:
            async with asyncio.timeout(self._connect_seconds):
                connected = await start_connection(
                    self._gate.permitted(addresses),
                    happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                    socket_factory=self._gate.make,
                )
            # From here on this task is not cancelled, and the connection not closed before it is
            # handed over: uvloop would tell nobody that it is lost, or close its socket twice.
            ticket.connected = True
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self._open, self._buffer, ticket, self._answered, self._broken),
                sock=connected,
            )
            if connection.unwanted:
                connection.abort()
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise ConnectTimeoutError from None
            raise UnreachableError(error) from None

    def _answered(self, connection: "_Connection", ticket: Ticket, reply: Reply) -> None:
        if not connection.closing:
            connection.idle_since = monotonic()
            idle = self._idle.get(ticket.to.origin)
            if idle is None:
                idle = self._idle[ticket.to.origin] = []
            idle.append(connection)
        self._leave_place()
        if not ticket.over:
            ticket.over = True
            ticket.ended(reply)

    def _broken(self, ticket: Ticket, fault: Fault, stale: bool) -> None:
        # Servers close connections that were idle, and that may cross with a request.
        if stale and ticket.repeatable:
            self._open_for(ticket)
        else:
            self._fail(ticket, fault)

    def _fail(self, ticket: Ticket, fault: Exception) -> None:
        if not ticket.over:
            self._withdraw(ticket)
            self._tell(ticket, fault)

    def _tell(self, ticket: Ticket, fault: Exception) -> None:
        ticket.over = True
        ticket.telling = self._loop.call_soon(ticket.ended, fault)

    def _withdraw(self, ticket: Ticket) -> None:
        """Take a request out of wherever it is."""
        origin = ticket.to.origin
        waiting = self._waiting.get(origin, {})
        if ticket in waiting:
            del waiting[ticket]
            if not waiting:
                del self._waiting[origin]
            return
        task = self._opening.pop(ticket, None)
        if task is not None and not ticket.connected:
            task.cancel()
        if ticket.connection is not None:
            ticket.connection.forget()
        self._leave_place()

    def _leave_place(self) -> None:
        """A request is no longer busy: the next one is."""
        if not self._waiting or self._closed:
            self._busy -= 1
            return
        origin = next(iter(self._waiting))
        tickets = self._waiting.pop(origin)
        ticket = next(iter(tickets))
        del tickets[ticket]
        if tickets:
            self._waiting[origin] = tickets
        self._begin(ticket)

    def _under_way(self) -> list[Ticket]:
        return [
            *(ticket for tickets in self._waiting.values() for ticket in tickets),
            *self._opening,
            *(c.ticket for c in self._open if c.ticket is not None),
        ]

    # What comes by the clock.

    def _look(self) -> None:
        """Fail what has no reply in time. The clock stops when nothing is under way."""
        self._clock = None
        under_way = self._under_way()
        now = monotonic()
        for ticket in under_way:
            if ticket.deadline <= now:
                self._fail(ticket, TimeoutError())
        if under_way:
            self._clock = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _make_room(self) -> None:
        """Close idle connections to other servers, when there are too many with a new one."""
        excess = self._busy + sum(map(len, self._idle.values())) - self._limit
        for idle in self._idle.values():
            while excess > 0 and idle:
                idle.pop(0).abort()
                excess -= 1

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self._idle_seconds / 4, self._sweep)
        oldest = monotonic() - self._idle_seconds
        for key, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since < oldest:
                    connection.abort()
            idle[:] = [connection for connection in idle if not connection.closing]
            if not idle:
                del self._idle[key]


class _Connection(asyncio.BufferedProtocol):
    """One connection: a request, its reply, the next request.

    It is in ``registry`` as long as it is open, and opened for a first ``ticket``. It calls
    ``answered``, or ``broken`` with whether it may just have been kept for too long, when it has
    let go of the ticket. There is never more than one request in its buffer, so nothing need hold
    it back.
    """

    _transport: asyncio.Transport

    def __init__(
        self,
        registry: set["_Connection"],
        buffer: memoryview,
        ticket: Ticket,
        answered: "Callable[[_Connection, Ticket, Reply], None]",
        broken: Callable[[Ticket, Fault, bool], None],
    ) -> None:
        self.ticket: Ticket | None = ticket
        self.unwanted = False
        # When it was kept last; 0: it has served nobody yet.
        self.idle_since = 0.0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._registry = registry
        self._buffer = buffer
        self._answered = answered
        self._broken = broken
        self._reading: Reading | None = None

    @property
    def closing(self) -> bool:
        """Whether no request can be made any more."""
        return self._transport.is_closing()

    def say(self, ticket: Ticket) -> None:
        """Send a request; what comes from now on is its reply."""
        self.ticket = ticket
        ticket.connection = self
        self._transport.write(ticket.request)

    def forget(self) -> None:
        """Close: nobody waits for the reply any more."""
        self._release()
        self.abort()

    def abort(self) -> None:
        """Close without waiting for anything."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BufferedProtocol."""
        # What uvloop has is one, but not by its class.
        self._transport = cast("asyncio.Transport", transport)
        self._registry.add(self)
        assert self.ticket is not None
        if self.ticket.over:  # given up in the meantime
            self.ticket = None
            self.unwanted = True
        else:
            self.say(self.ticket)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        data = self._buffer[:nbytes].tobytes()
        ticket = self.ticket
        if ticket is None:
            self.abort()  # nobody asked
        elif self._reading is None and (reply := usual_reply(data, ticket.limit)) is not None:
            self._answer(reply, lasting=True)
        else:
            self._read(data, ticket)

    def eof_received(self) -> None:
        """See asyncio.BufferedProtocol; the transport closes itself after this."""
        if self.ticket is None:
            return
        reading = self._reading or Reading(self.ticket.limit)
        try:
            reading.end()
        except (ClosedError, BrokeOffError) as fault:
            self._break(fault)
        else:
            self._answer(reading.reply, lasting=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BufferedProtocol."""
        self._registry.discard(self)
        self.lost.set_result(None)
        if self.ticket is not None:
            fault = ClosedError() if self._reading is None else self._reading.fault()
            if isinstance(exc, OSError) and isinstance(fault, ClosedError):
                fault = ConnectionBrokenError(exc)
            self._break(fault)

    def _read(self, data: bytes, ticket: Ticket) -> None:
        if self._reading is None:
            self._reading = Reading(ticket.limit)
        try:
            whole = self._reading.feed(data)
        except NotHttpError as fault:
            self._break(fault)
        else:
            if whole:
                self._answer(self._reading.reply, lasting=self._reading.reusable)

    def _answer(self, reply: Reply, *, lasting: bool) -> None:
        # A server that answers before it has all of the request does not want the rest of it.
        if not lasting or self._transport.get_write_buffer_size():
            self.abort()
        self._answered(self, self._release(), reply)

    def _break(self, fault: Fault) -> None:
        stale = self.idle_since > 0 and self._reading is None
        self.abort()
        self._broken(self._release(), fault, stale)

    def _release(self) -> Ticket:
        ticket, self.ticket, self._reading = self.ticket, None, None
        assert ticket is not None
        ticket.connection = None
        return ticket


class _Awaited(Ticket):
    """A request that somebody awaits."""

    def __init__(self, to: Target, request: bytes, timeout_seconds: float, limit: int) -> None:
        super().__init__(to, request, timeout_seconds, limit)
        self.result: asyncio.Future[Reply | Exception] = asyncio.get_running_loop().create_future()

    def ended(self, result: Reply | Exception) -> None:
        if not self.result.done():
            self.result.set_result(result)


def _addresses(
    host: str, port: int, family: socket.AddressFamily, flags: int
) -> list[AddrInfoType]:
    try:
        return socket.getaddrinfo(  # type: ignore[return-value]
            host, port, family=family, type=socket.SOCK_STREAM, flags=flags
        )
    except UnicodeError as error:
        raise OSError(f"no host can have this name: {error}") from None


def _lines(head: bytes) -> list[str]:
    """The status line and the headers, without the empty line after them."""
    text = head.decode("utf-8", "surrogateescape").replace("\r\n", "\n").removesuffix("\n\n")
    if "\r" in text or "\0" in text:
        raise NotHttpError("a control character in its headers")
    return text.split("\n")


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
