"""One run's buffer: what was said leaves in order, once, however Redis behaves (promise G1).

Everything waiting goes out in one pipelined batch; what comes back unconfirmed is sent again, the
same, after a back-off, for as long as the buffer is open. So is what was confirmed, when a failover
has taken it back. Nobody who talks waits for that longer than he asked to.

It works in callbacks: no task, and for an event that is waited for one future. Long, because what
is done with a reply and what with its absence are one decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import structlog
from redis.exceptions import ResponseError

from agents_sdk.deltas import cut
from agents_sdk.metrics import Tally
from agents_sdk.outages import delays
from agents_sdk.pending import Pending, Reply
from broker.errors import (
    BrokerUnavailable,
    EventTooLarge,
    PublishError,
    RuncastError,
    SequenceGap,
)
from broker.events import MAX_DELTA_CHARACTERS
from broker.publication import Publication
from broker.redis.client import Receiver

log = structlog.get_logger(__name__)


class Text:
    """A delta on its way. ``offset`` and ``size`` count UTF-8 bytes."""

    __slots__ = ("offset", "size", "text")

    seq = None
    final = False

    def __init__(self, offset: int, text: str, size: int) -> None:
        self.offset, self.text, self.size = offset, text, size


class Event:
    """An event on its way.

    ``size``: bytes of the encoded event. ``final``: whether it ends the run. ``id`` is what the log
    gave it, ``error`` why it never will.
    """

    __slots__ = ("deadline", "error", "final", "id", "publication", "seq", "size", "waiter")

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self.size, self.seq = len(publication.body), publication.seq
        self.final = publication.status is not None
        self.id: str | None = None
        self.error: RuncastError | None = None
        self.waiter: asyncio.Future[str] | None = None
        self.deadline = 0.0

    def confirm(self, event_id: str) -> None:
        """It is in the log."""
        self.id = event_id
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(event_id)

    def fail(self, error: RuncastError) -> None:
        """It will never be."""
        self.error = error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(error)


Item = Text | Event
Send = Callable[[Item, Receiver], None]
"""One attempt; the receiver gets the id as bytes (of a text anything), or what went wrong."""
Written = Callable[[int, int], str]
"""The run's streamed text between two positions, in UTF-8 bytes, both between characters."""


class _Sent:
    """One item of the window that is on its way; receives its reply."""

    __slots__ = ("_at", "_buffer", "_window")

    def __init__(self, buffer: Buffer, window: list[Any], at: int) -> None:
        self._buffer, self._window, self._at = buffer, window, at

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self._buffer.replied(self._window, self._at, result)

    set_exception = set_result


def texts(offset: int, text: str) -> list[Text]:
    """``text`` that begins at ``offset``, as deltas of at most the longest length."""
    found = []
    for piece in cut(text):
        found.append(Text(offset, piece, len(piece.encode())))
        offset += found[-1].size
    return found


class Buffer:
    """Ordered, bounded, at least once towards the script, which makes it once.

    ``on_lost(error)`` is called when Redis refused an event for good: the run belongs to somebody
    else or has ended. The buffer is then empty and takes nothing more. ``written`` knows all of the
    text that was put here.
    """

    def __init__(
        self,
        send: Send,
        *,
        run_id: str,
        on_lost: Callable[[RuncastError], None],
        written: Written,
        pending: Pending[Item] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._send, self._run_id, self._on_lost = send, run_id, on_lost
        self._written = written
        self._tally = tally if tally is not None else Tally()
        self._sent_at = 0.0
        self._text_failed = False
        self._pending = pending if pending is not None else Pending[Item]()
        self._loop = asyncio.get_running_loop()
        self._busy = self._joinable = False
        self._window: list[Item] = []
        self._replies: list[Any] = []
        self._awaited = 0
        self._waits: Iterator[float] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._why = "it was not sent yet"
        self.lost: RuncastError | None = None

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether :meth:`put` would go over the bounds."""
        return self._pending.full

    def put(self, item: Item) -> None:
        """Queue ``item`` behind everything before it. Never waits; text joins text not sent yet."""
        if self.lost is not None:
            if isinstance(item, Event):
                item.fail(self.lost)
            return
        if isinstance(item, Text) and not self._takes(item):
            return
        self._pending.add(item)
        if not self._busy:
            self._busy = True
            self._tally.waiting.add(self)
            self._begin()
            if self._awaited:
                self._joinable = True
                self._loop.call_soon(self._set_off)
        elif self._joinable:
            self._extend()

    def _takes(self, text: Text) -> bool:
        """Whether the text needs a place of its own."""
        if self._text_failed:
            return False
        last = self._pending.last_unsent()
        if isinstance(last, Text) and len(last.text) + len(text.text) <= MAX_DELTA_CHARACTERS:
            last.text += text.text
            last.size += text.size
            self._pending.grown(text.size)
            return False
        return True

    async def room(self, *, timeout_seconds: float) -> None:
        """Return once there is room, or the run is lost; else :class:`PublishError`, in time."""
        await self._wait(lambda: not self.full, timeout_seconds)

    async def flushed(self, *, timeout_seconds: float) -> None:
        """Return once everything is confirmed, or the run is lost.

        :class:`PublishError` when that takes longer: what is left is still sent when Redis is back.
        """
        await self._wait(lambda: not self._pending, timeout_seconds)

    async def confirmed(self, event: Event, *, timeout_seconds: float) -> str:
        """The event's id; :class:`PublishError` when not confirmed in time. It stays queued.

        One caller at a time for one event.
        """
        if event.id is not None:
            return event.id
        if event.error is not None:
            raise event.error
        event.waiter = self._loop.create_future()
        event.deadline = self._loop.time() + timeout_seconds
        # One timer for all who wait: it is nearly always for nothing.
        if self._deadline is None or self._deadline.when() > event.deadline:
            self._expire_at(event.deadline)
        return await event.waiter

    def unconfirmed(self) -> PublishError:
        """The error for a caller who does not wait any longer."""
        return PublishError(run_id=self._run_id, pending=len(self._pending), why=self._why)

    def close(self) -> None:
        """Give up what is not confirmed."""
        for timer in (self._again, self._deadline):
            if timer is not None:
                timer.cancel()
        self._lose(self.unconfirmed())
        self._notify()

    def replied(self, replies: list[Any], at: int, reply: Any) -> None:
        """A reply, or an error, to the item at that place of the window of these ``replies``."""
        if replies is not self._replies:  # closed meanwhile
            return
        replies[at] = reply
        self._awaited -= 1
        if not self._awaited:
            self._settle()

    def _begin(self) -> None:
        """Send what waits. Its replies are judged when all of them are there."""
        self._again = None
        window = self._window = self._pending.window()
        if not window:  # closed, or lost, meanwhile
            self._rest()
            return
        self._sent_at = self._loop.time()
        self._replies = [None] * len(window)
        self._awaited = len(window)
        self._send_from(0)

    def _extend(self) -> None:
        """What is said before the window has left the process leaves with it."""
        at = len(self._window)
        window = self._window = self._pending.window()
        more = len(window) - at
        self._replies += [None] * more
        self._awaited += more
        self._send_from(at)

    def _send_from(self, first: int) -> None:
        replies = self._replies
        for at, item in enumerate(self._window[first:], first):
            sent = _Sent(self, replies, at)
            try:
                self._send(item, sent)
            except Exception as error:  # noqa: BLE001 - judged: what cannot be sent is refused
                sent.set_exception(error)

    def _set_off(self) -> None:
        """The connection writes now, or has just written."""
        self._joinable = False

    def _settle(self) -> None:
        self._joinable = False
        window, replies = self._window, self._replies
        verdict = self._pending.settle([self._judge(reply) for reply in replies])
        for item, reply in zip(verdict.confirmed, replies, strict=False):
            if isinstance(item, Event):
                self._tally.confirmed += 1
                item.confirm(reply.decode())
        at = len(verdict.confirmed)
        moved = verdict.progress or verdict.refused is not None
        if moved:
            self._tally.latencies.append(self._loop.time() - self._sent_at)
        if verdict.refused is not None:
            self._refuse(verdict.refused, replies[at])
        elif at < len(replies) and isinstance(gap := replies[at], SequenceGap):
            # Of an item behind others it says nothing: it may have overtaken them on the way to
            # another node of a Cluster. Of the first one it does.
            moved = True
            if at == 0 and not self._rewind(window[at], gap):
                self._refuse(self._pending.leave(), gap)
        if self._watchers:
            self._notify()
        self._go_on(moved=moved)

    def _go_on(self, *, moved: bool) -> None:
        if moved:
            self._waits = None
        if not self._pending:
            self._rest()
            return
        if moved:
            self._loop.call_soon(self._begin)
        else:
            self._tally.retries += 1
            self._waits = self._waits or delays()
            self._again = self._loop.call_later(next(self._waits), self._begin)

    def _rest(self) -> None:
        """Nothing waits to be sent or confirmed."""
        self._busy = False
        self._tally.waiting.discard(self)

    async def _wait(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        if condition() or self.lost is not None:
            return
        watcher = condition, self._loop.create_future()
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(timeout_seconds):
                await watcher[1]
        except TimeoutError:
            raise self.unconfirmed() from None
        finally:
            self._watchers.remove(watcher)

    def _notify(self) -> None:
        for condition, watcher in self._watchers:
            if not watcher.done() and (condition() or self.lost is not None):
                watcher.set_result(None)

    def _expire_at(self, deadline: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Tell those who have waited for long enough; they are all in the queue."""
        self._deadline = None
        deadlines = []
        for item in self._pending:
            if not isinstance(item, Event) or item.waiter is None or item.waiter.done():
                continue
            if item.deadline <= self._loop.time():
                item.waiter.set_exception(self.unconfirmed())
            else:
                deadlines.append(item.deadline)
        if deadlines:
            self._expire_at(min(deadlines))

    def _judge(self, reply: Any) -> Reply:
        """Anything unforeseen is refused: repeating it for ever would keep a run open for ever."""
        if not isinstance(reply, BaseException):
            return Reply.CONFIRMED
        self._why = str(reply)
        if isinstance(reply, (BrokerUnavailable, SequenceGap)):
            return Reply.RETRY
        return Reply.REFUSED

    def _rewind(self, item: Item, gap: SequenceGap) -> bool:
        """Redis was rolled back, by a failover: go on from what it has. False: impossible."""
        if gap.at is None:
            return False
        if isinstance(item, Event):
            again = self._pending.rewind(gap.at)
        else:
            again = self._rewind_text(item, gap.at)
        if again:
            log.warning("log_rolled_back", run_id=self._run_id, to=str(gap), sent_again=again)
        return again > 0

    def _rewind_text(self, item: Text, at: int) -> int:
        end = item.offset + item.size
        if self._text_failed or at == item.offset or at >= end:
            return 0
        try:
            pieces = texts(at, self._written(at, end))
        except UnicodeDecodeError:  # it ends within a character, so it is somebody else's
            return 0
        self._pending.replace_first(cast("list[Item]", pieces))
        return len(pieces)

    def _refuse(self, item: Item, error: BaseException) -> None:
        if isinstance(item, Text) and isinstance(error, (SequenceGap, EventTooLarge)):
            # At the limit of some process's settings. Streaming the text has failed; the run has
            # not: its response carries the whole text.
            if not self._text_failed:
                log.warning("text_refused", run_id=self._run_id, why=str(error))
            self._text_failed = True
            return
        if isinstance(error, RuncastError):
            lost = error
        else:
            foreseen = isinstance(error, ResponseError)  # a key of another type, say
            log.error(
                "publish_failed",
                run_id=self._run_id,
                why=str(error),
                exc_info=None if foreseen else error,
            )
            lost = BrokerUnavailable(why=str(error))
        if isinstance(item, Event):
            item.fail(lost)
        self._lose(lost)
        self._on_lost(lost)

    def _lose(self, error: RuncastError) -> None:
        if self.lost is None:
            self.lost = error
        self._window, self._replies = [], []
        self._tally.waiting.discard(self)
        for item in self._pending.clear():
            if isinstance(item, Event):
                item.fail(self.lost)
