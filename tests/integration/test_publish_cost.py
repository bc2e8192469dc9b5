"""What a publication costs Redis, in commands, and when keys get their time to live anew."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, Claim
from tests.integration.sdk_rig import ALICE, alices

MANY = 100
TENTH = 11 / 10
"""Keys are given a tenth more than their time to live, so that it need not be renewed each time."""


async def opened(broker: Broker) -> Claim:
    request = alices(broker)
    return await broker.open_run(request, AgentSpec(name="a", on_busy="parallel"), worker_id="w")


def thinking(seq: int, *, changes: bool = False) -> Publication:
    return Publication(
        seq=seq,
        event_type="agent_thinking",
        body=b"{}",
        state=State.RUNNING,
        sent="st",
        changes=changes,
    )


async def commands(broker: Broker) -> Counter[str]:
    """How often the server carried out each command so far."""
    stats = (await broker.client.execute("INFO", "commandstats")).decode()
    counts: Counter[str] = Counter()
    for line in stats.splitlines():
        name, _, figures = line.removeprefix("cmdstat_").partition(":calls=")
        if figures and name != "info":
            counts[name] = int(figures.partition(",")[0])
    return counts


async def ttls(broker: Broker, claim: Claim) -> dict[str, int]:
    run = broker.keys.run(claim.partition, claim.run_id)
    keys = {"run": run, "log": claim.channel.log, "open": claim.channel.open}
    return {name: await broker.client.execute("TTL", key) for name, key in keys.items()}


async def expire(broker: Broker, claim: Claim, seconds: int) -> None:
    run = broker.keys.run(claim.partition, claim.run_id)
    for key in (run, claim.channel.log, claim.channel.open):
        assert await broker.client.execute("EXPIRE", key, seconds)


@pytest.fixture
async def claim(broker: Broker) -> Claim:
    """A run with its first event in the log."""
    claim = await opened(broker)
    await broker.publish(claim, thinking(1, changes=True))
    return claim


async def test_an_ordinary_event_takes_seven_commands(broker: Broker, claim: Claim) -> None:
    """Every further one is a few per cent of what a Redis core can publish."""
    before = await commands(broker)
    for seq in range(2, MANY + 2):
        await broker.publish(claim, thinking(seq))
    once = ("evalsha", "hmget", "time", "xadd", "publish", "hset")
    trimming = sum(seq % 16 == 0 for seq in range(2, MANY + 2))
    looked = {"xrevrange": trimming, "xread": MANY - trimming}
    assert await commands(broker) - before == Counter(dict.fromkeys(once, MANY) | looked)


async def test_where_runs_take_turns_the_log_is_read_at_once(broker: Broker, claim: Claim) -> None:
    """To ask first whether others came would be in vain, until one run is alone again."""
    other = await opened(broker)
    await broker.publish(other, thinking(1, changes=True))
    for each in (claim, other):  # each learns that it is not alone
        await broker.publish(each, thinking(2))
    before = await commands(broker)
    for seq in range(3, 13):
        for each in (claim, other):
            await broker.publish(each, thinking(seq))
    in_turns = await commands(broker) - before
    assert (in_turns["xrevrange"], in_turns["xread"]) == (20, 0)
    before = await commands(broker)
    for seq in range(13, 16):
        await broker.publish(claim, thinking(seq))
    alone = await commands(broker) - before
    assert (alone["xrevrange"], alone["xread"]) == (2, 1), "the second learns that it is alone"


async def test_a_delta_takes_five_commands(broker: Broker, claim: Claim) -> None:
    await broker.publish_delta(claim, offset=0, text="x")
    before = await commands(broker)
    for offset in range(1, MANY + 1):
        await broker.publish_delta(claim, offset=offset, text="x")
    once = ("evalsha", "hmget", "strlen", "append", "publish")
    assert await commands(broker) - before == Counter(dict.fromkeys(once, MANY))


async def test_keys_live_a_tenth_longer_and_are_renewed_when_that_has_passed(
    broker: Broker, claim: Claim
) -> None:
    """So that at any moment the log lives for its whole time to live after its last event."""
    whole = broker.limits.history_ttl_seconds
    assert all(whole < each <= whole * TENTH for each in (await ttls(broker, claim)).values())
    await expire(broker, claim, 50)
    await broker.publish(claim, thinking(2))
    assert all(each <= 50 for each in (await ttls(broker, claim)).values()), "it is not due"
    run = broker.keys.run(claim.partition, claim.run_id)
    seconds = int((await broker.client.execute("TIME"))[0])
    due = int(await broker.client.execute("HGET", run, "due"))
    assert seconds < due <= seconds + whole / 10 + 1
    await broker.client.execute("HSET", run, "due", seconds)
    await broker.publish(claim, thinking(3))
    assert all(whole < each <= whole * TENTH for each in (await ttls(broker, claim)).values())
    assert int(await broker.client.execute("HGET", run, "due")) >= due


async def test_a_log_that_begins_anew_gets_its_time_to_live_at_once(
    broker: Broker, claim: Claim
) -> None:
    """Deleted, or expired beside a run that goes on: nothing is due for that run yet."""
    await broker.client.execute("DEL", claim.channel.log)
    await broker.publish(claim, thinking(2))
    assert (await ttls(broker, claim))["log"] > broker.limits.history_ttl_seconds


async def test_what_an_open_run_needs_is_kept_for_as_long_as_its_lease_is_renewed(
    broker: Broker,
) -> None:
    """That may be longer than anything is kept: its thread was free then, so that the next message
    did not wait for it, and who came back did not get its text."""
    request = alices(broker)
    await broker.register(request, epoch_ms=0)
    claim = await broker.claim(request.channel.partition, request.run_id, worker_id="w")
    assert claim is not None
    await broker.publish_delta(claim, offset=0, text="x")
    keys = broker.keys
    needed = {
        keys.run(claim.partition, claim.run_id),
        keys.text(claim.partition, claim.run_id),
        keys.leases(claim.partition),
        keys.runs(ALICE),
        keys.thread(ALICE, "t"),
        claim.channel.log,
        claim.channel.open,
    }
    for key in needed:
        assert await broker.client.execute("EXPIRE", key, 50)
    assert (await broker.renew(claim)).held
    whole = broker.limits.history_ttl_seconds
    assert [key for key in needed if await broker.client.execute("TTL", key) <= whole] == []


async def test_a_log_is_trimmed_though_not_with_every_event(broker: Broker) -> None:
    """About the number of retained events stays, as Redis trims whole blocks."""
    claim = await opened(broker)
    most = broker.limits.history_events
    await broker.publish(claim, thinking(1, changes=True))
    for seq in range(2, most + 400):
        await broker.publish(claim, thinking(seq))
    assert most <= await broker.client.execute("XLEN", claim.channel.log) < most + 120


def ending(seq: int) -> Publication:
    return Publication(
        seq=seq,
        event_type="agent_completed",
        body=b"{}",
        state=State.COMPLETED,
        sent="sc",
        status="succeeded",
    )


async def cost_of_a_run(broker: Broker) -> tuple[Counter[str], Counter[str]]:
    """Commands from its registration on, and of its end alone."""
    before = await commands(broker)
    claim = await opened(broker)
    await broker.publish(claim, thinking(1, changes=True))
    open_at = await commands(broker)
    await broker.publish(claim, ending(2))
    after = await commands(broker)
    return open_at - before, after - open_at


async def test_webhooks_cost_two_commands_for_what_they_want_and_nothing_where_there_are_none(
    broker: Broker,
) -> None:
    """How many wait, and one more; that a run is of interest is written down once."""
    await cost_of_a_run(broker)  # the scripts are loaded
    begun, ended = await cost_of_a_run(broker)
    await broker.want(["agent_completed"], most=10)
    await cost_of_a_run(broker)  # the outbox gets its time to live
    with_webhooks, end_with_webhooks = await cost_of_a_run(broker)
    assert end_with_webhooks - ended == Counter(("xlen", "xadd"))
    assert with_webhooks - begun == Counter({"hset": 1})
    assert begun["hget"] == 1, "whether anybody wants it"
    assert not ended - end_with_webhooks
