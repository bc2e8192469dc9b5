"""Streamed text: every client that is connected in the end has exactly the run's text."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from agents_sdk import Publisher
from broker.config import Settings
from gateway.app import Gateway
from tests.support.clients import Client, Frame, lose_live
from tests.support.fault_proxy import FaultProxy
from tests.support.faults import command
from tests.support.servers import Redis

TEXT = "Grüße aus Zürich — 東京 👋 and a plain end. " * 20


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    async with Publisher(settings=settings) as running:
        yield running


class Reader:
    """Assembles text as protocol section 2 tells clients to."""

    def __init__(self) -> None:
        self.text = b""
        self.misses = 0

    def read(self, frames: list[Frame]) -> "Reader":
        for frame in frames:
            if frame["type"] == "agent_delta":
                payload = frame["payload"]
                if payload["offset"] == 0:
                    self.text = b""
                if payload["offset"] == len(self.text):
                    self.text += payload["text"].encode()
                    assert payload["next"] == len(self.text)
                else:
                    self.misses += 1
        return self


async def test_deltas_add_up_to_the_response(base: str, publisher: Publisher) -> None:
    async with Client(base, "alice") as client:
        await client.first("live")
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            for at in range(0, len(TEXT), 7):
                await run.write(TEXT[at : at + 7])
        end = await client.completed(run.id)
        assert end["payload"]["response"] == TEXT
        read = Reader().read(client.frames)
        assert (read.text.decode(), read.misses) == (TEXT, 0)
        assert client.frames[-1] == end, "no delta after the end"


async def test_who_comes_late_gets_the_text_so_far_and_then_the_rest(
    base: str, settings: Settings, publisher: Publisher
) -> None:
    """Clients attach at many points of the text, at two gateways, some with a cursor."""
    async with Gateway(settings) as other, AsyncExitStack() as stack:
        bases = [base, f"http://127.0.0.1:{other.port}"]
        clients: list[Client] = []
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            for at in range(0, len(TEXT), 11):
                await run.write(TEXT[at : at + 11])
                if at % 88 == 0:
                    after = {"after": "0-0"} if len(clients) % 2 else {}
                    client = Client(bases[len(clients) % 2], "alice", query=after)
                    clients.append(await stack.enter_async_context(client))
                    await client.first("live")
        await asyncio.gather(*(client.completed(run.id) for client in clients))
        texts = []
        for client in clients:
            read = Reader().read(client.frames)
            assert read.misses == 0
            texts.append(read.text.decode())
        assert set(texts) == {TEXT}
        assert len(clients) > 5


async def test_a_lost_delta_is_refilled_from_the_kept_text(
    gateway: Gateway, base: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second live delta is lost on its way to the hub."""
    deltas = 0

    def lost(message: bytes) -> bool:
        nonlocal deltas
        deltas += b" agent_delta\n" in message
        return b" agent_delta\n" in message and deltas % 2 == 1

    lose_live(gateway, monkeypatch, lost)
    async with Client(base, "alice") as client:
        await client.first("live")
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            for at in range(0, len(TEXT), 40):
                await run.write(TEXT[at : at + 40])
                await run.think("every event sends what was written before it")
        await client.completed(run.id)
        assert deltas > 10
        read = Reader().read(client.frames)
        assert read.misses == 0
        # What is being refilled when the run ends is left to the terminal event's response.
        assert TEXT.encode().startswith(read.text)
        assert len(read.text) > len(TEXT.encode()) * 0.5


async def test_kept_text_that_could_not_be_read_is_asked_for_again(
    settings: Settings, redis_server: Redis, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was lost meanwhile, and who says nothing more shows no hole again."""
    deltas = 0

    def lost(message: bytes) -> bool:
        nonlocal deltas
        deltas += b" agent_delta\n" in message
        return b" agent_delta\n" in message and deltas == 2

    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        behind = settings.model_copy(update={"redis_url": proxy.url})
        async with (
            Gateway(behind) as gateway,
            Client(f"http://127.0.0.1:{gateway.port}", "alice") as client,
        ):
            lose_live(gateway, monkeypatch, lost)
            await client.first("live")
            async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
                for text in ("one ", "two "):
                    await run.write(text)
                    await run.think("an event sends what was written before it")
                await client.until(lambda _: len(client.events(run.id)) == 3)
                fault = proxy.lose_reply(command("GET", b":text:"))
                await run.write("three")
                await client.until(lambda frames: Reader().read(frames).text == b"one two three")
                assert fault.hits == 1


async def test_lifecycle_events_only_when_asked_for(base: str, publisher: Publisher) -> None:
    async with Client(base, "alice", events="lifecycle") as client:
        await client.first("live")
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            await run.write(TEXT)
            await run.think("done")
        await client.completed(run.id)
        kinds = [frame["type"] for frame in client.frames[2:]]
        assert kinds == ["agent_started", "agent_thinking", "agent_completed"]
