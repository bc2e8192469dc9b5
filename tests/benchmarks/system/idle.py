"""Idle connections: what one costs in memory, connected, authenticated and subscribed."""

import time
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.system.measuring import Found, Scenario
from tests.benchmarks.system.peers import JetStream, SocketIO
from tests.benchmarks.system.processes import resident_bytes
from tests.benchmarks.system.systems import Floor, PlainAiohttp, Runcast, System, running, users

SETTLE_SECONDS: Final = 2.0
"""A process gives memory back some time after the last handshake."""


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
        time.sleep(SETTLE_SECONDS)
        before = sum(map(resident_bytes, system.pids))
        clients.open(sizes.connections)
        time.sleep(SETTLE_SECONDS)
        after = sum(map(resident_bytes, system.pids))
        if clients.report()["ready"] != len(names):
            raise RuntimeError(f"{system.name}: not all {len(names)} are connected any more")
    return {
        "connections": sizes.connections,
        "bytes_each": (after - before) / sizes.connections,
        "process_bytes": after,
    }


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
