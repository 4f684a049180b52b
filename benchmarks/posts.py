"""ESPF's HTTP client and nothing else: the limit of what one process can deliver.

``python -m benchmarks.posts URL COUNT`` prints the requests per second, 50 at a time.
"""

import asyncio
import sys
import time

from espf.handlers.http import HttpClient

CONCURRENCY = 50
_BODY = b'{"event_type":"Account/Blocked","variables":{"i_env":3,"i_account":541,"i_event":1}}'


async def rate(url: str, count: int) -> float:
    """Requests per second."""
    left = iter(range(count))
    headers = {"Content-Type": "application/json", "Date": "Thu, 12 Apr 2018 15:24:00 GMT"}
    async with HttpClient() as client:

        async def post() -> None:
            for _ in left:
                await client.post(url, _BODY, headers, 30.0)

        started = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(CONCURRENCY)))
        return count / (time.perf_counter() - started)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    print(run(rate(sys.argv[1], int(sys.argv[2]))))
