"""The golden path: a user asks, watches all five events, has the answer.

Everything is judged on frames that real clients received from a real gateway, Redis and worker.
Also a plain program: ``python tests/mission_critical/test_websocket_agent_events_suite.py``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    import pytest

    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(pytest.main([__file__, "-v", *sys.argv[1:]]))

import asyncio
import time
import uuid
from contextlib import suppress
from typing import Any

import pytest

from tests.mission_critical.conftest import System
from tests.support.clients import FIVE, Client, Frame, cursor_key, payload_of

MODES: dict[str, dict[str, str]] = {
    "main": {"mode": "main"},
    "factory standard": {"mode": "factory"},
    "factory strict": {"mode": "factory", "isolation_level": "strict"},
    "isolated": {"mode": "isolated", "connection_scope": "true"},
    "legacy": {"mode": "legacy"},
}

pytestmark = pytest.mark.timeout(300)


def user() -> str:
    """A user of this test only."""
    return f"user-{uuid.uuid4().hex[:8]}"


def types(events: list[Frame]) -> list[str]:
    return [event["type"] for event in events]


@pytest.mark.parametrize("mode", MODES)
async def test_all_five_events_arrive_in_order_and_once(system: System, mode: str) -> None:
    async with Client(system.first, user(), query=MODES[mode]) as client:
        run_id = await client.ask("hello", agent="five")
        end = await client.completed(run_id)
        assert tuple(types(client.events(run_id))) == FIVE
        payload = payload_of(end)
        assert payload["status"] == "succeeded"
        assert payload["response"] == f"done for {client.user}"
        assert payload["missing"] == []


async def test_the_run_is_accepted_before_its_first_event(system: System) -> None:
    async with Client(system.first, user()) as client:
        for number in range(20):
            run_id = await client.ask("hello", agent="five", ref=f"m{number}")
            await client.completed(run_id)
            of_run = [
                frame
                for frame in client.frames
                if frame.get("run_id") == run_id or frame.get("ref") == f"m{number}"
            ]
            assert of_run[0]["type"] == "run_accepted", types(of_run)


async def test_every_envelope_has_its_fields(system: System) -> None:
    me = user()
    async with Client(system.first, me) as client:
        run_id = await client.ask("hello", agent="five", thread_id="thread one")
        await client.completed(run_id)
        events = client.events(run_id)
        assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
        for event in events:
            assert event["user_id"] == me
            assert event["thread_id"] == "thread one"
            assert event["agent_name"] == "five"
            assert event["timestamp"].endswith("Z")
            assert "attempt" not in event
            assert "parent_run_id" not in event
        keys = [cursor_key(event) for event in client.logged()]
        assert keys == sorted(set(keys))


async def test_tool_calls_pair_by_call_id_also_in_parallel(system: System) -> None:
    async with Client(system.first, user()) as client:
        run_id = await client.ask("hello", agent="parallel_tools")
        await client.completed(run_id)
        open_calls: dict[str, Any] = {}
        results = {}
        for event in client.events(run_id):
            payload = event["payload"]
            if event["type"] == "tool_executing":
                assert payload["call_id"] not in open_calls
                open_calls[payload["call_id"]] = payload["parameters"]["number"]
            elif event["type"] == "tool_completed":
                results[open_calls.pop(payload["call_id"])] = payload
        assert open_calls == {}
        assert sorted(results) == [0, 1, 2, 3, 4]
        assert [number for number in results if not results[number]["success"]] == [2]
        assert results[2]["result"] is None
        assert results[2]["error"]["message"]
        assert results[4]["result"] == 4


@pytest.mark.parametrize(
    ("agent", "status", "code"),
    [("raises", "failed", None), ("hangs", "failed", "timeout")],
)
async def test_completed_is_last_and_once_when_the_agent_does_not_return(
    system: System, agent: str, status: str, code: str | None
) -> None:
    async with Client(system.first, user()) as client:
        run_id = await client.ask("hello", agent=agent)
        end = await client.completed(run_id)
        assert end["payload"]["status"] == status
        assert end["payload"]["response"] is None
        assert end["payload"]["error"]["message"]
        if code is not None:
            assert end["payload"]["error"]["code"] == code
        # A second run on the thread shows that nothing came after the first one's end.
        await client.completed(await client.ask("again", agent="five", ref="m2"))
        events = client.events(run_id)
        assert types(events)[0] == "agent_started"
        assert types(events)[-1] == "agent_completed"
        assert types(events).count("agent_completed") == 1
        calls = [event["payload"] for event in events if event["type"] == "tool_completed"]
        assert [call["success"] for call in calls] == [False]


@pytest.mark.parametrize("agent", ["waits", "stubborn"])
async def test_a_stopped_run_is_cancelled_and_completed_once(system: System, agent: str) -> None:
    async with Client(system.first, user()) as client, Client(system.second, client.user) as other:
        run_id = await client.ask("hello", agent=agent)
        await other.first("agent_thinking")
        # On another gateway than the one that took the message, and twice.
        for ref in ("s1", "s2"):
            await other.send("stop_agent", {"run_id": run_id}, ref=ref)
            assert (await other.reply(ref))["type"] == "ok"
        for each in (client, other):
            end = await each.completed(run_id)
            assert end["payload"]["status"] == "cancelled"
        await client.completed(await client.ask("again", agent="five", ref="m2"))
        assert types(client.events(run_id)).count("agent_completed") == 1


async def test_the_five_by_hand_obey_the_same_rules(system: System) -> None:
    async with Client(system.first, user()) as client:
        run_id = await client.ask("hello", agent="emits_all")
        end = await client.completed(run_id)
        assert tuple(types(client.events(run_id))) == FIVE
        assert end["payload"]["response"] == "Final AI response"
        executing, completed = client.events(run_id)[2:4]
        assert executing["payload"]["call_id"] == completed["payload"]["call_id"]


async def test_what_a_run_left_out_is_told_and_never_invented(system: System) -> None:
    async with Client(system.first, user()) as client:
        lazy = await client.completed(await client.ask("hello", agent="lazy"))
        assert lazy["payload"]["status"] == "succeeded"
        assert lazy["payload"]["missing"] == ["agent_thinking", "tool_executing", "tool_completed"]
        strict = await client.completed(await client.ask("hello", agent="strict", ref="m2"))
        assert strict["payload"]["status"] == "failed"
        assert strict["payload"]["error"]["code"] == "incomplete_lifecycle"


async def test_a_subagent_has_a_lifecycle_of_its_own(system: System) -> None:
    async with Client(system.first, user()) as client:
        run_id = await client.ask("hello", agent="parent")
        await client.completed(run_id)
        child = await client.first("agent_thinking", thoughts="the child thinks")
        assert child["parent_run_id"] == run_id
        assert types(client.events(child["run_id"]))[-1] == "agent_completed"
        assert types(client.events(run_id)).count("agent_completed") == 1
        assert types(client.events())[-1] == "agent_completed"
        assert client.events()[-1]["run_id"] == run_id


async def test_two_tabs_of_a_user_see_the_same(system: System) -> None:
    me = user()
    async with Client(system.first, me) as one, Client(system.second, me) as two:
        await two.first("live")
        run_id = await one.ask("hello", agent="five")
        await asyncio.gather(one.completed(run_id), two.completed(run_id))
        assert one.logged() == two.logged()
        assert two.logged()[0]["type"] == "user_message"
        assert two.logged()[0]["payload"]["content"] == "hello"


async def test_fifty_concurrent_users_over_all_modes_get_no_foreign_event(system: System) -> None:
    """Each of 50 users runs an agent three times, five users per mode and gateway."""
    gateways = (system.first, system.second)

    async def one_user(number: int) -> tuple[Client, list[str]]:
        mode = list(MODES)[number % len(MODES)]
        async with Client(gateways[number % 2], f"{user()}-{number}", query=MODES[mode]) as client:
            await client.first("live")
            runs = [
                await client.ask({"calls": 2}, agent="five", ref=f"m{turn}") for turn in range(3)
            ]
            for run_id in runs:
                await client.completed(run_id)
            return client, runs

    clients = await asyncio.gather(*(one_user(number) for number in range(50)))
    owners = {run_id: client.user for client, runs in clients for run_id in runs}
    assert len(owners) == 150
    for client, runs in clients:
        got = client.events()
        assert {event["run_id"] for event in got} == set(runs)
        for event in got:
            assert owners[event["run_id"]] == client.user
            assert event.get("user_id", client.user) == client.user
        for run_id in runs:
            assert len(client.events(run_id)) == 7


async def test_modes_of_one_user_do_not_mix(system: System) -> None:
    """The leak matrix: a run started in one mode is seen by exactly the connections that share its
    scope."""
    me = user()
    async with (
        Client(system.first, me) as main,
        Client(system.second, me, mode="main", thread_id="other") as main_other,
        Client(system.first, me, mode="factory", thread_id="t") as factory,
        Client(system.second, me, mode="factory", thread_id="t") as factory_same,
        Client(system.first, me, mode="factory", thread_id="u") as factory_other,
        Client(system.first, me, mode="factory", isolation_level="strict") as strict,
        Client(system.first, me, mode="factory", isolation_level="strict") as strict_other,
        Client(system.first, me, mode="isolated") as isolated,
        Client(system.second, me, mode="isolated") as isolated_other,
        Client(system.second, me, mode="legacy") as legacy,
    ):
        everyone = [main, main_other, factory, factory_same, factory_other, strict, strict_other,
                    isolated, isolated_other, legacy]  # fmt: skip
        sees = {
            main: {main, legacy},
            factory: {factory, factory_same},
            strict: {strict},
            isolated: {isolated},
            legacy: {legacy, main},
        }
        await asyncio.gather(*(each.first("live") for each in everyone))
        for sender, readers in sees.items():
            run_id = await sender.ask("hello", agent="five", ref=f"from {id(sender)}")
            await asyncio.gather(*(reader.completed(run_id) for reader in readers))
            # A ping's answer comes after whatever would have been written before it.
            for each in everyone:
                await each.send("ping", ref=f"after {run_id}")
                await each.reply(f"after {run_id}")
            assert {each for each in everyone if each.events(run_id)} == readers


async def test_resume_loses_and_doubles_nothing(system: System) -> None:
    """A client drops its connection again and again while a run goes on, and comes back each time
    with its cursor to the other gateway."""
    me = user()
    gateways = (system.first, system.second)

    def enough_or_ended(frames: list[Frame]) -> bool:
        logged = [frame for frame in frames if "id" in frame]
        return len(logged) >= 7 or any(frame["type"] == "agent_completed" for frame in logged)

    async with Client(system.first, me) as watcher:
        run_id = await watcher.ask({"count": 60, "per_second": 60}, agent="beats")
        got: list[Frame] = []
        cursor = "0-0"
        turn = 0
        while not (got and got[-1]["type"] == "agent_completed"):
            turn += 1
            async with Client(gateways[turn % 2], me, after=cursor) as client:
                hello = await client.first("connection_established")
                assert hello["payload"]["recovered"] is True
                await client.until(enough_or_ended)
            got += client.logged()
            cursor = got[-1]["id"]
        await watcher.completed(run_id)
        assert turn >= 4
        assert [event["id"] for event in got] == [event["id"] for event in watcher.logged()]


async def test_99_of_100_emissions_reach_the_client_in_100_ms_at_500_per_second(
    system: System,
) -> None:
    """Ten users, fifty events a second each, for four seconds.

    An event is taken up by four processes in turn. What a machine that has other things to do makes
    each of them late is not ours: a timer in this process tells how much that is.
    """

    async def lateness() -> list[float]:
        late = []
        with suppress(asyncio.CancelledError):
            while True:
                due = time.perf_counter() + 0.01
                await asyncio.sleep(0.01)
                late.append(time.perf_counter() - due)
        return late

    async def one_user(number: int) -> list[float]:
        async with Client((system.first, system.second)[number % 2], user()) as client:
            await client.first("live")
            run_id = await client.ask({"count": 200, "per_second": 50}, agent="beats")
            await client.completed(run_id)
            return [
                arrived - float(frame["payload"]["thoughts"].split()[1])
                for arrived, frame in zip(client.times, client.frames, strict=True)
                if frame["type"] == "agent_thinking"
            ]

    told: list[str] = []
    for _ in range(3):  # or the machine was busy in one of them only
        timing = asyncio.create_task(lateness())
        per_user = await asyncio.gather(*(one_user(number) for number in range(10)))
        timing.cancel()
        latencies = [latency for each in per_user for latency in each]
        assert len(latencies) == 2000
        p99, late = percentile(latencies, 99), percentile(await timing, 99)
        told.append(f"p99 {p99 * 1000:.1f} ms, of a timer {late * 1000:.1f} ms")
        if p99 < 0.1 + 4 * late:
            break
    else:
        pytest.fail(f"not within 100 ms: {told}")
    print(f"emission to client: p50 {percentile(latencies, 50) * 1000:.1f} ms, {told[-1]}")


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]
