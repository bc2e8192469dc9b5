"""A run that asks its user: whoever answers, wherever, the run gets the first answer, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from agents_sdk import InputExpired, Publisher, Run, Worker
from agents_sdk.leases import RENEWALS_PER_LEASE
from broker.channels import Keys, Owner, Scope
from broker.config import Settings
from broker.errors import NotWaiting, RunNotFound
from broker.redis.broker import Broker
from broker.redis.steering import Steering
from gateway.app import Gateway
from tests.integration.sdk_rig import ALICE, ask, ended, expire, faulty_network, logged, until
from tests.support.clients import Client, Frame, payload_of

NEIGHBOUR = next(
    owner
    for owner in (Owner("", f"bob{number}") for number in count())
    if Keys().partition(owner) == Keys().partition(ALICE)
)
"""Another user whose keys are in the same place as alice's: nothing but the owner tells."""

HURRY_SECONDS = 6
"""Longer than a busy machine stands still between two steps of an agent."""


@pytest.fixture
def lease_seconds() -> int:
    return 4


@pytest.fixture
def quick(settings: Settings, lease_seconds: int) -> Settings:
    return settings.model_copy(update={"lease_seconds": lease_seconds, "drain_seconds": 1})


@pytest.fixture
def worker(quick: Settings) -> Worker:
    worker = Worker(settings=quick)

    @worker.agent("asks", on_busy="parallel")
    async def asks(run: Run) -> Any:
        """Once for each prompt of the content."""
        await run.think("I need to know")
        return [
            await run.ask(prompt, schema={"type": "string"}, expires_seconds=30)
            for prompt in run.content["prompts"]
        ]

    @worker.agent("asks at once")
    async def asks_at_once(run: Run) -> Any:
        async def one(prompt: str) -> Any:
            async with run.tool("question", prompt=prompt) as call:
                call.result = await run.ask(prompt)
            return call.result

        return await asyncio.gather(*map(one, run.content["prompts"]))

    @worker.agent("asks for a moment")
    async def asks_for_a_moment(run: Run) -> Any:
        try:
            return await run.ask("Quick?", expires_seconds=0.2)
        except InputExpired as error:
            await run.think(str(error))
            return "without you"

    @worker.agent("gives up")
    async def gives_up(run: Run) -> Any:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await run.ask("Are you there?")
        return await run.ask("Really not?")

    @worker.agent("hurries", timeout_seconds=HURRY_SECONDS)
    async def hurries(run: Run) -> Any:
        answer = await run.ask("May I be slow?")
        if answer == "yes":
            await asyncio.Event().wait()
        async with run.subagent("child") as child:
            await child.ask("May the child?")
        return answer

    return worker


@pytest.fixture
async def working(worker: Worker) -> AsyncIterator[None]:
    async with worker.running():
        yield


async def question(client: Client, number: int = 0) -> tuple[str, str]:
    """Run id and request id of a question that has come."""
    event = await client.nth("input_required", number)
    return event["run_id"], event["payload"]["request_id"]


async def answer(client: Client, asked: tuple[str, str], content: Any, ref: str = "a1") -> Frame:
    run_id, request_id = asked
    payload = {"run_id": run_id, "request_id": request_id, "content": content}
    await client.send("user_input", payload, ref=ref)
    return await client.reply(ref)


def refused(reply: Frame) -> tuple[str, str]:
    assert reply["type"] == "error", reply
    return payload_of(reply)["code"], payload_of(reply)["message"]


async def state(broker: Broker, run_id: str) -> str:
    found: str = (await broker.run(ALICE, run_id))["state"]
    return found


async def request_ids(broker: Broker, run_id: str) -> list[str]:
    return [
        each["payload"]["request_id"]
        for each in await logged(broker, run_id)
        if each["type"] == "input_required"
    ]


async def has_asked(broker: Broker, run_id: str, times: int = 1) -> bool:
    return len(await request_ids(broker, run_id)) == times


@pytest.mark.usefixtures("working")
async def test_one_after_the_other_over_the_same_connection(base: str, broker: Broker) -> None:
    answers = ["a", {"b": [1, None]}, ""]
    async with Client(base) as client:
        await client.first("live")
        run_id = await client.ask({"prompts": ["First?", "Then?", "First?"]}, agent="asks")
        for number, each in enumerate(answers):
            asked = await question(client, number)
            assert await state(broker, run_id) == "waiting"
            assert (await answer(client, asked, each, f"a{number}"))["type"] == "ok"
        end = await client.completed(run_id)
    assert end["payload"]["response"] == answers
    assert end["payload"]["missing"] == ["tool_executing", "tool_completed"]
    required = [each for each in client.frames if each["type"] == "input_required"]
    assert [each["payload"]["prompt"] for each in required] == ["First?", "Then?", "First?"]
    assert len({each["payload"]["request_id"] for each in required}) == 3
    assert required[0]["payload"]["schema"] == {"type": "string"}
    assert [each["seq"] for each in required] == [3, 4, 5]
    echoes = [each for each in client.frames if each["type"] == "user_input"]
    assert [each["payload"]["content"] for each in echoes] == answers
    assert [each["payload"]["request_id"] for each in echoes] == [
        each["payload"]["request_id"] for each in required
    ]
    assert not any("seq" in each for each in echoes)


@pytest.mark.usefixtures("working")
async def test_a_question_is_seen_and_answered_at_another_gateway_and_late(
    base: str, settings: Settings
) -> None:
    async with Gateway(settings) as other, Client(base) as first:
        await first.first("live")
        run_id = await first.ask({"prompts": ["Go on?"]}, agent="asks")
        asked = await question(first)
        async with Client(f"http://127.0.0.1:{other.port}", after="0-0") as late:
            assert await question(late) == asked
            assert (await answer(late, asked, "yes"))["type"] == "ok"
        assert (await first.first("user_input"))["payload"]["content"] == "yes"
        assert (await first.completed(run_id))["payload"]["response"] == ["yes"]
        async with Client(base, after="0-0") as later:
            await later.completed(run_id)
            kinds = [each["type"] for each in later.logged()]
            assert kinds.index("input_required") + 1 == kinds.index("user_input")


@pytest.mark.usefixtures("working")
async def test_two_tabs_at_once_one_wins_and_the_other_is_told(base: str) -> None:
    async with Client(base) as one, Client(base) as two:
        await one.first("live")
        await two.first("live")
        run_id = await one.ask({"prompts": ["Which?"] * 8}, agent="asks")
        for number in range(8):
            asked = await question(one, number)
            await question(two, number)
            ref = f"a{number}"
            replies = await asyncio.gather(
                answer(one, asked, f"one {number}", ref), answer(two, asked, f"two {number}", ref)
            )
            assert sorted(each["type"] for each in replies) == ["error", "ok"]
            won = [f"one {number}", f"two {number}"][replies[0]["type"] != "ok"]
            lost = next(each for each in replies if each["type"] == "error")
            assert refused(lost) == (
                "not_allowed",
                f"NOT_WAITING: {run_id} (it was answered before)",
            )
            echo = await two.nth("user_input", number)
            assert echo["payload"]["content"] == won
            # The winner again, from either tab, is the same answer.
            for tab in (one, two):
                assert (await answer(tab, asked, won, f"{ref} again"))["type"] == "ok"
        end = await one.completed(run_id)
        echoed = [e["payload"]["content"] for e in two.frames if e["type"] == "user_input"]
        assert end["payload"]["response"] == echoed
        assert (await answer(one, asked, won, "late"))["type"] == "ok"
        assert refused(await answer(one, asked, "other", "later"))[0] == "not_allowed"


@pytest.mark.usefixtures("working")
async def test_two_questions_at_the_same_time(base: str) -> None:
    async with Client(base) as client:
        await client.first("live")
        prompts = [f"{number}?" for number in range(6)]
        run_id = await client.ask({"prompts": prompts}, agent="asks at once")
        await question(client, 5)
        required = {
            each["payload"]["prompt"]: each["payload"]["request_id"]
            for each in client.frames
            if each["type"] == "input_required"
        }
        for prompt in reversed(prompts):
            await answer(client, (run_id, required[prompt]), f"to {prompt}", prompt)
        end = await client.completed(run_id)
    assert end["payload"]["response"] == [f"to {prompt}" for prompt in prompts]
    assert end["payload"]["missing"] == ["agent_thinking"]


@pytest.mark.usefixtures("working")
async def test_expiry(base: str) -> None:
    async with Client(base) as client:
        await client.first("live")
        run_id = await client.ask("x", agent="asks for a moment")
        asked = await question(client)
        thought = await client.first("agent_thinking")
        assert "'Quick?' within 0.2 s" in thought["payload"]["thoughts"]
        assert refused(await answer(client, asked, "yes"))[0] == "not_allowed"
        assert (await client.completed(run_id))["payload"]["response"] == "without you"
        assert refused(await answer(client, asked, "yes", "a2"))[0] == "not_allowed"
        assert "user_input" not in [each["type"] for each in client.frames]


async def test_redis_decides_what_is_too_late(worker: Worker, broker: Broker) -> None:
    """Also while the worker that asked is gone."""
    async with worker.running():
        run_id = await ask(broker, "asks", {"prompts": ["Go on?"]})
        await until(lambda: has_asked(broker, run_id))
        (request_id,) = await request_ids(broker, run_id)
        key = broker.keys.run(broker.keys.partition(ALICE), run_id)
        await broker.client.execute("HSET", key, f"ask:{request_id}", 1)
        with pytest.raises(NotWaiting, match="the time to answer is over"):
            await broker.answer_run(ALICE, run_id, request_id, "yes")
        assert (await ended(broker, run_id))["error"]["code"] == "input_expired"


@pytest.mark.usefixtures("working")
async def test_who_may_not_answer(base: str, broker: Broker) -> None:
    async with Client(base) as client, Client(base, NEIGHBOUR.user) as bob:
        await client.first("live")
        run_id = await client.ask({"prompts": ["Go on?"]}, agent="asks")
        asked = await question(client)
        foreign = refused(await answer(bob, asked, "yes"))
        unknown = refused(await answer(bob, ("nothing", asked[1]), "yes", "a2"))
        assert foreign[0] == unknown[0] == "run_not_found"
        assert foreign[1].replace(run_id, "") == unknown[1].replace("nothing", "")
        wrong = refused(await answer(client, (run_id, "other"), "yes", "a3"))
        assert wrong[0] == "not_allowed"
        assert "did not ask this" in wrong[1]
        deep: Any = "deep"
        for _ in range(200):
            deep = [deep]
        assert refused(await answer(client, asked, deep, "a4"))[0] == "bad_frame"
        too_large = "x" * 70_000
        payload = {"run_id": run_id, "request_id": asked[1], "content": too_large}
        await client.send("user_input", payload)
        await client.first("error", code="message_too_large")
        assert await state(broker, run_id) == "waiting"
        assert (await answer(client, asked, "yes", "a5"))["type"] == "ok"
        assert (await client.completed(run_id))["payload"]["response"] == ["yes"]
        assert "user_input" not in [each["type"] for each in bob.frames]


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("lease_seconds", [120])
async def test_a_stop_while_it_waits_ends_it_at_once(base: str, lease_seconds: int) -> None:
    async with Client(base) as client, Client(base) as other:
        await other.first("live")
        run_id = await client.ask({"prompts": ["Go on?"]}, agent="asks")
        asked = await question(other)
        began = time.monotonic()
        await client.send("stop_agent", {"run_id": run_id}, ref="s1")
        await client.send("stop_agent", {"run_id": run_id}, ref="s2")
        end = await other.completed(run_id)
        assert time.monotonic() - began < lease_seconds / RENEWALS_PER_LEASE / 2
        assert end["payload"]["error"]["code"] == "stopped"
        kinds = [each["type"] for each in other.logged()]
        assert kinds[-3:] == ["input_required", "stop_requested", "agent_completed"]
        refusal = refused(await answer(client, asked, "yes"))
        assert refusal == ("not_allowed", f"NOT_WAITING: {run_id} (it has ended)")


async def test_the_agents_timeout_stands_still_while_it_waits(
    worker: Worker, broker: Broker
) -> None:
    async with worker.running():
        quick, slow = (await ask(broker, "hurries"), await ask(broker, "hurries"))
        await until(lambda: has_asked(broker, quick))
        await until(lambda: has_asked(broker, slow))
        await asyncio.sleep(HURRY_SECONDS + 0.5)  # longer than the agent may take
        for run_id, content in ((quick, "no"), (slow, "yes")):
            (request_id,) = await request_ids(broker, run_id)
            await broker.answer_run(ALICE, run_id, request_id, content)
        assert (await ended(broker, slow))["error"]["code"] == "timeout"
        # The child's question holds the parent's time as well; it is answered later than that.
        events = await logged(broker)
        child = next(e for e in events if e.get("parent_run_id") == quick)["run_id"]
        await asyncio.sleep(1)  # the time that the child waits, beside that of its parent
        await until(lambda: has_asked(broker, child))
        (request_id,) = await request_ids(broker, child)
        await broker.answer_run(ALICE, child, request_id, "yes")
        assert (await ended(broker, quick))["response"] == "no"
        echo = next(e for e in await logged(broker, child) if e["type"] == "user_input")
        assert echo["parent_run_id"] == quick


async def test_a_question_that_nobody_waits_for_any_more_is_taken_back(
    worker: Worker, broker: Broker
) -> None:
    async with worker.running():
        run_id = await ask(broker, "gives up")
        await until(lambda: has_asked(broker, run_id, 2))
        first, second = await request_ids(broker, run_id)
        with pytest.raises(NotWaiting, match="does not ask it any more"):
            await broker.answer_run(ALICE, run_id, first, "yes")
        await broker.answer_run(ALICE, run_id, second, "no")
        assert (await ended(broker, run_id))["response"] == "no"


async def test_a_lost_notice_costs_a_look(
    worker: Worker, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = 0, Steering.look

    async def counted(*args: Any, **named: Any) -> Any:
        nonlocal looks
        found = await look(*args, **named)
        looks += 1
        return found

    monkeypatch.setattr(Steering, "look", counted)
    async with worker.running():
        run_id = await ask(broker, "asks", {"prompts": ["Go on?"]})
        await until(lambda: has_asked(broker, run_id))
        (request_id,) = await request_ids(broker, run_id)
        key = broker.keys.run(broker.keys.partition(ALICE), run_id)
        await until(lambda: looks > 0)  # what is answered now is found by a later one
        await broker.client.execute("HDEL", key, f"ask:{request_id}")
        await broker.client.execute("HSET", key, f"answer:{request_id}", b'"unheard"')
        payload = await ended(broker, run_id)
    assert payload["response"] == ["unheard"]


async def test_a_question_that_redis_has_lost_is_asked_again(
    worker: Worker, broker: Broker
) -> None:
    """A failover may take back the last event of a run, and a run that waits says nothing more."""
    async with worker.running():
        run_id = await ask(broker, "asks", {"prompts": ["Go on?"]})
        await until(lambda: has_asked(broker, run_id))
        (request_id,) = await request_ids(broker, run_id)
        key = broker.keys.run(broker.keys.partition(ALICE), run_id)
        log = broker.keys.channel(ALICE, Scope.USER).log
        (newest, _), (before, _) = await broker.client.execute(
            "XREVRANGE", log, "+", "-", "COUNT", 2
        )
        await broker.client.execute("XDEL", log, newest)
        await broker.client.execute("HDEL", key, f"ask:{request_id}")
        await broker.client.execute("HSET", key, "seq", 2, "tail", before)
        await until(lambda: has_asked(broker, run_id, 2))
        await broker.answer_run(ALICE, run_id, request_id, "yes")
        assert (await ended(broker, run_id))["response"] == ["yes"]
    events = [e for e in await logged(broker, run_id) if "seq" in e]
    assert [each["seq"] for each in events] == list(range(1, 6))


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_an_answer_survives_the_worker_that_asked(
    quick: Settings, broker: Broker, when: str
) -> None:
    """``when`` it is given: to the lost attempt, while there is none, or to the next."""
    go = asyncio.Event()

    def declare(number: int) -> Worker:
        worker = Worker(settings=quick)

        @worker.agent("retried", retries=1)
        async def retried(run: Run) -> Any:
            first = await run.ask("First?")
            if number == 1:
                await go.wait()
            return [first, await run.ask("First?"), await run.ask("Then?"), run.attempt]

        return worker

    async with declare(1).running() as lost:
        run_id = await ask(broker, "retried")
        await until(lambda: has_asked(broker, run_id))
        (request_id,) = await request_ids(broker, run_id)
        if when == "before":
            await broker.answer_run(ALICE, run_id, request_id, "kept")
        # It is as good as dead: it takes nothing, and what it still does is fenced.
        await lost._queue.stop()
        await expire(broker, run_id)
        if when == "between":
            await broker.answer_run(ALICE, run_id, request_id, "kept")
        async with declare(2).running():
            if when == "after":
                await until(lambda: has_asked(broker, run_id, 2))
                assert await request_ids(broker, run_id) == [request_id] * 2
                await broker.answer_run(ALICE, run_id, request_id, "kept")
            asked = 2 + (when == "after")
            await until(lambda: has_asked(broker, run_id, asked))
            second = (await request_ids(broker, run_id))[-1]
            assert second != request_id, "the second time it is another question"
            await broker.answer_run(ALICE, run_id, second, "anew")
            await until(lambda: has_asked(broker, run_id, asked + 1))
            await broker.answer_run(ALICE, run_id, (await request_ids(broker, run_id))[-1], 3)
            assert (await ended(broker, run_id))["response"] == ["kept", "anew", 3, 2]
            go.set()


async def test_an_outage_while_it_waits(quick: Settings, broker: Broker) -> None:
    """The worker is cut off from Redis while it asks, when it is answered, and when it expires."""
    assert quick.redis_url is not None
    async with faulty_network(quick.redis_url) as network:
        worker = Worker(
            settings=quick.model_copy(update={"redis_url": network.url, "lease_seconds": 90}),
            publish_timeout_seconds=2,
        )

        @worker.agent("asks", on_busy="parallel")
        async def asks(run: Run) -> Any:
            if run.content == "cut":
                await run.think("now")
                network.cut()
            return await run.ask("Go on?", expires_seconds=2 if run.content == "expires" else 90)

        async with worker.running():
            asking = await ask(broker, "asks")
            await until(lambda: has_asked(broker, asking))
            expiring = await ask(broker, "asks", "expires")
            await until(lambda: has_asked(broker, expiring))
            cut = await ask(broker, "asks", "cut")
            await until(lambda: network.down)
            (request_id,) = await request_ids(broker, asking)
            await broker.answer_run(ALICE, asking, request_id, "yes")
            await asyncio.sleep(2)  # until it has expired
            network.restore()
            assert (await ended(broker, asking))["response"] == "yes"
            assert (await ended(broker, expiring))["error"]["code"] == "input_expired"
            await until(lambda: has_asked(broker, cut))
            (request_id,) = await request_ids(broker, cut)
            await broker.answer_run(ALICE, cut, request_id, "late")
            assert (await ended(broker, cut))["response"] == "late"


async def test_a_worker_that_was_cut_off_looks_as_soon_as_it_hears_again(
    settings: Settings, broker: Broker
) -> None:
    """A third of its lease is 40 s."""
    assert settings.redis_url is not None
    async with faulty_network(settings.redis_url) as network:
        settings = settings.model_copy(update={"redis_url": network.url, "lease_seconds": 120})
        worker = Worker(settings=settings)

        @worker.agent("asks")
        async def asks(run: Run) -> Any:
            return await run.ask("Go on?")

        async with worker.running():
            run_id = await ask(broker, "asks")
            await until(lambda: has_asked(broker, run_id))
            await asyncio.sleep(0.1)  # it has looked for the first time
            network.cut()
            await broker.answer_run(ALICE, run_id, (await request_ids(broker, run_id))[0], "yes")
            network.restore()
            assert (await ended(broker, run_id))["response"] == "yes"


async def test_a_run_without_a_worker_asks_as_well(settings: Settings, broker: Broker) -> None:
    async with Publisher(settings=settings) as publisher:
        async with publisher.run(user_id="alice", thread_id="t", agent_name="cron") as run:
            asking = asyncio.gather(run.ask("Send the report?"), run.ask("To whom?"))
            await until(lambda: has_asked(broker, run.id, 2))
            request_id, other = await request_ids(broker, run.id)
            await broker.answer_run(ALICE, run.id, request_id, {"send": True})
            assert await state(broker, run.id) == "waiting"
            await broker.answer_run(ALICE, run.id, other, ["bob"])
            assert list(await asking) == [{"send": True}, ["bob"]]
            assert await state(broker, run.id) == "running", "though it has said nothing since"
        with pytest.raises(RunNotFound):
            await broker.answer_run(NEIGHBOUR, run.id, request_id, {"send": True})


async def test_a_run_whose_question_is_over_waits_no_more(
    settings: Settings, broker: Broker
) -> None:
    """Nor does it for another one, once that is answered, though the first was never taken back."""
    async with (
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", thread_id="t", agent_name="cron") as run,
    ):
        with pytest.raises(InputExpired):
            await run.ask("Quick?", expires_seconds=0.2)
        assert await state(broker, run.id) == "running", "though it has said nothing since"
        asking = asyncio.create_task(run.ask("Go on?"))
        await until(lambda: has_asked(broker, run.id, 2))
        _, request_id = await request_ids(broker, run.id)
        await broker.answer_run(ALICE, run.id, request_id, "yes")
        assert await asking == "yes"
        assert await state(broker, run.id) == "running"


async def test_keys_live_no_longer_than_before(worker: Worker, broker: Broker) -> None:
    async with worker.running():
        run_id = await ask(broker, "asks", {"prompts": ["Go on?"]})
        await until(lambda: has_asked(broker, run_id))
        (request_id,) = await request_ids(broker, run_id)
        await broker.answer_run(ALICE, run_id, request_id, "yes")
        await ended(broker, run_id)
    keys = Keys(broker.keys.prefix)
    key = keys.run(keys.partition(ALICE), run_id)
    fields = await broker.client.execute("HKEYS", key)
    assert f"answer:{request_id}".encode() in fields
    assert f"ask:{request_id}".encode() not in fields
    ttl = await broker.client.execute("TTL", key)
    assert 0 < ttl <= broker.limits.kept_seconds
