"""One client's WebSocket, in the words of the Vercel AI SDK's ``WebSocketChatTransport``.

The same connection as any other, but for its words: requests with an id of their own, each of which
is answered with the chunks of one run. It reads nothing until it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.chat_conversation import ChatConversation
from gateway.dialects.ai_sdk_request import ChatSession
from gateway.feed import Feed
from gateway.frames import ws_text
from gateway.resync import Beginning
from gateway.run_reader import RunReader
from gateway.session import FrameError
from gateway.websocket import HARD_LIMIT_FACTOR, WebSocket

if TYPE_CHECKING:
    from gateway.claims import Identity
    from gateway.handshake import Opening
    from gateway.node import Node
    from gateway.run_reading import Reading

MOST_REQUESTS: Final = 32
"""Runs read over one socket at the same time."""

RESUMED_SECONDS: Final = 1.0
"""A client that resumes a chat anew aborts first what it had resumed: only if no new request for
the run comes within that time was it meant to stop it."""


class Request:
    """One that is answered now. ``resumed``: it was for a run that was there."""

    __slots__ = ("reader", "ref", "resumed", "sequence")

    def __init__(self, ref: str, *, resumed: bool) -> None:
        self.ref, self.resumed = ref, resumed
        self.sequence = 0
        self.reader: RunReader

    def chunk(self, text: bytes, _cursor: bytes) -> bytes:
        """The next chunk's frame: ``sequence`` has no gaps."""
        at, self.sequence = self.sequence, self.sequence + 1
        return ws_text(
            b'{"type":"chunk","requestId":%b,"sequence":%d,"chunk":%b}'
            % (orjson.dumps(self.ref), at, text)
        )


class ChatSocket(WebSocket):
    """``stops``: whether an abort stops the run, rather than to read it no more."""

    __slots__ = ("_requests", "_stops", "agent")

    def __init__(
        self, node: Node, identity: Identity, opening: Opening, *, agent: str, stops: bool
    ) -> None:
        super().__init__(node, identity, opening)
        self.agent = agent
        limit = node.settings.max_message_bytes
        self.session = ChatSession(
            agent, max_message_bytes=limit, max_frame_bytes=limit * HARD_LIMIT_FACTOR
        )
        self._stops = stops
        self._requests: dict[str, Request] | None = None

    def start(self, feed: Feed | None, beginning: Beginning) -> None:
        """There is nothing to say."""
        del feed, beginning
        self.flush()

    def send(self, text: bytes, cursor: bytes = b"") -> None:
        """A frame of the gateway's own, as the answer to no request: clients pass that over."""
        del cursor
        self.outbox.put(ws_text(orjson.dumps({"requestId": "", **orjson.loads(text)})))

    def new_conversation(self) -> ChatConversation:
        """Who carries its requests out."""
        return ChatConversation(self)

    # --- what the conversation asks

    def admit(self, ref: str) -> None:
        """Refuse with :class:`FrameError` what cannot be answered beside the others."""
        requests = self._requests or {}
        if ref in requests:
            raise FrameError("bad_frame", "a request with this id is being answered")
        if len(requests) >= MOST_REQUESTS:
            raise FrameError(
                "rate_limited", f"at most {MOST_REQUESTS} requests at a time", bad=False
            )

    def read(self, ref: str, reading: Reading, *, resumed: bool) -> None:
        """Answer a request with a run's chunks, from there on."""
        request = Request(ref, resumed=resumed)
        request.reader = RunReader(self, reading, request.chunk, partial(self._ended, request))
        if self._closing:
            return
        if self._requests is None:
            self._requests = {}
        self._requests[ref] = request
        self.tell("start", ref)
        request.reader.follow()

    def tell(self, kind: str, ref: str, **told: Any) -> None:
        """One frame of the protocol."""
        self.outbox.put(ws_text(orjson.dumps({"type": kind, "requestId": ref, **told})))
        self.flush()

    def abort(self, ref: str, stop: Callable[[str], None]) -> None:
        """A request is not read any more; ``stop`` is called with the run that is to be stopped."""
        request = self._forget(ref)
        if request is None or not self._stops:
            return
        run_id = request.reader.run_id
        if not request.resumed:
            stop(run_id)
            return
        asyncio.get_running_loop().call_later(RESUMED_SECONDS, self._stop_unread, run_id, stop)

    def tell_error(self, error: FrameError) -> None:
        """It ends its request; of one without a request clients see nothing."""
        text = f"{error.message} ({error.code})"
        self.tell("error", error.ref or "", errorText=text, code=error.code)

    def _stop_unread(self, run_id: str, stop: Callable[[str], None]) -> None:
        requests = (self._requests or {}).values()
        if all(each.reader.run_id != run_id for each in requests):
            stop(run_id)

    def _ended(self, request: Request, _reader: RunReader) -> None:
        if (self._requests or {}).get(request.ref) is request:
            self._forget(request.ref)
            self.tell("end", request.ref)

    def _forget(self, ref: str) -> Request | None:
        request = (self._requests or {}).pop(ref, None)
        if request is not None:
            request.reader.leave()
        return request

    def _leave_all(self) -> None:
        for ref in list(self._requests or ()):
            self._forget(ref)
        super()._leave_all()
