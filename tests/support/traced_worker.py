"""Agents that show what is traced. Run by a real worker process, with or without tracing."""

from __future__ import annotations

import asyncio

from agents_sdk import Run, Worker, current_run, traced_tool

worker = Worker()


@traced_tool(name="count")
async def count(text: str) -> int:
    """A function that is a tool; within it requests belong to its span."""
    await current_run().think(f"in count: {current_run().traceparent}")
    return len(text)


@worker.agent("traced")
async def traced(run: Run) -> str:
    """Thinks, uses both kinds of tools, and has a sub-agent do a part."""
    await run.think(f"in run: {run.traceparent} {run.tracestate}")
    async with run.tool("search", query=run.content) as call:
        await run.think(f"in search: {run.traceparent}")
        call.result = "a secret result"
    await count("what is counted")
    async with run.subagent("helper", content="what the helper is asked") as child:
        await child.think("the helper thinks")
        async with child.tool("helper_search"):
            pass
    return "a secret answer"


@worker.agent("fails")
async def fails(run: Run) -> None:
    """Fails, with something in the message that no trace may hold."""
    async with run.tool("breaks"):
        raise LookupError("a secret error of a tool")
    raise ValueError("a secret error of an agent")


@worker.agent("waits", retries=1)
async def waits(run: Run) -> str:
    """Waits until it is stopped, or its worker is gone; a second attempt does not."""
    await run.think("begun")
    if run.attempt == 1:
        await asyncio.Event().wait()
    return "at last"


@worker.agent("waits once")
async def waits_once(run: Run) -> None:
    """The same, not to be run again."""
    await run.think("begun")
    await asyncio.Event().wait()


@worker.agent("headers")
async def headers(run: Run) -> None:
    """What it would send as headers."""
    await run.think(f"in run: {run.traceparent} {run.tracestate}")
