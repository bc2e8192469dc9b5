from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.channels import Keys, Owner
from broker.redis.slots import SLOTS, slot_of
from docs import layout


@given(st.integers(1, 4096), st.integers(1, 1000))
def test_the_fullest_shard_has_its_part_and_no_more_than_all(partitions: int, shards: int) -> None:
    share = layout.fullest_share(partitions, shards)
    assert max(1 / shards, 1 / partitions) <= share + 1e-9
    assert share <= 1


def test_partitions_are_where_their_keys_are() -> None:
    owner = Owner("acme", "alice")
    keys = Keys(partitions=128)
    shard = layout.shards_of_partitions(128, 3)[keys.partition(owner)]
    slot = slot_of(keys.runs(owner))
    assert shard * SLOTS / 3 <= slot < (shard + 1) * SLOTS / 3


def test_more_partitions_are_spread_more_evenly() -> None:
    few, more, most = (layout.skew(partitions, 24) for partitions in (128, 1024, 4096))
    assert few > more > most > 1
    assert layout.skew(128, 1) == 1


def test_users_are_spread_as_the_partitions_are() -> None:
    """What a million users would add to the skew is lost beside that of the partitions."""
    users, shards = 50_000, 6
    keys, of = Keys(partitions=128), layout.shards_of_partitions(128, shards)
    on = Counter(of[keys.partition(Owner("", f"user-{each}"))] for each in range(users))
    assert max(on.values()) / users == pytest.approx(layout.fullest_share(128, shards), rel=0.05)


@pytest.mark.parametrize(("users", "gateways"), [(1_000, 2), (100_000, 14), (10_000_000, 1334)])
def test_gateways_hear_and_hold_what_chance_says(users: int, gateways: int) -> None:
    """Of ``tabs`` throws at ``gateways``, so many hit another one each."""
    tabs = 2
    found = layout.simulate(users=users, tabs=tabs, gateways=gateways)
    expected = gateways * (1 - (1 - 1 / gateways) ** tabs)
    assert found.hearing == pytest.approx(expected, rel=0.04)
    assert found.subscriptions == pytest.approx(users * expected / gateways, rel=0.04)
    assert 1 <= found.fullest < 1.1


def test_a_single_gateway_subscribes_once_for_each_user() -> None:
    found = layout.simulate(users=1000, tabs=3, gateways=1)
    assert found == layout.Hubs(subscriptions=1000, fullest=1, hearing=1)


def test_gateways_without_users_are_refused() -> None:
    with pytest.raises(ValueError, match="more gateways than users"):
        layout.simulate(users=3, tabs=1, gateways=4)
