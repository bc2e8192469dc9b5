"""A hand-made forwarder: aiohttp's handshake, hiredis, uvloop, and nothing else.

``hiredis_forwarder.py REDIS_PORT``. The quickest that Python does without queues, heartbeats or
guarantees; it checks the instruments, and tells what those cost. Prints its port.
"""

import asyncio
import struct
import sys
from collections import defaultdict
from typing import cast

import hiredis
import uvloop
from aiohttp import web


class Redis(asyncio.Protocol):
    """The subscriber's connection: each message goes straight to the transports."""

    def __init__(self, sockets: dict[bytes, set[asyncio.Transport]]) -> None:
        self._sockets = sockets
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply[0] == b"message":
                text = reply[2]
                frame = struct.pack("!BBH", 0x81, 126, len(text)) + text
                for transport in self._sockets[reply[1]]:
                    transport.write(frame)


async def serve(redis_port: int) -> None:
    """Forward each message of ``/ws/CHANNEL``'s channel to its sockets."""
    sockets: dict[bytes, set[asyncio.Transport]] = defaultdict(set)
    loop = asyncio.get_running_loop()
    redis, _ = await loop.create_connection(lambda: Redis(sockets), "127.0.0.1", redis_port)

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        channel = request.match_info["channel"].encode()
        sockets[channel].add(cast("asyncio.Transport", request.transport))
        redis.write(hiredis.pack_command((b"SUBSCRIBE", channel)))  # type: ignore[arg-type]
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/ws/{channel}", connect)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
