"""The buckets that a fleet shares: the same arithmetic in Redis as in ``broker/bucket.py``."""

from __future__ import annotations

import asyncio
import itertools
from importlib.resources import files
from typing import Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.bucket import Bucket, take
from broker.channels import Owner
from broker.errors import LimitReached
from broker.redis import scripts
from broker.redis.broker import Broker
from tests.support.servers import Redis

ASKED: Final = (
    (files(scripts) / "bucket.lua").read_text()
    + """
local wait, value = look(KEYS[1], ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0)
if wait == 0 then
  spend(KEYS[1], value, ARGV[3] + 0)
end
if ARGV[4] == 'back' then
  give_back(KEYS[1], ARGV[2] + 0, ARGV[3] + 0)
end
local ttl = redis.call('PTTL', KEYS[1])
redis.call('PERSIST', KEYS[1]) -- the model's time is not that of the server
return {wait, redis.call('GET', KEYS[1]) or '0', ttl}
"""
)
START: Final = 1_800_000_000_000_000
relaxed = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
numbers = itertools.count()


@relaxed
@given(
    st.integers(0, 20),
    st.integers(1, 5_000_000),
    st.lists(st.integers(-3_000_000, 6_000_000), min_size=1, max_size=25),
)
def test_redis_counts_like_the_model(
    redis_server: Redis, prefix: str, capacity: int, interval_us: int, steps: list[int]
) -> None:
    """Over any steps of time, backwards ones too; the wait in whole milliseconds, rounded up."""
    bucket, full_at, now = Bucket(capacity, interval_us), 0, START
    key = f"{prefix}:{next(numbers)}"
    with redis.Redis.from_url(redis_server.url) as asked:
        for step in steps:
            now += step
            before = full_at
            full_at, wait = take(bucket, before, now)
            told, value, ttl = asked.eval(ASKED, 1, key, capacity, interval_us, now, "")
            assert told == -(-wait // 1000)
            if wait == 0:
                assert int(value) == full_at
                left_ms = -(-(full_at - now) // 1000)
                assert left_ms - 1000 <= ttl <= left_ms, "it lives until it is full"
            elif before:
                assert int(value) == before, "who is refused takes nothing"
        asked.delete(key)


def test_a_token_that_is_given_back_is_there_again(redis_server: Redis, prefix: str) -> None:
    with redis.Redis.from_url(redis_server.url) as asked:
        for _ in range(3):
            assert asked.eval(ASKED, 1, prefix, 1, 1000, START, "back") == [0, b"0", -2]


async def test_a_share_that_is_taken_again_after_a_lost_reply_is_the_one(broker: Broker) -> None:
    """It cost two messages, and the run itself was what left no room for it."""
    acme = Owner("acme", "")
    for _ in range(3):
        await broker.take_share(acme, 0, "r1", messages=2, runs=1)
    with pytest.raises(LimitReached, match="runs"):
        await broker.take_share(acme, 0, "r2", messages=2, runs=1)
    await broker.take_share(acme, 0, "r2", messages=2, runs=2)


async def test_a_place_of_a_run_that_is_being_registered_is_not_given_away(broker: Broker) -> None:
    """A look at that moment took it off the tenant's, and for all of its life it did not count."""
    acme = Owner("acme", "")
    await broker.take_share(acme, 0, "r1", messages=None, runs=1)
    assert await broker.forget_ended(acme) == 0
    key, (seconds, _) = broker.keys.runs(acme), await broker.client.execute("TIME")
    await broker.client.execute("ZADD", key, int(seconds) * 1000 - 3000, "0 r1")  # tried again
    assert await broker.forget_ended(acme) == 0
    await broker.client.execute("ZADD", key, 1, "0 r1")  # and it never came
    assert await broker.forget_ended(acme) == 1


async def test_of_many_at_once_exactly_as_many_as_allowed_win(broker: Broker) -> None:
    """Whoever asks, and however many at a time."""
    acme = Owner("acme", "")

    async def one(number: int) -> bool:
        try:
            await broker.take_share(acme, 0, f"r{number}", messages=10, runs=None)
        except LimitReached:
            return False
        return True

    assert sum(await asyncio.gather(*(one(number) for number in range(100)))) == 10
