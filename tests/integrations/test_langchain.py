"""LangChain's chains, models, tools and retrievers: what is told of each."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import (
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import ToolException, tool
from langgraph.types import Command

from agents_sdk import Run, current_run
from agents_sdk.integrations.langchain import (
    AsyncRunCallbackHandler,
    RunCallbackHandler,
    stream_run,
)
from agents_sdk.testing import expect, run_agent
from tests.support.langchain_graphs import asks_for, population, says, weather

pytestmark = pytest.mark.timeout(300)

Event = dict[str, Any]
PROMPT = ChatPromptTemplate.from_template("Tell me about {topic}")


def payloads(events: list[Event], kind: str) -> list[Event]:
    return [each["payload"] for each in events if each["type"] == kind]


class Shelf(BaseRetriever):
    """Two books, or none of them."""

    broken: bool = False

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.broken:
            raise ConnectionError("the shelf is gone")
        return [
            Document("about " + query, metadata={"source": "a"}),
            Document("x" * 5000, metadata={"source": "b"}),
        ]


async def test_a_chain_streams_its_answer_and_returns_it() -> None:
    async def agent(run: Run) -> Any:
        chain = PROMPT | says("Rome is old") | StrOutputParser()
        return await stream_run(chain, run, input={"topic": run.content})

    events = await run_agent(agent, content="Rome")
    expect(events).wrote("Rome is old").started().thinking("Asking Scripted").completed(
        response="Rome is old"
    ).nothing_else()


async def test_a_model_that_does_not_stream_says_its_text_in_one_piece() -> None:
    async def agent(run: Run) -> Any:
        model = FakeListChatModel(responses=["all at once"], disable_streaming=True)
        return await stream_run(PROMPT | model, run, input={"topic": "x"})

    events = await run_agent(agent)
    assert [each["text"] for each in payloads(events, "agent_delta")] == ["all at once"]
    expect(events).started().thinking().completed(response="all at once")


async def test_a_model_without_messages_works_too() -> None:
    async def agent(run: Run) -> Any:
        return await stream_run(FakeStreamingListLLM(responses=["plain"]), run)

    expect(await run_agent(agent, content="x")).wrote("plain").started().thinking().completed(
        response="plain"
    )


async def test_models_deep_in_chains_are_found_and_the_tagged_ones_do_not_speak() -> None:
    async def agent(run: Run) -> Any:
        quiet = says("quiet").with_config(tags=["nostream"])
        inner = RunnableParallel(first=quiet, given=RunnablePassthrough())
        chain = inner | RunnableLambda(lambda both: both["first"].text) | says("loud")
        return await stream_run(chain, run)

    events = await run_agent(agent, content="x")
    expect(events).wrote("loud").started().thinking().thinking().completed(response="loud")


async def test_what_a_model_reasoned_is_a_thought() -> None:
    thought = {"type": "reasoning", "reasoning": "It is a city, so…"}

    async def agent(run: Run) -> Any:
        model = says(AIMessage(content=[thought, {"type": "text", "text": "Rome."}]))
        return await stream_run(model, run)

    events = await run_agent(agent, content="x")
    expect(events).wrote("Rome.").started().thinking("Asking").thinking("It is a city").completed(
        response="Rome."
    )


async def test_a_retriever_is_a_tool_that_finds_documents() -> None:
    async def agent(run: Run) -> Any:
        chain = Shelf() | (lambda found: f"{len(found)} found")
        return await stream_run(chain, run)

    events = await run_agent(agent, content="Rome")
    expect(events).started().tool("Shelf").completed(response="2 found").nothing_else()
    assert payloads(events, "tool_executing")[0]["parameters"] == {"query": "Rome"}
    first, second = payloads(events, "tool_completed")[0]["result"]
    assert first == {"content": "about Rome", "metadata": {"source": "a"}}
    assert len(second["content"]) == 1000


async def test_a_retriever_that_raises_fails_its_call_and_the_run() -> None:
    async def agent(run: Run) -> Any:
        return await stream_run(Shelf(broken=True), run)

    expect(await run_agent(agent, content="x")).started().tool("Shelf", success=False).completed(
        "failed", error="connection_error"
    )


async def test_a_chain_that_raises_fails_the_run() -> None:
    def breaks(value: Any) -> None:
        raise ValueError("the chain broke")

    async def agent(run: Run) -> Any:
        return await stream_run(says("fine") | RunnableLambda(breaks), run)

    expect(await run_agent(agent, content="x")).started().thinking().completed(
        "failed", error="value_error"
    )


async def test_a_model_that_falls_back_leaves_the_word_to_the_other() -> None:
    class Breaks(FakeListChatModel):
        error_on_chunk_number: int | None = 2

    async def agent(run: Run) -> Any:
        model = Breaks(responses=["half"]).with_fallbacks([says("whole")])
        return (await model.ainvoke("x", {"callbacks": [AsyncRunCallbackHandler(run)]})).text

    async def streams(run: Run) -> Any:
        broken = Breaks(responses=["half"])
        handler = AsyncRunCallbackHandler(run)
        with pytest.raises(Exception):  # noqa: B017, PT011  # the fake's own
            async for _ in broken.astream("x", {"callbacks": [handler]}):
                pass
        return (await says("whole").ainvoke("x", {"callbacks": [handler]})).text

    expect(await run_agent(agent)).started().thinking().completed(response="half")
    expect(await run_agent(streams)).wrote("ha\n\nwhole").started().thinking().thinking()


@tool
async def both() -> Command[Any]:
    """Changes the state and answers the model."""
    said = ToolMessage("changed", tool_call_id="c9")
    return Command(update={"messages": [said]})


@tool
async def handled() -> str:
    """Fails, and tells the model so instead of raising."""
    raise ToolException("not today")


handled.handle_tool_error = True


@pytest.mark.parametrize(
    ("given", "success", "result"),
    [
        (weather, True, "sunny in Rome"),
        (population, True, "4000"),
        (both, True, "changed"),
        (handled, False, None),
    ],
)
async def test_what_a_tool_says_to_the_model_is_its_result(
    given: Any, success: Any, result: Any
) -> None:
    async def agent(run: Run) -> Any:
        args = {"city": "Rome"} if given in (weather, population) else {}
        call = {"name": given.name, "args": args, "id": "c9", "type": "tool_call"}
        await given.ainvoke(call, {"callbacks": [AsyncRunCallbackHandler(run)]})

    events = await run_agent(agent)
    expect(events).started().tool(given.name, success=success, result=result).completed()
    [closed] = payloads(events, "tool_completed")
    assert closed["call_id"] == "c9"
    if not success:
        assert closed["error"] == {"code": "tool_error", "message": "not today"}


async def test_a_tool_that_no_model_asked_for_has_an_id_of_its_own() -> None:
    async def agent(run: Run) -> Any:
        config: RunnableConfig = {"callbacks": [AsyncRunCallbackHandler()]}
        await asyncio.gather(*(weather.ainvoke({"city": c}, config) for c in ("Rome", "Bonn")))

    events = await run_agent(agent)
    opened = {each["call_id"]: each["parameters"] for each in payloads(events, "tool_executing")}
    ends = {each["call_id"]: each["result"] for each in payloads(events, "tool_completed")}
    assert {opened[each]["city"]: ends[each] for each in opened} == {
        "Rome": "sunny in Rome",
        "Bonn": "sunny in Bonn",
    }


def plain(chain: Any, handler: Any) -> Any:
    return chain.invoke({"topic": "Rome"}, {"callbacks": [handler]})


@pytest.mark.parametrize("handler", [RunCallbackHandler, AsyncRunCallbackHandler])
@pytest.mark.parametrize("where", ["on the loop", "in a thread", "async"])
async def test_either_handler_tells_the_same_wherever_the_chain_runs(
    handler: Any, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a plain `invoke` that blocks the loop, from which nobody could wait for the loop."""

    async def agent(run: Run) -> Any:
        first = RunnableLambda(lambda given: population.invoke({"city": given["topic"]}))
        chain = RunnablePassthrough.assign(people=first) | PROMPT | says("It has people")
        told = handler(run)
        if where == "in a thread":
            answer = await asyncio.to_thread(plain, chain, told)
        elif where == "async":
            answer = await chain.ainvoke({"topic": "Rome"}, {"callbacks": [told]})
        else:
            answer = plain(chain, told)
        await run.think("after it")
        return answer.text

    events = await run_agent(agent)
    (
        expect(events)
        .wrote("It has people")
        .started()
        .tool("population", result=4000)
        .thinking("Asking Scripted")
        .thinking("after it")
        .completed(response="It has people")
        .nothing_else()
    )
    # LangChain logs and swallows what a callback raises in a thread.
    assert [each.getMessage() for each in caplog.records if "callback" in each.getMessage()] == []


async def test_a_call_that_langchain_never_ends_is_ended_with_the_run() -> None:
    async def agent(run: Run) -> str:
        RunCallbackHandler(run).on_tool_start({"name": "lost"}, "x", run_id=uuid4())
        return "done"

    events = await run_agent(agent)
    expect(events).started().tool("lost", success=False).completed()
    assert payloads(events, "tool_completed")[0]["error"]["code"] == "run_ended"
    assert payloads(events, "tool_executing")[0]["parameters"] == {"input": "x"}


async def test_a_stop_cancels_a_chain() -> None:
    cancelled: list[bool] = []

    async def waits(value: Any) -> None:
        try:
            await current_run().think("waiting")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def agent(run: Run) -> Any:
        return await stream_run(says("first") | RunnableLambda(waits), run)

    def waiting(event: Event) -> bool:
        return bool(event["payload"].get("thoughts") == "waiting")

    events = await run_agent(agent, content="x", stop_at=waiting)
    expect(events).started().thinking().thinking().completed("cancelled", error="stopped")
    assert cancelled == [True]


async def test_a_message_is_an_input_like_any_other() -> None:
    async def agent(run: Run) -> Any:
        model = says(asks_for(("weather", {"city": "Rome"}), text="I would ask."))
        return await stream_run(model, run, input=[HumanMessage("x")])

    expect(await run_agent(agent)).wrote("I would ask.").started().thinking().completed(
        response="I would ask."
    )
