"""The subscriber connection: who listens to what, and the proof that it does.

A subscription is good once Redis has acknowledged it, not before. After a lost connection
everything is subscribed again, and only when all of it is acknowledged does ``on_restored`` run:
what was
published meanwhile was not heard, so the owner then checks every log.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final

import structlog

from broker.backoff import full_jitter
from broker.errors import BrokerUnavailable
from broker.redis.connection import RedisConnection

log = structlog.get_logger(__name__)

BATCH: Final = 512
"""Channels per SUBSCRIBE when everything is subscribed again: bounds the size of one command."""

_DEADLINE: Final = 10.0
"""Seconds for all acknowledgements after a reconnection; beyond it the connection is dropped."""


class Subscriber:
    """Subscriptions on one connection that reconnects by itself.

    ``on_message(channel, payload)`` is called for each message, ``on_read_end()`` once after all
    messages of one read of the socket. Neither may block.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_read_end: Callable[[], None] | None = None,
        on_restored: Callable[[Collection[bytes]], None] | None = None,
        name: str = "subscriber",
    ) -> None:
        self._url, self._name = url, name
        self._on_message, self._on_read_end = on_message, on_read_end
        self._on_restored = on_restored
        self._connection: RedisConnection | None = None
        self._wanted: dict[bytes, None] = {}
        self._unacknowledged: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._early: dict[bytes, asyncio.Future[None]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._is_hearing = asyncio.Event()
        self._lost = asyncio.Event()
        self._all_acknowledged = asyncio.Event()
        self._why = ""
        self.reconnects = -1

    @property
    def hearing(self) -> bool:
        """Connected, with every wanted channel acknowledged."""
        return self._is_hearing.is_set()

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on; ``BrokerUnavailable`` when not in time."""
        self._keeper = asyncio.create_task(self._keep_hearing(), name=f"redis {self._name}")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._is_hearing.wait()
        except TimeoutError:
            await self.stop()
            why = self._why or f"no connection within {timeout_seconds:g} s"
            raise BrokerUnavailable(why=why) from None

    async def stop(self) -> None:
        """Close; nothing is heard any more."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        self.reconnect()

    async def subscribe(self, channel: bytes) -> None:
        """Listen to ``channel``; returns when Redis has acknowledged it.

        That may take a reconnection: whoever cannot wait sets a deadline. A cancelled wait leaves
        the wish in place.
        """
        self._wanted[channel] = None
        if self._connection is None:
            acknowledged = self._early.get(channel)
            if acknowledged is None:
                acknowledged = self._early[channel] = asyncio.get_running_loop().create_future()
        else:
            acknowledged = asyncio.get_running_loop().create_future()
            self._unacknowledged.append((channel, acknowledged))
            self._send("SUBSCRIBE", channel)
        await asyncio.shield(acknowledged)

    def unsubscribe(self, channel: bytes) -> None:
        """Stop listening. Messages under way may still come."""
        if channel not in self._wanted:
            return
        del self._wanted[channel]
        early = self._early.pop(channel, None)
        if early is not None:
            early.set_result(None)
        self._send("UNSUBSCRIBE", channel)

    def reconnect(self) -> None:
        """Drop the connection and open another: it was found deaf."""
        if self._connection is not None:
            self._connection.abort()

    def _send(self, *command: bytes | str) -> None:
        if self._connection is not None:
            with suppress(BrokerUnavailable):  # the loss of the connection is told by on_lost
                self._connection.send(*command)

    def _on_reply(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) else reply
        if kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"subscribe":
            channel, acknowledged = self._unacknowledged.popleft()
            if channel != reply[1]:
                log.error("subscription_out_of_order", expected=channel, got=reply[1])
                self.reconnect()
            elif not acknowledged.done():
                acknowledged.set_result(None)
        elif kind in (b"pong", b"PONG"):
            self._all_acknowledged.set()
        elif isinstance(reply, Exception):
            self._why = str(reply)
            log.error("subscriber_refused", why=str(reply))
            self.reconnect()

    def _on_lost(self, why: str) -> None:
        self._why = why
        self._connection = None
        self._is_hearing.clear()
        # Whoever waited for an acknowledgement gets it from the next connection.
        for channel, waiting in self._unacknowledged:
            first = self._early.setdefault(channel, waiting)
            if first is not waiting:
                first.add_done_callback(partial(_tell, waiting))
        self._unacknowledged.clear()
        self._lost.set()

    async def _keep_hearing(self) -> None:
        delays = full_jitter(random.random, first_seconds=0.05, most_seconds=2.0)
        while True:
            self._lost.clear()
            connection = RedisConnection(self._on_reply, self._on_lost, self._on_read_end)
            try:
                await connection.open(self._url, name=self._name, timeout_seconds=5.0)
            except BrokerUnavailable as error:
                self._why = error.why
                await asyncio.sleep(next(delays))
                continue
            self._connection = connection
            restored = await self._subscribe_all()
            if restored is not None:
                delays = full_jitter(random.random, first_seconds=0.05, most_seconds=2.0)
                self.reconnects += 1
                self._is_hearing.set()
                if self._on_restored is not None and self.reconnects > 0:
                    self._on_restored(restored)
                await self._lost.wait()
            log.warning("subscriber_connection_lost", why=self._why)
            await asyncio.sleep(next(delays))

    async def _subscribe_all(self) -> list[bytes] | None:
        """Subscribe to everything wanted, acknowledged; None when lost meanwhile."""
        wanted = list(self._wanted)
        early, self._early = self._early, {}
        loop = asyncio.get_running_loop()
        self._all_acknowledged.clear()
        remaining = iter(wanted)
        while batch := list(islice(remaining, BATCH)):
            self._unacknowledged.extend(
                (channel, early.get(channel) or loop.create_future()) for channel in batch
            )
            self._send("SUBSCRIBE", *batch)
        self._send("PING")  # its answer comes after the last acknowledgement
        waits = [
            asyncio.ensure_future(event.wait()) for event in (self._all_acknowledged, self._lost)
        ]
        try:
            await asyncio.wait(waits, timeout=_DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._all_acknowledged.is_set() and not self._lost.is_set():
            return wanted
        self.reconnect()
        return None


def _tell(waiting: asyncio.Future[None], _done: object) -> None:
    waiting.set_result(None)
