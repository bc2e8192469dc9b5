"""The client of a Cluster: a pipelining client per master, commands sent by slot.

A node that does not have a slot any more says where it is; the command goes there, in order, and
the caller does not notice. What cannot be answered now (no node serves the slot, a migration splits
the keys of a script) is ``BrokerUnavailable``, as an outage is: callers try again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.redis import scripts
from broker.redis.address import Address
from broker.redis.client import Receiver, RedisClient
from broker.redis.cluster_map import ClusterMap
from broker.redis.connection import Argument
from broker.redis.server_client import ServerClient
from broker.redis.slots import Redirect, Server, SlotMap, key_of, redirect, slot_of
from broker.redis.source import Fixed

MOST_HOPS: Final = 5
"""Redirections that one command follows: more mean that the nodes do not agree yet."""

_HOP_SECONDS: Final = 2.0
"""How long a command waits for the connection to a node that it was sent on to."""


class ClusterClient(RedisClient):
    """Connected to every master, by itself, until :meth:`stop`."""

    sharded = True

    def __init__(self, address: Address, *, name: str, reply_seconds: float = 5.0) -> None:
        self._address, self._name, self._reply_seconds = address, name, reply_seconds
        self._clients: dict[Server, ServerClient] = {}
        self._map = ClusterMap(
            address, name=name, on_look=self._adopt, settled=lambda: self.connected
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked = 0

    @property
    def connected(self) -> bool:
        """Whether every slot has a master and every master is connected."""
        return self._map.slots.complete and all(
            self._clients[server].connected for server in self._map.slots.servers
        )

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on."""
        self._map.start()
        try:
            await self.wait_connected(timeout_seconds=timeout_seconds)
        except BrokerUnavailable:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close. Callers still waiting get ``BrokerUnavailable``."""
        await self._map.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.stop() for client in self._clients.values()))

    async def wait_connected(self, *, timeout_seconds: float) -> None:
        """Return once connected to every master; ``BrokerUnavailable`` when that takes longer."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.connected:
                    if self._map.slots.complete:
                        masters = map(self._client, self._map.slots.servers)
                        waits = (each.wait_connected(timeout_seconds=1.0) for each in masters)
                        await asyncio.gather(*waits, return_exceptions=True)
                    else:
                        await self._map.looked()
        except TimeoutError:
            raise BrokerUnavailable(why=self._why_not()) from None

    def ask(self, receiver: Receiver, *command: Argument) -> None:
        """Queue a command now, at the master of its first key; ``receiver`` gets its reply."""
        key = key_of(command)
        server = self._any() if key is None else self._map.slots.server(slot_of(key))
        self._begin(receiver, server, command)

    def submit_to(self, key: bytes, *command: Argument) -> asyncio.Future[Any]:
        """Queue a command without a key of its own at the master of ``key``."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._begin(reply, self._map.slots.server(slot_of(key)), command)
        return reply

    def connection_to(self, key: bytes) -> object:
        """The connection to the master of ``key``, and how often a command was asked elsewhere."""
        server = self._map.slots.server(slot_of(key))
        return server and (self._client(server).connection_to(key), self._asked)

    def _begin(
        self, answer: Receiver, server: Server | None, command: tuple[Argument, ...]
    ) -> None:
        if server is None:
            self._map.look_soon()
            answer.set_exception(BrokerUnavailable(why="no node serves the slot now"))
        else:
            self._send(answer, command, server, 0)

    def _send(
        self, answer: Receiver, command: tuple[Argument, ...], server: Server, hops: int
    ) -> None:
        reply = self._client(server).submit(*command)
        reply.add_done_callback(partial(self._answered, answer, command, server, hops))

    def _answered(
        self,
        answer: Receiver,
        command: tuple[Argument, ...],
        server: Server,
        hops: int,
        reply: asyncio.Future[Any],
    ) -> None:
        error = reply.exception()
        if answer.done():  # its caller was cancelled
            return
        if error is None:
            answer.set_result(reply.result())
            return
        where = redirect(str(error), server) if isinstance(error, ResponseError) else None
        if where is None:
            answer.set_exception(error)
        elif hops >= MOST_HOPS:
            answer.set_exception(BrokerUnavailable(why="the nodes do not agree on the slot"))
        else:
            self._follow(answer, command, where, hops + 1)

    def _follow(
        self,
        answer: Receiver,
        command: tuple[Argument, ...],
        where: Redirect,
        hops: int,
    ) -> None:
        if not where.once:
            self._map.moved(where.slot, where.server)
        client = self._client(where.server)
        if client.connected:  # at once: what was sent in order goes on in order
            self._send_on(answer, command, where, hops)
        else:
            sent_on = self._spawn(self._send_when_connected(answer, command, where, hops))
            sent_on.add_done_callback(partial(_not_sent, answer))

    def _send_on(
        self,
        answer: Receiver,
        command: tuple[Argument, ...],
        where: Redirect,
        hops: int,
    ) -> None:
        if where.once:
            self._asked += 1
            asked = self._client(where.server).submit("ASKING")
            asked.add_done_callback(lambda done: done.exception())
        self._send(answer, command, where.server, hops)

    async def _send_when_connected(
        self,
        answer: Receiver,
        command: tuple[Argument, ...],
        where: Redirect,
        hops: int,
    ) -> None:
        try:
            await self._client(where.server).wait_connected(timeout_seconds=_HOP_SECONDS)
        except BrokerUnavailable as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            self._send_on(answer, command, where, hops)

    def _adopt(self, slots: SlotMap) -> None:
        for server in slots.servers:
            self._client(server)
        for server in self._clients.keys() - slots.servers:
            self._spawn(self._clients.pop(server).stop())

    def _client(self, server: Server) -> ServerClient:
        client = self._clients.get(server)
        if client is None:
            client = self._clients[server] = ServerClient(
                Fixed(self._address.data.at(*server)),
                name=self._name,
                load=scripts.SHARDED,
                reply_seconds=self._reply_seconds,
                on_lost=self._map.look_soon,
                in_cluster=True,
            )
            client.begin()
        return client

    def _any(self) -> Server | None:
        for server, client in self._clients.items():
            if client.connected:
                return server
        return None

    def _why_not(self) -> str:
        if not self._map.slots.servers:
            return f"no node tells who serves which slot; {self._map.why or 'none has answered'}"
        missing = [
            f"{server.host}:{server.port}"
            for server, client in self._clients.items()
            if not client.connected
        ]
        return f"not connected to {', '.join(missing)}" if missing else "some slots have no node"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _not_sent(answer: Receiver, sent_on: asyncio.Task[None]) -> None:
    if sent_on.cancelled() and not answer.done():
        answer.set_exception(BrokerUnavailable(why="the client was stopped"))
