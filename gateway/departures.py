"""When each client of a draining gateway is sent away, and when it is to come back. Pure.

However many there are, no stretch of the drain window has more than its share of them: neither
goodbyes here nor arrivals elsewhere, which are spread over the window and a second more, so that
even a window of no length is no storm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

FIRST_RETURN_SECONDS: Final = 0.1
"""After its goodbye nobody comes back sooner: the load balancer may have to look first."""

LAST_RETURN_SECONDS: Final = 1.0
"""And nobody later: it is cut off for that long."""


class Departure(NamedTuple):
    """``after_seconds``: of the drain's beginning. ``back_ms``: after the goodbye."""

    after_seconds: float
    back_ms: int


def departures(
    count: int, window_seconds: float, random: Callable[[], float]
) -> Iterator[Departure]:
    """For so many clients, in order: one in each of as many equal parts of the window.

    :param random: gives numbers in [0, 1); where in its part each goes.
    """
    for number in range(count):
        place = (number + random()) / count
        back = FIRST_RETURN_SECONDS + place * (LAST_RETURN_SECONDS - FIRST_RETURN_SECONDS)
        yield Departure(place * window_seconds, round(back * 1000))
