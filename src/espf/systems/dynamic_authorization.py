"""RFC 5176: a RADIUS session that is under way is ended, or told what holds for it from now on.

The request goes by UDP to the access server (NAS) that has the session. It is signed by
Message-Authenticator, and an answer that is not signed by the shared secret is none. A NAS that
does not know us, or that has another secret, is silent.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from pyrad.packet import (  # type: ignore[import-untyped]
    CoAACK,
    CoAPacket,
    CoARequest,
    DisconnectACK,
    DisconnectRequest,
    PacketError,
)

from espf.errors import Misconfigured, Unreachable
from espf.handlers.base import Context

_USER_NAME, _NAS_IP_ADDRESS, _FILTER_ID, _SESSION_ID, _ERROR_CAUSE = 1, 4, 11, 44, 101

#: The causes by which a NAS says that there is no such session, or that it is on its way.
_NO_SESSION, _INITIATED = 503, 507

#: Causes that may be over soon.
_FOR_NOW = frozenset({504, 505, 506})

#: What RFC 5176, section 3.5, calls them.
_CAUSES = {
    401: "Unsupported Attribute",
    402: "Missing Attribute",
    403: "NAS Identification Mismatch",
    404: "Invalid Request",
    405: "Unsupported Service",
    406: "Unsupported Extension",
    407: "Invalid Attribute Value",
    501: "Administratively Prohibited",
    502: "Request Not Routable",
    504: "Session Context Not Removable",
    505: "Other Proxy Processing Error",
    506: "Resources Unavailable",
    508: "Multiple Session Selection Unsupported",
}

#: How often a request is sent before its NAS counts as silent.
SENDINGS = 3


@dataclass(frozen=True)
class Session:
    """A session that is open by the accounting. ``unique`` names it among those of all NASes."""

    unique: str
    id: str
    user: str
    nas: str


@dataclass(frozen=True)
class Said:
    """What became of a request: done, refused for good, or not done for now; and why."""

    outcome: Literal["done", "refused", "not now"]
    reason: str


@dataclass(frozen=True)
class AccessServer:
    """A NAS as it is asked: its address, port and secret, and how long to wait for each answer."""

    host: str
    port: int
    secret: bytes = field(repr=False)
    timeout_seconds: float

    async def ask(self, session: Session, filters: tuple[str, ...], context: Context) -> Said:
        """End a session; with ``filters`` (Filter-Id) change it instead. Never raises."""
        packet = CoAPacket(
            CoARequest if filters else DisconnectRequest,
            secret=self.secret,
            message_authenticator=True,
        )
        packet[_USER_NAME] = [session.user.encode()]
        packet[_SESSION_ID] = [session.id.encode()]
        if filters:
            packet[_FILTER_ID] = [one.encode() for one in filters]
        try:
            address = await context.http.resolve(self.host, self.port)
        except (Unreachable, Misconfigured) as error:
            return Said("not now", str(error))
        answer = await self._answer(packet, address)
        if answer is None:
            return Said("not now", f"the NAS {self.host} does not answer")
        if answer.code in {DisconnectACK, CoAACK}:
            return Said("done", f"the NAS {self.host} has done it")
        return self._refusal(answer)

    def _refusal(self, answer: CoAPacket) -> Said:
        cause = int.from_bytes(answer[_ERROR_CAUSE][0], "big") if _ERROR_CAUSE in answer else 0
        if cause in {_NO_SESSION, _INITIATED}:
            return Said("done", f"the NAS {self.host} has no such session any more")
        why = f"the NAS {self.host} refuses: {_CAUSES.get(cause, 'Error-Cause')} ({cause})"
        return Said("not now" if cause in _FOR_NOW or not cause else "refused", why)

    async def _answer(self, packet: CoAPacket, address: str) -> CoAPacket | None:
        """The answer that is signed as it should be; None when none comes."""
        data = packet.RequestPacket()
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Exchange(packet), remote_addr=(address, self.port)
        )
        try:
            for _ in range(SENDINGS):
                transport.sendto(data)
                await asyncio.wait({protocol.answer}, timeout=self.timeout_seconds)
                if protocol.answer.done():
                    return protocol.answer.result()
            return None
        finally:
            transport.close()


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the answer to one request, on a socket of its own."""

    def __init__(self, packet: CoAPacket) -> None:
        self._packet = packet
        self.answer: asyncio.Future[CoAPacket | None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        """Take the first one that is an answer."""
        try:
            reply = self._packet.CreateReply(packet=data)
            is_answer = self._packet.VerifyReply(reply, data)
        except PacketError:
            return
        if is_answer and not self.answer.done():
            self.answer.set_result(reply)

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002
        """Nobody listens there: there is nothing to wait for."""
        if not self.answer.done():
            self.answer.set_result(None)
