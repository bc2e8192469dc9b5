"""The Python chat client against a server that plays what a gateway may do, and what it must not.

Sockets, handshakes and close codes are real; only the other end's lines are written here.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.client import BadFrame, ChatClient, Closed, ConnectionRefused, Rejected
from tests.support.clients import eventually

Line = Callable[["Connection"], Awaitable[None]]


class Connection:
    """The server's end of one accepted connection."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        self.query = dict(request.query)
        self.token = request.headers["Authorization"].removeprefix("Bearer ")
        self.ws = ws

    async def hello(self, cursor: str | None = "0-0", **payload: Any) -> None:
        told = {"cursor": cursor, "protocol": 3, **payload}
        await self.ws.send_json({"type": "connection_established", "payload": told})

    async def event(self, cursor: str, run_id: str = "r", **more: Any) -> None:
        event = {"type": "agent_thinking", "id": cursor, "run_id": run_id, "payload": {}}
        await self.ws.send_json({**event, **more})

    async def control(self, kind: str, **payload: Any) -> None:
        await self.ws.send_json({"type": kind, "payload": payload})

    async def reply(self, kind: str, asked: dict[str, Any], **payload: Any) -> None:
        await self.ws.send_json({"type": kind, "ref": asked["id"], "payload": payload})

    async def accept(self, asked: dict[str, Any], run_id: str = "r") -> None:
        told = {"run_id": run_id, "thread_id": "t", "agent": "a", "duplicate": False}
        await self.reply("run_accepted", asked, **told)

    async def asked(self) -> dict[str, Any]:
        frame: dict[str, Any] = await self.ws.receive_json()
        return frame


class Server:
    """Plays one line per connection, in order; a number or a pair refuses the handshake."""

    def __init__(self, *lines: Line | tuple[int, dict[str, Any]]) -> None:
        self._lines = list(lines)
        self.connections: list[Connection] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        line = self._lines.pop(0)
        if isinstance(line, tuple):
            return web.json_response(line[1], status=line[0])
        ws = web.WebSocketResponse(protocols=("runcast.v3",))
        await ws.prepare(request)
        connection = Connection(request, ws)
        self.connections.append(connection)
        await line(connection)
        if not ws.closed:
            assert ws._writer is not None
            assert ws._writer.transport is not None
            ws._writer.transport.abort()
        return ws


@asynccontextmanager
async def serving(*lines: Line | tuple[int, dict[str, Any]]) -> AsyncIterator[Server]:
    server = Server(*lines)
    app = web.Application()
    app.router.add_get("/ws", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
    try:
        yield server
    finally:
        await runner.cleanup()


def client(server: Server, **how: Any) -> ChatClient:
    return ChatClient(server.url, **{"token": "t0", "random_source": lambda: 0.0, **how})


async def ids(chat: ChatClient, last: str) -> list[str]:
    """The cursors of the events up to the last one."""
    had = []
    async for event in chat.events():
        had.append(event["id"])
        if event["id"] == last:
            return had
    raise AssertionError(f"{last} never came, but {had}")


async def stay(connection: Connection) -> None:
    """Keep the connection until the client leaves."""
    await connection.ws.receive()


async def test_it_resumes_from_its_cursor_and_gives_every_event_once() -> None:
    async def first(here: Connection) -> None:
        await here.hello("4-0")
        await here.event("5-9")
        await here.event("5-10")

    async def second(here: Connection) -> None:
        await here.hello("9-0")
        for cursor in ("5-10", "6-0", "6-1"):
            await here.event(cursor)
        await stay(here)

    async with serving(first, second) as server, client(server, mode="main", thread_id="t") as chat:
        assert await ids(chat, "6-1") == ["5-9", "5-10", "6-0", "6-1"]
        assert server.connections[0].query == {"mode": "main", "thread_id": "t"}
        assert server.connections[1].query["after"] == "5-10"
        assert chat.cursor == "6-1"


async def test_what_was_received_before_the_end_is_read_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when there was no room for more; and whoever reads later is told of the end too."""
    monkeypatch.setattr("gateway.client.INBOX_FRAMES", 3)

    async def first(here: Connection) -> None:
        await here.hello("4-0")
        for cursor in ("5-0", "5-1", "5-2"):
            await here.event(cursor)
        await here.ws.close(code=4403)

    async with serving(first) as server, client(server, mode="main") as chat:
        assert (await anext(chat.frames()))["type"] == "connection_established"
        await eventually(lambda: chat._keeper is not None and chat._keeper.done())
        assert await ids(chat, "5-2") == ["5-0", "5-1", "5-2"]
        for _ in range(2):
            with pytest.raises(Closed):
                await anext(chat.events())


async def test_an_unanswered_message_is_sent_again_under_the_same_id() -> None:
    async def first(here: Connection) -> None:
        await here.hello()
        messages.append(await here.asked())

    async def second(here: Connection) -> None:
        await here.hello()
        messages.append(await here.asked())
        await here.accept(messages[-1])
        await stay(here)

    messages: list[dict[str, Any]] = []
    async with serving(first, second) as server, client(server) as chat:
        accepted = await chat.send("hi", thread_id="t", agent="a", metadata={"k": 1})
        assert (accepted.id, accepted.thread_id, accepted.agent) == ("r", "t", "a")
    assert messages[0] == messages[1]
    assert messages[0]["payload"] == {
        "content": "hi",
        "thread_id": "t",
        "agent": "a",
        "metadata": {"k": 1},
    }


async def test_an_answered_message_is_not_sent_again() -> None:
    async def first(here: Connection) -> None:
        await here.hello()
        await here.accept(await here.asked())

    async def second(here: Connection) -> None:
        await here.hello()
        again.append(await here.asked())
        await here.reply("pong", again[-1])
        await stay(here)

    again: list[dict[str, Any]] = []
    async with serving(first, second) as server, client(server) as chat:
        await chat.send("hi")
        await chat.ping({"n": 1})
    assert [frame["type"] for frame in again] == ["ping"]


async def test_a_rejection_is_an_error_of_the_call_that_asked() -> None:
    async def line(here: Connection) -> None:
        await here.hello()
        told = {"code": "unknown_agent", "message": "no such agent", "retryable": True}
        await here.reply("error", await here.asked(), **told)
        await here.accept(await here.asked())
        await here.event("1-0")
        await stay(here)

    async with serving(line) as server, client(server) as chat:
        with pytest.raises(Rejected) as caught:
            await chat.send("hi", agent="nobody")
        assert (caught.value.code, caught.value.retryable) == ("unknown_agent", True)
        await chat.send("hi")
        assert await ids(chat, "1-0") == ["1-0"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"content": "ä" * 200}, "message_too_large"),
        ({"content": "hi", "message_id": "x" * 257}, "bad_frame"),
        ({"content": "hi", "message_id": 5}, "bad_frame"),
        ({"content": "hi", "message_id": ""}, "bad_frame"),
    ],
)
async def test_what_a_gateway_could_not_answer_is_rejected_here(
    message: dict[str, Any], code: str
) -> None:
    """Defect: its error names no call, so that `send` waited for ever."""

    async def line(here: Connection) -> None:
        await here.hello(max_message_bytes=300)
        await here.accept(await here.asked())
        await stay(here)

    async with serving(line) as server, client(server) as chat:
        with pytest.raises(Rejected) as caught:
            await chat.send(**message)
        assert caught.value.code == code
        assert (await chat.send("goes on")).id == "r"


async def test_errors_that_answer_no_call_and_resyncs_are_among_the_events() -> None:
    async def line(here: Connection) -> None:
        await here.hello("9-0")
        await here.control("resync", **{"reason": "forked", "from": "2-0", "channel_cursor": "3-0"})
        await here.event("3-0")
        await here.ws.send_json(
            {"type": "error", "ref": None, "payload": {"code": "internal", "message": "m"}}
        )
        await here.control("live", cursor="3-0")
        await here.event("4-0")
        await stay(here)

    async with serving(line) as server, client(server, after="9-0") as chat:
        kinds = []
        async for event in chat.events():
            kinds.append(event["type"])
            if event.get("id") == "4-0":
                break
        assert kinds == ["resync", "agent_thinking", "error", "agent_thinking"]


async def test_frames_come_as_they_are_from_the_first_on() -> None:
    async def line(here: Connection) -> None:
        await here.hello("9-0", mode="main")
        await here.control("live", cursor="9-0")
        await stay(here)

    async with serving(line) as server, client(server) as chat:
        assert chat.hello == {"cursor": "9-0", "protocol": 3, "mode": "main"}
        kinds = []
        async for frame in chat.frames():
            kinds.append(frame["type"])
            if frame["type"] == "live":
                break
        assert kinds == ["connection_established", "live"]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (1000, "normal"),
        (1009, "message too large"),
        (4400, "protocol misuse"),
        (4401, "token missing, bad, expired or revoked"),
        (4403, "forbidden"),
        (4409, "taken over"),
    ],
)
async def test_a_close_code_that_forbids_to_come_back_ends_everything(code: int, name: str) -> None:
    async def line(here: Connection) -> None:
        await here.hello()
        await here.asked()
        await here.event("1-0")
        await here.ws.close(code=code)

    async with serving(line) as server, client(server) as chat:
        waiting = asyncio.create_task(chat.send("hi"))
        events = chat.events()
        assert (await anext(events))["id"] == "1-0"
        with pytest.raises(Closed) as caught:
            await anext(events)
        assert (caught.value.code, caught.value.name) == (code, name)
        with pytest.raises(Closed):
            await waiting
        with pytest.raises(Closed):
            await chat.send("after the end")
        with pytest.raises(Closed):
            await anext(chat.events())


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4408, 4503])
async def test_other_close_codes_bring_it_back(code: int) -> None:
    async def first(here: Connection) -> None:
        await here.hello("1-0")
        await here.ws.close(code=code)

    async def second(here: Connection) -> None:
        await here.hello("1-0")
        await here.event("2-0")
        await stay(here)

    async with serving(first, second) as server, client(server) as chat:
        assert await ids(chat, "2-0") == ["2-0"]
        assert server.connections[1].query["after"] == "1-0"


async def test_a_new_connection_brings_a_new_token() -> None:
    async def first(here: Connection) -> None:
        await here.hello("1-0")
        await here.ws.close(code=4401)

    async def second(here: Connection) -> None:
        await here.hello("1-0")
        await here.event("2-0")
        await stay(here)

    tokens = iter(("one", "two"))

    async def token() -> str:
        return next(tokens)

    async with serving(first, second) as server, client(server, token=token) as chat:
        await ids(chat, "2-0")
        assert [here.token for here in server.connections] == ["one", "two"]


async def test_a_token_that_cannot_be_had_now_is_asked_for_again() -> None:
    """Whoever gives tokens may be away for as long as the gateway was."""

    async def first(here: Connection) -> None:
        await here.hello("1-0")
        await here.control("token_expiring", expires_at="2026-11-23T00:00:00Z")
        await here.event("2-0")
        await asyncio.wait_for(asked_twice.wait(), 30)

    async def second(here: Connection) -> None:
        await here.hello("2-0")
        await here.event("3-0")
        await stay(here)

    asked_twice = asyncio.Event()
    answers: list[str | Exception] = ["one", OSError("away"), ValueError("away"), "two"]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            asked_twice.set()
            raise answer
        return answer

    async with serving(first, second) as server, client(server, token=token) as chat:
        assert await ids(chat, "3-0") == ["2-0", "3-0"]
        assert [here.token for here in server.connections] == ["one", "two"]


async def test_a_first_token_that_cannot_be_had_is_its_callers_error() -> None:
    def token() -> str:
        raise LookupError("nobody is logged in")

    async with serving() as server:
        with pytest.raises(LookupError):
            await client(server, token=token).__aenter__()


async def test_the_text_of_a_run_is_put_together_over_connections() -> None:
    async def delta(here: Connection, offset: int, text: str) -> None:
        told = {"offset": offset, "next": offset + len(text), "text": text}
        await here.ws.send_json({"type": "agent_delta", "run_id": "r", "payload": told})

    async def first(here: Connection) -> None:
        await here.hello("1-0")
        await delta(here, 0, "Hel")

    async def second(here: Connection) -> None:
        await here.hello("1-0")
        await delta(here, 0, "Hello")
        await delta(here, 5, " you")
        await here.event("2-0", type="agent_completed", payload={"response": None})
        await stay(here)

    async with serving(first, second) as server, client(server) as chat:
        said = []
        async for event in chat.events():
            said.append(chat.text("r"))
            if event["type"] == "agent_completed":
                break
        assert said == ["Hel", "Hello", "Hello you", "Hello you"]


async def test_what_a_rewritten_log_repeats_is_left_out() -> None:
    async def line(here: Connection) -> None:
        await here.hello("9-0")
        await here.event("10-0", seq=1)
        await here.control("resync", **{"reason": "forked", "from": "2-0", "channel_cursor": "5-0"})
        await here.event("4-0", seq=1)
        await here.event("5-0", seq=2)
        await stay(here)

    async with serving(line) as server, client(server) as chat:
        had = [event.get("seq") async for event in _until(chat, "5-0")]
        assert had == [1, None, 2]  # None: the resync
        assert chat.cursor == "5-0"


async def test_being_greeted_and_sent_away_is_no_progress() -> None:
    """A gateway in trouble is not stormed by those whom it lets in and out again."""

    async def away(here: Connection) -> None:
        await here.hello("1-0")
        await here.control("resync", **{"reason": "forked", "from": "1-0", "channel_cursor": "1-0"})
        await here.ws.close(code=4503)

    async def well(here: Connection) -> None:
        await here.hello("1-0")
        await here.event("2-0")
        await stay(here)

    begun = time.monotonic()
    async with (
        serving(away, away, away, well) as server,
        client(server, random_source=lambda: 1.0) as chat,
    ):
        async for event in chat.events():
            if event["type"] == "agent_thinking":
                break
    assert time.monotonic() - begun > 0.25 + 0.5 + 1.0  # and not three times the shortest


async def _until(chat: ChatClient, last: str) -> AsyncIterator[dict[str, Any]]:
    async for event in chat.events():
        yield event
        if event.get("id") == last:
            return


async def test_an_expiring_token_is_renewed_on_the_same_connection() -> None:
    async def line(here: Connection) -> None:
        await here.hello("1-0")
        await here.control("token_expiring", expires_at="2026-11-23T00:00:00Z")
        renewal = await here.asked()
        assert (renewal["type"], renewal["payload"]) == ("auth_refresh", {"token": "two"})
        await here.reply("ok", renewal, expires_at="2026-11-23T01:00:00Z")
        await here.event("2-0")
        await stay(here)

    tokens = iter(("one", "two"))
    async with serving(line) as server, client(server, token=lambda: next(tokens)) as chat:
        assert await ids(chat, "2-0") == ["2-0"]
        assert len(server.connections) == 1


async def test_an_isolated_connection_is_taken_up_again() -> None:
    async def line(here: Connection) -> None:
        await here.hello("1-0", connection_id="c1", secret="s1")
        await here.event("2-0")

    async def again(here: Connection) -> None:
        await here.hello("2-0", connection_id="c1", secret="s1")
        await here.event("3-0")
        await stay(here)

    async with serving(line, again) as server, client(server, mode="isolated") as chat:
        assert await ids(chat, "3-0") == ["2-0", "3-0"]
        asked = {"mode": "isolated", "connection": "c1", "secret": "s1", "after": "2-0"}
        assert server.connections[1].query == asked


async def test_strict_runs_are_attached_to_again_each_from_its_own_cursor() -> None:
    async def first(here: Connection) -> None:
        await here.hello(None)
        await here.accept(await here.asked(), "r1")
        await here.accept(await here.asked(), "r2")
        await here.event("7-0", "r1")
        await here.event("3-0", "r2", type="agent_completed")
        attach = await here.asked()
        assert attach["payload"] == {"run_id": "r3", "after": "5-0"}
        await here.reply("ok", attach, cursor="5-0")

    async def second(here: Connection) -> None:
        await here.hello(None)
        attached.extend([await here.asked(), await here.asked()])
        for frame in attached:
            await here.reply("ok", frame, cursor="9-0")
        await here.event("8-0", "r1")
        await stay(here)

    attached: list[dict[str, Any]] = []
    strict = {"mode": "factory", "isolation_level": "strict"}
    async with serving(first, second) as server, client(server, **strict) as chat:
        await chat.send("one")
        await chat.send("two")
        assert await ids(chat, "3-0") == ["7-0", "3-0"]
        assert await chat.attach("r3", after="5-0") == "5-0"
        assert await ids(chat, "8-0") == ["8-0"]
        assert server.connections[1].query == strict
    assert [frame["payload"] for frame in attached] == [
        {"run_id": "r1", "after": "7-0"},
        {"run_id": "r3", "after": "5-0"},
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 426, 429, 503])
async def test_a_refused_first_connection_is_an_error_with_the_reason(status: int) -> None:
    problem = {"code": "some_code", "detail": "because", "status": status}
    async with serving((status, problem)) as server:
        with pytest.raises(ConnectionRefused) as caught:
            async with client(server):
                pass
        assert (caught.value.status, caught.value.problem) == (status, problem)
        assert "because" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_that_stays_the_same_ends_the_coming_back(status: int) -> None:
    async def line(here: Connection) -> None:
        await here.hello("1-0")

    async with serving(line, (status, {"code": "c"})) as server, client(server) as chat:
        with pytest.raises(ConnectionRefused) as caught:
            await anext(chat.events())
        assert caught.value.problem == {"code": "c"}


async def test_a_refusal_that_may_pass_does_not_end_it() -> None:
    async def line(here: Connection) -> None:
        await here.hello("1-0")

    async def closing(here: Connection) -> None:
        await here.ws.close(code=4503)

    async def last(here: Connection) -> None:
        await here.hello("1-0")
        await here.event("2-0")
        await stay(here)

    async with (
        serving(line, (503, {}), (502, {}), closing, last) as server,
        client(server) as chat,
    ):
        assert await ids(chat, "2-0") == ["2-0"]


async def test_nobody_there_is_an_error_that_names_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/ws"
        with pytest.raises(ConnectionRefused, match=url.removesuffix("/ws")) as caught:
            async with ChatClient(url, token="t"):
                pass
        assert caught.value.status is None


async def test_a_connection_that_is_closed_before_its_first_frame() -> None:
    async def line(here: Connection) -> None:
        await here.ws.close(code=4403)

    async with serving(line) as server:
        with pytest.raises(Closed) as caught:
            async with client(server):
                pass
        assert caught.value.code == 4403


@pytest.mark.parametrize("text", ["no json", "[]", '{"type": "resync", "payload": {"from": "x"}}'])
async def test_rubbish_ends_it_with_an_error_and_not_in_silence(text: str) -> None:
    async def line(here: Connection) -> None:
        await here.hello("1-0")
        await here.ws.send_str(text)
        await stay(here)

    async with serving(line) as server, client(server) as chat:
        with pytest.raises(BadFrame):
            await anext(chat.events())


async def test_leaving_ends_readers_and_callers_and_closes_the_socket() -> None:
    async def line(here: Connection) -> None:
        await here.hello("1-0")
        await here.asked()
        asked.set()
        gone.set_result((await here.ws.receive()).type)

    asked = asyncio.Event()
    gone: asyncio.Future[aiohttp.WSMsgType] = asyncio.get_running_loop().create_future()
    async with serving(line) as server:
        async with client(server) as chat:
            waiting = asyncio.create_task(chat.send("hi"))
            reading = asyncio.create_task(anext(chat.events(), None))
            await asked.wait()
        assert await reading is None
        with pytest.raises(Closed):
            await waiting
        assert await gone is aiohttp.WSMsgType.CLOSE
        await chat.close()


async def test_leaving_at_once_closes_the_socket_and_ends_the_events() -> None:
    """Defect: its reader had no time to begin, so nobody closed the socket or ended the events."""

    async def line(here: Connection) -> None:
        await here.hello()
        gone.set_result((await here.ws.receive()).type)

    gone: asyncio.Future[aiohttp.WSMsgType] = asyncio.get_running_loop().create_future()
    async with serving(line) as server:
        async with client(server) as chat:
            pass
        assert await gone is aiohttp.WSMsgType.CLOSE
        assert [event async for event in chat.events()] == []


async def test_one_that_is_not_open_says_so() -> None:
    """Defect: its events were waited for, for ever."""
    chat = ChatClient("ws://127.0.0.1/ws", token="t0")
    with pytest.raises(Closed, match="use it inside `async with`"):
        await anext(chat.events())
    with pytest.raises(Closed, match="use it inside `async with`"):
        await chat.send("hi")


async def test_it_may_be_opened_again_and_goes_on_from_its_cursor() -> None:
    """Defect: it was connected, and its events ended at once."""

    async def first(here: Connection) -> None:
        await here.hello("4-0")
        await here.event("5-0")
        await stay(here)

    async def second(here: Connection) -> None:
        await here.hello("9-0")
        await here.event("6-0")
        await stay(here)

    async with serving(first, second) as server:
        async with client(server) as chat:
            assert await ids(chat, "5-0") == ["5-0"]
        async with chat:
            assert await ids(chat, "6-0") == ["6-0"]
        assert server.connections[1].query["after"] == "5-0"


async def test_legacy_frames_have_no_ids_and_are_all_given() -> None:
    async def line(here: Connection) -> None:
        await here.ws.send_json({"type": "connection_established", "data": {"mode": "legacy"}})
        asked = await here.asked()
        told = {"run_id": "r", "thread_id": "t", "agent": "a", "duplicate": False}
        await here.ws.send_json({"type": "run_accepted", "ref": asked["id"], "data": told})
        for _ in range(2):
            await here.ws.send_json({"type": "agent_thinking", "data": {}, "run_id": "r"})
        await stay(here)

    async with serving(line) as server, client(server, mode="legacy") as chat:
        assert (await chat.send("hi")).id == "r"
        events = chat.events()
        assert [(await anext(events))["type"] for _ in range(2)] == ["agent_thinking"] * 2
        assert chat.hello == {"mode": "legacy"}
        await events.aclose()
