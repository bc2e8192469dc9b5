"""What each event of a run becomes in AG-UI."""

from typing import Any

import pytest

from broker.events import PAYLOADS
from gateway.dialects.agui_events import TABLE, Story, epoch_ms
from gateway.dialects.dialect import Run
from tests.support.agui import check_shape

CALL = {"tool": "look", "call_id": "c1", "status": "running"}


def read(story: Story, kind: str, payload: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    event = {"type": kind, "run_id": "r", "agent_name": "a", "payload": payload, **fields}
    told = story.read(event, "5-0")
    for each in told:
        check_shape(each)
    return told


def story() -> Story:
    return Story(Run("r", "t", "a"), "m")


def test_every_event_of_ours_has_its_place() -> None:
    assert TABLE.keys() >= PAYLOADS.keys()


def test_a_result_whose_call_was_trimmed_from_the_log_still_names_one() -> None:
    (told,) = read(
        story(), "tool_completed",
        {"tool": "look", "call_id": "c1", "success": False, "result": None, "duration_ms": 1},
    )  # fmt: skip
    assert told["toolCallId"] == "r:call-c1"
    assert told["content"] == '{"error":{"code":"failed","message":"the tool failed"}}'


def test_text_is_a_result_as_it_is() -> None:
    (told,) = read(
        story(), "tool_completed",
        {"tool": "look", "call_id": "c1", "success": True, "result": "three", "duration_ms": 1},
    )  # fmt: skip
    assert told["content"] == "three"


def test_a_call_says_what_it_is_for() -> None:
    first, second, _ = read(story(), "tool_executing", {**CALL, "purpose": "to see"})
    assert first["metadata"] == {"call_id": "c1", "purpose": "to see"}
    assert second["delta"] == "{}"


def test_a_call_id_that_is_used_again_is_another_call() -> None:
    told = story()
    ids = [told.read({"type": "tool_executing", "run_id": "r", "payload": CALL}, c)[0]["toolCallId"]
           for c in ("5-0", "6-0")]  # fmt: skip
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (None, None),
        ({}, None),
        ({"cost": 3, "input_tokens": -1, "output_tokens": True, "model": 5}, None),
        ({"total_tokens": 7, "reasoning_tokens": 2}, {"totalTokens": 7, "reasoningTokens": 2}),
        ({"provider": "p"}, {"provider": "p"}),
    ],
)
def test_usage(usage: Any, told: Any) -> None:
    payload = {"response": None, "status": "succeeded", "usage": usage}
    (end,) = read(story(), "agent_completed", payload)
    assert end.get("usage") == (None if told is None else [told])
    assert "result" not in end


def test_an_end_without_a_reason_says_its_status() -> None:
    (end,) = read(story(), "agent_completed", {"response": None, "status": "abandoned"})
    assert (end["code"], end["message"]) == ("abandoned", "the run was abandoned")


def test_the_questions_of_who_has_ended_are_not_asked_any_more() -> None:
    told = story()
    asked = {"request_id": "q", "prompt": "?", "expires_at": "2026-11-23T01:45:49.123Z"}
    for run_id in ("r", "child", "other"):
        read(told, "input_required", asked, run_id=run_id)
    read(told, "agent_completed", {"response": None, "status": "failed"}, run_id="child")
    assert [run_id for run_id, _ in told.questions] == ["r", "other"]
    read(told, "agent_started", {}, attempt=2)
    assert [run_id for run_id, _ in told.questions] == ["r"]
    read(told, "agent_completed", {"response": None, "status": "failed"})
    assert not told.questions


def test_times_are_milliseconds() -> None:
    assert epoch_ms("1970-01-01T00:00:01.500Z") == 1500
    assert epoch_ms("soon") is None
    (told,) = read(story(), "stop_requested", {}, timestamp="1970-01-01T00:00:01.500Z")
    assert told["timestamp"] == 1500
