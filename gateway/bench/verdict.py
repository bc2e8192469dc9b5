"""What kept a rate from being higher: the part whose core was full, if any was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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


def bottleneck(usage: Usage, *, capped: bool) -> Verdict:
    """Who was at the limit. ``capped``: the search stopped at the largest rate allowed."""
    if capped:
        return Verdict("none", "nothing failed up to the largest rate allowed (--most-rate)")
    fullest = {
        "gateway": max(usage.gateways or (0.0,)) / usage.seconds,
        "redis": (usage.redis or 0.0) / usage.seconds,
        "bench": max(usage.publisher, *usage.clients, 0.0) / usage.seconds,
    }
    part = max(fullest, key=lambda name: fullest[name])
    share = fullest[part]
    if share >= FULL:
        return Verdict(part, f"{_NAMES[part]} used {share:.0%} of a core{_HINTS[part]}")
    if usage.machine is not None and usage.machine >= MACHINE_FULL * usage.cores * usage.seconds:
        told = ", ".join(
            f"{_SHORT[name]} {cores:.0%}"
            for name, cores in usage.shares().items()
            if cores is not None and name != "machine"
        )
        cores = f"{usage.cores} cores are" if usage.cores > 1 else "one core is"
        return Verdict("machine", f"this machine's {cores} full ({told} of a core)")
    if usage.gateways is None:
        return Verdict("unknown", "the gateway, or what is between: its CPU cannot be seen here")
    return Verdict("unknown", "no CPU was full: latency grew for another reason (disk, network)")


_NAMES: Final = {
    "gateway": "the gateway",
    "redis": "Redis",
    "bench": "the bench itself",
}
_SHORT: Final = {"gateway": "gateway", "redis": "Redis", "bench": "bench"}
_HINTS: Final = {
    "gateway": "; add gateway processes",
    "redis": "; a Redis Cluster spreads it",
    "bench": "; the installation can do more",
}
