"""A VLR or an SGSN, as far as a phone that attaches is concerned: the network's side of an HLR.

It speaks GSUP, OsmoHLR's protocol for what MAP does elsewhere, over IPA frames.
"""

import socket
import struct
from dataclasses import dataclass, field
from typing import Literal, Self

_IPA_CONTROL = 0xFE
_OSMO = 0xEE
_GSUP = 0x05

#: Messages of IPA's own control.
_PING, _PONG, _ID_GET, _ID_RESP = 0x00, 0x01, 0x04, 0x05

UPDATE_LOCATION, UPDATE_LOCATION_ERROR, UPDATE_LOCATION_RESULT = 0x04, 0x05, 0x06
SEND_AUTH, SEND_AUTH_ERROR, SEND_AUTH_RESULT = 0x08, 0x09, 0x0A
INSERT_DATA, INSERT_DATA_RESULT = 0x10, 0x12
DELETE_DATA, DELETE_DATA_RESULT = 0x14, 0x16
CANCEL, CANCEL_RESULT = 0x1C, 0x1E

_IMSI, _CAUSE, _TUPLE, _MSISDN, _DOMAIN = 0x01, 0x02, 0x03, 0x08, 0x28
_DOMAINS = {"ps": 1, "cs": 2}

UNKNOWN_IMSI, GPRS_NOT_ALLOWED, PLMN_NOT_ALLOWED = 0x02, 0x07, 0x0B


@dataclass
class Node:
    """A VLR (domain cs) or SGSN (ps) that is connected to an HLR."""

    host: str
    domain: Literal["cs", "ps"]
    #: What the HLR has told without being asked: message types.
    pushed: list[int] = field(default_factory=list)
    msisdn: str | None = None

    def __enter__(self) -> Self:
        self._socket = socket.create_connection((self.host, 4222), timeout=10)
        self._known = False
        while not self._known:
            self._read()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def attach(self, imsi: str) -> int | None:
        """Let a phone attach; None: it may, else the cause why not."""
        self._say(UPDATE_LOCATION, (_IMSI, _bcd(imsi)), (_DOMAIN, bytes([_DOMAINS[self.domain]])))
        while True:
            kind, parts = self._message()
            if kind == INSERT_DATA:
                self._accept_data(parts)
            elif kind == UPDATE_LOCATION_RESULT:
                return None
            elif kind == UPDATE_LOCATION_ERROR:
                return parts[_CAUSE][0]

    def authenticate(self, imsi: str) -> list[bytes] | int:
        """Ask for authentication vectors; the cause when there are none."""
        self._say(SEND_AUTH, (_IMSI, _bcd(imsi)), (_DOMAIN, bytes([_DOMAINS[self.domain]])))
        while True:
            kind, parts = self._message()
            if kind == SEND_AUTH_RESULT:
                return [parts[_TUPLE]]
            if kind == SEND_AUTH_ERROR:
                return parts[_CAUSE][0]

    def hear(self, seconds: float = 2.0) -> list[int]:
        """What the HLR tells by itself within a time: message types, the first one that comes."""
        self._socket.settimeout(seconds)
        try:
            while not self.pushed:
                kind, parts = self._message()
                self.pushed.append(kind)
                if kind == INSERT_DATA:
                    self._accept_data(parts)
                elif kind == DELETE_DATA:
                    self._say(DELETE_DATA_RESULT, (_IMSI, parts[_IMSI]))
                elif kind == CANCEL:
                    self._say(CANCEL_RESULT, (_IMSI, parts[_IMSI]))
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(10)
        told, self.pushed = self.pushed, []
        return told

    def _accept_data(self, parts: dict[int, bytes]) -> None:
        if _MSISDN in parts:
            self.msisdn = _digits(parts[_MSISDN][1:])
        self._say(INSERT_DATA_RESULT, (_IMSI, parts[_IMSI]))

    def _say(self, kind: int, *parts: tuple[int, bytes]) -> None:
        told = b"".join(bytes([tag, len(value)]) + value for tag, value in parts)
        self._frame(_OSMO, bytes([_GSUP, kind]) + told)

    def _message(self) -> tuple[int, dict[int, bytes]]:
        while True:
            stream, body = self._read()
            if stream == _OSMO and body[0] == _GSUP:
                return body[1], _parts(body[2:])

    def _read(self) -> tuple[int, bytes]:
        length, stream = struct.unpack("!HB", self._exactly(3))
        body = self._exactly(length)
        if stream == _IPA_CONTROL:
            self._control(body)
        return stream, body

    def _control(self, body: bytes) -> None:
        if body[0] == _PING:
            self._frame(_IPA_CONTROL, bytes([_PONG]))
        elif body[0] == _ID_GET:
            name = f"TEST-{self.domain}".encode() + b"\0"
            # Tags: the unit's id, its name, its serial number.
            said = b"".join(
                struct.pack("!HB", len(value) + 1, tag) + value
                for tag, value in ((0x08, b"0/0/0\0"), (0x01, name), (0x00, name))
            )
            self._frame(_IPA_CONTROL, bytes([_ID_RESP]) + said)
            self._known = True

    def _frame(self, stream: int, body: bytes) -> None:
        self._socket.sendall(struct.pack("!HB", len(body), stream) + body)

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            chunk = self._socket.recv(count - len(got))
            if not chunk:
                raise ConnectionError("the HLR hung up")
            got += chunk
        return got


def _parts(body: bytes) -> dict[int, bytes]:
    found = {}
    while body:
        tag, length = body[0], body[1]
        found[tag] = body[2 : 2 + length]
        body = body[2 + length :]
    return found


def _bcd(digits: str) -> bytes:
    padded = digits + "f" * (len(digits) % 2)
    return bytes(int(padded[n + 1], 16) << 4 | int(padded[n], 16) for n in range(0, len(padded), 2))


def _digits(value: bytes) -> str:
    return "".join(f"{byte & 15:x}{byte >> 4:x}" for byte in value).rstrip("f")
