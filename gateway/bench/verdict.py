"""What kept a rate from being higher: the part whose core was full, if any was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

FULL: Final = 0.85
"""Of one core: the rest goes to switching between processes, and to the moments between bursts."""

MACHINE_FULL: Final = 0.9
"""Of all cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds that each part took within ``seconds``; None = not known.

    ``gateways`` and ``clients`` are per process. ``machine``: of everybody on this machine.
    """

    seconds: float
    gateways: Sequence[float] | None
    redis: float | None
    publisher: float
    clients: Sequence[float]
    machine: float | None
    cores: int

    @property
    def gateway(self) -> float | None:
        """Of all gateway processes."""
        return sum(self.gateways) if self.gateways is not None else None

    @property
    def bench(self) -> float:
        """Of all the bench's own processes."""
        return self.publisher + sum(self.clients)

    def shares(self) -> dict[str, float | None]:
        """Part → cores that it kept busy."""
        parts = {
            "gateway": self.gateway,
            "redis": self.redis,
            "bench": self.bench,
            "machine": self.machine,
        }
        return {
            name: round(taken / self.seconds, 2) if taken is not None else None
            for name, taken in parts.items()
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """``part``: gateway, redis, bench, machine, none or unknown."""

    part: str
    why: str


Stopped = Literal["failed", "capped", "time"]
"""Why no higher rate was tried: one had failed, none was allowed, or time was up."""


def bottleneck(usage: Usage, *, stopped: Stopped) -> Verdict:
    """Who was at the limit when the search stopped."""
    if stopped == "capped":
        return Verdict("none", "every rate held up to the largest that is allowed: --most-rate")
    if stopped == "time":
        return Verdict("none", "every rate held until time was up: give it more --seconds")
    fullest = {
        "gateway": max(usage.gateways or (0.0,)) / usage.seconds,
        "redis": (usage.redis or 0.0) / usage.seconds,
        "bench": max(usage.publisher, *usage.clients, 0.0) / usage.seconds,
    }
    part = max(fullest, key=lambda name: fullest[name])
    share = fullest[part]
    if share >= FULL:
        return Verdict(part, f"{_NAMES[part]} used {100 * share:.0f} % of a core{_HINTS[part]}")
    if usage.machine is not None and usage.machine >= MACHINE_FULL * usage.cores * usage.seconds:
        return Verdict("machine", f"all cores of this machine are full ({_split(usage)} of one)")
    if usage.gateways is None:
        return Verdict("unknown", "the gateway, or what is between: its CPU cannot be seen here")
    return Verdict("unknown", "no CPU was full: latency grew for another reason (disk, network)")


def _split(usage: Usage) -> str:
    known = {
        "gateway": usage.gateway,
        "Redis": usage.redis,
        "bench": usage.bench,
        "others": (usage.machine or 0.0)
        - sum((usage.gateway or 0.0, usage.redis or 0.0, usage.bench)),
    }
    return ", ".join(
        f"{name} {max(0.0, 100 * taken / usage.seconds):.0f} %"
        for name, taken in known.items()
        if taken is not None
    )


_NAMES: Final = {
    "gateway": "the gateway",
    "redis": "Redis",
    "bench": "the bench itself",
}
_HINTS: Final = {
    "gateway": "; add gateway processes",
    "redis": "; a Redis Cluster spreads it",
    "bench": "; the installation can do more",
}
