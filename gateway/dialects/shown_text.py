"""A run's streamed text as one reader has it: what a delta, or the response, adds to that. Pure."""

from __future__ import annotations

from zlib import crc32


class ShownText:
    """``size`` bytes of UTF-8 with that checksum, of the run's present attempt.

    A text is never kept: a delta from the beginning continues it if that begins with these bytes.
    """

    __slots__ = ("_checksum", "size")

    def __init__(self, size: int = 0, checksum: int = 0) -> None:
        self.size, self._checksum = size, checksum

    @classmethod
    def parse(cls, mark: str) -> ShownText:
        """The inverse of :attr:`mark`; ``ValueError`` for what is none."""
        size, _, checksum = mark.partition("-")
        if not (size.isdecimal() and size.isascii()):
            raise ValueError(f"{mark!r} is no mark of a text")
        return cls(int(size), int(checksum, 16))

    @property
    def mark(self) -> str:
        """The same as one word."""
        return f"{self.size}-{self._checksum:x}"

    def delta(self, offset: int, text: str) -> str:
        """What is new in it; nothing for what the reader has, and for what continues nothing."""
        if offset == 0:
            return self.whole(text) or ""
        return self._append(text.encode()) if offset == self.size else ""

    def whole(self, text: str) -> str | None:
        """What is new in the whole text; None: it does not begin with what the reader has."""
        said = text.encode()
        if crc32(said[: self.size]) != self._checksum:
            return None
        return self._append(said[self.size :])

    def _append(self, new: bytes) -> str:
        self._checksum = crc32(new, self._checksum)
        self.size += len(new)
        return new.decode()
