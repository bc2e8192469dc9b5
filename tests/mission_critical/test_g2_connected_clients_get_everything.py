"""G2: a connected client gets every event of its channel, in log order, without duplicates, also
when Redis pub/sub dropped some."""

import asyncio
from itertools import count

import pytest

from broker.redis.broker import Broker
from gateway.app import Gateway
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import Client, Frame, cursor_key, lose_live


async def test_g2_a_dropped_live_message_is_refilled_in_order(
    gateway: Gateway, base: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third live message is lost on its way to the gateway's hub."""
    heard = count(1)
    lose_live(gateway, monkeypatch, lambda _message: next(heard) % 3 == 0)
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        for seq in range(1, 62):
            await broker.publish(claim, thought(claim, seq))
        # 61 = 3 * 20 + 1: the last one is heard.
        await client.until(lambda frames: any(frame.get("seq") == 61 for frame in frames))
        assert [event["seq"] for event in client.events()] == list(range(1, 62))
    assert gateway.node.relay.hub.counters.repaired >= 20


async def test_g2_nothing_is_lost_when_the_subscriber_connection_is_killed(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """What is published while nobody listens comes from the log, without the client noticing."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        for seq in range(1, 301):
            if seq % 100 == 50:
                await broker.client.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await broker.publish(claim, thought(claim, seq))
        await client.until(lambda frames: any(frame.get("seq") == 300 for frame in frames))
        assert [event["seq"] for event in client.events()] == list(range(1, 301))
        assert not [frame for frame in client.frames if frame["type"] == "resync"]
    assert gateway.node.relay.subscriber.reconnects >= 1


async def test_g2_what_came_last_while_nobody_listened_is_read_on_return(
    gateway: Gateway, base: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each re-subscription every log is checked, without waiting for the next event."""

    async def no_tail_check(_feeds: object) -> None: ...

    monkeypatch.setattr(gateway.node.relay, "check_tails", no_tail_check)
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        for seq in range(1, 11):
            await broker.client.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await broker.publish(claim, thought(claim, seq))

            def arrived(frames: list[Frame], want: int = seq) -> bool:
                return frames[-1].get("seq") == want

            await client.until(arrived)
        assert [event["seq"] for event in client.events()] == list(range(1, 11))


async def test_g2_connects_race_with_publishing(base: str, broker: Broker) -> None:
    """Clients connect while events flow: each gets all from its cursor on, none twice."""
    claim = await opened(broker, "alice")
    await broker.publish(claim, thought(claim, 1))
    seq = 1
    publishing = True

    async def publish() -> None:
        nonlocal seq
        while publishing:
            await broker.publish(claim, thought(claim, seq + 1))
            seq += 1

    publisher = asyncio.create_task(publish())

    async def connect() -> None:
        async with Client(base, "alice", after="0-0") as client:
            await client.first("live")
            behind = seq

            def caught_up(frames: list[Frame]) -> bool:
                return any(frame.get("seq", 0) >= behind for frame in frames)

            await client.until(caught_up)
            got = [event["seq"] for event in client.events()]
            assert got == list(range(got[0], got[0] + len(got)))
            assert got[0] == 1 or len(got) > 1

    try:
        for _ in range(5):
            await asyncio.gather(*(connect() for _ in range(8)))
    finally:
        publishing = False
        await publisher


async def test_g2_a_rewritten_log_is_named_by_a_resync(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """A promoted replica without the tail: the log goes on from before what the client has."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        for seq in range(1, 11):
            await broker.publish(claim, thought(claim, seq))
        await client.until(lambda frames: any(frame.get("seq") == 10 for frame in frames))
        shared, *lost = [event["id"] for event in client.events()][-4:]
        await broker.client.execute("XDEL", claim.channel.log, *lost)
        key = broker.keys.run(claim.partition, claim.run_id)
        await broker.client.execute("HSET", key, "seq", 7, "tail", shared)
        for seq in range(8, 12):
            await broker.publish(claim, thought(claim, seq))
        resync = await client.first("resync")
        assert resync["payload"]["reason"] == "forked"
        at = client.frames.index(resync)
        await client.until(lambda frames: any(frame.get("seq") == 11 for frame in frames))
        after = [frame["seq"] for frame in client.frames[at:] if "seq" in frame]
        assert after == [8, 9, 10, 11], "replay from the last entry that both histories share"
    assert gateway.node.relay.hub.counters.resyncs == 1


async def test_g2_a_lost_last_message_is_found_within_seconds(
    gateway: Gateway, base: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes after it, so there is no hole to see: the log is asked."""
    lose_live(gateway, monkeypatch, lambda message: b'"seq":5' in message)
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        for seq in range(1, 6):
            await broker.publish(claim, thought(claim, seq))
        await client.until(lambda frames: frames[-1].get("seq") == 5)
        assert [event["seq"] for event in client.events()] == [1, 2, 3, 4, 5]


async def test_g2_a_log_that_lost_its_tail_is_told_without_another_event(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """A promoted replica without the last events, and nothing published since."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        ids = [await broker.publish(claim, thought(claim, seq)) for seq in range(1, 6)]
        await client.until(lambda frames: frames[-1].get("seq") == 5)
        await broker.client.execute("XDEL", claim.channel.log, *ids[3:])
        resync = await client.first("resync")
        assert resync["payload"] == {
            "reason": "forked",
            "from": ids[2],
            "channel_cursor": ids[2],
        }
    assert gateway.node.relay.hub.counters.resyncs == 1


async def test_g2_what_another_master_took_at_the_same_time_is_not_passed_over(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """The client has events of a master that is gone. The other one's have lower ids than the
    client's last event, although it never saw them."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        ids = [await broker.publish(claim, thought(claim, seq)) for seq in range(1, 4)]
        ms, _, number = ids[2].partition("-")
        now_ms = 0
        while now_ms <= int(ms):  # the next two in a later millisecond
            seconds, micros = await broker.client.execute("TIME")
            now_ms = int(seconds) * 1000 + int(micros) // 1000
        ids += [await broker.publish(claim, thought(claim, seq)) for seq in range(4, 6)]
        await client.until(lambda frames: frames[-1].get("seq") == 5)
        log = claim.channel.log
        entries = await broker.client.execute("XRANGE", log, "-", "+")
        prev = ids[2].encode()
        copied = [("XADD", log, own, *fields) for own, fields in entries[:3]]
        for more, (_, (name, body)) in enumerate(entries[3:], start=1):
            own = f"{ms}-{int(number) + more}".encode()
            copied.append(("XADD", log, own, name, prev + b" " + body.partition(b" ")[2]))
            prev = own
        assert cursor_key({"id": prev.decode()}) < cursor_key({"id": ids[4]})
        await broker.client.execute_many([("DEL", log), *copied])
        resync = await client.first("resync")
        assert resync["payload"] == {
            "reason": "forked",
            "from": ids[2],
            "channel_cursor": prev.decode(),
        }
        at = client.frames.index(resync)
        await client.until(lambda frames: frames[-1].get("id") == prev.decode())
        after = [frame["seq"] for frame in client.frames[at:] if "seq" in frame]
        assert after == [4, 5], "what both histories share comes once, the rest from the log"
