"""Reading Redis URLs: which servers, how to get in, and what cannot be."""

import pytest
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from broker.redis.address import SCHEMES, Topology, parse


def options(url: str) -> dict[str, object]:
    return dict(parse(url).data.options)


def test_one_server() -> None:
    address = parse("redis://bob:secret@h:7001/3")
    assert address.topology is Topology.STANDALONE
    assert [each.place for each in address.servers] == ["h:7001"]
    assert dict(address.data.options) == {
        "host": "h", "port": 7001, "db": 3, "username": "bob", "password": "secret"
    }  # fmt: skip


def test_a_socket_file() -> None:
    address = parse("unix:///run/redis.sock")
    assert address.data.place == "/run/redis.sock"
    assert address.data.kind is UnixDomainSocketConnection
    address.data.opener(name="x", timeout_seconds=1.0)


def test_sentinels_have_their_own_credentials() -> None:
    address = parse(
        "redis+sentinel://bob:secret@a,b:1,[::1]:2/mymaster/4"
        "?sentinel_username=eve&sentinel_password=s%26t"
    )
    assert address.topology is Topology.SENTINEL
    assert address.master == "mymaster"
    assert [each.place for each in address.servers] == ["a:26379", "b:1", "::1:2"]
    for sentinel in address.servers:
        told = dict(sentinel.options)
        assert (told["username"], told["password"]) == ("eve", "s&t")
        assert "db" not in told
    data = dict(address.data.at("m", 6379, must_be_master=True).options)
    assert (data["username"], data["password"], data["db"]) == ("bob", "secret", 4)
    assert (data["host"], data["port"]) == ("m", 6379)


def test_sentinels_are_not_given_the_credentials_of_the_data() -> None:
    for sentinel in parse("redis+sentinel://bob:secret@a/m").servers:
        assert not {"username", "password"} & dict(sentinel.options).keys()


def test_a_cluster_is_entered_the_same_way_at_every_node() -> None:
    address = parse("redis+cluster://bob:secret@a:7000,b/0")
    assert address.topology is Topology.CLUSTER
    assert [each.place for each in address.servers] == ["a:7000", "b:6379"]
    node = dict(address.data.at("c", 7002).options)
    assert (node["host"], node["port"]) == ("c", 7002)
    assert (node["username"], node["password"]) == ("bob", "secret")


@pytest.mark.parametrize(
    "url",
    [
        "rediss://h?ssl_ca_certs=/ca.pem",
        "rediss+sentinel://h/m?ssl_ca_certs=/ca.pem",
        "rediss+cluster://h?ssl_ca_certs=/ca.pem",
    ],
)
def test_tls_with_an_own_authority(url: str) -> None:
    address = parse(url)
    for endpoint in (*address.servers, address.data):
        assert endpoint.kind is SSLConnection
        assert dict(endpoint.options)["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "unknown scheme"),
        ("", "unknown scheme"),
        ("redis://h:port", "cannot be read"),
        ("redis://h:99999", "cannot be read"),
        ("redis://h?colour=red", "colour"),
        ("redis://h?ssl_ca_certs=x", "ssl_ca_certs"),
        ("redis://h?db=x", "db"),
        ("redis+sentinel://h", "master's name"),
        ("redis+sentinel://h/m/x", "master's name"),
        ("redis+sentinel://h/m/1/2", "master's name"),
        ("redis+sentinel:///m", "names no server"),
        ("redis+cluster://", "names no server"),
        ("redis+cluster://h/3", "only one"),
        ("redis+cluster://h:x", "cannot be read"),
    ],
)
def test_what_cannot_be_says_why(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)


def test_no_password_is_shown() -> None:
    for scheme in SCHEMES:
        tail = "/run/x.sock?password=secret" if scheme == "unix" else "bob:secret@h/0"
        if "sentinel" in scheme:
            tail += "?sentinel_password=secret"
        assert "secret" not in repr(parse(f"{scheme}://{tail}"))


def test_names_of_connections_fit_redis() -> None:
    assert parse("redis://h").data.opener(name="a b", timeout_seconds=1.0).client_name == "a%20b"
    assert options("redis://h") == {"host": "h"}
