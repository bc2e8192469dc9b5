"""Figures, measured: a latency histogram, and this gateway's report (protocol section 7)."""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from gateway.slow import slow_of

BUCKETS_PER_DOUBLING: Final = 8
"""Each bucket is 9 % wider than the one before: percentiles are right to that."""

MOST_BUCKETS: Final = 800
"""Far more than a latency of centuries takes; a larger number in a report is no bucket."""

_FIRST_MS: Final = 0.25

TENANT_FIGURES: Final = ("connections", "messages", "refused")

MOST_TENANTS: Final = 100
"""In one gateway's report: it goes into Redis every few seconds."""

MOST_COUNTED_TENANTS: Final = 1000
"""Beyond that the one that was counted longest ago is forgotten, and counted from 0 again."""


class Latency:
    """Counts of latencies in buckets that double every eight, from a quarter of a millisecond."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, milliseconds: float) -> None:
        """Count one."""
        at = (
            math.ceil(math.log2(milliseconds / _FIRST_MS) * BUCKETS_PER_DOUBLING)
            if milliseconds > _FIRST_MS
            else 0
        )
        self.counts[at] = self.counts.get(at, 0) + 1

    def merge(self, counts: Mapping[int, int]) -> None:
        """Add another gateway's counts."""
        for at, count in counts.items():
            self.counts[at] = self.counts.get(at, 0) + count

    def percentile(self, percent: float) -> float | None:
        """The upper edge, in ms, of the bucket in which the percentile lies; None without data."""
        total = sum(self.counts.values())
        if not total:
            return None
        wanted = total * percent / 100
        seen = 0
        for at in sorted(self.counts):
            seen += self.counts[at]
            if seen >= wanted:
                break
        return _edge(at)

    def buckets(self) -> list[tuple[float, int]]:
        """(upper edge in ms, count) of each that has any: two of them, subtracted, are a while."""
        return [(_edge(at), self.counts[at]) for at in sorted(self.counts)]

    def percentiles(self) -> dict[str, float | None]:
        """As ``/ws/stats`` shows them."""
        return {f"p{percent}": self.percentile(percent) for percent in (50, 95, 99)}


def _edge(at: int) -> float:
    return round(_FIRST_MS * 2 ** (at / BUCKETS_PER_DOUBLING), 3)


class Tally:
    """What one gateway accepted and refused: by code, and by tenant."""

    __slots__ = ("_tenants", "accepted", "refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self._tenants: OrderedDict[str, dict[str, int]] = OrderedDict()

    def accept(self, tenant: str) -> None:
        """A message has begun a run."""
        self.accepted += 1
        self._count(tenant, "messages")

    def refuse(self, code: str, tenant: str = "") -> None:
        """A connection, or a frame, was refused."""
        self.refused[code] += 1
        self._count(tenant, "refused")

    def by_tenant(self, connections: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """As a report has it: of at most :data:`MOST_TENANTS`, those with most connections."""
        tenants = {*connections, *self._tenants}
        most = heapq.nlargest(MOST_TENANTS, tenants, key=lambda each: connections.get(each, 0))
        return {
            tenant: {
                **dict.fromkeys(TENANT_FIGURES, 0),
                "connections": connections.get(tenant, 0),
                **self._tenants.get(tenant, {}),
            }
            for tenant in most
        }

    def _count(self, tenant: str, what: str) -> None:
        if not tenant:
            return
        counts = self._tenants.setdefault(tenant, {})
        counts[what] = counts.get(what, 0) + 1
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > MOST_COUNTED_TENANTS:
            self._tenants.popitem(last=False)


def report_of(stored: bytes) -> dict[str, Any] | None:
    """A gateway's report as it wrote it; None for what is none."""
    try:
        report = orjson.loads(stored)
        latency = {int(at): _count(count) for at, count in report["latency"].items()}
        read = {
            "at": float(report["at"]),
            "draining": _truth(report["draining"]),
            "uptime_seconds": float(report["uptime_seconds"]),
            "by_mode": _counts(report["by_mode"]),
            "events": _counts(report["events"]),
            "latency": latency,
            # Gateways of before do not say these.
            "refused": _counts(report.get("refused", {})),
            "webhooks": _counts(report.get("webhooks", {})),
            "by_tenant": {
                tenant: _counts(counts) for tenant, counts in report.get("by_tenant", {}).items()
            },
            "version": _text(report.get("version", "")),
            "ready": _truth(report.get("ready", True)),
            "slow": slow_of(report.get("slow", {})),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return read if all(abs(at) <= MOST_BUCKETS for at in latency) else None


def _counts(counts: Mapping[str, object]) -> dict[str, int]:
    return {name: _count(count) for name, count in counts.items()}


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a counter is a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def summed(reports: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Field by field."""
    total: dict[str, int] = {}
    for report in reports:
        for name, count in report.items():
            total[name] = total.get(name, 0) + count
    return total


def summed_by_tenant(
    reports: Iterable[Mapping[str, Mapping[str, int]]],
) -> dict[str, dict[str, int]]:
    """Tenant by tenant, field by field."""
    found: dict[str, list[Mapping[str, int]]] = {}
    for report in reports:
        for tenant, counts in report.items():
            found.setdefault(tenant, []).append(counts)
    return {tenant: summed(each) for tenant, each in found.items()}


def runs_view(counters: Mapping[str, int], open_states: Mapping[str, int]) -> dict[str, Any]:
    """The fleet's run counters (agent, newline, word → count) and open runs by state, as shown."""
    by_agent: dict[str, dict[str, int]] = {}
    by_status: dict[str, int] = {}
    for name, count in counters.items():
        agent, _, word = name.partition("\n")
        row = by_agent.setdefault(agent, {"total": 0, "incomplete": 0, "abandoned": 0})
        if word in row:
            row[word] += count
        if word not in ("total", "incomplete", "published"):
            by_status[word] = by_status.get(word, 0) + count
    completed = sum(row["total"] for row in by_agent.values())
    return {
        "by_state": {**open_states, "completed": completed},
        "by_status": by_status,
        "by_agent": by_agent,
    }
