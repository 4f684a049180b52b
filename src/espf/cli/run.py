"""evctl run: the APIs, the worker and the billing clock in one process."""

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
import uvicorn
from sqlalchemy import Connection, inspect

from espf.billing import clock
from espf.cli.group import Office, office
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


@click.command()
def run() -> None:
    """Serve the APIs and deliver events until interrupted.

    SIGTERM and Ctrl-C finish what is in flight (at most stop_grace seconds); what is cut off is
    delivered again at the next start, under the same number.
    """
    configure_diagnostics()
    with office() as at:
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
    password = settings.billing_password
    return BillingClient(
        client,
        settings.billing_url or own,
        settings.billing_login or SERVICE_LOGIN,
        password.get_secret_value() if password else service_password(at.sealer),
    ).for_environment


async def _tick(database: Database) -> None:
    """Let time pass in the reference billing, if there is one."""
    while True:
        more = False
        with suppress(DatabaseUnavailable):
            if await database.fetch(_has_reference_billing):
                more = (await database.write(_pass_time, database)).more
        await asyncio.sleep(0 if more else BILLING_CLOCK_SECONDS)


def _pass_time(connection: Connection, database: Database) -> clock.Tick:
    return clock.tick(connection, database.now(connection))


def _has_reference_billing(connection: Connection) -> bool:
    return inspect(connection).has_table("Accounts") and inspect(connection).has_table(
        "Service_Quotas"
    )
