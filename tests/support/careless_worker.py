"""Agents that do wrong whatever can be done wrong, with what is private in it each time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agents_sdk import Run, Worker, traced_tool

worker = Worker()


@traced_tool
async def breaks(text: str) -> None:
    """A tool that tells what it was given in its exception."""
    raise LookupError(f"cannot find {text}")


@worker.agent("careless", on_busy="parallel")
async def careless(run: Run) -> Any:  # noqa: C901 - a list of ways
    """Goes wrong in the way that the content names, with the content in it."""
    content: dict[str, str] = run.content
    text = content["text"]
    await run.think(text)
    match content["way"]:
        case "raises":
            try:
                raise KeyError(text)
            except KeyError as error:
                raise ValueError(f"about {text}") from error
        case "tool":
            async with run.tool("t", query=text):
                raise RuntimeError(text)
            await breaks(text)
        case "result":
            async with run.tool("t") as call:
                call.result = {text: object()}
        case "response":
            return {text: object()}
        case "posts":
            run.post("agent_thinking", {"thoughts": 7, text: text})
            run.post("no_such_event", {"text": text})
        case "task":
            # Nobody asks what became of it: the event loop tells when it is collected.
            lost = asyncio.get_running_loop().create_future()
            lost.set_exception(RuntimeError(text))
            del lost
        case "library":
            try:
                raise OSError(text)
            except OSError:
                logging.getLogger("some.library").exception("it did not work")
        case "asks":
            return await run.ask(text, expires_seconds=60)
        case "writes":
            for word in text.split():
                await run.write(f"{word} ")
            await asyncio.Event().wait()
    return text
