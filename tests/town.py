"""A billing with subscribers, and one handler of a real system beside it, for the test suites.

What an administrator does goes through the billing API; the triggers make the events, and each is
handed to the handler, as the queue does, and then once more: the second time must change nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from billing_api import Api
from billing_site import Site
from espf import subscriptions
from espf.billing import environments
from espf.billing.tables import metadata
from espf.capture.rules import shipped_rules
from espf.catalogue import catalogue, fits_any
from espf.crypto import Sealer
from espf.errors import Skipped
from espf.handlers.base import Context
from espf.handlers.desired import Change, DesiredStateHandler
from espf.handlers.http import Http, HttpClient
from espf.handlers.registry import read_settings
from espf.model import Event, compact, ordering_key
from espf.testing import FakeOutlet
from espf.web.rest import render

KI = "465B5CE8B199B49FAA5F0A2EE238A6BC"
OPC = "CD63CB71954A9F4E48A5994E37A02BAF"
OTHER_KI = "0123456789ABCDEF0123456789ABCDEF"


def found(url: str, sealer: Sealer) -> None:
    """Make the database of a town: triggers on all tables, a customer, and nobody else."""
    site = Site("sqlite", url)
    with site.database.begin() as connection:
        metadata.create_all(connection)
        subscriptions.add_catalogue(connection)
        environments.add(connection, 3, "three")
    site.apply(shipped_rules())
    site.subscribe(set(catalogue()))
    customer = {"name": "Easy Call Ltd"}
    api = Api(site.database, sealer)
    assert api("Customer/add_customer", customer_info=customer) == {"i_customer": 1}
    site.events()
    site.close()


class Town:
    """One environment of the reference billing, and one handler."""

    def __init__(self, url: str, sealer: Sealer) -> None:
        """Live in what ``found`` has made."""
        self.site = Site("sqlite", url, set_up=False)
        self.database = self.site.database
        self.api = Api(self.database, sealer)
        self.api.sees_keys = True
        self.changes: list[Change] = []
        #: What each attempt would leave in the journal.
        self.journal: list[str] = []
        self._handler: DesiredStateHandler | None = None
        self._client: HttpClient | None = None
        self.products: dict[str, int] = {}
        self.i_customer = 1

    def product(self, name: str, **fields: Any) -> int:
        """The product of this name."""
        if name not in self.products:
            info = {"name": name, **fields}
            self.products[name] = self.api("Product/add_product", product_info=info)["i_product"]
        return self.products[name]

    def card(self, imsi: str, ki: str | None = KI, opc: str | None = OPC) -> int:
        """A new SIM card."""
        info = {"imsi": imsi, "iccid": f"8901{imsi}", "ki": ki, "opc": opc}
        return self.api("SIMCard/add_sim_card", card_info=info)["i_sim_card"]

    @asynccontextmanager
    async def served(
        self, handler_class: type[DesiredStateHandler], options: Mapping[str, object]
    ) -> AsyncIterator[DesiredStateHandler]:
        """The handler, open; everything that happens from now on is told to it."""
        handler = handler_class(read_settings(handler_class.Settings, options))
        apply = handler.apply

        async def applied(change: Change, context: Context) -> None:
            self.changes.append(change)
            await apply(change, context)

        handler.apply = applied  # type: ignore[method-assign]
        async with HttpClient() as client:
            self._handler, self._client = handler, client
            await handler.open()
            try:
                yield handler
            finally:
                await handler.close()
                self._handler = self._client = None

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Do something in the billing, and tell the handler of all that came of it, twice."""
        answer = self.api(method, **params)
        await self.tell()
        return answer

    async def tell(self) -> None:
        """Tell the handler of all that has happened; and again, which must change nothing."""
        assert self._handler is not None
        for event in self.events():
            await self.attempt(event)
            before = len(self.changes)
            await self.attempt(event)
            assert self.changes[before:] == [], f"{event.event_type} again changes something"

    def events(self, *patterns: str) -> list[Event]:
        """What has happened and was not told yet, as far as it is of these types.

        Without any: of those that the handler supports. The others are forgotten.
        """
        chosen = patterns or type(self.handler).supports
        return [
            Event(number, 3, name, compact(values), ordering_key(values))
            for number, (name, _, values) in enumerate(self.site.events(), 1)
            if fits_any(name, chosen)
        ]

    async def attempt(self, event: Event) -> None:
        """Hand one event to the handler; raises what it says. Nothing to do is fine."""
        context = self.context()
        context.i_event = event.i_event
        try:
            async with asyncio.timeout(60):
                await self.handler.handle(event, context)
        except Skipped:
            pass
        finally:
            self.journal += context.notes

    @property
    def handler(self) -> DesiredStateHandler:
        assert self._handler is not None, "no handler is served"
        return self._handler

    def context(self) -> Context:
        """What the handler may use for one attempt."""
        assert self._client is not None
        secrets = [*self.handler.secrets()]
        return Context(
            Http(self._client, secrets), Direct(self.api), 1, FakeOutlet(), secrets=secrets
        )

    def close(self) -> None:
        self.site.close()


class Direct:
    """The billing API without HTTP, as handlers have it."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(self._call, f"{service}/{method}", params)

    def _call(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(render(self._api(method, **params)))
        return answer

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        answer = await self.call("Account", "get_account_info", {"i_account": i_account})
        return dict(answer["account_info"])
