"""Delivery: 1,000 users with a socket each, 300-byte events to single users."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver, warm_up
from tests.benchmarks.system.peers import JetStream, SocketIO
from tests.benchmarks.system.systems import (
    FedFloor,
    Floor,
    HiredisForwarder,
    JoiningFloor,
    PlainAiohttp,
    Runcast,
    System,
    running,
    users,
)

BULK: Final = Pace(rate=5000, burst=500)
"""Events in batches, as when many runs speak at once: what a process can do at its best."""
EVEN: Final = {"2000": Pace(rate=2000), "5000": Pace(rate=5000)}
"""Events a second, one by one: each of them wakes every process on its way."""
DISTURBED: Final = {"bulk": "delivering_us"}
"""Pace → the figure that tells how much others disturbed it; evenly it is the p99."""
WARM_UP_SECONDS: Final = 0.5
SHARES: Final = tuple(round(1 - 10 ** (-nines / 10), 6) for nines in range(1, 34))
"""Of the events, for the picture: ten steps per nine, to 99.95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    users: int = 1000
    seconds: float = 5.0


def measure(kind: type[System], paces: Mapping[str, Pace], sizes: Sizes) -> Found:
    """One system at every pace: CPU per event of each process, and latencies."""
    names = users(sizes.users)
    found: Found = {}
    with running(kind) as system, system.clients() as clients:
        parts = {
            label: (int(pace.rate * WARM_UP_SECONDS), int(pace.rate * sizes.seconds))
            for label, pace in paces.items()
        }
        feed = system.feed(names, sum(map(sum, parts.values())))
        clients.load(system.opening(name) for name in names)
        clients.open(len(names))
        for label, pace in paces.items():
            warm, count = parts[label]
            warm_up(system, clients, feed, pace, warm)
            found[label], report = deliver(system, clients, feed, pace, count)
            latency = report.latency_ns
            found[label]["curve_ms"] = [
                (share, round(latency.quantile(share) / 1e6, 4)) for share in SHARES
            ]
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """Every system in bulk; the ones to be compared by latency evenly, too."""
    sizes = Sizes(seconds=1.0) if quick else Sizes()
    bulk = {"bulk": BULK}
    found: dict[str, Found] = {}
    for kind in (Floor, Runcast, PlainAiohttp, Floor, Runcast):
        figures = measure(kind, bulk | EVEN, sizes)
        found[kind.name] = better(found.get(kind.name, figures), figures)
    for peer in (JoiningFloor, FedFloor, HiredisForwarder, SocketIO, JetStream):
        try:
            found[peer.name] = measure(peer, bulk, sizes)
        except RuntimeError as error:  # not installed, or it lost events: ours count without it
            found[peer.name] = {"missing": str(error)}
    return found


def better(one: Found, other: Found) -> Found:
    """Of two measurements, at each pace the one that others on the machine disturbed less."""
    return {
        pace: min(one[pace], other[pace], key=itemgetter(DISTURBED.get(pace, "p99_ms")))
        for pace in one
    }


SCENARIO: Final = Scenario(
    name="delivery", what="CPU and latency of events to single users, against peers", run=run
)
