"""How a connection comes about: authenticate, check, subscribe, and only then upgrade.

The same for a socket that begins with its handshake and for one that had other requests before.
Nothing before the subscription waits unless the proof of identity has to be fetched: who is refused
has cost one verification.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import structlog
from aiohttp import web
from multidict import CIMultiDictProxy, MultiMapping

from broker.channels import Channel, Scope
from broker.cursor import ZERO
from broker.errors import BrokerUnavailable
from gateway import admission, close_codes, handshake
from gateway.claims import Identity
from gateway.commands import DEADLINE_SECONDS
from gateway.connection import Connection
from gateway.credentials import AuthError, subprotocol_answer, token_from_request
from gateway.feed import Feed
from gateway.frames import ws_close
from gateway.handshake import BadRequest, Opening
from gateway.http_api import problem
from gateway.node import Node
from gateway.origins import Origins
from gateway.proxies import Client, Proxies
from gateway.resync import Beginning
from gateway.session import FrameError
from gateway.upgrade import plain, switching
from gateway.websocket import WebSocket

log = structlog.get_logger(__name__)

_AWAY: Final = "Redis cannot be reached; try again."
_EVERYTHING: Final = Beginning(ZERO)
_TOLD_BY_CODE: Final = {
    401: close_codes.UNAUTHORIZED,
    403: close_codes.FORBIDDEN,
    429: close_codes.TOO_MANY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request for a connection, of that kind: by default a valid WebSocket handshake.

    ``query`` is decoded. ``follows``: it reads its scope's channel from the start.
    """

    path: str
    query: MultiMapping[str]
    headers: CIMultiDictProxy[str]
    client: Client
    kind: Callable[[Node, Identity, Opening], Connection] = WebSocket
    follows: bool = True

    @property
    def from_browser(self) -> bool:
        """Only browsers say where the page comes from, and they read no refusal's status."""
        return "Origin" in self.headers

    @property
    def subprotocol(self) -> str | None:
        """What to answer the handshake with."""
        return subprotocol_answer(self.headers)


class Refusal(Exception):
    """Why an arrival does not come in. ``by_code``: told by a close code after the upgrade."""

    def __init__(
        self, response: web.Response, *, by_code: close_codes.CloseCode | None = None
    ) -> None:
        self.response, self.by_code = response, by_code
        super().__init__(f"{response.status} {response.reason}")

    def answer(self, arrival: Arrival) -> bytes:
        """All that is written before the socket is closed."""
        if self.by_code is not None:
            told = ws_close(self.by_code.code, self.by_code.name)
            return switching(arrival.headers, arrival.subprotocol) + told
        response = self.response
        body = cast("bytes", response.body)
        return plain(response.status, response.reason, response.headers.items(), body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A connection that may be upgraded now, and what it is to read."""

    socket: Connection
    feed: Feed | None
    beginning: Beginning


class Entrance:
    """The way into one gateway."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.origins = Origins(node.settings.allowed_origins)
        self.proxies = Proxies(node.settings.trusted_proxies)

    async def check(self, arrival: Arrival) -> tuple[Identity, Opening]:
        """Who it is and what it asks for; :class:`Refusal` when it may not have that."""
        node, client = self._node, arrival.client
        origin = arrival.headers.getall("Origin", ())
        if not self.origins.allow(origin, scheme=client.scheme, host=client.host):
            log.info("origin_refused", origin=origin, host=client.host, client=client.address)
            node.tally.refuse("origin_not_allowed")
            raise Refusal(problem(403, "origin_not_allowed", "This origin may not connect."))
        identity = None
        try:
            identity = await self._authenticate(arrival)
            structlog.contextvars.bind_contextvars(user=identity.owner.pseudonym)
            opening = handshake.parse(arrival.path, arrival.query)
            admission.check(identity, opening)
            self._require_open()
        except (AuthError, BadRequest, BrokerUnavailable) as error:
            raise self._refusal(arrival, error, identity) from None
        return identity, opening

    async def admit(self, arrival: Arrival, identity: Identity, opening: Opening) -> Admitted:
        """Subscribe, and await that it is acknowledged; :class:`Refusal` when it cannot be."""
        node = self._node
        node.seats.arrive(identity.owner)
        try:
            # Both are asked for at once; who is revoked gives his seat back.
            looked_up = node.revocations.look_up(identity)
            await node.admission.seat(identity)
            await node.revocations.judge(identity, looked_up)
            opening = await node.take_up.complete(identity, opening)
            admitted = await self._open(arrival, identity, opening)
            # From here to its place among the sockets nothing waits.
            node.revocations.recheck(identity)
            return admitted
        except (AuthError, BadRequest, BrokerUnavailable) as error:
            raise self._refusal(arrival, error, identity) from None
        finally:
            node.seats.arrived(identity.owner)

    async def greet(
        self, arrival: Arrival, admitted: Admitted, transport: asyncio.Transport, tail: bytes
    ) -> None:
        """Upgrade: the transport is the socket's from now on. ``tail``: what it sent already."""
        socket, opening = admitted.socket, admitted.socket.opening
        transport.set_protocol(socket)
        socket.connection_made(transport)
        socket.outbox.put(socket.accept(arrival.headers, arrival.subprotocol))
        socket.start(admitted.feed, admitted.beginning)
        if tail:
            socket.data_received(tail)
        if opening.turn and admitted.feed is not None:
            live = admitted.feed.channel.live
            try:
                if not await self._node.take_up.announce(socket.identity, opening, live):
                    socket.close(close_codes.TAKEN_OVER)
            except BrokerUnavailable:
                # The former socket was not told, and two may not read one isolated channel.
                socket.close(close_codes.UNAVAILABLE)

    async def _open(self, arrival: Arrival, identity: Identity, opening: Opening) -> Admitted:
        node, run_id = self._node, opening.run_id
        feed, beginning = None, _EVERYTHING
        if arrival.follows and (run_id is not None or opening.scope is not Scope.RUN):
            channel = node.channel(identity, opening, opening.connection or "", run_id)
            if run_id is not None:
                channel = await self._strict_channel(identity, run_id)
            feed = await node.relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
            beginning = await node.relay.begin(feed, opening.after, bad_cursor=opening.bad_cursor)
        socket = arrival.kind(node, identity, opening)
        return Admitted(socket=socket, feed=feed, beginning=beginning)

    async def _strict_channel(self, identity: Identity, run_id: str) -> Channel:
        try:
            channel = await self._node.commands.channel(identity.owner, run_id)
        except FrameError as error:
            status = 503 if error.retryable or error.code == "internal" else 403
            raise BadRequest(error.code, error.message, status=status) from None
        if channel.scope is not Scope.RUN:
            raise BadRequest("run_not_found", f"no strict run of yours is {run_id}", status=403)
        return channel

    async def _authenticate(self, arrival: Arrival) -> Identity:
        node = self._node
        allow_query_token = node.settings.allow_query_token
        offer = token_from_request(
            arrival.headers, arrival.query, allow_query_token=allow_query_token
        )
        if offer.token is None:
            raise AuthError("unauthorized", "no token")
        if offer.place == "ticket":
            self._require_open()  # or the ticket would be gone for nothing
            return await node.tickets.redeem(offer.token, time.time())
        return await node.verifier.authenticate(offer.token, time.time())

    def _require_open(self) -> None:
        node = self._node
        if node.draining:
            raise BadRequest("draining", "connect to another gateway", status=503)
        if not node.ready:
            raise BadRequest("broker_unavailable", "try again in a moment", status=503)

    def _refusal(
        self,
        arrival: Arrival,
        error: AuthError | BadRequest | BrokerUnavailable,
        identity: Identity | None,
    ) -> Refusal:
        """A refusal before the upgrade; to a browser, which cannot read that, by close code."""
        if isinstance(error, BrokerUnavailable):
            refused = BadRequest("broker_unavailable", _AWAY, status=503)
        elif isinstance(error, AuthError):
            log.info(
                "connection_refused",
                reason=error.log_reason,
                token_hash=error.token_hash,
                code=error.code,
                client=arrival.client.address,
            )
            refused = BadRequest(error.code, str(error), status=error.status)
        else:
            refused = error
        self._node.tally.refuse(refused.code, identity.owner.tenant if identity else "")
        code = _TOLD_BY_CODE.get(refused.status)
        if refused.code == "keys_unavailable":
            code = close_codes.UNAVAILABLE
        return Refusal(
            problem(
                refused.status,
                refused.code,
                refused.detail,
                retry_after_seconds=refused.retry_after_seconds,
            ),
            by_code=code if arrival.from_browser else None,
        )
