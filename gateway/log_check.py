"""After an interruption: every channel is compared with its log (promise G2).

What was published while nobody listened is in the logs only. A gateway asks for the ends of a batch
of them in one pipeline and reads those that have gone on; one batch is under way at a time, so that
a fleet that comes back all at once costs Redis a queue and not its breath. Channels with an open
run come first: somebody watches them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, Final, Protocol

from broker.errors import BrokerUnavailable
from broker.redis.broker import Broker
from gateway.feed import Feed, Missed
from gateway.hub import Hub

BATCH: Final = 256
PAUSE_SECONDS: Final = 0.01
"""Between two batches: at most 25,600 channels a second and gateway."""

RETRY_SECONDS: Final = 0.25


class Repairs(Protocol):
    """What reads a log that has gone on, and a text."""

    def repair(self, feed: Feed, *, cut_off: bool = False) -> None:
        """Read the feed's log until it is level. ``cut_off``: it ended before where the feed is."""

    def refill(self, feed: Feed, run: bytes) -> None:
        """Read a run's kept text."""

    def flush(self) -> None:
        """Write what is in outboxes."""


class LogCheck:
    """One gateway's list of channels that have to be proven."""

    def __init__(
        self,
        broker: Broker,
        hub: Hub,
        repairs: Repairs,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._broker, self._hub, self._repairs, self._spawn = broker, hub, repairs, spawn
        self._due: dict[bytes, Feed] = {}
        self._running = False

    @property
    def pending(self) -> bool:
        """Whether a channel waits for its turn."""
        return self._running

    def add(self, feeds: Iterable[Feed]) -> None:
        """Prove these, which were not heard for a while."""
        watched: dict[bytes, Feed] = {}
        others: dict[bytes, Feed] = {}
        for feed in feeds:
            feed.follower.lose_touch()
            (watched if feed.open_runs else others)[feed.channel.live] = feed
        self._due = watched | self._due | others | watched  # first, and as they are now
        if self._due and not self._running:
            self._running = True
            self._spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._due:
                batch = dict(islice(self._due.items(), BATCH))
                for live in batch:
                    del self._due[live]
                try:
                    await self._prove([feed for feed in batch.values() if self._is_open(feed)])
                except BrokerUnavailable:
                    self._due = batch | self._due
                    await asyncio.sleep(RETRY_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._running = False

    async def _prove(self, feeds: list[Feed]) -> None:
        ends = await self._broker.ends([feed.channel for feed in feeds])
        for feed, end in zip(feeds, ends, strict=True):
            if not self._is_open(feed) or feed.follower.level or feed.channel.live in self._due:
                continue  # closed; repaired meanwhile; or interrupted again, and asked for again
            if end == feed.follower.position:
                for entry in feed.follower.read([], end=True).entries:
                    self._hub.emit(feed, entry)
            if not feed.follower.level:  # one that cannot be read is tried there, again and again
                cut_off = end is not None and end < feed.follower.position
                self._repairs.repair(feed, cut_off=cut_off)
            for run in list(feed.texts):
                if run not in feed.missed_texts:
                    feed.missed_texts[run] = Missed()
                    self._repairs.refill(feed, run)
        self._repairs.flush()

    def _is_open(self, feed: Feed) -> bool:
        return self._hub.feed(feed.channel) is feed
