"""Taking the socket over from aiohttp once its handshake is done (RFC 6455 section 4.2).

aiohttp parses the request; then the transport is handed to a protocol object of ours and aiohttp's
request handler is let go. What a request costs in tasks and objects is thereby not paid for as long
as the socket lives.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16
VERSION: Final = "13"

KERNEL_UNSENT_BYTES: Final = 128 * 1024
"""What the kernel takes of what the peer has no room for. By default that is megabytes for each
slow client, and it asks for more only when a third of them is gone, which on a slow link takes so
long that the client looks stuck."""


class Upgraded(web.StreamResponse):
    """The response of a request whose socket is not aiohttp's any more: writes nothing."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing to prepare."""
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to write."""
        del data


def is_websocket(request: web.Request) -> bool:
    """Whether the request is a valid WebSocket handshake."""
    headers = request.headers
    connection = {word.strip().lower() for word in headers.get("Connection", "").split(",")}
    return (
        request.method == "GET"
        and headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in connection
        and headers.get("Sec-WebSocket-Version") == VERSION
        and _valid_key(headers.get("Sec-WebSocket-Key", ""))
    )


def upgrade(
    request: web.Request, protocol_factory: Callable[[], asyncio.Protocol], subprotocol: str | None
) -> Upgraded | None:
    """Answer 101 and give the socket to a protocol object; None when the peer is gone already."""
    transport = request.transport
    handler = request.protocol
    if transport is None or transport.is_closing():
        return None
    _bound_kernel_buffer(transport)
    key = request.headers["Sec-WebSocket-Key"].encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
    ]
    if subprotocol is not None:
        lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode())
    transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
    # Frames that came with the handshake; aiohttp keeps them for a WebSocket of its own.
    tail = handler._message_tail  # noqa: SLF001 - as said
    # Without its transport the handler closes nothing when it is let go.
    handler.transport = None
    handler.connection_lost(None)
    protocol = protocol_factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if tail:
        protocol.data_received(tail)
    return Upgraded()


def _bound_kernel_buffer(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)


def _valid_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False
