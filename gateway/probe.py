"""The proof that this gateway hears Redis: it publishes to itself and listens for it.

A connection can be open, answer pings, and yet deliver nothing. Only the publish path itself tells.
Of a Cluster each master is probed, and on each of them one slot after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import structlog
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.redis.client import RedisClient
from broker.redis.topology import Listener
from broker.rhythm import beat

log = structlog.get_logger(__name__)

PROBE_SECONDS: Final = 5.0
DEADLINE_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 1.0
MISSES: Final = 2
"""Missed probes in a row after which the subscriber connection counts as deaf."""


class Probe:
    """``round_trip_ms`` of the last probe, the slowest server's; None while one was not heard."""

    def __init__(
        self, client: RedisClient, subscriber: Listener, channels: Sequence[bytes]
    ) -> None:
        self._client, self._subscriber = client, subscriber
        self.channels = channels
        self.round_trip_ms: float | None = None
        self.heard_at = time.monotonic()
        """When every server's last probe was heard."""
        self.on_trip: Callable[[float], None] = lambda _seconds: None
        self._misses: dict[Hashable, int] = {}
        self._awaited: dict[bytes, asyncio.Future[None]] = {}
        self._round = 0

    @property
    def deaf(self) -> bool:
        """Whether too many probes of one server in a row were not heard."""
        return any(misses >= MISSES for misses in self._misses.values())

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message on a channel that nobody else claims."""
        awaited = self._awaited.get(channel)
        if message == b"probe" and awaited is not None and not awaited.done():
            awaited.set_result(None)

    async def listen(self) -> None:
        """Subscribe to what is probed; returns when Redis has acknowledged it."""
        await asyncio.gather(*map(self._subscriber.subscribe, self.channels))

    async def run(self) -> None:
        """Probe until cancelled; a deaf connection is dropped for a new one."""
        while True:
            await self._probe_all()
            await beat(AGAIN_SECONDS if any(self._misses.values()) else PROBE_SECONDS, after=0.5)

    async def _probe_all(self) -> None:
        by_server: dict[Hashable, list[bytes]] = defaultdict(list)
        for channel in self.channels:
            by_server[self._subscriber.server_of(channel)].append(channel)
        chosen = {
            server: channels[self._round % len(channels)] for server, channels in by_server.items()
        }
        self._round += 1
        trips = await asyncio.gather(*map(self._round_trip, chosen.values()))
        self._misses = {
            server: 0 if trip is not None else self._misses.get(server, 0) + 1
            for server, trip in zip(chosen, trips, strict=True)
        }
        heard = [trip for trip in trips if trip is not None]
        self.round_trip_ms = max(heard) if len(heard) == len(trips) else None
        if self.round_trip_ms is not None:
            self.heard_at = time.monotonic()
        for trip in heard:
            self.on_trip(trip / 1000)
        if not (self._client.connected and self._subscriber.hearing):
            return  # an outage, or a connection on its way: nothing is known of what it hears
        for server, misses in self._misses.items():
            if misses >= MISSES:
                log.error("subscriber_deaf", server=str(server), misses=misses)
                self._subscriber.reconnect(chosen[server])

    async def _round_trip(self, channel: bytes) -> float | None:
        heard = self._awaited[channel] = asyncio.get_running_loop().create_future()
        sent = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._client.publish(channel, b"probe")
                await heard
        except (TimeoutError, BrokerUnavailable, ResponseError):
            return None
        finally:
            del self._awaited[channel]
        return (time.monotonic() - sent) * 1000
