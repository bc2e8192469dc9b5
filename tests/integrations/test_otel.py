"""Spans of instrumented code as events of the run that they are in."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.trace import Status, StatusCode, Tracer

from agents_sdk import Run
from agents_sdk.integrations import otel
from agents_sdk.integrations.otel import RunSpanProcessor
from agents_sdk.testing import expect, run_agent

pytestmark = pytest.mark.timeout(300)

Event = dict[str, Any]


@pytest.fixture
def processor() -> RunSpanProcessor:
    return RunSpanProcessor()


@pytest.fixture
def tracer(processor: RunSpanProcessor) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(processor)
    yield provider.get_tracer("an instrumentation")
    provider.shutdown()


def gen_ai(operation: str, **attributes: Any) -> Mapping[str, Any]:
    """``tool_name="x"`` → ``gen_ai.tool.name``."""
    found = {"gen_ai." + key.replace("__", "."): value for key, value in attributes.items()}
    return {names.GEN_AI_OPERATION_NAME: operation, **found}


def payloads(events: list[Event], kind: str) -> list[Event]:
    return [each["payload"] for each in events if each["type"] == kind]


async def test_a_whole_run_of_an_instrumented_agent(tracer: Tracer) -> None:
    thought = [{"role": "assistant", "parts": [{"type": "reasoning", "content": "I need weather"}]}]

    async def agent(run: Run) -> str:
        start = tracer.start_as_current_span
        with start(
            "invoke_agent planner", attributes=gen_ai("invoke_agent", agent__name="planner")
        ):
            with start("chat m", attributes=gen_ai("chat", request__model="m-1")) as chat:
                chat.set_attribute(names.GEN_AI_OUTPUT_MESSAGES, json.dumps(thought))
            attributes = gen_ai(
                "execute_tool",
                tool__name="weather",
                tool__call__id="call_1",
                tool__call__arguments='{"city": "Rome"}',
            )
            with start("execute_tool weather", attributes=attributes) as tool:
                await asyncio.sleep(0)
                tool.set_attribute(names.GEN_AI_TOOL_CALL_RESULT, '{"sunny": true}')
        return "sunny"

    events = await run_agent(agent)
    (
        expect(events)
        .started()
        .thinking("planner begins")
        .thinking("Asking m-1")
        .thinking("I need weather")
        .tool("weather", result={"sunny": True})
        .completed(response="sunny")
        .nothing_else()
    )
    [opened] = payloads(events, "tool_executing")
    assert (opened["call_id"], opened["parameters"]) == ("call_1", {"city": "Rome"})


async def test_a_span_that_fails_is_a_call_that_fails(tracer: Tracer) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(LookupError), tracer.start_as_current_span("execute_tool search"):
            raise LookupError("nothing there")
        with tracer.start_as_current_span("execute_tool search") as span:
            span.set_attribute("error.type", "timeout")
            span.set_status(Status(StatusCode.ERROR, "too slow"))
        with tracer.start_as_current_span("execute_tool search") as span:
            span.set_status(Status(StatusCode.ERROR))
        return "went on"

    events = await run_agent(agent)
    assert [each["error"] for each in payloads(events, "tool_completed")] == [
        {"code": "error", "message": "nothing there"},
        {"code": "timeout", "message": "too slow"},
        {"code": "error", "message": "The call failed"},
    ]
    expect(events).started().tool("search", success=False)


async def test_a_retrieval_is_a_call(tracer: Tracer) -> None:
    async def agent(run: Run) -> None:
        attributes = gen_ai("retrieval", data_source__id="shelf", retrieval__query__text="Rome")
        with tracer.start_as_current_span("retrieval shelf", attributes=attributes) as span:
            span.set_attribute(names.GEN_AI_RETRIEVAL_DOCUMENTS, '[{"id": "d1", "score": 0.9}]')

    events = await run_agent(agent)
    expect(events).started().tool("shelf", result=[{"id": "d1", "score": 0.9}]).completed()
    assert payloads(events, "tool_executing")[0]["parameters"] == {"query": "Rome"}


async def test_spans_of_threads_and_of_parallel_tasks_are_told_in_order(tracer: Tracer) -> None:
    def work(number: int) -> None:
        attributes = gen_ai("execute_tool", tool__name=f"t{number}")
        with tracer.start_as_current_span("x", attributes=attributes) as span:
            span.set_attribute(names.GEN_AI_TOOL_CALL_RESULT, str(number))

    async def agent(run: Run) -> None:
        await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(4)))
        await run.think("after them")

    events = await run_agent(agent)
    expect(events).started()
    results = {each["tool"]: each["result"] for each in payloads(events, "tool_completed")}
    assert results == {f"t{number}": str(number) for number in range(4)}
    assert [each["type"] for each in events][-2:] == ["agent_thinking", "agent_completed"]


async def test_a_span_that_outlives_its_run_leaves_a_call_that_the_run_ends(
    tracer: Tracer, processor: RunSpanProcessor
) -> None:
    kept = []

    async def agent(run: Run) -> str:
        kept.append(tracer.start_span("execute_tool slow"))
        return "done"

    events = await run_agent(agent)
    kept[0].end()
    expect(events).started().tool("slow", success=False).completed().nothing_else()
    assert payloads(events, "tool_completed")[0]["error"]["code"] == "run_ended"
    assert processor._open == {}


async def test_spans_outside_of_a_run_and_of_other_kinds_are_left_alone(
    tracer: Tracer, processor: RunSpanProcessor
) -> None:
    async def agent(run: Run) -> str:
        with tracer.start_as_current_span("GET /"), tracer.start_as_current_span("embeddings m"):
            assert processor._open == {}
        return "done"

    outside = contextvars.Context()
    with outside.run(tracer.start_as_current_span, "execute_tool search"):
        assert processor._open == {}
    expect(await run_agent(agent)).started().completed(response="done").nothing_else()


async def test_spans_that_are_not_recorded_are_not_told(processor: RunSpanProcessor) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(processor)

    async def agent(run: Run) -> None:
        with provider.get_tracer("x").start_as_current_span("execute_tool search"):
            pass

    expect(await run_agent(agent)).started().completed().nothing_else()


async def test_a_stopped_run_s_spans_neither_tell_nor_raise(tracer: Tracer) -> None:
    passed = []

    async def agent(run: Run) -> None:
        try:
            await run.think("stop me")
            await asyncio.Event().wait()
        finally:
            with tracer.start_as_current_span("execute_tool search"):
                passed.append(True)

    events = await run_agent(agent, stop_at=lambda event: event["type"] == "agent_thinking")
    expect(events).started().thinking().completed("cancelled").nothing_else()
    assert passed == [True]


async def test_a_call_that_somebody_else_tells_too_is_told_once(tracer: Tracer) -> None:
    """As of a framework that has an adapter of its own and is instrumented as well."""

    async def agent(run: Run) -> None:
        call = run.post_call("search", call_id="c1")
        attributes = gen_ai("execute_tool", tool__name="search", tool__call__id="c1")
        with tracer.start_as_current_span("execute_tool search", attributes=attributes):
            pass
        call.returned("found")

    events = await run_agent(agent)
    expect(events).started().tool("search", result="found").completed().nothing_else()


@pytest.mark.parametrize("messages", ["[", '"x"', '[1, {"parts": [2, {"type": "text"}]}]', 5, "{}"])
async def test_messages_of_another_form_say_nothing(tracer: Tracer, messages: Any) -> None:
    async def agent(run: Run) -> None:
        with tracer.start_as_current_span("chat m") as span:
            span.set_attribute(names.GEN_AI_OUTPUT_MESSAGES, messages)

    expect(await run_agent(agent)).started().thinking("Asking m").completed().nothing_else()


def test_the_names_are_those_of_the_conventions() -> None:
    known = {value for key, value in vars(names).items() if key.startswith("GEN_AI_")}
    used = {otel.OPERATION, otel.OUTPUT, *(attribute for attribute, _ in otel.THOUGHTS.values())}
    for each in otel.CALLS.values():
        used |= {each.tool, each.parameters, each.result, each.call_id} - {""}
    assert used <= known
    operations = {each.value for each in names.GenAiOperationNameValues}
    assert {*otel.THOUGHTS, *otel.CALLS} <= operations
