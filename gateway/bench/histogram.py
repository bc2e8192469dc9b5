"""Durations counted in buckets at most 1.6 % wide, so that processes can send and add them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

EXACT_MICROSECONDS: Final = 128
"""Below this every microsecond has a bucket of its own."""

_STEPS: Final = EXACT_MICROSECONDS // 2
"""Buckets per doubling above it."""

PERCENTS: Final = (50.0, 90.0, 99.0, 99.9)


class Histogram:
    """Counts of durations."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add_all(self, nanoseconds: Iterable[int]) -> None:
        """Count each of them; clocks that run backwards count as zero."""
        counts = self.counts
        for each in nanoseconds:
            at = bucket(max(0, each) // 1000)
            counts[at] = counts.get(at, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add another process's counts."""
        for at, count in other.counts.items():
            self.counts[at] = self.counts.get(at, 0) + count

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float | None:
        """In ms, the upper edge of the bucket of the nearest rank.

        None when fewer were counted than it takes for one to lie beyond: the 99.9th percentile of
        500 durations would only be another word for the longest.
        """
        total = self.total
        if not total or round(total * (100 - percent), 6) < 100:  # noqa: PLR2004 - percent
            return None
        return self._at_rank(math.ceil(round(total * percent / 100, 6)))

    @property
    def longest(self) -> float | None:
        """In ms; None without any."""
        return self._at_rank(self.total) if self.counts else None

    def summary(self) -> dict[str, float | int | None]:
        """As ``--json`` tells it, in ms."""
        return {
            **{f"p{percent:g}": self.percentile(percent) for percent in PERCENTS},
            "max": self.longest,
            "count": self.total,
        }

    def _at_rank(self, rank: int) -> float:
        seen = 0
        at = 0
        for at in sorted(self.counts):
            seen += self.counts[at]
            if seen >= rank:
                break
        return upper_edge(at) / 1000


def bucket(microseconds: int) -> int:
    """Where a duration is counted."""
    if microseconds < EXACT_MICROSECONDS:
        return microseconds
    shift = microseconds.bit_length() - EXACT_MICROSECONDS.bit_length() + 1
    return EXACT_MICROSECONDS + (shift - 1) * _STEPS + (microseconds >> shift) - _STEPS


def upper_edge(at: int) -> int:
    """The longest duration, in microseconds, that is counted there."""
    if at < EXACT_MICROSECONDS:
        return at
    doublings, step = divmod(at - EXACT_MICROSECONDS, _STEPS)
    return ((step + _STEPS + 1) << (doublings + 1)) - 1
