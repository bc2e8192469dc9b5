"""Ends of runs are posted to a back end: judged on what it received."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from agents_sdk import Publisher
from broker.channels import Owner, Scope
from broker.config import Settings, load_settings
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec
from gateway.app import Gateway
from tests.integration.sdk_rig import alices, faulty_network, until
from tests.support.certificates import Authority
from tests.support.clients import Client
from tests.support.redis_cluster import cluster_redis
from tests.support.redis_server import servers, standalone
from tests.support.servers import OPERATOR_KEY, Redis, running_redis
from tests.support.servers import SECRET as JWT_SECRET
from tests.support.webhook_receiver import CUT, HANG, LATE, SECRET, Receiver, Reply

pytestmark = pytest.mark.timeout(300)

Ended = list[tuple[tuple[str, str], str]]


@asynccontextmanager
async def posting(settings: Settings, receiver: Receiver, **changed: Any) -> AsyncIterator[Gateway]:
    """A gateway that posts to the receiver."""
    hooked = settings.model_copy(
        update={
            "webhook_url": receiver.url,
            "webhook_secrets": (SecretStr(SECRET),),
            "webhook_timeout_seconds": 5,
            **changed,
        }
    )
    async with Gateway(hooked) as gateway:
        yield gateway


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    async with Publisher(settings=settings) as running:
        yield running


async def end_run(
    publisher: Publisher, thread: str = "t1", user: str = "alice", *, fails: bool = False
) -> tuple[tuple[str, str], str]:
    """A run that no client began, from its start to its end."""
    try:
        async with publisher.run(user_id=user, thread_id=thread, agent_name="cron") as run:
            await run.think("hm")
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    return (user, thread), run.id


async def end_runs(publisher: Publisher, *threads: str, user: str = "alice") -> Ended:
    return [await end_run(publisher, thread, user) for thread in threads]


async def stats(gateway: Gateway) -> dict[str, int]:
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    url = f"http://127.0.0.1:{gateway.port}/ws/stats"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        found: dict[str, int] = (await response.json())["gateway"]["webhooks"]
        return found


def in_thread(thread: str, replies: Callable[[int], Reply]) -> Callable[[dict[str, Any], int], Any]:
    """Only the posts of this thread are answered by ``replies``, the others with 204."""
    return lambda data, nth: replies(nth) if data["thread_id"] == thread else 204


# --- what is posted


async def test_the_end_of_every_run_is_posted_once_whoever_began_or_ended_it(
    settings: Settings, publisher: Publisher, broker: Broker
) -> None:
    """By a client, by the SDK, failed, and ended by the sweeper for a lost worker."""
    async with Receiver() as receiver, posting(settings, receiver, lease_seconds=2) as gateway:
        ended = await end_runs(publisher, "t1")
        ended.append(await end_run(publisher, fails=True))
        lost = await lost_run(broker)
        await receiver.until_taken([*(run for _, run in ended), lost])
        ended.append((("alice", "lost"), lost))
        receiver.judge(ended)
        assert len(receiver.posts) == 3
        statuses = {post.data["run_id"]: post.data["payload"]["status"] for post in receiver.posts}
        assert list(statuses.values()).count("succeeded") == 1
        assert statuses[ended[1][1]] == "failed"
        assert statuses[lost] == "abandoned"
        assert {post.type for post in receiver.posts} == {"runcast.agent_completed.v3"}
        assert (await stats(gateway))["delivered"] == 3
        assert not await waiting(broker)


async def test_a_stopped_run_that_no_worker_had_is_posted_as_cancelled(
    settings: Settings, broker: Broker
) -> None:
    await broker.announce([AgentSpec(name="nobody")])
    async with Receiver() as receiver, posting(settings, receiver) as gateway:
        async with Client(f"http://127.0.0.1:{gateway.port}") as client:
            run_id = await client.ask("hello", agent="nobody")
            await client.send("stop_agent", {"run_id": run_id}, ref="s1")
            await client.reply("s1")
        await receiver.until_taken([run_id])
        assert receiver.posts[0].data["payload"]["status"] == "cancelled"


async def test_the_event_is_the_one_that_clients_get(
    settings: Settings, publisher: Publisher
) -> None:
    async with Receiver() as receiver, posting(settings, receiver) as gateway:
        async with Client(f"http://127.0.0.1:{gateway.port}") as client:
            await client.first("live")
            _, run_id = await end_run(publisher)
            end = await client.completed(run_id)
        await receiver.until_taken([run_id])
        assert receiver.posts[0].data == end


async def test_all_five_events_are_posted_in_order_if_that_is_wanted(
    settings: Settings, publisher: Publisher
) -> None:
    events = ("agent_started", "agent_thinking", "agent_completed")
    async with Receiver() as receiver, posting(settings, receiver, webhook_events=events):
        await end_run(publisher)
        await receiver.until(lambda: len(receiver.taken) == 3, what="three events")
        assert [post.data["seq"] for post in receiver.posts] == [1, 2, 3]
        assert tuple(post.data["type"] for post in receiver.posts) == events
        assert len({post.id for post in receiver.posts}) == 3


async def test_without_a_webhook_nothing_is_kept_for_one(
    gateway: Gateway, publisher: Publisher, broker: Broker
) -> None:
    await end_run(publisher)
    assert not await waiting(broker)
    assert not await keys_of(broker)


# --- what is not taken


async def test_a_thread_whose_events_are_not_taken_holds_up_itself_only(
    settings: Settings, publisher: Publisher
) -> None:
    """And it goes on in order, each event with the id that it had."""
    open_again = asyncio.Event()
    bad = in_thread("bad", lambda _: 204 if open_again.is_set() else 500)
    async with Receiver(bad) as receiver, posting(settings, receiver) as gateway:
        ended = await end_runs(publisher, "bad", "good", "bad", "good", "bad", "other")
        good = [run for (_, thread), run in ended if thread != "bad"]
        held = [run for (_, thread), run in ended if thread == "bad"]
        await receiver.until_taken(good)
        await receiver.until(lambda: len(receiver.tried(held[0])) > 2, what="tried again")
        assert not receiver.tried(held[1]), "it has its turn after the one before it"
        open_again.set()
        await receiver.until_taken(held)
        receiver.judge(ended)
        assert (await stats(gateway))["retried"] >= 2


@pytest.mark.parametrize("reply", [500, 400, 401, 404, 429, 302, CUT, HANG])
async def test_whatever_is_no_success_is_posted_again(
    settings: Settings, publisher: Publisher, reply: Reply
) -> None:
    """A redirection is not followed."""
    once = in_thread("t1", lambda nth: reply if nth == 1 else 204)
    async with Receiver(once) as receiver, posting(settings, receiver, webhook_timeout_seconds=3):
        ended = await end_runs(publisher, "t1", "t1")
        await receiver.until_taken(run for _, run in ended)
        receiver.judge(ended)
        assert receiver.tried(ended[0][1]) == [reply, 204]
        assert receiver.elsewhere == 0


async def test_a_receiver_that_is_not_there_yet_gets_everything(
    settings: Settings, publisher: Publisher
) -> None:
    async with Receiver() as gone:
        pass
    async with posting(settings, gone) as gateway:
        ended = await end_runs(publisher, "t1", "t2", "t1")

        async def refused() -> bool:
            return (await stats(gateway))["retried"] >= 2

        await until(refused, seconds=90)
        async with Receiver(port=gone._port) as receiver:
            await receiver.until_taken(run for _, run in ended)
            receiver.judge(ended)


async def test_what_will_never_be_taken_is_put_aside_where_it_can_be_seen(
    settings: Settings, publisher: Publisher, broker: Broker
) -> None:
    """410: counted, kept with its reason for a while, and the thread goes on."""
    async with (
        Receiver(lambda _data, _nth: 410) as receiver,
        posting(settings, receiver) as gateway,
    ):
        gone = await end_runs(publisher, "t1")
        await receiver.until(lambda: bool(receiver.posts), what="a post")
        receiver.replies = lambda _data, _nth: 204
        after = await end_runs(publisher, "t1")
        await receiver.until_taken([after[0][1]])
        assert receiver.tried(gone[0][1]) == [410]
        assert (await stats(gateway))["put_aside"] == 1
        aside = broker.keys.webhooks_aside(broker.keys.partition(Owner("", "alice")))
        ((_, fields),) = await broker.client.execute("XRANGE", aside, "-", "+")
        assert fields[1] == b"the receiver is gone for good"
        assert gone[0][1].encode() in fields[3]
        assert await broker.client.execute("TTL", aside) > 0


async def test_what_is_not_taken_in_time_is_put_aside(
    settings: Settings, publisher: Publisher, broker: Broker
) -> None:
    refusing = in_thread("bad", lambda _: 500)
    async with (
        Receiver(refusing) as receiver,
        posting(settings, receiver, webhook_retry_seconds=1) as gateway,
    ):
        bad = await end_runs(publisher, "bad", "bad")
        good = await end_runs(publisher, "good")

        async def put_aside() -> bool:
            return (await stats(gateway))["put_aside"] == 2

        await until(put_aside, seconds=90)
        assert set(receiver.tried(bad[0][1])) == {500}
        await receiver.until_taken([good[0][1]])
        assert not await waiting(broker)


async def test_what_finds_no_room_is_dropped_and_counted(
    settings: Settings, publisher: Publisher
) -> None:
    """The outbox of a partition is bounded: what waits stays, the newest is dropped."""
    open_again = asyncio.Event()
    async with Receiver(lambda _data, _nth: 204 if open_again.is_set() else 500) as receiver:
        async with posting(settings, receiver, webhook_max_waiting=3) as gateway:
            ended = await end_runs(publisher, *["t"] * 5)
        # Another one counts what was dropped, and delivers what was not.
        async with posting(settings, receiver, webhook_max_waiting=3) as gateway:
            open_again.set()
            await receiver.until_taken(run for _, run in ended[:3])

            async def counted() -> bool:
                return (await stats(gateway))["dropped"] == 2

            await until(counted, seconds=90)
            receiver.judge(ended[:3])


async def test_what_is_no_event_is_put_aside_and_holds_up_nobody(
    settings: Settings, publisher: Publisher, broker: Broker
) -> None:
    outbox = broker.keys.webhooks_outbox(broker.keys.partition(Owner("", "alice")))
    await broker.client.execute("XADD", outbox, "*", "e", "rubbish")
    await broker.client.execute("XADD", outbox, "*", "other", "")
    await broker.client.execute("EXPIRE", outbox, 60)
    async with Receiver() as receiver, posting(settings, receiver) as gateway:
        ended = await end_runs(publisher, "t1")
        await receiver.until_taken([ended[0][1]])

        async def put_aside() -> bool:
            return (await stats(gateway))["put_aside"] == 2

        await until(put_aside, seconds=90)
        assert not await waiting(broker)


# --- gateways, secrets, TLS


async def test_a_gateway_that_ends_leaves_the_rest_to_another_one(
    settings: Settings, publisher: Publisher
) -> None:
    """What is under way is taken first: nothing comes twice for an orderly end."""
    async with Receiver(lambda _data, _nth: LATE) as receiver:
        async with posting(settings, receiver) as ending:
            ended = await end_runs(publisher, "t1", "t1")
            await receiver.until(lambda: bool(receiver.posts), what="a post")

            async def answer_when_it_ends() -> None:
                await until(lambda: ending.node.draining, seconds=90)
                receiver.go_on()

            answering = asyncio.create_task(answer_when_it_ends())
        await answering
        assert len(receiver.posts) == 1
        async with posting(settings, receiver) as staying:
            await receiver.until_taken(run for _, run in ended)
            receiver.judge(ended)
            assert len(receiver.posts) == 2
            assert (await stats(staying))["delivered"] == 1


async def test_a_gateway_that_has_its_turn_again_knows_what_was_there_and_what_came(
    settings: Settings, publisher: Publisher, broker: Broker
) -> None:
    open_again = asyncio.Event()
    async with (
        Receiver(lambda _data, _nth: 204 if open_again.is_set() else 500) as receiver,
        posting(settings, receiver) as gateway,
    ):
        ended = await end_runs(publisher, "t1", "t1")
        await receiver.until(lambda: bool(receiver.posts), what="a post")
        lock = broker.keys.webhooks
        await broker.client.execute("SET", lock, "somebody else", "PX", 3000)

        async def has_let_go() -> bool:
            return (await stats(gateway))["waiting"] == 0

        await until(has_let_go, seconds=90)
        ended += await end_runs(publisher, "t1")
        open_again.set()
        await receiver.until_taken(run for _, run in ended)
        receiver.judge(ended)


async def test_while_the_secret_is_replaced_receivers_may_know_either(
    settings: Settings, publisher: Publisher
) -> None:
    new = "whsec_" + "A" * 43 + "="
    both = (SecretStr(new), SecretStr(SECRET))
    async with (
        Receiver(secrets=(SECRET, new)) as receiver,
        posting(settings, receiver, webhook_secrets=both),
    ):
        ended = await end_runs(publisher, "t1")
        await receiver.until_taken([ended[0][1]])
        assert receiver.posts[0].headers["webhook-signature"].count("v1,") == 2
        assert not receiver.refused


def served_with(pair: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_over_tls_only_a_receiver_that_is_trusted_gets_anything(
    settings: Settings, publisher: Publisher, tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    trusted = {"webhook_ca_file": ours.certificate}
    async with Receiver(tls=served_with(theirs.issue("false"))) as false:
        async with posting(settings, false, **trusted) as gateway:
            ended = await end_runs(publisher, "t1")

            async def refused() -> bool:
                return (await stats(gateway))["retried"] >= 1

            await until(refused, seconds=90)
        assert not false.posts
    async with (
        Receiver(tls=served_with(ours.issue("true"))) as receiver,
        posting(settings, receiver, **trusted),
    ):
        await receiver.until_taken([ended[0][1]])


# --- Redis


async def test_a_redis_that_restarts_loses_nothing(prefix: str) -> None:
    """Killed while posts are on, with its data on disk."""
    with running_redis() as redis:
        settings = settings_on(redis.url, prefix)
        async with (
            Publisher(settings=settings, publish_timeout_seconds=30) as publisher,
            Receiver(lambda _data, nth: 500 if nth == 1 else 204) as receiver,
            posting(settings, receiver),
        ):
            ended = await end_runs(publisher, "t1", "t2", "t1")
            await receiver.until(lambda: bool(receiver.posts), what="a post")
            await asyncio.to_thread(restart, redis)
            ended += await end_runs(publisher, "t1", "t2")
            await receiver.until_taken(run for _, run in ended)
            receiver.judge(ended)


async def test_after_a_failover_lower_ids_are_found(prefix: str) -> None:
    """A new master's clock may be behind: what it adds has ids below the last that was read."""
    with running_redis() as redis:
        settings = settings_on(redis.url, prefix)
        async with (
            Publisher(settings=settings, publish_timeout_seconds=30) as publisher,
            Receiver() as receiver,
            posting(settings, receiver) as gateway,
        ):
            ended = await end_runs(publisher, "t1")
            await receiver.until_taken([ended[0][1]])
            broker = Broker(gateway.node.client, keys=gateway.node.keys)
            partition = broker.keys.partition(Owner("", "alice"))
            outbox = broker.keys.webhooks_outbox(partition)
            log_key = broker.keys.channel(Owner("", "alice"), Scope.USER).log
            (entry_id, (_, entry)) = (
                await broker.client.execute("XREVRANGE", log_key, "+", "-", "COUNT", 1)
            )[0]
            await broker.client.execute("DEL", outbox)
            lower = entry.replace(ended[0][1].encode(), b"another")
            await asyncio.to_thread(restart, redis)
            await gateway.node.client.wait_connected(timeout_seconds=20)
            await broker.client.execute("XADD", outbox, "5-0", "e", entry_id + b" " + lower)
            await receiver.until_taken(["another"])


async def test_what_was_taken_while_redis_was_away_is_not_posted_again(
    settings: Settings, publisher: Publisher, redis_url: str, broker: Broker
) -> None:
    """It is taken out of the outbox when Redis is back."""
    async with faulty_network(redis_url) as network:

        def taken_as_redis_goes(_data: object, nth: int) -> int:
            if nth == 1:
                network.cut()
            return 204

        behind = settings.model_copy(update={"redis_url": network.url})
        async with Receiver(taken_as_redis_goes) as receiver, posting(behind, receiver) as gateway:
            ended = await end_runs(publisher, "t1", "t1")
            await receiver.until(lambda: bool(receiver.posts), what="a post")
            await until(lambda: not gateway.node.client.connected, seconds=90)
            network.restore()
            await receiver.until_taken([ended[0][1]])

            async def all_out() -> bool:
                return not await waiting(broker) and len(receiver.runs()) == 2

            # Each of the two cuts the network as it is taken.
            async def again() -> bool:
                network.restore()
                return await all_out()

            await until(again, seconds=90)
            receiver.judge(ended)
            assert len(receiver.posts) == 2


async def test_a_gateway_ends_also_while_redis_is_away(
    settings: Settings, redis_url: str, broker: Broker
) -> None:
    """It cannot tell the others that they may go on, and ends all the same, with nothing left."""
    async with faulty_network(redis_url) as network:
        behind = settings.model_copy(update={"redis_url": network.url})
        async with Receiver() as receiver, posting(behind, receiver) as gateway:

            async def posts() -> bool:
                whose = await broker.client.execute("GET", broker.keys.webhooks)
                return bool(whose == gateway.node.node_id.encode())

            await until(posts)
            network.cut()
            await until(lambda: not gateway.node.client.connected)
        others = [each.get_name() for each in asyncio.all_tasks()]
        assert not [name for name in others if gateway.node.node_id in name]


@pytest.mark.parametrize("binary", servers())
async def test_it_works_on_every_server_and_each_key_has_a_time_to_live(
    binary: Path, prefix: str
) -> None:
    with standalone(binary) as server:
        settings = settings_on(server.url, prefix)
        await it_works(settings)
        keys = [key for key in server.command("KEYS", "*") if ":webhooks" in key]
        assert len([key for key in keys if key.endswith(":wanted")]) == 128
        assert [key for key in keys if server.command("TTL", key) < 0] == []


@pytest.mark.parametrize("binary", servers(sharded=True))
async def test_it_works_on_a_cluster(binary: Path, prefix: str) -> None:
    with cluster_redis(binary) as cluster:
        await it_works(settings_on(cluster.url, prefix))


async def it_works(settings: Settings) -> None:
    """For users all over the partitions."""
    async with (
        Publisher(settings=settings) as publisher,
        Receiver(lambda _data, nth: 500 if nth == 1 else 204) as receiver,
        posting(settings, receiver),
    ):
        ended = [
            each
            for user in range(12)
            for each in await end_runs(publisher, "t1", "t1", user=f"user-{user}")
        ]
        await receiver.until_taken(run for _, run in ended)
        receiver.judge(ended)


def settings_on(url: str, prefix: str) -> Settings:
    return load_settings(
        redis_url=url,
        prefix=prefix,
        jwt_secret=JWT_SECRET,
        operator_key=OPERATOR_KEY,
        port=0,
        drain_seconds=0,
    )


def restart(redis: Redis) -> None:
    redis.kill()
    redis.start()


async def waiting(broker: Broker) -> int:
    """Events in all outboxes."""
    outboxes = [broker.keys.webhooks_outbox(each) for each in range(broker.keys.partitions)]
    return sum(await broker.client.execute_many([("XLEN", outbox) for outbox in outboxes]))


async def keys_of(broker: Broker) -> int:
    keys = [
        make(each)
        for each in range(broker.keys.partitions)
        for make in (
            broker.keys.webhooks_wanted,
            broker.keys.webhooks_outbox,
            broker.keys.webhooks_aside,
        )
    ]
    return sum(await broker.client.execute_many([("EXISTS", key) for key in keys]))


async def lost_run(broker: Broker) -> str:
    """A run whose worker is gone: the sweeper of a gateway ends it."""
    request = alices(broker, thread_id="lost")
    claim = await broker.open_run(request, AgentSpec(name="a"), worker_id="gone")
    await broker.client.execute("ZADD", broker.keys.leases(claim.partition), 1, request.run_id)
    return request.run_id
