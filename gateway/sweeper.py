"""The sweeper: no run stays open for ever (promise G5).

Every open run has a place in its partition's ``leases``, by the time at which somebody must look at
it: a queue time-out, a lease, a stop deadline. Every gateway runs a sweeper; a lock that lives a
little longer than a tick lets one of them act. It only saves work: each decision is one script.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable, Refused
from broker.redis.broker import Broker
from broker.redis.records import UNREADABLE, cause
from broker.rhythm import beat
from gateway.commands import end_run, place
from gateway.turn import Turn

if TYPE_CHECKING:
    from broker.tracing.tracer import Tracing

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
LOCK_MS: Final = 2500
MOST_PER_PARTITION: Final = 100
"""Runs looked at per partition and tick; more are left to the next tick."""

MOST_AT_ONCE: Final = 64
"""Runs that are ended at the same time: they share pipelines, and confirmations by a replica."""

POSTPONE_MS: Final = 60_000
"""A run that cannot be read is looked at again after this."""


ABSENCE_SECONDS: Final = 3.0
"""Without an answer from Redis for longer than this, a sweeper cannot judge by leases: the workers
may have been cut off as well. It then waits for one lease before it calls any of them lost."""


class Sweeper:
    """One gateway's sweeper."""

    def __init__(self, broker: Broker, *, node_id: str, tracing: Tracing | None = None) -> None:
        self._broker, self._tracing = broker, tracing
        self._node_id = node_id
        self._turn = Turn(broker.client, broker.keys.sweeper, node_id=node_id, lock_ms=LOCK_MS)
        self._answered = self._spare_until = -math.inf
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        self.active = False
        """Whether it was this gateway's turn at the last tick that Redis answered."""
        self.sweeps = 0
        self.ended: Counter[str] = Counter()
        """Runs that it ended, by status."""

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                mine = await self._turn.mine()
                self._note_answer()
                self.active = mine
                if mine:
                    self.sweeps += 1
                    await self.sweep()
                    self._note_answer()
            except BrokerUnavailable as error:  # an outage is logged by the connection
                self.active = False
                log.debug("sweep_failed", why=str(error))
            except ResponseError as error:
                log.warning("sweep_failed", why=str(error))
            await beat(TICK_SECONDS, after=0.75)

    def _note_answer(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._answered > ABSENCE_SECONDS:
            self._spare_until = now + self._broker.limits.lease_seconds
        self._answered = now

    async def sweep(self) -> int:
        """Look at every run that is due; how many were ended."""
        seconds, micros = await self._broker.client.execute("TIME")
        epoch_ms = int(seconds) * 1000 + int(micros) // 1000
        partitions = range(self._broker.keys.partitions)
        ended = 0
        looks = (
            self._look_at(partition, raw, epoch_ms)
            for partition, runs in await self._due(partitions, epoch_ms)
            for raw in runs
        )
        for outcome in await asyncio.gather(*looks, return_exceptions=True):
            if isinstance(outcome, BrokerUnavailable) and self._broker.client.connected:
                # Not confirmed by a replica, say. It must not keep others from their end.
                log.warning("end_not_confirmed", why=outcome.why)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                ended += outcome
        return ended

    async def _due(self, partitions: range, epoch_ms: int) -> list[tuple[int, list[bytes]]]:
        """(partition, due runs); a partition that cannot be read is left out, and told."""
        broker, most = self._broker, MOST_PER_PARTITION
        try:
            due = await broker.due(partitions, epoch_ms=epoch_ms, most=most)
            return list(zip(partitions, due, strict=True))
        except ResponseError:
            found = []
            for each in partitions:
                try:
                    runs = (await broker.due([each], epoch_ms=epoch_ms, most=most))[0]
                    found.append((each, runs))
                except ResponseError as error:
                    log.error("partition_unreadable", partition=each, why=str(error))  # noqa: TRY400 - as above
            return found

    async def _look_at(self, partition: int, raw: bytes, epoch_ms: int) -> bool:
        run_id = raw.decode(errors="replace")
        try:
            async with self._at_once:
                status = await end_run(
                    self._broker,
                    partition,
                    run_id,
                    node_id=self._node_id,
                    spare=asyncio.get_running_loop().time() < self._spare_until,
                    tracing=self._tracing,
                )
        except UNREADABLE as error:
            # Nobody can end what cannot be read; it is not looked at all the time.
            log.error("run_unreadable", run_id=run_id, why=cause(error), at=place(error))  # noqa: TRY400 - the text says it
            leases, later = self._broker.keys.leases(partition), epoch_ms + POSTPONE_MS
            await self._broker.client.execute("ZADD", leases, "XX", later, raw)
            return False
        except Refused as refused:
            # Its worker or another sweeper was faster; the next tick sees what is left to do.
            log.info("sweep_refused", run_id=run_id, why=str(refused))
            return False
        if status is None:
            return False
        self.ended[status] += 1
        log.warning("run_ended_by_sweeper", run_id=run_id, status=status)
        return True
