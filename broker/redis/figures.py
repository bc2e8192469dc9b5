"""Counts of runs over the whole fleet, from Redis itself."""

from __future__ import annotations

from broker.lifecycle import State
from broker.redis.records import pairs
from broker.redis.store import Store


class Figures(Store):
    """What ``/ws/stats`` says about runs."""

    async def open_by_state(self, *, most: int = 10_000) -> tuple[dict[str, int], int]:
        """How many open runs there are by state, and how many events they published so far.

        Counted, not estimated; ``most`` per partition bounds the work.
        """
        members = await self.client.execute_many(
            [
                ("ZRANGE", self.keys.leases(each), 0, most - 1)
                for each in range(self.keys.partitions)
            ]
        )
        stored = await self.client.execute_many(
            [
                ("HMGET", self.keys.run(partition, run_id.decode()), "state", "seq")
                for partition, runs in enumerate(members)
                for run_id in runs
            ]
        )
        counts = {state.value: 0 for state in State if state is not State.COMPLETED}
        published = 0
        for state, seq in stored:
            if state is not None and state.decode() in counts:
                counts[state.decode()] += 1
                published += int(seq)
        return counts, published

    async def ended_by_agent(self) -> dict[str, int]:
        """The fleet's counters of ended runs: agent, newline, word → count.

        Words are the statuses, ``total``, ``incomplete`` and ``published`` (events).
        """
        stored = pairs(await self.client.execute("HGETALL", self.keys.run_counts))
        return {name.decode(): int(count) for name, count in stored.items()}
