"""The proof that this gateway hears Redis: it publishes to itself and listens for it.

A connection can be open, answer pings, and yet deliver nothing. Only the publish path itself tells.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from broker.errors import BrokerUnavailable
from broker.redis.client import RedisClient
from broker.redis.subscriber import Subscriber

log = structlog.get_logger(__name__)

PROBE_SECONDS: Final = 5.0
DEADLINE_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 1.0
MISSES: Final = 2
"""Missed probes in a row after which the subscriber connection counts as deaf."""


class Probe:
    """``round_trip_ms`` of the last probe; None while none was heard in time."""

    def __init__(self, client: RedisClient, subscriber: Subscriber, channel: bytes) -> None:
        self._client, self._subscriber = client, subscriber
        self.channel = channel
        self.round_trip_ms: float | None = None
        self._misses = 0
        self._heard: asyncio.Future[None] | None = None

    @property
    def deaf(self) -> bool:
        """Whether too many probes in a row were not heard."""
        return self._misses >= MISSES

    def heard(self, channel: bytes, message: bytes) -> bool:
        """Whether the message was for the probe; then nobody else needs it."""
        if channel != self.channel:
            return False
        if message == b"probe" and self._heard is not None and not self._heard.done():
            self._heard.set_result(None)
        return True

    async def run(self) -> None:
        """Probe until cancelled; a deaf subscriber gets a new connection."""
        while True:
            self.round_trip_ms = await self._round_trip()
            if self.round_trip_ms is not None:
                self._misses = 0
                await asyncio.sleep(PROBE_SECONDS)
                continue
            self._misses += 1
            if self.deaf:
                log.error("subscriber_deaf", misses=self._misses)
                self._subscriber.reconnect()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _round_trip(self) -> float | None:
        heard = asyncio.get_running_loop().create_future()
        self._heard = heard
        sent = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._client.execute("PUBLISH", self.channel, b"probe")
                await heard
        except (TimeoutError, BrokerUnavailable):
            return None
        return (time.monotonic() - sent) * 1000
