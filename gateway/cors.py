"""Pages of other hosts and the users' HTTP API (Fetch standard, CORS protocol).

The same allow list as for WebSockets says which pages; only what a user's page calls is shared, and
never with credentials: a token is in a header, there are no cookies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway.agui_api import PREFIX as AGUI
from gateway.ai_sdk_api import PREFIX as AI_SDK
from gateway.handshake import STREAM_PATH
from gateway.http_api import PROXIES, client_of, problem
from gateway.origins import Origins
from gateway.user_api import PREFIX

ORIGINS: Final = web.AppKey("origins", Origins)

SHARED: Final = (
    "/ws/ticket", STREAM_PATH, f"{PREFIX}/messages", f"{PREFIX}/runs/", f"{PREFIX}/history",
    f"{PREFIX}/threads", f"{AGUI}/", f"{AI_SDK}/",
)  # fmt: skip
"""What the paths begin with that a page of an allowed origin may call."""

_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, X-Run-Id, "
    "traceparent, tracestate",
    "Access-Control-Max-Age": "600",
}


@web.middleware
async def share(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer preflights, refuse origins that may not call, and tell browsers who may read."""
    sent, transport = request.headers.getall("Origin", ()), request.transport
    if not sent or not request.path.startswith(SHARED) or transport is None:
        return await handler(request)
    client = client_of(request.app[PROXIES], transport, request.headers)
    if not request.app[ORIGINS].allow(sent, scheme=client.scheme, host=client.host):
        return problem(403, "origin_not_allowed", "This origin may not connect.")
    named = {"Access-Control-Allow-Origin": sent[0], "Vary": "Origin"}
    if request.method == "OPTIONS":
        return web.Response(status=204, headers={**named, **_PREFLIGHT})
    response = await handler(request)
    response.headers.update({**named, "Access-Control-Expose-Headers": "Retry-After"})
    return response
