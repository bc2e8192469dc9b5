"""How text gets onto a socket: as a WebSocket message or as a server-sent event, in either shape.

Pure, and without state: what is written for one connection is the same bytes for every other of its
kind, so an event is written once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.codec import Entry, with_id
from gateway.frames import legacy_event, sse_message, ws_text


class Wire:
    """One kind of connection. ``legacy``: it gets events in the V2 shape."""

    __slots__ = ("_message", "legacy")

    def __init__(self, message: Callable[[bytes, bytes], bytes], *, legacy: bool = False) -> None:
        self._message, self.legacy = message, legacy

    def text(self, text: bytes, cursor: bytes = b"") -> bytes:
        """A frame as it is; ``cursor``: where a client that has it is, if it can resume."""
        return self._message(text, b"" if self.legacy else cursor)

    def event(self, entry: Entry) -> bytes:
        """An event of the log. ``ValueError`` for a body that has no V2 shape."""
        if self.legacy:
            return self._message(legacy_event(entry), b"")
        return self._message(with_id(entry.id, entry.body), entry.id)


def _unframed(text: bytes, cursor: bytes) -> bytes:
    return b"%b\n%b" % (cursor, text)


def _ws_message(text: bytes, cursor: bytes) -> bytes:
    del cursor  # it stands in the text, and only there
    return ws_text(text)


WEBSOCKET: Final = Wire(_ws_message)
WEBSOCKET_LEGACY: Final = Wire(_ws_message, legacy=True)
STREAM: Final = Wire(sse_message)
STREAM_LEGACY: Final = Wire(sse_message, legacy=True)
UNFRAMED: Final = Wire(_unframed)
"""For an outbox that looks at what it is given: a line with the cursor, or none, and the text."""


class Frames:
    """One event on every wire that its readers have; ``plain`` is that of :data:`WEBSOCKET`."""

    __slots__ = ("_entry", "_others", "plain")

    def __init__(self, entry: Entry, plain: bytes) -> None:
        self._entry, self.plain = entry, plain
        self._others: dict[Wire, bytes] | None = None

    def on(self, wire: Wire) -> bytes:
        """Its bytes there. ``ValueError`` as in :meth:`Wire.event`."""
        if wire is WEBSOCKET:
            return self.plain
        if self._others is None:
            self._others = {}
        frame = self._others.get(wire)
        if frame is None:
            frame = self._others[wire] = wire.event(self._entry)
        return frame
