"""What a Redis was asked to do."""

from collections import Counter

from redis.asyncio import Redis as Asked

from tests.support.servers import Redis


async def commands(redis: Redis) -> Counter[str]:
    """How often each command was carried out, those within scripts included."""
    async with Asked.from_url(redis.url) as asked:
        stats = await asked.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()})
