"""Order within a run is what the agent did: text and events, interleaved at random.

Each thought says how many bytes of text were written before it. Whoever is level has exactly those
when it comes. Whoever is behind may lack text, for events never wait for it, and has never more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from agents_sdk import Publisher, Run
from broker.channels import Channel
from broker.config import Settings
from broker.redis.log import Text
from gateway.app import Gateway
from tests.integration.sdk_rig import faulty_network
from tests.support.clients import Client, Frame, live_connection, lose_live
from tests.support.pushes import listen_in
from tests.support.slow_reader import slow_reader

pytestmark = pytest.mark.timeout(300)

LETTERS = "aé東👋 "


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    async with Publisher(settings=settings) as running:
        yield running


class Account:
    """What a client had whenever an event came: (bytes of text, bytes written before the event)."""

    def __init__(self, frames: list[Frame]) -> None:
        self.text = b""
        self.seen: list[tuple[int, int]] = []
        self.live_from = 0
        """How many events came before ``live``."""
        ended = False
        for frame in frames:
            payload = frame.get("payload", {})
            if frame["type"] == "connection_established":
                self.text = b""
            elif frame["type"] == "live":
                self.live_from = len(self.seen)
            elif frame["type"] == "agent_delta":
                assert not ended, "no text after the end"
                if payload["offset"] == 0:
                    self.text = b""
                assert payload["offset"] == len(self.text), "no hole in the text"
                self.text += payload["text"].encode()
                assert payload["next"] == len(self.text)
            elif frame["type"] == "agent_thinking":
                self.seen.append((len(self.text), int(payload["thoughts"].split()[0])))
            elif frame["type"] == "agent_completed":
                ended = True
                self.response = payload["response"]
        self.ahead = [each for each in self.seen if each[0] > each[1]]

    def exact(self, first: int = 0) -> bool:
        """But for a few that came while text was being refilled: events do not wait for it."""
        lacking = sum(had != written for had, written in self.seen[first:])
        return lacking <= 0.1 * len(self.seen[first:]) and not self.ahead


class Agent:
    """Writes and thinks as chance will have it; ``written`` is the text."""

    def __init__(self, seed: int, *, filler: int = 0) -> None:
        self.random = random.Random(seed)
        self.filler = "x" * filler
        self.written = ""
        self.size = 0

    def write(self, most: int) -> str:
        text = "".join(self.random.choices(LETTERS, k=self.random.randint(1, most)))
        self.written += text
        self.size += len(text.encode())
        return text

    async def talk(self, run: Run, steps: int, *, most: int = 40) -> None:
        for _ in range(steps):
            roll = self.random.random()
            if roll < 0.6:
                await run.write(self.write(most))
            elif roll < 0.75:
                await run.think(f"{self.size} {self.filler}")
            elif roll < 0.85:  # said at the same time, and not waited for
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(run.think(f"{self.size} {self.filler}"))
            else:
                await asyncio.sleep(self.random.choice((0, 0.001, 0.01, 0.05)))


def late(
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    *,
    lost: Callable[[bytes], bool] = lambda _message: False,
) -> None:
    """Everything that this gateway hears, it hears so much later, in order; some of it, never."""
    loop, flush = asyncio.get_running_loop(), gateway.node.relay.flush

    def tell(deliver: Callable[[], object]) -> None:
        deliver()
        flush()

    def hear(message: bytes, deliver: Callable[[], object]) -> None:
        if not lost(message):
            loop.call_later(seconds, tell, deliver)

    listen_in(live_connection(gateway), monkeypatch, hear)


@pytest.mark.parametrize("seed", range(4))
async def test_text_and_events_reach_everyone_in_the_agents_order(
    base: str, settings: Settings, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """From the start, late, and coming back; the second gateway hears everything a little late."""
    agent = Agent(seed)
    async with Gateway(settings) as other, AsyncExitStack() as stack:
        bases = [base, f"http://127.0.0.1:{other.port}"]
        late(other, monkeypatch, 0.02)
        first = [
            await stack.enter_async_context(Client(each, "alice", query=query))
            for each in bases
            for query in ({}, {"thread_id": "t"})
        ]
        for client in first:
            await client.first("live")
        joined: list[Client] = []
        returned: list[list[Frame]] = [[] for _ in bases]
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            for turn in range(12):
                talking = asyncio.create_task(agent.talk(run, 25))
                query = {"after": "0-0"} if turn % 2 else {}
                client = Client(bases[turn // 2 % 2], "alice", query=query)
                joined.append(await stack.enter_async_context(client))
                for number, frames in enumerate(returned):
                    cursor = next((f["id"] for f in reversed(frames) if "id" in f), "0-0")
                    at = bases[(number + turn) % 2]
                    async with Client(at, "alice", query={"after": cursor}) as back:
                        await back.first("live")
                        await asyncio.sleep(agent.random.random() / 50)
                    frames.extend(back.frames)
                await talking
                await joined[-1].first("live")
        for client in [*first, *joined]:
            await client.completed(run.id)
        accounts = [Account(client.frames) for client in first]
        for account in accounts:
            assert account.exact(), account.seen
            assert account.text.decode() == account.response == agent.written
        for client in joined:
            account = Account(client.frames)
            assert account.ahead == []
            assert account.exact(account.live_from), account.seen
            assert account.text.decode() == agent.written
        for frames in returned:
            assert Account(frames).ahead == []
            seqs = [frame["seq"] for frame in frames if "seq" in frame]
            assert seqs == sorted(set(seqs))


async def test_text_that_is_refilled_does_not_overtake_what_was_said_before_it(
    gateway: Gateway, base: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third delta is lost; the kept text reaches beyond what the gateway has heard so far."""
    agent, deltas = Agent(3), 0

    def lost(message: bytes) -> bool:
        nonlocal deltas
        deltas += b" agent_delta\n" in message
        return b" agent_delta\n" in message and deltas % 3 == 2

    late(gateway, monkeypatch, 0.03, lost=lost)
    async with Client(base, "alice") as client:
        await client.first("live")
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            await agent.talk(run, 300)
        await client.completed(run.id)
        account = Account(client.frames)
    refills = [
        f for f in client.frames if f["type"] == "agent_delta" and not f["payload"]["offset"]
    ]
    assert len(refills) > 5
    assert account.ahead == []
    assert agent.written.startswith(account.text.decode())


async def test_after_an_interruption_text_waits_for_the_events_before_it(
    settings: Settings, publisher: Publisher
) -> None:
    """More events than one read of the log brings were missed, and the text between them."""
    agent = Agent(5)
    assert settings.redis_url is not None
    async with faulty_network(settings.redis_url) as network:
        cut_off = settings.model_copy(update={"redis_url": network.url})
        async with (
            Gateway(cut_off) as gateway,
            Client(f"http://127.0.0.1:{gateway.port}", "alice") as client,
        ):
            await client.first("live")
            async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
                await run.write(agent.write(9))
                await client.first("agent_delta")
                network.cut()
                for _ in range(600):
                    await run.write(agent.write(9))
                    await run.think(f"{agent.size}")
                network.restore()
                await client.until(lambda _: len(client.events(run.id)) == 601)
                await agent.talk(run, 50)
                await client.until(lambda frames: _has(frames, agent.size))
            await client.completed(run.id)
    account = Account(client.frames)
    assert account.ahead == []
    assert account.text.decode() == account.response == agent.written


async def test_text_of_a_run_that_ended_while_it_was_read_is_not_given_after_the_end(
    gateway: Gateway, base: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A joining client finds the end in the log, before the gateway has heard of it."""
    lose_live(gateway, monkeypatch, lambda message: b" agent_completed\n" in message)
    read, was_read, ended = gateway.node.broker.open_texts, asyncio.Event(), asyncio.Event()

    async def read_early(channel: Channel) -> list[Text]:
        texts = await read(channel)
        was_read.set()
        await ended.wait()
        return texts

    monkeypatch.setattr(gateway.node.broker, "open_texts", read_early)
    async with Client(base, "alice") as first, AsyncExitStack() as stack:
        await first.first("live")
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            await run.write("abc")
            await first.first("agent_delta")
            client = Client(base, "alice", query={"after": "0-0"})
            await stack.enter_async_context(client)
            await was_read.wait()
        ended.set()
        await client.completed(run.id)
        await client.first("live")
        assert Account(client.frames).response == "abc"
        assert [frame for frame in client.frames if frame["type"] == "agent_delta"] == []


async def test_a_slow_socket_gets_events_before_text_and_never_text_before_events(
    base: str, publisher: Publisher
) -> None:
    """It reads nothing for a while, then all, again and again; in the end it has the whole text."""
    agent = Agent(7, filler=30_000)
    async with slow_reader(base, "alice") as slow, Client(base, "alice") as quick:
        await quick.first("live")
        async with publisher.run(user_id="alice", thread_id="t", agent_name="writer") as run:
            for _ in range(5):
                await agent.talk(run, 60, most=500)  # about a megabyte
                await asyncio.gather(slow.take(100_000), slow.take(1))
            await agent.talk(run, 20)
            behind = len(slow.frames)
            await run.think(f"{agent.size}")
            await slow.until(lambda: _has(slow.frames, agent.size))
            await agent.talk(run, 100)
        await quick.completed(run.id)
        await slow.until(lambda: slow.frames[-1]["type"] == "agent_completed")
    account = Account(quick.frames)
    assert account.exact(), account.seen
    account = Account(slow.frames)
    assert account.ahead == []
    assert not account.exact(), "it was never behind: nothing is shown"
    assert account.text.decode() == account.response == agent.written
    seqs = [frame["seq"] for frame in slow.frames if "seq" in frame]
    assert seqs == list(range(1, seqs[-1] + 1))
    pieces = sum(frame["type"] == "agent_delta" for frame in slow.frames[:behind])
    assert pieces < sum(frame["type"] == "agent_delta" for frame in quick.frames)


def _has(frames: list[Frame], size: int) -> bool:
    return any(
        frame["type"] == "agent_delta" and frame["payload"]["next"] >= size for frame in frames
    )
