"""AG-UI 1.0 as its rules and its official client have it, to judge a stream of its events by.

The rules are those of ``verifyEvents`` in npm ``@ag-ui/client`` 1.0.0; the shapes are PyPI's
``ag-ui-protocol``.
"""

from collections.abc import Iterable
from typing import Any, Final

from ag_ui.core import Event as AnyEvent
from pydantic import BaseModel, TypeAdapter

from gateway.dialects.agui_constructs import KINDS

Event = dict[str, Any]

_SHAPES: Final[TypeAdapter[Any]] = TypeAdapter(AnyEvent)
_ENDS: Final = ("RUN_FINISHED", "RUN_ERROR")
_OPENS: Final = {kind.opened: kind for kind in KINDS}
_WITHIN: Final = {
    "TEXT_MESSAGE_CONTENT": "TEXT_MESSAGE_START",
    "REASONING_MESSAGE_CONTENT": "REASONING_MESSAGE_START",
    "TOOL_CALL_ARGS": "TOOL_CALL_START",
}
_CLOSES: Final = {closed: kind for kind in KINDS for closed in kind.closed}


def check_shape(event: Event) -> None:
    """Fail unless the official types take it and know every field."""
    model: BaseModel = _SHAPES.validate_python(event)
    assert not model.model_extra, (event["type"], model.model_extra)
    for value in model.__dict__.values():
        if isinstance(value, BaseModel):
            assert not value.model_extra, (event["type"], value.model_extra)


def check_stream(told: Iterable[Event], *, whole: bool = True, shapes: bool = True) -> None:
    """Fail where the official client would refuse the next event of one response.

    ``shapes``: of the events too, for a client that passes them on as they are.
    """
    owners: dict[tuple[str, str], str | None] = {}
    open_now: set[tuple[str, str]] = set()
    closed_agents: set[str] = set()
    ended, first = False, True
    for event in told:
        if shapes:
            check_shape(event)
        kind, tag = event["type"], event.get("subagentRunId")
        assert not ended, f"{kind} after the end"
        assert not first or kind in ("RUN_STARTED", "RUN_ERROR"), f"{kind} is first"
        assert first or kind != "RUN_STARTED"
        first = False
        if (opens := _OPENS.get(kind)) is not None:
            name = kind, event[opens.name]
            assert name not in open_now, f"{name} is open already"
            open_now.add(name)
            if kind == "SUBAGENT_STARTED":
                assert name[1] not in closed_agents, f"{name} has ended"
                parent = event.get("parentSubagentRunId")
                known = closed_agents | {n for k, n in open_now if k == kind}
                assert parent is None or parent in known
            else:
                assert owners.setdefault(name, tag) == tag
        elif (opener := _WITHIN.get(kind)) is not None:
            name = opener, event[_OPENS[opener].name]
            assert name in open_now, f"{kind} of nothing that is open"
            assert owners[name] == tag
        elif (closes := _CLOSES.get(kind)) is not None:
            name = closes.opened, event[closes.name]
            assert name in open_now, f"{kind} of nothing that is open"
            open_now.discard(name)
            if closes.opened == "SUBAGENT_STARTED":
                closed_agents.add(name[1])
            else:
                assert owners[name] == tag
        elif kind == "RUN_FINISHED":
            assert not open_now, f"open at the end: {open_now}"
        ended = kind in _ENDS
    assert ended or not whole, "a stream without an end is taken for a success"


class Shown:
    """What a page shows after some connections, of which each goes on where the last was cut.

    A client that resumes leaves out what has an id that it has seen (``createReconnectTracker`` in
    npm ``@tanstack/ai-client`` 0.33.2).
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self.last: str | None = None
        self.texts: dict[str, str] = {}
        self.thoughts: dict[str, str] = {}
        self.calls: dict[str, dict[str, Any]] = {}
        self.subagents: dict[str, str] = {}
        self.activities: dict[str, Any] = {}
        self.custom: list[tuple[str, Any]] = []
        self.end: Event | None = None

    def take(self, event: Event, position: str) -> None:
        """One event, and its id."""
        if position:
            if position in self._seen:
                return
            self._seen.add(position)
            self.last = position
        kind = event["type"]
        if kind.startswith("TOOL_CALL_"):
            self._take_call(kind, event)
        elif kind == "TEXT_MESSAGE_START":
            assert event["messageId"] not in self.texts, "it is begun twice"
            self.texts[event["messageId"]] = ""
        elif kind == "TEXT_MESSAGE_CONTENT":
            self.texts[event["messageId"]] += event["delta"]
        elif kind == "REASONING_MESSAGE_CONTENT":
            message_id = event["messageId"]
            self.thoughts[message_id] = self.thoughts.get(message_id, "") + event["delta"]
        elif kind == "MESSAGES_SNAPSHOT":
            self.texts.clear()
            self.calls.clear()
        else:
            self._take_other(kind, event)

    def _take_call(self, kind: str, event: Event) -> None:
        call = self.calls.setdefault(event["toolCallId"], {"args": ""})
        if kind == "TOOL_CALL_START":
            call["name"] = event["toolCallName"]
        elif kind == "TOOL_CALL_ARGS":
            call["args"] += event["delta"]
        elif kind == "TOOL_CALL_RESULT":
            assert "result" not in call
            call["result"] = event["content"]

    def _take_other(self, kind: str, event: Event) -> None:
        if kind == "ACTIVITY_SNAPSHOT":
            self.activities[event["messageId"]] = event["content"]
        elif kind.startswith("SUBAGENT_"):
            self.subagents[event["subagentRunId"]] = kind
        elif kind == "CUSTOM":
            self.custom.append((event["name"], event["value"]))
        elif kind in _ENDS:
            assert self.end is None
            self.end = event

    def said(self) -> dict[str, str]:
        """Each run's text, whatever the messages that it came in."""
        whole: dict[str, str] = {}
        for message_id in sorted(self.texts, key=_order):
            run = message_id.rpartition(":")[0]
            whole[run] = whole.get(run, "") + self.texts[message_id]
        return {run: text for run, text in whole.items() if text}

    def state(self) -> tuple[Any, ...]:
        """All of it that does not depend on when text was read."""
        end = {name: value for name, value in (self.end or {}).items() if name != "metadata"}
        return self.thoughts, self.calls, self.subagents, self.activities, self.custom, end


def _order(message_id: str) -> tuple[str, float]:
    run, _, name = message_id.rpartition(":")
    return run, float(name.removeprefix("text-")) if name != "response" else float("inf")
