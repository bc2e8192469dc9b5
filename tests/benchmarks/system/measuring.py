"""What scenarios share: how one is described, and events sent and received under the meters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.benchmarks.system.clients import Clients, Report
from tests.benchmarks.system.feed import Feed, Pace
from tests.benchmarks.system.systems import System

Found = dict[str, Any]


class Measure(Protocol):
    """``quick``: at sizes that only show that it works."""

    def __call__(self, *, quick: bool) -> Mapping[str, Found]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``run`` answers system → figures, JSON all the way down."""

    name: str
    what: str
    run: Measure


def deliver(
    system: System,
    clients: Clients,
    feed: Feed,
    pace: Pace,
    count: int,
    *,
    sockets_each: int = 1,
) -> tuple[Found, Report]:
    """Send ``count`` events, wait until each socket of its channel has it: costs per delivery.

    RuntimeError when one is missing, out of order, or there twice.
    """
    deliveries = count * sockets_each
    clients.mark()
    delivering, redis = system.meter(), system.redis_meter()
    sending = feed.start(count, pace)
    expected = count / pace.rate if pace.rate else 0.0
    report = clients.received(deliveries, seconds=expected * 3 + 30)
    used, redis_used = delivering.used_ns(), redis.used_ns()
    sent = sending.finished()
    report.require(deliveries, system=system.name)
    latency = report.latency_ns
    return {
        "events": count,
        "deliveries": deliveries,
        "seconds": report["last"],
        "delivering_us": used / deliveries / 1000,
        "redis_us": redis_used / count / 1000,
        "p50_ms": latency.quantile(0.5) / 1e6,
        "p99_ms": latency.quantile(0.99) / 1e6,
        "p999_ms": latency.quantile(0.999) / 1e6,
        "deliveries_per_read": deliveries / max(1, report["reads"]),
        "publisher_late_ms": sent["latest"] * 1000,
    }, report


def warm_up(
    system: System, clients: Clients, feed: Feed, pace: Pace, count: int, *, sockets_each: int = 1
) -> None:
    """Events before the measurement: caches, and code that runs for the first time."""
    clients.mark()
    sending = feed.start(count, pace)
    report = clients.received(count * sockets_each, seconds=30)
    sending.finished()
    report.require(count * sockets_each, system=f"{system.name}, warming up")
