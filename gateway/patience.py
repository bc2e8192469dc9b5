"""How a request waits for a Redis that is away: for a moment, and no longer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from broker.backoff import full_jitter
from broker.errors import BrokerUnavailable
from broker.redis.client import RedisClient

T = TypeVar("T")


async def patiently(
    client: RedisClient, call: Callable[[], Awaitable[T]], *, deadline_seconds: float
) -> T:
    """The call's result, tried again while Redis is away; it has to be safe to call it again.

    ``BrokerUnavailable`` when it takes longer: the outcome is unknown.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            delays = full_jitter(random.random, first_seconds=0.05, most_seconds=0.5)
            while True:
                try:
                    return await call()
                except BrokerUnavailable:
                    await asyncio.sleep(next(delays))
                    await client.wait_connected(timeout_seconds=deadline_seconds)
    except TimeoutError:
        why = f"no answer within {deadline_seconds:g} s"
        raise BrokerUnavailable(why=why, outcome_unknown=True) from None
