"""Fan-out: one channel, a thousand sockets."""

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver, warm_up
from tests.benchmarks.system.systems import Floor, JoiningFloor, Runcast, System, running, users

BURSTS: Final = Pace(rate=50, burst=10)
"""Ten events at once, five times a second: they come in one read of the Redis socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    sockets: int = 1000
    events: int = 250


def measure(kind: type[System], sizes: Sizes) -> Found:
    """CPU per delivery when all sockets are one user's."""
    (name,) = users(1)
    with running(kind) as system, system.clients() as clients:
        warm = BURSTS.burst * 3
        feed = system.feed([name], warm + sizes.events)
        clients.load([system.opening(name)] * sizes.sockets)
        clients.open(sizes.sockets)
        warm_up(system, clients, feed, BURSTS, warm, sockets_each=sizes.sockets)
        found, _ = deliver(system, clients, feed, BURSTS, sizes.events, sockets_each=sizes.sockets)
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """Runcast against both floors."""
    sizes = Sizes(events=100) if quick else Sizes()
    return {kind.name: measure(kind, sizes) for kind in (JoiningFloor, Floor, Runcast)}


SCENARIO: Final = Scenario(name="fanout", what="CPU per delivery of one channel to many", run=run)
