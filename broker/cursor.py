"""Cursors: Redis stream ids, opaque to clients, compared number by number (protocol section 2).

Compared as strings, ``…-10`` would sort before ``…-9``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_FORM: Final = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_LARGEST: Final = 2**64 - 1


class Cursor(NamedTuple):
    """Milliseconds and a counter within them; both are 64-bit unsigned in Redis."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def raw(self) -> bytes:
        """As Redis writes it."""
        return b"%d-%d" % self


ZERO: Final = Cursor(0, 0)
"""Before every event; resuming from here asks for everything retained."""

LAST: Final = Cursor(_LARGEST, _LARGEST)
"""After every event there can be."""


def parse(text: str) -> Cursor:
    """The cursor that a client sent. ``ValueError`` when it is none."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("a cursor looks like 1763861234567-0")
    cursor = Cursor(int(match[1]), int(match[2]))
    if cursor.ms > _LARGEST or cursor.seq > _LARGEST:
        raise ValueError("a cursor's numbers have 64 bits")
    return cursor


def from_redis(raw: bytes) -> Cursor:
    """An id that Redis itself wrote: trusted, so not checked again."""
    ms, _, seq = raw.partition(b"-")
    return Cursor(int(ms), int(seq))
