"""The verbs of a Redis client: what every caller here needs of one server, or of a Cluster.

Callers await futures; the connections are read and written by the event loop only. Cancelling a
caller abandons its future and nothing else: its reply is still taken off the wire in its turn, so a
cancelled call can never shift the replies of others. Commands queued in the same turn of the event
loop leave in one write.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Protocol

from redis.exceptions import ResponseError

from broker.errors import REFUSALS, BrokerUnavailable
from broker.redis.connection import Argument, Command
from broker.redis.scripts import Script

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
        "NOPERM",
    }
)
"""Error words that say: not now, or not here. READONLY means: not the master any more; NOPERM: a
right is missing, and all that needs it waits until it is granted."""

_WITHIN_SCRIPT: Final = re.compile(r"ERR Error running script .*?: -([A-Z]+ .*)", re.DOTALL)


class Receiver(Protocol):
    """Who a reply is for. A future is one; so is anything else that need not be awaited.

    It is told at once, while the connection is being read: it must be quick and must not raise.
    """

    def done(self) -> bool:
        """Whether nobody wants the reply any more."""

    def set_result(self, result: Any, /) -> None:
        """The reply."""

    def set_exception(self, exception: BaseException, /) -> None:
        """A refusal, or why there is no reply; also at once, when not connected."""


class RedisClient(ABC):
    """Connected by itself, again and again, from :meth:`start` until :meth:`stop`."""

    sharded: ClassVar[bool]
    """Whether live channels live with their slot, as in a Cluster."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether a command would be sent now, whatever its key."""

    @abstractmethod
    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on.

        ``BrokerUnavailable`` when the first connection does not come about in time.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Close. Callers still waiting get ``BrokerUnavailable``."""

    @abstractmethod
    async def wait_connected(self, *, timeout_seconds: float) -> None:
        """Return once connected; ``BrokerUnavailable`` when that takes longer."""

    @abstractmethod
    def ask(self, receiver: Receiver, *command: Argument) -> None:
        """Queue a command now; ``receiver`` gets its reply. Sent in order of submission."""

    def submit(self, *command: Argument) -> asyncio.Future[Any]:
        """The same with a future for the reply."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ask(reply, *command)
        return reply

    @abstractmethod
    def submit_to(self, key: bytes, *command: Argument) -> asyncio.Future[Any]:
        """The same for a command without a key of its own, on the connection that ``key`` has."""

    @abstractmethod
    def connection_to(self, key: bytes) -> object:
        """What commands of ``key`` go over now; None when there is none.

        Equal later: it is the same connection still, and no command was sent elsewhere meanwhile.
        """

    async def execute(self, *command: Argument) -> Any:
        """One command's reply.

        ``BrokerUnavailable``: not connected, or the connection was lost while waiting (then the
        outcome is unknown). A reply that is an error is raised as :class:`redis.ResponseError`, or
        as the refusal that a script means by it.
        """
        return await self.submit(*command)

    def submit_many(
        self, commands: Sequence[Command], *, keep_errors: bool = False
    ) -> asyncio.Future[list[Any]]:
        """Queue commands now, one pipeline per server; a future for all replies, in order.

        The first error is its exception; with ``keep_errors`` each stands where its reply would.
        """
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if not commands:
            answer.set_result([])
        replies = _Replies(answer, len(commands), keep_errors=keep_errors)
        for at, command in enumerate(commands):
            self.ask(_Reply(replies, at), *command)
        return answer

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """All replies in order, one pipeline per server; the first error is raised."""
        return await self.submit_many(commands)

    async def publish(self, channel: bytes, payload: bytes) -> None:
        """Publish where the channel's subscribers listen."""
        await self.submit("SPUBLISH" if self.sharded else "PUBLISH", channel, payload)

    async def run_script(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Any:
        """Run a named script; it is loaded again if the server does not know it (any more)."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ask_script(reply, script, keys, args)
        return await reply

    def ask_script(
        self, receiver: Receiver, script: Script, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> None:
        """The same; ``receiver`` gets the reply."""
        if self.sharded:
            script = script.sharded
        call = _ScriptCall(self, receiver, script, (len(keys), *keys, *args))
        self.ask(call, "EVALSHA", script.digest, *call.words)


class _Replies:
    """The replies to several commands on their way to one future: a future for each costs more."""

    __slots__ = ("_left", "_replies", "answer", "keep_errors")

    def __init__(self, answer: asyncio.Future[list[Any]], count: int, *, keep_errors: bool) -> None:
        self.answer, self.keep_errors = answer, keep_errors
        self._replies: list[Any] = [None] * count
        self._left = count

    def take(self, at: int, reply: Any) -> None:
        """One of them."""
        self._replies[at] = reply
        self._left -= 1
        if not self._left and not self.answer.done():
            self.answer.set_result(self._replies)


class _Reply:
    """Who gets one of them."""

    __slots__ = ("_at", "_replies", "done")

    def __init__(self, replies: _Replies, at: int) -> None:
        self._replies, self._at = replies, at
        self.done = replies.answer.done

    def set_result(self, result: Any, /) -> None:
        """It is there."""
        self._replies.take(self._at, result)

    def set_exception(self, exception: BaseException, /) -> None:
        """It is an error."""
        if self._replies.keep_errors:
            self._replies.take(self._at, exception)
        elif not self.done():
            self._replies.answer.set_exception(exception)


class _ScriptCall:
    """One call of a script on its way, which knows what to do when the server does not know it."""

    __slots__ = ("_client", "_receiver", "_script", "done", "set_result", "words")

    def __init__(
        self,
        client: RedisClient,
        receiver: Receiver,
        script: Script,
        words: tuple[Argument, ...],
    ) -> None:
        self._client, self._receiver, self._script, self.words = client, receiver, script, words
        self.done, self.set_result = receiver.done, receiver.set_result

    def set_exception(self, exception: BaseException, /) -> None:
        """Once more with its source, if that is what is missing."""
        if isinstance(exception, ResponseError) and str(exception).startswith("NOSCRIPT"):
            self._client.ask(self._receiver, "EVAL", self._script.source, *self.words)
        else:
            self._receiver.set_exception(exception)


def said(error: ResponseError) -> str:
    """A server's own words. Redis before 7 wraps what a command within a script was answered."""
    text = str(error)
    wrapped = _WITHIN_SCRIPT.match(text)
    return wrapped[1] if wrapped else text


def meaning(error: ResponseError) -> Exception:
    """A server's error reply → what it means to the caller."""
    word, _, detail = said(error).partition(" ")
    refusal = REFUSALS.get(word)
    if refusal is not None:
        subject, _, more = detail.partition(" ")
        return refusal(subject=subject, detail=more)
    if word in UNAVAILABLE:
        return BrokerUnavailable(why=str(error))
    return error
