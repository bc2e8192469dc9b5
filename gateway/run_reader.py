"""One of several runs that are read over the same socket: a member of the hub of its own.

What it is told goes out over its socket, in turn with the others', and is bounded with them: a
socket that takes nothing gets none of them, and each is fed from the log when there is room again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.channels import Mode, encode_id
from broker.cursor import ZERO, Cursor
from gateway.close_codes import CloseCode
from gateway.connection import Connection, now_ms
from gateway.outbox import Outbox
from gateway.resync import Resync
from gateway.run_outbox import RunOutbox
from gateway.wires import UNFRAMED

if TYPE_CHECKING:
    from gateway.run_reading import Reading


class SharedOutbox(RunOutbox):
    """A run's, that holds nothing itself: it is as full as the socket's."""

    __slots__ = ("_onto",)

    def __init__(
        self, reading: Reading, write: Callable[[bytes, bytes], bytes], onto: Outbox
    ) -> None:
        super().__init__(reading.registered.run_id, reading.dialect, write)
        self._onto = onto

    @property
    def full(self) -> bool:
        """Whether the socket's is."""
        return self._onto.full

    def put(self, frame: bytes) -> None:
        """Onto the socket's."""
        self._onto.put(frame)


class RunReader:
    """Reads one run for its socket. Implements what the hub and the relay ask of a member.

    ``on_end``: called once, when its last was said.
    """

    __slots__ = (
        "_on_end", "_reading", "_run", "_socket", "floors", "lifecycle_only", "outbox", "owner",
        "run_id", "thread", "turn", "whole", "wire",
    )  # fmt: skip

    def __init__(
        self,
        socket: Connection,
        reading: Reading,
        write: Callable[[bytes, bytes], bytes],
        on_end: Callable[[RunReader], None],
    ) -> None:
        registered = reading.registered
        self._socket, self._reading, self._on_end = socket, reading, on_end
        self.run_id = registered.run_id
        self.owner = socket.owner
        main = socket.opening.mode is Mode.MAIN  # sub-agents are of their parent's thread
        self.thread = encode_id(registered.thread_id).encode() if main else None
        self.lifecycle_only = self.whole = False
        self.wire = UNFRAMED
        self.turn = 0
        self._run = SharedOutbox(reading, write, socket.outbox)
        self.outbox: Outbox = self._run
        self.floors: dict[bytes, int] | None = None

    def follow(self) -> None:
        """Say which run it is, and go on from there."""
        reading = self._reading
        self._run.say(reading.told, reading.after.raw)
        if reading.beginning.resync is not None:
            self._run.say(reading.beginning.resync.frame())
        self._socket.node.relay.join(reading.feed, self, reading.beginning, then=self._level)
        self.flush()

    def leave(self) -> None:
        """Read it no more."""
        self._socket.node.relay.leave(self._reading.feed, self)

    def _level(self, reached: Cursor) -> None:
        """Everything retained was read: of a run that has ended, its end too, or it is lost."""
        if self._reading.registered.ended and not self._run.ended:
            self._run.say(Resync("expired", ZERO, reached, self.run_id).frame())

    # --- what the relay asks

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet, of whichever run."""
        return self._socket.unsent

    def send(self, text: bytes, cursor: bytes = b"") -> None:
        """Take a control frame. After a hole, its dialect says that it is over."""
        self._run.say(text, cursor)
        # Whoever tells it may be going through the channel's members.
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued; after the last of it, the end."""
        if self in self._reading.feed.live:
            self._run.let_go(now_ms())
        if self._run.ended:
            self._on_end(self)
        self._socket.flush()

    async def drained(self) -> bool:
        """Wait for room; False when the socket is gone."""
        return await self._socket.drained()

    def close(self, why: CloseCode) -> None:
        """What one of them is closed for, all are: they are one connection."""
        self._socket.close(why)
