"""Server-sent events (protocol section 7): the same stream, scopes and resume as on a WebSocket."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Self

import aiohttp
import pytest

from broker.config import Settings
from broker.redis.broker import Broker
from gateway import close_codes
from gateway.app import Gateway
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import PATIENCE_SECONDS, Client, Frame, eventually
from tests.support.servers import token


class Listener:
    """An event stream, read as the HTML standard says."""

    def __init__(
        self,
        base: str,
        user: str = "alice",
        *,
        headers: Mapping[str, str] | None = None,
        last: str | None = None,
        **query: str,
    ) -> None:
        self._url, self._query = f"{base}/sse", query
        self._headers = dict(headers or {"Authorization": f"Bearer {token(user)}"})
        if last is not None:
            self._headers["Last-Event-ID"] = last
        self.frames: list[Frame] = []
        self.last = ""
        self.retry: int | None = None
        self.comments = 0
        self.whole: bool | None = None
        """Once it ended: whether the body had its end, or was cut off."""
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        self.response = await self._http.get(self._url, params=self._query, headers=self._headers)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self.response.close()
        await self._http.close()

    async def _read(self) -> None:
        try:
            async for raw in self.response.content:
                await self._line(raw.decode().removesuffix("\n"))
            self.whole = True
        except aiohttp.ClientPayloadError:
            self.whole = False
        async with self._changed:
            self._changed.notify_all()

    async def _line(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if line.startswith(":"):
            self.comments += 1
        elif name == "retry":
            self.retry = int(value)
        elif name == "id":
            self.last = value
        elif name == "data":
            self.frames.append(json.loads(value))
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Any, *, seconds: float = PATIENCE_SECONDS) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def first(self, kind: str) -> Frame:
        await self.until(lambda me: any(frame["type"] == kind for frame in me.frames))
        return next(frame for frame in self.frames if frame["type"] == kind)

    def seqs(self) -> list[int]:
        return [frame["seq"] for frame in self.frames if "seq" in frame]


async def test_it_says_the_same_as_a_websocket(base: str, broker: Broker) -> None:
    claim = await opened(broker, "alice")
    async with Listener(base) as stream, Client(base) as socket:
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        await stream.first("live")
        await socket.first("live")
        for seq in range(1, 6):
            await broker.publish(claim, thought(claim, seq))
        await stream.until(lambda me: me.seqs() == [1, 2, 3, 4, 5])
        await socket.until(lambda _: len(socket.events()) == 5)
        assert [f for f in stream.frames if "seq" in f] == socket.events()
        kinds = [frame["type"] for frame in stream.frames[:2]]
        assert kinds == ["connection_established", "live"]
        assert stream.frames[0].keys() == socket.frames[0].keys()
        assert stream.last == socket.events()[-1]["id"]
        assert stream.retry is not None
        assert 500 <= stream.retry <= 3000


async def test_it_goes_on_after_the_last_event_id_at_another_gateway(
    settings: Settings, broker: Broker
) -> None:
    claim = await opened(broker, "alice")
    async with Gateway(settings) as one, Gateway(settings) as other:
        async with Listener(f"http://127.0.0.1:{one.port}") as first:
            await first.first("live")
            await broker.publish(claim, thought(claim, 1))
            await first.until(lambda me: me.seqs() == [1])
        for seq in (2, 3):
            await broker.publish(claim, thought(claim, seq))
        # The header is newer than what the address was made with.
        base = f"http://127.0.0.1:{other.port}"
        async with Listener(base, last=first.last, after="0-0") as second:
            await second.first("live")
            assert second.seqs() == [2, 3]
            assert second.frames[0]["payload"]["recovered"] is True


async def test_a_stream_that_has_heard_nothing_yet_has_a_place_to_go_on_from(
    base: str, broker: Broker
) -> None:
    """Otherwise what comes while it is away for the first time would be lost."""
    claim = await opened(broker, "alice")
    async with Listener(base) as first:
        await first.first("live")
        await first.until(lambda me: me.last)
    await broker.publish(claim, thought(claim, 1))
    async with Listener(base, last=first.last) as second:
        await second.first("live")
        assert second.seqs() == [1]


@pytest.mark.parametrize(
    "query", [{"mode": "legacy"}, {"mode": "factory", "isolation_level": "strict"}]
)
async def test_what_cannot_be_resumed_is_no_place_to_go_on_from(
    base: str, query: dict[str, str]
) -> None:
    """An EventSource sends the last id that it got by itself, and gives up for ever at a 400."""
    async with Listener(base, headers=None, last=None, **query) as first:
        await first.first("live")
    async with Listener(base, headers=None, last=first.last or None, **query) as second:
        assert second.response.status == 200
        await second.first("live")


async def test_a_cursor_that_is_none_is_told(base: str) -> None:
    async with Listener(base, last="nonsense") as stream:
        assert (await stream.first("resync"))["payload"]["reason"] == "unknown_cursor"


@pytest.mark.parametrize("mode", ["main", "factory", "isolated", "legacy"])
async def test_every_mode_has_its_scope(base: str, mode: str) -> None:
    async with Listener(base, mode=mode) as stream:
        hello = await stream.first("connection_established")
        told = hello["data" if mode == "legacy" else "payload"]
        assert told["mode"] == mode
        assert told["user_id"] == "alice"


async def test_nothing_of_anothers_comes(base: str, broker: Broker) -> None:
    claim, bob = await opened(broker, "alice"), await opened(broker, "bob")
    async with Listener(base) as stream:
        await stream.first("live")
        await broker.publish(bob, thought(bob, 1))
        # Put where alice's events are, it is still bob's.
        astray = b"5-5 0-0 :bob t r 1 agent_thinking\n" + thought(bob, 1).body
        await broker.client.publish(claim.channel.live, astray)
        await broker.publish(claim, thought(claim, 1))
        await stream.until(lambda me: me.seqs() == [1])
        assert {f["user_id"] for f in stream.frames if "seq" in f} == {"alice"}


REFUSED: dict[str, tuple[dict[str, str], dict[str, str], int, str]] = {
    "no token": ({"X": "y"}, {}, 401, "unauthorized"),
    "a bad one": ({"Authorization": "Bearer x"}, {}, 401, "unauthorized"),
    "a used ticket": ({"X": "y"}, {"ticket": "used"}, 401, "unauthorized"),
    "an unknown mode": ({}, {"mode": "mian"}, 400, "invalid_mode"),
    "another user": ({}, {"user_id": "bob"}, 403, "user_mismatch"),
    "a foreign page": (
        {"Authorization": f"Bearer {token()}", "Origin": "https://evil.example"}, {}, 403,
        "origin_not_allowed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_refusals_are_those_of_a_websocket(base: str, case: str) -> None:
    headers, query, status, code = REFUSED[case]
    async with Listener(base, headers=headers or None, **query) as stream:
        assert stream.response.status == status
        assert (await stream.response.json())["code"] == code


async def test_a_page_from_an_allowed_origin_may_read_it(settings: Settings) -> None:
    page = "https://chat.example"
    async with Gateway(settings.model_copy(update={"allowed_origins": (page,)})) as gateway:
        headers = {"Authorization": f"Bearer {token()}", "Origin": page}
        async with Listener(f"http://127.0.0.1:{gateway.port}", headers=headers) as stream:
            await stream.first("live")
            assert stream.response.headers["Access-Control-Allow-Origin"] == page


async def test_a_ticket_opens_a_stream(base: str) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}/ws/ticket", headers={"Authorization": f"Bearer {token()}"}) as response,
    ):
        ticket = (await response.json())["ticket"]
    async with Listener(base, headers={"X": "y"}, ticket=ticket) as stream:
        await stream.first("live")


async def test_it_ends_with_a_word_and_not_by_breaking_off(gateway: Gateway, base: str) -> None:
    """A body that is cut off counts as a whole one in more than one client."""
    async with Listener(base) as stream:
        await stream.first("live")
        (connection,) = gateway.node.sockets
        connection.close(close_codes.UNAUTHORIZED)
        closing = await stream.first("closing")
        assert closing["payload"] == {"code": 4401, "reason": close_codes.UNAUTHORIZED.name}
        await stream.until(lambda me: me.whole is not None)
        assert stream.whole is True
    await eventually(lambda: not gateway.node.sockets)


async def test_heartbeats_are_comments(settings: Settings) -> None:
    quick = settings.model_copy(update={"heartbeat_seconds": 1})
    async with Gateway(quick) as gateway, Listener(f"http://127.0.0.1:{gateway.port}") as stream:
        await stream.until(lambda me: me.comments >= 2)


async def test_nothing_is_left_of_a_stream_that_is_gone(gateway: Gateway, base: str) -> None:
    async with Listener(base) as stream:
        await stream.first("live")
        assert len(gateway.node.sockets) == 1
    await eventually(lambda: not gateway.node.sockets)
    assert all(feed.idle for feed in gateway.node.relay.hub.feeds())


async def test_old_http_is_told(base: str) -> None:
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /sse HTTP/1.0\r\nAuthorization: Bearer {token()}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert b"http_1_1_required" in answer


async def test_a_stream_and_what_comes_with_its_request(gateway: Gateway, base: str) -> None:
    """Bytes after the request are not taken for anything."""
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
    writer.write(head.encode() + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    data = await reader.readuntil(b'"type":"live"')
    assert data.count(b"HTTP/1.1") == 1
    assert len(gateway.node.sockets) == 1
    writer.close()
