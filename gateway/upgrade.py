"""The WebSocket handshake (RFC 6455 section 4.2), and taking a socket over from aiohttp.

A request costs tasks and objects; none of them is to be paid for as long as the socket lives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import socket
from collections.abc import Iterable, Mapping
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import MultiMapping

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


def is_websocket(method: str, headers: MultiMapping[str]) -> bool:
    """Whether the request is a valid WebSocket handshake."""
    connection = {word.strip().lower() for word in headers.get("Connection", "").split(",")}
    return (
        method == "GET"
        and headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in connection
        and headers.get("Sec-WebSocket-Version") == VERSION
        and _valid_key(headers.get("Sec-WebSocket-Key", ""))
    )


def switching(headers: Mapping[str, str], subprotocol: str | None) -> bytes:
    """The answer 101 to a valid handshake."""
    key = headers["Sec-WebSocket-Key"].encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n"
    )
    if subprotocol is not None:
        head += b"Sec-WebSocket-Protocol: " + subprotocol.encode() + b"\r\n"
    return head + b"\r\n"


def plain(status: int, reason: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """A whole response after which the connection is closed."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


def leave_aiohttp(request: web.Request) -> bytes:
    """Take the request's transport away from aiohttp's handler, which is let go.

    Returns the bytes that came with the handshake: aiohttp keeps them for a WebSocket of its own.
    """
    handler = request.protocol
    tail = bytes(handler._message_tail)  # noqa: SLF001 - as said
    # Without its transport the handler closes nothing when it is let go.
    handler.transport = None
    handler.connection_lost(None)
    return tail


def bound_kernel_buffer(listening: socket.socket) -> None:
    """Bound what the kernel takes for each socket: those accepted inherit it from this one."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)


def _valid_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False
