"""Spans of this process, by OpenTelemetry.

If the program has set a tracer provider of its own, spans go there; else one is made and set that
sends by OTLP/HTTP. It is configured by OpenTelemetry's own ``OTEL_*`` variables. Sending happens in
a thread, and what cannot be sent is dropped: nothing of Runcast waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from broker import logs
from broker.trace_context import TraceContext

SCOPE: Final = "runcast"
"""The instrumentation scope of every span that is made here."""

FLUSH_SECONDS: Final = 5.0
"""How long a process that ends waits for its last spans to be sent."""

_UNNAMED: Final = "unknown_service"
"""What OpenTelemetry calls a service without a name."""

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, AttributeValue]


class Span:
    """One span that has begun. :meth:`end` it once."""

    __slots__ = ("_span", "context")

    def __init__(self, span: trace.Span, context: TraceContext | None) -> None:
        self._span = span
        self.context = context
        """What belongs to it names this; None when spans are switched off altogether."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def note(self, name: str, attributes: Attributes) -> None:
        """Something happens now, within the span."""
        self._span.add_event(name, attributes)

    def failed(self, code: str) -> None:
        """It did not succeed; ``code`` is for programs, and nothing that anybody wrote."""
        self._span.set_attribute("error.type", code)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, *, at_ns: int | None = None) -> None:
        """It ends, now or at that time."""
        self._span.end(at_ns)

    def enter(self) -> Context:
        """Make it the current one, for spans that begin from here on; returns what was current."""
        before = contexts.get_current()
        contexts.attach(trace.set_span_in_context(self._span))
        return before

    @staticmethod
    def leave(before: Context) -> None:
        """Make current again what :meth:`enter` has returned."""
        contexts.attach(before)

    @contextmanager
    def current(self) -> Iterator[None]:
        """The current one within the block."""
        before = self.enter()
        try:
            yield
        finally:
            self.leave(before)


class Tracing:
    """A process's spans.

    ``follow``: a client's context counts as any other; otherwise it says to which trace a span
    belongs, and whether that is recorded is decided here as for a trace that begins here.
    """

    def __init__(self, *, service: str, instance: str, follow: bool) -> None:
        found = trace.get_tracer_provider()
        if isinstance(found, trace.ProxyTracerProvider):
            found = _provider(service, instance)
            trace.set_tracer_provider(found)
        self._provider = found
        self._tracer = found.get_tracer(SCOPE, _version())
        self._follow = follow
        logs.find_trace(_current_ids)

    def begin(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: TraceContext | None = None,
        otherwise: TraceContext | None = None,
        links: Sequence[TraceContext | None] = (),
        attributes: Attributes | None = None,
        at_ns: int | None = None,
    ) -> Span:
        """A span that begins now, or at ``at_ns`` (since 1970).

        Below ``parent``; without one below the current span, and without that below ``otherwise``,
        or on its own.
        """
        context: Context | None = None
        if parent is None and not trace.get_current_span().get_span_context().is_valid:
            parent = otherwise
        if parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(self._judged(parent)), Context())
        span = self._tracer.start_span(
            name,
            context=context,
            kind=SpanKind[kind.upper()],
            attributes=attributes,
            links=[Link(_remote(each)) for each in links if each is not None],
            start_time=at_ns,
        )
        return Span(span, _context_of(span.get_span_context()))

    def current(self) -> TraceContext | None:
        """The current span's, whoever made it; None without one."""
        return _context_of(trace.get_current_span().get_span_context())

    async def flush(self) -> None:
        """Have what has ended sent, but do not wait for it longer than :data:`FLUSH_SECONDS`."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            try:
                flush()
            finally:
                with suppress(RuntimeError):  # nobody waits any more
                    loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, name="flush spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()

    def _judged(self, parent: TraceContext) -> SpanContext:
        context = _remote(parent)
        sampler = getattr(self._provider, "sampler", None)
        if not parent.of_client or self._follow or sampler is None:
            return context
        judged = sampler.should_sample(Context(), context.trace_id, "")
        flags = TraceFlags.SAMPLED if judged.decision.is_sampled() else TraceFlags.DEFAULT
        return SpanContext(
            context.trace_id,
            context.span_id,
            is_remote=True,
            trace_flags=TraceFlags(flags),
            trace_state=context.trace_state,
        )


def _provider(service: str, instance: str) -> TracerProvider:
    resource = Resource.create({SERVICE_INSTANCE_ID: instance})
    if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    # Whoever ends flushes, for as long as it waits; at exit nothing may wait for a collector.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _remote(context: TraceContext) -> SpanContext:
    return SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(context.flags),
        trace_state=TraceState.from_header([context.tracestate]) if context.tracestate else None,
    )


def _context_of(context: SpanContext) -> TraceContext | None:
    if not context.is_valid:
        return None
    traceparent = (
        f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
        f"-{context.trace_flags:02x}"
    )
    return TraceContext(traceparent, context.trace_state.to_header())


def _current_ids() -> dict[str, str]:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }


def _version() -> str | None:
    try:
        return version(SCOPE)
    except PackageNotFoundError:  # a checkout
        return None
