"""An external application for tests: a real HTTP server that records and misbehaves on command.

async with Webhook() as hook:
    hook.then(Answer(503, {"Retry-After": "7"}), Answer(fault="hang"))
    ... something posts to hook.url ...
    await hook.wait_for(3)
    assert hook.requests[0].json["event_type"] == "Account/New"
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Request:
    """What came in. Header names in ``headers`` are lower-case; ``head`` has them as sent."""

    line: str
    head: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    received_at: float

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self.head}

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def i_event(self) -> int:
        return self.json["variables"]["i_event"]


@dataclass(frozen=True)
class Answer:
    """What goes out, ``delay`` seconds after the request was read, and not before ``after`` is set.

    Faults: ``hang`` never answers, ``close`` closes the connection without a word, ``reset`` does
    so rudely, ``half`` breaks off in the body, ``garbage`` does not speak HTTP.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | bytes = b""
    delay: float = 0.0
    after: asyncio.Event | None = None
    fault: Literal["hang", "close", "reset", "half", "garbage"] | None = None


class Webhook:
    """A server on ``host``. It answers what was given to ``then``, later what ``always`` says.

    ``always`` may be an answer, or a function from the request to one.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.always: Answer | Callable[[Request], Answer] = Answer()
        self.in_progress = 0
        self.most_in_progress = 0
        self.connections = 0
        self._tls = tls
        self._host = host
        self._script: deque[Answer] = deque()
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        """Listen; with ``port`` on the one of an earlier server, to come back after an outage."""
        self._server = await asyncio.start_server(
            self._connected, self._host, port, ssl=self._tls, backlog=1024
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def stop(self) -> None:
        """Stop listening and cut every connection, also one that was being accepted."""
        self._server.close()
        await asyncio.sleep(0.001)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            # To close one would wait until the other side has read what was sent.
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    def then(self, *answers: Answer) -> None:
        """Give these answers to the next requests, in this order."""
        self._script.extend(answers)

    async def wait_for(self, count: int, timeout_seconds: float = 60.0) -> list[Request]:
        """Wait until ``count`` requests have come; returns all of them."""
        async with asyncio.timeout(timeout_seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.connections += 1
        number = self.connections
        try:
            # Being cancelled is how a connection ends in stop().
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError
            ):
                while await self._serve(number, reader, writer):
                    pass
        finally:
            writer.close()

    async def _serve(
        self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        head = tuple(
            (name, value.strip()) for name, _, value in (h.partition(":") for h in lines[1:])
        )
        length = {name.lower(): value for name, value in head}.get("content-length", "0")
        body = await reader.readexactly(int(length))
        request = Request(lines[0], head, body, connection, time.monotonic())
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        answer = self._script.popleft() if self._script else self._usual(request)
        self.in_progress += 1
        self.most_in_progress = max(self.most_in_progress, self.in_progress)
        try:
            await asyncio.sleep(answer.delay)
            if answer.after is not None:
                await answer.after.wait()
            return await _give(answer, writer)
        finally:
            self.in_progress -= 1

    def _usual(self, request: Request) -> Answer:
        return self.always if isinstance(self.always, Answer) else self.always(request)


async def _give(answer: Answer, writer: asyncio.StreamWriter) -> bool:
    """Send an answer; returns whether the connection stays open."""
    body = answer.body.encode() if isinstance(answer.body, str) else answer.body
    head = [f"HTTP/1.1 {answer.status} Whatever", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in answer.headers.items()]
    message = "\r\n".join([*head, "", ""]).encode("latin-1") + body
    match answer.fault:
        case "hang":
            await asyncio.Event().wait()
        case "close":
            return False
        case "reset":
            # Closing without lingering sends RST instead of FIN.
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        case "half":
            writer.write(message[: -max(1, len(body) // 2)])
            await writer.drain()
            return False
        case "garbage":
            writer.write(b"220 mail.example.net ESMTP\r\n\r\n")
            await writer.drain()
            return False
        case None:
            writer.write(message)
            await writer.drain()
    return True
