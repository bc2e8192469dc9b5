"""``GET /metrics``: what it says is what happened, and who may ask."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import psutil
import pytest
from pydantic import SecretStr

from agents_sdk import Publisher, Run, Worker
from agents_sdk.ids import new_id
from broker.channels import Owner
from broker.codec import head
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec
from gateway.app import Gateway
from gateway.metrics import METRICS, STAGES
from tests.integration.sdk_rig import ALICE, ask, ended, five, until, waits
from tests.support.clients import Client, eventually
from tests.support.limits import refusal
from tests.support.ports import free_port
from tests.support.promql import promtool, row_of
from tests.support.scraping import KEY, scrape, scraped
from tests.support.servers import (
    OPERATOR_KEY,
    Redis,
    running_fleet,
    running_redis,
    token,
    wait_until,
)
from tests.support.slow_reader import slow_reader

NOBODY = AgentSpec(name="nobody", on_busy="parallel")
"""An agent that no worker serves."""


async def abandon(broker: Broker, run_id: str) -> None:
    """Let its time pass until a sweeper has ended it."""
    leases = broker.keys.leases(broker.keys.partition(ALICE))

    async def has_ended() -> bool:
        await broker.client.execute("ZADD", leases, "XX", 1, run_id)
        state: str = (await broker.run(ALICE, run_id))["state"]
        return state == "completed"

    await until(has_ended)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"metrics_key": SecretStr(KEY), "lease_seconds": 2})


@pytest.fixture
def worker(settings: Settings) -> Worker:
    worker = Worker(settings=settings, concurrency=7)
    worker.agent("five")(five)
    worker.agent("waits")(waits)

    @worker.agent("lazy")
    async def lazy(run: Run) -> str:
        await run.think("no tool for me")
        return "done"

    return worker


async def answer(base: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{base}/metrics", headers=headers) as response,
    ):
        return response.status, (await response.text())


class Nobody:
    """A demo's login without users."""

    def session(self) -> dict[str, Any]:
        return {}

    def token(self, user: str) -> dict[str, Any] | None:
        del user
        return None


# --- who may


async def test_the_metrics_key_and_operators_may_scrape_and_nobody_else(base: str) -> None:
    for credential, wanted in {
        KEY: 200,
        OPERATOR_KEY: 200,
        token("op", operator=True): 200,
        token("op", operator=True, tenant="acme"): 403,
        token("alice"): 403,
        KEY + "x": 403,
        "": 403,
    }.items():
        status, text = await answer(base, Authorization=f"Bearer {credential}")
        assert status == wanted, credential
        assert status == 200 or "runcast_" not in text
    assert (await answer(base))[0] == 401


async def test_without_a_metrics_key_only_operators_may(settings: Settings) -> None:
    async with Gateway(settings.model_copy(update={"metrics_key": None})) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        for credential in (KEY, "None", ""):
            assert (await answer(base, Authorization=f"Bearer {credential}"))[0] == 403
        assert (await answer(base))[0] == 401
        assert (await answer(base, Authorization=f"Bearer {OPERATOR_KEY}"))[0] == 200


async def test_the_demo_answers_programs_on_this_machine(settings: Settings) -> None:
    async with Gateway(settings, demo=Nobody()) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        assert (await answer(base))[0] == 200
        assert (await answer(base, **{"X-Forwarded-For": "10.0.0.1"}))[0] == 401
        assert (await answer(base, Host="evil.example"))[0] == 401


# --- connections


async def test_connections_by_mode_and_transport_refusals_and_closes(
    gateway: Gateway, base: str
) -> None:
    before = await scrape(base)
    assert before("runcast_closes_total", code="4408") == 0
    assert {"code": "4408", "process": "0"} in before.labels("runcast_closes_total")
    bearer = {"Authorization": f"Bearer {token('bob')}"}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        one, two, other = [await enter(Client(base)) for _ in range(3)]
        strict = await enter(Client(base, mode="factory", isolation_level="strict"))
        for client in (one, two, other, strict):
            await client.first("live")
        http = await enter(aiohttp.ClientSession(headers=bearer))
        stream = await enter(http.get(f"{base}/sse"))
        now = await scrape(base)
        there = {"mode": "main", "process": "0"}
        assert now("runcast_connections", transport="websocket", **there) == 3
        assert now("runcast_connections", transport="sse", **there) == 1
        assert now("runcast_connections", mode="factory") == 1
        assert now("runcast_connects_total") == 5
        assert now("runcast_channels") == 2, "alice's and bob's: the strict one reads no run yet"

        assert (await refusal(base, token="rubbish"))[0] == 401
        assert (await refusal(base, query={"mode": "nonsense"}))[0] == 400
        await one.send("nonsense", ref="n")
        await one.reply("n")
        await one.ws.close(code=1000)
        await two.ws.close(code=4321)
        other.ws._response.connection.transport.abort()  # type: ignore[union-attr]
        stream.close()
        await eventually(lambda: len(gateway.node.sockets) == 1)
        gateway.node.draining = True
        assert (await scrape(base))("runcast_draining") == 1
        gateway.node.draining = False
        async with http.post(
            f"{base}/api/v1/admin/users/alice/disconnect",
            json={},
            headers={"Authorization": f"Bearer {OPERATOR_KEY}"},
        ) as response:
            assert response.status == 202
        assert await strict.closed() == 1001
        now = await scraped(base, lambda told: told("runcast_connections") == 0)
        refused = {each["code"]: now("runcast_refused_total", **each)
                   for each in now.labels("runcast_refused_total")}  # fmt: skip
        assert refused == {"unauthorized": 1, "invalid_mode": 1, "unknown_type": 1}
        closes = {each["code"]: now("runcast_closes_total", **each)
                  for each in now.labels("runcast_closes_total")}  # fmt: skip
        assert {code: count for code, count in closes.items() if count} == {
            "1000": 1, "1001": 1, "lost": 2, "other": 1,
        }  # fmt: skip
        assert now("runcast_connects_total") == 5


async def test_a_resync_is_counted_by_its_reason(base: str) -> None:
    async with Client(base, after="no-cursor") as client:
        await client.first("resync", reason="unknown_cursor")
        now = await scrape(base)
    assert now("runcast_resyncs_total", reason="unknown_cursor") == 1
    assert now("runcast_resyncs_total") == 1
    assert len(now.labels("runcast_resyncs_total")) == 4, "those that never were are told as 0"


async def test_an_event_of_somebody_else_is_counted(gateway: Gateway, base: str) -> None:
    async with Client(base) as client:
        await client.first("live")
        (feed,) = gateway.node.relay.hub.feeds()
        words = head(Owner("", "mallory"), "t", "r")
        event = b"%b 9999999999999-0 %b 1 agent_thinking\n{}"
        message = event.replace(b"%b", feed.follower.raw, 1).replace(b"%b", words, 1)
        previous, _, rest = message.partition(b" ")
        event_id, _, rest = rest.partition(b" ")
        await gateway.node.client.publish(feed.channel.live, b" ".join((event_id, previous, rest)))
        now = await scraped(base, lambda told: told("runcast_isolation_violations_total") > 0)
        assert now("runcast_isolation_violations_total") == 1
        assert now("runcast_events_delivered_total") == 0


# --- runs


async def test_runs_queues_workers_and_latencies_and_every_metric_is_told(
    base: str, worker: Worker, broker: Broker
) -> None:
    """What promtool thinks of it, too."""
    await broker.announce([NOBODY])
    assert (await refusal(base, token="rubbish"))[0] == 401
    async with worker.running(), Client(base) as client:
        await client.first("live")
        for agent in ("five", "lazy"):
            run_id = await client.ask("go", ref=agent, agent=agent)
            await client.completed(run_id)
        waiting = await client.ask("go", ref="waits", agent="waits")
        lost = await client.ask("go", ref="nobody", agent="nobody")
        await client.first("agent_thinking", thoughts="until you stop me")
        now = await scraped(
            base,
            lambda told: (
                told("runcast_runs_open", agent="waits", state="running") == 1
                and told("runcast_workers_running", agent="waits") == 1
                and told("runcast_delivery_stage_seconds_count", stage="sdk_to_redis") > 0
                and told("runcast_redis_round_trip_seconds_count") > 0
            ),
        )
        assert now("runcast_messages_accepted_total") == 4
        assert now("runcast_runs_ended_total", agent="five", status="succeeded") == 1
        assert now("runcast_runs_ended_total", agent="five") == 1
        assert now("runcast_runs_incomplete_total", agent="five") == 0
        assert now("runcast_runs_incomplete_total", agent="lazy") == 1
        assert now("runcast_runs_events_total", agent="five") == 5
        assert now("runcast_runs_open", agent="nobody", state="queued") == 1
        assert now("runcast_queue_requests", agent="nobody") == 1
        assert now("runcast_queue_oldest_seconds", agent="nobody") > 0
        assert now("runcast_queue_requests", agent="five") == 0
        assert now("runcast_queue_oldest_seconds", agent="five") == 0
        assert now("runcast_workers", agent="five") == 1
        assert now("runcast_workers_capacity", agent="five") == 7
        assert now("runcast_workers", agent="nobody") == 0
        assert now("runcast_gateways") == now("runcast_fleet_up") == now("runcast_ready") == 1
        published = len(client.logged())
        assert now("runcast_events_published_total") == published
        assert now("runcast_events_delivered_total") == published
        assert now("runcast_delivery_seconds_count") > 0
        for stage in STAGES:
            assert now("runcast_delivery_stage_seconds_count", stage=stage) > 0
        check_all_is_told(now.text, [name for name, _ in now.values])

        await abandon(broker, lost)
        now = await scraped(
            base, lambda told: told("runcast_runs_ended_total", status="abandoned") == 1
        )
        assert now("runcast_runs_ended_total", agent="nobody", status="abandoned") == 1
        await client.send("stop_agent", {"run_id": waiting}, ref="s")
        await client.completed(waiting)
    now = await scraped(base, lambda told: told("runcast_workers", agent="five") == 0)
    assert now("runcast_runs_ended_total", agent="waits", status="cancelled") == 1


def check_all_is_told(text: str, names: list[str]) -> None:
    rows = [row_of(name) for name in names]
    assert None not in rows, "a sample of no metric of the table"
    assert {row.name for row in rows if row is not None} == METRICS.keys()
    promtool("check", "metrics", given=text.encode())


async def test_what_the_sweeper_ends_is_counted(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    await broker.announce([NOBODY])
    run_id = await ask(broker, "nobody")
    now = await scraped(base, lambda told: told("runcast_sweeper_active") == 1)
    assert now("runcast_sweeper_runs_ended_total") == 0
    await abandon(broker, run_id)
    assert (await ended(broker, run_id))["status"] == "abandoned"
    now = await scraped(base, lambda told: told("runcast_sweeper_runs_ended_total") > 0)
    assert now("runcast_sweeper_runs_ended_total", status="abandoned") == 1
    assert now("runcast_sweeps_total") > 0


async def test_a_client_that_does_not_keep_up_is_seen_and_what_waits_for_it(
    base: str, settings: Settings
) -> None:
    async with (
        slow_reader(base, "alice") as reader,
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", agent_name="large") as run,
    ):
        for number in range(200):
            await run.think(f"{number} {'x' * 32_768}")
        now = await scraped(base, lambda told: told("runcast_clients_lagging") == 1)
        assert now("runcast_outbox_bytes") > 500_000
        await run.think("last")
        await reader.until(lambda: reader.frames[-1]["payload"].get("thoughts") == "last")
        now = await scraped(
            base,
            lambda told: told("runcast_clients_lagging") == told("runcast_outbox_bytes") == 0,
        )
        assert now("runcast_events_replayed_total") > 0


# --- Redis


@pytest.fixture
async def own_redis() -> AsyncIterator[Redis]:
    with running_redis() as redis:
        yield redis


@pytest.mark.timeout(180)  # probes come every 5 s, and it has to be silent for longer
async def test_while_redis_stands_still_the_gateways_own_figures_are_told(
    own_redis: Redis, settings: Settings
) -> None:
    async with Gateway(settings.model_copy(update={"redis_url": own_redis.url})) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base) as client:
            await client.first("live")
            first = await scraped(base, lambda told: told("runcast_redis_probe_seconds_count") > 0)
            assert first("runcast_fleet_up") == first("runcast_subscriber_hearing") == 1
            assert first("runcast_gateways") == 1
            own_redis.running.popen.send_signal(signal.SIGSTOP)
            try:
                now = await scraped(base, lambda told: told("runcast_fleet_up") == 0)
                assert now("runcast_connections") == 1
                assert not now.labels("runcast_gateways")
                await scraped(
                    base,
                    lambda told: (
                        told("runcast_subscriber_silence_seconds") > 7
                        and told("runcast_ready") == 0
                    ),
                )
            finally:
                own_redis.running.popen.send_signal(signal.SIGCONT)
            await scraped(
                base,
                lambda told: (
                    told("runcast_fleet_up") == told("runcast_ready") == 1
                    and told("runcast_subscriber_silence_seconds") < 7
                ),
            )
            own_redis.kill()
            now = await scraped(base, lambda told: told("runcast_redis_connected") == 0)
            assert now("runcast_subscriber_hearing") == 0
            own_redis.start()
            now = await scraped(base, lambda told: told("runcast_redis_connected") == 1)
            await scraped(base, lambda told: told("runcast_subscriber_reconnects_total") > 0)


# --- several


async def test_two_gateways_say_the_same_of_the_fleet_and_their_own_of_themselves(
    settings: Settings, broker: Broker
) -> None:
    await broker.announce([NOBODY])
    await ask(broker, "nobody")
    async with Gateway(settings) as one, Gateway(settings) as other:
        bases = [f"http://127.0.0.1:{each.port}" for each in (one, other)]
        async with Client(bases[0]) as client:
            await client.first("live")
            told = [
                await scraped(base, lambda told: told("runcast_gateways") == 2) for base in bases
            ]
            assert [each("runcast_connections") for each in told] == [1, 0]
            assert [each("runcast_queue_requests", agent="nobody") for each in told] == [1, 1]

            async def active() -> list[float]:
                return [(await scrape(base))("runcast_sweeper_active") for base in bases]

            while sorted(await active()) != [0, 1]:  # noqa: ASYNC110 - it is asked for
                await asyncio.sleep(0.05)
            opens = [(await scrape(base))("runcast_runs_open", agent="nobody") for base in bases]
            assert sorted(opens) == [0, 1], "the one that sweeps says it"


async def test_one_scrape_has_all_processes_whichever_is_asked(own_redis: Redis) -> None:
    port, count = free_port(), 3
    base = f"http://127.0.0.1:{port}"
    with running_fleet(own_redis, RUNCAST_METRICS_KEY=KEY) as fleet:
        process = fleet.runcast(
            "gateway", "--port", str(port), "--processes", str(count), name="gateway"
        )
        wait_until(
            lambda: process.runs() and f"{count} processes" in process.printed(), what="they serve"
        )
        async with AsyncExitStack() as stack:
            for number in range(9):
                client = await stack.enter_async_context(Client(base, f"user-{number}"))
                await client.first("live")
            for _ in range(10):  # each on a connection of its own, given to any of them
                now = await scraped(base, lambda told: told("runcast_process_up") == count)
                assert now("runcast_processes") == count
                assert now("runcast_connections") == now("runcast_connects_total") == 9
                names = {each["process"] for each in now.labels("runcast_ready")}
                assert names == {"0", "1", "2"}
                assert len(now.labels("runcast_gateways")) == 1
            starts = {each["process"]: now("process_start_time_seconds", **each)
                      for each in now.labels("process_start_time_seconds")}  # fmt: skip
            children = [
                each
                for each in psutil.Process(process.popen.pid).children()
                if "spawn_main" in " ".join(each.cmdline())
            ]
            assert len(children) == len(starts) == count
            still = children[1]
            still.send_signal(signal.SIGSTOP)
            try:
                # The kernel gives connections to the one that stands still, too: of so many side
                # by side one in 3 ** 12 would wait for it alone.
                asked = [asyncio.create_task(scrape(base, seconds=60)) for _ in range(12)]
                now = await next(asyncio.as_completed(asked))
                for each in asked:
                    each.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            finally:
                still.send_signal(signal.SIGCONT)
            assert now("runcast_processes") == 3
            assert now("runcast_process_up") == 2
            assert len(now.labels("runcast_ready")) == 2
            await scraped(base, lambda told: told("runcast_process_up") == 3)
        process.end()


async def test_no_user_tenant_or_run_is_told(base: str, worker: Worker) -> None:
    user, tenant, thread = (f"secret-{new_id()}" for _ in range(3))
    async with (
        worker.running(),
        Client(base, token=token(user, tenant=tenant), thread_id=thread) as client,
    ):
        await client.first("live")
        run_id = await client.ask("a secret question", agent="five", thread_id=thread)
        await client.completed(run_id)
        now = await scrape(base)
    assert now("runcast_messages_accepted_total") == 1
    for secret in (user, tenant, thread, run_id, client.frames[0]["payload"]["connection_id"]):
        assert secret not in now.text
    assert "secret" not in now.text
