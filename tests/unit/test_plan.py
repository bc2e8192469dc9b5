"""What a bench does unless told otherwise, and what it never does."""

from dataclasses import replace

import pytest

from gateway.bench.plan import MEASURES, Plan, chosen, plan_for

PLAN = Plan(own=False, connections=200, seconds=20, rate=200, most_rate=2000)


@pytest.mark.parametrize(
    ("own", "connections", "most_rate"), [(True, 1000, None), (False, 200, 2000)]
)
def test_an_installation_that_others_use_is_spared(
    *, own: bool, connections: int, most_rate: float | None
) -> None:
    plan = plan_for(own=own, connections=None, seconds=20, rate=200, most_rate=None, only=("a",))
    assert (plan.connections, plan.most_rate, plan.rate) == (connections, most_rate, 200)


@pytest.mark.parametrize(
    ("rate", "most_rate", "used", "most"),
    [(200, 50, 50, 50), (5000, None, 5000, 5000), (200, 9000, 200, 9000)],
)
def test_no_rate_is_over_the_most(
    rate: float, most_rate: float | None, used: float, most: float
) -> None:
    plan = plan_for(
        own=False, connections=10, seconds=20, rate=rate, most_rate=most_rate, only=("a",)
    )
    assert (plan.rate, plan.most_rate, plan.connections) == (used, most, 10)
    assert plan.catch_up_rate <= most
    assert plan.fan_out_rate <= most


def test_the_time_is_shared_out_among_what_is_measured() -> None:
    assert sum(map(PLAN.seconds_for, MEASURES)) == pytest.approx(20)
    alone = replace(PLAN, only=("latency",))
    assert (alone.seconds_for("latency"), alone.seconds_for("connect")) == (20, 0)
    assert PLAN.step_seconds == pytest.approx(PLAN.seconds_for("throughput") / 8)
    assert replace(PLAN, seconds=1).step_seconds == 0.4


@pytest.mark.parametrize(("connections", "warm"), [(2, 1), (9, 1), (200, 20)])
def test_a_connection_is_left_to_be_measured(connections: int, warm: int) -> None:
    assert replace(PLAN, connections=connections).warm_up == warm < connections


@pytest.mark.parametrize(
    ("history", "connections", "behind"), [(1000, 2, 50), (1000, 200, 27), (20, 2, 10), (1, 2, 1)]
)
def test_what_is_missed_is_still_in_the_log(history: int, connections: int, behind: int) -> None:
    assert replace(PLAN, connections=connections).behind(history) == behind


def test_few_resume_and_tabs_stay_within_the_limit() -> None:
    assert PLAN.resuming == 200
    assert replace(PLAN, connections=9000).resuming == 500
    assert (PLAN.tabs(3), PLAN.tabs(1000)) == (3, 50)


def test_measures_are_chosen_by_name() -> None:
    assert chosen(None) == tuple(MEASURES)
    assert chosen("resume, latency") == ("latency", "resume")
    with pytest.raises(ValueError, match="speed: there is no such measure; choose from connect"):
        chosen("latency,speed")
    with pytest.raises(ValueError, match="choose from"):
        chosen(" , ")
