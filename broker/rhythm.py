"""Periodic work of one process is done in the same moments.

To wake up costs a process more than most of what it wakes up for: its code and data have left the
caches by then. So whatever goes by the clock waits for the next beat of its period, and all beats
of one process fall together. Those of a second can be had a quarter or more later: what takes a
while is not all done in the same moment, or an event would wait for all of it.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

_PHASE: Final = random.random()  # noqa: S311 - it keeps the processes of one host apart, no more


def seconds_until(period: float, now: float, phase: float = _PHASE) -> float:
    """From ``now`` on, seconds of the event loop's clock, to the next beat but for the next half.

    At least half a period, and less than one and a half: who was late, or has just begun, gets no
    beat that comes at once, and a timer that fired a little early none twice.
    """
    left = period - (now - phase) % period
    return left if left >= period / 2 else left + period


async def beat(period: float, *, after: float = 0.0) -> float:
    """Return at the next beat, with how many seconds too late that is.

    ``after``: so many seconds later than others of this period have theirs.
    """
    clock = asyncio.get_running_loop().time
    now = clock()
    left = seconds_until(period, now - after)
    await asyncio.sleep(left)
    return max(0.0, clock() - now - left)
