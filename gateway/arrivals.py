"""Requests of aiohttp's that become WebSockets: its transport is the socket's from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web
from multidict import MultiMapping

from gateway.claims import Identity
from gateway.connection import Connection
from gateway.entrance import Arrival, Entrance, Refusal
from gateway.handshake import Opening
from gateway.http_api import client_of, problem
from gateway.node import Node
from gateway.upgrade import Upgraded, is_websocket, leave_aiohttp
from gateway.websocket import WebSocket

ENTRANCE: Final = web.AppKey("entrance", Entrance)


async def upgrade(
    request: web.Request,
    query: MultiMapping[str],
    *,
    kind: Callable[[Node, Identity, Opening], Connection] = WebSocket,
    follows: bool = True,
) -> web.StreamResponse:
    """Let the client in, or tell it why not; ``kind`` and ``follows`` as in :class:`Arrival`."""
    entrance = request.app[ENTRANCE]
    if not is_websocket(request.method, request.headers):
        return problem(426, "upgrade_required", "This is a WebSocket endpoint (RFC 6455).")
    transport = request.transport
    if transport is None:
        return problem(400, "gone", "The client went away.")
    arrival = Arrival(
        path=request.path,
        query=query,
        headers=request.headers,
        client=client_of(entrance.proxies, transport, request.headers),
        kind=kind,
        follows=follows,
    )
    try:
        identity, opening = await entrance.check(arrival)
        admitted = await entrance.admit(arrival, identity, opening)
    except Refusal as refusal:
        if refusal.by_code is None:
            return refusal.response
        answer, admitted = refusal.answer(arrival), None
    else:
        answer = b""
    if transport.is_closing():
        return problem(400, "gone", "The client went away.")
    tail = leave_aiohttp(request)
    if admitted is not None:
        await entrance.greet(arrival, admitted, transport, tail)
    else:
        transport.set_protocol(asyncio.Protocol())
        transport.write(answer)
        transport.close()
    return Upgraded()
