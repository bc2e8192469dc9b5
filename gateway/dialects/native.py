"""Protocol 3 itself: everything as it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from broker.cursor import ZERO, from_redis
from gateway.dialects.dialect import Dialect, Frame, Run, Said


class Native(Dialect):
    """Leaves out what the reader has, and passes the rest on."""

    __slots__ = ("_after",)

    def __init__(self, run: Run, after: str | None) -> None:
        del run
        self._after = ZERO if after is None else self.position(after)

    def event(self, frame: Frame) -> Iterable[Said]:
        """The event itself, unless the reader has it."""
        if not frame.cursor or from_redis(frame.cursor) > self._after:
            yield frame.text, frame.cursor

    def control(self, frame: Frame) -> Iterable[Said]:
        """As it is."""
        yield frame.text, frame.cursor
