"""What a connection costs and leaves: heartbeats, expiry, and nothing at the end."""

import asyncio
import base64
import gc
from collections.abc import AsyncIterator

import pytest

from broker.channels import Owner, Scope
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.log import PAGE
from broker.redis.records import AgentSpec, RunRequest
from gateway import node as gateway_node
from gateway import relay
from gateway.app import Gateway
from gateway.commands import new_id
from gateway.websocket import WebSocket
from tests.mission_critical.test_g1_published_once import thought
from tests.support.clients import Client, eventually
from tests.support.servers import token

HELLO_FRAMES = 2


class RawClient:
    """A peer that speaks RFC 6455 only as far as the test says: it answers no ping by itself."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        key = base64.b64encode(b"0123456789abcdef").decode()
        lines = [
            "GET /ws HTTP/1.1",
            "Host: test",
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            f"Authorization: Bearer {token()}",
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head.splitlines()[0]

    async def read_to_the_end(self) -> None:
        while True:
            await self.frame()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload."""
        first, size = await self.reader.readexactly(2)
        assert not size & 0x80, "a server never masks"
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 0x0F, await self.reader.readexactly(size)


@pytest.fixture
async def beating(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway whose heart beats every second."""
    async with Gateway(settings.model_copy(update={"heartbeat_seconds": 1})) as gateway:
        yield gateway


async def test_a_silent_peer_is_pinged_and_then_dropped(beating: Gateway) -> None:
    client = RawClient(beating.port)
    await client.connect()
    for _ in range(HELLO_FRAMES):
        opcode, _ = await client.frame()
        assert opcode == 1
    opcode, _ = await client.frame()
    assert opcode == 9, "a ping"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.read_to_the_end()
    assert not beating.node.sockets
    client.writer.close()


async def test_a_peer_that_answers_pings_is_kept(
    beating: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's client answers pings by itself."""
    pings = asyncio.Semaphore(0)
    beat = WebSocket.beat

    def counted(socket: WebSocket) -> None:
        pings.release()
        beat(socket)

    monkeypatch.setattr(WebSocket, "beat", counted)
    async with Client(f"http://127.0.0.1:{beating.port}") as client:
        for _ in range(3):
            await pings.acquire()
        await client.send("ping", ref="still here")
        await client.reply("still here")


async def test_what_goes_by_the_clock_keeps_no_connection_that_is_gone(
    beating: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that was sent a heartbeat, or told that its token expires, was kept for good."""
    pinged = asyncio.Event()
    beat = WebSocket.beat

    def noted(socket: WebSocket) -> None:
        pinged.set()
        beat(socket)

    monkeypatch.setattr(WebSocket, "beat", noted)
    async with Client(f"http://127.0.0.1:{beating.port}", token=token(ttl_seconds=30)) as client:
        await client.first("token_expiring")
        await pinged.wait()
    await eventually(lambda: nothing_left(beating))


async def test_an_expired_token_closes_4401_after_its_grace(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_node, "EXPIRY_GRACE_SECONDS", 0.5)
    async with Client(base, token=token(ttl_seconds=10)) as client:
        await client.first("token_expiring")
        assert await client.closed() == 4401


async def test_a_token_without_time_left_is_told_once(base: str) -> None:
    async with Client(base, token=token(ttl_seconds=30)) as client:
        await client.first("token_expiring")
        await client.send("ping", ref="later")
        await client.reply("later")
        assert sum(frame["type"] == "token_expiring" for frame in client.frames) == 1


async def test_nothing_is_left_of_closed_connections(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets, feeds, subscriptions and the server's own bookkeeping go back to zero."""
    monkeypatch.setattr(relay, "LINGER_SECONDS", 0.1)
    async with Gateway(settings) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        for _ in range(3):
            clients = [Client(base, f"user-{number}") for number in range(20)]
            await asyncio.gather(*(client.__aenter__() for client in clients))
            await asyncio.gather(*(client.first("live") for client in clients))
            assert len(gateway.node.sockets) == 20
            await asyncio.gather(*(client.__aexit__() for client in clients))
        hub = gateway.node.relay.hub
        await eventually(lambda: not gateway.node.sockets and not list(hub.feeds()))
        server = gateway._runner.server
        assert server is not None
        assert server.connections == []
        subscribed = gateway.node.relay.subscriber.channels
        assert set(subscribed) == {*gateway.node.probe.channels, gateway.node.keys.orders}
        assert gateway.node.relay._tasks == set()
        # A look at their tokens may be under way.
        await eventually(lambda: nothing_left(gateway))


def nothing_left(gateway: Gateway) -> bool:
    """Whether none of its connections is remembered anywhere."""
    gc.collect()
    return not any(
        isinstance(each, WebSocket) and each.node is gateway.node for each in gc.get_objects()
    )


async def test_an_idle_connection_has_no_task_of_its_own(gateway: Gateway, base: str) -> None:
    before = len(asyncio.all_tasks())
    clients = [Client(base, f"user-{number}") for number in range(10)]
    await asyncio.gather(*(client.__aenter__() for client in clients))
    await asyncio.gather(*(client.first("live") for client in clients))
    # One task per client is the test's own reader.
    await eventually(lambda: len(asyncio.all_tasks()) <= before + len(clients))
    await asyncio.gather(*(client.__aexit__() for client in clients))


async def test_a_run_detached_in_mid_replay_and_attached_again_is_replayed_once(
    base: str, broker: Broker
) -> None:
    owner, run_id = Owner("", "alice"), new_id()
    request = RunRequest(
        run_id=run_id,
        owner=owner,
        channel=broker.keys.channel(owner, Scope.RUN, run_id),
        thread_id="t",
        agent="any",
    )
    claim = await broker.open_run(request, AgentSpec(name="any"), worker_id="test")
    last = 3 * PAGE
    ids = [await broker.publish(claim, thought(claim, seq)) for seq in range(1, last + 1)]
    strict = {"mode": "factory", "isolation_level": "strict"}
    async with Client(base, "alice", query=strict) as client:
        await client.first("live")
        for ref in ("first", "second"):
            await client.send("attach", {"run_id": run_id, "after": "0-0"}, ref=ref)
            await client.send("detach", {"run_id": run_id}, ref=f"{ref} over")
        await client.send("attach", {"run_id": run_id, "after": "0-0"}, ref="third")
        await client.until(lambda frames: frames[-1].get("id") == ids[-1])
        third = client.frames.index(await client.reply("third"))
        assert [frame.get("id") for frame in client.frames[third + 1 :]] == ids
