"""Whose turn it is, of several gateways: a lock in Redis that lives a little longer than a tick.

It saves work and guarantees nothing: for a moment two can have it, as when one was stopped and goes
on. What is done in turn must bear that.
"""

from __future__ import annotations

from typing import Final

from broker.redis.client import RedisClient


class _Nobody:
    """Gets a reply that nothing hangs on: a lock not prolonged now will be the next time."""

    def done(self) -> bool:
        """It is not wanted."""
        return True

    def set_result(self, result: object, /) -> None:
        """Nor when it is there."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Nor this."""


_NOBODY: Final = _Nobody()


class Turn:
    """One gateway's; ``key`` holds the id of the one whose turn it is, for ``lock_ms``."""

    def __init__(self, client: RedisClient, key: bytes, *, node_id: str, lock_ms: int) -> None:
        self._client, self._key = client, key
        self._node_id, self._lock_ms = node_id, lock_ms

    async def mine(self) -> bool:
        """Whether it is this gateway's now; it stays so if this is asked often enough."""
        key, client = self._key, self._client
        taken, holder = await client.execute_many(
            [("SET", key, self._node_id, "NX", "PX", self._lock_ms), ("GET", key)]
        )
        if holder != self._node_id.encode():
            return False
        if taken is None:
            client.ask(_NOBODY, "PEXPIRE", key, self._lock_ms)
        return True

    async def give_up(self) -> None:
        """Let another one have it at once."""
        if await self._client.execute("GET", self._key) == self._node_id.encode():
            await self._client.execute("PEXPIRE", self._key, 1)
