"""A failover takes events back, and the new master has added others meanwhile, with lower ids.

Who is connected loses none of them, whether he reads what is live or is fed from the log (decision
12): the positions that led to where he stands tell from where both histories differ.
"""

from __future__ import annotations

import asyncio

import orjson
import pytest

from broker.channels import Channel, Owner, Scope
from broker.cursor import ZERO
from broker.redis.broker import Broker
from gateway.app import Gateway
from gateway.close_codes import CloseCode
from gateway.feed import Feed
from gateway.resync import Beginning
from tests.integration.test_log_check import Nothing
from tests.support.clients import eventually, lose_live
from tests.unit.test_hub import Socket, event

FORKED = {"reason": "forked", "from": "1-0"}


class Peer(Socket):
    """A connection whose peer takes nothing while it is ``stalled``."""

    turn = unsent = 0

    def __init__(self) -> None:
        super().__init__()
        self.room = asyncio.Event()

    def send(self, text: bytes) -> None:
        self.got().append(orjson.loads(text))

    def flush(self) -> None:
        self.got()

    async def drained(self) -> bool:
        await self.room.wait()
        self.outbox.stalled = False
        return True

    def close(self, why: CloseCode) -> None:
        raise AssertionError(why)

    def told(self) -> list[str | dict[str, str]]:
        """Ids of events, and what was said of resyncs, in order."""
        return [
            frame.get("id") or {name: frame["payload"][name] for name in FORKED}
            for frame in self.got()
        ]


async def opened(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Feed:
    relay = gateway.node.relay
    monkeypatch.setattr(relay, "check_tails", Nothing())  # it would find out later
    channel = gateway.node.keys.channel(Owner("", "alice"), Scope.USER)
    return await relay.open(channel, timeout_seconds=30)


async def append(broker: Broker, channel: Channel, at: int, after: int) -> None:
    message = event(at, after=after)
    event_id, _, linked = message.partition(b" ")
    await broker.client.execute("XADD", channel.log, event_id, "e", linked)
    await broker.client.execute("EXPIRE", channel.log, 60)
    await broker.client.publish(channel.live, message)


async def test_a_slow_client_gets_what_the_new_master_has_added(
    gateway: Gateway, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He was told to go on after 3, the entry below what he had, and never got 3."""
    feed = await opened(gateway, monkeypatch)
    slow = Peer()
    feed.live[slow] = None
    await append(broker, feed.channel, 1, 0)
    await append(broker, feed.channel, 5, 1)
    await eventually(lambda: slow.told() == ["1-0", "5-0"])
    slow.outbox.stalled = True
    await append(broker, feed.channel, 7, 5)
    await eventually(lambda: slow in feed.joining)

    await broker.client.execute("DEL", feed.channel.log)
    for at, after in ((1, 0), (3, 1), (9, 3)):
        await append(broker, feed.channel, at, after)
    slow.room.set()
    await eventually(lambda: slow.told()[2:] == [FORKED, "3-0", "9-0"])


async def test_a_client_that_was_ahead_of_its_gateway_gets_what_the_new_master_has_added(
    gateway: Gateway, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He had read 5 in the log, the gateway had not heard of it; what is older passed him by."""
    feed = await opened(gateway, monkeypatch)
    lose_live(gateway, monkeypatch, lambda message: message.startswith(b"5-0 "))
    ahead = Peer()
    ahead.room.set()
    await append(broker, feed.channel, 1, 0)
    await append(broker, feed.channel, 5, 1)
    await eventually(lambda: str(feed.follower.position) == "1-0")
    gateway.node.relay.join(feed, ahead, Beginning(ZERO))
    await eventually(lambda: ahead in feed.joining and feed.joining[ahead].waits)
    assert ahead.told() == ["1-0", "5-0"]

    await broker.client.execute("DEL", feed.channel.log)
    await append(broker, feed.channel, 1, 0)
    await append(broker, feed.channel, 3, 1)
    await eventually(lambda: ahead.told()[2:] == [FORKED, "3-0"])
    await eventually(lambda: ahead in feed.live)
