"""Following a log without loss: what is heard live, merged with what is read (promises G2 and G3).

Two pure parts. :func:`judge` says whether a cursor can be resumed from. :class:`Follower` holds a
position in a log and turns live messages and pages read from the log into one sequence: in log
order, every entry once, and a hole is never passed over in silence. The same class follows a
channel for a gateway, and catches up for one client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.codec import Entry
from broker.cursor import ZERO, Cursor, from_redis

MAX_HEARD: Final = 256
"""Live entries kept while reading. Beyond that they are dropped: the log has them."""


TRAIL: Final = 32
"""Positions that a follower remembers at least: what a failover takes back is seldom more."""


LONGEST: Final = 2 * TRAIL
"""As many as this become :data:`TRAIL` again."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What the log shows around a cursor; ``None`` = no such entry.

    ``shared``: of the positions that led to the cursor, the last that the log has.
    ``whole``: nothing was trimmed from its front. ``now_ms``: Redis' clock, when it was read.
    """

    found: bool
    oldest: Cursor | None
    before: Cursor | None
    newest: Cursor | None
    shared: Cursor | None = None
    whole: bool = True
    now_ms: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Where to read from, and why it is not where the client asked for (``None`` = it is)."""

    position: Cursor
    reason: str | None


def judge(cursor: Cursor, glance: Glance) -> Start:
    """Protocol section 6: resume, or the reason of the ``resync`` and where replay begins."""
    if cursor == ZERO or glance.found:
        return Start(cursor, None)
    if glance.oldest is None or cursor < glance.oldest:
        return Start(ZERO, "expired")
    return Start(glance.before or ZERO, "forked")


def judge_connected(
    position: Cursor, trail: Sequence[Cursor], glance: Glance, *, ttl_ms: int
) -> Start:
    """The same for a reader that has all up to ``position``, which the log does not continue.

    ``trail``: positions that led there. After a fork they tell what both histories share; the entry
    below ``position`` need not be it, for two masters may have taken events at the same time.
    ``overrun``: what came next was trimmed before it could be read. No reason at all when the log
    has ended by its time-to-live of ``ttl_ms``: a log that nothing was added to for so long held
    nothing that this reader does not have.
    """
    start = judge(position, glance)
    if start.reason is None:  # the position is there, and what came after it is not
        return Start(start.position, "overrun" if position == ZERO else "forked")
    if start.reason == "expired":
        if not glance.whole:
            return Start(ZERO, "overrun")
        until_ms = glance.now_ms if glance.oldest is None else glance.oldest.ms
        if until_ms - position.ms >= ttl_ms:
            return Start(ZERO, None)
    elif trail:
        return Start(glance.shared or ZERO, "forked")
    return start


class Follower:
    """A position in one log, and the last ones before it (``trail``, oldest first).

    ``raw`` is the position as Redis writes it.

    Level: the live channel alone continues it. Behind: read the log. It holds ids as Redis writes
    them: that an entry is next is told by its link, which is compared as bytes; numbers are made
    only where two positions have to be compared.

    Nothing has to be linked to ``0-0``: what came before may have been trimmed.
    """

    __slots__ = ("_anywhere", "_doubted", "_heard", "_overflowed", "_trail", "level", "raw")

    def __init__(self, position: Cursor, *, level: bool = False) -> None:
        self.raw = position.raw
        self.level = level
        self._trail: list[bytes] = []
        self._anywhere = position == ZERO and not level
        self._doubted: Entry | None = None
        self._heard: deque[Entry] | None = None
        self._overflowed = False

    @property
    def position(self) -> Cursor:
        """Everything up to here was passed on."""
        return from_redis(self.raw)

    @property
    def trail(self) -> list[Cursor]:
        """The positions before it."""
        return [from_redis(raw) for raw in self._trail]

    def hear(self, entry: Entry) -> bool:
        """A live entry. True: it is next, pass it on. False: old, or kept until the log is read."""
        if self.level and entry.prev == self.raw:
            self.advance(entry.id)
            return True
        if entry.cursor <= self.position:
            return False
        self.level = False
        if self._heard is None:
            self._heard = deque()
        if len(self._heard) < MAX_HEARD:
            self._heard.append(entry)
        else:
            self._heard.clear()
            self._overflowed = True
        return False

    def advance(self, event_id: bytes) -> None:
        """The event that is linked to the position was passed on."""
        trail = self._trail
        trail.append(self.raw)
        if len(trail) >= LONGEST:
            del trail[:TRAIL]
        self.raw = event_id

    def behind(self, raw: bytes) -> Follower:
        """For one who has what was passed on here up to ``raw``, and reads the log from there.

        A log that begins later is a hole for him, also after ``0-0``.
        """
        follower = Follower(from_redis(raw), level=True)
        follower.lose_touch()
        if raw == self.raw:
            follower._trail = list(self._trail)
        elif raw in self._trail:
            follower._trail = self._trail[: self._trail.index(raw)]
        return follower

    def lacks(self, entry: Entry) -> bool:
        """Whether the entry is before the position and, for all that is known, was not passed on.

        A failover has put it there.
        """
        trail = self._trail
        is_within = bool(trail) and from_redis(trail[0]) < entry.cursor < self.position
        return is_within and entry.id not in trail

    def lose_touch(self) -> None:
        """The live channel was interrupted: what comes next must be proven by the log."""
        self.level = False

    def read(self, page: Sequence[Entry], *, end: bool) -> Page:
        """A page of the log from just after ``position``; ``end``: the log had no more just then.

        Returns what to pass on. ``hole`` is true when the page does not continue ``position``
        (trimmed or rewritten meanwhile): judge the position anew. Read on until ``level``; ask for
        a page only after the one before was taken.
        """
        passed: list[Entry] = []
        for entry in page:
            if entry.prev != self.raw:
                if entry.cursor <= self.position:
                    continue
                if not self._anywhere:
                    return Page(passed, hole=True)
            self._anywhere = False
            self.advance(entry.id)
            passed.append(entry)
        if end:
            self._join(passed)
        return Page(passed, hole=False)

    def give_back(self, entry: Entry) -> None:
        """``entry``, just passed on, could not be taken: it is read again, and what follows it."""
        self.raw = entry.prev
        self.level = False
        if self._trail:
            self._trail.pop()

    def restart(self, position: Cursor, *, linked: bool = True) -> None:
        """Go on from somewhere else, after a ``resync`` said so.

        Not ``linked``: the log itself has a hole after ``position``, which was told, so whatever
        comes next follows.
        """
        self.raw = position.raw
        self.level = False
        self._trail.clear()
        self._anywhere = position == ZERO or not linked

    def _join(self, passed: list[Entry]) -> None:
        """Continue with what was heard while reading; level if nothing is missing in between."""
        if self._overflowed:
            self._overflowed = False
            self._heard = None
            return
        while self._heard:
            entry = self._heard[0]
            if entry.prev == self.raw:
                self.advance(entry.id)
                self._anywhere = False
                passed.append(entry)
            elif entry.cursor > self.position and entry is not self._doubted:
                self._doubted = entry
                return
            # else old; or heard before this page was asked for, and not in the log: a failover took
            # it back. What follows shows whether the position is still there.
            self._heard.popleft()
        self._heard = self._doubted = None
        self._anywhere = False
        self.level = True


@dataclass(frozen=True, slots=True)
class Page:
    """What :meth:`Follower.read` passes on, in order."""

    entries: list[Entry]
    hole: bool
