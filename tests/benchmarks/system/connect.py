"""Connecting: what one connect costs, and what a stream of connects does to the others' events."""

from dataclasses import dataclass
from typing import Final

from redis import Redis

from tests.benchmarks.system.clients import Opening
from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.measuring import Found, Scenario, warm_up
from tests.benchmarks.system.systems import Floor, PlainAiohttp, Runcast, System, running, users
from tests.support.servers import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    connects: int = 2000
    users: int = 1000
    events_per_second: int = 2000
    connects_per_second: int = 500
    seconds: float = 5.0


def measure(kind: type[System], sizes: Sizes) -> Found:
    """CPU of the process per connect, the first frame received: ``known`` and ``new`` tokens.

    For ``known`` ones the same clients have been there before, and their channels have been let go.
    Systems without tokens have one figure.
    """
    names = users(sizes.connects)
    found: Found = {"connects": sizes.connects}
    with running(kind) as system, system.clients() as clients:
        openings: list[Opening] = []
        for name in ("warm", "new", "known"):
            if name != "known":
                openings = [system.opening(user) for user in names]
            clients.load(openings)
            meter, redis_meter = system.meter(), system.redis_meter()
            report = clients.open(len(names))
            found[f"{name}_ms"] = meter.used_ns() / len(names) / 1e6
            found[f"{name}_redis_ms"] = redis_meter.used_ns() / len(names) / 1e6
            found[f"{name}_p99_ms"] = report.connect_ns.quantile(0.99) / 1e6
            clients.close(clients.closed, len(names))
            let_go(system)
    return found


def let_go(system: System) -> None:
    """Until nobody is subscribed any more, so that each connect subscribes anew."""
    with Redis(port=system.redis.port) as redis:
        wait_until(
            lambda: not any(b"user-" in each for each in redis.pubsub_channels()),
            what=f"{system.name} has let go of the channels",
        )


def disturbance(kind: type[System], sizes: Sizes) -> Found:
    """The others' p99 with a stream of connects, and without."""
    names = users(sizes.users)
    pace = Pace(rate=sizes.events_per_second)
    count = int(sizes.events_per_second * sizes.seconds)
    newcomers = int(sizes.connects_per_second * sizes.seconds)
    found: Found = {}
    with running(kind) as system, system.clients() as clients:
        feed = system.feed(names, 3 * count)
        openings = [system.opening(name) for name in names]
        clients.load(openings)
        clients.load(system.opening(f"newcomer-{index}") for index in range(newcomers))
        clients.open(len(names))
        warm_up(system, clients, feed, pace, count)
        for label in ("quiet", "connecting"):
            clients.mark()
            if label == "connecting":
                clients.begin(newcomers, rate=sizes.connects_per_second)
            sending = feed.start(count, pace)
            report = clients.received(count, seconds=3 * sizes.seconds + 10)
            sending.finished()
            if report["received"] != count or report["gaps"] or report["refused"]:
                raise RuntimeError(
                    f"{system.name}: {count} events, the clients had {report.fields}"
                )
            for share, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p999")):
                found[f"{label}_{name}_ms"] = report.latency_ns.quantile(share) / 1e6
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """Runcast against the floor, and a plain aiohttp for the disturbance."""
    sizes = Sizes(connects=500, seconds=1.0) if quick else Sizes()
    found: dict[str, Found] = {}
    for what, kinds in (
        (measure, (Floor, Runcast) * 2),
        (disturbance, (Floor, Runcast, PlainAiohttp, Floor, Runcast)),
    ):
        for kind in kinds:
            known = found.setdefault(kind.name, {})
            known.update(least(known, what(kind, sizes)))
    return found


def least(known: Found, measured: Found) -> Found:
    """Of two measurements each cost and latency where others on the machine disturbed it less."""
    return {name: min(cost, known.get(name, cost)) for name, cost in measured.items()}


SCENARIO: Final = Scenario(
    name="connect", what="CPU of a connect, and what connects do to the others", run=run
)
