"""What the gateways of a fleet tell of themselves, in Redis: who is there, and its figures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from broker.channels import Keys
from broker.redis.client import RedisClient
from gateway.stats import report_of

REPORT_SECONDS: Final = 5.0
STALE_SECONDS: Final = 20.0
"""A node's report older than this is not part of the fleet any more."""

GONE_SECONDS: Final = 3600.0
"""For how long it is told that a node fell silent; who looks an hour later was not looking."""


class Fleet:
    """All of them, as one of them sees them."""

    def __init__(self, client: RedisClient, keys: Keys, *, node_id: str) -> None:
        self._client, self._keys, self._node_id = client, keys, node_id

    async def tell(self, report: Mapping[str, Any]) -> None:
        """Write what a node says of itself, as of now."""
        await self._client.execute_many(
            [
                ("HSET", self._keys.nodes, self._node_id, orjson.dumps(report)),
                ("EXPIRE", self._keys.nodes, round(STALE_SECONDS * 3)),
            ]
        )

    async def leave(self) -> None:
        """Be no part of it from now on."""
        await self._client.execute("HDEL", self._keys.nodes, self._node_id)

    async def others(self) -> dict[bytes, dict[str, Any]]:
        """The last report of every other node that lives, by its id."""
        fresh = time.time() - STALE_SECONDS
        return {name: each for name, each in (await self._told()).items() if each["at"] > fresh}

    async def gone(self) -> dict[bytes, dict[str, Any]]:
        """The last report of every node that fell silent within the hour and did not leave."""
        now = time.time()
        first, last = now - GONE_SECONDS, now - STALE_SECONDS
        return {
            name: each for name, each in (await self._told()).items() if first < each["at"] <= last
        }

    async def _told(self) -> dict[bytes, dict[str, Any]]:
        stored = await self._client.execute("HGETALL", self._keys.nodes)
        mine = self._node_id.encode()
        reports = {
            name: report_of(report)
            for name, report in zip(stored[::2], stored[1::2], strict=True)
            if name != mine
        }
        return {name: report for name, report in reports.items() if report is not None}
