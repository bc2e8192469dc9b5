"""Being told: why a reader does not get simply what came after its cursor (protocol section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.channels import Scope
from broker.codec import Entry
from broker.cursor import ZERO, Cursor
from broker.redis.broker import Broker
from broker.replay import Follower, judge, judge_connected
from gateway.feed import Feed
from gateway.frames import control

REASONS: Final = ("expired", "forked", "unknown_cursor", "overrun")
"""Why a client is told that something is missing."""


@dataclass(frozen=True, slots=True)
class Resync:
    """Reason, where replay begins instead, and where the channel is."""

    reason: str
    position: Cursor
    channel_cursor: Cursor
    run_id: str | None = None
    """Set when the channel is a run's: a strict connection reads several."""

    def frame(self) -> bytes:
        """As told to the client."""
        payload = {
            "reason": self.reason,
            "from": str(self.position),
            "channel_cursor": str(self.channel_cursor),
        }
        if self.run_id is not None:
            payload["run_id"] = self.run_id
        return control("resync", payload)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a reader begins, and what it is told. ``page``: what follows, as far as it is read."""

    position: Cursor
    resync: Resync | None = None
    page: Sequence[Entry] = ()


async def begin(broker: Broker, feed: Feed, after: Cursor | None, *, bad_cursor: bool) -> Beginning:
    """Where a reader that asks for ``after`` begins (None = from now on).

    ``bad_cursor``: it asked for something that is no cursor, so nothing is replayed.
    """
    now = feed.follower.position
    if bad_cursor:
        return Beginning(now, _resync(feed, "unknown_cursor", now, now))
    if after is None:
        return Beginning(now)
    if after in (ZERO, now):
        return Beginning(after)
    page = await broker.resume(feed.channel, after)
    if page is not None:
        return Beginning(after, None, page)
    glance = await broker.glance(feed.channel, after)
    start = judge(after, glance)
    if start.reason is None:
        return Beginning(start.position)
    return Beginning(start.position, _resync(feed, start.reason, start.position, glance.newest))


async def go_on(broker: Broker, feed: Feed, follower: Follower) -> Resync | None:
    """The log does not continue a position: find out why, and go on where that is possible.

    None when nothing was missed.
    """
    trail = follower.trail
    glance = await broker.glance(feed.channel, follower.position, trail)
    ttl_ms = broker.limits.history_ttl_seconds * 1000
    start = judge_connected(follower.position, trail, glance, ttl_ms=ttl_ms)
    follower.restart(start.position, linked=not glance.found)
    if start.reason is None:
        return None
    return _resync(feed, start.reason, start.position, glance.newest)


def _resync(feed: Feed, reason: str, position: Cursor, newest: Cursor | None) -> Resync:
    run_id = feed.channel.name if feed.channel.scope is Scope.RUN else None
    return Resync(reason, position, newest or ZERO, run_id)
