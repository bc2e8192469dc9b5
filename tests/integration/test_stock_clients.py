"""What the `websockets` library, a strict client, makes of the gateway's frames and closings."""

import asyncio
import json
import time
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from broker.redis.broker import Broker
from gateway import close_codes
from gateway.app import Gateway
from gateway.close_codes import CloseCode
from gateway.websocket import WebSocket
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import eventually
from tests.support.servers import token


def joined(base: str, **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {token('alice')}"}
    return connect(f"{base}/ws".replace("http", "ws"), additional_headers=headers, **options)


async def frame(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            told: dict[str, Any] = json.loads(await socket.recv())
            if told["type"] == kind:
                return told


@pytest.mark.parametrize("why", [close_codes.UNAUTHORIZED, close_codes.GOING_AWAY])
async def test_it_reads_why_the_gateway_closes(gateway: Gateway, base: str, why: CloseCode) -> None:
    async with joined(base) as socket:
        await frame(socket, "live")
        (connection,) = gateway.node.sockets
        connection.close(why)
        with pytest.raises(ConnectionClosed) as caught:
            await frame(socket, "never")
        told = caught.value.rcvd
        assert told is not None
        assert (told.code, told.reason) == (why.code, why.name)
        # It came to answer, and to the end of the connection: nothing was just cut.
        assert caught.value.rcvd_then_sent is True


async def test_its_own_closing_is_answered_at_once(base: str) -> None:
    async with joined(base, close_timeout=120) as socket:
        await frame(socket, "live")
        begun = time.monotonic()
        await socket.close(4999, "mine")
        assert time.monotonic() - begun < 30
        assert socket.close_code == 4999


async def test_its_pings_are_answered_and_ours_by_it(gateway: Gateway, base: str) -> None:
    async with joined(base) as socket:
        await frame(socket, "live")
        async with asyncio.timeout(30):
            assert await (await socket.ping(b"x" * 125)) >= 0
        (connection,) = gateway.node.sockets
        assert isinstance(connection, WebSocket)
        connection.beat()
        assert not connection.heard
        # Answered by the library's reader: whoever is silent would be dropped by the next beat.
        await eventually(lambda: connection.heard)


async def test_events_of_every_length_of_a_frame(base: str, broker: Broker) -> None:
    """RFC 6455 section 5.2 has three ways to write a length."""
    claim = await opened(broker, "alice")
    async with joined(base, max_size=None) as socket:
        await frame(socket, "live")
        await broker.publish(claim, thought(claim, 1))
        assert (await frame(socket, "agent_started"))["seq"] == 1
        for payload in ("", "é" * 50, "y" * 70, "z" * 3000, "w" * 30_000):
            await socket.send(json.dumps({"type": "ping", "id": "p", "payload": {"t": payload}}))
            assert (await frame(socket, "pong"))["payload"]["t"] == payload


async def test_one_of_its_subprotocols_is_chosen(base: str) -> None:
    address = f"{base}/ws".replace("http", "ws")
    offered: Any = ["runcast.v3", f"jwt.{token('alice')}"]
    async with connect(address, subprotocols=offered) as socket:
        assert socket.subprotocol == "runcast.v3"
        await frame(socket, "live")
    unknown: Any = ["chat.v1"]
    async with joined(base, subprotocols=unknown) as socket:
        assert socket.subprotocol is None


async def test_a_refusal_is_a_status_with_a_body(base: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"{base}/ws".replace("http", "ws"))
    response = caught.value.response
    assert response.status_code == 401
    assert json.loads(response.body or b"")["code"] == "unauthorized"
