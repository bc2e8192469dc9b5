"""Tickets (protocol section 5): one use, half a minute, for one user and his modes."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from yarl import URL

from broker.channels import Keys, Mode
from broker.config import Settings
from broker.redis.broker import Broker
from gateway.app import Gateway
from tests.support.clients import Client
from tests.support.servers import OPERATOR_KEY, token

NOBODY: dict[str, str] = {}
HELLO = "connection_established"


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def asked(
    base: str, headers: dict[str, str], body: bytes | None = None, *, method: str = "POST"
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a request for a ticket."""
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{base}/ws/ticket", headers=headers, data=body) as response,
    ):
        told = await response.json() if response.content_length else {}
        return response.status, told, dict(response.headers)


async def ticket(base: str, user: str = "alice", body: bytes | None = None, **claims: Any) -> str:
    status, told, headers = await asked(base, bearer(token(user, **claims)), body)
    assert (status, told["expires_in_seconds"]) == (201, 30)
    assert headers["Cache-Control"] == "no-store"
    made: str = told["ticket"]
    return made


async def refusal(base: str, query: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and code of a refused handshake."""
    async with aiohttp.ClientSession() as http:
        try:
            async with http.ws_connect(URL(f"{base}/ws?{query}", encoded=True), headers=headers):
                pytest.fail("let in")
        except aiohttp.WSServerHandshakeError as error:
            async with http.get(URL(f"{base}/ws?{query}", encoded=True), headers=UPGRADE) as again:
                return error.status, (await again.json())["code"]


UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}  # fmt: skip


async def test_a_ticket_opens_one_connection_of_its_user(base: str) -> None:
    made = await ticket(base, "alice", tenant="acme")
    async with Client(base, headers=NOBODY, query={"ticket": made}) as client:
        hello = await client.first(HELLO)
        assert hello["payload"]["user_id"] == "alice"
        await client.send("ping", ref="p")
        assert (await client.reply("p"))["type"] == "pong"
    assert await refusal(base, f"ticket={made}") == (401, "unauthorized")


async def test_of_many_who_use_one_ticket_at_once_exactly_one_comes_in(settings: Settings) -> None:
    """Read, then deleted, was how two could come in; on two gateways at that."""
    async with Gateway(settings) as one, Gateway(settings) as other:
        bases = [f"http://127.0.0.1:{each.port}" for each in (one, other)]
        for _ in range(5):
            made = await ticket(bases[0])
            async with aiohttp.ClientSession() as http:
                tries = [
                    http.ws_connect(f"{bases[at % 2]}/ws", params={"ticket": made})
                    for at in range(20)
                ]
                results = await asyncio.gather(*tries, return_exceptions=True)
                won = [
                    each for each in results if isinstance(each, aiohttp.ClientWebSocketResponse)
                ]
                lost = [e for e in results if isinstance(e, aiohttp.WSServerHandshakeError)]
                assert len(won) == 1
                assert {each.status for each in lost} == {401}
                assert len(lost) == 19
                await won[0].close()


@pytest.mark.parametrize(
    ("claim", "body", "mode", "outcome"),
    [
        (None, None, "factory", "in"),
        (None, b'{"modes": ["main", "factory"]}', "factory", "in"),
        (None, b'{"modes": ["main"]}', "factory", "refused"),
        (["factory"], None, "factory", "in"),
        (["main"], None, "factory", "refused"),
        (["main"], b'{"modes": ["factory"]}', "factory", "refused"),
        (["main", "factory"], b'{"modes": ["main"]}', "factory", "refused"),
        (["main"], b'{"modes": ["main", "factory"]}', "main", "in"),
        (None, b'{"modes": []}', "main", "refused"),
    ],
)
async def test_a_ticket_is_for_modes_that_both_token_and_request_name(
    base: str, claim: list[str] | None, body: bytes | None, mode: str, outcome: str
) -> None:
    modes = None if claim is None else [Mode(each) for each in claim]
    made = await ticket(base, body=body, modes=modes)
    if outcome == "in":
        async with Client(base, headers=NOBODY, mode=mode, query={"ticket": made}) as client:
            assert (await client.first(HELLO))["payload"]["mode"] == mode
    else:
        async with aiohttp.ClientSession() as http:
            params = {"mode": mode, "ticket": made}
            async with http.get(f"{base}/ws", params=params, headers=UPGRADE) as response:
                assert (response.status, (await response.json())["code"]) == (
                    403,
                    "mode_not_allowed",
                )


async def test_a_ticket_lives_half_a_minute_and_redis_has_its_hash_only(
    base: str, broker: Broker
) -> None:
    begun = time.monotonic()
    made = await ticket(base)
    (key,) = await tickets(broker)
    left_ms = await broker.client.execute("PTTL", key)
    took_ms = (time.monotonic() - begun) * 1000
    assert 29_999 - took_ms <= left_ms <= 30_000
    assert made.encode() not in key
    assert made.encode() not in await broker.client.execute("GET", key)
    await broker.client.execute("DEL", key)  # as when its time is over
    assert await refusal(base, f"ticket={made}") == (401, "unauthorized")


async def tickets(broker: Broker) -> list[bytes]:
    found: list[bytes] = await broker.client.execute("KEYS", f"{broker.keys.prefix}:*:ticket:*")
    return found


@pytest.mark.parametrize("offered", ["", "x", "%00", "%ff%fe", "a" * 5000, "..%2f", "%F0%9F%98%80"])
async def test_what_is_no_ticket_is_401_and_says_no_more(base: str, offered: str) -> None:
    assert await refusal(base, f"ticket={offered}") == (401, "unauthorized")


async def test_a_browser_is_told_by_close_code(base: str) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{base}/ws?ticket=used", headers={"Origin": base}) as ws,
    ):
        message = await ws.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4401)


async def test_two_tickets_are_refused_and_neither_is_used_up(base: str, broker: Broker) -> None:
    one, other = await ticket(base), await ticket(base)
    assert await refusal(base, f"ticket={one}&ticket={other}") == (401, "unauthorized")
    assert len(await tickets(broker)) == 2


async def test_a_ticket_beside_a_bearer_token_is_not_used_up(base: str, broker: Broker) -> None:
    made = await ticket(base)
    async with Client(base, "bob", query={"ticket": made}) as client:
        assert (await client.first(HELLO))["payload"]["user_id"] == "bob"
    assert len(await tickets(broker)) == 1


async def test_a_draining_gateway_leaves_a_ticket_for_another_one(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    made = await ticket(base)
    gateway.node.draining = True
    assert await refusal(base, f"ticket={made}") == (503, "draining")
    assert len(await tickets(broker)) == 1


REFUSED: dict[str, tuple[dict[str, str], bytes | None, int, str]] = {
    "no token": ({}, None, 401, "unauthorized"),
    "a bad token": (bearer("abc"), None, 401, "unauthorized"),
    "an expired token": (bearer(token(ttl_seconds=-5)), None, 401, "unauthorized"),
    "the operator key": (bearer(OPERATOR_KEY), None, 401, "unauthorized"),
    "an operator's token": (bearer(token(operator=True)), None, 403, "user_token_required"),
    "no JSON": (bearer(token()), b"{", 400, "bad_body"),
    "no object": (bearer(token()), b"[]", 400, "bad_body"),
    "an unknown field": (bearer(token()), b'{"mode": "main"}', 400, "unknown_field"),
    "an unknown mode": (bearer(token()), b'{"modes": ["mian"]}', 400, "invalid_modes"),
    "modes that are no list": (bearer(token()), b'{"modes": "main"}', 400, "invalid_modes"),
    "unhashable modes": (bearer(token()), b'{"modes": [{}]}', 400, "invalid_modes"),
    "another site's page": (
        {**bearer(token()), "Origin": "https://evil.example"}, None, 403, "origin_not_allowed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_who_gets_no_ticket(base: str, broker: Broker, case: str) -> None:
    headers, body, status, code = REFUSED[case]
    told = await asked(base, headers, body)
    assert (told[0], told[1]["code"]) == (status, code)
    assert await tickets(broker) == []


async def test_a_page_of_an_allowed_origin_may_ask(settings: Settings) -> None:
    """Preflight, and the header without which its script may not read the answer."""
    page = "https://chat.example"
    with_page = settings.model_copy(update={"allowed_origins": (page,)})
    async with Gateway(with_page) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        status, _, headers = await asked(
            base, {"Origin": page, "Access-Control-Request-Method": "POST"}, method="OPTIONS"
        )
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, page)
        assert "Authorization" in headers["Access-Control-Allow-Headers"]
        status, _, headers = await asked(base, {**bearer(token()), "Origin": page})
        assert (status, headers["Access-Control-Allow-Origin"]) == (201, page)
        assert headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in headers
        # Its refusals are readable as well; those of a foreign page are not.
        status, _, headers = await asked(base, {"Origin": page})
        assert (status, headers.get("Access-Control-Allow-Origin")) == (401, page)
        status, _, headers = await asked(base, {"Origin": "https://evil.example"}, method="OPTIONS")
        assert (status, headers.get("Access-Control-Allow-Origin")) == (403, None)


async def test_rubbish_in_a_tickets_place_lets_nobody_in(base: str, broker: Broker) -> None:
    for rubbish in (b"{", b"[]", b'{"user": "alice"}', b"\xff"):
        made = await ticket(base)
        (key,) = await tickets(broker)
        await broker.client.execute("SET", key, rubbish)
        assert await refusal(base, f"ticket={made}") == (401, "unauthorized")
    made = await ticket(base)
    (key,) = await tickets(broker)
    await broker.client.execute("DEL", key)
    await broker.client.execute("RPUSH", key, "x")
    assert await refusal(base, f"ticket={made}") == (401, "unauthorized")


def test_tickets_are_spread_over_the_partitions() -> None:
    keys = Keys("x", 8)
    used = {keys.ticket(f"{number:064x}").split(b"}")[0] for number in range(200)}
    assert len(used) == 8
