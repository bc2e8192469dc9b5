"""A Cluster whose nodes do not agree, or are not there: what subscribers and callers get."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.errors import BrokerUnavailable
from broker.redis.address import parse
from broker.redis.cluster import ClusterClient
from broker.redis.cluster_subscriber import ClusterSubscriber
from tests.support.clients import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.redis_cluster import Cluster, cluster_redis, node_id
from tests.support.redis_server import Server

pytestmark = pytest.mark.timeout(300)  # seconds: six servers start for each test


@asynccontextmanager
async def listening(cluster: Cluster) -> AsyncIterator[tuple[ClusterSubscriber, list[bytes]]]:
    """A subscriber, and what it was told to check."""
    restored: list[bytes] = []
    subscriber = ClusterSubscriber(
        parse(cluster.url), on_message=lambda *_: None, on_restored=restored.extend, name="test"
    )
    await subscriber.start(timeout_seconds=30)
    try:
        yield subscriber, restored
    finally:
        await subscriber.stop()


def asked(node: Server) -> int:
    """How many subscriptions the node was asked for, those that it refused too."""
    stats = node.info("commandstats").get("cmdstat_ssubscribe", {})
    return int(stats.get("calls", 0)) + int(stats.get("rejected_calls", 0))


def take(slot: int, new: Server, old: Server) -> None:
    """The new node has it, with a greater epoch: or those that still know the old one as its node
    would sooner or later talk it out of that."""
    new.command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(old))
    new.command("CLUSTER", "SETSLOT", slot, "NODE", node_id(new))


async def test_nodes_that_send_it_to_and_fro_are_not_flooded() -> None:
    """A slot is given away by its node before the other one knows: nobody has it for a while."""
    channels = [b"{1}:%d" % number for number in range(50)]
    with cluster_redis() as cluster:
        slot = cluster.slot("1")
        old = cluster.master_of(slot)
        new = cluster.another_master(old)
        async with listening(cluster) as (subscriber, restored):
            await asyncio.gather(*map(subscriber.subscribe, channels))
            before, began = asked(old) + asked(new), time.monotonic()
            old.command("CLUSTER", "SETSLOT", slot, "NODE", node_id(new))
            await asyncio.sleep(1)  # time is what is measured here
            each = (asked(old) + asked(new) - before) / len(channels)
            pace = each / (time.monotonic() - began)
            assert each >= 1
            assert pace <= 30, f"{pace} tries a second and channel"  # looks, and 2 of each
            take(slot, new, old)
            await eventually(lambda: subscriber.hearing and set(restored) == set(channels))
            for channel in channels:
                assert new.command("PUBSUB", "SHARDNUMSUB", channel) == [channel.decode(), 1]


async def test_what_is_left_while_its_slot_moves_disturbs_nobody_else() -> None:
    """The node answers MOVED to an unsubscription too."""
    with cluster_redis() as cluster:
        slot = cluster.slot("1")
        old = cluster.master_of(slot)
        new = cluster.another_master(old)
        beside = next(
            b"{%d}" % n for n in range(2, 99) if cluster.master_of(cluster.slot(str(n))) is old
        )
        async with listening(cluster) as (subscriber, restored):
            await asyncio.gather(*map(subscriber.subscribe, (b"{1}:a", beside + b":a")))
            take(slot, new, old)
            old.command("CLUSTER", "SETSLOT", slot, "NODE", node_id(new))
            subscriber.unsubscribe(b"{1}:a")
            await subscriber.subscribe(beside + b":b")
            await subscriber.subscribe(b"{1}:b")
            assert (subscriber.reconnects, subscriber.hearing) == (0, True)
            assert set(restored) <= {b"{1}:b"}


async def test_it_starts_while_a_master_is_being_replaced() -> None:
    with cluster_redis() as cluster:
        cluster.master_of(cluster.slot("1")).kill()
        async with listening(cluster) as (subscriber, _):
            await asyncio.wait_for(subscriber.subscribe(b"{1}"), 30)


async def test_it_starts_with_a_cluster_that_is_far_away() -> None:
    """No node answers as soon as one of this machine does: it is waited for all the same."""
    with cluster_redis() as cluster, FaultProxy(("127.0.0.1", cluster.nodes[0].port)) as network:
        client = ClusterClient(parse(f"redis+cluster://127.0.0.1:{network.port}"), name="test")
        with network.delay(0.5):
            await client.start(timeout_seconds=30)
        assert client.connected
        await client.stop()


async def test_whoever_waits_for_a_node_that_is_away_is_told_when_the_client_stops() -> None:
    with cluster_redis() as cluster:
        slot = cluster.slot("1")
        old = cluster.master_of(slot)
        away = cluster.another_master(old)
        away_id = node_id(away)
        client = ClusterClient(parse(cluster.url), name="test")
        await client.start(timeout_seconds=30)
        away.kill()
        await eventually(lambda: not client.connected)
        old.command("CLUSTER", "SETSLOT", slot, "NODE", away_id)
        reply = asyncio.ensure_future(client.execute("GET", b"{1}"))
        await eventually(lambda: "cmdstat_get" in old.info("commandstats"))  # it has said MOVED
        await client.stop()
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(reply, 30)
