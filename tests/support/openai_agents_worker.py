"""Agents of the OpenAI Agents SDK with its scripted model. Run by a real worker process."""

import asyncio
from collections.abc import Sequence
from typing import Any

from agents import Agent, RunContextWrapper, function_tool, set_tracing_disabled
from agents.guardrail import GuardrailFunctionOutput, input_guardrail
from agents.testing import ScriptedModel, assistant_message, function_call

from agents_sdk import Run, Worker
from agents_sdk.integrations.openai_agents import stream_run

set_tracing_disabled(disabled=True)  # else the SDK sends its traces to OpenAI
worker = Worker()


@function_tool
async def weather(city: str) -> dict[str, Any]:
    """Comes back after the others."""
    await asyncio.sleep(0.01)
    return {"city": city, "celsius": 21}


@function_tool
def stocks(symbol: str) -> str:
    raise ValueError(f"{symbol} is not listed")


@function_tool
async def wait_for_ever() -> str:
    await asyncio.Event().wait()
    return "never"


@function_tool(needs_approval=True)
def delete(name: str) -> str:
    return f"{name} is gone"


@input_guardrail(run_in_parallel=False)
async def no_homework(
    context: RunContextWrapper[Any], agent: Agent[Any], text: Any
) -> GuardrailFunctionOutput:
    del context, agent
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered="homework" in str(text))


def scripted(*steps: Sequence[Any]) -> ScriptedModel:
    return ScriptedModel(steps)


def reporter() -> Agent[Any]:
    """Two tools at once, one of which fails, and an answer."""
    model = scripted(
        [
            assistant_message("Looking it up. "),
            function_call("weather", {"city": "Oslo"}, call_id="call_weather"),
            function_call("stocks", {"symbol": "ACME"}, call_id="call_stocks"),
        ],
        [assistant_message("It is 21 °C in Oslo.")],
    )
    return Agent(name="reporter", model=model, tools=[weather, stocks])


def triage() -> Agent[Any]:
    """Hands over, and the other one answers."""
    specialist = Agent[Any](
        name="specialist",
        model=scripted(
            [function_call("weather", {"city": "Oslo"}, call_id="call_weather")],
            [assistant_message("The specialist says 21 °C.")],
        ),
        tools=[weather],
    )
    model = scripted(
        [
            assistant_message("One moment. "),
            function_call("transfer_to_specialist", {}, call_id="call_handoff"),
        ]
    )
    return Agent(name="triage", model=model, handoffs=[specialist])


@worker.agent("openai reporter")
async def report(run: Run) -> Any:
    return await stream_run(reporter(), run)


@worker.agent("openai triage")
async def hand_over(run: Run) -> Any:
    return await stream_run(triage(), run)


@worker.agent("openai guarded")
async def guarded(run: Run) -> Any:
    model = scripted([assistant_message("Sure.")])
    return await stream_run(Agent(name="guarded", model=model, input_guardrails=[no_homework]), run)


@worker.agent("openai waiting")
async def waiting(run: Run) -> Any:
    model = scripted([function_call("wait_for_ever", {}, call_id="call_wait")])
    return await stream_run(Agent(name="waiting", model=model, tools=[wait_for_ever]), run)


@worker.agent("openai careful")
async def careful(run: Run) -> Any:
    model = scripted(
        [function_call("delete", {"name": "a.txt"}, call_id="call_delete")],
        [assistant_message("Done.")],
    )
    return await stream_run(Agent(name="careful", model=model, tools=[delete]), run)
