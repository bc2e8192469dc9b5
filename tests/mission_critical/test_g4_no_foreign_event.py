"""G4: no connection gets an event outside its scope, even if one is published to its channel."""

from broker.redis.broker import Broker
from gateway.app import Gateway
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import Client


async def test_g4_a_foreign_event_on_a_users_channel_is_withheld_and_counted(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """Live, and in the log: a client of alice never gets what names bob as its owner."""
    claim = await opened(broker, "alice")
    foreign = b":bob t r 1 agent_thinking\n" + thought(claim, 2).body.replace(b"alice", b"bob")
    async with Client(base, "alice") as client:
        await client.first("live")
        first = await broker.publish(claim, thought(claim, 1))
        linked = first.encode() + b" " + foreign
        entry = await broker.client.execute("XADD", claim.channel.log, "*", "e", linked)
        await broker.client.execute("PUBLISH", claim.channel.live, entry + b" " + linked)
        await broker.client.execute(
            "PUBLISH", claim.channel.live, b"- 1 :bob t r 0 agent_delta\n" + foreign
        )
        await broker.publish(claim, thought(claim, 2))
        await client.until(lambda frames: any(frame.get("seq") == 2 for frame in frames))
        assert [event["seq"] for event in client.events()] == [1, 2]
        assert {event["user_id"] for event in client.events()} == {"alice"}
    assert gateway.node.relay.hub.counters.isolation_violations >= 2
    async with Client(base, "alice", after="0-0") as client:
        await client.first("live")
        assert [event["seq"] for event in client.events()] == [1, 2], "nor from the log"


async def test_g4_separators_in_ids_do_not_make_users_meet(base: str, broker: Broker) -> None:
    """``a:b`` + ``c`` is not ``a`` + ``b:c``, and braces choose no other slot."""
    pairs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("{a}", "b"), ("a}", "b"), ("*", "?")]
    for sender, thread in pairs:
        claim = await opened(broker, sender)
        await broker.publish(claim, thought(claim, 1))
        del thread
    for user, thread in pairs:
        async with Client(base, user, after="0-0") as client:
            await client.first("live")
            assert [event["user_id"] for event in client.events()] == [user]
        async with Client(base, user, after="0-0", mode="factory", thread_id=thread) as client:
            await client.first("live")
            assert client.events() == []
