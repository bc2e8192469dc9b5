"""A Redis Cluster in motion: slots move, masters die or step down, connections break."""

import asyncio
import time
from collections import Counter

import pytest

from broker.channels import Keys, Owner, Scope
from broker.redis.topology import new_client, new_subscriber
from tests.chaos.test_failover import (
    GONE_SECONDS,
    RECOVERY_SECONDS,
    connected_to,
    forks,
    long_runs,
    succeeded,
)
from tests.support.chaos import Scene, chaos, until
from tests.support.chaos_report import Report
from tests.support.clients import ready_is
from tests.support.redis_cluster import Cluster, cluster_redis
from tests.support.redis_server import Server

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

KEYS = Keys()
CHANNELS = 2000


def slot_of(redis: Cluster, user: str) -> int:
    """Where all keys and channels of a user are."""
    return redis.slot(str(KEYS.partition(Owner("", user))))


def heard_at(node: Server, user: str) -> bool:
    """Whether somebody listens at this node to the user's channel."""
    live = KEYS.channel(Owner("", user), Scope.USER).live.decode()
    return live in node.raw("PUBSUB", "SHARDCHANNELS")


def urls(redis: Cluster) -> tuple[str, ...]:
    """Of those who hold the logs now."""
    return tuple(node.url for node in redis.masters())


def nothing_crossed(redis: Cluster) -> None:
    """No command, and no batch of subscriptions, ever named keys of several slots."""
    errors = redis.errors()
    assert errors.get("CROSSSLOT", 0) == 0, errors


def undisturbed(scene: Scene) -> None:
    """Nobody was told of a loss, and no run has failed."""
    told = {client.name: forks(client) for client in scene.clients if forks(client)}
    assert told == {}
    succeeded(scene)


async def test_a_slot_moves_under_load(report: Report) -> None:
    """The keys of a user with open runs go to another master and back, and the subscriptions of
    all gateways with them."""
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = slot_of(redis, "alice")
            hers = [client for client in scene.clients if client.user == "alice"]
            async with long_runs(scene):
                for _ in range(2):
                    source = redis.master_of(slot)
                    target = redis.another_master(source)
                    moved = await asyncio.to_thread(redis.migrate_slot, slot, target)
                    since = time.monotonic()
                    assert moved > 0, "there was nothing to move"
                    recovery = await scene.recovered(since, hers)
                    assert heard_at(target, "alice")
                    assert not heard_at(source, "alice")
            scene.log_urls = urls(redis)
            await scene.settle()
            scene.judge(
                fault="Cluster: a slot moves, under load; from its end", recovery_seconds=recovery
            )
            undisturbed(scene)
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


async def test_publishers_wait_while_a_slot_is_half_moved(report: Report) -> None:
    """The keys of one script are on two nodes for a second: an outage of this slot, and of no
    other."""
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = slot_of(redis, "alice")
            assert slot != slot_of(redis, "bob")
            his = [client for client in scene.clients if client.user == "bob"]
            hers = [client for client in scene.clients if client.user == "alice"]
            async with long_runs(scene):
                source = redis.master_of(slot)
                target = redis.another_master(source)
                redis.begin_migration(slot, target)
                began = time.monotonic()
                await scene.recovered(began, his)
                await until(
                    lambda: redis.errors().get("TRYAGAIN", 0) > 0, what="a publisher is refused"
                )
                moved = await asyncio.to_thread(redis.move_keys, slot, source, target)
                await asyncio.to_thread(redis.finish_migration, slot, source, target)
                since = time.monotonic()
                recovery = await scene.recovered(since, hers)
                assert moved > 0, "there was nothing to move"
            scene.log_urls = urls(redis)
            await scene.settle()
            scene.judge(
                fault="Cluster: a slot half moved for a while; from its end",
                recovery_seconds=recovery,
            )
            undisturbed(scene)
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


async def test_what_has_moved_already_is_asked_for_where_it_is() -> None:
    """While a slot moves, its old node says ASK for each key that is gone from it."""
    with cluster_redis() as redis:
        client = new_client(redis.url, name="test")
        try:
            await client.start()
            slot = redis.slot("moving")
            source = redis.master_of(slot)
            target = redis.another_master(source)
            await client.execute("SET", "{moving}:old", "1", "EX", 60)
            redis.begin_migration(slot, target)
            assert redis.move_keys(slot, source, target) == 1
            values = await client.execute_many(
                [("INCR", "{moving}:old") if turn % 2 else ("GET", "{moving}:old")
                 for turn in range(6)]
            )  # fmt: skip
            assert values == [b"1", 2, b"2", 3, b"3", 4], "in the order of asking"
            assert redis.errors()["ASK"] == len(values)
            await client.execute("SET", "{moving}:new", "here", "EX", 60)
            redis.finish_migration(slot, source, target)
            assert target.command("GET", "{moving}:new") == "here"
            assert await client.execute("GET", "{moving}:new") == b"here"
        finally:
            await client.stop()


async def test_the_queues_slot_moves_while_runs_are_asked_for(report: Report) -> None:
    """Workers that wait for requests at the old node go on at the new one."""
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = redis.slot("queue")
            async with scene.load(count=5, per_second=20):
                target = redis.another_master(redis.master_of(slot))
                moved = await asyncio.to_thread(redis.migrate_slot, slot, target)
                since = time.monotonic()
                assert moved > 0, "there was nothing to move"
                accepted = Counter({c.name: len(c.accepted) for c in scene.clients})
                recovery = await scene.recovered(since)
                await until(
                    lambda: all(len(c.ended) > accepted[c.name] for c in scene.clients),
                    what="a run that was asked for afterwards has ended, for everybody",
                )
            scene.log_urls = urls(redis)
            await scene.settle()
            scene.judge(
                fault="Cluster: the slot of the request queues moves; from its end",
                recovery_seconds=recovery,
            )
            undisturbed(scene)
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
async def test_a_killed_masters_replica_is_followed(report: Report) -> None:
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = slot_of(redis, "alice")
            async with long_runs(scene):
                master, replica = redis.pair_of(slot)
                killed = time.monotonic()
                master.kill()
                await asyncio.to_thread(redis.taken_over, slot, replica)
                promotion = time.monotonic()
                recovery = await scene.recovered(promotion)
                in_all = await scene.recovered(killed)
            scene.log_urls = urls(redis)
            await scene.settle(gone_seconds=GONE_SECONDS)
            scene.judge(
                fault=f"Cluster: master killed; from the promotion (in all {in_all:.1f} s)",
                recovery_seconds=recovery,
                rolled_back=True,  # replication is asynchronous
            )
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
async def test_nobody_stays_on_a_master_that_was_cut_off_and_replaced(report: Report) -> None:
    """It was paused, as behind a partition, and goes on in the moment of its replacement.

    A connection that is not used may stay until the next look at the map: it is told MOVED."""
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = slot_of(redis, "alice")
            stale, replica = redis.pair_of(slot)
            assert len(connected_to(stale)) > len(scene.gateways)
            async with long_runs(scene):
                stale.pause()
                await asyncio.to_thread(redis.taken_over, slot, replica)
                stale.go_on()
                promotion = time.monotonic()
                recovery = await scene.recovered(promotion)
                await until(
                    lambda: stale.raw("PUBSUB", "SHARDCHANNELS") == [],
                    what="nobody listens to the old master",
                )
            scene.log_urls = urls(redis)
            await scene.settle(gone_seconds=GONE_SECONDS)
            scene.judge(
                fault="Cluster: master cut off, replaced, and back at once; from the promotion",
                recovery_seconds=recovery,
                rolled_back=True,
            )
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


async def test_an_orderly_failover_loses_nothing(report: Report) -> None:
    """``CLUSTER FAILOVER``: the old master goes on as a replica, with all connections open."""
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = slot_of(redis, "alice")
            hers = [client for client in scene.clients if client.user == "alice"]
            async with long_runs(scene):
                old = redis.master_of(slot)
                new = await asyncio.to_thread(redis.failover, slot)
                since = time.monotonic()
                recovery = await scene.recovered(since, hers)
                await until(lambda: heard_at(new, "alice"), what="the new master is heard")
                await until(lambda: not heard_at(old, "alice"), what="the old one is left")
            scene.log_urls = urls(redis)
            await scene.settle()
            scene.judge(fault="Cluster: orderly failover", recovery_seconds=recovery)
            undisturbed(scene)
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_cut_connections_to_one_node_cost_nothing(report: Report, kind: str) -> None:
    with cluster_redis() as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            node = redis.master_of(slot_of(redis, "alice"))
            async with long_runs(scene):
                assert redis.cut_connections(node, kind) >= len(scene.gateways)
                since = time.monotonic()
                recovery = await scene.recovered(since)
            scene.log_urls = urls(redis)
            await scene.settle()
            scene.judge(
                fault=f"Cluster: all {kind} connections to one node cut", recovery_seconds=recovery
            )
            undisturbed(scene)
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
async def test_a_cluster_that_is_down_for_a_while_goes_on(report: Report) -> None:
    """A master and its replica are gone, so the others refuse with ``CLUSTERDOWN``; then both are
    back on their files."""
    with cluster_redis(None, "--appendfsync", "always") as redis:
        async with chaos(report, redis=redis.nodes[0], RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            slot = slot_of(redis, "alice")
            other = redis.another_master(redis.master_of(slot))
            async with long_runs(scene):
                master, replica = redis.pair_of(slot)
                replica.kill()
                master.kill()
                await ready_is(scene.gateways[0].base, 503)
                await until(
                    lambda: "cluster_state:fail" in other.raw("CLUSTER", "INFO"),
                    what="the cluster is down",
                )
                await asyncio.to_thread(master.start)
                await asyncio.to_thread(replica.start)
                await until(
                    lambda: all(
                        "cluster_state:ok" in n.raw("CLUSTER", "INFO") for n in redis.alive
                    ),
                    what="the cluster is up again",
                )
                since = time.monotonic()
                recovery = await scene.recovered(since)
            scene.log_urls = urls(redis)
            await scene.settle()
            scene.judge(
                fault="Cluster: CLUSTERDOWN for a while; from its end", recovery_seconds=recovery
            )
            undisturbed(scene)
            nothing_crossed(redis)
            assert recovery < RECOVERY_SECONDS


async def test_everything_is_subscribed_again_in_batches_of_one_slot() -> None:
    """Thousands of channels of all partitions; all subscriber connections cut at once, and one
    master replaced. Every channel is heard again, and no batch was refused.

    A node that is behind may send those of one slot range to the old master and back once more:
    what comes just then is not heard, so the owner is told to look at their logs after that."""
    heard: Counter[tuple[bytes, bytes]] = Counter()
    restored: set[bytes] = set()
    channels = [
        KEYS.channel(Owner("", f"user {number}"), Scope.USER).live for number in range(CHANNELS)
    ]
    with cluster_redis() as redis:
        client = new_client(redis.url, name="publisher")
        subscriber = new_subscriber(
            redis.url,
            name="subscriber",
            on_message=lambda channel, payload: heard.update([(channel, payload)]),
            on_restored=restored.update,
        )

        def unheard() -> set[bytes]:
            return set(channels) - {channel for channel, _ in heard}

        async def all_heard() -> bool:
            await asyncio.gather(*(client.publish(channel, b"again") for channel in unheard()))
            return not unheard()

        try:
            await client.start()
            await subscriber.start()
            await asyncio.gather(*(subscriber.subscribe(channel) for channel in channels))
            for node in redis.masters():
                assert redis.cut_connections(node, "pubsub") == 1
            await until(lambda: restored == set(channels), what="all are subscribed again")
            await until(lambda: subscriber.hearing, what="the subscriber hears")
            nothing_crossed(redis)
            restored.clear()
            old = redis.master_of(redis.slot("0"))
            await asyncio.to_thread(redis.failover, redis.slot("0"))
            await until(lambda: len(restored) > CHANNELS / 6, what="the replica is subscribed to")
            await until(lambda: subscriber.hearing, what="the subscriber hears")
            await until(
                lambda: old.raw("PUBSUB", "SHARDCHANNELS") == [], what="the old one is left"
            )
            await until(lambda: client.connected, what="the publisher is at the new master")
            restored.clear()
            await asyncio.gather(*(client.publish(channel, b"once") for channel in channels))
            await until(lambda: unheard() <= restored, what="a channel is heard, or looked at")
            await until(all_heard, what="every channel is heard")
            assert {n for (_, payload), n in heard.items() if payload == b"once"} == {1}, "twice"
            nothing_crossed(redis)
        finally:
            await subscriber.stop()
            await client.stop()
