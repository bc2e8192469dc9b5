"""The Python client where WebSockets are blocked: the same over an event stream and HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from agents_sdk import Run, Worker
from broker.config import Settings
from gateway import close_codes
from gateway.app import Gateway
from gateway.client import ChatClient, Closed, ConnectionRefused, Rejected
from tests.support.clients import FIVE, eventually
from tests.support.servers import token

HOP_BY_HOP = {"connection", "upgrade", "host", "content-length", "transfer-encoding"}


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    worker = Worker(settings=settings)

    @worker.agent("five")
    async def five(run: Run) -> str:
        await run.think("a moment")
        async with run.tool("look") as call:
            call.result = 1
        return "done"

    @worker.agent("asks")
    async def asks(run: Run) -> str:
        return str(await run.ask("Go on?"))

    @worker.agent("writes")
    async def writes(run: Run) -> None:
        for number in range(400):
            await run.write(f"{number} ")
            await run.think(str(number))

    async with worker.running():
        yield worker


def chat(gateway: Gateway, **how: Any) -> ChatClient:
    options = {"token": token(), "transport": "sse", **how}
    return ChatClient(gateway.url, **options)


async def ended(client: ChatClient, run_id: str) -> list[dict[str, Any]]:
    """The run's lifecycle events, up to its last."""
    found = []
    async with asyncio.timeout(30):
        async for event in client.events():
            if event.get("run_id") == run_id and event["type"] in FIVE:
                found.append(event)
                if event["type"] == FIVE[-1]:
                    break
    return found


MODES: dict[str, dict[str, Any]] = {
    "main": {},
    "a thread": {"thread_id": "t"},
    "factory": {"mode": "factory", "thread_id": "t"},
    "isolated": {"mode": "isolated"},
}


@pytest.mark.parametrize("shape", MODES)
async def test_it_asks_and_sees_all_five(gateway: Gateway, worker: Worker, shape: str) -> None:
    async with chat(gateway, **MODES[shape]) as client:
        run = await client.send("hello", agent="five")
        assert [event["type"] for event in await ended(client, run.id)] == list(FIVE)
        if "thread_id" in MODES[shape]:
            assert run.thread_id == "t"
        again = await client.send("hello", agent="five", message_id="m")
        assert (await client.send("hello", agent="five", message_id="m")).id == again.id


async def test_strict_runs_are_read_by_streams_of_their_own(
    gateway: Gateway, worker: Worker
) -> None:
    strict = {"mode": "factory", "isolation_level": "strict"}
    async with chat(gateway, **strict) as one, chat(gateway, **strict) as other:
        run = await one.send("hello", agent="five")
        await other.attach(run.id, "0-0")
        assert [event["type"] for event in await ended(other, run.id)] == list(FIVE)
        await other.detach(run.id)
        assert other.connected, "the others are not concerned"


async def test_answers_stops_pings_and_refusals(gateway: Gateway, worker: Worker) -> None:
    async with chat(gateway) as client:
        run = await client.send("x", agent="asks")
        async for event in client.events():
            if event["type"] == "input_required":
                await client.answer(run.id, event["payload"]["request_id"], "yes")
                break
        assert (await ended(client, run.id))[-1]["payload"]["response"] == "yes"
        run = await client.send("x", agent="asks")
        await client.stop(run.id)
        assert (await ended(client, run.id))[-1]["payload"]["status"] == "cancelled"
        assert (await client.ping({"n": 1}))["server_time"].endswith("Z")
        with pytest.raises(Rejected, match="run_not_found"):
            await client.stop("nothing")
        with pytest.raises(Rejected, match="unknown_agent"):
            await client.send("x", agent="nobody")


async def test_cut_again_and_again_it_loses_and_doubles_nothing(
    gateway: Gateway, worker: Worker
) -> None:
    async with chat(gateway) as client:
        run = await client.send("x", agent="writes")
        seen: list[int] = []
        async for event in client.events():
            if event["type"] == "agent_thinking":
                seen.append(event["seq"])
                if len(seen) % 80 == 0:
                    for connection in list(gateway.node.sockets):
                        connection._transport.abort()
            if event["type"] == "agent_completed":
                break
        assert seen == list(range(2, 402))
        assert client.text(run.id) == "".join(f"{number} " for number in range(400))


async def test_what_it_comes_back_from_is_closed(gateway: Gateway, worker: Worker) -> None:
    """The streams of strict runs too, when it is another one that was cut."""
    async with chat(gateway, mode="factory", isolation_level="strict") as client:
        run = await client.send("hello", agent="asks")
        await client.attach(run.id, "0-0")
        sockets = gateway.node.sockets
        await eventually(lambda: len(sockets) == 2)
        before = set(sockets)
        next(each for each in before if each.opening.run_id is None).close(close_codes.UNAVAILABLE)
        await eventually(lambda: len(sockets) == 2 and before.isdisjoint(sockets))
        await client.stop(run.id)
        assert (await ended(client, run.id))[-1]["payload"]["status"] == "cancelled"


async def test_it_knows_why_it_was_closed(gateway: Gateway) -> None:
    async with chat(gateway) as client:
        await eventually(lambda: len(gateway.node.sockets) == 1)
        (connection,) = gateway.node.sockets
        connection.close(close_codes.FORBIDDEN)
        with pytest.raises(Closed) as closed:
            async for _ in client.events():
                pass
        assert closed.value.code == 4403


async def test_a_refusal_is_the_gateways_own(gateway: Gateway) -> None:
    for transport in ("sse", "auto"):
        with pytest.raises(ConnectionRefused) as refused:
            await chat(gateway, token="nonsense", transport=transport).__aenter__()
        assert (refused.value.status, refused.value.problem["code"]) == (401, "unauthorized")


@asynccontextmanager
async def without_websockets(gateway: Gateway) -> AsyncIterator[str]:
    """A proxy as they are in some offices: it takes the upgrade out of every request."""

    async def hand_on(request: web.Request) -> web.StreamResponse:
        kept = {n: v for n, v in request.headers.items() if n.lower() not in HOP_BY_HOP}
        url = f"http://127.0.0.1:{gateway.port}{request.path_qs}"
        async with (
            ClientSession(auto_decompress=False) as http,
            http.request(request.method, url, headers=kept, data=await request.read()) as got,
        ):
            answer = web.StreamResponse(status=got.status)
            answer.content_type = got.content_type
            await answer.prepare(request)
            async for chunk in got.content.iter_any():
                await answer.write(chunk)
            return answer

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hand_on)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


async def test_where_websockets_are_blocked_it_finds_the_other_way(
    gateway: Gateway, worker: Worker
) -> None:
    async with without_websockets(gateway) as url:
        with pytest.raises(ConnectionRefused):
            await ChatClient(url, token=token(), transport="websocket").__aenter__()
        async with ChatClient(url, token=token()) as client:
            run = await client.send("hello", agent="five")
            assert [event["type"] for event in await ended(client, run.id)] == list(FIVE)
