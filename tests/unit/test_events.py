"""One schema for everybody: what is required is required, and nothing is made up."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import events
from broker.errors import InvalidEvent
from broker.events import LIFECYCLE, PAYLOADS, STATUSES, check_payload, encode, encode_delta

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VALID: dict[str, dict[str, Any]] = {
    "agent_started": {"message": "hello", "input": [1], "metadata": {}},
    "agent_thinking": {"thoughts": "hm", "step": 1, "progress": 0.5},
    "tool_executing": {
        "tool": "sum", "call_id": "c1", "status": "running", "parameters": {"a": 1}, "purpose": "p",
    },
    "tool_completed": {
        "tool": "sum", "call_id": "c1", "success": True, "result": 3, "duration_ms": 1.5,
    },
    "agent_completed": {
        "response": "done", "complete": True, "status": "succeeded", "duration_ms": 3,
        "missing": [], "usage": {"tokens": 3},
    },
    "input_required": {
        "request_id": "q1", "prompt": "which?", "expires_at": "2026-11-23T00:00:00.000Z",
        "schema": {"type": "string"},
    },
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def refused(kind: str, payload: dict[str, Any]) -> str:
    """The field that was complained of."""
    with pytest.raises(InvalidEvent) as caught:
        check_payload(kind, payload)
    assert caught.value.event_type == kind
    return caught.value.field


def test_there_is_an_example_of_every_rule() -> None:
    """The tables of this file leave no event type out."""
    assert set(VALID) == set(PAYLOADS)
    assert set(LIFECYCLE) <= set(PAYLOADS)
    assert events.AGENT_DELTA not in PAYLOADS


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_valid_payload_passes_also_with_unknown_fields(kind: str) -> None:
    """Clients ignore what they do not know, so workers may add it."""
    check_payload(kind, VALID[kind])
    check_payload(kind, {**VALID[kind], "beyond": object()})


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, rule in PAYLOADS.items() for field in rule.always]
)
def test_a_required_field_is_never_filled_in(kind: str, field: str) -> None:
    """Absent is an error, whatever the field."""
    payload = {name: value for name, value in VALID[kind].items() if name != field}
    assert refused(kind, payload) == field


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (kind, field)
        for kind, rule in PAYLOADS.items()
        for field, types in [*rule.always.items(), *rule.optional.items()]
        if types != (object,)
    ],
)
def test_a_field_of_the_wrong_type_is_named(kind: str, field: str) -> None:
    """Each field's type is checked; what it must be stands in the text."""
    assert refused(kind, {**VALID[kind], field: object()}) == field


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("agent_thinking", "step"), ("agent_thinking", "progress"),
        ("tool_completed", "duration_ms"), ("agent_completed", "duration_ms"),
    ],
)  # fmt: skip
def test_a_truth_value_is_not_a_number(kind: str, field: str) -> None:
    """Python says that True is 1; JSON does not."""
    assert refused(kind, {**VALID[kind], field: True}) == field


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, rule in PAYLOADS.items() for field in rule.optional],
)
def test_an_optional_field_may_be_null_or_absent(kind: str, field: str) -> None:
    """None is how a caller says that there is nothing to say."""
    check_payload(kind, {**VALID[kind], field: None})
    check_payload(kind, {n: v for n, v in VALID[kind].items() if n != field})


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("tool_executing", {"tool": ""}, "tool"),
        ("tool_executing", {"call_id": ""}, "call_id"),
        ("tool_completed", {"tool": ""}, "tool"),
        ("input_required", {"request_id": ""}, "request_id"),
        ("input_required", {"request_id": "x" * 257}, "request_id"),  # nobody could answer these
        ("input_required", {"request_id": "a\nb"}, "request_id"),
        ("agent_thinking", {"progress": 1.01}, "progress"),
        ("agent_thinking", {"progress": -0.01}, "progress"),
        ("agent_thinking", {"progress": math.nan}, "progress"),
        ("tool_executing", {"status": "done"}, "status"),
        ("tool_completed", {"success": False}, "result"),
        ("tool_completed", {"duration_ms": -1}, "duration_ms"),
        ("tool_completed", {"error": {}}, "error"),
        ("tool_completed", {"error": {"code": "x"}}, "error"),
        ("tool_completed", {"error": {"code": 1, "message": "m"}}, "error"),
        ("agent_completed", {"complete": False}, "complete"),
        ("agent_completed", {"status": "done"}, "status"),
        ("agent_completed", {"status": "failed"}, "response"),
        ("agent_completed", {"duration_ms": -0.5}, "duration_ms"),
    ],
)  # fmt: skip
def test_a_value_that_the_protocol_forbids_is_named(
    kind: str, change: dict[str, Any], field: str
) -> None:
    """The rules of protocol section 2 beyond types."""
    assert refused(kind, {**VALID[kind], **change}) == field


@pytest.mark.parametrize("duration", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["tool_completed", "agent_completed"])
def test_a_duration_is_a_number_also_on_the_wire(kind: str, duration: float) -> None:
    """NaN and infinity are floats that JSON cannot write: they went out as ``null``."""
    assert refused(kind, {**VALID[kind], "duration_ms": duration}) == "duration_ms"


@pytest.mark.parametrize("progress", [0, 1, 0.0, 1.0])
def test_progress_runs_from_0_to_1_inclusive(progress: float) -> None:
    """Both ends are progress."""
    check_payload("agent_thinking", {**VALID["agent_thinking"], "progress": progress})


@pytest.mark.parametrize("status", STATUSES)
def test_only_a_success_may_have_a_response(status: str) -> None:
    """And a success need not have one."""
    check_payload(
        "agent_completed", {**VALID["agent_completed"], "status": status, "response": None}
    )


def test_a_failed_tool_has_no_result_and_may_say_why() -> None:
    """``success: false`` with an error of two strings is a whole answer."""
    error = {"code": "bad_input", "message": "no numbers", "more": 1}
    failed = {"success": False, "result": None, "error": error}
    check_payload("tool_completed", {**VALID["tool_completed"], **failed})


@pytest.mark.parametrize("kind", ["agent_delta", "user_message", "live", ""])
def test_an_unknown_type_is_refused_with_the_known_ones(kind: str) -> None:
    """Nothing is let through because nobody has heard of it."""
    with pytest.raises(InvalidEvent, match=r"agent_started.*agent_completed") as caught:
        check_payload(kind, {})
    assert caught.value.field == "type"


@relaxed
@given(kind=st.sampled_from(list(PAYLOADS)), change=st.data())
def test_any_payload_passes_or_is_an_invalid_event(kind: str, change: st.DataObject) -> None:
    """No payload of JSON values brings the check down, and what passes can be sent unchanged."""
    fields = [*PAYLOADS[kind].always, *PAYLOADS[kind].optional]
    payload = {
        **VALID[kind],
        **change.draw(st.dictionaries(st.sampled_from(fields), JSON, max_size=3)),
    }
    try:
        check_payload(kind, payload)
    except InvalidEvent:
        return
    encoded = orjson.loads(body(event_type=kind, payload=payload))["payload"]
    for field, types in PAYLOADS[kind].always.items():
        assert isinstance(encoded[field], types)


def body(**fields: Any) -> bytes:
    return encode(
        **{
            "event_type": "agent_started", "user_id": "u", "thread_id": "t", "run_id": "r",
            "agent_name": "a", "epoch_ms": 1763862349123, "payload": {"message": "m"}, **fields,
        }
    )  # fmt: skip


def test_the_envelope_is_that_of_the_protocol() -> None:
    """Every field of protocol section 2 but ``id``, which Redis gives; optional ones if set."""
    assert orjson.loads(body()) == {
        "type": "agent_started", "user_id": "u", "thread_id": "t", "run_id": "r",
        "agent_name": "a", "timestamp": "2025-11-23T01:45:49.123Z", "payload": {"message": "m"},
    }  # fmt: skip
    more = orjson.loads(body(seq=4, parent_run_id="p", attempt=2))
    assert (more["seq"], more["parent_run_id"], more["attempt"]) == (4, "p", 2)
    assert "attempt" not in orjson.loads(body(attempt=1))
    assert orjson.loads(body(seq=0))["seq"] == 0


@relaxed
@given(st.integers(0, 253402300799999))
def test_a_timestamp_keeps_its_milliseconds(epoch_ms: int) -> None:
    """UTC, three digits, and no rounding into the next second."""
    text = events.timestamp(epoch_ms)
    assert len(text) == 24
    assert text.endswith("Z")
    seconds = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    assert round(seconds) * 1000 + int(text[20:23]) == epoch_ms


@relaxed
@given(st.integers(0, 10**9), st.text(max_size=30))
def test_a_delta_counts_utf8_bytes(offset: int, text: str) -> None:
    """``next`` minus ``offset`` is what the text takes in the log's own unit."""
    encoded, following = encode_delta(
        run_id="r", thread_id="t", agent_name="a", offset=offset, text=text
    )
    delta = orjson.loads(encoded)
    assert following == offset + len(text.encode())
    assert delta == {
        "type": "agent_delta", "run_id": "r", "thread_id": "t", "agent_name": "a",
        "payload": {"offset": offset, "next": following, "text": text},
    }  # fmt: skip


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 2**70, "\ud800"])
def test_what_is_not_json_is_the_callers_mistake(value: object) -> None:
    """Named as such, before anything is sent."""
    with pytest.raises(InvalidEvent, match="is not JSON"):
        body(payload={"message": value})


def test_keys_that_are_no_strings_and_nan_are_mended_as_told() -> None:
    """A result keyed by numbers is common; NaN becomes null."""
    result = orjson.loads(body(payload={1: math.nan}))
    assert result["payload"] == {"1": None}


def test_an_envelope_encodes_as_if_all_of_the_event_were_encoded_at_once() -> None:
    """Field for field, in the same order, whatever characters the ids have."""
    ids: dict[str, Any] = {
        "user_id": 'a"b\\c',
        "thread_id": "ü\u2028",
        "run_id": "r",
        "agent_name": "{}",
    }
    payload = {"thoughts": "x", "n": [1, None]}
    plain = events.Envelope(**ids).encode("agent_thinking", payload, epoch_ms=0)
    envelope = {"type": "agent_thinking", **ids, "timestamp": events.timestamp(0)}
    assert plain == orjson.dumps({**envelope, "payload": payload})
    child = events.Envelope(parent_run_id="p", attempt=2, **ids)
    said = orjson.loads(child.encode("agent_thinking", payload, epoch_ms=0, seq=7))
    assert list(said.items())[5:8] == [("seq", 7), ("parent_run_id", "p"), ("attempt", 2)]
