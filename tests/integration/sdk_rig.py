"""What tests of the SDK against a real Redis share: asking, reading, and a faulty network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from agents_sdk import Run
from agents_sdk.ids import new_id
from broker.channels import Owner, Scope
from broker.redis.broker import Broker
from broker.redis.records import RunRequest
from tests.support.clients import PATIENCE_SECONDS

ALICE = Owner("", "alice")
Event = dict[str, Any]


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = PATIENCE_SECONDS
) -> None:
    """Look until it holds; ``TimeoutError`` when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.005)


async def five(run: Run) -> str:
    """An agent that sends all five events."""
    await run.think("about it")
    async with run.tool("lookup") as call:
        call.result = 1
    return "done"


async def waits(run: Run) -> None:
    """An agent that ends when it is told to."""
    await run.think("until you stop me")
    await asyncio.Event().wait()


def alices(broker: Broker, **fields: Any) -> RunRequest:
    """A run of alice's own; ``fields``: what is to be otherwise."""
    usual = {"run_id": new_id(), "owner": ALICE, "thread_id": "t", "agent": "a"}
    channel = broker.keys.channel(ALICE, Scope.USER)
    return RunRequest(**{**usual, "channel": channel, **fields})


async def ask(
    broker: Broker, agent: str, content: Any = None, *, thread_id: str | None = None
) -> str:
    """A run of alice's, as a gateway begins it; its id."""
    thread = thread_id or new_id()
    request = alices(broker, thread_id=thread, agent=agent, content=content, message_id=new_id())
    spec = await broker.agent(agent)
    registered = await broker.register(
        request, spec, epoch_ms=time.time_ns() // 1_000_000, echo=False
    )
    await broker.enqueue(registered)
    return request.run_id


async def logged(
    broker: Broker, run_id: str | None = None, *, log: bytes | None = None
) -> list[Event]:
    """What is in alice's log (of one run), as clients get it."""
    key = log or broker.keys.channel(ALICE, Scope.USER).log
    found = []
    for entry_id, fields in await broker.client.execute("XRANGE", key, "-", "+"):
        event = orjson.loads(fields[1].partition(b"\n")[2])
        if run_id is None or event["run_id"] == run_id:
            found.append({"id": entry_id.decode(), **event})
    return found


async def ended(broker: Broker, run_id: str, *, seconds: float = PATIENCE_SECONDS) -> Event:
    """The payload of the run's one terminal event, once it is there."""

    async def has_ended() -> bool:
        state: str = (await broker.run(ALICE, run_id))["state"]
        return state == "completed"

    await until(has_ended, seconds=seconds)
    terminal = [e for e in await logged(broker, run_id) if e["type"] == "agent_completed"]
    assert len(terminal) == 1
    payload: Event = terminal[0]["payload"]
    return payload


async def expire(broker: Broker, run_id: str) -> None:
    """Let the run's deadline pass now, and have the sweeper decide."""
    partition = broker.keys.partition(ALICE)
    await broker.client.execute("ZADD", broker.keys.leases(partition), 1, run_id)
    await broker.take_over(partition, run_id, node_id="sweeper")


@dataclass
class FaultyNetwork:
    """A TCP proxy in front of Redis that can go down and lose replies."""

    upstream: tuple[str, int]
    server: asyncio.Server | None = None
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    down: bool = False
    lose_reply_to: bytes | None = None
    """Part of a command: its reply is thrown away, with its connection; once."""
    lost: int = 0

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"redis://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """No connection lives, and none is made any more."""
        self.down = True
        for writer in list(self.connections):
            writer.transport.abort()

    def restore(self) -> None:
        self.down = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(*self.upstream)
        ends = {writer, upstream_writer}
        self.connections |= ends
        losing = asyncio.Event()
        try:
            await asyncio.gather(
                self._forward(reader, upstream_writer, losing, commands=True),
                self._forward(upstream_reader, writer, losing, commands=False),
            )
        except OSError:
            pass
        finally:
            self.connections -= ends
            for end in ends:
                end.transport.abort()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        *,
        commands: bool,
    ) -> None:
        while data := await reader.read(65536):
            if commands and self.lose_reply_to is not None and self.lose_reply_to in data:
                self.lose_reply_to = None
                losing.set()
            elif not commands and losing.is_set():
                self.lost += 1
                break
            writer.write(data)
        raise ConnectionResetError


@asynccontextmanager
async def faulty_network(redis_url: str) -> AsyncIterator[FaultyNetwork]:
    url = urlsplit(redis_url)
    network = FaultyNetwork((url.hostname or "127.0.0.1", url.port or 6379))
    network.server = await asyncio.start_server(network.serve, "127.0.0.1", 0)
    try:
        yield network
    finally:
        network.cut()
        network.server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await network.server.wait_closed()
