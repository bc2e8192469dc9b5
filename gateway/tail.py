"""The tail check: a lost last message leaves no hole to see, so the log is asked (promise G2).

Channels with an open run are compared with their logs every two seconds, which is how long a user
looks at a spinner; the others every 45. One pipelined batch per tick.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from gateway.relay import Relay

log = structlog.get_logger(__name__)

OPEN_SECONDS: Final = 2.0
IDLE_TICKS: Final = 22
"""In how many ticks each of the other channels has had its turn: 44 seconds."""


class TailCheck:
    """One gateway's tail check."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def run(self) -> None:
        """Check until cancelled; while Redis is away there is nothing to compare with."""
        tick = 0
        while True:
            await asyncio.sleep(OPEN_SECONDS)
            tick = (tick + 1) % IDLE_TICKS
            feeds = [
                feed
                for feed in self._relay.hub.feeds()
                if feed.open_runs or hash(feed.channel.live) % IDLE_TICKS == tick
            ]
            try:
                if feeds and self._relay.subscriber.hearing:
                    await self._relay.check_tails(feeds)
            except (BrokerUnavailable, ResponseError) as error:
                log.warning("tail_check_failed", why=str(error))
