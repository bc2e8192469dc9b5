"""The plain form of the five events: what the author left out and the run itself knows.

Only what is known is filled in; what nobody knows is refused by the event's rule
(:func:`broker.events.check_payload`), never invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker import events
from broker.errors import InvalidEvent, LifecycleError
from broker.lifecycle import Lifecycle

AS_GIVEN: Final = frozenset({events.AGENT_STARTED, events.AGENT_THINKING})
"""Those of the five of which the run knows nothing that the author does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the run knows at the moment of an event. Times are seconds on one monotonic clock."""

    at: float
    began: float
    opened: Mapping[str, float]
    next_call_id: str


def complete(
    event_type: str, given: Mapping[str, Any], lifecycle: Lifecycle, known: Known
) -> dict[str, Any]:
    """``given`` with the fields that follow from the run's own state. ``given`` always wins.

    Raises :class:`InvalidEvent` for a type that is not one of the five, and
    :class:`LifecycleError` when a ``tool_completed`` names no call and its tool has not exactly one
    open.
    """
    if event_type not in events.LIFECYCLE:
        names = ", ".join(events.LIFECYCLE)
        raise InvalidEvent(event_type=event_type, field="type", why=f"is not one of {names}")
    payload = dict(given)
    if event_type == events.TOOL_EXECUTING:
        payload.setdefault("call_id", known.next_call_id)
    elif event_type == events.TOOL_COMPLETED:
        _complete_tool(payload, lifecycle, known)
    elif event_type == events.AGENT_COMPLETED:
        failed = payload.get("error") is not None
        payload.setdefault("status", events.FAILED if failed else events.SUCCEEDED)
        payload.setdefault("duration_ms", milliseconds(known.at - known.began))
        payload["missing"] = lifecycle.missing
        if payload["status"] != events.SUCCEEDED:
            payload.setdefault("response", None)
    return payload


def _complete_tool(payload: dict[str, Any], lifecycle: Lifecycle, known: Known) -> None:
    if "call_id" not in payload and "tool" in payload:
        payload["call_id"] = _only_open_call(payload["tool"], lifecycle)
    call_id = payload.get("call_id")
    if isinstance(call_id, str) and "duration_ms" not in payload:
        lifecycle.check_open(call_id)
    opened = known.opened.get(call_id) if isinstance(call_id, str) else None
    if opened is not None:
        payload.setdefault("duration_ms", milliseconds(known.at - opened))
    payload.setdefault("success", payload.get("error") is None)
    if not payload["success"]:
        payload.setdefault("result", None)


def _only_open_call(tool: object, lifecycle: Lifecycle) -> str:
    calls = [call_id for call_id, name in lifecycle.open_calls.items() if name == tool]
    if len(calls) == 1:
        return calls[0]
    why = (
        f"tool {tool!r} has no open call; send tool_executing first"
        if not calls
        else f"tool {tool!r} has {len(calls)} open calls; say which by call_id"
    )
    raise LifecycleError(state=lifecycle.state, event_type=events.TOOL_COMPLETED, why=why)


def milliseconds(seconds: float) -> int:
    """A duration as payloads carry it: whole milliseconds, never negative."""
    return max(0, round(seconds * 1000))
