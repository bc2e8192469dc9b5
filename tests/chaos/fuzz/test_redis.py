"""Rubbish in Redis: gateway, sweeper, figures and worker survive it, and nobody else is hurt."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict

import aiohttp
import orjson
import pytest
from redis.exceptions import ResponseError

from broker.channels import Keys, Owner
from broker.redis.client import RedisClient
from broker.redis.records import AgentSpec
from broker.redis.topology import new_client
from tests.support.chaos_members import until
from tests.support.chaos_report import Report
from tests.support.clients import FIVE, Client, Frame
from tests.support.fuzz_redis import SPARE, Rubbish, Targets
from tests.support.fuzzing import Bench, fuzz, judged, row, running_bench
from tests.support.servers import OPERATOR_KEY, Redis, running_fleet

pytestmark = [pytest.mark.chaos]

PREFIX = "rubbish"


@pytest.fixture
def bench(redis_server: Redis) -> Iterator[Bench]:
    with (
        running_fleet(
            redis_server,
            RUNCAST_PREFIX=PREFIX,
            RUNCAST_LEASE_SECONDS="5",
            RUNCAST_QUEUE_TIMEOUT_SECONDS="8",
        ) as fleet,
        running_bench(fleet) as bench,
    ):
        yield bench


class Reader(Client):
    """The victim's client: who may write into his log may write what is no JSON."""

    def read(self, text: str) -> Frame:
        try:
            return super().read(text)
        except (ValueError, TypeError):  # no JSON, or no UTF-8 either
            return {"type": "unreadable", "text": text}


class Neighbour:
    """Another program in the same Redis, and a user whose keys it spoils."""

    def __init__(self, bench: Bench, client: RedisClient) -> None:
        self.bench, self.client = bench, client

    async def spoil(self, some: list[Rubbish]) -> None:
        for each in some:
            for command in each.commands:
                with suppress(ResponseError):  # spoiled before, with another type
                    await self.client.execute(*command)
        await asyncio.gather(self._look_at_figures(), self._be_the_victim())
        for each in some:
            for command in each.undo:
                with suppress(ResponseError):
                    await self.client.execute(*command)

    async def _look_at_figures(self) -> None:
        headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            for path in ("/ws/stats", "/ws/health"):
                async with http.get(f"{self.bench.base}{path}") as response:
                    assert response.status in (200, 503), f"{path}: {await response.text()}"

    async def _be_the_victim(self) -> None:
        """Read, resume, ask, stop and attach; any lawful answer will do, but none will not."""
        modes: tuple[dict[str, str], ...] = (
            {"after": "0-0"},
            {"mode": "legacy"},
            {"mode": "isolated", "connection": "c1", "secret": "s1"},
            {"mode": "factory", "isolation_level": "strict", "run_id": "r1"},
            {"mode": "factory", "isolation_level": "strict"},
        )
        for mode in modes:
            try:
                async with Reader(self.bench.base, "victim", query=mode) as client:
                    await self._talk(client)
            except aiohttp.WSServerHandshakeError as error:
                if error.status not in (403, 503):
                    raise AssertionError(f"{mode}: {error}") from error

    async def _talk(self, client: Client) -> None:
        sent = []
        for ref, kind, payload in (
            ("m1", "user_message", {"content": "x", "agent": "five", "thread_id": "t1"}),
            ("u2", "user_message", {"content": "x", "agent": SPARE}),
            ("u3", "user_message", {"content": "x"}),
            ("s4", "stop_agent", {"run_id": "r1"}),
            ("a5", "attach", {"run_id": "r2"}),
            ("d6", "detach", {"run_id": "r1"}),
            ("i7", "user_input", {"run_id": "r3", "request_id": "q", "content": 1}),
        ):
            with suppress(aiohttp.ClientConnectionResetError):  # it was closed before it was read
                await client.send(kind, payload, ref=ref)
                sent.append(ref)
        await client.until(
            lambda frames: (
                client.close_code is not None or {frame.get("ref") for frame in frames} >= set(sent)
            ),
            what=f"answers to {sent}",
        )
        # 1007: this client itself gave up, over bytes in its own log that are no UTF-8.
        assert client.close_code in (None, 1007, 4503), f"closed with {client.close_code}"


async def check_service(bench: Bench) -> None:
    """A user who has nothing to do with it gets a whole run."""
    async with Client(bench.base, f"other-{uuid.uuid4().hex[:8]}") as client:
        answers: list[Frame] = []

        async def is_accepted() -> bool:
            ref = f"m{len(answers)}"
            await client.send("user_message", {"content": "hello", "agent": "five"}, ref=ref)
            answers.append(await client.reply(ref))
            code = answers[-1]["payload"].get("code")
            assert code in (None, "unknown_agent"), answers[-1]
            return code is None

        # Workers announce their agents again every five seconds.
        await until(is_accepted, seconds=60, what="the worker's agents are known again")
        run_id = answers[-1]["payload"]["run_id"]
        await client.completed(run_id)
        assert tuple(event["type"] for event in client.events(run_id)) == FIVE


async def check_sweeper(bench: Bench, client: RedisClient) -> None:
    """A run that no worker ever takes is still ended; by the sweeper, as nobody else does that."""
    keys = Keys(PREFIX)
    spec = AgentSpec(name=SPARE)
    await client.execute("DEL", keys.agents)
    await client.execute("HSET", keys.agents, SPARE, orjson.dumps(asdict(spec)))
    async with Client(bench.base, f"other-{uuid.uuid4().hex[:8]}") as other:
        run_id = await other.ask("hello", agent=SPARE)
        end = await other.completed(run_id)
        assert end["payload"]["status"] == "abandoned", end


def _run(bench: Bench, report: Report, cases: int) -> None:
    watcher = f"watcher-{uuid.uuid4().hex[:8]}"
    client = new_client(bench.fleet.redis.url, name="neighbour")
    bench.loop.run(client.start())
    try:
        with judged(bench, "payloads in Redis", user=watcher) as judge:
            nodes = bench.loop.run(_nodes(client))
            targets = Targets(Keys(PREFIX), Owner("", watcher), nodes)
            neighbour = Neighbour(bench, client)
            fuzz(judge, targets.all(), neighbour.spoil, cases=cases, batch=20)
            bench.loop.run(check_service(bench))
            bench.loop.run(check_sweeper(bench, client))
    finally:
        bench.loop.run(client.stop())
    report(row(judge))


async def _nodes(client: RedisClient) -> list[str]:
    channels: list[bytes] = await client.execute("PUBSUB", "CHANNELS", f"{PREFIX}:control:*")
    return [channel.decode().rpartition(":")[2] for channel in channels]


@pytest.mark.timeout(300)
def test_redis(bench: Bench, report: Report) -> None:
    _run(bench, report, 300)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_much_rubbish_in_redis(bench: Bench, report: Report) -> None:
    """Longer than a minute allows: it is their number that finds something."""
    _run(bench, report, 4_000)
