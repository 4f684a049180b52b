"""A chat client, as far as it takes to see whether somebody may use the service: log in, and stay.

It speaks XMPP (RFC 6120) without TLS, authenticates with SASL PLAIN, and binds a resource.
"""

import base64
import re
import socket
from types import TracebackType
from typing import Self

#: What does not come by then never will.
PATIENCE_SECONDS = 20

_CONDITION = re.compile(
    r"<failure[^>]*><([a-z-]+)/>|<([a-z-]+) xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
)


class Refused(Exception):
    """The server does not let us in; its word for why."""


class Client:
    """A session of one user. Raises Refused when it does not come about."""

    def __init__(self, address: str, host: str, user: str, password: str) -> None:
        self._host = host
        self._heard = ""
        self._socket = socket.create_connection((address, 5222), timeout=PATIENCE_SECONDS)
        try:
            self._stream()
            self._log_in(user, password)
            self._stream()
            bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
            self._say(f"<iq type='set' id='bind'>{bind}</iq>")
            self._until("</iq>")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def is_served(self) -> bool:
        """Whether the session still stands: the server answers a ping, with whatever."""
        try:
            self._say(
                f"<iq type='get' id='ping' to='{self._host}'><ping xmlns='urn:xmpp:ping'/></iq>"
            )
            self._until("id='ping'")
        except (ConnectionError, Refused):
            return False
        return True

    def end(self) -> str:
        """Why the server has ended the session. Waits for it."""
        return _condition(self._until("</stream:stream>"))

    def close(self) -> None:
        self._socket.close()

    def _log_in(self, user: str, password: str) -> None:
        token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        self._say(
            f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{token}</auth>"
        )
        if "<success" not in (answer := self._until("<success", "</failure>")):
            raise Refused(_condition(answer))

    def _stream(self) -> None:
        self._say(
            f"<?xml version='1.0'?><stream:stream to='{self._host}' version='1.0' "
            "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        self._until("</stream:features>")

    def _say(self, text: str) -> None:
        self._socket.sendall(text.encode())

    def _until(self, *marks: str) -> str:
        """What the server says up to one of these marks."""
        while True:
            for mark in marks:
                before, found, rest = self._heard.partition(mark)
                if found:
                    self._heard = rest
                    return before + found
            heard = self._socket.recv(65536)
            if not heard:
                raise Refused(_condition(self._heard))
            self._heard += heard.decode()


def _condition(said: str) -> str:
    found = _CONDITION.search(said)
    return str(found.group(found.lastindex or 0)) if found else said
