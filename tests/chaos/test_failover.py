"""A master that is lost, replaced or forgets: what was confirmed stays, or is told to be gone."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import unquote

import pytest

from broker.errors import BrokerUnavailable
from broker.redis.topology import new_client
from tests.support.chaos import QUICK_SECONDS, Scene, chaos, until
from tests.support.chaos_client import ChaosClient
from tests.support.chaos_log import read_logs
from tests.support.chaos_report import Report
from tests.support.clients import ready_is
from tests.support.faults import named
from tests.support.redis_server import Server, standalone
from tests.support.servers import is_ready
from tests.support.topologies import MASTER_NAME, Sentinel, replicated_redis, sentinel_redis

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

GONE_SECONDS = 3.0
"""To settle when whole runs are gone with a log: their ends do not come any more."""

RECLAIM_SECONDS = 12.0
"""Until a run is claimed again whose claim was lost with a master's tail."""

STEADY_EVENTS = 8

RECOVERY_SECONDS = QUICK_SECONDS
"""From a server that is there again to the next delivered event."""

OURS = ("gateway ", "subscriber ", "worker-", "queue ")


def connected_to(server: Server) -> list[str]:
    """The names of Runcast's own connections to a server."""
    names = re.findall(r" name=(\S*)", server.raw("CLIENT", "LIST"))
    return [name for name in map(unquote, names) if name.startswith(OURS)]


def succeeded(scene: Scene) -> None:
    """Every run that has ended did so well: no lease was lost, nothing was given up."""
    ends = {
        client.name: end["payload"]["status"]
        for client in scene.clients
        for end in client.ended.values()
    }
    assert set(ends.values()) == {"succeeded"}, ends


async def one_run(client: ChaosClient) -> None:
    """Short, and over when this returns."""
    await client.until_ended(await client.ask({"count": 5, "per_second": 100}, agent="notes"))


@asynccontextmanager
async def asking(clients: Sequence[ChaosClient]) -> AsyncIterator[None]:
    """Load on a Redis that forgets. A run that was under way is over for a client when it was told
    that the log is another one, as the protocol has it: the run may be gone with the old one."""
    over = asyncio.Event()

    async def keep_asking(client: ChaosClient) -> None:
        while not over.is_set():
            told = len(forks(client))
            run_id = await accepted(client)
            await client.until(partial(is_over, client, run_id, told), what=f"the end of {run_id}")

    def is_over(client: ChaosClient, run_id: str, told: int) -> bool:
        return run_id in client.ended or len(forks(client)) > told

    async def accepted(client: ChaosClient) -> str:
        """With the data the agents' announcements are gone, until the workers notice."""
        payload = {"content": {"count": 20, "per_second": 20}, "agent": "notes"}
        if client.mode == "main":
            payload["thread_id"] = client.thread or "t"
        replies: list[Mapping[str, Any]] = []

        async def is_accepted() -> bool:
            replies.append(await client.request("user_message", payload))
            return bool(replies[-1]["type"] == "run_accepted")

        await until(is_accepted, what=f"{client.name} is not refused any more")
        run_id: str = replies[-1]["payload"]["run_id"]
        return run_id

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(keep_asking(client))
        await until(lambda: all(client.accepted for client in clients), what="everybody has a run")
        yield
        over.set()


@asynccontextmanager
async def long_runs(scene: Scene, clients: Sequence[ChaosClient] = ()) -> AsyncIterator[None]:
    """Load of one run per client that is well under way when this is entered and goes on for three
    seconds: what is lost with a master's tail is events, not the beginning of a run."""
    who = clients or list(scene.clients)
    async with scene.load(count=60, per_second=20, clients=who):
        await until(
            lambda: all(sum(1 for _ in client.received()) >= STEADY_EVENTS for client in who),
            what="runs under way",
        )
        yield


# --- Sentinel


async def test_a_killed_master_is_followed_through_sentinel(report: Report) -> None:
    with sentinel_redis() as redis:
        async with chaos(report, redis=redis.master, RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            async with long_runs(scene):
                killed = time.monotonic()
                redis.master.kill()
                promoted = await asyncio.to_thread(redis.promoted)
                promotion = time.monotonic()
                scene.log_urls = (promoted.url,)
                recovery = await scene.recovered(promotion)
                in_all = await scene.recovered(killed)
            await asyncio.gather(*map(one_run, scene.clients))  # queues are followed, too
            await scene.settle()
            succeeded(scene)
            scene.judge(
                fault=f"Sentinel: master killed; from the promotion (in all {in_all:.1f} s)",
                recovery_seconds=recovery,
                rolled_back=True,  # replication is asynchronous
            )
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
async def test_nobody_stays_on_a_master_that_sentinel_has_replaced(report: Report) -> None:
    """It was paused, as behind a partition, and goes on as the master that it takes itself for."""
    with sentinel_redis() as redis:
        stale = redis.master
        async with chaos(report, redis=stale, RUNCAST_REDIS_URL=redis.url) as scene:
            await scene.populate(users=2)
            assert len(connected_to(stale)) > 3, "the test reads the list of clients wrongly"
            async with long_runs(scene):
                paused = time.monotonic()
                stale.pause()
                promoted = await asyncio.to_thread(redis.promoted)
                promotion = time.monotonic()
                scene.log_urls = (promoted.url,)
                recovery = await scene.recovered(promotion)
                in_all = await scene.recovered(paused)
                stale.go_on()
                continued = time.monotonic()
                assert stale.command("ROLE")[0] == "master", "it should not know yet"
                await scene.recovered(continued)
                assert connected_to(stale) == []
                assert stale.command("ROLE")[0] == "master", "it was demoted before it was left"
            await scene.settle()
            scene.judge(
                fault=f"Sentinel: master partitioned away, and back later; from the promotion "
                f"(in all {in_all:.1f} s)",
                recovery_seconds=recovery,
                rolled_back=True,
            )
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
async def test_a_master_that_does_not_know_that_it_was_replaced_is_left(report: Report) -> None:
    """It goes on in the very moment in which the other one is promoted, and takes whatever is sent
    to it: everybody leaves it, and is told what was lost with it."""
    with sentinel_redis() as redis:
        stale = redis.master
        async with chaos(
            report, redis=stale, RUNCAST_REDIS_URL=redis.url, RUNCAST_LEASE_SECONDS="5"
        ) as scene:
            await scene.populate(users=2)
            async with asking(list(scene.clients)):
                stale.pause()
                promoted = await asyncio.to_thread(redis.promoted)
                scene.log_urls = (promoted.url,)
                stale.go_on()
                promotion = time.monotonic()
                await until(lambda: not connected_to(stale), what="nobody is on the old master")
                left = time.monotonic()
                assert stale.command("ROLE")[0] == "master", "it was demoted before it was left"
                recovery = await scene.recovered(left)
            await scene.settle(gone_seconds=GONE_SECONDS)
            scene.judge(
                fault=f"Sentinel: a stale master goes on; from its last client's leave "
                f"(which took {left - promotion:.1f} s)",
                recovery_seconds=recovery,
                rolled_back=True,
            )
            assert recovery < RECOVERY_SECONDS + RECLAIM_SECONDS


async def test_a_server_that_a_sentinel_takes_for_the_master_and_is_none_is_not_used() -> None:
    """The one sentinel that answers was away during a failover."""
    with sentinel_redis() as redis:
        *others, stale = redis.sentinels
        stale.kill()
        redis.master.kill()
        promoted = await asyncio.to_thread(redis.promoted)
        redis.master.start()
        redis.follow(redis.master, promoted)
        for sentinel in others:
            sentinel.pause()
        stale.start()
        client = new_client(redis.url, name="test")
        with pytest.raises(BrokerUnavailable, match="is a slave, not the master"):
            await client.start(timeout_seconds=4)
        for sentinel in others:
            sentinel.go_on()
        client = new_client(redis.url, name="test")
        try:
            await client.start(timeout_seconds=30)  # those who go on are asked again and again
            await client.execute("SET", "where", "here", "EX", 60)
            assert promoted.command("GET", "where") == "here"
        finally:
            await client.stop()


def names(sentinel: Sentinel) -> tuple[int, int]:
    """The port of the master that it tells of, and since which epoch."""
    told = sentinel.command("SENTINEL", "MASTER", MASTER_NAME)
    return int(told["port"]), int(told["config-epoch"])


async def test_the_sentinel_that_leads_a_failover_does_not_hold_anybody_at_the_old_master() -> None:
    """While a replica cannot be told of the new master it goes on to name the old one, with the
    epoch of the new one: clients stayed with that."""
    with sentinel_redis(replicas=2) as redis:
        chosen, mute = redis.replicas
        mute.command("CONFIG", "SET", "replica-priority", "0", "masteruser", "nobody")
        mute.command("CONFIG", "SET", "masterauth", "refused at any server that it does not know")
        for sentinel in redis.sentinels:
            sentinel.command("SENTINEL", "SET", MASTER_NAME, "failover-timeout", "60000")
        redis.master.kill()
        told = (chosen.port, 1), (redis.master.port, 1)
        await until(
            lambda: sorted(map(names, redis.sentinels)) == sorted((told[0], *told)),
            what="the leader has the new epoch with the old master, the others with the new one",
        )
        redis.sentinels.sort(key=lambda sentinel: names(sentinel) != told[1])
        client = new_client(redis.url, name="test")
        try:
            await client.start(timeout_seconds=QUICK_SECONDS)
            await until(
                lambda: re.search(r" name=test age=[3-9] ", chosen.raw("CLIENT", "LIST")),
                what="it has asked again whether the master is elsewhere, and stays",
            )
            assert names(redis.sentinels[0]) == told[1], "the failover was over before"
        finally:
            await client.stop()


# --- a replica promoted without the tail


def repoint(scene: Scene, server: Server) -> None:
    """Everybody's new connections go to ``server``; the old ones are cut."""
    for member in (*scene.gateways, *scene.workers):
        member.network.retarget(("127.0.0.1", server.port))
        member.network.cut()


async def a_tail_for_everybody(scene: Scene, detached: Server) -> None:
    """Return when every client has an event that this server's log has not, and will not get."""
    logs = read_logs((detached.url,), scene.prefix)

    def has_more(client: ChaosClient) -> bool:
        assert client.place is not None
        kept = {entry.id for entry in logs.get(client.place, ())}
        return any(frame["id"] not in kept for _, frame in client.received())

    await until(lambda: all(map(has_more, scene.clients)), what="a tail for everybody")


def forks(client: ChaosClient) -> list[str]:
    return [frame["payload"]["reason"] for frame in client.frames("resync")]


async def test_a_replica_promoted_without_the_tail_is_told_to_everyone_concerned(
    report: Report,
) -> None:
    """Connected or coming back: whoever has what the log took back is told ``forked``, and nobody
    else. Never ``recovered`` with events missing; nothing new is lost."""
    with replicated_redis() as redis:
        async with chaos(report, redis=redis.master) as scene:
            connected = await scene.connect("alice")
            bystander = await scene.connect("bob")
            quiet = await scene.connect("carol")
            before = await scene.connect("alice", name="alice left before")
            for user in (connected, bystander, quiet):
                await one_run(user)
            await until(lambda: before.cursor == connected.cursor, what="both have everything")
            await before.leave()
            redis.follow(redis.replica, redis.master)
            redis.detach(redis.replica)
            within = await scene.connect("alice", name="alice left within")
            await asyncio.gather(one_run(connected), one_run(quiet))
            await until(lambda: within.cursor == connected.cursor, what="both have the tail")
            await within.leave()

            redis.promote_without_tail(redis.replica)
            promotion = time.monotonic()
            scene.log_urls = (redis.replica.url,)
            repoint(scene, redis.replica)
            await quiet.until(lambda: forks(quiet), what="being told, without any new event,")
            async with scene.load(clients=[connected, bystander]):
                recovery = await scene.recovered(promotion, [connected, bystander])
            back = await scene.connect("alice", after=within.cursor, name="alice is back")
            level = await scene.connect("alice", after=before.cursor, name="alice had no tail")
            await scene.settle(gone_seconds=GONE_SECONDS)
            scene.judge(
                fault="replica promoted without the tail", recovery_seconds=recovery,
                rolled_back=True,
            )  # fmt: skip
            assert forks(connected) == forks(quiet) == ["forked"]
            assert forks(bystander) == [], "his log is whole"
            assert forks(back) == ["forked"]
            assert back.frames("connection_established")[0]["payload"]["recovered"] is False
            assert forks(level) == []
            assert level.frames("connection_established")[0]["payload"]["recovered"] is True
            assert recovery < RECOVERY_SECONDS


async def test_runs_end_when_a_replica_is_promoted_without_the_tail_under_load(
    report: Report,
) -> None:
    with replicated_redis() as redis:
        async with chaos(report, redis=redis.master) as scene:
            await scene.populate(users=2)
            async with long_runs(scene):
                redis.detach(redis.replica)
                await a_tail_for_everybody(scene, redis.replica)
                redis.promote_without_tail(redis.replica)
                promotion = time.monotonic()
                scene.log_urls = (redis.replica.url,)
                repoint(scene, redis.replica)
                recovery = await scene.recovered(promotion)
            await scene.settle()
            scene.judge(
                fault="replica promoted without the tail, under load", recovery_seconds=recovery,
                rolled_back=True,
            )  # fmt: skip
            assert all("forked" in forks(client) for client in scene.clients)
            succeeded(scene)  # the tails were sent again
            assert recovery < RECOVERY_SECONDS


@pytest.mark.long
async def test_a_gateway_that_hears_a_detached_replica_notices_and_comes_back(
    report: Report,
) -> None:
    """Its connection is open and answers, and delivers nothing. Not ready meanwhile; what was
    published is delivered late and not lost."""
    with replicated_redis() as redis:
        async with chaos(report, redis=redis.master, gateways=1) as scene:
            network = scene.gateways[0].network
            subscriber = named("subscriber *")
            network.retarget(("127.0.0.1", redis.replica.port))
            assert network.cut(to=subscriber) == 1
            await until(
                lambda: any(name.startswith("subscriber ") for name in connected_to(redis.replica)),
                what="the gateway hears the replica",
            )
            network.retarget(("127.0.0.1", redis.master.port))
            await ready_is(scene.gateways[0].base, 200)
            await scene.populate(users=2)
            async with long_runs(scene):
                detached = time.monotonic()
                await asyncio.to_thread(redis.detach, redis.replica)
                noticed = await ready_is(scene.gateways[0].base, 503)
                healed = await ready_is(scene.gateways[0].base, 200)
                recovery = await scene.recovered(healed)
            await scene.settle()
            scene.judge(
                fault=f"replica detached that a gateway hears; from the new connection "
                f"(noticed after {noticed - detached:.1f} s)",
                recovery_seconds=recovery,
            )
            assert not any(
                name.startswith("subscriber ") for name in connected_to(redis.replica)
            ), "it still hears the replica"
            assert recovery < RECOVERY_SECONDS


# --- a Redis that forgets, and one that does not


async def forgotten(
    report: Report, redis: Server, forget: Callable[[], None], *, fault: str
) -> None:
    """All data is gone under load: everybody is told, all goes on."""
    async with chaos(report, redis=redis) as scene:
        await scene.populate(users=2)
        quiet = await scene.connect("carol", name="carol, who has what is gone")
        await one_run(quiet)
        seen = next(frame["id"] for _, frame in quiet.received())
        loaded = [client for client in scene.clients if client.user != "carol"]
        async with asking(loaded):
            await asyncio.to_thread(forget)
            since = time.monotonic()
            recovery = await scene.recovered(since, loaded)
        back = await scene.connect("carol", after=seen, name="carol, who missed the rest")
        await one_run(quiet)
        await scene.settle(gone_seconds=GONE_SECONDS)
        scene.judge(fault=fault, recovery_seconds=recovery, rolled_back=True)
        for client in (*loaded, quiet, back):
            assert forks(client), f"{client.name} was not told"
        assert back.frames("connection_established")[0]["payload"]["recovered"] is False
        assert recovery < RECOVERY_SECONDS


async def test_a_flushed_redis_is_told_and_survived(report: Report) -> None:
    with standalone() as redis:
        await forgotten(report, redis, lambda: redis.command("FLUSHALL"), fault="FLUSHALL")


@pytest.mark.long
async def test_a_redis_that_restarts_with_nothing_is_told_and_survived(report: Report) -> None:
    with standalone(None, "--appendonly", "no") as redis:
        fault = "Redis restarted without persistence"
        await forgotten(report, redis, redis.restart, fault=fault)


async def test_a_redis_that_restarts_on_its_file_loses_nothing(report: Report) -> None:
    with standalone(None, "--appendfsync", "always") as redis:
        async with chaos(report, redis=redis) as scene:
            await scene.populate(users=2)
            async with long_runs(scene):
                redis.kill()
                await until(
                    lambda: not any(is_ready(gateway.port) for gateway in scene.gateways),
                    what="the gateways notice",
                )
                await asyncio.to_thread(redis.start)
                since = time.monotonic()
                recovery = await scene.recovered(since)
            await scene.settle()
            scene.judge(
                fault="Redis killed and restarted on its append-only file",
                recovery_seconds=recovery,
            )
            assert all(forks(client) == [] for client in scene.clients)
            succeeded(scene)
            assert recovery < RECOVERY_SECONDS
