"""Every frame of either direction is as docs/reference/frames.schema.json says, and has no field
that is not in it: in all modes, over both transports, in whatever state a run or a connection is.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from agents_sdk import Worker
from broker.channels import Scope
from broker.config import Settings
from broker.redis.broker import Broker
from gateway.app import Gateway
from tests.integration.sdk_rig import ALICE
from tests.integration.test_event_stream import Listener
from tests.support import agents
from tests.support.clients import Frame, payload_of
from tests.support.schemas import Judged, undescribed
from tests.support.servers import token

AGENTS = ("five", "parallel_tools", "raises", "waits", "parent", "writer", "lazy")


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    worker = Worker(settings=settings)
    for name in AGENTS:
        worker.agents[name] = agents.worker.agents[name]

    @worker.agent("asks")
    async def asks(run: Any) -> Any:
        await run.think("I need to know", step=1, progress=0.5)
        return await run.ask("Which?", schema={"type": "string"})

    async with worker.running():
        yield worker


def kinds(frames: Iterable[Frame]) -> set[str]:
    return {frame["type"] for frame in frames}


def values(client: Judged, kind: str, name: str) -> set[Any]:
    return {payload_of(each)[name] for each in client.frames if each["type"] == kind}


FIVE = {"agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"}
OPENING = {"connection_established", "live"}


async def converse(client: Judged, named: str) -> None:
    """Runs of every ending, asked for by this client, in messages of these names."""
    await client.first("live")
    for number, name in enumerate(("five", "parallel_tools", "raises", "parent", "lazy")):
        run_id = await client.ask(
            {"calls": 2}, agent=name, ref=f"{named} {number}", metadata={"a": [1]}
        )
        await client.completed(run_id)
    run_id = await client.ask({"text": "a text in pieces, äöü"}, agent="writer", ref=f"{named} w")
    await client.completed(run_id)
    run_id = await client.ask("stop me", agent="waits", ref=f"{named} s")
    await client.first("tool_executing", tool="wait")
    await client.send("stop_agent", {"run_id": run_id}, ref="stop")
    assert (await client.reply("stop"))["type"] == "ok"
    assert payload_of(await client.completed(run_id))["status"] == "cancelled"


@pytest.mark.usefixtures("worker")
async def test_runs_seen_in_every_mode(base: str) -> None:
    async with (
        Judged(base) as tab,
        Judged(base, events="lifecycle") as lifecycle,
        Judged(base, thread_id="t1") as one_thread,
        Judged(base, mode="legacy") as legacy,
        Listener(base) as stream,
        Listener(base, mode="legacy") as legacy_stream,
        Judged(base, mode="factory", thread_id="t1") as factory,
        Judged(base, mode="isolated") as isolated,
        Judged(base, mode="factory", isolation_level="strict") as strict,
    ):
        for socket in (lifecycle, one_thread, legacy, stream, legacy_stream):
            await socket.first("live")
        speakers = {"tab": tab, "factory": factory, "isolated": isolated, "strict": strict}
        await asyncio.gather(*(converse(each, named) for named, each in speakers.items()))
        run_id = await one_thread.ask("in a thread", agent="five", ref="t")
        for socket in (one_thread, legacy):
            await socket.completed(run_id)
        for listener in (stream, legacy_stream):
            await listener.until(lambda me, r=run_id: _ended(me.frames, r))
        clients = (lifecycle, one_thread, legacy, *speakers.values())
        assert [each.undescribed() for each in clients] == [[]] * len(clients)
        assert undescribed(stream.frames) == []
        assert undescribed(legacy_stream.frames, legacy=True) == []
        said = OPENING | FIVE | {"user_message", "stop_requested", "agent_delta"}
        for socket in speakers.values():
            assert kinds(socket.frames) == said | {"run_accepted", "ok"}
        assert kinds(stream.frames) == said
        assert kinds(lifecycle.frames) == kinds(legacy.frames) == OPENING | FIVE
        assert values(tab, "tool_completed", "success") == {True, False}
        assert values(tab, "agent_completed", "status") == {"succeeded", "failed", "cancelled"}
        assert any("parent_run_id" in each for each in tab.frames)


def _ended(frames: list[Frame], run_id: str) -> bool:
    return any((f["type"], f.get("run_id")) == ("agent_completed", run_id) for f in frames)


@pytest.mark.usefixtures("worker")
async def test_a_question_and_its_answer(base: str) -> None:
    async with Judged(base) as tab, Judged(base) as other, Listener(base) as stream:
        for each in (tab, other, stream):
            await each.first("live")
        run_id = await tab.ask("ask me", agent="asks")
        asked = payload_of(await other.first("input_required"))
        answer = {"run_id": run_id, "request_id": asked["request_id"], "content": {"a": None}}
        await other.send("user_input", answer, ref="a")
        assert (await other.reply("a"))["type"] == "ok"
        await other.send("user_input", {**answer, "content": "too late"}, ref="b")
        assert payload_of(await other.reply("b"))["code"] == "not_allowed"
        await tab.completed(run_id)
        await stream.until(lambda me: _ended(me.frames, run_id))
        assert tab.undescribed() == other.undescribed() == undescribed(stream.frames) == []
        assert {"input_required", "user_input"} <= kinds(tab.frames) & kinds(stream.frames)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("mode", ["main", "legacy"])
async def test_what_is_refused_and_what_is_only_answered(base: str, mode: str) -> None:
    async with Judged(base, mode=mode) as tab:
        await tab.first("live")
        await tab.send("ping", {"any": {"thing": 1}}, ref="p")
        await tab.reply("p")
        await tab.send("auth_refresh", {"token": token()}, ref="r")
        assert "expires_at" in payload_of(await tab.reply("r"))
        refused: dict[str, tuple[str, dict[str, Any]]] = {
            "unknown_agent": ("user_message", {"content": "x", "agent": "nobody"}),
            "run_not_found": ("stop_agent", {"run_id": "none"}),
            "not_allowed": ("attach", {"run_id": "none", "after": "0-0"}),
        }
        for ref, (kind, payload) in refused.items():
            await tab.send(kind, payload, ref=ref)
            assert payload_of(await tab.reply(ref))["code"] == ref
        for text in ("{", "[]", '{"type": "nothing", "id": "u"}', '{"type": "chat", "id": 1}'):
            await tab.ws.send_str(text)
        await tab.first("error", code="bad_json")
        await tab.until(lambda frames: len([f for f in frames if f["type"] == "error"]) == 7)
        assert tab.undescribed() == []


async def test_coming_back(base: str, broker: Broker, worker: Worker) -> None:
    async with Judged(base) as tab:
        await tab.first("live")
        await tab.completed(await tab.ask("a", agent="five"))
        cursor = tab.logged()[2]["id"]
    log = broker.keys.channel(ALICE, Scope.USER).log
    for after, reason in ((cursor, None), ("no cursor", "unknown_cursor"), ("1-0", "expired")):
        if reason == "expired":
            await broker.client.execute("XTRIM", log, "MAXLEN", 2)
        async with Judged(base, after=after) as back, Listener(base, after=after) as stream:
            await stream.first("live")
            await back.first("live")
            assert back.undescribed() == undescribed(stream.frames) == []
            told = [payload_of(each)["reason"] for each in back.frames if each["type"] == "resync"]
            assert told == ([] if reason is None else [reason])


@pytest.mark.usefixtures("worker")
async def test_attached_and_taken_up(base: str) -> None:
    strict = {"mode": "factory", "isolation_level": "strict"}
    async with Judged(base, **strict) as one, Judged(base, **strict) as other:
        run_id = await one.ask("mine", agent="five")
        await one.completed(run_id)
        await other.send("attach", {"run_id": run_id, "after": "1-0"}, ref="a")
        assert "cursor" in payload_of(await other.reply("a"))
        await other.completed(run_id)
        await other.send("detach", {"run_id": run_id}, ref="d")
        assert "cursor" in payload_of(await other.reply("d"))
        assert "run_id" in payload_of(await other.first("resync"))
        async with Judged(base, **strict, run_id=run_id, after="0-0") as third:
            await third.completed(run_id)
            assert one.undescribed() == other.undescribed() == third.undescribed() == []
    async with Judged(base, mode="isolated") as mine:
        told = payload_of(await mine.first("connection_established"))
        place = {"connection": told["connection_id"], "secret": told["secret"]}
        await mine.completed(await mine.ask("alone", agent="five", ref="m2"))
        async with Judged(base, mode="isolated", after="0-0", **place) as again:
            await again.first("live")
            assert await mine.closed() == 4409
            assert mine.undescribed() == again.undescribed() == []
            assert payload_of(again.frames[0])["recovered"]


async def test_expiry_and_drain(settings: Settings) -> None:
    settings = settings.model_copy(update={"drain_seconds": 0.2})
    async with Gateway(settings) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        short = token(ttl_seconds=30)
        async with (
            Judged(base, token=short) as tab,
            Judged(base, token=short, mode="legacy") as legacy,
            Listener(base, headers={"Authorization": f"Bearer {short}"}) as stream,
        ):
            for each in (tab, legacy, stream):
                await each.first("token_expiring")
            await gateway.node.drain()
            for each in (tab, legacy, stream):
                await each.first("draining")
            await stream.first("closing")
            assert tab.undescribed() == legacy.undescribed() == undescribed(stream.frames) == []
