"""One client's WebSocket: a small protocol object on the upgraded transport.

No task and no request object per idle connection, and what only some of them need is made when it
is needed: a reader while a frame is half there, a conversation with the first command. Frames to
the client come ready-made from the hub. Pings are answered at once; all other commands go to the
connection's conversation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from broker.bucket import take
from broker.channels import Mode, encode_id
from broker.cursor import ZERO, Cursor
from broker.events import timestamp
from gateway import close_codes, session
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.commands import new_id
from gateway.conversation import Conversation
from gateway.feed import Feed
from gateway.frame_reader import BINARY, CLOSE, PING, TEXT, FrameReader, close_of
from gateway.frames import control, legacy_control, reply, ws_close, ws_ping, ws_pong, ws_text
from gateway.handshake import Opening
from gateway.outbox import MAX_UNSENT_BYTES, RESUME_BYTES, Outbox
from gateway.resync import Beginning
from gateway.session import FrameError, Session

if TYPE_CHECKING:
    from gateway.node import Node

PROTOCOL: Final = 3
HARD_LIMIT_FACTOR: Final = 4
"""A frame over ``max_message_bytes`` is answered with an error; one this many times as large is not
even read: 1009."""

EXPIRY_NOTICE_SECONDS: Final = 60.0
"""How long before its token ends a client is told (protocol section 5)."""

CLOSE_SECONDS: Final = 2.0
"""How long the peer has to answer a close frame."""


class WebSocket(asyncio.Protocol):
    """A connected client. Implements what the hub and the relay ask of a member."""

    __slots__ = (
        "_close_handle", "_closing", "_conversation", "_frames_full_at", "_reader",
        "_reading_paused", "_room", "_session", "_transport", "_unsent_before", "connection_id",
        "due_at", "feeds", "floors", "heard", "identity", "legacy", "lifecycle_only", "node",
        "opening", "outbox", "owner", "thread", "turn", "whole",
    )  # fmt: skip

    def __init__(self, node: Node, identity: Identity, opening: Opening) -> None:
        self.node, self.identity, self.opening = node, identity, opening
        self.owner = identity.owner.token.encode()
        self.connection_id = opening.connection or new_id()
        self.turn = opening.turn
        # A thread filter is for main connections; other scopes are as narrow as their channel.
        filtered = opening.mode in (Mode.MAIN, Mode.LEGACY) and opening.thread_id is not None
        self.thread = encode_id(opening.thread_id or "").encode() if filtered else None
        self.lifecycle_only = opening.lifecycle_only
        self.legacy = opening.mode is Mode.LEGACY
        self.whole = not (filtered or self.lifecycle_only or self.legacy)
        self.outbox = Outbox()
        self.floors: dict[bytes, int] | None = None
        self.feeds: list[Feed] = []
        self.heard = True
        self._unsent_before = 0
        self.renewed()
        self._session = Session(opening.mode, max_message_bytes=node.settings.max_message_bytes)
        self._conversation: Conversation | None = None
        self._room: asyncio.Future[None] | None = None
        self._closing = False
        self._frames_full_at = 0
        self._close_handle: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._reading_paused = False
        self._reader: FrameReader | None = None

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
        if self._conversation is not None:
            self._conversation.end()
            self._conversation = None  # it knows this socket: no cycle is to be left behind

    def data_received(self, data: bytes) -> None:
        """Parse frames and act on them."""
        self.heard = True
        reader = self._reader
        if reader is None:
            reader = FrameReader(self.node.settings.max_message_bytes * HARD_LIMIT_FACTOR)
        for kind, payload in reader.feed(data):
            self._on_frame(kind, payload)
        if reader.violation is not None:
            self.close(reader.violation)
        self.flush()
        self._reader = None if reader.idle else reader

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
        busy = self._conversation is not None and self._conversation.full
        waiting = self.outbox.stalled or busy
        if self._reading_paused and not waiting and not self._transport.is_closing():
            self._reading_paused = False
            self.heard = True  # it could not be until now
            self._transport.resume_reading()

    def _tell_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- what the relay asks

    def send(self, text: bytes) -> None:
        """Queue a control frame, in the shape of the connection's mode."""
        self.outbox.put(ws_text(self._shaped(text)))

    def _shaped(self, text: bytes) -> bytes:
        return legacy_control(text, _now_ms()) if self.legacy else text

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        data = self.outbox.take()
        if data and not self._closing:
            self._transport.write(data)

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._transport.get_write_buffer_size()

    async def drained(self) -> bool:
        """Wait for room; False when the socket is gone."""
        self.flush()
        while self.outbox.full and not self._closing:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await self._room
            self.flush()
        return not self._closing

    # --- opening

    def start(self, feed: Feed | None, beginning: Beginning) -> None:
        """Say hello, then replay from there, then ``live``."""
        opening, resync = self.opening, beginning.resync
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
            hello["resumed_from"] = str(beginning.position)
        self.send(control("connection_established", hello))
        if resync is not None:
            self.send(resync.frame())
        if feed is None:
            self._live(beginning.position)
        else:
            self._join(feed, beginning, self._live)
        self.flush()

    def _live(self, cursor: Cursor) -> None:
        self.send(control("live", {"cursor": str(cursor)}))

    def _join(
        self, feed: Feed, beginning: Beginning, then: Callable[[Cursor], None] | None
    ) -> None:
        if not self._closing:
            self.feeds.append(feed)
            self.node.relay.join(feed, self, beginning, then=then)

    def _leave_all(self) -> None:
        feeds, self.feeds = self.feeds, []
        for feed in feeds:
            self.node.relay.leave(feed, self)

    # --- frames from the client

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if self._closing:
            if kind == CLOSE:
                self._transport.close()
            return
        now = time.monotonic_ns() // 1000
        self._frames_full_at, wait = take(self.node.frames, self._frames_full_at, now)
        if wait:
            self.close(close_codes.TOO_MANY)
        elif kind == TEXT:
            self._on_text(payload)
        elif kind == PING:
            self.outbox.put(ws_pong(payload))
        elif kind == CLOSE:
            self.close(close_codes.answer_to(*close_of(payload)))
            self._transport.close()
        elif kind == BINARY:
            self.refuse(FrameError("bad_frame", "frames are JSON text, not binary"))

    def _on_text(self, text: bytes) -> None:
        try:
            command = self._session.receive(text)
        except FrameError as error:
            self.refuse(error)
            return
        if isinstance(command, session.Ping):
            pong = {**command.payload, "server_time": timestamp(_now_ms())}
            try:
                self.answer("pong", command.ref, pong)
            except TypeError:  # orjson reads deeper nesting than it writes
                self.refuse(FrameError("bad_frame", "nested too deeply", ref=command.ref))
            return
        if self._conversation is None:
            self._conversation = Conversation(self)
        self._conversation.add(command)
        if self._conversation.full:
            self.pause_reading()

    # --- what the conversation asks

    def join(self, feed: Feed, beginning: Beginning) -> None:
        """Read a channel, from there on."""
        self._join(feed, beginning, None)

    def leave(self, feed: Feed) -> None:
        """Read a channel no more."""
        if feed in self.feeds:
            self.feeds.remove(feed)
        self.node.relay.leave(feed, self)

    def hold(self) -> None:
        """Keep back what comes from now on, until :meth:`let_go`."""
        self.flush()
        self.outbox.held = True

    def let_go(self) -> None:
        """Send what was kept back."""
        self.outbox.held = False
        self.flush()
        self._tell_room()

    def answer(self, kind: str, ref: str | None, payload: dict[str, Any]) -> None:
        """The one reply to a frame; one that came without an ``id`` gets none."""
        if ref is not None:
            self.send(reply(kind, ref, payload))
            self.flush()

    def answer_first(self, kind: str, ref: str | None, payload: dict[str, Any]) -> None:
        """The reply, before everything that is kept back."""
        if ref is not None:
            self.outbox.put_first(ws_text(self._shaped(reply(kind, ref, payload))))

    def refuse(self, error: FrameError) -> None:
        """Answer with an error; too many bad frames close the connection."""
        self.node.tally.refuse(error.code, self.identity.owner.tenant)
        self.send(reply("error", error.ref, error.payload))
        self.flush()
        if error.bad and self._session.misused(time.monotonic()):
            self.close(close_codes.MISUSE)

    # --- heartbeat, expiry, closing

    def renewed(self) -> None:
        """The identity is new: ``due_at`` is when something has to be done about its token."""
        self.due_at = self.identity.expires_at - EXPIRY_NOTICE_SECONDS

    def beat(self) -> None:
        """Once per heartbeat: a peer that neither sent (a pong) nor took anything since is gone."""
        before, self._unsent_before = self._unsent_before, self.unsent
        takes = 0 < self.unsent < before
        if not self.heard and not self._reading_paused and not takes:
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
