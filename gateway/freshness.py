"""When a key set is fetched again, when it may be because of an unknown key, until when it counts.

Pure: every method is told the time, in seconds of one clock.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from broker.backoff import full_jitter

LEAST_SECONDS: Final = 60.0
"""A set that may be kept for less is fetched every minute: keys are made to last, and an unknown
one causes a fetch of its own."""

USUAL_SECONDS: Final = 300.0
"""For a set whose server does not say how long it may be kept."""

MOST_SECONDS: Final = 3600.0
"""A key that was taken out because it leaked verifies for no longer than this."""

LOOK_SECONDS: Final = 10.0
"""Between two fetches because of unknown keys, however many tokens name one."""

ABSENT_SECONDS: Final = 60.0
"""A name that was looked for and not found causes no fetch for so long."""

MAX_ABSENT: Final = 1024
"""Names remembered as not there; the oldest are forgotten first."""

FIRST_RETRY_SECONDS: Final = 1.0
MOST_RETRY_SECONDS: Final = 60.0
"""After a failed fetch: a second, and up to a minute more, drawn from a range that doubles."""

_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age=(\d{1,9})\s*(?:,|$)", re.IGNORECASE)
_NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """For how long a fetched set is fresh, and how far apart look-ups are."""

    least_seconds: float = LEAST_SECONDS
    usual_seconds: float = USUAL_SECONDS
    most_seconds: float = MOST_SECONDS
    look_seconds: float = LOOK_SECONDS


def fresh_seconds(cache_control: str, age: str) -> float | None:
    """For how long a response is fresh by its headers (RFC 9111 section 4.2); None: not told."""
    found = _MAX_AGE.search(cache_control)
    if found is None:
        return 0.0 if re.search(r"no-(?:store|cache)", cache_control, re.IGNORECASE) else None
    spent = int(age) if age.isascii() and age.isdigit() and len(age) < 10 else 0  # noqa: PLR2004
    return float(max(0, int(found[1]) - spent))


class Freshness:
    """The state of one key set. ``random`` gives numbers in [0, 1)."""

    def __init__(
        self, bounds: Bounds, *, stale_seconds: float, random: Callable[[], float]
    ) -> None:
        self._bounds, self._stale_seconds, self._random = bounds, stale_seconds, random
        self._retries = self._new_retries()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._look_at = _NEVER
        self.due_at = _NEVER
        """When it is fetched again, come what may."""
        self.usable_until = _NEVER
        """Until when its keys count, if no fetch succeeds."""
        self.failing = False

    def fetched(self, now: float, fresh_for: float | None, looked_for: str | None) -> None:
        """It was fetched. ``looked_for``: the name because of which, if it is not there."""
        bounds = self._bounds
        told = bounds.usual_seconds if fresh_for is None else fresh_for
        self.due_at = now + min(max(told, bounds.least_seconds), bounds.most_seconds)
        self.usable_until = self.due_at + self._stale_seconds
        self._look_at = now + bounds.look_seconds
        self._retries = self._new_retries()
        self.failing = False
        if looked_for is not None:
            self._absent[looked_for] = now + ABSENT_SECONDS
            self._absent.move_to_end(looked_for)
            if len(self._absent) > MAX_ABSENT:
                self._absent.popitem(last=False)

    def failed(self, now: float) -> None:
        """It could not be fetched: later again, for whatever reason."""
        self.due_at = self._look_at = now + FIRST_RETRY_SECONDS + next(self._retries)
        self.failing = True

    def may_look(self, now: float) -> bool:
        """Whether an unknown key may cause a fetch now."""
        return now >= self._look_at

    def lacks(self, kid: str, now: float) -> bool:
        """Whether it is known that no key has this name: it was looked for just now."""
        return now < self._absent.get(kid, _NEVER)

    def _new_retries(self) -> Iterator[float]:
        return full_jitter(
            self._random, first_seconds=FIRST_RETRY_SECONDS, most_seconds=MOST_RETRY_SECONDS
        )
