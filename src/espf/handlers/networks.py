"""Whom handlers may call: networks that an environment is confined to, checked for each connection.

A ``Gate`` makes the sockets. The address that it checks is the very one that the socket is then
connected to, so a name that leads elsewhere a moment later changes nothing, and whoever a proxy is
or a name has several addresses is covered as well. A request on a connection that is open costs
nothing.
"""

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakSet

from aiohappyeyeballs import AddrInfoType
from yarl import URL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Where clouds keep what a machine may know of itself: refused, unless it is named.
LINK_LOCAL: tuple[Network, ...] = (
    ipaddress.IPv4Network("169.254.0.0/16"),
    ipaddress.IPv6Network("fe80::/10"),
)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_LOW_32 = 0xFFFF_FFFF


class Refused(OSError):
    """The networks do not allow a connection to this address."""


@dataclass(frozen=True)
class Networks:
    """Where connections may lead: to ``allowed`` (None: anywhere).

    Link-local addresses are refused unless a network among ``allowed`` lies within theirs.
    """

    allowed: tuple[Network, ...] | None = None

    def allow(self, address: str) -> bool:
        """Whether a connection to an IP address may be opened.

        An IPv6 address that stands for an IPv4 one is judged as that.
        """
        return all(map(self._allow, _destinations(address)))

    def refusals(self, options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """The options of a handler whose URL has an address that may not be called, and why not.

        What a name leads to is only known when it is called, and checked then.
        """
        for alias, value in options.items():
            try:
                host = URL(value).host if isinstance(value, str) else None
            except ValueError:
                continue
            address = literal(host) if host else None
            if address is not None and not self.allow(address):
                yield alias, str(refused(address))

    def _allow(self, address: _Address) -> bool:
        if self.allowed is not None and not _within(address, self.allowed):
            return False
        return not _within(address, LINK_LOCAL) or any(
            address in network and _lies_in_link_local(network) for network in self.allowed or ()
        )


#: What holds where nothing is configured.
ANYWHERE = Networks()


class Gate:
    """Makes sockets to what the networks allow, and closes those that they no longer do."""

    def __init__(self, networks: Networks = ANYWHERE) -> None:
        self.networks = networks
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def permitted(self, addresses: Sequence[AddrInfoType]) -> list[AddrInfoType]:
        """Those of the addresses of a host that are allowed. Raises Refused when none is."""
        allowed = [one for one in addresses if self.networks.allow(str(one[4][0]))]
        if addresses and not allowed:
            raise refused(str(addresses[0][4][0]))
        return allowed

    def make(self, address: AddrInfoType) -> socket.socket:
        """A socket that is about to be connected to this address. Raises Refused."""
        family, kind, protocol, _, place = address
        if not self.networks.allow(str(place[0])):
            raise refused(str(place[0]))
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    def confine(self, networks: Networks) -> None:
        """Let these networks hold from now on; connections that they refuse break."""
        if networks == self.networks:
            return
        self.networks = networks
        for one in list(self._sockets):
            try:
                if not networks.allow(one.getpeername()[0]):
                    one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is not connected, or not any more


def refused(address: str) -> Refused:
    """Why nobody is called there."""
    return Refused(f"the address {address} is in no network that handlers may call")


def literal(host: str) -> str | None:
    """The IP address that a host is written as, in any of its forms; None for a name."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])


def _destinations(address: str) -> list[_Address]:
    """Where packets to an address go, or may go."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    number = int(ip)
    inner: list[int] = []
    if ip.ipv4_mapped is not None:
        inner = [int(ip.ipv4_mapped)]
    elif ip in _NAT64 or (ip in _COMPATIBLE and number > 1):
        inner = [number & _LOW_32]
    elif ip in _LOCAL_NAT64:
        # RFC 6052 places the address behind a prefix of 96 bits, or around the ninth octet.
        inner = [number & _LOW_32, (number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF]
    elif ip.sixtofour is not None:
        inner = [int(ip.sixtofour)]
    elif ip.teredo is not None:
        inner = [int(ip.teredo[1])]
    return [ipaddress.IPv4Address(one) for one in inner] or [ip]


def _within(address: _Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _lies_in_link_local(network: Network) -> bool:
    return any(
        network.version == known.version and network.subnet_of(known)  # type: ignore[arg-type]
        for known in LINK_LOCAL
    )
