"""When a key set is fetched, looked at for an unknown key, and when it ceases to count."""

from __future__ import annotations

import pytest

from gateway.freshness import (
    ABSENT_SECONDS,
    LEAST_SECONDS,
    LOOK_SECONDS,
    MAX_ABSENT,
    MOST_RETRY_SECONDS,
    MOST_SECONDS,
    USUAL_SECONDS,
    Bounds,
    Freshness,
    fresh_seconds,
)

STALE = 1000.0


def freshness() -> Freshness:
    return Freshness(Bounds(), stale_seconds=STALE, random=lambda: 0.5)


@pytest.mark.parametrize(
    ("cache_control", "age", "seconds"),
    [
        ("", "", None),
        ("public", "", None),
        ("max-age=600", "", 600.0),
        ("public, MAX-AGE=600 , must-revalidate", "", 600.0),
        ("s-maxage=600", "", None),
        ("x-max-age=600", "", None),
        ("max-age=600", "200", 400.0),
        ("max-age=600", "700", 0.0),
        ("max-age=600", "soon", 600.0),
        ("max-age=600", "²", 600.0),
        ("max-age=600", "9" * 5000, 600.0),
        ("max-age=" + "9" * 5000, "", None),
        ("max-age=-1", "", None),
        ("max-age=soon", "", None),
        ("no-store", "", 0.0),
        ("private, no-cache", "", 0.0),
    ],
)
def test_what_a_response_says(cache_control: str, age: str, seconds: float | None) -> None:
    assert fresh_seconds(cache_control, age) == seconds


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (None, USUAL_SECONDS),
        (0.0, LEAST_SECONDS),
        (600.0, 600.0),
        (10.0**9, MOST_SECONDS),
    ],
)
def test_it_is_kept_within_bounds(told: float | None, kept: float) -> None:
    state = freshness()
    assert state.due_at <= 0.0
    state.fetched(50.0, told, None)
    assert (state.due_at, state.usable_until) == (50 + kept, 50 + kept + STALE)


def test_nothing_counts_before_the_first_fetch() -> None:
    state = freshness()
    assert state.usable_until == float("-inf")
    assert state.may_look(0.0)
    state.failed(0.0)
    assert state.usable_until == float("-inf")
    assert not state.may_look(0.0)


def test_after_a_failure_it_is_tried_again_later_and_later() -> None:
    state = freshness()
    state.fetched(0.0, None, None)
    until = state.usable_until
    waits = []
    now = USUAL_SECONDS
    for _ in range(10):
        state.failed(now)
        waits.append(state.due_at - now)
        now = state.due_at
    assert waits[:4] == [1.5, 2.0, 3.0, 5.0]
    assert waits[-1] == 1 + MOST_RETRY_SECONDS / 2
    assert state.usable_until == until, "a failure neither prolongs nor shortens it"
    told = [state.failing]
    state.fetched(now, None, None)
    told.append(state.failing)
    assert told == [True, False]
    state.failed(now)
    assert state.due_at - now == 1.5


def test_unknown_keys_cause_no_fetches_in_a_row() -> None:
    state = freshness()
    state.fetched(0.0, None, "x")
    assert not state.may_look(LOOK_SECONDS - 0.1)
    assert state.may_look(LOOK_SECONDS)
    state.failed(LOOK_SECONDS)
    assert not state.may_look(state.due_at - 0.1)
    assert state.may_look(state.due_at)


def test_a_name_that_was_looked_for_is_absent_for_a_while() -> None:
    state = freshness()
    assert not state.lacks("x", 0.0)
    state.fetched(0.0, None, "x")
    assert state.lacks("x", ABSENT_SECONDS - 0.1)
    assert not state.lacks("x", ABSENT_SECONDS)
    assert not state.lacks("y", 0.0)
    state.fetched(50.0, None, "x")
    assert state.lacks("x", 50 + ABSENT_SECONDS - 0.1)


def test_the_names_that_are_remembered_are_bounded() -> None:
    state = freshness()
    for number in range(MAX_ABSENT + 2):
        state.fetched(0.0, None, str(number))
    assert not state.lacks("0", 0.0)
    assert not state.lacks("1", 0.0)
    assert state.lacks("2", 0.0)
    assert state.lacks(str(MAX_ABSENT + 1), 0.0)
