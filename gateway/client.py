"""The asyncio chat client: sends messages, and gets every event of its channel once, in order.

It reconnects by itself, backs off with full jitter, resumes from its cursor, and sends again, under
the same id, what was not answered. What it cannot make whole it tells: a ``resync`` frame among the
events, or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from gateway.client_errors import (
    BadFrame,
    ChatError,
    Closed,
    ConnectionRefused,
    Rejected,
    raise_refusal,
)
from gateway.client_transport import Socket, Transport, TransportName
from gateway.position import Position
from gateway.reconnect import LOST, RETRYABLE_STATUS, Reconnects, closed
from gateway.requests import (
    CONTROL,
    Accepted,
    Frame,
    Requests,
    decode_frame,
    frame_text,
    new_id,
    payload_of,
)
from gateway.run_texts import RunTexts
from gateway.token_source import Token, TokenSource

__all__ = [
    "Accepted", "BadFrame", "ChatClient", "ChatError", "Closed", "ConnectionRefused", "Rejected",
]  # fmt: skip

CONNECT_SECONDS: Final = 10.0
"""For the TCP connection, the handshake and the first frame together."""
INBOX_FRAMES: Final = 10_000
"""Received and not yet read by the caller; beyond it nothing is read from the socket, and the
gateway keeps the rest in the log."""


class ChatClient:
    """One user's view of one channel; ``async with`` connects and closes.

    :param url: the gateway, as ``ws://host:port/ws``.
    :param token: a token, or what gives a fresh one (also awaitable): then it is asked on every
        connection and before the token expires, and the client can stay for ever. What it raises
        while the client comes back is logged, and it is asked again.
    :param after: resume from this cursor; ``"0-0"`` for everything retained.
    :param connection: with ``secret``: the isolated connection to take up.
    :param transport: ``websocket``, ``sse``, or ``auto``: a WebSocket, and an event stream where
        somebody on the way does not let WebSockets through.
    :param random_source: gives numbers in [0, 1) for the jitter.

    Entering raises :class:`ConnectionRefused` or :class:`Closed`; afterwards the client comes back
    by itself for as long as the protocol allows it.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token,
        mode: str = "main",
        isolation_level: str | None = None,
        thread_id: str | None = None,
        user_id: str | None = None,
        after: str | None = None,
        run_id: str | None = None,
        events: str | None = None,
        connection: str | None = None,
        secret: str | None = None,
        transport: TransportName = "auto",
        random_source: Callable[[], float] = random.random,
    ) -> None:
        self._url = URL(url)
        self._tokens = TokenSource(token)
        self._transport = Transport(transport)
        parameters = {
            "mode": mode,
            "isolation_level": isolation_level,
            "thread_id": thread_id,
            "user_id": user_id,
            "events": events,
            "connection": connection,
            "secret": secret,
        }
        self._parameters = {name: value for name, value in parameters.items() if value is not None}
        self._reconnects = Reconnects(random_source, new_tokens=self._tokens.renewable)
        self._position = Position(strict=isolation_level == "strict", after=after, run_id=run_id)
        self._requests = Requests()
        self._texts = RunTexts()
        self._inbox: asyncio.Queue[Frame | None] = asyncio.Queue(INBOX_FRAMES)
        self._session: aiohttp.ClientSession | None = None
        self._socket: Socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[None] | None = None
        self._failure: ChatError | None = Closed(1000, "not open; use it inside `async with`")
        self._over = True
        self.hello: dict[str, Any] = {}
        """The payload of the present connection's ``connection_established``."""

    @property
    def cursor(self) -> str | None:
        """The last event's id, for ``after``; ``None`` in strict mode: there each run has one."""
        return self._position.cursor

    def text(self, run_id: str) -> str:
        """A run's text, as far as :meth:`events` or :meth:`frames` have been read."""
        return self._texts.of(run_id)

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._socket is not None and not self._socket.closed

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(raise_for_status=raise_refusal)
        try:
            socket = await self._connect(self._session, await self._tokens.give())
        except BaseException:
            await self._session.close()
            raise
        self._failure, self._over = None, False
        self._keeper = asyncio.create_task(self._keep(self._session, socket), name="chat client")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Runs go on: leaving is not stopping. May be repeated."""
        for task in (self._keeper, self._refresher):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._socket is not None:  # of a keeper that had no time to begin
            self._end()
            await self._socket.close()
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        content: str | dict[str, Any],
        thread_id: str | None = None,
        agent: str | None = None,
        metadata: dict[str, Any] | None = None,
        message_id: str | None = None,
    ) -> Accepted:
        """Send a message and return when its run is accepted, however often the connection breaks.

        With the ``message_id`` of an earlier sending it is the same run again.

        :raises Rejected: the gateway refused the message.
        """
        optional = {"thread_id": thread_id, "agent": agent, "metadata": metadata}
        payload = {name: value for name, value in optional.items() if value is not None}
        told = await self._ask("user_message", {"content": content, **payload}, message_id)
        return Accepted(told["run_id"], told["thread_id"], told["agent"], told["duplicate"])

    async def stop(self, run_id: str) -> None:
        """Ask for the run's end; ``agent_completed`` with status ``cancelled`` follows.

        :raises Rejected: ``run_not_found``.
        """
        await self._ask("stop_agent", {"run_id": run_id})

    async def answer(self, run_id: str, request_id: str, content: object) -> None:
        """Answer an ``input_required``. :raises Rejected: the run does not ask this (any more)."""
        asked = {"run_id": run_id, "request_id": request_id, "content": content}
        await self._ask("user_input", asked)

    async def attach(self, run_id: str, after: str | None = None) -> str | None:
        """Read a run's channel too (factory strict); the answer is the channel's cursor."""
        payload = {"run_id": run_id} if after is None else {"run_id": run_id, "after": after}
        self._position.attach(run_id, after)
        try:
            told = await self._ask("attach", payload)
        except Rejected:
            self._position.detach(run_id)
            raise
        cursor: str | None = told.get("cursor")
        if after is None and cursor is not None:
            self._position.attached(run_id, cursor)
        return cursor

    async def detach(self, run_id: str) -> None:
        """Read a run's channel no more (factory strict)."""
        self._position.detach(run_id)
        await self._ask("detach", {"run_id": run_id})

    async def ping(self, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        """The gateway's ``pong``: the same payload and ``server_time``."""
        return await self._ask("ping", payload or {})

    async def events(self) -> AsyncGenerator[Frame, None]:
        """Every event once, in the log's order, until :meth:`close`.

        Among them what must not be missed: ``resync`` frames (events may be missing; none comes
        twice) and ``error`` frames that answer no call. Nothing is lost between :meth:`__aenter__`
        and this call. One reader at a time, of this or of :meth:`frames`.

        :raises Closed, ConnectionRefused: the gateway does not let the client come back.
        """
        async for frame in self.frames():
            kind = frame.get("type")
            if kind not in CONTROL or kind == "resync" or (kind == "error" and "ref" not in frame):
                yield frame

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Every frame as it came, control frames included; else as :meth:`events`."""
        while True:
            if self._over and self._inbox.empty():
                if self._failure is not None:
                    raise self._failure
                return
            frame = await self._inbox.get()
            if frame is not None:
                self._texts.take(frame)
                yield frame

    async def _connect(self, session: aiohttp.ClientSession, token: str) -> Socket:
        """A connection whose first frame has been taken, and on which is sent what is open."""
        query = {**self._parameters, **self._position.parameters()}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await self._transport.open(session, self._url, query, token)
                try:
                    await self._begin(socket)
                except BaseException:
                    await socket.close()
                    raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            raise ConnectionRefused(None, {"detail": f"{self._url.origin()}: {why}"}) from error
        self._socket = socket
        return socket

    async def _begin(self, socket: Socket) -> None:
        first = await socket.receive()
        if first.type is not aiohttp.WSMsgType.TEXT:
            raise closed(socket.close_code or LOST)
        attachments = self._position.attachments()
        frame = decode_frame(first.data)
        self.hello = payload_of(frame)
        self._position.take(frame)
        await self._inbox.put(frame)
        for run_id, after in attachments:
            text = frame_text("attach", {"run_id": run_id, "after": after}, new_id())
            await socket.send_str(text)
        for text in self._requests.texts():
            await socket.send_str(text)

    async def _keep(self, session: aiohttp.ClientSession, socket: Socket) -> None:
        """Reads, and comes back, until the client is closed or may not."""
        try:
            while True:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await self._receive(decode_frame(message.data))
                code = socket.close_code or LOST
                await socket.close()  # an event stream may be several
                socket = await self._come_back(session, code)
        except ChatError as error:
            self._failure = error
        except (KeyError, TypeError, ValueError) as error:
            self._failure = BadFrame(f"{type(error).__name__}: {error}")
        finally:
            self._end()
            await socket.close()

    async def _come_back(self, session: aiohttp.ClientSession, code: int) -> Socket:
        """A new connection, once the close code's delay is over."""
        while True:
            await asyncio.sleep(self._reconnects.delay_seconds(code))
            token = await self._tokens.try_give()
            if token is None:  # whoever gives them may be away as well
                code = LOST
                continue
            try:
                return await self._connect(session, token)
            except Closed as again:
                code = again.code
            except ConnectionRefused as refused:
                if refused.status is not None and refused.status not in RETRYABLE_STATUS:
                    raise
                code = LOST

    def _end(self) -> None:
        """No reader and no caller waits for what cannot come."""
        self._requests.fail(self._failure or Closed(1000, "normal"))
        self._over = True
        if self._inbox.empty():
            self._inbox.put_nowait(None)

    async def _receive(self, frame: Frame) -> None:
        kind, payload = frame.get("type"), payload_of(frame)
        if kind not in CONTROL or kind == "live":
            self._reconnects.progress()
        deliver = self._position.take(frame)
        answered = self._requests.settle(frame)
        if kind == "error" and not answered:
            frame.pop("ref", None)  # nobody awaits it: the reader of events gets it
        elif kind == "token_expiring" and self._tokens.renewable:
            self._refresher = asyncio.create_task(self._refresh(), name="token refresh")
        elif kind == "draining":
            self._reconnects.told(payload["reconnect_after_ms"])
        if deliver:
            await self._inbox.put(frame)

    async def _ask(
        self, kind: str, payload: dict[str, Any], message_id: str | None = None
    ) -> dict[str, Any]:
        """The payload of the reply; sent again on every new connection until there is one."""
        if self._keeper is None or self._keeper.done():
            raise self._failure or Closed(1000, "normal")
        most = self.hello.get("max_message_bytes")
        request = self._requests.open(
            kind, payload, new_id() if message_id is None else message_id, max_bytes=most
        )
        try:
            if self._socket is not None and not self._socket.closed:
                # Lost on the way: the next connection sends it again.
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    await self._socket.send_str(request.text)
            return await self._requests.result(request)
        finally:
            self._requests.close(request)

    async def _refresh(self) -> None:
        """Prolongs the session; if that fails, the close code 4401 brings a new connection."""
        token = await self._tokens.try_give()
        if token is not None:
            with contextlib.suppress(ChatError):
                await self._ask("auth_refresh", {"token": token})
