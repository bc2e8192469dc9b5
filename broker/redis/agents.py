"""Which agents there are: announced by their workers, remembered for the retention time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import orjson

from broker.errors import QueueFull, UnknownAgent
from broker.redis.records import AgentSpec, pairs, spec_of
from broker.redis.store import Store, unavailable_if_refused

LEAST_KEPT_SECONDS: Final = 20
"""Workers announce their agents every five seconds: one that lives is known, however short the
retention time is."""


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
    async def waiting(self, agents: Sequence[str]) -> dict[str, int]:
        """How many requests wait for a worker, by agent."""
        lengths = await self.client.execute_many(
            [("XLEN", self.keys.requests(name)) for name in agents]
        )
        return dict(zip(agents, lengths, strict=True))
