"""Runs of anybody, for operators: listed, found, watched without a word of them, stopped."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
import pytest
from yarl import URL

from agents_sdk import Run, Worker
from broker.channels import Owner, Scope
from broker.config import Settings
from broker.cursor import LAST
from broker.redis.agents import WorkerReport
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, RunRequest
from gateway.app import Gateway
from tests.support.clients import Client
from tests.support.servers import OPERATOR_KEY, WORKER_KEY, token
from tests.support.slow_reader import slow_reader

PREFIX = "/api/v1/admin"
SECRET = "what only the user may read"


async def call(
    base: str,
    method: str,
    path: str,
    body: Any = None,
    credential: str | None = OPERATOR_KEY,
    **query: str,
) -> tuple[int, dict[str, Any]]:
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    asked = f"?{urlencode(query)}" if query else ""
    url = URL(f"{base}{PREFIX}{path}{asked}", encoded=True)
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request(method, url, json=body) as response,
    ):
        return response.status, await response.json()


def of(run_id: str, user: str = "alice") -> str:
    return f"/users/{quote(user, safe='')}/runs/{quote(run_id, safe='')}"


async def begun(
    broker: Broker, run_id: str, user: str = "alice", tenant: str = "", agent: str = "nobody's"
) -> None:
    """A run that waits for a worker."""
    channel = broker.keys.channel(Owner(tenant, user), Scope.USER)
    request = RunRequest(
        run_id=run_id, owner=channel.owner, channel=channel, thread_id=f"thread of {run_id}",
        agent=agent, content=SECRET, metadata={"secret": SECRET},
    )  # fmt: skip
    await broker.register(request, epoch_ms=time.time_ns() // 1_000_000)


@pytest.fixture
async def works(settings: Settings, gateway: Gateway) -> AsyncIterator[Worker]:
    """A worker in this process whose agent goes on until it is stopped."""
    del gateway
    worker = Worker(settings=settings)

    @worker.agent("endless")
    async def endless(run: Run) -> None:
        await run.think(SECRET, step=1)
        async with run.tool("look_up", query=SECRET) as found:
            found.result = SECRET
        async with run.tool("wait"):
            await asyncio.Event().wait()

    async with worker.running():
        yield worker


async def eventually_async(look: Any) -> Any:
    """What the look gives, as soon as it gives something."""
    async with asyncio.timeout(60):
        while not (found := await look()):  # noqa: ASYNC110 - a gateway reports by the clock
            await asyncio.sleep(0.05)
    return found


ROUTES: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("GET", "/runs", None),
    ("GET", "/runs?run_id=r1", None),
    ("GET", of("r1"), None),
    ("GET", "/workers", None),
    ("GET", "/connections/slow", None),
    ("POST", f"{of('r1')}/stop", {}),
)


@pytest.mark.parametrize("route", ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES])
async def test_only_operators_may(
    base: str, broker: Broker, route: tuple[str, str, dict[str, Any] | None]
) -> None:
    await begun(broker, "r1")
    method, path, body = route
    for credential, wanted in {
        None: (401, "unauthorized"),
        "nonsense": (403, "operator_required"),
        WORKER_KEY: (403, "operator_required"),
        token("alice"): (403, "operator_required"),
        token("op", operator=True, ttl_seconds=-5): (403, "operator_required"),
    }.items():
        status, told = await call(base, method, path, body, credential)
        assert (status, told["code"]) == wanted, credential
        assert "runs" not in told
    assert await broker.client.execute("EXISTS", broker.keys.audit) == 0
    assert (await broker.run(Owner("", "alice"), "r1"))["state"] == "queued"
    for credential in (OPERATOR_KEY, token("op", operator=True)):
        assert (await call(base, method, path, body, credential))[0] in (200, 202)


async def test_a_run_is_watched_and_stopped_without_a_word_of_it(
    works: Worker, base: str, broker: Broker
) -> None:
    del works
    async with Client(base) as client:
        await client.first("live")
        run_id = await client.ask({"secret": SECRET}, agent="endless", thread_id="t1")
        await client.first("tool_executing", tool="wait")
        _, told = await call(base, "GET", "/runs")
        (row,) = told["runs"]
        assert (told["total"], told["after"]) == (1, None)
        assert (row["run_id"], row["user_id"], row["tenant"], row["thread_id"]) == (
            run_id, "alice", "", "t1",
        )  # fmt: skip
        assert (row["agent_name"], row["state"], row["attempt"]) == ("endless", "running", 1)
        assert row["missing"] == ["agent_completed"]
        assert row["started_at"] >= row["created_at"]
        (serving,) = (await call(base, "GET", "/workers"))[1]["workers"]
        assert serving["worker_id"] == row["worker_id"]

        _, told = await call(base, "GET", of(run_id))
        kinds = [each["type"] for each in told["events"]]
        assert kinds == [
            "user_message", "agent_started", "agent_thinking", "tool_executing", "tool_completed",
            "tool_executing",
        ]  # fmt: skip
        assert [each.get("tool") for each in told["events"][3:]] == ["look_up", "look_up", "wait"]
        assert told["events"][4]["success"] is True
        assert SECRET not in str(told)
        assert told["more"] is False

        status, stopped = await call(base, "POST", f"{of(run_id)}/stop", {"reason": "runaway"})
        assert (status, stopped["run_id"]) == (202, run_id)
        end = await client.completed(run_id)
        assert end["payload"]["status"] == "cancelled"
        _, later = await call(base, "GET", of(run_id), after=told["cursor"])
        assert [each["type"] for each in later["events"]] == [
            "stop_requested", "tool_completed", "agent_completed",
        ]  # fmt: skip
        assert later["events"][-1]["status"] == "cancelled"
        assert later["run"]["state"] == "completed"
        assert later["run"]["completed_at"] is not None
        assert (await call(base, "GET", of(run_id), after=later["cursor"]))[1]["events"] == []
    (entry,) = (await call(base, "GET", "/audit"))[1]["entries"]
    assert (entry["verb"], entry["run_id"], entry["user_id"], entry["reason"]) == (
        "stop", run_id, "alice", "runaway",
    )  # fmt: skip
    assert (entry["by"], entry["id"]) == ("operator key", stopped["id"])
    assert (await call(base, "GET", "/runs"))[1] == {"runs": [], "after": None, "total": 0}
    (found,) = (await call(base, "GET", "/runs", run_id=run_id))[1]["runs"]
    assert (found["state"], found["status"]) == ("completed", "cancelled")
    del broker


async def test_a_run_that_no_worker_has_ends_at_once(base: str, broker: Broker) -> None:
    await begun(broker, "r1")
    assert (await call(base, "POST", f"{of('r1')}/stop"))[0] == 202
    _, told = await call(base, "GET", of("r1"))
    assert (told["run"]["state"], told["run"]["status"]) == ("completed", "cancelled")
    assert (await call(base, "POST", f"{of('r1')}/stop"))[0] == 202  # as often as one likes


async def test_all_open_runs_are_on_one_of_the_pages(base: str, broker: Broker) -> None:
    """Of many users in many partitions, and of one user with more than a page."""
    wanted = {f"r{number}" for number in range(40)} | {f"a{number}" for number in range(300)}
    await asyncio.gather(
        *(begun(broker, each, user=each if each[0] == "r" else "alice") for each in wanted)
    )
    pages, seen, after = 0, set[str](), ""
    while True:
        query = {"limit": "25"} | ({"after": after} if after else {})
        status, told = await call(base, "GET", "/runs", **query)
        assert status == 200
        assert told["total"] == len(wanted)
        # A set that is small for Redis comes as a whole, so "about": 128 by Redis' own setting.
        assert len(told["runs"]) <= 25 + 128
        seen |= {each["run_id"] for each in told["runs"]}
        pages += 1
        if told["after"] is None:
            break
        after = told["after"]
    assert seen == wanted
    assert pages > 3


async def test_a_run_is_found_by_its_id_alone_and_ids_are_a_users_own(
    base: str, broker: Broker
) -> None:
    await begun(broker, "same", user="alice")
    await begun(broker, "same", user="bob", tenant="acme")
    _, told = await call(base, "GET", "/runs", run_id="same")
    assert {(each["tenant"], each["user_id"]) for each in told["runs"]} == {
        ("", "alice"), ("acme", "bob"),
    }  # fmt: skip
    assert (await call(base, "GET", "/runs", run_id="nobody's"))[1]["runs"] == []
    assert (await call(base, "POST", f"{of('same', 'bob')}/stop"))[1]["code"] == "run_not_found"
    status, _ = await call(base, "POST", f"{of('same', 'bob')}/stop", {"tenant": "acme"})
    assert status == 202
    assert (await broker.run(Owner("", "alice"), "same"))["state"] == "queued"
    assert (await broker.run(Owner("acme", "bob"), "same"))["state"] == "completed"
    entries = (await call(base, "GET", "/audit"))[1]["entries"]
    assert len(entries) == 1  # what was not there was not ordered


@pytest.mark.parametrize("run_id", ["a/b:%", "ü n", "<img src=x onerror=alert(1)>", "*", "{x}"])
async def test_any_id_is_shown_as_it_is(base: str, broker: Broker, run_id: str) -> None:
    await begun(broker, run_id, user=run_id)
    ((found,), (listed,)) = [
        (await call(base, "GET", "/runs", **query))[1]["runs"] for query in ({"run_id": run_id}, {})
    ]
    assert found == listed
    assert (found["run_id"], found["user_id"]) == (run_id, run_id)
    assert (await call(base, "GET", of(run_id, run_id)))[1]["run"] == found


async def test_an_operator_of_a_tenant_finds_that_tenants_runs_only(
    base: str, broker: Broker
) -> None:
    theirs = token("op", operator=True, tenant="acme")
    await begun(broker, "hers", user="alice", tenant="acme")
    await begun(broker, "nobodys", user="alice")
    _, told = await call(base, "GET", "/runs", credential=theirs)
    assert [each["run_id"] for each in told["runs"]] == ["hers"]
    assert told["total"] is None  # how many the others have is not his to know
    assert (await call(base, "GET", "/runs", None, theirs, run_id="nobodys"))[1]["runs"] == []
    assert (await call(base, "GET", of("nobodys"), None, theirs))[1]["code"] == "run_not_found"
    assert (await call(base, "POST", f"{of('nobodys')}/stop", {}, theirs))[0] == 404
    for query in ({"tenant": "emca"}, {"tenant": "x" * 300}):
        status, _ = await call(base, "GET", of("hers"), None, theirs, **query)
        assert status in (400, 403)
    status, _ = await call(base, "POST", f"{of('hers')}/stop", {"tenant": "emca"}, theirs)
    assert status == 403
    assert (await call(base, "GET", "/workers", None, theirs))[0] == 403
    assert (await call(base, "POST", f"{of('hers')}/stop", {}, theirs))[0] == 202
    entries = (await call(base, "GET", "/audit", None, theirs))[1]["entries"]
    assert [(each["verb"], each["run_id"], each["by"]) for each in entries] == [
        ("stop", "hers", "op")
    ]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/runs?limit=0", "invalid_page"),
        ("/runs?limit=x", "invalid_page"),
        ("/runs?limit=501", "invalid_page"),
        (f"/runs?limit={'9' * 5000}", "invalid_page"),
        ("/runs?after=128.0", "invalid_page"),
        ("/runs?after=5", "invalid_page"),
        ("/runs?after=", "invalid_page"),
        ("/runs?limit=", "invalid_page"),
        ("/runs?after=0.99999999999999999999", "invalid_page"),
        ("/runs?run_id=", "invalid_run_id"),
        (f"{of('r1')}?after=x", "invalid_after"),
        (f"{of('r1')}?tenant=%00", "invalid_tenant"),
    ],
)
async def test_a_bad_question_is_told(base: str, broker: Broker, path: str, code: str) -> None:
    await begun(broker, "r1")
    status, told = await call(base, "GET", path)
    assert (status, told["code"]) == (400, code)


async def test_after_the_last_cursor_there_can_be_is_nothing(base: str, broker: Broker) -> None:
    """Redis refuses it as an exclusive bound: that was told as Redis being away."""
    await begun(broker, "r1")
    status, told = await call(base, "GET", of("r1"), after=str(LAST))
    assert (status, told["events"], told["more"]) == (200, [], False)


async def test_what_somebody_else_wrote_into_redis_is_no_run(base: str, broker: Broker) -> None:
    await begun(broker, "r1")
    partition = broker.keys.partition(Owner("", "alice"))
    await broker.client.execute("ZADD", broker.keys.leases(partition), 1, "bad", 2, "gone")
    await broker.client.execute("HSET", broker.keys.run(partition, "bad"), "owner", "x")
    _, told = await call(base, "GET", "/runs")
    assert [each["run_id"] for each in told["runs"]] == ["r1"]
    await broker.client.execute("DEL", broker.keys.leases(partition))
    await broker.client.execute("SET", broker.keys.leases(partition), "no set")
    assert (await call(base, "GET", "/runs"))[0] == 503


async def test_agents_and_workers_are_told_with_what_they_carry(base: str, broker: Broker) -> None:
    now = time.time()
    await broker.announce([AgentSpec(name="a"), AgentSpec(name="b")])
    await broker.tell_worker("w1", WorkerReport(at=now, concurrency=4, running={"a": 3, "b": 1}))
    await broker.tell_worker("w2", WorkerReport(at=now, concurrency=2, running={"a": 0}))
    await broker.tell_worker("w3", WorkerReport(at=now - 50, concurrency=9, running={"a": 9}))
    long_ago = f"{int((now - 30) * 1000)}-0"
    await broker.client.execute("XADD", broker.keys.requests("a"), long_ago, "run", "0 x")
    _, told = await call(base, "GET", "/agents")
    first, second = told["agents"]
    assert (first["workers"], first["capacity"], first["running"]) == (2, 6, 3)
    assert (second["workers"], second["capacity"], second["running"]) == (1, 4, 1)
    assert first["oldest_waiting_seconds"] >= 29
    assert second["oldest_waiting_seconds"] is None
    _, told = await call(base, "GET", "/workers")
    shown = {each["worker_id"]: each for each in told["workers"]}
    assert [shown[name]["silent"] for name in ("w1", "w2", "w3")] == [False, False, True]
    assert (shown["w1"]["busy"], shown["w1"]["concurrency"]) == (4, 4)
    assert shown["w1"]["running"] == {"a": 3, "b": 1}


async def test_a_gateway_that_fell_silent_is_told_for_an_hour(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    report = gateway.node.report()
    for name, age in {"lives": 1, "killed": 60, "forgotten": 7200}.items():
        told = await broker.client.execute("HGET", broker.keys.nodes, gateway.node.node_id)
        assert told
        stored = {**report, "at": time.time() - age}
        await gateway.node.client.execute("HSET", broker.keys.nodes, name, orjson.dumps(stored))
    _, told = await call(base, "GET", "/nodes")
    assert {each["node_id"] for each in told["nodes"]} == {gateway.node.node_id, "lives"}
    assert [each["node_id"] for each in told["gone"]] == ["killed"]
    mine = next(each for each in told["nodes"] if each["node_id"] == gateway.node.node_id)
    assert mine["ready"] is True
    assert mine["version"]
    assert mine["events"]["delivered"] == 0
    assert mine["latency_ms"].keys() == {"p50", "p95", "p99"}


@pytest.mark.timeout(300)
async def test_a_client_that_does_not_read_is_told_to_operators(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """By the gateway that has it, in its report, so any gateway tells it."""
    del gateway
    theirs = {name: token("op", operator=True, tenant=name) for name in ("acme",)}
    async with slow_reader(base, "alice") as reader:
        channel = broker.keys.channel(Owner("", "alice"), Scope.USER)
        request = RunRequest(
            run_id="r", owner=channel.owner, channel=channel, thread_id="t", agent="a",
            content="x" * 200_000,
        )  # fmt: skip
        for number in range(40):  # echoes of 8 MB: more than any kernel keeps for one socket
            await broker.register(
                RunRequest(**{**_fields(request), "run_id": f"r{number}"}),
                epoch_ms=time.time_ns() // 1_000_000,
            )

        async def told() -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = (await call(base, "GET", "/connections/slow"))[1][
                "connections"
            ]
            return rows

        (row,) = await eventually_async(told)
        assert (row["user_id"], row["tenant"], row["mode"]) == ("alice", "", "main")
        assert row["unsent_bytes"] > 0
        (mine,) = (await call(base, "GET", "/nodes"))[1]["nodes"]
        assert (mine["slow"], mine["node_id"]) == (1, row["node_id"])
        for credential in theirs.values():
            _, nothing = await call(base, "GET", "/connections/slow", None, credential)
            assert nothing["connections"] == []
        assert reader.close_code is None

    async def gone() -> bool:
        return not (await call(base, "GET", "/connections/slow"))[1]["connections"]

    await eventually_async(gone)


def _fields(request: RunRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__dataclass_fields__}


async def test_the_fleets_figures_have_buckets_to_subtract(base: str, broker: Broker) -> None:
    async with Client(base) as client:
        await client.first("live")
        await begun(broker, "r1")
        await client.first("user_message")
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as http:

        async def buckets() -> Any:
            async with http.get(f"{base}/ws/stats") as response:
                return (await response.json())["fleet"]["latency_buckets"]

        ((edge, count),) = await eventually_async(buckets)
    assert edge > 0
    assert count == 1


async def test_a_run_is_not_told_under_another_users_name(base: str, broker: Broker) -> None:
    """Nor stopped: of two users whose keys are in one partition, say."""
    mine = broker.keys.partition(Owner("", "alice"))
    neighbour = next(
        name
        for name in map("user{}".format, range(100_000))
        if broker.keys.partition(Owner("", name)) == mine
    )
    await begun(broker, "r1")
    assert (await call(base, "GET", of("r1", neighbour)))[1]["code"] == "run_not_found"
    status, _ = await call(base, "POST", f"{of('r1', neighbour)}/stop")
    assert status == 404
    assert (await broker.run(Owner("", "alice"), "r1"))["state"] == "queued"
    assert (await call(base, "GET", "/audit"))[1]["entries"] == []
