"""The lifecycle of a run: one literal table and one ``advance()`` (protocol section 2).

The same table serves the SDK, the HTTP producer and the sweeper, and the documentation's diagram is
drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from broker import events
from broker.errors import LifecycleError


class State(StrEnum):
    """Where a run is. The values are those of ``GET /api/v1/runs/{id}``."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"


TRANSITIONS: Final[Mapping[tuple[State, str], State]] = {
    (State.QUEUED, events.AGENT_STARTED): State.RUNNING,
    (State.QUEUED, events.AGENT_COMPLETED): State.COMPLETED,
    (State.RUNNING, events.AGENT_THINKING): State.RUNNING,
    (State.RUNNING, events.TOOL_EXECUTING): State.RUNNING,
    (State.RUNNING, events.TOOL_COMPLETED): State.RUNNING,
    (State.RUNNING, events.INPUT_REQUIRED): State.WAITING,
    (State.RUNNING, events.AGENT_COMPLETED): State.COMPLETED,
    (State.WAITING, events.AGENT_THINKING): State.RUNNING,
    (State.WAITING, events.TOOL_EXECUTING): State.RUNNING,
    (State.WAITING, events.TOOL_COMPLETED): State.RUNNING,
    (State.WAITING, events.INPUT_REQUIRED): State.WAITING,
    (State.WAITING, events.AGENT_COMPLETED): State.COMPLETED,
}
"""(state, event) → next state. What is not here is illegal.

A queued run may complete without having started only as cancelled, abandoned or failed: that is how
a run ends that no worker ever took.
"""

FLAGS: Final[Mapping[str, str]] = {
    events.AGENT_STARTED: "s",
    events.AGENT_THINKING: "t",
    events.TOOL_EXECUTING: "x",
    events.TOOL_COMPLETED: "r",
    events.AGENT_COMPLETED: "c",
}
"""Event → the letter that stands for it in a run's hash (``sent``)."""


class Lifecycle:
    """Where one run is, which calls are open (call id → tool), and which of the five it has sent.

    A new one has not begun; another one is taken up where its record says it is.
    """

    __slots__ = ("flags", "open_calls", "state")

    def __init__(
        self,
        state: State = State.QUEUED,
        *,
        open_calls: Mapping[str, str] | None = None,
        flags: str = "",
    ) -> None:
        self.state = state
        self.open_calls: dict[str, str] = dict(open_calls or {})
        self.flags = _in_order(flags)
        """The events sent so far as letters, in the order of the five."""

    @property
    def missing(self) -> list[str]:
        """Which of the five this run never sent; the terminal event itself is not counted."""
        return missing(self.flags + FLAGS[events.AGENT_COMPLETED])

    def new_attempt(self, flags: str) -> None:
        """Begin again for another attempt: open calls are void, what was sent stays sent."""
        self.state = State.QUEUED
        self.open_calls.clear()
        self.flags = _in_order(flags)

    def advance(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Take the event, or raise :class:`LifecycleError` and change nothing."""
        after = TRANSITIONS.get((self.state, event_type))
        if after is None:
            raise LifecycleError(
                state=self.state, event_type=event_type, why=_why(self.state, event_type)
            )
        self._check_calls(event_type, payload)
        if event_type == events.TOOL_EXECUTING:
            self.open_calls[payload["call_id"]] = payload["tool"]
        elif event_type == events.TOOL_COMPLETED:
            del self.open_calls[payload["call_id"]]
        self.state = after
        flag = FLAGS.get(event_type, "")
        if flag not in self.flags:
            self.flags = _in_order(self.flags + flag)

    def check_open(self, call_id: str) -> None:
        """Raise :class:`LifecycleError` unless the call may be completed now."""
        if call_id not in self.open_calls:
            raise LifecycleError(
                state=self.state,
                event_type=events.TOOL_COMPLETED,
                why=f"call {call_id!r} is not open",
            )

    def _check_calls(self, event_type: str, payload: Mapping[str, Any]) -> None:
        def refuse(why: str) -> None:
            raise LifecycleError(state=self.state, event_type=event_type, why=why)

        if event_type == events.TOOL_EXECUTING:
            if payload["call_id"] in self.open_calls:
                refuse(f"call {payload['call_id']!r} is open already")
        elif event_type == events.TOOL_COMPLETED:
            self.check_open(payload["call_id"])
            tool = self.open_calls[payload["call_id"]]
            if tool != payload["tool"]:
                refuse(f"call {payload['call_id']!r} is of tool {tool!r}")
        elif event_type == events.AGENT_COMPLETED:
            if self.open_calls:
                refuse(f"calls still open: {', '.join(self.open_calls)}")
            if self.state is State.QUEUED and payload["status"] == events.SUCCEEDED:
                refuse("a run that never started cannot have succeeded")


def _in_order(flags: str) -> str:
    return "".join(flag for flag in FLAGS.values() if flag in flags)


def missing(flags: str) -> list[str]:
    """Letters of the events sent → names of those of the five that are not among them."""
    return [name for name, flag in FLAGS.items() if flag not in flags]


def _why(state: State, event_type: str) -> str:
    if state is State.COMPLETED:
        return "nothing is accepted after agent_completed"
    if state is State.QUEUED:
        return "agent_started comes first"
    if event_type == events.AGENT_STARTED:
        return "it has started already"
    return "not an event of a run"
