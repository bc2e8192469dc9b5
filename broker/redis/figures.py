"""Counts of runs over the whole fleet, from Redis itself."""

from __future__ import annotations

from collections import Counter
from typing import Final

from broker.lifecycle import State
from broker.redis.records import pairs
from broker.redis.store import Store, unavailable_if_refused

AT_ONCE: Final = 500
"""Runs asked for in one turn: ten thousand would keep the event loop from all else."""


class Figures(Store):
    """What ``/ws/stats`` says about runs."""

    @unavailable_if_refused
    async def open_by_state(self, *, most: int = 10_000) -> tuple[dict[str, int], int]:
        """How many open runs there are by state, and how many events they published so far.

        Counted, not estimated; ``most`` per partition bounds the work.
        """
        stored = await self._of_open_runs("state", "seq", most=most)
        counts = {state.value: 0 for state in State if state is not State.COMPLETED}
        published = 0
        for word, seq in stored:
            state, number = (word or b"").decode(errors="replace"), _number(seq)
            if state in counts and number is not None:
                counts[state] += 1
                published += number
        return counts, published

    @unavailable_if_refused
    async def open_by_agent(self, *, most: int = 10_000) -> Counter[tuple[str, str]]:
        """How many open runs there are by agent and state; as :meth:`open_by_state`."""
        states = {state.value for state in State if state is not State.COMPLETED}
        counts: Counter[tuple[str, str]] = Counter()
        for stored in await self._of_open_runs("agent", "state", most=most):
            agent, state = ((each or b"").decode(errors="replace") for each in stored)
            if state in states:
                counts[agent, state] += 1
        return counts

    async def _of_open_runs(self, *fields: str, most: int) -> list[list[bytes | None]]:
        members = await self.client.execute_many(
            [
                ("ZRANGE", self.keys.leases(each), 0, most - 1)
                for each in range(self.keys.partitions)
            ]
        )
        asked: list[tuple[bytes | str, ...]] = [
            ("HMGET", self.keys.run(partition, run_id.decode(errors="replace")), *fields)
            for partition, runs in enumerate(members)
            for run_id in runs
        ]
        told: list[list[bytes | None]] = []
        for at in range(0, len(asked), AT_ONCE):
            told += await self.client.execute_many(asked[at : at + AT_ONCE])
        return told

    @unavailable_if_refused
    async def ended_by_agent(self) -> dict[str, int]:
        """The fleet's counters of ended runs: agent, newline, word → count.

        Words are the statuses, ``total``, ``incomplete`` and ``published`` (events).
        """
        stored = pairs(await self.client.execute("HGETALL", self.keys.run_counts))
        numbers = {name.decode(errors="replace"): _number(each) for name, each in stored.items()}
        return {name: number for name, number in numbers.items() if number is not None}


def _number(stored: bytes | None) -> int | None:
    """A counter of Redis; None for what is none."""
    return int(stored) if stored is not None and stored.isdigit() and len(stored) < 20 else None  # noqa: PLR2004 - 64 bits
