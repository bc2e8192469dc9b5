"""A run of somebody else and a run that never was: nobody can tell them apart (protocol section 5).

Neither by what is answered, nor by what Redis is asked for it, nor by how long it takes.
"""

import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from broker.channels import Owner, Scope
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.records import RunRequest
from gateway.app import Gateway
from gateway.commands import new_id
from tests.support.clients import Client
from tests.support.commandstats import commands
from tests.support.limits import without_rounds
from tests.support.servers import Redis, running_redis, token

VERBS = ("stop_agent", "user_input", "attach", "detach")
PAIRS = 60
TIMED_PAIRS = 200


@pytest.fixture(scope="module")
def quiet_redis() -> Iterator[Redis]:
    """With nobody else's commands on it, not even those that a gateway gives by itself."""
    with pytest.MonkeyPatch.context() as patch, running_redis() as redis:
        without_rounds(patch)
        yield redis


@pytest.fixture
def redis_url(quiet_redis: Redis) -> str:
    return quiet_redis.url


@pytest.fixture
async def foreign(broker: Broker) -> str:
    """A strict run of bob's, in the partition of alice's own keys: its key is there to be found."""
    keys = broker.keys
    bob = next(
        owner
        for owner in (Owner("", f"bob-{number}") for number in range(10_000))
        if keys.partition(owner) == keys.partition(Owner("", "alice"))
    )
    run_id = new_id()
    request = RunRequest(
        run_id=run_id, owner=bob, channel=keys.channel(bob, Scope.RUN, run_id), thread_id="t",
        agent="a", content="secret",
    )  # fmt: skip
    await broker.register(request, epoch_ms=0)
    return run_id


@pytest.fixture
async def strict(gateway: Gateway, base: str) -> AsyncIterator[Client]:
    gateway.node.frames = gateway.node.frames._replace(capacity=60_000)
    async with Client(base, mode="factory", isolation_level="strict") as client:
        await client.first("live")
        yield client


async def answer(client: Client, verb: str, run_id: str) -> dict[str, Any]:
    """The reply, without what its sender chose."""
    ref = new_id()
    await client.send(verb, {"run_id": run_id, "request_id": "r", "content": "x"}, ref=ref)
    reply = dict(await client.reply(ref))
    client.frames.clear()
    client.times.clear()
    cleaned: dict[str, Any] = json.loads(
        json.dumps(reply).replace(run_id, "RUN").replace(ref, "REF")
    )
    return cleaned


@pytest.mark.parametrize("verb", VERBS)
async def test_the_answers_are_the_same(strict: Client, foreign: str, verb: str) -> None:
    told = await answer(strict, verb, foreign)
    assert told == await answer(strict, verb, new_id())
    assert told["payload"]["code"] == "run_not_found"


async def test_at_the_door_too(base: str, foreign: str) -> None:
    async def refusal(run_id: str) -> tuple[int, str, list[str]]:
        query = {"mode": "factory", "isolation_level": "strict", "run_id": run_id}
        headers = {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
            "Authorization": f"Bearer {token()}",
        }  # fmt: skip
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{base}/ws", params=query, headers=headers) as response,
        ):
            names = sorted(name for name in response.headers if name != "Date")
            return response.status, (await response.text()).replace(run_id, "RUN"), names

    told = await refusal(foreign)
    assert told == await refusal(new_id())
    assert told[0] == 403


@pytest.mark.parametrize("verb", VERBS)
async def test_redis_is_asked_the_same(
    strict: Client, foreign: str, quiet_redis: Redis, verb: str
) -> None:
    async def asked(run_ids: list[str]) -> dict[str, int]:
        before = await commands(quiet_redis)
        for run_id in run_ids:
            await answer(strict, verb, run_id)
        took = await commands(quiet_redis) - before
        return {name: count // PAIRS for name, count in took.items() if count >= PAIRS}

    await answer(strict, verb, foreign)  # scripts are loaded by now
    told = await asked([foreign] * PAIRS)
    assert told == await asked([new_id() for _ in range(PAIRS)])
    assert told, "nothing was asked, so nothing was compared"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", ["stop_agent", "attach"])
async def test_it_takes_as_long(strict: Client, foreign: str, verb: str) -> None:
    """Mixed at random, and compared by medians; one more look into Redis would be a fifth."""

    async def took(run_id: str) -> float:
        begun = time.perf_counter()
        await answer(strict, verb, run_id)
        return time.perf_counter() - begun

    ratios: list[float] = []
    while not ratios or not 0.9 < ratios[-1] < 1.11:  # a machine may be busy with one half of them
        assert len(ratios) < 5, ratios
        times: dict[bool, list[float]] = {True: [], False: []}
        kinds = [True, False] * TIMED_PAIRS
        random.shuffle(kinds)
        for known in kinds:
            times[known].append(await took(foreign if known else new_id()))
        ratios.append(statistics.median(times[True]) / statistics.median(times[False]))


@pytest.mark.timeout(300)
async def test_the_check_sees_a_difference(settings: Settings, foreign: str) -> None:
    """With one look more for runs that are there, both comparisons above fail."""
    async with Gateway(settings) as gateway:
        broker, partition = gateway.node.broker, gateway.node.keys.partition(Owner("", "alice"))
        stop = gateway.node.commands.stop

        async def telling(owner: Owner, run_id: str) -> Any:
            if await broker.client.execute("EXISTS", broker.keys.run(partition, run_id)):
                await broker.client.execute("HGETALL", broker.keys.run(partition, run_id))
            return await stop(owner, run_id)

        gateway.node.frames = gateway.node.frames._replace(capacity=60_000)
        gateway.node.commands.stop = telling  # type: ignore[method-assign]
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base, mode="factory", isolation_level="strict") as client:
            ratios: list[float] = []
            while not ratios or ratios[-1] <= 1.11:
                assert len(ratios) < 5, ratios
                times: dict[bool, list[float]] = {True: [], False: []}
                for known in [True, False] * TIMED_PAIRS:
                    begun = time.perf_counter()
                    await answer(client, "stop_agent", foreign if known else new_id())
                    times[known].append(time.perf_counter() - begun)
                ratios.append(statistics.median(times[True]) / statistics.median(times[False]))
