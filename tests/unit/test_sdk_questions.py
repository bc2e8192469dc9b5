"""What an agent asks, through real runs without Redis: ids, answers, expiry, and whose time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest

from agents_sdk import InputExpired, InvalidEvent, Run, RunStopped, Worker
from agents_sdk.errors import Reason
from agents_sdk.execution import Execution
from agents_sdk.ids import new_id
from agents_sdk.recording import RecordingHost
from agents_sdk.testing import expect, run_agent
from broker.channels import Keys, Owner, Scope
from broker.errors import BrokerUnavailable, RunClosed
from broker.redis.records import AgentSpec, Claim, RunRequest
from broker.redis.steering import Asked, Look


def request() -> RunRequest:
    owner = Owner("", "alice")
    channel = Keys("test").channel(owner, Scope.USER)
    return RunRequest(run_id=new_id(), owner=owner, channel=channel, thread_id="t1", agent="a")


def asked(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["payload"] for each in events if each["type"] == "input_required"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)


async def careful(run: Run) -> str:
    if await run.ask("Delete 3 files?", schema={"type": "boolean"}) is not True:
        return "kept"
    async with run.tool("delete", files=3) as call:
        call.result = 3
    return "deleted"


async def test_an_answer_decides() -> None:
    yes = await run_agent(careful, answers=[True])
    expect(yes).started().asked("3 files").tool("delete").completed(response="deleted")
    no = await run_agent(careful, answers=["true"])
    expect(no).started().asked().completed(response="kept").nothing_else()


async def test_nothing_else_knows_of_questions() -> None:
    events = await run_agent(careful, answers=[False])
    with pytest.raises(AssertionError, match="expected agent_completed"):
        expect(events).started().completed()
    with pytest.raises(AssertionError, match="prompt with 'Save'"):
        expect(events).started().asked("Save")


async def test_a_question_beyond_the_answers_expires() -> None:
    events = await run_agent(careful)
    expect(events).started().asked().completed("failed", error="input_expired").nothing_else()

    async def patient(run: Run) -> str:
        try:
            return str(await run.ask("Quick?", expires_seconds=5))
        except InputExpired as error:
            return f"{error.prompt} {error.seconds:g}"

    expect(await run_agent(patient)).started().asked().completed(response="Quick? 5")


async def test_the_payload_tells_until_when() -> None:
    (question,) = [e for e in await run_agent(careful, answers=[1]) if "prompt" in e["payload"]]
    assert question["payload"]["schema"] == {"type": "boolean"}
    until = datetime.fromisoformat(question["payload"]["expires_at"])
    wait = until - datetime.fromisoformat(question["timestamp"])
    assert 899 < wait.total_seconds() <= 900


async def test_ids_tell_the_question_and_which_time_it_is_asked() -> None:
    async def asks(run: Run) -> None:
        for prompt in run.content:
            await run.ask(prompt)
        await run.ask("a", schema={})

    first = asked(await run_agent(asks, content=["a", "b", "a"], answers=range(4)))
    again = asked(await run_agent(asks, content=["b", "a", "a"], answers=range(4)))
    ids = [each["request_id"] for each in first]
    assert len(set(ids)) == 4
    assert [each["request_id"] for each in again] == [ids[1], ids[0], ids[2], ids[3]]


@pytest.mark.parametrize("seconds", [0, -1, 86_401, float("nan")])
async def test_a_time_that_cannot_be_waited_is_refused(seconds: float) -> None:
    async def asks(run: Run) -> None:
        with pytest.raises(InvalidEvent, match="expires_seconds"):
            await run.ask("?", expires_seconds=seconds)

    expect(await run_agent(asks)).started().completed().nothing_else()


async def test_input_required_is_not_for_emit_event() -> None:
    """Nobody would get the answer."""

    async def by_hand(run: Run) -> None:
        payload = {"request_id": "r", "prompt": "?", "expires_at": "2030-01-01T00:00:00.000Z"}
        with pytest.raises(InvalidEvent, match="is not one of"):
            await run.emit_event("input_required", payload)

    expect(await run_agent(by_hand)).started().completed().nothing_else()


async def test_a_stop_while_it_waits() -> None:
    events = await run_agent(careful, stop_at=lambda event: event["type"] == "input_required")
    expect(events).started().asked().completed("cancelled", error="stopped").nothing_else()


async def test_text_comes_before_the_question() -> None:
    async def writes(run: Run) -> None:
        await run.write("a")
        await run.write("b")
        await run.ask("?")

    types = [each["type"] for each in await run_agent(writes, answers=[1])]
    assert types[1:4] == ["agent_delta", "agent_delta", "input_required"]


async def test_two_at_once_and_one_that_is_given_up() -> None:
    async def asks(run: Run) -> Any:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await run.ask("Nobody?")
        return await asyncio.gather(run.ask("a"), run.ask("b"))

    host, declared = RecordingHost(), AgentSpec(name="a")
    execution = Execution(host, host.register(request()), asks, declared)
    conducting = asyncio.create_task(execution.conduct())
    await until(lambda: len(asked(host.events)) == 3)
    ids = {each["prompt"]: each["request_id"] for each in asked(host.events)}
    assert not host.answer(execution.run.id, ids["Nobody?"], Look(Asked.ANSWERED, 0))
    assert host.answer(execution.run.id, ids["b"], Look(Asked.ANSWERED, 2))
    assert host.answer(execution.run.id, ids["a"], Look(Asked.ANSWERED, 1))
    await conducting
    assert host.events[-1]["payload"]["response"] == [1, 2]


class Unreliable(RecordingHost):
    """Redis is away for some looks."""

    away = 2

    async def look(self, claim: Claim, request_id: str) -> Look:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable(why="it is away")
        return await super().look(claim, request_id)

    def recorded(self, event: dict[str, Any]) -> None:
        super().recorded(event)
        if event["type"] == "input_required":
            answer = Look(Asked.ANSWERED, "yes")
            self.answer(event["run_id"], event["payload"]["request_id"], answer)


async def test_a_look_is_repeated_while_redis_is_away() -> None:
    host = Unreliable()
    execution = Execution(host, host.register(request()), careful, AgentSpec(name="a"))
    await execution.conduct()
    assert host.events[-1]["payload"]["response"] == "kept"
    assert host.away == 0


async def test_a_task_that_outlives_its_run_does_not_wait_for_ever() -> None:
    """Also one that nobody cancels."""
    errors = []

    async def leaves(run: Run) -> None:
        async def asks() -> None:
            try:
                await run.ask("?")
            except RunStopped as error:
                errors.append((error.reason, type(error.__cause__)))

        tasks.append(asyncio.create_task(asks()))
        await run.think("…")

    tasks: list[asyncio.Task[None]] = []
    host = RecordingHost()
    await Execution(host, host.register(request()), leaves, AgentSpec(name="a")).conduct()
    async with asyncio.timeout(30):
        await tasks[0]
    assert errors == [(Reason.LOST, RunClosed)]


async def test_the_time_of_an_agent_stands_still_while_its_user_thinks() -> None:
    worker = Worker()

    @worker.agent("hurries", timeout_seconds=2)
    async def hurries(run: Run) -> str:
        async with run.subagent("child") as child:
            await child.ask("Slowly?")
        await asyncio.Event().wait()
        return "unreachable"

    host = RecordingHost()
    execution = Execution(host, host.register(request()), hurries.function, hurries.spec)
    conducting = asyncio.create_task(execution.conduct())
    await asyncio.wait([conducting], timeout=2.5)
    assert not conducting.done()
    (event,) = [each for each in host.events if each["type"] == "input_required"]
    host.answer(event["run_id"], event["payload"]["request_id"], Look(Asked.ANSWERED, 1))
    await conducting
    await execution.wait_gone()
    assert host.events[-1]["payload"]["error"]["code"] == "timeout"
