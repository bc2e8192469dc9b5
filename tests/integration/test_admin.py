"""The operators' API (protocol section 7): who may use it, what it does, and the record of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from broker.config import Settings
from broker.limits import LIMITS, tenant_limits
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec
from gateway.app import Gateway
from tests.support.clients import Client, eventually
from tests.support.servers import OPERATOR_KEY, WORKER_KEY, token

PREFIX = "/api/v1/admin"

ROUTES: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("GET", "/nodes", None),
    ("GET", "/agents", None),
    ("GET", "/limits", None),
    ("GET", "/audit", None),
    ("POST", "/users/alice/disconnect", {}),
    ("POST", "/revocations", {"user_id": "alice"}),
    ("POST", "/nodes/{node}/drain", {}),
)


@pytest.fixture
async def two(settings: Settings) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with Gateway(settings) as one, Gateway(settings) as other:
        yield one, other


def base_of(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


async def call(
    gateway: Gateway,
    method: str,
    path: str,
    body: Any = None,
    credential: str | None = OPERATOR_KEY,
) -> tuple[int, dict[str, Any]]:
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request(method, f"{base_of(gateway)}{PREFIX}{path}", json=body) as response,
    ):
        return response.status, await response.json()


@pytest.mark.parametrize("route", ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES])
async def test_only_operators_may(
    two: tuple[Gateway, Gateway], broker: Broker, route: tuple[str, str, dict[str, Any] | None]
) -> None:
    one, _ = two
    method, path, body = route
    path = path.format(node=one.node.node_id)
    for credential, wanted in {
        None: (401, "unauthorized"),
        "": (403, "operator_required"),
        "nonsense": (403, "operator_required"),
        WORKER_KEY: (403, "operator_required"),
        OPERATOR_KEY + "x": (403, "operator_required"),
        token("alice"): (403, "operator_required"),
        token("op", operator=True, ttl_seconds=-5): (403, "operator_required"),
    }.items():
        status, told = await call(one, method, path, body, credential)
        assert (status, told["code"]) == wanted, credential
    assert await broker.client.execute("EXISTS", broker.keys.audit) == 0
    for credential in (OPERATOR_KEY, token("op", operator=True)):
        status, _ = await call(one, method, path, body, credential)
        assert status in (200, 202)


async def test_without_a_key_nobody_has_it(settings: Settings) -> None:
    async with Gateway(settings.model_copy(update={"operator_key": None})) as gateway:
        for credential in (None, "", "None", OPERATOR_KEY):
            status, told = await call(gateway, "GET", "/nodes", credential=credential)
            assert (status, told["code"]) == (403, "operator_required")


async def test_a_revoked_operator_is_none_any_more(two: tuple[Gateway, Gateway]) -> None:
    sacked = token("op", operator=True)
    assert (await call(two[0], "GET", "/nodes", credential=sacked))[0] == 200
    await call(two[0], "POST", "/revocations", {"user_id": "op"})
    assert (await call(two[1], "GET", "/nodes", credential=sacked))[0] == 403


async def test_an_operator_of_a_tenant_has_power_over_that_tenant_only(
    two: tuple[Gateway, Gateway],
) -> None:
    one, _ = two
    theirs = token("op", operator=True, tenant="acme")
    for method, path in (
        ("GET", "/nodes"), ("GET", "/agents"), ("POST", f"/nodes/{one.node.node_id}/drain"),
    ):  # fmt: skip
        status, told = await call(one, method, path, credential=theirs)
        assert (status, told["code"]) == (403, "operator_required")
    for body in ({"user_id": "alice", "tenant": "emca"}, {"jti": "j", "tenant": "emca"}):
        status, told = await call(one, "POST", "/revocations", body, theirs)
        assert (status, told["code"]) == (403, "not_allowed")
    async with (
        Client(base_of(one), token=token("alice", tenant="acme")) as mine,
        Client(base_of(one), token=token("alice", tenant="emca")) as other,
        Client(base_of(one), "alice") as nobodys,
    ):
        await asyncio.gather(*(each.first("live") for each in (mine, other, nobodys)))
        assert (await call(one, "POST", "/users/alice/disconnect", {}, theirs))[0] == 202
        assert await mine.closed() == 1001
        assert (await call(one, "POST", "/users/alice/disconnect", {}))[0] == 202
        assert await nobodys.closed() == 1001
        assert other.close_code is None
    _, told = await call(one, "GET", "/audit", credential=theirs)
    assert [(each["by"], each["tenant"]) for each in told["entries"]] == [("op", "acme")]


@pytest.mark.parametrize("user", ["alice", "a/b:%", "ü n", "../nodes", "{x}", "*"])
async def test_disconnect_closes_all_of_a_users_sockets_everywhere(
    two: tuple[Gateway, Gateway], user: str
) -> None:
    clients = [Client(base_of(each), user) for each in two for _ in range(2)]
    other = Client(base_of(two[0]), "somebody else")
    await asyncio.gather(*(each.__aenter__() for each in (*clients, other)))
    await asyncio.gather(*(each.first("live") for each in clients))
    path = f"/users/{quote(user, safe='')}/disconnect"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {OPERATOR_KEY}"}) as http,
        http.post(URL(f"{base_of(two[0])}{PREFIX}{path}", encoded=True)) as response,
    ):
        assert response.status == 202, await response.text()
    assert await asyncio.gather(*(each.closed() for each in clients)) == [1001] * 4
    assert other.close_code is None
    async with Client(base_of(two[1]), user) as back:  # he may come back: that is no revocation
        await back.first("live")
    await asyncio.gather(*(each.__aexit__() for each in (*clients, other)))


async def test_drain_empties_one_gateway_and_no_other(two: tuple[Gateway, Gateway]) -> None:
    one, other = two
    async with Client(base_of(one)) as here, Client(base_of(other)) as there:
        await here.first("live")
        await there.first("live")
        status, _ = await call(
            other, "POST", f"/nodes/{one.node.node_id}/drain", {"reason": "kernel"}
        )
        assert status == 202
        assert (await here.first("draining"))["payload"]["reconnect_after_ms"] > 0
        assert await here.closed() == 1001
        assert one.node.draining
        assert not other.node.draining
        assert there.close_code is None
        _, told = await call(other, "GET", "/nodes")
        assert len(told["nodes"]) == 2
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await Client(base_of(one)).__aenter__()
        assert refused.value.status == 503
    status, told = await call(one, "POST", "/nodes/nobody/drain")
    assert (status, told["code"]) == (404, "node_not_found")


async def test_nodes_are_those_that_live_with_what_they_carry(two: tuple[Gateway, Gateway]) -> None:
    one, other = two
    async with Client(base_of(one)) as client, Client(base_of(one), mode="factory"):
        await client.first("live")
        _, told = await call(one, "GET", "/nodes")
    by_id = {each["node_id"]: each for each in told["nodes"]}
    assert by_id.keys() == {one.node.node_id, other.node.node_id}
    mine = by_id[one.node.node_id]
    assert mine["connections"]["total"] == 2
    assert mine["connections"]["by_mode"]["factory"] == 1
    assert mine["draining"] is False
    assert mine["uptime_seconds"] > 0


async def test_agents_are_told_with_their_queues(
    two: tuple[Gateway, Gateway], broker: Broker
) -> None:
    await broker.announce([AgentSpec(name="b", retries=2), AgentSpec(name="a", on_busy="reject")])
    await broker.client.execute("XADD", broker.keys.requests("b"), "*", "r", "x")
    _, told = await call(two[0], "GET", "/agents")
    assert [(each["name"], each["waiting"]) for each in told["agents"]] == [("a", 0), ("b", 1)]
    assert told["agents"][0]["on_busy"] == "reject"


async def test_limits_are_told_to_a_tenants_operator_for_his_own(settings: Settings) -> None:
    rows = tenant_limits(
        {"acme": {"runs": 7, "user": {"threads": 3}}, "emca": {}, "*": {"runs": 9}}
    )
    limited = settings.model_copy(update={"tenant_limits": rows, "max_runs_per_user": 5})
    async with Gateway(limited) as gateway:
        _, told = await call(gateway, "GET", "/limits")
        assert told["user"]["runs"] == 5
        assert told["user"].keys() == LIMITS.keys()
        assert told["tenants"] == {
            "acme": {"runs": 7, "user": {"threads": 3}},
            "emca": {"user": {}},
            "*": {"runs": 9, "user": {}},
        }
        theirs = token("op", operator=True, tenant="acme")
        _, told = await call(gateway, "GET", "/limits", credential=theirs)
        assert told["tenants"].keys() == {"acme", "*"}


async def test_every_action_is_on_record_with_who_and_when(two: tuple[Gateway, Gateway]) -> None:
    one, other = two
    boss = token("boss", operator=True)
    await call(one, "POST", "/users/alice/disconnect", {"reason": "asked for it"}, boss)
    await call(other, "POST", "/revocations", {"user_id": "bob", "tenant": "acme"})
    await call(other, "POST", "/revocations", {"jti": "j1"}, boss)
    await call(one, "POST", f"/nodes/{other.node.node_id}/drain", {}, boss)
    _, told = await call(one, "GET", "/audit")
    told["entries"].reverse()
    assert [(each["verb"], each["by"]) for each in told["entries"]] == [
        ("disconnect", "boss"), ("revoke", "operator key"), ("revoke", "boss"), ("drain", "boss"),
    ]  # fmt: skip
    first, second, third, fourth = told["entries"]
    assert (first["user_id"], first["reason"]) == ("alice", "asked for it")
    assert (second["user_id"], second["tenant"], third["jti"]) == ("bob", "acme", "j1")
    assert fourth["node_id"] == other.node.node_id
    assert all(each["at"].endswith("Z") and each["id"] for each in told["entries"])
    assert [each["at"] for each in told["entries"]] == sorted(
        each["at"] for each in told["entries"]
    )
    assert boss not in str(told)


async def test_the_record_is_read_page_by_page(two: tuple[Gateway, Gateway]) -> None:
    for number in range(5):
        await call(two[0], "POST", f"/users/u{number}/disconnect")
    seen: list[str] = []
    before = ""
    while True:
        _, told = await call(two[0], "GET", f"/audit?limit=2{before}")
        seen += [each["user_id"] for each in told["entries"]]
        if told["before"] is None:
            break
        before = f"&before={told['before']}"
    assert seen == ["u4", "u3", "u2", "u1", "u0"]
    _, told = await call(two[0], "GET", "/audit?before=0-0")
    assert told == {"entries": [], "before": None}
    for query in ("before=x", "limit=x"):
        status, told = await call(two[0], "GET", f"/audit?{query}")
        assert (status, told["code"]) == (400, "invalid_page")


BAD: dict[str, tuple[Any, str]] = {
    "neither": ({}, "bad_body"),
    "both": ({"user_id": "a", "jti": "j"}, "bad_body"),
    "a moment for a jti": ({"jti": "j", "issued_before": 1}, "bad_body"),
    "the future": ({"user_id": "a", "issued_before": 9999999999}, "invalid_issued_before"),
    "milliseconds": ({"user_id": "a", "issued_before": 1795000000000}, "invalid_issued_before"),
    "a text": ({"user_id": "a", "issued_before": "now"}, "invalid_issued_before"),
    "a truth": ({"user_id": "a", "issued_before": True}, "invalid_issued_before"),
    "no id": ({"user_id": ""}, "invalid_user_id"),
    "a number": ({"jti": 5}, "invalid_jti"),
    "no tenant": ({"user_id": "a", "tenant": "\u0000"}, "invalid_tenant"),
    "no reason": ({"user_id": "a", "reason": 5}, "invalid_reason"),
    "a long reason": ({"user_id": "a", "reason": "x" * 501}, "invalid_reason"),
    "unknown": ({"user": "a"}, "unknown_field"),
    "a list": ([], "bad_body"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_body_is_told_and_does_nothing(
    gateway: Gateway, broker: Broker, case: str
) -> None:
    body, code = BAD[case]
    status, told = await call(gateway, "POST", "/revocations", body)
    assert (status, told["code"]) == (400, code)
    assert await broker.client.execute("KEYS", f"{broker.keys.prefix}:*:revoked:*") == []
    assert await broker.client.execute("EXISTS", broker.keys.audit) == 0


async def test_the_record_lives_for_its_time(settings: Settings, broker: Broker) -> None:
    async with Gateway(settings.model_copy(update={"audit_ttl_seconds": 4000})) as gateway:
        await call(gateway, "POST", "/users/alice/disconnect")
        await eventually(lambda: str(gateway.node.orders._position) != "0-0")
    assert 3900 < await broker.client.execute("TTL", broker.keys.audit) <= 4000


async def test_an_operators_token_opens_no_chat(gateway: Gateway, base: str) -> None:
    """Different tokens have different verbs."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await Client(base, token=token("op", operator=True)).__aenter__()
    assert refused.value.status == 403
    async with Client(base, "op") as client:
        await client.first("live")
        await client.send("auth_refresh", {"token": token("op", operator=True)}, ref="r")
        assert await client.closed() == 4403
