"""The fleet of compose/ as its clients and operators meet it."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import websockets
import yaml

from tests.support.chaos_client import ChaosClient
from tests.support.chaos_log import read_logs
from tests.support.clients import FIVE, PATIENCE_SECONDS
from tests.support.docker_fleet import ROOT, DockerFleet
from tests.support.history import (
    Entry,
    Frame,
    History,
    Place,
    RunRecord,
    check,
    cursor,
    describe,
)
from tests.support.servers import token

pytestmark = pytest.mark.timeout(600)

QUICK, SLOW = "12 15 11", "slowly: 12 15 11"
"""A quarter of a second, and some four: runs are under way whenever something is killed."""

PAUSE_SECONDS = 0.5
"""Between two runs of a client: its user may have two a second begun."""


async def until(condition: Callable[[], Any], *, what: str, seconds: float = 180.0) -> Any:
    """Look until it holds, aside from the loop; its value."""
    deadline = time.monotonic() + seconds
    while not (value := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        await asyncio.sleep(0.2)  # between two looks, within the deadline
    return value


async def test_a_message_through_the_load_balancer(fleet: DockerFleet) -> None:
    """With somebody else's client: he logs in, asks, and gets the five events and the answer."""
    address = fleet.base.replace("http", "ws") + "/ws"
    headers = {"Authorization": f"Bearer {token('alice')}"}
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        websockets.connect(address, additional_headers=headers) as socket,
    ):
        frames = [json.loads(await socket.recv())]
        assert frames[0]["type"] == "connection_established"
        await socket.send(json.dumps({"type": "user_message", "payload": {"content": "1 2 3"}}))
        while frames[-1]["type"] != "agent_completed":
            frames.append(json.loads(await socket.recv()))
    assert {*FIVE} <= {frame["type"] for frame in frames}
    assert frames[-1]["payload"]["status"] == "succeeded"
    assert "mean 2" in frames[-1]["payload"]["response"]


async def test_two_gateways_killed_in_turn_cost_nobody_anything(fleet: DockerFleet) -> None:
    """Each time the one with the most clients, while all of them have runs under way.

    Every user has two clients, and each gets what the other began: also while it is away.
    """
    over = asyncio.Event()

    async def keep_asking(client: ChaosClient) -> None:
        content = SLOW if client.name.endswith("slow") else QUICK
        while not over.is_set():
            run_id = await client.ask(content, agent="analyst")
            await client.until_ended(run_id, seconds=2 * PATIENCE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)  # the user's own pace

    async with AsyncExitStack() as sockets, asyncio.timeout(400):
        clients = [
            await sockets.enter_async_context(
                ChaosClient([fleet.base], user, name=f"{user} {pace}", seed=number)
            )
            for number, (user, pace) in enumerate(
                (user, pace) for user in ("alice", "bob", "a:b") for pace in ("quick", "slow")
            )
        ]
        for client in clients:
            await client.until_live()
        killed: list[str] = []
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(keep_asking(client)) for client in clients]
            for _ in range(2):
                for client in clients:
                    await client.until(lambda c=client: len(c.heard) > len(c.ended), what="a run")
                there = await asyncio.to_thread(fleet.containers, "gateway")
                sockets_of = {each: fleet.connections(each) for each in there}
                victim = max(there, key=lambda each: sockets_of[each])
                assert sockets_of[victim] > 0, sockets_of
                lost = sockets_of[victim]
                connections = sum(len(client.connections) for client in clients) + lost
                await asyncio.to_thread(fleet.docker, "kill", victim)
                killed.append(victim)
                await until(
                    partial(all_back, clients, connections), what=f"coming back of {lost} clients"
                )
            over.set()
            await asyncio.gather(*asking)
        assert len(set(killed)) == 2
        logs = await until(lambda: level(fleet, clients), what="all clients being level")
    assert not (found := check(history(clients, logs))), describe(found)
    for client in clients:
        for frame in client.ended.values():
            assert frame["payload"]["status"] == "succeeded", frame
        assert all(
            epoch.after is not None for each in client.readers() for epoch in each.epochs[1:]
        )


def all_back(clients: list[ChaosClient], connections: int) -> bool:
    """All are live, after so many connections of them together."""
    there = sum(len(client.connections) for client in clients)
    return there >= connections and all(client.live for client in clients)


def level(fleet: DockerFleet, clients: list[ChaosClient]) -> dict[Place, list[Entry]] | None:
    """The logs, once every client is live and has come to the end of its own."""
    logs = read_logs([fleet.redis_url], "rc")
    for client in clients:
        assert client.place is not None
        log = logs.get(client.place, [])
        if not client.live or not log or cursor(client.cursor or "0-0") < cursor(log[-1].id):
            return None
    return logs


def history(clients: list[ChaosClient], logs: dict[Place, list[Entry]]) -> History:
    """For the judge, who takes two events that say the same for one: the demo's agent always does.

    So each says its run and number as well.
    """
    runs = {
        run_id: RunRecord(run_id, place, thread)
        for client in clients
        for run_id, (place, thread) in client.accepted.items()
    }
    readers = [
        replace(
            reader,
            epochs=[replace(each, frames=told_apart(each.frames)) for each in reader.epochs],
        )
        for client in clients
        for reader in client.readers()
    ]
    entries = {
        place: [
            replace(each, marker=each.marker and f"{each.marker} {each.run_id} {each.seq}")
            for each in log
        ]
        for place, log in logs.items()
    }
    return History(runs, (), readers, entries)


def told_apart(frames: Sequence[Frame]) -> list[Frame]:
    return [
        {
            **frame,
            "payload": {
                **frame["payload"],
                "thoughts": f"{frame['payload']['thoughts']} {frame['run_id']} {frame['seq']}",
            },
        }
        if frame["type"] == "agent_thinking"
        else frame
        for frame in frames
    ]


async def test_gateways_that_are_added_get_clients(fleet: DockerFleet) -> None:
    """``--scale gateway=5``: nothing else is told of it; clients that come are shared out."""
    await asyncio.to_thread(fleet.up, "--scale gateway=5")
    gateways = await asyncio.to_thread(fleet.containers, "gateway")
    assert len(gateways) == 5
    async with AsyncExitStack() as sockets, asyncio.timeout(300):
        for number in range(200):  # a new one is given more and more, for ten seconds
            await sockets.enter_async_context(ChaosClient([fleet.base], f"user {number}"))
            counts = await asyncio.gather(
                *(asyncio.to_thread(fleet.connections, each) for each in gateways)
            )
            if all(counts):
                break
        assert all(counts), dict(zip(gateways, counts, strict=True))


async def test_prometheus_sees_each_process_and_has_the_alerts(fleet: DockerFleet) -> None:
    base = f"http://127.0.0.1:{fleet.ports['PROMETHEUS_PORT']}/api/v1"

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"{base}/{path}", timeout=30) as response:
            return json.load(response)["data"]

    def all_up() -> bool:
        targets = ask("targets?state=active")["activeTargets"]
        up = [each["labels"]["job"] for each in targets if each["health"] == "up"]
        return sorted(up) == ["haproxy"] + ["runcast-gateway"] * 3 + ["runcast-worker"] * 2

    await until(all_up, what="every process being scraped")
    rules = {rule["name"] for group in ask("rules")["groups"] for rule in group["rules"]}
    file = yaml.safe_load((ROOT / "compose" / "prometheus" / "alerts.yml").read_text("utf-8"))
    assert rules == {rule["alert"] for group in file["groups"] for rule in group["rules"]}


async def test_a_redis_that_is_restarted_has_what_it_had(fleet: DockerFleet) -> None:
    """With its users and its file: a client that comes anew gets the run of before."""
    async with ChaosClient([fleet.base], "dave") as client, asyncio.timeout(200):
        await client.until_live()
        run_id = await client.ask("1 2 3", agent="analyst")
        await client.until_ended(run_id)
    (redis,) = await asyncio.to_thread(fleet.containers, "redis")
    await asyncio.to_thread(fleet.docker, "restart", redis)
    async with ChaosClient([fleet.base], "dave", after="0-0") as later, asyncio.timeout(200):
        await later.until_ended(run_id, seconds=2 * PATIENCE_SECONDS)


def test_a_container_that_is_stopped_drains_and_ends_by_itself(fleet: DockerFleet) -> None:
    """SIGTERM reaches the process; nobody has to be killed."""
    for service in ("gateway", "worker"):
        name = next(iter(fleet.containers(service)))
        fleet.docker("stop", name)
        state = json.loads(fleet.docker("inspect", name))[0]["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), fleet.docker("logs", name)


def test_what_an_operator_sees_is_not_published(fleet: DockerFleet) -> None:
    """It is on another port, which listens on this machine only."""
    assert refusal(f"{fleet.base}/ws/stats") == 404
    assert refusal(f"http://127.0.0.1:{fleet.ports['INSIDE_PORT']}/ws/stats") == 401
    (balancer,) = fleet.containers("haproxy").values()
    published = balancer["NetworkSettings"]["Ports"]
    assert {each["HostIp"] for each in published["8081/tcp"]} == {"127.0.0.1"}


def refusal(url: str) -> int:
    """With which status it is refused."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=30)
    with refused.value as answer:
        return answer.code
