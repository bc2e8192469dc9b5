"""The pipelining client of one server: many callers, one connection, replies in order."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from broker.backoff import full_jitter
from broker.errors import BrokerUnavailable
from broker.redis.client import Receiver, RedisClient, meaning, said
from broker.redis.connection import Argument, RedisConnection, pack
from broker.redis.scripts import Script
from broker.redis.source import Source
from broker.rhythm import seconds_until

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS: Final = 0.05
MOST_DELAY_SECONDS: Final = 0.5
"""Of the back-off between two tries to connect: a server that is back is used again in under a
second. Jitter keeps a fleet from arriving all at once."""

_CHECK_SECONDS: Final = 0.5
"""How often the oldest unanswered command is looked at."""


def new_delays() -> Iterator[float]:
    """Seconds to wait before each further try to connect."""
    return full_jitter(
        random.random, first_seconds=FIRST_DELAY_SECONDS, most_seconds=MOST_DELAY_SECONDS
    )


class ServerClient(RedisClient):
    """One connection that reconnects by itself until :meth:`stop`.

    ``load``: scripts that each new connection loads. ``reply_seconds``: a command without a reply
    for about this long means that the connection is dead, half-open ones included; it is dropped
    and opened anew. ``on_lost()`` is called whenever it is gone. ``in_cluster``: it may
    send callers on to another node.
    """

    sharded = False

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        load: Sequence[Script] = (),
        reply_seconds: float = 5.0,
        on_lost: Callable[[], None] | None = None,
        in_cluster: bool = False,
    ) -> None:
        self._source, self._name, self._load = source, name, load
        self._tell_lost, self._in_cluster = on_lost, in_cluster
        self._patience = max(1, round(reply_seconds / _CHECK_SECONDS))
        self._connection: RedisConnection | None = None
        self._waiting: deque[Receiver] = deque()
        self._unsent: list[bytes] = []
        self._keeper: asyncio.Task[None] | None = None
        self._is_connected = asyncio.Event()
        self._lost = asyncio.Event()
        self.why = ""

    @property
    def connected(self) -> bool:
        """Whether a command would be sent now."""
        return self._is_connected.is_set()

    def begin(self) -> None:
        """Connect in the background, and keep connected from now on."""
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"redis {self._name}")

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on."""
        self.begin()
        try:
            await self.wait_connected(timeout_seconds=timeout_seconds)
        except BrokerUnavailable:
            await self.stop()
            raise

    async def wait_connected(self, *, timeout_seconds: float) -> None:
        """Return once connected; ``BrokerUnavailable`` when that takes longer."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._is_connected.wait()
        except TimeoutError:
            why = self.why or f"no connection within {timeout_seconds:g} s"
            raise BrokerUnavailable(why=why) from None

    async def stop(self) -> None:
        """Close. Callers still waiting get ``BrokerUnavailable``."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        self.drop()
        self._disconnected("the client was stopped")

    def drop(self) -> None:
        """Give the connection up and open another."""
        if self._connection is not None:
            self._connection.abort()

    def ask(self, receiver: Receiver, *command: Argument) -> None:
        """Queue a command now; ``receiver`` gets its reply. Sent in order of submission."""
        if self._connection is None:
            receiver.set_exception(BrokerUnavailable(why="not connected"))
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(pack(command))
        self._waiting.append(receiver)

    def submit_to(self, key: bytes, *command: Argument) -> asyncio.Future[Any]:
        """As :meth:`submit`: every key is here."""
        del key
        return self.submit(*command)

    def connection_to(self, key: bytes) -> object:
        """The one connection."""
        del key
        return self._connection

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if data and self._connection is not None:
            # A server that stopped reading: the connection is gone, and its callers are told by it.
            with suppress(BrokerUnavailable):
                self._connection.write(data)

    def _on_reply(self, reply: Any) -> None:
        receiver = self._waiting.popleft()
        if isinstance(reply, ResponseError):
            if said(reply).startswith("READONLY"):  # not the master any more
                self.drop()
            if not receiver.done():
                receiver.set_exception(self._meaning(reply))
        elif not receiver.done():  # else: cancelled; the reply is taken off the wire all the same
            receiver.set_result(reply)

    def _meaning(self, reply: ResponseError) -> Exception:
        if not self._in_cluster and str(reply).startswith(("MOVED ", "ASK ")):
            return BrokerUnavailable(
                why="it is a node of a Cluster, so the URL is redis+cluster://…"
            )
        return meaning(reply)

    def _on_lost(self, why: str) -> None:
        self._disconnected(why)
        self._lost.set()
        if self._tell_lost is not None:
            self._tell_lost()

    def _disconnected(self, why: str) -> None:
        self._connection = None
        self._is_connected.clear()
        waiting, self._waiting = self._waiting, deque()
        self._unsent = []
        for receiver in waiting:
            if not receiver.done():
                receiver.set_exception(BrokerUnavailable(why=why, outcome_unknown=True))

    async def _keep_connected(self) -> None:
        await self._source.start()
        try:
            delays = new_delays()
            while True:
                opened = asyncio.get_running_loop().time()
                if await self._connect():
                    await self._watch()
                    log.warning("redis_connection_lost", link=self._name)
                    if asyncio.get_running_loop().time() - opened > 2 * _CHECK_SECONDS:
                        delays = new_delays()
                await asyncio.sleep(next(delays))
        finally:
            await self._source.stop()

    async def _connect(self) -> bool:
        self._lost.clear()
        connection = RedisConnection(self._on_reply, self._on_lost)
        try:
            self._endpoint = await self._source.locate()
            await connection.open(self._endpoint, name=self._name, timeout_seconds=5.0)
            self._connection = connection
            loaded = [self.submit("SCRIPT", "LOAD", each.source) for each in self._load]
            await asyncio.gather(*loaded)
        except (BrokerUnavailable, ResponseError) as error:
            why = error.why if isinstance(error, BrokerUnavailable) else _refusal(error)
            self.drop()
            self._disconnected(why)
            if why != self.why:  # once per reason, not once per try
                log.warning("redis_unreachable", link=self._name, why=why)
                self.why = why
            return False
        if self._lost.is_set():  # gone again before this task's turn
            return False
        self.why = ""
        self._is_connected.set()
        return True

    async def _watch(self) -> None:
        """Return when the connection is lost.

        Drop it when its oldest command gets no reply, and when the server has moved.
        """
        moved = asyncio.create_task(self._source.moved(self._endpoint))
        moved.add_done_callback(self._on_moved)
        clock = asyncio.get_running_loop().time
        oldest: Receiver | None = None
        checks = 0
        try:
            while not self._lost.is_set():
                first = self._waiting[0] if self._waiting else None
                checks = checks + 1 if first is oldest and first is not None else 0
                oldest = first
                if checks >= self._patience:
                    self.drop()
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds_until(_CHECK_SECONDS, clock())):
                        await self._lost.wait()
        finally:
            moved.cancel()

    def _on_moved(self, moved: asyncio.Task[None]) -> None:
        if not moved.cancelled():
            log.warning("redis_moved", link=self._name, was=self._endpoint.place)
            self.drop()


def _refusal(error: ResponseError) -> str:
    """Why the scripts cannot be loaded."""
    why = str(error).partition(", with args")[0]  # else it repeats a whole script
    if "unknown command" in why:
        why += "; if it is a Sentinel, the URL is redis+sentinel://host:port/master"
    return why
