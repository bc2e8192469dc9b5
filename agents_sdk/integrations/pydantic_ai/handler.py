"""The event stream of Pydantic AI as events of a run."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from pydantic_ai import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    NativeOutput,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    PromptedOutput,
    RunContext,
    TextPart,
    TextPartDelta,
    ThinkingPart,
)
from pydantic_ai.messages import (
    BaseToolCallPart,
    BaseToolReturnPart,
    NativeToolCallPart,
    NativeToolReturnPart,
)

from agents_sdk.context import current_run
from agents_sdk.integrations.inputs import parameters_of
from agents_sdk.posted_calls import PostedCall
from agents_sdk.run import Run


class RunEventHandler:
    """``await agent.run("…", event_stream_handler=RunEventHandler(run))``.

    Model turns and what the model thinks are thoughts, text is streamed; but for a ``NativeOutput``
    or ``PromptedOutput``, whose text is JSON. A tool is a call with Pydantic AI's call id. One that
    has to be made again is ``success: false`` with the code ``retried``, and the next is a call of
    its own; likewise ``failed`` and ``denied``. What the model calls to give its output is no tool.

    It opens and ends no run; calls that Pydantic AI never ends are ended with the run.

    ``run``: absent = the current one. ``output_type``: that of this agent run; absent = the agent's
    own. Make a new handler for each agent run.
    """

    def __init__(self, run: Run | None = None, *, output_type: Any = None) -> None:
        self._run = run if run is not None else current_run()
        self._output_type = output_type
        self._calls: dict[str, PostedCall] = {}

    async def __call__(
        self, context: RunContext[Any], stream: AsyncIterable[AgentStreamEvent]
    ) -> None:
        """What happens in one model turn, or in the calls of one."""
        writes, thinks = self._writes(context), True
        async for event in stream:
            if isinstance(event, PartStartEvent) and thinks:
                thinks = False
                name = getattr(context.agent, "name", None) or self._run.agent_name
                await self._run.think(f"{name} is thinking", step=context.run_step)
            if writes and (text := _text(event)):
                await self._run.write(text)
            await self._tell(event)

    def raised(self, call_id: str, error: Exception) -> None:
        """A tool has raised what the agent does not survive: the stream does not tell that."""
        if (call := self._calls.pop(call_id, None)) is not None:
            call.raised(error)

    async def _tell(self, event: AgentStreamEvent) -> None:
        if isinstance(event, FunctionToolCallEvent):
            self._called(event.part)
        elif isinstance(event, FunctionToolResultEvent):
            self._returned(event.part)
        elif isinstance(event, PartStartEvent):
            if isinstance(event.part, NativeToolReturnPart):
                self._returned(event.part)
        elif isinstance(event, PartEndEvent):
            if isinstance(event.part, ThinkingPart) and event.part.content:
                await self._run.think(event.part.content)
            elif isinstance(event.part, NativeToolCallPart):
                self._called(event.part)

    def _called(self, part: BaseToolCallPart[Any]) -> None:
        self._calls[part.tool_call_id] = self._run.post_call(
            part.tool_name, parameters=parameters_of(part.args), call_id=part.tool_call_id
        )

    def _returned(self, part: BaseToolReturnPart[Any]) -> None:
        call = self._calls.pop(part.tool_call_id)
        if part.outcome == "success":
            call.returned(part.content)
        else:
            call.failed(part.outcome, part.model_response_str(wrap_if_error=False))

    def _writes(self, context: RunContext[Any]) -> bool:
        output_type = self._output_type or getattr(context.agent, "output_type", None)
        return not isinstance(output_type, NativeOutput | PromptedOutput)


def _text(event: AgentStreamEvent) -> str:
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    return ""
