"""What a user's page does over HTTP (protocol section 7): for now, to get a ticket."""

from __future__ import annotations

import time

from aiohttp import web

from broker.channels import Mode
from gateway.bodies import read_object
from gateway.claims import Identity
from gateway.credentials import AuthError, bearer
from gateway.handshake import BadRequest
from gateway.http_api import NODE, json_response
from gateway.node import Node
from gateway.tickets import TICKET_SECONDS


async def ticket(request: web.Request) -> web.Response:
    """``POST /ws/ticket``: a one-use ticket for the bearer, for all or some of his modes."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    fields = await read_object(request, "modes")
    made = await node.tickets.issue(identity, _modes(fields.get("modes")))
    return json_response({"ticket": made, "expires_in_seconds": TICKET_SECONDS}, status=201)


async def user_of(node: Node, request: web.Request) -> Identity:
    """The user whose token the request bears.

    :class:`AuthError` without a valid one; :class:`BadRequest` for an operator's;
    :class:`~broker.errors.BrokerUnavailable` when it cannot be told whether it was revoked.
    """
    token = bearer(request.headers)
    if token is None:
        raise AuthError("unauthorized", "no token")
    identity = await node.verifier.authenticate(token, time.time())
    await node.revocations.check(identity)
    if identity.operator:
        raise BadRequest("user_token_required", "an operator's token is no user's", status=403)
    return identity


def _modes(named: object) -> frozenset[Mode] | None:
    if named is None:
        return None
    valid = [mode.value for mode in Mode]
    if not isinstance(named, list) or not all(name in valid for name in named):
        raise BadRequest("invalid_modes", f"modes: a list of {', '.join(valid)}")
    return frozenset(map(Mode, named))
