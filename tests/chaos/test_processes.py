"""Gateways and workers that are killed, stopped, continued and replaced under load."""

import asyncio
import signal
import time
from functools import partial

import pytest

from tests.support.chaos import QUICK_SECONDS, THREAD, USERS, Scene, chaos, until
from tests.support.chaos_client import ChaosClient
from tests.support.chaos_report import Report
from tests.support.faults import named
from tests.support.history import Frame, History

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def at(scene: Scene, gateway: int) -> list[ChaosClient]:
    """The clients that are connected to this gateway."""
    base = scene.gateways[gateway].base
    return [client for client in scene.clients if client.connections[-1].base == base]


def of_run(history: History, run_id: str) -> list[str]:
    """What the logs hold of a run, by type."""
    return [entry.type for log in history.logs.values() for entry in log if entry.run_id == run_id]


def begun_again(client: ChaosClient, run_id: str) -> bool:
    """Whether the client has seen the run's second attempt."""
    return any(f["run_id"] == run_id and f.get("attempt") == 2 for _, f in client.received())


def status(end: Frame) -> str:
    found: str = end["payload"]["status"]
    return found


async def test_a_killed_gateways_clients_go_on_at_another_one(report: Report) -> None:
    async with chaos(report) as scene:
        await scene.populate()
        async with scene.load():
            hit = at(scene, 0)
            assert hit, "somebody is connected there"
            killed = scene.gateways[0].kill()
            recovery = await scene.recovered(killed, hit)
        await scene.settle()
        assert all(client.connections[-1].base == scene.gateways[1].base for client in hit)
        assert recovery < QUICK_SECONDS
        scene.judge(fault="gateway killed (SIGKILL)", recovery_seconds=recovery)


async def test_a_stopped_gateways_clients_leave_it_and_nothing_comes_twice(report: Report) -> None:
    """SIGSTOP: its sockets stay open. What it still holds goes to nobody when it goes on."""
    async with chaos(report) as scene:
        await scene.populate(users=2, heartbeat_seconds=2)
        hit = at(scene, 0)
        assert hit, "somebody is connected there"
        async with scene.load(count=40):
            scene.gateways[0].pause()
            paused = time.monotonic()
            recovery = await scene.recovered(paused, hit)
            scene.gateways[0].go_on()
        await until(scene.gateways[0].is_ready, what="it is ready again")
        await scene.settle()
        scene.judge(
            fault="gateway stopped (SIGSTOP) and continued; heartbeat 2 s",
            recovery_seconds=recovery,
        )


async def test_a_killed_workers_runs_are_abandoned_or_begun_again(report: Report) -> None:
    """Exactly one end each; a second attempt where the agent is declared with ``retries=1``."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="5") as scene:
        once = await scene.connect(USERS[0])
        again = await scene.connect(USERS[1])
        content = {"count": 40, "per_second": 40}
        first = await once.ask(content, agent="notes")
        second = await again.ask(content, agent="notes_again")
        await once.until_heard(first)
        await again.until_heard(second)
        killed = scene.workers[0].kill()
        scene.add_worker()
        await scene.all_ready()
        assert status(await once.until_ended(first)) == "abandoned"
        recovery = await scene.recovered(killed, [again])
        end = await again.until_ended(second)
        assert status(end) == "succeeded"
        assert end["attempt"] == 2
        await scene.settle()
        history = scene.judge(fault="worker killed (SIGKILL)", recovery_seconds=recovery)
        assert of_run(history, first).count("agent_started") == 1
        assert of_run(history, second).count("agent_started") == 2


async def test_a_worker_paused_beyond_its_lease_writes_nothing_after_the_end(
    report: Report,
) -> None:
    """It wakes in the middle of its run, which is over (or another worker's), and is fenced."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="5") as scene:
        clients = await scene.populate(users=2)
        runs = []
        for number, client in enumerate(clients):
            agent = "notes_again" if number % 2 else "notes"
            runs.append(await client.ask({"count": 80, "per_second": 40}, agent=agent))
        for client, run_id in zip(clients, runs, strict=True):
            await client.until_heard(run_id)
        scene.workers[0].pause()
        scene.add_worker()
        await scene.all_ready()
        ends = [
            await client.until_ended(run_id) for client, run_id in zip(clients, runs, strict=True)
        ]
        scene.workers[0].go_on()
        continued = time.monotonic()
        lost = [end for end in ends if status(end) == "abandoned"]
        repeated = [end for end in ends if end.get("attempt") == 2]
        assert lost, "the paused worker had a run of its own"
        assert repeated, "and one that may be run again"
        async with scene.load(count=20):
            recovery = await scene.recovered(continued)
        await scene.settle()
        scene.judge(
            fault="worker paused beyond its lease (SIGSTOP), continued", recovery_seconds=recovery
        )


async def test_a_worker_that_cannot_renew_its_leases_is_fenced(report: Report) -> None:
    """Everything else of its network is well, and nothing tells it: its next event is refused."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="5") as scene:
        clients = await scene.populate(users=1)
        deaf = scene.workers[0]
        content = {"count": 400, "per_second": 40}
        runs = [
            await client.ask(content, agent="notes_again" if number % 2 else "notes")
            for number, client in enumerate(clients)
        ]
        for client, run_id in zip(clients, runs, strict=True):
            await client.until_heard(run_id)
        with deaf.network.black_hole(to=named("worker-* leases")) as fault:
            cut = time.monotonic()
            for client, run_id in list(zip(clients, runs, strict=True))[::2]:
                assert status(await client.until_ended(run_id)) == "abandoned"
            ended = time.monotonic() - cut
            for client, run_id in list(zip(clients, runs, strict=True))[1::2]:
                await client.until(partial(begun_again, client, run_id), what="attempt 2")
                await client.request("stop_agent", {"run_id": run_id})
                assert status(await client.until_ended(run_id)) == "cancelled"
            assert fault.hits
        recovery = await scene.recovered(cut, clients[1::2])
        assert ended < 5 + 2 + QUICK_SECONDS, "lease, sweep, and a loaded machine"
        await scene.settle()
        scene.judge(fault="leases not renewed (half-open)", recovery_seconds=recovery)


async def test_all_gateways_are_replaced_under_load_and_nobody_misses_anything(
    report: Report,
) -> None:
    """One after the other, with SIGTERM. Reconnects are spread over the drain window."""
    async with chaos(report, gateways=3, RUNCAST_DRAIN_SECONDS="1") as scene:
        await scene.populate()
        slowest, spreads = 0.0, []
        async with scene.load(per_second=10, count=10):
            for number, gateway in enumerate(scene.gateways):
                hit = at(scene, number)
                gateway.process.popen.send_signal(signal.SIGTERM)
                await until(
                    lambda g=gateway: g.process.popen.poll() is not None,
                    what="the gateway ends",
                )
                assert gateway.process.popen.returncode == 0, gateway.process.printed()
                slowest = max(slowest, await scene.recovered(time.monotonic(), hit))
                closed = [connection.closed for c in hit for connection in c.connections[-2:-1]]
                codes = {connection.close_code for c in hit for connection in c.connections[-2:-1]}
                assert codes == {1001}, codes
                spreads.append(max(filter(None, closed)) - min(filter(None, closed)))
                gateway.start()
                await scene.all_ready()
        await scene.settle()
        for client in scene.clients:
            assert client.frames("resync") == []
        assert max(spreads) > 0.3, f"closed within {spreads} s of a drain window of 1 s"
        scene.judge(fault="all 3 gateways restarted one by one", recovery_seconds=slowest)


@pytest.mark.parametrize(
    "seconds", [8, pytest.param(30, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
async def test_an_agent_that_blocks_the_event_loop_keeps_its_lease(
    report: Report, seconds: int
) -> None:
    """A lease of 5 s, renewed from a thread of its own."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="5") as scene:
        client = await scene.connect()
        began = time.monotonic()
        run_id = await client.ask({"seconds": seconds}, agent="blocks")
        end = await client.until_ended(run_id, seconds=seconds + 60)
        assert time.monotonic() - began > seconds
        assert status(end) == "succeeded"
        await scene.settle()
        scene.judge(fault=f"event loop blocked for {seconds} s by an agent")


async def test_a_stop_ends_a_run_before_it_starts_while_it_runs_and_without_its_worker(
    report: Report,
) -> None:
    """Each run has one end, ``cancelled``, and nothing after it."""
    async with chaos(report) as scene:
        client = await scene.connect()
        other = await scene.connect()

        async def stop(who: ChaosClient, run_id: str) -> None:
            reply = await who.request("stop_agent", {"run_id": run_id})
            assert reply["type"] == "ok", reply

        content = {"count": 2000, "per_second": 40}
        running = await client.ask(content, agent="notes")
        await client.until_heard(running)
        waiting = await client.ask("x", agent="waits", thread="held")
        held = await client.ask("x", agent="five", thread="held")
        await stop(other, held)
        assert status(await client.until_ended(held)) == "cancelled"
        await stop(other, running)
        assert status(await client.until_ended(running)) == "cancelled"
        orphan = await client.ask(content, agent="notes_again")
        await client.until_heard(orphan)
        killed = scene.workers[0].kill()
        for run_id in (orphan, waiting):
            await stop(other, run_id)
        for run_id in (orphan, waiting):
            assert status(await client.until_ended(run_id)) == "cancelled"
        ended = time.monotonic() - killed
        queued = await client.ask(content, agent="notes")
        await stop(other, queued)
        assert status(await client.until_ended(queued)) == "cancelled"
        await scene.settle()
        history = scene.judge(fault="stop: before, during, worker dead", recovery_seconds=ended)
        assert of_run(history, held) == ["user_message", "stop_requested", "agent_completed"]
        assert of_run(history, queued) == ["user_message", "stop_requested", "agent_completed"]


async def test_three_disconnects_without_traffic_move_nobodys_cursor(report: Report) -> None:
    """Nothing is repeated and nothing is skipped, although nothing came in between."""
    async with chaos(report, RUNCAST_HEARTBEAT_SECONDS="3") as scene:
        clients = await scene.populate(users=2)
        async with scene.load(count=5):
            pass
        await scene.settle()
        for times in range(1, 4):
            for client in clients:
                await client.drop()
            for client in clients:
                await client.until_live_again(times)
                hello, *rest = client.connections[-1].frames
                assert hello["payload"]["recovered"] is True
                assert [frame["type"] for frame in rest] == ["live"]
        came_back = time.monotonic()
        async with scene.load(count=5):
            recovery = await scene.recovered(came_back)
        await scene.settle()
        scene.judge(fault="three disconnects in a row, no traffic", recovery_seconds=recovery)


async def test_a_thread_id_used_again_begins_a_run_of_its_own(report: Report) -> None:
    """After a run ended, was stopped, or was lost: ``seq`` begins at 1, and readers see both."""
    async with chaos(report, gateways=1, RUNCAST_LEASE_SECONDS="5") as scene:
        client = await scene.connect(mode="factory")
        tab = await scene.connect(mode="factory")
        short, endless = {"count": 3, "per_second": 50}, {"count": 2000, "per_second": 20}
        await client.until_ended(await client.ask(short, agent="notes"))
        stopped = await client.ask(endless, agent="notes")
        await client.until_heard(stopped)
        await client.request("stop_agent", {"run_id": stopped})
        await client.until_ended(stopped)
        lost = await client.ask(endless, agent="notes")
        await client.until_heard(lost)
        killed = scene.workers[0].kill()
        scene.add_worker()
        await scene.all_ready()
        assert status(await client.until_ended(lost)) == "abandoned"
        last = await client.ask(short, agent="notes")
        recovery = await scene.recovered(killed, [tab])
        await client.until_ended(last)
        seqs = [f["seq"] for _, f in tab.received() if f["run_id"] == last and "seq" in f]
        assert seqs == [1, 2, 3, 4, 5], "the run before left nothing"
        late = await scene.connect(mode="factory", after="0-0", thread=THREAD)
        await scene.settle()
        assert [f for _, f in late.received()] == [f for _, f in tab.received()]
        scene.judge(fault="thread id used again", recovery_seconds=recovery)


@pytest.mark.long
async def test_everybody_at_once_is_killed_and_the_system_comes_back(report: Report) -> None:
    """Gateways and workers, all of them, under load; new ones are started in their places."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="5") as scene:
        await scene.populate(users=2)
        content = {"count": 40, "per_second": 20}
        runs = [await client.ask(content, agent="notes_again") for client in scene.clients]
        for client, run_id in zip(scene.clients, runs, strict=True):
            await client.until_heard(run_id)
        for member in (*scene.gateways, *scene.workers):
            member.kill()
        for member in (*scene.gateways, *scene.workers):
            member.start()
        await scene.all_ready()
        started = time.monotonic()
        recovery = await scene.recovered(started)
        ends = await asyncio.gather(
            *(c.until_ended(run_id) for c, run_id in zip(scene.clients, runs, strict=True))
        )
        assert {(status(end), end["attempt"]) for end in ends} == {("succeeded", 2)}
        await scene.settle()
        scene.judge(fault="all gateways and workers killed at once", recovery_seconds=recovery)
