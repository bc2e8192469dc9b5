"""Half an hour of everything at once; in it nothing is lost, and after it nothing is left."""

import asyncio
import json
import os
import time
import urllib.request
from typing import Any, Final

import psutil
import pytest

from tests.support.chaos import Scene, chaos, until
from tests.support.chaos_members import Member
from tests.support.chaos_report import Report, Row
from tests.support.history import Kind, describe
from tests.support.servers import OPERATOR_KEY
from tests.support.soak import Samples, Soak, keys, subscribed

SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "60"))
"""30 minutes are asked for by ``SOAK_SECONDS=1800``."""

ROUND_SECONDS: Final = 5.0
TTL: Final = 40
"""Longer than a round with its judgement takes, shorter than the soak."""

MOST_GROWTH: Final = 1.15
"""Of a process's memory from the first half to the second: caches fill, allocators keep some."""

LOGGED: Final = (
    "request_failed", "relay_task_failed", "command_failed", "feeding_failed", "malformed",
    "isolation_violation", "never retrieved", "Task was destroyed",
)  # fmt: skip
"""What no program may print, whatever its clients and its fellows do."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.long,
    # The soak itself, its last round, and the waiting until the last key has expired.
    pytest.mark.timeout(SECONDS + 180),
]


def stats(member: Member) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{member.port}/ws/stats",
        headers={"Authorization": f"Bearer {OPERATOR_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        body: dict[str, Any] = json.load(response)
        return body


def sampled(member: Member) -> Samples:
    return Samples(psutil.Process(member.process.popen.pid))


async def replace(member: Member) -> Samples:
    """SIGTERM, as a deployment sends it, and a new process in its place."""
    assert await asyncio.to_thread(member.process.end) == 0, member.process.printed()
    member.start()
    await until(member.is_ready, what=f"{member.name} is back")
    return sampled(member)


async def test_a_soak_loses_nothing_and_leaves_nothing_behind(report: Report) -> None:
    async with chaos(
        report,
        gateways=2,
        workers=2,
        doors=True,
        RUNCAST_HISTORY_TTL_SECONDS=str(TTL),
        RUNCAST_QUEUE_TIMEOUT_SECONDS=str(TTL // 2),
    ) as scene:
        soak = Soak(scene, seed=round(SECONDS))
        everyone = [*scene.gateways, *scene.workers]
        samples = {member.name: sampled(member) for member in everyone}
        idle = {name: each.process.num_fds() for name, each in samples.items()}
        began = time.monotonic()
        replaced = False
        while (passed := time.monotonic() - began) < SECONDS:
            if passed > SECONDS / 4 and not replaced:
                replaced = soak.lost_worker = True
                async with asyncio.TaskGroup() as group:
                    group.create_task(soak.round(ROUND_SECONDS + 4))
                    await until(
                        lambda: (
                            len(scene.clients) > 0
                            and all(client.accepted for client in scene.clients)
                        ),
                        what="everybody has a run under way",
                    )
                    gateway = group.create_task(replace(scene.gateways[1]))
                    worker = group.create_task(replace(scene.workers[1]))
                soak.lost_worker = False
                samples["gateway 1"], samples["worker 1"] = gateway.result(), worker.result()
            else:
                await soak.round(ROUND_SECONDS)
            for each in samples.values():
                each.take()
        totals = soak.totals
        growth = {name: each.growth for name, each in samples.items() if len(each.rss) > 3}
        report(
            Row(
                fault=f"soak of {SECONDS:g} s: {totals.rounds} rounds, {totals.cuts} cuts, "
                f"{totals.statuses.total()} ends, memory x {max(growth.values()):.2f}",
                published=totals.published,
                delivered=totals.delivered,
                lost=totals.count(Kind.LOST, Kind.NOT_IN_LOG),
                doubled=totals.count(Kind.DOUBLED, Kind.UNKNOWN_TWICE),
                leaked=totals.count(Kind.LEAKED),
            )
        )
        assert not totals.violations, describe(totals.violations)
        assert not totals.wrong_ends, f"{len(totals.wrong_ends)}, such as {totals.wrong_ends[:3]}"
        assert totals.statuses.keys() >= {"succeeded", "failed", "cancelled"}, totals.statuses
        assert replaced, "the soak was too short"
        assert max(growth.values()) < MOST_GROWTH, f"memory grows: {growth}"
        await nothing_is_left(scene, samples, idle)
        for fleet in scene.fleets:
            for process in fleet.processes:
                printed = process.printed()
                wrong = [word for word in LOGGED if word in printed]
                assert not wrong, f"{wrong} in the log:\n{printed[-5000:]}"


async def nothing_is_left(scene: Scene, samples: dict[str, Samples], idle: dict[str, int]) -> None:
    """Connections, feeds, open files and, in the end, keys."""
    for gateway in scene.gateways:
        await until(
            lambda: stats(gateway)["gateway"]["connections"]["total"] == 0,  # noqa: B023 - awaited here
            what=f"{gateway.name} has no connection",
        )
    # A channel lingers for ten seconds after its last reader.
    await until(lambda: not subscribed(scene), what="no channel is subscribed to")
    for name, each in samples.items():
        await until(
            lambda: each.process.num_fds() <= idle[name] + 2,  # noqa: B023 - awaited here
            what=f"{name} has its {idle[name]} open files again",
        )
    for member in (*scene.workers, *scene.gateways):
        await asyncio.to_thread(member.process.end)

    def left() -> list[bytes]:
        # Isolated connections can be taken up for two minutes.
        return [key for key in keys(scene) if not {b"connection", b"turns"} & set(key.split(b":"))]

    await until(lambda: not left(), seconds=TTL + 20, what="every key is gone")
