"""A message that is answered with its run's own events (protocol section 7)."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import aiohttp
import pytest

from agents_sdk import Run, Worker
from broker.channels import Owner
from broker.config import Settings
from broker.cursor import ZERO
from broker.redis.broker import Broker
from gateway.app import Gateway
from gateway.connection import CLOSE_SECONDS
from gateway.resync import Resync
from tests.support.clients import FIVE, Frame, eventually
from tests.support.schemas import undescribed
from tests.support.servers import token

Body = dict[str, Any]


class Posted:
    """A message, posted by a client that accepts events, and what it is answered."""

    def __init__(
        self,
        base: str,
        body: Body,
        *,
        user: str = "alice",
        last: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url, self._body = f"{base}/api/v1/messages", body
        self._headers = {
            "Authorization": f"Bearer {token(user)}",
            "Accept": "text/event-stream",
            **(headers or {}),
        }
        if last is not None:
            self._headers["Last-Event-ID"] = last
        self.frames: list[Frame] = []
        self.last, self.ids = "", list[str]()
        self.whole: bool | None = None
        """Once it ended: whether the body had its end, or was cut off."""
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        self.response = await self._http.post(self._url, json=self._body, headers=self._headers)
        self._reader: asyncio.Task[None] | None = None
        if self.response.content_type == "text/event-stream":
            self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self.response.close()
        await self._http.close()

    def cut(self) -> None:
        """Abort the TCP connection."""
        connection = self.response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()

    async def _read(self) -> None:
        try:
            async for raw in self.response.content:
                name, _, value = raw.decode().removesuffix("\n").partition(": ")
                if name == "id":
                    self.last = value
                elif name == "data":
                    self.frames.append(json.loads(value))
                    self.ids.append(self.last)
                async with self._changed:
                    self._changed.notify_all()
            self.whole = True
        except (aiohttp.ClientError, OSError):
            self.whole = False
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Any, *, seconds: float = 8.0) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def end(self) -> None:
        """Its end, which has to be a clean one."""
        await self.until(lambda me: me.whole is not None)
        assert self.whole, self.frames

    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames]

    def text(self) -> str:
        """The run's text, put together as the protocol says."""
        text, upto = "", 0
        for frame in self.frames:
            if frame["type"] == "agent_delta":
                delta = frame["payload"]
                text = delta["text"] if delta["offset"] == 0 else text + delta["text"]
                assert delta["offset"] in (0, upto)
                upto = delta["next"]
        return text

    @property
    def accepted(self) -> Body:
        assert self.frames[0]["type"] == "run_accepted"
        told: Body = self.frames[0]["payload"]
        return told


class Agents:
    """``five`` does all; ``waits`` stops in its middle; ``delegates`` has a sub-agent with one."""

    def __init__(self, settings: Settings) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Event()
        self.worker = Worker(settings=settings)
        for agent in (self.five, self.waits, self.delegates, self.at_length):
            self.worker.agent(agent.__name__, on_busy="parallel")(agent)

    async def five(self, run: Run) -> str:
        self.begun.append(run.id)
        await run.think("a moment")
        async with run.tool("look") as call:
            call.result = run.content
        return f"you said {run.content}"

    async def waits(self, run: Run) -> None:
        self.begun.append(run.id)
        await run.think("one")
        await run.write("before ")
        await self.go_on.wait()
        await run.think("two")
        await run.write("after")

    async def at_length(self, run: Run) -> None:
        for _ in range(10):
            await run.write("x" * 20_000)

    async def delegates(self, run: Run) -> str:
        async with run.subagent("child") as child, child.subagent("grandchild") as grandchild:
            await grandchild.think("deep")
            await self.go_on.wait()
            await grandchild.write("deeper")
            await grandchild.think("deepest")
        return "done"


@pytest.fixture
async def agents(settings: Settings) -> AsyncIterator[Agents]:
    agents = Agents(settings)
    async with agents.worker.running():
        yield agents


def mine(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind in FIVE]


MODES: dict[str, Body] = {
    "main": {},
    "thread": {"mode": "factory", "thread_id": "t"},
    "a new thread": {"mode": "factory"},
    "strict": {"mode": "factory", "isolation_level": "strict"},
}


@pytest.mark.parametrize("mode", MODES)
async def test_it_is_the_whole_run_and_ends(base: str, agents: Agents, mode: str) -> None:
    body = {"id": "m1", "agent": "five", "content": "hello", **MODES[mode]}
    async with Posted(base, body) as posted:
        assert posted.response.status == 200
        await posted.end()
        assert posted.frames[0]["ref"] == "m1"
        assert posted.accepted["duplicate"] is False
        run_id = posted.accepted["run_id"]
        assert posted.kinds()[:2] == ["run_accepted", "user_message"]
        assert mine(posted.kinds()) == list(FIVE)
        assert posted.kinds()[-1] == "agent_completed"
        assert {frame["run_id"] for frame in posted.frames[1:]} == {run_id}
    assert agents.begun == [run_id]


@pytest.mark.parametrize("mode", MODES)
async def test_cut_in_the_middle_it_goes_on_at_another_gateway(
    settings: Settings, base: str, agents: Agents, mode: str
) -> None:
    body = {"id": "m1", "agent": "waits", "content": "x", **MODES[mode]}
    async with Posted(base, body) as first:
        await first.until(lambda me: me.text() == "before ")
        first.cut()
        await first.until(lambda me: me.whole is False)
    async with Gateway(settings) as other:
        again = Posted(f"http://127.0.0.1:{other.port}", body, last=first.last)
        async with again:
            await again.until(lambda me: me.text() == "before ")
            assert again.accepted == {**first.accepted, "duplicate": True}
            assert mine(again.kinds()) == []  # it has them
            agents.go_on.set()
            await again.end()
    assert again.text() == "before after"
    assert mine(first.kinds() + again.kinds()) == [
        "agent_started", "agent_thinking", "agent_thinking", "agent_completed",
    ]  # fmt: skip
    assert agents.begun == [first.accepted["run_id"]]


async def test_sent_again_without_a_cursor_it_comes_from_its_beginning(
    base: str, agents: Agents
) -> None:
    body = {"id": "m1", "agent": "waits", "content": "x"}
    async with Posted(base, body) as first:
        await first.until(lambda me: "agent_thinking" in me.kinds())
        first.cut()
    agents.go_on.set()
    async with Posted(base, body) as again:
        await again.end()
    assert mine(again.kinds())[0] == "agent_started"
    assert again.kinds()[1] == "user_message"
    assert again.accepted["duplicate"] is True
    assert len(agents.begun) == 1


async def test_sent_again_after_the_end(base: str, agents: Agents) -> None:
    body = {"id": "m1", "agent": "five", "content": "x"}
    async with Posted(base, body) as first:
        await first.end()
    async with Posted(base, body) as whole:
        await whole.end()
        assert [frame for frame in whole.frames if "id" in frame] == [
            frame for frame in first.frames if "id" in frame
        ]
    async with Posted(base, body, last=first.last) as nothing:
        await nothing.end()
        assert nothing.kinds() == ["run_accepted"]
    assert len(agents.begun) == 1


async def test_nothing_is_lost_before_the_first_event(base: str, agents: Agents) -> None:
    """The first frame has a place to go on from."""
    async with Posted(base, {"id": "m0", "agent": "five", "content": "x"}) as before:
        await before.end()
    body = {"id": "m1", "agent": "five", "content": "x"}
    async with Posted(base, body) as first:
        await first.end()
    async with Posted(base, body, last=first.ids[0]) as again:
        await again.end()
    assert again.kinds() == first.kinds()
    assert first.ids[0] == before.ids[-1] == before.last


async def test_a_slow_reader_gets_the_end_however_long_it_takes(
    base: str, gateway: Gateway, agents: Agents
) -> None:
    host, _, port = base.removeprefix("http://").partition(":")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, (host, int(port)))
    body = json.dumps({"id": "m1", "agent": "at_length", "content": "x"})
    head = (
        "POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {token()}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    await loop.sock_sendall(slow, head.encode())
    await eventually(lambda: any(each.unsent > 200_000 for each in gateway.node.sockets))
    (stream,) = gateway.node.sockets
    await eventually(stream._transport.is_closing)
    await asyncio.sleep(CLOSE_SECONDS + 0.2)  # what others are given for a farewell
    data = b""
    while piece := await loop.sock_recv(slow, 1 << 20):
        data += piece
    slow.close()
    assert b'"type":"agent_completed"' in data
    assert data.endswith(b"\r\n0\r\n\r\n")


async def test_other_runs_of_the_thread_are_left_out(base: str, agents: Agents) -> None:
    here: Body = {"thread_id": "t"}
    async with Posted(base, {"id": "m1", "agent": "waits", "content": "x", **here}) as waiting:
        await waiting.until(lambda me: "agent_thinking" in me.kinds())
        async with Posted(base, {"id": "m2", "agent": "waits", "content": "y", **here}) as other:
            await other.until(lambda me: me.text() == "before ")
            agents.go_on.set()
            await other.end()
        await waiting.end()
    for posted in (waiting, other):
        assert {f["run_id"] for f in posted.frames[1:]} == {posted.accepted["run_id"]}
        assert posted.text() == "before after"


@pytest.mark.parametrize("mode", ["main", "strict"])
async def test_sub_agents_belong_to_it_also_when_resumed(
    base: str, agents: Agents, mode: str
) -> None:
    body = {"id": "m1", "agent": "delegates", "content": "x", **MODES[mode]}
    async with Posted(base, body) as first:
        await first.until(lambda me: "agent_thinking" in me.kinds())
        first.cut()
    agents.go_on.set()
    async with Posted(base, body, last=first.last) as again:
        await again.end()
    both = first.frames + again.frames
    names = {f["agent_name"] for f in both if f["type"] == "agent_completed"}
    assert names == {"delegates", "child", "grandchild"}
    thoughts = [f["payload"]["thoughts"] for f in both if f["type"] == "agent_thinking"]
    assert thoughts == ["deep", "deepest"]
    assert again.kinds()[-1] == "agent_completed"
    assert again.frames[-1]["agent_name"] == "delegates"


@pytest.mark.parametrize("last", ["nonsense", "1-1", "99999999999999-0"])
async def test_a_cursor_that_is_not_of_the_channel_is_told(
    base: str, agents: Agents, last: str
) -> None:
    body = {"id": "m1", "agent": "five", "content": "x"}
    async with Posted(base, body) as first:
        await first.end()
    async with Posted(base, body, last=last) as again:
        await again.end()
        assert again.kinds()[:2] == ["run_accepted", "resync"]
        assert again.frames[1]["payload"]["from"] == "0-0"
        assert mine(again.kinds()) == list(FIVE)
    assert len(agents.begun) == 1


async def test_an_end_that_is_no_longer_kept_is_told(
    base: str, broker: Broker, agents: Agents
) -> None:
    """Rather than to wait for it for ever."""
    body = {"id": "m1", "agent": "five", "content": "x"}
    async with Posted(base, body) as first:
        await first.end()
    channel = await broker.run_channel(Owner("", "alice"), first.accepted["run_id"])
    await broker.client.execute("XTRIM", channel.log, "MAXLEN", 0)
    async with Posted(base, body) as again:
        await again.end()
        assert again.kinds() == ["run_accepted", "resync"]
        assert again.frames[1]["payload"]["reason"] == "expired"
        assert not undescribed(again.frames)


async def test_after_a_hole_on_the_way_it_is_asked_anew(
    base: str, gateway: Gateway, agents: Agents
) -> None:
    """The run's end may have been in it, so waiting for that could be for ever."""
    body = {"id": "m1", "agent": "waits", "content": "x"}
    async with Posted(base, body) as first:
        await first.until(lambda me: me.text() == "before ")
        (stream,) = gateway.node.sockets
        stream.send(Resync("overrun", ZERO, ZERO).frame())
        await first.end()
        assert first.kinds()[-2:] == ["resync", "closing"]
        assert first.frames[-1]["payload"]["code"] == 4503
    agents.go_on.set()
    async with Posted(base, body, last=first.last) as again:
        await again.end()
    assert mine(first.kinds() + again.kinds()).count("agent_completed") == 1
    assert len(agents.begun) == 1


async def test_without_an_id_nothing_is_begun_a_second_time(base: str, agents: Agents) -> None:
    async with Posted(base, {"agent": "five", "content": "x"}) as first:
        await first.end()
        assert first.frames[0]["ref"]  # by which it can be resumed
    async with Posted(base, {"agent": "five", "content": "x"}, last=first.last) as refused:
        assert refused.response.status == 400
        assert refused.response.content_type == "application/problem+json"
        assert (await refused.response.json())["code"] == "id_required"
    body = {"id": first.frames[0]["ref"], "agent": "five", "content": "x"}
    async with Posted(base, body, last=first.last) as again:
        await again.end()
    assert len(agents.begun) == 1


async def test_a_message_that_nobody_knows_is_not_resumed(base: str, agents: Agents) -> None:
    """It may have been forgotten since: whoever has events of a run does not want another."""
    body = {"id": "lost", "agent": "five", "content": "x"}
    async with Posted(base, body, last="5-5") as refused:
        assert refused.response.status == 404
        assert (await refused.response.json())["code"] == "run_not_found"
    assert agents.begun == []


REFUSED: dict[str, tuple[Body, dict[str, str], int, str]] = {
    "no such agent": ({"agent": "nobody"}, {}, 404, "unknown_agent"),
    "no content": ({"content": None}, {}, 400, "bad_frame"),
    "an isolated channel": ({"mode": "isolated"}, {}, 400, "parameter_not_allowed"),
    "the old shape": ({"mode": "legacy"}, {}, 400, "parameter_not_allowed"),
    "a bad token": ({}, {"Authorization": "Bearer x"}, 401, "unauthorized"),
    "a foreign page": ({}, {"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refusals_are_problems(base: str, agents: Agents, case: str) -> None:
    change, headers, status, code = REFUSED[case]
    body = {"id": "m1", "agent": "five", "content": "x", **change}
    async with Posted(base, body, headers=headers) as posted:
        assert posted.response.content_type == "application/problem+json"
        assert (posted.response.status, (await posted.response.json())["code"]) == (status, code)
    assert agents.begun == []


async def test_a_run_of_another_mode_is_not_read(base: str, agents: Agents) -> None:
    """A token may be for some modes only."""
    async with Posted(base, {"id": "m1", "agent": "five", "content": "x"}) as first:
        await first.end()
    body = {"id": "m1", "agent": "five", "content": "x", **MODES["strict"]}
    async with Posted(base, body) as posted:
        assert (posted.response.status, (await posted.response.json())["code"]) == (
            403, "not_allowed",
        )  # fmt: skip


async def test_it_takes_a_seat_as_long_as_it_lasts(
    settings: Settings, gateway: Gateway, agents: Agents
) -> None:
    limited = settings.model_copy(update={"max_connections_per_user": 1})
    async with Gateway(limited) as narrow:
        base = f"http://127.0.0.1:{narrow.port}"
        async with Posted(base, {"id": "m1", "agent": "waits", "content": "x"}) as first:
            await first.until(lambda me: "agent_thinking" in me.kinds())
            async with Posted(base, {"id": "m2", "agent": "five", "content": "x"}) as second:
                assert second.response.status == 429
            agents.go_on.set()
            await first.end()
        await eventually(lambda: not narrow.node.sockets)
        assert all(feed.idle for feed in narrow.node.relay.hub.feeds())
    assert len(agents.begun) == 1


async def test_whoever_does_not_read_ends_nothing_and_blocks_nothing(
    base: str, gateway: Gateway, agents: Agents
) -> None:
    async with Posted(base, {"id": "m1", "agent": "waits", "content": "x"}) as gone:
        await gone.until(lambda me: "agent_thinking" in me.kinds())
        gone.cut()
    await eventually(lambda: not gateway.node.sockets)
    agents.go_on.set()
    async with Posted(base, {"id": "m2", "agent": "five", "content": "x"}) as other:
        await other.end()
    async with Posted(base, {"id": "m1", "agent": "waits", "content": "x"}) as again:
        await again.end()
        assert again.frames[-1]["payload"]["status"] == "succeeded"


async def test_a_page_from_an_allowed_origin_may_read_it(
    settings: Settings, agents: Agents
) -> None:
    page = "https://chat.example"
    async with Gateway(settings.model_copy(update={"allowed_origins": (page,)})) as gateway:
        body = {"id": "m1", "agent": "five", "content": "x"}
        async with Posted(f"http://127.0.0.1:{gateway.port}", body, headers={"Origin": page}) as it:
            await it.end()
            assert it.response.headers.getall("Access-Control-Allow-Origin") == [page]


async def test_plain_requests_are_answered_as_ever(base: str, agents: Agents) -> None:
    for accept in ("*/*", "application/json"):
        body = {"id": accept, "agent": "five", "content": "x"}
        async with Posted(base, body, headers={"Accept": accept}) as posted:
            assert posted.response.status == 202
