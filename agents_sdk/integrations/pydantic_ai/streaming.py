"""An agent in one line: run it, tell what it does, return its output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_ai import AgentRunResult, DeferredToolRequests, DeferredToolResults, RunCancelled
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import HandleDeferredToolCalls, Hooks
from pydantic_ai.exceptions import RunTimedOut
from pydantic_ai.messages import ToolCallPart

from agents_sdk.context import current_run
from agents_sdk.integrations.inputs import user_text
from agents_sdk.integrations.pydantic_ai.handler import RunEventHandler
from agents_sdk.run import Run
from agents_sdk.values import jsonable


async def stream_run(
    agent: AbstractAgent[Any, Any],
    run: Run | None = None,
    *,
    user_prompt: str | Sequence[Any] | None = None,
    on_result: Callable[[AgentRunResult[Any]], object] | None = None,
    capabilities: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """Run ``agent`` as what ``run`` does; its output, as JSON. Its model must be able to stream.

    Tells what :class:`RunEventHandler` tells, and of a tool that ends the agent what it raised.
    Tools that need approval, and questions of the model, are asked for with ``run.ask``; only the
    answer ``true`` approves. What the agent raises is raised. Cancelling cancels the agent; one
    that its own code cancels, by ``context.cancel()`` or a ``cancellation_token``, raises
    :class:`asyncio.CancelledError`, so that the run ends ``cancelled``.

    ``run``: absent = the current one. ``user_prompt``: absent = ``run.content``, as one text.
    ``on_result``: gets Pydantic AI's own result at the end, for its messages or its typed output.
    Further ``options`` (``deps``, ``message_history``, ``usage_limits``, …) are those of
    ``agent.run``.
    """
    run = run if run is not None else current_run()
    handler = RunEventHandler(run, output_type=options.get("output_type"))
    raised: dict[str, Exception] = {}

    async def decide(_: Any, requests: DeferredToolRequests) -> DeferredToolResults:
        return await _decided(run, requests)

    async def note(_: Any, *, call: ToolCallPart, error: Exception, **__: Any) -> Any:
        raised[call.tool_call_id] = error
        raise error

    ours = [HandleDeferredToolCalls(decide), Hooks(tool_execute_error=note)]
    try:
        result = await agent.run(
            user_text(run.content) if user_prompt is None else user_prompt,
            event_stream_handler=handler,
            capabilities=[*capabilities, *ours],
            **options,
        )
    except RunTimedOut:
        raise
    except RunCancelled as cancelled:
        raise asyncio.CancelledError(str(cancelled)) from cancelled
    except Exception:
        for call_id, error in raised.items():
            handler.raised(call_id, error)
        raise
    if on_result is not None:
        on_result(result)
    run.response = jsonable(result.output)
    return run.response


async def _decided(run: Run, requests: DeferredToolRequests) -> DeferredToolResults:
    """What the user says to each call that waits for him; calls that run elsewhere are left."""
    results = DeferredToolResults()
    for call in requests.approvals:
        question = f"May {run.agent_name} call {call.tool_name} with {call.args_as_json_str()}?"
        answer = await run.ask(question, schema={"type": "boolean"})
        results.approvals[call.tool_call_id] = answer is True
    for call in requests.calls:
        if requests.kind(call.tool_call_id) == "question":
            question = f"{call.tool_name}: {call.args_as_json_str()}"
            results.calls[call.tool_call_id] = await run.ask(question)
    return results
