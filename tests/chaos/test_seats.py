"""Faults under the limits: a gateway or the Redis that held a user's seats is gone."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest

from gateway.fleet import REPORT_SECONDS, STALE_SECONDS
from tests.support.chaos import QUICK_SECONDS
from tests.support.chaos_report import Report, Row
from tests.support.clients import Client
from tests.support.servers import Redis, running_fleet, running_redis

pytestmark = pytest.mark.timeout(300)

SEATS = 3


async def let_in(base: str, *, seconds: float) -> float:
    """Try until it is; how long that took."""
    begun = time.monotonic()
    while True:
        try:
            async with Client(base) as client:
                await client.first("live")
                return time.monotonic() - begun
        except aiohttp.WSServerHandshakeError:
            pass
        assert time.monotonic() - begun < seconds, "he is locked out"
        await asyncio.sleep(0.25)  # a client's pace: faster ones are refused for that


@pytest.mark.long
async def test_a_killed_gateway_does_not_lock_a_user_out_who_had_all_his_seats_there(
    redis_server: Redis, prefix: str, report: Report
) -> None:
    """Until its last report is too old to count; nobody else has to notice it."""
    limits = {"RUNCAST_MAX_CONNECTIONS_PER_USER": str(SEATS), "RUNCAST_PREFIX": prefix}
    with running_fleet(redis_server, **limits) as fleet:
        doomed, process = fleet.gateway_process()
        other = fleet.gateway()
        async with AsyncExitStack() as stack:
            clients = [Client(doomed) for _ in range(SEATS)]
            for client in clients:
                await stack.enter_async_context(client)
                await client.first("live")
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await Client(other).__aenter__()
            process.end(signal.SIGKILL)
            took = await let_in(other, seconds=STALE_SECONDS + REPORT_SECONDS + QUICK_SECONDS)
    report(Row(fault="the gateway with all of a user's seats is killed", recovery_seconds=took))


async def test_seats_that_a_new_redis_never_heard_of_are_counted_again(
    prefix: str, report: Report
) -> None:
    """Redis comes back empty, as after a failover without the last writes."""
    limits = {
        "RUNCAST_MAX_CONNECTIONS_PER_USER": str(SEATS),
        "RUNCAST_PREFIX": prefix,
        "RUNCAST_HEARTBEAT_SECONDS": "4",
    }
    with running_redis() as redis, running_fleet(redis, **limits) as fleet:
        one, other = fleet.gateway(), fleet.gateway()
        async with AsyncExitStack() as stack:
            for _ in range(SEATS):
                await stack.enter_async_context(Client(one))
            redis.kill()
            for file in redis.folder.rglob("*.aof"):
                file.unlink()
            for file in redis.folder.rglob("*.manifest"):
                file.unlink()
            redis.start()
            begun = time.monotonic()
            while True:  # with room for one, and then for none
                try:
                    async with Client(other):
                        assert time.monotonic() - begun < 60, "nobody counts them"
                except aiohttp.WSServerHandshakeError as error:
                    if error.status == 429:
                        break
                await asyncio.sleep(0.1)  # a client's pace: faster ones are refused for that
    report(Row(fault="Redis lost all seats", recovery_seconds=time.monotonic() - begun))
