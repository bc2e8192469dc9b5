"""The first read of a socket decides who serves it, and whoever does, does the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway import app
from gateway.app import Gateway
from tests.support.clients import eventually
from tests.support.servers import token

PING = b"\x89\x80\x00\x00\x00\x00"
"""Empty, and masked with zeros."""
PONG = b"\x8a\x00"
LIVE = b'"type":"live"'


def handshake(user: str = "alice") -> bytes:
    return (
        b"GET /ws?mode=main HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Authorization: Bearer " + token(user).encode() + b"\r\n\r\n"
    )


async def connect(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gateway.port)


async def is_live(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greeted, live, and answering."""
    greeting = await reader.readuntil(LIVE)
    assert greeting.count(b"101 Switching Protocols") == 1
    assert greeting.count(b'"type":"connection_established"') == 1
    await reader.readuntil(b"}}")
    writer.write(PING)
    assert await reader.readexactly(2) == PONG
    writer.close()


async def is_closed(reader: asyncio.StreamReader) -> None:
    """Without a word."""
    with suppress(ConnectionResetError):
        assert await reader.read() == b""


async def test_compression_is_not_agreed_to(gateway: Gateway) -> None:
    """However it is offered: the answer names no extension, so none is used (RFC 6455 9.1)."""
    reader, writer = await connect(gateway)
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    writer.write(handshake().removesuffix(b"\r\n") + offer)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in head.lower()
    await reader.readuntil(LIVE)
    writer.close()


@pytest.mark.parametrize("at", [1, 3, 30, -2, -1])
async def test_a_handshake_in_two_pieces_is_one(gateway: Gateway, at: int) -> None:
    """Wherever the network has cut it."""
    whole = handshake()
    reader, writer = await connect(gateway)
    writer.write(whole[:at])
    await eventually(lambda: len(gateway._runner.server.connections) == 1)  # type: ignore[union-attr]
    writer.write(whole[at:])
    await is_live(reader, writer)


async def test_a_connection_that_had_a_request_before_can_be_upgraded(gateway: Gateway) -> None:
    """As proxies do that keep their connections."""
    reader, writer = await connect(gateway)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    length = next(
        int(line.partition(b":")[2])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    writer.write(handshake())
    await is_live(reader, writer)


async def test_frames_that_come_with_the_handshake_are_answered_after_the_greeting(
    gateway: Gateway,
) -> None:
    """Two at once, so that none is taken for a part of the head."""
    reader, writer = await connect(gateway)
    writer.write(handshake() + PING + PING)
    greeting = await reader.readuntil(LIVE)
    assert greeting.startswith(b"HTTP/1.1 101")
    assert PONG not in greeting
    await reader.readuntil(PONG + PONG)
    writer.close()


async def test_much_that_comes_before_the_answer_waits_for_it(gateway: Gateway) -> None:
    """More than a gateway keeps for a client that it has not let in: it is read later."""
    gateway.node.frames = gateway.node.frames._replace(capacity=60_000)
    reader, writer = await connect(gateway)
    writer.write(handshake() + PING * 50_000)
    await reader.readuntil(LIVE)
    await reader.readuntil(b"}}")
    assert await reader.readexactly(2 * 50_000) == PONG * 50_000
    writer.close()


async def test_a_refusal_closes_the_connection(gateway: Gateway) -> None:
    """Nothing that follows on it is served."""
    reader, writer = await connect(gateway)
    refused = handshake().replace(b"mode=main", b"mode=mein")
    writer.write(refused + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in answer
    assert b"application/problem+json" in answer
    writer.close()


async def test_a_socket_that_says_nothing_is_closed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is nobody's, and costs a place."""
    monkeypatch.setattr(app, "SILENT_SECONDS", 0.1)
    reader, writer = await connect(gateway)
    await is_closed(reader)
    assert not gateway._fronts._waiting
    writer.close()


@pytest.mark.parametrize("begun", [b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n", handshake()[:-2]])
async def test_a_socket_that_never_ends_its_first_request_is_closed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """One byte kept a socket for an hour, without a token: aiohttp's own patience."""
    monkeypatch.setattr(app, "SILENT_SECONDS", 0.1)
    reader, writer = await connect(gateway)
    writer.write(begun)
    await is_closed(reader)
    assert not gateway._fronts._waiting
    writer.close()


async def test_a_request_in_two_pieces_is_served_and_its_connection_kept(gateway: Gateway) -> None:
    """Who was slow to ask and did so is somebody: what bounds silence does not concern him."""
    reader, writer = await connect(gateway)
    writer.write(b"GET /livez HT")
    await eventually(lambda: len(gateway._runner.server.connections) == 1)  # type: ignore[union-attr]
    for rest in (b"TP/1.1\r\nHost: x\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"):
        writer.write(rest)
        assert b"200" in await reader.readuntil(b"\r\n")
        await reader.readuntil(b"}")
        gateway._fronts.close_silent(asyncio.get_running_loop().time() + 1)
        assert not gateway._fronts._waiting
    writer.close()


async def test_a_gateway_that_stops_leaves_no_socket_open(gateway: Gateway) -> None:
    """Neither one that says nothing nor one that is half let in."""
    async with Gateway(gateway.settings) as other:
        silent = await connect(other)
        await eventually(lambda: len(other._fronts._waiting) == 1)
    await is_closed(silent[0])
    silent[1].close()
