"""Which live messages belong to a trace that is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from broker.channels import Owner
from broker.codec import head
from broker.events import encode, encode_delta
from gateway.delivery_trace import recorded

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
THOUGHT = {"thoughts": "x"}


def message(traceparent: str | None, payload: dict[str, Any]) -> bytes:
    body = encode(
        event_type="agent_thinking", user_id='al"ice', thread_id="t", run_id="r", agent_name="a",
        epoch_ms=0, payload=payload, seq=7, traceparent=traceparent,
    )  # fmt: skip
    return b"2-0 1-0 %b 7 agent_thinking\n%b" % (head(Owner("", 'al"ice'), "t", "r"), body)


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
def test_of_a_recorded_trace(flags: str) -> None:
    context = recorded(message(TRACEPARENT + flags, THOUGHT))
    assert context is not None
    assert context.traceparent == TRACEPARENT + flags


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_of_one_that_is_not_recorded(flags: str) -> None:
    assert recorded(message(TRACEPARENT + flags, THOUGHT)) is None


def test_what_an_agent_says_is_no_context() -> None:
    """Neither in text nor as a field of its payload."""
    good = f"{TRACEPARENT}01"
    said = {**THOUGHT, "traceparent": good}
    assert recorded(message(None, {"thoughts": f',"traceparent":"{good}"'})) is None
    assert recorded(message(None, said)) is None
    assert recorded(message(f"{TRACEPARENT}00", said)) is None
    found = recorded(message(good, {**THOUGHT, "traceparent": f"{TRACEPARENT}00"}))
    assert found is not None
    assert found.traceparent == good


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"\n", b'2-0 1-0 x\n{,"traceparent":"' + TRACEPARENT.encode() + b'01"}',
     b'a b c d e f g\n{,"traceparent":"00-short-01', b',"traceparent":"'],
)  # fmt: skip
def test_rubbish_belongs_to_none(rubbish: bytes) -> None:
    assert recorded(rubbish) is None


def test_streamed_text_belongs_to_none() -> None:
    text, _ = encode_delta(
        run_id="r", thread_id="t", agent_name="a", offset=0, text=f'"traceparent":"{TRACEPARENT}01"'
    )
    assert recorded(b"- 9 %b 0 agent_delta\n%b" % (head(Owner("", "a"), "t", "r"), text)) is None
