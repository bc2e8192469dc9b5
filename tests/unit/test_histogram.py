"""Percentiles of the bench: right to a bucket, and not told where there is too little to tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.histogram import Histogram, bucket, upper_edge

MICRO = 1000


def counted(*microseconds: int) -> Histogram:
    histogram = Histogram()
    histogram.add_all([each * MICRO for each in microseconds])
    return histogram


@given(st.integers(0, 10**9))
def test_a_bucket_is_at_most_two_percent_wide(microseconds: int) -> None:
    edge = upper_edge(bucket(microseconds))
    assert microseconds <= edge <= microseconds * 1.016 + 1


@given(st.integers(0, 10**7))
def test_buckets_follow_each_other_without_a_gap(microseconds: int) -> None:
    at = bucket(microseconds)
    assert bucket(upper_edge(at)) == at
    assert bucket(upper_edge(at) + 1) == at + 1


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_percentiles_are_those_of_the_sorted_list(some: list[int]) -> None:
    durations = sorted(some * (1000 // len(some) + 1))
    histogram = counted(*durations)
    for percent in (50.0, 99.0, 99.9):
        exact = durations[-(-len(durations) * int(percent * 10) // 1000) - 1]
        got = histogram.percentile(percent)
        assert got is not None
        assert exact / 1000 <= got <= exact * 1.016 / 1000 + 0.001


@pytest.mark.parametrize(
    ("count", "told"), [(1, {50.0: False}), (2, {50.0: True, 90.0: False}), (10, {90.0: True}),
                        (99, {99.0: False}), (100, {99.0: True, 99.9: False}),
                        (999, {99.9: False}), (1000, {99.9: True})],
)  # fmt: skip
def test_a_percentile_needs_one_beyond_it(count: int, told: dict[float, bool]) -> None:
    histogram = counted(*range(count))
    for percent, known in told.items():
        assert (histogram.percentile(percent) is not None) == known


def test_one_slow_of_a_thousand_is_the_longest_and_not_the_999th() -> None:
    histogram = counted(*([10] * 999), 50_000)
    assert histogram.percentile(99.9) == 0.01
    assert histogram.longest == pytest.approx(50, rel=0.02)
    assert histogram.summary()["count"] == 1000


def test_processes_add_up() -> None:
    whole, one, other = counted(1, 2, 3, 4_000), counted(1, 2), counted(3, 4_000)
    one.merge(other)
    assert one.counts == whole.counts
    assert Histogram(one.counts).total == 4


def test_nothing_counted_and_a_clock_that_ran_backwards() -> None:
    assert Histogram().summary() == {
        "p50": None, "p90": None, "p99": None, "p99.9": None, "max": None, "count": 0
    }  # fmt: skip
    histogram = Histogram()
    histogram.add_all([-5])
    assert histogram.longest == 0
