"""Where a reader of AG-UI events is: in the log, within what an entry became, and in each text.

Written as ``<cursor>[.<part>][;<run>=<begin>-<next>-<sum>[+]]…``, the run itself without a name.
Text is not in the log, so a cursor alone would not say how much of it a reader has. ``+``: the
beginning of a message is there, and nothing of its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from broker import cursor
from broker.channels import decode_id, encode_id
from broker.cursor import ZERO, Cursor

_SPAN: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-([0-9a-f]{1,8})(\+?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """A run's text as a reader has it, in UTF-8 bytes of the whole.

    ``begin``: where the message that is open, or the next one, begins; ``next``: what comes next.
    ``sum``: CRC-32 of what is before that, so that a response can be told from what was streamed.
    ``begun``: a message is open that has no text yet.
    """

    begin: int = 0
    next: int = 0
    sum: int = 0
    begun: bool = False

    @property
    def open(self) -> bool:
        """Whether a message has been begun and not ended."""
        return self.begun or self.begin < self.next

    def grown(self, text: bytes) -> Span:
        """With more text, of the same message."""
        return Span(self.begin, self.next + len(text), crc32(text, self.sum))

    def ended(self) -> Span:
        """With its message closed."""
        return Span(self.next, self.next, self.sum)

    def rest(self, whole: bytes) -> bytes | None:
        """What of the whole text is missing; None when it is another one."""
        same = len(whole) >= self.next and crc32(whole[: self.next]) == self.sum
        return whole[self.next :] if same else None


@dataclass(frozen=True, slots=True)
class Position:
    """``part``: how many of the events are there that the entry became; None = all.

    ``texts``: of each run whose text has begun; the run itself is ``""``.
    """

    cursor: Cursor = ZERO
    part: int | None = None
    texts: Mapping[str, Span] = field(default_factory=dict)

    def has(self, entry: Cursor) -> int | None:
        """How many of the events are there that this entry became; None = all."""
        if entry == self.cursor:
            return self.part
        return None if entry < self.cursor else 0

    def __str__(self) -> str:
        part = "" if self.part is None else f".{self.part}"
        spans = (
            f";{encode_id(name)}={span.begin}-{span.next}-{span.sum:x}{'+' * span.begun}"
            for name, span in self.texts.items()
        )
        return f"{self.cursor}{part}{''.join(spans)}"


def parse(text: str) -> Position:
    """The position that a client gave back; ``ValueError`` when it is none."""
    place, *spans = text.split(";")
    entry, dot, part = place.partition(".")
    if dot and re.fullmatch(r"[0-9]{1,4}", part, re.ASCII) is None:
        raise ValueError("a position's part is a number")
    return Position(
        cursor.parse(entry), int(part) if dot else None, dict(_span(span) for span in spans)
    )


def _span(text: str) -> tuple[str, Span]:
    name, equals, numbers = text.partition("=")
    found = _SPAN.fullmatch(numbers)
    if not equals or found is None or int(found[1]) > int(found[2]):
        raise ValueError("a position's text looks like run=0-133-1f")
    return decode_id(name), Span(int(found[1]), int(found[2]), int(found[3], 16), bool(found[4]))
