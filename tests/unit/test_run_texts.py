"""Texts, put together from deltas."""

from typing import Any

from gateway.run_texts import REMEMBERED, RunTexts


def delta(offset: int, text: str, run_id: str = "r") -> dict[str, Any]:
    payload = {"offset": offset, "next": offset + len(text.encode()), "text": text}
    return {"type": "agent_delta", "run_id": run_id, "payload": payload}


def event(kind: str, run_id: str = "r", **payload: Any) -> dict[str, Any]:
    return {"type": kind, "id": "1-0", "run_id": run_id, "payload": payload}


def texts(*frames: dict[str, Any]) -> RunTexts:
    made = RunTexts()
    for frame in frames:
        made.take(frame)
    return made


def test_deltas_are_appended_by_their_offsets_in_bytes() -> None:
    assert texts(delta(0, "é"), delta(2, "!"), delta(0, "no", "s")).of("r") == "é!"


def test_the_whole_text_begins_anew() -> None:
    assert texts(delta(0, "ab"), delta(0, "abcd"), delta(4, "e")).of("r") == "abcde"


def test_what_continues_nothing_is_left_out() -> None:
    assert texts(delta(0, "ab"), delta(7, "x"), delta(2, "c")).of("r") == "abc"
    assert texts(delta(7, "x")).of("r") == ""


def test_another_attempt_begins_with_nothing() -> None:
    assert texts(delta(0, "ab"), event("agent_started")).of("r") == ""


def test_the_response_is_the_last_word() -> None:
    assert texts(delta(0, "ab"), event("agent_completed", response="all")).of("r") == "all"
    assert texts(delta(0, "ab"), event("agent_completed", response=None)).of("r") == "ab"
    late = texts(delta(0, "a"), event("agent_completed", response="all"), delta(0, "old"))
    assert late.of("r") == "all"


def test_only_the_latest_that_ended_are_remembered() -> None:
    made = RunTexts()
    for at in range(REMEMBERED + 1):
        made.take(event("agent_completed", f"r{at}", response=str(at)))
    assert (made.of("r0"), made.of("r1")) == ("", "1")


def test_frames_without_a_run_are_nothing_to_it() -> None:
    assert texts({"type": "live", "payload": {"cursor": "1-0"}}, {"type": "x"}).of("r") == ""
