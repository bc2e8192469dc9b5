"""The subscriber connection: who listens to what, and the proof that it does.

A subscription is good once Redis has acknowledged it, not before. After a lost connection
everything is subscribed again, and only when all of it is acknowledged does ``on_restored`` run:
what was published meanwhile was not heard, so the owner then checks every log.

What has to be read once a channel is heard may be asked for behind its subscription, on the same
connection and in the same write: Redis answers in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import suppress
from itertools import groupby, islice
from typing import Any, Final

import structlog
from hiredis import PushNotification

from broker.errors import BrokerUnavailable
from broker.redis.connection import Argument, Command, OnRead, RedisConnection, pack
from broker.redis.outstanding import Acknowledged, Outstanding, done, follow
from broker.redis.server_client import new_delays
from broker.redis.slots import slot_of
from broker.redis.source import Source
from broker.redis.verbs import PLAIN, SHARDED, Verbs

log = structlog.get_logger(__name__)

BATCH: Final = 512
"""Channels per SUBSCRIBE when everything is subscribed again: bounds the size of one command."""

_DEADLINE: Final = 10.0
"""Seconds for all acknowledgements after a reconnection; beyond it the connection is dropped."""

_ANSWER_SECONDS: Final = 2.0
"""Between looks at the oldest subscription: without an answer at two of them it is half-open."""


class Subscriber:
    """Subscriptions on one connection that reconnects by itself.

    ``on_message(channel, payload)`` is called for each message, ``on_read_end()`` once after all
    messages of one read of the socket. Neither may block. For ``on_read`` see
    :class:`~broker.redis.connection.RedisConnection`. ``on_refused(channels, error)``, of a
    Cluster's nodes: these are not subscribed here; the error is empty when the node dropped them.
    """

    sharded = False

    def __init__(
        self,
        source: Source,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_read_end: Callable[[], None] | None = None,
        on_read: OnRead | None = None,
        on_restored: Callable[[Collection[bytes]], None] | None = None,
        on_refused: Callable[[Collection[bytes], str], None] | None = None,
        on_lost: Callable[[], None] | None = None,
        verbs: Verbs = PLAIN,
        name: str = "subscriber",
    ) -> None:
        self._source, self._name, self._verbs = source, name, verbs
        self._on_message, self._on_read_end, self._on_read = on_message, on_read_end, on_read
        self._on_restored, self._on_refused, self._tell_lost = on_restored, on_refused, on_lost
        self._connection: RedisConnection | None = None
        self._unsent: list[bytes] = []
        self._wanted: dict[bytes, None] = {}
        self._sent = Outstanding()
        self._leaving: dict[bytes, int] = {}
        self._early: dict[bytes, Acknowledged] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._is_hearing = asyncio.Event()
        self._lost = asyncio.Event()
        self._all_acknowledged = asyncio.Event()
        self._why = self._refusal = ""
        self.reconnects = -1

    @property
    def hearing(self) -> bool:
        """Connected, with every wanted channel acknowledged."""
        return self._is_hearing.is_set()

    @property
    def why(self) -> str:
        """Why it does not hear: what a server has refused, else how the connection was lost."""
        return self._refusal or self._why

    @property
    def channels(self) -> Collection[bytes]:
        """What is wanted."""
        return self._wanted.keys()

    def server_of(self, channel: bytes) -> Hashable:
        """Which of the servers ``channel`` is heard from; there is one."""
        del channel
        return self._name

    def begin(self) -> None:
        """Connect in the background, and keep connected from now on."""
        self._keeper = asyncio.create_task(self._keep_hearing(), name=f"redis {self._name}")

    async def start(self, *, timeout_seconds: float = 5.0) -> None:
        """Connect, and keep connected from now on; ``BrokerUnavailable`` when not in time."""
        self.begin()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.wait_hearing()
        except TimeoutError:
            await self.stop()
            why = self.why or f"no connection within {timeout_seconds:g} s"
            raise BrokerUnavailable(why=why) from None

    async def stop(self) -> None:
        """Close; nothing is heard any more."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        self.reconnect()

    async def wait_hearing(self) -> None:
        """Return once :attr:`hearing`."""
        await self._is_hearing.wait()

    async def subscribe(self, channel: bytes, *then: Command) -> list[Any] | None:
        """Listen to ``channel``; returns when Redis has acknowledged it.

        That may take a reconnection: whoever cannot wait sets a deadline. A cancelled wait leaves
        the wish in place.

        ``then``: what to ask once it is heard, on the same connection. The replies are returned;
        None when there are none: the connection was lost, or Redis refused one of the questions.
        Then ask a client.
        """
        acknowledged: Acknowledged = asyncio.get_running_loop().create_future()
        self.listen(channel, acknowledged, *then)
        return await acknowledged

    def listen(self, channel: bytes, acknowledged: Acknowledged, *then: Command) -> None:
        """The same; the future has what :meth:`subscribe` returns."""
        self._wanted[channel] = None
        if self._connection is None:
            self._later(channel, acknowledged)
        else:
            self._sent.sent([(channel, acknowledged)], asked=len(then))
            self._send(self._verbs.subscribe, channel)
            for question in then:
                self._send(*question)

    def unsubscribe(self, channel: bytes) -> None:
        """Stop listening. Messages under way may still come."""
        if channel not in self._wanted:
            return
        del self._wanted[channel]
        early = self._early.pop(channel, None)
        if early is not None:
            done(early)
        if self._connection is not None:
            self._leaving[channel] = self._leaving.get(channel, 0) + 1
            self._send(self._verbs.unsubscribe, channel)

    def forget(self, channel: bytes) -> Acknowledged | None:
        """``channel`` is heard from elsewhere now; who waits for its acknowledgement still."""
        self._wanted.pop(channel, None)
        for each, acknowledged in self._sent:
            if each == channel:
                self._later(channel, acknowledged)
        return self._early.pop(channel, None)

    def reconnect(self, channel: bytes = b"") -> None:
        """Drop the connection and open another: it was found deaf, for ``channel``."""
        del channel
        if self._connection is not None:
            self._connection.abort()

    def _send(self, *command: Argument) -> None:
        """With whatever else this turn of the event loop has to say."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(pack(command))

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if data and self._connection is not None:
            with suppress(BrokerUnavailable):  # the loss of the connection is told by on_lost
                self._connection.write(data)

    def _later(self, channel: bytes, acknowledged: Acknowledged) -> None:
        """Whoever waits for an acknowledgement gets it from the next connection."""
        first = self._early.get(channel)
        if first is None or first.done():  # done: of a former wish, which nobody waits for
            self._early[channel] = acknowledged
        elif first is not acknowledged:
            follow(acknowledged, first)

    def _on_reply(self, reply: Any) -> None:
        if isinstance(reply, PushNotification):
            if reply[0] == self._verbs.subscribed:
                self._acknowledge(reply[1])
            elif reply[0] == self._verbs.unsubscribed:
                self._dropped(reply[1])
        elif self._sent.answer(reply):
            pass
        elif isinstance(reply, Exception):
            self._refused(str(reply))
        elif reply == b"PONG":
            self._all_acknowledged.set()

    def _acknowledge(self, channel: bytes) -> None:
        if not self._sent.acknowledge(channel):
            log.error("subscription_out_of_order", link=self._name)
            self.reconnect()

    def _dropped(self, channel: bytes) -> None:
        """Left as asked; or the slot has moved, and its node dropped it."""
        asked = self._leaving.pop(channel, 0)
        if asked > 1:
            self._leaving[channel] = asked - 1
        if not asked and channel in self._wanted and self._on_refused is not None:
            self._on_refused([channel], "")

    def _refused(self, why: str) -> None:
        if why.startswith("MOVED ") and not self._is_of_batch(slot := int(why.split()[1])):
            # Of an unsubscription: the slot has moved, and its channels have left with it.
            self._leaving = {each: n for each, n in self._leaving.items() if slot_of(each) != slot}
            return
        self._refusal = why
        if self._on_refused is None or self._sent.oldest is None:
            log.error("subscriber_refused", why=why)
            self.reconnect()
            return
        waiting = self._sent.refuse()
        for channel, acknowledged in waiting:
            self._later(channel, acknowledged)
        self._on_refused([channel for channel, _ in waiting if channel in self._wanted], why)

    def _is_of_batch(self, slot: int) -> bool:
        """Whether the next subscription to be answered is for channels of ``slot``."""
        batch = self._sent.oldest
        return batch is not None and slot_of(batch.waiting[0][0]) == slot

    def _on_lost(self, why: str) -> None:
        self._why = why
        self._connection = None
        self._unsent = []
        self._is_hearing.clear()
        self._leaving.clear()
        for channel, acknowledged in self._sent.clear():
            self._later(channel, acknowledged)
        self._lost.set()
        if self._tell_lost is not None:
            self._tell_lost()

    async def _keep_hearing(self) -> None:
        await self._source.start()
        delays = new_delays()
        try:
            while True:
                self._lost.clear()
                connection = RedisConnection(
                    self._on_reply, self._on_lost, self._on_read_end,
                    kind=self._verbs.message, on_message=self._on_message, on_read=self._on_read,
                )  # fmt: skip
                try:
                    endpoint = await self._source.locate()
                    await connection.open(endpoint, name=self._name, timeout_seconds=5.0)
                except BrokerUnavailable as error:
                    self._why = error.why
                    await asyncio.sleep(next(delays))
                    continue
                self._connection = connection
                moved = asyncio.create_task(self._source.moved(endpoint))
                moved.add_done_callback(self._on_moved)
                try:
                    restored = await self._subscribe_all()
                    if restored is not None:
                        delays = new_delays()
                        self.reconnects += 1
                        self._is_hearing.set()
                        self._refusal = ""
                        if self._on_restored is not None and self.reconnects > 0:
                            self._on_restored(restored)
                        await self._watch()
                finally:
                    moved.cancel()
                log.warning("subscriber_connection_lost", link=self._name, why=self._why)
                await asyncio.sleep(next(delays))
        finally:
            await self._source.stop()

    async def _watch(self) -> None:
        """Return when the connection is lost; drop it when a subscription gets no answer."""
        oldest = None
        while not self._lost.is_set():
            first = self._sent.oldest
            if first is not None and first is oldest:
                self.reconnect()
            oldest = first
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _ANSWER_SECONDS)

    def _on_moved(self, moved: asyncio.Task[None]) -> None:
        if not moved.cancelled():
            self.reconnect()

    async def _subscribe_all(self) -> list[bytes] | None:
        """Subscribe to everything wanted, acknowledged; None when lost meanwhile."""
        wanted = list(self._wanted)
        early, self._early = self._early, {}
        loop = asyncio.get_running_loop()
        self._all_acknowledged.clear()
        for batch in self._in_batches(wanted):
            self._sent.sent(
                (channel, early.get(channel) or loop.create_future()) for channel in batch
            )
            self._send(self._verbs.subscribe, *batch)
        self._send("PING")  # its answer comes after the last acknowledgement
        waits = [
            asyncio.ensure_future(event.wait()) for event in (self._all_acknowledged, self._lost)
        ]
        try:
            await asyncio.wait(waits, timeout=_DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._all_acknowledged.is_set() and not self._lost.is_set():
            return wanted
        self.reconnect()
        return None

    def _in_batches(self, channels: Iterable[bytes]) -> Iterator[list[bytes]]:
        if self._verbs is SHARDED:  # one slot per command: anything else is refused (CROSSSLOT)
            groups = [list(group) for _, group in groupby(sorted(channels, key=slot_of), slot_of)]
        else:
            groups = [list(channels)]
        for group in groups:
            remaining = iter(group)
            while batch := list(islice(remaining, BATCH)):
                yield batch
