"""The publish script: how much of a Redis core one event takes, with nobody listening."""

from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from redis import Redis

from tests.benchmarks.system.feed import Feed, Pace
from tests.benchmarks.system.measuring import Found, Scenario
from tests.benchmarks.system.processes import Meter
from tests.benchmarks.system.runs import EVENT_BYTES, body, opened_runs, packed
from tests.benchmarks.system.systems import running_redis, users

SATURATED: Final = Pace(window=500)
"""Redis always has the next commands in its hand, as when many workers publish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    users: int = 1000
    events: int = 100_000


def measure(sizes: Sizes) -> dict[str, Found]:
    """CPU of Redis per event, of the script and of what it is made of."""
    names = users(sizes.users)
    text = body(1, size=EVENT_BYTES, epoch_ms=0)
    found: dict[str, Found] = {}
    with TemporaryDirectory(prefix="runcast-bench-") as name, running_redis(Path(name)) as redis:
        runs = opened_runs(redis.url, names)
        parts = {
            "publish.lua": runs.commands(names, sizes.events, size=EVENT_BYTES),
            "XADD": (
                packed("XADD", f"log-{names[index % len(names)]}", "*", "e", text)
                for index in range(sizes.events)
            ),
            "PUBLISH": (
                packed("PUBLISH", names[index % len(names)], text) for index in range(sizes.events)
            ),
        }
        for label, commands in parts.items():
            feed = Feed(Path(name) / label, commands, port=redis.port)
            before = _calls(redis.port)
            meter = Meter([redis.pid])
            feed.send(sizes.events, SATURATED)
            used = meter.used_ns() / sizes.events / 1000
            calls = _calls(redis.port)
            found[label] = {
                "redis_us": used,
                "events_per_core": 1e6 / used,
                "commands_within": {
                    verb: (count - before.get(verb, 0)) / sizes.events
                    for verb, count in calls.items()
                    if count - before.get(verb, 0) >= sizes.events / 100
                },
            }
    return found


def _calls(port: int) -> dict[str, int]:
    with Redis(port=port) as redis:
        stats = redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): fields["calls"] for name, fields in stats.items()}


def run(*, quick: bool) -> dict[str, Found]:
    """The script against its bare parts; of two measurements what others disturbed less."""
    sizes = Sizes(events=20_000) if quick else Sizes()
    one, other = measure(sizes), measure(sizes)
    return {label: min(one[label], other[label], key=itemgetter("redis_us")) for label in one}


SCENARIO: Final = Scenario(name="script", what="CPU of Redis per published event", run=run)
