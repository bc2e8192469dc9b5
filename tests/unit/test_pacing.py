"""An even pace, and the search for the largest rate that holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.pacing import CLOSE_ENOUGH, Pace, Ramp


@pytest.mark.parametrize(
    ("now", "due"), [(9.9, 0), (10.0, 1), (10.09, 1), (10.1, 2), (10.95, 10), (11.0, 11)]
)
def test_events_are_due_one_by_one(now: float, due: int) -> None:
    assert Pace(10, 10.0).due(now) == due


def test_a_late_publisher_catches_up() -> None:
    pace = Pace(100, 0.0)
    assert pace.due(2.0) - pace.due(1.0) == 100
    assert pace.next_at(150) == 1.5


@given(st.floats(60, 50_000), st.floats(60, 50_000))
def test_the_search_ends_close_below_what_the_system_can(limit: float, first: float) -> None:
    ramp = Ramp(first=first, most=None)
    for _ in range(60):
        if ramp.target is None:
            break
        ramp.judge(held=ramp.target <= limit)
    assert ramp.target is None
    assert ramp.best <= limit < ramp.best * CLOSE_ENOUGH * 1.001
    assert not ramp.capped


def test_no_rate_is_tried_beyond_the_most() -> None:
    tried = []
    ramp = Ramp(first=500, most=1800)
    while ramp.target is not None:
        tried.append(ramp.target)
        ramp.judge(held=True)
    assert tried == [500, 1000, 1800]
    assert ramp.capped
    assert Ramp(first=500, most=100).target == 100


def test_a_system_that_holds_nothing_ends_the_search() -> None:
    ramp = Ramp(first=100, most=None)
    tried = []
    while ramp.target is not None:
        tried.append(ramp.target)
        ramp.judge(held=False)
    assert (tried, ramp.best) == ([100, 50, 25, 12.5], 0)
    with pytest.raises(ValueError, match="over"):
        ramp.judge(held=True)
