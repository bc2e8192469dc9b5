from __future__ import annotations

from typing import Any

import pytest

from broker import events
from broker.errors import InvalidEvent, LifecycleError
from broker.lifecycle import Lifecycle
from broker.payloads import Known, complete, milliseconds


@pytest.fixture
def lifecycle() -> Lifecycle:
    run = Lifecycle()
    run.advance("agent_started", {"message": "m"})
    return run


def known(**changes: Any) -> Known:
    values: dict[str, Any] = {"at": 5.0, "began": 2.0, "opened": {}, "next_call_id": "c9"}
    return Known(**values | changes)


def open_call(lifecycle: Lifecycle, call_id: str, tool: str = "t") -> None:
    lifecycle.advance("tool_executing", {"tool": tool, "call_id": call_id, "status": "running"})


def test_the_guides_minimal_payloads_become_valid(lifecycle: Lifecycle) -> None:
    lifecycle = Lifecycle()
    guide: list[tuple[str, dict[str, Any]]] = [
        ("agent_started", {"message": "AI processing begun"}),
        ("agent_thinking", {"thoughts": "Analyzing request..."}),
        ("tool_executing", {"tool": "data_analyzer", "status": "running"}),
        ("tool_completed", {"tool": "data_analyzer", "result": "..."}),
        ("agent_completed", {"response": "Final AI response", "complete": True}),
    ]
    for event_type, given in guide:
        payload = complete(event_type, given, lifecycle, known(opened={"c9": 4.0}))
        events.check_payload(event_type, payload)
        lifecycle.advance(event_type, payload)
        assert payload | given == payload


def test_a_call_without_id_gets_a_new_one(lifecycle: Lifecycle) -> None:
    payload = complete("tool_executing", {"tool": "t", "status": "running"}, lifecycle, known())
    assert payload["call_id"] == "c9"


def test_a_completion_pairs_with_the_only_open_call_of_its_tool(lifecycle: Lifecycle) -> None:
    open_call(lifecycle, "a", "one")
    open_call(lifecycle, "b", "two")
    opened = {"a": 1.0, "b": 4.5}
    payload = complete(
        "tool_completed", {"tool": "two", "result": 1}, lifecycle, known(opened=opened)
    )
    assert payload == {
        "tool": "two",
        "call_id": "b",
        "success": True,
        "result": 1,
        "duration_ms": 500,
    }


@pytest.mark.parametrize(("calls", "why"), [([], "no open call"), (["a", "b"], "2 open calls")])
def test_a_completion_that_could_mean_none_or_several_is_refused(
    lifecycle: Lifecycle, calls: list[str], why: str
) -> None:
    for call_id in calls:
        open_call(lifecycle, call_id)
    with pytest.raises(LifecycleError, match=why):
        complete("tool_completed", {"tool": "t", "result": 1}, lifecycle, known())


def test_an_error_means_no_success_and_no_result(lifecycle: Lifecycle) -> None:
    open_call(lifecycle, "a")
    error = {"code": "x", "message": "y"}
    payload = complete("tool_completed", {"tool": "t", "error": error}, lifecycle, known())
    assert (payload["success"], payload["result"]) == (False, None)


def test_a_result_is_never_invented(lifecycle: Lifecycle) -> None:
    open_call(lifecycle, "a")
    payload = complete("tool_completed", {"tool": "t"}, lifecycle, known(opened={"a": 1.0}))
    with pytest.raises(InvalidEvent, match="'result' is required"):
        events.check_payload("tool_completed", payload)


def test_a_duration_that_nobody_measured_is_not_invented(lifecycle: Lifecycle) -> None:
    open_call(lifecycle, "a")
    assert "duration_ms" not in complete("tool_completed", {"tool": "t"}, lifecycle, known())


def test_what_is_given_wins(lifecycle: Lifecycle) -> None:
    open_call(lifecycle, "a")
    given = {"tool": "t", "call_id": "a", "result": None, "success": False, "duration_ms": 7}
    assert complete("tool_completed", given, lifecycle, known(opened={"a": 1.0})) == given


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, "succeeded"),
        ({"error": {"code": "x", "message": "y"}}, "failed"),
        ({"status": "cancelled"}, "cancelled"),
    ],
)
def test_a_terminal_event_says_what_is_known(
    lifecycle: Lifecycle, given: dict[str, Any], status: str
) -> None:
    payload = complete("agent_completed", given, lifecycle, known())
    assert payload["status"] == status
    assert payload["duration_ms"] == 3000
    assert payload["missing"] == ["agent_thinking", "tool_executing", "tool_completed"]
    assert ("response" in payload) == (status != "succeeded")


def test_the_list_of_missing_events_cannot_be_given(lifecycle: Lifecycle) -> None:
    given = {"response": "r", "complete": True, "missing": []}
    assert complete("agent_completed", given, lifecycle, known())["missing"]


@pytest.mark.parametrize("event_type", ["agent_delta", "input_required", "nonsense", ""])
def test_only_the_five_have_a_plain_form(lifecycle: Lifecycle, event_type: str) -> None:
    with pytest.raises(InvalidEvent, match="is not one of agent_started"):
        complete(event_type, {}, lifecycle, known())


def test_a_completion_without_its_tool_is_left_to_the_events_rule(lifecycle: Lifecycle) -> None:
    payload = complete("tool_completed", {"result": 1}, lifecycle, known())
    with pytest.raises(InvalidEvent, match="'tool' is required"):
        events.check_payload("tool_completed", payload)


def test_the_given_payload_is_not_changed(lifecycle: Lifecycle) -> None:
    given: dict[str, Any] = {"tool": "t", "status": "running"}
    complete("tool_executing", given, lifecycle, known())
    assert given == {"tool": "t", "status": "running"}


def test_milliseconds_are_whole_and_never_negative() -> None:
    assert (milliseconds(0.0126), milliseconds(-1.0)) == (13, 0)
