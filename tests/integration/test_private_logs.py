"""Logs tell what happened, to which run, connection and gateway; never a token, a user or content.

Everything that can be asked is asked, rightly and wrongly, at the lowest level; then the lines of
all processes are searched.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import pytest
import redis.asyncio as aioredis

from broker.channels import Keys, Owner, Scope, encode_id
from gateway.app import API_ROUTES
from gateway.handshake import ROUTES
from tests.support.clients import Client, payload_of, ready_is
from tests.support.servers import (
    OPERATOR_KEY,
    SECRET,
    WORKER_KEY,
    Fleet,
    Process,
    Redis,
    running_fleet,
    running_redis,
    token,
)

pytestmark = pytest.mark.timeout(300)

USER: Final = "private-user@example.org"
OTHER: Final = "private-neighbour"
TEXT: Final = "private-content of a conversation"
GARBAGE: Final = "private-garbage.that-is.no-token"
PASSWORD: Final = "private-password"
PREFIX: Final = "logs"
WAYS: Final = (
    "raises", "tool", "result", "response", "posts", "task", "library", "asks", "writes",
)  # fmt: skip
OTHER_PATHS: Final = (
    *((("GET", path)) for path in ROUTES),
    *(("GET", path) for path in (
        "/sse", "/ws/health", "/ws/config", "/ws/stats", "/metrics", "/livez", "/readyz", "/",
        "/static/chat.js", "/static/private-file", "/private-path",
    )),
)  # fmt: skip


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    with running_redis() as redis:
        yield redis


@pytest.fixture
def fleet(own_redis: Redis) -> Iterator[Fleet]:
    settings = {
        "RUNCAST_PREFIX": PREFIX, "RUNCAST_LOG_LEVEL": "debug", "RUNCAST_LOG_FORMAT": "json",
        "RUNCAST_LEASE_SECONDS": "2", "RUNCAST_DRAIN_SECONDS": "1",
        "RUNCAST_METRICS_KEY": "private-metrics-key", "RUNCAST_ALLOW_QUERY_TOKEN": "true",
        "RUNCAST_WEBHOOK_URL": f"http://{USER}:{PASSWORD}@127.0.0.1:9/private-hook",
        "RUNCAST_WEBHOOK_SECRETS": "whsec_cHJpdmF0ZS13ZWJob29rLXNlY3JldC1vZi10ZXN0cw==",
    }  # fmt: skip
    with running_fleet(own_redis, **settings) as fleet:
        yield fleet


def lines(process: Process) -> list[dict[str, Any]]:
    """What a process has logged; what it has printed besides is none of its log."""
    return [json.loads(line) for line in process.printed().splitlines() if line.startswith("{")]


async def ask_everything(base: str, user_token: str) -> int:
    """Every path, as everybody, with every kind of body; how many answers there were."""
    answers = 0
    names = {"id": TEXT, "agent": "careless", "user_id": OTHER, "node_id": USER}
    paths = [(method, path) for method, path, _ in API_ROUTES] + [*OTHER_PATHS]
    bodies = (
        json.dumps({"content": TEXT, "agent": TEXT, "thread_id": TEXT, TEXT: TEXT}).encode(),
        json.dumps({"content": TEXT, "agent": TEXT, "metadata": {TEXT: TEXT}}).encode(),
        f'{{"content": "{TEXT}'.encode(),
        TEXT.encode() * 20_000,
    )
    keys = ("", GARBAGE, user_token, OPERATOR_KEY, WORKER_KEY)
    async with aiohttp.ClientSession() as http:
        for method, path in paths:
            asked = path
            for name, value in names.items():
                asked = asked.replace(f"{{{name}:[^/]+}}", encode_id(value))
            for key in keys:
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                for body in bodies if method == "POST" else (None,):
                    async with http.request(
                        method, f"{base}{asked}", data=body, headers=headers,
                        params={"token": GARBAGE, "thread_id": TEXT},
                    ) as response:  # fmt: skip
                        answers += 1
                        assert response.status != 500, (method, path, await response.text())
                        response.close()
    return answers


async def talk(base: str, user_token: str) -> set[str]:
    """Right and wrong frames, and every way in which an agent can fail; what was secret in it."""
    wrong = (
        TEXT, f'{{"type": "{TEXT}"}}', json.dumps({"type": "user_message", "payload": TEXT}),
        json.dumps({"type": "stop_agent", "id": "1", "payload": {"run_id": TEXT}}),
        json.dumps({"type": "user_input", "id": "2", "payload": {"run_id": TEXT, TEXT: TEXT}}),
        json.dumps({"type": "auth_refresh", "id": "3", "payload": {"token": GARBAGE}}),
        json.dumps({"type": "user_message", "id": "4", "payload": {"content": TEXT, "agent": "?"}}),
        json.dumps({"type": TEXT, "payload": {"content": TEXT * 5000}}),
    )  # fmt: skip
    async with (
        Client(base, USER, token=user_token) as client,
        Client(base, USER, mode="isolated") as isolated,
    ):
        await client.first("live")
        hello = payload_of(await isolated.first("connection_established"))
        for each in wrong:
            await client.ws.send_str(each)
        await client.ws.send_bytes(TEXT.encode())
        await client.reply("4")
        runs = {
            way: await client.ask(
                {"way": way, "text": TEXT}, ref=f"m {way}", agent="careless", metadata={"m": TEXT}
            )
            for way in WAYS
        }
        asked = await client.first("input_required")
        answer = {"run_id": runs["asks"], "request_id": asked["payload"]["request_id"]}
        await client.send("user_input", {**answer, "content": TEXT}, ref="answer")
        await client.first("agent_delta")
        await client.send("stop_agent", {"run_id": runs["writes"]}, ref="stop")
        for run_id in runs.values():
            await client.completed(run_id)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {user_token}"}) as http,
        http.post(f"{base}/ws/ticket", json={}) as response,
    ):
        ticket: str = (await response.json())["ticket"]
    async with Client(base, USER, headers={}, query={"ticket": ticket}) as client:
        await client.first("live")
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await Client(base, USER, headers={}, query={"ticket": ticket}).__aenter__()
    return {ticket, hello["secret"]}


async def spoil(own_redis: Redis, base: str, user_token: str) -> str:
    """What others may write into Redis: no messages, foreign events, records that are no text."""
    keys, owner = Keys(PREFIX), Owner("", USER)
    channel = keys.channel(owner, Scope.USER)
    theirs = Owner("", OTHER)
    async with aioredis.Redis.from_url(own_redis.url) as redis, Client(
        base, USER, token=user_token
    ) as client:  # fmt: skip
        await client.first("live")
        await redis.publish(channel.live, TEXT)
        newest: Any = await redis.xrevrange(channel.log, count=1)
        header = f"{theirs.token} {encode_id(TEXT)} r 1 agent_thinking"
        last = newest[0][0].decode()
        following = f"{int(last.partition('-')[0]) + 1}-0"
        await redis.publish(channel.live, f'{following} {last} {header}\n{{"x":"{TEXT}"}}')
        run_id, queue = secrets.token_hex(8), keys.requests("careless")
        await redis.xadd(queue, {"run": TEXT})
        run = keys.run(channel.partition, run_id)
        record: dict[Any, Any] = {
            "state": "queued", "owner": owner.token, "scope": "user", "name": "", "thread": TEXT,
            "agent": "careless", "attempt": 0, "fence": 0, "seq": 0, "created": 0, "head": TEXT,
            "request": b"\xff" + TEXT.encode(),
        }  # fmt: skip
        await redis.hset(run, mapping=record)
        await redis.zadd(keys.leases(channel.partition), {run_id: 1})
        await redis.xadd(queue, {"run": f"{channel.partition} {run_id}"})
        url = f"{base}/api/v1/runs/{run_id}"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {user_token}"}) as http,
            http.get(url) as response,
        ):
            assert response.status == 500
    return run_id


async def until_logged(process: Process, *events: str) -> None:
    async with asyncio.timeout(60):
        while not set(events) <= {line["event"] for line in lines(process)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_everything_is_asked_and_no_log_tells_what_is_private(
    fleet: Fleet, own_redis: Redis
) -> None:
    base, gateway = await asyncio.to_thread(fleet.gateway_process)
    worker = await asyncio.to_thread(fleet.worker, "tests.support.careless_worker:worker")
    user_token = token(USER)
    assert await ask_everything(base, user_token) > 300
    found = await talk(base, user_token)
    run_id = await spoil(own_redis, base, user_token)
    await until_logged(
        worker, "agent_raised", "post_refused", "requests_unreadable", "run_unreadable"
    )
    await until_logged(
        gateway, "unreadable_in_redis", "isolation_violation", "malformed_message",
        "webhook_not_taken", "refresh_refused", "connection_refused", "request_refused",
    )  # fmt: skip
    await asyncio.to_thread(own_redis.kill)
    await until_logged(gateway, "redis_connection_lost")
    await until_logged(worker, "redis_connection_lost")
    await asyncio.to_thread(own_redis.start)
    await ready_is(base, 200)
    assert await asyncio.to_thread(gateway.end) == 0
    await asyncio.to_thread(worker.end)

    of_gateway, of_worker = lines(gateway), lines(worker)
    private = {
        USER, encode_id(USER), OTHER, "private-", GARBAGE, *user_token.split("."), *found, SECRET,
        OPERATOR_KEY, WORKER_KEY, "whsec_", PASSWORD, "conversation", TEXT,
    }  # fmt: skip
    for written in gateway.printed().splitlines() + worker.printed().splitlines():
        for each in private:
            assert each not in written, (each, written)

    (node_id,) = {line.get("gateway") for line in of_gateway}
    assert node_id
    (worker_id,) = {line["worker"] for line in of_worker if "worker" in line}
    unnamed = {line["event"] for line in of_worker if "worker" not in line}
    assert unnamed <= {"signal_received"}, [line for line in of_worker if "worker" not in line]
    assert worker_id.startswith("worker-")
    pseudonym = Owner("", USER).pseudonym
    for line in of_worker:
        if line["event"] in ("agent_raised", "post_refused", "response_refused"):
            assert (line["user"], len(line["run_id"])) == (pseudonym, 26)
    (raised,) = [
        line
        for line in of_worker
        if line["event"] == "agent_raised" and line["exception"].endswith("ValueError")
    ]
    assert "KeyError" in raised["exception"]
    assert "careless_worker.py" in raised["exception"]
    (refused,) = [line for line in of_gateway if line["event"] == "refresh_refused"]
    assert refused["user"] == pseudonym
    assert len(refused["connection"]) == 26
    (foreign,) = [line for line in of_gateway if line["event"] == "isolation_violation"]
    assert (foreign["user"], foreign["run_id"]) == (pseudonym, "r")
    assert any(
        line["run_id"] == run_id and line["why"] == "UnicodeDecodeError"
        for line in of_gateway + of_worker
        if line["event"] == "run_unreadable"
    )
