"""The gateway as an aiohttp application, and as something that runs."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

import orjson
import structlog
from aiohttp import HttpVersion11, web
from multidict import MultiDict

from broker.config import Settings
from gateway import admin, agui_api, ai_sdk_api, cors, run_admin, scrape, user_api, worker_api
from gateway.arrivals import ENTRANCE, upgrade
from gateway.entrance import Arrival, Entrance, Refusal
from gateway.event_stream import EventStream
from gateway.front import SILENT_SECONDS, Fronts
from gateway.handshake import ROUTES, STREAM_PATH
from gateway.http_api import (
    NODE,
    OPEN_STATS,
    PROXIES,
    client_of,
    config,
    health,
    json_response,
    livez,
    problem,
    readyz,
    stats,
)
from gateway.listening import Listening
from gateway.node import Node
from gateway.problems import as_problems
from gateway.readings import of_process
from gateway.siblings import Place, Siblings
from gateway.tls import Certificate
from gateway.upgrade import Upgraded, leave_aiohttp

log = structlog.get_logger(__name__)

WEB: Final = Path(__file__).parent / "web"
FILES: Final = {path.name: path for path in WEB.iterdir()}

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Of the page and its files."""


_QUIET: Final = logging.getLogger("runcast.http")
"""aiohttp logs requests that it cannot parse with what stood in them, tokens included: not so here.
What goes wrong in a handler is logged by the application itself."""
_QUIET.disabled = True


class DemoLogin(Protocol):
    """What ``runcast demo`` adds: users without passwords, for one machine."""

    def session(self) -> dict[str, Any]:
        """Body of ``GET /demo/session``: users, agents, samples."""

    def token(self, user: str) -> dict[str, Any] | None:
        """Body of ``POST /demo/token``; None for somebody else than the demo's users."""


API_ROUTES: Final = (
    *user_api.ROUTES, *agui_api.ROUTES, *ai_sdk_api.ROUTES, *worker_api.ROUTES, *admin.ROUTES,
    *run_admin.ROUTES,
)  # fmt: skip
"""Method, path, handler."""

DEMO: Final = web.AppKey("demo", DemoLogin)


def create_app(
    settings: Settings, *, demo: DemoLogin | None = None, place: Place | None = None
) -> web.Application:
    """The application; its node connects to Redis when the application starts.

    ``demo`` adds the demo's login and opens the figures to this machine; ``place``: it is one of
    several processes. Raises ConfigurationError for settings that no gateway can run with.
    """
    app = web.Application(
        client_max_size=settings.max_message_bytes, middlewares=[cors.share, as_problems]
    )
    node = app[NODE] = Node(settings)
    app[ENTRANCE] = Entrance(node)
    app[PROXIES], app[cors.ORIGINS] = app[ENTRANCE].proxies, app[ENTRANCE].origins
    app[OPEN_STATS] = demo is not None
    for path in ROUTES:
        app.router.add_get(path, websocket)
    app.router.add_get(STREAM_PATH, event_stream, allow_head=False)
    app.router.add_get("/ws/health", health)
    app.router.add_get("/ws/config", config)
    app.router.add_get("/ws/stats", stats)
    app.router.add_get(scrape.PATH, scrape.metrics)
    for method, path, handler in API_ROUTES:
        app.router.add_route(method, path, handler)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/", page)
    app.router.add_get("/console", operators_page)
    app.router.add_get("/static/{name}", static)
    app.on_response_prepare.append(_add_headers)
    if demo is not None:
        app[DEMO] = demo
        app.router.add_get("/demo/session", demo_session)
        app.router.add_post("/demo/token", demo_token)
    app.cleanup_ctx.append(_run_node)
    if place is not None:
        app[scrape.SIBLINGS] = Siblings(place, lambda: of_process(node))
        app.cleanup_ctx.append(_run_siblings)
    return app


async def websocket(request: web.Request) -> web.StreamResponse:
    """``GET /ws`` and the old routes, of a client that had other requests, or no handshake."""
    return await upgrade(request, request.query)


async def event_stream(request: web.Request) -> web.StreamResponse:
    """``GET /sse``: the same as server-sent events; ``Last-Event-ID`` is newer than ``after``."""
    entrance = request.app[ENTRANCE]
    if request.version < HttpVersion11:
        return problem(400, "http_1_1_required", "Events are sent in chunks, as of HTTP/1.1.")
    query = MultiDict(request.query)
    if "Last-Event-ID" in request.headers:
        query["after"] = request.headers["Last-Event-ID"]
    transport = request.transport
    if transport is None:
        return problem(400, "gone", "The client went away.")
    arrival = Arrival(
        path=STREAM_PATH,
        query=query,
        headers=request.headers,
        client=client_of(entrance.proxies, transport, request.headers),
        kind=EventStream,
    )
    try:
        identity, opening = await entrance.check(arrival)
        admitted = await entrance.admit(arrival, identity, opening)
    except Refusal as refusal:
        return refusal.response
    if transport.is_closing():
        return problem(400, "gone", "The client went away.")
    await entrance.greet(arrival, admitted, transport, leave_aiohttp(request))
    return Upgraded()


async def page(request: web.Request) -> web.StreamResponse:
    """The chat page."""
    del request
    return web.FileResponse(WEB / "index.html")


async def operators_page(request: web.Request) -> web.StreamResponse:
    """The operators' console: it shows nothing without an operator's token."""
    del request
    return web.FileResponse(WEB / "console.html")


async def static(request: web.Request) -> web.StreamResponse:
    """One of the page's files; of no other name is there anything."""
    file = FILES.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    return web.FileResponse(file)


async def demo_session(request: web.Request) -> web.Response:
    """Who can log in here, and what to try."""
    return json_response(request.app[DEMO].session())


async def demo_token(request: web.Request) -> web.Response:
    """A signed token for one of the demo's users."""
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        body = None
    user = body.get("user") if isinstance(body, dict) else None
    token = request.app[DEMO].token(user) if isinstance(user, str) else None
    if token is None:
        return problem(403, "unknown_user", "The demo has the users that /demo/session lists.")
    return json_response(token)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if request.path in ("/", "/console") or request.path.startswith("/static/"):
        response.headers.update(HEADERS)


async def _run_node(app: web.Application) -> Any:
    await app[NODE].start()
    yield
    await app[NODE].stop()


async def _run_siblings(app: web.Application) -> Any:
    await app[scrape.SIBLINGS].start()
    yield
    await app[scrape.SIBLINGS].stop()


class Gateway:
    """A gateway in this process.

    ::

        async with Gateway(settings) as gateway:
            print(gateway.port)
    """

    def __init__(
        self, settings: Settings, *, demo: DemoLogin | None = None, place: Place | None = None
    ) -> None:
        self.settings = settings
        self.app = create_app(settings, demo=demo, place=place)
        self.node = self.app[NODE]
        self.port = settings.port
        self._certificate = Certificate.of(settings)
        self._share_port = place is not None
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0, logger=_QUIET)
        self._fronts: Fronts
        self._listening: Listening

    @property
    def url(self) -> str:
        """Where clients connect."""
        return address(self.settings, self.port)

    async def __aenter__(self) -> Self:
        """Connect to Redis and listen. BrokerUnavailable or OSError when that cannot be."""
        # All that is begun from here on inherits it.
        structlog.contextvars.bind_contextvars(gateway=self.node.node_id)
        listening = self._listening = Listening(self.settings, share_port=self._share_port)
        self.port = listening.port
        try:
            await self._runner.setup()
            aiohttp = cast("web.Server", self._runner.server)
            self._fronts = Fronts(self.app[ENTRANCE], aiohttp, self._certificate)
            self.node.on_tick = self._tick
            await listening.start(self._fronts)
        except BaseException:
            listening.close()
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listening.close()
        await self._fronts.close()
        await self._runner.cleanup()
        structlog.contextvars.unbind_contextvars("gateway")

    def _tick(self) -> None:
        self._listening.calm()
        self._fronts.close_silent(asyncio.get_running_loop().time() - SILENT_SECONDS)
        if self._certificate is not None:
            self._certificate.refresh()

    async def serve(self, tell: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once.

        ``tell`` is called as soon as a signal would do that.
        """
        signalled = asyncio.Semaphore(0)
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, signalled.release)
        tell()
        await signalled.acquire()
        log.info("draining", sockets=len(self.node.sockets))
        drained = asyncio.create_task(self.node.drain())
        again = asyncio.create_task(signalled.acquire())
        await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, again):
            task.cancel()


def address(settings: Settings, port: int) -> str:
    """Where clients connect."""
    scheme = "ws" if settings.tls_certificate_file is None else "wss"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{port}/ws"
