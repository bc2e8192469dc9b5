"""A chat client that keeps every frame it received, with the time; tests judge on these."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ssl import SSLContext
from typing import Any, Self, cast
from urllib.parse import urlencode

import aiohttp
import pytest

from broker.redis.connection import RedisConnection
from broker.redis.subscriber import Subscriber
from gateway.app import Gateway
from tests.support.pushes import listen_in
from tests.support.servers import token as make_token

Frame = dict[str, Any]

PATIENCE_SECONDS = 60.0
"""Until what should happen counts as not happening: long enough for a machine that stands still."""

FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")


class Client:
    """One WebSocket. ``frames`` is what arrived, ``times`` when (wall clock)."""

    def __init__(
        self,
        base: str,
        user: str = "alice",
        *,
        path: str = "/ws",
        token: str | None = None,
        headers: dict[str, str] | None = None,
        protocols: Iterable[str] = (),
        query: Mapping[str, str] | None = None,
        ssl: SSLContext | None = None,
        **parameters: str,
    ) -> None:
        self.user = user
        self._ssl = ssl
        query = {**(query or {}), **parameters}
        self.url = f"{base}{path}" + (f"?{urlencode(query)}" if query else "")
        self._headers = headers
        if headers is None:
            self._headers = {"Authorization": f"Bearer {token or make_token(user)}"}
        self._protocols = tuple(protocols)
        self.frames: list[Frame] = []
        self.times: list[float] = []
        self.close_code: int | None = None
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        try:
            self.ws = await self._session.ws_connect(
                self.url,
                headers=self._headers,
                protocols=self._protocols,
                max_msg_size=0,
                ssl=self._ssl or True,
            )
        except BaseException:
            await self._session.close()
            raise
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.ws.close()
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self._session.close()

    async def _read(self) -> None:
        async for message in self.ws:
            self.times.append(time.time())
            self.frames.append(self.read(message.data))
            async with self._arrived:
                self._arrived.notify_all()
        self.close_code = self.ws.close_code
        async with self._arrived:
            self._arrived.notify_all()

    def read(self, text: str) -> Frame:
        """A message's text as a frame; ``ValueError`` when it is none."""
        frame: Frame = json.loads(text)
        return frame

    async def until(
        self,
        condition: Callable[[list[Frame]], Any],
        *,
        seconds: float = PATIENCE_SECONDS,
        what: str = "",
    ) -> Any:
        """Wait until the condition holds of the frames; its value."""
        value: Any = None

        def holds() -> bool:
            nonlocal value
            value = condition(self.frames)
            return bool(value)

        try:
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(holds)
        except TimeoutError:
            types = [frame["type"] for frame in self.frames]
            raise AssertionError(f"{what or 'expected frames'} did not come; got {types}") from None
        return value

    async def first(self, kind: str, **payload: Any) -> Frame:
        """The first frame of a type with these payload fields."""

        def found(frames: list[Frame]) -> Frame | None:
            for frame in frames:
                if frame["type"] == kind:
                    fields = payload_of(frame)
                    if all(fields.get(name) == value for name, value in payload.items()):
                        return frame
            return None

        frame: Frame = await self.until(found, what=f"{kind} {payload or ''}")
        return frame

    async def nth(self, kind: str, number: int) -> Frame:
        """The frame of a type that came after ``number`` others of it."""

        def found(frames: list[Frame]) -> list[Frame]:
            return [frame for frame in frames if frame["type"] == kind][number:]

        frames: list[Frame] = await self.until(found, what=f"{kind} number {number}")
        return frames[0]

    async def reply(self, ref: str) -> Frame:
        """The one answer to the frame that was sent with this id."""

        def found(frames: list[Frame]) -> list[Frame]:
            return [frame for frame in frames if frame.get("ref") == ref]

        replies: list[Frame] = await self.until(found, what=f"a reply to {ref}")
        assert len(replies) == 1, replies
        return replies[0]

    async def closed(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """The close code, once closed."""
        await self.until(lambda _: self.close_code is not None, seconds=seconds, what="a close")
        assert self.close_code is not None
        return self.close_code

    async def send(
        self, kind: str, payload: Frame | None = None, *, ref: str | None = None
    ) -> None:
        frame: Frame = {"type": kind, "payload": payload or {}}
        if ref is not None:
            frame["id"] = ref
        await self.ws.send_json(frame)

    async def ask(self, content: Any, *, ref: str = "m1", **payload: Any) -> str:
        """Send a message; the id of the run that it began."""
        await self.send("user_message", {"content": content, **payload}, ref=ref)
        accepted = await self.reply(ref)
        assert accepted["type"] == "run_accepted", accepted
        run_id: str = payload_of(accepted)["run_id"]
        return run_id

    async def completed(self, run_id: str, *, seconds: float = PATIENCE_SECONDS) -> Frame:
        """The run's terminal event."""

        def found(frames: list[Frame]) -> Frame | None:
            return next((event for event in frames if is_terminal(event, run_id)), None)

        frame: Frame = await self.until(found, seconds=seconds, what=f"the end of run {run_id}")
        return frame

    def events(self, run_id: str | None = None) -> list[Frame]:
        """The lifecycle events received, of one run or all."""
        return [
            frame
            for frame in self.frames
            if frame["type"] in FIVE and run_id in (None, frame["run_id"])
        ]

    def logged(self) -> list[Frame]:
        """Everything received that has a cursor."""
        return [frame for frame in self.frames if "id" in frame]


async def eventually(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Look until the condition holds, in turns of the event loop; ``TimeoutError`` otherwise."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - not everything has an event to wait for
            await asyncio.sleep(0.02)


async def ready_is(base: str, wanted: int, *, seconds: float = PATIENCE_SECONDS) -> float:
    """Look until ``/readyz`` answers so; when it did (monotonic)."""
    deadline = time.monotonic() + seconds
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{base}/readyz") as response:
                if response.status == wanted:
                    return time.monotonic()
            assert time.monotonic() < deadline, f"/readyz is not {wanted} within {seconds:g} s"
            await asyncio.sleep(0.02)


def payload_of(frame: Frame) -> dict[str, Any]:
    """The payload, in either shape."""
    payload: dict[str, Any] = frame["payload"] if "payload" in frame else frame["data"]
    return payload


def streamed(frames: Iterable[Frame]) -> dict[str, str]:
    """Run → its text, put together as protocol section 2 says: offset 0 begins it anew."""
    texts: dict[str, bytes] = {}
    for frame in frames:
        if frame["type"] == "agent_delta":
            run_id, delta = frame["run_id"], payload_of(frame)
            before = b"" if delta["offset"] == 0 else texts.get(run_id, b"")
            if len(before) == delta["offset"]:  # else it continues nothing that was received
                texts[run_id] = before + delta["text"].encode()
    return {run_id: text.decode() for run_id, text in texts.items()}


def is_terminal(frame: Frame, run_id: str) -> bool:
    return (frame["type"], frame.get("run_id")) == ("agent_completed", run_id)


def cursor_key(frame: Frame) -> tuple[int, int]:
    """Cursors in numerical order."""
    ms, _, seq = frame["id"].partition("-")
    return int(ms), int(seq)


def live_connection(gateway: Gateway) -> RedisConnection:
    """The connection on which a gateway hears a standalone Redis."""
    connection = cast("Subscriber", gateway.node.relay.subscriber)._connection
    assert connection is not None
    return connection


def lose_live(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, lost: Callable[[bytes], bool]
) -> None:
    """Lose those live messages on their way to the gateway of which ``lost`` says so."""

    def hear(message: bytes, deliver: Callable[[], object]) -> None:
        if not lost(message):
            deliver()

    listen_in(live_connection(gateway), monkeypatch, hear)
