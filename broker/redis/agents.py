"""Which agents there are: announced by their workers, remembered for the retention time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

import orjson

from broker.cursor import from_redis
from broker.errors import QueueFull, UnknownAgent
from broker.redis.records import AgentSpec, pairs, spec_of
from broker.redis.store import Store, unavailable_if_refused

LEAST_KEPT_SECONDS: Final = 20
"""Workers announce their agents every five seconds: one that lives is known, however short the
retention time is."""
WORKERS_TTL_SECONDS: Final = 60
"""Of what workers say of themselves, if none of them says anything any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What one worker says of itself.

    ``at``: when, in seconds since 1970. ``running``: agent that it serves → runs that it carries.
    """

    at: float
    concurrency: int
    running: Mapping[str, int]


class Queue(NamedTuple):
    """An agent's requests that no worker has claimed; ``oldest_ms``: Redis' clock, None: empty."""

    length: int
    oldest_ms: int | None


class Agents(Store):
    """The registry of agents."""

    @unavailable_if_refused
    async def announce(self, specs: Sequence[AgentSpec]) -> None:
        """Make agents known for the retention time at least; workers repeat it while they live."""
        fields: list[bytes | str] = []
        for spec in specs:
            fields += [spec.name, orjson.dumps(asdict(spec))]
        kept = max(self.limits.history_ttl_seconds, LEAST_KEPT_SECONDS)
        await self.client.execute_many(
            [("HSET", self.keys.agents, *fields), ("EXPIRE", self.keys.agents, kept)]
        )

    async def agent(self, name: str) -> AgentSpec:
        """The agent's declaration. UnknownAgent; QueueFull when its queue is at the limit."""
        stored, waiting = await self.client.execute_many(
            [("HGET", self.keys.agents, name), ("XLEN", self.keys.requests(name))]
        )
        spec = None if stored is None else spec_of(stored)
        if spec is None:
            raise UnknownAgent(subject=name)
        if waiting >= self.limits.max_queued_requests:
            raise QueueFull(subject=name, detail=f"{waiting} requests wait")
        return spec

    async def agents(self) -> dict[str, AgentSpec]:
        """Every agent that is known."""
        stored = pairs(await self.client.execute("HGETALL", self.keys.agents))
        specs = map(spec_of, stored.values())
        return {spec.name: spec for spec in specs if spec is not None}

    @unavailable_if_refused
    async def tell_worker(self, worker_id: str, report: WorkerReport) -> None:
        """Say what a worker is doing; it repeats that while it lives."""
        await self.client.execute_many(
            [
                ("HSET", self.keys.workers, worker_id, orjson.dumps(asdict(report))),
                ("EXPIRE", self.keys.workers, WORKERS_TTL_SECONDS),
            ]
        )

    @unavailable_if_refused
    async def forget_workers(self, *worker_ids: str) -> None:
        """These are gone."""
        await self.client.execute("HDEL", self.keys.workers, *worker_ids)

    @unavailable_if_refused
    async def workers(self) -> dict[str, WorkerReport]:
        """What every worker said last, those that died since included: see their ``at``."""
        stored = pairs(await self.client.execute("HGETALL", self.keys.workers))
        reports = {name.decode(errors="replace"): _report_of(each) for name, each in stored.items()}
        return {name: report for name, report in reports.items() if report is not None}

    @unavailable_if_refused
    async def queues(self, agents: Sequence[str]) -> dict[str, Queue]:
        """How long each agent's queue is, and since when its oldest request waits."""
        replies = await self.client.execute_many(
            [
                command
                for name in agents
                for command in (
                    ("XLEN", self.keys.requests(name)),
                    ("XRANGE", self.keys.requests(name), "-", "+", "COUNT", 1),
                )
            ]
        )
        return {
            name: Queue(length, from_redis(oldest[0][0]).ms if oldest else None)
            for name, length, oldest in zip(agents, replies[::2], replies[1::2], strict=True)
        }

    @unavailable_if_refused
    async def waiting(self, agents: Sequence[str]) -> dict[str, int]:
        """How many requests wait for a worker, by agent."""
        lengths = await self.client.execute_many(
            [("XLEN", self.keys.requests(name)) for name in agents]
        )
        return dict(zip(agents, lengths, strict=True))


def _report_of(stored: bytes) -> WorkerReport | None:
    """None for what is none."""
    try:
        fields = orjson.loads(stored)
        running = {str(agent): int(count) for agent, count in fields["running"].items()}
        return WorkerReport(
            at=float(fields["at"]), concurrency=int(fields["concurrency"]), running=running
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
