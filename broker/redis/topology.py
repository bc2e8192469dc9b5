"""From a URL to what speaks with it: the one place that tells the topologies apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol

from broker.config import Settings
from broker.errors import ConfigurationError
from broker.redis import scripts
from broker.redis.address import Address, Topology, parse
from broker.redis.client import RedisClient
from broker.redis.cluster import ClusterClient
from broker.redis.cluster_subscriber import ClusterSubscriber
from broker.redis.connection import Command, OnRead
from broker.redis.sentinel import Sentinels
from broker.redis.server_client import ServerClient
from broker.redis.source import Fixed, Source
from broker.redis.subscriber import Subscriber


class Listener(Protocol):
    """A subscriber, of one server or of a Cluster."""

    @property
    def sharded(self) -> bool:
        """Whether it listens to several servers, each channel with its slot."""

    @property
    def hearing(self) -> bool:
        """Connected, with every wanted channel acknowledged."""

    @property
    def why(self) -> str:
        """Why it does not hear; empty while nothing has gone wrong."""

    @property
    def reconnects(self) -> int:
        """How often a connection was lost and opened again."""

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected; ``BrokerUnavailable`` when not in time."""

    async def stop(self) -> None:
        """Close; nothing is heard any more."""

    async def subscribe(self, channel: bytes, *then: Command) -> list[Any] | None:
        """Listen to ``channel``; returns when Redis has acknowledged it.

        With the replies to ``then``, which Redis has read behind it, or None: ask a client then.
        """

    def unsubscribe(self, channel: bytes) -> None:
        """Stop listening. Messages under way may still come."""

    def reconnect(self, channel: bytes) -> None:
        """Drop the connection that ``channel`` is heard on: it was found deaf."""

    @property
    def channels(self) -> Collection[bytes]:
        """What is wanted."""

    def server_of(self, channel: bytes) -> Hashable:
        """Which of the servers ``channel`` is heard from."""


def url_of(settings: Settings) -> str:
    """Where Redis is; ConfigurationError when that is not set."""
    if settings.redis_url is None:
        raise ConfigurationError(
            setting="RUNCAST_REDIS_URL",
            why="it is not set",
            todo="Set it, or start a Redis with: runcast redis",
        )
    return settings.redis_url


def new_client(url: str, *, name: str, reply_seconds: float = 5.0) -> RedisClient:
    """A client, not started. ``ValueError`` when the URL cannot be read."""
    address = parse(url)
    if address.topology is Topology.CLUSTER:
        return ClusterClient(address, name=name, reply_seconds=reply_seconds)
    return ServerClient(
        _source(address, name), name=name, load=scripts.ALL, reply_seconds=reply_seconds
    )


def new_subscriber(
    url: str,
    *,
    name: str,
    on_message: Callable[[bytes, bytes], None],
    on_read_end: Callable[[], None] | None = None,
    on_read: OnRead | None = None,
    on_restored: Callable[[Collection[bytes]], None] | None = None,
) -> Listener:
    """A subscriber, not started; for the callbacks see Subscriber."""
    address = parse(url)
    if address.topology is Topology.CLUSTER:
        return ClusterSubscriber(
            address,
            name=name,
            on_message=on_message,
            on_read_end=on_read_end,
            on_read=on_read,
            on_restored=on_restored,
        )
    return Subscriber(
        _source(address, name),
        name=name,
        on_message=on_message,
        on_read_end=on_read_end,
        on_read=on_read,
        on_restored=on_restored,
    )


def _source(address: Address, name: str) -> Source:
    if address.topology is Topology.SENTINEL:
        return Sentinels(address, name=name)
    return Fixed(address.data)
