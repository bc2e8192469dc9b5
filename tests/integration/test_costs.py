"""What things cost, in commands, calls and bytes: unlike time they are the same on any machine.

Each bound is what it takes today with a little room; whoever goes over one has made a delivery, a
connect or a connection dearer.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from broker.channels import Owner
from broker.codec import head
from broker.config import Settings
from broker.cursor import ZERO
from broker.events import AGENT_THINKING, encode
from broker.redis.broker import Broker
from broker.redis.connection import RedisConnection
from gateway.app import Gateway
from gateway.fastpath import BUILT
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import Client, live_connection
from tests.support.commandstats import commands
from tests.support.limits import refusal, without_rounds
from tests.support.pushes import push
from tests.support.servers import Redis, running_fleet, running_redis, token

CLIENTS = 20
CONNECTIONS = 1500
IDLE_BYTES = 5 * 1024
CALLS_PER_DELIVERY = 26 if BUILT else 48
"""Of Python's functions and of C's; a read of one message, which is the dearest."""


@pytest.fixture
def own_redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """Its commands are counted, so nobody else may give it any: not even a gateway by itself, which
    gives the more of them the longer the test takes."""
    without_rounds(monkeypatch)
    with running_redis() as redis:
        yield redis


@pytest.fixture
def redis_url(own_redis: Redis) -> str:
    return own_redis.url


SEAT = ("evalsha", "get", "hgetall", "hset", "pexpire", "set", "time")
"""What ``admit.lua`` does: the connect is taken off its bucket, and the seat is written."""


async def test_a_connect_takes_one_script_and_five_commands(
    own_redis: Redis, gateway: Gateway, base: str
) -> None:
    """Is the user, or the token, revoked; a seat; subscribe; the log's end; open runs."""
    before = await commands(own_redis)
    clients = [Client(base, f"user-{index}") for index in range(CLIENTS)]
    await asyncio.gather(*(client.__aenter__() for client in clients))
    await asyncio.gather(*(client.first("live") for client in clients))
    took = await commands(own_redis) - before
    assert took["subscribe"] == took["smembers"] == CLIENTS
    assert 2 * CLIENTS <= took["hget"] <= 3 * CLIENTS, "revocations are looked up again by turns"
    assert CLIENTS <= took["xrevrange"] <= 2 * CLIENTS, "the tail check asks too"
    per_connect = [name for name, count in took.items() if count >= CLIENTS]
    assert sorted(per_connect) == sorted([*SEAT, "hget", "smembers", "subscribe", "xrevrange"])
    await asyncio.gather(*(client.__aexit__() for client in clients))


async def test_who_connects_alone_waits_for_redis_twice(
    own_redis: Redis, gateway: Gateway, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a seat, and for the subscription with what is read once it is acknowledged."""
    written: list[bytes] = []
    write = RedisConnection.write

    def noted(connection: RedisConnection, data: bytes) -> None:
        written.append(data)
        write(connection, data)

    async with Client(base, "first") as first:  # and stays, so that nothing is said of its leaving
        await first.first("live")
        monkeypatch.setattr(RedisConnection, "write", noted)
        async with Client(base, "alone") as alone:
            await alone.first("connection_established")
            seat, subscription = written
    assert b"EVALSHA" in seat
    names = [b"SUBSCRIBE", b"XREVRANGE", b"SMEMBERS"]
    assert sorted(names, key=subscription.index) == names


async def test_a_refused_connect_costs_one_script_and_nothing_of_the_connected(
    own_redis: Redis, settings: Settings
) -> None:
    """A flood of them is not subscribed, reads no log, and takes no turn of anybody's events."""
    few = settings.model_copy(update={"max_connections_per_user": 1, "connects_per_second": 1})
    async with (
        Gateway(few) as one,
        Gateway(few) as other,
        Client(f"http://127.0.0.1:{one.port}") as client,
    ):
        await client.first("live")
        before = await commands(own_redis)
        for _ in range(CLIENTS):
            base = f"http://127.0.0.1:{other.port}"
            assert (await refusal(base, query={"mode": "factory"}))[0] == 429
        took = await commands(own_redis) - before
        assert took["evalsha"] + took["eval"] <= CLIENTS + 2, "the first is not known yet"
        assert took["subscribe"] == took["smembers"] == 0
        assert not list(other.node.relay.hub.feeds())
        await client.send("ping", ref="p")
        await client.reply("p")


async def test_a_resume_takes_one_command_more(
    own_redis: Redis, gateway: Gateway, base: str, broker: Broker
) -> None:
    """One read finds the cursor and brings what came after it."""
    claims = [await opened(broker, f"user-{index}") for index in range(CLIENTS)]
    first = [await broker.publish(claim, thought(claim, 1)) for claim in claims]
    for claim in claims:
        for seq in range(2, 52):
            await broker.publish(claim, thought(claim, seq))
    before = await commands(own_redis)
    clients = [
        Client(base, f"user-{index}", query={"after": cursor}) for index, cursor in enumerate(first)
    ]
    await asyncio.gather(*(client.__aenter__() for client in clients))
    await asyncio.gather(*(client.first("live") for client in clients))
    took = await commands(own_redis) - before
    assert all(len(client.events()) == 50 for client in clients)
    assert CLIENTS <= took["xrange"] <= CLIENTS + 5, "operators' orders are looked for each second"
    # Of each open run it is asked whether it has streamed text: on subscribing, and no more.
    assert took["hmget"] == CLIENTS
    assert 2 * CLIENTS <= took["get"] <= 2 * CLIENTS + 3, (
        "and one of the seat; the sweeper asks too"
    )
    await asyncio.gather(*(client.__aexit__() for client in clients))


def wire(channel: bytes, prev: bytes, event_id: bytes, body: bytes) -> bytes:
    """A live message as Redis sends it."""
    words = head(Owner("", "alice"), "t", "r")
    return push(channel, b"%b %b %b 7 agent_thinking\n%b" % (event_id, prev, words, body))


async def test_a_delivery_takes_few_calls_and_leaves_nothing_behind(gateway: Gateway) -> None:
    """From Redis' bytes to the socket's: every call is a tenth of a microsecond or more."""
    messages = 2000
    body = encode(
        event_type=AGENT_THINKING, user_id="alice", thread_id="t", run_id="r", agent_name="a",
        epoch_ms=0, payload={"thoughts": "x" * 150}, seq=7,
    )  # fmt: skip
    async with Client(f"http://127.0.0.1:{gateway.port}", "alice") as client:
        await client.first("live")
        (feed,) = gateway.node.relay.hub.feeds()
        connection = live_connection(gateway)
        live, ids = feed.channel.live, [b"%d-0" % at for at in range(messages + 1)]
        data = [wire(live, prev, event_id, body) for prev, event_id in pairwise(ids)]
        feed.follower.restart(ZERO)
        feed.follower.read([], end=True)
        calls = blocks = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        for index, each in enumerate(data):
            if index == messages // 2:  # what is made once is there by now
                deque(gateway.node.meters.count(), maxlen=0)
                gc.collect()
                blocks = sys.getallocatedblocks()
            if index < messages // 2:
                connection.data_received(each)
                continue
            sys.setprofile(count)
            connection.data_received(each)
            sys.setprofile(None)
        deque(gateway.node.meters.count(), maxlen=0)
        gc.collect()
        left = sys.getallocatedblocks() - blocks
        assert calls / (messages // 2) <= CALLS_PER_DELIVERY
        assert left / (messages // 2) < 1, "each delivery leaves something behind"
        await client.until(lambda frames: len(frames) >= messages)


@pytest.mark.timeout(300)  # each connect is written to the disk by this Redis
async def test_an_idle_connection_takes_little_memory(own_redis: Redis) -> None:
    """Resident bytes of a gateway process, per authenticated and subscribed connection."""
    with running_fleet(own_redis, RUNCAST_MAX_CONNECTIONS_PER_USER="1") as fleet:
        base, process = fleet.gateway_process()
        port = int(base.rpartition(":")[2])
        writers = await connected(port, 0, 200)  # what is made once is there by now
        before = resident(process.popen.pid)
        writers += await connected(port, 200, 200 + CONNECTIONS)
        each = (resident(process.popen.pid) - before) / CONNECTIONS
        for writer in writers:
            writer.close()
        assert each <= IDLE_BYTES, f"{each:.0f} bytes each"


async def connected(port: int, start: int, stop: int) -> list[asyncio.StreamWriter]:
    """Live WebSockets of so many users, one after the other."""
    writers = []
    for number in range(start, stop):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Authorization: Bearer " + token(f"user-{number}").encode() + b"\r\n\r\n"
        )
        await reader.readuntil(b'"type":"live"')
        writers.append(writer)
    return writers


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
