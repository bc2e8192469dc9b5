"""G6: any gateway can be killed, added or restarted under load; clients go on elsewhere."""

import signal

import pytest

from tests.support.clients import Client
from tests.support.servers import Redis, running_fleet

pytestmark = pytest.mark.timeout(300)


async def test_g6_a_killed_gateways_clients_go_on_at_another(redis_server: Redis) -> None:
    with running_fleet(redis_server, RUNCAST_PREFIX="g6-killed") as fleet:
        fleet.worker()
        first, process = fleet.gateway_process()
        second = fleet.gateway()
        async with Client(second, "alice") as watcher:
            await watcher.first("live")
            async with Client(first, "alice") as client:
                run_id = await client.ask({"count": 100, "per_second": 100}, agent="beats")
                await client.until(lambda frames: len(frames) > 20)
                process.end(signal.SIGKILL)
                await client.closed()
                before = client.logged()
            async with Client(second, "alice", after=before[-1]["id"]) as client:
                hello = await client.first("connection_established")
                assert hello["payload"]["recovered"] is True
                await client.completed(run_id)
                await watcher.completed(run_id)
                assert before + client.logged() == watcher.logged()


async def test_g6_a_drained_gateway_sends_its_clients_away(redis_server: Redis) -> None:
    """SIGTERM: not ready, ``draining`` told, 1001, and an exit status of 0; nothing is lost."""
    with running_fleet(redis_server, RUNCAST_PREFIX="g6-drain", RUNCAST_DRAIN_SECONDS="2") as fleet:
        fleet.worker()
        first, process = fleet.gateway_process()
        second = fleet.gateway()
        async with Client(second, "alice") as watcher:
            await watcher.first("live")
            async with Client(first, "alice") as client:
                run_id = await client.ask({"count": 150, "per_second": 50}, agent="beats")
                process.popen.send_signal(signal.SIGTERM)
                told = await client.first("draining")
                assert 0 <= told["payload"]["reconnect_after_ms"] <= 15_000
                assert await client.closed() == 1001
                before = client.logged()
            assert process.ended() == 0, process.printed()
            async with Client(second, "alice", after=before[-1]["id"]) as client:
                await client.completed(run_id)
                await watcher.completed(run_id)
                assert before + client.logged() == watcher.logged()
