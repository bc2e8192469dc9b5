"""One run's buffer: what was said leaves in order, once, however Redis behaves (promise G1).

Everything waiting goes out in one pipelined batch; what comes back unconfirmed is sent again, the
same, after a back-off, for as long as the buffer is open. So is what was confirmed, when a failover
has taken it back. Nobody who talks waits for that longer than he asked to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from redis.exceptions import ResponseError

from agents_sdk.deltas import MAX_PIECE_CHARACTERS, cut
from agents_sdk.outages import delays
from agents_sdk.pending import Pending, Reply
from broker.errors import (
    BrokerUnavailable,
    EventTooLarge,
    PublishError,
    RuncastError,
    SequenceGap,
)
from broker.redis.publisher import Publication

log = structlog.get_logger(__name__)


def _quiet_future() -> asyncio.Future[str]:
    """A future whose exception nobody has to fetch: not every event is waited for."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


@dataclass(slots=True, eq=False)
class Text:
    """A delta on its way. ``offset`` and ``size`` count UTF-8 bytes."""

    offset: int
    text: str
    size: int
    seq: None = None
    final: bool = False


@dataclass(slots=True, eq=False)
class Event:
    """An event on its way; ``done`` gets the id that the log gave it."""

    publication: Publication
    done: asyncio.Future[str] = field(default_factory=_quiet_future)

    @property
    def size(self) -> int:
        """Bytes of the encoded event."""
        return len(self.publication.body)

    @property
    def seq(self) -> int:
        """The event's number in its run."""
        return self.publication.seq

    @property
    def final(self) -> bool:
        """Whether it ends the run."""
        return self.publication.status is not None


Item = Text | Event
Send = Callable[[Item], Awaitable[str]]
"""One attempt; returns the id (empty for text), or raises what the broker raises."""
Written = Callable[[int, int], str]
"""The run's streamed text between two positions, in UTF-8 bytes, both between characters."""


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
    ) -> None:
        self._send, self._run_id, self._on_lost = send, run_id, on_lost
        self._written = written
        self._text_failed = False
        self._pending = pending if pending is not None else Pending[Item]()
        self._pump: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
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
            if isinstance(item, Event) and not item.done.done():
                item.done.set_exception(self.lost)
            return
        if isinstance(item, Text) and self._text_failed:
            return
        last = self._pending.last_unsent()
        if (
            isinstance(item, Text)
            and isinstance(last, Text)
            and len(last.text) + len(item.text) <= MAX_PIECE_CHARACTERS
        ):
            last.text += item.text
            last.size += item.size
            self._pending.grown(item.size)
        else:
            self._pending.add(item)
        if self._pump is None:
            self._pump = asyncio.create_task(self._work(), name=f"buffer of run {self._run_id}")

    async def room(self, *, timeout_seconds: float) -> None:
        """Return once there is room, or the run is lost; else :class:`PublishError`, in time."""
        await self._wait(lambda: not self.full, timeout_seconds)

    async def flushed(self, *, timeout_seconds: float) -> None:
        """Return once everything is confirmed, or the run is lost.

        :class:`PublishError` when that takes longer: what is left is still sent when Redis is back.
        """
        await self._wait(lambda: not self._pending, timeout_seconds)

    async def confirmed(self, event: Event, *, timeout_seconds: float) -> str:
        """The event's id; :class:`PublishError` when not confirmed in time. It stays queued."""
        if not event.done.done():
            await asyncio.wait([event.done], timeout=timeout_seconds)
        if not event.done.done():
            raise self.unconfirmed()
        return event.done.result()

    def unconfirmed(self) -> PublishError:
        """The error for a caller who does not wait any longer."""
        return PublishError(run_id=self._run_id, pending=len(self._pending), why=self._why)

    async def close(self) -> None:
        """Give up what is not confirmed."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        self._lose(self.unconfirmed())
        await self._notify()

    async def _wait(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        if condition() or self.lost is not None:
            return
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: condition() or self.lost is not None)
        except TimeoutError:
            raise self.unconfirmed() from None

    async def _work(self) -> None:
        waits = None
        while self._pending:
            window = self._pending.window()
            results = await asyncio.gather(*map(self._send, window), return_exceptions=True)
            verdict = self._pending.settle([self._judge(result) for result in results])
            for item, result in zip(verdict.confirmed, results, strict=False):
                if isinstance(item, Event) and not item.done.done():
                    item.done.set_result(str(result))
            at = len(verdict.confirmed)
            moved = verdict.progress or verdict.refused is not None
            if verdict.refused is not None:
                self._refuse(verdict.refused, results[at])
            elif at < len(results) and isinstance(gap := results[at], SequenceGap):
                # Of an item behind others it says nothing: it may have overtaken them on the way to
                # another node of a Cluster. Of the first one it does.
                moved = True
                if at == 0 and not self._rewind(window[at], gap):
                    self._refuse(self._pending.leave(), gap)
            await self._notify()
            if moved:
                waits = None
            else:
                waits = waits or delays()
                await asyncio.sleep(next(waits))
        self._pump = None

    def _judge(self, result: str | BaseException) -> Reply:
        """Anything unforeseen is refused: repeating it for ever would keep a run open for ever."""
        if not isinstance(result, BaseException):
            return Reply.CONFIRMED
        self._why = str(result)
        if isinstance(result, (BrokerUnavailable, SequenceGap)):
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
        self._pending.replace_first(pieces)
        return len(pieces)

    def _refuse(self, item: Item, error: str | BaseException) -> None:
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
        if isinstance(item, Event) and not item.done.done():
            item.done.set_exception(lost)
        self._lose(lost)
        self._on_lost(lost)

    def _lose(self, error: RuncastError) -> None:
        if self.lost is None:
            self.lost = error
        for item in self._pending.clear():
            if isinstance(item, Event) and not item.done.done():
                item.done.set_exception(self.lost)

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()
