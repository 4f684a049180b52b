"""The web server: uvicorn with limits, a patience that ends, and TLS that follows its files."""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from espf.errors import SettingsError

_log = logging.getLogger(__name__)

#: The longest request line and headers together, in bytes.
HEAD_BYTES = 32 * 1024

#: How long a client may take over them, from the connection or from their first byte.
HEAD_SECONDS = 20.0

#: Connections of a server; whoever comes on top is answered 503.
CONNECTIONS = 1000

#: How often it is looked whether the certificate is another.
TLS_LOOK_SECONDS = 10.0

#: Told over our own TLS: come back by TLS only, for a year.
_ONLY_TLS = ("Strict-Transport-Security", "max-age=31536000")


@dataclass(frozen=True)
class Tls:
    """The files of a certificate, with its chain, and of its key."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """What connections are secured by. Raises SettingsError."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(made)
        return made

    async def follow(self, context: ssl.SSLContext) -> None:
        """Have new connections use what the files hold, whenever that changes, until cancelled."""
        loaded = self._state()
        while True:
            await asyncio.sleep(TLS_LOOK_SECONDS)
            state = self._state()
            if state == loaded:
                continue
            loaded = state
            try:
                # A pair that does not fit, half of it being written, must leave the old one in use.
                self.context()
                self._load(context)
            except SettingsError as error:
                _log.error("the certificate stays as it was: %s", error)
            else:
                _log.info("the certificate is loaded anew from %s", self.certificate)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"ESPF_TLS_CERTIFICATE, ESPF_TLS_KEY: {self.certificate} and {self.key} "
                f"cannot be used: {error}"
            ) from None

    def _state(self) -> tuple[object, ...]:
        try:
            stats = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in stats)


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one way to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def server(
    app: Starlette, trusted_proxies: Sequence[str] = (), context: ssl.SSLContext | None = None
) -> Server:
    """A server for the application, with TLS where there is a ``context``.

    Who the client is and by which scheme it came (``X-Forwarded-For``, ``-Proto``) is believed of
    ``trusted_proxies``, addresses and networks, and of nobody else.
    """
    config = uvicorn.Config(
        app,
        http=_Patient,
        access_log=False,
        log_config=None,
        lifespan="off",
        ws="none",
        server_header=False,
        headers=[_ONLY_TLS] if context else [],
        forwarded_allow_ips=list(trusted_proxies),
        proxy_headers=bool(trusted_proxies),
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=5,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    return Server(config)


class _Patient(H11Protocol):
    """A connection that is closed when the head of a request does not come to its end."""

    _give_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        else:
            self._await_nothing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_nothing()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._give_up is None:
            self._give_up = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _await_nothing(self) -> None:
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
