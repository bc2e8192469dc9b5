"""A program that traces already: with a tracer provider, and instrumented code in its agents."""

from __future__ import annotations

from collections.abc import AsyncIterator

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from agents_sdk import Run, Worker, traced_tool
from agents_sdk.integrations.otel import RunSpanProcessor

provider = TracerProvider(
    resource=Resource.create({"service.name": "my-agents", "service.instance.id": "mine"})
)
provider.add_span_processor(RunSpanProcessor())
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

library = trace.get_tracer("some.library")
worker = Worker()


@traced_tool
async def rows(count: int) -> AsyncIterator[int]:
    """A tool that gives one thing after the other."""
    for number in range(count):
        yield number


@worker.agent("instrumented")
async def instrumented(run: Run) -> str:
    """Own tools, and those that instrumented code tells."""
    async with run.tool("own"):
        with library.start_as_current_span("GET"):
            pass
    with library.start_as_current_span("execute_tool theirs"):
        pass
    async for _ in rows(2):
        with library.start_as_current_span("between"):
            pass
    async with run.subagent("helper"):
        with library.start_as_current_span("chat model-x"):
            pass
    return "done"
