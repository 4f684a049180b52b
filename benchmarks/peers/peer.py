# mypy: ignore-errors
"""What the Python peers share: their words on the command line, and the client of their world.

PEER setup EVENTS HANDLERS | PEER work | PEER trickle SECONDS RATE, as in peer.mjs.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine

import aiohttp
import uvloop

DATABASE_URL = os.environ["DATABASE_URL"]
MOST_HANDLERS = 2


def queues(handlers: int = MOST_HANDLERS) -> list[str]:
    return [f"post{number + 1}" for number in range(handlers)]


def event(number: int) -> dict[str, object]:
    variables = {"i_env": 3, "i_account": number % 1000 + 1, "i_event": number}
    return {"event_type": "Account/Blocked", "variables": variables}


class Poster:
    """At most 50 requests at the same time over keep-alive connections."""

    def __init__(self) -> None:
        self._url = os.environ["SINK_URL"]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=50),
            headers={"Content-Type": "application/json"},
        )

    async def __call__(self, body: str | bytes) -> None:
        async with self._session.post(self._url, data=body) as reply:
            reply.raise_for_status()
            await reply.read()


async def trickle(
    send: Callable[[dict[str, object]], Awaitable[object]], seconds: int, rate: int
) -> None:
    at = []
    begun = time.monotonic()
    for number in range(seconds * rate):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        await send(event(number + 1))
        at.append(time.monotonic_ns())
    print(json.dumps(at))


def main(**words: Callable[..., Coroutine[object, object, None]]) -> None:
    word, *numbers = sys.argv[1:]
    uvloop.run(words[word](*map(int, numbers)))
