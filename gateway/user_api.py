"""What a user does over HTTP (protocol section 7): what the socket can do, and to look back."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web
from structlog.contextvars import bind_contextvars

from broker.channels import Channel, Level, Mode, Scope
from broker.cursor import ZERO
from broker.events import timestamp
from gateway import admission, handshake, history, run_stream, session
from gateway.bodies import read_object
from gateway.claims import Identity
from gateway.commands import new_id
from gateway.credentials import AuthError, bearer
from gateway.handshake import BadRequest, Opening
from gateway.history import MOST
from gateway.http_api import NODE, json_response
from gateway.messages import begin, message_of
from gateway.node import Node
from gateway.session import FrameError
from gateway.tickets import TICKET_SECONDS

PREFIX: Final = "/api/v1"
_LIMIT: Final = re.compile("[0-9]{1,9}")

_PLACE: Final = ("mode", "isolation_level", "connection", "secret", "thread_id")
"""Fields of a message that say to which channel its run publishes, as a connection's query does."""


async def ticket(request: web.Request) -> web.Response:
    """``POST /ws/ticket``: a one-use ticket for the bearer, for all or some of his modes."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    fields = await read_object(request, "modes")
    made = await node.tickets.issue(identity, _modes(fields.get("modes")))
    return json_response({"ticket": made, "expires_in_seconds": TICKET_SECONDS}, status=201)


async def message(request: web.Request) -> web.StreamResponse:
    """``POST /api/v1/messages``: begin a run; the same ``id`` again gives the same run.

    Whoever accepts events gets those of the run: :mod:`gateway.run_stream`.
    """
    node = request.app[NODE]
    identity = await user_of(node, request)
    fields = await read_object(request, "id", "content", "agent", "metadata", *_PLACE)
    asked = {name: fields[name] for name in _PLACE if fields.get(name) is not None}
    if not all(isinstance(value, str) for value in asked.values()):
        raise BadRequest("bad_body", f"{', '.join(_PLACE)} are strings")
    opening = opening_of(request, asked, identity)
    command = session.message(fields.get("id"), fields)
    as_events = run_stream.is_wanted(request.headers)
    if as_events:
        run_stream.check(request, node, opening, command.ref)
    if opening.scope is Scope.CONNECTION:
        await _own_connection(node, identity, opening)
    thread_id = command.thread_id or new_id()
    if opening.level is Level.STANDARD:
        opening = replace(opening, thread_id=thread_id)
    begun = message_of(
        node, identity, opening, command,
        connection_id=opening.connection or "", thread_id=thread_id, headers=request.headers,
    )  # fmt: skip
    if as_events:
        return await run_stream.Listener(request, node, identity, opening).begin(begun)
    return json_response((await begin(node, begun)).told, status=202)


async def run(request: web.Request) -> web.Response:
    """``GET /api/v1/runs/{id}``: where a run is, and its text so far."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    return json_response(await node.commands.run(identity.owner, request.match_info["id"]))


async def stop(request: web.Request) -> web.Response:
    """``POST /api/v1/runs/{id}/stop``: as often as one likes, and before it begins too."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    await read_object(request)
    run_id = request.match_info["id"]
    await node.commands.stop(identity.owner, run_id)
    return json_response({"run_id": run_id}, status=202)


async def answer(request: web.Request) -> web.Response:
    """``POST /api/v1/runs/{id}/input``: answer what the run asked; the first answer counts."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    fields = await read_object(request, "request_id", "content")
    command = session.user_input(request.match_info["id"], fields)
    await node.commands.answer(identity.owner, command.run_id, command.request_id, command.content)
    return json_response({"run_id": command.run_id}, status=202)


async def events(request: web.Request) -> web.Response:
    """``GET /api/v1/history``: a page of a channel's events, from a cursor on."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    asked = dict(request.query)
    most = _limit(asked.pop("limit", None))
    if asked.get("mode") == Mode.FACTORY and "run_id" in asked:
        asked.setdefault("isolation_level", Level.STRICT)  # no other level has it
    opening = opening_of(request, asked, identity)
    if opening.bad_cursor:
        raise BadRequest("invalid_after", "after is an event's id")
    channel = await _channel(node, identity, opening)
    filtered = opening.scope is Scope.USER
    return json_response(
        await history.page(
            node.broker,
            channel,
            after=opening.after or ZERO,
            most=most,
            thread_id=opening.thread_id if filtered else None,
            lifecycle_only=opening.lifecycle_only,
        )
    )


async def threads(request: web.Request) -> web.Response:
    """``GET /api/v1/threads``: the user's threads, the one used last first."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    known = await node.broker.threads(identity.owner, most=_limit(request.query.get("limit")))
    return json_response(
        {
            "threads": [
                {"thread_id": thread_id, "used_at": timestamp(used_ms)}
                for thread_id, used_ms in known
            ]
        }
    )


async def thread(request: web.Request) -> web.Response:
    """``GET /api/v1/threads/{id}``: all that a page needs of a thread after a reload."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    asked = {**request.query, "thread_id": request.match_info["id"]}
    opening = opening_of(request, asked, identity)
    if opening.scope not in (Scope.USER, Scope.THREAD):
        raise BadRequest("parameter_not_allowed", "threads are of mode main or factory")
    channel = await _channel(node, identity, opening)
    return json_response(await history.thread(node.broker, channel, opening.thread_id or ""))


def opening_of(request: web.Request, asked: Mapping[str, str], identity: Identity) -> Opening:
    """Which channel is meant, as for a connection."""
    if len(request.query) != len(set(request.query)):
        raise BadRequest("repeated_parameter", "a parameter is given more than once")
    opening = handshake.parse(request.path, asked)
    admission.check(identity, opening)
    return opening


async def _channel(node: Node, identity: Identity, opening: Opening) -> Channel:
    if opening.scope is Scope.RUN:
        if opening.run_id is None:
            raise BadRequest("run_id_required", "a strict run is named by run_id")
        channel = await node.commands.channel(identity.owner, opening.run_id)
        if channel.scope is not Scope.RUN:  # an isolated connection's, say, whose secret is needed
            what = f"no strict run of yours is {opening.run_id}"
            raise FrameError("run_not_found", what, bad=False)
        return channel
    if opening.scope is Scope.THREAD and opening.thread_id is None:
        raise BadRequest("thread_id_required", "a thread's channel is named by thread_id")
    if opening.scope is Scope.CONNECTION:
        await _own_connection(node, identity, opening)
    return node.channel(identity, opening, opening.connection or "", None)


async def _own_connection(node: Node, identity: Identity, opening: Opening) -> None:
    if opening.connection is None:
        raise BadRequest("secret_required", "name the connection and its secret")
    await node.take_up.verify(identity, opening)


def _limit(text: str | None) -> int:
    if text is None:
        return MOST
    if _LIMIT.fullmatch(text) is None or not 1 <= int(text) <= MOST:
        raise BadRequest("invalid_limit", f"limit is a number from 1 to {MOST}")
    return int(text)


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
    bind_contextvars(user=identity.owner.pseudonym)
    return identity


def _modes(named: object) -> frozenset[Mode] | None:
    if named is None:
        return None
    valid = [mode.value for mode in Mode]
    if not isinstance(named, list) or not all(name in valid for name in named):
        raise BadRequest("invalid_modes", f"modes: a list of {', '.join(valid)}")
    return frozenset(map(Mode, named))


ROUTES: Final = (
    ("POST", "/ws/ticket", ticket),
    ("POST", f"{PREFIX}/messages", message),
    ("GET", f"{PREFIX}/runs/{{id:[^/]+}}", run),
    ("POST", f"{PREFIX}/runs/{{id:[^/]+}}/stop", stop),
    ("POST", f"{PREFIX}/runs/{{id:[^/]+}}/input", answer),
    ("GET", f"{PREFIX}/history", events),
    ("GET", f"{PREFIX}/threads", threads),
    ("GET", f"{PREFIX}/threads/{{id:[^/]+}}", thread),
)
"""Method, path, handler."""
