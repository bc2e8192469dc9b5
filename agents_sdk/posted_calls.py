"""A tool call told by code that cannot wait: it neither raises nor blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from agents_sdk import ending, spans
from agents_sdk.emitter import Emitter
from agents_sdk.ids import new_id
from agents_sdk.values import shown
from broker import events
from broker.events import MAX_NAME_CHARACTERS

SHARE: Final = 2
"""What is shown of a value takes at most one part in so many of the largest event."""


class PostedCall:
    """What ``run.post_call(…)`` gives: a call that has begun.

    :meth:`returned`, :meth:`raised` or :meth:`failed` ends it, once. If none does, the run's end
    does. Should its beginning be refused, as that of a call that somebody else tells too, so is its
    end.

    Parameters and result may be of any type: see :func:`agents_sdk.values.shown`.
    """

    __slots__ = ("_emitter", "_open", "id", "name")

    def __init__(
        self,
        emitter: Emitter,
        name: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        purpose: str | None = None,
        call_id: str | None = None,
    ) -> None:
        self._emitter = emitter
        self.name = name[:MAX_NAME_CHARACTERS] or "tool"
        self.id = call_id if call_id and len(call_id) <= MAX_NAME_CHARACTERS else new_id()
        opening: dict[str, Any] = {"tool": self.name, "call_id": self.id, "status": "running"}
        if parameters:
            opening["parameters"] = self._shown(parameters)
        if purpose is not None:
            opening["purpose"] = purpose
        self._open = False
        emitter.posts.add(lambda: self._begin(opening))

    def span(self, *, within: bool = True) -> AbstractContextManager[None]:
        """Around the call: its span, where tracing is on.

        ``within``: spans that begin in the block are below it.
        """
        return spans.calling(spans.tool(self._emitter, self.name, self.id), within=within)

    def returned(self, result: Any) -> None:
        """It succeeded."""
        self._complete({"success": True, "result": self._shown(result)})

    def raised(self, error: BaseException) -> None:
        """It did not: the code is the error's own, or its class."""
        if isinstance(error, asyncio.CancelledError):
            self.failed("cancelled", str(error) or "The call was cancelled")
        else:
            self._complete({"success": False, "error": ending.error_of(error)})

    def failed(self, code: str, message: str) -> None:
        """It did not, and there is no exception for it."""
        self._complete({"success": False, "error": ending.describe(code, message)})

    def _begin(self, opening: dict[str, Any]) -> None:
        self._emitter.say(events.TOOL_EXECUTING, opening)
        self._open = True

    def _complete(self, outcome: dict[str, Any]) -> None:
        self._emitter.posts.add(lambda: self._end(outcome))

    def _end(self, outcome: dict[str, Any]) -> None:
        if self._open:
            self._open = False
            payload = {"tool": self.name, "call_id": self.id} | outcome
            self._emitter.say(events.TOOL_COMPLETED, payload)

    def _shown(self, value: Any) -> Any:
        return shown(value, max_bytes=self._emitter.limits.max_event_bytes // SHARE)
