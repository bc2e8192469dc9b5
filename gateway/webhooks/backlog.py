"""What waits to be posted, and whose turn it is: the rules of order.

Of each thread only the oldest event is under way; the next one has its turn when that one is done.
So a thread whose events are not taken holds up itself and nobody else. Events that are tried again
have at most half of the places at a time: however many threads fail, there is room for the others.

Two gateways that post at the same time, as happens for a moment when one takes over, cannot turn
the order round: each of them posts an event only after the one before it was taken.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Place = tuple[int, bytes]
"""A partition, and the id of an entry of its outbox: numbered in the order of that partition."""
Thread = tuple[bytes, bytes]
"""Owner and thread, as in an event's header."""


@dataclass(slots=True)
class _Line:
    """The events of one thread, oldest first. ``delays``: while the first of them is refused."""

    places: deque[Place] = field(default_factory=deque)
    delays: Iterator[float] | None = None


class Backlog:
    """``most``: posts under way at a time. ``delays`` makes an event's waits, in seconds."""

    def __init__(self, *, most: int, delays: Callable[[], Iterator[float]]) -> None:
        self._most, self._delays = most, delays
        self._lines: dict[Thread, _Line] = {}
        self._known: set[Place] = set()
        self._fresh: deque[tuple[Thread, Place]] = deque()
        self._later: list[tuple[float, Place, Thread]] = []
        self._flying: dict[Place, bool] = {}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def flying(self) -> int:
        """Posts under way."""
        return len(self._flying)

    def add(self, thread: Thread, place: Place) -> None:
        """An event of a thread that follows all that are known of it. Known ones change nothing."""
        if place in self._known:
            return
        self._known.add(place)
        line = self._lines.setdefault(thread, _Line())
        line.places.append(place)
        if len(line.places) == 1 and place not in self._flying:
            self._fresh.append((thread, place))

    def take(self, now: float) -> list[tuple[Thread, Place]]:
        """Whose turn it is: to be posted now, and told of by :meth:`done` or :meth:`again`."""
        turn: list[tuple[Thread, Place]] = []
        room = max(1, self._most // 2) - sum(self._flying.values())
        while self._later and self._later[0][0] <= now and room > 0 and self.flying < self._most:
            _, place, thread = heapq.heappop(self._later)
            self._flying[place] = True
            turn.append((thread, place))
            room -= 1
        while self._fresh and self.flying < self._most:
            thread, place = self._fresh.popleft()
            self._flying[place] = False
            turn.append((thread, place))
        return turn

    def done(self, thread: Thread, place: Place) -> None:
        """It was delivered, put aside, or is not there any more: the thread's next has its turn."""
        self._flying.pop(place, None)
        line = self._line(thread, place)
        if line is None:
            return
        self._known.discard(place)
        line.places.popleft()
        line.delays = None
        if line.places:
            self._fresh.append((thread, line.places[0]))
        else:
            del self._lines[thread]

    def again(self, thread: Thread, place: Place, now: float, *, at_least: float = 0.0) -> float:
        """It was not taken; its thread waits, for at least so long. The seconds that it waits."""
        self._flying.pop(place, None)
        line = self._line(thread, place)
        if line is None:
            return 0.0
        line.delays = line.delays or self._delays()
        wait = max(next(line.delays), at_least)
        heapq.heappush(self._later, (now + wait, place, thread))
        return wait

    def clear(self) -> None:
        """Forget all that waits: another gateway posts. What is under way is told of as before."""
        self._lines.clear()
        self._known.clear()
        self._fresh.clear()
        self._later.clear()

    def _line(self, thread: Thread, place: Place) -> _Line | None:
        """The line that this event is the first of; None if it was forgotten meanwhile."""
        line = self._lines.get(thread)
        return line if line is not None and line.places and line.places[0] == place else None
