"""Figures: percentiles that are right to a bucket, sums that lose nothing."""

from __future__ import annotations

import math

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.stats import (
    BUCKETS_PER_DOUBLING,
    MOST_COUNTED_TENANTS,
    MOST_TENANTS,
    Latency,
    Tally,
    report_of,
    runs_view,
    summed,
    summed_by_tenant,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)
WIDTH = 2 ** (1 / BUCKETS_PER_DOUBLING)


@relaxed
@given(times=TIMES, percent=st.integers(1, 100))
def test_a_percentile_is_right_to_one_bucket(times: list[float], percent: int) -> None:
    """Never less than the truth, and at most 9 % more (a quarter of a millisecond at least)."""
    latency = Latency()
    for each in times:
        latency.add(each)
    truth = sorted(times)[math.ceil(len(times) * percent / 100) - 1]
    told = latency.percentile(percent)
    assert told is not None
    assert truth <= told + 0.001
    assert told <= max(truth * WIDTH, 0.25) + 0.001


@relaxed
@given(TIMES, TIMES)
def test_merging_is_counting_together(one: list[float], other: list[float]) -> None:
    """The fleet's percentiles are those of all latencies, not an average of percentiles."""
    left, right, both = Latency(), Latency(), Latency()
    for each in one:
        left.add(each)
        both.add(each)
    for each in other:
        right.add(each)
        both.add(each)
    merged = Latency(left.counts)
    merged.merge(right.counts)
    assert merged.counts == both.counts
    assert merged.percentiles() == both.percentiles()
    assert sum(left.counts.values()) == len(one)


def test_beyond_all_counts_is_the_largest() -> None:
    """A percent over 100 does not run off the end."""
    assert Latency({0: 1, 8: 1}).percentile(200) == 0.5


def test_without_data_there_is_no_figure() -> None:
    """None, not 0: nothing was measured."""
    assert Latency().percentiles() == {"p50": None, "p95": None, "p99": None}


@pytest.mark.parametrize(
    ("milliseconds", "edge"), [(0, 0.25), (-5, 0.25), (0.25, 0.25), (0.5, 0.5), (1, 1), (64, 64)]
)
def test_bucket_edges(milliseconds: float, edge: float) -> None:
    """Also a clock that went back counts, as the smallest."""
    latency = Latency()
    latency.add(milliseconds)
    assert latency.percentile(50) == edge


def test_percentiles_of_a_known_set() -> None:
    """98 fast ones and two slow ones."""
    latency = Latency({0: 98, 8 * 10: 2})
    assert latency.percentiles() == {"p50": 0.25, "p95": 0.25, "p99": 256.0}


@relaxed
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 99)), max_size=5))
def test_reports_add_up_field_by_field(reports: list[dict[str, int]]) -> None:
    """Fields that only some gateways report count too."""
    total = summed(reports)
    names = {name for report in reports for name in report}
    assert total == {name: sum(report.get(name, 0) for report in reports) for name in names}


def test_the_runs_are_shown_by_state_status_and_agent() -> None:
    """``agent\\nword`` counters become the tables of protocol section 7."""
    counters = {
        "a\ntotal": 5, "a\nsucceeded": 3, "a\nabandoned": 2, "a\nincomplete": 1, "a\npublished": 31,
        "b\ntotal": 1, "b\nsucceeded": 1, "c\npublished": 2,
    }  # fmt: skip
    assert runs_view(counters, {"queued": 2, "running": 1}) == {
        "by_state": {"queued": 2, "running": 1, "completed": 6},
        "by_status": {"succeeded": 4, "abandoned": 2},
        "by_agent": {
            "a": {"total": 5, "incomplete": 1, "abandoned": 2},
            "b": {"total": 1, "incomplete": 0, "abandoned": 0},
            "c": {"total": 0, "incomplete": 0, "abandoned": 0},
        },
    }


def test_no_runs_no_rows() -> None:
    """An idle fleet shows empty tables."""
    assert runs_view({}, {}) == {"by_state": {"completed": 0}, "by_status": {}, "by_agent": {}}


REPORT = {
    "at": 1.5,
    "draining": False,
    "uptime_seconds": 2,
    "by_mode": {"main": 1},
    "events": {"published": 3},
    "latency": {"7": 2},
    "refused": {"rate_limited": 2},
    "webhooks": {"delivered": 3},
    "by_tenant": {"acme": {"connections": 1}},
    "version": "3.0.0",
    "ready": False,
    "slow": {"total": 0, "unsent_bytes": 7, "connections": []},
}


LATER = ("refused", "by_tenant", "webhooks", "version", "ready", "slow")


def test_a_report_is_read_as_it_was_written() -> None:
    assert report_of(orjson.dumps(REPORT)) == {**REPORT, "latency": {7: 2}}


def test_a_report_of_a_gateway_of_before_is_read() -> None:
    """While a fleet is updated one by one; it says nothing of refusals, say."""
    old = {name: REPORT[name] for name in REPORT if name not in LATER}
    read = report_of(orjson.dumps(old))
    assert read is not None
    nothing = {"total": 0, "unsent_bytes": 0, "connections": []}
    assert [read[name] for name in LATER] == [{}, {}, {}, "", True, nothing]


def test_buckets_of_two_moments_subtracted_are_what_happened_in_between() -> None:
    """Edges stay the same, so that a live chart need not show what was an hour ago."""
    latency = Latency()
    latency.add(0.1)
    latency.add(64)
    before = dict(latency.buckets())
    latency.add(64)
    assert before == {0.25: 1, 64.0: 1}
    assert latency.buckets() == [(0.25, 1), (64.0, 2)]


def test_what_was_accepted_and_refused_is_counted_by_code_and_by_tenant() -> None:
    """Users without a tenant are in no tenant's row."""
    tally = Tally()
    tally.accept("acme")
    tally.accept("")
    tally.refuse("rate_limited", "acme")
    tally.refuse("rate_limited", "other")
    tally.refuse("unauthorized")
    assert tally.refused == {"rate_limited": 2, "unauthorized": 1}
    assert tally.by_tenant({"acme": 3, "quiet": 1}) == {
        "acme": {"connections": 3, "messages": 1, "refused": 1},
        "quiet": {"connections": 1, "messages": 0, "refused": 0},
        "other": {"connections": 0, "messages": 0, "refused": 1},
    }


def test_a_report_has_room_for_some_tenants_and_a_gateway_for_some_more() -> None:
    """However many there are: those with most connections stay, of the others the last ones."""
    tally = Tally()
    for number in range(MOST_COUNTED_TENANTS + 5):
        tally.accept(f"t{number}")
    told = tally.by_tenant({f"t{number}": number + 1 for number in range(MOST_TENANTS + 5)})
    assert len(told) == MOST_TENANTS
    assert "t4" not in told
    assert told["t5"] == {"connections": 6, "messages": 1, "refused": 0}
    assert len(tally._tenants) == MOST_COUNTED_TENANTS


def test_tenants_are_summed_field_by_field() -> None:
    one, other = {"a": {"messages": 1}}, {"a": {"messages": 2, "refused": 1}, "b": {"refused": 4}}
    assert summed_by_tenant([one, other]) == {
        "a": {"messages": 3, "refused": 1},
        "b": {"refused": 4},
    }


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b"{}",
        b"\xff",
        *(
            orjson.dumps({name: value for name, value in REPORT.items() if name != gone})
            for gone in REPORT
            if gone not in LATER
        ),
        *(orjson.dumps({**REPORT, name: "x"}) for name in REPORT if name != "version"),
        orjson.dumps({**REPORT, "version": 3}),
        orjson.dumps({**REPORT, "by_mode": {"main": "1"}}),
        orjson.dumps({**REPORT, "events": []}),
        orjson.dumps({**REPORT, "by_tenant": {"acme": 1}}),
        orjson.dumps({**REPORT, "latency": {"x": 1}}),
        orjson.dumps({**REPORT, "latency": {"9999": 1}}),
    ],
)
def test_what_is_no_report_is_left_out(stored: bytes) -> None:
    """Bug: one odd report in Redis took ``/ws/stats`` from every gateway."""
    assert report_of(stored) is None
