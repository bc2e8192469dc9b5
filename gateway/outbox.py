"""What is to be written to one socket next: bounded in bytes (promise G7)."""

from __future__ import annotations

from typing import Final

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""Unsent bytes per socket. Beyond that nothing is pushed to it; the log has what it misses."""

RESUME_BYTES: Final = 256 * 1024
"""A stalled socket is fed again when no more than this is left unsent."""


class Outbox:
    """Frames between the hub and one socket.

    ``stalled`` is set by the socket while more than the limit is unsent; ``held`` by whoever must
    say something first. A frame that does not fit is refused, never dropped in silence.
    """

    __slots__ = ("_first", "_more", "_size", "held", "stalled")

    def __init__(self) -> None:
        # Most of the time there is nothing, and then one frame: a list costs more than both.
        self._first = b""
        self._more: list[bytes] | None = None
        self._size = 0
        self.held = False
        self.stalled = False

    @property
    def full(self) -> bool:
        """Whether :meth:`push` would refuse."""
        return self.stalled or self._size > MAX_UNSENT_BYTES

    @property
    def size(self) -> int:
        """Bytes that wait here."""
        return self._size

    def push(self, frame: bytes) -> bool:
        """Take an event's frame. False: no room; feed this socket from the log when it has."""
        if self.stalled or self._size > MAX_UNSENT_BYTES:
            return False
        self._size += len(frame)
        if not self._first:
            self._first = frame
        elif self._more is None:
            self._more = [frame]
        else:
            self._more.append(frame)
        return True

    def put(self, frame: bytes) -> None:
        """Take a control frame.

        There is always room: a stalled socket is not read from, so no answers pile up.
        """
        self._size += len(frame)
        if not self._first:
            self._first = frame
        elif self._more is None:
            self._more = [frame]
        else:
            self._more.append(frame)

    def put_first(self, frame: bytes) -> None:
        """Put a control frame before what is held back."""
        self._size += len(frame)
        if self._first and frame:
            self._more = [self._first, *(self._more or ())]
        self._first = frame or self._first

    def take(self) -> bytes:
        """Everything to write now, as one piece; empty while held."""
        data, more = self._first, self._more
        if self.held or not data:
            return b""
        self._first = b""
        self._size = 0
        if more is None:
            return data
        self._more = None
        return b"".join((data, *more))
