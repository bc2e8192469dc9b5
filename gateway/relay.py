"""Between the hub and Redis: subscribing, repairing, feeding sockets from the log (G2, G3).

The hub decides, this carries out. Every task here ends by itself or with the relay; what Redis
cannot answer now is tried again when the subscriber is restored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from broker.channels import Channel, encode_id
from broker.codec import Entry
from broker.cursor import Cursor
from broker.errors import BrokerUnavailable
from broker.redis.broker import Broker
from broker.redis.topology import new_subscriber
from broker.replay import Follower
from gateway.close_codes import TAKEN_OVER, UNAVAILABLE
from gateway.connection import Connection
from gateway.delivery_trace import OnMessage, OnReadEnd, traced
from gateway.fastpath import paths
from gateway.feed import Feed, Member
from gateway.feeder import RETRY_SECONDS, Feeder, Socket, as_socket
from gateway.hub import Hub
from gateway.log_check import LogCheck
from gateway.resync import Beginning, begin, go_on

if TYPE_CHECKING:
    from broker.tracing.tracer import Tracing

log = structlog.get_logger(__name__)

LINGER_SECONDS: Final = 10.0
"""A channel without readers stays subscribed this long: tabs are reloaded."""

MOST_READS: Final = 16
"""Logs read at the same time to repair holes: after an outage there may be one in every channel."""


class Relay:
    """The hub's shell. One per gateway process."""

    def __init__(
        self, broker: Broker, url: str, *, node_id: str, tracing: Tracing | None = None
    ) -> None:
        self.broker = broker
        self.hub = Hub(self)
        self.feeder = Feeder(broker, self.hub, spawn=self._spawn, flush=self.flush)
        self.log_check = LogCheck(broker, self.hub, self, spawn=self._spawn)
        self.on_heard: Callable[[bytes, bytes], None] = lambda _channel, _message: None
        heard: tuple[OnMessage, OnReadEnd] = self.hub.on_message, self.flush
        on_read, self._flush_all = paths(self.hub, member=Connection)
        if tracing is not None:
            heard = traced(*heard, tracing=tracing, hub=self.hub, node_id=node_id)
            on_read = None  # each message has to be looked at
        self.subscriber = new_subscriber(
            url, on_message=heard[0], on_read_end=heard[1], on_read=on_read,
            on_restored=self._on_restored, name=f"subscriber {node_id}",
        )  # fmt: skip
        self.on_latency: Callable[[bytes], None] = lambda _event_id: None
        self.on_stages: Callable[[bytes, bytes, float], None] = lambda _id, _body, _begun: None
        self.stages_wanted = 0
        """Of how many further reads the beginning is noted, for :attr:`on_stages`."""
        self._opening: dict[bytes, asyncio.Event] = {}
        self._lingering: dict[bytes, asyncio.TimerHandle] = {}
        self._subscribing: set[bytes] = set()
        self._repairing: set[bytes] = set()
        self._reads = asyncio.Semaphore(MOST_READS)
        self._interruptions = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def stop(self) -> None:
        """End everything under way."""
        for handle in self._lingering.values():
            handle.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.subscriber.stop()

    # --- channels

    async def open(self, channel: Channel, *, timeout_seconds: float) -> Feed:
        """The channel's feed, subscribed and level. BrokerUnavailable when that takes too long.

        Join it within the linger time: a feed that nobody reads is closed after that.
        """
        feed = self.hub.feed(channel)
        if feed is None or channel.live in self._opening:
            try:
                async with asyncio.timeout(timeout_seconds):
                    feed = await self._opened(channel)
            except TimeoutError:
                raise BrokerUnavailable(why="the subscription was not acknowledged") from None
        self._keep(channel)
        self.release(feed)
        return feed

    async def _opened(self, channel: Channel) -> Feed:
        """Whoever comes first subscribes; the others wait, and try when that one gave up."""
        while (first := self._opening.get(channel.live)) is not None:
            await first.wait()
        feed = self.hub.feed(channel)
        if feed is not None:
            return feed
        done = self._opening[channel.live] = asyncio.Event()
        try:
            return await self._subscribe(channel)
        finally:
            del self._opening[channel.live]
            done.set()

    async def _subscribe(self, channel: Channel) -> Feed:
        feed = self.hub.add(channel)
        self._subscribing.add(channel.live)
        interruptions = self._interruptions
        try:
            questions = self.broker.state_questions(channel)
            replies = await self.subscriber.subscribe(channel.live, *questions)
            newest, runs = await self.broker.state(channel, replies)
            texts = await self.broker.texts(channel, runs) if runs else []
        except BaseException:
            self.subscriber.unsubscribe(channel.live)
            self.hub.remove(feed)
            raise
        finally:
            self._subscribing.discard(channel.live)
        feed.open_runs.update(dict.fromkeys(encode_id(run).encode() for run in runs))
        feed.follower.restart(newest)
        for entry in feed.follower.read([], end=True).entries:
            self.hub.emit(feed, entry)
        for text in texts:
            delta = text.delta(0)
            feed.texts.setdefault(delta.run, len(text.text))
        if self._interruptions != interruptions:  # acknowledged, lost and restored meanwhile
            feed.follower.lose_touch()
        if not feed.follower.level:
            self.repair(feed)
        return feed

    def leave(self, feed: Feed, member: Member) -> None:
        """A socket reads this channel no more."""
        feed.live.pop(member, None)
        feed.joining.pop(member, None)
        self.release(feed)

    def release(self, feed: Feed) -> None:
        """Unsubscribe after a while if nobody reads the channel."""
        live = feed.channel.live
        is_open = self.hub.feed(feed.channel) is feed
        if is_open and feed.idle and live not in self._lingering:
            loop = asyncio.get_running_loop()
            self._lingering[live] = loop.call_later(LINGER_SECONDS, self._close, feed)

    def _keep(self, channel: Channel) -> None:
        if (handle := self._lingering.pop(channel.live, None)) is not None:
            handle.cancel()

    def _close(self, feed: Feed) -> None:
        self._lingering.pop(feed.channel.live, None)
        if feed.idle and self.hub.feed(feed.channel) is feed:
            self.subscriber.unsubscribe(feed.channel.live)
            self.hub.remove(feed)

    async def begin(self, feed: Feed, after: Cursor | None, *, bad_cursor: bool) -> Beginning:
        """Where a reader begins, and what it is told: see :func:`~gateway.resync.begin`."""
        beginning = await begin(self.broker, feed, after, bad_cursor=bad_cursor)
        if beginning.resync is not None:
            self.hub.told_resync(beginning.resync.reason)
        return beginning

    def join(
        self,
        feed: Feed,
        socket: Socket,
        beginning: Beginning,
        *,
        then: Callable[[Cursor], None] | None = None,
    ) -> None:
        """Feed the socket from there on until it is level; ``then`` runs at that moment."""
        if self.hub.feed(feed.channel) is not feed:
            socket.close(UNAVAILABLE)  # it took longer than the linger time: nothing is heard here
            return
        self._keep(feed.channel)
        self.feeder.join(feed, socket, beginning, then=then)

    async def check_tails(self, feeds: Sequence[Feed]) -> None:
        """Compare where these feeds are with where their logs end, in one pipeline.

        A lost last message leaves no hole to see, and a log that a failover cut off is shorter than
        what was heard of it.
        """
        asked = [feed.follower.position for feed in feeds]
        ends = await self.broker.ends([feed.channel for feed in feeds])
        for feed, before, end in zip(feeds, asked, ends, strict=True):
            if not feed.follower.level:
                self.repair(feed)  # under way already, unless it failed
            elif end is not None and (end > feed.follower.position or end < before):
                # What is beyond may still be on its way; then it is dropped as old when it comes.
                feed.follower.lose_touch()
                self.repair(feed, cut_off=end < before)

    async def _is_in_log(self, feed: Feed) -> bool:
        return (await self.broker.glance(feed.channel, feed.follower.position)).found

    async def _go_on(self, feed: Feed) -> None:
        """The log does not continue the feed: those who were told what came before are told."""
        resync = await go_on(self.broker, feed, feed.follower)
        self.hub.doubt(feed)
        if resync is None:
            return
        self.hub.told_resync(resync.reason)
        frame = resync.frame()
        for member in feed.live:
            as_socket(member).send(frame)
            self.hub.dirty[member] = None

    # --- what the hub needs

    def repair(self, feed: Feed, *, cut_off: bool = False) -> None:
        """Read a feed's log from its position until it is level again. One task per feed.

        ``cut_off``: the log was seen to end before that position, so nothing will follow it there.
        """
        live = feed.channel.live
        if live not in self._repairing and live not in self._subscribing:
            self._repairing.add(live)
            self._spawn(self._repair(feed, cut_off=cut_off))

    async def _repair(self, feed: Feed, *, cut_off: bool) -> None:
        follower = feed.follower
        try:
            while not follower.level and self.hub.feed(feed.channel) is feed:
                try:
                    if cut_off and not await self._is_in_log(feed):
                        await self._go_on(feed)
                    cut_off = False
                    async with self._reads:
                        before = self._interruptions
                        entries, end = await self.broker.read(feed.channel, follower.position)
                    # The end is none if the live channel was interrupted since it was asked for.
                    page = follower.read(entries, end=end and self._interruptions == before)
                    for entry in page.entries:
                        self.hub.counters.repaired += 1
                        self.hub.emit(feed, entry)
                    if page.hole:
                        await self._go_on(feed)
                except BrokerUnavailable:
                    await asyncio.sleep(RETRY_SECONDS)
                self.flush()
        finally:
            self._repairing.discard(feed.channel.live)

    def refill(self, feed: Feed, run: bytes) -> None:
        """Text was, or may have been, missed: read what is kept. Once: see ``missed_texts``."""
        self._spawn(self._refill(feed, run))

    async def _refill(self, feed: Feed, run: bytes) -> None:
        """What was said before the text comes before it, so no more is given than that allows.

        Up to the delta that showed the hole. Without one, after an interruption: all, once the feed
        is where the log was then. From the beginning: sockets may have that of an attempt before.
        """
        until = next((int(delta.seq) for delta in feed.missed_texts[run].deltas), None)
        end, follower = None, feed.follower
        try:
            async with self._reads:
                text = await self.broker.text(feed.channel, run.decode())
                if until is None:
                    (end,) = await self.broker.ends([feed.channel])
            while self.hub.feed(feed.channel) is feed and not (  # noqa: ASYNC110
                follower.level and (end is None or end <= follower.position)
            ):
                await asyncio.sleep(RETRY_SECONDS)  # seldom: events were missed as well
        except BrokerUnavailable:
            await asyncio.sleep(RETRY_SECONDS)
            self.refill(feed, run)  # nothing else may ever show the hole again
            return
        except BaseException:
            del feed.missed_texts[run]
            raise
        if text is not None and until is not None:
            text = text.until(until)
        self.hub.refilled(feed, run, text.delta(0) if text is not None else None)
        self.flush()

    def feed_from_log(self, feed: Feed, member: Member, follower: Follower) -> None:
        """A socket without room: feed it from the log when it has."""
        self.feeder.feed_from_log(feed, member, follower)

    def taken_over(self, feed: Feed, by: bytes) -> None:
        """Close the sockets of an isolated channel that had it before turn ``by``."""
        for member in [*feed.live, *feed.joining]:
            socket = as_socket(member)
            if socket.turn < int(by):
                socket.close(TAKEN_OVER)

    def unreadable(self, feed: Feed) -> None:
        """Somebody published what is no message of ours; what it was may be secret."""
        log.warning("malformed_message", **feed.whose)

    def malformed(self, feed: Feed, entry: Entry) -> None:
        """Somebody published what is no event."""
        log.error("malformed_event", run_id=entry.run.decode(), **feed.whose)

    def withheld(self, feed: Feed, entry: Entry) -> None:
        """Somebody published to a channel that is not the event's owner's."""
        log.error("isolation_violation", run_id=entry.run.decode(), **feed.whose)

    # --- the subscriber's callbacks

    def unclaimed(self, live: bytes, message: bytes) -> None:
        """A probe's, or of a channel that was left just now."""
        self.on_heard(live, message)

    def _on_restored(self, channels: Collection[bytes]) -> None:
        """Subscribed again after a gap: what was published meanwhile is in the logs only."""
        self._interruptions += 1
        self.log_check.add(self.hub.feeds_of(channels))

    def flush(self) -> None:
        """Write what this turn has put into outboxes: one write per socket."""
        begun = time.time() if self.stages_wanted and self.hub.first_heard else 0.0
        self.hub.read_ended()
        if self.hub.dirty:
            dirty, self.hub.dirty = self.hub.dirty, {}
            self._flush_all(dirty)
        if self.hub.first_heard:
            sent, self.hub.first_heard = self.hub.first_heard, b""
            self.on_latency(sent)
            if begun:
                self.stages_wanted -= 1
                self.on_stages(sent, self.hub.first_body, begun)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, BrokerUnavailable):
            log.error("relay_task_failed", exc_info=error)
