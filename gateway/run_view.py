"""What an operator sees of a run: who, where, when, how long, which tools; not a word of it.

Messages, thoughts, parameters, results, answers and the texts of errors are the user's: of an event
only what :data:`SHOWN` names leaves the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker import events

SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    events.USER_MESSAGE: (),
    events.AGENT_STARTED: (),
    events.AGENT_THINKING: ("step", "progress"),
    events.TOOL_EXECUTING: ("tool", "call_id"),
    events.TOOL_COMPLETED: ("tool", "call_id", "success", "duration_ms"),
    events.INPUT_REQUIRED: ("request_id", "expires_at"),
    events.USER_INPUT: ("request_id",),
    events.STOP_REQUESTED: (),
    events.AGENT_COMPLETED: ("status", "duration_ms", "missing"),
}
"""Event → fields of its payload; of an ``error`` its ``code``."""

LONGEST: Final = 200
"""Characters of a text, so that a page of events is small whatever an agent calls its tools."""


def event_view(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event of the run's timeline, without its contents."""
    payload = event["payload"]
    shown = {
        name: _short(payload[name])
        for name in SHOWN.get(event["type"], ())
        if payload.get(name) is not None
    }
    error = payload.get("error")
    if isinstance(error, Mapping) and isinstance(error.get("code"), str):
        shown["error_code"] = _short(error["code"])
    told = {name: event[name] for name in ("type", "id", "seq", "attempt") if name in event}
    return {**told, "at": event["timestamp"], **shown}


def _short(value: object) -> object:
    """Small and flat: an agent may put anything where a step's number belongs."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return [_short(each) for each in value[: len(events.LIFECYCLE)]]
    text = value if isinstance(value, str) else "…"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
