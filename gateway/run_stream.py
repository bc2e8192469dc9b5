"""A message that is answered with its run's own events (protocol section 7).

For whoever posts it and accepts ``text/event-stream``. The message id says which run it is, and
``Last-Event-ID`` from where: sent again, it resumes that run and never begins another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

from broker import cursor
from broker.channels import Mode
from broker.cursor import ZERO, Cursor
from broker.redis.records import Registered
from gateway import close_codes
from gateway.claims import Identity
from gateway.close_codes import CloseCode
from gateway.commands import DEADLINE_SECONDS, Message
from gateway.event_stream import EventStream
from gateway.feed import Feed
from gateway.feeder import SLOW_SECONDS
from gateway.frames import reply, sse_chunk
from gateway.handshake import BadRequest, Opening
from gateway.http_api import problem
from gateway.messages import begin
from gateway.resync import Beginning, Resync
from gateway.run_outbox import RunOutbox
from gateway.session import FrameError
from gateway.upgrade import Upgraded, leave_aiohttp
from gateway.wires import STREAM, UNFRAMED

if TYPE_CHECKING:
    from gateway.node import Node

LAST: Final = "Last-Event-ID"
_RESYNC: Final = b'{"type":"resync"'


class RunStream(EventStream):
    """A client that reads one run, to its end. ``after``: events up to there it has."""

    __slots__ = ("_registered", "_run")

    def __init__(
        self,
        node: Node,
        identity: Identity,
        opening: Opening,
        registered: Registered,
        *,
        after: Cursor,
    ) -> None:
        super().__init__(node, identity, opening)
        self.wire = UNFRAMED
        self.outbox = self._run = RunOutbox(registered.run_id, after)
        self._registered = registered

    def _framed(self, text: bytes, cursor: bytes = b"") -> bytes:
        return STREAM.text(text, cursor)

    def follow(self, feed: Feed, beginning: Beginning, accepted: bytes, after: Cursor) -> None:
        """Say which run it is, and go on from there."""
        super().send(accepted, after.raw)
        if beginning.resync is not None:
            super().send(beginning.resync.frame())
        self._join(feed, beginning, self._level)
        self.flush()

    def _level(self, reached: Cursor) -> None:
        """Everything retained was read: of a run that has ended, its end too, or it is lost."""
        if self._registered.ended and not self._run.ended:
            lost = Resync("trimmed", ZERO, reached, self._registered.run_id)
            super().send(lost.frame())
            self._run.ended = True

    def send(self, text: bytes, cursor: bytes = b"") -> None:
        """As usual; but after a hole nobody knows whether the end was in it: it is asked anew."""
        super().send(text, cursor)
        if text.startswith(_RESYNC):
            # Not now: whoever tells it goes through the channel's members.
            asyncio.get_running_loop().call_soon(self.close, close_codes.UNAVAILABLE)

    def flush(self) -> None:
        """Write what is queued; after the run's terminal event, the end."""
        super().flush()
        if self._run.ended:
            self._run.ended = False
            self.close(close_codes.NORMAL)

    def goodbye(self, why: CloseCode) -> bytes:
        """The run's end speaks for itself."""
        return sse_chunk(b"") if why is close_codes.NORMAL else super().goodbye(why)

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


async def answer(
    request: web.Request, node: Node, identity: Identity, opening: Opening, message: Message
) -> web.StreamResponse:
    """The run's events as the response, or a refusal, before anything has begun."""
    owner = identity.owner
    node.seats.arrive(owner)
    try:
        await node.admission.seat(identity)
        if LAST in request.headers:  # it has events, so the run has begun: it is looked up
            registered = await node.commands.begun_by(owner, message.message_id)
        else:
            feed = await node.relay.open(message.channel, timeout_seconds=DEADLINE_SECONDS)
            begun_at = feed.follower.position  # before the run: none of its events is missed
            registered = await begin(node, message)
        if registered.duplicate:
            channel = await node.commands.channel(owner, registered.run_id)
            if channel.scope is not opening.scope:
                raise FrameError("not_allowed", "the message was sent in another mode", bad=False)
            feed = await node.relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
            beginning, after = await _resumed(request, node, feed)
        else:
            beginning, after = Beginning(begun_at), begun_at
        # From here to its place among the sockets nothing waits.
        node.revocations.recheck(identity)
        transport = request.transport
        if transport is None or transport.is_closing():
            return problem(400, "gone", "The client went away.")
        if opening.mode is Mode.MAIN:  # sub-agents are of their parent's thread
            opening = replace(opening, thread_id=registered.thread_id)
        stream = RunStream(node, identity, opening, registered, after=after)
        leave_aiohttp(request)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        stream.outbox.put(stream.accept(request.headers, None))
        accepted = reply("run_accepted", message.message_id, registered.told)
        stream.follow(feed, beginning, accepted, after)
    finally:
        node.seats.arrived(owner)
    return Upgraded()


async def _resumed(request: web.Request, node: Node, feed: Feed) -> tuple[Beginning, Cursor]:
    """From its beginning on, but for what the client has; a cursor that is none is told."""
    text = request.headers.get(LAST)
    if text is None:
        return Beginning(ZERO), ZERO
    after = None
    with suppress(ValueError):
        after = cursor.parse(text)
    judged = await node.relay.begin(feed, after, bad_cursor=after is None)
    if judged.resync is None:
        return Beginning(ZERO), judged.position
    return Beginning(ZERO, replace(judged.resync, position=ZERO)), ZERO
