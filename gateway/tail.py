"""The tail check: a lost last message leaves no hole to see, so the log is asked (promise G2).

A channel with an open run is compared with its log within two seconds of what it heard last, and
every two seconds from then on: that is how long a user looks at a spinner. As long as it hears
something it needs no check, for the next message shows a hole by its link. The others are compared
every 44 seconds. They are asked for in pipelined batches.
"""

from __future__ import annotations

from typing import Final

import structlog
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.rhythm import beat
from gateway.feed import Feed
from gateway.relay import Relay

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
IDLE_TICKS: Final = 44
"""In how many ticks each of the channels without an open run has had its turn."""

BATCH: Final = 32
"""Logs asked for at a time: to pack a thousand commands would hold up all events for 10 ms."""


def _is_due(feed: Feed, tick: int) -> bool:
    if feed.open_runs and feed.is_quiet():
        return True
    return hash(feed.channel.live) % IDLE_TICKS == tick


class TailCheck:
    """One gateway's tail check."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def run(self) -> None:
        """Check until cancelled; while Redis is away there is nothing to compare with."""
        tick = 0
        while True:
            await beat(TICK_SECONDS, after=0.25)
            tick = (tick + 1) % IDLE_TICKS
            feeds = [feed for feed in self._relay.hub.feeds() if _is_due(feed, tick)]
            try:
                for at in range(0, len(feeds), BATCH):
                    if self._relay.subscriber.hearing:
                        await self._relay.check_tails(feeds[at : at + BATCH])
            except (BrokerUnavailable, ResponseError) as error:
                log.warning("tail_check_failed", why=str(error))
