"""How a chat client reaches its gateway: by WebSocket or, where it is blocked, by event stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import aiohttp
from yarl import URL

from gateway.client_errors import ConnectionRefused
from gateway.client_stream import EventStreamSocket

HEARTBEAT_SECONDS: Final = 25.0
"""How often the client pings; half of it without an answer, and the connection counts as lost."""
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024

TransportName = Literal["auto", "websocket", "sse"]
Socket = aiohttp.ClientWebSocketResponse | EventStreamSocket


class Transport:
    """One client's; ``auto`` stays with event streams once they were what worked."""

    def __init__(self, name: TransportName) -> None:
        self._name = name

    async def open(
        self, session: aiohttp.ClientSession, url: URL, query: Mapping[str, str], token: str
    ) -> Socket:
        """A connection. :raises ConnectionRefused, aiohttp.ClientError, OSError: there is none."""
        if self._name == "sse":
            return await EventStreamSocket(session, url, token).open(query)
        try:
            return await session.ws_connect(
                url.update_query(query),
                headers={"Authorization": f"Bearer {token}"},
                protocols=("runcast.v3",),
                heartbeat=HEARTBEAT_SECONDS,
                max_msg_size=MAX_FRAME_BYTES,
            )
        except (aiohttp.ClientError, ConnectionRefused, OSError) as failed:
            # What a gateway itself refuses has a code, and it would say the same to a stream; but
            # for an upgrade that never reached it.
            code = failed.problem.get("code") if isinstance(failed, ConnectionRefused) else None
            told = code not in (None, "upgrade_required")
            if self._name == "websocket" or told:
                raise
            try:
                stream = await EventStreamSocket(session, url, token).open(query)
            except (aiohttp.ClientError, ConnectionRefused, OSError):
                raise failed from None
            self._name = "sse"
            return stream
