"""One tool call as a context manager: ``tool_executing`` on the way in, ``tool_completed`` out."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog

from agents_sdk import ending, spans
from agents_sdk.emitter import Emitter
from agents_sdk.errors import RunStopped
from broker import events
from broker.composer import RUN_ENDED
from broker.errors import EventTooLarge, InvalidEvent, LifecycleError

if TYPE_CHECKING:
    from broker.tracing.tracer import Span

log = structlog.get_logger(__name__)


class ToolCall:
    """What ``async with run.tool(…) as call`` gives. Set :attr:`result` to what the tool returned.

    An exception inside makes the call ``success: false`` with ``error {code, message}``, and the
    run goes on behind the block; :attr:`error` tells it. So does a result that is not JSON or too
    large. A cancellation, and :class:`RunStopped`, pass through.
    """

    def __init__(self, emitter: Emitter, name: str, opening: dict[str, Any]) -> None:
        self._emitter, self._opening = emitter, opening
        self.name = name
        self.id: str = ""
        self.result: Any = None
        self.error: dict[str, str] | None = None
        self._span: Span | None = None

    async def __aenter__(self) -> Self:
        self._emitter.check()
        if self.id:
            self._begin_again()
        event = self._emitter.accept(events.TOOL_EXECUTING, self._opening)
        assert event.publication.call_opened is not None  # noqa: S101  # what the type just checked means
        self.id, _ = event.publication.call_opened
        await self._emitter.confirmed(event)
        self._span = spans.tool(self._emitter, self.name, self.id)
        self._around = None if self._span is None else self._span.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        swallowed = isinstance(error, Exception) and not isinstance(error, RunStopped)
        if self._span is not None and self._around is not None:
            self._span.leave(self._around)
            spans.called(self._span, error)
        if self._emitter.ended or self.id not in self._emitter.lifecycle.open_calls:
            return False  # completed by hand, or with its run: nothing is left to say
        if error is not None:
            self.error = self._describe(error)
        payload: dict[str, Any] = {"tool": self.name, "call_id": self.id}
        if self.error is None:
            try:
                event = self._emitter.accept(
                    events.TOOL_COMPLETED, payload | {"success": True, "result": self.result}
                )
            except (InvalidEvent, EventTooLarge) as refusal:
                log.warning(
                    "tool_result_refused", run_id=self._emitter.claim.run_id, why=str(refusal)
                )
                self.error = ending.error_of(refusal)
        if self.error is not None:
            event = self._emitter.accept(
                events.TOOL_COMPLETED, payload | {"success": False, "error": self.error}
            )
        if error is None or swallowed:
            await self._emitter.confirmed(event)
        return swallowed

    def _begin_again(self) -> None:
        """Nothing of the call before is left in this one, which must not be at the same time."""
        lifecycle = self._emitter.lifecycle
        if self.id in lifecycle.open_calls:
            why = f"call {self.id!r} is open; take a run.tool(…) for each"
            raise LifecycleError(state=lifecycle.state, event_type=events.TOOL_EXECUTING, why=why)
        self.result = self.error = None

    def _describe(self, error: BaseException) -> dict[str, str]:
        if isinstance(error, RunStopped) or self._emitter.told is not None:
            return dict(RUN_ENDED)
        if isinstance(error, asyncio.CancelledError):
            return ending.describe("cancelled", str(error) or "The call was cancelled")
        return ending.error_of(error)
