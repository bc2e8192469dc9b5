"""The figures of one gateway process, and those of the fleet, read at scrape time.

What a gateway counts are numbers on the objects that do the work; they are looked at here, when
somebody asks. Nothing waits for Redis longer than :data:`FLEET_SECONDS`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final

import structlog
from prometheus_client import ProcessCollector
from redis.exceptions import ResponseError

from broker.channels import Mode
from broker.errors import BrokerUnavailable
from broker.events import STATUSES
from broker.lifecycle import State
from gateway.fleet import STALE_SECONDS
from gateway.metrics import METRICS, Sample, by_agent
from gateway.node import Node
from gateway.resync import REASONS
from gateway.version import product_version

log = structlog.get_logger(__name__)

FLEET_SECONDS: Final = 2.0
"""Without an answer of Redis by then, the process's own figures are told alone."""

AT_ONCE: Final = 1000
"""Connections looked at before others have their turn of the event loop."""

_process = ProcessCollector(registry=None)


async def of_process(node: Node) -> list[Sample]:
    """What this process says of itself; as far as it sweeps, the open runs too."""
    samples = [*_simple(node), *_labelled(node), *node.meters.samples(), *_operating_system()]
    samples.append(Sample("runcast_outbox_bytes", (), await _unsent(node)))
    if node.sweeper.active:
        samples += await _told(_open_runs(node)) or ()
    return samples


async def of_fleet(node: Node) -> list[Sample]:
    """What Redis says of all: runs, queues, workers."""
    samples = await _told(_fleet(node))
    return [Sample("runcast_fleet_up", (), samples is not None), *(samples or ())]


def _simple(node: Node) -> Iterator[Sample]:
    subscriber, hub = node.relay.subscriber, node.relay.hub
    feeds = list(hub.feeds())
    values: Mapping[str, float] = {
        "runcast_ready": node.ready,
        "runcast_draining": node.draining,
        "runcast_messages_accepted_total": node.tally.accepted,
        "runcast_channels": len(feeds),
        "runcast_events_published_total": hub.counters.published,
        "runcast_events_delivered_total": hub.counters.delivered,
        "runcast_events_replayed_total": hub.counters.replayed,
        "runcast_events_repaired_total": hub.counters.repaired,
        "runcast_isolation_violations_total": hub.counters.isolation_violations,
        "runcast_clients_lagging": sum(len(feed.joining) for feed in feeds),
        "runcast_subscriber_hearing": subscriber.hearing,
        "runcast_subscriber_silence_seconds": time.monotonic() - node.probe.heard_at,
        "runcast_subscriber_reconnects_total": max(0, subscriber.reconnects),
        "runcast_redis_connected": node.client.connected,
        "runcast_sweeper_active": node.sweeper.active,
        "runcast_sweeps_total": node.sweeper.sweeps,
    }
    return (Sample(name, (), value) for name, value in values.items())


def _labelled(node: Node) -> Iterator[Sample]:
    yield Sample("runcast_build_info", (product_version(),), 1)
    sockets, zero = node.sockets, dict.fromkeys(((mode.value, "websocket") for mode in Mode), 0)
    counts: Mapping[str, Mapping[Any, int]] = {
        "runcast_connections": {**zero, **sockets.there},
        "runcast_connects_total": {**zero, **sockets.came},
        "runcast_refused_total": node.tally.refused,
        "runcast_closes_total": node.closes,
        "runcast_resyncs_total": {**dict.fromkeys(REASONS, 0), **node.relay.hub.resyncs},
        "runcast_sweeper_runs_ended_total": {
            **dict.fromkeys(STATUSES, 0), **node.sweeper.ended
        },
    }  # fmt: skip
    for name, values in counts.items():
        for labels, count in values.items():
            yield Sample(name, labels if isinstance(labels, tuple) else (labels,), count)


def _operating_system() -> Iterator[Sample]:
    for metric in _process.collect():
        for sample in metric.samples:
            if sample.name in METRICS:
                yield Sample(sample.name, (), sample.value)


async def _unsent(node: Node) -> int:
    total = seen = 0
    for turn in range(node.sockets.turns):
        for socket in list(node.sockets.turn(turn)):
            total += socket.outbox.size + socket.unsent
            seen += 1
        if seen >= AT_ONCE:
            seen = 0
            await asyncio.sleep(0)
    return total


async def _told(asking: Coroutine[Any, Any, list[Sample]]) -> list[Sample] | None:
    """What Redis tells; None when it does not, or not in time."""
    try:
        async with asyncio.timeout(FLEET_SECONDS):
            return await asking
    except (BrokerUnavailable, TimeoutError):
        return None  # runcast_redis_connected, or the silence, says so
    except ResponseError as error:
        log.warning("figures_unreadable", why=str(error))
        return None


async def _open_runs(node: Node) -> list[Sample]:
    counts = await node.broker.open_by_agent()
    states = [state.value for state in State if state is not State.COMPLETED]
    return [
        Sample("runcast_runs_open", (agent, state), count)
        for state in states
        for agent, count in by_agent(
            {agent: counts[agent, state] for agent, _ in counts}
        ).items()
    ]  # fmt: skip


async def _fleet(node: Node) -> list[Sample]:
    broker = node.broker
    agents, ended, workers, others = await asyncio.gather(
        broker.agents(), broker.ended_by_agent(), broker.workers(), node.fleet.others()
    )
    queues = await broker.queues(list(agents))
    now = time.time()
    alive = [each for each in workers.values() if each.at > now - STALE_SECONDS]
    serving: Counter[str] = Counter()
    capacity: Counter[str] = Counter()
    running: Counter[str] = Counter()
    for worker in alive:
        for agent, count in worker.running.items():
            serving[agent] += 1
            capacity[agent] += worker.concurrency
            running[agent] += count
    none = dict.fromkeys(agents, 0)
    ages = {
        name: 0.0 if queue.oldest_ms is None else max(0.0, now - queue.oldest_ms / 1000)
        for name, queue in queues.items()
    }
    lengths = {name: queue.length for name, queue in queues.items()}
    return [
        Sample("runcast_gateways", (), len(others) + 1),
        *_of_runs(ended),
        *_of_agents("runcast_queue_requests", lengths),
        *_of_agents("runcast_queue_oldest_seconds", ages, together=max),
        *_of_agents("runcast_workers", none | serving),
        *_of_agents("runcast_workers_capacity", none | capacity),
        *_of_agents("runcast_workers_running", none | running),
    ]


def _of_agents(
    name: str,
    counts: Mapping[str, float],
    *,
    together: Callable[[Iterable[float]], float] = sum,
) -> Iterator[Sample]:
    shown = by_agent(counts, together=together)
    return (Sample(name, (agent,), count) for agent, count in shown.items())


def _of_runs(ended: Mapping[str, int]) -> Iterable[Sample]:
    """The fleet's counters: agent, newline, word → count."""
    words: dict[str, dict[str, float]] = {}
    agents = {name.partition("\n")[0] for name in ended}
    for name, number in ended.items():
        agent, _, word = name.partition("\n")
        words.setdefault(word, dict.fromkeys(agents, 0))[agent] = number
    none: dict[str, float] = dict.fromkeys(agents, 0)
    for status in STATUSES:
        for agent, count in by_agent(words.get(status, none)).items():
            yield Sample("runcast_runs_ended_total", (agent, status), count)
    for name, word in (("incomplete", "incomplete"), ("events", "published")):
        counts = words.get(word, none)
        yield from _of_agents(f"runcast_runs_{name}_total", counts)
