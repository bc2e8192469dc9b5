"""The network between gateways, workers, Redis and clients: cut, half-open, slow, in pieces."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
import redis.asyncio

from tests.support.chaos import QUICK_SECONDS, THREAD, USERS, Scene, chaos, until
from tests.support.chaos_client import ChaosClient
from tests.support.chaos_report import Report
from tests.support.clients import Client
from tests.support.faults import (
    Named,
    Way,
    acknowledgement,
    anyone,
    command,
    named,
    published,
)
from tests.support.history import Place, RunRecord

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

SUBSCRIBER = named("subscriber *")
COMMANDS = named("gateway *")


def at(scene: Scene, gateway: int) -> list[ChaosClient]:
    """The clients that are connected to this gateway."""
    base = scene.gateways[gateway].base
    return [client for client in scene.clients if client.connections[-1].base == base]


def stayed(clients: list[ChaosClient]) -> None:
    """None of them noticed anything."""
    for client in clients:
        assert len(client.connections) == 1, f"{client.name} lost its connection"
        assert client.frames("resync") == [], f"{client.name} was told to resync"


@pytest.mark.parametrize(
    ("which", "to"),
    [("subscriber", SUBSCRIBER), ("command", COMMANDS), ("both", anyone)],
    ids=["subscriber", "command", "both"],
)
async def test_a_cut_redis_connection_of_a_gateway_is_not_noticed_by_clients(
    report: Report, which: str, to: Named
) -> None:
    async with chaos(report) as scene:
        clients = await scene.populate()
        async with scene.load():
            assert scene.gateways[0].network.cut(to) >= 1
            cut = time.monotonic()
            recovery = await scene.recovered(cut, at(scene, 0))
        await scene.settle()
        stayed(clients)
        assert recovery < QUICK_SECONDS
        scene.judge(fault=f"gateway's Redis connection cut ({which})", recovery_seconds=recovery)


@pytest.mark.parametrize("cut_at_word", ["XADD", "EVALSHA"])
async def test_a_message_sent_as_the_connection_is_lost_is_taken_at_once(
    report: Report, cut_at_word: str
) -> None:
    """The run is registered, and the connection is cut before its request is queued; or before."""
    async with chaos(report, gateways=1) as scene:
        client = await scene.connect()
        network = scene.gateways[0].network
        with network.cut_at(command(cut_at_word), to=COMMANDS) as fault:
            asked = time.monotonic()
            run_id = await client.ask({"count": 2, "per_second": 20}, agent="notes")
            recovery = await scene.recovered(asked)
            assert fault.hits == 1
        await client.until_ended(run_id)
        await scene.settle()
        stayed([client])
        assert recovery < QUICK_SECONDS
        scene.judge(
            fault=f"gateway's connection cut at {cut_at_word} of a message",
            recovery_seconds=recovery,
        )


async def test_what_came_while_nobody_listened_is_delivered_on_return(report: Report) -> None:
    """A whole run, on a channel without another open run: neither a hole nor the tail check of
    open runs would show it for most of a minute."""
    async with chaos(report, gateways=1) as scene:
        clients = [await scene.connect(), await scene.connect(mode="factory")]
        network = scene.gateways[0].network
        async with scene.publisher(scene.proxy()) as publisher:
            with network.down(SUBSCRIBER) as fault:
                runs = [
                    await scene.publish(publisher, USERS[0], thread=thread, count=3)
                    for thread in (None, THREAD)
                ]
                assert fault.hits
                assert not any(client.ended for client in clients)
            healed = time.monotonic()
            for client, run_id in zip(clients, runs, strict=True):
                await client.until_ended(run_id)
            recovery = time.monotonic() - healed
        await scene.settle()
        stayed(clients)
        assert recovery < QUICK_SECONDS
        scene.judge(fault="subscriber away during a whole run", recovery_seconds=recovery)


@pytest.mark.long
@pytest.mark.parametrize("way", [Way.BOTH, Way.DOWN])
async def test_a_half_open_subscriber_loses_nothing_and_is_replaced(
    report: Report, way: Way
) -> None:
    """Events come by the tail check until the probe has found the connection deaf."""
    async with chaos(report) as scene:
        clients = await scene.populate(users=2)
        network = scene.gateways[0].network
        async with scene.load(per_second=10, count=10):
            began = time.monotonic()
            fault = network.black_hole(way, SUBSCRIBER, spare_new=True)
            recovery = await scene.recovered(began, at(scene, 0))
            subscribers = network.counters.connections
            await until(
                lambda: network.counters.connections > subscribers,
                what="a new subscriber connection",
            )
            replaced = time.monotonic() - began
            assert fault.hits
        await scene.settle()
        stayed(clients)
        assert replaced < 30
        scene.judge(
            fault=f"gateway's subscriber half-open ({way.name}), replaced after {replaced:.1f} s",
            recovery_seconds=recovery,
        )


async def test_a_subscriber_whose_requests_get_lost_does_not_shut_new_users_out(
    report: Report,
) -> None:
    """What it is subscribed to still arrives, so no probe misses; but no new channel is heard."""
    async with chaos(report, gateways=1) as scene:
        clients = await scene.populate(users=1)
        fault = scene.gateways[0].network.black_hole(Way.UP, SUBSCRIBER, spare_new=True)
        began = time.monotonic()
        late = await scene.connect(USERS[1], live=False)
        await late.until_live()
        assert fault.hits
        async with scene.load(count=10):
            recovery = time.monotonic() - began
        await scene.settle()
        stayed(clients)
        scene.judge(fault="gateway's subscriptions get lost (UP)", recovery_seconds=recovery)


@pytest.mark.long
async def test_a_half_open_command_connection_is_replaced_and_nothing_is_lost(
    report: Report,
) -> None:
    """What is heard goes on; what must be asked waits until the connection is given up."""
    async with chaos(report) as scene:
        clients = await scene.populate(users=2)
        network = scene.gateways[0].network
        async with scene.load(per_second=10, count=10):
            made = network.counters.connections
            began = time.monotonic()
            fault = network.black_hole(to=COMMANDS, spare_new=True)
            recovery = await scene.recovered(began, at(scene, 0))
            await until(lambda: network.counters.connections > made, what="a new connection")
            assert fault.hits
        await scene.settle()
        stayed(clients)
        scene.judge(fault="gateway's command connection half-open", recovery_seconds=recovery)


async def test_a_redis_200_ms_away_costs_time_and_nothing_else(report: Report) -> None:
    """Gateways and worker: 200 ms each way."""
    async with chaos(report) as scene, AsyncExitStack() as stack:
        for member in (*scene.gateways, *scene.workers):
            stack.enter_context(member.network.delay(0.2))
        clients = await scene.populate(users=1)
        async with scene.load(count=10):
            began = time.monotonic()
            recovery = await scene.recovered(began)
        await scene.settle()
        stayed(clients)
        assert recovery > 0.4, "the delay was there"
        scene.judge(fault="Redis 200 ms away, each way", recovery_seconds=recovery)


async def test_bytes_split_anywhere_are_put_together_again(report: Report) -> None:
    """Between the programs and Redis, and between clients and gateways."""
    async with chaos(report, doors=True) as scene:
        faults = [
            proxy.split(9)
            for member in (*scene.gateways, *scene.workers)
            for proxy in (member.network, member.door)
            if proxy is not None
        ]
        clients = await scene.populate(users=2)
        async with scene.load(count=10):
            pass
        await scene.settle()
        stayed(clients)
        assert all(fault.hits > 1000 for fault in faults), [fault.hits for fault in faults]
        scene.judge(fault="bytes split anywhere")


@pytest.mark.parametrize(
    ("which", "payload", "count"),
    [("one", b'"agent_thinking"', 200), ("the last", b'"agent_completed"', 10)],
)
async def test_a_suppressed_message_is_repaired(
    report: Report, which: str, payload: bytes, count: int
) -> None:
    """One in the middle by the next that is heard; the last of a run by the tail check."""
    async with chaos(report, gateways=1) as scene:
        client = await scene.connect()
        network = scene.gateways[0].network
        fault = network.suppress(published("*:live:user:*", payload))
        asking = asyncio.create_task(
            client.ask({"count": count, "per_second": 20}, agent="notes", thread="t")
        )
        await until(lambda: fault.hits == 1, what="the suppression")
        suppressed = time.monotonic()
        run_id = await asking
        if which == "one":
            repaired = await scene.recovered(suppressed)
            assert run_id not in client.ended, "it took the silence after the run to see the hole"
        await client.until_ended(run_id)
        if which != "one":
            repaired = time.monotonic() - suppressed
        await scene.settle()
        stayed([client])
        assert repaired < QUICK_SECONDS
        assert network.counters.suppressed == 1
        scene.judge(fault=f"{which} message of a run suppressed", recovery_seconds=repaired)


async def test_every_other_message_suppressed_costs_nothing(report: Report) -> None:
    """Holes everywhere, on both gateways, for all users at once."""
    counted = 0

    def every_other(words: list[bytes]) -> bool:
        nonlocal counted
        counted += b":live:" in words[1]
        return counted % 2 == 0

    async with chaos(report) as scene:
        clients = await scene.populate()
        faults = [g.network.suppress(every_other, times=None) for g in scene.gateways]
        async with scene.load(count=40):
            pass
        for fault in faults:
            assert fault.hits > 50
            fault.end()
        await scene.settle()
        stayed(clients)
        scene.judge(fault="every other pub/sub message suppressed")


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_redis_connection_killed_again_and_again_during_resubscription(
    report: Report,
) -> None:
    """Over 2,000 channels: each time it is cut at another acknowledgement on the way."""
    async with chaos(report, gateways=1, RUNCAST_LEASE_SECONDS="60") as scene:
        clients = await scene.populate(users=2)
        gateway = scene.gateways[0]
        async with scene.publisher(scene.proxy()) as publisher, AsyncExitStack() as stack:
            held = [
                publisher.run(user_id="many", agent_name="idle", thread_id="t", scope="run")
                for _ in range(2000)
            ]
            runs = await asyncio.gather(*(stack.enter_async_context(each) for each in held))
            for run in runs:
                place = Place("run", "many", run.id)
                scene.runs[run.id] = RunRecord(run.id, place, run.thread_id)
            strict = await stack.enter_async_context(
                Client(gateway.base, "many", mode="factory", isolation_level="strict")
            )
            await strict.first("live")
            for run in runs:
                await strict.send("attach", {"run_id": run.id}, ref=run.id)
            await strict.until(
                lambda frames: sum(frame["type"] == "ok" for frame in frames) == len(runs),
                seconds=200,
                what="2,000 subscriptions",
            )
            async with scene.load(count=10):
                for nth in (1, 40, 700, 1500, 2000):
                    with gateway.network.cut_at(
                        acknowledgement(b"subscribe"), nth=nth, way=Way.DOWN, to=SUBSCRIBER
                    ) as fault:
                        gateway.network.cut(SUBSCRIBER)
                        await until(lambda f=fault: f.hits == 1, what=f"the cut at {nth}")
                healed = time.monotonic()
                recovery = await scene.recovered(healed)
        await scene.settle()
        stayed(clients)
        assert recovery < QUICK_SECONDS
        scene.judge(
            fault="subscriber cut 5 times while it resubscribes to 2,000 channels",
            recovery_seconds=recovery,
        )


@pytest.mark.parametrize(
    "way",
    [
        Way.BOTH,
        pytest.param(Way.DOWN, marks=pytest.mark.long),
        pytest.param(Way.UP, marks=pytest.mark.long),
    ],
)
async def test_a_half_open_client_comes_back_and_has_everything(report: Report, way: Way) -> None:
    """Whoever notices first ends it: the gateway by its heartbeat, or the client by its own."""
    async with chaos(report, doors=True, RUNCAST_HEARTBEAT_SECONDS="2") as scene:
        door = scene.gateways[0].door
        assert door is not None
        for user in USERS[:2]:
            for mode in ("main", "factory", "isolated"):
                bases = [door.base]
                await scene.connect(user, mode=mode, bases=bases, heartbeat_seconds=2)
        async with scene.publisher(scene.proxy()) as publisher, asyncio.TaskGroup() as group:
            for user in USERS[:2]:
                group.create_task(scene.publish(publisher, user, count=60, per_second=20))
                group.create_task(
                    scene.publish(publisher, user, thread="b:t", count=60, per_second=20)
                )
            runs = [
                await client.ask({"count": 60, "per_second": 20}, agent="notes")
                for client in scene.clients
            ]
            began = time.monotonic()
            fault = door.black_hole(way, spare_new=True)
            recovery = await scene.recovered(began)
            for client, run_id in zip(scene.clients, runs, strict=True):
                await client.until_ended(run_id)
            assert fault.hits
        await until(
            lambda: all(len(client.connections) > 1 and client.live for client in scene.clients),
            what="everybody came back",
        )
        await scene.settle()
        await until(
            lambda: _connections(scene) == len(scene.clients),
            what="the gateway let go of the half-open connections",
        )
        fault.end()
        scene.judge(
            fault=f"clients half-open ({way.name}), heartbeats every 2 s",
            recovery_seconds=recovery,
        )


def _connections(scene: Scene) -> int:
    """How many sockets the first gateway says it has."""
    return int(scene.gateways[0].stats()["connections"]["total"])


async def test_a_storm_of_killed_subscribers_costs_nothing(report: Report) -> None:
    """``CLIENT KILL TYPE pubsub``, 30 times in three seconds: gateways and workers alike."""
    async with chaos(report) as scene:
        clients = await scene.populate()
        async with redis.asyncio.Redis.from_url(scene.redis.url) as admin, scene.load():
            killed = 0
            for _ in range(30):
                killed += await admin.client_kill_filter(_type="pubsub")
                await asyncio.sleep(0.1)  # the storm's own rhythm
            ended = time.monotonic()
            recovery = await scene.recovered(ended)
        await scene.settle()
        stayed(clients)
        assert killed >= 10, "it was a storm"
        assert recovery < QUICK_SECONDS
        scene.judge(fault="CLIENT KILL TYPE pubsub, 30 times", recovery_seconds=recovery)


async def test_a_subscriber_killed_for_its_output_buffer_reads_the_log(report: Report) -> None:
    """A gateway that is paused while megabytes are published: Redis closes its subscription."""
    async with chaos(report, gateways=2) as scene:
        await scene.populate(users=2)
        async with (
            redis.asyncio.Redis.from_url(scene.redis.url) as admin,
            scene.publisher(scene.proxy()) as publisher,
        ):
            limit = "normal 0 0 0 replica 0 0 0 pubsub 131072 65536 1"
            await admin.config_set("client-output-buffer-limit", limit)
            before = await _subscribers(admin)
            async with publisher.run(user_id=USERS[0], agent_name="big", thread_id="t") as run:
                scene.runs[run.id] = RunRecord(run.id, Place("user", USERS[0]), "t")
                scene.gateways[0].pause()
                async with asyncio.timeout(60):
                    while await _subscribers(admin) >= before:
                        async with run.tool("big") as call:
                            call.result = "x" * 200_000
                scene.gateways[0].go_on()
                went_on = time.monotonic()
                await scene.publish(publisher, USERS[0], count=5)
                hit = [c for c in at(scene, 0) if c.user == USERS[0] and c.name.endswith("/main")]
                recovery = await scene.recovered(went_on, hit)
        await scene.settle()
        scene.judge(
            fault="subscriber closed for its output buffer, gateway paused",
            recovery_seconds=recovery,
        )


async def _subscribers(admin: "redis.asyncio.Redis") -> int:
    return len(list(await admin.client_list(_type="pubsub")))


@pytest.mark.parametrize("who", ["worker", "publisher"])
async def test_a_publish_retried_after_a_lost_reply_is_in_the_log_once(
    report: Report, who: str
) -> None:
    """The event was written, its reply and the connection were lost; the SDK asks again."""
    async with chaos(report, gateways=1) as scene:
        client = await scene.connect()
        proxy = scene.workers[0].network if who == "worker" else scene.proxy()
        fault = proxy.lose_reply(command("EVALSHA", b'"type":"agent_thinking"'), nth=3, times=3)
        if who == "worker":
            run_id = await client.ask({"count": 20, "per_second": 50}, agent="notes")
        else:
            async with scene.publisher(proxy) as publisher:
                run_id = await scene.publish(publisher, client.user, count=20)
        await client.until_ended(run_id)
        await scene.settle()
        assert fault.hits == 3, "replies were lost"
        assert proxy.counters.replies_lost == 3
        history = scene.judge(fault=f"replies to publishes lost ({who})")
        assert [each.outcome for each in history.emissions] == ["ok"] * 20
