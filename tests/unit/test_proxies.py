"""Who a request is from, behind proxies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from broker.errors import ConfigurationError
from gateway.proxies import UNKNOWN, Client, Proxies

PROXIES = Proxies(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])
NOBODY = Proxies()


def seen(peer: str, *headers: tuple[str, str], proxies: Proxies = PROXIES) -> Client:
    return proxies.client(peer, CIMultiDict([("Host", "inner:8080"), *headers]), secure=False)


def forwarded(*hops: str) -> tuple[tuple[str, str], ...]:
    return tuple(("x-forwarded-for", hop) for hop in hops)


@pytest.mark.parametrize(
    ("peer", "hops", "address"),
    [
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        # What the client wrote itself stands to the left, and does not count.
        ("10.0.0.1", ["127.0.0.1, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["127.0.0.1", "203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["garbage, 203.0.113.5"], "203.0.113.5"),
        # Through several trusted proxies, over one line or many.
        ("10.0.0.1", ["6.6.6.6, 203.0.113.5, 10.2.2.2, 192.0.2.7"], "203.0.113.5"),
        ("10.0.0.1", ["6.6.6.6,203.0.113.5", "fd00::2", "10.9.9.9"], "203.0.113.5"),
        # A client that is itself in a trusted network.
        ("10.0.0.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        # Ports, brackets, IPv4 on IPv6.
        ("10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
        # Nothing that can be read.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], UNKNOWN),
        ("10.0.0.1", ["203.0.113.5, _hidden"], UNKNOWN),
        ("10.0.0.1", ["203.0.113.5, "], UNKNOWN),
        # Nobody's word counts but a trusted proxy's.
        ("203.0.113.9", ["127.0.0.1"], "203.0.113.9"),
        ("192.0.2.8", ["127.0.0.1"], "192.0.2.8"),
        ("unknown", ["127.0.0.1"], "unknown"),
    ],
)
def test_the_client_is_the_nearest_that_is_no_trusted_proxy(
    peer: str, hops: list[str], address: str
) -> None:
    assert seen(peer, *forwarded(*hops)).address == address


def test_without_trusted_proxies_nothing_is_believed() -> None:
    headers = (
        *forwarded("127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
    )
    client = seen("127.0.0.1", *headers, proxies=NOBODY)
    assert client == Client("127.0.0.1", None, "inner:8080", direct=False)
    assert seen("203.0.113.9", *headers) == Client("203.0.113.9", None, "inner:8080", direct=False)


def test_a_trusted_proxy_tells_scheme_and_host() -> None:
    """The last word, which is the nearest proxy's: what is before it may be the client's."""
    client = seen(
        "10.0.0.1",
        *forwarded("203.0.113.5"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Proto", "HTTPS"),
        ("X-Forwarded-Host", "evil.example, chat.example:8443"),
    )
    assert client == Client("203.0.113.5", "https", "chat.example:8443", direct=False)
    assert seen("10.0.0.1", ("X-Forwarded-Proto", "gopher")).scheme is None
    assert seen("10.0.0.1").host == "inner:8080"


def test_the_gateways_own_tls_is_known_without_proxies() -> None:
    headers = CIMultiDict({"Host": "chat.example"})
    assert NOBODY.client("203.0.113.9", headers, secure=True).scheme == "https"
    told = CIMultiDict({"Host": "chat.example", "X-Forwarded-Proto": "http"})
    assert PROXIES.client("10.0.0.1", told, secure=True).scheme == "http"
    assert PROXIES.client("203.0.113.9", told, secure=True).scheme == "https"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "[::1]"]
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.9.9.9"])
def test_a_program_on_this_machine_is_local(peer: str, host: str) -> None:
    headers = CIMultiDict({"Host": host})
    assert NOBODY.client(peer, headers, secure=False).local


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("203.0.113.9", {"Host": "localhost"}),
        ("unknown", {"Host": "localhost"}),
        # A page of somebody else whose name was made to lead here.
        ("127.0.0.1", {"Host": "evil.example:8080"}),
        ("127.0.0.1", {"Host": "localhost.evil.example"}),
        ("127.0.0.1", {"Host": ""}),
        ("127.0.0.1", {}),
        # Through a proxy on this machine, whether it is trusted or not.
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-For": "203.0.113.5"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}),
        ("127.0.0.1", {"Host": "localhost", "Forwarded": "for=203.0.113.5"}),
        ("127.0.0.1", {"Host": "localhost", "X-Real-IP": "203.0.113.5"}),
        ("127.0.0.1", {"Host": "localhost", "Via": "1.1 proxy"}),
    ],
)
@pytest.mark.parametrize("proxies", [NOBODY, Proxies(["127.0.0.0/8"])])
def test_nobody_else_is_local(peer: str, headers: dict[str, str], proxies: Proxies) -> None:
    assert not proxies.client(peer, CIMultiDict(headers), secure=False).local


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("proxy.example", "does not appear to be"),
        ("10.0.0.1/8", "has host bits set"),
        ("10.0.0.0/33", "does not appear to be"),
        ("0.0.0.0/0", "everybody"),
        ("::/0", "everybody"),
    ],
)
def test_an_impossible_entry_is_refused(entry: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match="RUNCAST_TRUSTED_PROXIES") as refused:
        Proxies(["10.0.0.1", entry])
    assert told in str(refused.value)


ADDRESSES = st.ip_addresses().map(str)


@given(ADDRESSES, st.lists(st.text() | ADDRESSES), st.text(), st.text())
def test_a_stranger_cannot_change_who_he_is(
    peer: str, hops: list[str], scheme: str, host: str
) -> None:
    headers = (*forwarded(*hops), ("X-Forwarded-Proto", scheme), ("X-Forwarded-Host", host))
    client = seen(peer, *headers, proxies=NOBODY)
    assert client == Client(peer, None, "inner:8080", direct=not hops)


@given(ADDRESSES, st.lists(st.text(st.characters(codec="utf-8")) | ADDRESSES))
def test_a_client_cannot_hide_what_the_trusted_proxy_saw(client: str, forged: list[str]) -> None:
    """Whatever it sends itself, the address that the proxy adds is the one that counts."""
    proxies = Proxies(["192.0.2.1"])
    found = proxies.client("192.0.2.1", CIMultiDict(forwarded(*forged, client)), secure=False)
    real = ipaddress.ip_address(client)
    mapped = getattr(real, "ipv4_mapped", None) or real
    if str(mapped) != "192.0.2.1":
        assert found.address == str(mapped)
    assert not found.local
