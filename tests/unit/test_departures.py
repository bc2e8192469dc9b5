import random
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from gateway.departures import (
    FIRST_RETURN_SECONDS,
    LAST_RETURN_SECONDS,
    Departure,
    departures,
)

STRETCH_SECONDS = 0.1
ROUNDED_SECONDS = 0.001
"""What is told is whole milliseconds."""


def returns(drain: list[Departure]) -> list[float]:
    return [each.after_seconds + each.back_ms / 1000 for each in drain]


def most_in(moments: list[float], seconds: float) -> int:
    """The most of them within any stretch of this length."""
    ordered = sorted(moments)
    return max(bisect_left(ordered, each + seconds) - at for at, each in enumerate(ordered))


@given(
    count=st.integers(1, 500),
    window=st.floats(0, 60),
    seed=st.integers(),
)
def test_no_stretch_has_more_than_its_share(count: int, window: float, seed: int) -> None:
    drain = list(departures(count, window, random.Random(seed).random))
    assert len(drain) == count
    assert all(0 <= each.after_seconds <= window for each in drain)
    assert drain == sorted(drain, key=lambda each: each.after_seconds)
    lasting = window + LAST_RETURN_SECONDS - FIRST_RETURN_SECONDS
    # A stretch touches this many parts of the time at most: one more than fit, and one begun.
    share = (STRETCH_SECONDS + 2 * ROUNDED_SECONDS) * count / lasting
    assert most_in(returns(drain), STRETCH_SECONDS) <= share + 2
    if window:
        gone = [each.after_seconds for each in drain]
        assert most_in(gone, STRETCH_SECONDS) <= STRETCH_SECONDS * count / window + 2


def test_a_third_of_a_fleet_is_far_below_one_in_a_hundred_at_a_time() -> None:
    """Of 2,000 clients of three gateways, in the drain window of a default installation."""
    drain = list(departures(667, 24.0, random.Random(1).random))
    assert most_in(returns(drain), STRETCH_SECONDS) <= 5


def test_everybody_is_back_within_a_second_of_its_goodbye() -> None:
    drain = list(departures(1000, 0.0, random.Random(1).random))
    back = [each.back_ms for each in drain]
    assert (min(back), max(back)) == (100, 1000)
    assert most_in(returns(drain), STRETCH_SECONDS) <= 1000 / 9 + 3


def test_nobody_is_nobody() -> None:
    assert list(departures(0, 24.0, random.Random(1).random)) == []
