"""What a connection owes its user: every event once, in order, and nobody else's.

Each event of the bench carries a mark: whose it is, its number among that user's events (1, 2, 3…),
and when it was sent. An account is kept per connection and closed at the end of every measure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, NamedTuple, Self

_OPENING: Final = b'"bench:'
"""A mark stands at the beginning of a string of the payload."""

_LONGEST: Final = 64
"""Bytes of a mark after its opening: three numbers of at most 64 bits, with colons."""


class Mark(NamedTuple):
    """``user``: the number of the bench's user. ``sent_ns``: by the machine's monotonic clock."""

    user: int
    number: int
    sent_ns: int

    def __str__(self) -> str:
        return f"bench:{self.user}:{self.number}:{self.sent_ns}:"


def read_mark(event: bytes) -> Mark | None:
    """The mark of an event as it came over the wire; None when it has none."""
    at = event.find(_OPENING)
    if at < 0:
        return None
    begin = at + len(_OPENING)
    try:
        user, number, sent_ns, _ = event[begin : begin + _LONGEST].split(b":", 3)
        return Mark(int(user), int(number), int(sent_ns))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Broken promises, counted; ``resyncs`` are losses that the gateway has told.

    ``closed``: connections that ended without the bench's doing.
    """

    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    misdelivered: int = 0
    resyncs: int = 0
    closed: int = 0

    def __add__(self, other: Self) -> Faults:
        mine, theirs = asdict(self), asdict(other)
        return Faults(**{name: mine[name] + theirs[name] for name in mine})

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def __str__(self) -> str:
        words = {
            "lost": "lost", "doubled": "doubled", "disordered": "out of order",
            "misdelivered": "misdelivered", "resyncs": "told as lost (resync)",
            "closed": "connections closed by the gateway",
        }  # fmt: skip
        counts = asdict(self)
        return ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts[name])


class Account:
    """One connection's events, by their numbers. It outlives the socket: a resume goes on with it.

    An event that comes after its place counts as out of order, whether a fault has been made of its
    absence meanwhile or not.
    """

    __slots__ = (
        "_disordered", "_doubled", "_misdelivered", "_missing", "_next", "_resyncs", "_written_off",
    )  # fmt: skip

    def __init__(self) -> None:
        self._next = 1
        self._missing: set[int] = set()
        self._written_off: set[int] = set()
        self._disordered = self._doubled = self._misdelivered = self._resyncs = 0

    def heard(self, number: int) -> None:
        """Its user's event ``number`` came."""
        if number == self._next:
            self._next += 1
        elif number > self._next:
            self._missing.update(range(self._next, number))
            self._next = number + 1
        elif number in self._missing or number in self._written_off:
            self._missing.discard(number)
            self._written_off.discard(number)
            self._disordered += 1
        else:
            self._doubled += 1

    def misdelivered(self) -> None:
        """Something came that is not this user's."""
        self._misdelivered += 1

    def resynced(self) -> None:
        """The gateway said that it could not give everything."""
        self._resyncs += 1

    def owed(self, published: int) -> int:
        """How many of the user's ``published`` events have not come (yet)."""
        return len(self._missing) + max(0, published + 1 - self._next)

    def close(self, published: int) -> Faults:
        """The faults since the last time. What is owed now is lost, and is not asked for again."""
        faults = Faults(
            lost=self.owed(published),
            doubled=self._doubled,
            disordered=self._disordered,
            misdelivered=self._misdelivered,
            resyncs=self._resyncs,
        )
        self._written_off |= self._missing | set(range(self._next, published + 1))
        self._missing = set()
        self._next = max(self._next, published + 1)
        self._disordered = self._doubled = self._misdelivered = self._resyncs = 0
        return faults
