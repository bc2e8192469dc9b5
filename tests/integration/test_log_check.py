"""After an interruption every channel is proven by its log, in batches, watched channels first."""

import asyncio
from collections.abc import Sequence

import pytest

from broker.channels import Channel, Owner, Scope
from broker.codec import Entry
from broker.cursor import Cursor
from broker.errors import BrokerUnavailable
from broker.redis import scripts
from broker.redis.broker import Broker
from gateway.app import Gateway
from gateway.feed import Feed
from tests.support.clients import eventually

CHANNELS = 600


async def opened(gateway: Gateway, count: int) -> list[Feed]:
    keys = gateway.node.keys
    channels = [keys.channel(Owner("", f"user-{at}"), Scope.USER) for at in range(count)]
    relay = gateway.node.relay
    return list(await asyncio.gather(*(relay.open(each, timeout_seconds=30) for each in channels)))


async def append(broker: Broker, channel: Channel) -> None:
    """One event in the log and on the live channel, as the scripts do it."""
    source = scripts.ALL[0].source.partition(b"local run, message")[0]
    head, limits = f"{channel.owner.token} t r", "1024 1000 60"
    await broker.client.execute(
        "EVAL", source + b"return append(KEYS[1], KEYS[2], ARGV[1], 1, ARGV[2], 1, ARGV[3], true)",
        2, channel.log, channel.live, head, "agent_thinking\n{}", limits,
    )  # fmt: skip


async def calls(broker: Broker, command: str) -> int:
    """How often the server carried a command out so far."""
    stats = (await broker.client.execute("INFO", "commandstats")).decode()
    for line in stats.splitlines():
        if line.startswith(f"cmdstat_{command}:calls="):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0


@pytest.mark.timeout(300)  # seconds: hundreds of channels beside other tests
async def test_only_logs_that_went_on_are_read_and_all_channels_are_level_again(
    gateway: Gateway, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = await opened(gateway, CHANNELS)
    relay = gateway.node.relay
    missed, watched = feeds[:40], feeds[-1]
    watched.open_runs[b"r"] = None
    repaired: list[Feed] = []
    repair = relay.repair

    def noted(feed: Feed, *, cut_off: bool = False) -> None:
        repaired.append(feed)
        repair(feed, cut_off=cut_off)

    monkeypatch.setattr(relay, "repair", noted)

    # Between the loss and the return, for everybody: nobody is subscribed when these are published.
    relay.subscriber._source.locate = hold = Held(relay.subscriber._source.locate)  # type: ignore[attr-defined]
    relay.subscriber.reconnect(b"")
    await eventually(lambda: not relay.subscriber.hearing)
    await asyncio.gather(*(append(broker, feed.channel) for feed in [*missed, watched]))
    reads = await calls(broker, "xrange")
    hold.go()
    await eventually(lambda: bool(repaired))
    await eventually(lambda: all(feed.follower.level for feed in feeds))
    await eventually(lambda: gateway.node.ready)

    assert repaired[0] is watched, "somebody watches it"
    assert {id(feed) for feed in repaired} == {id(feed) for feed in [*missed, watched]}
    newest = await broker.ends([feed.channel for feed in feeds])
    assert [feed.follower.position for feed in feeds] == newest
    # One page for each log that went on, none for the others; now and then the watched one's tail.
    assert await calls(broker, "xrange") - reads < 2 * len(missed)


class Held:
    """A call that waits until it is let go."""

    def __init__(self, call: object) -> None:
        self._call, self._event = call, asyncio.Event()

    def go(self) -> None:
        self._event.set()

    async def __call__(self) -> object:
        await self._event.wait()
        return await self._call()  # type: ignore[operator]


async def test_a_log_that_cannot_be_read_keeps_no_other_from_being_proven(
    gateway: Gateway, broker: Broker
) -> None:
    unreadable, missed, quiet = await opened(gateway, 3)
    relay = gateway.node.relay
    relay.subscriber._source.locate = hold = Held(relay.subscriber._source.locate)  # type: ignore[attr-defined]
    relay.subscriber.reconnect(b"")
    await eventually(lambda: not relay.subscriber.hearing)
    await append(broker, missed.channel)
    await broker.client.execute("SET", unreadable.channel.log, "no stream", "EX", 60)
    hold.go()
    await eventually(lambda: relay.subscriber.hearing)
    await eventually(lambda: gateway.node.ready)
    await eventually(lambda: missed.follower.level and quiet.follower.level)
    assert [missed.follower.position] == await broker.ends([missed.channel])
    assert not unreadable.follower.level

    await broker.client.execute("DEL", unreadable.channel.log)
    await eventually(lambda: unreadable.follower.level)


async def test_an_end_read_before_another_interruption_proves_nothing(
    gateway: Gateway, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (feed,) = await opened(gateway, 1)
    relay = gateway.node.relay
    monkeypatch.setattr(relay, "check_tails", Nothing())  # it would find out later

    async def away_while_appending() -> Held:
        relay.subscriber._source.locate = hold = Held(relay.subscriber._source.locate)  # type: ignore[attr-defined]
        relay.subscriber.reconnect(b"")
        await eventually(lambda: not relay.subscriber.hearing)
        await append(broker, feed.channel)
        return hold

    read = gateway.node.broker.read
    replied, passed_on = asyncio.Event(), asyncio.Event()

    async def late(channel: Channel, after: Cursor) -> tuple[list[Entry], bool]:
        page = await read(channel, after)
        replied.set()
        await passed_on.wait()
        return page

    monkeypatch.setattr(gateway.node.broker, "read", late)
    (await away_while_appending()).go()
    await replied.wait()
    (await away_while_appending()).go()
    await eventually(lambda: relay.subscriber.hearing)
    await eventually(lambda: not relay.log_check.pending)
    passed_on.set()
    await eventually(lambda: feed.follower.level)
    assert [feed.follower.position] == await broker.ends([feed.channel])


async def test_a_channel_that_was_opened_anew_is_proven_and_not_the_one_before(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away, the channel is left and opened again, and then it is interrupted once more."""
    (former,) = await opened(gateway, 1)
    relay, broker = gateway.node.relay, gateway.node.broker
    monkeypatch.setattr(relay, "check_tails", Nothing())  # it would find out later
    ends, away = broker.ends, True

    async def asked(channels: Sequence[Channel]) -> list[Cursor | None]:
        if away:
            raise BrokerUnavailable(why="it is away")
        return await ends(channels)

    monkeypatch.setattr(broker, "ends", asked)
    relay.log_check.add([former])
    relay._close(former)
    (present,) = await opened(gateway, 1)
    assert present is not former
    present.open_runs[b"r"] = None
    relay.log_check.add([present])
    away = False
    await eventually(lambda: not relay.log_check.pending)
    await eventually(lambda: present.follower.level)


class Nothing:
    """A call that does nothing."""

    async def __call__(self, *_: object) -> None:
        return None
