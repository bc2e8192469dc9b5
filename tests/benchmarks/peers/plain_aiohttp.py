"""A peer: aiohttp and redis-py's pub/sub as most people write it. ``plain_aiohttp.py REDIS_URL``.

No authentication, no log, no resume, no bound on what a slow client holds up. Prints its port.
"""

import asyncio
import sys
from collections import defaultdict

import redis.asyncio
from aiohttp import WSMsgType, web


async def serve(redis_url: str) -> None:
    """Forward each message of ``/ws/CHANNEL``'s channel to its sockets."""
    pubsub = redis.asyncio.from_url(redis_url, socket_timeout=None).pubsub(
        ignore_subscribe_messages=True
    )
    await pubsub.subscribe("nobody's")
    sockets: dict[str, set[web.WebSocketResponse]] = defaultdict(set)

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=25)
        await socket.prepare(request)
        channel = request.match_info["channel"]
        sockets[channel].add(socket)
        await pubsub.subscribe(channel)
        try:
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
        finally:
            sockets[channel].discard(socket)
        return socket

    async def forward() -> None:
        async for message in pubsub.listen():
            for socket in list(sockets[message["channel"].decode()]):
                await socket.send_str(message["data"].decode())

    app = web.Application()
    app.router.add_get("/ws/{channel}", connect)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await forward()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
