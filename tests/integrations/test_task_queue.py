"""Runs in the tasks of a queue, by the how-to's own code: a real worker of Taskiq, a real gateway.

docs/how-to/use-a-task-queue.md promises how each of them ends; a client sees it.
"""

import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from taskiq_redis import RedisStreamBroker

from agents_sdk.testing import expect
from tests.support.clients import Client, Frame, payload_of
from tests.support.servers import Fleet, Process, Redis, running_fleet, spawn, wait_until

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/use-a-task-queue.md"
QUEUE = "taskiq-test"


@dataclass
class Queue:
    """A gateway, a worker process of the queue, and the one who sends tasks to it."""

    base: str
    broker: RedisStreamBroker
    worker: Process

    async def send(self, task: str, *arguments: str, **labels: Any) -> None:
        """Have a task run, by its name: the sender need not have its code."""
        found = self.broker.find_task(task) or self.broker.register_task(_elsewhere, task)
        await found.kicker().with_labels(**labels).kiq(*arguments)


async def _elsewhere(*_: Any) -> None:
    raise AssertionError("runs in the worker")


@pytest.fixture(scope="module")
def started(redis_server: Redis) -> Iterator[tuple[Fleet, str, Process]]:
    with running_fleet(redis_server, RUNCAST_PREFIX="queue", RUNCAST_LEASE_SECONDS="5") as fleet:
        base = fleet.gateway()
        (code,) = re.findall(r"```python\n(# tasks\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
        (fleet.folder / "tasks.py").write_text(code)
        shutil.copy(ROOT / "tests/support/taskiq_tasks.py", fleet.folder / "more_tasks.py")
        env = fleet.env | {"TASKS_REDIS_URL": redis_server.url}
        command = [
            sys.executable, "-m", "taskiq", "worker", "more_tasks:broker",
            "--app-dir", str(fleet.folder), "--workers", "1", "--shutdown-timeout", "2",
        ]  # fmt: skip
        worker = spawn(command, fleet.folder / "taskiq.log", env)
        try:
            wait_until(lambda: "Listening started" in worker.printed(), what="the worker listens")
            yield fleet, base, worker
        finally:
            family = psutil.Process(worker.popen.pid).children(recursive=True)
            worker.end()
            for each in family:
                if each.is_running():
                    each.kill()


@pytest.fixture
async def queue(started: tuple[Fleet, str, Process], redis_url: str) -> AsyncIterator[Queue]:
    _, base, worker = started
    broker = RedisStreamBroker(redis_url)
    await broker.startup()
    yield Queue(base, broker, worker)
    await broker.shutdown()


async def ended(client: Client) -> Frame:
    """The terminal event of the client's only run, however long a queue or a sweeper takes."""

    def found(frames: list[Frame]) -> list[Frame]:
        return [frame for frame in frames if frame["type"] == "agent_completed"]

    frames: list[Frame] = await client.until(found, seconds=120, what="the end of the run")
    return frames[0]


async def pid_of(client: Client) -> int:
    """Of the process that works on the task, as that has told."""
    await client.first("tool_executing")
    thoughts: str = payload_of(await client.first("agent_thinking"))["thoughts"]
    return int(thoughts.removeprefix("pid "))


async def test_a_client_gets_all_five_events(queue: Queue) -> None:
    async with Client(queue.base, "tq-five") as client:
        await queue.send("tasks:report", "tq-five", "t1", "How many words are these?")
        assert payload_of(await ended(client))["missing"] == []
        chain = expect(client.events()).started("report started").thinking("Counting")
        chain.tool("count_words", result=5).completed(response="5 words").nothing_else()
        assert {event["thread_id"] for event in client.events()} == {"t1"}


async def test_a_task_that_raises_fails_its_run(queue: Queue) -> None:
    async with Client(queue.base, "tq-raises") as client:
        await queue.send("raises", "tq-raises")
        payload = payload_of(await ended(client))
        assert (payload["status"], payload["error"]["code"]) == ("failed", "value_error")
        wait_until(lambda: "no such report" in queue.worker.printed(), what="the queue's own log")


async def test_a_stop_reaches_the_task(queue: Queue) -> None:
    async with Client(queue.base, "tq-stop") as client:
        await queue.send("waits", "tq-stop")
        begun: Frame = await client.first("tool_executing")
        await client.send("stop_agent", {"run_id": begun["run_id"]}, ref="s1")
        payload = payload_of(await ended(client))
        assert (payload["status"], payload["error"]["code"]) == ("cancelled", "stopped")
        wait_until(lambda: begun["run_id"] in _stopped(queue.worker), what="the task is over")


def _stopped(worker: Process) -> str:
    return "\n".join(re.findall(r"RunStopped: run .*", worker.printed()))


async def test_a_time_limit_of_the_queue_cancels_the_run(queue: Queue) -> None:
    async with Client(queue.base, "tq-limit") as client:
        await queue.send("waits", "tq-limit", timeout=8)
        payload = payload_of(await ended(client))
        assert (payload["status"], payload["error"]["code"]) == ("cancelled", "cancelled")


async def test_a_run_whose_worker_is_killed_is_abandoned(queue: Queue) -> None:
    async with Client(queue.base, "tq-killed") as client:
        await queue.send("waits", "tq-killed")
        os.kill(await pid_of(client), signal.SIGKILL)
        assert payload_of(await ended(client))["status"] == "abandoned"
        assert [event["type"] for event in client.events()].count("agent_completed") == 1
        closed = payload_of(await client.first("tool_completed"))
        assert closed["success"] is False
