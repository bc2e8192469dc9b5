"""An agent in one line: run it, tell what it does, return its output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, cast

from agents import Agent, RunConfig, Runner, RunResultStreaming, RunState

from agents_sdk.context import current_run
from agents_sdk.integrations.inputs import user_text
from agents_sdk.integrations.openai_agents.hooks import RunEventHooks
from agents_sdk.integrations.openai_agents.hosted import HostedCalls
from agents_sdk.run import Run
from agents_sdk.values import jsonable


async def stream_run(
    agent: Agent[Any],
    run: Run | None = None,
    *,
    input: str | list[Any] | None = None,  # the SDK's own name for it
    run_config: RunConfig | None = None,
    on_result: Callable[[RunResultStreaming], object] | None = None,
    **options: Any,
) -> Any:
    """Run ``agent`` as what ``run`` does; its final output, as JSON.

    Model turns, reasoning and hand-offs are thoughts, tools are calls with the SDK's call ids, and
    text is streamed; but for an agent with an ``output_type``, whose text is JSON. An agent that is
    handed over to speaks in a run of its own within ``run``, until control moves on.

    A tool that needs approval is asked for with ``run.ask``; only the answer ``true`` approves.
    What the SDK raises is raised: a guardrail that trips fails the run with the code
    ``input_guardrail_tripwire_triggered``, for example. Cancelling cancels the stream; a stream
    that was cancelled raises :class:`asyncio.CancelledError`, so that the run ends ``cancelled``.

    ``run``: absent = the current one. ``input``: absent = ``run.content``, as one message of the
    user. ``on_result``: gets the SDK's own result before its first event, to cancel it or to read
    it later; after a question there is a new one. Further ``options`` (``context``, ``session``,
    ``max_turns``, …) are those of ``Runner.run_streamed``, but for ``hooks``: an agent can have its
    own.
    """
    run = run if run is not None else current_run()
    config = run_config or RunConfig()
    given: Any = user_text(run.content) if input is None else input
    async with AsyncExitStack() as child:
        stage = _Stage(run, agent, child)
        errors = stage.tool_errors(config.tool_error_formatter)
        config = replace(config, tool_error_formatter=errors)
        while True:
            result = Runner.run_streamed(agent, given, hooks=stage, run_config=config, **options)
            if on_result is not None:
                on_result(result)
            await stage.follow(result)
            if not result.interruptions:
                break
            given = await _decided(run, result)
        if not stage.answered and result.final_output is None:
            raise asyncio.CancelledError("The agent's stream was cancelled")
        stage.run.response = run.response = jsonable(result.final_output)
    return run.response


class _Stage(RunEventHooks):
    """Hooks, and the one who reads the stream: both tell the same run, in one order.

    The SDK calls hooks from a task of its own, ahead of whoever reads the stream; only between two
    turns, so at a hand-off too, it waits for him. Lest a tool call be told before the text that led
    to it, a hook waits for the end of the model's response to be read.
    """

    def __init__(self, run: Run, agent: Agent[Any], child: AsyncExitStack) -> None:
        super().__init__(run)
        self._outer, self._first, self._child = run, agent, child
        self._agent = agent
        self._hosted = HostedCalls()
        self._heard = asyncio.Event()

    async def on_llm_start(self, context: Any, agent: Agent[Any], *more: Any) -> None:
        self._heard.clear()
        await super().on_llm_start(context, agent, *more)

    async def on_llm_end(self, *_: Any) -> None:
        await self._heard.wait()

    async def follow(self, result: RunResultStreaming) -> None:
        """Tell what the stream brings, until it ends, and the SDK's own task with it."""
        stream = cast("AsyncGenerator[Any]", result.stream_events())
        try:
            async with aclosing(stream) as events:
                try:
                    async for event in events:
                        if event.type == "agent_updated_stream_event":
                            await self._turn_to(event.new_agent)
                        elif event.type == "raw_response_event":
                            await self._hear(event.data)
                except BaseException:
                    result.cancel()
                    raise
        finally:
            if result.run_loop_task is not None:
                await asyncio.wait([result.run_loop_task])

    async def _turn_to(self, agent: Agent[Any]) -> None:
        if agent is not self._agent:
            await self._child.aclose()
            self._agent, self.run = agent, self._outer
            if agent is not self._first:
                self.run = await self._child.enter_async_context(self._outer.subagent(agent.name))

    async def _hear(self, said: Any) -> None:
        if said.type == "response.output_text.delta":
            if self._agent.output_type in (None, str):
                await self.run.write(said.delta)
        elif said.type == "response.output_item.added":
            self._hosted.added(self.run, said.item)
        elif said.type == "response.output_item.done":
            self._hosted.done(said.item)
            if said.item.type == "reasoning" and (thoughts := _thoughts(said.item)):
                await self.run.think(thoughts)
        elif said.type == "response.completed":
            self._heard.set()


def _thoughts(reasoning: Any) -> str:
    return "\n\n".join(part.text for part in [*reasoning.summary, *(reasoning.content or ())])


async def _decided(run: Run, result: RunResultStreaming) -> RunState[Any]:
    """The state to go on from, once the user has said of each call whether it may be made."""
    state = result.to_state()
    for call in result.interruptions:
        question = f"May {call.agent.name} call {call.name} with {call.arguments or 'nothing'}?"
        if await run.ask(question, schema={"type": "boolean"}) is True:
            state.approve(call)
        else:
            state.reject(call)
    return state
