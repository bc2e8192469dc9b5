"""A message that is answered with its run's own events (protocol section 7).

For whoever posts it and accepts ``text/event-stream``. The message id says which run it is, and
``Last-Event-ID`` from where: sent again, it resumes that run and never begins another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11, web

from broker.channels import Mode
from broker.cursor import ZERO, Cursor
from gateway import close_codes, run_reading
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.commands import Message
from gateway.connection import now_ms
from gateway.dialects.dialect import Speak
from gateway.dialects.native import Native
from gateway.event_stream import EventStream, farewell
from gateway.feeder import SLOW_SECONDS
from gateway.frames import sse_chunk, sse_message
from gateway.handshake import BadRequest, Opening
from gateway.http_api import problem
from gateway.resync import Resync
from gateway.run_outbox import RunOutbox
from gateway.run_reading import Reading
from gateway.upgrade import Upgraded, leave_aiohttp
from gateway.wires import UNFRAMED

if TYPE_CHECKING:
    from gateway.node import Node

LAST: Final = "Last-Event-ID"


class RunStream(EventStream):
    """A client that reads one run, to its end, in its dialect."""

    transport = "run"

    __slots__ = ("_registered", "_resumes", "_run")

    def __init__(
        self,
        node: Node,
        identity: Identity,
        opening: Opening,
        reading: Reading,
    ) -> None:
        super().__init__(node, identity, opening)
        self.wire = UNFRAMED
        self._registered, self._resumes = reading.registered, reading.dialect.resumes
        run_id = self._registered.run_id
        self.outbox = self._run = RunOutbox(run_id, reading.dialect, sse_message)

    def follow(self, reading: Reading) -> None:
        """Say which run it is, and go on from there."""
        self._run.say(reading.told, reading.after.raw)
        beginning = reading.beginning
        if beginning.resync is not None:
            self._run.say(beginning.resync.frame())
        self._join(reading.feed, beginning, self._level)
        self.flush()

    def _level(self, reached: Cursor) -> None:
        """Everything retained was read: of a run that has ended, its end too, or it is lost."""
        if self._registered.ended and not self._run.ended:
            lost = Resync("expired", ZERO, reached, self._registered.run_id)
            self._run.say(lost.frame())
            self._run.ended = True

    def send(self, text: bytes, cursor: bytes = b"") -> None:
        """As usual; but after a hole nobody knows whether the end was in it: it is asked anew."""
        if self._run.say(text, cursor):
            # Not now: whoever tells it goes through the channel's members.
            asyncio.get_running_loop().call_soon(self.close, close_codes.UNAVAILABLE)

    def flush(self) -> None:
        """Write what is queued; after the run's terminal event, the end."""
        if any(self in feed.live for feed in self.feeds):
            self._run.let_go(now_ms())
        super().flush()
        if self._run.ended:
            self._run.ended = False
            self.close(close_codes.NORMAL)

    def goodbye(self, why: CloseCode) -> bytes:
        """The run's end speaks for itself; another one is told, or is to be seen as a cut."""
        ended, self._run.ended = self._run.ended, False
        if why is not close_codes.NORMAL and not ended:
            if self._resumes:
                return b""
            self._run.say(farewell(why))
            self._run.ended = False  # the end follows here
        return sse_chunk(b"")

    def close(self, why: CloseCode) -> None:
        """Close; a slow client gets the end of its run all the same."""
        super().close(why)
        if why is close_codes.NORMAL and self._close_handle is not None:
            self._close_handle.cancel()
            loop = asyncio.get_running_loop()
            self._close_handle = loop.call_later(SLOW_SECONDS, self._transport.abort)


def is_wanted(headers: Mapping[str, str]) -> bool:
    """Whether the client names the media type among those that it accepts (RFC 9110, 12.5.1)."""
    ranges = headers.get("Accept", "").split(",")
    return any(each.partition(";")[0].strip().lower() == "text/event-stream" for each in ranges)


def check(request: web.Request, node: Node, opening: Opening, message_id: str | None) -> None:
    """Refuse with :class:`BadRequest` what cannot be answered with events."""
    if request.version < HttpVersion11:
        raise BadRequest("http_1_1_required", "Events are sent in chunks, as of HTTP/1.1.")
    if opening.mode not in (Mode.MAIN, Mode.FACTORY):
        raise BadRequest("parameter_not_allowed", "a run's own events are of mode main or factory")
    if LAST in request.headers and message_id is None:
        raise BadRequest("id_required", f"{LAST} resumes a run: name it by the message's id")
    if node.draining:
        raise BadRequest("draining", "ask another gateway", status=503)


class Listener:
    """Who wants a run's events as the response to his request, and in which dialect.

    Whatever is refused is refused before anything has begun. ``last``: the position that he goes on
    from, where he says so by other means than ``Last-Event-ID``, which is newer. ``kind``: how the
    events are sent.
    """

    def __init__(
        self,
        request: web.Request,
        node: Node,
        identity: Identity,
        opening: Opening,
        *,
        speak: Speak = Native,
        last: str | None = None,
        kind: type[RunStream] = RunStream,
    ) -> None:
        self._request, self._node, self._identity = request, node, identity
        self._opening, self._speak, self._kind = opening, speak, kind
        self._last = request.headers.get(LAST, last)

    async def begin(self, message: Message) -> web.StreamResponse:
        """The run that the message begins, or had begun before."""
        return await self._seated(
            run_reading.of_message(self._node, message, speak=self._speak, last=self._last)
        )

    async def join(self, run_id: str) -> web.StreamResponse:
        """A run that is there, from its beginning or from the client's position."""
        return await self._seated(
            run_reading.of_run(
                self._node, self._identity.owner, run_id,
                scope=self._opening.scope, speak=self._speak, last=self._last,
            )
        )  # fmt: skip

    async def _seated(self, reading: Coroutine[Any, Any, Reading]) -> web.StreamResponse:
        """On one of the user's seats, until the stream has it."""
        seats, owner = self._node.seats, self._identity.owner
        seats.arrive(owner)
        try:
            await self._node.admission.seat(self._identity)
            return self._hand_over(await reading)
        finally:
            reading.close()  # it may never have been begun
            seats.arrived(owner)

    def _hand_over(self, reading: Reading) -> web.StreamResponse:
        """From here to the stream's place among the sockets nothing waits."""
        request, node, opening = self._request, self._node, self._opening
        node.revocations.recheck(self._identity)
        transport = request.transport
        if transport is None or transport.is_closing():
            return problem(400, "gone", "The client went away.")
        if opening.mode is Mode.MAIN:  # sub-agents are of their parent's thread
            opening = replace(opening, thread_id=reading.registered.thread_id)
        stream = self._kind(node, self._identity, opening, reading)
        leave_aiohttp(request)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        stream.outbox.put(stream.accept(request.headers, None))
        stream.follow(reading)
        return Upgraded()
