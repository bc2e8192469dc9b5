"""Graphs whose models say what is written down for them; run by a real worker, or in a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from agents_sdk import Run, Worker
from agents_sdk.integrations.langchain import stream_run

Graph = CompiledStateGraph[Any, Any, Any, Any]


class Scripted(GenericFakeChatModel):
    """The framework's own, whose stream gives tool calls too."""

    def bind_tools(self, tools: Sequence[Any], **more: Any) -> Runnable[Any, AIMessage]:
        return self

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **more: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = next(self.messages)
        assert isinstance(message, AIMessage)
        parts = [AIMessageChunk(content=word) for word in message.text.split(" ")]
        for part in parts[1:]:
            part.content = f" {part.content}"
        if isinstance(message.content, list):
            parts = [AIMessageChunk(content=[block]) for block in message.content]
        for call in message.tool_calls:
            piece: Any = {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"]}
            parts.append(AIMessageChunk(content="", tool_call_chunks=[piece | {"index": None}]))
        for part in parts:
            chunk = ChatGenerationChunk(message=part)
            if run_manager is not None:
                run_manager.on_llm_new_token(part.text, chunk=chunk)
            yield chunk


def says(*messages: AIMessage | str) -> Scripted:
    """A model that gives these answers, one after the other."""
    return Scripted(messages=iter([AIMessage(m) if isinstance(m, str) else m for m in messages]))


def asks_for(*calls: tuple[str, dict[str, Any]], text: str = "") -> AIMessage:
    """An answer that asks for these tools at once; their ids are c1, c2, …"""
    return AIMessage(
        text,
        tool_calls=[
            {"name": name, "args": args, "id": f"c{number}"}
            for number, (name, args) in enumerate(calls, 1)
        ],
    )


def agent_graph(model: Scripted, *tools: BaseTool | Callable[..., Any], **compiled: Any) -> Graph:
    """The usual loop: the model, its tools, the model again."""

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode(list(tools), handle_tool_errors=True))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition)
    graph.add_edge("tools", "agent")
    return graph.compile(**compiled)


@tool
async def weather(city: str) -> str:
    """The weather there."""
    return f"sunny in {city}"


@tool
def population(city: str) -> int:
    """How many live there; LangChain runs it in a thread."""
    return len(city) * 1000


@tool
async def closed(city: str) -> str:
    """Never works."""
    raise LookupError(f"no data for {city}")


@tool
async def book(city: str) -> str:
    """Asks before it does."""
    return f"booked {city}: {interrupt({'question': f'Book {city}?'})}"


worker = Worker()


@worker.agent("researcher")
async def researcher(run: Run) -> Any:
    """Two tools in parallel, one of which LangChain runs in a thread."""
    model = says(
        asks_for(("weather", {"city": "Rome"}), ("population", {"city": "Rome"}), text="Looking."),
        "Rome is sunny and has 4000 people.",
    )
    return await stream_run(agent_graph(model, weather, population), run)


@worker.agent("booker")
async def booker(run: Run) -> Any:
    """Asks its user through an interrupt."""
    model = says(asks_for(("book", {"city": "Rome"})), "Done.")
    return await stream_run(agent_graph(model, book, checkpointer=InMemorySaver()), run)


@worker.agent("endless")
async def endless(run: Run) -> Any:
    """Works until it is stopped."""

    @tool
    async def wait() -> None:
        """Never returns."""
        await asyncio.Event().wait()

    return await stream_run(agent_graph(says(asks_for(("wait", {}))), wait), run)
