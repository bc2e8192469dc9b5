"""A span for each live event of a recorded trace, from when it was heard until it was written.

Stands between the subscriber and the hub of a gateway that traces; where tracing is off, nothing
does. An event that is read from a log, by who resumes or to fill a hole, has no span.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from broker.channels import decode_id
from broker.codec import WORDS
from broker.cursor import from_redis
from broker.trace_context import TraceContext, read
from gateway.message_trace import RUN_ID
from gateway.meters import said_at

if TYPE_CHECKING:
    from broker.tracing.tracer import Tracing
    from gateway.hub import Hub

MOST_PER_READ: Final = 100
"""Events of one read that have a span: what comes at once is not held up longer than that takes."""

_BEFORE: Final = b',"traceparent":"'
_PAYLOAD: Final = b',"payload":'
_LENGTH: Final = 55
_SAMPLED: Final = frozenset(b"%x" % digit for digit in range(1, 16, 2))
"""Last digits of a context whose lowest bit is set."""


OnMessage = Callable[[bytes, bytes], None]
OnReadEnd = Callable[[], None]


def traced(
    on_message: OnMessage, on_read_end: OnReadEnd, *, tracing: Tracing, hub: Hub, node_id: str
) -> tuple[OnMessage, OnReadEnd]:
    """The same two, with spans for what the hub gives to sockets."""
    trace = DeliveryTrace(on_message, on_read_end, tracing=tracing, hub=hub, node_id=node_id)
    return trace.on_message, trace.on_read_end


class DeliveryTrace:
    """What the subscriber tells, told on."""

    def __init__(
        self,
        on_message: OnMessage,
        on_read_end: OnReadEnd,
        *,
        tracing: Tracing,
        hub: Hub,
        node_id: str,
    ) -> None:
        self._tell, self._flush = on_message, on_read_end
        self._tracing, self._hub, self._node_id = tracing, hub, node_id
        self._heard: list[tuple[TraceContext, bytes, bytes, int, int]] = []

    def on_message(self, live: bytes, message: bytes) -> None:
        """A live message."""
        context = recorded(message) if len(self._heard) < MOST_PER_READ else None
        if context is None:
            self._tell(live, message)
            return
        (feed,) = self._hub.feeds_of([live]) or (None,)
        before, heard = b"" if feed is None else feed.follower.raw, time.time_ns()
        self._tell(live, message)
        # What was heard before, or comes too early, moves nobody on.
        if feed is not None and feed.follower.raw != before and feed.live:
            header, _, body = message.partition(b"\n")
            self._heard.append((context, header, body, heard, len(feed.live)))

    def on_read_end(self) -> None:
        """All messages of one read were heard."""
        begun = time.time()
        self._flush()
        if self._heard:
            told, self._heard = self._heard, []
            written = time.time_ns()
            for each in told:
                self._record(*each, begun=begun, written=written)

    def _record(
        self,
        context: TraceContext,
        header: bytes,
        body: bytes,
        heard: int,
        connections: int,
        *,
        begun: float,
        written: int,
    ) -> None:
        words = header.split(b" ")
        logged = from_redis(words[0]).ms / 1000
        attributes: dict[str, str | int | float] = {
            RUN_ID: decode_id(words[4].decode()),
            "runcast.seq": int(words[5]),
            "runcast.event_id": words[0].decode(),
            "runcast.gateway": self._node_id,
            "runcast.connections": connections,
            "runcast.redis_to_gateway_seconds": max(0.0, begun - logged),
            "runcast.gateway_to_socket_seconds": max(0.0, written / 1e9 - begun),
        }
        with suppress(ValueError):  # another program's event
            attributes["runcast.sdk_to_redis_seconds"] = max(0.0, logged - said_at(body))
        self._tracing.begin(
            f"deliver {words[6].decode()}",
            kind="producer",
            parent=context,
            attributes=attributes,
            at_ns=heard,
        ).end(at_ns=written)


def recorded(message: bytes) -> TraceContext | None:
    """To which recorded trace a live message's event belongs; None when it says of none."""
    found = message.find(_BEFORE)
    if found < 0:
        return None
    start = found + len(_BEFORE)
    # Quotes are escaped within strings: before the payload it can only be the envelope's own.
    if (
        message[start + _LENGTH - 1 : start + _LENGTH] not in _SAMPLED
        or message.find(_PAYLOAD, 0, found) >= 0
    ):
        return None
    if message.count(b" ", 0, message.find(b"\n")) != WORDS - 1:
        return None
    return read(message[start : start + _LENGTH].decode("ascii", "replace"))
