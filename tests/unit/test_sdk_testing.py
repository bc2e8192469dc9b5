"""The test kit fails when it should, and its log refuses what the script refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agents_sdk import Run, Worker
from agents_sdk.ids import new_id
from agents_sdk.recording import RecordingHost
from agents_sdk.testing import Expectation, expect, run_agent
from broker.channels import Keys, Owner, Scope
from broker.errors import (
    CallNotOpen,
    EventTooLarge,
    Fenced,
    NotOwner,
    RunClosed,
    RunNotFound,
    SequenceGap,
)
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.records import Claim, RunRequest
from broker.redis.store import Limits


async def sample(run: Run) -> str:
    await run.think("first")
    async with run.tool("a") as outer, run.tool("b") as inner:
        outer.result, inner.result = 1, 2
    await run.write("text")
    return "the end"


async def test_every_step_that_matches_passes() -> None:
    chain = expect(await run_agent(sample))
    chain.started().thinking("fir").tool("a", result=1).tool("b", result=2).wrote("text")
    chain.completed("succeeded", response="the end").nothing_else()


@pytest.mark.parametrize(
    "step",
    [
        lambda chain: chain.thinking(),
        lambda chain: chain.started("other words"),
        lambda chain: chain.started().started(),
        lambda chain: chain.started().thinking("second"),
        lambda chain: chain.started().thinking().tool("b"),
        lambda chain: chain.started().thinking().tool("a", success=False),
        lambda chain: chain.started().thinking().tool("a", result=7),
        lambda chain: chain.started().thinking().tool("a").nothing_else(),
        lambda chain: chain.started().thinking().tool("a").tool("b").completed("failed"),
        lambda chain: chain.started().thinking().tool("a").tool("b").completed(response="x"),
        lambda chain: chain.started().thinking().tool("a").tool("b").completed(error="x"),
        lambda chain: chain.started().thinking().tool("a").tool("b").completed().completed(),
        lambda chain: chain.wrote("tex"),
        lambda chain: chain.subagent("nobody"),
    ],
)
async def test_every_step_that_does_not_match_fails_and_shows_what_came(step: Any) -> None:
    chain: Expectation = expect(await run_agent(sample))
    with pytest.raises(AssertionError, match=r"(?s)expected .*1 agent_started"):
        step(chain)


async def test_a_call_that_was_never_completed_is_seen() -> None:
    events = await run_agent(sample)
    events = [each for each in events if each["type"] != "tool_completed"]
    with pytest.raises(AssertionError, match="expected a tool_completed for 'a'"):
        expect(events).started().thinking().tool("a")


async def test_a_declared_agent_brings_its_name_and_options() -> None:
    worker = Worker()

    @worker.agent("declared")
    async def function(run: Run) -> dict[str, Any]:
        return {"content": run.content, "metadata": run.metadata, "user": run.user_id}

    events = await run_agent(
        function, content=[1], metadata={"m": 1}, user_id="bob", thread_id="t9"
    )
    assert {(each["agent_name"], each["thread_id"]) for each in events} == {("declared", "t9")}
    assert events[-1]["payload"]["response"] == {
        "content": [1],
        "metadata": {"m": 1},
        "user": "bob",
    }


def claimed(host: RecordingHost) -> Claim:
    owner = Owner("", "alice")
    channel = Keys("test").channel(owner, Scope.USER)
    return host.register(
        RunRequest(run_id=new_id(), owner=owner, channel=channel, thread_id="t", agent="a")
    )


def publication(seq: int, **changes: Any) -> Publication:
    values = {"event_type": "agent_thinking", "body": b"{}", "state": State.RUNNING, "sent": "s"}
    return Publication(seq=seq, **values | changes)


async def test_the_log_refuses_what_the_script_refuses() -> None:
    host = RecordingHost(limits=Limits(max_event_bytes=10))
    claim = claimed(host)
    first = await host.publish(claim, publication(1))
    assert await host.publish(claim, publication(1)) == first
    for refusal, wrong, event in (
        (SequenceGap, claim, publication(3)),
        (EventTooLarge, claim, publication(2, body=b"x" * 11)),
        (CallNotOpen, claim, publication(2, call_closed="c")),
        (Fenced, dataclasses.replace(claim, fence=9), publication(2)),
        (NotOwner, dataclasses.replace(claim, head=b"x"), publication(2)),
        (RunNotFound, dataclasses.replace(claim, run_id="x"), publication(2)),
    ):
        with pytest.raises(refusal):
            await host.publish(wrong, event)
    with pytest.raises(SequenceGap):
        await host.publish_delta(claim, offset=5, text="x")
    assert await host.publish_delta(claim, offset=0, text="é") == 2
    assert await host.publish_delta(claim, offset=0, text="é") == 2
    await host.publish(claim, publication(2, state=State.COMPLETED))
    with pytest.raises(RunClosed):
        await host.publish(claim, publication(3))
    with pytest.raises(RunClosed):
        await host.publish_delta(claim, offset=2, text="x")
    assert len(host.events) == 3
    assert host.events[0]["id"] == first
