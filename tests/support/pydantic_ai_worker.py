"""Agents of Pydantic AI with its own models for tests. Run by a real worker process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from agents_sdk import Run, Worker
from agents_sdk.integrations.pydantic_ai import stream_run

worker = Worker()

Piece = str | dict[int, DeltaToolCall] | dict[int, DeltaThinkingPart]


def scripted(*turns: list[Piece]) -> FunctionModel:
    """Streams one turn after the other, piece by piece."""
    left = iter(turns)

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        del messages, info
        for piece in next(left):
            yield piece

    return FunctionModel(stream_function=stream)


def call(index: int, name: str, arguments: str, call_id: str) -> dict[int, DeltaToolCall]:
    return {index: DeltaToolCall(name=name, json_args=arguments, tool_call_id=call_id)}


def reporter() -> Agent[None, str]:
    """Thinks, says something, calls two tools at once of which one wants better arguments."""
    model = scripted(
        [
            {0: DeltaThinkingPart(content="Oslo, ")},
            {0: DeltaThinkingPart(content="then stocks.")},
            "Looking ",
            "it up. ",
            call(2, "weather", '{"city": "Oslo"}', "call_weather"),
            call(3, "stocks", '{"symbol": "ACME"}', "call_stocks"),
        ],
        ["It is 21 °C ", "in Oslo."],
    )
    agent = Agent(model, name="reporter")

    @agent.tool_plain
    async def weather(city: str) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"city": city, "celsius": 21}

    @agent.tool_plain
    async def stocks(symbol: str) -> str:
        raise ModelRetry(f"{symbol} is not listed")

    return agent


@worker.agent("pydantic reporter")
async def report(run: Run) -> Any:
    return await stream_run(reporter(), run)


@worker.agent("pydantic waiting")
async def waiting(run: Run) -> Any:
    agent = Agent(scripted([call(0, "wait_for_ever", "{}", "call_wait")]))

    @agent.tool_plain
    async def wait_for_ever() -> str:
        await asyncio.Event().wait()
        return "never"

    return await stream_run(agent, run)


@worker.agent("pydantic careful")
async def careful(run: Run) -> Any:
    agent = Agent(scripted([call(0, "delete", '{"name":"a.txt"}', "call_delete")], ["Done."]))

    @agent.tool_plain(requires_approval=True)
    async def delete(name: str) -> str:
        return f"{name} is gone"

    return await stream_run(agent, run)
