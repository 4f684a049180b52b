"""A handler without a billing, for what it says to its system and makes of the answers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from espf.handlers.base import Context, Handler
from espf.handlers.http import Http, HttpClient
from espf.handlers.registry import read_settings
from espf.testing import FakeBilling, FakeOutlet

#: A billing that knows one account, of the product Family TV.
ONE_ACCOUNT = FakeBilling(
    {
        "Account/get_account_info": {
            "account_info": {"i_account": 541, "id": "ann", "product_name": "Family TV"}
        }
    }
)


@asynccontextmanager
async def alone(
    handler_class: type[Handler], options: Mapping[str, object]
) -> AsyncIterator[tuple[Handler, Context]]:
    """The handler, open, and a context in which to ask it."""
    handler = handler_class(read_settings(handler_class.Settings, options))
    async with HttpClient() as client:
        await handler.open()
        secrets = [*handler.secrets()]
        try:
            http = Http(client, secrets)
            yield handler, Context(http, FakeBilling(), 1, FakeOutlet(), secrets=secrets)
        finally:
            await handler.close()
