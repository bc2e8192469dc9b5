"""The hooks of the OpenAI Agents SDK as events of a run."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

from agents import Agent, RunHooks, Tool, ToolErrorFormatter, ToolErrorFormatterArgs
from agents.tool_context import ToolContext

from agents_sdk.context import current_run
from agents_sdk.integrations.inputs import parameters_of
from agents_sdk.posted_calls import PostedCall
from agents_sdk.run import Run


class RunEventHooks(RunHooks[Any]):
    """``await Runner.run(agent, "…", hooks=RunEventHooks(run))``, for who wants no streamed text.

    A model turn is a thought, a hand-off another; a tool that this process runs is a call with the
    SDK's call id. They open and end no run; calls that the SDK never ends are ended with the run.

    ``run``: absent = the current one. Make new hooks for each agent run.

    What a tool raises the SDK turns into a text for the model, and such a call looks like any
    other. It is told as ``success: false`` with ``run_config``'s formatter from
    :meth:`tool_errors`::

        config = RunConfig(tool_error_formatter=hooks.tool_errors())
    """

    def __init__(self, run: Run | None = None) -> None:
        self.run = run if run is not None else current_run()
        """Whose events they become."""
        self.answered = False
        """Whether an agent has given its final output."""
        self._turns = 0
        self._calls: dict[str, PostedCall] = {}
        self._errors: dict[str, Exception] = {}

    def tool_errors(self, formatter: ToolErrorFormatter | None = None) -> ToolErrorFormatter:
        """``formatter``, or the SDK's own text, with a note of which calls have failed."""

        async def noted(told: ToolErrorFormatterArgs[Any]) -> str | None:
            if told.error is not None:
                self._errors[told.call_id] = told.error
            text = formatter(told) if formatter is not None else None
            return await text if isawaitable(text) else text

        return noted

    async def on_llm_start(self, context: Any, agent: Agent[Any], *more: Any) -> None:
        """``agent_thinking``."""
        self._turns += 1
        await self.run.think(f"{agent.name} is thinking", step=self._turns)

    async def on_handoff(self, context: Any, from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """``agent_thinking``, of the one who hands over."""
        await self.run.think(f"{from_agent.name} hands over to {to_agent.name}")

    async def on_tool_start(self, context: Any, agent: Any, tool: Tool) -> None:
        """``tool_executing``."""
        if isinstance(context, ToolContext):
            parameters, call_id = parameters_of(context.tool_arguments), context.tool_call_id
            call = self.run.post_call(context.tool_name, parameters=parameters, call_id=call_id)
        else:  # a tool that is no function: the SDK tells neither id nor arguments
            call = self.run.post_call(tool.name)
        self._calls[_key(context, tool)] = call

    async def on_tool_end(self, context: Any, agent: Any, tool: Tool, result: object) -> None:
        """``tool_completed``."""
        call = self._calls.pop(_key(context, tool))
        error = self._errors.pop(call.id, None)
        if error is not None:
            call.raised(error)
        else:
            call.returned(result)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """Nothing is said: the end is the run's."""
        self.answered = True


def _key(context: Any, tool: Tool) -> str:
    return context.tool_call_id if isinstance(context, ToolContext) else f"tool {tool.name}"
