"""Everything works on every Redis: each server binary, TLS, ACL users, Sentinel, Cluster.

Judged on what real clients receive from gateways and a worker that run as processes of their own.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.channels import Keys, Owner
from compose.redis import rights
from tests.support.clients import FIVE, Client, Frame, payload_of
from tests.support.redis_cluster import cluster_redis
from tests.support.redis_server import Server, servers, standalone
from tests.support.servers import OPERATOR_KEY, WORKER_KEY, Fleet
from tests.support.topologies import acl_redis, fleet_on, sentinel_redis, tls_redis

pytestmark = pytest.mark.timeout(300)

MODES: Mapping[str, Mapping[str, str]] = {
    "main": {"mode": "main"},
    "factory standard": {"mode": "factory"},
    "factory strict": {"mode": "factory", "isolation_level": "strict"},
    "isolated": {"mode": "isolated"},
    "legacy": {"mode": "legacy"},
}
TEXT = "Grüße aus Zürich — 東京 👋. " * 8


@dataclass
class System:
    """Two gateways and a worker on one Redis, whatever it is."""

    fleet: Fleet
    first: str
    second: str


@contextmanager
def system_on(url: str, member: Server) -> Iterator[System]:
    with fleet_on(url, member, RUNCAST_PREFIX="everywhere", RUNCAST_DRAIN_SECONDS="0") as fleet:
        fleet.worker()
        yield System(fleet, fleet.gateway(), fleet.gateway())


def printed_by(url: str, member: Server, *command: str) -> tuple[int, str]:
    """Exit status and output of a command that ends by itself."""
    with fleet_on(url, member) as fleet:
        process = fleet.runcast(*command, name="command")
        return process.ended(), process.printed()


# --- what has to work everywhere


async def works(system: System) -> None:
    """The whole of it; an AssertionError names the part that does not work."""
    await asyncio.gather(*(all_five_arrive(system, mode) for mode in MODES))
    await asyncio.gather(*(all_five_arrive(system, "main") for _ in range(12)))
    await streamed_text_is_whole(system)
    await a_stop_ends_the_run(system)
    await a_client_resumes_at_the_other_gateway(system)
    await a_worker_has_nothing_but_http(system)
    await figures_are_told(system)
    status, printed = await asyncio.to_thread(checked, system)
    assert status == 0, printed
    assert "✘" not in printed, printed
    for process in system.fleet.processes:
        assert "Traceback" not in process.printed(), process.printed()


_users = iter(range(1_000_000))


def user() -> str:
    """Each one's keys are elsewhere, so that several of them use all of a Cluster's masters."""
    return f"user-{next(_users)}"


async def all_five_arrive(system: System, mode: str) -> None:
    async with Client(system.first, user(), query=MODES[mode]) as client:
        run_id = await client.ask("hello", agent="five")
        end = await client.completed(run_id)
        got = tuple(event["type"] for event in client.events(run_id))
        assert got == FIVE, f"{mode}: {got}"
        assert payload_of(end)["status"] == "succeeded", f"{mode}: {end}"
        assert payload_of(end)["response"] == f"done for {client.user}", f"{mode}: {end}"


async def streamed_text_is_whole(system: System) -> None:
    me = user()
    async with Client(system.first, me) as client, Client(system.second, me) as watcher:
        await watcher.first("live")
        run_id = await client.ask({"text": TEXT}, agent="writer")
        for each in (client, watcher):
            end = await each.completed(run_id)
            assert end["payload"]["response"] == TEXT, "the response is not the text"
            assert text_of(each.frames) == TEXT, "the deltas do not add up to the text"


def text_of(frames: list[Frame]) -> str:
    """What a client shows (protocol section 2)."""
    text = b""
    for frame in frames:
        if frame["type"] == "agent_delta":
            offset = frame["payload"]["offset"]
            text = b"" if offset == 0 else text
            assert offset == len(text), f"a hole in the text: {offset}, not {len(text)}"
            text += frame["payload"]["text"].encode()
    return text.decode()


async def a_stop_ends_the_run(system: System) -> None:
    """Asked for at the gateway that did not start it."""
    me = user()
    async with Client(system.first, me) as client, Client(system.second, me) as other:
        run_id = await client.ask("hello", agent="waits")
        await client.first("tool_executing")
        await other.send("stop_agent", {"run_id": run_id}, ref="s")
        reply = await other.reply("s")
        assert reply["type"] == "ok", reply
        end = await client.completed(run_id)
        assert end["payload"]["status"] == "cancelled", end


async def a_client_resumes_at_the_other_gateway(system: System) -> None:
    me = user()
    async with Client(system.second, me) as watcher:
        await watcher.first("live")
        async with Client(system.first, me) as client:
            run_id = await client.ask({"count": 60, "per_second": 100}, agent="beats")
            await client.until(lambda frames: len(frames) > 15, what="the first events")
        before = client.logged()
        async with Client(system.second, me, after=before[-1]["id"]) as client:
            hello = await client.first("connection_established")
            assert hello["payload"]["recovered"] is True, hello
            await client.completed(run_id)
            await watcher.completed(run_id)
            assert before + client.logged() == watcher.logged(), "not exactly what was missed"


async def a_worker_has_nothing_but_http(system: System) -> None:
    """A gateway for each request, with a question, text, a stop, and a run that is left behind."""
    me = user()
    started = {"type": "agent_started", "seq": 1, "payload": {"message": "m"}}
    said = [
        {"type": "agent_thinking", "seq": 2, "payload": {"thoughts": "t"}},
        {"type": "agent_delta", "payload": {"offset": 0, "text": TEXT}},
        {
            "type": "tool_executing",
            "seq": 3,
            "payload": {"tool": "t", "call_id": "c", "status": "running"},
        },
        {"type": "input_required", "seq": 4, "payload": {"request_id": "q", "prompt": "?"}},
    ]
    end = {"type": "agent_completed", "seq": 5, "payload": {"complete": True}}
    async with (
        Client(system.first, me) as client,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {WORKER_KEY}"}) as http,
    ):

        async def send(base: str, run_id: str, **body: Any) -> dict[str, Any]:
            body = {"run_id": run_id, "user_id": me, **body}
            async with http.post(f"{base}/api/v1/events", json=body) as response:
                told: dict[str, Any] = await response.json()
                assert response.status in (200, 201), told
                return told

        await client.first("live")
        run, left = f"{me}-run", f"{me}-left"
        await send(system.first, run, open={"agent_name": "remote"}, events=[started])
        first = await send(system.second, run, fence=1, events=said)
        assert await send(system.first, run, fence=1, events=said) == first
        await client.first("input_required")
        answer = {"run_id": run, "request_id": "q", "content": 7}
        await client.send("user_input", answer, ref="answer")
        assert (await client.reply("answer"))["type"] == "ok"
        assert (await send(system.second, run, fence=1))["answers"] == {"q": 7}
        await client.send("stop_agent", {"run_id": run}, ref="stop")
        assert (await client.reply("stop"))["type"] == "ok"
        assert (await send(system.first, run, fence=1))["stop_requested"] is True
        ended = await send(system.second, run, fence=1, events=[end])
        assert await send(system.first, run, fence=1, events=[end]) == ended
        completed = await client.completed(run)
        assert completed["payload"]["response"] == TEXT == text_of(client.frames), completed
        assert tuple(event["type"] for event in client.events(run)) == FIVE
        await send(system.first, left, open={"agent_name": "remote"}, events=[started])
        await client.send("stop_agent", {"run_id": left}, ref="stop left")
        assert (await client.reply("stop left"))["type"] == "ok"


async def figures_are_told(system: System) -> None:
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with aiohttp.ClientSession() as http:
        for base in (system.first, system.second):
            async with http.get(f"{base}/readyz") as response:
                assert response.status == 200, await response.text()
            async with http.get(f"{base}/ws/health") as response:
                health = await response.json()
                assert (response.status, health["status"]) == (200, "healthy"), health
                assert all(check["ok"] for check in health["checks"].values()), health
            async with http.get(f"{base}/ws/stats", headers=operator) as response:
                stats = await response.json()
                assert response.status == 200, stats
        fleet = stats["fleet"]
        assert fleet["nodes"] == 2, fleet
        assert fleet["runs"]["by_agent"]["five"]["total"] == len(MODES) + 12, fleet["runs"]
        assert fleet["events"]["published"] >= 5 * (len(MODES) + 12), fleet["events"]
        assert stats["gateway"]["events"]["isolation_violations"] == 0, stats


def checked(system: System) -> tuple[int, str]:
    process = system.fleet.runcast("check", name="check")
    return process.ended(), process.printed()


# --- on what


@pytest.mark.parametrize("binary", servers())
async def test_everything_works_on_each_server_binary(binary: Path) -> None:
    with standalone(binary) as server, system_on(server.url, server) as system:
        await works(system)


@pytest.mark.parametrize("client_certificates", [False, True])
async def test_everything_works_over_tls(*, client_certificates: bool) -> None:
    with (
        tls_redis(client_certificates=client_certificates) as redis,
        system_on(redis.url(), redis.server) as system,
    ):
        await works(system)


async def test_everything_works_with_sentinel() -> None:
    with sentinel_redis() as redis, system_on(redis.url, redis.master) as system:
        await works(system)


async def test_everything_works_with_sentinel_over_tls_with_a_password() -> None:
    with (
        sentinel_redis(password="p@ss/data", tls=True) as redis,
        system_on(redis.url, redis.master) as system,
    ):
        await works(system)


@pytest.mark.parametrize("binary", servers(sharded=True))
async def test_everything_works_on_a_cluster_of_each_server_binary(binary: Path) -> None:
    keys = Keys("everywhere")
    with cluster_redis(binary) as redis, system_on(redis.url, redis.nodes[0]) as system:
        await works(system)
        serving = {
            redis.master_of(redis.slot(str(keys.partition(Owner("", f"user-{number}"))))).port
            for number in range(next(_users))
        }
        assert serving == {node.port for node in redis.masters()}, "a master was not used"
        assert redis.errors().get("CROSSSLOT", 0) == 0, redis.errors()


# --- refusals are told


@pytest.mark.parametrize("command", ["gateway", "worker", "check"])
def test_an_untrusted_server_certificate_is_told_and_ends_with_1(command: str) -> None:
    with tls_redis() as redis:
        status, printed = refused(redis.url(redis.tls.stranger), redis.server, command)
    assert status == 1, printed
    assert "certificate verify failed" in printed, printed


def refused(url: str, member: Server, command: str) -> tuple[int, str]:
    arguments = {"gateway": ("--port", "0"), "worker": ("tests.support.agents:worker",)}
    status, printed = printed_by(url, member, command, *arguments.get(command, ()))
    assert "Traceback" not in printed, printed
    assert "Redis" in printed, printed
    return status, printed


def test_a_missing_client_certificate_is_told_and_ends_with_1() -> None:
    with tls_redis(client_certificates=True) as redis:
        status, printed = refused(redis.url(shown=False), redis.server, "gateway")
    assert status == 1, printed
    assert re.search("certificate|closed", printed), printed


@pytest.mark.parametrize("binary", servers(sharded=False))
@pytest.mark.parametrize("command", ["gateway", "worker", "check"])
def test_a_cluster_without_sharded_pub_sub_is_told_and_ends_with_1(
    command: str, binary: Path
) -> None:
    with cluster_redis(binary) as redis:
        status, printed = refused(redis.url, redis.nodes[0], command)
    assert status == 1, printed
    assert "7.0 or newer" in printed, printed


@pytest.mark.parametrize("command", ["gateway", "worker", "check"])
def test_a_wrong_password_is_told_and_ends_with_1(command: str) -> None:
    with acl_redis({"gateway": rights.rules("gateway")}) as redis:
        url = redis.url("gateway", "not this one")
        status, printed = refused(url, redis.server, command)
    assert status == 1, printed
    assert re.search("WRONGPASS|invalid username-password", printed), printed
    assert "not this one" not in printed, "a password was printed"
    assert "not%20this%20one" not in printed, "a password was printed"


@pytest.mark.parametrize("command", ["gateway", "worker", "check"])
@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ("~* &* +@connection", "script|load|eval|info"),
        ("~other:* &* +@all", "key|other"),
        ("~* resetchannels &other:* +@all", "channel"),
    ],
    ids=["commands", "keys", "channels"],
)
def test_missing_rights_are_told_and_end_with_1(command: str, rules: str, missing: str) -> None:
    with acl_redis({"blind": rules}) as redis:
        status, printed = refused(redis.url("blind"), redis.server, command)
    assert status == 1, printed
    assert re.search("NOPERM|permission", printed), printed
    assert re.search(missing, printed, re.IGNORECASE), printed
