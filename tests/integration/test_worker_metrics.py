"""A worker's own metrics: they say what happened, and do so while an agent blocks the loop."""

from __future__ import annotations

import asyncio
import time
import urllib.request

import pytest

from agents_sdk import ConfigurationError, Run, Worker
from agents_sdk.metrics import METRICS
from broker.config import Settings
from broker.redis.broker import Broker
from tests.integration.sdk_rig import ALICE, ask, ended, expire, faulty_network, five, waits
from tests.support.ports import free_port
from tests.support.promql import promtool, row_of
from tests.support.scraping import scrape, scraped
from tests.support.servers import Redis, running_fleet, wait_until


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"worker_metrics_port": 0, "lease_seconds": 2, "drain_seconds": 5}
    )


@pytest.fixture
def worker(settings: Settings) -> Worker:
    worker = Worker(settings=settings, concurrency=4)
    worker.agent("five")(five)
    worker.agent("waits", retries=1)(waits)
    return worker


async def test_runs_stops_retries_and_publishing(worker: Worker, broker: Broker) -> None:
    async with worker.running() as service:
        base = f"http://127.0.0.1:{service.metrics.port}"
        now = await scrape(base)
        assert now("runcast_worker_concurrency") == 4
        assert now("runcast_worker_runs", agent="waits") == 0
        assert now("runcast_worker_events_confirmed_total") == 0
        await ended(broker, await ask(broker, "five"))
        now = await scraped(base, lambda told: told("runcast_worker_run_seconds_count") == 1)
        assert now("runcast_worker_run_seconds_count", agent="five", status="succeeded") == 1
        assert now("runcast_worker_events_confirmed_total") == 5
        assert now("runcast_worker_publish_seconds_count") > 0
        assert now("runcast_worker_buffer_events") == 0
        assert now("runcast_worker_publish_retries_total") == 0

        lost = await ask(broker, "waits")
        now = await scraped(base, lambda told: told("runcast_worker_runs", agent="waits") == 1)
        await expire(broker, lost)  # as if this worker were lost: the attempt after is its own
        now = await scraped(
            base, lambda told: told("runcast_worker_run_seconds_count", status="lost") == 1
        )
        assert now("runcast_worker_stops_total", reason="lost") == 1
        await scraped(base, lambda told: told("runcast_worker_runs", agent="waits") == 1)
        await broker.stop_run(ALICE, lost)
        now = await scraped(
            base, lambda told: told("runcast_worker_stops_total", reason="stopped") == 1
        )
        assert now("runcast_worker_retries_total", agent="waits") == 1
        assert now("runcast_worker_run_seconds_count", agent="waits", status="cancelled") == 1
        rows = {row.name for name, _ in now.values if (row := row_of(name)) is not None}
        assert rows >= METRICS.keys()
        promtool("check", "metrics", given=now.text.encode())


async def test_what_redis_has_not_confirmed_is_seen_and_so_is_that_it_is_sent_again(
    settings: Settings, redis_url: str, broker: Broker
) -> None:
    async with faulty_network(redis_url) as network:
        worker = Worker(settings=settings.model_copy(update={"redis_url": network.url}))
        go, gone = asyncio.Event(), asyncio.Event()

        @worker.agent("talks")
        async def talks(run: Run) -> str:
            await run.think("before")
            go.set()
            await gone.wait()
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(run.think(f"meanwhile {number}"))
            return "done"

        async with worker.running() as service:
            base = f"http://127.0.0.1:{service.metrics.port}"
            run_id = await ask(broker, "talks")
            await go.wait()
            network.cut()
            gone.set()
            now = await scraped(base, lambda told: told("runcast_worker_buffer_events") == 3)
            await scraped(base, lambda told: told("runcast_worker_publish_retries_total") > 0)
            network.restore()
            assert (await ended(broker, run_id))["status"] in ("succeeded", "abandoned")
            now = await scraped(base, lambda told: told("runcast_worker_buffer_events") == 0)
            assert now("runcast_worker_events_confirmed_total") >= 2


async def test_it_answers_while_an_agent_blocks_the_event_loop(
    settings: Settings, broker: Broker
) -> None:
    worker, heard = Worker(settings=settings), []

    @worker.agent("blocks")
    async def blocks(run: Run) -> str:
        await run.think("now")
        with urllib.request.urlopen(f"http://127.0.0.1:{run.content}/metrics", timeout=30) as got:
            heard.append(got.read().decode())
        return "done"

    async with worker.running() as service:
        await ended(broker, await ask(broker, "blocks", service.metrics.port))
    assert 'runcast_worker_runs{agent="blocks"} 1.0' in heard[0]


async def test_it_is_off_unless_asked_for_and_ends_with_the_worker(
    settings: Settings, worker: Worker
) -> None:
    worker.settings = settings.model_copy(update={"worker_metrics_port": None})
    async with worker.running() as service:
        assert service.metrics.port is None
    worker.settings = settings
    async with worker.running() as service:
        port = service.metrics.port
        assert port
        other = Worker(settings=settings.model_copy(update={"worker_metrics_port": port}))
        other.agent("five")(worker.agents["five"].function)
        with pytest.raises(ConfigurationError, match="RUNCAST_WORKER_METRICS_PORT"):
            async with other.running():
                pass
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_what_dead_workers_said_is_forgotten(
    settings: Settings, worker: Worker, broker: Broker
) -> None:
    long_ago = b'{"at": %d, "concurrency": 1, "running": {}}' % (time.time() - 300)
    just_now = b'{"at": %d, "concurrency": 1, "running": {}}' % time.time()
    workers = broker.keys.workers
    await broker.client.execute("HSET", workers, "dead", long_ago, "other", just_now, "odd", b"[]")
    async with worker.running() as service:
        assert (await broker.workers()).keys() == {service.id, "other"}
        assert (await broker.workers())[service.id].running == {"five": 0, "waits": 0}
        assert 0 < await broker.client.execute("TTL", workers) <= 60
    assert (await broker.workers()).keys() == {"other"}


async def test_the_command_line_serves_them(redis_server: Redis, prefix: str) -> None:
    port = free_port()
    with running_fleet(redis_server, RUNCAST_PREFIX=prefix) as fleet:
        worker = fleet.runcast(
            "worker", "tests.support.agents:worker", "--metrics-port", str(port), name="worker"
        )
        wait_until(
            lambda: worker.runs() and " serves " in worker.printed(), what="the worker serves"
        )
        now = await scrape(f"http://127.0.0.1:{port}")
        assert now("runcast_worker_concurrency") == 100
        assert now("process_resident_memory_bytes") > 0
        assert worker.end() == 0
