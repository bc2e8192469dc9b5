"""What can go wrong on a network, as values: which fault, on which connections, how often."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, Flag, auto
from fnmatch import fnmatchcase
from typing import Any, Self

Named = Callable[[str], bool]
"""Whether a fault means the connection of this name (empty until it has named itself)."""

Matches = Callable[[list[Any]], bool]
"""Whether a fault means this command, reply or published message, as a list of its words."""


class Way(Flag):
    """Directions, as the proxied program sees them."""

    UP = auto()
    DOWN = auto()
    BOTH = UP | DOWN


class Kind(Enum):
    """What a fault does; see the method of the same name of the proxy."""

    DELAY = "delay"
    REFUSE = "refuse"
    BLACK_HOLE = "black_hole"
    STALL = "stall"
    SPLIT = "split"
    SUPPRESS = "suppress"
    LOSE_REPLY = "lose_reply"
    CUT_AT = "cut_at"


def anyone(_name: str) -> bool:
    """Every connection."""
    return True


def named(pattern: str) -> Named:
    """Connections whose name fits a shell pattern: ``gateway *``, ``worker-* leases``."""
    return lambda name: fnmatchcase(name, pattern)


def command(word: str, containing: bytes = b"") -> Matches:
    """Commands of this name that have these bytes in an argument."""
    wanted = word.upper().encode()

    def matches(words: list[Any]) -> bool:
        return words[0].upper() == wanted and any(containing in each for each in words)

    return matches


def acknowledgement(word: bytes) -> Matches:
    """Replies that begin with this word: ``subscribe``."""
    return lambda words: words[0] == word


def published(channel: str = "*", payload: bytes = b"") -> Matches:
    """Published messages on a channel that fits the pattern, with these bytes in them."""

    def matches(words: list[Any]) -> bool:
        return fnmatchcase(words[1].decode(), channel) and payload in words[2]

    return matches


@dataclass(eq=False, kw_only=True)
class Fault:
    """A fault that is on until :meth:`end`, or until it has happened often enough.

    ``hits``: how often it happened (chunks, connections, messages or replies, as its kind has it).
    """

    kind: Kind
    stop: Callable[["Fault"], None]
    way: Way = Way.BOTH
    to: Named = anyone
    seconds: float = 0.0
    most: int = 0
    matches: Matches = bool
    nth: int = 1
    times: int | None = None
    newest: int | None = None
    """Connections with a higher number were made later, and are spared."""
    hits: int = 0
    seen: int = 0

    def means(self, name: str, way: Way, number: int) -> bool:
        in_time = self.newest is None or number <= self.newest
        return in_time and bool(self.way & way) and self.to(name)

    def strikes(self, words: list[Any]) -> bool:
        """Whether it happens to this command, reply or message; counted when it does."""
        if self.times is not None and self.hits >= self.times:
            return False
        if not self.matches(words):
            return False
        self.seen += 1
        struck = self.seen >= self.nth
        self.hits += struck
        return struck

    def end(self) -> None:
        """All is well again from now on. Ending it twice is no mistake."""
        self.stop(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


@dataclass
class Counters:
    """What passed through a proxy, and what did not."""

    connections: int = 0
    refused: int = 0
    cut: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_swallowed: int = 0
    messages: int = 0
    """Published messages that arrived from upstream."""
    suppressed: int = 0
    replies_lost: int = 0
