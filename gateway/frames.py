"""What goes over the wire: control frames, events in both shapes, and how they are framed.

A WebSocket's server frames (RFC 6455) are not masked, and a server-sent event is a chunk of its
own: so a framed event is the same bytes for every socket of a kind.
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


def sse_message(text: bytes, cursor: bytes) -> bytes:
    """A server-sent event (HTML standard, section 9.2), as one chunk of an HTTP/1.1 body.

    Lines end with LF alone: CRLF breaks a widely used client. JSON has line ends only between its
    parts, where a space means the same.
    """
    data = text.replace(b"\n", b" ").replace(b"\r", b" ")
    event = b"id: %b\ndata: %b\n\n" % (cursor, data) if cursor else b"data: %b\n\n" % data
    return sse_chunk(event)


def sse_comment(text: bytes = b"") -> bytes:
    """What clients skip: it keeps a connection in use."""
    return sse_chunk(b":%b\n\n" % text)


def sse_retry(milliseconds: int) -> bytes:
    """How long a client waits before it comes back."""
    return sse_chunk(b"retry: %d\n\n" % milliseconds)


def sse_chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1); an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - RFC 6455 section 5.2
        return bytes((first, size)) + payload
    if size < 65536:  # noqa: PLR2004 - the same
        return _MIDDLE(first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
