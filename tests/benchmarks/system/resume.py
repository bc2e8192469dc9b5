"""Resume: everybody comes back within two seconds, fifty events behind."""

import time
from dataclasses import dataclass
from typing import Final

from redis import Redis

from broker.channels import Keys, Owner, Scope
from tests.benchmarks.system.connect import let_go
from tests.benchmarks.system.delivery import BULK
from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver
from tests.benchmarks.system.systems import Runcast, running, users
from tests.support.servers import token

SATURATED: Final = Pace(window=500)
SAMPLE: Final = 10
"""Live events per client from which the price of a plain delivery is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    clients: int = 5000
    behind: int = 50
    seconds: float = 2.0


def measure(sizes: Sizes) -> Found:
    """The same clients connect plainly, hear events, leave, and come back with a cursor."""
    names = users(sizes.clients)
    rate = sizes.clients / sizes.seconds
    with running(Runcast) as system, system.clients() as clients:
        assert isinstance(system, Runcast)
        feed = system.feed(names, (SAMPLE + sizes.behind) * sizes.clients)
        tokens = [token(name) for name in names]
        clients.load(system.opening_with(each) for each in tokens)
        meter = system.meter()
        clients.open(sizes.clients, rate=rate)
        plain_ms = meter.used_ns() / sizes.clients / 1e6
        live, _ = deliver(system, clients, feed, BULK, SAMPLE * sizes.clients)
        cursors = _cursors(system, names)
        clients.close(0, sizes.clients)
        let_go(system)
        feed.send(sizes.behind * sizes.clients, SATURATED)

        queries = [f"?after={cursor}" for cursor in cursors]
        pairs = zip(tokens, queries, strict=True)
        clients.load(system.opening_with(each, query) for each, query in pairs)
        expected = sizes.behind * sizes.clients
        calls = _commands(system)
        meter, redis_meter = system.meter(), system.redis_meter()
        clients.mark()
        began = time.monotonic()
        opened = clients.open(sizes.clients, rate=rate)
        level_seconds = time.monotonic() - began
        clients.received(expected, seconds=30).require(expected, system=system.name)
        resumed_ms = meter.used_ns() / sizes.clients / 1e6
        delivery_ms = live["delivering_us"] / 1000
        return {
            "clients": sizes.clients,
            "behind": sizes.behind,
            "arrival_seconds": sizes.seconds,
            "level_seconds": level_seconds,
            "resumed_ms": resumed_ms,
            "plain_ms": plain_ms,
            "delivery_ms": delivery_ms,
            "allowed_ms": 3 * plain_ms + sizes.behind * delivery_ms,
            "redis_ms": redis_meter.used_ns() / sizes.clients / 1e6,
            "redis_commands": (_commands(system) - calls) / sizes.clients,
            "p99_ms": opened.connect_ns.quantile(0.99) / 1e6,
        }


def _cursors(system: Runcast, names: list[str]) -> list[str]:
    """Where each user's log ends."""
    keys = Keys()
    with Redis(port=system.redis.port, decode_responses=True) as redis:
        pipeline = redis.pipeline(transaction=False)
        for name in names:
            pipeline.xrevrange(keys.channel(Owner("", name), Scope.USER).log, count=1)
        return [entries[0][0] for entries in pipeline.execute()]


def _commands(system: Runcast) -> int:
    with Redis(port=system.redis.port) as redis:
        processed: int = redis.info("stats")["total_commands_processed"]
    return processed


def run(*, quick: bool) -> dict[str, Found]:
    """Runcast only: the floor cannot resume."""
    sizes = Sizes(clients=500, seconds=0.5) if quick else Sizes()
    return {Runcast.name: measure(sizes)}


SCENARIO: Final = Scenario(name="resume", what="many clients come back at once", run=run)
