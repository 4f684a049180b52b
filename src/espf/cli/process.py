"""What ``evctl run`` runs: the APIs, the worker and the billing clock in one process."""

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from espf.cli.billing import pass_time
from espf.cli.group import Office
from espf.db.database import Database
from espf.errors import DatabaseUnavailable, SettingsError
from espf.handlers.base import Billing
from espf.handlers.billing_client import BillingClient
from espf.handlers.http import HttpClient
from espf.settings import Settings
from espf.telemetry import ProvisioningLog, configure_diagnostics
from espf.users import SERVICE_LOGIN, service_password
from espf.web.app import build_app
from espf.worker.worker import Worker

_log = logging.getLogger(__name__)

BILLING_CLOCK_SECONDS = 60.0


def run_until_stopped(at: Office) -> None:
    """Serve and deliver until SIGTERM or SIGINT. Raises SettingsError before anything starts."""
    configure_diagnostics()
    server = _server(at)
    log = ProvisioningLog(at.settings.log)
    asyncio.run(_run(at, server, _listen(at.settings), log))
    log.close()


async def _run(
    at: Office, server: uvicorn.Server, listening: socket.socket, log: ProvisioningLog
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with HttpClient() as client:
        worker = Worker(
            at.database,
            at.sealer,
            log,
            client,
            _billing(at, client, listening.getsockname()[1]),
            at.settings.stop_grace,
        )
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(_serve(server, listening, stop))
            working = group.create_task(worker.run(stop))
            ticking = group.create_task(_tick(at.database))
            await stop.wait()
            _log.info("stopping")
            await working
            server.should_exit = True
            await serving
            ticking.cancel()


async def _serve(server: uvicorn.Server, listening: socket.socket, stop: asyncio.Event) -> None:
    await server.serve([listening])
    # Without the APIs the process is not worth keeping: whoever supervises it starts it again.
    stop.set()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one way to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def _server(at: Office) -> _Server:
    config = uvicorn.Config(
        build_app(at.database, at.sealer),
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    return _Server(config)


def _listen(settings: Settings) -> socket.socket:
    """Take the address; port 0 is any free one. Raises SettingsError when it cannot be had."""
    host, port = settings.address
    if not _is_loopback(host):
        _log.warning("listening on %s without TLS; put a proxy with TLS in front", host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"ESPF_LISTEN: cannot listen on {settings.listen}: {error}") from None
    shown = f"[{host}]" if ":" in host else host
    _log.info("listening on http://%s:%d", shown, listening.getsockname()[1])
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _billing(at: Office, client: HttpClient, port: int) -> Callable[[int], Billing]:
    """The way of the handlers to the billing API: the one configured, or our own."""
    settings = at.settings
    host, _ = settings.address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (not a bind)
    own = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    url, login, password = own, SERVICE_LOGIN, service_password(at.sealer)
    if settings.billing_url and settings.billing_login and settings.billing_password:
        url, login = settings.billing_url, settings.billing_login
        password = settings.billing_password.get_secret_value()
    return BillingClient(client, url, login, password).for_environment


async def _tick(database: Database) -> None:
    """Let time pass in the reference billing, if there is one."""
    while True:
        passed = None
        with suppress(DatabaseUnavailable):
            passed = await database.write(pass_time, database)
        await asyncio.sleep(0 if passed and passed.more else BILLING_CLOCK_SECONDS)
