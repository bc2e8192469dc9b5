"""The capacity model: its arithmetic, and how far it is from what was measured."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs import capacity, generate
from docs.capacity import Costs, Load, Machine, plan
from docs.layout import fullest_share

SCENARIOS: dict[str, Any] = json.loads(generate.BENCHMARK.read_text("utf-8"))["scenarios"]
COSTS = Costs.of(SCENARIOS)
MOST = Load(users=1, partitions=4096)
LEAN = Machine(retained=100)

LOADS = st.builds(
    Load,
    users=st.integers(0, 5_000_000),
    connected=st.floats(0, 1),
    tabs=st.floats(1, 5),
    runs_per_minute=st.floats(0, 1),
    events_per_run=st.floats(0, 50),
    tokens_per_run=st.floats(0, 500),
    partitions=st.just(4096),
)
ROOMY = Machine(retained=100, shard_bytes=2.0**50, busy=10)
"""So that no load of these is too much for the partitions."""


@given(LOADS, st.integers(0, 1_000_000))
def test_more_users_never_need_less(load: Load, more: int) -> None:
    after = replace(load, users=load.users + more)
    small, large = plan(load, COSTS, ROOMY), plan(after, COSTS, ROOMY)
    for name in capacity.Plan.__slots__:
        if name != "return_seconds":  # a further process shares the work
            assert getattr(small, name) <= getattr(large, name), name


@given(LOADS)
def test_twice_the_users_are_twice_the_work(load: Load) -> None:
    once, twice = (plan(each, COSTS, ROOMY) for each in (load, replace(load, users=2 * load.users)))
    for name in ("connections", "events", "deliveries", "gateway_cores", "redis_cores",
                 "redis_bytes", "client_bytes"):  # fmt: skip
        assert getattr(twice, name) == pytest.approx(2 * getattr(once, name)), name


@pytest.mark.parametrize("machine", [LEAN, Machine()], ids=["100 kept", "1000 kept"])
@pytest.mark.parametrize("users", [1_000, 100_000, 10_000_000])
def test_nothing_is_fuller_than_it_may_be(users: int, machine: Machine) -> None:
    """With long logs memory makes the shards, with short ones their CPU."""
    load = replace(MOST, users=users)
    needed = plan(load, COSTS, machine)
    assert needed.connections / needed.gateways <= COSTS.most_connections
    assert needed.gateway_cores / needed.gateways <= machine.busy
    fullest = fullest_share(load.partitions, needed.shards)
    assert needed.redis_cores * fullest <= machine.busy
    assert needed.redis_bytes * fullest <= machine.shard_bytes


def test_one_machine_serves_ten_thousand_users() -> None:
    needed = plan(Load(users=10_000), COSTS)
    assert (needed.gateways, needed.shards) == (1, 1)


def test_ten_million_users_need_more_partitions_than_the_default() -> None:
    with pytest.raises(capacity.TooFewPartitions, match="RUNCAST_PARTITIONS"):
        plan(Load(users=10_000_000), COSTS)
    needed = plan(replace(MOST, users=10_000_000), COSTS, LEAN)
    assert 500 < needed.gateways < 1000
    assert 100 < needed.shards < 500


def test_who_is_not_connected_costs_memory_of_redis_and_nothing_else() -> None:
    all_there, none = (plan(Load(users=50_000, connected=part), COSTS) for part in (1.0, 0.0))
    assert none.connections == none.gateway_cores == none.redis_cores == none.client_bytes == 0
    assert 50_000 * COSTS.user_bytes == none.redis_bytes < all_there.redis_bytes


def test_each_tab_is_a_delivery_and_no_further_publish() -> None:
    one, three = (plan(Load(users=1000, tabs=tabs), COSTS) for tabs in (1, 3))
    assert three.deliveries == 3 * one.deliveries
    assert three.gateway_cores == pytest.approx(3 * one.gateway_cores)
    assert three.events == one.events


def test_events_are_kept_to_the_limit_of_a_log_and_to_its_time() -> None:
    busy = Load(users=1, runs_per_minute=60, events_per_run=1)
    event = busy.event_bytes + COSTS.event_overhead_bytes
    for machine, kept in ((Machine(retained=50), 50), (Machine(retained_seconds=20), 20)):
        needed = plan(busy, COSTS, machine)
        assert needed.redis_bytes == pytest.approx(COSTS.user_bytes + kept * event)


@pytest.mark.parametrize(
    ("path", "constant"),
    [
        (("growth", "Runcast", "users", "100000", "delivering_us"), "delivery_us"),
        (("growth", "Runcast", "users", "100000", "redis_us"), "publish_us"),
        (("text", "Runcast", "gateway_cores"), "token_us"),
        (("text", "Runcast", "redis_cores"), "token_redis_us"),
        (("growth", "Runcast", "connections", "15000", "background_cores"), "connection_us"),
        (("growth", "Runcast", "connections", "15000", "redis_us"), "connection_redis_us"),
        (("connect", "Runcast", "new_ms"), "connect_us"),
        (("idle", "Runcast", "bytes_each"), "connection_bytes"),
        (("growth", "Runcast", "users", "redis_bytes_per_user"), "user_bytes"),
        (("growth", "Runcast", "history", "redis_bytes_per_event"), "event_overhead_bytes"),
    ],
)
def test_constants_are_figures_of_the_published_benchmark(
    path: tuple[str, ...], constant: str
) -> None:
    changed = copy.deepcopy(SCENARIOS)
    *way, last = path
    place = changed
    for step in way:
        place = place[step]
    place[last] *= 2
    assert getattr(Costs.of(changed), constant) > 1.5 * getattr(COSTS, constant)


def test_the_model_is_near_what_was_measured_at_each_size() -> None:
    """It may ask for up to a third too much; of CPU for a tenth, of memory a third too little."""
    rows = capacity.compared(SCENARIOS)
    lowest = {"µs": -0.10, "MB": -0.34}
    of_gateways = {each.size for each in rows if each.what == "gateway, a delivery"}
    assert len(of_gateways) >= 5  # three by connections, two by users
    assert len([each for each in rows if each.unit == "MB"]) == 3
    wrong = [
        f"{each.what} with {each.size}: measured {each.measured:.1f} {each.unit}, "
        f"the model says {each.modelled:.1f}, off by {each.off:+.0%}"
        for each in rows
        if not lowest[each.unit] <= each.off <= 0.34
    ]
    assert not wrong, "\n".join(wrong)
