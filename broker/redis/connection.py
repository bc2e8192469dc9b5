"""One Redis connection at the level of bytes and replies.

redis-py opens it (addresses, TLS, authentication, database, name); from then on the socket belongs
to this protocol object: hiredis parses what arrives and every reply goes straight to a callback,
without a task or a coroutine per message. Both the pipelining client and the subscriber are built
on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
import redis.asyncio.connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from broker.channels import encode_id
from broker.errors import BrokerUnavailable

MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""More than this waiting to be sent means that Redis does not read: refuse rather than grow."""

Argument = bytes | str | int | float | memoryview
"""What a command is made of."""

pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
"""One command as bytes; hiredis' own annotation allows commands of one word only."""

_NOTHING_YET: Final = object()


class RedisConnection(asyncio.Protocol):
    """An open, authenticated connection.

    ``on_reply`` gets each reply, errors as exceptions; ``on_read_end`` is called after the last
    reply of each read; ``on_lost`` once, at the end.
    """

    def __init__(
        self,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[str], None],
        on_read_end: Callable[[], None] | None = None,
    ) -> None:
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._on_read_end = on_read_end
        self._reader = hiredis.Reader(
            protocolError=ConnectionError, replyError=ResponseError, notEnoughData=_NOTHING_YET
        )
        self._transport: asyncio.Transport
        self._stream: asyncio.StreamWriter | None = None
        self._lost = False

    async def open(self, url: str, *, name: str, timeout_seconds: float) -> None:
        """Connect. ``BrokerUnavailable`` when that fails or takes longer than the time given."""
        try:
            opener = _opener(url, name=name, timeout_seconds=timeout_seconds)
            async with asyncio.timeout(timeout_seconds):
                await opener.connect()  # type: ignore[no-untyped-call]  # redis-py's gap
        except (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise BrokerUnavailable(why=str(error) or type(error).__name__) from error
        # The socket changes hands here; redis-py has no public way to give it away.
        stream = cast("asyncio.StreamWriter", opener._writer)  # noqa: SLF001 - as said
        opener._writer = opener._reader = None  # noqa: SLF001 - as said
        # The writer closes its transport when it is collected, so it is kept.
        self._stream = stream
        self._transport = cast("asyncio.Transport", stream.transport)
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            raise BrokerUnavailable(why="the connection was closed at once")

    def send(self, *command: Argument) -> None:
        """Write one command; replies come in the order of sending."""
        self.write(pack(command))

    def write(self, data: bytes) -> None:
        """Write packed commands. ``BrokerUnavailable`` when Redis has stopped reading."""
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.abort()
            raise BrokerUnavailable(why="it does not read what is sent to it")
        self._transport.write(data)

    def abort(self) -> None:
        """Drop the connection now; ``on_lost`` follows."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse, and hand every complete reply on."""
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOTHING_YET:
                self._on_reply(reply)
        except ConnectionError:
            self.abort()
            return
        if self._on_read_end is not None:
            self._on_read_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        if not self._lost:
            self._lost = True
            self._on_lost(str(exc) if exc else "the connection was closed")


def _opener(url: str, *, name: str, timeout_seconds: float) -> redis_connection.AbstractConnection:
    """A redis-py connection for ``url``, with every time-out set here.

    Its own defaults do not fit: a ``socket_timeout`` of 5 s would break blocking reads and quiet
    subscribers.
    """
    options: dict[str, Any] = dict(redis_connection.parse_url(url))
    kind = options.pop("connection_class", redis_connection.Connection)
    options.update(
        protocol=2,
        client_name=encode_id(name),  # Redis takes no spaces here
        socket_timeout=None,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    return cast("redis_connection.AbstractConnection", kind(**options))
