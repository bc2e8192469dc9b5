"""What is measured, with how many connections, and how the time is shared out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MEASURES: Final[Mapping[str, float]] = {
    "connect": 1.0,
    "memory": 1.0,
    "latency": 6.0,
    "throughput": 8.0,
    "fanout": 3.0,
    "resume": 3.0,
}
"""Measure → its share of the time, in the order in which they are done."""

DEFAULT_CONNECTIONS: Final = 200
"""To an installation that others use: about what a busy minute brings."""

OWN_CONNECTIONS: Final = 1000
"""To a gateway of the bench's own: enough that memory per connection can be told."""

DEFAULT_MOST_RATE: Final = 2000.0
"""Events per second beyond which an installation that others use is not driven unasked."""

TABS: Final = 50
"""Connections of the one user with many tabs, if the gateway allows as many."""

FAN_OUT_RATE: Final = 40.0
"""Events per second to that user: times 50 tabs it is 2,000 deliveries."""

BEHIND: Final = 50
"""Events that a client misses before it resumes, at most."""

MOST_RESUMING: Final = 500
CATCH_UP_RATE: Final = 2000.0
"""Events per second at which the missed ones are published."""

CONNECTING_AT_ONCE: Final = 32
"""Handshakes under way at the same time, over all client processes."""

STEPS: Final = 8
"""Rates that the search for the largest one may try, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the bench. ``seconds``: for all measures together, about.

    ``own``: the gateway is the bench's own. ``rate``: events per second of the latency measure.
    ``most_rate``: None = no limit.
    """

    own: bool
    connections: int
    seconds: float
    rate: float
    most_rate: float | None
    only: tuple[str, ...] = tuple(MEASURES)

    def seconds_for(self, measure: str) -> float:
        """The measure's part of the time; none when it is not asked for."""
        if measure not in self.only:
            return 0.0
        return self.seconds * MEASURES[measure] / sum(MEASURES[name] for name in self.only)

    @property
    def warm_up(self) -> int:
        """Connections made before anything is counted; at least one, and one is left."""
        return max(1, self.connections // 10)

    @property
    def step_seconds(self) -> float:
        """How long one rate is held."""
        return max(0.4, self.seconds_for("throughput") / STEPS)

    @property
    def resuming(self) -> int:
        """How many clients go away and come back."""
        return min(self.connections, MOST_RESUMING)

    @property
    def catch_up_rate(self) -> float:
        """Events per second while they are away."""
        return min(CATCH_UP_RATE, self.most_rate or CATCH_UP_RATE)

    def behind(self, history_events: int) -> int:
        """How many events each of them misses: all of them are still in the log."""
        affordable = int(self.catch_up_rate * self.seconds_for("resume") / self.resuming)
        return max(1, min(BEHIND, history_events // 2, affordable))

    def tabs(self, limit: int) -> int:
        """How many tabs the one user opens, where a user may have ``limit``."""
        return min(TABS, limit)

    @property
    def fan_out_rate(self) -> float:
        """Events per second to the user with many tabs."""
        return min(FAN_OUT_RATE, self.rate)


def plan_for(
    *,
    own: bool,
    connections: int | None,
    seconds: float,
    rate: float,
    most_rate: float | None,
    only: tuple[str, ...],
) -> Plan:
    """What was asked for, and for the rest what suits a gateway of the bench's own, or another's.

    No rate is over ``most_rate``.
    """
    if most_rate is None and not own:
        most_rate = max(rate, DEFAULT_MOST_RATE)
    return Plan(
        own=own,
        connections=connections or (OWN_CONNECTIONS if own else DEFAULT_CONNECTIONS),
        seconds=seconds,
        rate=rate if most_rate is None else min(rate, most_rate),
        most_rate=most_rate,
        only=only,
    )


def chosen(text: str | None) -> tuple[str, ...]:
    """``latency,resume`` → the measures, in their order; ``ValueError`` names what there is."""
    if text is None:
        return tuple(MEASURES)
    wanted = {word.strip() for word in text.split(",") if word.strip()}
    unknown = sorted(wanted - set(MEASURES))
    if unknown or not wanted:
        named = f"{', '.join(unknown)}: there is no such measure; " if unknown else ""
        raise ValueError(f"{named}choose from {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in wanted)
