"""What a subscriber has sent over its connection, and Redis has not answered yet. Pure.

What is asked behind a subscription is answered right behind its acknowledgement, which names the
channel. So a reply is an answer if, and only if, the last acknowledgement has some coming, and a
refusal that was taken for another command's shows at the next acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

Acknowledged = asyncio.Future[list[Any] | None]
"""Of a subscription; with the replies to what was asked behind it, if anything was."""

Waiting = tuple[bytes, Acknowledged]
"""A channel, and who waits for its acknowledgement."""


class Batch:
    """One SUBSCRIBE, and how much was asked behind it: of one channel then."""

    __slots__ = ("answering", "asked", "replies", "waiting")

    def __init__(self, waiting: Iterable[Waiting], asked: int) -> None:
        self.waiting = deque(waiting)
        self.asked = asked
        self.answering = False
        """It is acknowledged or refused, and the next replies are to what was asked."""
        self.replies: list[Any] = []


class Outstanding:
    """Answered in the order of sending, for Redis does so."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()

    @property
    def oldest(self) -> Batch | None:
        """What is answered next."""
        return self._batches[0] if self._batches else None

    def __iter__(self) -> Iterator[Waiting]:
        """Every channel that is waited for."""
        return (each for batch in self._batches for each in batch.waiting)

    def sent(self, waiting: Iterable[Waiting], *, asked: int = 0) -> None:
        """One more, and how many replies it gets beside its acknowledgements."""
        self._batches.append(Batch(waiting, asked))

    def acknowledge(self, channel: bytes) -> bool:
        """Redis listens for that one now; False when another one would have been next."""
        batch = self.oldest
        if batch is None or batch.answering or batch.waiting[0][0] != channel:
            return False
        if batch.asked:
            batch.answering = True
            return True
        done(batch.waiting.popleft()[1])
        if not batch.waiting:
            self._batches.popleft()
        return True

    def answer(self, reply: object) -> bool:
        """A reply, or an exception in its place; False when none was asked for."""
        batch = self.oldest
        if batch is None or not batch.answering:
            return False
        batch.replies.append(reply)
        if len(batch.replies) == batch.asked:
            self._batches.popleft()
            refused = any(isinstance(each, Exception) for each in batch.replies)
            for _, acknowledged in batch.waiting:
                done(acknowledged, None if refused else batch.replies)
        return True

    def refuse(self) -> list[Waiting]:
        """The oldest is refused: whoever waits for it still. Nobody gets what else it asked."""
        batch = self._batches[0]
        if batch.asked:
            batch.answering = True
        else:
            self._batches.popleft()
        waiting, batch.waiting = list(batch.waiting), deque()
        return waiting

    def clear(self) -> list[Waiting]:
        """The connection is lost: whoever waits for anything still."""
        left = list(self)
        self._batches.clear()
        return left


def done(acknowledged: Acknowledged, replies: list[Any] | None = None) -> None:
    """It is heard. Does nothing when nobody waits any more."""
    if not acknowledged.done():
        acknowledged.set_result(replies)


def follow(acknowledged: Acknowledged, first: Acknowledged) -> None:
    """It is heard as soon as the first one is."""
    first.add_done_callback(lambda _first: done(acknowledged))
