"""Which threads a user has, those of the retention time, and what is under way in them.

``register.lua`` keeps the lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from broker.channels import Owner, Scope
from broker.lifecycle import State
from broker.redis.store import Store, unavailable_if_refused


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended."""

    run_id: str
    agent: str
    scope: Scope


class Threads(Store):
    """The index of threads."""

    @unavailable_if_refused
    async def open_runs(self, owner: Owner, thread_id: str) -> list[OpenRun]:
        """The thread's open runs that are nobody's sub-agents, the one begun last first."""
        partition = self.keys.partition(owner)
        run_ids = await self.client.execute("ZRANGE", self.keys.runs(owner), 0, -1)
        if not run_ids:
            return []
        fields = ("owner", "thread", "state", "request", "created", "agent", "scope")
        stored = await self.client.execute_many(
            [("HMGET", self.keys.run(partition, each.decode()), *fields) for each in run_ids]
        )
        found = []
        for raw, (token, thread, state, request, created, agent, scope) in zip(
            run_ids, stored, strict=True
        ):
            is_here = token == owner.token.encode() and thread == thread_id.encode()
            if not is_here or state == State.COMPLETED.encode():
                continue
            if orjson.loads(request)["parent_run_id"] is None:
                run = OpenRun(raw.decode(), agent.decode(), Scope(scope.decode()))
                found.append((int(created), run))
        return [run for _, run in sorted(found, key=lambda each: each[0], reverse=True)]

    @unavailable_if_refused
    async def threads(self, owner: Owner, *, most: int) -> list[tuple[str, int]]:
        """Thread ids and when each was used last, in ms since 1970; the latest first."""
        found = await self.client.execute(
            "ZRANGE", self.keys.threads(owner), 0, most - 1, "REV", "WITHSCORES"
        )
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(thread.decode(errors="replace"), int(used)) for thread, used in pairs]
