"""AG-UI 1.0 over HTTP: a run for whoever posts a ``RunAgentInput``, and what a reload needs.

Authentication, limits, scopes and refusals are those of :mod:`gateway.user_api`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import orjson
from aiohttp import web
from multidict import MultiDict

from broker.channels import Channel, Scope
from broker.redis.records import Registered
from gateway import history, run_stream, session
from gateway.bodies import read_any
from gateway.claims import Identity
from gateway.connection import now_ms
from gateway.dialects import agui_request
from gateway.dialects.agui import Agui
from gateway.dialects.agui_request import Answer, Asked
from gateway.dialects.agui_thread import conversation, hydration
from gateway.handshake import BadRequest
from gateway.http_api import NODE, json_response
from gateway.messages import message_of
from gateway.node import Node
from gateway.run_stream import LAST, Listener
from gateway.session import FrameError
from gateway.user_api import opening_of, user_of

PREFIX: Final = "/agui"

MAX_INPUT_BYTES: Final = 1024 * 1024
"""Of a request: clients send the whole conversation each time. What of it goes to the agent is
bounded as any message is."""

RESUMES: Final = "X-Run-Id"
"""Header of clients that come back with ``Last-Event-ID`` when they are cut off: TanStack AI."""

NAMES: Final = ("threadId", "runId", "offset", "limit", "before")
"""Parameters of TanStack AI; a run is always told from its beginning, and a thread as a whole."""


async def run(request: web.Request) -> web.StreamResponse:
    """``POST /agui/{agent}``: begin a run, or answer what it asked, and read it.

    ``runId`` is the message's id: the same again is the same run.
    """
    node = request.app[NODE]
    identity = await user_of(node, request)
    fields = await read_any(request.clone(client_max_size=MAX_INPUT_BYTES))
    resumed = LAST in request.headers
    wanted = agui_request.read(
        fields, resumes=resumed or RESUMES in request.headers, resumed=resumed
    )
    opening = opening_of(request, {**request.query, "thread_id": wanted.thread_id}, identity)
    run_stream.check(request, node, opening, wanted.run_id)
    speak = partial(Agui, wanted)
    if wanted.answers:
        first = wanted.answers[0].interrupt
        if any(each.interrupt.run_id != first.run_id for each in wanted.answers):
            raise BadRequest("bad_body", "resume: the interrupts are of more than one run")
        if not resumed:
            for each in wanted.answers:
                await _answer(node, identity, each)
        listener = Listener(request, node, identity, opening, speak=speak, last=first.position)
        return await listener.join(first.run_id)
    payload = {
        "content": wanted.content,
        "thread_id": wanted.thread_id,
        "agent": request.match_info["agent"],
        "metadata": {"agui": wanted.passed_on} if wanted.passed_on else {},
    }
    most = node.settings.max_message_bytes
    if len(orjson.dumps(payload)) > most:
        why = f"what the agent gets, without earlier messages, has at most {most} bytes"
        raise BadRequest("message_too_large", why, status=413)
    command = session.message(wanted.run_id, payload)
    message = message_of(
        node, identity, opening, command,
        connection_id="", thread_id=wanted.thread_id, headers=request.headers,
    )  # fmt: skip
    return await Listener(request, node, identity, opening, speak=speak).begin(message)


async def look(request: web.Request) -> web.StreamResponse:
    """``GET /agui/{agent}``: with ``threadId`` a thread after a reload, with ``runId`` a run."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    query = MultiDict(request.query)
    names = {name: query.pop(name, None) for name in NAMES}
    if names["runId"] is not None:
        return await _join(request, node, identity, names["runId"], dict(query))
    if names["threadId"] is None:
        raise BadRequest("thread_id_required", "name a thread by threadId, or a run by runId")
    opening = opening_of(request, {**query, "thread_id": names["threadId"]}, identity)
    if opening.scope not in (Scope.USER, Scope.THREAD):
        raise BadRequest("parameter_not_allowed", "threads are of mode main or factory")
    channel: Channel = node.channel(identity, opening, "", None)
    told = await history.thread(node.broker, channel, names["threadId"])
    return json_response(hydration(told, now_ms()))


async def _join(
    request: web.Request, node: Node, identity: Identity, name: str, place: dict[str, str]
) -> web.StreamResponse:
    opening = opening_of(request, place, identity)
    run_stream.check(request, node, opening, name)
    registered = await _named(node, identity, name)
    channel = await node.commands.channel(identity.owner, registered.run_id)
    thread = await history.thread(node.broker, channel, registered.thread_id)
    wanted = Asked(
        thread_id=registered.thread_id,
        run_id=name,
        messages=conversation(thread),
        joins=True,
        resumes=True,
        resumed=LAST in request.headers,
    )
    listener = Listener(request, node, identity, opening, speak=partial(Agui, wanted))
    return await listener.join(registered.run_id)


async def _named(node: Node, identity: Identity, name: str) -> Registered:
    """The user's run that AG-UI's ``runId`` names: by its message or, without one, its own id."""
    try:
        return await node.commands.begun_by(identity.owner, name)
    except FrameError as error:
        if error.code != "run_not_found":
            raise
    return await node.commands.registered(identity.owner, name)


async def _answer(node: Node, identity: Identity, answer: Answer) -> None:
    """As :meth:`Commands.answer`; who does not want to answer need not be in time either."""
    asker, request_id = answer.interrupt.asker, answer.interrupt.request_id
    try:
        await node.commands.answer(identity.owner, asker, request_id, answer.content)
    except FrameError as error:
        if not answer.cancelled or error.code != "not_allowed":
            raise


ROUTES: Final[tuple[tuple[str, str, Any], ...]] = (
    ("POST", f"{PREFIX}/{{agent:[^/]+}}", run),
    ("GET", f"{PREFIX}/{{agent:[^/]+}}", look),
)
"""Method, path, handler."""
