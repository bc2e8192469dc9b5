"""Redis down at the start, lost and back later, and slow to answer."""

import signal
import time

import aiohttp
import pytest

from tests.support.chaos import QUICK_SECONDS
from tests.support.clients import FIVE, Client, eventually, ready_is
from tests.support.ports import free_port
from tests.support.servers import Redis, running_fleet, running_redis

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.parametrize("command", [("gateway", "--port", "0"), ("check",)])
def test_redis_down_at_start_is_told_and_ends_with_1(
    redis_server: Redis, command: tuple[str, ...]
) -> None:
    """A clear message after a bounded wait, and exit status 1."""
    with running_fleet(redis_server, RUNCAST_REDIS_URL=f"redis://127.0.0.1:{free_port()}") as fleet:
        process = fleet.runcast(*command, name="without-redis")
        assert process.ended() == 1
        assert "Redis" in process.printed()
        assert "Traceback" not in process.printed()


def test_a_worker_without_redis_is_told_and_ends_with_1(redis_server: Redis) -> None:
    with running_fleet(redis_server, RUNCAST_REDIS_URL=f"redis://127.0.0.1:{free_port()}") as fleet:
        worker = fleet.worker_process()
        assert worker.ended() == 1
        assert "Redis" in worker.printed()
        assert "Traceback" not in worker.printed()


async def test_redis_lost_and_back_loses_nothing_acknowledged(redis_server: Redis) -> None:
    """Killed in mid-run and started again on its append-only file: not ready meanwhile, messages
    are refused with ``broker_unavailable``, and then everything goes on by itself."""
    del redis_server
    with running_redis() as redis, running_fleet(redis) as fleet:
        fleet.worker()
        base = fleet.gateway()
        async with Client(base, "alice") as client:
            await client.completed(await client.ask("hello", agent="five"))
            run_id = await client.ask({"count": 300, "per_second": 100}, agent="beats", ref="m2")
            await client.until(lambda _: len(client.events(run_id)) > 20)
            redis.kill()
            await ready_is(base, 503)
            async with aiohttp.ClientSession() as http, http.get(f"{base}/ws/health") as response:
                assert response.status == 503
                body = await response.json()
                assert body["status"] == "unhealthy"
                assert body["checks"]["redis"]["ok"] is False
            await client.send("user_message", {"content": "x", "agent": "five"}, ref="m3")
            error = await client.reply("m3")
            assert error["payload"]["code"] == "broker_unavailable"
            assert error["payload"]["retryable"] is True
            redis.start()
            began = time.monotonic()
            recovery = await ready_is(base, 200) - began
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "succeeded"
            seqs = [event["seq"] for event in client.events(run_id)]
            assert seqs == list(range(1, end["seq"] + 1))
            # The same message again: it was not begun before, or it is the same run.
            await client.send("user_message", {"content": "x", "agent": "five"}, ref="m3")
            accepted = await client.until(
                lambda frames: [f for f in frames if f["type"] == "run_accepted"][2:]
            )
            again = accepted[0]["payload"]["run_id"]
            await client.completed(again)
            assert tuple(event["type"] for event in client.events(again)) == FIVE
            assert recovery < QUICK_SECONDS


async def test_a_paused_redis_is_noticed_and_survived(redis_server: Redis) -> None:
    """SIGSTOP: connections stay open and nothing answers. Readiness fails, and all goes on."""
    del redis_server
    with running_redis() as redis, running_fleet(redis) as fleet:
        fleet.worker()
        base = fleet.gateway()
        async with Client(base, "alice") as client:
            run_id = await client.ask({"count": 200, "per_second": 50}, agent="beats")
            await client.first("agent_thinking")
            assert redis.process is not None
            redis.process.popen.send_signal(signal.SIGSTOP)
            try:
                await ready_is(base, 503)
            finally:
                redis.process.popen.send_signal(signal.SIGCONT)
            await ready_is(base, 200)
            end = await client.completed(run_id)
            seqs = [event["seq"] for event in client.events(run_id)]
            assert seqs == list(range(1, end["seq"] + 1))


@pytest.mark.long
async def test_runs_outlive_an_outage_longer_than_their_lease(redis_server: Redis) -> None:
    """Their workers live and could not renew: nobody is lost because Redis was."""
    del redis_server
    with running_redis() as redis, running_fleet(redis, RUNCAST_LEASE_SECONDS="5") as fleet:
        worker = fleet.worker()
        base = fleet.gateway()
        async with Client(base, "alice") as client:
            run_id = await client.ask({"count": 400, "per_second": 20}, agent="beats")
            await client.first("agent_thinking")
            redis.kill()
            await ready_is(base, 503)
            began = time.monotonic()
            await eventually(lambda: time.monotonic() - began > 2 * 5)
            redis.start()
            await ready_is(base, 200)
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "succeeded", (end, worker.printed())
            seqs = [event["seq"] for event in client.events(run_id)]
            assert seqs == list(range(1, end["seq"] + 1))
            # And one whose worker really is lost is found all the same.
            lost = await client.ask({"count": 400, "per_second": 20}, agent="beats", ref="m2")
            await client.until(lambda _: len(client.events(lost)) > 2)
            worker.end(signal.SIGKILL)
            end = await client.completed(lost)
            assert end["payload"]["status"] == "abandoned"


def test_a_gateway_ends_while_redis_is_away(redis_server: Redis) -> None:
    """SIGTERM works without Redis."""
    del redis_server
    with running_redis() as redis, running_fleet(redis, RUNCAST_DRAIN_SECONDS="0") as fleet:
        _, process = fleet.gateway_process()
        redis.kill()
        assert process.end() == 0, process.printed()
