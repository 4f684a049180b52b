"""HTTP as handlers have it: POST, read the reply, and turn every fault into TryLater.

Step 5 of the walk, the last yard. Plain ``http://`` takes the short way of lean_http.py, all else
goes through aiohttp, which nobody else knows; no caller sees a difference. ``HttpClient`` is
shared by all handlers of a process and keeps the connections; an ``Http`` belongs to one attempt
and remembers what was said, for the journal.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiohappyeyeballs import start_connection
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from espf.errors import HandlerError, Misconfigured, TryLater, Unreachable
from espf.handlers import lean_http
from espf.handlers.base import STRAIGHT, Reply, Route
from espf.handlers.http_auth import basic
from espf.handlers.networks import Gate, Networks, Refused

#: Open connections of a process, to all servers together; plain ones and those with TLS each.
CONNECTIONS = 4096

#: How long a connection may take to come about; within the time-out of the request.
CONNECT_SECONDS = 30.0

#: Of a reply's body, this many bytes are read.
REPLY_LIMIT = 64 * 1024

#: Of a request and of a reply, this many characters are remembered.
EXCHANGE_LIMIT = 16 * 1024

_MASK = "***"

#: Headers whose values are told in the journal. Any other may hold a credential.
_HARMLESS = frozenset(
    {
        "accept",
        "content-type",
        "content-language",
        "date",
        "host",
        "user-agent",
        "x-b3-traceid",
        "x-request-id",
    }
)


@dataclass(frozen=True)
class Exchange:
    """What one attempt said and heard, as text: first line, headers, body; secrets masked."""

    request: str
    response: str


class HttpClient:
    """The connections to the outside world: kept alive, TLS verified.

    It follows no redirects, keeps no cookies, unpacks nothing and ignores proxies in the
    environment. It connects to nothing outside of the networks that it is confined to; of a request
    through a proxy, that is the proxy's address, for the proxy resolves the name.
    """

    def __init__(self, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._connect_seconds = connect_seconds
        self._gate = Gate()
        self._of_environments: dict[int, HttpClient] = {}
        self._authorities = _Authorities()
        self._names: lean_http.Names | None = None
        self._owned_names: lean_http.Names | None = None
        self._plain: lean_http.LeanClient | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready; to be called in the event loop that posts."""
        self._owned_names = lean_http.Names()
        self.open_with(self._owned_names)

    def open_with(self, names: lean_http.Names) -> None:
        """Get ready, with names that somebody else closes."""
        self._names = names
        self._plain = lean_http.LeanClient(
            names,
            connections=CONNECTIONS,
            connect_seconds=self._connect_seconds,
            gate=self._gate,
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS,
                resolver=_Resolver(names, self._gate),
                use_dns_cache=False,
                socket_factory=self._gate.make,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=lean_http.OWN_HEADERS,
            auto_decompress=False,
            trace_configs=[_reuse_told()],
        )

    async def close(self) -> None:
        """Close every connection."""
        for one in self._of_environments.values():
            await one.close()
        self._of_environments.clear()
        if self._session is not None and self._plain is not None:
            await self._session.close()
            await self._plain.close()
        if self._owned_names is not None:
            self._owned_names.close()
        self._session = self._plain = self._names = self._owned_names = None

    def of_environment(self, i_env: int) -> "HttpClient":
        """The connections of the handlers of one environment, closed with these.

        No other environment's go out on them, so each may be confined to networks of its own.
        """
        found = self._of_environments.get(i_env)
        if found is None:
            assert self._names is not None, "the client is not open"
            found = HttpClient(connect_seconds=self._connect_seconds)
            found.open_with(self._names)
            self._of_environments[i_env] = found
        return found

    def confine(self, networks: Networks) -> None:
        """Connect to nothing but these from now on; other connections that are open break."""
        self._gate.confine(networks)

    @property
    def plain(self) -> lean_http.LeanClient:
        """The short way, for what has a ``target``; ``told`` explains its faults."""
        assert self._plain is not None, "the client is not open"
        return self._plain

    def target(self, url: str, route: Route = STRAIGHT) -> lean_http.Target | None:
        """Whom ``plain`` is to call for this URL; None when only ``post`` reaches it."""
        return lean_http.target(url) if route.proxy is None else None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
        *,
        reply_limit: int = REPLY_LIMIT,
    ) -> Reply:
        """POST and read the reply's first ``reply_limit`` bytes.

        Raises TryLater when no whole reply came, Misconfigured when ``url`` is not a URL, when its
        address is in no network that may be called, when the authorities of ``route`` cannot be
        read, or when its proxy refuses to serve us.
        """
        to = self.target(url, route)
        try:
            if to is not None:
                plain = await self.plain.post(to, headers, body, timeout_seconds, reply_limit)
                return Reply(plain.status, plain.headers, plain.text)
            ask = partial(
                self._ask, "POST", url, body, headers, timeout_seconds, route, reply_limit
            )
            return await _once_more(ask)
        except (aiohttp.ClientError, lean_http.Fault, OSError) as error:
            raise self.told(error, url, timeout_seconds, route) from error

    async def get(
        self, url: str, headers: Mapping[str, str], timeout_seconds: float, route: Route = STRAIGHT
    ) -> Reply:
        """GET and read the reply; raises as ``post``."""
        return await self.send("GET", url, None, headers, timeout_seconds, route)

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
        reply_limit: int | None = None,
    ) -> Reply:
        """A request of any method; raises as ``post``."""
        limit = REPLY_LIMIT if reply_limit is None else reply_limit
        ask = partial(self._ask, method, url, body, headers, timeout_seconds, route, limit)
        try:
            return await _once_more(ask)
        except (aiohttp.ClientError, OSError) as error:
            raise self.told(error, url, timeout_seconds, route) from error

    async def resolve(self, host: str, port: int) -> str:
        """See the contract of handlers."""
        assert self._names is not None, "the client is not open"
        to = f"{host}:{port}"
        try:
            addresses = await self._names.look_up(host, port)
            return str(self._gate.permitted(addresses)[0][4][0])
        except Refused as error:
            raise Misconfigured(f"no connection to {to}: {error}") from None
        except OSError:
            raise Unreachable(f"no connection to {to}: the host name is not known") from None

    async def connect(self, url: str, timeout_seconds: float, route: Route = STRAIGHT) -> str:
        """See the contract of handlers."""
        at = route.proxy or url
        to = f"the proxy {_origin(at)}" if route.proxy else _origin(at)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._connect(at, route.ca_file)
        except TimeoutError:
            raise Unreachable(f"no connection to {to} within {timeout_seconds:g} s") from None
        except ssl.SSLError as error:
            raise Unreachable(f"no connection to {to}: {_tls_fault(error)}") from None
        except Refused as error:
            raise Misconfigured(f"no connection to {to}: {error}") from None
        except OSError as error:
            raise Unreachable(f"no connection to {to}: {_os_fault(error)}") from None
        except lean_http.UnknownHostError:
            raise Unreachable(f"no connection to {to}: the host name is not known") from None
        return to

    async def _connect(self, url: str, ca_file: str | None) -> None:
        parts = URL(url)
        assert parts.raw_host is not None, "the option takes no such URL"
        assert parts.port is not None
        tls = self._authorities.trusted(ca_file) if parts.scheme == "https" else None
        assert self._names is not None, "the client is not open"
        try:
            addresses = await self._names.look_up(parts.raw_host, parts.port)
        except OSError:
            raise lean_http.UnknownHostError from None
        connected = await start_connection(
            self._gate.permitted(addresses), socket_factory=self._gate.make
        )
        name = parts.raw_host if tls else None
        _, writer = await asyncio.open_connection(sock=connected, ssl=tls, server_hostname=name)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _ask(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route,
        reply_limit: int,
        kept: "_Kept",
    ) -> Reply:
        """One request by aiohttp; ``kept`` is told what it went out on."""
        assert self._session is not None, "the client is not open"
        known = _known_to_proxy(route)
        # Through a tunnel, nobody but the proxy may see it.
        tunnel = url[:5].lower() == "https"
        async with self._session.request(
            method,
            url,
            data=body,
            headers=headers if tunnel else {**headers, **known},
            timeout=aiohttp.ClientTimeout(timeout_seconds, sock_connect=self._connect_seconds),
            allow_redirects=False,
            ssl=self._authorities.trusted(route.ca_file),
            proxy=route.proxy,
            proxy_headers=known if tunnel else None,
            trace_request_ctx=kept,
        ) as response:
            kept.reused = False  # a reply has begun
            content = await _read(response, reply_limit)
            text = content[:reply_limit].decode("utf-8", "replace")
            return Reply(response.status, _joined(response), text)

    def told(
        self, fault: Exception, url: str, timeout_seconds: float, route: Route = STRAIGHT
    ) -> HandlerError:
        """What a fault of a request means to a handler: nearly always TryLater."""
        match fault:
            case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
                return Misconfigured(f"{masked_url(url)} is not the URL of an HTTP server")
            case aiohttp.ConnectionTimeoutError() | lean_http.ConnectTimeoutError():
                to = f"the proxy {_origin(route.proxy)}" if route.proxy else _origin(url)
                return Unreachable(f"no connection to {to} within {self._connect_seconds:g} s")
            case aiohttp.ClientHttpProxyError():
                return _refused_by_proxy(fault, _origin(url))
            case (
                aiohttp.ClientConnectorError()
                | lean_http.UnknownHostError()
                | lean_http.UnreachableError()
            ):
                by_proxy = route.proxy if _is_at(fault, route.proxy) else None
                to = f"the proxy {_origin(by_proxy)}" if by_proxy else _origin(url)
                return _unreached(fault, to)
            case TimeoutError():
                return TryLater(f"no answer within {timeout_seconds:g} s")
            case _:
                return TryLater(_reason(fault, _origin(url)))


class Http:
    """One attempt's road out: the ``Http`` of the plug-in contract.

    ``secrets`` are texts that must not be remembered. ``traceparent`` is told to the receiver.
    """

    def __init__(
        self,
        client: HttpClient,
        secrets: Collection[str] = (),
        traceparent: str | None = None,
    ) -> None:
        self._client = client
        self._traceparent = traceparent
        self._secrets = secrets
        self._request: str | None = None
        self._response = ""

    @property
    def exchange(self) -> Exchange | None:
        """The last request and its reply, or the fault in its place; None before the first."""
        if self._request is None:
            return None
        return Exchange(
            *(_cut(masked(text, self._secrets)) for text in (self._request, self._response))
        )

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
    ) -> Reply:
        """See the contract."""
        self._request = f"{message_head(url, headers)}\n\n{body.decode('utf-8', 'replace')}"
        if self._traceparent is not None:
            headers = {**headers, "traceparent": self._traceparent}
        return await self._heard(self._client.post(url, body, headers, timeout_seconds, route))

    async def get(
        self, url: str, headers: Mapping[str, str], timeout_seconds: float, route: Route = STRAIGHT
    ) -> Reply:
        """See the contract."""
        return await self.send("GET", url, None, headers, timeout_seconds, route)

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
        route: Route = STRAIGHT,
        reply_limit: int | None = None,
    ) -> Reply:
        """See the contract."""
        self._request = message_head(url, headers, method)
        if body is not None:
            self._request += f"\n\n{body.decode('utf-8', 'replace')}"
        if self._traceparent is not None and method != "GET":
            headers = {**headers, "traceparent": self._traceparent}
        asked = self._client.send(method, url, body, headers, timeout_seconds, route, reply_limit)
        return await self._heard(asked)

    async def resolve(self, host: str, port: int) -> str:
        """See the contract."""
        return await self._client.resolve(host, port)

    async def connect(self, url: str, timeout_seconds: float, route: Route = STRAIGHT) -> str:
        """See the contract."""
        return await self._client.connect(url, timeout_seconds, route)

    async def _heard(self, asked: Awaitable[Reply]) -> Reply:
        self._response = ""
        try:
            reply = await asked
        except (TryLater, Misconfigured) as error:
            self._response = f"({error})"
            raise
        self._response = _message(
            status_line(reply.status),
            {
                name: _MASK if name == "set-cookie" else value
                for name, value in reply.headers.items()
            },
            reply.text,
        )
        return reply


def status_line(status: int) -> str:
    """A status in words: ``HTTP 503 Service Unavailable``."""
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def message_head(url: str, headers: Mapping[str, str], method: str = "POST") -> str:
    """How a request begins, for people: what may be secret in it is masked."""
    shown = (
        f"{name}: {value if name.lower() in _HARMLESS else _MASK}"
        for name, value in headers.items()
    )
    return "\n".join((f"{method} {masked_url(url)} HTTP/1.1", *shown))


def masked(text: str, secrets: Collection[str]) -> str:
    """The text with every secret in it replaced by stars."""
    found = [secret for secret in secrets if secret and secret in text]
    # The longest first: one secret may be a part of another.
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


def storable(text: str) -> str:
    """The text without what no database takes: halves of characters, as of a bad header."""
    return text.encode("utf-8", "replace").decode()


def masked_url(url: str) -> str:
    """A URL that can be shown: without the credentials in it, nor the values of its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(malformed URL)"
    userinfo, at, host = parts.netloc.rpartition("@")
    query = "&".join(f"{pair.split('=')[0]}={_MASK}" for pair in parts.query.split("&") if pair)
    return parts._replace(
        netloc=f"{_MASK if userinfo else ''}{at}{host}", query=query, fragment=""
    ).geturl()


class _Resolver(AbstractResolver):
    """The names, as aiohttp wants to have them."""

    def __init__(self, names: lean_http.Names, gate: Gate) -> None:
        self._names = names
        self._gate = gate

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._names.look_up(host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, proto, _, address in self._gate.permitted(addresses)
        ]

    async def close(self) -> None:
        """The names outlive the session."""


class _Authorities:
    """Whom to trust with TLS, by the file that says it. A file that has changed is read again."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, ssl.SSLContext]] = {}

    def trusted(self, ca_file: str | None) -> ssl.SSLContext | bool:
        """As aiohttp wants it; Misconfigured when the file cannot be read."""
        if ca_file is None:
            return True
        try:
            changed = Path(ca_file).stat().st_mtime_ns
            read = self._read.get(ca_file)
            if read is None or read[0] != changed:
                read = self._read[ca_file] = changed, ssl.create_default_context(cafile=ca_file)
        except ssl.SSLError:
            raise Misconfigured(f"{ca_file} is not a file of PEM certificates") from None
        except OSError as error:
            raise Misconfigured(f"cannot read {ca_file}: {_os_fault(error)}") from None
        return read[1]


@dataclass
class _Kept:
    """Whether a request went out on a connection that was kept from an earlier one."""

    reused: bool = False


def _known_to_proxy(route: Route) -> dict[str, str]:
    """The header by which a proxy knows us, if it is to."""
    if not route.proxy_user:
        return {}
    return {"Proxy-Authorization": basic(route.proxy_user, route.proxy_password)}


def _reuse_told() -> aiohttp.TraceConfig:
    async def reused(_session: aiohttp.ClientSession, context: Any, _: Any) -> None:
        context.trace_request_ctx.reused = True

    told = aiohttp.TraceConfig()
    told.on_connection_reuseconn.append(reused)
    return told


async def _once_more(ask: Callable[[_Kept], Awaitable[Reply]]) -> Reply:
    """Ask, and again when a kept connection turns out to be closed and no reply has begun.

    Servers close connections that were idle, and that may cross with a request.
    """
    while True:
        kept = _Kept()
        try:
            return await ask(kept)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
            if not kept.reused:
                raise


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytearray:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            # Closing is cheaper than reading what nobody wants; the status is known already.
            response.close()
            break
    return content


def _joined(response: aiohttp.ClientResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def _refused_by_proxy(error: aiohttp.ClientHttpProxyError, origin: str) -> HandlerError:
    """A proxy has answered CONNECT, but not with a connection."""
    if error.status in {401, 407}:  # 407 is right, and 401 what some say
        status = status_line(error.status)
        return Misconfigured(f"the proxy wants another user or password: {status}")
    said = f"the proxy did not connect to {origin}: {status_line(error.status)}"
    # It will go on to say no to any event; no event is to blame.
    return Misconfigured(said) if 400 <= error.status < 500 else Unreachable(said)


def _is_at(fault: Exception, proxy: str | None) -> bool:
    """Whether it is this proxy to which no connection came about."""
    if proxy is None or not isinstance(fault, aiohttp.ClientConnectorError):
        return False
    parts = URL(proxy)
    return (fault.host, fault.port) == (parts.raw_host, parts.port)


def _unreached(fault: Exception, to: str) -> HandlerError:
    """No connection came about: nobody could, or we may not."""
    why = getattr(fault, "os_error", None)
    if isinstance(why, Refused):
        return Misconfigured(f"no connection to {to}: {why}")
    return Unreachable(_reason(fault, to))


def _reason(error: Exception, origin: str) -> str:
    match error:
        case aiohttp.ClientPayloadError() | lean_http.BrokeOffError():
            said = f"the answer of {origin} broke off"
        case aiohttp.ClientResponseError():
            said = f"the answer of {origin} is not HTTP: {error.message.splitlines()[0]}"
        case lean_http.NotHttpError():
            said = f"the answer of {origin} is not HTTP: {error}"
        case aiohttp.ServerDisconnectedError() | lean_http.ClosedError():
            said = f"{origin} closed the connection without an answer"
        case aiohttp.ClientConnectorError() | lean_http.UnknownHostError():
            said = f"no connection to {origin}: {_unconnected(error)}"
        case lean_http.UnreachableError(os_error=os_error):
            said = f"no connection to {origin}: {_os_fault(os_error)}"
        case lean_http.ConnectionBrokenError(os_error=os_error):
            said = f"the connection to {origin} broke: {_os_fault(os_error)}"
        case OSError():
            said = f"the connection to {origin} broke: {_os_fault(error)}"
        case _:
            said = f"no answer of {origin}: {error or type(error).__name__}"
    return said


def _unconnected(error: aiohttp.ClientConnectorError | lean_http.UnknownHostError) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError() | lean_http.UnknownHostError():
            return "the host name is not known"
        case aiohttp.ClientConnectorCertificateError():
            return _untrusted(error.certificate_error)
        case aiohttp.ClientSSLError():
            return _tls_fault(error.os_error)
        case _:
            return _os_fault(error.os_error)


def _tls_fault(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return _untrusted(error)
        case ssl.SSLError(reason=str(reason)):
            return f"TLS: {reason.lower().replace('_', ' ')}"
        case _:
            return f"TLS: {_os_fault(error)}"


def _untrusted(error: Exception) -> str:
    return f"its certificate is not trusted: {getattr(error, 'verify_message', '') or str(error)}"


def _os_fault(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _message(first_line: str, headers: Mapping[str, str], body: str) -> str:
    lines = [first_line, *(f"{name}: {value}" for name, value in headers.items()), "", body]
    return "\n".join(lines)


def _cut(text: str) -> str:
    if len(text) <= EXCHANGE_LIMIT:
        return text
    return f"{text[:EXCHANGE_LIMIT]}\n... ({len(text) - EXCHANGE_LIMIT} more characters)"
