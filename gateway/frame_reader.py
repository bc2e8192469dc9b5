"""A client's WebSocket frames, read as they arrive (RFC 6455, server side, no extensions).

Pure: bytes in, messages out. Nothing is held while no frame is half read.
"""

from __future__ import annotations

from typing import Final

from gateway.close_codes import PROTOCOL_ERROR, TOO_LARGE, CloseCode, Reconnect

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
"""The kinds of what :class:`FrameReader` returns: the opcodes of section 5.2."""

Frame = tuple[int, bytes]
"""Kind and unmasked payload of a whole message or of a control frame."""

MAX_FRAGMENTS: Final = 4096
"""Of one message: empty ones would never reach the limit on its size."""

NOT_UTF8: Final = 1007

_FINAL: Final = 0x80
_OPCODE: Final = 0x0F
_RESERVED: Final = 0x70
_OPCODES: Final = frozenset({0, TEXT, BINARY, CLOSE, PING, PONG})
_CONTROL: Final = frozenset({_FINAL | CLOSE, _FINAL | PING, _FINAL | PONG})
_OUTSIDE: Final = _CONTROL | {TEXT, BINARY, _FINAL | TEXT, _FINAL | BINARY}
_WITHIN: Final = _CONTROL | {0, _FINAL}
"""First bytes that are lawful outside of a fragmented message, and within one; 0 continues it."""

_MASKED: Final = 0x80
_HEADER_BYTES: Final = 6
"""The two that every frame has, and the mask. A length that needs more bytes stands between."""

_LONGEST_SHORT: Final = 125
_LENGTHS: Final = {126: (2, range(126, 1 << 16)), 127: (8, range(1 << 16, 1 << 63))}
"""Second byte → bytes of the length that follows, and which lengths it may tell: section 5.2 wants
the shortest form, and the top bit clear."""

_SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""Section 7.4 and IANA's registry: what a close frame may carry."""

_FEW: Final = 1024
"""Bytes up to which one XOR of long integers unmasks faster than four translations do."""

_BLOCK: Final = 1 << 16
"""Bytes unmasked at a time: what is larger comes from fresh pages, which takes twice as long."""

_number: Final = int.from_bytes


class FrameReader:
    """Reads one connection's frames, however the network has cut them.

    ``violation`` is why to close the connection, once the client has broken a rule: 1002, 1007 or
    1009. What was complete before that is still returned; what follows is not read.

    The work is linear in the bytes received, at worst some 0.1 µs for each (frames of one byte): a
    frame that is half there is not looked at again before the rest of it is. Memory: the half read
    frame and the fragments before it, together at most ``max_message_bytes`` but for headers, and
    what arrived in the same piece.
    """

    __slots__ = ("_half", "_max_message_bytes", "_message", "_wanted", "violation")

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._half: bytearray | None = None
        self._wanted = 0
        self._message: _Message | None = None
        self.violation: CloseCode | None = None

    @property
    def idle(self) -> bool:
        """Nothing is half read: a new reader would go on just as well."""
        return self._half is None and self._message is None and self.violation is None

    def feed(self, data: bytes) -> list[Frame]:
        """What these bytes complete, in order; control frames also from between fragments.

        Text is valid UTF-8, and the payload of a close frame is fit for :func:`close_of`. What
        comes after a close frame is read like everything else, and for the caller to ignore.
        """
        frames: list[Frame] = []
        if self.violation is not None:
            return frames
        pending: bytes | bytearray = data
        if self._half is not None:
            self._half += data
            if len(self._half) < self._wanted:
                return frames
            pending, self._half = self._half, None
        try:
            rest = self._read(pending, frames)
        except _Refused as refused:
            self.violation = refused.why
            self._message = None
            return frames
        if rest < len(pending):
            self._half = bytearray(pending[rest:])
        return frames

    def _read(self, data: bytes | bytearray, frames: list[Frame]) -> int:
        """Take the whole frames. Returns where the half one begins, and notes what it waits for."""
        at, end = 0, len(data)
        while end - at > 1:
            first, length = data[at], data[at + 1] - _MASKED
            message = self._message
            if length < 0 or first not in (_OUTSIDE if message is None else _WITHIN):
                raise _Refused(PROTOCOL_ERROR, _unlawful(first, length))
            start = at + _HEADER_BYTES
            if length > _LONGEST_SHORT:
                if first in _CONTROL:
                    raise _Refused(PROTOCOL_ERROR, "control frame over 125 bytes")
                size, lawful = _LENGTHS[length]
                start += size
                if start > end:
                    self._wanted = start - at
                    return at
                length = _number(data[at + 2 : at + 2 + size])
                if length not in lawful:
                    raise _Refused(PROTOCOL_ERROR, "length not in its shortest form")
            room = self._max_message_bytes - (0 if message is None else len(message.joined))
            if length > room and first not in _CONTROL:
                raise _Refused(TOO_LARGE.code, TOO_LARGE.name)
            stop = start + length
            if stop > end:
                self._wanted = stop - at
                return at
            payload = _unmasked(data, start, stop) if length else b""
            if first > _FINAL:
                frames.append(_checked(first & _OPCODE, payload))
            else:
                self._join(first, payload, frames)
            at = stop
        self._wanted = 2
        return at

    def _join(self, first: int, payload: bytes, frames: list[Frame]) -> None:
        """Add a fragment to its message, which is whole with the final one."""
        message = self._message
        if message is None:
            message = self._message = _Message(first)
        message.joined += payload
        message.fragments += 1
        if message.fragments > MAX_FRAGMENTS:
            raise _Refused(TOO_LARGE.code, "message in too many fragments")
        if first == _FINAL:
            self._message = None
            frames.append(_checked(message.kind, bytes(message.joined)))


class _Message:
    """A message of which some fragments are here."""

    __slots__ = ("fragments", "joined", "kind")

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.joined = bytearray()
        self.fragments = 0


class _Refused(Exception):
    """The client broke a rule."""

    def __init__(self, code: int, reason: str) -> None:
        self.why = CloseCode(code, reason, Reconnect.NO)
        super().__init__(reason)


def close_of(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame that came through a reader; 0 and no reason: it had none."""
    return _number(payload[:2]), payload[2:].decode()


def _unlawful(first: int, length: int) -> str:
    if length < 0:
        return "frame not masked"
    if first & _RESERVED:
        return "reserved bits set"
    opcode = first & _OPCODE
    if opcode not in _OPCODES:
        return "unknown opcode"
    if opcode >= CLOSE:
        return "control frame in fragments"
    return "message within a message" if opcode else "continuation of nothing"


def _checked(kind: int, payload: bytes) -> Frame:
    """The whole message or control frame, if its payload is lawful."""
    if kind == TEXT:
        if not _is_utf8(payload):
            raise _Refused(NOT_UTF8, "text is not UTF-8")
    elif kind == CLOSE and payload:
        if _number(payload[:2]) not in _SENDABLE:  # one byte alone is none of them either
            raise _Refused(PROTOCOL_ERROR, "illegal close code")
        if not _is_utf8(payload[2:]):
            raise _Refused(NOT_UTF8, "close reason is not UTF-8")
    return kind, payload


def _is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


_IDENTITY: Final = bytes(range(256))
_TRANSLATIONS: Final = tuple(
    (_number(_IDENTITY) ^ _number(bytes((octet,)) * 256)).to_bytes(256) for octet in range(256)
)
"""Octet of a mask → the table for :meth:`bytes.translate` that applies it."""


def _unmasked(data: bytes | bytearray, start: int, stop: int) -> bytes:
    """The payload between the two; its mask is the four bytes before it (section 5.3)."""
    mask, size = data[start - 4 : start], stop - start
    if size <= _FEW:
        wide = _number((mask * (size // 4 + 1))[:size])
        return (_number(data[start:stop]) ^ wide).to_bytes(size)
    tables = [_TRANSLATIONS[octet] for octet in mask]
    blocks = []
    for begin in range(start, stop, _BLOCK):
        block = bytearray(data[begin : min(begin + _BLOCK, stop)])
        for at, table in enumerate(tables):
            block[at::4] = block[at::4].translate(table)
        blocks.append(block)
    return b"".join(blocks)
