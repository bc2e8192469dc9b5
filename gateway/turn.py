"""Whose turn it is, of several gateways: a lock in Redis that lives a little longer than a tick.

It saves work and guarantees nothing: for a moment two can have it, as when one was stopped and goes
on. What is done in turn must bear that.
"""

from __future__ import annotations

from broker.redis.client import RedisClient


class Turn:
    """One gateway's; ``key`` holds the id of the one whose turn it is, for ``lock_ms``."""

    def __init__(self, client: RedisClient, key: bytes, *, node_id: str, lock_ms: int) -> None:
        self._client, self._key = client, key
        self._node_id, self._lock_ms = node_id, lock_ms

    async def mine(self) -> bool:
        """Whether it is this gateway's now; it stays so if this is asked often enough."""
        key, client = self._key, self._client
        if await client.execute("SET", key, self._node_id, "NX", "PX", self._lock_ms) is not None:
            return True
        if await client.execute("GET", key) != self._node_id.encode():
            return False
        await client.execute("PEXPIRE", key, self._lock_ms)
        return True

    async def give_up(self) -> None:
        """Let another one have it at once."""
        if await self._client.execute("GET", self._key) == self._node_id.encode():
            await self._client.execute("PEXPIRE", self._key, 1)
