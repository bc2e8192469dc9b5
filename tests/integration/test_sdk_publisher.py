"""Runs without a worker against a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from agents_sdk import (
    BrokerUnavailable,
    ConfigurationError,
    Publisher,
    PublishError,
    RunStopped,
)
from agents_sdk.testing import expect
from broker.channels import Scope
from broker.config import Settings
from broker.redis.broker import Broker
from tests.integration.sdk_rig import ALICE, ended, faulty_network, logged, until


@pytest.mark.parametrize("scope", ["user", "thread", "run"])
async def test_a_run_goes_to_the_channel_of_its_scope(
    settings: Settings, broker: Broker, scope: Literal["user", "thread", "run"]
) -> None:
    async with (
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", thread_id="t1", agent_name="report", scope=scope) as run,
    ):
        await run.think("counting")
        async with run.tool("count") as call:
            call.result = 3
        await run.write("three")
    name = {"user": "", "thread": "t1", "run": run.id}[scope]
    log = broker.keys.channel(ALICE, Scope(scope), name).log
    events = await logged(broker, log=log)
    expect(events).started("report started").thinking().tool("count", result=3)
    assert events[-1]["payload"]["response"] == "three"
    assert (await broker.run(ALICE, run.id))["status"] == "succeeded"


async def test_the_guides_emission_works_as_it_stands(settings: Settings, broker: Broker) -> None:
    async with (
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", agent_name="guide") as run,
    ):
        await run.emit_event("agent_started", {"message": "AI processing begun"})
        await run.emit_event("agent_thinking", {"thoughts": "Analyzing request..."})
        await run.emit_event("tool_executing", {"tool": "data_analyzer", "status": "running"})
        await run.emit_event("tool_completed", {"tool": "data_analyzer", "result": "..."})
        await run.emit_event("agent_completed", {"response": "Final AI response", "complete": True})
    chain = expect(await logged(broker, run.id)).started("AI processing begun").thinking()
    chain.tool("data_analyzer").completed(response="Final AI response").nothing_else()


async def test_an_exception_fails_the_run_and_is_raised(settings: Settings, broker: Broker) -> None:
    runs = []

    async def body(publisher: Publisher) -> None:
        async with publisher.run(user_id="alice", agent_name="report") as run:
            runs.append(run)
            raise ValueError("broken")

    async with Publisher(settings=settings) as publisher:
        with pytest.raises(ValueError, match="broken"):
            await body(publisher)
    payload = await ended(broker, runs[0].id)
    assert (payload["status"], payload["error"]["code"]) == ("failed", "value_error")


async def test_runs_of_one_thread_do_not_wait_for_each_other(
    settings: Settings, broker: Broker
) -> None:
    async with (
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", thread_id="t1", agent_name="one") as one,
        publisher.run(user_id="alice", thread_id="t1", agent_name="two") as two,
    ):
        await asyncio.gather(one.think("a"), two.think("b"))
    for run in (one, two):
        expect(await logged(broker, run.id)).started().thinking().completed().nothing_else()


async def test_a_subagents_run_is_on_the_same_channel(settings: Settings, broker: Broker) -> None:
    async with (
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", thread_id="t1", agent_name="report", scope="run") as run,
        run.subagent("searcher") as child,
    ):
        await child.think("…")
        async with child.subagent("reader") as grandchild:
            await grandchild.write("read")
    log = broker.keys.channel(ALICE, Scope.RUN, run.id).log
    events = await logged(broker, log=log)
    expect(events).subagent("searcher").started().thinking().completed()
    expect(events).subagent("reader").started().completed(response="read")
    assert {e["run_id"]: e.get("parent_run_id") for e in events} == {
        run.id: None,
        child.id: run.id,
        grandchild.id: child.id,
    }


async def test_a_stop_cancels_the_body(settings: Settings, broker: Broker) -> None:
    begun = asyncio.get_running_loop().create_future()

    async def body(publisher: Publisher) -> None:
        async with publisher.run(user_id="alice", agent_name="report") as run:
            begun.set_result(run.id)
            await asyncio.Event().wait()

    async with Publisher(settings=settings) as publisher:
        task = asyncio.create_task(body(publisher))
        run_id = await begun
        await broker.stop_run(ALICE, run_id)
        with pytest.raises(RunStopped):
            await task
    assert (await ended(broker, run_id))["error"]["code"] == "stopped"


async def test_an_outage_longer_than_asked_for_is_told_and_made_up_for(
    settings: Settings, broker: Broker
) -> None:
    assert settings.redis_url is not None
    async with faulty_network(settings.redis_url) as network:
        publisher = Publisher(
            settings=settings.model_copy(update={"redis_url": network.url}),
            publish_timeout_seconds=2,
        )
        async with publisher, publisher.run(user_id="alice", agent_name="report") as run:
            await run.think("before")
            network.cut()
            with pytest.raises(PublishError, match="not confirmed yet"):
                await run.think("meanwhile")
            network.restore()
            await until(lambda: _thoughts(broker, run.id, 2))
            await run.think("after")
    chain = expect(await logged(broker, run.id)).started().thinking("before")
    chain.thinking("meanwhile").thinking("after").completed().nothing_else()


async def test_what_redis_never_took_is_given_up_in_the_end_and_not_hung_upon(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents_sdk.publisher.FLUSH_SECONDS", 0.1)
    assert settings.redis_url is not None
    async with (
        faulty_network(settings.redis_url) as network,
        Publisher(
            settings=settings.model_copy(update={"redis_url": network.url}),
            publish_timeout_seconds=2,
        ) as publisher,
    ):
        scope = publisher.run(user_id="alice", agent_name="report")
        await scope.__aenter__()
        network.cut()
        with pytest.raises(PublishError):
            await scope.__aexit__(None, None, None)


async def test_a_run_whose_registration_lost_its_reply_is_opened_once(
    settings: Settings, broker: Broker
) -> None:
    assert settings.redis_url is not None
    async with faulty_network(settings.redis_url) as network:
        publisher = Publisher(settings=settings.model_copy(update={"redis_url": network.url}))
        async with publisher:
            network.lose_reply_to = b"report"
            async with publisher.run(user_id="alice", agent_name="report") as run:
                await run.think("opened")
        assert network.lost == 1
    expect(await logged(broker)).started().thinking("opened").completed().nothing_else()


async def test_no_redis_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents_sdk.link.START_SECONDS", 0.3)
    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    with pytest.raises(BrokerUnavailable):
        await Publisher(settings=nowhere).__aenter__()


async def test_a_closed_publisher_says_so() -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        Publisher().run(user_id="alice", agent_name="report")


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": ""},
        {"user_id": 5},
        {"agent_name": "a\nb"},
        {"thread_id": "x" * 300},
        {"scope": "world"},
        {"content": b"1"},
        {"metadata": "x"},
        {"metadata": ["x"]},
        {"metadata": {"x": b"1"}},
    ],
)
async def test_what_cannot_be_is_refused(settings: Settings, wrong: dict[str, Any]) -> None:
    async with Publisher(settings=settings) as publisher:
        given: dict[str, Any] = {"user_id": "alice", "agent_name": "report"} | wrong
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            publisher.run(**given)


async def _thoughts(broker: Broker, run_id: str, count: int) -> bool:
    events = await logged(broker, run_id)
    found: int = sum(each["type"] == "agent_thinking" for each in events)
    return found == count
