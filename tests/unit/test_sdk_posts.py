"""What callbacks, plain functions and threads say: in order, never lost, never in the way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents_sdk import Run, RunStopped
from agents_sdk.testing import expect, run_agent

Event = dict[str, Any]


def thoughts(events: list[Event]) -> list[str]:
    return [e["payload"]["thoughts"] for e in events if e["type"] == "agent_thinking"]


async def test_posts_keep_their_place_among_what_is_awaited() -> None:
    async def agent(run: Run) -> None:
        await run.think("1")
        run.post("agent_thinking", {"thoughts": "2"})
        await run.think("3")
        run.post("agent_thinking", {"thoughts": "4"})

    assert thoughts(await run_agent(agent)) == ["1", "2", "3", "4"]


async def test_a_thread_s_posts_come_before_what_is_said_after_it() -> None:
    """The loop is blocked until the thread is done, so none of them was taken meanwhile."""

    async def agent(run: Run) -> str:
        def work() -> None:
            run.post("agent_thinking", {"thoughts": "in the thread"})
            call = run.post_call("lookup", parameters={"a": 1})
            run.post_text("half ")
            call.returned(2)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        await run.think("after it")
        return "done"

    events = await run_agent(agent)
    (
        expect(events)
        .started()
        .thinking("in the thread")
        .tool("lookup", result=2)
        .thinking("after it")
        .completed(response="done")
        .nothing_else()
        .wrote("half ")
    )


async def test_a_thread_s_text_comes_before_what_is_written_after_it() -> None:
    async def agent(run: Run) -> None:
        thread = threading.Thread(target=run.post_text, args=("half ",))
        thread.start()
        thread.join()
        await run.write("whole")

    expect(await run_agent(agent)).wrote("half whole").started().completed(response="half whole")


async def test_what_a_thread_posted_to_a_subagent_comes_before_its_end() -> None:
    """It is left at once, without a turn of the loop in between."""

    async def agent(run: Run) -> None:
        async with run.subagent("helper") as child:
            thread = threading.Thread(target=child.post, args=("agent_thinking", {"thoughts": "h"}))
            thread.start()
            thread.join()

    expect(await run_agent(agent)).subagent("helper").started().thinking("h").completed()


async def test_what_a_thread_posted_last_comes_before_the_end() -> None:
    async def agent(run: Run) -> str:
        call = run.post_call("lookup")
        thread = threading.Thread(target=lambda: call.returned("late"))
        thread.start()
        thread.join()
        return "done"

    expect(await run_agent(agent)).started().tool("lookup", result="late").completed()


async def test_a_question_comes_after_what_was_posted() -> None:
    async def agent(run: Run) -> str:
        thread = threading.Thread(target=run.post, args=("agent_thinking", {"thoughts": "first"}))
        thread.start()
        thread.join()
        return str(await run.ask("Go on?"))

    expect(await run_agent(agent, answers=["yes"])).started().thinking("first").asked().completed()


async def test_what_is_refused_is_left_out_and_the_run_goes_on() -> None:
    async def agent(run: Run) -> str:
        run.post("no_such_event", {})
        run.post("tool_completed", {"tool": "never opened"})
        run.post("agent_thinking", {"thoughts": "still here"})
        return "done"

    expect(await run_agent(agent)).started().thinking("still here").completed().nothing_else()


async def test_a_text_that_is_refused_ends_the_text() -> None:
    """What came after the hole would not be the text."""

    async def agent(run: Run) -> None:
        run.post_text("one")
        run.post_text("\ud800")
        run.post_text("three")
        run.post("agent_thinking", {"thoughts": "still here"})

    expect(await run_agent(agent)).wrote("one").started().thinking("still here").completed()


async def test_a_run_that_was_told_to_end_posts_nothing_and_opens_no_call() -> None:
    found: list[object] = []

    async def agent(run: Run) -> None:
        try:
            await run.think("stop me")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            run.post("agent_thinking", {"thoughts": "too late"})
            run.post_text("too late")
            with pytest.raises(RunStopped) as stopped:
                run.raise_if_stopped()
            found.append(stopped.value.reason)
            raise

    events = await run_agent(agent, stop_at=lambda event: event["type"] == "agent_thinking")
    expect(events).started().thinking("stop me").completed("cancelled").nothing_else().wrote("")
    assert found == ["stopped"]


async def test_a_call_left_open_is_closed_by_the_end() -> None:
    async def agent(run: Run) -> str:
        run.post_call("lookup")
        return "done"

    events = await run_agent(agent)
    expect(events).started().tool("lookup", success=False).completed()
    [closed] = [e["payload"] for e in events if e["type"] == "tool_completed"]
    assert closed["error"]["code"] == "run_ended"


async def test_a_call_s_values_are_fitted_into_an_event() -> None:
    """What cannot be shown in full does not make the call a failure."""

    async def agent(run: Run) -> None:
        call = run.post_call("t" * 600, parameters={"text": "x" * 300_000}, call_id="c" * 600)
        call.returned(object)
        run.post_call("", call_id="mine").returned(b"x" * 300_000)

    events = await run_agent(agent)
    opened, closed, second, _ = [e["payload"] for e in events if e["type"].startswith("tool_")]
    assert opened["parameters"].endswith("(300011 bytes in all)")
    assert opened["tool"] == "t" * 512
    assert closed["result"] == "<class 'object'>"
    assert (second["tool"], second["call_id"]) == ("tool", "mine")


async def test_room_returns_when_there_is_some() -> None:
    async def agent(run: Run) -> str:
        for number in range(2500):  # more than a run may have unconfirmed
            run.post("agent_thinking", {"thoughts": str(number)})
        await run.room()
        await run.think("there was room")
        return "done"

    assert thoughts(await run_agent(agent))[-2:] == ["2499", "there was room"]


async def test_posting_to_a_loop_that_is_closed_does_nothing() -> None:
    kept: list[Run] = []

    async def agent(run: Run) -> None:
        kept.append(run)

    await asyncio.to_thread(lambda: asyncio.run(_ran(agent)))
    kept[0].post("agent_thinking", {"thoughts": "to nobody"})


async def _ran(agent: Any) -> None:
    await run_agent(agent)
