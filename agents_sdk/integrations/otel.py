"""OpenTelemetry spans of generative AI as events: whatever is instrumented, is told.

Needs ``pip install "runcast[otel]"``. The names are those of the semantic conventions for
generative AI (open-telemetry/semantic-conventions-genai: spans of inference, agents, tools and
retrievals), which are in development still, and written out: their Python module is not stable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from agents_sdk.context import CURRENT
from agents_sdk.integrations.extras import framework
from agents_sdk.posted_calls import PostedCall
from agents_sdk.run import Run
from broker import events

with framework("otel"):
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
    from opentelemetry.trace import StatusCode

SCOPE: Final = "runcast"
"""The instrumentation scope of Runcast's own spans: what they are of, their run has told."""

OPERATION: Final = "gen_ai.operation.name"
OUTPUT: Final = "gen_ai.output.messages"

THOUGHTS: Final[Mapping[str, tuple[str, str]]] = {
    "chat": ("gen_ai.request.model", "Asking {}"),
    "text_completion": ("gen_ai.request.model", "Asking {}"),
    "generate_content": ("gen_ai.request.model", "Asking {}"),
    "invoke_agent": ("gen_ai.agent.name", "{} begins"),
    "invoke_workflow": ("gen_ai.workflow.name", "{} begins"),
}
"""Operation → the attribute that names its object, and the thought that its start is."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Where a call's parts are. ``single``: what a parameter is called that is no object."""

    tool: str
    parameters: str
    single: str
    result: str
    call_id: str = ""


CALLS: Final[Mapping[str, Attributes]] = {
    "execute_tool": Attributes(
        tool="gen_ai.tool.name",
        parameters="gen_ai.tool.call.arguments",
        single="arguments",
        result="gen_ai.tool.call.result",
        call_id="gen_ai.tool.call.id",
    ),
    "retrieval": Attributes(
        tool="gen_ai.data_source.id",
        parameters="gen_ai.retrieval.query.text",
        single="query",
        result="gen_ai.retrieval.documents",
    ),
}
"""Operation → the attributes of a span that is a call."""


class RunSpanProcessor(SpanProcessor):
    """``provider.add_span_processor(RunSpanProcessor())``, once per process.

    A span that starts within a run, in its tasks or in threads of :func:`asyncio.to_thread`, is
    told by it: ``execute_tool`` and ``retrieval`` are a call from the span's start to its end;
    ``chat`` and its like, ``invoke_agent`` and ``invoke_workflow`` are a thought when they start,
    and what a model reasoned is another, if the span has it. Spans of other operations, and all
    that start outside of a run, are left alone. Which operation it is must be known when the span
    starts: by its attribute, or by its name (``execute_tool search``).

    Parameters and results are there if the instrumentation records contents. Never raises, never
    waits. Spans that are not recorded (by the sampler) are not told.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], tuple[Run, str, PostedCall | None]] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A thought, or the beginning of a call."""
        run = CURRENT.get()
        scope = span.instrumentation_scope
        if run is None or (scope is not None and scope.name == SCOPE):
            return
        attributes = span.attributes or {}
        operation, _, rest = span.name.partition(" ")
        operation = str(attributes.get(OPERATION, operation))
        call = None
        if operation in THOUGHTS:
            attribute, thought = THOUGHTS[operation]
            thoughts = thought.format(attributes.get(attribute) or rest or operation)
            run.post(events.AGENT_THINKING, {"thoughts": thoughts})
        elif operation in CALLS:
            call = _begin(run, CALLS[operation], attributes, rest or operation)
        else:
            return
        self._open[_key(span)] = run, operation, call

    def on_end(self, span: ReadableSpan) -> None:
        """The end of a call, or what a model reasoned."""
        run, operation, call = self._open.pop(_key(span), (None, "", None))
        attributes = span.attributes or {}
        if call is not None and span.status.status_code is StatusCode.ERROR:
            call.failed(str(attributes.get("error.type", "error")), _message(span))
        elif call is not None:
            call.returned(_value(attributes.get(CALLS[operation].result)))
        elif run is not None:
            for thoughts in _reasoning(_value(attributes.get(OUTPUT))):
                run.post(events.AGENT_THINKING, {"thoughts": thoughts})


def _key(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    return (context.trace_id, context.span_id) if context is not None else (0, 0)


def _begin(run: Run, where: Attributes, attributes: Mapping[str, Any], named: str) -> PostedCall:
    given = _value(attributes.get(where.parameters))
    if given is not None and not isinstance(given, dict):
        given = {where.single: given}
    call_id = attributes.get(where.call_id)
    return run.post_call(
        str(attributes.get(where.tool) or named),
        parameters=given,
        call_id=str(call_id) if call_id else None,
    )


def _message(span: ReadableSpan) -> str:
    recorded = (dict(each.attributes or {}) for each in span.events if each.name == "exception")
    said = [str(each["exception.message"]) for each in recorded if each.get("exception.message")]
    return (said[-1] if said else span.status.description) or "The call failed"


def _value(recorded: Any) -> Any:
    """An attribute's value: objects and lists are recorded as JSON text."""
    if isinstance(recorded, str) and recorded[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(recorded)
    return recorded


def _reasoning(messages: Any) -> list[str]:
    """What is marked as reasoning in a model's messages, as the conventions write them."""
    parts = [
        part
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict)
        for part in message.get("parts") or []
    ]
    return [
        str(part["content"])
        for part in parts
        if isinstance(part, dict) and part.get("type") == "reasoning" and part.get("content")
    ]
