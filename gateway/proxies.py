"""Whom a request is from when proxies hand it on: ``X-Forwarded-*``, from trusted proxies only.

Anybody can send these headers, so they count only when the peer's own address is one of a proxy
that the operator named. From everybody else they are ignored. RFC 7239's ``Forwarded`` is not read:
most proxies pass it on as it came, and then it is the client's own word.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NamedTuple

from multidict import MultiMapping

from broker.errors import ConfigurationError

UNKNOWN: Final = "unknown"
"""The address of a client whose proxy named none that can be read."""

SCHEMES: Final = ("http", "https")
FORWARDING: Final = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")
"""Any of these in a request tells that the peer is not the client."""

_PORT: Final = re.compile(r":[0-9]*$")


class Client(NamedTuple):
    """Who is at the other end, behind the trusted proxies.

    ``scheme`` is what the client spoke, ``http`` or ``https``, None when nobody knows; ``host`` is
    the name and port by which it knows this place; ``direct``: nothing says that there was a proxy.
    """

    address: str
    scheme: str | None
    host: str
    direct: bool

    @property
    def local(self) -> bool:
        """Whether it is a program on this machine that asked for this machine by a local name.

        A page of somebody else, whose name was made to lead here (DNS rebinding), asks for that
        name; a request through a proxy is somebody else's.
        """
        name = _PORT.sub("", self.host).strip("[]").lower()
        named = name == "localhost" or _is_loopback(_address(name))
        return self.direct and named and _is_loopback(_address(self.address))


class Proxies:
    """The proxies whose word counts, as addresses or networks in CIDR notation.

    :raises ConfigurationError: an entry is none, or means everybody.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._networks = tuple(_network(entry) for entry in trusted)

    def client(self, peer: str, headers: MultiMapping[str], *, secure: bool) -> Client:
        """Who sent the request that came from this ``peer``; ``secure``: over the gateway's TLS."""
        scheme, host = "https" if secure else None, headers.get("Host", "")
        if not self._networks or not self._trusts(_address(peer)):
            direct = not any(name in headers for name in FORWARDING)
            return Client(peer, scheme, host, direct)
        told = _last(headers, "X-Forwarded-Proto").lower()
        return Client(
            address=self._outermost(_words(headers, "X-Forwarded-For")) or peer,
            scheme=told if told in SCHEMES else scheme,
            host=_last(headers, "X-Forwarded-Host") or host,
            direct=False,
        )

    def _outermost(self, hops: list[str]) -> str:
        """The hop nearest to us that is no trusted proxy; of trusted ones alone the farthest.

        Each proxy adds its own peer at the end: what stands before the first untrusted hop from
        the right was written by that hop, and may be anything.
        """
        found = ""
        for hop in reversed(hops):
            address = _address(_without_port(hop))
            if address is None:
                return UNKNOWN
            found = str(address)
            if not self._trusts(address):
                break
        return found

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in each for each in self._networks)


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ipaddress.ip_network(entry)
    except ValueError as error:
        raise ConfigurationError(
            setting="RUNCAST_TRUSTED_PROXIES",
            why=str(error),
            todo="List addresses or networks, as 10.0.0.7,10.1.0.0/16,fd00::/8.",
        ) from None
    if network.prefixlen == 0:
        raise ConfigurationError(
            setting="RUNCAST_TRUSTED_PROXIES",
            why=f"{entry} is everybody, and anybody could then pretend to be anybody",
            todo="List the addresses or networks of the proxies alone.",
        )
    return network


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address; None when it is none. IPv4 on an IPv6 socket is IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(address: IPv4Address | IPv6Address | None) -> bool:
    return address is not None and address.is_loopback


def _without_port(hop: str) -> str:
    """``1.2.3.4:5`` and ``[::1]:5`` are written by some; a bare IPv6 address has many colons."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _words(headers: MultiMapping[str], name: str) -> list[str]:
    """A list header's items, of all its lines."""
    return [word.strip() for line in headers.getall(name, ()) for word in line.split(",")]


def _last(headers: MultiMapping[str], name: str) -> str:
    """What the nearest proxy said; whoever is before it may have said anything."""
    words = _words(headers, name)
    return words[-1] if words else ""
