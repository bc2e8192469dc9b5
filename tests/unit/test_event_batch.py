"""The body of a worker's request, read; what is refused of it, tests/integration/test_events_api.py
tells case by case."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.channels import Owner, Scope
from gateway.event_batch import MAX_EVENTS, Batch, Item, Opening, parse
from gateway.handshake import BadRequest

NAMED = {"run_id": "r1", "user_id": "alice"}


def test_a_heartbeat_is_the_least() -> None:
    assert parse({**NAMED, "fence": 3}) == Batch(
        owner=Owner("", "alice"), run_id="r1", fence=3, opening=None, items=()
    )


def test_a_run_is_opened_with_all_that_it_has() -> None:
    opening = {
        "agent_name": "report", "thread_id": "t1", "scope": "thread", "content": [1],
        "metadata": {"a": 1}, "worker": "host-1",
    }  # fmt: skip
    batch = parse({**NAMED, "tenant": "acme", "open": opening, "fence": None, "events": None})
    assert batch == Batch(
        owner=Owner("acme", "alice"), run_id="r1", fence=None, items=(),
        opening=Opening(
            agent="report", thread_id="t1", scope=Scope.THREAD, content=[1], metadata={"a": 1},
            parent_run_id=None, worker="host-1",
        ),
    )  # fmt: skip


def test_what_it_leaves_out_stays_open() -> None:
    opening = parse({**NAMED, "open": {"agent_name": "report"}}).opening
    assert opening == Opening(
        agent="report", thread_id=None, scope=None, content=None, metadata={},
        parent_run_id=None, worker="",
    )  # fmt: skip


def test_deltas_stand_between_events_and_have_no_number() -> None:
    batch = parse(
        {
            **NAMED,
            "fence": 1,
            "events": [
                {"type": "agent_thinking", "seq": 7, "payload": {"thoughts": "t"}},
                {"type": "agent_delta", "payload": {"offset": 0, "text": "x"}},
                {"type": "agent_completed", "seq": 8},
            ],
        }
    )
    assert batch.items == (
        Item("agent_thinking", 7, {"thoughts": "t"}),
        Item("agent_delta", None, {"offset": 0, "text": "x"}),
        Item("agent_completed", 8, {}),
    )


@pytest.mark.parametrize(
    ("event", "needed"),
    [
        ({"type": "agent_completed", "seq": 1}, True),
        ({"type": "agent_completed", "seq": 1, "payload": {"response": None}}, False),
        ({"type": "agent_thinking", "seq": 1}, False),
    ],
)
def test_the_text_is_read_only_when_it_is_to_be_the_response(
    event: dict[str, Any],
    needed: bool,  # noqa: FBT001 - of a table
) -> None:
    assert parse({**NAMED, "fence": 1, "events": [event]}).needs_text is needed


def test_there_is_a_most_of_events() -> None:
    events = [{"type": "agent_thinking", "seq": at} for at in range(1, MAX_EVENTS + 2)]
    assert len(parse({**NAMED, "fence": 1, "events": events[1:]}).items) == MAX_EVENTS
    with pytest.raises(BadRequest) as caught:
        parse({**NAMED, "fence": 1, "events": events})
    assert (caught.value.status, caught.value.code) == (413, "too_many_events")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ANY = JSON | st.sampled_from(["r1", "user", "agent_delta", "agent_started", 1])
EVENT = JSON | st.fixed_dictionaries({}, optional={"type": ANY, "seq": ANY, "payload": ANY})
OPEN = JSON | st.fixed_dictionaries(
    {"agent_name": ANY},
    optional=dict.fromkeys(
        ("thread_id", "scope", "content", "metadata", "parent_run_id", "worker"), ANY
    ),
)


@given(
    st.fixed_dictionaries(
        {"run_id": ANY, "user_id": ANY},
        optional={
            "tenant": ANY, "fence": ANY, "open": OPEN,
            "events": JSON | st.lists(EVENT, max_size=3),
        },
    )
)  # fmt: skip
def test_anything_is_read_or_refused(fields: dict[str, Any]) -> None:
    """Any JSON at all; what is read obeys what it says."""
    try:
        batch = parse(fields)
    except BadRequest:
        return
    assert (batch.opening is None) != (batch.fence is None)
    numbers = [item.seq for item in batch.items if item.seq is not None]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    assert all((item.type == "agent_delta") == (item.seq is None) for item in batch.items)
