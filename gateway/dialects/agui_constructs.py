"""What is open in a stream of AG-UI events, so that it can be opened again, or closed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

Event = dict[str, Any]


class _Kind(NamedTuple):
    """Its first event, its last ones, and the field that names it in all of them."""

    opened: str
    closed: frozenset[str]
    name: str


KINDS: Final = (
    _Kind("SUBAGENT_STARTED", frozenset({"SUBAGENT_FINISHED", "SUBAGENT_ERROR"}), "subagentRunId"),
    _Kind("REASONING_START", frozenset({"REASONING_END"}), "messageId"),
    _Kind("REASONING_MESSAGE_START", frozenset({"REASONING_MESSAGE_END"}), "messageId"),
    _Kind("TEXT_MESSAGE_START", frozenset({"TEXT_MESSAGE_END"}), "messageId"),
    _Kind("TOOL_CALL_START", frozenset({"TOOL_CALL_END"}), "toolCallId"),
)
"""Everything that AG-UI brackets and we use; nothing of it may be open when a run is finished."""

_OPENED: Final = {kind.opened: kind for kind in KINDS}
_CLOSED: Final = {closed: kind for kind in KINDS for closed in kind.closed}


class Constructs:
    """Those that are open, the one opened first first."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Event] = {}

    def note(self, event: Mapping[str, Any]) -> None:
        """An event of the stream, told or left out because the reader has it."""
        kind = event["type"]
        if (opens := _OPENED.get(kind)) is not None:
            self._open[kind, event[opens.name]] = dict(event)
        elif (closes := _CLOSED.get(kind)) is not None:
            self._open.pop((closes.opened, event[closes.name]), None)

    def openers(self) -> Iterator[Event]:
        """What a reader that begins anew has to be told first."""
        return map(dict, self._open.values())

    def subagents(self) -> list[str]:
        """Those under way, the innermost first."""
        return [name for kind, name in reversed(self._open) if kind == "SUBAGENT_STARTED"]
