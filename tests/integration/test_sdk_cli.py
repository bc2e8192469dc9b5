"""``runcast worker`` and ``runcast publish`` as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from broker.redis.broker import Broker
from tests.integration.sdk_rig import ALICE, ask, ended, logged, until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)  # a Python process takes seconds to start on a busy machine

AGENTS = """
import asyncio
import sys
import time
from agents_sdk import Run, Worker

worker = Worker()

@worker.agent("waits", on_busy="parallel")
async def waits(run: Run) -> str:
    await run.think("…")
    await asyncio.sleep(run.content)
    return "finished"

@worker.agent("deaf")
async def deaf(run: Run) -> None:
    await run.think("…")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@worker.agent("hangs")
async def hangs(run: Run) -> None:
    await run.think("…")
    await asyncio.to_thread(time.sleep, 60)

async def leave() -> None:
    sys.exit(3)

@worker.agent("leaves")
async def leaves(run: Run) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leave())

@worker.agent("raises")
async def raises(run: Run) -> None:
    raise ValueError(run.content)

second = Worker()

@second.agent("second")
async def waits_too(run: Run) -> str:
    return await waits(run)

async def both() -> None:
    await asyncio.gather(worker.serve(), second.serve())

if __name__ == "__main__":
    asyncio.run(both()) if "both" in sys.argv else worker.run()
"""

Started = Callable[..., AbstractAsyncContextManager[asyncio.subprocess.Process]]


@pytest.fixture
def python(redis_url: str, prefix: str, tmp_path: Path) -> Started:
    (tmp_path / "my_agents.py").write_text(AGENTS)

    @asynccontextmanager
    async def start(*arguments: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
        clean = {name: value for name, value in os.environ.items() if "RUNCAST" not in name}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={
                **clean,
                "PYTHONPATH": str(ROOT),
                "RUNCAST_REDIS_URL": redis_url,
                "RUNCAST_PREFIX": prefix,
                **env,
            },
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    return start


@pytest.fixture
def runcast(python: Started) -> Started:
    return partial(python, "-m", "gateway")


async def ready(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def test_a_worker_says_when_it_is_ready_and_drains_on_sigterm(
    runcast: Started, broker: Broker
) -> None:
    async with runcast("worker", "my_agents:worker", "--concurrency", "3") as process:
        assert "serves deaf, hangs, leaves, raises, waits" in await ready(process)
        run_id = await ask(broker, "waits", 0.5)
        await until(lambda: _thinks(broker, run_id))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert (await ended(broker, run_id))["response"] == "finished"


async def test_what_does_not_finish_in_the_drain_time_is_cancelled(
    runcast: Started, broker: Broker
) -> None:
    async with runcast(
        "worker", "my_agents:worker", "--json", RUNCAST_DRAIN_SECONDS="0"
    ) as process:
        served = json.loads(await ready(process))["agents"]
        assert served == ["deaf", "hangs", "leaves", "raises", "waits"]
        run_id = await ask(broker, "waits", 60)
        await until(lambda: _thinks(broker, run_id))
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert (await ended(broker, run_id))["error"]["code"] == "worker_shutdown"


@pytest.mark.parametrize("agent", ["deaf", "hangs"])
async def test_an_agent_that_cannot_be_cancelled_does_not_keep_the_process(
    runcast: Started, broker: Broker, agent: str
) -> None:
    async with runcast("worker", "my_agents:worker", RUNCAST_DRAIN_SECONDS="0") as process:
        await ready(process)
        run_id = await ask(broker, agent)
        await until(lambda: _thinks(broker, run_id))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert (await ended(broker, run_id))["status"] == "cancelled"


async def test_a_second_signal_ends_it_at_once(runcast: Started, broker: Broker) -> None:
    async with runcast("worker", "my_agents:worker") as process:
        await ready(process)
        run_id = await ask(broker, "waits", 60)
        await until(lambda: _thinks(broker, run_id))
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while b"worker_draining" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM


async def test_a_task_that_leaves_the_process_fails_its_run_and_not_the_worker(
    python: Started, broker: Broker
) -> None:
    """Defect: ``sys.exit`` in a task that an agent began ended the worker and all of its runs."""
    async with python("my_agents.py") as process:
        await until(lambda: _announced(broker, "waits"))
        others = await ask(broker, "waits", 1)
        await until(lambda: _thinks(broker, others))
        payload = await ended(broker, await ask(broker, "leaves"))
        assert (payload["status"], payload["error"]["code"]) == ("failed", "agent_exited")
        assert (await ended(broker, others))["response"] == "finished"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_signal_drains_every_worker_of_a_process(python: Started, broker: Broker) -> None:
    """Defect: only the last one heard it, and the next signal ended the others in mid-run."""
    async with python("my_agents.py", "both") as process:
        await until(lambda: _announced(broker, "waits", "second"))
        runs = [await ask(broker, agent, 1) for agent in ("waits", "second")]
        for run_id in runs:
            await until(partial(_thinks, broker, run_id))
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0
    assert [(await ended(broker, run_id))["response"] for run_id in runs] == ["finished"] * 2


async def test_a_worker_without_the_command_line_logs_as_with_it(
    python: Started, broker: Broker
) -> None:
    """Defect: its log had what users wrote in it, and looked as it liked."""
    async with python("my_agents.py", RUNCAST_LOG_FORMAT="json") as process:
        await until(lambda: _announced(broker, "waits"))
        payload = await ended(broker, await ask(broker, "raises", "hunter2"))
        assert payload["error"] == {"code": "value_error", "message": "hunter2"}
        process.send_signal(signal.SIGTERM)
        out, log = await process.communicate()
    assert out == b""
    assert b"hunter2" not in log
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert {"worker_started", "agent_raised", "worker_stopped"} <= set(events)


async def test_events_by_hand(runcast: Started, broker: Broker) -> None:
    async with runcast(
        "publish", "--user", "alice", "--json",
        "--event", "tool_executing", "--payload", '{"tool": "t", "status": "running"}',
        "--event", "tool_completed", "--payload", '{"tool": "t", "result": 1}',
    ) as process:  # fmt: skip
        output, _ = await process.communicate()
    sent = json.loads(output)
    events = await logged(broker, sent["run_id"])
    assert [each["type"] for each in events] == [
        "agent_started",
        "tool_executing",
        "tool_completed",
        "agent_completed",
    ]
    assert [each["id"] for each in sent["events"]] == [events[1]["id"], events[2]["id"]]


async def _thinks(broker: Broker, run_id: str) -> bool:
    return (await broker.run(ALICE, run_id))["started_at"] is not None


async def _announced(broker: Broker, *agents: str) -> bool:
    return set(agents) <= set(await broker.agents())
