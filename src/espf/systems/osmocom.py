"""The two ways into an Osmocom program: CTRL for machines, VTY for people.

CTRL (the control interface) carries requests with numbers in frames of the IPA protocol, so that
many may be under way on one connection. VTY is a command line; it is needed where only its commands
tell the network at once. Facts: OsmoHLR's user manual, and what version 1.5.0 was seen to answer.
"""

import asyncio
import re
import struct
from contextlib import suppress
from itertools import count

from espf.errors import TryLater, Unreachable
from espf.handlers.base import Context

#: A frame: its length, the stream (of extended protocols), and the protocol (CTRL).
_HEAD = struct.Struct("!HB")
_EXTENDED = 0xEE
_CTRL = 0x00

_PROMPT = re.compile(r"(?:^|\n)[\w.-]+(?:\([\w-]+\))?[>#] $")

#: Telnet's negotiation of options, which VTY opens with.
_NEGOTIATION = re.compile(rb"\xff[\xfb-\xfe].")


class Refused(Exception):
    """The program has refused a request; its words."""


class Ctrl:
    """A CTRL connection that is opened when it is needed, and again when it has broken."""

    def __init__(self, host: str, port: int, timeout_seconds: float) -> None:
        self._at = (host, port)
        self._timeout = timeout_seconds
        self._opening = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._numbers = count(1)
        self._asked: dict[str, asyncio.Future[str]] = {}

    async def get(self, variable: str, context: Context) -> str:
        """The value of a variable. Raises Refused, or TryLater when there is no answer."""
        return await self._ask("GET", variable, context)

    async def set(self, variable: str, value: str, context: Context) -> str:
        """Set a variable, or do what it stands for; the answer's text. Raises as ``get``."""
        return await self._ask("SET", f"{variable} {value}", context)

    async def close(self) -> None:
        """Hang up."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        self._broke()

    async def _ask(self, verb: str, rest: str, context: Context) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                writer = await self._connected(context)
                number = str(next(self._numbers))
                answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                self._asked[number] = answer
                try:
                    text = f"{verb} {number} {rest}".encode("ascii", "replace")
                    writer.write(_HEAD.pack(len(text) + 1, _EXTENDED) + bytes([_CTRL]) + text)
                    await writer.drain()
                    return await answer
                finally:
                    self._asked.pop(number, None)
        except TimeoutError:
            raise TryLater(f"no answer of {_place(self._at)} within {self._timeout:g} s") from None
        except OSError as error:
            self._broke()
            raise TryLater(f"the connection to {_place(self._at)} broke: {error}") from error

    async def _connected(self, context: Context) -> asyncio.StreamWriter:
        async with self._opening:
            if self._writer is None or self._writer.is_closing():
                reader, self._writer = await _connection(self._at, context)
                self._reader = asyncio.create_task(self._read(reader))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                length, stream = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                body = await reader.readexactly(length)
                if stream == _EXTENDED and body[:1] == bytes([_CTRL]):
                    self._heard(body[1:].decode("ascii", "replace"))
        except (asyncio.IncompleteReadError, OSError):
            self._broke()

    def _heard(self, text: str) -> None:
        verb, _, rest = text.partition(" ")
        number, _, said = rest.partition(" ")
        answer = self._asked.get(number)
        if answer is None or answer.done():
            return  # a TRAP, which nobody asked for, or an answer that came too late
        if verb == "ERROR":
            answer.set_exception(Refused(said))
        else:
            answer.set_result(said.partition(" ")[2])

    def _broke(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionError("closed by the other side"))


class Vty:
    """A command line that is opened when it is needed; one command at a time."""

    def __init__(self, host: str, port: int, timeout_seconds: float) -> None:
        self._at = (host, port)
        self._timeout = timeout_seconds
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, command: str, context: Context) -> str:
        """Run one command; what it prints. Raises TryLater when there is no answer.

        The command must be one line: another line would be another command.
        """
        assert "\n" not in command, "a command is one line"
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    if self._streams is not None and self._streams[0].at_eof():
                        await self._hang_up()  # it was closed while nobody used it
                    if self._streams is None:
                        self._streams = await _connection(self._at, context)
                        await self._until_prompt()
                        await self._say("enable")
                    printed = await self._say(command)
            except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
                await self._hang_up()
                why = "no answer in time" if isinstance(error, TimeoutError) else "it broke"
                raise TryLater(f"the VTY of {_place(self._at)}: {why}") from error
            return printed

    async def close(self) -> None:
        """Hang up."""
        async with self._turn:
            await self._hang_up()

    async def _say(self, line: str) -> str:
        assert self._streams is not None
        self._streams[1].write(f"{line}\n".encode("ascii", "replace"))
        # What was typed comes back first.
        return (await self._until_prompt()).replace("\r", "").removeprefix(line).strip()

    async def _until_prompt(self) -> str:
        assert self._streams is not None
        heard = b""
        while True:
            chunk = await self._streams[0].read(4096)
            if not chunk:
                raise ConnectionError("closed by the other side")
            heard += chunk
            text = _NEGOTIATION.sub(b"", heard).decode("ascii", "replace")
            if _PROMPT.search(text.replace("\r", "")):
                return _PROMPT.sub("", text.replace("\r", ""))

    async def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _connection(
    at: tuple[str, int], context: Context
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = await context.http.resolve(*at)
    try:
        return await asyncio.open_connection(address, at[1])
    except OSError as error:
        raise Unreachable(f"no connection to {_place(at)}: {error.strerror or error}") from error


def _place(at: tuple[str, int]) -> str:
    return f"{at[0]}:{at[1]}"
