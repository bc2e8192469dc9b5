"""The port of a gateway, and how many connections a turn of the event loop takes from it.

libuv takes one per handle and turn. Where hundreds come at once, each then costs a turn of its
own, and in it a read from Redis and nearly two writes to it. So while there is a crowd in front of
the port, more handles listen on the same socket, and a turn takes as many. Only then: a handle that
finds nobody costs the kernel a socket all the same, 4 to 5 µs.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from broker.config import Settings
from gateway.upgrade import bound_kernel_buffer

BACKLOG: Final = 4096
"""Connections that the kernel keeps waiting: a whole gateway's clients may come at once."""

CROWD: Final = 8
"""So many that wait are one."""

HANDLES: Final = 8
"""In a crowd. Others' events wait for a turn to end: with sixteen for longer than with one."""

_WAITING: Final = struct.Struct("24xI")
"""``tcpi_unacked`` of Linux' ``tcp_info``: of a listening socket, the connections that wait."""


class Listening:
    """A bound socket; it listens from :meth:`start` on.

    :raises OSError: the address cannot be had.
    """

    def __init__(self, settings: Settings, *, share_port: bool) -> None:
        self._socket = bound(settings, share_port=share_port)
        self.port: int = self._socket.getsockname()[1]
        self._made: Callable[[], asyncio.Protocol]
        self._servers: list[asyncio.Server] = []
        self._widening: asyncio.Task[None] | None = None

    async def start(self, made: Callable[[], asyncio.Protocol]) -> None:
        """Let connections in; each gets a protocol of ``made``."""
        self._made = made
        await self._add_handle()

    def calm(self) -> None:
        """Asked again and again: where the crowd is in, one handle is enough."""
        if self._widening is not None and self._widening.done() and not self._is_crowded():
            self._widening = None
            self._keep(1)

    def close(self) -> None:
        """Let nobody in any more. Those who are in stay."""
        if self._widening is not None:
            self._widening.cancel()
        self._keep(0)
        self._socket.close()

    def _keep(self, count: int) -> None:
        for server in self._servers[count:]:
            server.close()
        del self._servers[count:]

    def _come(self) -> asyncio.Protocol:
        if self._widening is None and self._is_crowded():
            self._widening = asyncio.get_running_loop().create_task(self._widen())
        return self._made()

    async def _widen(self) -> None:
        with suppress(OSError):  # of files there are no more: those that are there do it alone
            while len(self._servers) < HANDLES:
                await self._add_handle()

    async def _add_handle(self) -> None:
        handle = self._socket.dup()
        try:
            server = await asyncio.get_running_loop().create_server(
                self._come, sock=handle, backlog=BACKLOG
            )
        except BaseException:
            handle.close()
            raise
        self._servers.append(server)

    def _is_crowded(self) -> bool:
        if not hasattr(socket, "TCP_INFO"):  # where nobody can say, there is none
            return False
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size)
        waiting: int = _WAITING.unpack(info)[0]
        return waiting >= CROWD


def bound(settings: Settings, *, share_port: bool) -> socket.socket:
    """A socket with the configured address that does not listen yet; ``OSError`` without it.

    ``share_port``: with those of other processes that do so, too.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound_kernel_buffer(made)
        made.bind((settings.host, settings.port))
    except OSError:
        made.close()
        raise
    made.settimeout(0)
    return made
