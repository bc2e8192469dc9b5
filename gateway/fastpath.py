"""The usual event's way in C, from what was read of Redis to its socket (decision 27).

What it does is what the first branch of :meth:`~gateway.hub.Hub.on_message`, an outbox and
:meth:`~gateway.connection.Connection.flush` do, on the same objects, and it keeps nothing of its
own. Everything else it hands to them, and where it could not be built they do all of it: the same
events get to the same sockets, for half as much processor time again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from broker.redis.connection import OnRead
from broker.replay import LONGEST, TRAIL, Follower
from gateway.feed import Feed
from gateway.hub import NOTED, Hub
from gateway.outbox import MAX_UNSENT_BYTES, Outbox

try:
    from gateway import _fastpath
except ImportError:  # no compiler, or not Python's headers, where it was installed
    BUILT = False
else:
    BUILT = True

NOT_NOW: Final = -1
"""In place of a socket's number: its transport may have something to write first."""

NEVER: Final = -2
"""The same: only its transport can write, because it encrypts, or ends."""


class FastPath:
    """Of one hub. ``member``: the class of its sockets. Only where it is :data:`BUILT`."""

    def __init__(self, hub: Hub, *, member: type) -> None:
        self._hub = hub
        self._path = _fastpath.FastPath(
            Feed, Follower, member, Outbox, tuple(NOTED), MAX_UNSENT_BYTES, LONGEST, TRAIL
        )

    def on_read(self, data: bytes, at: int, prefix: bytes) -> tuple[int, int]:
        """Hear all messages from there on: :data:`~broker.redis.connection.OnRead`."""
        hub = self._hub
        at, other, passed = self._path.take(data, at, prefix, hub.by_channel, hub)
        hub.counters.published += passed
        hub.counters.delivered += passed
        return at, other

    def flush(self, sockets: dict[Any, None]) -> None:
        """Write what each of them has to write, in one piece."""
        self._path.flush(sockets)


def paths(hub: Hub, *, member: type) -> tuple[OnRead | None, Callable[[dict[Any, None]], None]]:
    """What hears a whole read, if there is such a thing, and what flushes sockets."""
    if not BUILT:
        return None, _flush_each
    fast = FastPath(hub, member=member)
    return fast.on_read, fast.flush


def number_of(transport: asyncio.Transport) -> int:
    """Of the socket to :func:`send` to; :data:`NEVER` when it must be left to the transport."""
    if not BUILT or transport.get_extra_info("sslcontext") is not None:
        return NEVER
    socket = transport.get_extra_info("socket")
    return NEVER if socket is None else cast("int", socket.fileno())


def send(number: int, data: bytes) -> int:
    """How many of the bytes the kernel took at once; why it took no more, a transport is told."""
    return _fastpath.send(number, data)


def _flush_each(sockets: dict[Any, None]) -> None:
    for socket in sockets:
        socket.flush()
