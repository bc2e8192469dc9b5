"""Limits over the whole fleet: seats of connections, and a tenant's share of its users' messages.

What a user may send is decided where his runs are registered (``register.lua``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from broker.bucket import Bucket
from broker.channels import Owner
from broker.redis import scripts
from broker.redis.connection import Argument
from broker.redis.records import Claim
from broker.redis.store import Store

REGISTERING_MS: Final = 7000
"""So long after it got its place a run may not be registered yet: both are tried for 3 s each."""


class Quotas(Store):
    """What users and tenants have of what they may have."""

    def take_seat(
        self, owner: Owner, node_id: str, mine: int, *, most: int, connects: Bucket, kept_ms: int,
        again: bool = False,
    ) -> asyncio.Future[int | list[bytes]]:  # fmt: skip
        """Let one connection of a user, or a tenant, in; sent at once.

        ``mine``: how many this node has with it; ``kept_ms``: for how long, unless told again. The
        reply is 0 when it is in. Otherwise the milliseconds to wait for another connect, or, when
        all seats are taken, the other nodes that have some: ``again`` once theirs are cleared.
        """
        reply: asyncio.Future[int | list[bytes]] = asyncio.get_running_loop().create_future()
        capacity, interval_us = connects
        self.client.ask_script(
            reply,
            scripts.ADMIT,
            (self.keys.seats(owner), self.keys.bucket(owner, "connects_per_second")),
            (node_id, mine, most, capacity, interval_us, kept_ms, b"1" if again else b"0"),
        )
        return reply

    async def tell_seats(self, node_id: str, counts: Mapping[Owner, int], *, kept_ms: int) -> None:
        """How many connections this node has, of each of these owners; one pipeline."""
        commands: list[tuple[Argument, ...]] = []
        for owner, count in counts.items():
            key = self.keys.seats(owner)
            if count:
                commands.append(("HSET", key, node_id, count))
                commands.append(("PEXPIRE", key, kept_ms))
            else:
                commands.append(("HDEL", key, node_id))
        await self.client.execute_many(commands)

    async def clear_seats(self, owner: Owner, nodes: Iterable[bytes]) -> None:
        """Take away the seats of nodes that are gone."""
        await self.client.execute("HDEL", self.keys.seats(owner), *nodes)

    async def take_share(
        self, tenant: Owner, partition: int, run_id: str, *, messages: int | None, runs: int | None
    ) -> None:
        """One message of the tenant's minute and a place for the run that it is to begin.

        LimitReached; nothing is taken then, nor when the run has a place already. None: the tenant
        has no such limit.
        """
        capacity, interval_us = _bucket(messages)
        await self._run_script(
            scripts.TAKE,
            self._shared_keys(tenant),
            [
                capacity,
                interval_us,
                "" if runs is None else runs,
                _word(partition, run_id),
                self.limits.kept_seconds,
            ],
        )

    async def return_share(
        self, tenant: Owner, partition: int, run_id: str, *, messages: int | None
    ) -> None:
        """Give it back: the message began no run."""
        _, interval_us = _bucket(messages)
        await self._run_script(
            scripts.UNTAKE, self._shared_keys(tenant), [interval_us, _word(partition, run_id)]
        )

    async def forget_ended(self, tenant: Owner) -> int:
        """Take runs off a tenant's that have ended, or are gone; how many there were.

        That is done with each end; a worker can die in between. A gateway, too, before the run is
        registered: but until it would have given up it may be about to.
        """
        key = self.keys.runs(tenant)
        placed, (seconds, _) = await asyncio.gather(
            self.client.submit("ZRANGE", key, 0, -1, "WITHSCORES"),
            self.client.submit_to(key, "TIME"),
        )
        words, long_ago = placed[::2], int(seconds) * 1000 - REGISTERING_MS
        runs = [word.decode(errors="replace").partition(" ") for word in words]
        states = await self.client.execute_many(
            [
                (
                    "HGET",
                    self.keys.run(int(partition) if partition.isdecimal() else 0, run),
                    "state",
                )
                for partition, _, run in runs
            ]
        )
        over = [
            word
            for word, since, state in zip(words, placed[1::2], states, strict=True)
            if state == b"completed" or (state is None and int(since) < long_ago)
        ]
        if over:
            await self.client.execute("ZREM", key, *over)
        return len(over)

    def _shared_keys(self, tenant: Owner) -> list[Argument]:
        return [self.keys.bucket(tenant, "messages_per_minute"), self.keys.runs(tenant)]

    async def _count_run(self, claim: Claim) -> None:
        """A run that no client began is one of its tenant's, too."""
        if claim.owner.group is not None:
            key, word = self.keys.runs(claim.owner.group), _word(claim.partition, claim.run_id)
            await self.client.execute_many(
                [
                    ("ZADD", key, claim.created_ms, word),
                    ("EXPIRE", key, self.limits.kept_seconds),
                ]
            )

    def _uncounting(self, claim: Claim) -> list[tuple[bytes | str, ...]]:
        """The command that takes an ended run off its tenant's."""
        if claim.owner.group is None:
            return []
        return [("ZREM", self.keys.runs(claim.owner.group), _word(claim.partition, claim.run_id))]


def _bucket(messages: int | None) -> tuple[int | str, int | str]:
    return ("", "") if messages is None else Bucket.per(messages, 60)


def _word(partition: int, run_id: str) -> str:
    """A run in a tenant's set: where it is, and which."""
    return f"{partition} {run_id}"
