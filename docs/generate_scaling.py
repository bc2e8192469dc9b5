"""The tables of docs/topics/scaling.md: figures of the published benchmark, and the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from docs import layout
from docs.capacity import Costs, Load, Machine, Plan, Scenarios, compared, plan
from docs.tables import NOTHING, table

Section = Callable[[Scenarios], str]

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
"""Connected users."""
MANY: Final = 1_000_000
"""From so many users on the tables have the most partitions that there can be."""
PARTITIONS: Final = (128, 1024, 4096)
SHARDS: Final = (3, 6, 12, 24, 48, 96, 192)
TABS: Final = 2
KILO: Final = 1000
TEN: Final = 10
RETAINED: Final = 100


def costs(scenarios: Scenarios) -> str:
    """What one of each costs."""
    cost = Costs.of(scenarios)
    rows = [
        ("a connection", f"{cost.connection_bytes / 1024:.1f} KB",
         f"{cost.connection_us:.1f} µs a second, with an open run",
         f"{cost.connection_redis_us:.1f} µs a second, with an open run"),
        ("a connect with a new token", NOTHING, f"{cost.connect_us:.0f} µs",
         f"{cost.connect_redis_us:.0f} µs"),
        ("an event: its publish, and its delivery to one socket", NOTHING,
         f"{cost.delivery_us:.1f} µs", f"{cost.publish_us:.1f} µs"),
        ("a token of streamed text", NOTHING, f"{cost.token_us:.1f} µs",
         f"{cost.token_redis_us:.1f} µs"),
        ("a user with a log and an open run", NOTHING, NOTHING, f"{cost.user_bytes / 1024:.1f} KB"),
        ("a retained event", NOTHING, NOTHING,
         f"its bytes and {cost.event_overhead_bytes:.0f} more"),
        ("a gateway process without connections", f"{cost.process_bytes / 2**20:.0f} MB",
         NOTHING, NOTHING),
    ]  # fmt: skip
    return table(("what", "gateway: memory", "gateway: CPU", "Redis"), rows)


def sizes(scenarios: Scenarios) -> str:
    """What so many connected users need."""
    cost = Costs.of(scenarios)
    rows = []
    for users in SIZES:
        load = _load(users)
        lean = plan(load, cost, Machine(retained=RETAINED))
        full = plan(load, cost)
        rows.append(
            (
                f"{users:,}",
                f"{lean.events:,.0f}",
                f"{lean.deliveries:,.0f}",
                f"{lean.gateways:,} ({_cores(lean.gateway_cores)})",
                _bytes(lean.gateway_bytes),
                f"{lean.shards:,} ({_cores(lean.redis_cores)})",
                _bytes(lean.redis_bytes),
                f"{full.shards:,}, {_bytes(full.redis_bytes)}",
                f"{_bytes(lean.client_bytes)}/s",
                f"{lean.return_seconds:.1f} s",
            )
        )
    head = (
        "connected users", "events/s", "frames/s to sockets", "gateway processes (cores busy)",
        "their memory", "Redis shards (cores busy)", "their memory",
        "the same with 1,000 events kept", "to clients", "all back after",
    )  # fmt: skip
    return table(head, rows)


def validation(scenarios: Scenarios) -> str:
    """The model beside measurements."""
    rows = (
        (each.what, each.size, f"{each.measured:.1f} {each.unit}",
         f"{each.modelled:.1f} {each.unit}",
         f"{each.off:+.0%}".replace("-", "\N{MINUS SIGN}"))
        for each in compared(scenarios)
    )  # fmt: skip
    return table(("what", "with", "measured", "model", "the model is off by"), rows)


def shards(_: Scenarios) -> str:
    """How much fuller than the mean the fullest shard is."""
    rows = (
        (f"{partitions:,}", *(f"{layout.skew(partitions, each):.2f} ×" for each in SHARDS))
        for partitions in PARTITIONS
    )
    return table(("`RUNCAST_PARTITIONS`", *(f"{each} shards" for each in SHARDS)), rows)


def hubs(scenarios: Scenarios) -> str:
    """Where connections go when each user has several."""
    cost = Costs.of(scenarios)
    rows = []
    for users in SIZES:
        needed = plan(_load(users, tabs=TABS), cost, Machine(retained=RETAINED))
        gateways = max(TABS, needed.gateways)
        found = layout.simulate(users=users, tabs=TABS, gateways=gateways)
        rows.append(
            (
                f"{users:,}",
                f"{gateways:,}",
                f"{found.subscriptions:,.0f}",
                f"{found.fullest:.2f} ×",
                f"{found.hearing:.2f}",
                f"{2 * gateways:,}",
            )
        )
    head = (
        "users with two tabs", "gateways", "subscriptions of a gateway", "the fullest one",
        "gateways that hear an event", "connections to each shard",
    )  # fmt: skip
    return table(head, rows)


def growing(scenarios: Scenarios, users: int, partitions: int) -> Plan:
    """The plan of a point of the picture; TooFewPartitions where the curve ends."""
    load = Load(users=users, partitions=partitions)
    return plan(load, Costs.of(scenarios), Machine(retained=RETAINED))


SECTIONS: Final[Mapping[str, Section]] = {
    "scaling-costs": costs,
    "scaling-sizes": sizes,
    "scaling-validation": validation,
    "scaling-shards": shards,
    "scaling-hubs": hubs,
}
"""The name in the page's marker → what stands there, from the benchmark's scenarios."""


def _load(users: int, tabs: int = 1) -> Load:
    partitions = PARTITIONS[-1] if users >= MANY else PARTITIONS[0]
    return Load(users=users, tabs=tabs, partitions=partitions)


def _cores(number: float) -> str:
    return _short(number, decimals=2)


def _bytes(number: float) -> str:
    units = iter(("bytes", "KB", "MB", "GB"))
    unit = next(units)
    while number >= KILO and unit != "GB":
        number, unit = number / 1024, next(units)
    return f"{_short(number, decimals=1)} {unit}"


def _short(number: float, *, decimals: int) -> str:
    """Two or three digits that count: decimals only below ten."""
    return f"{number:,.{decimals if number < TEN else 0}f}"
