"""Where users are: which partition, slot and shard, and at which gateways. A simulation, and pure.

Partitions and slots are those of the product, not like them: ``Keys.partition`` and the slot that
a Cluster computes. Shards have equal ranges of slots, as ``redis-cli --cluster create`` gives
them. A load balancer without stickiness is a hash of user and tab, so the same call gives the
same figures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Final

from broker.channels import Keys
from broker.redis.slots import SLOTS, slot_of

SAMPLE: Final = 200_000
"""As many users are looked at, at most."""


@cache
def shards_of_partitions(partitions: int, shards: int) -> tuple[int, ...]:
    """Partition → its shard."""
    keys = Keys(partitions=partitions)
    return tuple(slot_of(keys.leases(each)) * shards // SLOTS for each in range(partitions))


@cache
def fullest_share(partitions: int, shards: int) -> float:
    """The part of all partitions, and so of all users, that the fullest shard has."""
    return max(Counter(shards_of_partitions(partitions, shards)).values()) / partitions


def skew(partitions: int, shards: int) -> float:
    """How many times as full as the mean the fullest shard is; 1 is even."""
    return fullest_share(partitions, shards) * shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Hubs:
    """What a simulation found of the gateways."""

    subscriptions: float
    """Of a gateway, on average: one per user that is connected there, whatever his tabs."""
    fullest: float
    """The most of one gateway, as a multiple of the average."""
    hearing: float
    """Gateways that an event of one user goes to, on average."""


@cache
def simulate(*, users: int, tabs: int, gateways: int) -> Hubs:
    """Users with ``tabs`` connections each, put on gateways.

    Of more than ``SAMPLE`` users only so many are looked at. How full gateways get is then seen on
    as small a part of the gateways, which so many users fill as all would fill all: what matters
    to a gateway is how many come to it. ValueError: fewer users than gateways.
    """
    if users < gateways:
        raise ValueError("more gateways than users")
    part = min(1.0, SAMPLE / users)
    seen, few = round(users * part), max(1, round(gateways * part))
    heard = 0
    full: Counter[int] = Counter()
    for number in range(seen):
        places = [_balanced(f"user-{number}/tab-{tab}") for tab in range(tabs)]
        heard += len({int(place * gateways) for place in places})
        full.update({int(place * few) for place in places})
    return Hubs(
        subscriptions=users * heard / seen / gateways,
        fullest=max(full.values()) * few / full.total(),
        hearing=heard / seen,
    )


def _balanced(connection: str) -> float:
    """A place from 0 to below 1, as if at random."""
    digest = hashlib.blake2b(connection.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
