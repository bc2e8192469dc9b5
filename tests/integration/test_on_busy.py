"""What a message means for a thread that has an open run: queue, reject, interrupt, parallel."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agents_sdk import Run, Worker
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.records import OnBusy
from gateway.app import Gateway
from tests.integration.sdk_rig import alices
from tests.mission_critical.test_g1_published_once import opened
from tests.support.clients import Client
from tests.support.fault_proxy import FaultProxy
from tests.support.faults import command
from tests.support.servers import Redis


class Gate:
    """Agents whose runs wait until the test lets them go on."""

    def __init__(self, settings: Settings) -> None:
        self.worker = Worker(settings=settings)
        self.open = asyncio.Event()
        self.running = 0
        self.most = 0

    def declare(self, on_busy: OnBusy) -> None:
        @self.worker.agent(f"gated {on_busy}", on_busy=on_busy)
        async def gated(run: Run) -> str:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await run.think("waiting")
                await self.open.wait()
            finally:
                self.running -= 1
            return "through"


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    gate = Gate(settings)
    for on_busy in ("queue", "reject", "interrupt", "parallel"):
        gate.declare(on_busy)
    async with gate.worker.running():
        yield gate


async def test_queued_runs_of_a_thread_come_one_after_the_other(base: str, gate: Gate) -> None:
    async with Client(base, thread_id="t") as client:
        runs = [await client.ask("x", agent="gated queue", ref=f"m{n}") for n in range(4)]
        await client.until(lambda _: client.events(runs[0])[1:])
        assert gate.running == 1
        gate.open.set()
        for run_id in runs:
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "succeeded"
        assert gate.most == 1
        order = [event["run_id"] for event in client.events() if event["seq"] == 1]
        assert order == runs


async def test_threads_do_not_wait_for_each_other(base: str, gate: Gate) -> None:
    async with Client(base) as client:
        for number in range(3):
            await client.ask("x", agent="gated queue", ref=f"m{number}", thread_id=f"t{number}")
        await client.until(lambda _: gate.running == 3 and len(client.events()) == 6)
        gate.open.set()


async def test_a_busy_thread_rejects(base: str, gate: Gate) -> None:
    async with Client(base, thread_id="t") as client:
        first = await client.ask("x", agent="gated reject")
        await client.send("user_message", {"content": "x", "agent": "gated reject"}, ref="m2")
        error = await client.reply("m2")
        assert error["payload"]["code"] == "queue_full"
        assert error["payload"]["retryable"] is True
        gate.open.set()
        await client.completed(first)
        await client.completed(await client.ask("x", agent="gated reject", ref="m3"))


async def test_a_new_message_interrupts(base: str, gate: Gate) -> None:
    async with Client(base, thread_id="t") as client:
        first = await client.ask("x", agent="gated interrupt")
        await client.until(lambda _: client.events(first)[1:])
        second = await client.ask("y", agent="gated interrupt", ref="m2")
        end = await client.completed(first)
        assert end["payload"]["status"] == "cancelled"
        await client.until(lambda _: client.events(second)[1:])
        gate.open.set()
        end = await client.completed(second)
        assert end["payload"]["status"] == "succeeded"
        assert gate.most == 1


async def test_a_new_message_interrupts_also_when_the_reply_to_its_registration_is_lost(
    settings: Settings, gate: Gate, redis_server: Redis
) -> None:
    """Tried again, it counted as sent twice: what it was to interrupt went on, and it waited."""
    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        behind = settings.model_copy(update={"redis_url": proxy.url})
        async with (
            Gateway(behind) as gateway,
            Client(f"http://127.0.0.1:{gateway.port}", thread_id="t") as client,
        ):
            first = await client.ask("x", agent="gated interrupt")
            await client.until(lambda _: client.events(first)[1:])
            fault = proxy.lose_reply(command("EVALSHA", b'"message_id":"m2"'))
            second = await client.ask("y", agent="gated interrupt", ref="m2")
            assert fault.hits == 1
            assert (await client.reply("m2"))["payload"]["duplicate"] is False
            end = await client.completed(first)
            assert end["payload"]["status"] == "cancelled"
            gate.open.set()
            await client.completed(second)


async def test_a_message_sent_again_interrupts_when_its_gateway_died_before_it_did(
    base: str, gate: Gate, broker: Broker
) -> None:
    async with Client(base, thread_id="t") as client:
        first = await client.ask("x", agent="gated interrupt")
        await client.until(lambda _: client.events(first)[1:])
        request = alices(broker, agent="gated interrupt", message_id="m2")
        spec = await broker.agent(request.agent)
        await broker.register(request, spec, epoch_ms=0)
        assert await client.ask("y", agent="gated interrupt", ref="m2") == request.run_id
        end = await client.completed(first)
        assert end["payload"]["status"] == "cancelled"
        gate.open.set()
        await client.completed(request.run_id)


async def test_parallel_runs_share_a_thread(base: str, gate: Gate) -> None:
    async with Client(base, thread_id="t") as client:
        runs = [await client.ask("x", agent="gated parallel", ref=f"m{n}") for n in range(3)]
        await client.until(lambda _: gate.running == 3 and len(client.events()) == 6)
        gate.open.set()
        for run_id in runs:
            await client.completed(run_id)


async def test_a_worker_goes_on_when_its_queue_has_vanished(
    base: str, gate: Gate, broker: Broker
) -> None:
    """After its time to live, or with Redis' data, a worker makes it anew and takes requests."""
    gate.open.set()
    async with Client(base) as client:
        for number in range(3):
            await broker.client.execute("DEL", broker.keys.requests("gated parallel"))
            run_id = await client.ask("x", agent="gated parallel", ref=f"m{number}")
            end = await client.completed(run_id)
            assert end["payload"]["status"] == "succeeded"


async def test_leases_are_renewed_after_the_scripts_were_flushed(
    gate: Gate, broker: Broker
) -> None:
    """A bare EVALSHA had let every running run of the fleet be abandoned."""
    del gate
    claim = await opened(broker, "alice")
    await broker.client.execute("SCRIPT", "FLUSH")
    assert (await broker.renew(claim)).held
