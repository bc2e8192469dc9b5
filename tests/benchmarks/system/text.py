"""Streamed text: a thousand runs at fifty tokens a second.

The SDK merges what is written within 40 ms to one delta, so a run publishes 25 deltas a second of
two tokens each. They are packed beforehand: one worker process could not make all of them.
"""

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.system.feed import Feed, Pace
from tests.benchmarks.system.measuring import Found, Scenario, deliver, warm_up
from tests.benchmarks.system.runs import opened_runs
from tests.benchmarks.system.systems import Runcast, running, users

TOKENS_PER_SECOND: Final = 50
DELTAS_PER_SECOND: Final = 25
"""Of one run: the SDK waits 40 ms for more text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    runs: int = 1000
    seconds: float = 4.0


def measure(sizes: Sizes) -> Found:
    """Cores that the gateway and Redis use while all runs write."""
    names = users(sizes.runs)
    with running(Runcast) as system, system.clients() as clients:
        runs = opened_runs(system.redis.url, names)
        pace = Pace(rate=sizes.runs * DELTAS_PER_SECOND, burst=max(1, sizes.runs // 40))
        warm, count = int(pace.rate / 2), int(pace.rate * sizes.seconds)
        commands = runs.deltas(names, warm + count)
        feed = Feed(system.folder / "deltas", commands, port=system.redis.port)
        clients.load(system.opening(name) for name in names)
        clients.open(sizes.runs)
        warm_up(system, clients, feed, pace, warm)
        found, _ = deliver(system, clients, feed, pace, count)
    found["tokens_per_second"] = sizes.runs * TOKENS_PER_SECOND
    found["expected_seconds"] = count / pace.rate
    # What falls behind works as long as it takes: cores of work per second of text, not of wall.
    found["gateway_cores"] = found["delivering_us"] * pace.rate / 1e6
    found["redis_cores"] = found["redis_us"] * pace.rate / 1e6
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """Runcast alone."""
    sizes = Sizes(runs=200, seconds=1.0) if quick else Sizes()
    return {Runcast.name: measure(sizes)}


SCENARIO: Final = Scenario(name="text", what="cores that streamed text takes", run=run)
