"""The gateway's spans of a run: a message's acceptance, and an end that nobody else brings about.

They hold ids, names and codes. What a client has sent is in none of them, nor who it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from multidict import MultiMapping

from broker.trace_context import TraceContext, of_headers, read
from gateway.session import FrameError

if TYPE_CHECKING:
    from broker.redis.records import Claim, Registered
    from broker.tracing.tracer import Span, Tracing
    from gateway.commands import Message
    from gateway.event_batch import Batch

RUN_ID: Final = "runcast.run_id"
AGENT: Final = "gen_ai.agent.name"


def of_request(
    headers: MultiMapping[str] | None, metadata: Mapping[str, Any]
) -> TraceContext | None:
    """Where a client's message belongs, as it says: by headers, else in the message's metadata."""
    told = None
    if headers is not None:
        told = of_headers(
            headers.getall("traceparent", ()), headers.getall("tracestate", ()), of_client=True
        )
    return told or read(metadata.get("traceparent"), metadata.get("tracestate"), of_client=True)


class Acceptance:
    """What becomes of a message: :attr:`message` is what to register, :meth:`accepted` its run."""

    def __init__(self, message: Message, span: Span | None) -> None:
        self.message, self._span = message, span

    def accepted(self, registered: Registered) -> None:
        """It began this run, or had begun it."""
        if self._span is not None:
            self._span.set(
                {
                    RUN_ID: registered.run_id,
                    AGENT: registered.agent,
                    "runcast.duplicate": registered.duplicate,
                }
            )


@contextmanager
def accepting(tracing: Tracing | None, message: Message, *, node_id: str) -> Iterator[Acceptance]:
    """Around a message's acceptance: its run belongs to the span, where there is one."""
    if tracing is None:
        yield Acceptance(message, None)
        return
    span = tracing.begin(
        "accept message",
        kind="server",
        parent=message.trace,
        attributes={"runcast.gateway": node_id, "runcast.scope": message.channel.scope},
    )
    with _during(span):
        yield Acceptance(replace(message, trace=span.context or message.trace), span)


@contextmanager
def publishing(
    tracing: Tracing | None, headers: MultiMapping[str], batch: Batch, *, node_id: str
) -> Iterator[TraceContext | None]:
    """Around a request of a worker; gives what a run that it opens belongs to.

    That is what the worker says, who has a key; else the request's own span.
    """
    told = of_headers(
        headers.getall("traceparent", ()), headers.getall("tracestate", ()), of_client=False
    )
    if tracing is None or (told is None and batch.opening is None):
        yield told
        return
    span = tracing.begin(
        "publish events",
        kind="server",
        parent=told,
        attributes={
            RUN_ID: batch.run_id,
            "runcast.gateway": node_id,
            "runcast.events": len(batch.items),
        },
    )
    with _during(span):
        yield told or span.context


@contextmanager
def ending(
    tracing: Tracing | None, claim: Claim, *, status: str, code: str, node_id: str
) -> Iterator[None]:
    """Around the end of a run that was taken over: linked to the attempt that it ends."""
    if tracing is None:
        yield
        return
    span = tracing.begin(
        "end run",
        parent=claim.trace,
        links=[read(claim.attempt_trace)],
        attributes={
            RUN_ID: claim.run_id,
            AGENT: claim.agent,
            "runcast.gateway": node_id,
            "runcast.attempt": claim.attempt,
            "runcast.status": status,
            "error.type": code,
        },
    )
    if code != "stopped":
        span.failed(code)
    try:
        with span.current():
            yield
    finally:
        span.end()


@contextmanager
def _during(span: Span) -> Iterator[None]:
    """The span is current, is told what fails by its code or class, and ends."""
    try:
        with span.current():
            yield
    except FrameError as error:
        span.failed(error.code)
        raise
    except BaseException as error:
        span.failed(type(error).__name__)
        raise
    finally:
        span.end()
