"""G5: every run ends with exactly one ``agent_completed``, whatever happens to its worker."""

import signal

import pytest

from tests.mission_critical.conftest import System
from tests.support.clients import Client, is_terminal
from tests.support.servers import Redis, running_fleet

pytestmark = pytest.mark.timeout(300)


async def test_g5_the_runs_of_a_killed_worker_are_abandoned(redis_server: Redis) -> None:
    with running_fleet(
        redis_server, RUNCAST_PREFIX="g5-killed", RUNCAST_LEASE_SECONDS="5"
    ) as fleet:
        worker = fleet.worker()
        async with Client(fleet.gateway(), "alice") as client:
            run_id = await client.ask("hello", agent="waits")
            await client.first("tool_executing")
            worker.end(signal.SIGKILL)
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "abandoned"
            assert end["payload"]["error"]["code"] == "worker_lost"
            assert end["payload"]["missing"] == []
            assert end["seq"] == len(client.events(run_id))
            closed = client.events(run_id)[-2]
            assert closed["type"] == "tool_completed"
            assert closed["payload"]["success"] is False
            assert closed["payload"]["error"]["code"] == "run_ended"
            # Another worker takes the thread's next run, and nothing more comes of the first.
            fleet.worker()
            await client.completed(await client.ask("again", agent="five", ref="m2"))
            assert sum(is_terminal(frame, run_id) for frame in client.frames) == 1


async def test_g5_a_paused_worker_is_fenced_when_it_goes_on(redis_server: Redis) -> None:
    with running_fleet(
        redis_server, RUNCAST_PREFIX="g5-paused", RUNCAST_LEASE_SECONDS="5"
    ) as fleet:
        worker = fleet.worker()
        async with Client(fleet.gateway(), "alice") as client:
            run_id = await client.ask({"count": 100000, "per_second": 50}, agent="beats")
            await client.first("agent_thinking")
            worker.popen.send_signal(signal.SIGSTOP)
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "abandoned"
            worker.popen.send_signal(signal.SIGCONT)
            await client.completed(await client.ask("again", agent="five", ref="m2"))
            of_run = client.events(run_id)
            assert of_run[-1] == end
            assert [event["seq"] for event in of_run] == list(range(1, len(of_run) + 1))


async def test_g5_a_run_that_no_worker_takes_is_abandoned(redis_server: Redis) -> None:
    with running_fleet(
        redis_server, RUNCAST_PREFIX="g5-queue", RUNCAST_QUEUE_TIMEOUT_SECONDS="6"
    ) as fleet:
        worker = fleet.worker()
        async with Client(fleet.gateway(), "alice") as client:
            await client.completed(await client.ask("hello", agent="five"))
            worker.end()
            run_id = await client.ask("hello", agent="five", ref="m2")
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "abandoned"
            assert end["payload"]["error"]["code"] == "queue_timeout"


async def test_g5_a_stop_works_with_the_worker_dead(redis_server: Redis) -> None:
    with running_fleet(
        redis_server, RUNCAST_PREFIX="g5-stop", RUNCAST_STOP_DEADLINE_SECONDS="1"
    ) as fleet:
        worker = fleet.worker()
        async with Client(fleet.gateway(), "alice") as client:
            run_id = await client.ask("hello", agent="waits")
            await client.first("tool_executing")
            worker.end(signal.SIGKILL)
            await client.send("stop_agent", {"run_id": run_id}, ref="s")
            assert (await client.reply("s"))["type"] == "ok"
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "cancelled"


async def test_g5_a_worker_told_to_end_ends_its_runs(redis_server: Redis) -> None:
    """SIGTERM: no new runs, what does not finish in time is cancelled, the worker exits with 0."""
    with running_fleet(redis_server, RUNCAST_PREFIX="g5-drain", RUNCAST_DRAIN_SECONDS="6") as fleet:
        worker = fleet.worker()
        async with Client(fleet.gateway(), "alice") as client:
            waits = await client.ask("hello", agent="waits", thread_id="a")
            beats = await client.ask(
                {"count": 30, "per_second": 100}, agent="beats", ref="m2", thread_id="b"
            )
            await client.first("tool_executing")
            await client.until(lambda _: client.events(beats))
            worker.popen.send_signal(signal.SIGTERM)
            finished = await client.completed(beats)
            assert finished["payload"]["status"] == "succeeded"
            cancelled = await client.completed(waits)
            assert cancelled["payload"]["status"] == "cancelled"
        assert worker.ended() == 0, worker.printed()


async def test_g5_a_stop_before_it_starts_ends_it_at_once(system: System) -> None:
    """The run is held behind another one of its thread: no worker has it."""
    async with Client(system.first, "g5-early") as client:
        running = await client.ask("hello", agent="waits", thread_id="t")
        await client.first("agent_thinking")
        held = await client.ask("next", agent="five", ref="m2", thread_id="t")
        await client.send("stop_agent", {"run_id": held}, ref="s1")
        await client.reply("s1")
        end = await client.completed(held)
        assert end["payload"]["status"] == "cancelled"
        assert [event["type"] for event in client.events(held)] == ["agent_completed"]
        await client.send("stop_agent", {"run_id": running}, ref="s2")
        await client.completed(running)
