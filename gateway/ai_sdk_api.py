"""The routes of a Vercel AI SDK chat: what its ``DefaultChatTransport`` posts and asks for again.

The chat's id is the thread's. To leave never stops a run; there is a route to stop it.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

from aiohttp import web
from multidict import MultiDict, MultiMapping

from broker.channels import Mode
from gateway import run_stream
from gateway.arrivals import upgrade
from gateway.bodies import read_any, read_object
from gateway.chat_socket import ChatSocket
from gateway.chats import answer, begun_by, open_run, open_runs
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.dialects import ai_sdk_request
from gateway.dialects.ai_sdk import AiSdk
from gateway.dialects.ai_sdk_request import Answer
from gateway.frames import sse_message
from gateway.handshake import CREDENTIALS, BadRequest, Opening
from gateway.http_api import NODE, json_response
from gateway.run_stream import Listener, RunStream
from gateway.user_api import opening_of, user_of
from gateway.websocket import HARD_LIMIT_FACTOR

PREFIX: Final = "/ai-sdk"

PLACE: Final = ("mode", "isolation_level", "user_id")
"""Parameters that say in which channel a chat's runs are, as those of a connection."""

ABORTS: Final = ("stop", "detach")
"""What an abort over a WebSocket means, the default first."""

DONE: Final = sse_message(b"[DONE]", b"")


class ChunkStream(RunStream):
    """A run as a UI message stream."""

    __slots__ = ()

    MARKS: ClassVar[tuple[str, ...]] = ("x-vercel-ai-ui-message-stream: v1",)

    def goodbye(self, why: CloseCode) -> bytes:
        """Its end, however it came about, and that this was it."""
        return DONE + super().goodbye(why)


async def chat(request: web.Request) -> web.StreamResponse:
    """``POST /ai-sdk/{agent}``: a message, or what was asked for; answered with the run."""
    node, agent = request.app[NODE], request.match_info["agent"]
    identity = await user_of(node, request)
    opening = _opening(request, identity)
    most = node.settings.max_message_bytes
    fields = await read_any(request.clone(client_max_size=most * HARD_LIMIT_FACTOR))
    asked = ai_sdk_request.send(None, agent, fields, most_bytes=most)
    run_stream.check(request, node, opening, "")
    if isinstance(asked, Answer):
        await answer(node, identity.owner, asked)
        return await _listener(request, identity, opening, asked.position).join(asked.run_id)
    message = begun_by(node, identity, opening, asked.message, request.headers)
    return await _listener(request, identity, opening).begin(message)


async def resume(request: web.Request) -> web.StreamResponse:
    """``GET /ai-sdk/{agent}/{id}/stream``: the chat's open run, or that of ``run_id``."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    opening = _opening(request, identity, "run_id")
    run_stream.check(request, node, opening, "")
    run_id = request.query.get("run_id")
    if run_id is None:
        run_id = await open_run(
            node, identity.owner, request.match_info["id"],
            agent=request.match_info["agent"], scope=opening.scope,
        )  # fmt: skip
    if run_id is None:
        return web.Response(status=204, headers={"Cache-Control": "no-store"})
    return await _listener(request, identity, opening).join(run_id)


async def stop(request: web.Request) -> web.Response:
    """``POST /ai-sdk/{agent}/{id}/stop``: whatever is under way in the chat."""
    node = request.app[NODE]
    identity = await user_of(node, request)
    opening = _opening(request, identity)
    await read_object(request)
    run_ids = await open_runs(
        node, identity.owner, request.match_info["id"],
        agent=request.match_info["agent"], scope=opening.scope,
    )  # fmt: skip
    for run_id in run_ids:
        await node.commands.stop(identity.owner, run_id)
    return json_response({"run_ids": run_ids}, status=202)


async def socket(request: web.Request) -> web.StreamResponse:
    """``GET /ai-sdk/{agent}/ws``: for ``WebSocketChatTransport``."""
    query = MultiDict(request.query)
    abort = query.pop("abort", ABORTS[0])
    if abort not in ABORTS:
        raise BadRequest("invalid_abort", f"abort: valid are {', '.join(ABORTS)}")
    _check_names(query, *PLACE, *CREDENTIALS)
    if query.get("mode", Mode.MAIN) not in (Mode.MAIN, Mode.FACTORY):
        raise BadRequest("parameter_not_allowed", "chats are of mode main or factory")
    kind = partial(ChatSocket, agent=request.match_info["agent"], stops=abort == ABORTS[0])
    return await upgrade(request, query, kind=kind, follows=False)


def _listener(
    request: web.Request, identity: Identity, opening: Opening, last: str | None = None
) -> Listener:
    node = request.app[NODE]
    return Listener(request, node, identity, opening, speak=AiSdk, last=last, kind=ChunkStream)


def _opening(request: web.Request, identity: Identity, *others: str) -> Opening:
    _check_names(request.query, *PLACE, *others)
    asked = {name: value for name, value in request.query.items() if name in PLACE}
    return opening_of(request, asked, identity)


def _check_names(query: MultiMapping[str], *valid: str) -> None:
    unknown = set(query) - set(valid)
    if unknown:
        named = f"{', '.join(sorted(unknown))}: valid are {', '.join(sorted(valid))}"
        raise BadRequest("unknown_parameter", named)


ROUTES: Final = (
    ("POST", f"{PREFIX}/{{agent:[^/]+}}", chat),
    ("GET", f"{PREFIX}/{{agent:[^/]+}}/ws", socket),
    ("GET", f"{PREFIX}/{{agent:[^/]+}}/{{id:[^/]+}}/stream", resume),
    ("POST", f"{PREFIX}/{{agent:[^/]+}}/{{id:[^/]+}}/stop", stop),
)
"""Method, path, handler."""
