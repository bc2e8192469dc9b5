"""Agents that do on purpose what tests need to see. Run by a real worker process."""

import asyncio
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from agents_sdk import Run, Worker, current_run
from tests.support.journal import FOLDER, Journal, emit_noted, keep_emitting

worker = Worker()


@cache
def journal() -> Journal:
    """This process's notes on what it emitted."""
    return Journal(Path(os.environ[FOLDER]))


@worker.agent("five")
async def five(run: Run) -> str:
    """All five events; ``calls`` tool calls."""
    await run.think("looking", step=1)
    calls = run.content.get("calls", 1) if isinstance(run.content, dict) else 1
    for number in range(calls):
        async with run.tool("lookup", number=number) as call:
            call.result = {"number": number}
    return f"done for {run.user_id}"


@worker.agent("parallel_tools")
async def parallel_tools(run: Run) -> str:
    """Several calls of the same tool at once, one of which fails."""
    await run.think("many at once")

    async def one(number: int) -> None:
        async with run.tool("lookup", number=number) as call:
            await asyncio.sleep(0)
            if number == 2:
                raise ValueError("two is not a number for this tool")
            call.result = number

    await asyncio.gather(*(one(number) for number in range(5)))
    return "all back"


@worker.agent("raises")
async def raises(run: Run) -> str:
    """Fails while a call is open."""
    await run.think("this will not end well")
    await run.emit_event(
        "tool_executing", {"tool": "lookup", "call_id": "left-open", "status": "running"}
    )
    raise RuntimeError("the agent broke")


@worker.agent("hangs", timeout_seconds=0.3)
async def hangs(run: Run) -> None:
    """Never returns; its time is limited."""
    await run.think("for ever")
    async with run.tool("wait"):
        await asyncio.Event().wait()


@worker.agent("waits")
async def waits(run: Run) -> None:
    """Works until it is stopped."""
    await run.think("until you stop me")
    async with run.tool("wait"):
        await asyncio.Event().wait()


@worker.agent("stubborn")
async def stubborn(run: Run) -> str:
    """Does not take a cancellation for an answer the first time."""
    await run.think("you cannot stop me")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()
    return "unreachable"


@worker.agent("emits_all")
async def emits_all(run: Run) -> None:
    """The five by hand, as the V3 guide writes them."""
    await run.emit_event("agent_started", {"message": "AI processing begun"})
    await run.emit_event("agent_thinking", {"thoughts": "Analyzing request..."})
    await run.emit_event("tool_executing", {"tool": "data_analyzer", "status": "running"})
    await run.emit_event("tool_completed", {"tool": "data_analyzer", "result": "..."})
    await run.emit_event("agent_completed", {"response": "Final AI response", "complete": True})


@worker.agent("lazy")
async def lazy(run: Run) -> str:
    """Leaves events out."""
    del run
    return "no effort"


@worker.agent("strict", require_all_events=True)
async def strict(run: Run) -> str:
    """Leaves events out and must not."""
    del run
    return "no effort"


@worker.agent("parent")
async def parent(run: Run) -> str:
    """Has another agent do a part of it."""
    await run.think("delegating")
    async with run.subagent("child") as child:
        await child.think("the child thinks")
        found = current_run()
        assert found is not None
        assert found.id == child.id
    return "the child is back"


@worker.agent("writer")
async def writer(run: Run) -> None:
    """Streams its answer: ``text`` in pieces of a few characters, then nothing more to say."""
    await run.think("writing")
    text: str = run.content["text"]
    for start in range(0, len(text), 3):
        await run.write(text[start : start + 3])


@worker.agent("beats", on_busy="parallel")
async def beats(run: Run) -> str:
    """Emits ``count`` thoughts, ``per_second`` of them; each carries the moment of its emission."""
    content: dict[str, Any] = run.content
    began = time.monotonic()
    for number in range(content["count"]):
        ahead = began + number / content["per_second"] - time.monotonic()
        await asyncio.sleep(max(0.0, ahead))
        await run.think(f"{number} {time.time():.6f}")
    async with run.tool("clock") as call:
        call.result = time.time()
    return "beaten"


@worker.agent("notes", on_busy="parallel")
async def notes(run: Run) -> None:
    """``count`` thoughts, ``per_second`` of them, each noted in the journal with its outcome, and
    each followed by a piece of streamed text."""
    content: dict[str, Any] = run.content
    await keep_emitting(run, journal(), count=content["count"], per_second=content["per_second"])


@worker.agent("notes_again", on_busy="parallel", retries=1)
async def notes_again(run: Run) -> None:
    """As ``notes``, and may be run again when its worker is lost."""
    content: dict[str, Any] = run.content
    await keep_emitting(run, journal(), count=content["count"], per_second=content["per_second"])


@worker.agent("blocks", on_busy="parallel")
async def blocks(run: Run) -> str:
    """Blocks the worker's event loop for ``seconds``, and says so before and after."""
    content: dict[str, Any] = run.content
    await emit_noted(run, journal(), f"{run.id} {run.attempt} before")
    time.sleep(content["seconds"])  # on the loop: that is what it is for
    await emit_noted(run, journal(), f"{run.id} {run.attempt} after")
    return "unblocked"


@worker.agent("asks", on_busy="parallel", retries=1)
async def asks(run: Run) -> str:
    """Asks each of ``prompts``, and tells the answers; a thought noted before, and one after."""
    content: dict[str, Any] = run.content
    await emit_noted(run, journal(), f"{run.id} {run.attempt} before")
    answers = [
        await run.ask(prompt, expires_seconds=content.get("expires_seconds", 60))
        for prompt in content["prompts"]
    ]
    await emit_noted(run, journal(), f"{run.id} {run.attempt} after")
    return json.dumps({"answers": answers, "attempt": run.attempt})


@worker.agent("asks two", on_busy="parallel")
async def asks_two(run: Run) -> str:
    """One question with a schema, and one without."""
    number = await run.ask("Which number?", schema={"type": "number"}, expires_seconds=60)
    return json.dumps([number, await run.ask("And in words?", expires_seconds=60)])
