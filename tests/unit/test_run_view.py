"""What an operator sees of an event: everything but what was said in it."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import events
from gateway.run_view import LONGEST, SHOWN, event_view

SECRET = "what the user said"

WHOLE: dict[str, dict[str, Any]] = {
    events.USER_MESSAGE: {"content": SECRET, "message_id": SECRET, "metadata": {"a": SECRET}},
    events.AGENT_STARTED: {"message": SECRET, "input": SECRET, "metadata": {"a": SECRET}},
    events.AGENT_THINKING: {"thoughts": SECRET, "step": 2, "progress": 0.5},
    events.TOOL_EXECUTING: {
        "tool": "lookup", "call_id": "c1", "status": "running", "parameters": {"q": SECRET},
        "purpose": SECRET,
    },
    events.TOOL_COMPLETED: {
        "tool": "lookup", "call_id": "c1", "success": False, "result": SECRET, "duration_ms": 12,
        "error": {"code": "ValueError", "message": SECRET},
    },
    events.INPUT_REQUIRED: {
        "request_id": "r1", "prompt": SECRET, "schema": {"enum": [SECRET]}, "expires_at": "soon",
    },
    events.USER_INPUT: {"request_id": "r1", "content": SECRET},
    events.STOP_REQUESTED: {},
    events.AGENT_COMPLETED: {
        "response": SECRET, "complete": True, "status": "failed", "duration_ms": 34,
        "missing": ["agent_thinking"], "error": {"code": "timeout", "message": SECRET},
        "usage": {"a": SECRET},
    },
}  # fmt: skip


def event(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": kind, "id": "1-0", "user_id": "alice", "thread_id": "t", "run_id": "r", "seq": 3,
        "agent_name": "a", "timestamp": "2026-11-23T01:45:49.123Z", "payload": payload,
    }  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_nothing_that_was_said_is_shown(kind: str) -> None:
    """Not the message, not a thought, no parameter, result, answer or text of an error."""
    assert SECRET not in orjson.dumps(event_view(event(kind, WHOLE[kind]))).decode()


def test_every_event_of_a_log_is_thought_of() -> None:
    """A new type of event is shown by its name alone, until somebody has decided."""
    assert SHOWN.keys() == WHOLE.keys()
    assert set(events.LIFECYCLE) <= SHOWN.keys()
    assert event_view(event("brand_new", {"text": SECRET})) == {
        "type": "brand_new", "id": "1-0", "seq": 3, "at": "2026-11-23T01:45:49.123Z",
    }  # fmt: skip


def test_what_an_operator_needs_is_shown() -> None:
    """Which tool, how long, how it went, how the run ended and what it left out."""
    shown = event_view(event(events.TOOL_COMPLETED, WHOLE[events.TOOL_COMPLETED]))
    assert (shown["tool"], shown["duration_ms"], shown["success"], shown["error_code"]) == (
        "lookup", 12, False, "ValueError",
    )  # fmt: skip
    shown = event_view(event(events.AGENT_COMPLETED, WHOLE[events.AGENT_COMPLETED]))
    assert (shown["status"], shown["missing"]) == ("failed", ["agent_thinking"])
    shown = event_view(event(events.AGENT_THINKING, WHOLE[events.AGENT_THINKING]))
    assert (shown["step"], shown["progress"]) == (2, 0.5)
    assert event_view({**event(events.AGENT_STARTED, {}), "attempt": 2})["attempt"] == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(SHOWN)), value=JSON)
def test_whatever_an_agent_put_there_what_is_shown_is_small_and_flat(kind: str, value: Any) -> None:
    """A megabyte in a tool's name is not the console's to carry."""
    payload = {**dict.fromkeys(SHOWN[kind], value), "error": value}
    shown = event_view(event(kind, payload))
    for each in shown.values():
        flat = each if isinstance(each, list) else [each]
        assert len(flat) <= len(events.LIFECYCLE)
        for one in flat:
            text = one if isinstance(one, str) else ""
            assert len(text) <= LONGEST
