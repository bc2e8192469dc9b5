"""The browser client, in Node, against real gateways behind the fault proxy, judged by the history
checker: by what came over the wire, and by what the client told its page."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.chaos import THREAD, Scene, chaos
from tests.support.chaos_report import Row
from tests.support.history import RunRecord, check, describe
from tests.support.servers import token
from tests.web.clients import NodeClient, node_client

pytestmark = pytest.mark.timeout(300)

ASKS = {"content": {"count": 25, "per_second": 50}, "agent": "notes"}
MODES = [("main", None), ("main", THREAD), ("factory", THREAD), ("isolated", None)]


def unreported(_: Row) -> None:
    pass


@asynccontextmanager
async def scene_with(
    mode: str, thread: str | None, **options: Any
) -> AsyncIterator[tuple[Scene, NodeClient]]:
    """One gateway behind a door, and a client that keeps asking."""
    async with chaos(unreported, gateways=1, doors=True, RUNCAST_HEARTBEAT_SECONDS="2") as scene:
        base = scene.gateways[0].base
        user = "ünï {x} 100%"
        async with node_client(
            base, token(user), user, mode, thread=thread, asks=ASKS, after="0-0", **options
        ) as client:
            await client.until(lambda: client.all("accepted"), "the first run")
            yield scene, client


async def judge(scene: Scene, client: NodeClient) -> None:
    """All runs have ended, the client is level, and no promise was broken."""
    client.stop()
    await client.until(lambda: client.all("finished") and client.state == "live", "the end")
    await scene.settle()
    for frame in client.all("in"):
        if frame["type"] == "run_accepted":
            run_id, thread = frame["payload"]["run_id"], frame["payload"]["thread_id"]
            scene.runs[run_id] = RunRecord(run_id, client.place, thread)
    history = dataclasses.replace(scene.history(), readers=client.readers())
    violations = check(history)
    assert not violations, describe(violations)
    assert len(client.all("told")) > 50
    assert len(history.logs[client.place]) > 50
    for _, text, kept in client.all("text"):
        assert text == kept
    for _, response, kept in client.all("response"):
        assert kept == (response if response is not None else kept)


async def cut(scene: Scene, client: NodeClient) -> None:
    """Lose the connection, and return when there is another one."""
    door = scene.gateways[0].door
    assert door is not None
    async with replaced(client):
        door.cut()


@asynccontextmanager
async def replaced(client: NodeClient) -> AsyncIterator[None]:
    """Until the client has another connection than it had."""

    def welcomes() -> int:
        return [frame["type"] for frame in client.all("in")].count("connection_established")

    already = welcomes()
    yield
    await client.until(lambda: welcomes() > already, "another connection")


async def heard(client: NodeClient, more: int) -> None:
    already = len(client.all("told"))
    await client.until(lambda: len(client.all("told")) >= already + more, f"{more} more events")


@pytest.mark.parametrize(("mode", "thread"), MODES)
async def test_cuts_lose_and_double_nothing(mode: str, thread: str | None) -> None:
    async with scene_with(mode, thread) as (scene, client):
        for number in range(6):
            await heard(client, 5 + 3 * number)
            await cut(scene, client)
        await heard(client, 5)
        await judge(scene, client)


@pytest.mark.parametrize(("mode", "thread"), MODES)
async def test_cuts_lose_and_double_nothing_over_an_event_stream(
    mode: str, thread: str | None
) -> None:
    """Where WebSockets are blocked: the stream, and the posts beside it, are cut as well."""
    async with scene_with(mode, thread, transport="sse") as (scene, client):
        for number in range(5):
            await heard(client, 5 + 3 * number)
            await cut(scene, client)
        await heard(client, 5)
        await judge(scene, client)


async def test_pieces_delays_and_refusals_lose_and_double_nothing() -> None:
    async with scene_with("main", None) as (scene, client):
        door = scene.gateways[0].door
        assert door is not None
        with door.split(3) as split:
            await heard(client, 20)
            door.cut()
            await heard(client, 20)
        assert split.hits
        with door.delay(0.05):
            await heard(client, 10)
            door.cut()
            await heard(client, 10)
        with door.down() as away:
            await client.until(lambda: away.hits >= 3, "attempts that were refused")
        await heard(client, 10)
        await judge(scene, client)


async def test_a_connection_that_dies_silently_is_replaced() -> None:
    async with scene_with("main", None) as (scene, client):
        door = scene.gateways[0].door
        assert door is not None
        connections = len(client.all("connection"))
        with door.black_hole(spare_new=True) as hole:
            # Heartbeats every 2 s, and 10 s for an answer.
            await client.until(
                lambda: len(client.all("connection")) > connections, "another connection"
            )
            assert hole.hits
            await heard(client, 10)
            await judge(scene, client)


async def test_a_killed_gateway_that_is_started_again_is_found_again() -> None:
    async with scene_with("main", None) as (scene, client):
        gateway = scene.gateways[0]
        for _ in range(2):
            await heard(client, 20)
            gateway.kill()
            async with replaced(client):
                await asyncio.to_thread(gateway.start)
        await heard(client, 20)
        await judge(scene, client)
