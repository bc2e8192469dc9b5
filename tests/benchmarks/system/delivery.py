"""Delivery: 1,000 users with a socket each, 300-byte events to single users."""

from dataclasses import dataclass
from typing import Any, Final

from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.systems import System, running, users

BULK: Final = Pace(rate=5000, burst=500)
"""Events in batches, as when many runs speak at once: what a process can do at its best."""
EVEN: Final = (2000, 5000)
"""Events a second, one by one: each of them wakes every process on its way."""
WARM_UP: Final = 0.5
"""Seconds of events before the measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    users: int = 1000
    seconds: float = 5.0


def measure(kind: type[System], paces: dict[str, Pace], sizes: Sizes) -> dict[str, Any]:
    """One system at every pace: CPU per event of each process, and latencies."""
    names = users(sizes.users)
    found: dict[str, Any] = {}
    with running(kind) as system, system.clients() as clients:
        total = sum(
            int(pace.rate * WARM_UP) + int(pace.rate * sizes.seconds) for pace in paces.values()
        )
        feed = system.feed(names, total)
        clients.load(system.opening(name) for name in names)
        clients.open(len(names))
        for label, pace in paces.items():
            clients.mark()
            warm = int(pace.rate * WARM_UP)
            feed.send(system.redis.port, warm, pace)
            clients.received(warm, seconds=10)
            found[label] = _one(system, clients, feed, pace, int(pace.rate * sizes.seconds))
    return found


def _one(system: System, clients: Any, feed: Any, pace: Pace, count: int) -> dict[str, Any]:
    clients.mark()
    gateway, redis = system.meter(), system.redis_meter()
    sending = feed.start(system.redis.port, count, pace)
    report = clients.received(count, seconds=count / pace.rate * 3 + 10)
    used, redis_used = gateway.used_ns(), redis.used_ns()
    sent = sending.finished()
    if report["received"] != count or report["gaps"] or report["repeats"]:
        raise RuntimeError(f"{system.name}: {count} events, and the clients had {report.fields}")
    latency = report.latency_ns
    return {
        "events": count,
        "delivering_us": used / count / 1000,
        "redis_us": redis_used / count / 1000,
        "p50_ms": latency.quantile(0.5) / 1e6,
        "p99_ms": latency.quantile(0.99) / 1e6,
        "p999_ms": latency.quantile(0.999) / 1e6,
        "latency_ns": latency.pairs,
        "events_per_read": count / max(1, report["reads"]),
        "publisher_late_ms": sent["latest"] * 1000,
    }
