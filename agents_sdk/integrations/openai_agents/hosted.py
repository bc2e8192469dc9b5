"""Tools that the model's provider runs: no hook tells of them, only the items of a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agents_sdk.posted_calls import PostedCall
from agents_sdk.run import Run
from agents_sdk.values import jsonable

TOOLS: Final[Mapping[str, str]] = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "mcp_call": "mcp",
}
"""Type of an item → tool; an MCP server's tool has a name of its own."""

FAILED: Final = frozenset({"failed", "incomplete"})


class HostedCalls:
    """Their calls, from the item that is added to the item that is done."""

    def __init__(self) -> None:
        self._open: dict[str, PostedCall] = {}

    def added(self, run: Run, item: Any) -> None:
        """``tool_executing``; does nothing for items of other kinds."""
        if item.type in TOOLS:
            name = getattr(item, "name", None) or TOOLS[item.type]
            self._open[item.id] = run.post_call(name, call_id=item.id)

    def done(self, item: Any) -> None:
        """``tool_completed`` for a call that was added."""
        call = self._open.pop(getattr(item, "id", None) or "", None)
        if call is None:
            return
        error, status = getattr(item, "error", None), getattr(item, "status", None)
        if error is not None or status in FAILED:
            call.failed("tool_failed", str(jsonable(error) or status))
        else:
            call.returned(getattr(item, "output", None))
