"""The AI SDK's routes: who may, how much, and what a socket costs. Its words: tests/conformance."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from agents_sdk import Run, Worker
from broker.channels import Mode, Owner
from broker.config import Settings
from broker.redis.broker import Broker
from gateway import chat_socket
from gateway.app import Gateway
from tests.support.clients import PATIENCE_SECONDS, eventually
from tests.support.held_stops import HeldStops
from tests.support.servers import token

PIECE = "x" * 16_000
PIECES = 300

Frame = dict[str, Any]


class Agents:
    def __init__(self, settings: Settings) -> None:
        self.go_on = asyncio.Event()
        self.worker = Worker(settings=settings)
        for agent in (self.waits, self.at_length):
            self.worker.agent(agent.__name__, on_busy="parallel")(agent)

    async def waits(self, run: Run) -> str:
        await run.think("one")
        await self.go_on.wait()
        return "two"

    async def at_length(self, run: Run) -> None:
        for number in range(PIECES):
            async with run.tool("look", number=number) as call:
                call.result = PIECE


@pytest.fixture
async def agents(settings: Settings) -> AsyncIterator[Agents]:
    agents = Agents(settings)
    async with agents.worker.running():
        yield agents


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def bearer(user: str = "alice", **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user, **claims)}"}


def send(ref: str, text: str = "x", *, chat: str = "c", headers: Any = None) -> Frame:
    message = {"id": f"m-{ref}", "role": "user", "parts": [{"type": "text", "text": text}]}
    return {
        "type": "send", "requestId": ref, "id": chat, "trigger": "submit-message",
        "messages": [message], "headers": headers or {}, "body": {},
    }  # fmt: skip


def body(text: str = "x", **others: Any) -> Frame:
    sent = send("1", text)
    return {name: sent[name] for name in ("id", "trigger", "messages")} | others


async def until(socket: aiohttp.ClientWebSocketResponse, kind: str, ref: str) -> list[Frame]:
    """The frames of a request up to one of that kind."""
    found: list[Frame] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not found or found[-1]["type"] != kind:
            frame = await socket.receive_json()
            if frame["requestId"] == ref:
                found.append(frame)
    return found


async def closed(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
    return socket.close_code


async def test_each_requests_chunks_are_counted_from_zero(
    base: str, agents: Agents, http: aiohttp.ClientSession
) -> None:
    agents.go_on.set()
    async with http.ws_connect(f"{base}/ai-sdk/waits/ws", headers=bearer()) as socket:
        for ref in ("1", "2"):
            await socket.send_json(send(ref, chat=f"c{ref}"))
        seen: dict[str, list[Frame]] = {"1": [], "2": []}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(frames and frames[-1]["type"] == "end" for frames in seen.values()):
                frame = await socket.receive_json()
                seen[frame["requestId"]].append(frame)
    for start, *chunks, _end in seen.values():
        assert start["type"] == "start"
        assert [chunk["sequence"] for chunk in chunks] == list(range(len(chunks)))
        assert chunks[-1]["chunk"]["type"] == "finish"


async def test_an_idle_socket_reads_nothing_and_one_that_is_gone_leaves_nothing(
    base: str, gateway: Gateway, broker: Broker, agents: Agents, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(f"{base}/ai-sdk/waits/ws", headers=bearer()) as socket:
        assert list(gateway.node.relay.hub.feeds()) == []
        await socket.send_json(send("1"))
        await until(socket, "chunk", "1")
        (feed,) = gateway.node.relay.hub.feeds()
        await eventually(lambda: len(feed.live) + len(feed.joining) == 1)
    await eventually(lambda: not gateway.node.sockets)
    assert feed.idle
    (open_run,) = await broker.open_runs(Owner("", "alice"), "c")  # to leave is no stop
    assert open_run.agent == "waits"


REFUSED: dict[str, tuple[str, dict[str, str], int]] = {
    "no token": ("", {}, 401),
    "another origin": ("", {**bearer(), "Origin": "https://evil.example"}, 403),
    "an operator": ("", bearer(operator=True), 403),
    "somebody else": ("?user_id=bob", bearer(), 403),
    "a mode that is not his": ("", bearer(modes=[Mode.ISOLATED]), 403),
    "another mode": ("?mode=isolated", bearer(), 400),
    "an unknown mode": ("?mode=x", bearer(), 400),
    "a parameter of others": ("?after=0-0", bearer(), 400),
    "an unknown one": ("?x=1", bearer(), 400),
    "one given twice": ("?mode=main&mode=main", bearer(), 400),
    "another abort": ("?abort=maybe", bearer(), 400),
}


@pytest.mark.parametrize(("query", "headers", "status"), REFUSED.values(), ids=REFUSED)
async def test_a_socket_is_refused(
    base: str, http: aiohttp.ClientSession, query: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(f"{base}/ai-sdk/waits/ws{query}", headers=headers)
    assert refused.value.status == status


async def test_the_protocols_name_is_answered_and_never_the_token(
    base: str, http: aiohttp.ClientSession
) -> None:
    offered = ["runcast.v3", f"jwt.{token()}"]
    async with http.ws_connect(f"{base}/ai-sdk/waits/ws", protocols=offered) as socket:
        assert socket.protocol == "runcast.v3"
    async with http.get(f"{base}/ai-sdk/waits/ws", headers=bearer()) as plain:
        assert plain.status == 426


async def test_a_frames_token_is_the_sockets_from_then_on(
    base: str, gateway: Gateway, agents: Agents, http: aiohttp.ClientSession
) -> None:
    agents.go_on.set()
    url = f"{base}/ai-sdk/waits/ws"
    async with http.ws_connect(url, headers=bearer(ttl_seconds=600)) as socket:
        (mine,) = gateway.node.sockets
        before = mine.identity.expires_at
        await socket.send_json(send("1", headers=bearer(ttl_seconds=900)))
        await until(socket, "end", "1")
        assert mine.identity.expires_at > before + 200
        await socket.send_json(send("2", headers={"authorization": "Bearer nonsense"}))
        assert (await until(socket, "error", "2"))[-1]["code"] == "not_allowed"
        await socket.send_json(send("3", headers=bearer("bob")))
        assert await closed(socket) == 4403


async def test_a_revoked_user_is_sent_away(
    base: str, gateway: Gateway, agents: Agents, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(f"{base}/ai-sdk/waits/ws", headers=bearer()) as socket:
        await socket.send_json(send("1"))
        await until(socket, "chunk", "1")
        operator = {"Authorization": f"Bearer {gateway.settings.operator_key.get_secret_value()}"}  # type: ignore[union-attr]
        url = f"{base}/api/v1/admin/revocations"
        async with http.post(url, headers=operator, json={"user_id": "alice"}) as ordered:
            assert ordered.status == 202
        assert await closed(socket) == 4401


async def test_what_is_no_request_is_told_and_closes_in_the_end(
    base: str, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(f"{base}/ai-sdk/waits/ws", headers=bearer()) as socket:
        await socket.send_str("{}")
        frame = await socket.receive_json()
        assert (frame["type"], frame["requestId"], frame["code"]) == ("error", "", "bad_frame")
        await socket.send_json({"type": "abort", "requestId": "nobody's"})
        for _ in range(20):
            await socket.send_str("{}")
        assert await closed(socket) == 4400


async def test_requests_at_a_time_are_limited(
    base: str, agents: Agents, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_socket, "MOST_REQUESTS", 2)
    async with http.ws_connect(f"{base}/ai-sdk/waits/ws", headers=bearer()) as socket:
        for ref in ("1", "2", "3"):
            await socket.send_json(send(ref))
        assert (await until(socket, "error", "3"))[-1]["code"] == "rate_limited"
        await socket.send_json({**send("2"), "type": "resume"})
        assert (await until(socket, "error", "2"))[-1]["code"] == "bad_frame"
        await socket.send_json({"type": "abort", "requestId": "1"})
        await socket.send_json(send("4"))
        await until(socket, "start", "4")


@pytest.mark.timeout(300)
async def test_a_slow_socket_gets_all_of_each_request_in_bounded_memory(
    base: str, gateway: Gateway, agents: Agents, http: aiohttp.ClientSession
) -> None:
    url = f"{base}/ai-sdk/at_length/ws"
    async with http.ws_connect(url, headers=bearer(), max_msg_size=0) as socket:
        refs = ("1", "2")
        for ref in refs:
            await socket.send_json(send(ref, chat=ref))
        (mine,) = gateway.node.sockets
        await eventually(lambda: mine.outbox.full)
        most = 0
        outputs = dict.fromkeys(refs, 0)
        sequences = dict.fromkeys(refs, -1)
        ended: set[str] = set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(ended) < len(refs):
                most = max(most, mine.unsent + mine.outbox._size)
                frame = json.loads(await socket.receive_str())
                ref = frame["requestId"]
                if frame["type"] == "chunk":
                    assert frame["sequence"] == sequences[ref] + 1
                    sequences[ref] += 1
                    outputs[ref] += frame["chunk"]["type"] == "tool-output-available"
                elif frame["type"] == "end":
                    ended.add(ref)
    assert outputs == dict.fromkeys(refs, PIECES)
    assert most < 3 * 1024 * 1024


async def test_a_page_of_an_allowed_origin_may_post(
    settings: Settings, agents: Agents, http: aiohttp.ClientSession
) -> None:
    agents.go_on.set()
    origin = {"Origin": "https://page.example"}
    shared = settings.model_copy(update={"allowed_origins": (origin["Origin"],)})
    async with Gateway(shared) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/ai-sdk/waits"
        async with http.options(url, headers=origin) as preflight:
            assert preflight.status == 204
        async with http.post(url, headers={**bearer(), **origin}, json=body()) as posted:
            assert posted.headers["Access-Control-Allow-Origin"] == origin["Origin"]
            assert posted.headers["x-vercel-ai-ui-message-stream"] == "v1"
            said = (await posted.text()).split("\n\n")
        assert said[-2:] == ["data: [DONE]", ""]
        async with http.post(url, headers={**bearer(), "Origin": "https://evil.example"}) as evil:
            assert evil.status == 403


BAD: dict[str, tuple[str, Frame, int, str]] = {
    "too much for the agent": ("", body("x" * 70_000), 413, "message_too_large"),
    "too much": ("", body(metadata="x" * 300_000), 413, "message_too_large"),
    "nothing": ("", {}, 400, "bad_frame"),
    "another mode": ("?mode=isolated", body(), 400, "parameter_not_allowed"),
    "a parameter of others": ("?run_id=1", body(), 400, "unknown_parameter"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_posted_may_be_refused(
    base: str, agents: Agents, http: aiohttp.ClientSession, case: str
) -> None:
    query, posted, status, code = BAD[case]
    url = f"{base}/ai-sdk/waits{query}"
    async with http.post(url, headers=bearer(), json=posted) as refused:
        assert refused.status == status
        assert (await refused.json())["code"] == code


async def test_long_histories_do_not_matter(
    base: str, agents: Agents, http: aiohttp.ClientSession
) -> None:
    agents.go_on.set()
    asked = body("new")
    old = {"id": "old", "role": "user", "parts": [{"type": "text", "text": "x" * 150_000}]}
    asked["messages"] = [old, *asked["messages"]]
    async with http.post(f"{base}/ai-sdk/waits", headers=bearer(), json=asked) as posted:
        assert posted.status == 200
        assert "two" in await posted.text()


async def test_a_chat_of_a_mode_is_resumed_in_that_mode(
    base: str, agents: Agents, http: aiohttp.ClientSession
) -> None:
    url, where = f"{base}/ai-sdk/waits", "mode=factory&isolation_level=strict"
    async with http.post(f"{url}?{where}", headers=bearer(), json=body()) as posted:
        assert posted.status == 200
        async with http.get(f"{url}/c/stream", headers=bearer()) as other:
            assert other.status == 204
        for elsewhere in ("other/c", "waits/another"):
            there = f"{base}/ai-sdk/{elsewhere}/stream?{where}"
            async with http.get(there, headers=bearer()) as other:
                assert other.status == 204
        async with http.get(f"{url}/c/stream?{where}", headers=bearer()) as same:
            agents.go_on.set()
            assert "two" in await same.text()


async def test_only_who_is_not_back_soon_has_stopped_what_he_resumed(
    base: str, agents: Agents, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldStops(monkeypatch)
    async with (
        http.ws_connect(f"{base}/ai-sdk/waits/ws", headers=bearer()) as socket,
        http.post(f"{base}/ai-sdk/waits", headers=bearer(), json=body()) as posted,
    ):
        await posted.content.readuntil(b"reasoning-end")
        resume = {"type": "resume", "id": "c", "headers": {}, "body": {}}
        await socket.send_json({**resume, "requestId": "1"})
        await until(socket, "chunk", "1")
        await socket.send_json({"type": "abort", "requestId": "1"})
        await socket.send_json({**resume, "requestId": "2"})
        await until(socket, "chunk", "2")
        assert await held.over() == [], "it is read again"
        await socket.send_json({**resume, "requestId": "3"})
        shown = [frame["chunk"] for frame in (await until(socket, "chunk", "3"))[1:]]
        await socket.send_json({"type": "abort", "requestId": "2"})
        assert await held.over() == [], "it is read twice"
        await socket.send_json({"type": "abort", "requestId": "3"})
        assert len(await held.over()) == 1
        assert shown[0]["type"] == "start"
        said = await posted.text()
        assert said.count("stop_requested") == 1
        assert '"status":"cancelled"' in said
        assert said.index("stop_requested") < said.index('"status":"cancelled"')
