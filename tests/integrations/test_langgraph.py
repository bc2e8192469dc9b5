"""LangGraph graphs as agents: what clients get of them."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Interrupt, interrupt

from agents_sdk import Run, current_run, traced_tool
from agents_sdk.integrations.langchain import RunCallbackHandler, stream_run
from agents_sdk.integrations.langchain.streaming import thread_key
from agents_sdk.testing import expect, run_agent
from tests.integrations.conftest import System
from tests.support.clients import FIVE, Client, streamed
from tests.support.langchain_graphs import (
    Scripted,
    agent_graph,
    asks_for,
    book,
    booker,
    closed,
    endless,
    population,
    researcher,
    says,
    weather,
)

pytestmark = pytest.mark.timeout(300)

AGENTS = "tests.support.langchain_graphs"
WORKS = 120.0
"""Seconds for what a worker does while other tests keep both cores busy."""
Event = dict[str, Any]


def first(kind: str) -> Callable[[list[Event]], Event | None]:
    return lambda frames: next((each for each in frames if each["type"] == kind), None)


def calls(events: list[Event], kind: str) -> dict[str, Event]:
    return {e["payload"]["call_id"]: e["payload"] for e in events if e["type"] == kind}


def thoughts(events: list[Event]) -> list[str]:
    return [e["payload"]["thoughts"] for e in events if e["type"] == "agent_thinking"]


# --- through a gateway, from a worker


async def test_a_client_gets_all_five_of_a_graph_and_nobody_else_does(system: System) -> None:
    system.serve(AGENTS)
    async with Client(system.base, "alice") as alice, Client(system.base, "mallory") as mallory:
        await alice.first("live")
        await mallory.first("live")
        run_id = await alice.ask("Rome?", agent="researcher", ref="m1")
        ended = await alice.completed(run_id, seconds=WORKS)
        events = [frame for frame in alice.frames if frame["type"] in FIVE]
        assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
        assert {(e["run_id"], e["user_id"]) for e in events} == {(run_id, "alice")}
        assert {each["type"] for each in events} == set(FIVE)
        assert ended["payload"]["missing"] == []
        assert ended["payload"]["response"] == "Rome is sunny and has 4000 people."
        said = "Looking.\n\nRome is sunny and has 4000 people."
        assert streamed(alice.frames) == {run_id: said}
        opened, ends = calls(events, "tool_executing"), calls(events, "tool_completed")
        assert {each["tool"] for each in opened.values()} == {"weather", "population"}
        assert {key: each["result"] for key, each in ends.items()} == {
            "c1": "sunny in Rome",
            "c2": "4000",
        }
        await mallory.send("ping", {}, ref="p")
        await mallory.reply("p")
        assert not [frame for frame in mallory.frames if frame.get("run_id") == run_id]


async def test_an_interrupt_is_a_question_to_the_client(system: System) -> None:
    system.serve(AGENTS)
    async with Client(system.base, "alice") as alice:
        await alice.first("live")
        run_id = await alice.ask("Rome", agent="booker", ref="m2")
        asked = await alice.until(first("input_required"), seconds=WORKS)
        assert asked["payload"]["prompt"] == "Book Rome?"
        answer = {"run_id": run_id, "request_id": asked["payload"]["request_id"]}
        await alice.send("user_input", {**answer, "content": "yes"}, ref="a1")
        ended = await alice.completed(run_id, seconds=WORKS)
        assert ended["payload"]["response"] == "Done."
        assert (await alice.first("tool_completed"))["payload"]["result"] == "booked Rome: yes"


async def test_a_client_s_stop_reaches_the_graph(system: System) -> None:
    system.serve(AGENTS)
    async with Client(system.base, "alice") as alice:
        await alice.first("live")
        run_id = await alice.ask("go", agent="endless", ref="m3")
        await alice.until(first("tool_executing"), seconds=WORKS)
        await alice.send("stop_agent", {"run_id": run_id}, ref="s1")
        ended = await alice.completed(run_id, seconds=WORKS)
        assert ended["payload"]["status"] == "cancelled"
        assert ended["payload"]["error"]["code"] == "stopped"
        assert (await alice.first("tool_completed"))["payload"]["error"]["code"] == "run_ended"


# --- in detail


async def test_parallel_tools_are_told_in_order_though_one_runs_in_a_thread() -> None:
    events = await run_agent(researcher, content="Rome?")
    (
        expect(events)
        .started()
        .thinking("agent: asking")
        .tool("weather", result="sunny in Rome")
        .tool("population", result="4000")
        .thinking("agent: asking")
        .completed(response="Rome is sunny and has 4000 people.")
        .nothing_else()
    )
    assert calls(events, "tool_executing")["c1"]["parameters"] == {"city": "Rome"}


async def test_tools_at_the_same_time_are_open_at_the_same_time() -> None:
    async def agent(run: Run) -> Any:
        both = asyncio.Barrier(2)

        @tool
        async def meet(name: str) -> str:
            """Returns when the other one is there."""
            await both.wait()
            return f"met {name}"

        model = says(asks_for(("meet", {"name": "a"}), ("meet", {"name": "b"})), "Met.")
        return await stream_run(agent_graph(model, meet), run)

    events = await run_agent(agent, content="x")
    kinds = [each["type"] for each in events if each["type"].startswith("tool_")]
    assert kinds == ["tool_executing"] * 2 + ["tool_completed"] * 2
    results = {each["call_id"]: each["result"] for each in calls(events, "tool_completed").values()}
    assert results == {"c1": "met a", "c2": "met b"}


async def test_a_tool_that_raises_fails_its_call_and_the_graph_goes_on() -> None:
    async def agent(run: Run) -> Any:
        model = says(asks_for(("closed", {"city": "Rome"})), "I do not know.")
        return await stream_run(agent_graph(model, closed), run)

    events = await run_agent(agent, content="Rome?")
    expect(events).started().thinking().tool("closed", success=False).thinking().completed()
    assert calls(events, "tool_completed")["c1"]["error"] == {
        "code": "lookup_error",
        "message": "no data for Rome",
    }


async def test_a_node_that_raises_fails_the_run() -> None:
    async def agent(run: Run) -> Any:
        def breaks(state: MessagesState) -> None:
            raise ValueError("the graph broke")

        graph = StateGraph(MessagesState).add_node("breaks", breaks).add_edge(START, "breaks")
        return await stream_run(graph.compile(), run)

    expect(await run_agent(agent, content="x")).started().completed("failed", error="value_error")


async def test_a_model_within_a_tool_is_a_thought_and_not_the_answer() -> None:
    inner = says("secret deliberation")

    @tool
    async def consult(question: str) -> str:
        """Asks another model, in a graph of its own."""
        done = await agent_graph(inner).ainvoke({"messages": [("user", question)]})
        return str(done["messages"][-1].text)

    async def agent(run: Run) -> Any:
        model = says(asks_for(("consult", {"question": "why?"})), "Because.")
        return await stream_run(agent_graph(model, consult), run)

    events = await run_agent(agent, content="Why?")
    expect(events).wrote("Because.").started().thinking().tool(
        "consult", result="secret deliberation"
    ).thinking().thinking().completed(response="Because.").nothing_else()


def routed() -> Any:
    """A classifier, then a writer in a subgraph that plans first."""

    def node(text: str) -> Any:
        model = says(text)

        async def asks(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        return asks

    inner = StateGraph(MessagesState)
    inner.add_node("plan", node("a plan")).add_node("write", node("the answer"))
    inner.add_edge(START, "plan").add_edge("plan", "write").add_edge("write", END)
    outer = StateGraph(MessagesState)
    outer.add_node("classify", node("sports")).add_node("writer", inner.compile())
    outer.add_edge(START, "classify").add_edge("classify", "writer").add_edge("writer", END)
    return outer.compile()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "the answer"),
        ({"classify"}, "sports"),
        ("classify", "sports"),
        ({"writer"}, "a plan\n\nthe answer"),
        ({"writer:plan"}, "a plan"),
        ({"classify", "write"}, "sports\n\nthe answer"),
    ],
)
async def test_the_streamed_text_is_of_the_nodes_that_end_the_graph_or_are_named(
    answer: Any, text: str
) -> None:
    async def agent(run: Run) -> Any:
        return await stream_run(routed(), run, answer=answer)

    events = await run_agent(agent, content="x")
    expect(events).wrote(text).started().thinking("classify: asking").thinking("plan").thinking(
        "write"
    ).completed(response="the answer")


async def test_two_models_at_once_are_two_whole_texts() -> None:
    """Of one that speaks while another does, the text is held back until that one is done."""
    first, second = says("one two three"), says("vier fünf sechs")

    async def a(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await first.ainvoke("x")]}

    async def b(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await second.ainvoke("x")]}

    async def agent(run: Run) -> Any:
        graph = StateGraph(MessagesState).add_node("a", a).add_node("b", b)
        graph.add_edge(START, "a").add_edge(START, "b").add_edge("a", END).add_edge("b", END)
        return await stream_run(graph.compile(), run)

    events = await run_agent(agent, content="x")
    text = "".join(e["payload"]["text"] for e in events if e["type"] == "agent_delta")
    assert sorted(text.split("\n\n")) == ["one two three", "vier fünf sechs"]


async def test_a_graph_that_does_not_tell_where_it_ends_streams_all_of_it() -> None:
    """A node without edges that goes on by a command whose target is known only then."""
    model = says("said here")

    async def goes(state: MessagesState) -> Command[Any]:
        return Command(update={"messages": [await model.ainvoke("x")]}, goto="last")

    def last(state: MessagesState) -> Command[Any]:
        return Command(goto=END)

    async def agent(run: Run) -> Any:
        graph = StateGraph(MessagesState).add_node("goes", goes).add_node("last", last)
        return await stream_run(graph.add_edge(START, "goes").compile(), run)

    expect(await run_agent(agent, content="x")).wrote("said here")


class Endless(Scripted):
    """Says one word, and never the next."""

    async def _astream(self, *args: Any, **more: Any) -> AsyncIterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(content="first"))
        await asyncio.Event().wait()


async def test_text_is_there_while_its_model_is_still_speaking() -> None:
    """Though the node asks for the whole of it: `ainvoke`."""

    async def agent(run: Run) -> Any:
        return await stream_run(agent_graph(Endless(messages=iter(["first and last"]))), run)

    events = await run_agent(agent, content="x", stop_at=lambda e: e["type"] == "agent_delta")
    expect(events).wrote("first").started().thinking().completed("cancelled").nothing_else()


async def test_interrupts_at_once_are_asked_one_after_the_other_and_each_gets_its_own() -> None:
    class State(TypedDict):
        said: Annotated[list[str], operator.add]

    def asking(value: Any) -> Any:
        def node(state: State) -> Any:
            return {"said": [f"{interrupt(value)}"]}

        return node

    async def agent(run: Run) -> Any:
        graph = StateGraph(State)
        for name, value in (("a", "Colour?"), ("b", {"size": 3}), ("c", {"prompt": "Shape?"})):
            graph.add_node(name, asking(value)).add_edge(START, name).add_edge(name, END)
        return await stream_run(graph.compile(InMemorySaver()), run, input={"said": []})

    events = await run_agent(agent, answers=["red", "big", "round"])
    prompts = [e["payload"]["prompt"] for e in events if e["type"] == "input_required"]
    told = dict(zip(prompts, ["red", "big", "round"], strict=True))
    assert set(told) == {"Colour?", '{"size": 3}', "Shape?"}
    expect(events).started().asked().asked().asked().completed(
        response={"said": [told["Colour?"], told['{"size": 3}'], told["Shape?"]]}
    )


async def test_a_tool_that_an_interrupt_breaks_off_is_one_call() -> None:
    events = await run_agent(booker, content="Rome", answers=["yes"])
    (
        expect(events)
        .started()
        .thinking()
        .tool("book", result="booked Rome: yes")
        .asked("Book Rome?")
        .thinking()
        .completed(response="Done.")
        .nothing_else()
    )


async def test_nobody_answers_an_interrupt() -> None:
    events = await run_agent(booker, content="Rome")
    expect(events).started().thinking().tool("book", success=False).asked().completed(
        "failed", error="input_expired"
    )


async def test_an_interrupt_can_be_answered_in_another_way() -> None:
    async def agent(run: Run) -> Any:
        async def decide(asked: Interrupt[Any]) -> str:
            return f"decided {asked.value['question']}"

        model = says(asks_for(("book", {"city": "Rome"})), "Done.")
        graph = agent_graph(model, book, checkpointer=InMemorySaver())
        return await stream_run(graph, run, on_interrupt=decide)

    events = await run_agent(agent, content="x")
    expect(events).started().thinking().tool("book", result="booked Rome: decided Book Rome?")


async def test_a_checkpointer_keeps_threads_of_two_users_apart() -> None:
    saver = InMemorySaver()

    async def agent(run: Run) -> Any:
        await stream_run(agent_graph(says("noted"), checkpointer=saver), run)
        state = saver.get({"configurable": {"thread_id": thread_key(run)}})
        assert state is not None
        return [message.text for message in state["channel_values"]["messages"]]

    users = (("alice", "t1", "mine"), ("bob", "t1", "his"), ("a", "b:c", "1"), ("a:b", "c", "2"))
    for user, thread, content in users:
        events = await run_agent(agent, content=content, user_id=user, thread_id=thread)
        expect(events).started().thinking().completed(response=[content, "noted"])
    again = await run_agent(agent, content="more", user_id="alice", thread_id="t1")
    expect(again).started().thinking().completed(response=["mine", "noted", "more", "noted"])


async def test_a_stop_cancels_nodes_and_tools_and_nothing_is_left_running() -> None:
    cleaned: list[str] = []

    @tool
    async def wait() -> None:
        """Cleans up."""
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("tool")

    async def agent(run: Run) -> Any:
        try:
            return await stream_run(agent_graph(says(asks_for(("wait", {}))), wait), run)
        finally:
            cleaned.append("agent")

    before = asyncio.all_tasks()
    events = await run_agent(agent, content="x", stop_at=lambda e: e["type"] == "tool_executing")
    expect(events).started().thinking().tool("wait", success=False).completed("cancelled")
    assert cleaned == ["tool", "agent"]
    assert asyncio.all_tasks() == before
    assert await run_agent(endless, content="x", stop_at=lambda e: e["type"] == "tool_executing")


async def test_a_stop_ends_a_graph_in_a_thread_at_its_next_step() -> None:
    """Nobody can cancel a thread: the callback raises there."""
    going, ended = threading.Event(), threading.Event()
    raised: list[str] = []

    async def agent(run: Run) -> Any:
        def work() -> None:
            try:
                chain = agent_graph(says(*["again"] * 3))
                config: RunnableConfig = {"callbacks": [RunCallbackHandler(run)]}
                going.wait(20)
                asyncio.run(chain.ainvoke({"messages": [("user", "x")]}, config))
            except BaseException as error:  # noqa: BLE001 - it is what is looked at
                raised.append(type(error).__name__)
            finally:
                ended.set()

        await run.think("begins")
        threading.Thread(target=work, daemon=True).start()
        try:
            await run.emit_event("tool_executing", {"tool": "stop me", "status": "running"})
            await asyncio.Event().wait()
        finally:
            going.set()

    events = await run_agent(agent, stop_at=lambda event: event["type"] == "tool_executing")
    expect(events).started().thinking().tool("stop me", success=False).completed("cancelled")
    await asyncio.to_thread(ended.wait, 20)
    assert raised == ["RunStopped"]


async def test_the_run_is_there_in_nodes_and_tools() -> None:
    @traced_tool
    def look_up(city: str) -> str:
        return f"found {city}"

    @tool
    def search(city: str) -> str:
        """In a thread of LangChain's."""
        return look_up(city)

    async def agent(run: Run) -> Any:
        model = says(asks_for(("search", {"city": "Rome"})), "Found.")

        async def greets(state: MessagesState) -> dict[str, Any]:
            await current_run().think("in a node")
            return {}

        inner = agent_graph(model, search)
        graph = StateGraph(MessagesState).add_node("greets", greets).add_node("agent", inner)
        graph.add_edge(START, "greets").add_edge("greets", "agent").add_edge("agent", END)
        return await stream_run(graph.compile())

    (
        expect(await run_agent(agent, content="x"))
        .started()
        .thinking("in a node")
        .thinking("agent: asking")
        .tool("search", result="found Rome")
        .tool("look_up", result="found Rome")
        .thinking()
        .completed(response="Found.")
        .nothing_else()
    )


async def test_tools_that_use_an_id_again_are_two_calls() -> None:
    """Scripted models count from c1 in each of their answers; so do some real ones."""

    async def agent(run: Run) -> Any:
        model = says(
            asks_for(("weather", {"city": "Rome"})),
            asks_for(("weather", {"city": "Bonn"})),
            "Both.",
        )
        return await stream_run(agent_graph(model, weather, population), run)

    events = await run_agent(agent, content="x")
    found = calls(events, "tool_completed")
    assert sorted(each["result"] for each in found.values()) == ["sunny in Bonn", "sunny in Rome"]
    expect(events).started().thinking().tool("weather").thinking().tool("weather").thinking()


async def test_a_graph_s_result_may_be_any_value() -> None:
    class State(TypedDict):
        total: int

    async def agent(run: Run) -> Any:
        graph = StateGraph(State).add_node("double", lambda state: {"total": state["total"] * 2})
        graph.add_edge(START, "double").add_edge("double", END)
        return await stream_run(graph.compile(), run)

    expect(await run_agent(agent, content={"total": 4})).started().completed(response={"total": 8})


async def test_a_functional_graph_works_too() -> None:
    model = says("from a function")

    @entrypoint()
    async def workflow(question: str) -> str:
        return str((await model.ainvoke(question)).text)

    async def agent(run: Run) -> Any:
        return await stream_run(workflow, run, input=run.content)

    events = await run_agent(agent, content="x")
    expect(events).wrote("from a function").started().thinking("workflow: asking").completed(
        response="from a function"
    )


async def test_a_graph_that_runs_in_threads_altogether_is_told_in_order() -> None:
    """`invoke`, not `ainvoke`: LangGraph runs its tools in threads of its own."""

    def asks(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    model = says(asks_for(*[("population", {"city": "x" * n}) for n in range(1, 6)]), "All known.")

    async def agent(run: Run) -> Any:
        graph = StateGraph(MessagesState).add_node("agent", asks)
        graph.add_node("tools", ToolNode([population])).add_edge(START, "agent")
        graph.add_conditional_edges("agent", tools_condition).add_edge("tools", "agent")
        compiled, config = graph.compile(), RunnableConfig(callbacks=[RunCallbackHandler(run)])
        given: Any = {"messages": [("user", "x")]}
        done = await asyncio.to_thread(lambda: compiled.invoke(given, config))
        return done["messages"][-1].text

    events = await run_agent(agent)
    told = expect(events).started().thinking("agent: asking")
    for _ in range(5):
        told.tool("population")
    told.thinking("agent: asking").completed(response="All known.").nothing_else()
    results = {each["call_id"]: each["result"] for each in calls(events, "tool_completed").values()}
    assert results == {f"c{n}": str(n * 1000) for n in range(1, 6)}


async def test_what_the_caller_configures_stays() -> None:
    seen: list[str] = []

    class Own(BaseCallbackHandler):
        def on_tool_start(self, serialized: Any, input_str: str, **more: Any) -> None:
            seen.append(more["metadata"]["team"])

    async def agent(run: Run) -> Any:
        config: RunnableConfig = {"callbacks": [Own()], "metadata": {"team": "red"}}
        return await stream_run(agent_graph(loop(), weather), run, config=config)

    def loop() -> Any:
        return says(asks_for(("weather", {"city": "Rome"})), "Done.")

    events = await run_agent(agent, content="x")
    expect(events).wrote("Done.").started().thinking().tool("weather").thinking().completed()
    assert seen == ["red"]


async def test_no_node_at_all_may_be_the_answer_s() -> None:
    async def agent(run: Run) -> Any:
        return await stream_run(agent_graph(says("silent")), run, answer=())

    events = await run_agent(agent, content="x")
    expect(events).wrote("").started().thinking().completed(response="silent")
