"""W3C Trace Context: what is well formed is carried, what is not is as if it were not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.trace_context import MAX_STATE_CHARACTERS, TraceContext, from_stored, of_headers, read

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_context_and_its_parts() -> None:
    context = read(GOOD, "vendor=a b,tenant@system=1")
    assert context == TraceContext(GOOD, "vendor=a b,tenant@system=1")
    assert (context.trace_id, context.span_id, context.flags) == (TRACE, SPAN, 1)


@pytest.mark.parametrize(
    "traceparent",
    [
        None, 7, "", "00", GOOD[:-1], GOOD + "0", GOOD + "-", GOOD + "-00", GOOD.upper(),
        GOOD.replace("-", "_"), f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}g-{SPAN}-01", f"0-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01.more", GOOD + "\n", f"00-{TRACE}-{SPAN}-\u0661\u0661",
    ],
)  # fmt: skip
def test_what_is_malformed_is_none(traceparent: object) -> None:
    assert read(traceparent) is None


@pytest.mark.parametrize(
    ("traceparent", "as_known"),
    [
        (f"01-{TRACE}-{SPAN}-01", GOOD),
        (f"cc-{TRACE}-{SPAN}-ff-what-will-be", GOOD),
        (f"cc-{TRACE}-{SPAN}-fe-", f"00-{TRACE}-{SPAN}-00"),
        (f" \t{GOOD} ", GOOD),
    ],
)
def test_of_later_versions_what_is_known_is_taken(traceparent: str, as_known: str) -> None:
    context = read(traceparent)
    assert context is not None
    assert context.traceparent == as_known


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("a=1", "a=1"),
        ("a=1 , b=2,,", "a=1,b=2"),
        ("0tenant@v=x", "0tenant@v=x"),
        ("", ""),
        ("A=1", ""),
        ("a=1,a=2", ""),
        ("a", ""),
        ("a=1,b=\x01", ""),
        ("a=" + "x" * (MAX_STATE_CHARACTERS), ""),
        ("a=" + "x" * 200 + ",b=" + "y" * 200, "a=" + "x" * 200 + ",b=" + "y" * 200),
        (",".join(f"k{at}=v" for at in range(33)), ""),
        (",".join(f"k{at}=v" for at in range(32)), ",".join(f"k{at}=v" for at in range(32))),
        (7, ""),
    ],
)
def test_a_malformed_state_leaves_the_parent(tracestate: object, kept: str) -> None:
    assert read(GOOD, tracestate) == TraceContext(GOOD, kept)


def test_headers_are_one_parent_and_any_number_of_states() -> None:
    assert of_headers([GOOD], ["a=1", "b=2"], of_client=True) == TraceContext(
        GOOD, "a=1,b=2", of_client=True
    )
    assert of_headers([GOOD], [], of_client=False) == TraceContext(GOOD)
    assert of_headers([GOOD, GOOD], [], of_client=True) is None
    assert of_headers([], ["a=1"], of_client=True) is None


@pytest.mark.parametrize("told", [None, [], "x", {}, {"traceparent": 7}, {"traceparent": "00"}])
def test_what_is_stored_may_be_anything(told: object) -> None:
    assert from_stored(told) is None


def test_what_is_stored_comes_back() -> None:
    for context in (
        TraceContext(GOOD), TraceContext(GOOD, "a=1"), TraceContext(GOOD, "a=1", of_client=True),
    ):  # fmt: skip
        assert from_stored(context.stored()) == context
    assert TraceContext(GOOD).stored() == {"traceparent": GOOD}, "no byte more than needed"


@given(st.text(alphabet="0123456789abcdef-f ", max_size=80) | st.text(), st.text())
def test_reading_anything_gives_a_well_formed_context_or_none(parent: str, state: str) -> None:
    context = read(parent, state)
    if context is not None:
        assert read(context.traceparent, context.tracestate) == context
        assert len(context.traceparent) == len(GOOD)
        assert context.traceparent.isascii()
        assert context.tracestate.isascii()
