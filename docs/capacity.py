"""How much of everything so many users need: the model of docs/topics/scaling.md. Pure.

Every constant is a figure of the published benchmark; none stands here. What the model adds is
arithmetic: costs are proportional to what happens, processes and shards are whole numbers, and the
fullest shard (``docs/layout.py``) is what counts, not the mean one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.config import Settings
from docs.layout import fullest_share

Scenarios = Mapping[str, Mapping[str, Any]]
OURS: Final = "Runcast"
FRAME_BYTES: Final = 4
"""The header of a WebSocket frame of 126 to 65,535 bytes from a server (RFC 6455, 5.2)."""
MEMORY_SEEN: Final[Mapping[int, int]] = {1000: 89411584, 5000: 106000384, 12000: 134500352}
"""Connections → bytes of a gateway, by ``runcast bench --only memory`` of 26 November 2026 on
another machine than the published benchmark's: a measurement that no constant comes from."""
MOST_SHARDS: Final = 1000
"""The size that the Redis Cluster specification is made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What one of each costs. CPU in microseconds of one core, memory in bytes."""

    delivery_us: float
    """Gateway: an event to one socket, in bulk, among the most users that were measured: with
    few of them, what an event needs is still in the processor's caches."""
    publish_us: float
    """Redis: an event, its log and its live message, among as many."""
    token_us: float
    """Gateway: a token of streamed text to one socket."""
    token_redis_us: float
    tokens_per_frame: float
    connection_us: float
    """Gateway: each second of a connection with an open run: heartbeat, looks at the log."""
    connection_redis_us: float
    """Redis: the same second."""
    connect_us: float
    connect_redis_us: float
    connection_bytes: float
    process_bytes: float
    """Gateway: a process without connections."""
    user_bytes: float
    """Redis: a user with a log and an open run."""
    event_overhead_bytes: float
    """Redis: a retained event, beyond the bytes of the event."""
    most_connections: int
    """The most of one process that were measured."""

    @classmethod
    def of(cls, scenarios: Scenarios) -> Costs:
        """From what ``make bench ARGS=--publish`` stored."""
        found = {name: each[OURS] for name, each in scenarios.items() if OURS in each}
        text, idle, growth = found["text"], found["idle"], found["growth"]
        among_most = growth["users"][_sizes(growth["users"])[-1]]
        sizes = growth["connections"]
        least, most = min(sizes, key=int), max(sizes, key=int)
        more_redis_us = _redis_us_a_second(sizes[most]) - _redis_us_a_second(sizes[least])
        return cls(
            delivery_us=among_most["delivering_us"],
            publish_us=among_most["redis_us"],
            token_us=text["gateway_cores"] / text["tokens_per_second"] * 1e6,
            token_redis_us=text["redis_cores"] / text["tokens_per_second"] * 1e6,
            tokens_per_frame=text["tokens_per_second"]
            * text["expected_seconds"]
            / text["deliveries"],
            connection_us=sizes[most]["background_cores"] / int(most) * 1e6,
            connection_redis_us=max(0.0, more_redis_us / (int(most) - int(least))),
            connect_us=found["connect"]["new_ms"] * 1000,
            connect_redis_us=found["connect"]["new_redis_ms"] * 1000,
            connection_bytes=idle["bytes_each"],
            process_bytes=idle["process_bytes"] - idle["bytes_each"] * idle["connections"],
            user_bytes=growth["users"]["redis_bytes_per_user"],
            event_overhead_bytes=growth["history"]["redis_bytes_per_event"]
            - growth["history"]["event_bytes"],
            most_connections=int(most),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who is there, and what they do."""

    users: int
    """Those who were there within the retention time."""
    connected: float = 1.0
    """The part of them that is connected now."""
    tabs: float = 1.0
    """Connections of a connected user."""
    runs_per_minute: float = 0.2
    """Of a connected user."""
    events_per_run: float = 10
    tokens_per_run: float = 300
    event_bytes: float = 300
    partitions: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How full parts may be."""

    busy: float = 0.5
    """Of one core, by a process or a shard: the rest is for others' failures and for latency."""
    shard_bytes: float = 16 * 2**30
    retained: int = Settings.model_fields["history_events"].default
    retained_seconds: float = Settings.model_fields["history_ttl_seconds"].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes. Rates are per second, cores of the machine of the benchmark."""

    connections: float
    events: float
    deliveries: float
    """Events and frames of text, to sockets."""
    gateways: int
    gateway_cores: float
    gateway_bytes: float
    shards: int
    redis_cores: float
    redis_bytes: float
    client_bytes: float
    """From all gateways to clients, before TLS and TCP."""
    return_seconds: float
    """Until all connections are back after all were lost, with every gateway's core full."""


class TooFewPartitions(ValueError):
    """No number of shards is enough: one partition is in one shard, whatever there is beside it."""


def plan(load: Load, costs: Costs, machine: Machine | None = None) -> Plan:
    """What ``load`` needs. TooFewPartitions: see there."""
    machine = machine or Machine()
    present = load.users * load.connected
    connections = present * load.tabs
    runs = present * load.runs_per_minute / 60
    events, tokens = runs * load.events_per_run, runs * load.tokens_per_run
    frames = events + tokens / costs.tokens_per_frame
    us = load.tabs * (events * costs.delivery_us + tokens * costs.token_us)
    gateway_cores = (us + connections * costs.connection_us) / 1e6
    redis_us = events * costs.publish_us + tokens * costs.token_redis_us
    redis_cores = (redis_us + connections * costs.connection_redis_us) / 1e6
    user_events = load.runs_per_minute / 60 * load.events_per_run * machine.retained_seconds
    retained = present * min(machine.retained, user_events)
    redis_bytes = load.users * costs.user_bytes + retained * (
        load.event_bytes + costs.event_overhead_bytes
    )
    gateways = max(
        1,
        math.ceil(connections / costs.most_connections),
        math.ceil(gateway_cores / machine.busy),
    )
    return Plan(
        connections=connections,
        events=events,
        deliveries=frames * load.tabs,
        gateways=gateways,
        gateway_cores=gateway_cores,
        gateway_bytes=gateways * costs.process_bytes + connections * costs.connection_bytes,
        shards=_shards(redis_cores / machine.busy, redis_bytes / machine.shard_bytes, load),
        redis_cores=redis_cores,
        redis_bytes=redis_bytes,
        client_bytes=frames * load.tabs * (load.event_bytes + FRAME_BYTES),
        return_seconds=connections * costs.connect_us / 1e6 / gateways,
    )


def _shards(by_cpu: float, by_memory: float, load: Load) -> int:
    """The fewest of which the fullest is not too full. A single one is no Cluster."""
    whole = max(by_cpu, by_memory)
    for shards in range(max(1, math.ceil(whole)), MOST_SHARDS + 1):
        if whole * fullest_share(load.partitions, shards) <= 1:
            return shards
    raise TooFewPartitions(
        f"{load.partitions} partitions are too few: the load of {whole:.0f} shards cannot be "
        f"spread evenly enough; set RUNCAST_PARTITIONS before the first user comes"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A figure that the model gives, and the same measured."""

    what: str
    size: str
    measured: float
    modelled: float
    unit: str = "µs"

    @property
    def off(self) -> float:
        """The model's error as a part of what was measured; above 0 it asks for too much."""
        return self.modelled / self.measured - 1


def compared(scenarios: Scenarios) -> list[Compared]:
    """The model beside what was found at several sizes, CPU in microseconds, memory in MB.

    The cost of a delivery and of a publish come from most users of `growth`, which are not among
    these; what a connection costs while nothing happens, from its largest size, for Redis from the
    largest and the smallest. Memory is compared with ``MEMORY_SEEN``.
    """
    costs = Costs.of(scenarios)
    growth = scenarios["growth"][OURS]
    found = []
    for size, row in growth["connections"].items():
        seconds = row["seconds"] / row["deliveries"]
        with_connections = f"{int(size):,} connections"
        delivery = costs.delivery_us + int(size) * costs.connection_us * seconds
        event = costs.publish_us + int(size) * costs.connection_redis_us * seconds
        found += [
            _row("gateway, a delivery", with_connections, row["delivering_us"], delivery),
            _row("Redis, an event", with_connections, row["redis_us"], event),
        ]
    *fewer, _ = _sizes(growth["users"])
    of_users = {f"{int(size):,} users with a log": growth["users"][size] for size in fewer}
    of_users["1,000 users, scenario *delivery*"] = scenarios["delivery"][OURS]["bulk"]
    for size, row in of_users.items():
        found += [
            _row("gateway, a delivery", size, row["delivering_us"], costs.delivery_us),
            _row("Redis, an event", size, row["redis_us"], costs.publish_us),
        ]
    for connections, seen in MEMORY_SEEN.items():
        modelled = costs.process_bytes + connections * costs.connection_bytes
        found.append(
            Compared(
                what="memory of a gateway",
                size=f"{connections:,} connections",
                measured=seen / 2**20,
                modelled=modelled / 2**20,
                unit="MB",
            )
        )
    return sorted(found, key=lambda each: each.what.lower())


def _sizes(users: Mapping[str, Any]) -> list[str]:
    """From the smallest on; what else is there are figures of all sizes."""
    return sorted(filter(str.isdigit, users), key=int)


def _redis_us_a_second(row: Mapping[str, float]) -> float:
    return row["redis_us"] * row["events"] / row["seconds"]


def _row(what: str, size: str, measured: float, modelled: float) -> Compared:
    return Compared(what=what, size=size, measured=measured, modelled=modelled)
