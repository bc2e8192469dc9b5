"""Tokens with limits of their own, refused handshakes, and what Redis says of seats."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest

from broker.channels import Owner
from broker.config import Settings
from broker.redis.broker import Broker
from gateway import orders, sweeper, tail
from gateway.app import Gateway
from tests.support.clients import PATIENCE_SECONDS, Client
from tests.support.servers import SECRET

ALICE = Owner("", "alice")


def limited(user: str = "alice", tenant: str | None = None, **limits: int) -> str:
    """A token whose claim sets these limits."""
    claims: dict[str, Any] = {"sub": user, "exp": int(time.time()) + 600, "limits": limits}
    if tenant is not None:
        claims["tenant"] = tenant
    return jwt.encode(claims, SECRET, "HS256")


@contextlib.asynccontextmanager
async def two_gateways(settings: Settings, **changed: Any) -> AsyncIterator[tuple[str, str]]:
    """Addresses of two gateways on one Redis, with these settings."""
    few = settings.model_copy(update=changed)
    async with Gateway(few) as one, Gateway(few) as other:
        yield f"http://127.0.0.1:{one.port}", f"http://127.0.0.1:{other.port}"


def without_rounds(patch: pytest.MonkeyPatch) -> None:
    """What gateways do each second they do once, as they start: who counts commands counts those
    that clients cost."""
    for module in (orders, sweeper, tail):
        patch.setattr(module, "TICK_SECONDS", 3600.0)


async def refusal(base: str, **options: Any) -> tuple[int, str, str | None, str]:
    """Of a handshake that must be refused: status, code, ``Retry-After`` and text."""
    client = Client(base, **options)
    async with aiohttp.ClientSession() as http:
        url, headers = client.url, client._headers
        handshake = {
            **(headers or {}), "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }  # fmt: skip
        async with http.get(url, headers=handshake) as response:
            assert response.status != 101, "it was let in"
            problem = await response.json(content_type="application/problem+json")
            return (
                response.status,
                problem["code"],
                response.headers.get("Retry-After"),
                problem["detail"],
            )


async def seats(broker: Broker, owner: Owner = ALICE) -> int:
    """How many connections of an owner the fleet counts."""
    counts = await broker.client.execute("HVALS", broker.keys.seats(owner))
    return sum(map(int, counts))


async def seats_are(broker: Broker, wanted: int, owner: Owner = ALICE) -> None:
    """Once the fleet counts so many."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await seats(broker, owner) != wanted:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.02)


async def said(client: Client, ref: str, **payload: Any) -> dict[str, Any]:
    """What a message is answered with."""
    await client.send("user_message", {"content": "x", **payload}, ref=ref)
    told: dict[str, Any] = (await client.reply(ref))["payload"]
    return told
