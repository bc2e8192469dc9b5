"""Feeding one socket from the log until it is level with its channel (promises G2, G3, G7).

For who resumes, for who attaches, and for who was too slow: the same way for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, cast

import structlog

from broker.cursor import Cursor
from broker.errors import BrokerUnavailable
from broker.redis.broker import Broker
from broker.replay import Follower, Page
from gateway.close_codes import TOO_SLOW, UNAVAILABLE, CloseCode
from gateway.feed import Feed, Joining, Member
from gateway.hub import Hub
from gateway.resync import Beginning, go_on

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 0.25
SLOW_SECONDS: Final = 60.0
"""A socket that has taken nothing for this long is closed with 4408."""


class Socket(Member, Protocol):
    """A member that the relay can wait for.

    ``turn``: how often its isolated channel had been taken up when it got it.
    """

    turn: int

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""

    def send(self, text: bytes) -> None:
        """Queue a control frame."""

    def flush(self) -> None:
        """Write what is queued."""

    async def drained(self) -> bool:
        """Wait until there is room again; False when the socket is gone."""

    def close(self, why: CloseCode) -> None:
        """Close it; what was queued goes out before."""


def as_socket(member: Member) -> Socket:
    """The hub gets its members from here: each of them is a socket."""
    return cast("Socket", member)


class Feeder:
    """Brings sockets level. ``spawn`` runs a coroutine as long as the gateway lives."""

    def __init__(
        self,
        broker: Broker,
        hub: Hub,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        flush: Callable[[], None],
    ) -> None:
        self._broker, self._hub = broker, hub
        self._spawn, self.flush = spawn, flush

    def join(
        self,
        feed: Feed,
        socket: Socket,
        beginning: Beginning,
        *,
        then: Callable[[Cursor], None] | None = None,
    ) -> None:
        """Feed the socket from there on until it is level; ``then`` runs at that moment."""
        level = feed.follower.level and beginning.position.raw == feed.follower.raw
        follower = Follower(beginning.position, level=level)
        room = self._write(feed, socket, follower, follower.read(beginning.page, end=False))
        if room and self._hub.join(feed, socket, follower):
            if then is not None:
                then(follower.position)
            return
        joining = feed.joining[socket] = Joining(follower)
        self._spawn(self._catch_up(feed, socket, joining, then))

    def _write(self, feed: Feed, socket: Socket, follower: Follower, page: Page) -> bool:
        """A page of the log to one socket. False when it has no room for all of it."""
        for entry in page.entries:
            if not self._hub.write(feed, socket, entry):
                # Read again when there is room: nothing newer may overtake it meanwhile.
                follower.give_back(entry)
                return False
            self._hub.counters.replayed += 1
        return True

    async def _catch_up(
        self,
        feed: Feed,
        socket: Socket,
        joining: Joining,
        then: Callable[[Cursor], None] | None = None,
    ) -> None:
        try:
            await self._bring_level(feed, socket, joining, then)
        except Exception:
            # A client that is connected and told nothing would wait for ever.
            log.exception("feeding_failed", **feed.whose)
            socket.close(UNAVAILABLE)

    async def _bring_level(
        self,
        feed: Feed,
        socket: Socket,
        joining: Joining,
        then: Callable[[Cursor], None] | None,
    ) -> None:
        follower = joining.follower
        while feed.joining.get(socket) is joining:
            try:
                if not follower.level:
                    if not await self._read_on(feed, socket, joining):
                        return
                    continue
                if joining.doubted:
                    await self._prove(feed, socket, joining)
                    continue
                joining.deltas = []
                texts = await self._broker.open_texts(feed.channel)
                if texts and not await self._read_before(feed, socket, joining):
                    return
            except BrokerUnavailable:
                # The socket stays; readiness tells, and the next restoration goes on from here.
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for text in texts:
                if not await self._room(socket) or feed.joining.get(socket) is not joining:
                    return
                self._hub.snapshot(feed, socket, text.delta(0))
            if feed.joining.get(socket) is not joining:
                return
            if not joining.follower.level:  # a live event was missed meanwhile
                joining.deltas = None
                continue
            if then is not None:
                then(follower.position)
            self._hub.level(feed, socket)
            self.flush()
            socket.flush()
            return

    async def _read_before(self, feed: Feed, socket: Socket, joining: Joining) -> bool:
        """What was said before the text that was just read comes before it, heard or not.

        False when the socket is gone.
        """
        (end,) = await self._broker.ends([feed.channel])
        follower = joining.follower
        if end is not None and end > follower.position:
            follower.lose_touch()
        while not follower.level:
            if not await self._read_on(feed, socket, joining):
                return False
        return True

    async def _read_on(self, feed: Feed, socket: Socket, joining: Joining) -> bool:
        """One page of the log to one socket. False when the socket is gone."""
        follower = joining.follower
        entries, end = await self._broker.read(feed.channel, follower.position)
        if feed.joining.get(socket) is not joining:
            return False  # detached, and perhaps attached again meanwhile
        page = follower.read(entries, end=end)
        room = self._write(feed, socket, follower, page)
        socket.flush()
        if not room:
            return await self._room(socket)
        if page.hole:
            await self._go_on(feed, socket, joining)
        return True

    async def _prove(self, feed: Feed, socket: Socket, joining: Joining) -> None:
        """Where the feed is itself, or what the log has, is no doubtful position."""
        follower, joining.doubted = joining.follower, False
        position = follower.position
        if position == feed.follower.position:
            return
        glance = await self._broker.glance(feed.channel, position)
        if follower.position != position:
            joining.doubted = True
        elif not glance.found:
            await self._go_on(feed, socket, joining)

    async def _go_on(self, feed: Feed, socket: Socket, joining: Joining) -> None:
        resync = await go_on(self._broker, feed, joining.follower)
        if resync is not None and feed.joining.get(socket) is joining:
            self._hub.told_resync(resync.reason)
            socket.send(resync.frame())

    async def _room(self, socket: Socket) -> bool:
        while True:
            unsent = socket.unsent
            try:
                async with asyncio.timeout(SLOW_SECONDS):
                    return await socket.drained()
            except TimeoutError:
                if socket.unsent < unsent:
                    continue  # slow, but it takes what it is given
                socket.close(TOO_SLOW)
                return False

    def feed_from_log(self, feed: Feed, member: Member, follower: Follower) -> None:
        """A socket without room: wait for it, then feed it from the log."""
        joining = feed.joining[member] = Joining(follower, doubted=True)
        self._spawn(self._feed_when_drained(feed, as_socket(member), joining))

    async def _feed_when_drained(self, feed: Feed, socket: Socket, joining: Joining) -> None:
        if await self._room(socket):
            await self._catch_up(feed, socket, joining)
