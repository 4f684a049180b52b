"""Set-up checklist: the documents' steps, in their order; each ticks itself when it is done."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import configuration, standing, statistics, subscriptions
from espf.configuration import Configuration
from espf.statistics import Step as Span
from espf.subscriptions import EventHandler
from espf.users import ADMINISTER
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/setup")

_DISPATCHERS = (
    "CustomerToAccountsDispatcher",
    "ProductToAccountsDispatcher",
    "ServiceAttributeDispatcher",
)


@dataclass(frozen=True)
class Task:
    """One step: what is to be done, why, where, and whether it is; ``lacks``: what is not yet."""

    title: str
    why: str
    path: str | None
    done: bool
    lacks: str = ""
    optional: bool = False


@pages.get("")
async def show(visit: Annotated[Visit, Depends(Visitor())]) -> Response:
    """The checklist."""
    tasks = await visit.fetch(lambda connection: list(_tasks(connection, visit)))
    return visit.page("setup/show.html", tasks=tasks)


def _tasks(connection: Connection, visit: Visit) -> Iterator[Task]:
    database, i_env = visit.site.database, visit.i_env
    content = configuration.active(connection).content
    handlers = subscriptions.list_handlers(connection, i_env)
    workers = [one for one in standing.list_workers(connection, database) if one.alive]
    yield _instance(content, bool(workers), visit)
    senders = [one for one in handlers if one.type not in _DISPATCHERS]
    yield Task(
        "Create a handler on the web interface",
        "A handler tells one external system what has changed. EventSender tells a web application "
        "of your own.",
        _form(visit, "handlers"),
        bool(senders),
    )
    yield from _handlers(connection, senders, visit)
    yield Task(
        "Enable the ESPF components",
        "Dispatchers turn what happens to a customer or a product into events of the accounts that "
        "it affects: CustomerToAccountsDispatcher, ProductToAccountsDispatcher, "
        "ServiceAttributeDispatcher.",
        _form(visit, "handlers"),
        any(one.type in _DISPATCHERS and one.enabled for one in handlers),
    )
    told = content.provisioning
    yield Task(
        "Enable notifications upon failure",
        "Somebody hears by e-mail when provisioning fails: the group Provisioning, AlertRecipient.",
        "/system/configurations" if visit.user.superuser else None,
        bool(told.alert_recipient or told.alert_url),
        optional=True,
    )
    month = statistics.sums(connection, database, Span.HOUR, 24 * 30, i_env)
    yield Task(
        "Test the system",
        "Create a mobile account, and see under Provisioning events that it was delivered.",
        _form(visit, "accounts") if visit.guest.has_billing else visit.path("events"),
        any(one.finished for one in month.values()),
        lacks="nothing has been delivered in the last 30 days",
    )


def _form(visit: Visit, things: str) -> str:
    """Where one more is made; for who may not do that, the list of those that there are."""
    return visit.path(things, "new") if visit.user.may(ADMINISTER) else visit.path(things)


def _instance(content: Configuration, works: bool, visit: Visit) -> Task:
    enabled = [name for name, one in content.instances.items() if one.enabled]
    lacks = "" if works else "no worker is running: evctl run, or evctl worker"
    return Task(
        "Enable provisioning on the Configuration server",
        "An instance of ESPF says where a worker runs and which handlers it works for. Clone the "
        "current configuration, choose Auxiliaries, ESPF, Create instance, and apply the clone.",
        "/system/configurations" if visit.user.superuser else None,
        bool(enabled) and works,
        lacks=lacks if enabled else "the active configuration has no instance that is enabled",
    )


def _handlers(
    connection: Connection, handlers: Sequence[EventHandler], visit: Visit
) -> Iterator[Task]:
    ready = [one for one in handlers if one.missing(visit.site.sealer) is None]
    first = (ready or handlers)[0] if handlers else None
    heard = {one.name: subscriptions.subscriptions(connection, one) for one in ready}

    def path(part: str) -> str:
        if first is None:
            return visit.path("handlers")
        return visit.path("handlers", first.i_event_handler, part)

    lacks = "" if first is None else first.missing(visit.site.sealer) or ""
    yield Task(
        "Configure the handler",
        "Where its system is, how ESPF says who it is, how quickly events may come.",
        path("configuration"),
        bool(ready),
        lacks=f"{first.name}: {lacks}" if first and lacks else "",
    )
    yield Task(
        "Subscribe the handler to the provisioning events",
        "It hears of the event types that are turned on, and of no others.",
        path("subscriptions"),
        any(heard.values()),
    )
