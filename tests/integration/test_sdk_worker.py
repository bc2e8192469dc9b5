"""A worker against a real Redis: requests, leases, stops, retries, outages, drains."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from agents_sdk import BrokerUnavailable, ConfigurationError, Run, RunStopped, Worker
from agents_sdk.testing import expect
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.queue import RequestQueue
from tests.integration.sdk_rig import ALICE, ask, ended, expire, faulty_network, logged, until


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """A short lease, and time to finish when drained."""
    return settings.model_copy(update={"lease_seconds": 4, "drain_seconds": 30})


@pytest.fixture
def worker(quick: Settings) -> Worker:
    worker = Worker(settings=quick)

    @worker.agent("five")
    async def five(run: Run) -> str:
        await run.think(f"about {run.content}")
        async with run.tool("lookup") as call:
            call.result = run.content
        await run.write("all ")
        await run.write("done")
        return "all done"

    return worker


async def test_a_request_becomes_a_run_with_all_five_events(worker: Worker, broker: Broker) -> None:
    async with worker.running() as service:
        run_id = await ask(broker, "five", {"n": 1})
        payload = await ended(broker, run_id)
        await until(lambda: service.running == 0)
    assert (payload["response"], payload["missing"]) == ("all done", [])
    events = await logged(broker, run_id)
    expect(events).started().thinking("about {'n': 1}").tool("lookup", result={"n": 1}).completed()
    assert [each["seq"] for each in events] == [1, 2, 3, 4, 5]
    assert (await broker.run(ALICE, run_id))["text"] == "all done"


async def test_nothing_is_left_in_the_queue(worker: Worker, broker: Broker) -> None:
    async with worker.running():
        for _ in range(5):
            await ended(broker, await ask(broker, "five"))
    queue = broker.keys.requests("five")
    assert await broker.client.execute("XLEN", queue) == 0
    assert (await broker.client.execute("XPENDING", queue, "workers"))[0] == 0


async def test_agents_are_announced_before_the_first_request(
    worker: Worker, broker: Broker
) -> None:
    async with worker.running():
        assert (await broker.agents())["five"] == worker.agents["five"].spec


async def test_no_more_runs_at_once_than_it_can_run(quick: Settings, broker: Broker) -> None:
    worker, go = Worker(settings=quick, concurrency=2), asyncio.Event()
    now, most = 0, 0

    @worker.agent("counted", on_busy="parallel")
    async def counted(run: Run) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await go.wait()
        now -= 1

    async with worker.running() as service:
        runs = [await ask(broker, "counted") for _ in range(5)]
        await until(lambda: now == 2)
        waiting = await broker.client.execute(
            "XPENDING", broker.keys.requests("counted"), "workers"
        )
        assert (service.running, waiting[0]) == (2, 0)
        go.set()
        for run_id in runs:
            await ended(broker, run_id)
    assert most == 2


async def test_a_stop_ends_the_run_at_once(settings: Settings, broker: Broker) -> None:
    """By its notice: the renewal, a third of the lease later, would tell it too late."""
    settings = settings.model_copy(update={"lease_seconds": 3600})
    worker = waiting_worker(settings)
    async with worker.running():
        run_id = await ask(broker, "waits")
        await until(lambda: _has(broker, run_id, "tool_executing"))
        await broker.stop_run(ALICE, run_id)
        await broker.stop_run(ALICE, run_id)
        payload = await ended(broker, run_id)
    assert (payload["status"], payload["error"]["code"]) == ("cancelled", "stopped")
    events = await logged(broker, run_id)
    expect(events).started().tool("wait", success=False).completed("cancelled").nothing_else()


async def test_a_stop_whose_notice_is_lost_comes_with_the_renewal(
    quick: Settings, broker: Broker
) -> None:
    async with waiting_worker(quick).running():
        run_id = await ask(broker, "waits")
        await until(lambda: _has(broker, run_id, "tool_executing"))
        key = broker.keys.run(broker.keys.partition(ALICE), run_id)
        await broker.client.execute("HSET", key, "stop", 2**52)  # as stop.lua, without the notice
        payload = await ended(broker, run_id)
    assert payload["error"]["code"] == "stopped"


async def test_a_run_that_cannot_be_renewed_keeps_no_notice_from_the_others(
    quick: Settings, broker: Broker
) -> None:
    """All that came back with the renewals was lost when one of them failed."""
    async with waiting_worker(quick).running():
        bad, run_id = await ask(broker, "waits"), await ask(broker, "waits")
        for each in (bad, run_id):
            await until(lambda each=each: _has(broker, each, "tool_executing"))  # type: ignore[misc]
        partition = broker.keys.partition(ALICE)
        await broker.client.execute("SET", broker.keys.run(partition, bad), "?", "EX", 60)
        await broker.client.execute("HSET", broker.keys.run(partition, run_id), "stop", 2**52)
        payload = await ended(broker, run_id)
        await broker.client.execute("DEL", broker.keys.run(partition, bad))  # it is gone
    assert payload["error"]["code"] == "stopped"


async def test_a_run_stopped_before_it_was_claimed_never_calls_the_agent(
    worker: Worker, broker: Broker
) -> None:
    async with worker.running():
        pass
    run_id = await ask(broker, "five")
    await broker.stop_run(ALICE, run_id)
    async with worker.running():
        payload = await ended(broker, run_id)
    assert (payload["status"], payload["error"]["code"]) == ("cancelled", "stopped")
    types = [each["type"] for each in await logged(broker, run_id)]
    assert types == ["stop_requested", "agent_completed"]


async def test_a_subagents_run_can_be_stopped_by_itself(quick: Settings, broker: Broker) -> None:
    worker, children = Worker(settings=quick), []

    @worker.agent("parent")
    async def parent(run: Run) -> str:
        try:
            async with run.subagent("child") as child:
                children.append(child.id)
                await child.think("…")
                await asyncio.Event().wait()
        except RunStopped:
            return "without the child"
        return "unreachable"

    async with worker.running():
        run_id = await ask(broker, "parent")
        await until(lambda: bool(children))
        await until(lambda: _has(broker, children[0], "agent_thinking"))
        await broker.stop_run(ALICE, children[0])
        assert (await ended(broker, run_id))["response"] == "without the child"
        assert (await ended(broker, children[0]))["error"]["code"] == "stopped"
    assert {e["parent_run_id"] for e in await logged(broker, children[0])} == {run_id}


async def test_parallel_tools_are_in_the_log_as_one_legal_sequence(
    quick: Settings, broker: Broker
) -> None:
    worker = Worker(settings=quick)

    @worker.agent("parallel")
    async def parallel(run: Run) -> None:
        async def one(number: int) -> None:
            async with run.tool("t", number=number) as call:
                await run.think(f"{number}")
                call.result = number

        await asyncio.gather(*map(one, range(30)))

    async with worker.running():
        run_id = await ask(broker, "parallel")
        await ended(broker, run_id)
    events = await logged(broker, run_id)
    assert [each["seq"] for each in events] == list(range(1, 93))
    chain = expect([e for e in events if e["type"] != "agent_thinking"]).started()
    for _ in range(30):
        chain.tool("t")
    chain.completed().nothing_else()


async def test_an_agent_that_blocks_the_loop_keeps_its_lease(
    quick: Settings, broker: Broker
) -> None:
    worker = Worker(settings=quick)
    deadlines: list[float] = []

    @worker.agent("blocks")
    async def blocks(run: Run) -> str:
        await run.think("computing")
        time.sleep(quick.lease_seconds * 1.6)  # the mistake that is tested
        leases = broker.keys.leases(broker.keys.partition(ALICE))
        score = await broker.client.execute("ZSCORE", leases, run.id)
        deadlines.append(float(score) / 1000 - time.time())
        return "computed"

    async with worker.running():
        payload = await ended(broker, await ask(broker, "blocks"))
    assert payload["status"] == "succeeded"
    assert deadlines[0] > 0


async def test_two_attempts_and_the_zombie_of_the_first_is_fenced(
    quick: Settings, broker: Broker
) -> None:
    said: list[str] = []
    go = asyncio.Event()

    def declare(number: int) -> Worker:
        worker = Worker(settings=quick, concurrency=1)

        @worker.agent("retried", retries=1)
        async def retried(run: Run) -> str:
            await run.think(f"worker {number}, attempt {run.attempt}")
            await run.write("some text")
            if number == 1:
                with suppress(asyncio.CancelledError):
                    await go.wait()
                try:
                    await run.think("from the grave")
                except (RunStopped, asyncio.CancelledError):
                    said.append("stopped")
            return f"by worker {number}"

        return worker

    async with declare(1).running():
        run_id = await ask(broker, "retried")
        await until(lambda: _has(broker, run_id, "agent_thinking"))
        async with declare(2).running():
            await expire(broker, run_id)  # the first worker is thought lost
            payload = await ended(broker, run_id)
            go.set()
            await until(lambda: "stopped" in said)
    assert payload["response"] == "by worker 2"
    events = await logged(broker, run_id)
    assert [(each["type"], each.get("attempt", 1)) for each in events] == [
        ("agent_started", 1),
        ("agent_thinking", 1),
        ("agent_started", 2),
        ("agent_thinking", 2),
        ("agent_completed", 2),
    ]
    assert [each["seq"] for each in events] == [1, 2, 3, 4, 5]
    assert (await broker.run(ALICE, run_id))["text"] == "some text"


async def test_a_worker_thought_lost_may_take_the_next_attempt_itself(
    quick: Settings, broker: Broker
) -> None:
    worker, attempts = Worker(settings=quick), []

    @worker.agent("retried", retries=1)
    async def retried(run: Run) -> None:
        attempts.append(run.attempt)
        await run.think("…")
        if run.attempt == 1:
            await asyncio.Event().wait()

    async with worker.running():
        run_id = await ask(broker, "retried")
        await until(lambda: _has(broker, run_id, "agent_thinking"))
        await expire(broker, run_id)
        payload = await ended(broker, run_id)
    assert (payload["status"], attempts) == ("succeeded", [1, 2])


async def test_a_request_read_by_a_dead_worker_is_taken_over(
    worker: Worker, broker: Broker, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.queue._RECLAIM_IDLE_MS", 1)
    async with worker.running():
        pass
    run_id = await ask(broker, "five")
    assert quick.redis_url is not None
    dead = RequestQueue(quick.redis_url, keys=broker.keys, consumer="dead", client=broker.client)
    await dead.start(["five"])
    assert len(await dead.take(10)) == 1
    await dead.stop()
    async with worker.running():
        assert (await ended(broker, run_id))["status"] == "succeeded"


async def test_a_request_that_is_queued_twice_runs_once(quick: Settings, broker: Broker) -> None:
    worker, calls = Worker(settings=quick), []

    @worker.agent("counted")
    async def counted(run: Run) -> None:
        calls.append(run.id)
        await run.think("once")

    async with worker.running():
        pass
    run_id = await ask(broker, "counted")
    for _ in range(3):
        await broker._enqueue("counted", broker.keys.partition(ALICE), run_id)
    async with worker.running() as service:
        await ended(broker, run_id)
        await until(lambda: service.running == 0)
    assert calls == [run_id]
    expect(await logged(broker, run_id)).started().thinking().completed().nothing_else()


async def test_a_claim_whose_reply_is_lost_is_claimed_again(
    quick: Settings, broker: Broker
) -> None:
    assert quick.redis_url is not None
    async with faulty_network(quick.redis_url) as network:
        worker = Worker(settings=quick.model_copy(update={"redis_url": network.url}))

        @worker.agent("claimed")
        async def claimed(run: Run) -> int:
            return run.attempt

        async with worker.running() as service:
            network.lose_reply_to = service.id.encode() + b"\r\n$4\r\n4000"
            run_id = await ask(broker, "claimed")
            assert (await ended(broker, run_id))["response"] == 1
        assert network.lost == 1


async def test_a_lost_reply_to_a_publish_gives_one_entry(quick: Settings, broker: Broker) -> None:
    assert quick.redis_url is not None
    async with faulty_network(quick.redis_url) as network:
        worker = Worker(settings=quick.model_copy(update={"redis_url": network.url}))

        @worker.agent("thinks")
        async def thinks(run: Run) -> None:
            for number in range(6):
                if number in (2, 4):
                    network.lose_reply_to = f"thought {number}".encode()
                await run.think(f"thought {number}")

        async with worker.running():
            run_id = await ask(broker, "thinks")
            await ended(broker, run_id)
        assert network.lost == 2
    events = await logged(broker, run_id)
    assert [each["seq"] for each in events] == list(range(1, 9))
    thoughts = [e["payload"]["thoughts"] for e in events if e["type"] == "agent_thinking"]
    assert thoughts == [f"thought {number}" for number in range(6)]


async def test_an_outage_in_mid_run_loses_and_doubles_nothing(
    quick: Settings, broker: Broker
) -> None:
    assert quick.redis_url is not None
    async with faulty_network(quick.redis_url) as network:
        worker = Worker(settings=quick.model_copy(update={"redis_url": network.url}))
        down = asyncio.Event()

        @worker.agent("talks")
        async def talks(run: Run) -> None:
            await run.think("before")
            network.cut()
            down.set()
            speaking = asyncio.create_task(run.think("while it is down"))
            for number in range(50):
                await run.write(f"{number} ")
            await speaking
            await run.think("after")

        async with worker.running():
            run_id = await ask(broker, "talks")
            await down.wait()
            network.restore()
            payload = await ended(broker, run_id)
    text = "".join(f"{number} " for number in range(50))
    assert payload["response"] == text
    chain = expect(await logged(broker, run_id)).started().thinking("before")
    chain.thinking("while").thinking("after").completed().nothing_else()
    assert (await broker.run(ALICE, run_id))["text"] == text


async def test_draining_lets_runs_finish_and_takes_nothing_more(
    quick: Settings, broker: Broker
) -> None:
    worker, go = Worker(settings=quick), asyncio.Event()

    @worker.agent("slow", on_busy="parallel")
    async def slow(run: Run) -> str:
        await run.think("…")
        await go.wait()
        return "finished"

    async with worker.running() as service:
        first = await ask(broker, "slow")
        await until(lambda: _has(broker, first, "agent_thinking"))
        draining = asyncio.create_task(service.drain())
        await asyncio.sleep(0)
        second = await ask(broker, "slow")
        go.set()
        await draining
        assert (await ended(broker, first))["response"] == "finished"
        assert (await broker.run(ALICE, second))["state"] == "queued"


async def test_draining_cancels_what_does_not_finish(quick: Settings, broker: Broker) -> None:
    worker = waiting_worker(quick.model_copy(update={"drain_seconds": 0}))
    async with worker.running():
        run_id = await ask(broker, "waits")
        await until(lambda: _has(broker, run_id, "tool_executing"))
    payload = await ended(broker, run_id)
    assert (payload["status"], payload["error"]["code"]) == ("cancelled", "worker_shutdown")


async def test_it_can_be_started_again(worker: Worker, broker: Broker) -> None:
    for _ in range(2):
        async with worker.running():
            await ended(broker, await ask(broker, "five"))


async def test_it_leaves_no_connection_and_no_thread_behind(
    worker: Worker, broker: Broker, lease_threads: Callable[[], int]
) -> None:
    async with worker.running() as service:
        assert lease_threads() == 1

    async def gone() -> bool:  # Redis learns of it when it next looks at its sockets
        return service.id.encode() not in await broker.client.execute("CLIENT", "LIST")

    await until(gone)
    assert lease_threads() == 0


async def test_no_redis_at_the_start_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents_sdk.link.START_SECONDS", 0.3)
    worker = waiting_worker(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))
    with pytest.raises(BrokerUnavailable):
        async with worker.running():
            pass


async def test_no_redis_url_is_told(settings: Settings) -> None:
    worker = waiting_worker(settings.model_copy(update={"redis_url": None}))
    with pytest.raises(ConfigurationError, match="RUNCAST_REDIS_URL"):
        async with worker.running():
            pass


def test_what_keeps_it_from_serving_is_told_by_running_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents_sdk.worker.configure_logging", lambda *_: None)
    with pytest.raises(ConfigurationError, match="it has no agent"):
        Worker(settings=settings).run()


async def test_running_it_in_an_event_loop_says_what_to_use_there(settings: Settings) -> None:
    """Defect: it was an error of the event loop's own, and coroutines that nobody awaited."""
    with pytest.raises(ConfigurationError, match="an event loop is running"):
        waiting_worker(settings).run()


@pytest.fixture
def lease_threads() -> Callable[[], int]:
    return lambda: sum(thread.name == "leases" for thread in threading.enumerate())


def waiting_worker(settings: Settings) -> Worker:
    worker = Worker(settings=settings)

    @worker.agent("waits")
    async def waits(run: Run) -> None:
        async with run.tool("wait"):
            await asyncio.Event().wait()

    return worker


async def _has(broker: Broker, run_id: str, event_type: str) -> bool:
    return any(each["type"] == event_type for each in await logged(broker, run_id))
