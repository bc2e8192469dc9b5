"""``--processes 2`` against one: events a second as fast as they go, and CPU of each process."""

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver, warm_up
from tests.benchmarks.system.processes import cores
from tests.benchmarks.system.systems import Runcast, TwoProcesses, running, users

SATURATED: Final = Pace(window=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    users: int = 1000
    events: int = 80_000


def measure(kind: type[Runcast], sizes: Sizes) -> Found:
    """Every event as soon as Redis has taken those before it."""
    names = users(sizes.users)
    with running(kind) as system, system.clients() as clients:
        warm = sizes.events // 8
        feed = system.feed(names, warm + sizes.events)
        clients.load(system.opening(name) for name in names)
        clients.open(sizes.users)
        warm_up(system, clients, feed, SATURATED, warm)
        found, _ = deliver(system, clients, feed, SATURATED, sizes.events)
    found["events_per_second"] = sizes.events / found["seconds"]
    found["gateway_cores"] = found["delivering_us"] * found["events_per_second"] / 1e6
    found["redis_cores"] = found["redis_us"] * found["events_per_second"] / 1e6
    found["capacity"] = kind.processes * 1e6 / found["delivering_us"]
    found["cores"] = cores()
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """One process and two."""
    sizes = Sizes(events=16_000) if quick else Sizes()
    return {kind.name: measure(kind, sizes) for kind in (Runcast, TwoProcesses)}


SCENARIO: Final = Scenario(name="processes", what="two gateway processes against one", run=run)
