"""Idle connections: what one costs in memory, connected, authenticated and subscribed."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.system.measuring import Found, Scenario
from tests.benchmarks.system.peers import JetStream, SocketIO
from tests.benchmarks.system.processes import resident_bytes
from tests.benchmarks.system.systems import Floor, PlainAiohttp, Runcast, System, running, users
from tests.support.servers import wait_until

STEADY_LOOKS: Final = 100
"""A process gives memory back some time after the last handshake: its size counts when so many
looks in a row, a hundredth of a second apart, have found the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    connections: int = 10_000


def measure(kind: type[System], sizes: Sizes) -> Found:
    """Bytes per connection: the process with them, less the process after its first hundred."""
    first = 100
    names = users(sizes.connections + first)
    with running(kind) as system, system.clients() as clients:
        clients.load(system.opening(name) for name in names)
        clients.open(first)
        before = settled_bytes(system)
        clients.open(sizes.connections)
        after = settled_bytes(system)
        if clients.report()["ready"] != len(names):
            raise RuntimeError(f"{system.name}: not all {len(names)} are connected any more")
    return {
        "connections": sizes.connections,
        "bytes_each": (after - before) / sizes.connections,
        "process_bytes": after,
    }


def settled_bytes(system: System) -> int:
    """Memory of the system's processes, once it does not change any more."""
    looks: deque[int] = deque(maxlen=STEADY_LOOKS)

    def steady() -> bool:
        looks.append(sum(map(resident_bytes, system.pids)))
        return len(looks) == STEADY_LOOKS and len(set(looks)) == 1

    wait_until(steady, seconds=30, what=f"{system.name} has settled")
    return looks[-1]


def run(*, quick: bool) -> dict[str, Found]:
    """Every system with as many connections; those that stay out say why."""
    sizes = Sizes(connections=2000) if quick else Sizes()
    found: dict[str, Found] = {}
    for kind in (Floor, Runcast, PlainAiohttp, SocketIO, JetStream):
        try:
            found[kind.name] = measure(kind, sizes)
        except RuntimeError as error:  # not installed, or it lost events: ours count without it
            found[kind.name] = {"missing": str(error)}
    return found


SCENARIO: Final = Scenario(name="idle", what="memory of an idle connection", run=run)
