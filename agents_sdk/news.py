"""Waking those who wait within a run: for an answer, and for the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class News:
    """Any number may wait at the same time; each has an event of its own to clear."""

    __slots__ = ("_listening",)

    def __init__(self) -> None:
        self._listening: set[asyncio.Event] = set()

    def tell(self) -> None:
        """There may be something to see."""
        for each in self._listening:
            each.set()

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that :meth:`tell` sets."""
        mine = asyncio.Event()
        self._listening.add(mine)
        try:
            yield mine
        finally:
            self._listening.discard(mine)
