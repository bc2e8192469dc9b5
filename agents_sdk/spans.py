"""The spans of a run, where tracing is on: its attempt, its sub-agents, its tools.

Named as the semantic conventions for generative AI name agents and tools, so that viewers of such
traces know them. They hold ids, names and statuses; what was said, by whoever, they never hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from broker.errors import BrokerUnavailable
from broker.events import ABANDONED, FAILED
from broker.trace_context import read

if TYPE_CHECKING:
    from agents_sdk.emitter import Emitter
    from broker.publication import Publication
    from broker.redis.broker import Broker
    from broker.redis.records import Claim, RunRequest
    from broker.trace_context import TraceContext
    from broker.tracing.tracer import Span, Tracing

log = structlog.get_logger(__name__)

RUN_ID: Final = "runcast.run_id"
PARENT_RUN_ID: Final = "runcast.parent_run_id"
ATTEMPT: Final = "runcast.attempt"
STATUS: Final = "runcast.status"
WORKER: Final = "runcast.worker"

_OPERATION: Final = "gen_ai.operation.name"
_AGENT: Final = "gen_ai.agent.name"


def waited(tracing: Tracing, claim: Claim, run: Span, *, since_ms: int) -> None:
    """The run's wait in the queue, over now. ``since_ms``: by Redis' clock."""
    now = time.time_ns()
    tracing.begin(
        "wait in queue",
        kind="consumer",
        parent=claim.trace or run.context,
        attributes={RUN_ID: claim.run_id, ATTEMPT: claim.attempt, _AGENT: claim.agent},
        at_ns=min(since_ms * 1_000_000, now),
    ).end(at_ns=now)


def attempt(tracing: Tracing, claim: Claim) -> Span:
    """An agent's run at this worker. It is linked to the attempt before, if that was traced."""
    return tracing.begin(
        f"invoke_agent {claim.agent}",
        kind="consumer",
        parent=claim.trace,
        links=[read(claim.attempt_trace)],
        attributes={
            RUN_ID: claim.run_id,
            ATTEMPT: claim.attempt,
            _OPERATION: "invoke_agent",
            _AGENT: claim.agent,
        },
    )


async def note(broker: Broker, claim: Claim, span: Span) -> None:
    """Let the attempt after this one, if there is one, know of it."""
    if span.context is None:
        return
    try:
        await broker.note_trace(claim, span.context.traceparent)
    except BrokerUnavailable as error:
        log.debug("attempt_not_noted", run_id=claim.run_id, why=str(error))


def opened(tracing: Tracing, request: RunRequest) -> tuple[Span, RunRequest]:
    """A run that no client began, and its request with the trace that it belongs to.

    That of what it is opened in; a run that is opened in none begins one.
    """
    attributes = {
        RUN_ID: request.run_id,
        _OPERATION: "invoke_agent",
        _AGENT: request.agent,
    }
    if request.parent_run_id is not None:
        attributes[PARENT_RUN_ID] = request.parent_run_id
    around = request.trace or tracing.current()
    span = tracing.begin(
        f"invoke_agent {request.agent}", otherwise=request.trace, attributes=attributes
    )
    return span, replace(request, trace=around or span.context)


def around(emitter: Emitter) -> TraceContext | None:
    """What requests of the run's own belong to."""
    tracing, run = emitter.tracing, emitter.span
    if tracing is None or run is None:
        return emitter.claim.trace
    return tracing.current() or run.context


def said(span: Span, publication: Publication) -> None:
    """The run has said something; what, is not told."""
    span.note(publication.event_type, {"runcast.seq": publication.seq})


def ended(span: Span | None, status: str | None, code: str = "") -> None:
    """The run's end; without a status it is somebody else's now."""
    if span is None:
        return
    span.set({STATUS: status or "lost"})
    if status in (FAILED, ABANDONED, None):
        span.failed(code or status or "lost")
    span.end()


def tool(emitter: Emitter, name: str, call_id: str) -> Span | None:
    """A call of a tool, below the current span; None where nothing is traced."""
    tracing, run = emitter.tracing, emitter.span
    if tracing is None or run is None:
        return None
    return tracing.begin(
        f"execute_tool {name}",
        otherwise=run.context,
        attributes={
            RUN_ID: emitter.claim.run_id,
            _OPERATION: "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": call_id,
        },
    )


@contextmanager
def calling(span: Span | None, *, within: bool) -> Iterator[None]:
    """Around a call. ``within``: what is begun in the block is below it."""
    if span is None:
        yield
        return
    before, raised = span.enter() if within else None, None
    try:
        yield
    except BaseException as error:
        raised = error
        raise
    finally:
        if before is not None:
            span.leave(before)
        called(span, raised)


def called(span: Span, error: BaseException | None) -> None:
    """The call is over; a generator that is closed has given all that was wanted."""
    if isinstance(error, asyncio.CancelledError):
        span.failed("cancelled")
    elif error is not None and not isinstance(error, GeneratorExit):
        span.failed(type(error).__name__)
    span.end()
