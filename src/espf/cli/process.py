"""What ``evctl run``, ``worker`` and ``web`` run, until they are told to stop.

Only faults of the settings end a process: a database that is away is waited for.
"""

import asyncio
import errno
import gc
import importlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import Connection

from espf import configuration
from espf.alerts import Watch
from espf.cli.billing import pass_time
from espf.cli.group import Office
from espf.configuration.checks import runs_here
from espf.db import schema
from espf.db.database import Database
from espf.errors import DatabaseUnavailable, EspfError, SettingsError
from espf.handlers.base import Billing
from espf.handlers.billing_client import BillingClient
from espf.handlers.http import HttpClient
from espf.janitor import Janitor
from espf.maintenance import take_turn
from espf.reconciler import Reconciler
from espf.settings import Settings
from espf.telemetry import ProvisioningLog, configure_diagnostics
from espf.users import SERVICE_LOGIN, service_password
from espf.web.operation import Operation, build_operation
from espf.web.server import Server, Tls, server
from espf.worker.gauges import Gauges
from espf.worker.patience import PatientDatabase
from espf.worker.worker import Worker

if TYPE_CHECKING:
    from espf.worker.tracing import Tracer

_log = logging.getLogger(__name__)


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)

#: How often the clock of the reference billing ticks, and how often a process looks whether it is
#: the one to let it.
BILLING_CLOCK = timedelta(minutes=1)
BILLING_LOOK_SECONDS = 10.0

#: So many ports are tried for metrics, from the one that is set on.
METRICS_PORTS = 20

#: How often a process looks whether the tables are still those that it was made for.
TABLES_LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class _Part:
    """What a process does: serve at a place, if it serves, and deliver, if it has a log for that.

    ``address`` is where the APIs are, of this process or of another; ``watching`` is where it tells
    how it stands; ``instance`` is the one that it works as, or "". With ``tls`` on the address,
    its own handlers reach the APIs at ``within``, on a loopback address and without it.
    """

    address: tuple[str, int]
    listening: socket.socket | None
    tls: Tls | None
    within: socket.socket | None
    watching: socket.socket | None
    log: ProvisioningLog | None
    instance: str

    @property
    def served_at(self) -> tuple[str, int]:
        """The address, with the port that was taken."""
        if self.within is not None:
            host, port = self.within.getsockname()
            return host, port
        host, port = self.address
        return host, port if self.listening is None else self.listening.getsockname()[1]


def run_until_stopped(at: Office, *, serve: bool, work: bool, instance: str = "") -> None:
    """Serve the APIs, deliver events, or both, until SIGTERM or SIGINT.

    With an ``instance``, serve at its address and deliver for its handlers. Raises SettingsError
    when the settings are wrong, or the database is not made for them; NotFound when there is no
    such instance.
    """
    as_json = at.settings.log_format == "json"
    configure_diagnostics(as_json=as_json)
    # A database that is not made for us is told of before anything begins; one that is away is
    # waited for.
    with suppress(DatabaseUnavailable), at.database.read() as connection:
        schema.require_current(connection, at.database.dialect)
    if serve:
        # Slow to import, and large: a worker does without, and whoever serves has it by now.
        importlib.import_module("espf.web.app")
    _tune()
    address = _address(at, instance, serve=serve)
    with ExitStack() as opened:

        def open_(one: T | None) -> T | None:
            return None if one is None else opened.enter_context(closing(one))

        log = open_(ProvisioningLog(at.settings.log, as_json=as_json) if work else None)
        tls = _tls(at.settings)
        listening = open_(_listen(address, tls=tls is not None) if serve else None)
        within = open_(_take("127.0.0.1", 0) if serve and tls else None)
        watching = open_(_listen_to_watchers(at.settings))
        part = _Part(address, listening, tls, within, watching, log, instance)
        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(_run(at, part))
        except BaseExceptionGroup as faults:
            raise _reason(faults) from faults


def _tune() -> None:
    """Set the interpreter up for one busy loop, and threads that mostly wait for the database."""
    # Events make no cycles of garbage, and thousands of them are held.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    # A thread that has an answer of the database waits so long for its turn, each time.
    sys.setswitchinterval(0.001)


def _new_loop() -> asyncio.AbstractEventLoop:
    """The quicker one where it is installed (the extra ``speed``)."""
    try:
        import uvloop  # noqa: PLC0415  (an extra)
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _reason(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to tell of all that went wrong at once: what ESPF itself says, if it is nothing else."""
    said, others = faults.split(EspfError)
    if said is None or others is not None:
        return faults
    first: BaseException = said
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _tls(settings: Settings) -> Tls | None:
    """The certificate that is set. Raises SettingsError when it cannot be used."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    tls = Tls(settings.tls_certificate, settings.tls_key)
    tls.context()
    return tls


def _address(at: Office, instance: str, *, serve: bool) -> tuple[str, int]:
    """Where the APIs listen: at the place of the instance that serves them, or of the settings."""
    if not instance:
        return at.settings.address

    def look(connection: Connection) -> configuration.Instance:
        return configuration.active(connection).content.instance(instance)

    # It cannot begin without; a database that is away is waited for here, too.
    found = asyncio.run(PatientDatabase(at.database).fetch(look))
    if found.server and not runs_here(found.server):
        _log.warning("instance %s is meant for the server %s", instance, found.server)
    return found.place(at.settings.address) if serve else at.settings.address


async def _run(at: Office, part: _Part) -> None:
    stop = asyncio.Event()
    serves, works = part.listening is not None, part.log is not None
    operation = Operation(at.database, at.settings.rules, serves=serves, works=works)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = []
    following: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        # They answer that the database is away, when it is.
        if part.listening is not None:
            from espf.web.app import build_app  # noqa: PLC0415  (see above)

            way = partial(_way, at, part.served_at)
            app = build_app(at.database, at.sealer, at.settings.rules, operation, way)
            context = None if part.tls is None else part.tls.context()
            servers.append((server(app, at.settings.proxies, context), part.listening))
            if part.within is not None:
                servers.append((server(app), part.within))
            if part.tls is not None and context is not None:
                following = group.create_task(part.tls.follow(context))
        if part.watching is not None:
            servers.append((server(build_operation(operation)), part.watching))
        for one, sock in servers:
            group.create_task(_serve(one, sock, stop))
        try:
            ready = PatientDatabase(at.database).fetch(schema.require_current, at.database.dialect)
            if await _unless_stopped(stop, ready):
                await _work(at, part, operation, stop)
        finally:
            # Last of all: what is in flight may still need the billing API.
            for one, _ in servers:
                one.should_exit = True
            if following is not None:
                following.cancel()


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work came to its end before the process was told to stop."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
        return False
    working.result()
    return True


async def _work(at: Office, part: _Part, operation: Operation, stop: asyncio.Event) -> None:
    """Deliver, if that is what the process is for, and do the chores, until told to stop."""
    async with HttpClient() as client, asyncio.TaskGroup() as group:
        watch = Watch(at.database, at.sealer, client, at.settings.rules)
        chores = [group.create_task(_tick(at.database)), group.create_task(watch.run())]
        upgraded = group.create_task(_upgraded(at.database, stop))
        if part.log is None:
            await stop.wait()
        else:
            chores.append(group.create_task(Janitor(at.database).run()))
            billing = way_to_billing(at, client, part.served_at)
            reconciler = Reconciler(at.database, at.sealer, client, billing, part.instance)
            chores.append(group.create_task(reconciler.run()))
            with _traced(at) as tracer:
                worker = Worker(
                    at.database,
                    at.sealer,
                    part.log,
                    client,
                    billing,
                    at.settings.stop_grace,
                    part.instance,
                    tracer,
                )
                operation.watched = Gauges(worker)
                await worker.run(stop)
        _log.info("stopped")
        for chore in chores:
            chore.cancel()
        if not upgraded.cancel():
            raise upgraded.result()


@contextmanager
def _traced(at: Office) -> Iterator["Tracer | None"]:
    """What makes traces, where that is wanted. Raises SettingsError without the packages."""
    if not at.settings.traces:
        yield None
        return
    try:
        from espf.worker.tracing import Tracer, export  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise SettingsError(
            f"ESPF_TRACES: the packages are not installed ({error}); run: pip install 'espf[otel]'"
        ) from None
    # It is as good as a secret, and the same for all processes of the installation.
    tracer = Tracer(service_password(at.sealer).encode()[:64])
    export(tracer)
    try:
        yield tracer
    finally:
        tracer.close()


async def _upgraded(database: Database, stop: asyncio.Event) -> SettingsError:
    """Return when the tables are no longer those of this release, and have everything stop.

    What is in flight comes to its end; whoever supervises the process starts the new release.
    """
    patient = PatientDatabase(database)
    while True:
        await asyncio.sleep(TABLES_LOOK_SECONDS)
        try:
            await patient.fetch(schema.require_current, database.dialect)
        except SettingsError as error:
            stop.set()
            return error


async def _serve(server: Server, listening: socket.socket, stop: asyncio.Event) -> None:
    await server.serve([listening])
    # Without the APIs the process is not worth keeping: whoever supervises it starts it again.
    stop.set()


def _listen(address: tuple[str, int], *, tls: bool) -> socket.socket:
    """Take the address; port 0 is any free one. Raises SettingsError when it cannot be had."""
    host, port = address
    if not tls and not _is_loopback(host):
        _log.warning("listening on %s without TLS; put a proxy with TLS in front", host)
    try:
        listening = _take(host, port)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"ESPF_LISTEN: cannot listen on {host}:{port}: {error}") from None
    _log.info("listening on %s", _url(listening, tls=tls))
    return listening


def _listen_to_watchers(settings: Settings) -> socket.socket | None:
    """Take the first free port for metrics; nobody delivers any less where there is none."""
    address = settings.metrics_address
    if address is None:
        return None
    host, first = address
    if not _is_loopback(host):
        _log.warning("metrics are served on %s to whoever reaches it", host)
    ports = range(first, min(first + METRICS_PORTS, 65536)) if first else [0]
    for port in ports:
        try:
            watching = _take(host, port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                continue
            raise SettingsError(
                f"ESPF_METRICS_LISTEN: cannot listen on {settings.metrics_listen}: {error}"
            ) from None
        _log.info("metrics at %s/metrics", _url(watching))
        return watching
    _log.warning("no metrics are served: the ports from %d to %d are taken", first, ports[-1])
    return None


def _take(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def _url(listening: socket.socket, *, tls: bool = False) -> str:
    host, port, *_ = listening.getsockname()
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _way(at: Office, address: tuple[str, int], client: HttpClient) -> Callable[[int], Billing]:
    return way_to_billing(at, client, address)


def way_to_billing(
    at: Office, client: HttpClient, address: tuple[str, int]
) -> Callable[[int], Billing]:
    """The way of the handlers to the billing API: the one configured, or our own at an address.

    Raises SettingsError when nothing says where it is.
    """
    settings = at.settings
    if settings.billing_url and settings.billing_login and settings.billing_password:
        login, password = settings.billing_login, settings.billing_password.get_secret_value()
        return BillingClient(client, settings.billing_url, login, password).for_environment
    host, port = address
    if settings.tls_certificate is not None and address == settings.address:
        raise SettingsError(
            "ESPF_BILLING_URL: where do the handlers reach the billing API? It is not set, and "
            "only 'evctl run' reaches its own without a name that the certificate is for"
        )
    if port == 0:
        raise SettingsError(
            "ESPF_BILLING_URL: where do the handlers reach the billing API? It is not set, and "
            "with port 0 in ESPF_LISTEN nobody knows the port of 'evctl web'"
        )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (not a bind)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return BillingClient(client, url, SERVICE_LOGIN, service_password(at.sealer)).for_environment


async def _tick(database: Database) -> None:
    """Let time pass in the reference billing, if there is one; one process at a time does."""
    while True:
        with suppress(DatabaseUnavailable):
            if await database.write(take_turn, database, f"{__name__} clock", BILLING_CLOCK):
                while (passed := await database.write(pass_time, database)) and passed.more:
                    pass
        await asyncio.sleep(BILLING_LOOK_SECONDS)
