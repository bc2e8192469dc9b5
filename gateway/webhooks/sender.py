"""The sender: what waits in the outboxes is posted, in order per thread, at least once.

Every gateway with a webhook has one, and takes over when the one that posts is gone. An event is in
its outbox until it was taken or put aside, and all that a sender knows besides can be read again:
so nothing is lost with it, and what was under way is posted once more, with the same id.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog
from redis.exceptions import ResponseError

from broker.backoff import full_jitter
from broker.codec import Entry
from broker.config import Settings
from broker.errors import BrokerUnavailable
from broker.redis.broker import Broker
from broker.redis.webhooks import PAGE
from broker.rhythm import beat
from gateway.dialects.cloudevents import cloud_event
from gateway.turn import Turn
from gateway.webhooks.answers import NEVER, Verdict, verdict, wait_seconds
from gateway.webhooks.backlog import Backlog, Place, Thread
from gateway.webhooks.post import Answer, Poster
from gateway.webhooks.signature import signed
from gateway.webhooks.target import Target

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 0.5
LOCK_MS: Final = 2500
FIGURES: Final = ("delivered", "retried", "put_aside", "dropped")
"""Counted since this gateway began. ``dropped`` found no room in an outbox."""

WANT_SECONDS: Final = 30.0
"""How often it is told again what goes into the outboxes: Redis may have lost its data."""

PARTITIONS_AT_ONCE: Final = 16
FIRST_DELAY_SECONDS: Final = 1.0
LONGEST_DELAY_SECONDS: Final = 300.0
STOP_SECONDS: Final = 5.0
"""How long a gateway that ends waits for posts under way; another one repeats the rest."""

T = TypeVar("T")


class Sender:
    """One gateway's; ``broker`` may take things out of outboxes."""

    def __init__(self, broker: Broker, settings: Settings, target: Target, *, node_id: str) -> None:
        self._broker, self._settings, self._target = broker, settings, target
        self._counted = Counter(dict.fromkeys(FIGURES, 0))
        self._turn = Turn(broker.client, broker.keys.webhooks, node_id=node_id, lock_ms=LOCK_MS)
        self._poster = Poster(
            target,
            timeout_seconds=settings.webhook_timeout_seconds,
            most=settings.webhook_max_in_flight,
        )
        self._backlog = Backlog(
            most=settings.webhook_max_in_flight,
            delays=lambda: full_jitter(
                random.random,
                first_seconds=FIRST_DELAY_SECONDS,
                most_seconds=LONGEST_DELAY_SECONDS,
            ),
        )
        self._mine = False
        self._read = [b""] * broker.keys.partitions
        self._over: list[object] = [None] * broker.keys.partitions
        self._want_at = -math.inf
        self._posting: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, settings: Settings, broker: Broker, *, node_id: str) -> Sender | None:
        """As configured; None without a webhook. ConfigurationError for what cannot work."""
        target = Target.of(settings)
        return None if target is None else cls(broker, settings, target, node_id=node_id)

    @property
    def figures(self) -> dict[str, int]:
        """As :data:`FIGURES` names them; nothing waits at gateways whose turn it is not."""
        return {**self._counted, "waiting": len(self._backlog)}

    async def start(self) -> None:
        """Have events put into the outboxes, from before the first client is let in."""
        await self._want()

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            try:
                await self._tick()
            except BrokerUnavailable as error:  # an outage is logged by the connection
                log.debug("webhooks_wait", why=str(error))
            except ResponseError as error:
                log.warning("webhooks_wait", why=str(error))
            await beat(TICK_SECONDS)

    async def stop(self) -> None:
        """Let posts under way end, for a while, and another gateway take over."""
        self._backlog.clear()
        if self._posting:
            await asyncio.wait(self._posting, timeout=STOP_SECONDS)
        for task in self._posting:
            task.cancel()
        await asyncio.gather(*self._posting, return_exceptions=True)
        await self._poster.close()
        if self._mine:
            with suppress(BrokerUnavailable, ResponseError):  # the lock ends soon by itself
                await self._turn.give_up()

    # --- what waits

    async def _tick(self) -> None:
        if not await self._turn.mine():
            if self._mine:
                self._mine = False
                self._backlog.clear()
                self._over = [None] * len(self._over)
            return
        self._mine = True
        now = time.monotonic()
        if self._follow() or now >= self._want_at:
            self._want_at = -math.inf  # until it is done
            await self._want()
            await self._count_dropped()
            self._want_at = now + WANT_SECONDS
        everyone = range(len(self._read))
        for first in everyone[::PARTITIONS_AT_ONCE]:
            await self._look(list(everyone[first : first + PARTITIONS_AT_ONCE]))
            self._go_on()

    def _follow(self) -> bool:
        """Have outboxes read from the start that are read over another connection than before.

        After a failover new ids may be lower than the last one, and entries that were read, gone.
        """
        new = self._broker.outbox_connections()
        for partition, connection in enumerate(new):
            if connection != self._over[partition]:
                self._read[partition] = b""
        changed, self._over = new != self._over, new
        return changed

    async def _look(self, partitions: list[int]) -> None:
        """Read these outboxes to their ends."""
        while partitions:
            pages = await self._broker.outboxes([(each, self._read[each]) for each in partitions])
            for partition, page in zip(partitions, pages, strict=True):
                for entry_id, entry in page:
                    self._backlog.add(_thread(entry_id, entry), (partition, entry_id))
                    self._read[partition] = entry_id
            partitions = [
                each for each, page in zip(partitions, pages, strict=True) if len(page) == PAGE
            ]

    async def _want(self) -> None:
        settings = self._settings
        await self._broker.want(settings.webhook_events, most=settings.webhook_max_waiting)

    async def _count_dropped(self) -> None:
        dropped = await self._broker.take_dropped()
        if dropped:
            self._counted["dropped"] += dropped
            log.error("webhook_events_dropped", count=dropped, host=self._target.host)

    # --- one event

    def _go_on(self) -> None:
        for thread, place in self._backlog.take(time.monotonic()):
            task = asyncio.create_task(self._deliver(thread, place), name="webhook")
            self._posting.add(task)
            task.add_done_callback(self._posting.discard)

    async def _deliver(self, thread: Thread, place: Place) -> None:
        try:
            wait = await self._try(place)
        except LookupError:  # somebody else delivered it
            wait = None
        except (BrokerUnavailable, ResponseError) as error:
            log.debug("webhook_waits", why=str(error))
            wait = 0.0
        if wait is None:
            self._backlog.done(thread, place)
        else:
            self._backlog.again(thread, place, time.monotonic(), at_least=wait)
        self._go_on()

    async def _try(self, place: Place) -> float | None:
        """Post it once. None when that is settled; else the seconds that the receiver asks for."""
        entry = await self._broker.outbox_entry(place)
        try:
            if entry is None:
                raise ValueError("no event")
            event = cloud_event(entry, prefix=self._broker.keys.prefix, position=place[1])
        except ValueError:
            await self._put_aside(place, entry, "it cannot be read")
            return None
        headers = signed(
            self._target.keys, message_id=event.id, epoch_seconds=int(time.time()), body=event.body
        )
        if event.traceparent is not None:
            headers["traceparent"] = event.traceparent
        answer = await self._poster.post(event.body, headers)
        said = verdict(answer.status)
        if said is Verdict.DELIVERED:
            self._counted["delivered"] += 1
            await self._surely(lambda: self._broker.take_out(place))
            return None
        why = NEVER.get(answer.status or 0)
        if why is None and _age_seconds(place) >= self._settings.webhook_retry_seconds:
            why = f"not taken within {self._settings.webhook_retry_seconds} s: {answer.detail}"
        if why is not None:
            await self._put_aside(place, entry, why)
            return None
        self._counted["retried"] += 1
        self._tell_refused(entry, answer)
        return wait_seconds(answer.status, answer.retry_after, most=LONGEST_DELAY_SECONDS)

    async def _put_aside(self, place: Place, entry: Entry | None, why: str) -> None:
        most = self._settings.webhook_max_waiting
        await self._surely(lambda: self._broker.put_aside(place, why, most=most))
        self._counted["put_aside"] += 1
        run = entry.run.decode() if entry is not None else None
        log.error("webhook_put_aside", run_id=run, why=why, host=self._target.host)

    def _tell_refused(self, entry: Entry, answer: Answer) -> None:
        log.warning(
            "webhook_not_taken",
            run_id=entry.run.decode(),
            why=answer.detail,
            host=self._target.host,
        )

    async def _surely(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write once Redis is there: otherwise what was delivered would be so once more."""
        while True:
            try:
                return await write()
            except BrokerUnavailable:
                await asyncio.sleep(TICK_SECONDS)


def _thread(entry_id: bytes, entry: Entry | None) -> Thread:
    """What is no event is a thread of its own: it holds up nobody."""
    return (entry.owner, entry.thread) if entry is not None else (b"", entry_id)


def _age_seconds(place: Place) -> float:
    """How long it has been waiting: Redis' clock made its id."""
    return time.time() - int(place[1].partition(b"-")[0]) / 1000
