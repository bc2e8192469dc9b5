"""The first protocol of every socket: WebSocket handshakes are taken here, the rest is aiohttp's.

A request object, a task that waits for more requests and the walk through an application cost
three times as much as all that a handshake needs. aiohttp's own parser reads it; a first read that
is not exactly one whole and valid handshake goes to aiohttp as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from gateway.entrance import Arrival, Entrance, Refusal
from gateway.handshake import ROUTES
from gateway.http_api import client_of
from gateway.secured import Secured
from gateway.tls import Certificate
from gateway.upgrade import is_websocket

if TYPE_CHECKING:
    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.web_protocol import RequestHandler

log = structlog.get_logger(__name__)

MAX_EARLY_BYTES: Final = 64 * 1024
"""Of what a client sends before it is let in: beyond that it is not read from until then."""

SILENT_SECONDS: Final = 10.0
"""A socket that has sent no whole head of a request by then is closed, for it is nobody's yet; the
TLS handshake is something that it has to come through within that time."""

_END: Final = b"\r\n\r\n"


class Fronts:
    """Those sockets of a gateway that have not said yet what they want."""

    def __init__(
        self,
        entrance: Entrance,
        aiohttp: Callable[[], RequestHandler],
        certificate: Certificate | None = None,
    ) -> None:
        self.entrance, self.aiohttp, self._certificate = entrance, aiohttp, certificate
        self._waiting: dict[Front, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self) -> asyncio.Protocol:
        """One for a new socket."""
        front = Front(self)
        return front if self._certificate is None else Secured(self._certificate.context, front)

    def close_silent(self, before: float) -> None:
        """Close those that are there since before then (the event loop's time)."""
        for front in list(self._waiting):
            if front.since >= before:
                break  # in the order in which they came
            front.give_up()
            self.discard(front)

    async def close(self) -> None:
        """Close all of them, and end what is under way."""
        for front in list(self._waiting):
            front.give_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, front: Front) -> None:
        """A socket has come."""
        self._waiting[front] = None

    def discard(self, front: Front) -> None:
        """It has said what it wants, or is gone."""
        self._waiting.pop(front, None)

    def begin(self, front: Front, arrival: Arrival) -> None:
        """Let it in, as far as that takes Redis."""
        task = asyncio.get_running_loop().create_task(front.enter(arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Front(asyncio.Protocol):
    """One socket until it is known what it wants."""

    __slots__ = ("_early", "_entering", "_fronts", "_handler", "since", "transport")

    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self._early = b""
        self._entering = False
        self._handler: RequestHandler | None = None
        self.since = asyncio.get_running_loop().time()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport = cast("asyncio.Transport", transport)
        self._fronts.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """And gone again."""
        del exc
        self._fronts.discard(self)

    def data_received(self, data: bytes) -> None:
        """See what it is; what comes until it is let in waits."""
        if self._entering:
            self._early += data
            if len(self._early) > MAX_EARLY_BYTES:
                self.transport.pause_reading()
            return
        head, end, tail = data.partition(_END)
        if end:
            self._fronts.discard(self)
        arrival = self._read(head + end) if end else None
        if arrival is None:
            self._hand_over(data)
            return
        self._entering, self._early = True, tail
        self._fronts.begin(self, arrival)

    def give_up(self) -> None:
        """Close it, unless it has said what it wants to aiohttp, which itself waits an hour."""
        if self._handler is None or not self._handler._request_count:  # noqa: SLF001
            self.transport.abort()

    async def enter(self, arrival: Arrival) -> None:
        """Let the client in, or tell it why not."""
        entrance, transport = self._fronts.entrance, self.transport
        try:
            identity, opening = await entrance.check(arrival)
            admitted = await entrance.admit(arrival, identity, opening)
        except Refusal as refusal:
            transport.write(refusal.answer(arrival))
            transport.close()
        except asyncio.CancelledError:  # the gateway is stopping
            transport.abort()
            raise
        except Exception:
            log.exception("handshake_failed", path=arrival.path)
            transport.abort()
        else:
            if not transport.is_closing():
                if len(self._early) > MAX_EARLY_BYTES:
                    transport.resume_reading()
                await entrance.greet(arrival, admitted, transport, self._early)

    def _read(self, head: bytes) -> Arrival | None:
        """The handshake; None when it is something else."""
        if b"pgrade" not in head:
            return None
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(cast("BaseProtocol", self), loop, len(head))
        try:
            messages, upgraded, _ = parser.feed_data(head)
        except (HttpProcessingError, ValueError):
            return None  # aiohttp says why
        if len(messages) != 1 or not upgraded:
            return None
        message = messages[0][0]
        url, headers = message.url, message.headers
        if url.absolute or url.path not in ROUTES or not is_websocket(message.method, headers):
            return None
        client = client_of(self._fronts.entrance.proxies, self.transport, headers)
        return Arrival(path=url.path, query=url.query, headers=headers, client=client)

    def _hand_over(self, data: bytes) -> None:
        handler = self._handler = self._fronts.aiohttp()
        self.transport.set_protocol(handler)
        handler.connection_made(self.transport)
        handler.data_received(data)
