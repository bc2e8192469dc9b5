"""One client's connection, whatever it is made of: what it reads, what waits for it, its end.

No task and no request object per idle connection. Events come ready-made from the hub; how a client
speaks, if it can, is its transport's own: :mod:`gateway.websocket`, :mod:`gateway.event_stream`.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from broker.channels import Mode, encode_id
from broker.cursor import ZERO, Cursor
from broker.events import timestamp
from gateway.claims import Identity
from gateway.close_codes import LOST, CloseCode, counted
from gateway.commands import new_id
from gateway.fastpath import NEVER, NOT_NOW, number_of, send
from gateway.feed import Feed
from gateway.frames import control, legacy_control
from gateway.handshake import Opening
from gateway.outbox import MAX_UNSENT_BYTES, RESUME_BYTES, Outbox
from gateway.resync import Beginning
from gateway.wires import WEBSOCKET, Wire

if TYPE_CHECKING:
    from gateway.node import Node

PROTOCOL: Final = 3

EXPIRY_NOTICE_SECONDS: Final = 60.0
"""How long before its token ends a client is told (protocol section 5)."""

CLOSE_SECONDS: Final = 2.0
"""How long the peer has to answer a close frame, or to take the last of what is written."""


class Connection(asyncio.Protocol, ABC):
    """A connected client. Implements what the hub and the relay ask of a member."""

    transport: ClassVar[str]
    """Its word in the metrics."""

    __slots__ = (
        "_close_handle", "_closing", "_fd", "_room", "_transport", "_unsent_before",
        "connection_id", "due_at", "feeds", "floors", "identity", "lifecycle_only", "node",
        "opening", "outbox", "owner", "thread", "turn", "whole", "wire",
    )  # fmt: skip

    def __init__(self, node: Node, identity: Identity, opening: Opening, wire: Wire) -> None:
        self.node, self.identity, self.opening, self.wire = node, identity, opening, wire
        self.owner = identity.owner.token.encode()
        self.connection_id = opening.connection or new_id()
        self.turn = opening.turn
        # A thread filter is for main connections; other scopes are as narrow as their channel.
        filtered = opening.mode in (Mode.MAIN, Mode.LEGACY) and opening.thread_id is not None
        self.thread = encode_id(opening.thread_id or "").encode() if filtered else None
        self.lifecycle_only = opening.lifecycle_only or wire.legacy
        self.whole = wire is WEBSOCKET and not (filtered or self.lifecycle_only)
        self.outbox = Outbox()
        self.floors: dict[bytes, int] | None = None
        self.feeds: list[Feed] = []
        self._unsent_before = 0
        self.renewed()
        self._room: asyncio.Future[None] | None = None
        self._closing = False
        self._fd = NOT_NOW
        self._close_handle: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    @abstractmethod
    def accept(self, headers: Any, subprotocol: str | None) -> bytes:
        """What answers the request for this connection, before everything else."""

    @abstractmethod
    def beat(self) -> None:
        """Once per heartbeat: let the peer know, and see whether it is still there."""

    @abstractmethod
    def goodbye(self, why: CloseCode) -> bytes:
        """The last that is written."""

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES, low=RESUME_BYTES)
        self.node.sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone: leave nothing behind."""
        del exc
        if not self._closing:
            self.node.closes[LOST] += 1
        self._closing = True
        self._fd = NEVER  # soon it is another socket's
        self.node.left(self)
        self._leave_all()
        if self._close_handle is not None:
            self._close_handle.cancel()
        self._tell_room()

    def pause_writing(self) -> None:
        """Too much is unsent: nothing more is pushed."""
        self.outbox.stalled = True

    def resume_writing(self) -> None:
        """There is room again."""
        self.outbox.stalled = False
        self._tell_room()

    def _tell_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- what the relay asks

    def send(self, text: bytes, cursor: bytes = b"") -> None:
        """Queue a control frame, in the shape of the connection's mode.

        ``cursor``: where a client that has it is.
        """
        self.outbox.put(self._framed(text, cursor))

    def _framed(self, text: bytes, cursor: bytes = b"") -> bytes:
        return self.wire.text(self._shaped(text), cursor)

    def _shaped(self, text: bytes) -> bytes:
        return legacy_control(text, now_ms()) if self.wire.legacy else text

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        data = self.outbox.take()
        if not data or self._closing:
            return
        if self._fd == NOT_NOW and not self._transport.get_write_buffer_size():
            self._fd = number_of(self._transport)
        if self._fd >= 0:
            sent = send(self._fd, data)
            if sent == len(data):
                return
            self._fd, data = NOT_NOW, data[sent:]
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
            await asyncio.shield(self._room)  # others may wait for the same
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
            "server_time": timestamp(now_ms()),
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
        if feed is None:  # of no channel, so no place to resume from
            self.send(control("live", {"cursor": str(beginning.position)}))
        else:
            self._join(feed, beginning, self._live)
        self.flush()

    def _live(self, cursor: Cursor) -> None:
        self.send(control("live", {"cursor": str(cursor)}), cursor.raw)

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

    # --- expiry, closing

    def renewed(self) -> None:
        """The identity is new: ``due_at`` is when something has to be done about its token."""
        self.due_at = self.identity.expires_at - EXPIRY_NOTICE_SECONDS

    def close(self, why: CloseCode) -> None:
        """Close with a code; what was queued goes out before it."""
        if self._closing:
            return
        self.node.closes[counted(why.code)] += 1
        self.outbox.held = False
        self.outbox.put(self.goodbye(why))
        self.flush()
        self._closing = True
        self._leave_all()
        self._tell_room()
        loop = asyncio.get_running_loop()
        with suppress(RuntimeError):  # the transport may be closing already
            self._close_handle = loop.call_later(CLOSE_SECONDS, self._transport.abort)


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000
