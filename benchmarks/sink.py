"""An application that does nothing but say 200, in a process of its own.

It answers before it thinks. With ``record`` it remembers when each body came, and tells it when it
is asked to end.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Sink:
    """The sink from outside: its address, and what it remembers at the end."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    async def end(self) -> list[tuple[float, dict[str, Any]]]:
        """Stop it; returns when (on the clock of the machine) which event came."""
        said, _ = await self._process.communicate(b"end\n")
        return [(at, json.loads(body)) for at, body in json.loads(said)]


@asynccontextmanager
async def running_sink(*, record: bool = False) -> AsyncIterator[Sink]:
    """A sink, for as long as the block lasts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.sink", "record" if record else "forget"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield Sink(process, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _Connection(asyncio.Protocol):
    def __init__(self, seen: list[tuple[float, str]] | None) -> None:
        self._seen = seen
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            whole = end + 4 + length
            if len(self._data) < whole:
                return
            self._transport.write(_REPLY)
            if self._seen is not None:
                self._seen.append((time.monotonic(), self._data[end + 4 : whole].decode()))
            self._data = self._data[whole:]


async def _serve(*, record: bool) -> None:
    seen: list[tuple[float, str]] | None = [] if record else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(seen), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    print(json.dumps(seen or []))


if __name__ == "__main__":
    asyncio.run(_serve(record=sys.argv[1] == "record"))
