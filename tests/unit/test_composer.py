"""Events composed: filled in, checked, numbered and encoded, or refused and nothing changed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import events
from broker.composer import RUN_ENDED, Composer, Moment, ask_seconds, text_size
from broker.errors import EventTooLarge, InvalidEvent, LifecycleError, UsageError
from broker.lifecycle import Lifecycle, State

AT = Moment(epoch_ms=1_763_861_234_567, seconds=10.0)
CALL = {"tool": "sum", "call_id": "c1", "status": "running"}


def composer(**changes: Any) -> Composer:
    envelope = events.Envelope(
        user_id="alice", thread_id="t1", run_id="r1", agent_name="report", attempt=2
    )
    values: dict[str, Any] = {
        "run_id": "r1", "lifecycle": Lifecycle(), "seq": 0, "began": 7.5, "opened": {},
        "max_event_bytes": 1024,
    }  # fmt: skip
    return Composer(envelope, **values | changes)


def started() -> Composer:
    run = composer()
    run.event("agent_started", {"message": "m"}, AT)
    return run


def body(said: Any) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(said.body)
    return event


def test_an_event_has_the_runs_envelope_and_the_next_number() -> None:
    said = composer(seq=4).event("agent_started", {"message": "m"}, AT)
    assert body(said) == {
        "type": "agent_started", "user_id": "alice", "thread_id": "t1", "run_id": "r1",
        "agent_name": "report", "seq": 5, "attempt": 2, "timestamp": "2025-11-23T01:27:14.567Z",
        "payload": {"message": "m"},
    }  # fmt: skip
    assert (said.seq, said.state, said.sent, said.changes) == (5, State.RUNNING, "s", True)


@pytest.mark.parametrize("event_type", [*events.LIFECYCLE, "other"])
@pytest.mark.parametrize("payload", ["thoughts", None, ["a"], 5])
def test_a_payload_that_is_no_object_is_refused(event_type: str, payload: Any) -> None:
    """Defect: Python's own errors, which a run that posts did not log but raised."""
    with pytest.raises(InvalidEvent, match=f"{event_type}: field 'payload' must be an object"):
        started().event(event_type, payload, AT)


def test_what_changes_nothing_but_the_number_says_so() -> None:
    run = started()
    first, second = (run.event("agent_thinking", {"thoughts": "t"}, AT) for _ in range(2))
    assert (first.changes, second.changes) == (True, False)


def test_a_call_is_opened_timed_and_closed() -> None:
    run = started()
    opened = run.event("tool_executing", CALL, AT)
    assert (opened.call_opened, opened.call_closed, opened.changes) == (("c1", "sum"), None, True)
    later = Moment(AT.epoch_ms, AT.seconds + 0.25)
    closed = run.event("tool_completed", {"tool": "sum", "result": 3}, later)
    assert (closed.call_opened, closed.call_closed) == (None, "c1")
    assert body(closed)["payload"] == {
        "tool": "sum", "call_id": "c1", "result": 3, "success": True, "duration_ms": 250,
    }  # fmt: skip


def test_a_call_of_a_run_that_is_taken_up_is_closed_too() -> None:
    """Its beginning is in the run's record."""
    lifecycle = Lifecycle(State.RUNNING, open_calls={"a": "one", "b": "two"}, flags="xs")
    run = composer(lifecycle=lifecycle, seq=3, opened={"a": 9.0, "b": 9.5})
    assert [body(said)["payload"] for said in run.close_calls(AT)] == [
        {"tool": tool, "call_id": call_id, "success": False, "result": None, "duration_ms": ms,
         "error": RUN_ENDED}
        for call_id, tool, ms in (("a", "one", 1000), ("b", "two", 500))
    ]  # fmt: skip
    assert (run.seq, run.lifecycle.flags, run.lifecycle.open_calls) == (5, "sxr", {})


def test_the_end_is_checked_before_anything_else_is_said() -> None:
    run = started()
    run.event("tool_executing", CALL, AT)
    payload = run.check_end({"complete": True, "response": "x"}, AT)
    assert (run.seq, run.lifecycle.state) == (2, State.RUNNING)
    run.close_calls(AT)
    said = run.event("agent_completed", payload, AT)
    assert (said.seq, said.status, said.state) == (4, "succeeded", State.COMPLETED)
    assert body(said)["payload"]["missing"] == ["agent_thinking"]
    assert body(said)["payload"]["duration_ms"] == 2500


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        ({"complete": True}, InvalidEvent),
        ({"complete": False, "response": "x"}, InvalidEvent),
        ({"complete": True, "response": "x" * 1024}, EventTooLarge),
    ],
)
def test_an_end_that_cannot_be_said_is_refused(
    given_: dict[str, Any], error: type[UsageError]
) -> None:
    with pytest.raises(error):
        started().check_end(given_, AT)


def test_a_question_is_open_until_it_expires() -> None:
    run = started()
    said = run.question({"request_id": "q", "prompt": "?"}, seconds=1.5, at=AT)
    assert (said.asked, said.state, said.changes) == (("q", 1500), State.WAITING, True)
    assert body(said)["payload"]["expires_at"] == "2025-11-23T01:27:16.067Z"
    again = run.question({"request_id": "r", "prompt": "?"}, seconds=1, at=AT)
    assert again.changes  # the state does not, the open questions do


def test_an_event_is_measured_as_it_is_encoded() -> None:
    run = started()
    room = 1024 - len(run.event("agent_thinking", {"thoughts": ""}, AT).body)
    assert len(run.event("agent_thinking", {"thoughts": "x" * room}, AT).body) == 1024
    with pytest.raises(EventTooLarge, match="1025 bytes"):
        run.event("agent_thinking", {"thoughts": "x" * (room + 1)}, AT)


PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "message": st.sampled_from(["m", 1]),
        "thoughts": st.sampled_from(["t", "x" * 2000]),
        "tool": st.sampled_from(["sum", "sort", "", {}]),
        "call_id": st.sampled_from(["c1", "c2", [], "x" * 600]),
        "status": st.sampled_from(["running", "succeeded", "failed", "cancelled", {}]),
        "result": st.sampled_from([None, 3]),
        "complete": st.sampled_from([True, 1]),
        "response": st.sampled_from([None, "3"]),
        "duration_ms": st.sampled_from([0, -1]),
        "error": st.sampled_from([None, {"code": "c", "message": "m"}, {}]),
    },
)
STEPS = st.lists(st.tuples(st.sampled_from((*events.LIFECYCLE, "input_required")), PAYLOADS))


@given(STEPS)
def test_it_is_said_or_refused_and_nothing_changed(
    steps: list[tuple[str, dict[str, Any]]],
) -> None:
    """Whatever it is handed; and what was said is a legal run by the table."""
    run, judge, seq = composer(), Lifecycle(), 0
    for event_type, payload in steps:
        before = run.seq, run.lifecycle.state, run.lifecycle.flags, dict(run.lifecycle.open_calls)
        try:
            said = run.event(event_type, payload, AT)
        except (InvalidEvent, LifecycleError, EventTooLarge):
            after = run.lifecycle
            assert before == (run.seq, after.state, after.flags, dict(after.open_calls))
            continue
        seq += 1
        events.check_payload(event_type, body(said)["payload"])
        judge.advance(event_type, body(said)["payload"])
        assert (said.seq, said.state, said.sent) == (seq, judge.state, judge.flags)


def test_text_is_measured_in_bytes() -> None:
    assert text_size("é👋", run_id="r1", before=4, most=10) == 6
    with pytest.raises(EventTooLarge, match="11 bytes"):
        text_size("é👋", run_id="r1", before=5, most=10)
    for wrong in (None, 1, b"x", "\ud800"):
        with pytest.raises(InvalidEvent):
            text_size(wrong, run_id="r1", before=0, most=10)


def test_for_how_long_a_question_is_open() -> None:
    assert ask_seconds(None, default=900, longest=1000) == 900
    assert ask_seconds(0.5, default=900, longest=1000) == 0.5
    assert ask_seconds(1000, default=900, longest=1000) == 1000
    wrong: object
    for wrong in (0, -1, 1001, float("nan"), float("inf"), "60", True, [], 10**400):
        with pytest.raises(InvalidEvent, match="expires_seconds"):
            ask_seconds(wrong, default=900, longest=1000)
