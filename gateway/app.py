"""The gateway as an aiohttp application, and as something that runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

import orjson
import structlog
from aiohttp import web

from broker.channels import Channel, Scope
from broker.config import Settings
from broker.cursor import ZERO
from broker.errors import BrokerUnavailable
from broker.replay import Start
from gateway import close_codes, handshake
from gateway.auth import Identity
from gateway.commands import DEADLINE_SECONDS
from gateway.credentials import AuthError, subprotocol_answer, token_from_request
from gateway.frames import ws_close
from gateway.handshake import ROUTES, BadRequest, Opening
from gateway.http_api import (
    NODE,
    OPEN_STATS,
    config,
    health,
    json_response,
    livez,
    problem,
    readyz,
    stats,
)
from gateway.node import Node
from gateway.session import FrameError
from gateway.upgrade import is_websocket, upgrade
from gateway.websocket import WebSocket

log = structlog.get_logger(__name__)

WEB: Final = Path(__file__).parent / "web"
FILES: Final = {path.name: path for path in WEB.iterdir()}
BACKLOG: Final = 4096
"""Connections that the kernel keeps waiting: a whole gateway's clients may come at once."""

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


DEMO: Final = web.AppKey("demo", DemoLogin)


def create_app(settings: Settings, *, demo: DemoLogin | None = None) -> web.Application:
    """The application; its node connects to Redis when the application starts.

    ``demo`` adds the demo's login and opens ``/ws/stats`` to this machine. Raises
    ConfigurationError for settings that no gateway can run with.
    """
    app = web.Application(client_max_size=settings.max_message_bytes, middlewares=[_as_problems])
    app[NODE] = Node(settings)
    app[OPEN_STATS] = demo is not None
    for path in ROUTES:
        app.router.add_get(path, websocket)
    app.router.add_get("/ws/health", health)
    app.router.add_get("/ws/config", config)
    app.router.add_get("/ws/stats", stats)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/", page)
    app.router.add_get("/static/{name}", static)
    app.on_response_prepare.append(_add_headers)
    if demo is not None:
        app[DEMO] = demo
        app.router.add_get("/demo/session", demo_session)
        app.router.add_post("/demo/token", demo_token)
    app.cleanup_ctx.append(_run_node)
    return app


async def websocket(request: web.Request) -> web.StreamResponse:
    """``GET /ws`` and the old routes: authenticate, check, subscribe, and only then upgrade."""
    node = request.app[NODE]
    if not is_websocket(request):
        return problem(426, "upgrade_required", "This is a WebSocket endpoint (RFC 6455).")
    origin = request.headers.get("Origin")
    if not handshake.origin_allowed(origin, request.host, node.settings.allowed_origins):
        return problem(403, "origin_not_allowed", "This origin may not connect.")
    answer = subprotocol_answer(request.headers)
    try:
        identity = _authenticate(request, node)
    except AuthError as error:
        log.info(
            "connection_refused",
            reason=error.log_reason,
            token_hash=error.token_hash,
            code=error.code,
        )
        return _refuse(request, BadRequest(error.code, str(error), status=401), answer)
    try:
        opening = handshake.parse(request.path, request.query)
        node.admission.admit(identity, opening, node.sockets)
        if node.draining:
            raise BadRequest("draining", "connect to another gateway", status=503)
        if not node.ready:
            raise BadRequest("broker_unavailable", "try again in a moment", status=503)
        with node.admission.arriving(identity.owner):
            opening = await node.admission.complete(identity, opening)
            return await _open(request, node, identity, opening, answer)
    except BadRequest as refusal:
        return _refuse(request, refusal, answer)
    except BrokerUnavailable:
        return problem(503, "broker_unavailable", "Redis cannot be reached; try again.")


async def _open(
    request: web.Request,
    node: Node,
    identity: Identity,
    opening: Opening,
    answer: str | None,
) -> web.StreamResponse:
    """Subscribe and await the acknowledgement, upgrade, greet."""
    feed = None
    start, resync = Start(ZERO, None), None
    run_id = opening.run_id
    if run_id is not None or opening.scope is not Scope.RUN:
        channel = node.channel(identity, opening, opening.connection or "", run_id)
        if run_id is not None:
            channel = await _strict_channel(node, identity, run_id)
        feed = await node.relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
        start, resync = await node.relay.begin(feed, opening.after, bad_cursor=opening.bad_cursor)
    member = WebSocket(node, identity, opening)
    response = upgrade(request, lambda: member, answer)
    if response is None:
        raise BadRequest("gone", "the client went away", status=400)
    member.start(feed, start, resync)
    if opening.turn and feed is not None:
        try:
            if not await node.admission.announce(identity, opening, feed.channel.live):
                member.taken_over()
        except BrokerUnavailable:
            # The former socket was not told, and two may not read one isolated channel.
            member.unavailable()
    return response


async def _strict_channel(node: Node, identity: Identity, run_id: str) -> Channel:
    try:
        channel = await node.commands.channel(identity.owner, run_id)
    except FrameError as error:
        status = 503 if error.retryable or error.code == "internal" else 403
        raise BadRequest(error.code, error.message, status=status) from None
    if channel.scope is not Scope.RUN:
        raise BadRequest("run_not_found", f"no strict run of yours is {run_id}", status=403)
    return channel


def _authenticate(request: web.Request, node: Node) -> Identity:
    offer = token_from_request(
        request.headers, request.query, allow_query_token=node.settings.allow_query_token
    )
    if offer.token is None:
        raise AuthError("unauthorized", "no token")
    return node.verifier.verify(offer.token, time.time())


def _refuse(request: web.Request, refusal: BadRequest, answer: str | None) -> web.StreamResponse:
    """A refusal before the upgrade; to a browser, which cannot read that, by close code.

    Nothing is subscribed at this point, and nothing is read from the socket afterwards.
    """
    code = {401: close_codes.UNAUTHORIZED, 403: close_codes.FORBIDDEN}.get(refusal.status)
    if code is None or "Origin" not in request.headers:
        return problem(refusal.status, refusal.code, refusal.detail)
    response = upgrade(request, lambda: _Refused(code), answer)
    return response or problem(refusal.status, refusal.code, refusal.detail)


class _Refused(asyncio.Protocol):
    """A socket that is told why, and closed."""

    def __init__(self, why: close_codes.CloseCode) -> None:
        self._why = why

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say it and close."""
        stream = cast("asyncio.Transport", transport)
        stream.write(ws_close(self._why.code, self._why.name))
        stream.close()


async def page(request: web.Request) -> web.StreamResponse:
    """The chat page."""
    del request
    return web.FileResponse(WEB / "index.html")


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


@web.middleware
async def _as_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors of aiohttp and of ours as RFC 9457 problems; what is unexpected is logged here."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        return problem(error.status, error.reason.lower().replace(" ", "_"), error.reason)
    except Exception:
        log.exception("request_failed", path=request.path)
        return problem(500, "internal", "It was logged.")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if request.path == "/" or request.path.startswith("/static/"):
        response.headers.update(HEADERS)


async def _run_node(app: web.Application) -> Any:
    await app[NODE].start()
    yield
    await app[NODE].stop()


class Gateway:
    """A gateway in this process.

    ::

        async with Gateway(settings) as gateway:
            print(gateway.port)
    """

    def __init__(
        self, settings: Settings, *, demo: DemoLogin | None = None, share_port: bool = False
    ) -> None:
        self.settings = settings
        self.app = create_app(settings, demo=demo)
        self.node = self.app[NODE]
        self.port = settings.port
        self._share_port = share_port
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0, logger=_QUIET)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://{self.settings.host}:{self.port}/ws"

    async def __aenter__(self) -> Self:
        """Connect to Redis and listen. BrokerUnavailable or OSError when that cannot be."""
        listening = _listen(self.settings, share_port=self._share_port)
        self.port = listening.getsockname()[1]
        try:
            await self._runner.setup()
            site = web.SockSite(self._runner, listening, backlog=BACKLOG)
            await site.start()
        except BaseException:
            listening.close()
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
        signalled = asyncio.Semaphore(0)
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, signalled.release)
        await signalled.acquire()
        log.info("draining", sockets=len(self.node.sockets))
        drained = asyncio.create_task(self.node.drain())
        again = asyncio.create_task(signalled.acquire())
        await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, again):
            task.cancel()


def _listen(settings: Settings, *, share_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((settings.host, settings.port))
    except OSError:
        listening.close()
        raise
    listening.settimeout(0)
    return listening
