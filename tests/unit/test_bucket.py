"""Token buckets: never more than promised in any window, and never none for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.bucket import Bucket, take

buckets = st.builds(Bucket, st.integers(0, 50), st.integers(1, 10_000))
steps = st.lists(st.integers(0, 30_000), max_size=120)


def taken(bucket: Bucket, steps: list[int]) -> list[int]:
    """The times at which a token was had by somebody who asks after each of these steps."""
    full_at, now, got = 0, 1_000_000, []
    for step in steps:
        now += step
        full_at, wait = take(bucket, full_at, now)
        if not wait:
            got.append(now)
    return got


@given(buckets, steps)
def test_no_window_has_more_than_the_capacity_and_what_flows_in(
    bucket: Bucket, steps: list[int]
) -> None:
    got = taken(bucket, steps)
    for first, start in enumerate(got):
        for last in range(first, len(got)):
            assert last - first + 1 <= bucket.capacity + (got[last] - start) / bucket.interval_us


@given(buckets.filter(lambda bucket: bucket.capacity > 0), steps)
def test_who_waits_as_long_as_told_gets_a_token_and_not_before(
    bucket: Bucket, steps: list[int]
) -> None:
    """Nobody starves: the wait is the true one, and never longer than for one token."""
    full_at, now = 0, 1_000_000
    for step in steps:
        now += step
        full_at, wait = take(bucket, full_at, now)
        if wait:
            assert wait <= bucket.interval_us
            assert take(bucket, full_at, now + wait - 1)[1] == 1
            assert take(bucket, full_at, now + wait)[1] == 0


@given(buckets.filter(lambda bucket: bucket.capacity > 0), st.integers(0, 10**15), steps)
def test_a_clock_that_goes_backwards_costs_no_more_than_an_empty_bucket(
    bucket: Bucket, back: int, steps: list[int]
) -> None:
    full_at, now = 0, 2 * 10**15
    for step in steps:
        now += step
        full_at, _ = take(bucket, full_at, now)
    _, wait = take(bucket, full_at, now - back)
    assert wait <= bucket.interval_us


@given(st.integers(0, 10**15), st.integers(0, 10**9))
def test_a_bucket_without_capacity_gives_nothing_and_counts_nothing(now: int, later: int) -> None:
    bucket = Bucket.per(0, 60)
    assert take(bucket, 0, now) == (0, 60_000_000)
    assert take(bucket, 0, now + later) == (0, 60_000_000)


def test_a_full_bucket_can_be_emptied_at_once() -> None:
    """As many as the capacity, and the next one when one has flowed in."""
    bucket, full_at = Bucket.per(120, 60), 0
    for _ in range(120):
        full_at, wait = take(bucket, full_at, 5)
        assert wait == 0
    assert take(bucket, full_at, 5) == (full_at, 500_000)
    assert take(bucket, full_at, 500_005)[1] == 0


def test_several_tokens_are_had_together_or_not_at_all() -> None:
    bucket = Bucket(3, 10)
    full_at, wait = take(bucket, 0, 100, tokens=2)
    assert (full_at, wait) == (120, 0)
    assert take(bucket, full_at, 100, tokens=2) == (120, 10)


@given(st.integers(1, 10**9), st.integers(1, 3600))
def test_the_rate_is_never_more_than_asked_for(count: int, seconds: int) -> None:
    """What does not come out even is rounded down, the interval up."""
    bucket = Bucket.per(count, seconds)
    assert bucket.capacity == count
    assert bucket.interval_us * count >= seconds * 1_000_000
    assert Bucket.per(count, seconds, burst=7) == (7, bucket.interval_us)
