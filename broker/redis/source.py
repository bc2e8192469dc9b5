"""Where the server is now: always at the same place, or where Sentinel says.

A client and a subscriber ask before each connection, and are told when the server has moved while
they are connected.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from broker.redis.address import Endpoint


class Source(Protocol):
    """Tells the place of one server."""

    async def start(self) -> None:
        """Begin to look; does not wait for an answer."""

    async def stop(self) -> None:
        """Look no more."""

    async def locate(self) -> Endpoint:
        """Where to connect to. ``BrokerUnavailable`` when nobody can tell."""

    async def moved(self, endpoint: Endpoint) -> None:
        """Return when the server is somewhere else than at ``endpoint``."""


class Fixed:
    """A server that does not move."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def start(self) -> None:
        """Nothing to look for."""

    async def stop(self) -> None:
        """As little."""

    async def locate(self) -> Endpoint:
        """The one place."""
        return self._endpoint

    async def moved(self, endpoint: Endpoint) -> None:
        """Never returns."""
        del endpoint
        await asyncio.get_running_loop().create_future()
