"""One run's voice: everything it says is checked, numbered and ordered here.

Accepting an event is synchronous, so whatever runs at the same time within one run (parallel tools,
spawned tasks) yields one legal, strictly ordered sequence. Only its confirmation is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from agents_sdk import ending
from agents_sdk.buffer import Buffer, Event, Item, texts
from agents_sdk.deltas import Merger
from agents_sdk.ending import Outcome
from agents_sdk.errors import Reason, RunStopped, WrongEventLoop
from agents_sdk.news import News
from agents_sdk.payloads import AS_GIVEN, Known, complete
from agents_sdk.voice import Sink, Voice
from broker import events
from broker.errors import (
    EventTooLarge,
    InvalidEvent,
    LifecycleError,
    PublishError,
    Refused,
    RuncastError,
)
from broker.lifecycle import Lifecycle, State
from broker.redis.client import Receiver
from broker.redis.publisher import Publication
from broker.redis.records import Claim
from broker.redis.store import Limits, milliseconds

if TYPE_CHECKING:
    from agents_sdk.questions import Question

log = structlog.get_logger(__name__)


class Emitter:
    """Events and text of one claimed run, in the order in which the agent produced them."""

    def __init__(self, claim: Claim, sink: Sink, voice: Voice) -> None:
        self.claim = claim
        self.lifecycle = Lifecycle()
        self.lifecycle.new_attempt(claim.sent)
        self.told: Reason | None = None
        self.status: str | None = None
        """Of its terminal event, once that was said."""
        self.loop = asyncio.get_running_loop()
        self.on_lost: Callable[[], None] | None = None
        self.news = News()
        self._sink, self._voice = sink, voice
        self._envelope = events.Envelope(
            user_id=claim.owner.user,
            thread_id=claim.thread_id,
            run_id=claim.run_id,
            agent_name=claim.agent,
            parent_run_id=claim.parent_run_id,
            attempt=claim.attempt,
        )
        self._seq = claim.seq
        self._began = time.monotonic()
        self._opened: dict[str, float] = {}
        self._merger = Merger()
        self._timer: asyncio.TimerHandle | None = None
        self._text: list[str] = []
        self._text_bytes = self._offset = 0
        self._buffer = Buffer(
            self._send,
            run_id=claim.run_id,
            on_lost=self._on_lost,
            written=self._written,
            tally=voice.tally,
        )

    @property
    def limits(self) -> Limits:
        """The installation's."""
        return self._voice.limits

    @property
    def ended(self) -> bool:
        """Whether the terminal event was accepted, or somebody else owns the run."""
        return self.lifecycle.state is State.COMPLETED or self.told is Reason.LOST

    def tell(self, reason: Reason) -> None:
        """The run is to end. The first reason stays, but for a loss: that ends all writing.

        That a run is gone is no loss once its end was said: the lease ends with it. Should it be
        somebody else's end, the buffer is told so.
        """
        completed = self.lifecycle.state is State.COMPLETED
        if reason is Reason.LOST and completed and self._buffer.lost is None:
            return
        if self.told is None or reason is Reason.LOST:
            self.told = reason
        if reason is Reason.LOST:
            self._cancel_timer()
        self.news.tell()

    def check(self) -> None:
        """Raise :class:`RunStopped` when told to end, :class:`WrongEventLoop` in a wrong loop."""
        if asyncio.get_running_loop() is not self.loop:
            raise WrongEventLoop(run_id=self.claim.run_id)
        if self.told is not None:
            raise RunStopped(run_id=self.claim.run_id, reason=self.told)

    def begin(self) -> None:
        """Say ``agent_started``, unless the agent has said it."""
        if self.lifecycle.state is State.QUEUED and not self.ended:
            self._accept(events.AGENT_STARTED, {"message": f"{self.claim.agent} started"})

    def accept(self, event_type: str, given: Mapping[str, Any]) -> Event:
        """Take one of the five, in plain or full form; it is ordered when this returns.

        :raises InvalidEvent: the payload does not fit.
        :raises LifecycleError: the run's state does not allow it.
        :raises EventTooLarge: encoded, it is over the limit.
        :raises PublishError: the buffer is full: Redis has been away for long.

        After any of these nothing has changed.
        """
        if event_type == events.AGENT_COMPLETED:
            return self._complete(given)
        if self._buffer.full:
            raise self._buffer.unconfirmed()
        if event_type != events.AGENT_STARTED and event_type in events.LIFECYCLE:
            self.begin()
        return self._accept(event_type, given)

    def ask(self, question: Question) -> Event:
        """Say ``input_required``; as :meth:`accept`."""
        if self._buffer.full:
            raise self._buffer.unconfirmed()
        self.begin()
        payload = question.payload(time.time_ns() // 1_000_000)
        asked = question.request_id, milliseconds(question.seconds)
        return self._accept(events.INPUT_REQUIRED, payload, asked=asked)

    async def confirmed(self, event: Event) -> str:
        """The event's id, once it is in the log.

        :raises PublishError: not in time; it is still sent when Redis is back.
        :raises RunStopped: the broker refused it because the run is not this process's any more.
        """
        timeout = self._voice.publish_timeout_seconds
        try:
            return await self._buffer.confirmed(event, timeout_seconds=timeout)
        except Refused as refused:
            raise RunStopped(run_id=self.claim.run_id, reason=Reason.LOST) from refused

    async def write(self, text: str) -> None:
        """Append streamed text. Waits only when the buffer is full.

        :raises InvalidEvent: not a string, or one that is not valid Unicode.
        :raises EventTooLarge: the run's whole text is over the limit.
        :raises PublishError: there was no room in time; the text was not taken.
        """
        size = self._size_of(text)
        if not size:
            return
        if self._buffer.full:
            await self._buffer.room(timeout_seconds=self._voice.publish_timeout_seconds)
            self.check()
        if self.lifecycle.state is State.COMPLETED:
            raise LifecycleError(
                state=self.lifecycle.state,
                event_type=events.AGENT_DELTA,
                why="nothing is accepted after agent_completed",
            )
        self.begin()
        self._text.append(text)
        self._text_bytes += size
        self._merger.add(text)
        wait = self._merger.wait(time.monotonic())
        if wait == 0:
            self._flush_text()
            # A model that never waits would keep the event loop from sending what it says.
            await asyncio.sleep(0)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._flush_text)

    def finish(self, outcome: Outcome) -> None:
        """Say the one terminal event; does nothing when it was said.

        Never fails: a response that cannot be sent makes the run ``failed`` with the reason.
        """
        if self.ended:
            return
        try:
            self._complete(self._terminal(outcome))
        except (InvalidEvent, EventTooLarge) as error:
            log.warning("response_refused", run_id=self.claim.run_id, why=str(error))
            self._complete(self._terminal(ending.raised(error)))

    async def flushed(self, *, timeout_seconds: float | None = None) -> None:
        """Return once everything said is in the log, or the run is lost.

        :raises PublishError: not in time.
        """
        timeout = (
            self._voice.publish_timeout_seconds if timeout_seconds is None else timeout_seconds
        )
        await self._buffer.flushed(timeout_seconds=timeout)

    def unconfirmed(self) -> PublishError:
        """The error for a caller who does not wait any longer."""
        return self._buffer.unconfirmed()

    def close(self) -> None:
        """Give up what is not confirmed, and hold nothing any more."""
        self._cancel_timer()
        self._buffer.close()
        self.news.tell()

    def _terminal(self, outcome: Outcome) -> dict[str, Any]:
        response = outcome.response
        if response is None and outcome.status == events.SUCCEEDED:
            response = "".join(self._text)
        payload = {"response": response, "complete": True, "status": outcome.status}
        return payload if outcome.error is None else payload | {"error": outcome.error}

    def _complete(self, given: Mapping[str, Any]) -> Event:
        payload = self._filled(events.AGENT_COMPLETED, given)
        events.check_payload(events.AGENT_COMPLETED, payload)
        self._check_size(events.AGENT_COMPLETED, self._encoded(events.AGENT_COMPLETED, payload))
        # A run that ends as cancelled before it began never says that it started.
        if payload["status"] not in (events.CANCELLED, events.ABANDONED):
            self.begin()
        for call_id, tool in list(self.lifecycle.open_calls.items()):
            error = ending.describe(ending.RUN_ENDED, "The run ended while this call was open")
            closing = {"tool": tool, "call_id": call_id, "success": False, "error": error}
            self._accept(events.TOOL_COMPLETED, closing)
        missing = payload["missing"] = self.lifecycle.missing
        if missing and self.lifecycle.state is not State.COMPLETED:
            log.info("run_incomplete", run_id=self.claim.run_id, missing=missing)
            if self._voice.require_all_events and payload["status"] == events.SUCCEEDED:
                outcome = ending.incomplete(missing)
                payload |= {"status": outcome.status, "response": None, "error": outcome.error}
        completed = self._accept(events.AGENT_COMPLETED, payload)
        self.status = payload["status"]
        return completed

    def _accept(
        self, event_type: str, given: Mapping[str, Any], *, asked: tuple[str, int] | None = None
    ) -> Event:
        payload = dict(given) if asked else self._filled(event_type, given)
        events.check_payload(event_type, payload)
        body = self._encoded(event_type, payload)
        self._check_size(event_type, body)
        state, sent = self.lifecycle.state, self.lifecycle.flags
        self.lifecycle.advance(event_type, payload)
        self._flush_text()
        self._seq += 1
        opened = closed = None
        if event_type == events.TOOL_EXECUTING:
            opened = (payload["call_id"], payload["tool"])
            self._opened[payload["call_id"]] = time.monotonic()
        elif event_type == events.TOOL_COMPLETED:
            closed = payload["call_id"]
            del self._opened[closed]
        event = Event(
            Publication(
                seq=self._seq,
                event_type=event_type,
                body=body,
                state=self.lifecycle.state,
                sent=self.lifecycle.flags,
                call_opened=opened,
                call_closed=closed,
                asked=asked,
                status=payload["status"] if event_type == events.AGENT_COMPLETED else None,
                changes=event_type in events.CALLS
                or asked is not None
                or state is not self.lifecycle.state
                or sent != self.lifecycle.flags,
            )
        )
        self._buffer.put(event)
        return event

    def _filled(self, event_type: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if event_type in AS_GIVEN:
            return dict(given)
        known = Known(
            now=time.monotonic(),
            began=self._began,
            opened=self._opened,
            next_call_id=f"c{self._seq + 1}",  # unique in the run, over all of its attempts
        )
        return complete(event_type, given, self.lifecycle, known)

    def _encoded(self, event_type: str, payload: Mapping[str, Any]) -> bytes:
        epoch_ms = time.time_ns() // 1_000_000
        return self._envelope.encode(event_type, payload, epoch_ms=epoch_ms, seq=self._seq + 1)

    def _size_of(self, text: str) -> int:
        if not isinstance(text, str):
            raise InvalidEvent(event_type=events.AGENT_DELTA, field="text", why="must be str")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidEvent(
                event_type=events.AGENT_DELTA, field="text", why="must be valid Unicode"
            ) from None
        if self._text_bytes + size > self._voice.limits.max_text_bytes:
            raise self._too_large(events.AGENT_DELTA, self._text_bytes + size)
        return size

    def _check_size(self, event_type: str, body: bytes) -> None:
        if len(body) > self._voice.limits.max_event_bytes:
            raise self._too_large(event_type, len(body))

    def _too_large(self, event_type: str, size: int) -> EventTooLarge:
        subject = f"{event_type} of run {self.claim.run_id}"
        return EventTooLarge(subject=subject, detail=f"{size} bytes")

    def _flush_text(self) -> None:
        self._cancel_timer()
        if not self._merger:
            return
        for delta in texts(self._offset, self._merger.take(time.monotonic())):
            self._buffer.put(delta)
            self._offset += delta.size

    def _written(self, start: int, end: int) -> str:
        return "".join(self._text).encode()[start:end].decode()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, item: Item, receiver: Receiver) -> None:
        if isinstance(item, Event):
            self._sink.send(self.claim, item.publication, receiver)
        else:
            self._sink.send_delta(self.claim, offset=item.offset, text=item.text, receiver=receiver)

    def _on_lost(self, error: RuncastError) -> None:
        log.warning("run_lost", run_id=self.claim.run_id, why=str(error))
        self.tell(Reason.LOST)
        if self.on_lost is not None:
            self.on_lost()
