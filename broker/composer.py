"""What a run says, composed: filled in, checked, numbered and encoded (protocol section 2).

The one place where the plain form of an event becomes what is published, whoever keeps the run: a
worker's process, or a gateway on behalf of a worker in another language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from broker import events
from broker.errors import EventTooLarge, InvalidEvent
from broker.events import Envelope
from broker.lifecycle import Lifecycle
from broker.payloads import AS_GIVEN, Known, complete, milliseconds
from broker.publication import Publication

RUN_ENDED: Final[Mapping[str, str]] = {
    "code": "run_ended",
    "message": "The run ended while this call was open",
}
"""Error of a call that is closed because its run ends."""


class Moment(NamedTuple):
    """When an event is: the time of day, and seconds on the clock that durations are taken from."""

    epoch_ms: int
    seconds: float


class Composer:
    """One run's events, one after the other.

    ``seq`` is the number of the last one; ``began`` and ``opened`` (call id → when) are seconds on
    the clock of :class:`Moment`. Every method either returns what to publish, or raises and has
    changed nothing.
    """

    __slots__ = (
        "_began",
        "_envelope",
        "_most",
        "_opened",
        "_run_id",
        "lifecycle",
        "seq",
    )

    def __init__(
        self,
        envelope: Envelope,
        *,
        run_id: str,
        lifecycle: Lifecycle,
        seq: int,
        began: float,
        opened: Mapping[str, float],
        max_event_bytes: int,
    ) -> None:
        self.lifecycle, self.seq = lifecycle, seq
        self._envelope, self._run_id = envelope, run_id
        self._began, self._opened = began, dict(opened)
        self._most = max_event_bytes

    def event(self, event_type: str, given: Mapping[str, Any], at: Moment) -> Publication:
        """One of the five, in plain or full form.

        :raises InvalidEvent: the payload does not fit.
        :raises LifecycleError: the run's state does not allow it.
        :raises EventTooLarge: encoded, it is over the limit.
        """
        return self._compose(event_type, self._filled(event_type, given, at), at)

    def question(self, given: Mapping[str, Any], *, seconds: float, at: Moment) -> Publication:
        """``input_required``, to be answered within ``seconds``; raises as :meth:`event`."""
        open_ms = milliseconds(seconds)
        payload = {**given, "expires_at": events.timestamp(at.epoch_ms + open_ms)}
        return self._compose(events.INPUT_REQUIRED, payload, at, open_ms=open_ms)

    def check_end(self, given: Mapping[str, Any], at: Moment) -> dict[str, Any]:
        """The full payload of an ``agent_completed`` that may be the next; as :meth:`event`."""
        payload = self._filled(events.AGENT_COMPLETED, given, at)
        events.check_payload(events.AGENT_COMPLETED, payload)
        self._encode(events.AGENT_COMPLETED, payload, at)
        return payload

    def close_calls(self, at: Moment) -> list[Publication]:
        """A ``tool_completed`` for each call that is open, in the order in which they began."""
        return [
            self.event(
                events.TOOL_COMPLETED,
                {"tool": tool, "call_id": call_id, "success": False, "error": dict(RUN_ENDED)},
                at,
            )
            for call_id, tool in list(self.lifecycle.open_calls.items())
        ]

    def _compose(
        self, event_type: str, payload: dict[str, Any], at: Moment, *, open_ms: int | None = None
    ) -> Publication:
        events.check_payload(event_type, payload)
        body = self._encode(event_type, payload, at)
        lifecycle = self.lifecycle
        state, sent = lifecycle.state, lifecycle.flags
        lifecycle.advance(event_type, payload)
        self.seq += 1
        opened = closed = asked = None
        if event_type == events.TOOL_EXECUTING:
            opened = (payload["call_id"], payload["tool"])
            self._opened[payload["call_id"]] = at.seconds
        elif event_type == events.TOOL_COMPLETED:
            closed = payload["call_id"]
            self._opened.pop(closed, None)
        elif open_ms is not None:
            asked = (payload["request_id"], open_ms)
        return Publication(
            seq=self.seq,
            event_type=event_type,
            body=body,
            state=lifecycle.state,
            sent=lifecycle.flags,
            call_opened=opened,
            call_closed=closed,
            asked=asked,
            status=payload["status"] if event_type == events.AGENT_COMPLETED else None,
            changes=event_type in events.CALLS
            or asked is not None
            or state is not lifecycle.state
            or sent != lifecycle.flags,
        )

    def _filled(self, event_type: str, given: object, at: Moment) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise InvalidEvent(event_type=event_type, field="payload", why="must be an object")
        if event_type in AS_GIVEN:
            return dict(given)
        known = Known(
            at=at.seconds,
            began=self._began,
            opened=self._opened,
            next_call_id=f"c{self.seq + 1}",  # unique in the run, over all of its attempts
        )
        return complete(event_type, given, self.lifecycle, known)

    def _encode(self, event_type: str, payload: Mapping[str, Any], at: Moment) -> bytes:
        body = self._envelope.encode(event_type, payload, epoch_ms=at.epoch_ms, seq=self.seq + 1)
        if len(body) > self._most:
            raise too_large(event_type, self._run_id, len(body))
        return body


def text_size(text: object, *, run_id: str, before: int, most: int) -> int:
    """UTF-8 bytes of a piece of streamed text that follows ``before`` bytes of it.

    :raises InvalidEvent: not a string, or one that is not valid Unicode.
    :raises EventTooLarge: all of it would be over ``most`` bytes.
    """
    if not isinstance(text, str):
        raise InvalidEvent(event_type=events.AGENT_DELTA, field="text", why="must be str")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(
            event_type=events.AGENT_DELTA, field="text", why="must be valid Unicode"
        ) from None
    if before + size > most:
        raise too_large(events.AGENT_DELTA, run_id, before + size)
    return size


def ask_seconds(asked: object, *, default: float, longest: float) -> float:
    """For how long a question can be answered; None = ``default``.

    :raises InvalidEvent: it is no number of seconds up to ``longest``.
    """
    seconds = default if asked is None else asked
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= longest:  # type: ignore[operator]  # a number
        why = f"must be over 0 and at most {longest}, for how long a run is kept"
        raise InvalidEvent(event_type=events.INPUT_REQUIRED, field="expires_seconds", why=why)
    return seconds  # type: ignore[return-value]  # as above


def too_large(event_type: str, run_id: str, size: int) -> EventTooLarge:
    """The refusal of an event, or of streamed text, of so many bytes."""
    return EventTooLarge(subject=f"{event_type} of run {run_id}", detail=f"{size} bytes")
