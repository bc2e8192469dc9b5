"""The one way to append: ids that grow, that no other history shares, and a link that holds."""

import asyncio
import random
from itertools import count
from typing import Any

from broker.channels import Channel, Owner, Scope
from broker.codec import from_log
from broker.cursor import from_redis
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis import scripts
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, Claim
from broker.redis.store import random_step
from tests.integration.sdk_rig import alices

APPEND = scripts.ALL[0].source.partition(b"local run, message")[0]


async def append(broker: Broker, *channels: Channel, number: int = 1) -> list[bytes]:
    """The same moment for all of these logs, another event in each of them; their new ids."""
    keys: list[bytes] = [key for channel in channels for key in (channel.log, channel.live)]
    heads = [f"{each.owner.token} t r{number}" for each in channels]
    steps = [random_step() for _ in channels]
    loop = (
        b"local ids = {} for at = 1, #ARGV / 2 do ids[at] = append(KEYS[2 * at - 1], KEYS[2 * at],"
        b" ARGV[at], 1, 'x\\n{}', ARGV[#ARGV / 2 + at], '9 1000 60', true) end return ids"
    )
    ids: list[bytes] = await broker.client.execute(
        "EVAL", APPEND + loop, len(keys), *keys, *heads, *steps
    )
    return ids


def channel(broker: Broker, user: str) -> Channel:
    return broker.keys.channel(Owner("", user), Scope.USER)


async def entries(broker: Broker, log: Channel) -> list[Any]:
    found = await broker.client.execute("XRANGE", log.log, "-", "+")
    return [from_log(entry_id, fields[1]) for entry_id, fields in found]


async def test_ids_grow_and_links_hold_however_fast_events_come(broker: Broker) -> None:
    alice = channel(broker, "alice")
    ids = [
        entry_id
        for batch in await asyncio.gather(*(append(broker, alice, number=n) for n in range(500)))
        for entry_id in batch
    ]
    cursors = [from_redis(entry_id) for entry_id in ids]
    assert cursors == sorted(set(cursors))
    log = await entries(broker, alice)
    assert [each.id for each in log] == ids
    assert [each.prev for each in log] == [b"0-0", *ids[:-1]]


async def test_two_events_of_one_moment_have_different_ids_in_different_histories(
    broker: Broker,
) -> None:
    """As two masters write them that do not know of each other: with equal ids, the link to the one
    would be taken for a link to the other, and the histories be spliced in silence."""
    for attempt in range(200):
        users = [channel(broker, f"user-{attempt}-{number}") for number in range(4)]
        ids = await append(broker, *users, *users)  # the first and the second event of each log
        if len({entry_id.partition(b"-")[0] for entry_id in ids}) == 1:
            break
    else:
        raise AssertionError("the server never appended eight events within one moment")
    assert len(set(ids)) == len(ids)


async def test_a_log_whose_newest_entry_was_deleted_goes_on(broker: Broker) -> None:
    """Redis still knows the id and takes no lower one."""
    alice = channel(broker, "alice")
    [first] = await append(broker, alice)
    future = b"%d-5" % (from_redis(first).ms + 3_600_000)
    await broker.client.execute("XADD", alice.log, future, "e", "0-0 x\n{}")
    await broker.client.execute("XDEL", alice.log, future)
    [second] = await append(broker, alice, number=2)
    assert from_redis(second) > from_redis(future)
    assert (await entries(broker, alice))[-1].prev == first


async def opened(broker: Broker) -> Claim:
    spec = AgentSpec(name="a", on_busy="parallel")
    return await broker.open_run(alices(broker), spec, worker_id="w")


async def say(broker: Broker, claim: Claim, seq: int) -> bytes:
    publication = Publication(
        seq=seq, event_type="agent_thinking", body=b"{}", state=State.RUNNING, sent="st",
        changes=seq == 1,
    )  # fmt: skip
    return (await broker.publish(claim, publication)).encode()


async def test_links_hold_where_runs_and_what_their_user_does_share_a_log(broker: Broker) -> None:
    """Each run knows where the log ended with its own last event: mostly, others came after it."""
    choose = random.Random(5)
    claims = [await opened(broker) for _ in range(3)]
    seqs = [count(1) for _ in claims]
    ids = []
    for _ in range(300):
        at = choose.choice((0, 0, 0, 1, 2, None))  # the first often has nobody between
        if at is None:
            ids += await append(broker, claims[0].channel)
        else:
            ids.append(await say(broker, claims[at], next(seqs[at])))
    log = await entries(broker, claims[0].channel)
    assert [each.id for each in log] == ids
    assert [each.prev for each in log] == [b"0-0", *ids[:-1]]


async def test_an_event_after_one_that_was_deleted_tells_that_something_is_missing(
    broker: Broker,
) -> None:
    claim = await opened(broker)
    first, second = await say(broker, claim, 1), await say(broker, claim, 2)
    await broker.client.execute("XDEL", claim.channel.log, second)
    third = await say(broker, claim, 3)
    assert [(each.prev, each.id) for each in await entries(broker, claim.channel)] == [
        (b"0-0", first), (second, third),
    ]  # fmt: skip


async def test_a_log_that_is_gone_begins_anew(broker: Broker) -> None:
    claim = await opened(broker)
    for seq in (1, 2):
        await say(broker, claim, seq)
    await broker.client.execute("DEL", claim.channel.log)
    after = [await say(broker, claim, seq) for seq in (3, 4)]
    assert [each.prev for each in await entries(broker, claim.channel)] == [b"0-0", after[0]]
