"""The pipelining Redis client: many callers, one connection, replies in order.

Callers await futures; the connection is read and written by the event loop only. Cancelling a
caller abandons its future and nothing else: its reply is still taken off the wire in its turn, so a
cancelled call can never shift the replies of others. Commands queued in the same turn of the event
loop leave in one write.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from broker.backoff import full_jitter
from broker.errors import REFUSALS, BrokerUnavailable
from broker.redis import scripts
from broker.redis.connection import Argument, RedisConnection, pack

log = structlog.get_logger(__name__)

UNAVAILABLE: Final = frozenset(
    {
        "LOADING",
        "BUSY",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
    }
)
"""Error words that say: not now, or not here. READONLY means: not the master any more."""

_CHECK_SECONDS: Final = 1.0
"""How often the oldest unanswered command is looked at."""


class RedisClient:
    """One connection that reconnects by itself until :meth:`stop`.

    ``reply_seconds``: a command without a reply for this long (to the next whole second) means that
    the connection is dead, half-open ones included; it is dropped and opened anew.
    """

    def __init__(self, url: str, *, name: str, reply_seconds: float = 5.0) -> None:
        self._url, self._name = url, name
        self._patience = max(1, round(reply_seconds / _CHECK_SECONDS))
        self._connection: RedisConnection | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._keeper: asyncio.Task[None] | None = None
        self._is_connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._why = ""
        self.round_trips = 0
        self.reconnects = -1

    @property
    def connected(self) -> bool:
        """Whether a command would be sent now."""
        return self._is_connected.is_set()

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on.

        ``BrokerUnavailable`` when the first connection does not come about in time.
        """
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"redis {self._name}")
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
            why = self._why or f"no connection within {timeout_seconds:g} s"
            raise BrokerUnavailable(why=why) from None

    async def stop(self) -> None:
        """Close. Callers still waiting get ``BrokerUnavailable``."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        if self._connection is not None:
            self._connection.abort()
        self._disconnected("the client was stopped")

    async def execute(self, *command: Argument) -> Any:
        """One command's reply.

        ``BrokerUnavailable``: not connected, or the connection was lost while waiting (then the
        outcome is unknown). A reply that is an error is raised as :class:`redis.ResponseError`, or
        as the refusal that a script means by it.
        """
        return await self.submit(*command)

    async def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """All replies in order, one pipeline; the first error is raised."""
        return await asyncio.gather(*[self.submit(*command) for command in commands])

    def submit(self, *command: Argument) -> asyncio.Future[Any]:
        """Queue a command now; the future has its reply. Sent in order of submission."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._connection is None:
            future.set_exception(BrokerUnavailable(why="not connected"))
            return future
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(pack(command))
        self._waiting.append(future)
        return future

    async def run_script(
        self, script: scripts.Script, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Any:
        """Run a named script; it is loaded again if the server does not know it (any more)."""
        try:
            return await self.submit("EVALSHA", script.digest, len(keys), *keys, *args)
        except ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.submit("EVAL", script.source, len(keys), *keys, *args)

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if data and self._connection is not None:
            self.round_trips += 1
            # A server that stopped reading: the connection is gone, and its callers are told by it.
            with suppress(BrokerUnavailable):
                self._connection.write(data)

    def _on_reply(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if future.done():  # its caller was cancelled; the reply is taken off the wire all the same
            return
        if isinstance(reply, ResponseError):
            error = _meaning(reply)
            future.set_exception(error)
            if isinstance(error, BrokerUnavailable) and str(reply).startswith("READONLY"):
                self._drop()
        else:
            future.set_result(reply)

    def _on_lost(self, why: str) -> None:
        self._disconnected(why)
        self._lost.set()

    def _disconnected(self, why: str) -> None:
        self._connection = None
        self._is_connected.clear()
        waiting, self._waiting = self._waiting, deque()
        self._unsent = []
        for future in waiting:
            if not future.done():
                future.set_exception(BrokerUnavailable(why=why, outcome_unknown=True))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def _keep_connected(self) -> None:
        delays = full_jitter(random.random, first_seconds=0.05, most_seconds=2.0)
        while True:
            self._lost.clear()
            connection = RedisConnection(self._on_reply, self._on_lost)
            try:
                await connection.open(self._url, name=self._name, timeout_seconds=5.0)
                self._connection = connection
                loaded = [self.submit("SCRIPT", "LOAD", each.source) for each in scripts.ALL]
                await asyncio.gather(*loaded)
            except (BrokerUnavailable, ResponseError) as error:
                self._why = error.why if isinstance(error, BrokerUnavailable) else str(error)
                self._drop()
                self._disconnected(self._why)
                log.warning("redis_unreachable", connection=self._name, why=self._why)
                await asyncio.sleep(next(delays))
                continue
            if not self._lost.is_set():  # it may be gone again before this task's turn
                self._is_connected.set()
                self.reconnects += 1
                opened = asyncio.get_running_loop().time()
                await self._watch()
                if asyncio.get_running_loop().time() - opened > _CHECK_SECONDS:
                    delays = full_jitter(random.random, first_seconds=0.05, most_seconds=2.0)
            log.warning("redis_connection_lost", connection=self._name)
            await asyncio.sleep(next(delays))

    async def _watch(self) -> None:
        """Return when the connection is lost; drop it when its oldest command gets no reply."""
        oldest: asyncio.Future[Any] | None = None
        checks = 0
        while not self._lost.is_set():
            first = self._waiting[0] if self._waiting else None
            checks = checks + 1 if first is oldest and first is not None else 0
            oldest = first
            if checks >= self._patience:
                self._drop()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._lost.wait()


def _meaning(error: ResponseError) -> Exception:
    """A server's error reply → what it means to the caller."""
    word, _, detail = str(error).partition(" ")
    refusal = REFUSALS.get(word)
    if refusal is not None:
        subject, _, more = detail.partition(" ")
        return refusal(subject=subject, detail=more)
    if word in UNAVAILABLE:
        return BrokerUnavailable(why=str(error))
    return error
