"""Revoked tokens: no socket keeps one, none comes in with one, whatever is lost on the way."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import jwt
import pytest

from broker.channels import Channel, Owner
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.orders import Order, Verb
from gateway.app import Gateway
from gateway.feed import Feed
from gateway.tokens import issue_token
from tests.support.clients import Client, eventually, lose_live
from tests.support.servers import OPERATOR_KEY, SECRET

AGO = 100.0


def token(user: str = "alice", *, issued_ago: float = AGO, **claims: Any) -> str:
    return issue_token(
        secret=SECRET,
        alg="HS256",
        user=user,
        ttl_seconds=1000,
        now=time.time() - issued_ago,
        **claims,
    )


def jti_of(text: str) -> str:
    found: str = jwt.decode(text, options={"verify_signature": False})["jti"]
    return found


async def revoke(base: str, **body: Any) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {OPERATOR_KEY}"}) as http,
        http.post(f"{base}/api/v1/admin/revocations", json=body) as response,
    ):
        assert response.status == 202, await response.text()
        told: dict[str, Any] = await response.json()
        return told


async def status_with(base: str, text: str) -> int:
    """101 when a connection with this token comes about, else the refusal's status."""
    try:
        async with Client(base, token=text) as client:
            await client.first("connection_established")
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


@pytest.fixture
async def two(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    async with Gateway(settings) as one, Gateway(settings) as other:
        yield f"http://127.0.0.1:{one.port}", f"http://127.0.0.1:{other.port}"


async def test_a_users_tokens_up_to_a_moment(two: tuple[str, str]) -> None:
    """Sockets on both gateways, of all modes, close at once; the next login comes in."""
    old, others = token(), token("bob")
    modes = ("main", "factory", "isolated", "legacy")
    clients = [Client(base, token=old, mode=mode) for base in two for mode in modes]
    spared = Client(two[1], "bob", token=others)
    await asyncio.gather(*(each.__aenter__() for each in (*clients, spared)))
    await asyncio.gather(*(each.first("connection_established") for each in clients))
    await revoke(two[0], user_id="alice", issued_before=time.time() - AGO / 2, reason="left")
    assert await asyncio.gather(*(each.closed() for each in clients)) == [4401] * len(clients)
    for base in two:
        assert await status_with(base, old) == 401
        assert await status_with(base, token()) == 401
        assert await status_with(base, token(issued_ago=1)) == 101
        assert await status_with(base, token("bob")) == 101
    assert spared.close_code is None
    await asyncio.gather(*(each.__aexit__() for each in (*clients, spared)))


async def test_without_a_moment_all_that_were_issued_until_now(two: tuple[str, str]) -> None:
    fresh = token(issued_ago=0)
    await revoke(two[0], user_id="alice")
    assert await status_with(two[1], fresh) == 401


async def test_a_token_that_does_not_say_when_it_was_issued_is_revoked_too(base: str) -> None:
    undated = jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, SECRET, "HS256")
    assert await status_with(base, undated) == 101
    await revoke(base, user_id="alice", issued_before=1)
    assert await status_with(base, undated) == 401


async def test_one_token_by_its_jti(two: tuple[str, str]) -> None:
    stolen, kept = token(), token()
    async with Client(two[0], token=stolen) as thief, Client(two[1], token=kept) as owner:
        await thief.first("live")
        await owner.first("live")
        await revoke(two[1], jti=jti_of(stolen))
        assert await thief.closed() == 4401
        assert await status_with(two[1], stolen) == 401
        assert await status_with(two[1], kept) == 101
        await owner.send("ping", ref="p")
        assert (await owner.reply("p"))["type"] == "pong"


async def test_another_tenants_token_of_the_same_jti_stays(base: str) -> None:
    """Each tenant's login service names its tokens as it likes."""
    claims = {"sub": "alice", "exp": int(time.time()) + 600, "jti": "1"}
    ours, theirs = (
        jwt.encode({**claims, "tenant": tenant}, SECRET, "HS256") for tenant in ("acme", "emca")
    )
    async with Client(base, token=ours) as mine, Client(base, token=theirs) as other:
        await other.first("live")
        await revoke(base, jti="1", tenant="acme")
        assert await mine.closed() == 4401
        assert await status_with(base, theirs) == 101
        assert other.close_code is None


async def test_another_tenants_user_of_the_same_name_stays(base: str) -> None:
    ours, theirs = token(tenant="acme"), token(tenant="emca")
    async with Client(base, token=ours) as mine, Client(base, token=theirs) as other:
        await revoke(base, user_id="alice", tenant="acme")
        assert await mine.closed() == 4401
        assert await status_with(base, theirs) == 101
        assert await status_with(base, token()) == 101
        assert other.close_code is None


async def test_an_earlier_moment_does_not_take_a_later_one_back(base: str) -> None:
    await revoke(base, user_id="alice", issued_before=time.time() - 10)
    told = await revoke(base, user_id="alice", issued_before=5)
    assert told["issued_before"] > "2026"
    assert await status_with(base, token()) == 401


async def test_it_holds_when_the_notice_is_lost(
    gateway: Gateway, base: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit log has it, and is looked at every second."""
    heard: list[bytes] = []
    monkeypatch.setattr(gateway.node.orders, "wake", lambda: heard.append(b"!"))
    lose_live(
        gateway, monkeypatch, lambda message: message.count(b" ") == 0 and message != b"probe"
    )
    async with Client(base, token=token()) as client:
        await client.first("live")
        await revoke(base, user_id="alice")
        assert await client.closed() == 4401
    assert heard == []


async def test_it_holds_when_the_order_itself_was_lost(settings: Settings) -> None:
    """Each socket's records are looked up once per heartbeat."""
    quick = settings.model_copy(update={"heartbeat_seconds": 1})
    async with Gateway(quick) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base, token=token()) as client, Client(base, "bob") as other:
            await client.first("live")
            order = Order(
                verb=Verb.REVOKE,
                by="test",
                user_id="alice",
                issued_before_ms=int(time.time() * 1000),
            )
            await gateway.node.broker.revoke(order, ttl_seconds=60)
            assert await client.closed() == 4401
            assert other.close_code is None


async def test_a_token_that_is_renewed_while_its_records_are_looked_up_counts(
    gateway: Gateway, base: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is about the former one; the new one was checked when it came."""
    async with Client(base, token=token()) as client:
        await client.first("live")
        (socket,) = gateway.node.sockets
        renewed = replace(socket.identity, issued_at=int(time.time()) + 1000)
        look_up = gateway.node.broker.look_up

        async def meanwhile(records: Sequence[bytes]) -> list[Any]:
            found = await look_up(records)
            socket.identity = renewed
            return found

        monkeypatch.setattr(gateway.node.broker, "look_up", meanwhile)
        now = int(time.time() * 1000) + 1000
        order = Order(verb=Verb.REVOKE, by="test", user_id="alice", issued_before_ms=now)
        await broker.revoke(order, ttl_seconds=60)
        await gateway.node.revocations.sweep([socket])
        assert socket.identity is renewed
        await client.send("ping", {}, ref="p")
        assert (await client.reply("p"))["type"] == "pong"


async def test_what_was_revoked_for_longer_stays_so(broker: Broker) -> None:
    """A gateway whose tokens live for a shorter time is asked for the same."""
    order = Order(verb=Verb.REVOKE, by="test", user_id="alice", issued_before_ms=2000)
    assert await broker.revoke(order, ttl_seconds=5000) == 2000
    assert await broker.revoke(order, ttl_seconds=50) == 2000
    assert await broker.revoke(replace(order, issued_before_ms=1000), ttl_seconds=50) == 2000
    key = broker.keys.revoked_user(Owner("", "alice"))
    assert await broker.client.execute("TTL", key) > 50
    assert await broker.client.execute("HGET", key, "before") == b"2000"
    assert await broker.revoke(order, ttl_seconds=9000) == 2000
    assert await broker.client.execute("TTL", key) > 5000


async def test_it_holds_when_the_audit_log_was_cut_off(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """After a failover nobody knows what was ordered: every socket's token is looked up."""
    await revoke(base, user_id="carol")
    await eventually(lambda: str(gateway.node.orders._position) != "0-0")
    async with Client(base, token=token()) as client:
        await client.first("live")
        order = Order(
            verb=Verb.REVOKE, by="test", user_id="alice", issued_before_ms=int(time.time() * 1000)
        )
        await broker.revoke(order, ttl_seconds=60)
        await broker.client.execute("DEL", broker.keys.audit)
        assert await client.closed() == 4401


async def test_a_connection_on_its_way_does_not_slip_through(
    gateway: Gateway, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records were clean a moment ago, and it is no socket yet when the order comes."""
    relay, reached, go_on = gateway.node.relay, asyncio.Event(), asyncio.Event()
    opened = relay.open

    async def slowly(channel: Channel, *, timeout_seconds: float) -> Feed:
        reached.set()
        await go_on.wait()
        return await opened(channel, timeout_seconds=timeout_seconds)

    monkeypatch.setattr(relay, "open", slowly)
    attempt = asyncio.create_task(status_with(base, token()))
    await reached.wait()
    await revoke(base, user_id="alice")
    await eventually(lambda: bool(gateway.node.revocations._recent))
    go_on.set()
    assert await attempt == 401


async def test_a_refresh_with_a_revoked_token_is_refused_and_with_another_is_not(base: str) -> None:
    first, revoked, good = token(), token(), token()
    async with Client(base, token=first) as client:
        await client.first("live")
        await revoke(base, jti=jti_of(revoked))
        await client.send("auth_refresh", {"token": revoked}, ref="r1")
        refused = await client.reply("r1")
        assert (refused["type"], refused["payload"]["code"]) == ("error", "not_allowed")
        await client.send("auth_refresh", {"token": good}, ref="r2")
        assert (await client.reply("r2"))["type"] == "ok"
        await revoke(base, jti=jti_of(first))  # replaced: nobody uses it any more
        await client.send("ping", ref="p")
        assert (await client.reply("p"))["type"] == "pong"
        await revoke(base, jti=jti_of(good))
        assert await client.closed() == 4401


async def test_a_ticket_of_a_revoked_token_is_worth_nothing(base: str) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}/ws/ticket", headers={"Authorization": f"Bearer {token()}"}) as response,
    ):
        ticket = (await response.json())["ticket"]
    await revoke(base, user_id="alice")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with Client(base, headers={}, query={"ticket": ticket}):
            pass
    assert refused.value.status == 401


async def test_it_is_remembered_for_as_long_as_a_token_can_live(
    settings: Settings, broker: Broker
) -> None:
    short = settings.model_copy(update={"jwt_max_age_seconds": 500, "jwt_leeway_seconds": 7})
    keys = (broker.keys.revoked_user(Owner("", "alice")), broker.keys.revoked_token("", "j"))
    async with Gateway(short) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        begun = time.monotonic()
        await revoke(base, user_id="alice")
        await revoke(base, jti="j")
        left_ms = [await broker.client.execute("PTTL", key) for key in keys]
        took_ms = (time.monotonic() - begun) * 1000
    assert all(507_000 - took_ms <= each <= 508_000 for each in left_ms), (left_ms, took_ms)


async def test_a_record_that_cannot_be_read_keeps_everybody_of_it_out(
    base: str, broker: Broker
) -> None:
    """Nobody knows then who may come in: 503, and not 101."""
    record = broker.keys.revoked_user(Owner("", "alice"))
    await broker.client.execute("RPUSH", record, "x")
    assert await status_with(base, token()) == 503
    await broker.client.execute("DEL", record)
    await broker.client.execute("HSET", record, "before", "soon")
    assert await status_with(base, token()) == 503
    assert await status_with(base, token("bob")) == 101


async def test_an_order_that_cannot_be_read_does_not_hide_the_next(
    base: str, broker: Broker
) -> None:
    for rubbish in ("{", "[]", '{"verb": "explode", "by": "x"}', '{"verb": "revoke"}'):
        await broker.client.execute("XADD", broker.keys.audit, "*", "e", rubbish)
    async with Client(base, token=token()) as client:
        await client.first("live")
        await revoke(base, user_id="alice")
        assert await client.closed() == 4401
