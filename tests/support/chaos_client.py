"""A chat client as the protocol wants it: comes back with its cursor, and keeps all that it got.

Its own code on a plain WebSocket, not the product's client: a judge that shares the accused's
mistakes would not see them.
"""

import asyncio
import contextlib
import json
import random
import socket
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp

from tests.support.clients import PATIENCE_SECONDS
from tests.support.history import Epoch, Frame, Place, Reader, cursor
from tests.support.servers import token

FIRST_SECONDS: Final = 0.25
MOST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
FINAL: Final = frozenset({1000, 1009, 4400, 4401, 4403, 4409})
"""Close codes that say: do not come back (protocol section 6)."""


@dataclass
class Connection:
    """One connection: the cursor asked for, frames in order, when each came, what was sent."""

    base: str
    after: str | None
    opened: float = field(default_factory=time.monotonic)
    frames: list[Frame] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    closed: float | None = None
    close_code: int | None = None


class ChaosClient:
    """``bases``: gateways, tried in turn. ``thread``: required in factory mode."""

    def __init__(
        self,
        bases: Sequence[str],
        user: str,
        *,
        mode: str = "main",
        thread: str | None = None,
        name: str = "",
        after: str | None = None,
        heartbeat_seconds: float = 20.0,
        seed: int = 0,
    ) -> None:
        self.bases, self.user, self.mode, self.thread = list(bases), user, mode, thread
        self.name = name or f"{user}/{mode}"
        self.cursor = after
        self.connections: list[Connection] = []
        self.places: list[Place | None] = []
        """Of each connection."""
        self.accepted: dict[str, tuple[Place, str]] = {}
        """Runs that it was told of: their channel and thread."""
        self.ended: dict[str, Frame] = {}
        self.heard: set[str] = set()
        """Runs of which an agent's own event has come."""
        self.refused: int | None = None
        """The close code that ended it for good."""
        self.live = False
        self.expected = True
        """Whether it should be connected: until the test ends it."""
        self.heartbeat_seconds = heartbeat_seconds
        """Of connections made from now on: silence for 1.5 of these ends one."""
        self._rng = random.Random(f"{seed} {self.name}")
        self._secret: tuple[str, str] | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._replies: dict[str, asyncio.Future[Frame]] = {}
        self._counter = 0
        self._drain_delay: float | None = None
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        self._keeper = asyncio.create_task(self._keep(), name=f"chaos client {self.name}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        await self._http.close()

    # --- what it has

    @property
    def place(self) -> Place | None:
        """The channel that it reads; unknown in isolated mode until it was connected."""
        match self.mode:
            case "main":
                return Place("user", self.user)
            case "factory":
                assert self.thread is not None, "a factory client needs a thread"
                return Place("thread", self.user, self.thread)
        return Place("connection", self.user, self._secret[0]) if self._secret else None

    def received(self, since: float = 0.0) -> Iterator[tuple[float, Frame]]:
        """Every event with its moment of arrival (monotonic), over all connections."""
        for connection in self.connections:
            for at in range(bisect_left(connection.times, since), len(connection.times)):
                if "id" in connection.frames[at]:
                    yield connection.times[at], connection.frames[at]

    def frames(self, kind: str) -> list[Frame]:
        """Those of one type, over all connections."""
        return [
            f for connection in self.connections for f in connection.frames if f["type"] == kind
        ]

    def readers(self) -> list[Reader]:
        """For the judge: one reader per channel (an isolated client may have had several)."""
        found: dict[Place, list[Epoch]] = {}
        for connection, place in zip(self.connections, self.places, strict=True):
            if place is not None:
                epoch = Epoch(
                    connection.after, tuple(connection.frames), frozenset(connection.sent)
                )
                found.setdefault(place, []).append(epoch)
        thread = self.thread if self.mode == "main" else None
        return [
            Reader(self.name, place, epochs, thread, connected=self.live and place == self.place)
            for place, epochs in found.items()
        ]

    # --- what it does

    async def until(self, condition: Any, *, seconds: float = PATIENCE_SECONDS, what: str) -> None:
        """Wait until it holds of this client; ``AssertionError`` with ``what`` otherwise."""
        try:
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(condition)
        except TimeoutError:
            raise AssertionError(
                f"{self.name}: {what} did not happen within {seconds:g} s; "
                f"{len(self.connections)} connections, live: {self.live}, cursor: {self.cursor}"
            ) from None

    async def until_live(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        await self.until(lambda: self.live, seconds=seconds, what="being live")

    async def until_live_again(self, times: int) -> None:
        """Live, on a connection that had ``times`` others before it."""

        def back() -> bool:
            return len(self.connections) > times and self.live

        await self.until(back, what=f"coming back {times} times")

    async def ask(self, content: Any, *, agent: str, thread: str | None = None) -> str:
        """Begin a run, through refusals that pass and lost connections; its id."""
        self._counter += 1
        ref = f"{self.name} {self._counter}"
        payload = {"content": content, "agent": agent}
        if self.mode == "main":
            payload["thread_id"] = thread or self.thread or "t"
        while True:
            reply = await self.request("user_message", payload, ref=ref)
            if reply["type"] == "run_accepted":
                run_id: str = reply["payload"]["run_id"]
                return run_id
            assert reply["payload"]["retryable"], f"{self.name} was refused: {reply}"
            await asyncio.sleep(0.1)

    async def request(self, kind: str, payload: Frame, *, ref: str | None = None) -> Frame:
        """Send a frame with an id, again on each new connection, until it is answered."""
        self._counter += ref is None
        ref = ref or f"{self.name} {self._counter}"
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self.live)
            websocket, connection = self._socket, self.connections[-1]
            answer = self._replies[ref] = asyncio.get_running_loop().create_future()
            connection.sent.add(ref)
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                assert websocket is not None
                await websocket.send_json({"type": kind, "id": ref, "payload": payload})
            lost = asyncio.create_task(self._lost(connection))
            await asyncio.wait([answer, lost], return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            if answer.done():
                reply: Frame = answer.result()
                return reply

    async def until_heard(self, run_id: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """The run's agent is at work, and heard."""
        what = f"an event of run {run_id}"
        await self.until(lambda: run_id in self.heard, seconds=seconds, what=what)

    async def until_ended(self, run_id: str, *, seconds: float = 60.0) -> Frame:
        """The run's terminal event, once it is here."""
        what = f"the end of run {run_id}"
        await self.until(lambda: run_id in self.ended, seconds=seconds, what=what)
        return self.ended[run_id]

    async def drop(self) -> None:
        """Lose the connection without a word; it comes back by itself."""
        mine = None if self._socket is None else self._socket.get_extra_info("socket")
        if mine is not None:  # else it is lost already
            mine.shutdown(socket.SHUT_RDWR)

    async def leave(self) -> None:
        """Go, for good."""
        self.expected = self.live = False
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper

    # --- connections

    async def _lost(self, connection: Connection) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: connection.closed is not None)

    async def _keep(self) -> None:
        failures = attempts = 0
        while self.refused is None:
            base = self.bases[attempts % len(self.bases)]
            attempts += 1
            self._drain_delay = None
            try:
                stayed = await self._connect(base)
            except (aiohttp.ClientError, OSError, TimeoutError):
                stayed = False
            failures = 0 if stayed else failures + 1
            await asyncio.sleep(self._delay(failures))

    def _delay(self, failures: int) -> float:
        """As a draining gateway told, or full jitter."""
        if self._drain_delay is not None:
            return self._drain_delay
        return self._rng.random() * min(MOST_SECONDS, FIRST_SECONDS * 2.0**failures)

    async def _connect(self, base: str) -> bool:
        """One connection, to its end; whether it came to be live."""
        query = {"mode": self.mode}
        if self.thread is not None:
            query["thread_id"] = self.thread
        if self._secret is not None:
            query["connection"], query["secret"] = self._secret
        if self.cursor is not None:
            query["after"] = self.cursor
        connection = Connection(base, self.cursor)
        async with asyncio.timeout(CONNECT_SECONDS):
            websocket = await self._http.ws_connect(
                f"{base}/ws?{urlencode(query)}",
                headers={"Authorization": f"Bearer {token(self.user)}"},
                heartbeat=self.heartbeat_seconds,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
        self._socket = websocket
        self.connections.append(connection)
        self.places.append(None)
        was_live = False
        try:
            async for message in websocket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                self._take(connection, json.loads(message.data))
                was_live = was_live or self.live
                async with self._arrived:
                    self._arrived.notify_all()
        finally:
            self.live, self._socket = False, None
            connection.closed, connection.close_code = time.monotonic(), websocket.close_code
            if not websocket.closed:
                await websocket.close()
            if connection.close_code in FINAL:
                self.refused = connection.close_code
            async with self._arrived:
                self._arrived.notify_all()
        return was_live

    def _take(self, connection: Connection, frame: dict[str, Any]) -> None:
        connection.times.append(time.monotonic())
        connection.frames.append(frame)
        if "id" in frame:
            self._take_event(frame)
        else:
            self._take_control(frame, frame.get("payload", {}))
        reply = self._replies.get(frame.get("ref") or "")
        if reply is not None and not reply.done():
            reply.set_result(frame)

    def _take_event(self, frame: dict[str, Any]) -> None:
        self.cursor = frame["id"]
        if frame["type"] == "agent_thinking":
            self.heard.add(frame["run_id"])
        elif frame["type"] == "agent_completed":
            self.ended[frame["run_id"]] = frame

    def _take_control(self, frame: dict[str, Any], payload: dict[str, Any]) -> None:
        match frame["type"]:
            case "connection_established":
                if "secret" in payload:
                    self._secret = payload["connection_id"], payload["secret"]
                if self.cursor is None:
                    self.cursor = payload["cursor"]
                self.places[-1] = self.place
            case "live":
                if self.cursor is None or cursor(payload["cursor"]) > cursor(self.cursor):
                    self.cursor = payload["cursor"]
                self.live = True
            case "resync":
                self.cursor = payload["from"]
            case "draining":
                self._drain_delay = payload["reconnect_after_ms"] / 1000
            case "run_accepted":
                place = self.place
                assert place is not None, "a run was accepted before the connection was established"
                self.accepted[payload["run_id"]] = place, payload["thread_id"]
