"""Runs whose time is up: found, and given to another worker or to whoever ends them."""

from __future__ import annotations

from collections.abc import Sequence

from broker.channels import Owner, Scope
from broker.redis import scripts
from broker.redis.records import Claim, claim_of, text_pairs
from broker.redis.runs import Runs
from broker.redis.store import milliseconds, random_step


class Overdue(Runs):
    """What a sweeper asks for."""

    async def due(
        self, partitions: Sequence[int], *, epoch_ms: int, most: int
    ) -> list[list[bytes]]:
        """Run ids whose deadline has passed, per partition; ``epoch_ms`` is Redis' own clock."""
        return await self.client.execute_many(
            [
                ("ZRANGEBYSCORE", self.keys.leases(each), "-inf", epoch_ms, "LIMIT", 0, most)
                for each in partitions
            ]
        )

    async def take_over(
        self,
        partition: int,
        run_id: str,
        *,
        node_id: str,
        unclaimed_only: bool = False,
        spare: bool = False,
    ) -> tuple[Claim, str, str] | None:
        """Decide over a run whose deadline has passed.

        With ``unclaimed_only``: end one that was stopped before a worker had it. With ``spare``:
        give a claimed one that nobody stopped another lease, for its worker may have been cut off
        from Redis as long as the caller was. Returns (claim, status, error code) when the caller is
        now the one to write its terminal event; None when it is queued again or needs nothing.
        """
        keys, limits = self.keys, self.limits
        run_key = keys.run(partition, run_id)
        token, scope, name, thread = await self.client.execute(
            "HMGET", run_key, "owner", "scope", "name", "thread"
        )
        if token is None:
            await self.client.execute("ZREM", keys.leases(partition), run_id)
            return None
        owner = Owner.from_token(token.decode())
        channel = keys.channel(owner, Scope(scope.decode()), name.decode())
        reply = await self._run_script(
            scripts.EXPIRE,
            [
                run_key,
                keys.leases(partition),
                channel.open,
                keys.thread(owner, thread.decode()),
                keys.runs(owner),
            ],
            [
                run_id,
                node_id,
                milliseconds(limits.lease_seconds),
                milliseconds(limits.queue_timeout_seconds),
                "force" if unclaimed_only else "spare" if spare else "",
                limits.kept_seconds,
                random_step(),
            ],
        )
        if reply[0] == b"ENQUEUE":
            await self._enqueue(reply[1].decode(), partition, run_id)
        if reply[0] != b"END":
            return None
        claim = claim_of(text_pairs(reply[3]), self.keys)
        return claim, reply[1].decode(), reply[2].decode()
