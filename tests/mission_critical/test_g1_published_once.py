"""G1: an event that is reported as published is in its channel's log once, also when retried."""

import asyncio

import pytest

from broker.channels import Owner, Scope
from broker.cursor import ZERO
from broker.errors import Fenced, SequenceGap
from broker.events import encode
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, Claim, RunRequest
from gateway.commands import new_id
from tests.support.clients import Client


async def opened(broker: Broker, user: str) -> Claim:
    """A run of the user, as a publisher without a worker opens it."""
    owner = Owner("", user)
    request = RunRequest(
        run_id=new_id(),
        owner=owner,
        channel=broker.keys.channel(owner, Scope.USER),
        thread_id="t",
        agent="any",
    )
    return await broker.open_run(request, AgentSpec(name="any"), worker_id="test")


def thought(claim: Claim, seq: int) -> Publication:
    kind = "agent_thinking" if seq > 1 else "agent_started"
    payload = {"thoughts": str(seq)} if seq > 1 else {"message": "begun"}
    body = encode(
        event_type=kind,
        user_id=claim.owner.user,
        thread_id=claim.thread_id,
        run_id=claim.run_id,
        agent_name=claim.agent,
        epoch_ms=0,
        payload=payload,
        seq=seq,
    )
    return Publication(seq=seq, event_type=kind, body=body, state=State.RUNNING, sent="st")


async def test_g1_the_same_event_sent_again_is_published_once(base: str, broker: Broker) -> None:
    """Every event is sent three times, as after lost replies; then an old one again."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        ids = {}
        for seq in range(1, 21):
            thrice = await asyncio.gather(
                *(broker.publish(claim, thought(claim, seq)) for _ in range(3))
            )
            assert len(set(thrice)) == 1
            ids[seq] = thrice[0]
        for seq in (1, 10, 20):
            assert await broker.publish(claim, thought(claim, seq)) == ids[seq]
        await client.until(lambda frames: any(frame.get("seq") == 20 for frame in frames))
        assert [event["seq"] for event in client.events()] == list(range(1, 21))
        assert [event["id"] for event in client.events()] == list(ids.values())
    entries, _ = await broker.read(claim.channel, ZERO)
    assert len(entries) == 20


async def test_g1_a_later_event_is_refused_until_the_one_before_is_there(broker: Broker) -> None:
    claim = await opened(broker, "alice")
    await broker.publish(claim, thought(claim, 1))
    with pytest.raises(SequenceGap):
        await broker.publish(claim, thought(claim, 3))
    await broker.publish(claim, thought(claim, 2))
    await broker.publish(claim, thought(claim, 3))


async def test_g1_an_older_attempt_can_publish_nothing_more(broker: Broker) -> None:
    """A worker that was thought dead and comes back is fenced, its retries included."""
    claim = await opened(broker, "alice")
    await broker.publish(claim, thought(claim, 1))
    key = broker.keys.run(claim.partition, claim.run_id)
    await broker.client.execute("HINCRBY", key, "fence", 1)
    with pytest.raises(Fenced):
        await broker.publish(claim, thought(claim, 2))
    entries, _ = await broker.read(claim.channel, ZERO)
    assert len(entries) == 1
