"""What a Redis URL says: where the servers are, how to get in, and who tells which one is master.

::

    redis://[user:password@]host:6379[/database]
    unix:///path/redis.sock
    redis+sentinel://[user:password@]host:26379,host:26379/master[/database]
    redis+cluster://[user:password@]host:7000,host:7001

One server; one server; the sentinels and the name of the master; some nodes of a Cluster.

``rediss…`` in place of ``redis…`` means TLS, for Sentinel and Cluster too. Options follow after
``?``: those of redis-py (``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``, …), and for Sentinel
``sentinel_username`` and ``sentinel_password``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis.asyncio.connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.channels import encode_id


class Topology(StrEnum):
    """How the servers of an installation belong together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_TOPOLOGIES: Final[Mapping[str, Topology]] = {
    "redis": Topology.STANDALONE,
    "rediss": Topology.STANDALONE,
    "unix": Topology.STANDALONE,
    "redis+sentinel": Topology.SENTINEL,
    "rediss+sentinel": Topology.SENTINEL,
    "redis+cluster": Topology.CLUSTER,
    "rediss+cluster": Topology.CLUSTER,
}
SCHEMES: Final = tuple(_TOPOLOGIES)
_KEEPALIVE: Final = {
    getattr(socket, option): value
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, option)
}
"""A peer that is gone without a word is noticed after 25 s, also on a connection that only listens;
the kernel's own default is hours. What must be noticed sooner is probed."""
_DEFAULT_PORT: Final = {Topology.SENTINEL: 26379, Topology.CLUSTER: 6379}
_SENTINEL_OPTIONS: Final = ("username", "password")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, and how to get in. Two endpoints are equal when they are the same place."""

    place: str
    """``host:port`` or a path."""
    kind: type[redis_connection.AbstractConnection]
    options: tuple[tuple[str, Any], ...] = field(repr=False)
    """What redis-py takes, as pairs; the password is among them."""
    must_be_master: bool = False
    """Refuse the server when it says that it is none: whoever named it may be behind."""

    def at(self, host: str, port: int, *, must_be_master: bool = False) -> Endpoint:
        """Another server, got into the same way."""
        options = {**dict(self.options), "host": host, "port": port}
        return Endpoint(f"{host}:{port}", self.kind, tuple(options.items()), must_be_master)

    def opener(
        self, *, name: str, timeout_seconds: float, protocol: int = 2
    ) -> redis_connection.AbstractConnection:
        """A redis-py connection, not open yet, with every time-out set here.

        Its own defaults do not fit: a ``socket_timeout`` of 5 s would break blocking reads and
        quiet subscribers.
        """
        options: dict[str, Any] = {
            "socket_keepalive": True,
            "socket_keepalive_options": _KEEPALIVE,
            **dict(self.options),
            "protocol": protocol,
            "client_name": encode_id(name),  # Redis takes no spaces here
            "socket_timeout": None,
            "socket_connect_timeout": timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "driver_info": None,  # CLIENT SETINFO: one more right, unknown to Redis before 7.2
        }
        if issubclass(self.kind, redis_connection.UnixDomainSocketConnection):
            del options["socket_keepalive"], options["socket_keepalive_options"]
        return self.kind(**options)


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, read. ``servers``: the server itself; the sentinels; or some nodes of the Cluster.

    ``master``: the name under which the sentinels watch it, and ``data`` how to get into it.
    """

    topology: Topology
    servers: tuple[Endpoint, ...]
    data: Endpoint
    master: str = ""


def parse(url: str) -> Address:
    """Read a Redis URL; ``ValueError`` with what is wrong with it. Connects to nothing."""
    scheme = url.partition("://")[0]
    topology = _TOPOLOGIES.get(scheme)
    if topology is None:
        raise ValueError(f"has an unknown scheme; the known ones are {', '.join(SCHEMES)}")
    if topology is Topology.STANDALONE:
        endpoint = _endpoint(url)
        return Address(topology, (endpoint,), endpoint)
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    plain = scheme.partition("+")[0]
    options = dict(parse_qsl(parts.query))
    path = [part for part in parts.path.split("/") if part]
    places = [_with_port(host, _DEFAULT_PORT[topology]) for host in hosts.split(",") if host]
    if not places:
        raise ValueError("names no server: give one or more as host:port, separated by commas")
    if topology is Topology.CLUSTER:
        if path not in ([], ["0"]):
            raise ValueError("names a database; a Cluster has only one")
        nodes = [_endpoint(f"{plain}://{credentials}{at}{each}?{parts.query}") for each in places]
        return Address(topology, tuple(nodes), nodes[0])
    master, database = (*path, "0", "0")[:2] if path else ("", "0")
    if not master or not database.isdecimal() or len(path) > 2:  # noqa: PLR2004 - as the form says
        raise ValueError("must end with the master's name, as redis+sentinel://host:26379/mymaster")
    own = {key: options.pop(f"sentinel_{key}", "") for key in _SENTINEL_OPTIONS}
    guarded = urlencode({**options, **{key: value for key, value in own.items() if value}})
    sentinels = [_endpoint(f"{plain}://{each}?{guarded}") for each in places]
    data = _endpoint(f"{plain}://{credentials}{at}{places[0]}/{database}?{urlencode(options)}")
    return Address(topology, tuple(sentinels), data, master=master)


def _endpoint(url: str) -> Endpoint:
    try:
        options: dict[str, Any] = dict(redis_connection.parse_url(url))
        kind = cast(
            "type[redis_connection.AbstractConnection]",
            options.pop("connection_class", redis_connection.Connection),
        )
        place = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        endpoint = Endpoint(options.get("path", place), kind, tuple(options.items()))
        endpoint.opener(name="check", timeout_seconds=1.0)
    except (ValueError, TypeError, RedisError) as error:
        text = str(error).partition("__init__() ")
        raise ValueError(f"cannot be read: {text[2] or text[0]}") from None
    return endpoint


def _with_port(host: str, port: int) -> str:
    bare = host.rpartition("]")[2]
    return host if ":" in bare else f"{host}:{port}"
