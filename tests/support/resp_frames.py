"""Redis' wire protocol, cut into whole values: what a proxy sees to lose exactly one of them."""

from collections.abc import Iterator
from typing import Any, Final

import hiredis

_LINES: Final = frozenset(b"+-:_#,(")
_BULKS: Final = frozenset(b"$=!")
_LISTS: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2}
"""Aggregate's sign → values per counted element."""

_LIVE: Final = tuple(
    b"%c3\r\n$%d\r\n%b\r\n" % (sign, len(word), word)
    for sign in b"*>"
    for word in (b"message", b"smessage")
)


class NotResp(ValueError):
    """The bytes are not RESP (TLS, an inline command): pass them on as they are."""


class Framer:
    """Bytes as they arrive → whole top-level values, as raw bytes; nothing is read twice."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._missing = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The values that these bytes complete, in order. :class:`NotResp` when they are none."""
        self._buffer += data
        while self._advance():
            if self._missing == 0:
                whole = bytes(self._buffer[: self._at])
                del self._buffer[: self._at]
                self._at, self._missing = 0, 1
                yield whole

    def rest(self) -> bytes:
        """What has come of a value that is not whole yet; the framer is empty then."""
        rest = bytes(self._buffer)
        self.__init__()  # type: ignore[misc]  # back to the start
        return rest

    def _advance(self) -> bool:
        """Step over one scalar or one aggregate's head; False when it is not all there."""
        line_end = self._buffer.find(b"\r\n", self._at)
        if self._at >= len(self._buffer):
            return False
        sign = self._buffer[self._at]
        if sign not in _LINES and sign not in _BULKS and sign not in _LISTS:
            raise NotResp
        if line_end < 0:
            return False
        after = line_end + 2
        if sign in _LINES:
            self._missing -= 1
        else:
            try:
                count = int(self._buffer[self._at + 1 : line_end])
            except ValueError:
                raise NotResp from None
            if sign in _BULKS:
                if count >= 0:
                    after += count + 2
                if after > len(self._buffer):
                    return False
                self._missing -= 1
            else:
                self._missing += max(0, count) * _LISTS[sign] - 1
        self._at = after
        return True


def parsed(frame: bytes) -> Any:
    """The value: bytes, numbers, lists of them; an error reply is an exception object."""
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


def is_live(frame: bytes) -> bool:
    """Whether it is a published message (``message`` or ``smessage``) and no reply."""
    return frame.startswith(_LIVE)
