"""One client's server-sent events (HTML standard, section 9.2; protocol section 7).

The same stream as on a WebSocket, in one direction: a client speaks by the HTTP verbs. Each event
is a chunk of its own, and its ``id`` is the cursor, which comes back as ``Last-Event-ID``.
"""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING, ClassVar, Final

from multidict import MultiMapping

from broker.channels import Mode
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.connection import Connection
from gateway.frames import control, sse_chunk, sse_comment, sse_retry
from gateway.handshake import Opening
from gateway.wires import STREAM, STREAM_LEGACY

if TYPE_CHECKING:
    import asyncio

    from gateway.node import Node

RETRY_MS: Final = (500, 3000)
"""Between which a client is told to wait before it comes back: not all of them at once."""

_spread = random.SystemRandom().randint


class EventStream(Connection):
    """A connected client that only listens. ``MARKS``: what else its response's head says."""

    transport = "sse"

    __slots__ = ()

    MARKS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, node: Node, identity: Identity, opening: Opening) -> None:
        wire = STREAM_LEGACY if opening.mode is Mode.LEGACY else STREAM
        super().__init__(node, identity, opening, wire)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Nothing ever comes from a listener, so the kernel has to tell when it is gone.
            patience_ms = 2000 * self.node.settings.heartbeat_seconds
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)

    def data_received(self, data: bytes) -> None:
        """A listener has nothing to say; what it says is not kept."""

    def accept(self, headers: MultiMapping[str], subprotocol: str | None) -> bytes:
        """The response's head, and how long to wait before coming back."""
        del subprotocol
        lines = [
            "HTTP/1.1 200 OK",
            "Content-Type: text/event-stream",
            "Cache-Control: no-store",
            "X-Accel-Buffering: no",  # nginx would keep events until it has a buffer full
            "Transfer-Encoding: chunked",
            "Connection: close",  # nothing follows it: no client is to send its next request here
            *self.MARKS,
        ]
        origin = headers.get("Origin")
        if origin is not None:  # one of those allowed, or it would not be here
            lines += [f"Access-Control-Allow-Origin: {origin}", "Vary: Origin"]
        head = "\r\n".join([*lines, "", ""]).encode()
        return head + sse_retry(_spread(*RETRY_MS))

    def beat(self) -> None:
        """A comment, so that nobody on the way takes the silence for the end."""
        if not self.outbox.stalled:
            self.outbox.put(sse_comment())
            self.flush()

    def goodbye(self, why: CloseCode) -> bytes:
        """Why it ends, and that it does: a body that was cut off must not look like a whole one."""
        return self._framed(farewell(why)) + sse_chunk(b"")

    def close(self, why: CloseCode) -> None:
        """Close; what was queued goes out before it."""
        super().close(why)
        self._transport.close()


def farewell(why: CloseCode) -> bytes:
    """The last control frame of a stream, which has no close code of its own."""
    return control("closing", {"code": why.code, "reason": why.name})
