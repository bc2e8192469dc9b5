"""An agent in one line: run a graph or a chain, tell what it does, return its result."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Any, Final, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt

from agents_sdk.context import current_run
from agents_sdk.integrations.langchain.answers import ending_nodes, question_of, result_of
from agents_sdk.integrations.langchain.handlers import AsyncRunCallbackHandler
from agents_sdk.run import Run
from broker.channels import encode_id

Answer = Callable[[Interrupt[Any]], Awaitable[Any]]
Graph = Pregel[Any, Any, Any, Any]

_OF_THE_RUN: Final = object()
_INTERRUPT: Final = "__interrupt__"


async def stream_run(
    graph: Runnable[Any, Any],
    run: Run | None = None,
    *,
    input: Any = _OF_THE_RUN,  # LangChain's own name for it
    config: RunnableConfig | None = None,
    answer: Collection[str] | None = None,
    on_interrupt: Answer | None = None,
) -> Any:
    """Run a LangGraph graph, or any LangChain runnable, as what ``run`` does.

    Tells models, tools and retrievers as events, streams the answer, and returns the result: of a
    state with ``messages`` the text of the model's last one, of a message its text, else the value
    as JSON. Exceptions of the graph are raised further; cancelling cancels the graph.

    ``input``: absent = ``run.content``; for a graph, if that is text, as the user's message in
    ``messages``. ``config``: passed on; ``thread_id`` is filled in for a graph with a checkpointer,
    and is of this user and thread alone. ``answer``: the nodes whose models' text is the streamed
    answer; absent = those from which the graph may end. What a model within a tool says never is.

    ``on_interrupt``: gives the answer to an interrupt; absent = ``run.ask``, with the interrupt's
    text (``prompt``, ``question`` or ``message`` of an object) and schema. Several are asked one
    after the other. The graph then goes on with ``Command(resume=…)``.
    """
    run = run if run is not None else current_run()
    if not isinstance(graph, Pregel):
        handler = AsyncRunCallbackHandler(run, answer=answer)
        given = run.content if input is _OF_THE_RUN else input
        return result_of(await _chain(graph, given, merge_configs(_callbacks(handler), config)))
    handler = AsyncRunCallbackHandler(run, answer=ending_nodes(graph) if answer is None else answer)
    given = _message(run.content) if input is _OF_THE_RUN else input
    own: RunnableConfig = {"configurable": {"thread_id": thread_key(run)}}
    settings = merge_configs(own, _callbacks(handler), config)
    while True:
        state, interrupts = await _graph(graph, given, settings)
        if not interrupts:
            return result_of(state)
        given = Command(
            resume={each.id: await (on_interrupt or _asking(run))(each) for each in interrupts}
        )


def thread_key(run: Run) -> str:
    """A checkpointer's name for the run's thread: threads of two users are never the same."""
    return ":".join(encode_id(part) for part in (run.tenant, run.user_id, run.thread_id))


async def _graph(
    graph: Graph, given: Any, config: RunnableConfig
) -> tuple[Any, list[Interrupt[Any]]]:
    """Its last state, and what it waits for."""
    state: Any = None
    interrupts: list[Interrupt[Any]] = []
    # The messages are heard by the handler; asked for here, they make the models stream.
    stream = graph.astream(given, config, stream_mode=["values", "messages"])
    async with aclosing(cast("AsyncGenerator[Any, None]", stream)) as chunks:
        async for mode, chunk in chunks:
            if mode == "values" and isinstance(chunk, dict) and _INTERRUPT in chunk:
                interrupts += chunk[_INTERRUPT]
            elif mode == "values":
                state = chunk
    return state, interrupts


async def _chain(chain: Runnable[Any, Any], given: Any, config: RunnableConfig) -> Any:
    """Its result; models in it stream, because somebody listens."""
    result: Any = None
    stream = chain.astream_events(given, config, version="v2")
    async with aclosing(cast("AsyncGenerator[Any, None]", stream)) as steps:
        async for step in steps:
            if not step["parent_ids"] and step["event"].endswith("_end"):
                result = step["data"]["output"]
    return result


def _asking(run: Run) -> Answer:
    async def ask(interrupt: Interrupt[Any]) -> Any:
        prompt, schema = question_of(interrupt)
        return await run.ask(prompt, schema=schema)

    return ask


def _message(content: Any) -> Any:
    return (
        {"messages": [{"role": "user", "content": content}]}
        if isinstance(content, str)
        else content
    )


def _callbacks(handler: AsyncRunCallbackHandler) -> RunnableConfig:
    return {"callbacks": [handler]}
