"""A host without Redis: runs are real, events are kept in memory under the script's own rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import orjson

from agents_sdk.emitter import Emitter
from agents_sdk.errors import Reason
from agents_sdk.voice import Voice
from broker.codec import head
from broker.cursor import ZERO, Cursor
from broker.errors import (
    CallNotOpen,
    EventTooLarge,
    Fenced,
    NotOwner,
    PublishError,
    RunClosed,
    RunNotFound,
    SequenceGap,
)
from broker.events import encode_delta
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.client import Receiver
from broker.redis.records import Claim, RunRequest
from broker.redis.steering import Asked, Look
from broker.redis.store import Limits


@dataclass(slots=True)
class Record:
    """What a run's hash holds in Redis."""

    claim: Claim
    state: State = State.QUEUED
    ids: list[str] = field(default_factory=list)
    open_calls: set[str] = field(default_factory=set)
    text: str = ""
    questions: dict[str, Look] = field(default_factory=dict)


class RecordingHost:
    """Implements :class:`~agents_sdk.host.Host` and :class:`~agents_sdk.emitter.Sink`.

    :attr:`events` is what a client on the user's channel would get, deltas included, in order.
    """

    def __init__(
        self, *, limits: Limits | None = None, publish_timeout_seconds: float = 5.0
    ) -> None:
        self.voice = Voice(
            limits=limits or Limits(), publish_timeout_seconds=publish_timeout_seconds
        )
        self.events: list[dict[str, Any]] = []
        self.held: dict[str, Callable[[Reason], None]] = {}
        self._listening: dict[str, Callable[[], None]] = {}
        self._records: dict[str, Record] = {}
        self._newest = ZERO
        self._attempts: set[asyncio.Task[object]] = set()

    @property
    def sink(self) -> RecordingHost:
        """The host itself."""
        return self

    async def open_run(self, request: RunRequest) -> Claim:
        """Register and claim."""
        return self.register(request)

    def register(
        self,
        request: RunRequest,
        *,
        attempt: int = 1,
        sent: str = "",
        stop_requested: bool = False,
    ) -> Claim:
        """The claim of a run that was just registered and claimed."""
        claim = Claim(
            run_id=request.run_id,
            partition=request.channel.partition,
            owner=request.owner,
            channel=request.channel,
            head=head(request.owner, request.thread_id, request.run_id),
            thread_id=request.thread_id,
            agent=request.agent,
            content=request.content,
            metadata=request.metadata,
            attempt=attempt,
            fence=attempt,
            seq=0,
            sent=sent,
            parent_run_id=request.parent_run_id,
            stop_requested=stop_requested,
            created_ms=time.time_ns() // 1_000_000,
            state=State.QUEUED,
            open_calls={},
            trace=request.trace,
        )
        self._records[claim.run_id] = Record(claim)
        return claim

    def hold(self, claim: Claim, notify: Callable[[Reason], None]) -> None:
        """Remember whom to tell."""
        self.held[claim.run_id] = notify

    def listen(self, claim: Claim, wake: Callable[[], None]) -> None:
        """Remember whom to wake."""
        self._listening[claim.run_id] = wake

    async def look(self, claim: Claim, request_id: str) -> Look:
        """As ``collect.lua``."""
        record = self._record(claim)
        if record.state is State.COMPLETED:
            raise RunClosed(subject=claim.run_id)
        return record.questions.get(request_id, Look(Asked.UNKNOWN))

    def take_back(self, claim: Claim, request_id: str) -> None:
        """As ``collect.lua``."""
        questions = self._record(claim).questions
        if questions.get(request_id, Look(Asked.UNKNOWN)).asked is Asked.OPEN:
            del questions[request_id]

    def answer(self, run_id: str, request_id: str, look: Look) -> bool:
        """What becomes of a question; false when it is not open."""
        questions = self._records[run_id].questions
        if questions.get(request_id, Look(Asked.UNKNOWN)).asked is not Asked.OPEN:
            return False
        questions[request_id] = look
        if (wake := self._listening.get(run_id)) is not None:
            wake()
        return True

    def leave(self, claim: Claim, emitter: Emitter) -> asyncio.Task[None]:
        """See the run off."""
        return asyncio.create_task(self._see_off(claim, emitter))

    async def _see_off(self, claim: Claim, emitter: Emitter) -> None:
        while True:
            try:
                await emitter.flushed()
                break
            except PublishError:  # as a worker: for however long Redis is away
                continue
        self.held.pop(claim.run_id, None)
        self._listening.pop(claim.run_id, None)
        emitter.close()

    def send(self, claim: Claim, publication: Publication, receiver: Receiver) -> None:
        """As the broker does: :meth:`publish`, whose outcome the receiver gets."""
        self._tell(receiver, self._publish(claim, publication))

    def send_delta(self, claim: Claim, *, offset: int, text: str, receiver: Receiver) -> None:
        """The same for :meth:`publish_delta`."""
        self._tell(receiver, self.publish_delta(claim, offset=offset, text=text))

    def _tell(self, receiver: Receiver, attempt: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(attempt)
        self._attempts.add(task)

        def told(task: asyncio.Task[object]) -> None:
            self._attempts.discard(task)
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                receiver.set_result(task.result())
            else:
                receiver.set_exception(error)

        task.add_done_callback(told)

    async def _publish(self, claim: Claim, publication: Publication) -> bytes:
        return (await self.publish(claim, publication)).encode()

    async def publish(self, claim: Claim, publication: Publication) -> str:
        """As ``publish.lua``: the same checks in the same order, the same refusals."""
        record = self._record(claim)
        last = len(record.ids)
        if publication.seq <= last:
            return record.ids[publication.seq - 1]
        if record.state is State.COMPLETED:
            raise RunClosed(subject=claim.run_id)
        if publication.seq > last + 1:
            raise SequenceGap(subject=claim.run_id, detail=f"at {last}")
        if len(publication.body) > self.voice.limits.max_event_bytes:
            raise EventTooLarge(subject=claim.run_id, detail=f"{len(publication.body)} bytes")
        if publication.call_closed is not None and publication.call_closed not in record.open_calls:
            raise CallNotOpen(subject=claim.run_id)
        if publication.call_opened is not None:
            record.open_calls.add(publication.call_opened[0])
        if publication.call_closed is not None:
            record.open_calls.discard(publication.call_closed)
        if publication.asked is not None:
            record.questions[publication.asked[0]] = Look(Asked.OPEN)
        record.state = publication.state
        event_id = self._next_id()
        record.ids.append(event_id)
        self.recorded({"id": event_id} | orjson.loads(publication.body))
        return event_id

    async def publish_delta(self, claim: Claim, *, offset: int, text: str) -> int:
        """As ``delta.lua``."""
        record = self._record(claim)
        if record.state is State.COMPLETED:
            raise RunClosed(subject=claim.run_id)
        body, following = encode_delta(
            run_id=claim.run_id,
            thread_id=claim.thread_id,
            agent_name=claim.agent,
            offset=offset,
            text=text,
        )
        length = len(record.text.encode())
        if length >= following:
            return length
        if length != offset:
            raise SequenceGap(subject=claim.run_id, detail=f"text at {length}")
        record.text += text
        self.recorded(orjson.loads(body))
        return following

    def recorded(self, event: dict[str, Any]) -> None:
        """An event has just happened."""
        self.events.append(event)

    def _record(self, claim: Claim) -> Record:
        record = self._records.get(claim.run_id)
        if record is None:
            raise RunNotFound(subject=claim.run_id)
        if record.claim.head != claim.head or record.claim.channel != claim.channel:
            raise NotOwner(subject=claim.run_id)
        if record.claim.fence != claim.fence:
            raise Fenced(subject=claim.run_id)
        return record

    def _next_id(self) -> str:
        now = Cursor(time.time_ns() // 1_000_000, 0)
        same = Cursor(self._newest.ms, self._newest.seq + 1)
        self._newest = max(now, same)
        return str(self._newest)
