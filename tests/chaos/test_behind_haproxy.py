"""A fleet behind the load balancer of compose/haproxy: replaced, enlarged, killed, failed over.

Clients know one address. What they get is judged by the history checker, as everywhere.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Final

import pytest

from tests.support.balanced import Balanced, Drain, balanced, most_within
from tests.support.balancer import HAPROXY
from tests.support.chaos_report import Report, Row
from tests.support.clients import PATIENCE_SECONDS
from tests.support.crowd import Crowd, Kept, crowd
from tests.support.topologies import sentinel_redis

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy (apt install haproxy)"),
    pytest.mark.timeout(600),
]

CLIENTS: Final = int(os.environ.get("BALANCED_CLIENTS", "2000"))
"""Of the long test; each has an event per second."""

DRAIN_SECONDS: Final = int(os.environ.get("BALANCED_DRAIN_SECONDS", "12"))
WINDOW: Final = 0.8
"""Of the drain time, in which the goodbyes are: gateway/node.py."""

FIRST_BACK, LAST_BACK = 0.1, 1.0
STRETCH_SECONDS: Final = 0.1
MOST_AT_ONCE: Final = 0.01
"""Of all clients may come back in one stretch: the share that the issue of storms is about."""


@asynccontextmanager
async def served(fleet: Balanced, count: int, *, per_second: float) -> AsyncIterator[Crowd]:
    """So many users with a client each, to whom events come all the time; level when left."""
    users = [f"user {number}" for number in range(count)]
    async with crowd(fleet.balancer.base, users, fleet.scene.folder) as everybody:
        async with fleet.pouring(users, per_second=per_second):
            yield everybody
        await everybody.until("ended")
        await everybody.until("live")
    fleet.scene.others += everybody.readers


async def replace_all(fleet: Balanced) -> list[Drain]:
    """Each gateway by a new one, which is there before the old one goes."""
    drains = []
    for gateway in fleet.gateways:
        await fleet.join()
        drains.append(await fleet.drain(gateway))
    return drains


def sent_away(everybody: Crowd, drains: Sequence[Drain]) -> list[list[Kept]]:
    """The connections that each drained gateway ended, in order: no two drain at once."""
    gone = sorted(
        (each for each in everybody.connections() if each.gone), key=lambda each: each.gone
    )
    return [
        [each for each in gone if began <= each.gone < ended]
        for began, ended in pairwise((*(drain.told for drain in drains), math.inf))
    ]


def most_told_at_once(gone: Sequence[Kept], drain: Drain, window: float) -> int:
    """How many of a gateway's clients it told to come back within one stretch.

    Asserts that no goodbye was before its time. Later it may be here: that is the machine's doing,
    and so would be a crowd of clients that come back late.
    """
    back = []
    for at, each in enumerate(gone):
        early = window * at / drain.sockets - (each.gone - drain.told)
        assert early < 0.001, (
            f"number {at} of {drain.sockets} was sent away {early:.3f} s too early"
        )
        place = (each.back_seconds - FIRST_BACK) / (LAST_BACK - FIRST_BACK)
        assert 0 <= place <= 1, f"told to come back after {each.back_seconds} s"
        back.append(place * window + each.back_seconds)
    return most_within(back, STRETCH_SECONDS)


async def rolling_restart(report: Report, clients: int, drain_seconds: int) -> None:
    window = drain_seconds * WINDOW
    async with balanced(report, RUNCAST_DRAIN_SECONDS=str(drain_seconds)) as fleet:
        scene = fleet.scene
        await scene.populate(users=2)
        async with served(fleet, clients, per_second=clients) as everybody, scene.load():
            began = time.monotonic()
            drains = await replace_all(fleet)
            rate = scene.rate(began, time.monotonic())
        await scene.settle()
        at_once = [
            most_told_at_once(gone, drain, window)
            for gone, drain in zip(sent_away(everybody, drains), drains, strict=True)
        ]
        back = [next_one.opened for _, next_one in everybody.returns()]
        measured = most_within(back, STRETCH_SECONDS) / clients
        scene.judge(
            fault=f"behind HAProxy: all 3 gateways replaced one by one; {clients} clients, "
            f"{rate:.0f} events/s; most that came back in 100 ms: {measured:.2%}, "
            f"as told: {max(at_once) / clients:.2%}",
            recovery_seconds=everybody.longest_away(),
        )
        assert len(back) > clients / 2, "nearly everybody had to move"
        assert {each.code for each, _ in everybody.returns()} == {1001}
        assert not any(
            frame["type"] == "resync" for each in everybody.connections() for frame in each.frames
        )
        for drain, most in zip(drains, at_once, strict=True):
            share = drain.sockets * STRETCH_SECONDS / (window + LAST_BACK - FIRST_BACK)
            assert most <= 1.1 * share + 2, f"{most} of {drain}; on average {share:.1f}"
        if clients >= 1000:
            assert max(at_once) <= MOST_AT_ONCE * clients, at_once


async def test_all_gateways_are_replaced_and_clients_come_back_spread(report: Report) -> None:
    await rolling_restart(report, clients=60, drain_seconds=2)


@pytest.mark.long
async def test_2000_clients_and_events_per_second_outlive_a_rolling_restart(report: Report) -> None:
    await rolling_restart(report, clients=CLIENTS, drain_seconds=DRAIN_SECONDS)


async def test_an_added_gateway_takes_its_share_of_new_connections(report: Report) -> None:
    """At least half of a fair one, of clients that come within a minute."""
    async with balanced(report, gateways=2, workers=0) as fleet, AsyncExitStack() as crowds:

        async def arrive(count: int, name: str) -> None:
            users = [f"{name} {number}" for number in range(count)]
            await crowds.enter_async_context(crowd(fleet.balancer.base, users, fleet.scene.folder))

        await arrive(60, "first")
        (new,) = await fleet.join()
        added, share, batch = time.monotonic(), 0, 0
        fair = 30 / len(fleet.gateways)
        while share < fair / 2 and time.monotonic() - added < PATIENCE_SECONDS:
            before = new.stats()["connections"]["total"]
            await arrive(30, f"batch {batch}")
            share, batch = new.stats()["connections"]["total"] - before, batch + 1
        seconds = time.monotonic() - added
        report(
            Row(
                fault=f"behind HAProxy: gateway added; it has {share} of 30 new connections",
                recovery_seconds=seconds,
            )
        )
        assert share >= fair / 2, f"{share} of 30, after {batch} times as many"


async def test_a_killed_gateways_clients_go_on_elsewhere(report: Report) -> None:
    """SIGKILL. Where they come back, the load balancer has the dead one on its list for a while."""
    async with balanced(report) as fleet:
        scene = fleet.scene
        await scene.populate(users=2)
        async with served(fleet, 30, per_second=60) as everybody, scene.load():
            hit = fleet.gateways[0].stats()["connections"]["total"]
            killed = fleet.gateways[0].kill()
            recovery = await scene.recovered(killed)
            await everybody.until("live")
            fleet.forget(fleet.gateways[0])
            rest = fleet.gateways
        await scene.settle()
        assert hit, "nobody was connected there"
        assert len(rest) == 2
        scene.judge(
            fault=f"behind HAProxy: one of 3 gateways killed (SIGKILL), with {hit} clients",
            recovery_seconds=recovery,
        )


@pytest.mark.long
async def test_a_sentinel_failover_loses_nothing_that_was_acknowledged(report: Report) -> None:
    """An event is acknowledged when a replica has it: the log may take nothing back of those."""
    with sentinel_redis(replicas=2) as redis:  # one is left to confirm when one is promoted
        async with balanced(
            report,
            redis=redis.master,
            RUNCAST_REDIS_URL=redis.url,
            RUNCAST_DURABILITY="replicated",
        ) as fleet:
            scene = fleet.scene
            await scene.populate(users=2)
            async with served(fleet, 200, per_second=200) as everybody, scene.load():
                killed = time.monotonic()
                redis.master.kill()
                promoted = await asyncio.to_thread(redis.promoted)
                promotion = time.monotonic()
                scene.log_urls = (promoted.url,)
                recovery = await scene.recovered(promotion)
                in_all = await scene.recovered(killed)
            await scene.settle()
            scene.judge(
                fault=f"behind HAProxy: Sentinel, master killed, {len(everybody.users)} clients; "
                f"from the promotion (in all {in_all:.1f} s)",
                recovery_seconds=recovery,
            )
