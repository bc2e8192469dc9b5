from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents_sdk.demo import MAX_CHARACTERS, PACE_MS, SLOW_MS, analyst, reading_time, request_of
from agents_sdk.testing import expect, run_agent

AT_ONCE = {"pace_ms": 0}


async def test_numbers_are_parsed_and_computed() -> None:
    events = await run_agent(analyst, content="1 2 3 4", metadata=AT_ONCE)
    chain = expect(events).started().thinking().thinking().tool("parse_table")
    chain.tool("data_analyzer").thinking().completed("succeeded").nothing_else()
    assert "mean 2.5, median 2.5, min 1, max 4" in events[-1]["payload"]["response"]
    assert events[-1]["payload"]["missing"] == []


async def test_a_table_is_reported_by_column() -> None:
    content = "month,revenue\nJan,100\nFeb,120"
    events = await run_agent(analyst, content=content, metadata=AT_ONCE)
    response = events[-1]["payload"]["response"]
    assert "2 rows with 1 column" in response
    assert "revenue: count 2, mean 110" in response
    expect(events).wrote(response)


async def test_a_bad_cell_fails_a_tool_and_the_run_goes_on() -> None:
    events = await run_agent(analyst, content="1 2 oops 3", metadata=AT_ONCE)
    chain = expect(events).started().thinking().thinking().tool("parse_table", success=False)
    chain.thinking("'oops' is not a number").tool("parse_table").tool("data_analyzer")
    chain.thinking().completed().nothing_else()
    assert "1 cell" in events[-1]["payload"]["response"]


async def test_prose_is_counted() -> None:
    content = "A fox jumps. The fox runs away from the dog!"
    events = await run_agent(analyst, content=content, metadata=AT_ONCE)
    expect(events).started().thinking().thinking().tool("text_statistics").thinking().completed()
    assert "10 words in 2 sentences" in events[-1]["payload"]["response"]
    assert "fox (2)" in events[-1]["payload"]["response"]


async def test_numbers_too_large_are_told() -> None:
    events = await run_agent(analyst, content="1e308 -1e308", metadata=AT_ONCE)
    assert "too large" in events[-1]["payload"]["response"]


async def test_nothing_at_all_gets_an_invitation() -> None:
    events = await run_agent(analyst, content="", metadata=AT_ONCE)
    expect(events).started().thinking().tool("text_statistics", success=False).thinking()
    assert "Paste some numbers" in events[-1]["payload"]["response"]


async def test_what_is_too_long_is_cut_and_told() -> None:
    events = await run_agent(analyst, content="word " * 50_000, metadata=AT_ONCE)
    assert f"first {MAX_CHARACTERS:,} characters" in events[-1]["payload"]["response"]


async def test_it_can_be_stopped_while_it_writes() -> None:
    events = await run_agent(
        analyst, content="slowly: 1 2 3", stop_at=lambda event: event["type"] == "agent_delta"
    )
    assert events[-1]["payload"]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("content", "metadata", "expected"),
    [
        ("hello", {}, ("hello", PACE_MS)),
        ("hello", {"pace_ms": 0}, ("hello", 0)),
        ("hello", {"pace_ms": -1}, ("hello", PACE_MS)),
        ("hello", {"pace_ms": True}, ("hello", PACE_MS)),
        ("hello", {"pace_ms": "fast"}, ("hello", PACE_MS)),
        ("hello", {"pace_ms": float("nan")}, ("hello", PACE_MS)),
        ("Slowly: hello", {}, ("hello", SLOW_MS)),
        ({"text": "hello"}, {}, ("hello", PACE_MS)),
        ({"rows": [1, 2]}, {}, ("1\n2", PACE_MS)),
        ({"other": 1}, {}, ('{"other": 1}', PACE_MS)),
        (None, {}, ("", PACE_MS)),
        (5, {}, ("5", PACE_MS)),
    ],
)
def test_the_request_is_whatever_a_client_may_send(
    content: Any, metadata: dict[str, Any], expected: tuple[str, float]
) -> None:
    assert request_of(content, metadata) == expected


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 second"), (29, "29 seconds"), (90, "2 minutes")]
)
def test_reading_time_is_for_people(seconds: float, told: str) -> None:
    assert reading_time(seconds) == told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(JSON | st.builds(lambda rows: {"rows": rows}, JSON))
async def test_no_content_breaks_it(content: Any) -> None:
    events = await run_agent(analyst, content=content, metadata=AT_ONCE)
    assert events[-1]["payload"]["status"] == "succeeded", events[-1]["payload"]
    assert events[-1]["payload"]["missing"] == []
