"""How many events are due, and which rate to try next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLOSE_ENOUGH: Final = 1.15
"""The search ends when the rate that failed is within this factor of the one that held."""

SLOWEST: Final = 10.0
"""Events per second below which no rate is looked for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """An even rate from ``begun`` on, in events per second and seconds of a monotonic clock."""

    rate: float
    begun: float

    def due(self, now: float) -> int:
        """How many events should have been sent by ``now``; the first is due at the start."""
        return int((now - self.begun) * self.rate + 1e-6) + 1 if now >= self.begun else 0

    def next_at(self, sent: int) -> float:
        """When the event after ``sent`` others is due."""
        return self.begun + sent / self.rate


class Ramp:
    """The search for the largest rate that holds: doubled until one fails, then halved between.

    ``most``: no higher rate is tried. ``target`` is the rate to try now, None when the search is
    over; ``best`` the largest that held, 0 before any.
    """

    def __init__(self, *, first: float, most: float | None) -> None:
        self.most = most
        self.best = 0.0
        self.failed: float | None = None
        self.target: float | None = first if most is None else min(first, most)

    def judge(self, *, held: bool) -> None:
        """Say how the target did; a new target is set."""
        if self.target is None:
            raise ValueError("the search is over")
        if held:
            self.best = self.target
        else:
            self.failed = self.target
        self.target = self._next()

    @property
    def capped(self) -> bool:
        """Whether the search ended at ``most``, with nothing that failed."""
        return self.failed is None and self.most is not None and self.best >= self.most

    def _next(self) -> float | None:
        if self.failed is None:
            doubled = self.best * 2
            if self.most is None or doubled <= self.most:
                return doubled
            return self.most if self.best < self.most else None
        if not self.best:
            return self.failed / 2 if self.failed / 2 >= SLOWEST else None
        if self.failed <= self.best * CLOSE_ENOUGH:
            return None
        return float((self.best * self.failed) ** 0.5)
