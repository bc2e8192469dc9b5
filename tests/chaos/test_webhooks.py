"""The end of every run reaches the back end, in order per thread, whatever happens to gateways."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.chaos import Scene, chaos, until
from tests.support.chaos_members import Member
from tests.support.chaos_report import Report
from tests.support.history import Place, cursor
from tests.support.history_values import TERMINAL
from tests.support.webhook_receiver import CUT, HANG, SECRET, Receiver, Reply

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


MOODS: dict[int, Reply] = {0: 500, 1: CUT, 2: HANG}


def moody(data: dict[str, Any], nth: int) -> Reply:
    """Of every eight runs one each is refused, cut off and left hanging, once."""
    if nth > 1:
        return 204
    return MOODS.get(sum(data["run_id"].encode()) % 8, 204)


def of(receiver: Receiver) -> dict[str, Any]:
    return {
        "RUNCAST_WEBHOOK_URL": receiver.url,
        "RUNCAST_WEBHOOK_SECRETS": SECRET,
        "RUNCAST_WEBHOOK_TIMEOUT_SECONDS": "1",
        "RUNCAST_WEBHOOK_MAX_IN_FLIGHT": "64",
    }


def ends(scene: Scene) -> list[tuple[tuple[Place, str], str]]:
    """Every run that has ended, by channel and thread, in the order of the log."""
    return [
        ((place, entry.thread), entry.run_id)
        for place, log in scene.logs().items()
        for entry in sorted(log, key=lambda each: cursor(each.id))
        if entry.type == TERMINAL
    ]


async def posting(scene: Scene, among: Iterable[Member] = ()) -> Member:
    """The gateway that posts, once one of these, or of all, does."""
    found: list[Member] = []

    async def one_does() -> bool:
        found.extend([each for each in among or scene.gateways if await delivered(each)])
        return bool(found)

    await until(one_does, what="one of them posts")
    return found[0]


async def delivered(member: Member) -> int:
    """Asked beside the loop, in which the receiver answers."""
    count: int = (await asyncio.to_thread(member.stats))["webhooks"]["delivered"]
    return count


async def judge(scene: Scene, receiver: Receiver) -> None:
    ended = await asyncio.to_thread(ends, scene)
    await receiver.until_taken((run for _, run in ended), seconds=60)
    receiver.judge(ended)


async def test_a_gateway_that_is_killed_while_it_posts_loses_nothing(report: Report) -> None:
    """SIGKILL: another one goes on, in order; what was under way comes once more with its id."""
    async with Receiver(moody) as receiver, chaos(report, **of(receiver)) as scene:
        await scene.populate(users=2)
        async with scene.load(count=8):
            victim = await posting(scene)
            killed = victim.kill()
            before = len(receiver.posts)
            survivor = next(each for each in scene.gateways if each is not victim)
            recovery = await scene.recovered(killed)
            await receiver.until(lambda: len(receiver.posts) > before + 4, what="further posts")
        await scene.settle()
        await judge(scene, receiver)
        assert await delivered(survivor)
        scene.judge(fault="gateway killed while it posts webhooks", recovery_seconds=recovery)


async def test_a_gateway_that_was_stopped_and_goes_on_does_not_turn_the_order_round(
    report: Report,
) -> None:
    """SIGSTOP: for a moment two of them post."""
    async with Receiver(moody) as receiver, chaos(report, **of(receiver)) as scene:
        await scene.populate(users=2, heartbeat_seconds=1)
        async with scene.load(count=8):
            stopped = await posting(scene)
            stopped.pause()
            other = next(each for each in scene.gateways if each is not stopped)
            await posting(scene, among=[other])
            stopped.go_on()
        await until(stopped.is_ready, what="it is ready again")
        await scene.settle()
        await judge(scene, receiver)
        scene.judge(fault="gateway stopped and continued while it posts webhooks")
