"""Growth: does a delivery cost more with more connections, more users, more history?"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from redis import Redis

from tests.benchmarks.system.clients import Clients
from tests.benchmarks.system.delivery import BULK
from tests.benchmarks.system.feed import Feed, Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver, warm_up
from tests.benchmarks.system.runs import EVENT_BYTES, connected_runs
from tests.benchmarks.system.systems import Floor, Runcast, System, running, users

QUIET_SECONDS: Final = 6.0
"""Three times the look at the log of each channel with an open run."""
SATURATED: Final = Pace(window=500)
TIMES: Final = 2
"""How often each size is measured; the time that others disturbed less counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    connections: tuple[int, ...] = (1000, 5000, 15_000)
    users: int = 100_000
    retained: int = 1000
    retaining_users: int = 300
    seconds: float = 3.0


def by_connections(kind: type[System], sizes: Sizes) -> Found:
    """Cost per delivery with more and more sockets, the events going round all of them.

    Each socket has had an event before. ``net_us`` is without what the connections cost while
    nothing happens: heartbeats, and looks at the logs of their open runs. And the cost of a
    connect among those that are there.
    """
    names = users(sizes.connections[-1])
    count = int(BULK.rate * sizes.seconds)
    found: Found = {}
    with running(kind) as system, system.clients() as clients:
        system.feed(names, 0)  # a run for everybody
        clients.load(system.opening(name) for name in names)
        for connections in sizes.connections:
            newcomers = connections - clients.opened
            meter = system.meter()
            clients.open(newcomers)
            connect_ms = meter.used_ns() / newcomers / 1e6
            feed = system.feed(names[:connections], TIMES * count + connections)
            warm_up(system, clients, feed, SATURATED, connections)
            quiet = system.meter()
            time.sleep(QUIET_SECONDS)  # the time over which their cost is counted
            background = quiet.used_ns() / 1e9 / QUIET_SECONDS
            figures = _least_disturbed(system, clients, feed, count)
            net = figures["delivering_us"] - background * figures["seconds"] / count * 1e6
            found[str(connections)] = figures | {
                "connect_ms": connect_ms,
                "background_cores": background,
                "net_us": net,
            }
    return found


def by_users(sizes: Sizes) -> Found:
    """A thousand connected users, alone and among all that have a log; memory of one of those."""
    names = users(1000)
    count = int(BULK.rate * sizes.seconds)
    with running(Runcast) as system, system.clients() as clients:
        assert isinstance(system, Runcast)
        feed = system.feed(names, 2 * (TIMES * count + len(names)))
        clients.load(system.opening(name) for name in names)
        clients.open(len(names))
        warm_up(system, clients, feed, BULK, len(names))
        before = _least_disturbed(system, clients, feed, count)
        used = _memory(system)
        others = [f"other-{index}" for index in range(sizes.users - len(names))]
        asyncio.run(_open(system.redis.url, others))
        used = _memory(system) - used
        warm_up(system, clients, feed, BULK, len(names))
        after = _least_disturbed(system, clients, feed, count)
    return {
        "1000": before,
        str(sizes.users): after,
        "redis_bytes_per_user": used / len(others),
    }


def by_history(sizes: Sizes) -> Found:
    """The same users with an empty log and with a full one; memory of a retained event."""
    names = users(sizes.retaining_users)
    count = int(BULK.rate * sizes.seconds)
    filling = sizes.retained * len(names)
    with running(Runcast) as system, system.clients() as clients:
        feed = system.feed(names, 2 * (TIMES * count + len(names)) + filling)
        clients.load(system.opening(name) for name in names)
        clients.open(len(names))
        warm_up(system, clients, feed, BULK, len(names))
        used = _memory(system)
        before = _least_disturbed(system, clients, feed, count)
        clients.close(0, len(names))
        feed.send(filling - TIMES * count, SATURATED)
        used = _memory(system) - used
        clients.load(system.opening(name) for name in names)
        clients.open(len(names))
        warm_up(system, clients, feed, BULK, len(names))
        after = _least_disturbed(system, clients, feed, count)
    return {
        "0": before,
        str(sizes.retained): after,
        "redis_bytes_per_event": used / filling,
        "event_bytes": EVENT_BYTES,
    }


def _least_disturbed(system: System, clients: Clients, feed: Feed, count: int) -> Found:
    figures = [deliver(system, clients, feed, BULK, count)[0] for _ in range(TIMES)]
    return min(figures, key=lambda each: each["delivering_us"] + each["redis_us"])


async def _open(redis_url: str, names: list[str]) -> None:
    async with connected_runs(redis_url) as runs:
        await runs.open(names)


def _memory(system: System) -> int:
    with Redis(port=system.redis.port) as redis:
        used: int = redis.info("memory")["used_memory_dataset"]
    return used


def run(*, quick: bool) -> dict[str, Found]:
    """The floor grows by connections only."""
    sizes = (
        Sizes(connections=(500, 1000, 2000), users=5000, retaining_users=30, seconds=1.0)
        if quick
        else Sizes()
    )
    return {
        Floor.name: {"connections": by_connections(Floor, sizes)},
        Runcast.name: {
            "connections": by_connections(Runcast, sizes),
            "users": by_users(sizes),
            "history": by_history(sizes),
        },
    }


SCENARIO: Final = Scenario(name="growth", what="cost with many users and long logs", run=run)
