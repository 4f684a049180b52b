"""NATS JetStream as a sender of events needs it: one connection, and an ack for each message.

The library reconnects by itself, to whatever servers it hears of. Here it does not: a connection
that breaks is made anew by the next attempt, to an address that may be called, and whoever waits
for an ack on it is told at once. Nothing is kept back to be sent later, behind an attempt's back.
"""

import asyncio
import base64
import binascii
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.js import errors as js_errors
from nats.js.api import StorageType, StreamConfig, StreamInfo

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.base import Context

#: A connection on which nothing is heard for three times so long is dead.
_PING_SECONDS = 10

#: How long to wait until a connection is closed.
_CLOSING_SECONDS = 1.0

#: What stands in a .creds file.
_JWT = "NATS USER JWT"
_SEED = "USER NKEY SEED"

#: Why a server does not let somebody in, in its words.
_UNKNOWN_USER = re.compile(
    r"authorization violation|authentication (expired|revoked)", re.IGNORECASE
)

#: Codes of JetStream: a message is too large for its stream; JetStream is off, for all or for us.
_TOO_LARGE = 10054
_SWITCHED_OFF = frozenset({10039, 10076})

#: Codes of JetStream: somebody has made the stream meanwhile.
_STREAM_EXISTS = 10058


@dataclass(frozen=True)
class Login:
    """How the server knows us: by a user, by a token, or by a file of credentials.

    ``credentials`` is the text of such a file: a JWT and the seed of a key.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    credentials: str = field(default="", repr=False)


@dataclass(frozen=True)
class Stream:
    """The stream that messages are for; the rest is for one that is ``made`` where there is none.

    ``subjects`` as a pattern; ``max_age`` and ``duplicate_window`` are seconds, 0 for any age.
    """

    name: str
    made: bool
    subjects: str
    max_age: float
    duplicate_window: float
    replicas: int


@dataclass(frozen=True)
class Ack:
    """A message is stored, as this one of the stream; ``was_there``: it had been already."""

    stream: str
    number: int
    was_there: bool


class JetStream:
    """Publishes to one stream; connects when it is needed. ``servers`` are tried in their order."""

    def __init__(
        self,
        servers: Sequence[tuple[str, int]],
        login: Login,
        stream: Stream,
        timeout_seconds: float,
        *,
        tls: bool = False,
        ca_file: str = "",
    ) -> None:
        self._servers = servers
        self._login = login
        self._stream = stream
        self._timeout = timeout_seconds
        self._tls = tls
        self._ca_file = ca_file
        self._turn = asyncio.Lock()
        self._connection: _Connection | None = None

    async def publish(
        self, subject: str, body: bytes, headers: Mapping[str, str], context: Context
    ) -> Ack:
        """Store one message. Raises the verdict when that is not known to have been done."""
        connection = await self._ready(context)
        try:
            async with connection.patience(self._timeout):
                ack = await connection.jetstream().publish(
                    subject,
                    body,
                    timeout=self._timeout + 1,
                    stream=self._stream.name,
                    headers=dict(headers),
                )
        except TimeoutError:
            raise connection.silence(subject, f"no ack within {self._timeout:g} s") from None
        except js_errors.NoStreamResponseError:
            raise await self._unheard(connection, subject) from None
        except (nats.errors.Error, OSError, ValueError) as error:
            raise _verdict(error) from error
        return Ack(ack.stream, ack.seq, bool(ack.duplicate))

    async def look(self, context: Context) -> str:
        """Connect, and say what is there; changes nothing. Raises as ``publish``."""
        async with self._turn:
            connection = await self._connect(context)
            try:
                found = await self._find(connection)
            finally:
                await connection.hang_up()
        version = connection.connected_server_version
        server = f"NATS {version.major}.{version.minor}.{version.patch} answers"
        name = self._stream.name
        if found is not None:
            return f"{server}; the stream {name} holds {found.state.messages} messages"
        if not self._stream.made:
            raise Misconfigured(f"{server}, and has no stream {name}")
        return f"{server}; the stream {name} comes with the first event"

    async def close(self) -> None:
        """Hang up."""
        async with self._turn:
            if self._connection is not None:
                await self._connection.hang_up()
                self._connection = None

    async def _ready(self, context: Context) -> "_Connection":
        """A connection to a server that has the stream."""
        # Each server has its time, and so has the stream; others may wait for the same.
        within = (len(self._servers) + 1) * self._timeout
        try:
            async with asyncio.timeout(within), self._turn:
                connection = self._connection
                if connection is None or not connection.is_connected:
                    if connection is not None:
                        await connection.hang_up()
                    connection = self._connection = await self._connect(context)
                if not connection.has_stream:
                    await self._make(connection)
                    connection.has_stream = True
        except TimeoutError:
            raise Unreachable(f"no connection within {within:g} s") from None
        return connection

    async def _connect(self, context: Context) -> "_Connection":
        fault = Unreachable("there is no server")
        for host, port in self._servers:
            connection = _Connection(self._login, needs_tls=self._tls)
            try:
                address = await context.http.resolve(host, port)
                async with asyncio.timeout(self._timeout):
                    await connection.reach(address, host, port, _trusted(self._ca_file))
            except Unreachable as error:
                fault = error
            except TimeoutError:
                fault = Unreachable(f"no connection to {host}:{port} within {self._timeout:g} s")
            except (nats.errors.Error, OSError, ValueError) as error:
                await connection.hang_up()
                if _UNKNOWN_USER.search(str(error)):
                    raise Misconfigured(f"{host}:{port} does not let us in: {error}") from None
                fault = Unreachable(f"no connection to {host}:{port}: {_told(error)}")
            except BaseException:
                await connection.hang_up()
                raise
            else:
                return connection
            await connection.hang_up()
        raise fault

    async def _find(self, connection: "_Connection") -> StreamInfo | None:
        """The stream; None: there is none."""
        try:
            async with connection.patience(self._timeout):
                return await connection.jetstream(timeout=self._timeout + 1).stream_info(
                    self._stream.name
                )
        except js_errors.NotFoundError:
            return None
        except TimeoutError:
            name = "$JS.API"
            raise connection.silence(name, f"no answer within {self._timeout:g} s") from None
        except (nats.errors.Error, OSError, ValueError) as error:
            raise _verdict(error) from error

    async def _make(self, connection: "_Connection") -> None:
        """Make the stream, if there is none and it may be made."""
        stream = self._stream
        if await self._find(connection) is not None:
            return
        if not stream.made:
            raise Misconfigured(f"there is no stream {stream.name}")
        config = StreamConfig(
            name=stream.name,
            subjects=[stream.subjects],
            storage=StorageType.FILE,
            max_age=stream.max_age,
            duplicate_window=stream.duplicate_window,
            num_replicas=stream.replicas,
        )
        try:
            async with connection.patience(self._timeout):
                await connection.jetstream(timeout=self._timeout + 1).add_stream(config)
        except TimeoutError:
            said = f"no answer within {self._timeout:g} s"
            raise connection.silence("$JS.API", said) from None
        except js_errors.APIError as error:
            if error.err_code != _STREAM_EXISTS:
                raise _verdict(error) from error
        except (nats.errors.Error, OSError, ValueError) as error:
            raise _verdict(error) from error

    async def _unheard(self, connection: "_Connection", subject: str) -> HandlerError:
        """Why nobody has taken a message of this subject."""
        name = self._stream.name
        found = await self._find(connection)
        if found is None:
            connection.has_stream = False
            gone = f"there is no stream {name}"
            return TryLater(f"{gone} any more") if self._stream.made else Misconfigured(gone)
        takes = found.config.subjects or []
        if any(_covers(pattern, subject) for pattern in takes):
            return TryLater(f"the stream {name} does not answer")
        return Misconfigured(f"the stream {name} takes {', '.join(takes)}, and not {subject}")


class _Connection(Client):
    """A connection that says when it is lost, and gives no secret to a server without TLS."""

    def __init__(self, login: Login, *, needs_tls: bool) -> None:
        super().__init__()
        self.has_stream = False
        self._login = login
        self._needs_tls = needs_tls
        self._is_private = False
        self._is_calling = False
        self._refusal = ""
        self._clocks: set[asyncio.Timeout] = set()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """See Client, which asks for it when it begins TLS."""
        self._is_private = True
        return super().ssl_context

    async def reach(self, address: str, host: str, port: int, trusted: ssl.SSLContext) -> None:
        """Connect; raises what goes wrong."""
        self._is_calling = True
        try:
            await self.connect(
                f"nats://{f'[{address}]' if ':' in address else address}:{port}",
                error_cb=self._heard,
                name="ESPF",
                allow_reconnect=False,
                connect_timeout=300,  # there is a limit around it
                ping_interval=_PING_SECONDS,
                tls=trusted,
                tls_hostname=host,
                **self._known_by(),
            )
        finally:
            self._is_calling = False
        self._must_be_private()

    async def hang_up(self) -> None:
        """Close it, whatever state it is in."""
        # Where TLS did not come about, the library waits in vain for the end of what was before.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                if self.options:  # else it was never opened
                    await self.close()

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncIterator[None]:
        """Wait for an answer so long, and no longer than the connection lasts."""
        async with asyncio.timeout(seconds) as clock:
            self._clocks.add(clock)
            try:
                yield
            finally:
                self._clocks.discard(clock)

    def silence(self, subject: str, said: str) -> HandlerError:
        """What it means that there was no answer."""
        if subject.lower() in self._refusal or "subscription" in self._refusal:
            return Misconfigured(self._refusal)
        if self.is_closed:
            why = self.last_error
            return TryLater("the connection broke" + (f": {_told(why)}" if why else ""))
        return TryLater(said)

    def _known_by(self) -> dict[str, Any]:
        """How the library is told who we are: by questions, which it asks when TLS has begun."""
        login = self._login

        def privately(secret: str) -> Callable[[], str]:
            def tell() -> str:
                self._must_be_private()
                return secret

            return tell

        if login.user:
            return {"user": privately(login.user), "password": privately(login.password)}
        if login.token:
            return {"token": privately(login.token)}
        if not login.credentials:
            return {}
        jwt, seed = read_credentials(login.credentials)
        key = read_seed(seed)

        def sign(nonce: str) -> bytes:
            self._must_be_private()
            return base64.b64encode(key.sign(nonce.encode()))

        return {"user_jwt_cb": jwt.encode, "signature_cb": sign}

    def _must_be_private(self) -> None:
        if self._needs_tls and not self._is_private:
            raise Misconfigured("the server does not speak TLS, and it must by NatsSender.TLS")

    async def _heard(self, error: Exception) -> None:
        if self._is_calling:
            raise error  # else the library would call again
        if "permissions violation" in str(error):
            self._refusal = str(error)
            self._wake()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # The library's own callback is forgotten where the rest of what was to be sent fails.
        try:
            await super()._close(status, do_cbs)
        finally:
            self._wake()

    def _wake(self) -> None:
        """Whoever waits need not wait any longer."""
        for clock in self._clocks:
            if not clock.expired():
                clock.reschedule(0)


def read_credentials(text: str) -> tuple[str, str]:
    """The JWT and the seed in the text of a .creds file, whose line breaks may be lost.

    Raises ValueError when they are not there.
    """
    parts = re.findall(r"-{5,6}BEGIN ([A-Z ]+)-{5,6}\s*(\S+?)\s*-{5,6}END \1-{5,6}", text)
    found = dict(parts)
    if not {_JWT, _SEED} <= found.keys():
        raise ValueError("the text of a .creds file is expected: a NATS USER JWT and its SEED")
    return found[_JWT], found[_SEED]


def read_seed(seed: str) -> Ed25519PrivateKey:
    """The key of a seed. Raises ValueError when it is none."""
    try:
        # Two bytes say what it is, the last two are a sum.
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    if len(raw) != 36 or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError("the USER NKEY SEED is damaged")
    return Ed25519PrivateKey.from_private_bytes(raw[2:34])


def _trusted(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except ssl.SSLError:
        raise Misconfigured(f"{ca_file} is not a file of PEM certificates") from None
    except OSError as error:
        raise Misconfigured(f"cannot read {ca_file}: {_told(error)}") from None


def _covers(pattern: str, subject: str) -> bool:
    """Whether a stream of these subjects takes this one."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, given = wanted[:-1], given[: len(wanted) - 1] if len(given) >= len(wanted) else []
    return len(wanted) == len(given) and all(
        one in {"*", other} for one, other in zip(wanted, given, strict=True)
    )


def _verdict(error: Exception) -> HandlerError:
    """What a fault of publishing means for the event."""
    if isinstance(error, nats.errors.MaxPayloadError):
        return Rejected("the event is larger than the server takes")
    if not isinstance(error, js_errors.APIError):
        return TryLater(_told(error))
    said = f"JetStream: {error.description or 'it does not answer'} ({error.err_code})"
    if error.err_code == _TOO_LARGE:
        return Rejected(said)
    # What is refused is wrong with the stream or our rights there; no event is to blame.
    if error.err_code in _SWITCHED_OFF or 400 <= (error.code or 503) < 500:
        return Misconfigured(said)
    return TryLater(said)


def _told(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS: {reason.lower().replace('_', ' ')}"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case _:
            return str(error).removeprefix("nats: ") or type(error).__name__
