"""``--processes 2`` against one: what a delivery takes of each when each has as much to do.

As fast as they go Redis would be the bottleneck, and two processes would have half as much each:
with fewer events in each read they cannot be compared with one.
"""

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver, warm_up
from tests.benchmarks.system.processes import cores
from tests.benchmarks.system.systems import Runcast, TwoProcesses, running, users

RATE: Final = 10_000
BURST: Final = 500
"""Events of one process, a second and at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    users: int = 1000
    events: int = 50_000
    """Of each process."""


def measure(kind: type[Runcast], sizes: Sizes) -> Found:
    """Each process as many events a second, in bulk."""
    names, events = users(sizes.users), sizes.events * kind.processes
    pace = Pace(rate=RATE * kind.processes, burst=BURST * kind.processes)
    with running(kind) as system, system.clients() as clients:
        warm = events // 8
        feed = system.feed(names, warm + events)
        clients.load(system.opening(name) for name in names)
        clients.open(sizes.users)
        warm_up(system, clients, feed, pace, warm)
        found, _ = deliver(system, clients, feed, pace, events)
    found["events_per_second"] = events / found["seconds"]
    found["gateway_cores"] = found["delivering_us"] * found["events_per_second"] / 1e6
    found["redis_cores"] = found["redis_us"] * found["events_per_second"] / 1e6
    found["capacity"] = kind.processes * 1e6 / found["delivering_us"]
    found["cores"] = cores()
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """One process and two."""
    sizes = Sizes(events=10_000) if quick else Sizes()
    return {kind.name: measure(kind, sizes) for kind in (Runcast, TwoProcesses)}


SCENARIO: Final = Scenario(name="processes", what="two gateway processes against one", run=run)
