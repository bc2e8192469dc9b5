"""The lifecycle table takes exactly the legal words, and an illegal move changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import events
from broker.errors import LifecycleError
from broker.events import INPUT_REQUIRED, LIFECYCLE, STATUSES
from broker.lifecycle import FLAGS, TRANSITIONS, Lifecycle, State, missing

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Step = tuple[str, dict[str, Any]]

CALLS = st.sampled_from(["c1", "c2", "c3"])
TOOLS = st.sampled_from(["sum", "sort"])
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("agent_started"), st.just({})),
    st.tuples(st.just("agent_thinking"), st.just({})),
    st.tuples(
        st.sampled_from(["tool_executing", "tool_completed"]),
        st.fixed_dictionaries({"call_id": CALLS, "tool": TOOLS}),
    ),
    st.tuples(
        st.just("tool_completed"), st.fixed_dictionaries({"call_id": CALLS, "tool": st.just("sum")})
    ),
    st.tuples(
        st.just("agent_completed"), st.fixed_dictionaries({"status": st.sampled_from(STATUSES)})
    ),
    st.tuples(st.just("input_required"), st.just({})),
    st.tuples(st.sampled_from(["agent_delta", "user_message", "nonsense", ""]), st.just({})),
)


def is_legal(word: list[Step]) -> bool:  # noqa: PLR0911 - one rule, one return
    """Protocol section 2's rules of order, said again over the whole word and without a state."""
    kinds = [kind for kind, _ in word]
    if any(kind not in (*LIFECYCLE, INPUT_REQUIRED) for kind in kinds):
        return False
    if "agent_completed" in kinds[:-1] or kinds.count("agent_started") > 1:
        return False
    if kinds and kinds[0] == "agent_completed":
        return bool(word[0][1]["status"] != "succeeded")
    if kinds and kinds[0] != "agent_started":
        return False
    for call in {payload["call_id"] for _, payload in word if "call_id" in payload}:
        ours = [(kind, p["tool"]) for kind, p in word if p.get("call_id") == call]
        opened, closed = ours[0::2], ours[1::2]
        if any(kind != "tool_executing" for kind, _ in opened):
            return False
        if any(kind != "tool_completed" for kind, _ in closed):
            return False
        if any(begun != ended for (_, begun), (_, ended) in zip(opened, closed, strict=False)):
            return False
        if len(ours) % 2 and kinds[-1] == "agent_completed":
            return False
    return True


def snapshot(run: Lifecycle) -> tuple[State, dict[str, str], str]:
    return run.state, dict(run.open_calls), run.flags


@settings(relaxed, max_examples=400)
@given(st.lists(STEPS, max_size=14))
def test_the_table_takes_exactly_the_legal_words(word: list[Step]) -> None:
    """Each step is taken exactly if the word with it is legal; a refused one changes nothing."""
    run = Lifecycle()
    taken: list[Step] = []
    for step in word:
        before = snapshot(run)
        try:
            run.advance(*step)
        except LifecycleError as error:
            told = (error.state, error.event_type, bool(error.why))
            assert not is_legal([*taken, step])
            assert snapshot(run) == before
            assert told == (before[0], step[0], True)
        else:
            taken.append(step)
            assert is_legal(taken)
            _check_what_it_knows(run, taken)


def _check_what_it_knows(run: Lifecycle, taken: list[Step]) -> None:
    kinds = [kind for kind, _ in taken]
    expected = {
        "agent_completed": State.COMPLETED,
        "input_required": State.WAITING,
    }.get(kinds[-1], State.RUNNING)
    assert run.state is expected
    assert run.flags == "".join(FLAGS[kind] for kind in LIFECYCLE if kind in kinds)
    assert run.missing == [k for k in LIFECYCLE if k not in {*kinds, "agent_completed"}]
    balance = {
        payload["call_id"]: sum(
            1 if kind == "tool_executing" else -1
            for kind, other in taken
            if other.get("call_id") == payload["call_id"]
        )
        for _, payload in taken
        if "call_id" in payload
    }
    assert set(run.open_calls) == {call for call, open_ in balance.items() if open_}


@relaxed
@given(st.lists(STEPS, max_size=8), st.sets(st.sampled_from(sorted(FLAGS.values()))))
def test_a_new_attempt_begins_again_but_for_what_was_sent(
    word: list[Step], letters: set[str]
) -> None:
    """Open calls are void, ``agent_started`` is asked for again, and what was sent stays sent."""
    run = Lifecycle()
    for step in word:
        try:
            run.advance(*step)
        except LifecycleError:
            continue
    run.new_attempt("".join(letters))
    assert (run.state, run.open_calls) == (State.QUEUED, {})
    assert set(run.flags) == letters
    with pytest.raises(LifecycleError, match="agent_started comes first"):
        run.advance("agent_thinking", {})
    run.advance("agent_started", {})
    assert set(run.flags) == letters | {"s"}


def test_a_new_attempt_has_no_open_calls() -> None:
    """The worker that had them is lost."""
    run = Lifecycle()
    run.advance("agent_started", {})
    run.advance("tool_executing", {"call_id": "c1", "tool": "sum"})
    run.new_attempt(run.flags)
    assert (run.open_calls, run.flags) == ({}, "sx")
    run.advance("agent_started", {})
    run.advance("tool_executing", {"call_id": "c1", "tool": "sort"})
    assert run.open_calls == {"c1": "sort"}


def test_the_table_ends_where_it_should() -> None:
    """Nothing leads out of completed, and everything leads there."""
    assert all(state is not State.COMPLETED for state, _ in TRANSITIONS)
    for state in set(State) - {State.COMPLETED}:
        assert TRANSITIONS[state, "agent_completed"] is State.COMPLETED
    assert {kind for _, kind in TRANSITIONS} == {*LIFECYCLE, INPUT_REQUIRED}


@pytest.mark.parametrize(
    ("before", "step", "why"),
    [
        ([], ("agent_thinking", {}), "agent_started comes first"),
        ([], ("agent_completed", {"status": "succeeded"}), "never started"),
        ([("agent_started", {})], ("agent_started", {}), "started already"),
        ([("agent_started", {})], ("agent_delta", {}), "not an event of a run"),
        (
            [("agent_completed", {"status": "cancelled"})],
            ("agent_thinking", {}),
            "nothing is accepted after agent_completed",
        ),
        (
            [("agent_started", {}), ("tool_executing", {"call_id": "c", "tool": "sum"})],
            ("tool_executing", {"call_id": "c", "tool": "sort"}),
            "'c' is open already",
        ),
        (
            [("agent_started", {})],
            ("tool_completed", {"call_id": "c", "tool": "sum"}),
            "'c' is not open",
        ),
        (
            [("agent_started", {}), ("tool_executing", {"call_id": "c", "tool": "sum"})],
            ("tool_completed", {"call_id": "c", "tool": "sort"}),
            "'c' is of tool 'sum'",
        ),
        (
            [("agent_started", {}), ("tool_executing", {"call_id": "c", "tool": "sum"})],
            ("agent_completed", {"status": "failed"}),
            "calls still open: c",
        ),
    ],
)
def test_a_refusal_says_which_rule_was_broken(before: list[Step], step: Step, why: str) -> None:
    """State, event and reason: enough to find the mistake."""
    run = Lifecycle()
    for each in before:
        run.advance(*each)
    with pytest.raises(LifecycleError, match=why):
        run.advance(*step)


def test_missing_counts_the_five_only() -> None:
    """``input_required`` is not one of them."""
    assert missing("") == list(LIFECYCLE)
    assert missing("stxrc") == []
    assert missing("sc") == [
        events.AGENT_THINKING, events.TOOL_EXECUTING, events.TOOL_COMPLETED,
    ]  # fmt: skip
