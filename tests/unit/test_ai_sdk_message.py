"""One assistant message as it comes."""

from gateway.dialects.ai_sdk_message import Message
from gateway.dialects.shown_text import ShownText


def message() -> Message:
    return Message("m", ShownText())


def kinds(chunks: object) -> list[str]:
    return [chunk["type"] for chunk in chunks]  # type: ignore[attr-defined]


def test_a_step_begins_with_its_first_part_and_ends_once() -> None:
    mine = message()
    assert kinds(mine.end_step()) == []
    assert kinds(mine.say("a")) == ["start-step", "text-start", "text-delta"]
    assert kinds(mine.say("b")) == ["text-delta"]
    assert kinds(mine.say("")) == []
    assert kinds(mine.reason("t", "hm", {})) == [
        "reasoning-start", "reasoning-delta", "reasoning-end",
    ]  # fmt: skip
    assert kinds(mine.end_step()) == ["text-end", "finish-step"]
    assert kinds(mine.data("x", "1", None)) == ["start-step", "data-x"]


def test_a_call_ends_the_text_before_it() -> None:
    mine = message()
    list(mine.say("a"))
    assert kinds(mine.call(("r", "c"), "c", None, toolName="look")) == [
        "text-end", "tool-input-start", "tool-input-available",
    ]  # fmt: skip
    assert list(mine.output(("r", "c"), 1)) == [
        {"type": "tool-output-available", "toolCallId": "c", "output": 1}
    ]
    assert list(mine.output(("r", "c"), 1)) == []
    assert list(mine.output_error(("r", "c"), "x")) == []


def test_only_the_calls_of_a_run_are_given_up_with_it() -> None:
    mine = message()
    for run_id in ("one", "two"):
        list(mine.call((run_id, "c"), run_id, None, toolName="look"))
    assert [chunk["toolCallId"] for chunk in mine.abandon("why", "two")] == ["two"]
    assert [chunk["toolCallId"] for chunk in mine.close("why")] == ["one"]


def test_what_is_void_takes_its_step_with_it() -> None:
    mine = message()
    assert kinds(mine.void("why")) == []
    list(mine.subagent("s", status="running"))
    assert kinds(mine.void("why")) == ["reset-step"]
    assert kinds(mine.close("why")) == []  # the sub-agent was of what is void


def test_who_has_a_part_goes_on_in_a_step_of_his_own() -> None:
    mine = message()
    list(mine.say("a"))
    mine.forget_place()
    assert kinds(mine.say("b")) == ["start-step", "text-start", "text-delta"]


def test_how_it_may_end() -> None:
    mine = message()
    list(mine.say("a"))
    assert kinds(mine.finish("stop", {})) == ["text-end", "finish-step", "finish"]
    list(mine.say("b"))
    assert kinds(mine.abort("stopped", {})) == ["text-end", "message-metadata", "abort"]
    list(mine.say("c"))
    *_, told, error = mine.fail("c", "why", {"status": "failed"})
    assert told["messageMetadata"]["runcast"]["status"] == "failed"
    assert error == {"type": "error", "errorText": "why", "code": "c"}
