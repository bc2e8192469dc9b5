"""One client's WebSocket: a small protocol object on the upgraded transport.

No task and no request object per idle connection. Frames are parsed by aiohttp's own reader; frames
to the client come ready-made from the hub. A client's commands run one after the other, in a task
that lives only while there are any; pings are answered at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import WebSocketError

from broker.channels import Channel, Level, Mode, encode_id
from broker.cursor import ZERO, Cursor
from broker.errors import BrokerUnavailable
from broker.events import timestamp
from broker.replay import Start
from gateway import close_codes, session
from gateway.auth import AuthError, Identity
from gateway.close_codes import CloseCode, Reconnect
from gateway.commands import DEADLINE_SECONDS, Message, new_id
from gateway.frames import control, legacy_control, reply, ws_close, ws_ping, ws_pong, ws_text
from gateway.handshake import Opening
from gateway.hub import Feed
from gateway.outbox import MAX_UNSENT_BYTES, RESUME_BYTES, Outbox
from gateway.relay import Resync
from gateway.session import FrameError, Session

if TYPE_CHECKING:
    from gateway.node import Node

log = structlog.get_logger(__name__)

PROTOCOL: Final = 3
MAX_QUEUED_COMMANDS: Final = 64
"""Commands waiting on one connection; beyond that the client is not read from."""

HARD_LIMIT_FACTOR: Final = 4
"""A frame over ``max_message_bytes`` is answered with an error; one this many times as large is not
even read: 1009."""

CLOSE_SECONDS: Final = 2.0
"""How long the peer has to answer a close frame."""


class WebSocket(asyncio.Protocol):
    """A connected client. Implements what the hub and the relay ask of a member."""

    __slots__ = (
        "_busy", "_close_handle", "_closing", "_commands", "_queue", "_reader", "_reading_paused",
        "_room", "_session", "_transport", "connection_id", "default_thread", "expiry_told",
        "feeds", "floors", "heard", "identity", "legacy", "lifecycle_only", "node", "nonce",
        "opening", "outbox", "owner", "thread",
    )  # fmt: skip

    def __init__(self, node: Node, identity: Identity, opening: Opening) -> None:
        self.node, self.identity, self.opening = node, identity, opening
        self.owner = identity.owner.token.encode()
        self.connection_id = opening.connection or new_id()
        self.nonce = new_id().encode()
        # A thread filter is for main connections; other scopes are as narrow as their channel.
        filtered = opening.mode in (Mode.MAIN, Mode.LEGACY) and opening.thread_id is not None
        self.thread = encode_id(opening.thread_id or "").encode() if filtered else None
        self.default_thread = opening.thread_id
        self.lifecycle_only = opening.lifecycle_only
        self.legacy = opening.mode is Mode.LEGACY
        self.outbox = Outbox()
        self.floors: dict[bytes, int] = {}
        self.feeds: dict[bytes, Feed] = {}
        self.heard = True
        self.expiry_told = False
        self._session = Session(opening.mode, max_message_bytes=node.settings.max_message_bytes)
        self._commands: deque[session.Command] = deque()
        self._busy: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._closing = False
        self._close_handle: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._reading_paused = False
        loop = asyncio.get_running_loop()
        limit = node.settings.max_message_bytes * HARD_LIMIT_FACTOR
        # The queue asks a protocol for no more than pausing and resuming, which this one has.
        self._queue = WebSocketDataQueue(cast("BaseProtocol", self), limit, loop=loop)
        self._reader = WebSocketReader(self._queue, limit, compress=False, decode_text=True)

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The upgraded socket is ours."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES, low=RESUME_BYTES)
        self.node.sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone: leave nothing behind."""
        del exc
        self._closing = True
        self.node.left(self)
        self._leave_all()
        if self._close_handle is not None:
            self._close_handle.cancel()
        self._tell_room()
        self._commands.clear()

    def data_received(self, data: bytes) -> None:
        """Parse frames and act on them."""
        self.heard = True
        self._reader.feed_data(data)
        # With a message there, reading it never waits; the queue has no public way to ask.
        while self._queue._buffer:  # noqa: SLF001 - as said
            try:
                self._queue.read().send(None)
            except StopIteration as message:
                self._on_frame(message.value.type, message.value.data, message.value.extra)
        error = self._queue.exception()
        if isinstance(error, WebSocketError):
            self.close(CloseCode(int(error.code), str(error), Reconnect.NO))

    def eof_received(self) -> bool:
        """A peer that sends no more is gone."""
        return False

    def pause_writing(self) -> None:
        """Too much is unsent: nothing more is pushed, and the client is not read from either."""
        self.outbox.stalled = True
        self.pause_reading()

    def resume_writing(self) -> None:
        """There is room again."""
        self.outbox.stalled = False
        self.resume_reading()
        self._tell_room()

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Listen to it again, unless something else still has to be done first."""
        waiting = self.outbox.stalled or len(self._commands) > MAX_QUEUED_COMMANDS
        if self._reading_paused and not waiting and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def _tell_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- what the relay asks

    def send(self, text: bytes) -> None:
        """Queue a control frame, in the shape of the connection's mode."""
        if self.legacy:
            text = legacy_control(text, _now_ms())
        self.outbox.put(ws_text(text))

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        data = self.outbox.take()
        if data and not self._closing:
            self._transport.write(data)

    async def drained(self) -> bool:
        """Wait for room; False when the socket is gone."""
        self.flush()
        while self.outbox.full and not self._closing:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await self._room
            self.flush()
        return not self._closing

    def too_slow(self) -> None:
        """It took nothing for too long."""
        self.close(close_codes.TOO_SLOW)

    def taken_over(self) -> None:
        """Another socket took this isolated connection up."""
        self.close(close_codes.TAKEN_OVER)

    # --- opening

    def start(self, feed: Feed | None, start: Start, resync: Resync | None) -> None:
        """Say hello, then replay from ``start``, then ``live``."""
        opening = self.opening
        asked = opening.after is not None or opening.bad_cursor
        hello: dict[str, Any] = {
            "connection_id": self.connection_id,
            "user_id": self.identity.owner.user,
            "mode": opening.mode,
            "scope": opening.scope,
            "cursor": str(feed.follower.position if feed is not None else ZERO),
            "recovered": asked and resync is None,
            "server_time": timestamp(_now_ms()),
            "heartbeat_seconds": self.node.settings.heartbeat_seconds,
            "max_message_bytes": self.node.settings.max_message_bytes,
            "token_expires_at": timestamp(int(self.identity.expires_at * 1000)),
            "protocol": PROTOCOL,
        }
        if opening.level is not None:
            hello["isolation_level"] = opening.level
        if opening.secret is not None:
            hello["secret"] = opening.secret
        if opening.thread_id is not None:
            hello["thread_id"] = opening.thread_id
        if asked and opening.after is not None:
            hello["resumed_from"] = str(start.position)
        self.send(control("connection_established", hello))
        if resync is not None:
            self.send(resync.frame())
        if feed is None:
            self._live(start.position)
        else:
            self._join(feed, start, live=True)
        self.flush()

    def _live(self, cursor: Cursor) -> None:
        self.send(control("live", {"cursor": str(cursor)}))

    def _join(self, feed: Feed, start: Start, *, live: bool) -> None:
        self.feeds[feed.channel.live] = feed
        self.node.relay.join(feed, self, start, then=self._live if live else None)

    def _leave_all(self) -> None:
        feeds, self.feeds = self.feeds, {}
        for feed in feeds.values():
            self.node.relay.leave(feed, self)

    # --- frames from the client

    def _on_frame(self, kind: WSMsgType, data: Any, extra: Any) -> None:
        if self._closing:
            if kind is WSMsgType.CLOSE:
                self._transport.close()
            return
        if kind is WSMsgType.TEXT:
            self._on_text(data.encode())
        elif kind is WSMsgType.PING:
            self.outbox.put(ws_pong(bytes(data)))
            self.flush()
        elif kind is WSMsgType.CLOSE:
            code = data or close_codes.NORMAL.code
            self.close(CloseCode(code, str(extra or ""), Reconnect.NO))
            self._transport.close()
        elif kind is WSMsgType.BINARY:
            self._refuse(FrameError("bad_frame", "frames are JSON text, not binary"))

    def _on_text(self, text: bytes) -> None:
        try:
            command = self._session.receive(text)
        except FrameError as error:
            self._refuse(error)
            return
        if isinstance(command, session.Ping):
            pong = {**command.payload, "server_time": timestamp(_now_ms())}
            self._answer("pong", command.ref, pong)
            return
        self._commands.append(command)
        if len(self._commands) > MAX_QUEUED_COMMANDS:
            self.pause_reading()
        if self._busy is None:
            self._busy = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._commands:
                command = self._commands.popleft()
                try:
                    await self._carry_out(command)
                except FrameError as error:
                    error.ref = command.ref
                    self._refuse(error)
                except Exception:
                    log.exception("command_failed", command=type(command).__name__)
                    self._refuse(
                        FrameError("internal", "it was logged", ref=command.ref, bad=False)
                    )
                self.resume_reading()
        finally:
            self._busy = None

    async def _carry_out(self, command: session.Command) -> None:
        match command:
            case session.SendMessage():
                await self._send_message(command)
            case session.StopAgent():
                await self.node.commands.stop(self.identity.owner, command.run_id)
                self._answer("ok", command.ref, {})
            case session.Attach():
                await self._attach(command)
            case session.Detach():
                await self._detach(command)
            case session.UserInput():
                await self.node.commands.run(self.identity.owner, command.run_id)
                raise FrameError("not_allowed", "the run does not wait for input", bad=False)
            case session.AuthRefresh():
                self._refresh(command)

    async def _send_message(self, command: session.SendMessage) -> None:
        opening, owner = self.opening, self.identity.owner
        fixed = self.thread is not None or opening.level is Level.STANDARD
        if fixed and command.thread_id not in (None, opening.thread_id):
            raise FrameError(
                "not_allowed", f"this connection is for thread {opening.thread_id}", bad=False
            )
        if not self.node.message_allowed(owner):
            raise FrameError(
                "rate_limited",
                f"at most {self.node.settings.messages_per_minute} messages a minute",
                retryable=True,
                bad=False,
            )
        if command.thread_id is None and self.default_thread is None:
            self.default_thread = new_id()
        spec = await self.node.commands.agent(command.agent)
        run_id = new_id()
        channel = self.node.channel(self.identity, opening, self.connection_id, run_id)
        message = Message(
            run_id=run_id,
            owner=owner,
            channel=channel,
            thread_id=command.thread_id or self.default_thread or "",
            agent=command.agent,
            content=command.content,
            metadata=command.metadata,
            message_id=command.ref or new_id(),
        )
        own_feed: Feed | None = None
        if opening.level is Level.STRICT:
            own_feed = await self._open(channel)
            self._join(own_feed, Start(ZERO, None), live=False)
        self.flush()
        # What the run publishes from now on waits until the client knows which run it is.
        self.outbox.held = True
        try:
            registered = await self.node.commands.register(message, spec)
        except FrameError:
            self._release(own_feed)
            raise
        else:
            accepted = {
                "run_id": registered.run_id,
                "thread_id": registered.thread_id,
                "agent": registered.agent,
                "duplicate": registered.duplicate,
            }
            if command.ref is not None:
                self._put_first(reply("run_accepted", command.ref, accepted))
            if registered.duplicate and own_feed is not None:
                self._release(own_feed)
                await self._read_run(registered.run_id, ZERO)
        finally:
            self._let_go()
        await self.node.commands.enqueue(registered, spec, owner)

    def _let_go(self) -> None:
        self.outbox.held = False
        self.flush()
        self._tell_room()

    def _put_first(self, text: bytes) -> None:
        if self.legacy:
            text = legacy_control(text, _now_ms())
        self.outbox.put_first(ws_text(text))

    def _release(self, feed: Feed | None) -> None:
        if feed is not None:
            self.feeds.pop(feed.channel.live, None)
            self.node.relay.leave(feed, self)

    async def _open(self, channel: Channel) -> Feed:
        try:
            return await self.node.relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
        except BrokerUnavailable:
            raise FrameError(
                "broker_unavailable", "try again in a moment", retryable=True, bad=False
            ) from None

    async def _read_run(self, run_id: str, after: Cursor | None) -> Feed:
        channel = await self.node.commands.channel(self.identity.owner, run_id)
        if channel.scope is not self.opening.scope:
            raise FrameError("run_not_found", f"no strict run of yours is {run_id}", bad=False)
        feed = await self._open(channel)
        start, resync = await self.node.relay.start(feed, after)
        if channel.live not in self.feeds:
            if resync is not None:
                self.send(resync.frame())
            self._join(feed, start, live=False)
        return feed

    async def _attach(self, command: session.Attach) -> None:
        if self.opening.level is not Level.STRICT:
            raise FrameError("not_allowed", "attach is for factory strict connections", bad=False)
        channel = await self.node.commands.channel(self.identity.owner, command.run_id)
        if channel.live in self.feeds:
            position = self.feeds[channel.live].follower.position
            self._answer("ok", command.ref, {"cursor": str(position)})
            return
        self.flush()
        self.outbox.held = True
        try:
            feed = await self._read_run(command.run_id, command.after)
            if command.ref is not None:
                ok = {"cursor": str(feed.follower.position)}
                self._put_first(reply("ok", command.ref, ok))
            if command.bad_cursor:
                self.send(self.node.relay.unknown_cursor(feed).frame())
        except BrokerUnavailable:
            raise FrameError(
                "broker_unavailable", "try again in a moment", retryable=True, bad=False
            ) from None
        finally:
            self._let_go()

    async def _detach(self, command: session.Detach) -> None:
        channel = await self.node.commands.channel(self.identity.owner, command.run_id)
        feed = self.feeds.get(channel.live)
        if self.opening.level is not Level.STRICT or feed is None:
            raise FrameError("run_not_found", "not attached to this run", bad=False)
        self._release(feed)
        self._answer("ok", command.ref, {"cursor": str(feed.follower.position)})

    def _refresh(self, command: session.AuthRefresh) -> None:
        try:
            identity = self.node.verifier.verify(command.token, time.time())
        except AuthError as error:
            log.info("refresh_refused", reason=error.log_reason, token_hash=error.token_hash)
            raise FrameError("not_allowed", "the token is not valid", bad=False) from None
        if identity.owner != self.identity.owner:
            self.close(close_codes.FORBIDDEN)
            return
        self.identity = identity
        self.expiry_told = False
        expires_at = timestamp(int(identity.expires_at * 1000))
        self._answer("ok", command.ref, {"expires_at": expires_at})

    def _answer(self, kind: str, ref: str | None, payload: dict[str, Any]) -> None:
        if ref is not None:
            self.send(reply(kind, ref, payload))
            self.flush()

    def _refuse(self, error: FrameError) -> None:
        payload = {"code": error.code, "message": error.message, "retryable": error.retryable}
        self.send(reply("error", error.ref, payload))
        self.flush()
        if error.bad and self._session.misused(time.monotonic()):
            self.close(close_codes.MISUSE)

    # --- heartbeat, expiry, closing

    def beat(self) -> None:
        """Once per heartbeat: a peer that sent nothing since, not even a pong, is gone."""
        if not self.heard:
            self._transport.abort()
            return
        self.heard = False
        if not self.outbox.stalled:
            self.outbox.put(ws_ping())
            self.flush()

    def close(self, why: CloseCode) -> None:
        """Close with a code; what was queued goes out before it."""
        if self._closing:
            return
        self.outbox.held = False
        self.outbox.put(ws_close(why.code, why.name))
        self.flush()
        self._closing = True
        self._leave_all()
        self._tell_room()
        loop = asyncio.get_running_loop()
        with suppress(RuntimeError):  # the transport may be closing already
            self._close_handle = loop.call_later(CLOSE_SECONDS, self._transport.abort)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
