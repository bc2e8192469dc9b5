"""A chat client's connection where WebSockets are blocked: an event stream, and the HTTP verbs.

It looks like the WebSocket that the client has otherwise: texts are sent, and come as messages.
What is sent goes out as a request of its own, whose answer is the reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from gateway.client_errors import ConnectionRefused
from gateway.close_codes import NORMAL, UNAUTHORIZED
from gateway.reconnect import LOST, RETRYABLE_STATUS

SILENT_SECONDS: Final = 60.0
"""Two heartbeats and a little: a stream that says nothing for longer counts as lost."""

_ROUTES: Final = re.compile(r"/(api/v1/websocket|websocket|ws(/factory|/isolated)?)$")
_PLACE: Final = ("mode", "isolation_level", "connection", "secret")

Take = Callable[[bytes], None]


class Message(NamedTuple):
    """What :mod:`aiohttp` gives of a WebSocket, as far as the client looks at it."""

    type: aiohttp.WSMsgType
    data: Any


class EventStreamSocket:
    """One stream, and in factory strict one more for each run that is attached."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, token: str) -> None:
        self._session = session
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        self._base = url.with_scheme(scheme).with_path(_ROUTES.sub("", url.path) or "/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._query: dict[str, str] = {}
        self._welcome: dict[str, Any] = {}
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._acts: set[asyncio.Task[None]] = set()
        self.closed = False
        self.close_code: int | None = None

    async def open(self, query: Mapping[str, str]) -> Self:
        """Connect. :raises ConnectionRefused: the gateway, or somebody before it, refuses."""
        self._query = dict(query)
        await self._follow("", self._query, self._take)
        return self

    async def receive(self) -> Message:
        """The next text; ``CLOSED`` at the end."""
        text = await self._texts.get()
        if text is None:
            self._texts.put_nowait(None)
            return Message(aiohttp.WSMsgType.CLOSED, None)
        return Message(aiohttp.WSMsgType.TEXT, text)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        message = await self.receive()
        if message.type is aiohttp.WSMsgType.CLOSED:
            raise StopAsyncIteration
        return message

    async def send_str(self, text: str) -> None:
        """Send a client's frame; its reply comes as a text."""
        frame = orjson.loads(text)
        act = _ACTS[frame["type"]](self, frame["payload"], frame["id"])
        task = asyncio.create_task(self._replying(act, frame["id"]))
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)

    async def close(self) -> None:
        """Listen no more."""
        self._end(NORMAL.code)
        tasks = [*self._streams.values(), *self._acts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- listening

    def _take(self, data: bytes) -> None:
        if data.startswith(b'{"type":"closing"'):
            told = orjson.loads(data)
            self._end(told.get("payload", told.get("data"))["code"])
            return
        if not self._welcome:
            frame = orjson.loads(data)
            self._welcome = frame.get("payload", frame.get("data", {}))
        self._texts.put_nowait(data.decode())

    async def _follow(self, name: str, query: Mapping[str, str], take: Take) -> None:
        silent = aiohttp.ClientTimeout(total=None, sock_read=SILENT_SECONDS)
        response = await self._session.get(
            self._base / "sse", params=query, headers=self._headers, timeout=silent
        )
        self._streams[name] = asyncio.create_task(self._read(response, take))

    async def _read(self, response: aiohttp.ClientResponse, take: Take) -> None:
        data, rest = list[bytes](), b""
        async with response:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data:"):
                            data.append(line[5:].removeprefix(b" "))
                        elif not line and data:
                            take(b"\n".join(data))
                            data.clear()
        self._end(LOST)  # unless it was said before why it ends

    def _end(self, code: int) -> None:
        if not self.closed:
            self.closed, self.close_code = True, code
            self._texts.put_nowait(None)

    # --- speaking

    async def _replying(self, act: Awaitable[tuple[str, dict[str, Any]]], ref: str) -> None:
        try:
            kind, payload = await act
        except ConnectionRefused as refused:
            if refused.status == UNAUTHORIZED.code - 4000:
                self._end(UNAUTHORIZED.code)
                return
            problem = refused.problem
            kind, payload = "error", {
                "code": problem.get("code", "internal"),
                "message": str(problem.get("detail") or refused),
                "retryable": refused.status in RETRYABLE_STATUS,
            }  # fmt: skip
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._end(LOST)  # whether it arrived nobody knows: the next connection sends it again
            return
        reply = {"type": kind, "ref": ref, "payload": payload}
        self._texts.put_nowait(orjson.dumps(reply).decode())

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        url = self._base / "api" / "v1"
        address = URL(f"{url}/{path}", encoded=True)
        async with self._session.post(address, json=body, headers=self._headers) as response:
            told: dict[str, Any] = await response.json()
            return told

    async def _message(self, payload: dict[str, Any], ref: str) -> tuple[str, dict[str, Any]]:
        welcome = {"connection": self._welcome.get("connection_id"), **self._welcome}
        known = {**welcome, **self._query}
        isolated = known.get("mode") == "isolated"
        place = {
            name: known[name]
            for name in _PLACE
            if known.get(name) and (isolated or name not in ("connection", "secret"))
        }
        thread = {"thread_id": known["thread_id"]} if known.get("thread_id") else {}
        body = {**thread, **place, **payload, "id": ref}
        return "run_accepted", await self._post("messages", body)

    async def _stop(self, payload: dict[str, Any], _ref: str) -> tuple[str, dict[str, Any]]:
        return "ok", await self._post(f"runs/{quote(payload['run_id'], safe='')}/stop", {})

    async def _answer(self, payload: dict[str, Any], _ref: str) -> tuple[str, dict[str, Any]]:
        path = f"runs/{quote(payload.pop('run_id'), safe='')}/input"
        return "ok", await self._post(path, payload)

    async def _attach(self, payload: dict[str, Any], _ref: str) -> tuple[str, dict[str, Any]]:
        """A stream of the run's own, of which only what is the run's goes on."""
        run_id, established = payload["run_id"], asyncio.get_running_loop().create_future()

        def take(data: bytes) -> None:
            frame = orjson.loads(data)
            if frame["type"] == "connection_established" and not established.done():
                established.set_result(frame["payload"]["cursor"])
            elif "id" in frame or frame["type"] in ("agent_delta", "resync"):
                self._texts.put_nowait(data.decode())

        query = {name: value for name, value in self._query.items() if name != "after"}
        await self._follow(run_id, {**query, **payload}, take)
        return "ok", {"cursor": await established}

    async def _detach(self, payload: dict[str, Any], _ref: str) -> tuple[str, dict[str, Any]]:
        stream = self._streams.pop(payload["run_id"], None)
        if stream is not None:
            stream.cancel()
        return "ok", {}

    async def _refresh(self, _payload: dict[str, Any], _ref: str) -> tuple[str, dict[str, Any]]:
        """A stream has the token that it began with: the next one comes with another."""
        asyncio.get_running_loop().call_soon(self._end, LOST)
        return "ok", {}

    async def _ping(self, payload: dict[str, Any], _ref: str) -> tuple[str, dict[str, Any]]:
        now = datetime.now(UTC)
        async with self._session.get(self._base / "livez") as response:
            with contextlib.suppress(ValueError, KeyError):
                now = parsedate_to_datetime(response.headers["Date"])
        return "pong", {**payload, "server_time": now.isoformat().replace("+00:00", "Z")}


_Act = Callable[[EventStreamSocket, dict[str, Any], str], Awaitable[tuple[str, dict[str, Any]]]]
_ACTS: Final[Mapping[str, _Act]] = {
    "user_message": EventStreamSocket._message,  # noqa: SLF001 - its own
    "stop_agent": EventStreamSocket._stop,  # noqa: SLF001 - as above
    "user_input": EventStreamSocket._answer,  # noqa: SLF001 - as above
    "attach": EventStreamSocket._attach,  # noqa: SLF001 - as above
    "detach": EventStreamSocket._detach,  # noqa: SLF001 - as above
    "auth_refresh": EventStreamSocket._refresh,  # noqa: SLF001 - as above
    "ping": EventStreamSocket._ping,  # noqa: SLF001 - as above
}
"""Type of a client's frame → what is done for it."""
