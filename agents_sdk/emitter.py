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

from agents_sdk import ending, spans
from agents_sdk.buffer import Buffer, Event, Item, texts
from agents_sdk.deltas import Merger
from agents_sdk.ending import Outcome
from agents_sdk.errors import Reason, RunStopped, WrongEventLoop
from agents_sdk.news import News
from agents_sdk.posts import Posts
from agents_sdk.voice import Sink, Voice
from broker import events
from broker.composer import Composer, Moment, text_size
from broker.errors import (
    EventTooLarge,
    InvalidEvent,
    LifecycleError,
    PublishError,
    Refused,
    RuncastError,
)
from broker.lifecycle import Lifecycle, State
from broker.publication import Publication
from broker.redis.client import Receiver
from broker.redis.records import Claim
from broker.redis.store import Limits

if TYPE_CHECKING:
    from agents_sdk.questions import Question
    from broker.tracing.tracer import Span, Tracing

log = structlog.get_logger(__name__)


class Emitter:
    """Events and text of one claimed run, in the order in which the agent produced them."""

    def __init__(self, claim: Claim, sink: Sink, voice: Voice, span: Span | None = None) -> None:
        self.claim, self.span = claim, span
        self.lifecycle = Lifecycle()
        self.lifecycle.new_attempt(claim.sent)
        self.told: Reason | None = None
        self.status: str | None = None
        """Of its terminal event, once that was said."""
        self.loop = asyncio.get_running_loop()
        self.on_lost: Callable[[], None] | None = None
        self.news = News()
        self.posts = Posts(self)
        self._sink, self._voice = sink, voice
        self._composer = Composer(
            claim.envelope,
            run_id=claim.run_id,
            lifecycle=self.lifecycle,
            seq=claim.seq,
            began=time.monotonic(),
            opened={},
            max_event_bytes=voice.limits.max_event_bytes,
        )
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
    def tracing(self) -> Tracing | None:
        """The process's, where it is on."""
        return self._voice.tracing

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
            if self.span is not None:
                self.span.note("told_to_end", {"runcast.reason": reason})
        if reason is Reason.LOST:
            self._cancel_timer()
        self.news.tell()

    def check(self) -> None:
        """Raise :class:`RunStopped` when told to end, :class:`WrongEventLoop` in a wrong loop."""
        if asyncio.get_running_loop() is not self.loop:
            raise WrongEventLoop(run_id=self.claim.run_id)
        if self.told is not None:
            raise RunStopped(run_id=self.claim.run_id, reason=self.told)

    def check_open(self, event_type: str) -> None:
        """Raise :class:`LifecycleError` once the terminal event was said."""
        if self.lifecycle.state is State.COMPLETED:
            state, why = self.lifecycle.state, "nothing is accepted after agent_completed"
            raise LifecycleError(state=state, event_type=event_type, why=why)

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
        self.posts.take()
        if event_type != events.AGENT_COMPLETED and self._buffer.full:
            raise self._buffer.unconfirmed()
        return self.say(event_type, given)

    async def room(self) -> None:
        """Wait while what was said is over the buffer's bounds; :class:`PublishError`: too long."""
        await self._buffer.room(timeout_seconds=self._voice.publish_timeout_seconds)

    def say(self, event_type: str, given: Mapping[str, Any]) -> Event:
        """:meth:`accept` in its turn among the posts, and whether the buffer has room or not."""
        if event_type == events.AGENT_COMPLETED:
            return self._complete(given)
        if event_type != events.AGENT_STARTED and event_type in events.LIFECYCLE:
            self.begin()
        return self._accept(event_type, given)

    def append(self, text: str) -> bool:
        """:meth:`write` likewise; whether the text went to the buffer at once."""
        most = self._voice.limits.max_text_bytes
        size = text_size(text, run_id=self.claim.run_id, before=self._text_bytes, most=most)
        self.check_open(events.AGENT_DELTA)
        self.begin()
        self._text.append(text)
        self._text_bytes += size
        self._merger.add(text)
        wait = self._merger.wait(time.monotonic())
        if wait == 0:
            self._flush_text()
        elif self._timer is None:
            self._timer = self.loop.call_later(wait, self._flush_text)
        return wait == 0

    def ask(self, question: Question) -> Event:
        """Say ``input_required``; as :meth:`accept`."""
        self.posts.take()
        if self._buffer.full:
            raise self._buffer.unconfirmed()
        self.begin()
        return self._put(
            self._composer.question(question.payload, seconds=question.seconds, at=_now())
        )

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
        if text == "":
            return
        if self._buffer.full:
            await self.room()
            self.check()
        self.posts.take()
        if self.append(text):
            # A model that never waits would keep the event loop from sending what it says.
            await asyncio.sleep(0)

    def finish(self, outcome: Outcome) -> None:
        """Say the one terminal event; does nothing when it was said.

        Never fails: a response that cannot be sent makes the run ``failed`` with the reason.
        """
        self.posts.take()
        if self.ended:
            return
        try:
            self._complete(self._terminal(outcome))
        except (InvalidEvent, EventTooLarge) as error:
            log.warning("response_refused", run_id=self.claim.run_id, why=str(error))
            self._complete(self._terminal(ending.raised(error)))

    async def flushed(self) -> None:
        """Return once everything said is in the log, or the run is lost.

        :raises PublishError: not in time.
        """
        await self._buffer.flushed(timeout_seconds=self._voice.publish_timeout_seconds)

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
        payload = self._composer.check_end(given, _now())
        # A run that ends as cancelled before it began never says that it started.
        if payload["status"] not in (events.CANCELLED, events.ABANDONED):
            self.begin()
        for closing in self._composer.close_calls(_now()):
            self._put(closing)
        missing = self.lifecycle.missing
        if missing and self.lifecycle.state is not State.COMPLETED:
            log.info("run_incomplete", run_id=self.claim.run_id, missing=missing)
            if self._voice.require_all_events and payload["status"] == events.SUCCEEDED:
                outcome = ending.incomplete(missing)
                payload |= {"status": outcome.status, "response": None, "error": outcome.error}
        completed = self._accept(events.AGENT_COMPLETED, payload)
        self.status = payload["status"]
        return completed

    def _accept(self, event_type: str, given: Mapping[str, Any]) -> Event:
        return self._put(self._composer.event(event_type, given, _now()))

    def _put(self, publication: Publication) -> Event:
        self._flush_text()
        if self.span is not None:
            spans.said(self.span, publication)
        event = Event(publication)
        self._buffer.put(event)
        return event

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


def _now() -> Moment:
    return Moment(epoch_ms=time.time_ns() // 1_000_000, seconds=time.monotonic())
