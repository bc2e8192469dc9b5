"""Which threads a user has: those of the retention time (``register.lua`` keeps the list)."""

from __future__ import annotations

from broker.channels import Owner
from broker.redis.store import Store, unavailable_if_refused


class Threads(Store):
    """The index of threads."""

    @unavailable_if_refused
    async def threads(self, owner: Owner, *, most: int) -> list[tuple[str, int]]:
        """Thread ids and when each was used last, in ms since 1970; the latest first."""
        found = await self.client.execute(
            "ZRANGE", self.keys.threads(owner), 0, most - 1, "REV", "WITHSCORES"
        )
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(thread.decode(errors="replace"), int(used)) for thread, used in pairs]
