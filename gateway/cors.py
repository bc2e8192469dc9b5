"""Pages of other hosts and the users' HTTP API (Fetch standard, CORS protocol).

The same allow list as for WebSockets says which pages; only what a user's page calls is shared, and
never with credentials: a token is in a header, there are no cookies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway import handshake
from gateway.handshake import STREAM_PATH
from gateway.http_api import NODE, problem

SHARED: Final = ("/ws/ticket", STREAM_PATH)
"""Paths that a page of an allowed origin may call."""

_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}


@web.middleware
async def share(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer preflights, refuse origins that may not call, and tell browsers who may read."""
    origin = request.headers.get("Origin")
    if origin is None or request.path not in SHARED:
        return await handler(request)
    allowed = request.app[NODE].settings.allowed_origins
    if not handshake.origin_allowed(origin, request.host, allowed):
        return problem(403, "origin_not_allowed", "This origin may not connect.")
    named = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    if request.method == "OPTIONS":
        return web.Response(status=204, headers={**named, **_PREFLIGHT})
    response = await handler(request)
    response.headers.update(named)
    return response
