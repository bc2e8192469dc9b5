"""A message that is answered with its run's own events (protocol section 7).

For whoever posts it and accepts ``text/event-stream``. The message id says which run it is, and
``Last-Event-ID`` from where: sent again, it resumes that run and never begins another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

from broker.channels import Mode
from broker.cursor import ZERO, Cursor
from broker.redis.records import Registered
from gateway import close_codes
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.commands import DEADLINE_SECONDS, Message
from gateway.dialects.dialect import Dialect, Run, Speak
from gateway.dialects.native import Native
from gateway.event_stream import EventStream, farewell
from gateway.feed import Feed
from gateway.feeder import SLOW_SECONDS
from gateway.frames import reply, sse_chunk, sse_message
from gateway.handshake import BadRequest, Opening
from gateway.http_api import problem
from gateway.messages import begin
from gateway.resync import Beginning, Resync
from gateway.run_outbox import RunOutbox
from gateway.session import FrameError
from gateway.upgrade import Upgraded, leave_aiohttp
from gateway.wires import UNFRAMED

if TYPE_CHECKING:
    from gateway.node import Node

LAST: Final = "Last-Event-ID"


class RunStream(EventStream):
    """A client that reads one run, to its end, in its dialect."""

    transport = "run"

    __slots__ = ("_registered", "_run")

    def __init__(
        self,
        node: Node,
        identity: Identity,
        opening: Opening,
        registered: Registered,
        dialect: Dialect,
    ) -> None:
        super().__init__(node, identity, opening)
        self.wire = UNFRAMED
        self.outbox = self._run = RunOutbox(registered.run_id, dialect, sse_message)
        self._registered = registered

    def follow(self, feed: Feed, beginning: Beginning, accepted: bytes, after: Cursor) -> None:
        """Say which run it is, and go on from there."""
        self._run.say(accepted, after.raw)
        if beginning.resync is not None:
            self._run.say(beginning.resync.frame())
        self._join(feed, beginning, self._level)
        self.flush()

    def _level(self, reached: Cursor) -> None:
        """Everything retained was read: of a run that has ended, its end too, or it is lost."""
        if self._registered.ended and not self._run.ended:
            lost = Resync("trimmed", ZERO, reached, self._registered.run_id)
            self._run.say(lost.frame())
            self._run.ended = True

    def send(self, text: bytes, cursor: bytes = b"") -> None:
        """As usual; but after a hole nobody knows whether the end was in it: it is asked anew."""
        if self._run.say(text, cursor):
            # Not now: whoever tells it goes through the channel's members.
            asyncio.get_running_loop().call_soon(self.close, close_codes.UNAVAILABLE)

    def flush(self) -> None:
        """Write what is queued; after the run's terminal event, the end."""
        super().flush()
        if self._run.ended:
            self._run.ended = False
            self.close(close_codes.NORMAL)

    def goodbye(self, why: CloseCode) -> bytes:
        """The run's end speaks for itself; another one is told."""
        if why is not close_codes.NORMAL:
            self._run.say(farewell(why))
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

    Whatever is refused is refused before anything has begun.
    """

    def __init__(
        self,
        request: web.Request,
        node: Node,
        identity: Identity,
        opening: Opening,
        speak: Speak = Native,
    ) -> None:
        self._request, self._node, self._identity = request, node, identity
        self._opening, self._speak = opening, speak

    async def begin(self, message: Message) -> web.StreamResponse:
        """The run that the message begins, or had begun before."""
        async with self._seat():
            return await self._begin(message)

    async def join(self, run_id: str) -> web.StreamResponse:
        """A run that is there, from its beginning or from ``Last-Event-ID``."""
        async with self._seat():
            registered = await self._node.commands.registered(self._identity.owner, run_id)
            return await self._resume(registered, None)

    @asynccontextmanager
    async def _seat(self) -> AsyncIterator[None]:
        """One of the user's seats, until the stream has it."""
        seats, owner = self._node.seats, self._identity.owner
        seats.arrive(owner)
        try:
            await self._node.admission.seat(self._identity)
            yield
        finally:
            seats.arrived(owner)

    async def _begin(self, message: Message) -> web.StreamResponse:
        node, ref = self._node, message.message_id
        if LAST in self._request.headers:  # it has events, so the run has begun: it is looked up
            registered = await node.commands.begun_by(message.owner, ref)
        else:
            feed = await node.relay.open(message.channel, timeout_seconds=DEADLINE_SECONDS)
            begun_at = feed.follower.position  # before the run: none of its events is missed
            registered = await begin(node, message)
        if registered.duplicate:
            return await self._resume(registered, ref)
        told = reply("run_accepted", ref, registered.told)
        return self._hand_over(
            registered, feed, Beginning(begun_at), told, after=begun_at, last=None
        )

    async def _resume(self, registered: Registered, ref: str | None) -> web.StreamResponse:
        """From its beginning on, but for what the client has; a position that is none is told."""
        relay = self._node.relay
        channel = await self._node.commands.channel(self._identity.owner, registered.run_id)
        if channel.scope is not self._opening.scope:
            raise FrameError("not_allowed", "the message was sent in another mode", bad=False)
        feed = await relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
        last = self._request.headers.get(LAST)
        beginning, after = Beginning(ZERO), ZERO
        if last is not None:
            cursor = None
            with suppress(ValueError):
                cursor = self._dialect(registered, last).position(last)
            judged = await relay.begin(feed, cursor, bad_cursor=cursor is None)
            if judged.resync is None:
                after = judged.position
            else:
                last, beginning = None, Beginning(ZERO, replace(judged.resync, position=ZERO))
        told = reply("run_accepted", ref, registered.told)
        return self._hand_over(registered, feed, beginning, told, after=after, last=last)

    def _dialect(self, registered: Registered, last: str | None) -> Dialect:
        return self._speak(Run(registered.run_id, registered.thread_id, registered.agent), last)

    def _hand_over(
        self,
        registered: Registered,
        feed: Feed,
        beginning: Beginning,
        told: bytes,
        *,
        after: Cursor,
        last: str | None,
    ) -> web.StreamResponse:
        """From here to the stream's place among the sockets nothing waits."""
        request, node, opening = self._request, self._node, self._opening
        node.revocations.recheck(self._identity)
        transport = request.transport
        if transport is None or transport.is_closing():
            return problem(400, "gone", "The client went away.")
        if opening.mode is Mode.MAIN:  # sub-agents are of their parent's thread
            opening = replace(opening, thread_id=registered.thread_id)
        dialect = self._dialect(registered, last)
        stream = RunStream(node, self._identity, opening, registered, dialect)
        leave_aiohttp(request)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        stream.outbox.put(stream.accept(request.headers, None))
        stream.follow(feed, beginning, told, after)
        return Upgraded()
