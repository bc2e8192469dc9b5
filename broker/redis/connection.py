"""One Redis connection at the level of bytes and replies.

redis-py opens it (addresses, TLS, authentication, database, name); from then on the socket belongs
to this protocol object: hiredis parses what arrives and every reply goes straight to a callback,
without a task or a coroutine per message. Both the pipelining client and the subscriber are built
on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from hiredis import PushNotification
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from broker.errors import BrokerUnavailable
from broker.redis.address import Endpoint

MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""More than this waiting to be sent means that Redis does not read: refuse rather than grow."""

Argument = bytes | str | int | float | memoryview
"""What a command is made of."""

Command = Sequence[Argument]

pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
"""One command as bytes; hiredis' own annotation allows commands of one word only."""

_NOTHING_YET: Final = object()

OnRead = Callable[[bytes, int, bytes], tuple[int, int]]
"""Takes the messages in some bytes from an offset on, each of which begins with the last argument.

Returns the offset of what follows, and its size if that is a whole reply of another kind; 0 when
more has to come, and less when it cannot tell.
"""

_PUSHED: Final = 3
"""Words of a pub/sub message: kind, channel, payload."""

_RESP2: Final = 2
_RESP3: Final = 3
"""In it a push can be told from a reply, so that a connection which listens may ask as well."""


class RedisConnection(asyncio.Protocol):
    """An open, authenticated connection.

    ``on_reply`` gets each reply, errors as exceptions; ``on_message`` instead each push of that
    ``kind``, with its channel and its payload, and ``on_reply`` any other push, as a
    :class:`hiredis.PushNotification`; ``on_read_end`` is called after the last reply of
    each read; ``on_lost`` once, at the end. ``on_read`` may take whole reads: then it gets the
    messages, and only what is none of them is parsed here.
    """

    def __init__(
        self,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[str], None],
        on_read_end: Callable[[], None] | None = None,
        *,
        kind: bytes = b"",
        on_message: Callable[[bytes, bytes], None] | None = None,
        on_read: OnRead | None = None,
    ) -> None:
        self._kind, self._on_message, self._on_read = kind, on_message, on_read
        self._prefix = b">%d\r\n$%d\r\n%b\r\n$" % (_PUSHED, len(kind), kind)
        self._begun = b""
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._on_read_end = on_read_end
        self._reader = hiredis.Reader(
            protocolError=ConnectionError, replyError=ResponseError, notEnoughData=_NOTHING_YET
        )
        self._transport: asyncio.Transport | None = None
        self._stream: asyncio.StreamWriter | None = None
        self._lost = False

    async def open(self, endpoint: Endpoint, *, name: str, timeout_seconds: float) -> None:
        """Connect. ``BrokerUnavailable`` when that fails or takes longer than the time given."""
        protocol = _RESP2 if self._on_message is None else _RESP3
        opener = endpoint.opener(name=name, timeout_seconds=timeout_seconds, protocol=protocol)
        try:
            async with asyncio.timeout(timeout_seconds):
                await opener.connect()  # type: ignore[no-untyped-call]  # redis-py's gap
                if endpoint.must_be_master:
                    await _require_master(opener, endpoint)
        except TimeoutError as error:
            await opener.disconnect(nowait=True)
            raise BrokerUnavailable(why=f"{endpoint.place} does not answer in time") from error
        except (RedisError, OSError, asyncio.IncompleteReadError) as error:
            await opener.disconnect(nowait=True)
            raise BrokerUnavailable(why=str(error) or type(error).__name__) from error
        except asyncio.CancelledError:  # or nobody would close it
            await opener.disconnect(nowait=True)
            raise
        # The socket changes hands here; redis-py has no public way to give it away.
        stream = cast("asyncio.StreamWriter", opener._writer)  # noqa: SLF001 - as said
        opener._writer = opener._reader = None  # noqa: SLF001 - as said
        # The writer closes its transport when it is collected, so it is kept.
        self._stream = stream
        transport = self._transport = cast("asyncio.Transport", stream.transport)
        transport.set_protocol(self)
        if transport.is_closing():
            raise BrokerUnavailable(why="the connection was closed at once")

    def send(self, *command: Argument) -> None:
        """Write one command; replies come in the order of sending."""
        self.write(pack(command))

    def write(self, data: bytes) -> None:
        """Write packed commands. ``BrokerUnavailable`` when Redis has stopped reading."""
        transport = self._transport
        if transport is None:
            raise BrokerUnavailable(why="the connection is not open")
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.abort()
            raise BrokerUnavailable(why="it does not read what is sent to it")
        transport.write(data)

    def abort(self) -> None:
        """Drop the connection now; ``on_lost`` follows, if it was open."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse, and hand every complete reply on."""
        if self._on_read is None:
            self._parse(data)
        else:
            self._take(self._begun + data, self._on_read)
        if self._on_read_end is not None:
            self._on_read_end()

    def _take(self, data: bytes, on_read: OnRead) -> None:
        """The parser gets whole replies only: nobody could see where what it has begun ends."""
        at = 0
        while at < len(data):
            at, other = on_read(data, at, self._prefix)
            if other < 0:
                self._on_read, other = None, len(data) - at
            if not other:
                break
            self._parse(data[at : at + other])
            at += other
        self._begun = data[at:]

    def _parse(self, data: bytes) -> None:
        reader, on_reply, on_message = self._reader, self._on_reply, self._on_message
        reader.feed(data)
        try:
            if on_message is None:
                while (reply := reader.gets()) is not _NOTHING_YET:
                    on_reply(reply)
            else:
                kind = self._kind
                while (reply := reader.gets()) is not _NOTHING_YET:
                    if (
                        type(reply) is PushNotification
                        and len(reply) == _PUSHED
                        and reply[0] == kind
                    ):
                        on_message(reply[1], reply[2])
                    else:
                        on_reply(reply)
        except ConnectionError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        if not self._lost:
            self._lost = True
            self._on_lost(str(exc) if exc else "the connection was closed")


async def _require_master(opener: AbstractConnection, endpoint: Endpoint) -> None:
    await opener.send_command("ROLE")
    role = await opener.read_response(disable_decoding=True)
    if role[0] != b"master":
        raise ConnectionError(f"{endpoint.place} is a {role[0].decode()}, not the master")
