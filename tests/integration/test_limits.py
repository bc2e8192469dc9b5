"""Limits over the fleet: counted once, at whatever gateway, and refused as documented."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents_sdk.ids import new_id
from broker.bucket import Bucket
from broker.channels import Keys, Owner
from broker.config import Settings, load_settings
from broker.errors import BrokerUnavailable, LimitReached
from broker.limits import Allowance
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec
from broker.redis.store import Limits
from broker.redis.topology import new_client
from gateway import admission
from gateway.app import Gateway
from tests.integration.sdk_rig import alices, expire, until
from tests.support.clients import Client
from tests.support.limits import (
    ALICE,
    limited,
    refusal,
    said,
    seats,
    seats_are,
    two_gateways,
)
from tests.support.redis_cluster import cluster_redis
from tests.support.redis_server import servers, standalone
from tests.support.servers import OPERATOR_KEY, READY_SECONDS, SECRET, running_redis, token

ANY = AgentSpec(name="any", on_busy="parallel")
ACME = Owner("acme", "")
AMPLE = Allowance(
    connections=9, connects_per_second=9, messages_per_minute=9, runs=9, queued_runs=9, threads=9
)


@pytest.fixture(autouse=True)
async def announced(broker: Broker) -> None:
    await broker.announce([ANY])


@asynccontextmanager
async def connected(*clients: Client) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
            await client.first("live")
        yield


# --- connections


async def test_connections_are_counted_over_the_fleet(settings: Settings, broker: Broker) -> None:
    async with two_gateways(settings, max_connections_per_user=3) as (one, other):
        async with connected(Client(one), Client(one), Client(other)):
            for base in (one, other):
                told = await refusal(base)
                assert told[:3] == (429, "too_many_connections", "5")
                assert told[3] == "at most 3 connections per user"
            async with connected(Client(one, "bob")):
                pass
            await seats_are(broker, 3)
        await seats_are(broker, 0)
        async with connected(Client(other), Client(other), Client(one)):
            pass


@pytest.mark.parametrize("rounds", [3])
async def test_of_a_hundred_connects_at_once_exactly_as_many_as_allowed_get_in(
    settings: Settings, broker: Broker, rounds: int
) -> None:
    async with two_gateways(settings, max_connections_per_user=10, connects_per_second=1000) as at:
        for turn in range(rounds):
            owner = Owner("", f"crowd-{turn}")
            clients = [Client(at[number % 2], owner.user) for number in range(100)]
            opened = await asyncio.gather(
                *(client.__aenter__() for client in clients), return_exceptions=True
            )
            served = [each for each in opened if isinstance(each, Client)]
            refused = [each for each in opened if isinstance(each, aiohttp.WSServerHandshakeError)]
            assert len(served) == 10
            assert [each.status for each in refused] == [429] * 90
            await seats_are(broker, 10, owner)
            await asyncio.gather(*(client.__aexit__() for client in served))
            await seats_are(broker, 0, owner)


async def test_connects_are_limited_over_the_fleet_and_the_wait_is_told(
    settings: Settings,
) -> None:
    """A burst of all connections twice and a second's more; then as fast as they flow in."""
    changed = {"max_connections_per_user": 2, "connects_per_second": 1}
    async with two_gateways(settings, **changed) as at:
        let_in = 0
        status, after = 101, None
        while status == 101:
            client = Client(at[let_in % 2])
            try:
                await client.__aenter__()
            except aiohttp.WSServerHandshakeError as error:
                status, after = error.status, error.headers["Retry-After"]  # type: ignore[index]
            else:
                let_in += 1
                await client.__aexit__()
        assert (status, after) == (429, "1")
        assert let_in >= 5
        told = await refusal(at[0])
        assert told == (
            429,
            "too_many_connects",
            "1",
            "at most 1 new connections a second per user",
        )
        async with connected(Client(at[0], "bob")):
            pass


async def test_all_tabs_of_a_user_get_in_when_they_come_back_at_once(settings: Settings) -> None:
    """The defaults: fifty, and all of them again, within whatever time."""
    async with Gateway(settings) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        for _ in range(2):
            clients = [Client(base) for _ in range(settings.max_connections_per_user)]
            await asyncio.gather(*(client.__aenter__() for client in clients))
            await asyncio.gather(*(client.__aexit__() for client in clients))
            await until(lambda: not gateway.node.sockets)


async def test_a_browser_is_told_by_close_code(settings: Settings) -> None:
    async with two_gateways(settings, max_connections_per_user=1) as (one, other):
        port = int(other.rpartition(":")[2])
        async with connected(Client(one)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(handshake(port, f"Origin: {other}"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            closing = await reader.read()
            assert closing[:2] == bytes((0x88, len(closing) - 2))
            assert int.from_bytes(closing[2:4], "big") == 4429
            writer.close()


async def test_a_claim_raises_and_lowers(settings: Settings, broker: Broker) -> None:
    async with two_gateways(settings, max_connections_per_user=2, messages_per_minute=2) as at:
        async with connected(*(Client(at[n % 2], token=limited(connections=3)) for n in range(3))):
            assert (await refusal(at[0]))[1] == "too_many_connections"
            assert (await refusal(at[1], token=limited(connections=3)))[3].startswith("at most 3 ")
        async with connected(Client(at[0], token=limited("bob", connections=1))):
            assert (await refusal(at[1], token=limited("bob", connections=1)))[0] == 429
        assert (await refusal(at[0], token=limited("eve", connections=0)))[0] == 429
        assert (await refusal(at[0], token=limited("ed", connects_per_second=0)))[2] == "1"
        async with Client(at[0], token=limited("carol", messages_per_minute=3)) as carol:
            answers = [await said(carol, f"m{number}") for number in range(4)]
            assert [each.get("code") for each in answers] == [None, None, None, "rate_limited"]
            await carol.send("auth_refresh", {"token": limited("carol", messages_per_minute=6000)})

            async def accepted() -> bool:
                return "run_id" in await said(carol, new_id())

            await until(accepted)


@pytest.mark.parametrize("fault", ["a bad run", "gone before the upgrade", "another's channel"])
async def test_what_does_not_come_in_leaves_no_seat(
    settings: Settings, broker: Broker, fault: str
) -> None:
    """Refused after its seat was taken, or away when the upgrade would have come."""
    async with Gateway(settings) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        queries: dict[str, dict[str, str]] = {
            "a bad run": {"mode": "factory", "isolation_level": "strict", "run_id": "none"},
            "another's channel": {"mode": "isolated", "connection": "none", "secret": "none"},
        }
        for _ in range(20):
            if fault in queries:
                assert (await refusal(base, query=queries[fault]))[0] == 403
                continue
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(handshake(gateway.port))
            await writer.drain()
            writer.transport.abort()
        await until(lambda: not gateway.node.seats._arriving and not gateway.node.sockets)
        await seats_are(broker, 0)


async def test_seats_that_redis_lost_are_told_again_within_a_heartbeat(
    settings: Settings, broker: Broker
) -> None:
    async with (
        two_gateways(settings, heartbeat_seconds=1) as (one, other),
        connected(Client(one), Client(one), Client(other)),
    ):
        await broker.client.execute("DEL", broker.keys.seats(ALICE))
        await seats_are(broker, 3)
        ttl = await broker.client.execute("PTTL", broker.keys.seats(ALICE))
        assert 0 < ttl <= 10_000


async def test_a_gateway_that_ends_gives_its_seats_up(settings: Settings, broker: Broker) -> None:
    async with AsyncExitStack() as stack:
        async with Gateway(settings) as gateway:
            client = Client(f"http://127.0.0.1:{gateway.port}")
            await stack.enter_async_context(client)
            await client.first("live")
            assert await seats(broker) == 1
        assert await seats(broker) == 0


async def test_the_seats_of_a_gateway_that_lives_are_not_taken(
    settings: Settings, broker: Broker
) -> None:
    """However often somebody else wants one; those of one that is gone are, at once."""
    async with two_gateways(settings, max_connections_per_user=2) as (one, other):
        async with connected(Client(one), Client(one)):
            for _ in range(3):
                assert (await refusal(other))[0] == 429
            await broker.client.execute("HSET", broker.keys.seats(ALICE), "gone", 7)
            assert (await refusal(other))[0] == 429
            assert await seats(broker) == 2
        await seats_are(broker, 0)
        await broker.client.execute("HSET", broker.keys.seats(ALICE), "gone", 7)
        async with connected(Client(other), Client(one)):
            assert await seats(broker) == 2


def handshake(port: int, *lines: str) -> bytes:
    """As a client sends it that sees what comes back."""
    head = (
        "GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Authorization: Bearer {token()}", *lines,
    )  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode()


# --- messages, runs, threads


async def test_messages_are_counted_over_the_fleet(settings: Settings) -> None:
    """In turns at two gateways; the wait is told, and the same message again is no new one."""
    async with (
        two_gateways(settings, messages_per_minute=4) as (one, other),
        Client(one) as first,
        Client(other) as second,
    ):
        for number in range(4):
            told = await said((first, second)[number % 2], f"m{number}")
            assert told["duplicate"] is False
        for client in (first, second):
            told = await said(client, "over")
            assert (told["code"], told["retryable"]) == ("rate_limited", True)
            assert told["message"] == "at most 4 messages a minute per user"
            assert 0 < told["retry_after_ms"] <= 15_000
        again = await said(second, "m0")
        assert again["duplicate"] is True


async def test_of_a_hundred_messages_at_once_exactly_as_many_as_allowed_are_accepted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FLOOD_FACTOR", 100)
    async with two_gateways(settings, messages_per_minute=10) as at:
        clients = [Client(at[number % 2]) for number in range(20)]
        async with connected(*clients):
            answers = await asyncio.gather(
                *(said(client, new_id()) for client in clients for _ in range(5))
            )
        assert sum("run_id" in each for each in answers) == 10


async def test_open_and_waiting_runs_are_limited(settings: Settings, broker: Broker) -> None:
    """Runs that the SDK opens count, and are not refused."""
    few = {"max_runs_per_user": 3, "max_queued_runs_per_user": 2}
    async with (
        two_gateways(settings, **few) as (one, other),
        Client(one) as first,
        Client(other) as second,
    ):
        run = (await said(first, "m1"))["run_id"]
        waiting = (await said(second, "m2"))["run_id"]
        full = await said(first, "m3")
        assert (full["code"], full["retryable"], full["retry_after_ms"]) == (
            "queue_full", True, 1000,
        )  # fmt: skip
        assert full["message"] == "at most 2 runs that wait for a worker per user"
        claim = await broker.claim(broker.keys.partition(ALICE), run, worker_id="w")
        assert claim is not None
        last = (await said(first, "m4"))["run_id"]  # one of them has a worker now
        request = alices(broker, agent="any")
        await broker.open_run(request, ANY, worker_id="w")
        over = await said(first, "m5")
        assert (over["code"], over["message"]) == (
            "rate_limited",
            "at most 3 open runs per user",
        )
        assert len(await open_runs(broker)) == 4
        await second.send("stop_agent", {"run_id": waiting}, ref="s1")
        await second.send("stop_agent", {"run_id": last}, ref="s2")
        await second.completed(last)
        assert await open_runs(broker) == {run: b"1", request.run_id: b"1"}
        assert "run_id" in await said(first, "m6")


async def test_a_run_whose_worker_was_lost_waits_for_one_again(
    settings: Settings, broker: Broker
) -> None:
    await broker.announce([AgentSpec(name="again", retries=1, on_busy="parallel")])
    async with (
        two_gateways(settings, max_queued_runs_per_user=1) as (one, _),
        Client(one) as client,
    ):
        run = (await said(client, "m1", agent="again"))["run_id"]
        assert await broker.claim(broker.keys.partition(ALICE), run, worker_id="w")
        assert await open_runs(broker) == {run: b"1"}
        await expire(broker, run)
        assert await open_runs(broker) == {run: b"0"}
        assert (await said(client, "m2", agent="again"))["code"] == "queue_full"


async def test_a_run_that_is_gone_holds_no_place(settings: Settings, broker: Broker) -> None:
    """Expired, or lost in a failover: nobody writes its end."""
    async with two_gateways(settings, max_runs_per_user=1) as (one, _), Client(one) as client:
        run = (await said(client, "m1"))["run_id"]
        assert (await said(client, "m2"))["code"] == "rate_limited"
        await broker.client.execute("DEL", broker.keys.run(broker.keys.partition(ALICE), run))
        assert "run_id" in await said(client, "m3")


async def test_threads_are_limited_and_the_wait_is_told(settings: Settings, broker: Broker) -> None:
    async with (
        two_gateways(settings, max_threads_per_user=2) as (one, other),
        Client(one) as first,
        Client(other) as second,
    ):
        await said(first, "m1", thread_id="a")
        await said(second, "m2", thread_id="b")
        over = await said(second, "m3", thread_id="c")
        whole = broker.limits.kept_seconds * 1000
        assert over["code"] == "rate_limited"
        assert over["message"].startswith("at most 2 threads per user; the one used longest ago")
        assert whole / 2 < over["retry_after_ms"] <= whole
        assert "run_id" in await said(second, "m4", thread_id="a")
        key = broker.keys.threads(ALICE)
        assert await broker.client.execute("ZRANGE", key, 0, -1) == [b"b", b"a"]
        await broker.client.execute("ZADD", key, 1, "b")  # unused for the retention time
        assert "run_id" in await said(second, "m5", thread_id="c")
        assert await broker.client.execute("ZRANGE", key, 0, -1) == [b"a", b"c"]


async def test_whoever_goes_on_although_he_is_refused_is_closed(settings: Settings) -> None:
    async with (
        two_gateways(settings, messages_per_minute=2) as (one, _),
        Client(one) as client,
        Client(one) as bystander,
    ):
        for number in range(2 + 2 * admission.FLOOD_FACTOR + 1):
            await client.send("user_message", {"content": "x"}, ref=f"m{number}")
        assert await client.closed() == 4429
        await bystander.send("ping", ref="p")
        await bystander.reply("p")


async def test_frames_without_end_close_the_connection(settings: Settings) -> None:
    """Pings are answered at once: as fast as they come they would hold up everybody else."""
    async with Gateway(settings.model_copy(update={"messages_per_minute": 1})) as gateway:
        gateway.node.frames = Bucket(capacity=50, interval_us=1_000_000)
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base) as client, Client(base) as bystander:
            with suppress(aiohttp.ClientConnectionResetError):
                for number in range(500):
                    await client.send("ping", ref=f"p{number}")
            assert await client.closed() == 4429
            pongs = sum(frame["type"] == "pong" for frame in client.frames)
            assert 50 <= pongs < 500
            await bystander.send("ping", ref="p")
            await bystander.reply("p")


# --- tenants


async def test_the_users_of_a_tenant_share_its_connections(
    settings: Settings, broker: Broker
) -> None:
    rows = {"acme": {"connections": 2}}
    async with two_gateways(with_rows(settings, rows)) as (one, other):
        async with connected(
            Client(one, token=token("a", tenant="acme")),
            Client(other, token=token("b", tenant="acme")),
        ):
            told = await refusal(one, token=token("c", tenant="acme"))
            assert told == (
                429, "too_many_connections", "5", "at most 2 connections per tenant",
            )  # fmt: skip
            await seats_are(broker, 2, ACME)
            async with connected(
                Client(one, token=token("a", tenant="umbrella")), Client(other, "a")
            ):
                assert await seats(broker, Owner("umbrella", "")) == 0, "it has no such limit"
        await seats_are(broker, 0, ACME)
        await seats_are(broker, 0, Owner("acme", "c"))


async def test_the_users_of_a_tenant_share_its_messages_and_one_cannot_take_them_all(
    settings: Settings,
) -> None:
    """What is refused to a user costs his tenant nothing, nor does the same message again."""
    rows: dict[str, Any] = {"acme": {"messages_per_minute": 4, "user": {"messages_per_minute": 2}}}
    async with two_gateways(with_rows(settings, rows)) as (one, other):
        greedy = Client(one, token=token("greedy", tenant="acme"))
        modest = Client(other, token=token("modest", tenant="acme"))
        late = Client(other, token=token("late", tenant="acme"))
        async with greedy, modest, late, Client(one, token=token("a", tenant="umbrella")) as others:
            for number in range(6):
                told = await said(greedy, f"m{number}")
                assert ("run_id" in told) == (number < 2)
            assert told["message"] == "at most 2 messages a minute per user"
            for _ in range(5):
                async with Client(other, token=token("greedy", tenant="acme")) as tab:
                    assert (await said(tab, "m0"))["duplicate"] is True
            for number in range(2):
                assert "run_id" in await said(modest, f"m{number}")
            told = await said(late, "over")
            assert (told["code"], told["retryable"]) == ("rate_limited", True)
            assert told["message"] == "at most 4 messages a minute per tenant"
            assert 0 < told["retry_after_ms"] <= 15_000
            assert "run_id" in await said(others, "m0")


async def test_the_users_of_a_tenant_share_its_runs(settings: Settings, broker: Broker) -> None:
    """What ended is no more of them, whether it was told or not."""
    rows = {"*": {"runs": 2}}
    async with two_gateways(with_rows(settings, rows)) as (one, other):
        first = Client(one, token=token("a", tenant="acme"))
        second = Client(other, token=token("b", tenant="acme"))
        async with first, second, Client(one, token=token("a", tenant="umbrella")) as others:
            run = (await said(first, "m1"))["run_id"]
            held = (await said(second, "m2"))["run_id"]
            told = await said(first, "m3")
            assert (told["code"], told["message"]) == (
                "rate_limited", "at most 2 open runs per tenant",
            )  # fmt: skip
            assert "run_id" in await said(others, "m1")
            await first.send("stop_agent", {"run_id": run}, ref="s")
            await first.completed(run)
            await until(lambda: count(broker, ACME, 1))
            assert "run_id" in await said(first, "m4")
            owner = Owner("acme", "b")
            lost = broker.keys.run(broker.keys.partition(owner), held)
            await broker.client.execute("DEL", lost)  # its end will never be told
            places = broker.keys.runs(ACME)
            for word in await broker.client.execute("ZRANGE", places, 0, -1):
                # As if it were some time ago: what has no record may be about to be registered.
                await broker.client.execute("ZADD", places, "XX", 1, word)

            async def accepted() -> bool:
                return "run_id" in await said(first, new_id())

            await until(accepted)


# --- figures


async def test_figures_by_tenant_and_by_code(settings: Settings) -> None:
    """An operator of a tenant sees that tenant's alone."""
    async with two_gateways(settings, messages_per_minute=1) as (one, other):
        acme = Client(one, token=token("a", tenant="acme"))
        async with acme, Client(other, token=token("b", tenant="umbrella")), Client(one, "carol"):
            await said(acme, "m1")
            await said(acme, "m2")
            assert (await refusal(one, headers={}))[0] == 401
            everyone = await stats(one, OPERATOR_KEY)
            assert everyone["gateway"]["by_tenant"] == {
                "acme": {"connections": 1, "messages": 1, "refused": 1}
            }
            assert everyone["gateway"]["refused"] == {"rate_limited": 1, "unauthorized": 1}
            text = str(everyone)
            assert "carol" not in text
            tenant = await stats(one, token("boss", tenant="acme", operator=True))
            assert tenant["gateway"].keys() == {"by_tenant", "uptime_seconds"}
            assert tenant["gateway"]["by_tenant"] == everyone["gateway"]["by_tenant"]
            assert "umbrella" not in str(tenant)
            nobody = await stats(one, token("boss", tenant="none", operator=True))
            assert nobody["fleet"]["by_tenant"] == {
                "none": {"connections": 0, "messages": 0, "refused": 0}
            }
            whole = await stats(one, token("root", operator=True))
            assert whole["gateway"].keys() == everyone["gateway"].keys()


async def test_the_limits_are_in_the_configuration(settings: Settings) -> None:
    async with (
        Gateway(settings) as gateway,
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{gateway.port}/ws/config") as response,
    ):
        told = (await response.json())["limits"]
    assert told == {
        "max_message_bytes": 65536, "max_event_bytes": 262144, "max_connections_per_user": 50,
        "connects_per_second": 10, "messages_per_minute": 120, "max_runs_per_user": 200,
        "max_queued_runs_per_user": 100, "max_threads_per_user": 10_000,
    }  # fmt: skip


# --- a full Redis


async def test_a_redis_without_memory_begins_no_run() -> None:
    """It began them beyond its maxmemory, though all else of a run was refused from then on."""
    with running_redis() as redis:
        client = new_client(redis.url, name="test")
        await client.start(timeout_seconds=READY_SECONDS)
        try:
            broker = Broker(client, keys=Keys("full"))
            await client.execute("CONFIG", "SET", "maxmemory", 1)
            for allowance in (AMPLE, None):
                request = alices(broker, agent="any", message_id=new_id(), allowance=allowance)
                with pytest.raises(BrokerUnavailable, match="OOM"):
                    await broker.register(request, ANY, epoch_ms=0)
            assert await client.execute("KEYS", "full:*") == []
        finally:
            await client.stop()


# --- every Redis


@pytest.mark.timeout(300)
@pytest.mark.parametrize("binary", [*servers(), "cluster"])
async def test_limits_hold_on_every_redis(binary: Path | str) -> None:
    """Connections, messages, runs, threads, and a tenant's, whose keys are in another slot."""
    running = standalone(binary) if isinstance(binary, Path) else cluster_redis()
    rows = {"acme": {"connections": 2, "messages_per_minute": 3, "runs": 2}}
    with running as redis:
        settings = load_settings(
            redis_url=redis.url, prefix="every", jwt_secret=SECRET, port=0, drain_seconds=0,
            max_threads_per_user=2, max_runs_per_user=1, tenant_limits=rows,
        )  # fmt: skip
        client = new_client(redis.url, name="test")
        await client.start()
        broker = Broker(client, keys=Keys("every"), limits=Limits.of(settings))
        await broker.announce([ANY])
        async with two_gateways(settings) as (one, other):
            first = Client(one, token=token("a", tenant="acme"))
            second = Client(other, token=token("b", tenant="acme"))
            async with connected(first, second):
                assert (await refusal(one, token=token("c", tenant="acme")))[0] == 429
                run = (await said(first, "m1"))["run_id"]
                assert (await said(first, "m2"))["message"] == "at most 1 open runs per user"
                assert "run_id" in await said(second, "m1")
                assert (await said(second, "m2"))["message"] == "at most 2 open runs per tenant"
                await first.send("stop_agent", {"run_id": run}, ref="s")
                await first.completed(run)
                await until(lambda: count(broker, ACME, 1))
                assert "run_id" in await said(first, "m3")
                assert (await said(first, "m4"))["message"].endswith("per tenant")
            await seats_are(broker, 0, ACME)
        await client.stop()


async def open_runs(broker: Broker, owner: Owner = ALICE) -> dict[str, bytes]:
    flat = await broker.client.execute("ZRANGE", broker.keys.runs(owner), 0, -1, "WITHSCORES")
    return {run.decode(): score for run, score in zip(flat[::2], flat[1::2], strict=True)}


async def count(broker: Broker, owner: Owner, wanted: int) -> bool:
    found: int = await broker.client.execute("ZCARD", broker.keys.runs(owner))
    return found == wanted


def with_rows(settings: Settings, rows: dict[str, Any]) -> Settings:
    named = settings.model_dump(exclude_defaults=True)
    named["jwt_secret"], named["operator_key"] = SECRET, OPERATOR_KEY
    return load_settings(**{**named, "tenant_limits": rows})


async def stats(base: str, bearer: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {bearer}"}
    async with aiohttp.ClientSession() as http, http.get(f"{base}/ws/stats", headers=headers) as r:
        assert r.status == 200, await r.text()
        body: dict[str, Any] = await r.json()
        return body


async def test_a_share_that_began_no_run_is_given_back_whole(broker: Broker) -> None:
    tenant = Owner("acme", "")
    share = {"messages": 1, "runs": 1}
    await broker.take_share(tenant, 1, "refused", **share)
    with pytest.raises(LimitReached):
        await broker.take_share(tenant, 1, "next", **share)
    await broker.return_share(tenant, 1, "refused", messages=1)
    await broker.take_share(tenant, 1, "next", **share)
