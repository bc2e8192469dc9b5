"""Sharded subscriptions on a Cluster: each channel is heard from the master of its slot.

A slot that moves takes its channels along: the node that had it drops them, the node that has it is
subscribed to, and the owner is told to check their logs, as after a lost connection. Redis' sharded
publish reaches the nodes of one slot only; nothing is copied over the whole Cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

from broker.errors import BrokerUnavailable
from broker.redis.address import Address
from broker.redis.cluster_map import ClusterMap
from broker.redis.connection import Command, OnRead
from broker.redis.outstanding import Acknowledged, done, follow
from broker.redis.slots import Server, SlotMap, redirect, slot_of
from broker.redis.source import Fixed
from broker.redis.subscriber import Subscriber
from broker.redis.verbs import SHARDED

log = structlog.get_logger(__name__)

_LISTEN_SECONDS: Final = 0.5
"""How long a start waits for one node before it looks whether that is still the one to wait for."""

NOT_SHARDED: Final = "it has no sharded pub/sub; a Cluster needs Redis 7.0 or newer, or Valkey"


class ClusterSubscriber:
    """A :class:`~broker.redis.subscriber.Subscriber` for each master, and who listens where."""

    sharded = True

    def __init__(
        self,
        address: Address,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_read_end: Callable[[], None] | None = None,
        on_read: OnRead | None = None,
        on_restored: Callable[[Collection[bytes]], None] | None = None,
        name: str = "subscriber",
    ) -> None:
        self._address, self._name = address, name
        self._on_message, self._on_read_end, self._on_read = on_message, on_read_end, on_read
        self._on_restored = on_restored
        self._ears: dict[Server, Subscriber] = {}
        self._at: dict[bytes, Server | None] = {}
        self._homeless: dict[bytes, Acknowledged] = {}
        self._map = ClusterMap(
            address, name=name, on_look=self._adopt, settled=lambda: self.hearing
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._gone_reconnects = 0
        self._refusal = ""

    @property
    def hearing(self) -> bool:
        """Every slot has a master, and each of them has acknowledged what is wanted of it."""
        return (
            self._map.slots.complete
            and not self._homeless
            and all(ear.hearing for ear in self._ears.values())
        )

    @property
    def reconnects(self) -> int:
        """How often a connection was lost and opened again."""
        return self._gone_reconnects + sum(max(0, ear.reconnects) for ear in self._ears.values())

    @property
    def why(self) -> str:
        """Why it does not hear: what a node has refused last, else why none tells the slots."""
        return self._refusal or self._map.why

    @property
    def channels(self) -> Collection[bytes]:
        """What is wanted."""
        return self._at.keys()

    def server_of(self, channel: bytes) -> Hashable:
        """Which of the servers ``channel`` is heard from."""
        return self._at.get(channel)

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on; ``BrokerUnavailable`` when not in time."""
        self._map.start()
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.hearing:
                    if not self._map.slots.complete:
                        await self._map.looked()
                    for ear in list(self._ears.values()):
                        # Of a node that is being replaced nothing will ever be heard.
                        with suppress(TimeoutError):
                            await asyncio.wait_for(ear.wait_hearing(), _LISTEN_SECONDS)
        except TimeoutError:
            await self.stop()
            why = self.why or f"not connected to every node within {timeout_seconds:g} s"
            raise BrokerUnavailable(why=why) from None

    async def stop(self) -> None:
        """Close; nothing is heard any more."""
        await self._map.stop()
        await asyncio.gather(*(ear.stop() for ear in self._ears.values()))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def subscribe(self, channel: bytes, *then: Command) -> list[Any] | None:
        """Listen to ``channel``; returns when the master of its slot has acknowledged it.

        That may take a failover: whoever cannot wait sets a deadline. A cancelled wait leaves the
        wish in place.

        ``then``: what to ask the same node once the channel is heard; the replies are returned, or
        None when there are none: ask a client then.
        """
        acknowledged: Acknowledged = asyncio.get_running_loop().create_future()
        self._settle(channel, acknowledged, *then)
        return await asyncio.shield(acknowledged)

    def unsubscribe(self, channel: bytes) -> None:
        """Stop listening. Messages under way may still come."""
        waiting = self._homeless.pop(channel, None)
        if waiting is not None:
            done(waiting)
        server = self._at.pop(channel, None)
        if server in self._ears:
            self._ears[server].unsubscribe(channel)

    def reconnect(self, channel: bytes) -> None:
        """Drop the connection that ``channel`` is heard on: it was found deaf."""
        server = self._at.get(channel)
        if server in self._ears:
            self._ears[server].reconnect()
        self._map.look_soon()

    def _settle(self, channel: bytes, acknowledged: Acknowledged, *then: Command) -> None:
        """Subscribe at the master of the channel's slot, or as soon as there is one."""
        server = self._map.slots.server(slot_of(channel))
        self._at[channel] = server
        if server is None:
            self._homeless[channel] = acknowledged
            self._map.look_soon()
        else:
            self._ear(server).listen(channel, acknowledged, *then)

    def _move(self, channel: bytes) -> None:
        """Subscribe anew, wherever its slot is now; its log is checked after that."""
        server = self._at.get(channel)
        ear = self._ears.get(server) if server is not None else None
        waiting = self._homeless.pop(channel, None) or (ear.forget(channel) if ear else None)
        acknowledged: Acknowledged = asyncio.get_running_loop().create_future()
        if waiting is not None:
            follow(waiting, acknowledged)
        acknowledged.add_done_callback(partial(self._moved, channel))
        self._settle(channel, acknowledged)

    def _moved(self, channel: bytes, _acknowledged: Acknowledged) -> None:
        if channel in self._at and self._on_restored is not None:
            self._on_restored([channel])

    def _refused(self, server: Server, channels: Collection[bytes], why: str) -> None:
        """A node does not have these channels, or not any more."""
        self._refusal = NOT_SHARDED if "unknown command" in why else why
        where = redirect(why, server)
        if where is not None and not where.once:
            self._map.moved(where.slot, where.server)  # moves all that is not at its place
        for channel in channels:
            if self._at.get(channel) != server:
                continue  # moved
            if why:  # not now: with the next look
                self._evict([channel], server)
            else:
                self._move(channel)  # here again: the node then tells where its slot has gone
        self._map.look_soon()

    def _evict(self, channels: Collection[bytes], server: Server) -> None:
        """These are heard from nowhere, until a look shows who serves their slots."""
        for channel in channels:
            waiting = self._ears[server].forget(channel) if server in self._ears else None
            self._homeless[channel] = waiting or asyncio.get_running_loop().create_future()
            self._at[channel] = None

    def _adopt(self, slots: SlotMap) -> None:
        for server in slots.servers:
            self._ear(server)
        for channel, where in list(self._at.items()):
            right = slots.server(slot_of(channel))
            if right != where and right is not None:
                self._move(channel)
        for server in self._ears.keys() - slots.servers:
            self._evict([each for each, where in self._at.items() if where == server], server)
            ear = self._ears.pop(server)
            self._gone_reconnects += max(0, ear.reconnects)
            self._spawn(ear.stop())

    def _ear(self, server: Server) -> Subscriber:
        ear = self._ears.get(server)
        if ear is None:
            ear = self._ears[server] = Subscriber(
                Fixed(self._address.data.at(*server)),
                on_message=self._on_message,
                on_read_end=self._on_read_end,
                on_read=self._on_read,
                on_restored=self._on_restored,
                on_refused=partial(self._refused, server),
                on_lost=self._map.look_soon,
                verbs=SHARDED,
                name=self._name,
            )
            ear.begin()
        return ear

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
