"""One client's WebSocket: a small protocol object on the upgraded transport.

What only some of them need is made when it is needed: a reader while a frame is half there, a
conversation with the first command. Pings are answered at once; all other commands go to the
connection's conversation.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from multidict import MultiMapping

from broker.bucket import take
from broker.channels import Mode
from broker.events import timestamp
from gateway import close_codes, session
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.command_queue import CommandQueue
from gateway.connection import Connection, now_ms
from gateway.conversation import Conversation
from gateway.feed import Feed
from gateway.frame_reader import BINARY, CLOSE, PING, TEXT, FrameReader, close_of
from gateway.frames import reply, ws_close, ws_ping, ws_pong
from gateway.handshake import Opening
from gateway.resync import Beginning
from gateway.session import FrameError, Session
from gateway.upgrade import switching
from gateway.wires import WEBSOCKET, WEBSOCKET_LEGACY

if TYPE_CHECKING:
    from gateway.node import Node

HARD_LIMIT_FACTOR: Final = 4
"""A frame over ``max_message_bytes`` is answered with an error; one this many times as large is not
even read: 1009."""


class WebSocket(Connection):
    """A connected client that speaks and listens."""

    transport = "websocket"

    __slots__ = (
        "_conversation", "_frames_full_at", "_reader", "_reading_paused", "heard", "session",
    )  # fmt: skip

    def __init__(self, node: Node, identity: Identity, opening: Opening) -> None:
        wire = WEBSOCKET_LEGACY if opening.mode is Mode.LEGACY else WEBSOCKET
        super().__init__(node, identity, opening, wire)
        self.heard = True
        self.session = Session(opening.mode, max_message_bytes=node.settings.max_message_bytes)
        self._conversation: CommandQueue | None = None
        self._frames_full_at = 0
        self._reading_paused = False
        self._reader: FrameReader | None = None

    def accept(self, headers: MultiMapping[str], subprotocol: str | None) -> bytes:
        """The answer 101."""
        return switching(headers, subprotocol)

    # --- the transport's side

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone: leave nothing behind."""
        super().connection_lost(exc)
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
        super().pause_writing()
        self.pause_reading()

    def resume_writing(self) -> None:
        """There is room again."""
        super().resume_writing()
        self.resume_reading()

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
            command = self.session.receive(text)
        except FrameError as error:
            self.refuse(error)
            return
        if isinstance(command, session.Ping):
            pong = {**command.payload, "server_time": timestamp(now_ms())}
            try:
                self.answer("pong", command.ref, pong)
            except TypeError:  # orjson reads deeper nesting than it writes
                self.refuse(FrameError("bad_frame", "nested too deeply", ref=command.ref))
            return
        if self._conversation is None:
            self._conversation = self.new_conversation()
        self._conversation.add(command)
        if self._conversation.full:
            self.pause_reading()

    def new_conversation(self) -> CommandQueue:
        """Who carries its commands out."""
        return Conversation(self)

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
            self.outbox.put_first(self.wire.text(self._shaped(reply(kind, ref, payload))))

    def refuse(self, error: FrameError) -> None:
        """Answer with an error; too many bad frames close the connection."""
        self.node.tally.refuse(error.code, self.identity.owner.tenant)
        self.tell_error(error)
        self.flush()
        if error.bad and self.session.misused(time.monotonic()):
            self.close(close_codes.MISUSE)

    def tell_error(self, error: FrameError) -> None:
        """In its words."""
        self.send(reply("error", error.ref, error.payload))

    # --- heartbeat, closing

    def goodbye(self, why: CloseCode) -> bytes:
        """A close frame."""
        return ws_close(why.code, why.name)

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
