"""Runs that wait for their user while what they run on is lost: no answer is, and none comes twice.

The first answer that was acknowledged is the one that the agent gets, whoever else answered.
"""

import asyncio
import json
import signal
import time

import pytest

from tests.support.chaos import Scene, chaos
from tests.support.chaos_client import ChaosClient
from tests.support.chaos_report import Report
from tests.support.history import Frame
from tests.support.redis_cluster import cluster_redis

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

PROMPTS = ["First?", "Then?", "First?"]


def questions(client: ChaosClient, run_id: str) -> list[Frame]:
    return [each for each in client.frames("input_required") if each["run_id"] == run_id]


async def asked(client: ChaosClient, run_id: str, number: int) -> str:
    """The request id of the run's question of this number, once it has come."""
    what = f"question {number} of run {run_id}"
    await client.until(lambda: len(questions(client, run_id)) > number, what=what)
    found: str = questions(client, run_id)[number]["payload"]["request_id"]
    return found


async def race(tabs: list[ChaosClient], run_id: str, request_id: str, text: str) -> str:
    """All tabs answer at the same time; the one answer that was taken."""

    async def answer(tab: ChaosClient) -> tuple[str, Frame]:
        content = f"{text} from {tab.name}"
        payload = {"run_id": run_id, "request_id": request_id, "content": content}
        async with asyncio.timeout(30):
            while True:
                reply = await tab.request("user_input", payload)
                if reply["type"] == "ok" or not reply["payload"]["retryable"]:
                    return content, reply
                await asyncio.sleep(0.1)  # a client's pace, while the fault lasts

    replies = await asyncio.gather(*map(answer, tabs))
    (taken,) = [content for content, reply in replies if reply["type"] == "ok"]
    refusals = [reply["payload"] for _, reply in replies if reply["type"] != "ok"]
    assert {each["code"] for each in refusals} <= {"not_allowed"}
    assert all("answered before" in each["message"] for each in refusals)
    return taken


async def two_tabs(scene: Scene) -> list[ChaosClient]:
    """Of the same user, at different gateways."""
    bases = [gateway.base for gateway in scene.gateways]
    return [
        await scene.connect(name="one", bases=bases),
        await scene.connect(name="two", bases=bases[::-1]),
    ]


def judged(
    scene: Scene,
    end: Frame,
    answers: list[str],
    *,
    attempt: int,
    fault: str,
    tracebacks: bool = False,
) -> None:
    response = json.loads(end["payload"]["response"])
    assert response == {"answers": answers, "attempt": attempt}
    history = scene.judge(fault=fault, tracebacks=tracebacks)
    log = next(log for place, log in history.logs.items() if place.user == "alice")
    kinds = [entry.type for entry in log if entry.run_id == end["run_id"]]
    assert kinds.count("user_input") == len(answers), "each answer is shown once"
    assert kinds[-1] == "agent_completed"


async def test_an_answer_outlives_the_worker_that_asked(report: Report) -> None:
    """Killed twice over: before the first answer, and with the second one given to nobody."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="5") as scene:
        tabs = await two_tabs(scene)
        run_id = await tabs[0].ask({"prompts": PROMPTS}, agent="asks")
        first = await asked(tabs[1], run_id, 0)
        answers = [await race(tabs, run_id, first, "a")]
        second = await asked(tabs[1], run_id, 1)
        scene.workers[0].kill()
        answers.append(await race(tabs, run_id, second, "b"))
        scene.add_worker()
        # Both answers stand: the next attempt asks only what nobody has answered.
        third = await asked(tabs[0], run_id, 2)
        assert third not in (first, second)
        answers.append(await race(tabs, run_id, third, "c"))
        end = await tabs[0].until_ended(run_id)
        assert len(questions(tabs[0], run_id)) == 3
        await scene.settle()
        judged(scene, end, answers, attempt=2, fault="worker killed while its run waits")


async def test_waiting_is_not_dead(report: Report) -> None:
    """Longer than the lease, the queue time-out and the stop deadline together."""
    async with chaos(report, RUNCAST_LEASE_SECONDS="4", RUNCAST_QUEUE_TIMEOUT_SECONDS="4") as scene:
        tabs = await two_tabs(scene)
        run_id = await tabs[0].ask({"prompts": ["?"]}, agent="asks")
        request_id = await asked(tabs[0], run_id, 0)
        began = time.monotonic()
        expiring = await tabs[0].ask({"prompts": ["?"], "expires_seconds": 11}, agent="asks")
        end = await tabs[1].until_ended(expiring)
        assert time.monotonic() - began > 10.5
        assert end["payload"]["error"]["code"] == "input_expired"
        assert run_id not in tabs[0].ended
        answers = [await race(tabs, run_id, request_id, "late")]
        end = await tabs[0].until_ended(run_id)
        await scene.settle()
        judged(
            scene,
            end,
            answers,
            attempt=1,
            fault="a run waits for longer than its lease",
            tracebacks=True,
        )


async def test_redis_is_restarted_while_a_run_waits(report: Report) -> None:
    async with chaos(report) as scene:
        tabs = await two_tabs(scene)
        run_id = await tabs[0].ask({"prompts": PROMPTS}, agent="asks")
        answers = []
        for number in range(3):
            request_id = await asked(tabs[0], run_id, number)
            answering = asyncio.create_task(race(tabs, run_id, request_id, f"{number}"))
            if number == 1:  # also while it is answered
                await asyncio.sleep(0)  # a turn of the loop, in which the answers leave
            scene.redis.kill()
            scene.redis.start()
            answers.append(await answering)
        end = await tabs[0].until_ended(run_id)
        await scene.settle()
        judged(scene, end, answers, attempt=1, fault="Redis restarted while a run waits, 3 times")


async def test_gateways_are_replaced_while_a_run_waits(report: Report) -> None:
    """The tabs come back, see what is asked (again, in a new tab) and what was answered."""
    async with chaos(report) as scene:
        tabs = await two_tabs(scene)
        run_id = await tabs[0].ask({"prompts": PROMPTS}, agent="asks")
        answers = []
        for number in range(3):
            request_id = await asked(tabs[0], run_id, number)
            answering = asyncio.create_task(race(tabs, run_id, request_id, f"{number}"))
            gateway = scene.gateways[number % 2]
            if number == 2:
                gateway.process.end(signal.SIGTERM)
            else:
                gateway.kill()
            gateway.start()
            answers.append(await answering)
        late = await scene.connect(after="0-0", name="late")
        await late.until_ended(run_id)
        assert [each["payload"]["content"] for each in late.frames("user_input")] == answers
        end = await tabs[0].until_ended(run_id)
        await scene.settle()
        judged(scene, end, answers, attempt=1, fault="gateways killed while a run waits")


async def test_a_run_asks_on_a_cluster(report: Report) -> None:
    """All keys of an answer are in one slot, and its notice finds the worker."""
    with cluster_redis() as redis:
        async with chaos(
            report,
            redis=redis.nodes[0],
            RUNCAST_REDIS_URL=redis.url,
            RUNCAST_LEASE_SECONDS="120",
        ) as scene:
            tabs = await two_tabs(scene)
            run_id = await tabs[0].ask({"prompts": PROMPTS}, agent="asks")
            answers = []
            for number in range(3):
                request_id = await asked(tabs[0], run_id, number)
                began = time.monotonic()
                answers.append(await race(tabs, run_id, request_id, f"{number}"))
                if number < 2:
                    await asked(tabs[0], run_id, number + 1)
                    assert time.monotonic() - began < 30, "told at once, not with the next look"
            end = await tabs[0].until_ended(run_id)
            scene.log_urls = tuple(node.url for node in redis.masters())
            await scene.settle()
            judged(scene, end, answers, attempt=1, fault="Cluster: a run asks")
            assert redis.errors().get("CROSSSLOT", 0) == 0
