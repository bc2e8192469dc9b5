"""What goes over the wire: control frames, events in both shapes, and RFC 6455 framing.

Server frames are not masked, so a framed event is the same bytes for every socket.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import orjson

from broker.codec import Entry, with_id
from broker.events import LIFECYCLE, timestamp

FIVE: Final = frozenset(name.encode() for name in LIFECYCLE)
MAX_REASON_BYTES: Final = 123
"""RFC 6455 section 5.5: a control frame carries 125 bytes, two of them the close code."""

_LEGACY_FIELDS: Final = frozenset({"type", "payload", "timestamp", "thread_id", "run_id"})

_MIDDLE: Final = struct.Struct("!BBH").pack
_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A


def control(kind: str, payload: Mapping[str, Any]) -> bytes:
    """A control frame (protocol section 6): never an id, never the name of a lifecycle event."""
    return orjson.dumps({"type": kind, "payload": payload})


def reply(kind: str, ref: str | None, payload: Mapping[str, Any]) -> bytes:
    """The answer to a client's frame; ``ref`` is that frame's ``id``."""
    return orjson.dumps({"type": kind, "ref": ref, "payload": payload})


def legacy_control(text: bytes, epoch_ms: int) -> bytes:
    """A control frame in the V2 shape."""
    frame = orjson.loads(text)
    frame["data"] = frame.pop("payload")
    frame["timestamp"] = timestamp(epoch_ms)
    return orjson.dumps(frame)


def legacy_event(entry: Entry) -> bytes:
    """One of the five in the V2 shape: no id, so no resume (protocol section 4).

    ``ValueError`` when the body is no event: somebody else than the SDK wrote it.
    """
    event = orjson.loads(entry.body)
    if not (isinstance(event, dict) and event.keys() >= _LEGACY_FIELDS):
        raise ValueError("the body is not an event")
    return orjson.dumps(
        {
            "type": event["type"],
            "data": event["payload"],
            "timestamp": event["timestamp"],
            "thread_id": event["thread_id"],
            "run_id": event["run_id"],
        }
    )


class Frames:
    """One event in the shapes that its readers need; ``plain`` is as protocol section 2 says."""

    __slots__ = ("_entry", "_legacy", "plain")

    def __init__(self, entry: Entry, plain: bytes) -> None:
        self._entry, self.plain = entry, plain
        self._legacy = b""

    @property
    def legacy(self) -> bytes:
        """In the V2 shape."""
        if not self._legacy:
            self._legacy = ws_text(legacy_event(self._entry))
        return self._legacy


def ws_event(event_id: bytes, body: bytes) -> bytes:
    """The text message of an event of the log: its id joined in, framed, in one step."""
    size = len(event_id) + len(body) + 8
    if 126 <= size < 65536:  # noqa: PLR2004 - RFC 6455 section 5.2
        return b'%b{"id":"%b",%b' % (_MIDDLE(_TEXT, 126, size), event_id, body[1:])
    return ws_text(with_id(event_id, body))


def ws_text(text: bytes) -> bytes:
    """One unfragmented text message."""
    return _frame(_TEXT, text)


def ws_close(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to what a control frame can carry, at a character."""
    cut = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
    return _frame(_CLOSE, struct.pack("!H", code) + cut)


def ws_ping(payload: bytes = b"") -> bytes:
    """A ping frame, at most 125 bytes of payload."""
    return _frame(_PING, payload)


def ws_pong(payload: bytes) -> bytes:
    """The answer to a ping: the same payload."""
    return _frame(_PONG, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - RFC 6455 section 5.2
        return bytes((first, size)) + payload
    if size < 65536:  # noqa: PLR2004 - the same
        return _MIDDLE(first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
